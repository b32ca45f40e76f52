"""Damaged and hostile stores: each row of the page "What can go wrong", and each defect found by fuzzing."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile

import damage_table
import google_crc32c
import numcodecs
import numpy as np
import pytest
import stores
import zarr
from damage_table import ROWS, curve, edit, put, rewrite

import agn_helpers as agn
from agn_helpers.arrays import StoredArrays
from agn_helpers.catalog import catalog_frame

if sys.platform == "win32":
    pytest.skip("damages stores by links, pipes and permissions of POSIX", allow_module_level=True)


def pattern(text: str) -> str:
    """Return a regular expression for a message in which ``...`` stands for anything."""
    return ".*".join(re.escape(part.strip(" ")) for part in text.split("..."))


def copy(made, container, tmp_path):
    name = "s.zarr.zip" if container == "zip" else "s.zarr"
    return stores.copy_store(made[2, container or "zip"], tmp_path / name)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.words)
def test_each_kind_of_damage_is_told_as_the_page_says(row, made, tmp_path):
    path = copy(made, row.container, tmp_path)
    row.damage(path)
    kind, text = row.sees.split(": ", 1)
    if kind in ("validate", "warning"):
        report = agn.validate_store(path, progress=False)
        level = "error" if kind == "validate" else "warning"
        assert [f for f in report if f.level == level and re.search(pattern(text), f.text)], str(report)
        assert report.ok == (kind == "warning")
        return

    def read():
        with agn.open_training_set(path) as ts:
            row.read(ts)

    with pytest.raises(agn.TrainingSetError, match=f"^{pattern(text)}") as e:
        read()
    assert type(e.value).__name__ == kind
    if row.container:
        report = agn.validate_store(path, progress=False)
        assert not report.ok or kind == "UnknownTrainIdError", str(report)


def test_the_page_says_what_the_table_says():
    page = damage_table.PAGE.read_text("utf-8")
    shown = page.split(damage_table.START)[1].split(damage_table.END)[0]
    assert shown.strip() == damage_table.tables().strip(), "run: python tests/damage_table.py"


def test_undamaged_stores_are_fine(any_store):
    report = agn.validate_store(any_store, progress=False)
    assert report.ok, str(report)


# -- nothing runs, nothing leaves ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["|O", "<f8"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_no_code_from_a_store_runs(tmp_path, made, dtype, zarr_format, monkeypatch):
    """Whatever the codecs say, pickle's loader is never reached."""
    ran = []
    monkeypatch.setattr("numcodecs.pickles.Pickle.decode", lambda *a: ran.append(a))
    path = copy(made, "folder", tmp_path) if zarr_format == 2 else tmp_path / "s.zarr"
    if zarr_format == 2:
        meta = json.loads((path / "catalog/.zarray").read_text())
        meta |= {"dtype": dtype, "filters": [{"id": "pickle", "protocol": 4}], "compressor": None}
        (path / "catalog/.zarray").write_text(json.dumps(meta))
    else:
        stores.copy_store(made[3, "folder"], path)
        meta = json.loads((path / "catalog/zarr.json").read_text())
        meta["codecs"] = [{"name": "numcodecs.pickle"}]
        (path / "catalog/zarr.json").write_text(json.dumps(meta))
    with agn.open_training_set(path) as ts, pytest.raises(agn.DamagedStoreError, match=r"pickle|objects"):
        ts.catalog()
    assert not agn.validate_store(path, progress=False).ok
    assert not ran


@pytest.mark.parametrize("bad", ["../outside", "/outside", "a/../../outside", "a\\..\\outside", "C:outside"])
def test_names_that_leave_the_store_leave_nothing(tmp_path, made, bad):
    path = copy(made, "zip", tmp_path)
    rewrite(path, {bad: b"x"})
    before = sorted(tmp_path.parent.rglob("*"))
    with agn.open_training_set(path) as ts:
        ts.catalog()
        ts.tree(2)
    report = agn.validate_store(path, progress=False)
    assert any("lead out of the store" in f.text for f in report if f.level == "error")
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_a_store_without_permission_to_read(made):
    """Root may read all, so the reading is done as somebody else."""
    top = tempfile.mkdtemp()
    try:
        os.chmod(top, 0o755)  # noqa: S103  # somebody else has to get in
        path = stores.copy_store(made[2, "zip"], damage_table.pathlib.Path(top) / "s.zarr.zip")
        folder = stores.copy_store(made[2, "folder"], damage_table.pathlib.Path(top) / "s.zarr")
        path.chmod(0)
        (folder / "catalog/.zarray").chmod(0)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            for store in (path, folder):
                with (
                    pytest.raises(agn.DamagedStoreError, match=r"cannot be read .* Check its permissions"),
                    agn.open_training_set(store) as ts,
                ):
                    ts.catalog()
        finally:
            if root:
                os.seteuid(0)
    finally:
        shutil.rmtree(top)


