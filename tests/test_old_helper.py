"""What was wrong with the 2020 way to read and clean a light curve, and that ours is not.

`recipe` and `read` do what the helper of 2020 did, in our own words. Each test shows one defect of it on
a light curve for which the right answer is plain, and then that answer from `agn_helpers`.
"""

import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from astropy.time import Time
from erfa import ErfaWarning

import agn_helpers as agn


def recipe(mag):
    """Return which magnitudes of one band, in time order, the 2020 recipe cut."""
    mag, n = np.asarray(mag, dtype=float), len(mag)
    centre = mag.copy()
    for i in range(1, n - 2):  # never reaches the last but one
        centre[i] = np.median(mag[i - 1 : i + 2])
    centre[0] = np.median([mag[-1], mag[0], mag[1]])  # first beside last
    centre[-1] = np.median([mag[-2], mag[-1], mag[0]])
    scatter, times = np.std(mag), 3.0  # of all that is there, -99 too
    while True:
        cut = np.abs(mag - centre) > times * scatter
        if not cut.any() or cut.mean() < 0.1:
            return cut
        times += 0.1


def read(record):
    """Return a stored light curve as the 2020 helper did: wide, by the time in u, all -99.0 made NaN."""
    frame = pd.DataFrame(record).sort_values("mjd_u")
    frame["date_u"] = Time(frame["mjd_u"].to_numpy(), format="mjd").datetime
    return frame.replace(-99.0, np.nan)


def ours(mag, **columns):
    frame = pd.DataFrame({"band": "g", "mjd": np.arange(float(len(mag))), "mag": mag} | columns)
    return agn.clip_outliers(frame)["outlier"].to_numpy()


def quiet(n, bad=(), size=3.0):
    mag = 19 + 0.02 * np.random.default_rng(n).standard_normal(n)
    mag[list(bad)] += size
    return mag


def where(mask):
    return np.flatnonzero(mask).tolist()


def stored(mjd, mag, **columns):
    record = np.zeros(
        len(mjd), dtype=[("mjd_u", "f8"), ("mjd_g", "f8"), ("psfmag_g", "f8"), ("offsetRa_g", "f8")]
    )
    record["mjd_u"] = record["mjd_g"] = mjd
    record["psfmag_g"] = mag
    for name, values in columns.items():
        record[name] = values
    return record


def test_the_last_but_one_epoch_was_its_own_median():
    missed = [i for i in range(40) if not recipe(quiet(40, [i]))[i]]
    assert missed == [38]
    assert [i for i in range(40) if not ours(quiet(40, [i]))[i]] == []


def test_with_ten_epochs_or_fewer_nothing_was_ever_cut():
    found = [n for n in range(6, 16) if recipe(quiet(n, [3], 5.0))[3]]
    assert found == list(range(11, 16))
    assert all(where(ours(quiet(n, [3], 5.0), magerr=0.02)) == [3] for n in range(6, 16))


def test_the_rising_threshold_kept_the_worse_for_the_better_half():
    bad = [3, 9, 15, 21, 27, 33]
    mag = quiet(40, bad)
    mag[33] += 2
    assert len(where(recipe(mag))) < len(bad)
    assert where(ours(mag)) == bad


@pytest.mark.parametrize("n", [0, 1])
def test_no_epoch_or_one_was_an_error(n):
    with pytest.raises(IndexError, match="out of bounds"):
        recipe(quiet(n))
    assert where(ours(quiet(n))) == []


def test_one_rejected_epoch_protected_the_outlier():
    mag = quiet(40, [20])
    mag[5] = -99.0
    assert not recipe(mag)[20]
    assert where(ours(mag)) == [20]


def test_one_nan_switched_the_cut_off():
    mag = quiet(40, [20])
    mag[5] = np.nan
    assert where(recipe(mag)) == []
    assert where(ours(mag)) == [20]


