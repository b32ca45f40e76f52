"""A packed copy answers every call as the original does."""

import json
import pickle
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import stores
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import agn_helpers as agn
from agn_helpers import packed as packed_room
from agn_helpers.errors import TargetExistsError


@pytest.fixture(scope="module", params=["zip", "folder"])
def pair(request, made, tmp_path_factory):
    """An original and its packed copy."""
    top = tmp_path_factory.mktemp("packed")
    return made[2, "zip"], agn.pack_store(made[2, "zip"], top / f"p.zarr{'.zip' * (request.param == 'zip')}")


def test_every_call_has_the_same_answer(pair):
    original, copy = pair
    with agn.open_training_set(original) as a, agn.open_training_set(copy) as b:
        assert a.attrs == b.attrs
        for level in (0, 1, 2):
            assert repr(a.tree(level)) == repr(b.tree(level))
        pd.testing.assert_frame_equal(a.column_definitions(), b.column_definitions())
        assert a.define("psfmag_u") == b.define("psfmag_u")
        pd.testing.assert_frame_equal(a.catalog(), b.catalog())
        pd.testing.assert_frame_equal(a.catalog(["sdssj", "z"]), b.catalog(["sdssj", "z"]))
        np.testing.assert_array_equal(a.light_curve_ids(), b.light_curve_ids())
        for i in stores.IDS:
            one, other = a.raw_light_curve(i), b.raw_light_curve(i)
            assert one.dtype == other.dtype
            assert one.tobytes() == other.tobytes()
            pd.testing.assert_frame_equal(a.light_curve(i, "rg"), b.light_curve(i, "rg"))
        pd.testing.assert_frame_equal(a.light_curves(), b.light_curves())
        for one, other in zip(a.iter_light_curves(batch=2), b.iter_light_curves(batch=2), strict=True):
            pd.testing.assert_frame_equal(one, other)
        pd.testing.assert_frame_equal(a.light_curves([]), b.light_curves([]))
        assert repr(b) == f"<TrainingSet {copy.name!r}: Zarr format 3, read-only>"


def test_every_error_is_the_same(pair):
    original, copy = pair
    calls = [
        lambda ts: ts.raw_light_curve(5),
        lambda ts: ts.raw_light_curve("66"),
        lambda ts: ts.light_curves([0, 5]),
        lambda ts: ts.light_curves([0.5]),
        lambda ts: ts.light_curves([0], bands=["x"]),
        lambda ts: ts.light_curves([0], columns=["psfmag"]),
        lambda ts: ts.catalog(["psfmag"]),
        lambda ts: ts.define("psfmag"),
    ]
    with agn.open_training_set(original) as a, agn.open_training_set(copy) as b:
        for call in calls:
            messages = []
            for ts in (a, b):
                with pytest.raises(agn.TrainingSetError, match=r"\w") as e:
                    call(ts)
                messages.append((type(e.value), str(e.value).replace(ts.location, "")))
            assert messages[0] == messages[1]


def test_whole_numbers_of_other_kinds_are_ids(pair):
    with agn.open_training_set(pair[1]) as ts:
        expected = ts.light_curves([66, 3])
        for ids in ([66.0, 3.0], np.array([66, 3], "u8"), pd.Series([66, 3]), (i for i in (66, 3))):
            pd.testing.assert_frame_equal(ts.light_curves(ids), expected)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    chunk=st.integers(7, 200),
    portion=st.integers(1, 300),
    cached=st.integers(0, 3),
    ids=st.lists(st.sampled_from(stores.IDS), min_size=1, max_size=9),
)
def test_where_chunks_and_portions_end_does_not_show(
    made, tmp_path, monkeypatch, chunk, portion, cached, ids
):
    for name, value in (("CHUNK", chunk), ("PORTION", portion), ("CACHED", cached)):
        monkeypatch.setattr(packed_room, name, value)
    (tmp_path / "p.zarr.zip").unlink(missing_ok=True)
    copy = agn.pack_store(made[2, "zip"], tmp_path / "p.zarr.zip")
    with agn.open_training_set(made[2, "zip"]) as a, agn.open_training_set(copy) as b:
        pd.testing.assert_frame_equal(a.light_curves(), b.light_curves())
        pd.testing.assert_frame_equal(a.light_curves(ids), b.light_curves(ids))
        pd.testing.assert_frame_equal(a.catalog(), b.catalog())
        assert all((a.raw_light_curve(i) == b.raw_light_curve(i)).all() for i in ids)