# -- stores that change while they are open --------------------------------------------------------


def test_a_zip_that_is_cut_while_open(tmp_path, made):
    path = copy(made, "zip", tmp_path)
    with agn.open_training_set(path) as ts:
        os.truncate(path, 100)
        with pytest.raises(agn.DamagedStoreError, match=r"Fetch the file again"):
            ts.light_curve(100)


def test_a_zip_that_is_overwritten_while_open(tmp_path, made):
    path = copy(made, "zip", tmp_path)
    with agn.open_training_set(path) as ts:
        with path.open("r+b") as f:
            f.write(os.urandom(path.stat().st_size // 2))
        with pytest.raises(agn.DamagedStoreError, match=r"Fetch the file again"):
            [ts.light_curve(i) for i in ts.light_curve_ids()] + [ts.catalog()]


@pytest.mark.parametrize("how", ["unlink", "replace"])
def test_a_zip_that_gets_another_file_in_its_place_is_read_to_its_end(tmp_path, made, how):
    path = copy(made, "zip", tmp_path)
    with agn.open_training_set(path) as ts:
        want = ts.raw_light_curve(100).tobytes()
        path.unlink()
        if how == "replace":
            path.write_bytes(b"something else")
        assert ts.raw_light_curve(100).tobytes() == want


def test_a_folder_that_vanishes_while_open(tmp_path, made):
    path = copy(made, "folder", tmp_path)
    with agn.open_training_set(path) as ts:
        shutil.rmtree(path)
        for call in (ts.catalog, ts.light_curve_ids, lambda: ts.light_curve(0), ts.tree):
            with pytest.raises(agn.TrainingSetError, match=r"."):
                call()


# -- limits ----------------------------------------------------------------------------------------


def test_a_limit_can_be_raised(tmp_path, made):
    path = copy(made, "zip", tmp_path)
    with (
        agn.open_training_set(path, max_bytes=1000) as ts,
        pytest.raises(agn.LimitError, match=r"raise it: open_training_set\(\.\.\., max_bytes=(\d+)\)") as e,
    ):
        ts.catalog()
    enough = int(re.search(r"max_bytes=(\d+)\)", str(e.value))[1])
    with agn.open_training_set(path, max_bytes=enough) as ts:
        assert len(ts.catalog()) == 6
    assert not agn.validate_store(path, max_bytes=1000, progress=False).ok
    assert agn.validate_store(path, max_bytes=100 * enough, progress=False).ok


def test_the_zip_of_more_members_than_the_limit(tmp_path, made, monkeypatch):
    monkeypatch.setattr("agn_helpers.members.MAX_MEMBERS", 10)
    with pytest.raises(agn.LimitError, match=r"lists 25 members, more than 10"):
        agn.open_training_set(made[2, "zip"])


def test_a_hostile_store_costs_little_memory(tmp_path, made):
    """Each bomb is refused in a process that may not have 300 MB more."""
    bombs = [r for r in ROWS if r.part == damage_table.B]
    paths = []
    for i, row in enumerate(bombs):
        path = stores.copy_store(made[2, "zip"], tmp_path / f"{i}.zarr.zip")
        row.damage(path)
        paths.append(str(path))
    code = f"""
import resource, agn_helpers as agn
with agn.open_training_set({str(made[2, "zip"])!r}) as ts:
    ts.catalog()
used = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20,) * 2)
for path in {paths!r}:
    try:
        with agn.open_training_set(path) as ts:
            ts.catalog()
        raise SystemExit(f"{{path}} was read")
    except agn.TrainingSetError:
        pass
"""
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("needs /proc, to know how much memory is in use")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr


# -- what fuzzing found ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["007", "\u0661", "1e3", "99999999999999999999", "-1", "+5", " 4"])
def test_names_that_only_look_like_ids(tmp_path, made, name):
    """'007' is another name than '7': reading 7 found nothing."""
    path = copy(made, "folder", tmp_path)
    shutil.copytree(path / "sdss_lc/0", path / "sdss_lc" / name)
    with agn.open_training_set(path) as ts:
        assert ts.light_curve_ids().tolist() == [0, 3, 4, 10, 66, 100]
        repr(ts.tree(2))
    report = agn.validate_store(path, progress=False)
    assert any("no train_id" in f.text for f in report if f.level == "error"), str(report)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_tree_shows_a_folder_that_is_no_array(tmp_path, made, zarr_format):
    """KeyError, from an empty folder among the light curves."""
    path = stores.copy_store(made[zarr_format, "folder"], tmp_path / "s")
    shutil.rmtree(path / "sdss_lc/0")
    (path / "sdss_lc/0").mkdir()
    with agn.open_training_set(path) as ts:
        assert "'0' is not an array" in repr(ts.tree(2))


def test_a_stored_member_that_claims_gigabytes(tmp_path, made):
    """MemoryError, from a read of as many bytes as the zip's directory said."""
    path = copy(made, "zip", tmp_path)
    damage_table.record(".zgroup", 20, "<I", 2**32 - 2)(path)
    with pytest.raises(agn.DamagedStoreError, match="two sizes"):
        agn.open_training_set(path)


@pytest.mark.parametrize("dtype", ["|S4", "<U4", "<c16"])
@pytest.mark.parametrize("name", ["psfmag_g", "mjd_u", "airmass_i"])
def test_a_light_curve_without_numbers(tmp_path, made, dtype, name):
    """DTypePromotionError; with complex numbers a warning, and half of each number."""
    path = copy(made, "folder", tmp_path)

    def retyped(table):
        new = np.zeros(len(table), [(n, dtype if n == name else table.dtype[n]) for n in table.dtype.names])
        for n in set(table.dtype.names) - {name}:
            new[n] = table[n]
        return new

    curve(66, retyped)(path)
    with agn.open_training_set(path) as ts:
        with pytest.raises(agn.InvalidValueError, match=f"column '{name}' of a light curve holds"):
            ts.light_curve(66)
        with pytest.raises(agn.InvalidValueError, match=f"column '{name}' of a light curve holds"):
            ts.light_curves([0, 66], progress=False)
        assert len(ts.light_curve(0)) == 300
    if name != "airmass_i":
        assert not agn.validate_store(path, progress=False).ok


@pytest.mark.parametrize(
    ("name", "dtype", "message"),
    [
        ("z", "|V8", "column 'z' holds"),
        ("z", [["a", "<f4"], ["b", "<f4"]], "column 'z' holds"),
        ("z_err", "<c8", "column 'z_err' holds complex64"),
        ("train_id", "<f8", "column 'train_id' holds float64"),
        ("train_id", "|V8", "column 'train_id' holds"),
    ],
)
def test_a_catalogue_without_numbers(tmp_path, made, name, dtype, message):
    """TypeError from records in a column; 0.5 read as quasar 0."""
    path = copy(made, "zip", tmp_path)
    fields = json.loads(damage_table.members(path)["catalog/.zarray"])["dtype"]
    edit(dtype=[[n, dtype if n == name else t] for n, t in fields])(path)
    with agn.open_training_set(path) as ts:
        for call in (ts.catalog, lambda: ts.catalog([name])):
            with pytest.raises(agn.DamagedStoreError, match=message):
                call()
    assert not agn.validate_store(path, progress=False).ok


@pytest.mark.parametrize("dtype", ["|V8", [["a", "<f4"], ["b", "<f4"]], "<c8", "<M8[s]", "|b1"])
def test_definitions_of_a_column_of_any_kind(tmp_path, made, dtype):
    """TypeError from counting what is missing in records."""
    path = copy(made, "zip", tmp_path)
    fields = json.loads(damage_table.members(path)["catalog/.zarray"])["dtype"]
    edit(dtype=[[n, dtype if n == "z" else t] for n, t in fields])(path)
    with agn.open_training_set(path) as ts, contextlib.suppress(agn.DamagedStoreError):
        table = ts.column_definitions()
        assert table.loc["z", "status"] == "defined"


@pytest.mark.parametrize("separator", [["/"], 1, "", "x"])
def test_a_separator_that_is_none(tmp_path, made, separator):
    """AttributeError, when chunk names were put together with it."""
    path = stores.copy_store(made[3, "folder"], tmp_path / "s")
    meta = json.loads((path / "catalog/zarr.json").read_text())
    meta["chunk_key_encoding"]["configuration"] = {"separator": separator}
    (path / "catalog/zarr.json").write_text(json.dumps(meta))
    with agn.open_training_set(path) as ts, pytest.raises(agn.DamagedStoreError, match="separator"):
        ts.catalog()


def test_an_id_that_no_int64_holds(tmp_path, made):
    path = copy(made, "folder", tmp_path)

    def large(table):
        table = damage_table.retype("train_id", "<u8")(table)
        table["train_id"][0] = 2**63 + 5
        return table

    damage_table.catalog(large)(path)
    with (
        agn.open_training_set(path) as ts,
        pytest.raises(agn.DamagedStoreError, match=f"train_id {2**63 + 5}"),
    ):
        ts.catalog()


@pytest.mark.parametrize("code", [0x110000, 0xD800])
def test_text_that_is_none(tmp_path, made, code):
    """Four bytes that are no character: ValueError from NumPy or UnicodeEncodeError from pandas."""
    path = copy(made, "folder", tmp_path)

    def change(table):
        table = table.copy()
        raw = np.frombuffer(bytearray(table.tobytes()), np.uint8).reshape(len(table), -1)
        at = table.dtype.fields["sdssj"][1]
        raw[0, at : at + 4] = np.frombuffer(np.uint32(code).tobytes(), np.uint8)
        return raw.view(table.dtype).ravel()

    damage_table.catalog(change)(path)
    with (
        agn.open_training_set(path) as ts,
        pytest.raises(agn.DamagedStoreError, match="A text in the catalogue"),
    ):
        ts.catalog()
    assert not agn.validate_store(path, progress=False).ok


@pytest.mark.parametrize("text", ['{"z": "\\ud800"}', '{"\\ud800": "z"}'])
def test_half_a_character_in_a_definition(tmp_path, made, text):
    """UnicodeEncodeError from pandas, which keeps text as UTF-8."""
    path = copy(made, "zip", tmp_path)
    put("catalog/.zattrs", text.encode())(path)
    with agn.open_training_set(path) as ts, pytest.raises(agn.DamagedStoreError, match="not readable JSON"):
        ts.column_definitions()


def test_a_whole_character_in_a_definition(tmp_path, made):
    path = copy(made, "zip", tmp_path)
    put("catalog/.zattrs", b'{"z": "\\ud83d\\ude80"}')(path)
    with agn.open_training_set(path) as ts:
        assert ts.define("z") == "\N{ROCKET}"


@pytest.fixture
def by_zarr(tmp_path):
    """A store with an array that only Zarr itself reads: its codecs are not on the short road."""
    folder = tmp_path / "s"
    root = zarr.create_group(folder, zarr_format=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root.create_array("a", data=np.arange(24).reshape(6, 4), chunks=(2, 2), shards=(4, 4))
    return folder


def test_zarrs_own_road_reads(by_zarr):
    arrays = StoredArrays(by_zarr)
    assert arrays.layout("a").decoders is None
    assert arrays.read("a").tolist() == np.arange(24).reshape(6, 4).tolist()
    arrays.close()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_table.pathlib.Path.unlink, r"the chunk a/c/0/0 is not in the store"),
        (lambda p: (p.unlink(), os.mkfifo(p)), "not an ordinary file"),
        (lambda p: (p.unlink(), p.symlink_to("/etc/passwd")), "a link that leads elsewhere"),
        (lambda p: os.truncate(p, 30), "Zarr cannot read a"),
    ],
    ids=["missing", "pipe", "link", "cut"],
)
def test_zarrs_own_road_is_as_safe(by_zarr, damage, message):
    """It filled the missing chunk, waited for the pipe, and followed the link."""
    damage(by_zarr / "a/c/0/0")
    arrays = StoredArrays(by_zarr)
    with pytest.raises(agn.DamagedStoreError, match=message):
        arrays.read("a")
    arrays.close()


