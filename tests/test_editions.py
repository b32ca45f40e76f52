"""Every published edition opens by looking, with the same calls and the same frames."""

import pickle
import shutil
import warnings

import editions
import numpy as np
import pandas as pd
import pytest

import agn_helpers as agn

CALLS = ["train_id", "epoch", "band", "mjd", "mag", "magerr"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    top = tmp_path_factory.mktemp("editions")
    return {
        "2021": editions.write_2021(top / "2021"),
        "undamaged": editions.write_2021(top / "undamaged", damaged=False),
        "challenge": editions.write_challenge(top / "challenge"),
        "numbers": editions.write_challenge(top / "numbers", as_text=False),
    }


@pytest.fixture(params=["2020", "2021", "challenge", "numbers"])
def each(request, folders, small_store):
    with agn.open_training_set(folders.get(request.param, small_store)) as ts:
        yield ts


@pytest.fixture
def later(folders):
    with agn.open_training_set(folders["2021"]) as ts:
        yield ts


@pytest.fixture
def challenge(folders):
    with agn.open_training_set(folders["challenge"]) as ts:
        yield ts


@pytest.mark.filterwarnings("ignore::agn_helpers.DamagedIdsWarning")
def test_the_same_calls_give_the_same_frames(each):
    catalog = each.catalog()
    assert catalog.index.name == "train_id"
    assert catalog.index.dtype == np.int64
    for name in ("ra_sdss", "dec_sdss", "z", "psfmag_g", "psfmagerr_r", "stdColor[0]", "psFlux[u]"):
        assert catalog[name].dtype == np.float64, name
    pd.testing.assert_frame_equal(each.catalog(["z", "psfmag_g"]), catalog[["z", "psfmag_g"]])
    ids = each.light_curve_ids()
    assert ids.dtype == np.int64
    assert set(ids) < set(catalog.index) or set(ids) == set(catalog.index)
    one = each.light_curve(int(ids[-1]))
    assert one.columns[:6].tolist() == CALLS
    assert one["band"].dtype == pd.CategoricalDtype(list("ugriz"), ordered=True)
    assert one["band"].is_monotonic_increasing
    assert all(part["mjd"].is_monotonic_increasing for _, part in one.groupby("band", observed=True))
    many = each.light_curves(progress=False)
    pd.testing.assert_frame_equal(many[many["train_id"] == ids[-1]].reset_index(drop=True), one)
    assert not many.duplicated(["train_id", "epoch", "band"]).any()
    assert not (many[["mag", "magerr", "mjd"]] == -99).any(axis=None)
    two = [int(ids[-1]), int(ids[0])]
    few = each.light_curves(two, bands=["g"], columns=["mag"], progress=False)
    assert few.columns.tolist() == ["train_id", "epoch", "band", "mag"]
    expected = many[many["train_id"].isin(two) & (many["band"] == "g")]
    assert sorted(few["mag"].dropna()) == sorted(expected["mag"].dropna())
    assert few["train_id"].drop_duplicates().tolist() == [i for i in two if i in set(few["train_id"])]
    assert sum(len(part) for part in each.iter_light_curves(batch=4)) == len(many)
    assert each.raw_light_curve(two[0]).dtype.names
    again = pickle.loads(pickle.dumps(each))
    pd.testing.assert_frame_equal(again.light_curve(two[0]), one)
    again.close()
    assert agn.clip_outliers(many).shape[0] == len(many)
    assert "catalog" in repr(each.tree())
    assert len(each.column_definitions()) >= len(catalog.columns)
    assert len(each.light_curves([], progress=False)) == 0


@pytest.mark.filterwarnings("ignore::agn_helpers.DamagedIdsWarning")
def test_errors_are_the_same(each):
    with pytest.raises(agn.UnknownTrainIdError, match="The nearest are"):
        each.light_curve(2)
    with pytest.raises(agn.UnknownColumnError, match="Did you mean 'psfmag_g'"):
        each.catalog(["psfmag_G"])
    i = int(each.light_curve_ids()[0])
    with pytest.raises(agn.UnknownBandError, match="No band 'y'"):
        each.light_curve(i, bands=["y"])
    with pytest.raises(agn.UnknownColumnError, match="No column 'magg'"):
        each.light_curve(i, columns=["magg"])


@pytest.mark.filterwarnings("ignore::agn_helpers.DamagedIdsWarning")
def test_work_on_many_light_curves_goes_on_in_other_processes(each):
    found = agn.map_light_curves(len, each, workers=2, progress=False)
    many = each.light_curves(progress=False)
    assert found.to_dict() == many.groupby("train_id").size().reindex(found.index, fill_value=0).to_dict()


def test_a_file_of_the_edition_stands_for_its_folder(folders):
    for name in ("AllMasters.parquet", "LCs.zarr.zip"):
        with agn.open_training_set(folders["2021"] / name) as ts:
            assert ts.location == str(folders["2021"])


def test_2021_values_are_those_of_its_files(later, folders):
    table = pd.read_parquet(folders["2021"] / "AllMasters.parquet").set_index("train_id")
    with pytest.warns(agn.DamagedIdsWarning, match="objid, gaia_id of AllMasters"):
        catalog = later.catalog()
    assert catalog["objid"].tolist() == table["sdss_objid"].tolist()
    assert catalog["gaia_id"].dtype == "Int64"
    assert catalog["gaia_id"].isna().tolist() == table["gaia_id"].isna().tolist()
    known = table["gaia_id"].notna().to_numpy()
    assert catalog["gaia_id"][known].tolist() == table["gaia_id"][known].tolist()
    assert catalog["specobjid"].dtype == "Int64"
    assert catalog["specobjid"].dropna().unique().tolist() == [1257728 * 10**12]
    assert catalog["SPIES_ID"].isna().all()
    assert catalog["class"].value_counts().to_dict() == dict.fromkeys(editions.CLASSES, 20)
    assert len(later.light_curve_ids()) == len(catalog) / 2
    assert later.define("psfmag_{band}") == "PSF magnitude"
    i = int(later.light_curve_ids()[3])
    raw, lc = later.raw_light_curve(i), later.light_curve(i, bands=["g"]).sort_values("epoch")
    good = raw["dered_g"] != -99
    assert np.array_equal(lc["dered"], np.where(good, raw["dered_g"], np.nan), equal_nan=True)
    expected = raw["dered_g"][good] + table.loc[i, "extinction_g"]
    assert np.array_equal(lc["mag"][good], expected)


def test_undamaged_identifiers_raise_no_alarm(folders):
    with agn.open_training_set(folders["undamaged"]) as ts, warnings.catch_warnings():
        warnings.simplefilter("error")
        ts.catalog()


def test_large_identifiers_in_floats_become_unsigned(tmp_path):
    folder = editions.write_2021(tmp_path / "big")
    table = pd.read_parquet(folder / "AllMasters.parquet")
    table.loc[0, "specobjid"] = 2.0**63 + 2**20
    table.to_parquet(folder / "AllMasters.parquet")
    with agn.open_training_set(folder) as ts, pytest.warns(agn.DamagedIdsWarning, match="specobjid"):
        ids = ts.catalog(["specobjid"])["specobjid"]
    assert ids.dtype == "UInt64"
    assert ids.loc[0] == 2**63 + 2**20
    assert ids.loc[3] == 1257728 * 10**12


def test_challenge_values_are_those_of_its_files(challenge, folders):
    table = pd.read_parquet(folders["challenge"] / "ObjectTable.parquet")
    catalog = challenge.catalog()
    assert catalog.index.tolist() == table.index.tolist()
    assert catalog["psfmag_y"].tolist() == table["psMag_y"].tolist()
    assert catalog["stdColor[4]"].tolist() == table["stdColor_4"].tolist()
    assert catalog["class"].tolist()[:5] == table["class"].tolist()[:5]
    assert catalog["flags_g"].dropna().unique().tolist() == [9007199422513169]
    forced = pd.read_parquet(folders["challenge"] / "ForcedSourceTable.parquet")
    i = int(challenge.light_curve_ids()[1])
    rows = forced[forced["objectId"] == str(i)].reset_index(drop=True)
    lc = challenge.light_curve(i).sort_values("epoch")
    assert lc["epoch"].tolist() == list(range(len(rows)))
    for ours, theirs in {
        "mjd": "mjd",
        "mag": "psMag",
        "flags": "flags",
        "psDiffFluxErr": "psDiffFluxErr",
    }.items():
        assert lc[ours].tolist() == rows[theirs].tolist()
    assert [list("ugriz").index(b) for b in lc["band"]] == rows["filter"].tolist()
    assert "zenodo" not in challenge.attrs["edition"]


@pytest.mark.parametrize("name", ["2021", "challenge"])
def test_half_an_edition_is_told(folders, tmp_path, name):
    copy = shutil.copytree(folders[name], tmp_path / "copy")
    lost = {"2021": "LCs.zarr.zip", "challenge": "ForcedSourceTable.parquet"}[name]
    (copy / lost).unlink()
    with pytest.raises(agn.NotATrainingSetError, match=f"{lost} is missing"):
        agn.open_training_set(copy)


@pytest.mark.parametrize("name", ["2021", "challenge"])
def test_damage_is_told(folders, tmp_path, name):
    copy = shutil.copytree(folders[name], tmp_path / "copy")
    table = next(copy.glob("*Table.parquet" if name == "challenge" else "All*"))
    whole = table.read_bytes()
    table.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(agn.DamagedStoreError, match="no Parquet table"):
        agn.open_training_set(copy)
    table.write_bytes(whole)
    if name == "2021":
        (copy / "meta.yaml").write_text("a: [")
        with agn.open_training_set(copy) as ts, pytest.raises(agn.DamagedStoreError, match="no definitions"):
            ts.define("z")


def test_ids_that_stand_twice_are_told(folders, tmp_path):
    copy = shutil.copytree(folders["2021"], tmp_path / "copy")
    table = pd.read_parquet(copy / "AllMasters.parquet")
    table.loc[1, "train_id"] = 0
    table.to_parquet(copy / "AllMasters.parquet")
    with agn.open_training_set(copy) as ts, pytest.raises(agn.DamagedStoreError, match="stands there twice"):
        ts.catalog(["z"])
    table.drop(columns="train_id").to_parquet(copy / "AllMasters.parquet", index=False)
    with pytest.raises(agn.NotATrainingSetError, match="no column 'train_id'"):
        agn.open_training_set(copy)


def test_reading_changes_no_file(folders):
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for f in folders.values() for p in f.iterdir()}
    for folder in folders.values():
        with agn.open_training_set(folder) as ts, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ts.catalog()
            ts.light_curves(progress=False)
    assert before == {
        p: (p.stat().st_mtime_ns, p.read_bytes()) for f in folders.values() for p in f.iterdir()
    }
