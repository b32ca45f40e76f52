"""Opening, looking, reading, closing; and nothing that it does may change a byte."""

import hashlib
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pandas as pd
import pytest
import stores
import zarr

import agn_helpers as agn
from agn_helpers.store import SCISERVER


def digest(path):
    """Every file below `path` with its bytes and times."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {str(p): (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns) for p in files}


def zarr_group(path):
    store = zarr.storage.ZipStore(path, mode="r") if path.is_file() else zarr.storage.LocalStore(path)
    return zarr.open_group(store, mode="r", use_consolidated=False)


# -- reading gives what Zarr gives -----------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
def test_raw_light_curves_are_bytes_as_stored(any_store):
    plain = zarr_group(any_store)
    with agn.open_training_set(any_store) as ts:
        assert ts.light_curve_ids().tolist() == sorted(stores.IDS)
        assert ts.light_curve_ids().dtype == np.int64
        for i in ts.light_curve_ids():
            mine, theirs = ts.raw_light_curve(i), plain[f"sdss_lc/{i}"][:]
            assert mine.dtype == theirs.dtype
            assert mine.tobytes() == theirs.tobytes()
            assert len(mine) == stores.LENGTHS[i]


def test_catalog_has_honest_types(any_store):
    with agn.open_training_set(any_store) as ts:
        frame = ts.catalog()
    record = stores.catalog_record()
    assert frame.index.name == "train_id"
    assert frame.index.tolist() == list(stores.IDS)
    assert list(frame) == [n for n in record.dtype.names if n != "train_id"]
    assert frame["objid"].dtype == "Int64"
    assert frame["objid"].tolist() == record["objid"].tolist()  # to the last digit
    assert frame["thing_id"].isna().all()
    assert frame["ra_sp"].dtype == np.float64
    assert frame["ra_sp"].isna().all()
    assert frame["sdssj"].iloc[0] == "204009.04-010020.1"
    assert frame["sdssj"].dtype == pd.Series(["text"]).dtype  # what this pandas uses for texts
    assert not (frame.select_dtypes("number") == -99).any().any()


def test_catalog_columns(any_store):
    with agn.open_training_set(any_store) as ts:
        assert list(ts.catalog(["z", "objid"])) == ["z", "objid"]
        assert list(ts.catalog("z")) == ["z"]
        assert list(ts.catalog(["train_id", "z"])) == ["z"]
        pd.testing.assert_frame_equal(ts.catalog(["z", "sdssj"]), ts.catalog()[["z", "sdssj"]])


def test_catalog_keeps_nothing_else_in_memory(tmp_path):
    import tracemalloc

    ids = range(2000)
    folder = stores.write_store(tmp_path / "s", ids=[0])
    record = stores.catalog_record(list(ids))
    root = zarr.open_group(folder, mode="a", use_consolidated=False)
    root.create_array("catalog", data=record, chunks=(100,), overwrite=True)
    with agn.open_training_set(folder) as ts:
        ts.catalog(["z"])
        tracemalloc.start()
        frame = ts.catalog(["z"])
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert len(frame) == 2000
    assert peak < record.nbytes / 3


def test_light_curve_is_one_row_per_measurement(any_store):
    with agn.open_training_set(any_store) as ts:
        frame = ts.light_curve(100)
        raw = ts.raw_light_curve(100)
        few = ts.light_curve(100, bands=["r", "g"])
        empty, one = ts.light_curve(4), ts.light_curve(10)
    assert len(frame) == 5 * len(raw)
    assert list(frame)[:6] == ["train_id", "epoch", "band", "mjd", "mag", "magerr"]
    assert (frame["train_id"] == 100).all()
    for band, rows in frame.groupby("band", observed=False):
        assert rows["mjd"].is_monotonic_increasing
        stored = raw[f"psfmag_{band}"][rows["epoch"]]
        np.testing.assert_array_equal(rows["mag"], np.where(stored == -99, np.nan, stored))
    assert frame["mag"].isna().any()
    assert frame["offsetRa"][frame["band"] == "r"].isna().all()  # r is the reference of the offsets
    assert few["band"].cat.categories.tolist() == list("ugriz")
    assert few["band"].unique().tolist() == ["g", "r"]
    assert len(empty) == 0
    assert empty.dtypes.astype(str).to_dict() == frame.dtypes.astype(str).to_dict()
    assert len(one) == 5


def test_definitions(any_store):
    with agn.open_training_set(any_store) as ts:
        table = ts.column_definitions()
        assert ts.define("psfmag_u") == "PSF magnitude in u,g,r,i,z"
        assert ts.define("psFlux[g]").startswith("LSST nomenclature")
        assert ts.define("stdColor[3]").startswith("LSST nomenclature: SDSS color")
    assert table["status"].value_counts().to_dict() == {"defined": 62, "no column": 1}
    assert table.loc["thing_id", ["missing_value", "n_missing"]].tolist() == ["-99", 6]
    assert table.loc["pmra", "unit"] == "mas / yr"
    assert table["definition"].notna().all()


def test_define_says_when_the_store_does_not(tmp_path):
    folder = stores.write_store(tmp_path / "s", ids=[0])
    attrs = zarr.open_group(folder, mode="a", use_consolidated=False)["catalog"].attrs
    del attrs["spec"]
    with agn.open_training_set(folder) as ts:
        with pytest.raises(agn.UnknownColumnError, match="does not say what it means"):
            ts.define("spec")
        assert ts.column_definitions().loc["spec", "status"] == "no definition"


# -- looking -----------------------------------------------------------------------------------------


def test_tree_is_text_and_html(any_store):
    with agn.open_training_set(any_store) as ts:
        assert repr(ts.tree(0)) == "/"
        assert repr(ts.tree()).splitlines() == [
            "/",
            " ├── catalog (6,) 62 fields: train_id <i8, ra_sdss <f8, dec_sdss <f8, ...",
            " └── sdss_lc (6 arrays) keys '0', '10', '100', ...",
        ]
        deep = repr(ts.tree(level=2)).splitlines()
        html = ts.tree(2)._repr_html_()
    assert deep[3] == "     ├── 0 (60,) 34 fields: run <i8, psfmag_u <f8, psfmag_g <f8, ..."
    assert deep[-1] == "     └── ... and 1 more"
    assert html.count("<ul>") == html.count("</ul>") == 3
    assert html.count("<li>") == html.count("</li>") == 9
    assert "&lt;i8" in html


def test_tree_and_ids_open_no_light_curve(any_store, monkeypatch):
    with agn.open_training_set(any_store) as ts:
        opened = []
        read = ts._arrays.members.read
        monkeypatch.setattr(ts._arrays.members, "read", lambda n, limit: opened.append(n) or read(n, limit))
        ts.tree()
        ts.light_curve_ids()
    assert opened
    assert not [n for n in opened if n.startswith("sdss_lc/")]


def test_attrs_and_root(any_store):
    with agn.open_training_set(any_store) as ts:
        assert ts.attrs["catalog"] == "Master catalog dataset, one source per row"
        assert isinstance(ts.root, zarr.Group)
        assert ts.root is ts.root
        assert ts.root.attrs.asdict() == ts.attrs
        with pytest.raises(ValueError, match=r"read.only"):
            ts.root.create_group("mine")


def test_repr_names_store_and_state(small_store):
    ts = agn.open_training_set(small_store)
    assert repr(ts) == "<TrainingSet 'v2.zarr.zip': Zarr format 2, read-only>"
    ts.close()
    assert repr(ts) == "<TrainingSet 'v2.zarr.zip': closed>"


# -- where it opens ------------------------------------------------------------------------------------


def test_location_argument_before_environment_before_sample(small_store, made, monkeypatch):
    monkeypatch.setenv("AGN_STORE", str(made[3, "folder"]))
    with agn.open_training_set() as ts:
        assert ts.location == str(made[3, "folder"])
    with agn.open_training_set(small_store) as ts:
        assert ts.location == str(small_store)
    monkeypatch.setenv("AGN_STORE", "")
    with agn.open_training_set() as ts:
        assert "synthetic" in " ".join(ts.attrs)


def test_sciserver_is_the_originals_path():
    with pytest.raises(agn.StoreNotFoundError, match=r"qso.zarr.zip") as e:
        agn.open_training_set("sciserver")
    assert SCISERVER in str(e.value)


def test_home_is_expanded(small_store, monkeypatch):
    monkeypatch.setenv("HOME", str(small_store.parent))
    with agn.open_training_set("~/v2.zarr.zip") as ts:
        assert ts.location == str(small_store)


# -- nothing changes -------------------------------------------------------------------------------------


def test_reading_changes_no_byte_and_creates_no_file(any_store):
    before = digest(any_store), sorted(os.listdir(any_store.parent))
    with agn.open_training_set(any_store) as ts:
        ts.catalog()
        ts.tree(2)
        ts.column_definitions()
        for i in ts.light_curve_ids():
            ts.light_curve(i)
        ts.root["catalog"][:]
        pickle.loads(pickle.dumps(ts)).close()
    assert (digest(any_store), sorted(os.listdir(any_store.parent))) == before


@pytest.mark.parametrize("name", ["missing.zarr.zip", "missing", "no/such/folder/x.zarr.zip"])
def test_wrong_path_creates_nothing(tmp_path, name):
    with pytest.raises(agn.StoreNotFoundError, match="There is nothing at") as e:
        agn.open_training_set(tmp_path / name)
    assert isinstance(e.value, FileNotFoundError)
    assert name in str(e.value)
    assert not list(tmp_path.iterdir())


# -- bad input ---------------------------------------------------------------------------------------------


def test_not_a_store(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(agn.NotATrainingSetError, match="is not a Zarr group"):
        agn.open_training_set(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a zip at all", None])
def test_empty_or_truncated_zip(tmp_path, small_store, content):
    path = tmp_path / "bad.zarr.zip"
    path.write_bytes(small_store.read_bytes()[:-200] if content is None else content)
    with pytest.raises(agn.DamagedStoreError, match=r"bad\.zarr\.zip cannot be read as a zip"):
        agn.open_training_set(path)


def test_zipped_folder_instead_of_contents(tmp_path, made):
    path = tmp_path / "outer.zarr.zip"
    with zipfile.ZipFile(path, "w") as z:
        for p in made[2, "folder"].rglob("*"):
            if p.is_file():
                z.write(p, "qso.zarr/" + p.relative_to(made[2, "folder"]).as_posix())
    with pytest.raises(agn.NotATrainingSetError, match=r"cd qso\.zarr && zip"):
        agn.open_training_set(path)


@pytest.mark.parametrize("part", ["catalog", "sdss_lc"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_store_without_a_part(tmp_path, part, zarr_format):
    folder = stores.write_store(tmp_path / "s", zarr_format, ids=[0])
    del zarr.open_group(folder, mode="a", use_consolidated=False)[part]
    with pytest.raises(agn.NotATrainingSetError, match=rf"no (array|group) '{part}'"):
        agn.open_training_set(folder)


def test_unknown_id_names_the_nearest(any_store):
    with agn.open_training_set(any_store) as ts:
        with pytest.raises(agn.UnknownTrainIdError, match=r"train_id 5 .* nearest are 3, 4, 10, 66") as e:
            ts.light_curve(5)
        with pytest.raises(KeyError, match="nearest are 66, 100"):
            ts.raw_light_curve(10**9)
        with pytest.raises(KeyError, match="nearest are 0, 3"):
            ts.raw_light_curve(-1)
    assert not str(e.value).startswith(("'", '"'))


@pytest.mark.parametrize("bad", ["66", 6.5, None, "../catalog", True])
def test_id_of_another_kind(small_store, bad):
    with (
        agn.open_training_set(small_store) as ts,
        pytest.raises(agn.UnknownTrainIdError, match="whole number"),
    ):
        ts.raw_light_curve(bad)


def test_numpy_and_whole_float_ids_are_welcome(small_store):
    with agn.open_training_set(small_store) as ts:
        for i in (np.int64(66), np.uint8(66), np.float64(66.0), 66.0):
            assert len(ts.raw_light_curve(i)) == 2


def test_unknown_column_names_the_nearest(small_store):
    with agn.open_training_set(small_store) as ts:
        with pytest.raises(agn.UnknownColumnError, match="Did you mean 'psfmag_g'"):
            ts.catalog(["z", "PSFMAG_G"])
        with pytest.raises(KeyError, match="No column 'nonsense'"):
            ts.define("nonsense")


def test_unknown_band(small_store):
    with agn.open_training_set(small_store) as ts:
        with pytest.raises(agn.UnknownBandError, match=r"No band 'y'; this light curve has u, g, r, i, z"):
            ts.light_curve(66, bands=["g", "y"])
        with pytest.raises(ValueError, match="No band"):
            ts.light_curve(66, bands=["green"])


def test_catalogue_of_another_kind(tmp_path):
    folder = stores.write_store(tmp_path / "s", ids=[0])
    root = zarr.open_group(folder, mode="a", use_consolidated=False)
    root.create_array("catalog", data=np.arange(1.0, 6.0), overwrite=True)
    with agn.open_training_set(folder) as ts:
        for call in (ts.catalog, ts.column_definitions, lambda: ts.catalog(["z"])):
            with pytest.raises(agn.NotATrainingSetError, match="no column 'train_id'"):
                call()


def test_light_curve_of_another_kind(tmp_path):
    folder = stores.write_store(tmp_path / "s", ids=[0, 3])
    group = zarr.open_group(folder, mode="a", use_consolidated=False)["sdss_lc"]
    group.create_array("3", data=np.ones((2, 2)), overwrite=True)
    with (
        agn.open_training_set(folder) as ts,
        pytest.raises(agn.DamagedStoreError, match="not a table of records"),
    ):
        ts.light_curve(3)


# -- closing, threads, processes ----------------------------------------------------------------------------


def test_closed_says_so_and_how_to_go_on(any_store):
    with agn.open_training_set(any_store) as ts:
        pass
    ts.close()
    calls = {
        "attrs": lambda: ts.attrs,
        "root": lambda: ts.root,
        "tree": ts.tree,
        "catalog": ts.catalog,
        "ids": ts.light_curve_ids,
        "light_curve": lambda: ts.light_curve(0),
        "define": lambda: ts.define("z"),
        "column_definitions": ts.column_definitions,
    }
    for call in calls.values():
        with pytest.raises(agn.ClosedError, match=r"is closed\. Open it again: open_training_set\("):
            call()


def test_pickle_is_location_and_options_only(any_store):
    with agn.open_training_set(any_store, missing_chunks="fill", max_bytes=10**6) as ts:
        ts.root  # noqa: B018  # an opened Zarr store must not travel either
        packed = pickle.dumps(ts)
        with pickle.loads(packed) as again:
            assert again.location == ts.location
            assert again._options == {"missing_chunks": "fill", "max_bytes": 10**6}
            assert again.raw_light_curve(66).tobytes() == ts.raw_light_curve(66).tobytes()
    assert len(packed) < 400


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_travels_to_processes(small_store, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    code = f"""
import multiprocessing as mp
import agn_helpers as agn
def n(ts):
    with ts:
        return len(ts.raw_light_curve(0))
