"""Features: what is written is read back equal, and a table is complete or absent."""

import itertools
import json
import os
import pathlib
import pickle
import stat
import zipfile

import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import agn_helpers as agn

N = 11


def table(n=N, **columns):
    index = pd.Index(np.arange(n) * 3, name="train_id")
    columns = columns or {
        "scatter": np.linspace(0, 1, n),
        "rows": np.arange(n),
        "flag": np.arange(n) % 2 == 0,
        "id": pd.array([2**62 + 1, None] * n, dtype="Int64")[:n],
    }
    return pd.DataFrame(columns, index=index)


def hidden(folder):
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("."))


# -- what is written is read back ---------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(0, 40),
    chunk=st.integers(1, 20),
    workers=st.integers(1, 5),
    dtype=st.sampled_from(["float64", "float32", "int64", "uint64", "int8", "bool", "Int64"]),
    data=st.data(),
)
def test_any_table_reads_back_equal(tmp_path_factory, n, chunk, workers, dtype, data):
    if dtype == "Int64":
        values = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1).filter(lambda i: i != -99))
    elif dtype == "bool":
        values = st.booleans()
    elif dtype.startswith("float"):
        values = st.floats(width=32 if dtype == "float32" else 64)
    else:
        info = np.iinfo(dtype)
        values = st.integers(int(info.min), int(info.max))
    column = pd.array(data.draw(st.lists(values, min_size=n, max_size=n)), dtype=dtype)
    ids = data.draw(st.lists(st.integers(0, 2**62), min_size=n, max_size=n, unique=True))
    frame = pd.DataFrame({"a": column}, index=pd.Index(ids, dtype="int64", name="train_id"))
    path = tmp_path_factory.mktemp("t") / "f.zarr"
    agn.write_features(path, frame, chunk=chunk, workers=workers)
    pd.testing.assert_frame_equal(agn.read_features(path), frame)
    sealed = agn.seal_zip(path, path.with_name("f.zarr.zip"))
    pd.testing.assert_frame_equal(agn.read_features(sealed), frame)


@pytest.mark.parametrize("sizes", [[11], [1] * 11, [4, 7], [0, 3, 0, 8], [2, 2, 2, 5]])
def test_parts_of_any_length_make_one_table(tmp_path, sizes):
    frame, at = table(), np.cumsum([0, *sizes])
    parts = (frame.iloc[a:b] for a, b in itertools.pairwise(at))
    agn.write_features(tmp_path / "f.zarr", parts, chunk=3)
    pd.testing.assert_frame_equal(agn.read_features(tmp_path / "f.zarr"), frame)


def test_a_series_becomes_one_column(tmp_path):
    path = agn.write_features(tmp_path / "f.zarr", table()["rows"])
    assert agn.read_features(path).columns.tolist() == ["rows"]


def test_plain_zarr_reads_it_too(tmp_path):
    frame = table()
    path = agn.write_features(tmp_path / "f.zarr", frame, chunk=4, attrs={"synthetic": True})
    root = zarr.open_group(path, mode="r")
    assert root.metadata.zarr_format == 3
    assert root.attrs.asdict() == {"synthetic": True, "columns": ["scatter", "rows", "flag", "id"]}
    assert root["train_id"][:].tolist() == frame.index.tolist()
    assert root["scatter"][:].tolist() == frame["scatter"].tolist()
    assert root["id"][:2].tolist() == [2**62 + 1, -99]
    assert root["id"].attrs["missing_value"] == -99
    assert root["rows"].chunks == (4,)


def test_chunks_of_zeros_are_on_disk_like_all_others(tmp_path):
    path = agn.write_features(tmp_path / "f.zarr", table(zero=np.zeros(N)), chunk=4)
    assert sorted(os.listdir(path / "zero" / "c")) == ["0", "1", "2"]


def test_a_flipped_bit_is_noticed(tmp_path):
    path = agn.write_features(tmp_path / "f.zarr", table())
    chunk = path / "scatter" / "c" / "0"
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(agn.DamagedStoreError, match="scatter/c/0 cannot be decoded"):
        agn.read_features(path)


def test_other_stores_are_refused(tmp_path, small_store):
    with pytest.raises(agn.NotATrainingSetError, match="is not a table of features"):
        agn.read_features(small_store)
    with pytest.raises(agn.StoreNotFoundError, match="There is nothing at"):
        agn.read_features(tmp_path / "none")


# -- workers ------------------------------------------------------------------------------------


