"""The sample store: layout, bytes, physics, and that a file is complete or absent."""

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import zarr
from astropy.cosmology import FlatLambdaCDM
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import ZipStore

from agn_helpers import sample
from agn_helpers.catalog import catalog_frame, check_catalog
from agn_helpers.columns import BANDS, edition_2020
from agn_helpers.errors import LimitError, StoreNotFoundError, TargetExistsError, UnknownTrainIdError
from agn_helpers.sample import build_sample_store, damped_random_walk, sample_store, sample_truth
from agn_helpers.validate import write_manifest

N = 300


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return build_sample_store(tmp_path_factory.mktemp("sample") / "sample.zarr.zip", n=N)


@pytest.fixture(scope="module")
def root(path):
    with ZipStore(path, mode="r") as store:
        yield zarr.open_group(store, mode="r")


@pytest.fixture(scope="module")
def catalog(root):
    return root["catalog"][:]


@pytest.fixture(scope="module")
def curves(root, catalog):
    return {int(i): root[f"sdss_lc/{i}"][:] for i in catalog["train_id"]}


@pytest.fixture(scope="module")
def epochs(catalog, curves):
    """All light curves as one record array, and the catalogue row of each epoch."""
    return np.concatenate(list(curves.values())), np.repeat(catalog, catalog["lcN"])


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- layout --------------------------------------------------------------------------------------


def test_layout_is_the_edition(root, catalog, curves):
    edition = edition_2020()
    assert catalog.dtype == np.dtype([(n, t) for n, t in edition["catalog_fields"]])
    assert dict(root["catalog"].attrs) == edition["catalog_definitions"]
    attrs = dict(root.attrs)
    note = attrs.pop("synthetic")
    assert attrs == edition["root_attrs"]
    assert "synthetic" in note
    assert f"seed={sample.SAMPLE_SEED} and n={N}" in note
    fields = np.dtype([(n, t) for n, t in edition["light_curve_fields"]])
    assert {c.dtype for c in curves.values()} == {fields}
    assert root["sdss_lc/0"].metadata.zarr_format == 2
    assert dict(root["sdss_lc/0"].attrs) == {}


def test_members_stand_in_order_stored_and_undated(path, catalog):
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        array = json.loads(archive.read("catalog/.zarray"))
    chunks = [f"catalog/{k}" for k in range(math.ceil(N / array["chunks"][0]))]
    expected = [".zgroup", ".zattrs", "catalog/.zarray", "catalog/.zattrs", *chunks, "sdss_lc/.zgroup"]
    for train_id in sorted(catalog["train_id"].tolist(), key=str):
        expected += [f"sdss_lc/{train_id}/.zarray", f"sdss_lc/{train_id}/0"]
    assert [i.filename for i in infos] == expected
    assert {(i.compress_type, i.date_time, i.create_system) for i in infos} == {
        (zipfile.ZIP_STORED, (1980, 1, 1, 0, 0, 0), 3)
    }
    assert array["compressor"] == {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}
    assert [array[k] for k in ("order", "filters", "shape", "zarr_format")] == ["C", None, [N], 2]


def test_ids_have_gaps_and_text_order_begins_with_0_and_10(catalog):
    ids = catalog["train_id"].tolist()
    assert ids[:3] == [0, 3, 4]
    assert ids == sorted(set(ids))
    assert 1.05 * N < ids[-1] < 1.2 * N
    assert sorted(map(str, ids))[:2] == ["0", "10"]


def test_published_rows_digit_for_digit(catalog, curves):
    for row, published in zip(catalog[:2], edition_2020()["published_rows"], strict=True):
        for name, text in published.items():
            if text is None:
                assert np.isnan(row[name])
            else:
                assert str(row[name]) == text
    assert [len(curves[0]), len(curves[3])] == [60, 69]


def test_every_source_has_as_many_rows_as_its_lcn(catalog, curves):
    assert [len(c) for c in curves.values()] == catalog["lcN"].tolist()


