"""One stored record array becomes one tidy light curve, one row per measurement, and back."""

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from agn_helpers.columns import (
    BANDS,
    MISSING_INTEGER,
    MISSING_MAGNITUDE,
    check_bands,
    check_names,
    is_text,
    kind_of,
)
from agn_helpers.errors import InvalidValueError

__all__ = ["clip_outliers", "merge_bands", "to_long", "to_wide"]

RENAMED = {"psfmag": "mag", "psfmagerr": "magerr"}
"""Stored name, without its band, to the name in the long form."""

# -99 marks a rejected epoch in these; in an offset (arcsec) it would be a number like any other.
SENTINEL_IN = ("mag", "magerr", "dered", "mjd", "modelmag", "modelmagerr")

PER_BAND = tuple(f"_{b}" for b in BANDS)

KEYS = ("train_id", "epoch", "band")
"""What tells one measurement from another; always the first columns of the long form."""

TO_SIGMA = 1.4826  # median absolute deviation to the standard deviation of a Gaussian

FEWEST = 4  # of three measurements no two can outvote the third

STEP = 2**17  # rows at a time, so that millions of them need little memory

BAND_DTYPE = pd.CategoricalDtype(BANDS, ordered=True)


def to_long(
    record: npt.NDArray[Any],
    train_id: int,
    bands: Iterable[str] | None = None,
    columns: Iterable[str] | None = None,
) -> pd.DataFrame:
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
    columns : iterable of str, optional
        Columns to keep after ``train_id``, ``epoch`` and ``band``; all by default.

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
    UnknownColumnError
        If one of `columns` is not in it.

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
    whole = (np.array([train_id]), np.array([len(record)]), record)
    return long_frame(record.dtype, [whole], len(record), bands, columns)


def long_plan(
    dtype: np.dtype[Any], bands: Iterable[str] | None, columns: Iterable[str] | None
) -> tuple[list[str], dict[str, str | list[str | None]]]:
    """Return the bands and what each column of the long form is made of.

    That is one stored name for a column that is there once per epoch, else one name per band, None for
    a band that lacks it.
    """
    names = dtype.names or ()
    for name in names:
        if kind_of(dtype[name]) not in ("biuf" if name.endswith(PER_BAND) else "biufMmSU"):
            msg = f"The column {name!r} of a light curve holds {dtype[name]}, not numbers."
            raise InvalidValueError(msg)
    chosen = sorted(check_bands(bands, [b for b in BANDS if f"mjd_{b}" in names]), key=BANDS.index)
    stems = dict.fromkeys(n[:-2] for n in names if n.endswith(PER_BAND))
    first = [s for s in ("mjd", "psfmag", "psfmagerr") if s in stems]
    sources: dict[str, str | list[str | None]] = {}
    for stem in dict.fromkeys([*first, *stems]):
        of_bands = [f"{stem}_{b}" for b in chosen]
        sources[RENAMED.get(stem, stem)] = [n if n in names else None for n in of_bands]
    sources.update({n: n for n in names if not n.endswith(PER_BAND) and n not in KEYS})
    if columns is not None:
        wanted = check_names(columns, [*KEYS, *sources], "a light curve", f"It has {', '.join(sources)}.")
        sources = {c: sources[c] for c in wanted if c not in KEYS}
    return chosen, sources