if __name__ == "__main__":
    with agn.open_training_set({str(small_store)!r}) as ts, mp.get_context({method!r}).Pool(2) as pool:
        print(pool.map(n, [ts, ts]))
"""
    script = small_store.parent / f"travel_{method}.py"
    script.write_text(code)
    run = subprocess.run([sys.executable, "-W", "error", script], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[60, 60]"


def test_threads_read_the_same(any_store):
    with agn.open_training_set(any_store) as ts:
        ids = ts.light_curve_ids()
        want = {i: ts.raw_light_curve(i).tobytes() for i in ids}
        wrong = []

        def work(seed):
            for i in np.random.default_rng(seed).choice(ids, 200):
                if ts.raw_light_curve(i).tobytes() != want[i]:
                    wrong.append(i)

        threads = [threading.Thread(target=work, args=(s,)) for s in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert not wrong


def test_import_has_no_side_effect(tmp_path):
    code = (
        "import os, sys, pathlib; before = sorted(os.listdir('.')); import agn_helpers; "
        "assert 'matplotlib.pyplot' not in sys.modules, 'pyplot'; "
        "assert 'dask' not in sys.modules, 'dask'; "
        "assert sorted(os.listdir('.')) == before; assert not os.listdir(os.environ['XDG_CACHE_HOME'])"
    )
    cache = tmp_path / "cache"
    cache.mkdir()
    env = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_shared_stores_read_whole(shared_store):
    before = digest(shared_store)
    plain = zarr_group(shared_store)
    with agn.open_training_set(shared_store) as ts:
        catalog = ts.catalog()
        assert len(catalog) == plain["catalog"].shape[0]
        ids = ts.light_curve_ids()
        assert set(ids) <= set(catalog.index)
        for i in ids[::40]:
            assert ts.raw_light_curve(i).tobytes() == plain[f"sdss_lc/{i}"][:].tobytes()
    assert digest(shared_store) == before