def test_derived_columns_follow_their_definitions_but_for_the_published_psflux(catalog):
    report = check_catalog(catalog_frame(catalog))
    missed = (report["rows"] - report["agree"]).to_dict()
    wrong = {"psFlux[u]": 2, "psFlux[g]": 2, "psFlux[z]": 2}
    assert {name: n for name, n in missed.items() if n} == wrong


# --- bytes ---------------------------------------------------------------------------------------


def test_built_twice_the_bytes_are_equal(path, tmp_path):
    assert digest(build_sample_store(tmp_path / "again.zarr.zip", n=N)) == digest(path)
    other = build_sample_store(tmp_path / "other.zarr.zip", n=3, seed=1)
    assert digest(other) != digest(build_sample_store(tmp_path / "three.zarr.zip", n=3))


def test_the_bytes_do_not_depend_on_the_processor(path, tmp_path):
    """Vector units round differently in the last bit; the stored digits must hide that."""
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    units = [u for u in __cpu_dispatch__ if __cpu_features__[u]]
    plain = tmp_path / "plain.zarr.zip"
    code = f"import sys; from agn_helpers.sample import build_sample_store as b; b(sys.argv[1], n={N})"
    env = os.environ | {"NPY_DISABLE_CPU_FEATURES": " ".join(units)}
    subprocess.run([sys.executable, "-c", code, str(plain)], env=env, check=True)
    assert digest(plain) == digest(path)


@settings(max_examples=8, deadline=None)
@given(n=st.integers(1, 40))
def test_a_quasar_does_not_depend_on_how_many_there_are(tmp_path_factory, path, n):
    small = build_sample_store(tmp_path_factory.mktemp("few") / "s.zarr.zip", n=n)
    with zipfile.ZipFile(small) as few, zipfile.ZipFile(path) as many:
        names = [i for i in few.namelist() if i.startswith("sdss_lc")]
        assert len(names) == 2 * n + 1
        assert all(few.read(i) == many.read(i) for i in names)


def test_plain_zarr_lists_the_keys_of_the_original(tmp_path):
    """What the walkthrough of 2020 printed; Zarr 3 lists a zip in the order in which it was written."""
    small = build_sample_store(tmp_path / "s.zarr.zip", n=20)
    with ZipStore(small, mode="r") as store:
        assert list(zarr.open_group(store, mode="r")["sdss_lc"].array_keys())[:2] == ["0", "10"]


def test_values_have_catalogue_precision(catalog, epochs):
    """More digits would carry the last bit of this processor's arithmetic into the file."""
    for table in (catalog, epochs[0]):
        for name in table.dtype.names:
            values = table[name][np.isfinite(table[name])] if table[name].dtype.kind == "f" else None
            if values is not None:
                assert np.array_equal(values, np.round(values, 6)), name
    mjd = epochs[0]["mjd_r"]
    assert np.array_equal(mjd, np.round(mjd, 2))


def test_the_sample_has_not_changed_unnoticed(tmp_path):
    """A change of any byte must raise ``_VERSION``, or caches keep the old file under the new name."""
    known = {3: "78c32279e9f1c02a"}
    first = build_sample_store(tmp_path / "s.zarr.zip", n=12)
    with zipfile.ZipFile(first) as archive, ZipStore(first, mode="r") as store:
        group = zarr.open_group(store, mode="r")
        rows = [group["catalog"][:].tobytes()]
        rows += [group[i.removesuffix("/0")][:].tobytes() for i in archive.namelist() if i.endswith("/0")][1:]
    assert hashlib.sha256(b"".join(rows)).hexdigest()[:16] == known[sample._VERSION]


# --- missing values and ids ----------------------------------------------------------------------