def test_workers_write_whole_chunks_in_any_order(tmp_path):
    frame = table()
    with agn.FeatureWriter(tmp_path / "f.zarr", N, frame.dtypes.to_dict(), chunk=4) as writer:
        assert writer.regions == [(0, 4), (4, 8), (8, 11)]
        worker = pickle.loads(pickle.dumps(writer))
        worker.write(8, frame.iloc[8:])
        worker.write(0, frame.iloc[:8])
        worker.write(0, frame.iloc[:8])  # a task that runs twice
        assert not (tmp_path / "f.zarr").exists()
    pd.testing.assert_frame_equal(agn.read_features(tmp_path / "f.zarr"), frame)
    assert hidden(tmp_path) == []


@pytest.mark.parametrize(("start", "stop"), [(1, 4), (0, 3), (4, 9), (8, 10), (-4, 0), (8, 12), (12, 16)])
def test_regions_that_share_a_chunk_are_refused(tmp_path, start, stop):
    frame = table(24)
    with agn.FeatureWriter(tmp_path / "f.zarr", N, frame.dtypes.to_dict(), chunk=4) as writer:
        part = frame.iloc[: stop - start]
        with pytest.raises(agn.UnsafeWriteError, match=rf"Rows {start} to {stop} are not whole chunks of 4"):
            writer.write(start, part)
        writer.write(0, frame.iloc[:N])


def test_a_missing_region_leaves_nothing(tmp_path):
    frame = table()
    writer = agn.FeatureWriter(tmp_path / "f.zarr", N, frame.dtypes.to_dict(), chunk=4)
    writer.write(0, frame.iloc[:4])
    writer.write(8, frame.iloc[8:])
    with pytest.raises(agn.UnsafeWriteError, match="Rows 4 to 8 of 'scatter' were never written"):
        writer.finish()
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_nothing(tmp_path):
    def parts():
        yield table()
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        agn.write_features(tmp_path / "f.zarr", parts(), chunk=2)
    assert list(tmp_path.iterdir()) == []


def test_only_the_owner_finishes_and_once(tmp_path):
    writer = agn.FeatureWriter(tmp_path / "f.zarr", 0, {"a": float})
    with pytest.raises(agn.UnsafeWriteError, match="Only the process that made this writer"):
        pickle.loads(pickle.dumps(writer)).finish()
    assert writer.finish() == tmp_path / "f.zarr"
    with pytest.raises(agn.UnsafeWriteError, match="only once"):
        writer.finish()
    writer.discard()
    assert (tmp_path / "f.zarr").is_dir()


def test_what_a_killed_worker_left_is_not_kept(tmp_path):
    frame = table()
    with agn.FeatureWriter(tmp_path / "f.zarr", N, frame.dtypes.to_dict()) as writer:
        writer.write(0, frame)
        (writer._folder / "rows" / "c" / "0.123.partial").write_bytes(b"half")
    assert [p for p in (tmp_path / "f.zarr").rglob("*.partial")] == []


# -- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "file", "link", "empty"])
def test_what_exists_is_left_alone(tmp_path, kind):
    target = tmp_path / "f.zarr"
    if kind == "folder":
        agn.write_features(target, table())
    elif kind == "empty":
        target.mkdir()
    elif kind == "file":
        target.write_text("mine")
    else:
        target.symlink_to("nowhere")
    before = os.lstat(target)
    for write in (
        lambda: agn.write_features(target, table()),
        lambda: agn.FeatureWriter(target, 3, {"a": float}),
    ):
        with pytest.raises(agn.TargetExistsError, match="There is something at"):
            write()
    assert os.lstat(target) == before
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("path", ["f.zarr.zip", "s3://bucket/f.zarr"])
def test_what_is_no_folder_is_refused_with_the_way_out(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        agn.UnsafeWriteError, match=r"is not a folder.*one index at its end.*seal_zip\(folder, zip\)"
    ):
        agn.write_features(path, table())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ([], agn.InvalidValueError, "no features to write"),
        (
            [table(a=["x"] * N)],
            agn.InvalidValueError,
            r"'a' holds (str|object); only numbers.*drop\(columns='a'\)",
        ),
        ([table(**{"a/b": np.zeros(N)})], agn.InvalidValueError, "'a/b' cannot name a column"),
        ([table(train_id=np.zeros(N))], agn.InvalidValueError, "'train_id' cannot name a column"),
        (
            [table().reset_index(drop=True).set_axis([*"abcdefghijk"])],
            agn.UnsafeWriteError,
            "The index holds",
        ),
        ([table(), table()], agn.UnsafeWriteError, "train_id 0 stands twice"),
        ([table(), table()[["rows"]]], agn.UnsafeWriteError, "are not those of the table"),
        (
            [table(a=np.arange(N)), table(a=np.ones(N))],
            agn.UnsafeWriteError,
            r"'a' is float64 here and int64.*astype",
        ),
        (
            [table(a=pd.array([-99] * N, dtype="Int64"))],
            agn.UnsafeWriteError,
            "holds -99, which means missing",
        ),
    ],
)
def test_doubtful_tables_are_refused(tmp_path, parts, error, message):
    with pytest.raises(error, match=message):
        agn.write_features(tmp_path / "f.zarr", iter(parts), chunk=4)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("n", "chunk"), [(-1, 4), (3, 0)])
