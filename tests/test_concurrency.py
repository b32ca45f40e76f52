"""Writing at once without loss, proved by rounds; and the layouts that do lose, so that the book stays true.

``AGN_KILL_ROUNDS`` and ``AGN_WRITE_ROUNDS`` ask for more rounds than the usual ones.
"""

import asyncio
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, wait

import numpy as np
import pandas as pd
import pytest
import zarr

import agn_helpers as agn

WRITE_ROUNDS = int(os.environ.get("AGN_WRITE_ROUNDS", "200"))
KILL_ROUNDS = int(os.environ.get("AGN_KILL_ROUNDS", "60"))
DTYPES = ["float64", "float32", "int64", "int16", "bool", "Int64"]

posix = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL and fork servers are POSIX")


@pytest.fixture(autouse=True)
def _no_wait_for_the_disk(monkeypatch):
    """fsync is for power cuts, which no test can make; waiting for it would hide the moments that matter."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def context():
    """Processes that start quickly: the module is imported once, in their server."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(["agn_helpers"])
    return made


def features(rng, n, kinds):
    """A table whose every value is different from its neighbours, so that no loss goes unseen."""
    columns = {}
    for i, kind in enumerate(kinds):
        values = rng.integers(-(2**15), 2**15, n) if kind != "bool" else rng.integers(0, 2, n)
        column = pd.array(values.tolist(), dtype="Int64") if kind == "Int64" else values.astype(kind)
        if kind == "Int64":
            column[(values % 5 == 0) | (values == -99)] = pd.NA
        columns[f"c{i}"] = column
    ids = rng.permutation(10 * n + 1)[:n]
    return pd.DataFrame(columns, index=pd.Index(ids, dtype="int64", name="train_id"))


def write_regions(writer, parts):
    for start, part in parts:
        writer.write(start, part)
    return len(parts)


# -- nothing is lost ----------------------------------------------------------------------------


@posix
def test_no_value_is_lost_by_2_to_16_writers(tmp_path):
    """Each round: another number of writers, rows, chunks, types; regions dealt out in random order."""
    rng = np.random.default_rng(20)
    values = 0
    with (
        ProcessPoolExecutor(16, mp_context=context()) as processes,
        ThreadPoolExecutor(16) as threads,
    ):
        for number in range(WRITE_ROUNDS):
            writers = 2 + number % 15
            chunk = int(rng.integers(1, 9))
            n = chunk * writers * int(rng.integers(1, 4)) - int(rng.integers(0, chunk))
            kinds = rng.choice(DTYPES, int(rng.integers(1, 4)))
            frame = features(rng, n, kinds)
            target = tmp_path / f"{number}.zarr"
            with agn.FeatureWriter(target, n, frame.dtypes.to_dict(), chunk) as writer:
                regions = [writer.regions[i] for i in rng.permutation(len(writer.regions))]
                dealt = [[(a, frame.iloc[a:b]) for a, b in regions[i::writers]] for i in range(writers)]
                # Every third round threads only, else processes, or both at the same table.
                pools = [[threads], [processes], [processes, threads]][number % 3]
                jobs = [
                    pools[i % len(pools)].submit(write_regions, writer, parts)
                    for i, parts in enumerate(dealt)
                ]
                assert sum(job.result() for job in jobs) == len(regions)
            found = agn.read_features(target)
            pd.testing.assert_frame_equal(found, frame)
            values += found.size
    print(f"{WRITE_ROUNDS} rounds, {values} values read back equal, none lost")
    assert number + 1 == WRITE_ROUNDS >= 200


def test_two_tables_for_one_name_one_wins_and_is_whole(tmp_path):
    """Many at once for the same target: one appears, complete; the others are told; nothing else stays."""
    frames = [
        pd.DataFrame({"who": np.full(64, i)}, index=pd.RangeIndex(64, name="train_id")) for i in range(8)
    ]

    def write(frame):
        try:
            return agn.write_features(tmp_path / "f.zarr", frame, chunk=8)
        except agn.TargetExistsError:
            return None

    with ThreadPoolExecutor(8) as pool:
        made = [m for m in pool.map(write, frames) if m]
    assert len(made) == 1
    assert agn.read_features(made[0])["who"].nunique() == 1
    assert [p.name for p in tmp_path.iterdir()] == ["f.zarr"]


# -- killed at any moment -----------------------------------------------------------------------


def write_until_killed(folder, begun):
    """Write table after table and seal each; every step can be the last."""
    os.fsync = lambda _: None
    begun.set()
    for version in range(10**6):
        index = pd.RangeIndex(50, name="train_id")
        frame = pd.DataFrame({f"c{i}": np.full(50, 1000 * version + i) for i in range(4)}, index=index)
        made = agn.write_features(pathlib.Path(folder, f"{version}.zarr"), frame, chunk=10)
        agn.seal_zip(made, pathlib.Path(folder, f"{version}.zarr.zip"))