def test_the_cut_wrote_into_the_callers_values():
    frame = pd.DataFrame({"band": "g", "mjd": np.arange(40.0), "mag": quiet(40, [20])})
    values = frame["mag"].to_numpy(copy=False)
    values.flags.writeable = False  # as pandas 3 hands them out
    with pytest.raises(ValueError, match="read-only"):
        values[recipe(values)] = -99
    before = frame.copy(deep=True)
    marked = agn.clip_outliers(frame)
    assert where(marked["outlier"]) == [20]
    pd.testing.assert_frame_equal(frame, before)


def test_first_and_last_night_vouched_for_each_other():
    mag = quiet(40, [0, 39])
    assert where(recipe(mag)) == []
    assert where(ours(mag)) == [0, 39]


def test_years_apart_counted_as_neighbours():
    # One bright first night; the quasar had faded ten years later, so the last night cannot judge it.
    def faded(jump):
        mag = quiet(40) + np.where(np.arange(40) < 20, 0.0, 3.0)
        mag[0] += jump
        return mag

    assert not recipe(faded(1.0))[0]  # between its two "neighbours", 19 and 22
    assert where(ours(faded(1.0))) == [0]


def test_two_bad_nights_in_a_row_survived():
    mag = quiet(40, [20, 21])
    assert where(recipe(mag)) == []
    assert where(ours(mag)) == [20, 21]


def test_the_more_a_quasar_varied_the_less_was_cut():
    slow = 0.5 * np.sin(np.arange(60) / 8)
    assert recipe(quiet(60, [30], 0.8))[30]
    assert not recipe(quiet(60, [30], 0.8) + slow)[30]
    assert where(ours(quiet(60, [30], 0.8) + slow)) == [30]


def test_errors_were_not_asked():
    mag = quiet(60, [30], 0.5)
    assert recipe(mag)[30]
    magerr = np.where(np.arange(60) == 30, 0.5, 0.02)  # one sigma off
    assert where(ours(mag, magerr=magerr)) == []


def test_cut_and_missing_looked_the_same():
    record = stored(51000.0 + np.arange(40), quiet(40, [20]))
    record["psfmag_g"][5] = -99
    old = read(record)
    old.loc[recipe(old["psfmag_g"].fillna(19)), "psfmag_g"] = np.nan
    assert old["psfmag_g"].isna().sum() == 2  # which of them was never measured?
    new = agn.clip_outliers(agn.to_long(record, 1, bands=["g"]))
    assert (where(new["outlier"]), where(new["mag"].isna())) == ([20], [5])


def test_all_bands_were_put_in_the_order_of_u():
    record = stored([51000.0, 52000.0, 53000.0], [19.0, 19.1, 19.2], mjd_u=[51000.0, -99.0, 53000.0])
    with pytest.warns(ErfaWarning, match="dubious year"):
        old = read(record)
    assert old["mjd_g"].tolist() == [52000.0, 51000.0, 53000.0]  # no measurement in u came first
    assert agn.to_long(record, 1, bands=["g"])["mjd"].tolist() == [51000.0, 52000.0, 53000.0]


def test_a_missing_time_became_a_date_in_1858():
    record = stored([-99.0, 51000.0], [19.0, 19.1])
    with pytest.warns(ErfaWarning, match="dubious year"):
        assert read(record)["date_u"].dt.year.min() == 1858
    mjd = agn.to_long(record, 1, bands=["g"])["mjd"]
    assert mjd.isna().sum() == 1
    assert Time(mjd.dropna().to_numpy(), format="mjd", scale="tai").datetime[0].year == 1998


def test_a_true_minus_99_was_erased():
    record = stored([51000.0], [19.0], offsetRa_g=[-99.0])
    assert np.isnan(read(record)["offsetRa_g"].item())
    assert agn.to_long(record, 1, bands=["g"])["offsetRa"].tolist() == [-99.0]


def test_plot_functions_did_not_plot(small_store):
    with agn.open_training_set(small_store) as ts:
        ax = agn.plot_light_curve(ts.light_curve(0))
    assert len(ax.containers) == 5
    plt.close(ax.figure)


def test_importing_changed_the_look_of_every_figure():
    code = (
        "import matplotlib as m, copy; a = copy.deepcopy(dict(m.rcParams)); import agn_helpers;"
        "import agn_helpers.plotting; raise SystemExit(a != dict(m.rcParams))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
