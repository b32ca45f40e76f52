"""`light_curves` and `iter_light_curves` give what `light_curve` gives, one after the other."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
import stores
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import agn_helpers as agn
from agn_helpers import store as store_room

ALL = list(stores.IDS)


def one_by_one(training_set, ids, bands=None, columns=None):
    frames = [training_set.light_curve(i, bands, columns) for i in ids]
    return pd.concat(frames, ignore_index=True) if frames else training_set.light_curve(0).iloc[:0]


def test_all_in_numeric_order(any_store):
    with agn.open_training_set(any_store) as ts:
        frame = ts.light_curves()
        pd.testing.assert_frame_equal(frame, one_by_one(ts, ALL))
    assert frame["train_id"].unique().tolist() == [i for i in ALL if i != 4]  # 4 is empty
    assert frame["mag"].isna().any()
    assert not (frame["mag"] == -99).any()


def test_the_portions_do_not_show(small_store, monkeypatch):
    """Light curves are converted some at a time; where one portion ends is not in the answer."""
    with agn.open_training_set(small_store) as ts:
        whole = ts.light_curves()
        for portion in (1, 26, 70, 130):
            monkeypatch.setattr(store_room, "PORTION", portion)
            pd.testing.assert_frame_equal(ts.light_curves(), whole)


@settings(max_examples=60, deadline=None)
@given(
    ids=st.lists(st.sampled_from(ALL), max_size=8),
    bands=st.none() | st.lists(st.sampled_from("ugriz"), min_size=1, unique=True),
    columns=st.none()
    | st.lists(st.sampled_from(["mjd", "mag", "magerr", "offsetRa", "run", "epoch"]), unique=True),
    batch=st.integers(1, 9),
)
def test_any_choice_in_any_order(made, ids, bands, columns, batch):
    with agn.open_training_set(made[2, "zip"]) as ts:
        frame = ts.light_curves(ids, bands, columns)
        parts = list(ts.iter_light_curves(ids, bands=bands, columns=columns, batch=batch))
        expected = one_by_one(ts, ids, bands, columns)
    if ids:
        pd.testing.assert_frame_equal(frame, expected)
        pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), frame)
    assert list(frame.columns[:3]) == ["train_id", "epoch", "band"]
    assert len(parts) == -(-len(ids) // batch)
    if columns is not None:
        assert list(frame.columns[3:]) == [c for c in columns if c != "epoch"]


def test_none_asked_for_is_an_empty_frame_with_the_same_columns(any_store):
    with agn.open_training_set(any_store) as ts:
        none, some = ts.light_curves([]), ts.light_curves([3])
        assert list(ts.iter_light_curves([])) == []
    assert len(none) == 0
    pd.testing.assert_series_equal(none.dtypes, some.dtypes)


def test_a_store_without_light_curves(tmp_path):
    path = stores.write_store(tmp_path / "s.zarr", ids=())
    with agn.open_training_set(path) as ts:
        assert ts.light_curves().columns.tolist() == ["train_id", "epoch", "band"]


def test_light_curves_with_other_columns_line_up(tmp_path):
    """One has no z band, one has a column of its own, one is big-endian."""
    path = stores.write_store(tmp_path / "s.zarr")
    group = zarr.open_group(path, mode="a")["sdss_lc"]
    record = stores.light_curve_record(66)
    no_z = [n for n in record.dtype.names if not n.endswith("_z")]
    extra = np.dtype([*record.dtype.descr, ("seeing_g", ">f4"), ("camcol", ">i2")])
    wider = np.zeros(2, extra)
    for n in record.dtype.names:
        wider[n] = record[n]
    wider["camcol"] = -99, 4
    for key, values in (("70", record[no_z]), ("80", wider), ("90", record)):
        values = np.array(values.tolist(), [(n, values.dtype[n]) for n in values.dtype.names])
        group.create_array(key, data=values)
    with agn.open_training_set(path) as ts:
        frame = ts.light_curves([66, 70, 80, 90, 3])
        expected = one_by_one(ts, [66, 70, 80, 90, 3])
        only = ts.light_curves([80], bands="g", columns=["camcol", "seeing"])
        with pytest.raises(agn.UnknownBandError, match="No band 'z'; this light curve has u, g, r, i"):
            ts.light_curves([66, 70], bands=["z"])
        with pytest.raises(agn.UnknownColumnError, match="No column 'camcol' in a light curve"):
            ts.light_curves([80, 66], columns=["camcol"])
    pd.testing.assert_frame_equal(frame, expected)
    assert frame.query("train_id == 70")["band"].unique().tolist() == list("ugri")
    assert only["camcol"].isna().sum() == 1
    assert only["camcol"].dropna().tolist() == [4]


def test_unknown_ids_and_columns_are_told(small_store):
    with agn.open_training_set(small_store) as ts:
        with pytest.raises(agn.UnknownTrainIdError, match=r"No light curve with train_id 5 .* 3, 4, 10, 66"):
            ts.light_curves([0, 5])
        with pytest.raises(agn.UnknownTrainIdError, match=r"whole number, not 0\.5"):
            ts.light_curves([0.5])
        with pytest.raises(agn.UnknownColumnError, match=r"No column 'psfmag' .* Did you mean"):
            ts.light_curves([0], columns=["psfmag"])
        with pytest.raises(agn.InvalidValueError, match="batch=0 is not a number of light curves"):
            next(ts.iter_light_curves(batch=0))
        many = ts.light_curves([0])
    with pytest.raises(agn.ClosedError, match="is closed"):
        ts.light_curves([0])
    assert len(many) == 300


def test_progress_bar_only_where_asked(small_store, capsys):
    with agn.open_training_set(small_store) as ts:
        ts.light_curves()
        assert capsys.readouterr().err == ""
        ts.light_curves(progress=True)
    assert "light curves: 100%" in capsys.readouterr().err


def test_peak_memory_is_little_more_than_the_frame(tmp_path):
    """At most 1.6 times what is returned, counted by Python itself."""
    ids = range(1, 1501)
    path = stores.write_store(tmp_path / "s.zarr", ids=())
    stores.copy_light_curve(path, stores.light_curve_record(0, 60), ids)
    with agn.open_training_set(path) as ts:
        ts.light_curves([1, 2])
        tracemalloc.start()
        frame = ts.light_curves()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert len(frame) == 1500 * 60 * 5
    assert peak <= 1.6 * frame.memory_usage().sum()


@pytest.mark.parametrize("scheduler", ["sync", "threads", "processes"])
def test_dask_reads_the_same(any_store, scheduler):
    with agn.open_training_set(any_store) as ts:
        lazy = ts.to_dask([66, 3, 4, 0], bands="rg", columns=["mag", "run"], batch=3)
        expected = ts.light_curves([66, 3, 4, 0], "rg", ["mag", "run"])
    pd.testing.assert_series_equal(lazy.dtypes, expected.dtypes)
    parts = [lazy.get_partition(i).compute(scheduler=scheduler) for i in range(lazy.npartitions)]
    assert [p["train_id"].unique().tolist() for p in parts] == [[66, 3], [0]]
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), expected)


def test_dask_reads_the_columns_that_it_uses(small_store, tmp_path):
    copy = agn.pack_store(small_store, tmp_path / "p.zarr")
    with agn.open_training_set(copy) as ts:
        expected = ts.light_curves(bands="g")
        lazy = ts.to_dask(bands="g", batch=2)
    for path in (copy / "sdss_lc" / "columns").iterdir():  # what is not needed is not missed
        if path.is_dir() and path.name not in ("mjd_g", "psfmag_g"):
            (path / "c" / "0").unlink()
    std = lazy.groupby("train_id")["mag"].std().compute(scheduler="sync")
    pd.testing.assert_series_equal(std.sort_index(), expected.groupby("train_id")["mag"].std())
    assert len(lazy[["mag"]].compute(scheduler="sync")) == len(expected)


def test_dask_of_nothing_and_of_errors(small_store):
    with agn.open_training_set(small_store) as ts:
        assert len(ts.to_dask([]).compute(scheduler="sync")) == 0
        with pytest.raises(agn.UnknownTrainIdError, match="No light curve with train_id 5"):
            ts.to_dask([5]).compute(scheduler="sync")
        with pytest.raises(agn.UnknownColumnError, match="No column 'psfmag'"):
            ts.to_dask(columns=["psfmag"])
        with pytest.raises(agn.InvalidValueError, match="batch=0"):
            ts.to_dask(batch=0)


def test_shared_stores_in_one_frame(shared_store):
    with agn.open_training_set(shared_store) as ts:
        ids = ts.light_curve_ids()
        pd.testing.assert_frame_equal(ts.light_curves(), one_by_one(ts, ids))
