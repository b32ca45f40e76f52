"""Honest types, and the check of derived columns."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import agn_helpers as agn
from agn_helpers.catalog import AB_CORRECTION, SOFTENING, published_record


def finding(report):
    return report["finding"].to_dict()


# -- catalog_frame --------------------------------------------------------------------------------


def test_missing_integers_are_na_and_the_others_exact():
    values = [-99, 0, 2**53 + 1, 2**63 - 1, -(2**63)]
    record = np.zeros(5, [("train_id", "i8"), ("objid", "i8"), ("short", "i4")])
    record["train_id"], record["objid"], record["short"] = range(5), values, [1, -99, 3, 4, 5]
    frame = agn.catalog_frame(record)
    assert frame["objid"].isna().tolist() == [True, False, False, False, False]
    assert frame["objid"].tolist()[1:] == values[1:]
    assert frame["short"].dtype == "Int64"
    assert frame["short"].mean() == (1 + 3 + 4 + 5) / 4


def test_unsigned_ids_beyond_int64_survive():
    record = np.zeros(2, [("train_id", "i8"), ("specobjid", "u8")])
    record["train_id"], record["specobjid"] = [1, 2], [9403 << 50, 2**64 - 99]
    frame = agn.catalog_frame(record)
    assert frame["specobjid"].dtype == "UInt64"
    assert frame["specobjid"].iloc[0] == 9403 << 50
    assert frame["specobjid"].iloc[1] is pd.NA  # -99 written into an unsigned column


def test_missing_magnitudes_are_nan_but_other_floats_keep_their_values():
    record = np.zeros(2, [("train_id", "i8"), ("psfmag_u", "f8"), ("pmra", "f8")])
    record["train_id"] = [1, 2]
    record["psfmag_u"] = record["pmra"] = [-99.0, 20.0]
    frame = agn.catalog_frame(record)
    assert np.isnan(frame["psfmag_u"].iloc[0])
    assert frame["pmra"].iloc[0] == -99.0  # a proper motion may be -99 mas / yr


def test_big_endian_and_bytes_columns():
    record = np.zeros(2, [("train_id", ">i8"), ("z", ">f8"), ("name", "S4")])
    record["train_id"], record["z"], record["name"] = [7, 8], [1.5, np.nan], [b"a", b"bc"]
    frame = agn.catalog_frame(record)
    assert frame.index.tolist() == [7, 8]
    assert frame["z"].iloc[0] == 1.5
    assert frame["name"].tolist() == ["a", "bc"]
    frame.sort_values("z")  # pandas refuses big-endian columns here


def test_duplicated_train_id_is_an_error():
    record = np.zeros(3, [("train_id", "i8")])
    record["train_id"] = [4, 9, 4]
    with pytest.raises(agn.DamagedStoreError, match=r"1 train_id more than once, the first is 4"):
        agn.catalog_frame(record)


def test_frame_is_independent_of_the_record():
    record = published_record()
    frame = agn.catalog_frame(record)
    frame["z"] = 0.0
    assert record["z"][0] == 2.167268
    assert agn.published_rows()["z"].iloc[0] == 2.167268


# -- the published rows -----------------------------------------------------------------------------


def test_published_rows_digit_for_digit():
    rows = agn.published_rows()
    assert rows.loc[0, "objid"] == 8647475119809364088
    assert rows.loc[3, "gaia_id"] == 4228017414511443968
    assert repr(float(rows.loc[3, "psFlux[z]"])) == "599285.639829"
    assert rows.loc[0, "sdssj"] == "204009.04-010020.1"


def test_check_finds_what_is_wrong_with_the_published_rows_and_clears_the_rest():
    report = agn.check_catalog(agn.published_rows())
    assert len(report) == 17
    assert (report["rows"] == 2).all()
    wrong = report[report["agree"] < report["rows"]]
    assert finding(wrong) == {
        "psFlux[u]": "has the AB correction with the wrong sign",
        "psFlux[g]": "is the flux of the u magnitude",
        "psFlux[z]": "has the AB correction with the wrong sign",
    }
    assert (wrong["agree"] == 0).all()
    assert (report.drop(wrong.index)["finding"] == "agrees").all()
    # 0.08 mag too faint and 0.04 mag too bright
    assert pytest.approx(-report.loc["psFlux[u]", "largest_deviation"], rel=1e-3) == 10 ** (-0.4 * 0.08) - 1
    assert pytest.approx(report.loc["psFlux[z]", "largest_deviation"], rel=1e-3) == 10 ** (0.4 * 0.04) - 1


@pytest.fixture
def right():
    """The published rows with fluxes as their definition says."""
    frame = agn.published_rows()
    for b in agn.BANDS:
        frame[f"psFlux[{b}]"] = agn.magnitude_to_flux(frame[f"dered_{b}"] + AB_CORRECTION[b], b)
    return frame


def test_a_right_catalogue_is_cleared(right):
    report = agn.check_catalog(right)
    assert set(report["finding"]) == {"agrees"}
    assert (report["agree"] == report["rows"]).all()


@pytest.mark.parametrize(
    ("column", "damage", "words"),
    [
        ("dered_g", lambda f: f["psfmag_g"] + f["extinction_g"], "has the extinction added"),
        ("dered_g", lambda f: f["psfmag_g"], "ignores extinction"),
        ("stdColor[1]", lambda f: f["psfmag_g"] - f["psfmag_r"], "is not corrected for extinction"),
        ("psFlux[r]", lambda f: agn.magnitude_to_flux(f["psfmag_r"], "r"), "is not corrected for extinction"),
        ("psFlux[i]", lambda f: agn.magnitude_to_flux(f["dered_z"], "i"), "is the flux of the z magnitude"),
        ("psFlux[u]", lambda f: agn.magnitude_to_flux(f["dered_u"], "u"), "has no AB correction"),
        ("psParallax", lambda f: f["parallax"] + 0.5, "differs by a constant, 0.5"),
        ("psPm[0]", lambda f: f["pmra"] * [2, 40], "in the median, not by a constant"),
    ],
)
def test_check_says_what_a_deviation_looks_like(right, column, damage, words):
    right[column] = damage(right)
    report = agn.check_catalog(right)
    assert words in report.loc[column, "finding"]
    others = report.drop(index=column)["finding"]
    # a damaged magnitude makes what derives from it disagree too
    assert (others[~others.index.str.contains("Color|Flux")] == "agrees").all()


def test_one_wrong_row_among_many_is_counted(right):
    many = pd.concat([right] * 50, ignore_index=True)
    many.loc[17, "stdColor[2]"] += 0.1
    report = agn.check_catalog(many)
    assert report.loc["stdColor[2]", ["rows", "agree"]].tolist() == [100, 99]
    assert report.loc["stdColor[2]", "largest_deviation"] == pytest.approx(0.1, abs=1e-5)


def test_missing_values_are_not_disagreement_but_lopsided_ones_are(right):
    right.loc[0, ["pmra", "psPm[0]"]] = np.nan
    right.loc[0, "psParallax"] = np.nan
    report = agn.check_catalog(right)
    assert report.loc["psPm[0]", ["rows", "agree", "finding"]].tolist() == [1, 1, "agrees"]
    assert report.loc["psParallax", ["rows", "agree"]].tolist() == [2, 1]
    assert "missing" in report.loc["psParallax", "finding"]


def test_all_missing_is_nothing_to_check(right):
    right[["pmra", "psPm[0]"]] = np.nan
    assert agn.check_catalog(right).loc["psPm[0]", ["rows", "finding"]].tolist() == [0, "nothing to check"]


def test_check_of_part_of_a_catalogue():
    part = agn.published_rows()[["psfmag_u", "extinction_u", "dered_u"]]
    assert agn.check_catalog(part).index.tolist() == ["dered_u"]
    with pytest.raises(agn.UnknownColumnError, match=r"check_catalog\(ts.catalog\(\)\)"):
        agn.check_catalog(part[["psfmag_u"]])


def test_check_of_an_empty_catalogue():
    report = agn.check_catalog(agn.published_rows().iloc[:0])
    assert (report["rows"] == 0).all()
    assert set(report["finding"]) == {"nothing to check"}


def test_check_leaves_its_input_alone():
    frame = agn.published_rows()
    before = frame.copy()
    agn.check_catalog(frame)
    pd.testing.assert_frame_equal(frame, before)


# -- fluxes ---------------------------------------------------------------------------------------------


@given(st.floats(14, 22), st.sampled_from("ugriz"))
def test_flux_of_a_bright_magnitude_is_pogson(mag, band):
    """Asinh magnitudes equal the classical ones where the flux is far above the softening."""
    pogson = 3631e9 * 10 ** (-0.4 * mag)
    limit = (SOFTENING[band] / 10 ** (-0.4 * mag)) ** 2
    assert float(agn.magnitude_to_flux(mag, band)) == pytest.approx(pogson, rel=2 * limit + 1e-12)


@given(st.floats(-1e5, 1e7), st.sampled_from("ugriz"))
def test_flux_inverts_the_asinh_magnitude(flux, band):
    """Lupton et al. (1999), equation 3, with f/f0 = flux / 3631 Jy; negative fluxes have magnitudes too."""
    b = SOFTENING[band]
    mag = -2.5 / np.log(10) * (np.arcsinh(flux / 3631e9 / (2 * b)) + np.log(b))
    assert float(agn.magnitude_to_flux(mag, band)) == pytest.approx(flux, rel=1e-9, abs=1e-6)


def test_flux_keeps_nan_and_shape():
    out = agn.magnitude_to_flux([[20.0, np.nan]], "g")
    assert out.shape == (1, 2)
    assert np.isnan(out[0, 1])
    with pytest.raises(agn.UnknownBandError, match="No band 'y'"):
        agn.magnitude_to_flux(20.0, "y")