def long_frame(
    dtype: np.dtype[Any],
    pieces: Iterable[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Any]],
    n_epochs: int,
    bands: Iterable[str] | None = None,
    columns: Iterable[str] | None = None,
) -> pd.DataFrame:
    """Return what `to_long` says, for many light curves of one `dtype` at once.

    Parameters
    ----------
    dtype : numpy.dtype
        Of the stored records.
    pieces : iterable of (ids, lengths, table)
        Some light curves each: their ids, their numbers of epochs, and their epochs end to end, where
        ``table[name]`` is one stored column.
    n_epochs : int
        Sum of all lengths. The columns are made once, at full size: joining parts would take twice the
        memory.
    bands, columns : iterable of str, optional
        As in `to_long`.
    """
    chosen, sources = long_plan(dtype, bands, columns)
    n_bands = len(chosen)
    codes = np.array([BANDS.index(b) for b in chosen], dtype=np.int8)
    out: dict[str, Any] = {k: np.empty(n_epochs * n_bands, np.int64) for k in KEYS[:2]}
    out["band"] = np.empty(n_epochs * n_bands, np.int8)
    for name, source in sources.items():
        kind = dtype[source].newbyteorder("=") if isinstance(source, str) else np.dtype(np.float64)
        out[name] = np.empty(n_epochs * n_bands, kind)
    stop = 0
    for ids, lengths, table in pieces:
        n = int(lengths.sum())
        if not n:
            continue
        here = slice(stop, stop := stop + n * n_bands)
        start = np.repeat(np.cumsum(lengths) - lengths, lengths)
        size = np.repeat(lengths, lengths)
        # Each band's times in order, light curve by light curve, give for each place of the long form
        # where its value stands in (band, epoch).
        take = np.empty(n * n_bands, np.intp)
        inside = np.arange(lengths.max()) < lengths[:, None]
        for i, band in enumerate(chosen):
            grid = np.full(inside.shape, np.nan)
            grid[inside] = _measured("mjd", table[f"mjd_{band}"])
            # A stable sort puts NaN last and leaves equal times as stored, so the order is always the same.
            order = np.argsort(grid, axis=1, kind="stable")[inside] + start
            take[np.arange(n) + (n_bands - 1) * start + i * size] = order + i * n
        row = take % n
        out["train_id"][here] = np.repeat(ids, lengths * n_bands)
        out["epoch"][here] = (np.arange(n) - start)[row]
        out["band"][here] = codes[take // n]
        for name, source in sources.items():
            if isinstance(source, str):
                out[name][here] = table[source][row]
                continue
            values = np.full((n_bands, n), np.nan)
            for i, stored in enumerate(source):
                if stored is not None:
                    values[i] = _measured(name, table[stored])
            np.take(values.ravel(), take, out=out[name][here], mode="clip")  # "raise" would copy
    out["band"] = pd.Categorical.from_codes(out["band"], dtype=BAND_DTYPE, validate=False)
    for name, source in sources.items():
        if isinstance(source, str) and out[name].dtype.kind in "iu":
            out[name] = pd.arrays.IntegerArray(out[name], out[name] == MISSING_INTEGER)
    if broken := [n for n in sources if not is_text(out[n])]:
        raise InvalidValueError(f"A text in the column {broken[0]!r} is none: leave the column out.")
    return pd.DataFrame(out, copy=False)


def _measured(name: str, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return `values` with NaN for the sentinel, where column `name` has one."""
    if name in SENTINEL_IN:
        return np.where(values == MISSING_MAGNITUDE, np.nan, values)
    return values


def to_wide(frame: pd.DataFrame) -> pd.DataFrame:
    """Turn a long light curve back into one row per epoch, with the names that the store uses.

    Use it where bands of one night belong together, for example for a colour. For nearly everything
    else the long form is easier. It is the inverse of `to_long`, with NaN in place of -99.

    Parameters
    ----------
    frame : pandas.DataFrame
        As `to_long` or `TrainingSet.light_curve` return it, of one quasar or of many, columns of your
        own included.

    Returns
    -------
    pandas.DataFrame
        Indexed by ``train_id`` and ``epoch`` (the row number as stored), in this order. Integer and text
        columns (``run``) describe the epoch and stand first, once. All others exist per band: each gives
        one column per band of `frame`, ``psfmag_g`` for ``mag`` and g. A value that no row holds is NaN.

    Raises
    ------
    UnknownColumnError
        If `frame` lacks ``train_id``, ``epoch`` or ``band``.
    InvalidValueError
        If two rows are the same measurement: one band of one epoch of one quasar.

    Examples
    --------
    >>> stored = np.array([(51075.3, 19.1, 51075.31, 18.7), (51074.2, -99.0, 51074.21, 18.8)],
    ...     dtype=[("mjd_g", "f8"), ("psfmag_g", "f8"), ("mjd_r", "f8"), ("psfmag_r", "f8")])
    >>> wide = to_wide(to_long(stored, train_id=66))
    >>> wide["psfmag_g"] - wide["psfmag_r"]
    train_id  epoch
    66        0        0.4
              1        NaN
    dtype: float64
    """
    key = ["train_id", "epoch"]
    check_names([*key, "band"], frame, "this frame", "Pass what light_curve() returns.")
    if (twice := frame.duplicated([*key, "band"])).any():
        row = frame.loc[twice.to_numpy(), [*key, "band"]].iloc[0]
        msg = f"train_id {row['train_id']}, epoch {row['epoch']}, band {row['band']} is in this frame more"
        msg += f" than once, so it has no one place. Look: frame[frame.duplicated({[*key, 'band']})]"
        raise InvalidValueError(msg)
    rest = [c for c in frame.columns if c not in (*key, "band")]
    per_band = [c for c in rest if frame[c].dtype.kind in "fb"]
    # The store has the magnitudes before the times, the long form the other way round.
    per_band.sort(key=lambda c: ["mag", "magerr", "mjd"].index(c) if c in ("mag", "magerr", "mjd") else 3)
    stored = {long: name for name, long in RENAMED.items()}
    per_epoch = [c for c in rest if c not in per_band]
    wide = frame[key + per_epoch].drop_duplicates(key).sort_values(key).set_index(key)
    columns: dict[str, Any] = {}
    for band in [b for b in BANDS if (frame["band"] == b).any()]:
        rows = frame[frame["band"] == band].set_index(key)
        for name in per_band:
            values = rows[name].astype("boolean") if rows[name].dtype.kind == "b" else rows[name]
            columns[f"{stored.get(name, name)}_{band}"] = values.reindex(wide.index)
    order = sorted(columns, key=lambda c: per_band.index(RENAMED.get(c[:-2], c[:-2])))
    return pd.concat([wide, pd.DataFrame({c: columns[c] for c in order}, index=wide.index)], axis=1)


def clip_outliers(frame: pd.DataFrame, *, threshold: float = 4.0, window: int = 8) -> pd.DataFrame:
    """Mark measurements that disagree with their neighbours in time; delete nothing.

    Each measurement is compared with the median of its `window` nearest neighbours in the same band of
    the same quasar: half of them before it and half after, or at an end of the light curve as many more
    from the other side. It is marked if it differs by more than `threshold` times the largest of

    - the scatter of all such differences in this light curve, 1.4826 times their median,
    - the scatter of its own neighbours about their median, likewise,
    - its own error ``magerr``.

    The first is what the quasar usually does from one visit to the next; the second keeps a real rise or
    fall, and points beside a long gap, from being marked. 1.4826 times the median deviation is the
    standard deviation of a Gaussian (Rousseeuw & Croux 1993, JASA 88, 1273), and half of the points may be
    bad before it fails.

    Every clip costs something: it also marks real variability, more of it in quasars that vary more, and
    overlooks bad points that are smaller than that. So it is never done unless you ask for it, and before
    you drop what is marked, look at it. Measure the cost on your own data: plant outliers and count.

    Parameters
    ----------
    frame : pandas.DataFrame
        As `TrainingSet.light_curve` returns it, of one quasar or of many: ``band``, ``mjd`` (days), ``mag``
        (mag); ``train_id`` and ``magerr`` (mag) are used if there. Rows may stand in any order.
    threshold : float
        How many times the scatter is too much. Lower finds more and marks more good points.
    window : int
        Number of neighbours. Up to half of them, less one, may be bad nights in a row.

    Returns
    -------
    pandas.DataFrame
        A copy of `frame`, same rows in the same order, with a boolean column ``outlier``. It is False for
        rows without a time or a magnitude: they are missing, not wrong. Nothing is marked where fewer
        than four measurements are left in a band: they cannot outvote a bad one.

    Raises
    ------
    UnknownColumnError
        If `frame` lacks ``band``, ``mjd`` or ``mag``.
    InvalidValueError
        If `threshold` is not positive or `window` is below 2.

    Examples
    --------
    >>> frame = pd.DataFrame({"band": "g", "mjd": np.arange(10.0), "magerr": 0.02,
    ...     "mag": [19.0, 19.01, 19.02, 19.0, 21.5, 19.01, 19.0, -99.0, 19.02, 19.01]})
    >>> clip_outliers(frame).query("outlier")["mag"].tolist()
    [21.5]
    """
    check_names(["band", "mjd", "mag"], frame, "this frame", "Pass what light_curve() returns.")
    if not threshold > 0 or window < 2:
        msg = f"threshold={threshold!r}, window={window!r}: both must be positive, window at least 2."
        raise InvalidValueError(msg)
    mag, mjd = frame["mag"].to_numpy(np.float64), frame["mjd"].to_numpy(np.float64)
    usable = np.isfinite(mag) & np.isfinite(mjd) & (mag != MISSING_MAGNITUDE) & (mjd != MISSING_MAGNITUDE)
    marked = np.zeros(len(frame), dtype=bool)
    rows = np.flatnonzero(usable)
    if rows.size:
        # One number per light curve and band. The magnitude decides between equal times, so that the
        # answer does not depend on the order of the rows.
        keys = _light_curve_of(frame)
        groups = frame[keys].iloc[rows].groupby(keys, observed=True, sort=False).ngroup().to_numpy()
        order = np.lexsort((mag[rows], mjd[rows], groups))
        rows, groups = rows[order], groups[order]
        error = frame["magerr"].to_numpy(np.float64)[rows] if "magerr" in frame else np.zeros(rows.size)
        centre, spread = _neighbours(mag[rows], groups, window)
        difference = np.abs(mag[rows] - centre)
        usual = TO_SIGMA * pd.Series(difference).groupby(groups).transform("median").to_numpy()
        scatter = np.fmax(np.fmax(usual, TO_SIGMA * spread), error)
        enough = np.bincount(groups)[groups] >= FEWEST
        marked[rows] = enough & (difference > threshold * scatter)
    return frame.assign(outlier=marked)


def _light_curve_of(frame: pd.DataFrame) -> list[str]:
    """Return the columns that tell one light curve in one band from another."""
    return [c for c in ("train_id", "band") if c in frame]


def _neighbours(
    values: npt.NDArray[np.float64], groups: npt.NDArray[np.int64], window: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return median of each value's `window` neighbours, itself left out, and their median deviation.

    `values` are ordered by group and time. NaN where a value has no neighbour.
    """
    n = values.size
    starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]])
    sizes = np.diff(np.r_[starts, n])
    first, size = np.repeat(starts, sizes), np.repeat(sizes, sizes)
    place = np.arange(n) - first
    # At the ends of a light curve the window moves inwards, it never wraps around.
    low = first + np.clip(place - window // 2, 0, np.maximum(size - window - 1, 0))
    centre, spread = np.empty(n), np.empty(n)
    for begin in range(0, n, STEP):
        part = slice(begin, begin + STEP)
        at = low[part, None] + np.arange(window + 1)
        inside = (at < (first + size)[part, None]) & (at != np.arange(n)[part, None])
        near = np.where(inside, values[np.minimum(at, n - 1)], np.nan)
        centre[part] = _row_median(near)
        spread[part] = _row_median(np.abs(near - centre[part, None]))
    return centre, spread


def _row_median(table: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return what `numpy.nanmedian` of each row does, without its loop over rows."""
    table = np.sort(table, axis=1)
    count = np.isfinite(table).sum(axis=1)
    row = np.arange(len(table))
    upper = np.minimum(count // 2, table.shape[1] - 1)
    return np.asarray((table[row, np.maximum(count - 1, 0) // 2] + table[row, upper]) / 2.0)


def merge_bands(
    frame: pd.DataFrame, how: Literal["median", "mean"] = "median", bands: Iterable[str] | None = None
) -> pd.DataFrame:
    """Put all bands on one scale, magnitude minus its band's median, and in one time order.

    It shows more epochs at once than any single band. It does not make one light curve of five: a quasar
    varies more in blue bands than in red ones, lags between them, and bands that miss different nights
    have different medians. Do not fit a timescale or an amplitude to merged bands.

    Parameters
    ----------
    frame : pandas.DataFrame
        As `TrainingSet.light_curve` returns it, of one quasar or of many: ``band``, ``mjd`` (days), ``mag``
        (mag); ``train_id`` and ``outlier`` are used if there.
    how : {"median", "mean"}
        What to subtract. The mean is drawn away by an outlier that is not marked.
    bands : iterable of str, optional
        Bands to merge; all by default.

    Returns
    -------
    pandas.DataFrame
        Rows of the chosen bands in time order per quasar, missing times last, with a new column ``dmag``
        (mag): how much fainter than the middle of its band. Rows marked in a column ``outlier`` stay, but
        do not count for the middle.

    Raises
    ------
    UnknownColumnError
        If `frame` lacks ``band``, ``mjd`` or ``mag``.
    UnknownBandError
        If one of `bands` is not in `frame`.
    InvalidValueError
        If `how` is neither ``"median"`` nor ``"mean"``.

    Examples
    --------
    >>> frame = pd.DataFrame({"band": ["g", "g", "r", "r"], "mjd": [1.0, 3.0, 2.0, 4.0],
    ...     "mag": [19.5, 19.0, 18.75, 18.5]})
    >>> merge_bands(frame)[["band", "mjd", "dmag"]]
      band  mjd   dmag
    0    g  1.0  0.250
    1    r  2.0  0.125
    2    g  3.0 -0.250
    3    r  4.0 -0.125
    """
    check_names(["band", "mjd", "mag"], frame, "this frame", "Pass what light_curve() returns.")
    if how not in ("median", "mean"):
        msg = f"how={how!r} is not a way to merge bands: pass how='median' or how='mean'."
        raise InvalidValueError(msg)
    present = [b for b in BANDS if (frame["band"] == b).any()]
    chosen = frame[frame["band"].isin(check_bands(bands, present if len(frame) else BANDS))]
    mag = chosen["mag"].replace(MISSING_MAGNITUDE, np.nan)
    counted = mag.mask(chosen["outlier"].astype(bool)) if "outlier" in chosen else mag
    middle = counted.groupby([chosen[c] for c in _light_curve_of(chosen)], observed=True).transform(how)
    merged = chosen.assign(dmag=mag - middle)
    by = [c for c in ("train_id", "mjd", "band") if c in merged]
    return merged.sort_values(by, kind="stable", ignore_index=True)