def test_impossible_sizes(tmp_path, n, chunk):
    with pytest.raises(agn.InvalidValueError, match="cannot be"):
        agn.FeatureWriter(tmp_path / "f.zarr", n, {"a": float}, chunk)


def test_a_parent_that_is_not_there(tmp_path):
    with pytest.raises(agn.StoreNotFoundError, match="There is no folder"):
        agn.write_features(tmp_path / "no" / "f.zarr", table())


# -- seal_zip -----------------------------------------------------------------------------------


def test_sealing_twice_gives_the_same_bytes(tmp_path):
    path = agn.write_features(tmp_path / "f.zarr", table(), chunk=2)
    one = agn.seal_zip(path, tmp_path / "one.zarr.zip")
    for file in path.rglob("*"):
        os.utime(file, (0, 10**9))
    two = agn.seal_zip(path, tmp_path / "two.zarr.zip")
    assert one.read_bytes() == two.read_bytes()
    with zipfile.ZipFile(one) as z:
        assert {i.compress_type for i in z.infolist()} == {zipfile.ZIP_STORED}
        assert z.namelist() == sorted(z.namelist())
    assert path.is_dir()


@pytest.mark.parametrize("format_", [2, 3])
def test_a_whole_training_set_can_be_sealed(made, tmp_path, format_):
    sealed = agn.seal_zip(made[format_, "folder"], tmp_path / "s.zarr.zip")
    with agn.open_training_set(sealed) as ts, agn.open_training_set(made[format_, "folder"]) as before:
        for i in before.light_curve_ids():
            pd.testing.assert_frame_equal(ts.light_curve(i), before.light_curve(i))


def test_leftovers_of_zarr_are_not_sealed(tmp_path):
    path = agn.write_features(tmp_path / "f.zarr", table())
    (path / "rows" / "c" / "0.1a2b.partial").write_bytes(b"half")
    with zipfile.ZipFile(agn.seal_zip(path, tmp_path / "f.zarr.zip")) as z:
        assert [n for n in z.namelist() if "partial" in n] == []


def test_sealing_refuses(tmp_path):
    path = agn.write_features(tmp_path / "f.zarr", table())
    (tmp_path / "there.zip").write_text("mine")
    with pytest.raises(agn.TargetExistsError, match="There is something at"):
        agn.seal_zip(path, tmp_path / "there.zip")
    assert (tmp_path / "there.zip").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    for source in (tmp_path / "empty", tmp_path / "none", tmp_path / "there.zip"):
        with pytest.raises(agn.NotATrainingSetError, match="is not a folder that holds a Zarr store"):
            agn.seal_zip(source, tmp_path / "new.zip")
    (path / "rows" / "c" / "9").symlink_to("/etc/passwd")
    with pytest.raises(agn.UnsafeWriteError, match="is a link"):
        agn.seal_zip(path, tmp_path / "new.zip")
    assert not (tmp_path / "new.zip").exists()
    assert hidden(tmp_path) == []


def test_a_zip_that_does_not_read_back_never_appears(tmp_path, monkeypatch):
    path = agn.write_features(tmp_path / "f.zarr", table())
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda self: "rows/c/0")
    with pytest.raises(agn.UnsafeWriteError, match="does not read back"):
        agn.seal_zip(path, tmp_path / "f.zarr.zip")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.zarr"]


def test_reading_changes_nothing(tmp_path):
    path = agn.write_features(tmp_path / "f.zarr", table())

    def state():
        return {p: (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else None) for p in path.rglob("*")}

    before = state()
    agn.read_features(path)
    assert state() == before
    assert json.loads((path / "zarr.json").read_text())["node_type"] == "group"
    assert stat.S_ISDIR(pathlib.Path(path).stat().st_mode)
