"""Stores joined under labels, and identifiers looked up in both directions."""

import editions
import numpy as np
import pandas as pd
import pytest
import stores
from hypothesis import given
from hypothesis import strategies as st

import agn_helpers as agn


@pytest.fixture
def two(tmp_path, small_store):
    other = stores.write_store(tmp_path / "other", ids=(0, 66, 7))
    return {"qso": small_store, "star": other}


def test_ids_are_kept_apart_and_values_kept(two):
    both = agn.load_classes(two)
    assert both.index.names == ["label", "train_id"]
    assert both.index.is_unique
    for label, store in two.items():
        with agn.open_training_set(store) as ts:
            pd.testing.assert_frame_equal(both.loc[label], ts.catalog())
    assert both.index.get_level_values("label").unique().tolist() == ["qso", "star"]


def test_a_column_that_a_store_lacks_is_missing_and_integers_stay_exact(two, tmp_path):
    folder = editions.write_2021(tmp_path / "2021", damaged=False)
    with agn.open_training_set(folder) as later, agn.open_training_set(two["qso"]) as ts:
        both = agn.load_classes({"new": later, "old": ts}, columns=["objid", "class", "thing_id", "z"])
        assert len(ts.light_curve_ids()) == 6  # still open
        assert both.loc["old", "objid"].tolist() == ts.catalog()["objid"].tolist()
        assert both.loc["new", "objid"].tolist() == later.catalog(["objid"])["objid"].tolist()
    assert both.columns.tolist() == ["objid", "class", "thing_id", "z"]
    assert both.loc["new", "thing_id"].isna().all()
    assert both["thing_id"].dtype == "Int64"
    assert both.loc["old", "class"].isna().all()


def test_mistakes_are_told(two):
    with pytest.raises(agn.InvalidValueError, match="no store to load"):
        agn.load_classes({})
    with pytest.raises(agn.UnknownColumnError, match="No column 'zz' in any of these stores"):
        agn.load_classes(two, columns=["z", "zz"])


def frame_of(ids):
    index = pd.Index(range(0, 3 * len(ids), 3), name="train_id")
    return pd.DataFrame({"objid": pd.array(ids, dtype="Int64")}, index=index)


@given(st.lists(st.integers(2**53, 2**63 - 1), min_size=1, max_size=20, unique=True), st.data())
def test_there_and_back_is_exact(ids, data):
    frame = frame_of(ids)
    asked = data.draw(st.lists(st.sampled_from(ids), max_size=8))
    there = agn.find_ids(frame, asked, "objid")
    assert there.index.tolist() == asked
    assert [ids[i // 3] for i in there] == asked
    assert agn.find_ids(frame, there, "train_id", "objid").tolist() == asked


def test_neighbours_of_a_known_id_are_unknown():
    known = 8647475121420632840
    for value in (known - 1, known + 1, 0):
        with pytest.raises(agn.UnknownTrainIdError, match=f"the first is objid {value}"):
            agn.find_ids(frame_of([known]), value, "objid")


@pytest.mark.parametrize("value", [float(2**60), np.float64(2.0**60), 1.5])
def test_values_that_lost_digits_are_refused(value):
    with pytest.raises(agn.InvalidValueError, match="not an exact whole number"):
        agn.find_ids(frame_of([2**60]), value, "objid")


def test_an_id_of_two_sources_names_neither():
    with pytest.raises(agn.InvalidValueError, match="belongs to several sources"):
        agn.find_ids(frame_of([2**60, 2**60]), 2**60, "objid")


def test_missing_identifiers_match_nothing_and_come_back_as_missing():
    frame = frame_of([2**60, None])
    assert agn.find_ids(frame, [3, 0], "train_id", "objid").isna().tolist() == [True, False]
    with pytest.raises(agn.UnknownTrainIdError, match="unknown"):
        agn.find_ids(frame, -99, "objid")
    with pytest.raises(agn.UnknownColumnError, match="No column 'objId'"):
        agn.find_ids(frame, 1, "objId")


def test_labelled_catalogues_work_too(two):
    both = agn.load_classes(two)
    star = both.loc[("star", 7), "lcN"]
    assert agn.find_ids(both.loc["star"], 7, "train_id", "lcN").tolist() == [star]
