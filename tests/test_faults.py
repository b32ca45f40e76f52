"""Writers that are killed, fail, run out of disk or meet each other; readers meanwhile; closing, forking.

``AGN_KILLS=1000 pytest tests/test_faults.py -k random -s`` kills so many writers at random moments.
"""

import contextlib
import errno
import hashlib
import multiprocessing
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import zipfile

import numpy as np
import pandas as pd
import pytest
import stores
from tqdm import tqdm

import agn_helpers as agn
from agn_helpers.features import seal_zip, write_features
from agn_helpers.files import Place
from agn_helpers.packed import pack_store
from agn_helpers.sample import build_sample_store

if not sys.platform.startswith("linux"):
    pytest.skip("forks, locks and kills as Linux knows them", allow_module_level=True)

import fcntl
import resource

KILLS = int(os.environ.get("AGN_KILLS", "60"))
FORK = multiprocessing.get_context("fork")

FEATURES = pd.DataFrame(
    {"scatter": np.arange(40.0), "n": np.arange(40)}, index=pd.Index(np.arange(40) * 3, name="train_id")
)

# What writes, by name: the file or folder that it makes, and how.
BUILDERS = {
    "sample": ("s.zarr.zip", lambda s, t, **kw: build_sample_store(t, n=3, progress=False, **kw)),
    "features": ("f.zarr", lambda s, t, **kw: write_features(t, FEATURES, chunk=16, **kw)),
    "seal": ("z.zarr.zip", lambda s, t, **kw: seal_zip(s / "v2", t, **kw)),
    "pack-zip": ("p.zarr.zip", lambda s, t, **kw: pack_store(s / "v2", t, progress=False, **kw)),
    "pack-folder": ("p.zarr", lambda s, t, **kw: pack_store(s / "v2", t, progress=False, **kw)),
}
WRITERS = BUILDERS | {"manifest": ("m.zarr.sha256", lambda _, t: agn.write_manifest(t.with_suffix("")))}


def digest(path: pathlib.Path) -> str:
    """One number for a file, or for all names and bytes of a folder."""
    total = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        total.update(str(file.relative_to(path)).encode())
        total.update(file.read_bytes() if file.is_file() else b"")
    return total.hexdigest()


class Scene:
    """A source, a place to write to, and what the target is like when it is complete."""

    def __init__(self, kind, source, folder):
        name, self.write = WRITERS[kind]
        self.source, self.folder, self.target = source, folder, folder / name
        self.kind, self.old = kind, None
        folder.mkdir()
        if kind == "manifest":  # the one that may replace what is there
            shutil.copytree(source / "v2", folder / "m.zarr")
            self.target.write_text("what was there\n")
            self.old = digest(self.target)
        self.before = digest(source)
        elsewhere = folder.with_name("elsewhere")
        if not elsewhere.exists():
            elsewhere.mkdir()
        self.complete = self.once(elsewhere / name)

    def once(self, target):
        if self.kind == "manifest":
            shutil.copytree(self.source / "v2", target.with_suffix(""))
        start = time.perf_counter()
        self.write(self.source, target)
        self.seconds = time.perf_counter() - start
        return digest(target)

    def leftovers(self):
        return [p for p in self.folder.iterdir() if p.name.startswith(".")]

    def is_old_or_new(self):
        """Return "old" or "new"; fail for anything else."""
        assert digest(self.source) == self.before, "the source changed"
        state = digest(self.target) if os.path.lexists(self.target) else None
        if state == self.complete:
            return "new"
        assert state == self.old, "neither the old state nor the new one"
        return "old"

    def again(self):
        """Write once more: it must succeed, and leave nothing behind."""
        if self.kind != "manifest" and os.path.lexists(self.target):
            shutil.rmtree(self.target) if self.target.is_dir() else self.target.unlink()
        start = time.perf_counter()
        self.write(self.source, self.target)
        self.seconds = time.perf_counter() - start
        assert self.is_old_or_new() == "new"
        assert not self.leftovers()
        if self.kind == "manifest":
            self.target.write_text("what was there\n")
        else:
            shutil.rmtree(self.target) if self.target.is_dir() else self.target.unlink()


@pytest.fixture(scope="session")
def source(made):
    return made[2, "folder"].parent


@pytest.fixture(params=WRITERS)
def scene(request, source, tmp_path):
    return Scene(request.param, source, tmp_path / "here")


def in_child(work):
    """Run `work` in a forked child; return its exit code: 0, 1 for an exception, -9 for a kill."""

    def run():
        with contextlib.redirect_stderr(None):
            try:
                work()
            except (OSError, agn.TrainingSetError):
                os._exit(1)
            os._exit(0)

    child = FORK.Process(target=run)
    child.start()
    child.join(60)
    assert child.exitcode is not None, "hangs"
    return child.exitcode