def check_complete(path):
    version = int(path.name.split(".")[0])
    found = agn.read_features(path)
    assert found.shape == (50, 4)
    assert (found.to_numpy() == 1000 * version + np.arange(4)).all()


@posix
def test_a_writer_killed_at_any_moment_leaves_whole_tables_only(tmp_path):
    rng = np.random.default_rng(3)
    server, tables, zips, leftovers = context(), 0, 0, 0
    for number in range(KILL_ROUNDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        begun = server.Event()
        process = server.Process(target=write_until_killed, args=(folder, begun))
        process.start()
        assert begun.wait(60)
        whole, until = rng.integers(0, 4), time.monotonic() + 60
        while len(list(folder.glob("*.zarr*"))) < whole and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.06))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        visible = [p for p in folder.iterdir() if not p.name.startswith(".")]
        for path in visible:
            check_complete(path)
        tables += sum(p.is_dir() for p in visible)
        zips += sum(p.is_file() for p in visible)
        left = [p for p in folder.iterdir() if p.name.startswith(".")]
        leftovers += len(left)
        for hidden in left:  # the next write to the same name removes what the dead one left
            target = folder / hidden.name[1:].rsplit(".", 2)[0]
            if target.suffix == ".zip":
                agn.seal_zip(target.with_suffix(""), target)
            else:
                agn.write_features(target, pd.DataFrame({"a": [1.0]}, index=[0]))
            assert not hidden.exists()
    print(f"{KILL_ROUNDS} kills: {tables} tables and {zips} zips whole, {leftovers} leftovers removed")
    assert tables
    assert zips
    assert leftovers, "no kill hit a write: the test proves nothing"


def die_in(writer, start, frame, moment):
    """A worker that is killed when it opens its n-th file for writing."""
    count = 0

    def trace(event, args):
        nonlocal count
        if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
            count += 1
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(trace)
    writer.write(start, frame)


@posix
@pytest.mark.parametrize("moment", [1, 2, 3])
def test_a_killed_worker_is_noticed_and_its_region_can_be_written_again(tmp_path, moment):
    """The table as it was stays readable, the new one does not appear until the region is written again."""
    rng = np.random.default_rng(4)
    before, frame = features(rng, 20, ["float64", "int64"]), features(rng, 20, ["float64", "int64"])
    old = agn.write_features(tmp_path / "old.zarr", before)
    for repair in (False, True):
        writer = agn.FeatureWriter(tmp_path / "new.zarr", 20, frame.dtypes.to_dict(), chunk=10)
        writer.write(0, frame.iloc[:10])
        process = context().Process(target=die_in, args=(writer, 10, frame.iloc[10:], moment))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        pd.testing.assert_frame_equal(agn.read_features(old), before)
        assert not (tmp_path / "new.zarr").exists()
        if repair:
            writer.write(10, frame.iloc[10:])
            pd.testing.assert_frame_equal(agn.read_features(writer.finish()), frame)
            assert not list((tmp_path / "new.zarr").rglob("*.partial"))
        else:
            with pytest.raises(agn.UnsafeWriteError, match=r"Rows 10 to 20 of .* were never written"):
                writer.finish()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new.zarr", "old.zarr"]


# -- the layouts that lose ----------------------------------------------------------------------
# Zarr promises none of this. The chapter shows it, so we notice when a new Zarr behaves otherwise.


class Meeting(zarr.storage.WrapperStore):
    """A store in which every writer has read before any of them writes."""

    def __init__(self, store, writers):
        super().__init__(store)
        self.barrier = asyncio.Barrier(writers)

    async def get(self, key, prototype, byte_range=None):
        value = await super().get(key, prototype, byte_range)
        if key.rpartition("/")[2] not in ("zarr.json", ".zarray", ".zattrs", ".zgroup"):
            await self.barrier.wait()
        return value


def survivors(store, writers=8, **layout):
    zarr.create_array(store, name="x", shape=(writers,), dtype="f8", fill_value=-1, **layout)
    array = zarr.open_array(Meeting(zarr.storage.LocalStore(store), writers), path="x", mode="r+")
    with ThreadPoolExecutor(writers) as pool:
        wait([pool.submit(array.__setitem__, i, i) for i in range(writers)])
    found = zarr.open_array(store, path="x", mode="r")[:]
    return int((found == np.arange(writers)).sum())


