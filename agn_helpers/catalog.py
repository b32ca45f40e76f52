"""The catalogue: one row per quasar with honest types, and a check of its derived columns."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from agn_helpers.columns import BANDS, check_bands, edition_2020, is_text, kind_of, missing_mask
from agn_helpers.errors import DamagedStoreError, UnknownColumnError

__all__ = ["AB_CORRECTION", "catalog_frame", "check_catalog", "magnitude_to_flux", "published_rows"]

SOFTENING = {"u": 1.4e-10, "g": 0.9e-10, "r": 1.2e-10, "i": 1.8e-10, "z": 7.4e-10}
"""Softening parameter b of SDSS asinh magnitudes (Stoughton et al. 2002, AJ 123, 485, Table 21)."""

AB_CORRECTION = {"u": -0.04, "g": 0.0, "r": 0.0, "i": 0.0, "z": 0.02}
"""What to add to an SDSS magnitude for an AB magnitude: u_AB = u - 0.04, z_AB = z + 0.02
(SDSS DR7 flux calibration page, "Conversion from SDSS ugriz magnitudes to AB ugriz magnitudes")."""

ZERO_POINT = 3631e9
"""Flux of magnitude 0 on the AB scale, in nJy (Oke & Gunn 1983, ApJ 266, 713)."""

Numbers = npt.NDArray[np.float64]


def catalog_frame(record: npt.NDArray[Any]) -> pd.DataFrame:
    """Turn the catalogue's record array into a DataFrame in which missing values look missing.

    A plain ``pd.DataFrame(record)`` keeps -99 as a number, so that a mean swallows it. Here integer
    columns become nullable 64-bit integers (`Int64`), exact to the last digit, with ``<NA>`` for -99;
    float columns keep NaN; text is text.

    Parameters
    ----------
    record : numpy.ndarray
        Structured array with one row per quasar and a field ``train_id``.

    Returns
    -------
    pandas.DataFrame
        Indexed by ``train_id`` (int64, as stored), columns in stored order.

    Raises
    ------
    DamagedStoreError
        If a ``train_id`` stands there twice, or a column holds neither numbers nor text.

    Examples
    --------
    >>> rows = np.array([(0, -99, 2.2), (3, 7, np.nan)],
    ...                 dtype=[("train_id", "i8"), ("thing_id", "i8"), ("z", "f8")])
    >>> catalog_frame(rows)
              thing_id    z
    train_id
    0             <NA>  2.2
    3                7  NaN
    """
    for name in record.dtype.names or ():
        kind = kind_of(record.dtype[name])
        if kind in "VOc" or (name == "train_id" and kind not in "iu"):
            msg = f"The catalogue's column {name!r} holds {record.dtype[name]}, not what belongs there."
            raise DamagedStoreError(f"{msg} Look at it with .root['catalog'][:]")
    ids, counts = np.unique(record["train_id"], return_counts=True)
    if len(ids) < len(record):
        msg = f"The catalogue has {(counts > 1).sum()} train_id more than once, the first is"
        raise DamagedStoreError(f"{msg} {ids[counts > 1][0]}. Look at the rows with .root['catalog'][:]")
    if len(ids) and ids[-1] > np.iinfo(np.int64).max:
        raise DamagedStoreError(f"The train_id {ids[-1]} is larger than any id can be.")
    columns: dict[str, Any] = {}
    for name in [n for n in record.dtype.names or () if n != "train_id"]:
        values = record[name]
        missing = missing_mask(name, values)
        if values.dtype.kind in "iu":
            whole = values.astype("u8" if values.dtype.kind == "u" else "i8")
            columns[name] = pd.arrays.IntegerArray(whole, missing)
        elif values.dtype.kind == "f":
            columns[name] = np.where(missing, np.nan, values)
        else:
            columns[name] = values
    index = pd.Index(record["train_id"].astype(np.int64), name="train_id")
    if broken := [n for n, v in columns.items() if not is_text(v)]:
        msg = f"A text in the catalogue's column {broken[0]!r} is none: a byte was changed."
        raise DamagedStoreError(msg)
    texts = {n: v.astype(str).astype(object) for n, v in columns.items() if v.dtype.kind == "S"}
    return pd.DataFrame(columns | texts, index=index)


def published_rows() -> pd.DataFrame:
    """Return the two catalogue rows that the original walkthrough printed, digit for digit.

    They are the only rows of the real 2020 edition that are public, and what `check_catalog` is tried on.

    Returns
    -------
    pandas.DataFrame
        As from `catalog_frame`, two rows with ``train_id`` 0 and 3.

    Examples
    --------
    >>> published_rows()["z"].to_dict()
    {0: 2.167268, 3: 0.333015}
    """
    return catalog_frame(published_record())


def published_record() -> npt.NDArray[Any]:
    """Return the published rows as the store holds them: a record array with -99 and NaN."""
    edition = edition_2020()
    record = np.zeros(len(edition["published_rows"]), [tuple(f) for f in edition["catalog_fields"]])
    for i, row in enumerate(edition["published_rows"]):
        for name, text in row.items():
            kind = record.dtype[name].kind
            # int(text) and not float: the ids have more digits than a float can hold.
            record[name][i] = np.nan if text is None else int(text) if kind == "i" else text
    return record


def magnitude_to_flux(magnitude: npt.ArrayLike, band: str) -> Numbers:
    """Convert SDSS asinh magnitudes to flux.

    ``f = 3631 Jy * 2 b sinh(-m ln(10) / 2.5 - ln(b))``, Lupton, Gunn & Szalay (1999, AJ 118, 1406),
    equation 3 solved for the flux. For objects brighter than about 20th magnitude this differs from
    ``3631 Jy * 10**(-0.4 m)`` by a few parts in a million, for the faintest by much more.

    Parameters
    ----------
    magnitude : array_like of float
        SDSS magnitudes in `band`, mag.
    band : str
        One of u, g, r, i, z: each has its own softening b.

    Returns
    -------
    numpy.ndarray
        Flux density in nJy. No AB correction is applied; see `AB_CORRECTION`.

    Raises
    ------
    UnknownBandError
        If `band` is not one of the five.

    Examples
    --------
    >>> round(float(magnitude_to_flux(18.513243, "r")), 1)
    142798.9
    """
    b = SOFTENING[check_bands([band])[0]]
    exponent = -np.asarray(magnitude, dtype=np.float64) * np.log(10) / 2.5 - np.log(b)
    flux: Numbers = ZERO_POINT * 2 * b * np.sinh(exponent)
    return flux


Recipe = tuple[tuple[str, ...], Callable[..., Numbers]]
Recipes = dict[str, Recipe]  # by what is wrong with it


def _recipes() -> dict[str, tuple[str, Recipe, Recipes]]:
    """Return, per derived column: its definition in words, how to compute it, known wrong ways."""
    recipes: dict[str, tuple[str, Recipe, Recipes]] = {}
    for new, old in (("psPm[0]", "pmra"), ("psPm[1]", "pmdec"), ("psParallax", "parallax")):
        recipes[new] = (old, ((old,), np.asarray), {})
    for b in BANDS:
        mags = (f"psfmag_{b}", f"extinction_{b}")
        recipes[f"dered_{b}"] = (
            f"psfmag_{b} - extinction_{b}",
            (mags, np.subtract),
            {"has the extinction added": (mags, np.add), "ignores extinction": (mags[:1], np.asarray)},
        )
    for i, (blue, red) in enumerate(itertools.pairwise(BANDS)):
        raw = (f"psfmag_{blue}", f"psfmag_{red}")
        recipes[f"stdColor[{i}]"] = (
            f"dered_{blue} - dered_{red}",
            ((f"dered_{blue}", f"dered_{red}"), np.subtract),
            {"is not corrected for extinction": (raw, np.subtract)},
        )
    for b in BANDS:
        wrong: Recipes = {}
        if AB_CORRECTION[b]:
            wrong["has the AB correction with the wrong sign"] = _flux(b, b, -1)
            wrong["has no AB correction"] = _flux(b, b, 0)
        wrong |= {
            f"is the flux of the {other} magnitude": _flux(other, b, 0) for other in BANDS if other != b
        }
        wrong["is not corrected for extinction"] = (f"psfmag_{b}",), _flux(b, b, 1)[1]
        recipes[f"psFlux[{b}]"] = (f"flux of dered_{b}, AB, in nJy", _flux(b, b, 1), wrong)
    return recipes


def _flux(magnitude: str, band: str, sign: int) -> Recipe:
    shift = sign * AB_CORRECTION[magnitude]
    return (f"dered_{magnitude}",), lambda m: magnitude_to_flux(m + shift, band)


@np.errstate(over="ignore", invalid="ignore")  # impossible magnitudes are found, not warned of
def check_catalog(frame: pd.DataFrame, *, rtol: float = 1e-5, atol: float = 2e-6) -> pd.DataFrame:
    """Recompute every derived column from its definition and report where the stored values differ.

    Published numbers are to be checked, not trusted: ``psFlux`` of the 2020 edition disagrees with its
    own definition in three bands of five. This tells which columns you can use as they are.

    Parameters
    ----------
    frame : pandas.DataFrame
        A catalogue as `TrainingSet.catalog` returns it. Derived columns that it lacks, or whose
        ingredients it lacks, are not in the report.
    rtol : float
        Relative deviation that still counts as agreement, for fluxes. The default leaves room for the
        softening of asinh magnitudes, not for a wrong band.
    atol : float
        Absolute deviation that still counts as agreement, for all other columns, in the column's
        unit. The default is two units of the last digit that the published rows show.

    Returns
    -------
    pandas.DataFrame
        One row per derived column: ``definition``, ``rows`` that could be checked, ``agree``,
        ``largest_deviation`` (of fluxes: relative to the expected flux; else in the column's unit),
        and ``finding``: ``"agrees"``, what the deviation looks like, or ``"nothing to check"``.

    Raises
    ------
    UnknownColumnError
        If the frame holds no derived column with its ingredients.

    Examples
    --------
    >>> report = check_catalog(published_rows())
    >>> report.loc[report["agree"] < report["rows"], "finding"].to_dict()  # doctest: +NORMALIZE_WHITESPACE
    {'psFlux[u]': 'has the AB correction with the wrong sign',
     'psFlux[g]': 'is the flux of the u magnitude',
     'psFlux[z]': 'has the AB correction with the wrong sign'}
    """
    rows = {}
    for name, (words, recipe, wrong) in _recipes().items():
        if name not in frame or not set(recipe[0]) <= set(frame):
            continue
        stored = frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
        expected = _compute(recipe, frame)
        is_flux = name.startswith("psFlux")
        scale = np.abs(expected) if is_flux else np.ones_like(stored)
        tolerance = rtol if is_flux else atol
        known = np.isfinite(stored) & np.isfinite(expected)
        # A value where the ingredients are missing, or none where they are there, is a disagreement.
        lopsided = np.isfinite(stored) != np.isfinite(expected)
        deviation = np.abs(stored - expected) / np.where(scale > 0, scale, np.nan)
        good = known & (deviation <= tolerance)
        finding = "agrees"
        if not known.any() and not lopsided.any():
            finding = "nothing to check"
        elif (bad := known & ~good).any():
            finding = _looks_like(frame[bad], stored[bad], expected[bad], scale[bad], tolerance, wrong)
        elif lopsided.any():
            finding = "is missing, or present, where its ingredients are not"
        rows[name] = {
            "definition": words,
            "rows": int((known | lopsided).sum()),
            "agree": int(good.sum()),
            "largest_deviation": float(np.nanmax(deviation[known])) if known.any() else np.nan,
            "finding": finding,
        }
    if not rows:
        msg = "No derived column (dered_*, stdColor[*], psFlux[*] ...) with its ingredients is here."
        raise UnknownColumnError(f"{msg} Pass the whole catalogue: check_catalog(ts.catalog())")
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("column")


def _compute(recipe: Recipe, frame: pd.DataFrame) -> Numbers:
    names, function = recipe
    return function(*(frame[n].to_numpy(dtype=np.float64, na_value=np.nan) for n in names))


def _looks_like(
    frame: pd.DataFrame, stored: Numbers, expected: Numbers, scale: Numbers, tolerance: float, wrong: Recipes
) -> str:
    """Return the known mistake that explains every row, or the deviation in numbers."""
    for words, recipe in wrong.items():
        here = set(recipe[0]) <= set(frame)
        if here and (np.abs(stored - _compute(recipe, frame)) <= tolerance * scale).all():
            return words
    differences = stored - expected
    if np.ptp(differences) <= 10 * tolerance * np.median(scale):
        return f"differs by a constant, {np.median(differences):.4g}"
    return f"differs by {np.median(differences / scale):.3g} in the median, not by a constant"