def test_missing_values_stand_where_the_real_set_has_them(catalog):
    spies, gaia = catalog["SPIES_ID"] == -99, catalog["gaia_id"] == -99
    for name in ("ra_sp", "FLUX_AUTO_ch1", "FLUXERR_AUTO_ch2", "CLASS_STAR_ch1", "sdss2spies"):
        assert np.array_equal(np.isnan(catalog[name]), spies)
    assert np.array_equal(np.isnan(catalog["sdss2gaia"]), gaia)
    lacking = np.isnan(catalog["parallax"])
    assert 0 < gaia.sum() < lacking.sum() < 0.3 * N
    assert catalog["psfmag_r"][lacking].mean() > catalog["psfmag_r"][~lacking].mean() + 0.3
    for name in ("pmra", "pmdec_error", "psPm[0]", "psParallax"):
        assert np.array_equal(np.isnan(catalog[name]), lacking)
    east = (catalog["ra_sdss"] + 180) % 360 - 180
    assert 0.2 * N < (~spies).sum() < 0.6 * N
    assert np.all((east[~spies] > -30) & (east[~spies] < 35))
    assert np.array_equal(catalog["thing_id"] == -99, catalog["spec"] == 7)
    always = [n for n in catalog.dtype.names if n[:4] in ("psfm", "exti", "dere", "stdC", "psFl", "ra_s")]
    assert all(np.isfinite(catalog[n]).all() for n in always if n != "ra_sp")


def test_rejected_measurements_are_minus_99_in_all_three_columns(epochs):
    rows, _ = epochs
    rate = {}
    for b in BANDS:
        gone = rows[f"psfmag_{b}"] == -99.0
        rate[b] = gone.mean()
        assert np.array_equal(rows[f"psfmagerr_{b}"] == -99.0, gone)
        assert np.array_equal(rows[f"dered_{b}"] == -99.0, gone)
        assert np.all(rows[f"psfmag_{b}"][~gone] > 10)
        assert np.all(rows[f"psfmagerr_{b}"][~gone] > 0)
        assert np.all(rows[f"mjd_{b}"] > 51000)
        if b != "r":
            lost = gone | (rows["psfmag_r"] == -99.0)
            assert np.array_equal(np.isnan(rows[f"offsetRa_{b}"]), lost)
            assert np.array_equal(np.isnan(rows[f"offsetDec_{b}"]), lost)
    assert 0.02 < rate["u"] < 0.08
    assert rate["u"] > rate["g"] > rate["r"] > 0


def test_long_ids_are_packed_as_the_surveys_do(catalog):
    objid, spec, gaia = (catalog[n].tolist() for n in ("objid", "specobjid", "gaia_id"))
    assert min(objid) > 2**53
    assert {i >> 59 for i in objid} == {15}
    assert {i >> 48 & 2047 for i in objid} == {2}
    assert {i >> 32 & 65535 for i in objid} == {106, 206}
    assert {i >> 29 & 7 for i in objid} <= set(range(1, 7))
    east = (catalog["ra_sdss"] - 299.86) % 360 / 0.1497
    assert np.all(np.abs(np.array([i >> 16 & 4095 for i in objid]) - east) < 1.01)
    for packed, kind in zip(spec, catalog["spec"], strict=True):
        mjd = packed >> 32 & 65535 if kind == 7 else (packed >> 24 & 16383) + 50000
        assert packed > 2**53
        assert 51578 < mjd < 58000
        plate, fiber = (
            (packed >> 48, packed >> 22 & 1023) if kind == 7 else (packed >> 50, packed >> 38 & 4095)
        )
        assert (266 <= plate < 2974) if kind == 7 else (3510 <= plate < 8192)  # plates of each survey
        assert 1 <= fiber <= 640
    matched = [(i, r) for i, r in zip(gaia, catalog, strict=True) if i != -99]
    # The published ids of Gaia say where the source is; so do the invented ones.
    assert all(i >> 35 == sample._healpix12(r["ra_sdss"], r["dec_sdss"]) for i, r in matched)
    # Packed ids of spectra end in zeros, so that float64 holds them; the others it damages.
    for ids in (objid, [i for i, _ in matched]):
        assert sum(i % 1024 > 0 for i in ids) > 0.8 * len(ids)
        assert sum(int(float(i)) != i for i in ids) > 0.5 * len(ids)


