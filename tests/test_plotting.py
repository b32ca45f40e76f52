"""Pictures of light curves: what is drawn, and that nothing else is touched."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import agn_helpers as agn
from agn_helpers.columns import BANDS


@pytest.fixture
def frame():
    """Two bands, one missing magnitude, one missing time, one marked outlier."""
    return pd.DataFrame(
        {
            "band": pd.Categorical(list("gggrrr"), BANDS, ordered=True),
            "mjd": [51000.0, 51001.0, 51002.0, 51000.1, np.nan, 51002.1],
            "mag": [19.0, np.nan, 19.2, 18.0, 18.1, 21.0],
            "magerr": 0.05,
            "outlier": [False, False, False, False, False, True],
        }
    )


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def drawn(ax):
    """Points of each series by its label."""
    return {c.get_label(): c.lines[0].get_xydata().tolist() for c in ax.containers}


def test_every_measurement_is_drawn_once_and_outliers_apart(frame, ax):
    assert agn.plot_light_curve(frame, ax) is ax
    assert drawn(ax) == {
        "g": [[51000.0, 19.0], [51002.0, 19.2]],
        "r": [[51000.1, 18.0]],
        "marked": [[51002.1, 21.0]],
    }


def test_colour_and_marker_tell_the_bands_apart(frame, ax):
    agn.plot_light_curve(frame, ax)
    lines = {c.get_label(): c.lines[0] for c in ax.containers}
    for band in "gr":
        assert lines[band].get_color() == agn.BAND_COLOURS[band]
        assert lines[band].get_marker() == agn.BAND_MARKERS[band]
    assert lines["marked"].get_markerfacecolor() == "none"
    assert len(set(agn.BAND_COLOURS.values())) == len(set(agn.BAND_MARKERS.values())) == 5


def test_the_legend_names_each_band_once_and_marked_points_once(frame, ax):
    agn.plot_light_curve(frame.assign(outlier=[True, False, False, True, False, False]), ax)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["g", "r", "marked"]


def test_error_bars_are_the_errors(frame, ax):
    agn.plot_light_curve(frame, ax, bands=["g"])
    bars = ax.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose([b[:, 1] for b in bars], [[18.95, 19.05], [19.15, 19.25]])


def test_bright_is_up_also_when_drawn_twice(frame, ax):
    agn.plot_light_curve(frame, ax)
    agn.plot_light_curve(frame, ax)
    assert ax.yaxis_inverted()


@pytest.mark.parametrize(
    ("y", "label"),
    [
        ("mag", "PSF magnitude (mag)"),
        ("dmag", "magnitude minus its band's middle (mag)"),
        ("dered", "dered (mag)"),
    ],
)
def test_axes_carry_names_and_units(frame, ax, y, label):
    agn.plot_light_curve(frame.assign(dmag=0.1, dered=18.0), ax, y=y)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("MJD (days)", label)


def test_an_empty_light_curve_is_an_empty_picture(frame, ax):
    agn.plot_light_curve(frame.iloc[:0], ax)
    assert not any(drawn(ax).values())


def test_errors_may_be_absent(frame, ax):
    agn.plot_light_curve(frame.drop(columns=["magerr", "outlier"]), ax)
    assert len(drawn(ax)["r"]) == 2


def test_neither_frame_nor_style_is_changed(frame):
    before, style = frame.copy(deep=True), dict(mpl.rcParams)
    ax = agn.plot_light_curve(frame)
    plt.close(ax.figure)
    pd.testing.assert_frame_equal(frame, before)
    assert dict(mpl.rcParams) == style


def test_what_cannot_be_drawn_is_said(frame, ax):
    with pytest.raises(agn.UnknownBandError, match="No band 'u'; this light curve has g, r"):
        agn.plot_light_curve(frame, ax, bands=["u"])
    with pytest.raises(agn.UnknownColumnError, match="No column 'flux'"):
        agn.plot_light_curve(frame, ax, y="flux")
