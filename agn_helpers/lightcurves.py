"""One stored record array becomes one tidy light curve, one row per measurement, and back."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from agn_helpers.columns import BANDS, MISSING_INTEGER, MISSING_MAGNITUDE, check_bands

__all__ = ["bands_of", "to_long"]

RENAMED = {"psfmag": "mag", "psfmagerr": "magerr"}
"""Stored name, without its band, to the name in the long form."""

# -99 marks a rejected epoch in these; in an offset (arcsec) it would be a number like any other.
SENTINEL_IN = ("psfmag", "psfmagerr", "dered", "mjd", "modelmag", "modelmagerr")

BAND_DTYPE = pd.CategoricalDtype(BANDS, ordered=True)


def bands_of(record: npt.NDArray[Any]) -> list[str]:
    """Return the bands in which a stored light curve has times, from blue to red."""
    names = record.dtype.names or ()
    return [b for b in BANDS if f"mjd_{b}" in names]


def _stems(names: Iterable[str], bands: Iterable[str]) -> list[str]:
    """Return the quantities that exist per band, in stored order: psfmag, psfmagerr, mjd ..."""
    ends = tuple(f"_{b}" for b in bands)
    return list(dict.fromkeys(n[:-2] for n in names if n.endswith(ends)))


def to_long(record: npt.NDArray[Any], train_id: int, bands: Iterable[str] | None = None) -> pd.DataFrame:
    """Turn one stored light curve into one row per measurement, in time order within each band.

    The store keeps one row per night with five bands side by side, each with its own time. Nearly
    everything that one does next (plot, group, fit) wants one time, one magnitude and one band per
    row. All rows stay: a rejected measurement has NaN in place of -99, it is not dropped.

    Parameters
    ----------
    record : numpy.ndarray
        Structured array as `TrainingSet.raw_light_curve` returns it, one row per epoch.
    train_id : int
        Goes into the column of this name.
    bands : iterable of str, optional
        Bands to keep; all by default.

    Returns
    -------
    pandas.DataFrame
        ``train_id`` (int64), ``epoch`` (int64, row number in `record`), ``band`` (ordered categorical,
        u < g < r < i < z), ``mjd`` (float, days), ``mag`` and ``magerr`` (float, mag), then what else
        the store has per band (``offsetRa``, ``offsetDec`` in arcsec, ``airmass``, ``dered`` in mag) and
        per epoch (``run``, Int64). A quantity that a band lacks is NaN there.

    Raises
    ------
    UnknownBandError
        If one of `bands` is not in this light curve.

    Examples
    --------
    >>> stored = np.array([(51075.3, 19.1, 51075.31, 18.7), (51074.2, -99.0, 51074.21, 18.8)],
    ...     dtype=[("mjd_g", "f8"), ("psfmag_g", "f8"), ("mjd_r", "f8"), ("psfmag_r", "f8")])
    >>> to_long(stored, train_id=66)
       train_id  epoch band       mjd   mag
    0        66      1    g  51074.20   NaN
    1        66      0    g  51075.30  19.1
    2        66      1    r  51074.21  18.8
    3        66      0    r  51075.31  18.7
    """
    names = record.dtype.names or ()
    chosen = check_bands(bands, bands_of(record))
    chosen.sort(key=BANDS.index)
    n = len(record)
    stems = _stems(names, BANDS)
    values: dict[str, npt.NDArray[np.float64]] = {}
    for stem in stems:
        out = np.full(n * len(chosen), np.nan)
        for i, band in enumerate(chosen):
            if f"{stem}_{band}" in names:
                out[i * n : (i + 1) * n] = record[f"{stem}_{band}"]
        if stem in SENTINEL_IN:
            out[out == MISSING_MAGNITUDE] = np.nan
        values[stem] = out
    codes = np.repeat(np.array([BANDS.index(b) for b in chosen], dtype=np.int8), n)
    # lexsort puts NaN last; the epoch decides between equal times, so the order is always the same.
    order = np.lexsort((values["mjd"], codes)) if "mjd" in values else np.arange(n * len(chosen))
    epoch = np.tile(np.arange(n), len(chosen))[order]
    columns: dict[str, Any] = {
        "train_id": np.full(n * len(chosen), train_id, dtype=np.int64),
        "epoch": epoch,
        "band": pd.Categorical.from_codes(codes[order], dtype=BAND_DTYPE, validate=False),
    }
    first = [s for s in ("mjd", "psfmag", "psfmagerr") if s in values]
    for stem in first + [s for s in stems if s not in first]:
        columns[RENAMED.get(stem, stem)] = values[stem][order]
    for name in names:
        if not (name[-2:-1] == "_" and name[-1] in BANDS):
            whole = record[name][epoch]
            if whole.dtype.kind in "iu":
                whole = pd.arrays.IntegerArray(whole, whole == MISSING_INTEGER)
            columns[name] = whole
    return pd.DataFrame(columns)
