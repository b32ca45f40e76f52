"""Light curves: long and wide, marked outliers, merged bands."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import agn_helpers as agn
from agn_helpers.columns import BANDS
from agn_helpers.sample import damped_random_walk

# Few distinct values, so that ties, sentinels and NaN meet often.
VALUES = st.sampled_from([-99.0, np.nan, -99.99, 0.0, 17.5, 19.25, 51075.3, 52000.0])
STEMS = ["psfmag", "psfmagerr", "mjd", "offsetRa", "airmass", "dered"]


@st.composite
def records(draw):
    """A stored light curve: some bands, some quantities, one of them not in every band."""
    bands = draw(st.lists(st.sampled_from(BANDS), min_size=1, unique=True))
    stems = ["mjd", *draw(st.lists(st.sampled_from(STEMS), unique=True))]
    fields = [("run", "i8")] if draw(st.booleans()) else []
    for stem in dict.fromkeys(stems):
        fields += [(f"{stem}_{b}", "f8") for b in bands if not (stem == "offsetRa" and b == "r")]
    record = np.zeros(draw(st.integers(1, 8)), dtype=fields)
    for name, kind in fields:
        elements = VALUES if kind == "f8" else st.sampled_from([-99, 0, 94])
        record[name] = draw(hnp.arrays(kind, len(record), elements=elements))
    return record


@given(records(), st.integers(0, 10**6))
def test_wide_is_the_inverse_of_long(record, train_id):
    wide = agn.to_wide(agn.to_long(record, train_id))
    assert wide.index.tolist() == [(train_id, epoch) for epoch in range(len(record))]
    for name in record.dtype.names:
        expected = record[name].astype("f8")
        if not name.startswith(("offset", "airmass")):  # there, -99 is a number like any other
            expected[expected == -99] = np.nan
        np.testing.assert_array_equal(wide[name].to_numpy("f8", na_value=np.nan), expected)
    # What a band lacks is NaN there, as in the long form.
    assert wide[[c for c in wide if c not in record.dtype.names]].isna().all(axis=None)


@given(records(), st.randoms(use_true_random=False))
def test_wide_does_not_depend_on_the_order_of_rows(record, random):
    long = agn.to_long(record, 1)
    order = list(range(len(long)))
    random.shuffle(order)
    # Only the order of columns that no rule fixes may follow the rows, and it does not.
    pd.testing.assert_frame_equal(agn.to_wide(long.iloc[order]), agn.to_wide(long))


def test_wide_keeps_the_columns_order_of_the_store(small_store):
    with agn.open_training_set(small_store) as ts:
        names = ts.raw_light_curve(0).dtype.names
        wide = agn.to_wide(ts.light_curve(0))
    assert [c for c in wide if c in names] == list(names)


def test_wide_takes_many_quasars_and_columns_of_your_own(small_store):
    with agn.open_training_set(small_store) as ts:
        long = pd.concat([ts.light_curve(i, bands=["g", "r"]) for i in (100, 66)], ignore_index=True)
    wide = agn.to_wide(agn.clip_outliers(long))
    assert wide.index.get_level_values("train_id").unique().tolist() == [66, 100]
    assert wide["outlier_g"].dtype == "boolean"
    assert len(wide) == 27


def test_wide_fills_what_was_dropped():
    record = np.zeros(2, dtype=[("mjd_g", "f8"), ("psfmag_g", "f8"), ("mjd_r", "f8"), ("psfmag_r", "f8")])
    record["psfmag_g"] = record["psfmag_r"] = [19.0, 20.0]
    long = agn.clip_outliers(agn.to_long(record, 5))
    wide = agn.to_wide(long.drop(index=0))
    assert wide["psfmag_g"].tolist()[1] == 20.0
    assert np.isnan(wide["psfmag_g"].iloc[0])
    assert wide["outlier_g"].isna().tolist() == [True, False]


def test_wide_refuses_a_measurement_that_is_there_twice():
    record = np.zeros(1, dtype=[("mjd_g", "f8"), ("psfmag_g", "f8")])
    long = agn.to_long(record, 66)
    with pytest.raises(agn.InvalidValueError, match="train_id 66, epoch 0, band g is in this frame more"):
        agn.to_wide(pd.concat([long, long]))


def test_wide_says_which_column_it_misses():
    with pytest.raises(agn.UnknownColumnError, match="No column 'epoch'"):
        agn.to_wide(pd.DataFrame({"train_id": [1], "band": ["g"]}))


# -- clip_outliers ---------------------------------------------------------------------------------


def quiet(n, bad=(), size=3.0, **columns):
    """A light curve of `n` nights with errors of 0.02 mag and outliers of `size` mag at `bad`."""
    mag = 19 + 0.02 * np.random.default_rng([3, n]).standard_normal(n)
    mag[list(bad)] += size
    return pd.DataFrame({"band": "g", "mjd": np.arange(float(n)), "mag": mag, "magerr": 0.02} | columns)


def found(frame, **options):
    return np.flatnonzero(agn.clip_outliers(frame, **options)["outlier"]).tolist()


@pytest.mark.parametrize("size", [-0.5, 0.5, 3.0])
@pytest.mark.parametrize("n", [6, 11, 40])
def test_an_outlier_is_found_wherever_it_stands(n, size):
    for at in range(n):
        assert found(quiet(n, [at], size)) == [at]


def test_two_and_three_bad_nights_in_a_row_are_found_wherever_they_stand():
    for at in range(39):
        assert found(quiet(40, [at, at + 1])) == [at, at + 1]
    for at in range(38):
        assert found(quiet(40, [at, at + 1, at + 2])) == [at, at + 1, at + 2]


def test_bad_first_and_last_nights_do_not_protect_each_other():
    assert found(quiet(30, [0, 29])) == [0, 29]
    assert found(quiet(30, [0, 1, 28, 29])) == [0, 1, 28, 29]


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_too_few_nights_to_judge(n):
    frame = quiet(n, [n - 1] if n else [])
    assert found(frame) == []
    assert found(frame, threshold=1e-9) == []
    assert agn.clip_outliers(frame)["outlier"].dtype == bool


def test_four_nights_are_enough():
    assert found(quiet(4, [2])) == [2]


@pytest.mark.parametrize("hole", [np.nan, -99.0])
@pytest.mark.parametrize("column", ["mag", "mjd"])
def test_missing_values_are_neither_marked_nor_protect_an_outlier(hole, column):
    frame = quiet(40, [20])
    frame.loc[[3, 19, 21, 30], column] = hole
    assert found(frame) == [20]


@pytest.mark.parametrize("hole", [np.nan, -99.0])
def test_a_missing_error_does_not_count(hole):
    frame = quiet(40, [20])
    frame["magerr"] = hole
    assert found(frame) == [20]
    assert found(frame.drop(columns="magerr")) == [20]


def test_a_large_error_excuses_a_large_difference():
    frame = quiet(40, [20])
    frame.loc[20, "magerr"] = 1.0
    assert found(frame) == []


def test_equal_magnitudes_are_no_outliers():
    assert found(quiet(20, mag=19.0, magerr=0.0)) == []


def test_a_steady_rise_is_not_marked_but_a_jump_off_it_is():
    rise = 19 + 0.1 * np.arange(40)
    assert found(quiet(40, mag=rise)) == []
    rise[[0, 20, 39]] += 3
    assert found(quiet(40, mag=rise)) == [0, 20, 39]


def test_quasars_and_bands_are_judged_apart():
    parts = [
        quiet(20, [5]).assign(train_id=1),
        quiet(20, [7]).assign(train_id=1, band="r", mag=lambda f: f["mag"] + 5),
        quiet(20, [9]).assign(train_id=2, mag=lambda f: f["mag"] - 5),
    ]
    together = pd.concat(parts, ignore_index=True).sample(frac=1, random_state=1)
    apart = pd.concat([agn.clip_outliers(p) for p in parts], ignore_index=True)
    marked = agn.clip_outliers(together)
    assert marked.index.tolist() == together.index.tolist()
    assert sorted(marked.index[marked["outlier"]]) == np.flatnonzero(apart["outlier"]).tolist() == [5, 27, 49]


def test_millions_of_rows_are_taken_in_steps(monkeypatch):
    frame = pd.concat([quiet(40, [i]).assign(train_id=i) for i in range(30)])
    whole = found(frame)
    monkeypatch.setattr(agn.lightcurves, "STEP", 7)
    assert found(frame) == whole == [41 * i for i in range(30)]


@st.composite
def frames(draw):
    n = draw(st.integers(0, 40))
    mags = st.one_of(VALUES, st.floats(14, 24))
    return pd.DataFrame(
        {
            "train_id": draw(hnp.arrays("i8", n, elements=st.integers(1, 2))),
            "band": pd.Categorical(
                draw(st.lists(st.sampled_from("gr"), min_size=n, max_size=n)), BANDS, True
            ),
            "mjd": draw(hnp.arrays("f8", n, elements=st.one_of(VALUES, st.floats(51000, 54500)))),
            "mag": draw(hnp.arrays("f8", n, elements=mags)),
            "magerr": 0.02,
        },
        index=pd.Index(draw(st.permutations(range(n))), dtype="int64"),
    )


@given(frames(), st.floats(0.5, 10), st.integers(2, 12))
def test_clip_marks_a_copy_and_nothing_else(frame, threshold, window):
    before = frame.copy(deep=True)
    marked = agn.clip_outliers(frame, threshold=threshold, window=window)
    pd.testing.assert_frame_equal(frame, before)
    pd.testing.assert_frame_equal(marked.drop(columns="outlier"), before)
    missing = (
        ~np.isfinite(before["mag"])
        | (before["mag"] == -99)
        | ~np.isfinite(before["mjd"])
        | (before["mjd"] == -99)
    )
    assert not marked.loc[missing, "outlier"].any()
    again = agn.clip_outliers(marked, threshold=threshold, window=window)
    pd.testing.assert_frame_equal(again, marked)


@given(frames(), st.randoms(use_true_random=False))
def test_clip_does_not_depend_on_the_order_of_rows(frame, random):
    frame = frame.drop_duplicates(["train_id", "band", "mjd", "mag"])  # twins cannot be told apart
    order = list(range(len(frame)))
    random.shuffle(order)
    shuffled = agn.clip_outliers(frame.iloc[order])
    pd.testing.assert_frame_equal(shuffled.loc[frame.index], agn.clip_outliers(frame))


@given(frames())
@settings(max_examples=50)
def test_a_higher_threshold_never_marks_more(frame):
    low, high = (agn.clip_outliers(frame, threshold=t)["outlier"] for t in (2.0, 4.0))
    assert not (high & ~low).any()


def walks(sf_inf, size, n=200, seed=5):
    """Quasars that vary as damped random walks on Stripe 82's seasons; one night in 20 is bad."""
    rng = np.random.default_rng([seed, int(1000 * sf_inf)])
    frames = []
    for i in range(n):
        season = np.repeat(np.arange(10), [1, 1, 1, 4, 4, 5, 5, 13, 12, 9])
        mjd = np.sort(51075 + 365.25 * season + rng.uniform(0, 90, season.size))
        mag = 19 + damped_random_walk(mjd, 300.0, sf_inf, rng) + 0.03 * rng.standard_normal(mjd.size)
        bad = rng.random(mjd.size) < 0.05
        mag = mag + size * bad * rng.choice([-1, 1], mjd.size)
        frames.append(
            pd.DataFrame({"train_id": i, "band": "g", "mjd": mjd, "mag": mag, "magerr": 0.03, "bad": bad})
        )
    frame = agn.clip_outliers(pd.concat(frames, ignore_index=True))
    return frame.loc[frame["bad"], "outlier"].mean(), frame.loc[~frame["bad"], "outlier"].mean()