@pytest.mark.parametrize(
    ("layout", "expected"),
    [({"chunks": (8,)}, 1), ({"chunks": (1,)}, 8), ({"chunks": (1,), "shards": (8,)}, 1)],
    ids=["one chunk", "one chunk each", "one shard"],
)
def test_the_unit_of_safety_is_the_chunk_or_the_shard(tmp_path, layout, expected):
    assert survivors(tmp_path, **layout) == expected


def test_attributes_have_one_writer(tmp_path):
    zarr.create_group(tmp_path)
    handles = [zarr.open_group(tmp_path, mode="r+") for _ in range(8)]
    for i, handle in enumerate(handles):
        handle.attrs[f"writer {i}"] = i
    assert zarr.open_group(tmp_path, mode="r").attrs.asdict() == {"writer 7": 7}


def test_appending_has_one_writer(tmp_path):
    zarr.create_array(tmp_path, shape=(0,), chunks=(10,), dtype="i8")
    for i, handle in enumerate([zarr.open_array(tmp_path, mode="r+") for _ in range(4)]):
        handle.append(np.full(10, i))
    assert zarr.open_array(tmp_path, mode="r")[:].tolist() == [3] * 10


def test_a_synchronizer_is_ignored_without_a_word(tmp_path):
    zarr.create_array(tmp_path, shape=(8,), dtype="f8")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        zarr.open_array(tmp_path, mode="r+", synchronizer="there is no such thing")
    assert said == []
    with pytest.raises(TypeError, match="synchronizer"):
        zarr.create_array(tmp_path / "new", shape=(8,), dtype="f8", synchronizer=None)


def test_a_zip_with_two_writers_loses_one(tmp_path):
    path = tmp_path / "x.zip"
    with zarr.storage.ZipStore(path, mode="w") as store:
        zarr.create_array(store, shape=(3,), chunks=(1,), dtype="i8", fill_value=-1)[0] = 0
    stores = [zarr.storage.ZipStore(path, mode="a") for _ in range(2)]
    arrays = [zarr.open_array(store, mode="r+") for store in stores]
    for i, array in enumerate(arrays, start=1):
        array[i] = i
    for store in stores:
        store.close()
    with zarr.storage.ZipStore(path, mode="r") as store:
        assert zarr.open_array(store, mode="r")[:].tolist() == [0, -1, 2]


KILLED = """
import os, signal, sys, zarr
store = zarr.storage.ZipStore(sys.argv[1], mode="a")
array = zarr.open_array(store, mode="r+")
array[1] = array[0]
os.kill(os.getpid(), signal.SIGKILL)
"""


@posix
def test_a_killed_writer_of_a_zip_destroys_what_was_there(tmp_path):
    path = tmp_path / "x.zip"
    noise = np.random.default_rng(1).random((2, 10_000))  # more than Python holds back before writing
    with zarr.storage.ZipStore(path, mode="w") as store:
        zarr.create_array(store, data=noise, chunks=(1, 10_000))
    assert zipfile.is_zipfile(path)
    run = subprocess.run([sys.executable, "-c", KILLED, str(path)], timeout=60)
    assert run.returncode == -signal.SIGKILL
    with pytest.raises(zipfile.BadZipFile, match="not a zip file"):
        zipfile.ZipFile(path)
    with pytest.raises(agn.DamagedStoreError, match="cannot be read as a zip"):
        agn.read_features(path)


# -- transactions -------------------------------------------------------------------------------


def test_icechunk_keeps_both_or_says_conflict():
    icechunk = pytest.importorskip("icechunk")
    icechunk.set_logs_filter("off")
    repo = icechunk.Repository.create(icechunk.in_memory_storage())
    session = repo.writable_session("main")
    zarr.create_array(session.store, name="x", shape=(4,), chunks=(2,), dtype="f8")
    session.commit("empty")

    def write(session, *where):
        zarr.open_array(session.store, path="x", mode="r+")[slice(*where)] = where[0] + 1

    one, two = repo.writable_session("main"), repo.writable_session("main")
    write(one, 0, 2)
    write(two, 2, 4)
    one.commit("one")
    with pytest.raises(icechunk.ConflictError):
        two.commit("two")
    two.commit("two", rebase_with=icechunk.ConflictDetector())
    assert zarr.open_array(repo.readonly_session("main").store, path="x", mode="r")[:].tolist() == [
        1,
        1,
        3,
        3,
    ]

    one, two = repo.writable_session("main"), repo.writable_session("main")
    write(one, 0, 1)
    write(two, 1, 2)
    one.commit("one")
    with pytest.raises(icechunk.RebaseFailedError):
        two.commit("two", rebase_with=icechunk.ConflictDetector())