def test_designation_is_the_position_cut_off(catalog):
    for row in catalog[2:]:
        text = row["sdssj"]
        ra = 15 * (int(text[:2]) + int(text[2:4]) / 60 + float(text[4:9]) / 3600)
        dec = int(text[10:12]) + int(text[12:14]) / 60 + float(text[14:]) / 3600
        assert 0 <= row["ra_sdss"] - ra + 1e-9 < 0.01 * 15 / 3600 + 1e-8
        assert 0 <= abs(row["dec_sdss"]) - dec + 1e-9 < 0.1 / 3600 + 1e-8
        assert (text[9] == "-") == (row["dec_sdss"] < 0)


# --- physics -------------------------------------------------------------------------------------


@given(
    tau=st.floats(5, 50), sf_inf=st.floats(0.05, 1.0), lag=st.floats(0.1, 2.0), seed=st.integers(0, 2**32 - 1)
)
@settings(max_examples=15, deadline=None)
def test_walk_has_variance_and_memory_of_its_equation(tau, sf_inf, lag, seed):
    steps = np.arange(60_000) * lag * tau
    walk = damped_random_walk(steps, tau, sf_inf, np.random.default_rng(seed))
    variance, scatter = sf_inf**2 / 2, np.sqrt(2 * (1 + 2 / math.expm1(2 * lag)) / 60_000)
    assert abs(walk.var() / variance - 1) < 6 * scatter
    correlation = np.mean(walk[1:] * walk[:-1]) / variance
    assert abs(correlation - math.exp(-lag)) < 6 * scatter


def test_walk_keeps_the_order_of_its_times():
    t = np.array([30.0, 0.0, 20.0, 10.0])
    mixed = damped_random_walk(t, 100.0, 0.2, np.random.default_rng(5))
    in_time = damped_random_walk(np.sort(t), 100.0, 0.2, np.random.default_rng(5))
    assert np.array_equal(mixed[np.argsort(t)], in_time)
    assert damped_random_walk([], 1.0, 1.0, np.random.default_rng(5)).size == 0


def test_light_curves_scatter_as_their_truth_says(curves):
    truth = sample_truth(n=N)
    ratios = []
    for train_id, curve in curves.items():
        curve = np.delete(curve, [row for row, _ in truth["outliers"][train_id]])
        curve = curve[curve["psfmag_g"] > 0]
        if len(curve) > 40:
            t, row = curve["mjd_g"], truth.loc[train_id]
            pair = np.abs(t[:, None] - t) > 3 * row["tau_observed"]
            apart = (curve["psfmag_g"][:, None] - curve["psfmag_g"])[pair]
            noise = 2 * np.mean(curve["psfmagerr_g"] ** 2)
            if apart.size > 200:
                ratios.append((np.mean(apart**2) - noise) / row["sf_inf_g"] ** 2)
    assert len(ratios) > 60
    assert abs(np.mean(ratios) - 1) < 0.25


def test_one_walk_is_seen_in_five_bands(curves):
    found = []
    for curve in curves.values():
        good = (curve["psfmag_g"] > 0) & (curve["psfmag_i"] > 0)
        if good.sum() > 40 and np.mean(curve["psfmagerr_i"][good]) < 0.02:
            found.append(np.corrcoef(curve["psfmag_g"][good], curve["psfmag_i"][good])[0, 1])
    assert len(found) > 30
    assert np.median(found) > 0.9


def test_amplitude_falls_with_wavelength_as_in_macleod_2010():
    truth = sample_truth(n=20)
    expected = (8932 / 3551) ** -0.479
    assert np.allclose(truth["sf_inf_z"] / truth["sf_inf_u"], expected, rtol=1e-6)
    assert np.allclose(truth["tau_observed"], truth["tau_rest"] * (1 + truth["z"]))
    assert truth["tau_observed"].between(10, 2e4).all()