@pytest.mark.parametrize(
    ("sf_inf", "size", "recall", "false_alarms"),
    [(0.1, 1.0, 0.99, 0.005), (0.2, 1.0, 0.97, 0.008), (0.4, 1.0, 0.85, 0.01), (0.4, 2.0, 0.97, 0.01)],
)
def test_what_the_clip_finds_and_what_it_costs_on_quasars(sf_inf, size, recall, false_alarms):
    hit, alarm = walks(sf_inf, size)
    assert hit >= recall
    assert alarm <= false_alarms


@pytest.mark.parametrize("options", [{"threshold": 0}, {"threshold": np.nan}, {"window": 1}])
def test_clip_refuses_senseless_options(options):
    with pytest.raises(agn.InvalidValueError, match="both must be positive"):
        agn.clip_outliers(quiet(5), **options)


def test_clip_says_which_column_it_misses():
    with pytest.raises(agn.UnknownColumnError, match="No column 'mag'"):
        agn.clip_outliers(quiet(5).drop(columns="mag"))


# -- merge_bands -----------------------------------------------------------------------------------


def two_bands():
    return pd.DataFrame(
        {
            "train_id": 7,
            "band": pd.Categorical(list("gggrrr"), BANDS, ordered=True),
            "mjd": [1.0, 3.0, 5.0, 2.0, 4.0, 6.0],
            "mag": [19.0, 19.5, 21.0, 18.0, 18.25, 19.25],
        }
    )


