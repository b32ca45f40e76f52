"""Several stores in one labelled catalogue, and one identifier from another."""

import contextlib
import os
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from agn_helpers.columns import check_names
from agn_helpers.errors import InvalidValueError, UnknownTrainIdError
from agn_helpers.store import TrainingSet, open_training_set

__all__ = ["find_ids", "load_classes"]


def load_classes(
    stores: Mapping[str, "TrainingSet | str | os.PathLike[str]"], columns: Iterable[str] | None = None
) -> pd.DataFrame:
    """Join the catalogues of several stores into one, each row labelled with its class.

    The original set has one store of quasars and one of variable stars, and both count ``train_id`` from 0.
    So an id alone no longer names a source: label and id together do.

    Parameters
    ----------
    stores : mapping of str to TrainingSet or path
        Label to store, for example ``{"qso": "qso.zarr.zip", "star": "vstar.zarr.zip"}``.
    columns : iterable of str, optional
        Columns to read; by default all that any of the stores has.

    Returns
    -------
    pandas.DataFrame
        Indexed by ``label`` and ``train_id``, classes in the order given. A column that a store lacks is
        missing in its rows: NaN or ``<NA>``.

    Raises
    ------
    UnknownColumnError
        If none of the stores has one of `columns`.
    InvalidValueError
        If `stores` is empty.

    Examples
    --------
    >>> from agn_helpers import open_training_set
    >>> with open_training_set() as one, open_training_set() as other:
    ...     both = load_classes({"qso": one, "again": other}, columns=["z"])
    >>> both.loc[("again", 3), "z"], both.index.is_unique
    (np.float64(0.333015), True)
    """
    if not stores:
        raise InvalidValueError("There is no store to load. Pass for example {'qso': path, 'star': path}.")
    wanted = [columns] if isinstance(columns, str) else None if columns is None else list(columns)
    frames, known = {}, dict[str, None]()
    for label, store in stores.items():
        # A store that was given open stays open.
        with contextlib.ExitStack() as stack:
            ts = store if isinstance(store, TrainingSet) else stack.enter_context(open_training_set(store))
            has = [c for c in ts._columns() if c != "train_id"]
            known |= dict.fromkeys(has)
            frames[label] = ts.catalog(has if wanted is None else [c for c in wanted if c in has])
    names = list(known) if wanted is None else wanted
    check_names(names, known, "any of these stores", f"They have {', '.join(known)}.")
    # A missing integer must not turn its column into floats, which round long identifiers.
    types = {c: f[c].dtype for f in reversed(frames.values()) for c in f}
    whole = [f.reindex(columns=names).astype({c: types[c] for c in names}) for f in frames.values()]
    return pd.concat(whole, keys=list(frames), names=["label", "train_id"])


def find_ids(
    frame: pd.DataFrame, values: "int | Iterable[int]", given: str, wanted: str = "train_id"
) -> pd.Series:
    """Look up one identifier by another, in either direction, exact to the last digit.

    Parameters
    ----------
    frame : pandas.DataFrame
        A catalogue, as `TrainingSet.catalog` returns it.
    values : int or iterable of int
        What you know. Floats above 2**53 are refused: they have lost digits.
    given, wanted : str
        Names of columns or index levels; ``"train_id"`` is the catalogue's index.

    Returns
    -------
    pandas.Series
        `wanted` for each of `values`, in their order, indexed by them; ``<NA>`` where the source has none.

    Raises
    ------
    UnknownColumnError
        If `frame` has no such column.
    UnknownTrainIdError
        If no source has one of `values`.
    InvalidValueError
        If a value is no whole number, or several sources have it.

    Examples
    --------
    >>> from agn_helpers import published_rows
    >>> find_ids(published_rows(), 3, "train_id", "objid").tolist()
    [8647475121420632840]
    >>> find_ids(published_rows(), [8647475121420632840], "objid").tolist()
    [3]
    """
    table = frame.reset_index()
    check_names([given, wanted], table, "this catalogue", "Read it: ts.catalog()")
    asked = [values] if isinstance(values, (int, float, np.number)) else list(values)
    for value in asked:
        if int(value) != value or (isinstance(value, (float, np.floating)) and abs(value) > 2**53):
            msg = f"{given} {value!r} is not an exact whole number. Keep identifiers as integers."
            raise InvalidValueError(msg)
    rows = table[[given, wanted]].dropna(subset=[given]) if given != wanted else table[[given]].dropna()
    keys = rows[given].astype(object).map(int)
    asked = [int(value) for value in asked]
    rows, keys = rows[hits := keys.isin(asked)], keys[hits]
    if absent := [value for value in asked if value not in set(keys)]:
        msg = f"{len(absent)} of {len(asked)} are unknown, the first is {given} {absent[0]}."
        raise UnknownTrainIdError(f"{msg} Known ones: catalog.reset_index()[{given!r}]")
    if keys.duplicated().any():
        msg = f"{given} {keys[keys.duplicated()].iloc[0]} belongs to several sources. Look at their rows."
        raise InvalidValueError(msg)
    found = rows[wanted].set_axis(pd.Index(keys.tolist(), name=given, dtype=object))
    return found.loc[asked]