def test_planted_outliers_are_where_the_truth_says(curves):
    truth = sample_truth(n=N)
    planted = [(i, row, b) for i, found in truth["outliers"].items() for row, b in found]
    assert len(planted) > 0.0008 * 5 * sum(map(len, curves.values()))
    seen = 0
    for i, row, b in planted:
        mags = curves[i][f"psfmag_{b}"]
        assert mags[row] != -99.0
        near = np.abs(curves[i][f"mjd_{b}"] - curves[i][f"mjd_{b}"][row]) < 20
        near[row] = False
        near &= mags > 0
        if near.sum() > 3 and curves[i][f"psfmagerr_{b}"][row] < 0.05:
            seen += abs(mags[row] - np.median(mags[near])) > 0.15
    assert seen > 10


def test_footprint_seasons_and_cadence(catalog, epochs):
    rows, _ = epochs
    east = (catalog["ra_sdss"] + 180) % 360 - 180
    assert np.all((east >= -60) & (east <= 60))
    assert np.all(np.abs(catalog["dec_sdss"]) < 1.27)
    assert 50 < np.median(catalog["lcN"]) < 68
    mjd = rows["mjd_r"]
    years, counts = np.unique(np.floor((mjd - 51544) / 365.25) + 2000, return_counts=True)
    assert years.tolist() == list(range(1998, 2008))
    assert counts[-3:].sum() > 0.6 * counts.sum()  # the supernova survey
    month = (mjd - 51544) % 365.25 / 30.44
    assert np.mean((month > 8) & (month < 11.5)) > 0.93
    assert np.all((mjd % 1 > 0.08) & (mjd % 1 < 0.45))  # night in New Mexico, in UT


def test_light_curves_are_not_sorted_by_time(curves):
    long = [c for c in curves.values() if len(c) > 20]
    assert not any(np.all(np.diff(c["mjd_r"]) >= 0) for c in long)


def test_bands_follow_one_another_across_the_focal_plane(epochs):
    """A drift scan shows each filter 72 s after the one before: the zenith distance moves on steadily."""
    rows, _ = epochs
    steps = np.diff([rows[f"airmass_{b}"] for b in "riuzg"], axis=0)
    assert np.all((np.sign(steps) == np.sign(steps[0])).mean(axis=1) > 0.93)
    assert np.abs(steps).max() < 0.01
    assert np.all((rows["airmass_r"] > 1.15) & (rows["airmass_r"] < 1.9))
    assert np.all(np.ptp([rows[f"mjd_{b}"] for b in BANDS], axis=0) < 0.011)


def test_runs_number_the_nights_in_order(epochs):
    rows, _ = epochs
    order = np.argsort(rows["mjd_r"])
    assert np.all(np.diff(rows["run"][order]) >= 0)
    assert rows["run"].min() >= 94
    assert rows["run"].max() < 7300


def test_errors_grow_with_magnitude(epochs):
    rows, _ = epochs
    for b in BANDS:
        good = rows[rows[f"psfmag_{b}"] > 0]
        low, high = np.percentile(good[f"psfmag_{b}"], [10, 90])
        bright = np.median(good[f"psfmagerr_{b}"][good[f"psfmag_{b}"] < low])
        faint = np.median(good[f"psfmagerr_{b}"][good[f"psfmag_{b}"] > high])
        assert faint > 2 * bright
        assert 0.003 < bright < 0.05


def test_errors_describe_the_scatter_of_neighbouring_nights(curves):
    truth, pulls = sample_truth(n=N), []
    for i, curve in curves.items():
        curve = np.delete(curve, [row for row, _ in truth["outliers"][i]])
        curve = np.sort(curve[curve["psfmag_u"] > 0], order="mjd_u")
        near = np.diff(curve["mjd_u"]) < 2.5  # too short for the walk to go far
        error = np.hypot(curve["psfmagerr_u"][1:], curve["psfmagerr_u"][:-1])
        clear = near & (error > 0.05) & (error < 0.3)
        pulls += (np.diff(curve["psfmag_u"]) / error)[clear].tolist()
    assert len(pulls) > 500
    assert abs(np.std(pulls) - 1) < 0.12


