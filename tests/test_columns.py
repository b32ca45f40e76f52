"""Templates in three spellings, and what they stand for."""

import numpy as np
import pytest
from astropy import units
from hypothesis import given
from hypothesis import strategies as st

from agn_helpers.columns import (
    BANDS,
    definition_table,
    edition_2020,
    expand_template,
    find_definition,
    missing_mask,
    unit_of,
)


def test_every_column_of_the_edition_has_a_definition():
    edition = edition_2020()
    for name, _ in edition["catalog_fields"]:
        assert find_definition(name, edition["catalog_definitions"]), name
    for name, _ in edition["light_curve_fields"]:
        assert find_definition(name, edition["light_curve_definitions"]), name


def test_every_unit_is_one_that_astropy_knows():
    edition = edition_2020()
    stated = [*edition["catalog_units"].values()]
    stated += [d["unit"] for d in edition["light_curve_definitions"].values()]
    for unit in stated:
        units.Unit(unit, parse_strict="raise")
    assert set(edition["catalog_units"]) <= set(edition["catalog_definitions"])


@pytest.mark.parametrize(
    ("column", "unit"),
    [("psfmag_u", "mag"), ("stdColor[2]", "mag"), ("psFlux[z]", "nJy"), ("psPm[1]", "mas / yr"), ("z", "")],
)
def test_units_of_real_columns(column, unit):
    assert unit_of(column) == unit


@given(st.text(max_size=30))
def test_expanding_any_text_gives_names(template):
    names = expand_template(template)
    assert all(isinstance(n, str) for n in names)
    if not any(mark in template for mark in ("{band}", "[band]")) and "-" not in template:
        assert names == [template]


def test_odd_templates():
    assert expand_template("psfmag_{band}", bands="gr") == ["psfmag_g", "psfmag_r"]
    assert expand_template("x[3-1]") == []
    assert len(expand_template("x[0-9999]")) == 10000
    assert expand_template("x[0-99999999999]") == ["x[0-99999999999]"]


def test_a_definition_of_its_own_wins_over_a_template():
    definitions = {"psfmag_{band}": "template", "psfmag_u": "own"}
    assert find_definition("psfmag_u", definitions) == ("psfmag_u", "own")
    assert find_definition("psfmag_g", definitions) == ("psfmag_{band}", "template")
    assert find_definition("psfmag_y", definitions) is None


def test_table_names_both_kinds_of_gap():
    table = definition_table(
        {"a": np.dtype("i8"), "b_u": np.dtype("U3")}, {"b_{band}": "text", "c": "none"}, {"a": 1, "b_u": 0}
    )
    assert table["status"].to_dict() == {
        "a": "no definition",
        "b_u": "defined",
        **{f"b_{b}": "no column" for b in BANDS[1:]},
        "c": "no column",
    }
    assert table.loc["b_u", "dtype"] == "str"


@pytest.mark.parametrize(
    ("name", "values", "missing"),
    [
        ("thing_id", np.array([-99, 5]), [True, False]),
        ("pmra", np.array([-99.0, np.nan]), [False, True]),
        ("dered_u", np.array([-99.0, 20.0]), [True, False]),
        ("sdssj", np.array(["", "x"]), [True, False]),
        ("flag", np.array([157, 1], "u1"), [False, False]),  # -99 in eight bits, were it wrapped around
        ("objid", np.array([2**64 - 99, 157], "u8"), [True, False]),
        ("flag", np.array([-99, 1], "i1"), [True, False]),
    ],
)
def test_missing_mask(name, values, missing):
    assert missing_mask(name, values).tolist() == missing
