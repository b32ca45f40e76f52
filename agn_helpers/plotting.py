"""Draw: a frame and an axes go in, the axes come out. No style is set, nothing is shown or saved."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pandas as pd

from agn_helpers.columns import BANDS, check_bands, check_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["BAND_COLOURS", "BAND_MARKERS", "plot_light_curve"]

BAND_COLOURS = {"u": "#4477AA", "g": "#228833", "r": "#EE6677", "i": "#AA3377", "z": "#555555"}
"""One colour per band: the "bright" palette of Paul Tol (2021, SRON/EPS/TN/09-002, figure 1), which
people with colour blindness can tell apart; z is darkened for contrast on white."""

BAND_MARKERS = {"u": "v", "g": "s", "r": "o", "i": "D", "z": "^"}
"""One marker per band, so that colour is never the only difference."""


Y_NAMES = {"mag": "PSF magnitude", "dmag": "magnitude minus its band's middle"}


def plot_light_curve(
    frame: pd.DataFrame, ax: "Axes | None" = None, bands: Iterable[str] | None = None, *, y: str = "mag"
) -> "Axes":
    """Draw a light curve: magnitude against time with error bars, one colour and marker per band.

    Brighter is up, as astronomers draw it. Rows with a missing time or magnitude are left out; rows
    with True in a column ``outlier`` are drawn hollow and grey.

    Parameters
    ----------
    frame : pandas.DataFrame
        As `TrainingSet.light_curve` returns it: ``band``, ``mjd`` (days), ``mag``, ``magerr`` (mag).
    ax : matplotlib.axes.Axes, optional
        Where to draw. By default a new figure is made.
    bands : iterable of str, optional
        Bands to draw; all that the frame has by default.
    y : str
        Column to draw, ``"mag"`` by default; ``"dered"`` is corrected for extinction, ``"dmag"`` comes from
        `merge_bands`.

    Returns
    -------
    matplotlib.axes.Axes
        The axes, so that you can add to them.

    Raises
    ------
    UnknownColumnError
        If the frame lacks ``band``, ``mjd`` or `y`.
    UnknownBandError
        If one of `bands` is not in the frame.

    Examples
    --------
    >>> from agn_helpers import open_training_set
    >>> with open_training_set() as training_set:
    ...     ax = plot_light_curve(training_set.light_curve(0), bands=["g", "r"])
    >>> ax.get_xlabel(), bool(ax.yaxis_inverted())
    ('MJD (days)', True)
    """
    from matplotlib import pyplot as plt

    check_names(["band", "mjd", y], frame, "this frame", "Pass what light_curve() returns.")
    present = [b for b in BANDS if (frame["band"] == b).any()]
    chosen = check_bands(bands, present if len(frame) else BANDS)
    if ax is None:
        _, ax = plt.subplots(figsize=(8, 4.5), layout="constrained")
    marked = False
    for band in chosen:
        rows = frame[(frame["band"] == band) & frame["mjd"].notna() & frame[y].notna()]
        flagged = rows["outlier"].astype(bool) if "outlier" in rows else pd.Series(False, rows.index)
        for part, outlier in ((rows[~flagged], False), (rows[flagged], True)):
            if outlier and part.empty:
                continue
            ax.errorbar(
                part["mjd"],
                part[y],
                yerr=part.get("magerr"),
                label="_" if marked and outlier else "marked" if outlier else band,
                fmt=BAND_MARKERS[band],
                color="0.5" if outlier else BAND_COLOURS[band],
                markerfacecolor="none" if outlier else None,
                markersize=5 if outlier else 4,
                elinewidth=0.8,
                alpha=0.9,
            )
            marked |= outlier
    ax.set_xlabel("MJD (days)")
    ax.set_ylabel(f"{Y_NAMES.get(y, y)} (mag)")
    if not ax.yaxis_inverted():
        ax.invert_yaxis()
    if chosen:
        entries = zip(*ax.get_legend_handles_labels(), strict=True)
        handles, labels = zip(*sorted(entries, key=lambda e: e[1] == "marked"), strict=True)
        ax.legend(handles, labels, title="band", ncols=len(labels), fontsize="small")
    return ax
