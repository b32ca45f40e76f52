"""What every column means: template, bands, unit, missing value.

The store defines its columns by *templates* in three spellings: ``psfmag_{band}``, ``psFlux[band]`` and
``stdColor[0-4]``. Readers look for ``psfmag_u``. This room translates between the two.
"""

import functools
import importlib.resources
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from agn_helpers.errors import LimitError, UnknownBandError, UnknownColumnError, near

__all__ = [
    "BANDS",
    "MISSING_INTEGER",
    "MISSING_MAGNITUDE",
    "definition_table",
    "edition_2020",
    "expand_template",
    "find_definition",
]

BANDS = ("u", "g", "r", "i", "z")
"""The five SDSS bands, from blue to red."""

MAX_NAMES = 100_000
"""Most columns that definitions may stand for (the real set has 63)."""

MISSING_INTEGER = -99
"""What an integer column of the store holds where a value is missing."""

MISSING_MAGNITUDE = -99.0
"""What magnitudes, their errors and their times hold in a light curve where an epoch was rejected."""


def load_json(name: str) -> dict[str, Any]:
    """Return a JSON file of this module."""
    text = importlib.resources.files("agn_helpers").joinpath(name).read_text("utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


@functools.cache
def edition_2020() -> dict[str, Any]:
    """Return the 2020 edition as data: fields, types, definitions, units and the two published rows.

    Read from ``edition_2020.json`` beside this file. Treat it as read-only: it is kept in memory.

    Examples
    --------
    >>> edition_2020()["rows_in_full_store"]
    24579
    """
    return load_json("edition_2020.json")


def expand_template(template: str, bands: Iterable[str] = BANDS) -> list[str]:
    """Return the column names that a definition's template stands for.

    Parameters
    ----------
    template : str
        A key of the catalogue's attributes, for example ``"psfmag_{band}"``.
    bands : iterable of str
        Bands to fill in.

    Returns
    -------
    list of str
        One name per band or number; the template itself where it is an ordinary name.

    Examples
    --------
    >>> expand_template("psFlux[band]")
    ['psFlux[u]', 'psFlux[g]', 'psFlux[r]', 'psFlux[i]', 'psFlux[z]']
    >>> expand_template("stdColor[0-4]")  # the store documents five entries and has four
    ['stdColor[0]', 'stdColor[1]', 'stdColor[2]', 'stdColor[3]', 'stdColor[4]']
    >>> expand_template("z")
    ['z']
    """
    if match := re.search(r"\{band\}|\[band\]", template):
        left, right = ("[", "]") if match[0] == "[band]" else ("", "")
        return [template.replace(match[0], f"{left}{b}{right}") for b in bands]
    # Four digits at most: a range from an unknown store must not fill the memory.
    if match := re.search(r"\[(\d{1,4})-(\d{1,4})\]", template):
        return [template.replace(match[0], f"[{n}]") for n in range(int(match[1]), int(match[2]) + 1)]
    return [template]


def find_definition(name: str, definitions: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return ``(template, definition)`` for a real column name, or None where nothing defines it.

    Examples
    --------
    >>> find_definition("psfmag_u", {"psfmag_{band}": "PSF magnitude in u,g,r,i,z"})
    ('psfmag_{band}', 'PSF magnitude in u,g,r,i,z')
    """
    if name in definitions:
        return name, str(definitions[name])
    return _by_name(definitions).get(name)


def _by_name(definitions: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return ``(template, definition)`` by every column name that a template stands for."""
    found: dict[str, tuple[str, str]] = {}
    for template, text in definitions.items():
        for name in expand_template(template):
            found.setdefault(name, (template, str(text)))
        if len(found) > MAX_NAMES:
            raise LimitError(f"The definitions name more than {MAX_NAMES} columns: not read. Look at .root")
    return found


def definition_table(
    dtypes: Mapping[str, np.dtype[Any]], definitions: Mapping[str, Any], missing_counts: Mapping[str, int]
) -> pd.DataFrame:
    """Return one row per column: definition, unit, dtype, missing value, how many are missing, status.

    Parameters
    ----------
    dtypes : mapping of str to numpy.dtype
        The columns as stored, in their order.
    definitions : mapping of str to str
        The store's definitions, keys may be templates.
    missing_counts : mapping of str to int
        Number of missing values per column.

    Returns
    -------
    pandas.DataFrame
        Indexed by column name. ``status`` is ``"defined"``, ``"no definition"`` for a column that the
        store does not explain, or ``"no column"`` for an explanation of a column that is not there.

    Examples
    --------
    >>> table = definition_table({"z": np.dtype("f8")}, {"z_err": "Error in redshift"}, {"z": 2})
    >>> table["status"].to_dict()
    {'z': 'no definition', 'z_err': 'no column'}
    """
    rows: dict[str, dict[str, Any]] = {}
    defined = _by_name(definitions) | {name: (name, str(text)) for name, text in definitions.items()}
    for name, dtype in dtypes.items():
        found = defined.get(name)
        rows[name] = {
            "definition": found[1] if found else None,
            "unit": unit_of(name),
            "dtype": "str" if dtype.kind in "US" else str(dtype),
            "missing_value": {"i": str(MISSING_INTEGER), "f": "NaN"}.get(dtype.kind),
            "n_missing": missing_counts[name],
            "status": "defined" if found else "no definition",
        }
    for name, (_, text) in _by_name(definitions).items():
        if name not in rows:
            rows[name] = {"definition": text, "n_missing": None, "status": "no column"}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("column").astype({"n_missing": "Int64"})


def kind_of(dtype: np.dtype[Any]) -> str:
    """Return NumPy's letter for a kind of type, V for times in multiples of a unit: no frame takes those."""
    if dtype.kind in "Mm" and np.datetime_data(dtype)[1] != 1:
        return "V"
    return dtype.kind


def check_names(names: Iterable[str], known: Iterable[str], what: str, see: str) -> list[str]:
    """Return `names`, or the one name, as a list; raise `UnknownColumnError` for one not among `known`."""
    known, names = list(known), [names] if isinstance(names, str) else list(names)
    for name in names:
        if name not in known:
            msg = f"No column {name!r} in {what}.{near(str(name), known)} {see}"
            raise UnknownColumnError(msg)
    return names


def check_bands(bands: Iterable[str] | None, known: Iterable[str] = BANDS) -> list[str]:
    """Return `bands` as a list, all of `known` for None; raise `UnknownBandError` for others."""
    known = list(known)
    if bands is None:
        return known
    chosen = list(dict.fromkeys(bands))
    for band in chosen:
        if band not in known:
            msg = f"No band {band!r}; this light curve has {', '.join(known) or 'none'}."
            raise UnknownBandError(f"{msg} Pass some of them, for example bands={known[:2]!r}.")
    return chosen


def unit_of(name: str) -> str:
    """Return the unit of a catalogue column as astropy writes it, '' where it has none."""
    return (find_definition(name, edition_2020()["catalog_units"]) or ("", ""))[1]


def missing_mask(name: str, values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return True where a catalogue column is missing.

    Missing is -99 in integers, NaN in floats, also -99.0 in magnitudes, and '' in text.
    """
    mask: npt.NDArray[np.bool_]
    if values.dtype.kind in "iu":
        # In 64 bits no id is as large as -99 written without a sign; in 8 bits that is the number 157.
        mask = values == (MISSING_INTEGER if values.dtype.kind == "i" else 2**64 + MISSING_INTEGER)
    elif values.dtype.kind == "f":
        mask = np.isnan(values)
        if unit_of(name) == "mag":
            mask |= values == MISSING_MAGNITUDE
    elif values.dtype.kind in "SU":
        mask = values == values.dtype.type()
    else:
        mask = np.isnat(values) if values.dtype.kind in "mM" else np.zeros(values.shape, bool)
    return mask


def is_text(values: Any) -> bool:
    """Return False for an array of texts that hold a code which is no character (pandas would not tell)."""
    if values.dtype.kind not in "SU" or not values.dtype.itemsize:
        return True
    if values.dtype.kind == "S":  # NumPy takes them for ASCII
        return bool((np.ascontiguousarray(values).view(np.uint8) < 128).all())
    codes = np.ascontiguousarray(values, values.dtype.newbyteorder("=")).view(np.uint32)
    return not bool(((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes < 0xE000))).any())