@pytest.mark.parametrize("how", ["median", "mean"])
def test_each_band_is_centred_and_rows_are_in_time_order(how):
    frame = two_bands()
    merged = agn.merge_bands(frame, how)
    assert merged["mjd"].tolist() == [1, 2, 3, 4, 5, 6]
    assert merged.groupby("band", observed=True)["dmag"].agg(how).abs().max() < 1e-12
    assert "dmag" not in frame
    assert merged.loc[merged["band"] == "g", "mag"].tolist() == [19.0, 19.5, 21.0]


def test_marked_rows_stay_but_do_not_count():
    frame = two_bands().assign(outlier=[False, False, True, False, False, False])
    merged = agn.merge_bands(frame, "mean")
    assert merged.loc[merged["mjd"] == 5, "dmag"].item() == 21.0 - 19.25


@pytest.mark.parametrize("hole", [np.nan, -99.0])
def test_missing_magnitudes_do_not_count(hole):
    frame = two_bands()
    frame.loc[2, "mag"] = hole
    merged = agn.merge_bands(frame, "mean")
    assert np.isnan(merged.loc[merged["mjd"] == 5, "dmag"].item())
    assert merged.loc[merged["mjd"] == 1, "dmag"].item() == -0.25


def test_quasars_are_merged_apart():
    other = two_bands().assign(train_id=3, mag=lambda f: f["mag"] + 2)
    merged = agn.merge_bands(pd.concat([two_bands(), other]))
    assert merged["train_id"].tolist() == [3] * 6 + [7] * 6
    assert merged["dmag"].tolist()[:6] == merged["dmag"].tolist()[6:]