def shard(*chunks, bad_index=False):
    """A shard of these compressed chunks, with its index at the end."""
    lengths = np.array([len(c) for c in chunks])
    pairs = np.stack([np.cumsum(lengths) - lengths, lengths + 10**6 * bad_index], axis=1)
    index = pairs.astype("<u8").tobytes()
    return b"".join(chunks) + index + google_crc32c.value(index).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda c: shard(c(np.zeros(2**24)), *[c(np.zeros(4))] * 3), "unpacks to"),
        (lambda c: shard(*[c(np.zeros(4))] * 4, bad_index=True), "a chunk of the shard lies outside"),
        (lambda c: b"short", "shorter than the index"),
    ],
    ids=["bomb", "outside", "short"],
)
@pytest.mark.parametrize("codec", ["zstd", "gzip", "blosc"])
def test_a_shard_is_unpacked_only_as_far_as_it_should(tmp_path, codec, make, message):
    """Zarr would unpack a gigabyte in it, or whatever else somebody put there."""
    compress, by_zarr = {
        "zstd": (numcodecs.Zstd(), zarr.codecs.ZstdCodec()),
        "gzip": (numcodecs.GZip(1), zarr.codecs.GzipCodec()),
        "blosc": (numcodecs.Blosc("zstd"), zarr.codecs.BloscCodec()),
    }[codec]
    root = zarr.create_group(tmp_path / "s", zarr_format=3)
    made = {"shape": (4, 4), "dtype": "f8", "chunks": (2, 2), "shards": (4, 4)}
    root.create_array("a", compressors=by_zarr, **made)
    (tmp_path / "s/a/c/0").mkdir(parents=True)
    whole = shard(*[compress.encode(np.ones(4))] * 4)
    for data, expected in ((whole, None), (make(compress.encode), message)):
        (tmp_path / "s/a/c/0/0").write_bytes(data)
        with contextlib.closing(StoredArrays(tmp_path / "s")) as arrays:
            if expected is None:
                assert arrays.read("a").tolist() == np.ones((4, 4)).tolist()
            else:
                with pytest.raises(agn.DamagedStoreError, match=expected):
                    arrays.read("a")