# -- killed ---------------------------------------------------------------------------------------------

EVENTS = ("open", "os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "os.truncate")


def killed_at(number, scene, seen):
    """Write, and die at the event of this number: a file opened, made, linked, renamed, removed."""

    def watch(event, arguments):
        if event in EVENTS and str(scene.folder) in str(arguments[0]):
            if seen.value == number:
                os.kill(os.getpid(), signal.SIGKILL)
            seen.value += 1

    sys.addaudithook(watch)
    scene.write(scene.source, scene.target)


def test_killed_at_each_change_of_the_file_system(scene):
    """The old state or the new one, whichever step was the last; the next run cleans up."""
    seen = FORK.Value("i", 0)
    assert in_child(lambda: killed_at(-1, scene, seen)) == 0
    steps = seen.value
    assert steps > 4
    scene.again()
    outcomes = []
    # The first and the last ones, where names appear and vanish, and some of those between.
    for number in sorted({*range(4), *range(4, steps - 6, max(1, steps // 6)), *range(steps - 6, steps)}):
        seen.value = 0
        assert in_child(lambda n=number: killed_at(n, scene, seen)) == -signal.SIGKILL
        outcomes.append(scene.is_old_or_new())
        scene.again()
    assert outcomes[0] == "old"
    assert outcomes == sorted(outcomes, reverse=True)  # once it is new it stays so
    assert "new" in outcomes


def test_killed_at_random_moments(scene):
    kills = max(1, KILLS // len(WRITERS))
    rng = np.random.default_rng(5)
    counted = {"old": 0, "new": 0}

    def work():
        # tqdm's lock is shared with forked processes: a child killed while it holds it would stop us all.
        tqdm.set_lock(threading.RLock())
        scene.write(scene.source, scene.target)

    for _ in range(kills):
        child = FORK.Process(target=work)
        child.start()
        time.sleep(rng.uniform(0, 1.3 * scene.seconds))  # the moment, not a hope: any will do
        child.kill()
        child.join()
        counted[scene.is_old_or_new()] += 1
        scene.again()
    print(f"{scene.kind}: {kills} kills, {counted}")
    assert sum(counted.values()) == kills


# -- failing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [0, 0.02, 0.3, 0.7, 0.99])
def test_a_disk_that_is_full(scene, part):
    """No file can grow beyond some bytes, as on a full disk: the error is told, and nothing stays behind."""
    files = [p for p in scene.folder.with_name("elsewhere").rglob("*") if p.is_file()]
    made = [p for p in files if scene.target.name in str(p)]
    limit = int(part * max(p.stat().st_size for p in made))

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        scene.write(scene.source, scene.target)

    assert in_child(work) == 1
    assert scene.is_old_or_new() == "old"
    assert not scene.leftovers()
    scene.again()


def test_a_disk_that_is_really_full(source, tmp_path):
    """The same on a small disk of its own, where this user may make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", disk], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        for name, write in [WRITERS[k] for k in ("sample", "features", "seal", "pack-zip", "pack-folder")]:
            with pytest.raises(OSError, match="No space left on device"):
                write(source, disk / name)
            assert not list(disk.iterdir()), name
    finally:
        subprocess.run(["umount", disk], check=True)


class BrokenOnPurposeError(Exception):
    pass


@pytest.mark.parametrize("where", ["temporary", "reveal"])
def test_an_exception_inside(scene, where, monkeypatch):
    def fail(*_):
        raise BrokenOnPurposeError

    monkeypatch.setattr("agn_helpers.files._sync" if where == "reveal" else "agn_helpers.files._create", fail)
    with pytest.raises(BrokenOnPurposeError):
        scene.write(scene.source, scene.target)
    assert scene.is_old_or_new() == "old"
    assert not scene.leftovers()


def test_leftovers_of_others_stay(source, tmp_path):
    """Only what belonged to the same target, and to a writer that is dead, is removed."""
    scene = Scene("seal", source, tmp_path / "here")
    others = [
        ".other.zarr.zip.1.part",
        ".z.zarr.zip",
        "z.zarr.zip.1.part",
        ".z.zarr.zip.txt",
        ".z.zarr.zip2.1.part",
    ]
    for name in others:
        (scene.folder / name).write_text("not ours")
    (scene.folder / ".z.zarr.zip.dead.part").write_text("ours")
    (scene.folder / ".z.zarr.zip.link.part").symlink_to(source)
    scene.write(scene.source, scene.target)
    left = {p.name for p in scene.folder.iterdir()}
    assert left == {*others, "z.zarr.zip", ".z.zarr.zip.link.part"}


# -- a store and its manifest ------------------------------------------------------------------------------


def with_manifest(kind, source, target, **options):
    BUILDERS[kind][1](source, target, manifest=True, **options)


def files_in(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture(params=BUILDERS)
def built(request, source, tmp_path):
    """Kind, folder, target, and the digest that the target is to have."""
    name, write = BUILDERS[request.param]
    write(source, tmp_path / name)
    complete = digest(tmp_path / name)
    (tmp_path / "here").mkdir()
    return request.param, tmp_path / "here", tmp_path / "here" / name, complete


def test_a_builder_writes_the_manifest_that_write_manifest_would(built, source):
    kind, folder, target, complete = built
    with_manifest(kind, source, target)
    manifest = target.with_name(f"{target.name}.sha256")
    assert files_in(folder) == [target.name, manifest.name]
    assert digest(target) == complete  # the store itself does not know of it
    made = manifest.read_bytes()
    assert agn.write_manifest(target).read_bytes() == made
    found = agn.validate_store(target, progress=False)[-1]
    assert (found.check, found.level) == ("manifest", "ok")
    assert found.text.endswith(f"files as in {manifest.name}")


def test_killed_between_store_and_manifest(built, source):
    """Nothing, then the store, then both: a manifest never stands alone, nor beside another store."""
    kind, folder, target, complete = built
    scene = type("Here", (), {"source": source, "target": target, "folder": folder})
    scene.write = staticmethod(lambda source, target: with_manifest(kind, source, target))
    seen = FORK.Value("i", 0)
    assert in_child(lambda: killed_at(-1, scene, seen)) == 0
    steps, states = seen.value, []
    manifest = target.with_name(f"{target.name}.sha256")

    def clean():
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        manifest.unlink(missing_ok=True)

    clean()
    for number in [0, *range(max(1, steps - 16), steps)]:
        seen.value = 0
        assert in_child(lambda n=number: killed_at(n, scene, seen)) == -signal.SIGKILL
        state = [os.path.lexists(target), manifest.exists()]
        states.append(state)
        assert not state[0] or digest(target) == complete
        if state[0]:
            # Its manifest can still be made; the next run removes what the killed writer left.
            assert agn.write_manifest(target) == manifest
            assert agn.validate_store(target, progress=False)[-1].level == "ok"
            clean()
        with_manifest(kind, source, target)
        assert files_in(folder) == [target.name, manifest.name]
        clean()
    assert states == sorted(states)
    assert {tuple(s) for s in states} == {(False, False), (True, False), (True, True)}


@pytest.mark.parametrize("manifest", [False, True])
def test_a_former_stores_manifest_is_never_beside_a_new_store(built, source, manifest):
    """It is neither replaced nor left where it would describe another store."""
    kind, folder, target, _ = built
    former = target.with_name(f"{target.name}.sha256")
    former.write_text("of the store that was here")
    with pytest.raises(agn.TargetExistsError, match=r"the manifest of a former store at .*Move it away"):
        BUILDERS[kind][1](source, target, manifest=manifest)
    assert files_in(folder) == [former.name]
    assert former.read_text() == "of the store that was here"


@pytest.mark.parametrize("manifest", [False, True])
@pytest.mark.parametrize("folder", [False, True])
def test_a_manifest_that_comes_while_the_store_is_written(tmp_path, folder, manifest):
    with (
        pytest.raises(agn.TargetExistsError, match=r"s\.zarr\.sha256'( already|; it was left)"),
        Place(tmp_path / "s.zarr", folder=folder, manifest=manifest),
    ):
        (tmp_path / "s.zarr.sha256").write_text("another's")
    assert files_in(tmp_path) == ["s.zarr.sha256"]


def test_no_manifest_no_store(built, source, monkeypatch):
    """Where the manifest cannot be written, the store does not appear either."""
    kind, folder, target, _ = built

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("agn_helpers.files.write_checksums", full)
    with pytest.raises(OSError, match="No space left on device"):
        with_manifest(kind, source, target)
    assert files_in(folder) == []


def test_a_table_whose_files_no_manifest_can_name(tmp_path):
    with pytest.raises(agn.InvalidValueError, match=r"two\\nlines.* cannot stand in a manifest"):
        write_features(tmp_path / "f.zarr", FEATURES.rename(columns={"n": "two\nlines"}), manifest=True)
    assert files_in(tmp_path) == []


def test_processes_that_write_the_same_store_and_manifest(built, source):
    kind, folder, target, complete = built
    barrier, codes = FORK.Barrier(4), FORK.Queue()

    def work():
        barrier.wait()
        try:
            with_manifest(kind, source, target)
            codes.put("wrote")
        except agn.TargetExistsError:
            codes.put("told")

    children = [FORK.Process(target=work) for _ in range(4)]
    for child in children:
        child.start()
    assert sorted(codes.get(timeout=60) for _ in children) == ["told"] * 3 + ["wrote"]
    for child in children:
        child.join(60)
    assert files_in(folder) == [target.name, f"{target.name}.sha256"]
    assert digest(target) == complete
    assert agn.validate_store(target, progress=False)[-1].level == "ok"


# -- at once ---------------------------------------------------------------------------------------------


def test_processes_that_write_the_same_target_at_once(scene):
    """One of them wins; the others are told, or find that it is there. Nobody's work is mixed."""
    n = 4
    barrier = FORK.Barrier(n)
    codes = FORK.Queue()

    def work():
        barrier.wait()
        try:
            scene.write(scene.source, scene.target)
            codes.put("wrote")
        except agn.TrainingSetError as e:
            codes.put(type(e).__name__)

    children = [FORK.Process(target=work) for _ in range(n)]
    for child in children:
        child.start()
    outcomes = sorted(codes.get(timeout=60) for _ in range(n))
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    winners = n if scene.kind == "manifest" else 1
    assert outcomes == ["TargetExistsError"] * (n - winners) + ["wrote"] * winners
    assert scene.is_old_or_new() == "new"
    assert not scene.leftovers()


@pytest.mark.parametrize("kind", ["sample", "seal", "pack-zip", "pack-folder"])
def test_a_reader_during_a_write_sees_nothing_or_all(kind, source, tmp_path):
    scene = Scene(kind, source, tmp_path / "here")
    child = FORK.Process(target=scene.write, args=(scene.source, scene.target))
    child.start()
    seen = set()
    while child.is_alive() or "all" not in seen:
        try:
            with agn.open_training_set(scene.target) as ts:
                assert len(ts.catalog()) == len(ts.light_curve_ids())
                [ts.light_curve(i) for i in ts.light_curve_ids()]
            seen.add("all")
        except agn.StoreNotFoundError:
            seen.add("nothing")
            assert child.is_alive() or scene.target.exists()
    child.join()
    assert child.exitcode == 0
    assert "all" in seen


# -- readers: closing, threads, forks -----------------------------------------------------------------------


def test_closed_by_another_thread(any_store):
    """Each read gives the right answer or says that the store was closed; nothing hangs, nothing is wrong."""
    with agn.open_training_set(any_store) as ts:
        want = {i: ts.raw_light_curve(i).tobytes() for i in ts.light_curve_ids()}
    for _ in range(10):
        ts, odd, reads = agn.open_training_set(any_store), [], []
        started = threading.Event()

        def work(ts=ts, odd=odd, reads=reads, started=started):
            try:
                while True:
                    for i, right in want.items():
                        reads.append(ts.raw_light_curve(i).tobytes() == right)
                    started.set()
            except agn.TrainingSetError as e:
                if not isinstance(e, agn.ClosedError) and "Bad file descriptor" not in str(e):
                    odd.append(e)
            except BaseException as e:
                odd.append(e)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for t in threads:
            t.start()
        assert started.wait(60)
        ts.close()
        for t in threads:
            t.join(60)
            assert not t.is_alive()
        assert not odd
        assert all(reads)


def test_members_of_a_closed_zip(small_store):
    """ValueError of a closed file, from a thread that was about to read."""
    ts = agn.open_training_set(small_store)
    members = ts._arrays.members
    ts.close()
    with pytest.raises(agn.ClosedError, match="was closed while it was read"):
        members.read(".zgroup", 1000)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def test_forked_processes_read_the_open_store_at_once(made, tmp_path, method):
    """Forks share one file position; each reads on its own all the same."""
    path = tmp_path / "s.zarr.zip"
    with zipfile.ZipFile(made[2, "zip"]) as old, zipfile.ZipFile(path, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with agn.open_training_set(path) as ts:
        want = {i: ts.raw_light_curve(i).tobytes() for i in ts.light_curve_ids()}

        def work():
            for _ in range(200):
                for i, right in want.items():
                    if ts.raw_light_curve(i).tobytes() != right:
                        os._exit(1)
            os._exit(0)

        children = [FORK.Process(target=work) for _ in range(3)]
        for child in children:
            child.start()
        for child in children:
            child.join(120)
        assert [child.exitcode for child in children] == [0, 0, 0]


def test_a_store_that_was_copied_for_damage_is_the_same(made, tmp_path):
    """The helper of these tests itself."""
    assert digest(stores.copy_store(made[2, "zip"], tmp_path / "c")) == digest(made[2, "zip"])


def test_a_system_that_syncs_only_what_it_may_write(tmp_path, monkeypatch):
    """On Windows fsync refuses a file that is open for reading only."""
    synced = []

    def windows(descriptor):
        reads_only = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        if stat.S_ISREG(os.fstat(descriptor).st_mode) and reads_only:
            raise OSError(errno.EBADF, "Bad file descriptor")
        synced.append(descriptor)

    monkeypatch.setattr(os, "fsync", windows)
    assert build_sample_store(tmp_path / "s.zarr.zip", n=2).exists()
    assert len(synced) == 2, "the file, then the folder that holds its name"