def test_plain_zarr_reads_the_columns(pair):
    original, copy = pair
    with agn.open_training_set(original) as a, agn.open_training_set(copy) as b:
        table = np.concatenate([a.raw_light_curve(i) for i in a.light_curve_ids()])
        group = b.root["sdss_lc"]
        for name in table.dtype.names:
            np.testing.assert_array_equal(group["columns"][name][:], table[name])
        assert group["offset"][:].tolist() == [0, 60, 129, 129, 130, 132, 157]
        catalog = a.root["catalog"][:]
        for name in catalog.dtype.names:
            np.testing.assert_array_equal(b.root["catalog"][name][:], catalog[name])


def test_only_what_is_asked_for_is_read(pair, monkeypatch):
    names = []
    with agn.open_training_set(pair[1]) as ts:
        read = ts._arrays.members.read
        monkeypatch.setattr(ts._arrays.members, "read", lambda n, limit: names.append(n) or read(n, limit))
        ts.light_curves(bands=["g"], columns=["mag"])
        assert {n.split("/")[2] for n in names} == {"mjd_g", "psfmag_g"}
        names.clear()
        ts.catalog(["z"])
        assert {n for n in names if "/c/" in n} == {"catalog/train_id/c/0", "catalog/z/c/0"}


def test_the_same_bytes_each_time_and_nothing_left(made, tmp_path):
    one, two = (agn.pack_store(made[v, "zip"], tmp_path / f"{v}.zarr.zip") for v in (2, 3))
    assert one.read_bytes() == two.read_bytes()
    again = agn.pack_store(one, tmp_path / "again.zarr.zip")
    assert again.read_bytes() == one.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2.zarr.zip", "3.zarr.zip", "again.zarr.zip"]
    with zipfile.ZipFile(one) as z:
        assert {i.date_time for i in z.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_it_travels_and_is_shared_by_threads(pair):
    with agn.open_training_set(pair[1]) as ts, agn.open_training_set(pair[0]) as original:
        again = pickle.loads(pickle.dumps(ts))
        with ThreadPoolExecutor(4) as pool:
            many = list(pool.map(again.raw_light_curve, stores.IDS * 20))
        again.close()
        for i, record in zip(stores.IDS * 20, many, strict=True):
            assert record.tobytes() == original.raw_light_curve(i).tobytes()


def test_an_interrupted_copy_is_absent(small_store, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packed_room, "_chunks", fail)
    for name in ("p.zarr", "p.zarr.zip"):
        with pytest.raises(OSError, match="No space left"):
            agn.pack_store(small_store, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["p.zarr", "p.zarr.zip"])
def test_what_is_there_is_not_overwritten(small_store, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(TargetExistsError, match=name):
        agn.pack_store(small_store, tmp_path / name)
    assert (tmp_path / name).read_text() == "mine"


def test_a_store_without_light_curves(tmp_path):
    source = stores.write_store(tmp_path / "s.zarr", ids=())
    with agn.open_training_set(agn.pack_store(source, tmp_path / "p.zarr.zip")) as ts:
        assert len(ts.light_curve_ids()) == len(ts.light_curves()) == len(ts.catalog()) == 0


def with_light_curve(folder, record):
    source = stores.write_store(folder / "s.zarr")
    zarr.open_group(source, mode="a")["sdss_lc"].create_array("70", data=record)
    return source


def test_light_curves_of_different_columns_are_refused(tmp_path):
    source = with_light_curve(tmp_path, np.zeros(3, [("mjd_g", "f8")]))
    with pytest.raises(agn.InvalidValueError, match=r"sdss_lc/70 has other columns than sdss_lc/0"):
        agn.pack_store(source, tmp_path / "p.zarr")
    assert [p.name for p in tmp_path.iterdir()] == ["s.zarr"]


@pytest.mark.parametrize(
    ("field", "match"),
    [
        (("a/b", "f8"), "'a/b' cannot be the name of an array"),
        (("__a", "f8"), "'__a' cannot be the name of an array"),
        (("when", "M8[s]"), r"'when' holds datetime64\[s\], which cannot be packed"),
    ],
)
def test_columns_that_cannot_be_packed_are_refused(tmp_path, field, match):
    source = stores.write_store(tmp_path / "s.zarr", ids=())
    record = np.zeros(3, [("mjd_g", "f8"), field])
    zarr.open_group(source, mode="a")["sdss_lc"].create_array("70", data=record)
    with pytest.raises(agn.InvalidValueError, match=match):
        agn.pack_store(source, tmp_path / "p.zarr")


def test_texts_and_other_byte_orders_survive(tmp_path):
    dtype = [
        ("mjd_g", ">f8"),
        ("psfmag_g", ">f4"),
        ("run", ">i2"),
        ("name", "S3"),
        ("note", "<U2"),
        ("ok", "?"),
    ]
    record = np.array([(51000, 19.5, -99, b"ab", "q", True), (50999, 19, 7, b"", "qs", False)], dtype)
    source = stores.write_store(tmp_path / "s.zarr", ids=())
    zarr.open_group(source, mode="a")["sdss_lc"].create_array("70", data=record)
    with agn.open_training_set(agn.pack_store(source, tmp_path / "p.zarr")) as ts:
        again = ts.raw_light_curve(70)
        assert ts.root["sdss_lc/columns/psfmag_g"][:].tolist() == [19.5, 19]
    assert again.dtype == record.dtype
    assert again.tobytes() == record.tobytes()


def edit(path, **changes):
    document = json.loads(path.read_text())
    document.update(changes)
    path.write_text(json.dumps(document))


def mark(**changes):
    def change(copy):
        path = copy / "sdss_lc" / "zarr.json"
        attributes = json.loads(path.read_text())["attributes"]
        attributes["packed"] = attributes["packed"] | changes
        edit(path, attributes=attributes)

    return change


def remove(*names):
    return lambda copy: [shutil.rmtree(copy / n) for n in names]


def replace(name, values):
    def change(copy):
        shutil.rmtree(copy / name)
        zarr.open_group(copy, mode="a").create_array(name, data=np.array(values))

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (mark(version=2), "it has version 2, this module reads version 1; update it"),
        (mark(catalog="|O"), "packed layout cannot be read|data type"),
        (mark(light_curves=7), "data type 7"),
        (remove("sdss_lc/offset"), "packed layout cannot be read: .*offset"),
        (replace("sdss_lc/offset", [0, 5]), "train_id and offset do not fit each other"),
        (replace("sdss_lc/offset", [0, 60, 59, 129, 130, 132, 157]), "do not fit each other"),
        (replace("sdss_lc/offset", [1, 60, 129, 129, 130, 132, 157]), "do not fit each other"),
        (replace("sdss_lc/offset", [0.0, 60, 129, 129, 130, 132, 157]), "do not fit each other"),
        (replace("sdss_lc/train_id", [3, 0, 4, 10, 66, 100]), "train_id is not in order"),
        (remove("sdss_lc/columns/mjd_g"), "column sdss_lc/columns/mjd_g is not in the store"),
        (remove("sdss_lc/columns/mjd_g/c"), "chunk sdss_lc/columns/mjd_g/c/0 is not in the store"),
        (replace("sdss_lc/columns/mjd_g", [1.0]), "sdss_lc/columns/mjd_g has not as many rows as it should"),
        (replace("sdss_lc/columns/mjd_g", [[1.0]]), "sdss_lc/columns/mjd_g"),
        (replace("catalog/z", [1.0]), "catalog/z has not as many rows"),
        (remove("catalog/z"), "column catalog/z is not in the store"),
    ],
)
def test_damage_is_told(small_store, tmp_path, change, match):
    copy = agn.pack_store(small_store, tmp_path / "p.zarr")
    change(copy)

    def read_all():
        with agn.open_training_set(copy) as ts:
            ts.catalog()
            ts.light_curves()

    with pytest.raises(agn.DamagedStoreError, match=match):
        read_all()