def test_only_the_chosen_bands_are_merged():
    assert agn.merge_bands(two_bands(), bands=["r"])["band"].tolist() == ["r"] * 3
    with pytest.raises(agn.UnknownBandError, match="No band 'u'; this light curve has g, r"):
        agn.merge_bands(two_bands(), bands=["u"])


def test_an_empty_light_curve_merges_to_nothing():
    merged = agn.merge_bands(two_bands().iloc[:0])
    assert merged.empty
    assert "dmag" in merged


def test_merge_refuses_another_way():
    with pytest.raises(agn.InvalidValueError, match="how='mode' is not a way"):
        agn.merge_bands(two_bands(), how="mode")


@pytest.mark.parametrize("n", [0, 1, 2])
def test_short_light_curves_pass_through_everything(n, small_store):
    with agn.open_training_set(small_store) as ts:
        long = ts.light_curve({0: 4, 1: 10, 2: 66}[n])
    assert len(long) == 5 * n
    assert not agn.clip_outliers(long)["outlier"].any()
    assert len(agn.merge_bands(long)) == 5 * n
    assert len(agn.to_wide(long)) == n


def test_equal_times_are_judged_the_same_in_any_order():
    rng = np.random.default_rng(8)
    frame = quiet(40, [3, 20, 38], 0.15, mjd=np.arange(40) // 8.0)
    marked = agn.clip_outliers(frame, threshold=1, window=4)["outlier"]
    assert marked.any()
    for _ in range(20):
        again = agn.clip_outliers(frame.iloc[rng.permutation(40)], threshold=1, window=4)["outlier"]
        assert again.sort_index().tolist() == marked.tolist()