def test_zarrs_own_road_through_a_zip_checks_its_sums(by_zarr, tmp_path):
    path = stores.zip_store(by_zarr, tmp_path / "s.zarr.zip")
    damage_table.flip("a/c/0/0")(path)
    arrays = StoredArrays(path)
    with pytest.raises(agn.DamagedStoreError, match="the stored checksum does not match"):
        arrays.read("a")
    arrays.close()


def test_half_a_million_definitions_take_no_time(tmp_path, made):
    """Each column was looked for in each template, and each template stands for up to 10,000 names."""
    path = copy(made, "zip", tmp_path)
    many = {f"x{i}[0-9999]": "" for i in range(2000)}
    put("catalog/.zattrs", json.dumps(many).encode(), zipfile.ZIP_DEFLATED)(path)
    with agn.open_training_set(path) as ts, pytest.raises(agn.LimitError, match="definitions"):
        ts.column_definitions()
    with agn.open_training_set(path) as ts, pytest.raises(agn.LimitError, match="definitions"):
        ts.define("nonsense")


@pytest.mark.parametrize("unit", ["m8[99999s]", "M8[7D]"])
def test_times_in_multiples_of_a_unit(unit):
    """NumPy has them, no frame takes them: pandas' own error came through."""
    rows = np.zeros(2, [("train_id", "i8"), ("seen", unit)])
    rows["train_id"] = [0, 3]
    with pytest.raises(agn.DamagedStoreError, match=r"column 'seen' holds .*, not what belongs there"):
        catalog_frame(rows)
    record = np.zeros(2, [("mjd_g", "f8"), ("seen", unit)])
    with pytest.raises(agn.InvalidValueError, match="column 'seen' of a light curve holds"):
        agn.to_long(record, 0)


def test_times_in_a_unit_are_a_column():
    rows = np.zeros(2, [("train_id", "i8"), ("seen", "M8[s]")])
    rows["train_id"] = [0, 3]
    assert catalog_frame(rows)["seen"].dtype.kind == "M"