def test_every_flipped_byte_of_a_chunk_is_found_in_a_folder(small_store, tmp_path):
    """Zstandard's own checksum does it: a folder has none."""
    copy = agn.pack_store(small_store, tmp_path / "p.zarr")
    chunk = copy / "sdss_lc" / "columns" / "psfmag_g" / "c" / "0"
    good = chunk.read_bytes()
    for at in range(0, len(good), 7):
        chunk.write_bytes(good[:at] + bytes([good[at] ^ 16]) + good[at + 1 :])
        with (
            pytest.raises(agn.DamagedStoreError, match="psfmag_g/c/0 cannot be decoded"),
            agn.open_training_set(copy) as ts,
        ):
            ts.light_curves(columns=["mag"])


def test_shared_stores_packed(shared_store, tmp_path):
    copy = agn.pack_store(shared_store, tmp_path / "p.zarr.zip")
    with agn.open_training_set(shared_store) as a, agn.open_training_set(copy) as b:
        pd.testing.assert_frame_equal(a.light_curves(), b.light_curves())
        pd.testing.assert_frame_equal(a.catalog(), b.catalog())
        for i in a.light_curve_ids()[::10]:
            assert a.raw_light_curve(i).tobytes() == b.raw_light_curve(i).tobytes()
    assert copy.stat().st_size < shared_store.stat().st_size


def test_a_limit_that_is_in_the_way_can_be_raised(made, tmp_path):
    with pytest.raises(agn.LimitError, match="more than max_bytes=1000"):
        agn.pack_store(made[2, "zip"], tmp_path / "p.zarr.zip", max_bytes=1000)
    assert list(tmp_path.iterdir()) == []
    assert agn.pack_store(made[2, "zip"], tmp_path / "p.zarr.zip", max_bytes=10**6).exists()