def test_distances_are_those_of_the_stated_cosmology():
    flat = FlatLambdaCDM(H0=70, Om0=0.3, Tcmb0=0)
    for z in (0.1, 0.5, 2.0, 5.0):
        assert abs(sample._distance_modulus(z) - flat.distmod(z).value) < 1e-3


def test_extinction_has_the_ratios_of_the_bands(catalog):
    a_u = catalog["extinction_u"][2:]
    assert np.all((a_u > 0.03) & (a_u < 2))
    for b, ratio in zip("griz", [0.736, 0.534, 0.405, 0.287], strict=True):
        assert np.allclose(catalog[f"extinction_{b}"][2:], ratio * a_u, atol=2e-6)


def test_colour_follows_redshift(catalog):
    """Lyman alpha leaves the u band above redshift 2.5, so that u-g turns red."""
    low = np.median(catalog["stdColor[0]"][(catalog["z"] > 1) & (catalog["z"] < 2)])
    high = np.median(catalog["stdColor[0]"][catalog["z"] > 3])
    assert low < 0.3
    assert high > 1.2


def test_chromatic_refraction_grows_along_the_direction_of_the_zenith(epochs):
    """East of the meridian the zenith lies west: offsets in right ascension change sign with hour angle."""
    rows, source = epochs
    dec = np.radians(source["dec_sdss"])
    lat, cos_z = math.radians(32.7803), 1 / rows["airmass_r"]
    sidereal = 280.46061837 + 360.98564736629 * (rows["mjd_r"] - 51544.5) - 105.8203
    west = np.sin(np.radians(sidereal - source["ra_sdss"])) > 0
    toward_north = (math.sin(lat) - np.sin(dec) * cos_z) / np.cos(dec) / cos_z
    sin_h = np.sqrt(
        np.clip(1 - ((cos_z - math.sin(lat) * np.sin(dec)) / math.cos(lat) / np.cos(dec)) ** 2, 0, 1)
    )
    toward_east = math.cos(lat) * sin_h * np.where(west, 1, -1) / cos_z
    expected = np.array([sample._chromatic_refraction(float(z)) for z in source["z"]])[:, 0]
    for column, direction in (("offsetRa_u", toward_east), ("offsetDec_u", toward_north)):
        good = np.isfinite(rows[column]) & (rows["psfmagerr_u"] < 0.2)
        x, y = (expected * direction)[good], rows[column][good]
        slope, scatter = np.sum(x * y) / np.sum(x * x), np.std(y) / np.sqrt(np.sum(x * x))
        assert abs(slope - 1) < 5 * scatter
        assert scatter < 0.1


def test_refraction_is_relative_to_r_and_depends_on_redshift():
    by_z = np.array([sample._chromatic_refraction(z) for z in np.arange(0.3, 4, 0.1)])
    assert np.all(by_z[:, 2] == 0)
    assert 0.02 < np.ptp(by_z[:, 0]) < 0.3
    assert np.ptp(by_z[:, 0]) > np.ptp(by_z[:, 4])


# --- the truth -----------------------------------------------------------------------------------


def test_truth_is_that_of_the_store(catalog):
    truth = sample_truth(n=N)
    assert truth.index.tolist() == catalog["train_id"].tolist()
    assert truth.index.name == "train_id"
    assert np.array_equal(truth["z"], catalog["z"])
    for b in BANDS:
        pull = (catalog[f"psfmag_{b}"] - truth[f"mean_{b}"])[2:] / catalog[f"psfmagerr_{b}"][2:]
        assert abs(np.std(pull) - 1) < 0.2
    assert sample_truth([7, 0], n=N).equals(truth.loc[[7, 0]])


def test_truth_of_an_id_that_is_not_there_is_refused():
    with pytest.raises(UnknownTrainIdError, match=r"No train_id 5 .*Pass n= as the store was built"):
        sample_truth([0, 5], n=20)


# --- complete or absent --------------------------------------------------------------------------


def test_an_existing_target_is_refused_and_left_alone(tmp_path):
    target = tmp_path / "mine.txt"
    target.write_text("mine")
    with pytest.raises(TargetExistsError, match=r"mine\.txt.*left alone"):
        build_sample_store(target, n=1)
    assert issubclass(TargetExistsError, FileExistsError)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    assert target.read_text() == "mine"


@pytest.mark.parametrize("n", [0, -3, 100_001])
def test_a_number_out_of_range_is_refused(tmp_path, n):
    with pytest.raises(LimitError, match=f"not n={n}"):
        build_sample_store(tmp_path / "s.zarr.zip", n=n)
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(StoreNotFoundError, match=r"There is no folder .*nowhere"):
        build_sample_store(tmp_path / "nowhere" / "s.zarr.zip", n=1)
    assert not list(tmp_path.iterdir())


def test_an_error_half_way_leaves_nothing(tmp_path, monkeypatch):
    real = sample._light_curve

    def breaks(source, train_id, *rest):
        if train_id == 3:
            raise KeyboardInterrupt
        return real(source, train_id, *rest)

    monkeypatch.setattr(sample, "_light_curve", breaks)
    with pytest.raises(KeyboardInterrupt):
        build_sample_store(tmp_path / "s.zarr.zip", n=3)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal")
def test_a_killed_writer_leaves_no_store(tmp_path):
    target = tmp_path / "s.zarr.zip"
    code = "import sys; from agn_helpers.sample import build_sample_store as b; b(sys.argv[1], n=20000)"
    with subprocess.Popen([sys.executable, "-c", code, str(target)]) as child:
        while not any(p.stat().st_size > 100_000 for p in tmp_path.iterdir()):  # it is writing now
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    assert not target.exists()
    assert digest(build_sample_store(target, n=2)) == digest(build_sample_store(tmp_path / "t.zarr.zip", n=2))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sample.platformdirs, "user_cache_path", lambda name: tmp_path / name)
    return tmp_path


def test_default_sample_is_built_once(cache, monkeypatch):
    first = sample_store()
    assert first.parent == cache / "agn_helpers"
    stamp = first.stat().st_mtime_ns
    monkeypatch.setattr(sample, "_write", lambda *_: pytest.fail("built again"))
    assert sample_store() == first
    assert first.stat().st_mtime_ns == stamp
    with ZipStore(first, mode="r") as store:
        assert zarr.open_group(store, mode="r")["catalog"].shape == (500,)


def test_a_newer_sample_does_not_take_the_old_file(cache, monkeypatch):
    monkeypatch.setattr(sample, "_write", lambda path, *_: path.write_bytes(b""))
    old = sample_store()
    monkeypatch.setattr(sample, "_VERSION", sample._VERSION + 1)
    assert sample_store() != old


def test_a_manifest_without_its_sample_is_told(cache):
    """Not a path at which there is nothing."""
    manifest = write_manifest(sample_store())
    sample.sample_path().unlink()
    with pytest.raises(TargetExistsError, match=r"the manifest of a former store at .*Move it away"):
        sample_store()
    manifest.unlink()
    assert sample_store().exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the cache is placed by XDG_CACHE_HOME")
def test_two_processes_at_once_both_get_the_whole_sample(tmp_path):
    code = (
        "import sys, hashlib; from agn_helpers.sample import sample_store\n"
        "sys.stdin.readline(); p = sample_store(); print(p, hashlib.sha256(p.read_bytes()).hexdigest())"
    )
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    answers = [child.communicate()[0].split() for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert answers[0] == answers[1]
    assert [p.name for p in (tmp_path / "agn_helpers").iterdir()] == [os.path.basename(answers[0][0])]
