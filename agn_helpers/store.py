"""Find and open a training set, read-only, look at it, let go of it."""

import bisect
import html
import os
import pathlib
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr

from agn_helpers.arrays import MAX_BYTES, StoredArrays
from agn_helpers.catalog import catalog_frame
from agn_helpers.columns import check_names, definition_table, find_definition, missing_mask
from agn_helpers.errors import (
    ClosedError,
    DamagedStoreError,
    NotATrainingSetError,
    UnknownColumnError,
    UnknownTrainIdError,
)
from agn_helpers.lightcurves import to_long

__all__ = ["SCISERVER", "TrainingSet", "Tree", "open_training_set"]

SCISERVER = "/home/idies/workspace/Storage/ywx649999311/AGN_training/Data/qso.zarr.zip"
"""Where the original walkthrough found the store on SciServer."""

CATALOG, LIGHT_CURVES = "catalog", "sdss_lc"


def open_training_set(
    location: "str | os.PathLike[str] | None" = None,
    *,
    missing_chunks: Literal["error", "fill"] = "error",
    max_bytes: int = MAX_BYTES,
) -> "TrainingSet":
    """Open a training set for reading. Nothing that you do with it changes the store.

    Parameters
    ----------
    location : str or path, optional
        A ``.zarr.zip`` file or a folder, in Zarr format 2 or 3, or ``"sciserver"`` for the original
        store there. By default what the environment variable ``AGN_STORE`` names, else the sample
        store, which is built once in your cache folder.
    missing_chunks : {"error", "fill"}
        What to do about a chunk that the store lacks. Plain Zarr fills it with zeros and says
        nothing; here that is an error unless you ask for ``"fill"``.
    max_bytes : int
        Largest array that is read, in bytes. It protects your memory against a damaged or hostile
        store; the largest array of the real set needs 12 MB.

    Returns
    -------
    TrainingSet
        Use it in a ``with`` block, or call its ``close()``.

    Raises
    ------
    StoreNotFoundError
        If nothing is at `location`. Nothing is created there.
    NotATrainingSetError
        If there is no Zarr store, or one without ``catalog`` and ``sdss_lc``.
    DamagedStoreError
        If the store cannot be read.

    Examples
    --------
    >>> with open_training_set() as training_set:
    ...     print(len(training_set.light_curve_ids()))
    500
    """
    if location is None:
        location = os.environ.get("AGN_STORE") or None
    if location is None:
        from agn_helpers.sample import sample_store  # not needed by those who have a store

        location = sample_store()
    if os.fspath(location) == "sciserver":
        location = SCISERVER
    return TrainingSet(location, missing_chunks=missing_chunks, max_bytes=max_bytes)


class TrainingSet:
    """One open training set, read-only.

    Make one with `open_training_set`. It reads what you ask for when you ask for it and keeps
    nothing. It travels to other processes as its location and options, never as an open file.

    Attributes
    ----------
    location : str
        Absolute path of the store.
    """

    def __init__(
        self,
        location: "str | os.PathLike[str]",
        *,
        missing_chunks: Literal["error", "fill"] = "error",
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.location = os.path.abspath(os.path.expanduser(location))
        self._options = {"missing_chunks": missing_chunks, "max_bytes": max_bytes}
        self._open: StoredArrays | None = StoredArrays(pathlib.Path(self.location), missing_chunks, max_bytes)
        self._root: zarr.Group | None = None
        try:
            for part, kind in ((CATALOG, "array"), (LIGHT_CURVES, "group")):
                if self._open.kind(part) != kind:
                    msg = (
                        f"{self.location} is a Zarr store but has no {kind} {part!r}, so it is not a "
                        f"training set. See what it has: zarr.open_group(...).tree(level=0)"
                    )
                    raise NotATrainingSetError(msg)
        except Exception:
            self.close()
            raise

    # -- life ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of the file. Calling it twice does no harm."""
        if self._open is not None:
            self._open.close()
        if self._root is not None:
            self._root.store.close()
        self._open = self._root = None

    def __enter__(self) -> "TrainingSet":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.location, self._options)

    def __repr__(self) -> str:
        state = "closed" if self._open is None else f"Zarr format {self._open.format}, read-only"
        return f"<TrainingSet {os.path.basename(self.location)!r}: {state}>"

    @property
    def _arrays(self) -> StoredArrays:
        if self._open is None:
            msg = (
                f"The training set {self.location} is closed. "
                f"Open it again: open_training_set({self.location!r})"
            )
            raise ClosedError(msg)
        return self._open

    # -- looking ------------------------------------------------------------------------------

    @property
    def root(self) -> zarr.Group:
        """The store as a plain, read-only `zarr.Group`, for all that this class does not shorten."""
        arrays = self._arrays
        if self._root is None:
            # Consolidated metadata is ignored: with one small array per quasar it makes opening slow.
            self._root = zarr.open_group(
                arrays.zarr_store(), mode="r", zarr_format=arrays.format, use_consolidated=False
            )
        return self._root

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes of the store: what each part is for."""
        return self._arrays.attrs()

    def tree(self, level: int = 1) -> "Tree":
        """Return an overview of the store that prints as text and shows as HTML in a notebook.

        Unlike Zarr's own ``root.tree(level=1)`` it opens no light curve, so it is instant.

        Parameters
        ----------
        level : int
            0 shows the root, 1 its parts with the number of light curves, 2 also the first few
            light curves.
        """
        arrays = self._arrays
        lines: list[tuple[int, str]] = [(0, "/")]
        if level >= 1:
            shape, dtype = arrays.signature(CATALOG)
            lines.append((1, f"{CATALOG} {shape} {_fields(dtype)}"))
            keys = arrays.children(LIGHT_CURVES)
            first = ", ".join(repr(k) for k in keys[:3])
            more = ", ..." if len(keys) > 3 else ""
            lines.append((1, f"{LIGHT_CURVES} ({len(keys):,} arrays) keys {first}{more}"))
            if level >= 2:
                for key in keys[:5]:
                    shape, dtype = arrays.signature(f"{LIGHT_CURVES}/{key}")
                    lines.append((2, f"{key} {shape} {_fields(dtype)}"))
                if len(keys) > 5:
                    lines.append((2, f"... and {len(keys) - 5:,} more"))
        return Tree(lines)

    def column_definitions(self) -> pd.DataFrame:
        """Return what every catalogue column means, one row per column.

        The store's definitions are templates (``psfmag_{band}``); here each is expanded to the real
        columns. The whole catalogue is read to count what is missing.

        Returns
        -------
        pandas.DataFrame
            Indexed by column name: ``definition``, ``unit`` (as astropy writes it), ``dtype`` as
            stored, ``missing_value``, ``n_missing``, and ``status``: ``"defined"``,
            ``"no definition"``, or ``"no column"`` for a definition that no column answers to.

        Examples
        --------
        >>> with open_training_set() as training_set:
        ...     table = training_set.column_definitions()
        >>> table.loc["psfmag_u", ["definition", "unit"]].tolist()
        ['PSF magnitude in u,g,r,i,z', 'mag']
        >>> table.index[table["status"] == "no column"].tolist()
        ['stdColor[4]']
        """
        names = self._columns()
        record = self._arrays.read(CATALOG)
        counts = {n: int(missing_mask(n, record[n]).sum()) for n in names}
        return definition_table({n: record.dtype[n] for n in names}, self._arrays.attrs(CATALOG), counts)

    def define(self, column: str) -> str:
        """Return what one catalogue column means, in the store's own words.

        Parameters
        ----------
        column : str
            A real column name, ``"psfmag_u"``; templates work too.

        Raises
        ------
        UnknownColumnError
            If the store has neither such a column nor a definition for it.

        Examples
        --------
        >>> with open_training_set() as training_set:
        ...     training_set.define("psfmag_u")
        'PSF magnitude in u,g,r,i,z'
        """
        if found := find_definition(column, self._arrays.attrs(CATALOG)):
            return found[1]
        check_names([column], self._columns(), "the catalogue", "See ts.column_definitions()")
        msg = f"The column {column!r} is in the catalogue, but the store does not say what it means."
        raise UnknownColumnError(f"{msg} See ts.column_definitions()")

    def _columns(self) -> list[str]:
        _, dtype = self._arrays.signature(CATALOG)
        if not dtype.names or "train_id" not in dtype.names:
            msg = (
                f"The catalogue of {self.location} has no column 'train_id' (its type is "
                f"{str(dtype)[:60]}). Look at it: ts.root['catalog']"
            )
            raise NotATrainingSetError(msg)
        return list(dtype.names)

    # -- reading ------------------------------------------------------------------------------

    def catalog(self, columns: Iterable[str] | None = None) -> pd.DataFrame:
        """Return the catalogue, one row per quasar, with missing values as missing.

        Parameters
        ----------
        columns : iterable of str, optional
            Columns to read; nothing else is kept in memory. All by default.

        Returns
        -------
        pandas.DataFrame
            Indexed by ``train_id``. Integers are nullable (`Int64`, ``<NA>`` for -99), floats have NaN,
            text is text.

        Raises
        ------
        UnknownColumnError
            If a column is not in the catalogue.

        Examples
        --------
        >>> with open_training_set() as training_set:
        ...     training_set.catalog(columns=["z", "thing_id"]).head(2)
                         z  thing_id
        train_id
        0         2.167268      <NA>
        3         0.333015      <NA>
        """
        known = self._columns()
        if columns is None:
            return catalog_frame(self._arrays.read(CATALOG))
        wanted = [columns] if isinstance(columns, str) else list(dict.fromkeys(columns))
        check_names(wanted, known, "the catalogue", "List all: ts.column_definitions()")
        fields = ["train_id", *(c for c in wanted if c != "train_id")]
        return catalog_frame(self._arrays.read(CATALOG, fields))

    def light_curve_ids(self) -> npt.NDArray[np.int64]:
        """Return the ``train_id`` of every light curve in the store, in numeric order.

        Read from the names of the arrays; none of them is opened. Keys of the store are text in text
        order (``'0', '10', ...``); these are numbers.

        Returns
        -------
        numpy.ndarray of int64
            Not every id of the catalogue need be among them.
        """
        keys = self._arrays.children(LIGHT_CURVES)
        ids = [int(k) for k in keys if k.isascii() and k.isdecimal() and len(k) < 19]
        return np.array(sorted(ids), dtype=np.int64)

    def raw_light_curve(self, train_id: int) -> npt.NDArray[Any]:
        """Return one light curve exactly as stored: a record array, one row per epoch.

        Parameters
        ----------
        train_id : int
            As in the catalogue's index.

        Returns
        -------
        numpy.ndarray
            Structured array, not sorted by time, -99.0 where an epoch was rejected.

        Raises
        ------
        UnknownTrainIdError
            If there is no light curve with this id. The message names the nearest ids.
        """
        # 66.0 comes out of float columns and means 66; "66", 66.5 and True are mistakes.
        if isinstance(train_id, (bool, str)) or not hasattr(train_id, "__int__") or int(train_id) != train_id:
            msg = f"A train_id is a whole number, not {train_id!r}. All of them: ts.light_curve_ids()"
            raise UnknownTrainIdError(msg)
        try:
            record = self._arrays.read(f"{LIGHT_CURVES}/{int(train_id)}")
        except KeyError:
            raise UnknownTrainIdError(self._no_such_id(train_id)) from None
        if record.dtype.names is None or record.ndim != 1:
            msg = (
                f"{self.location}: light curve {train_id} is not a table of records but an array of "
                f"{record.dtype}. See ts.root['sdss_lc/{train_id}']"
            )
            raise DamagedStoreError(msg)
        return record

    def _no_such_id(self, train_id: int) -> str:
        ids = self.light_curve_ids().tolist()
        at = bisect.bisect(ids, train_id)
        nearest = ", ".join(str(i) for i in ids[max(0, at - 2) : at + 2])
        return (
            f"No light curve with train_id {train_id} in {self.location}: ids have gaps. "
            + (f"The nearest are {nearest}. " if ids else "It has none at all. ")
            + "All of them: ts.light_curve_ids()"
        )

    def light_curve(self, train_id: int, bands: Iterable[str] | None = None) -> pd.DataFrame:
        """Return one light curve, one row per measurement, in time order within each band.

        Parameters
        ----------
        train_id : int
            As in the catalogue's index.
        bands : iterable of str, optional
            Some of u, g, r, i, z; all by default.

        Returns
        -------
        pandas.DataFrame
            See `agn_helpers.to_long`: ``train_id, epoch, band, mjd`` (days), ``mag, magerr`` (mag) and what
            else the store has. Rejected measurements are there, with NaN.

        Raises
        ------
        UnknownTrainIdError
            If there is no light curve with this id.
        UnknownBandError
            If one of `bands` is not in it.

        Examples
        --------
        >>> with open_training_set() as training_set:
        ...     training_set.light_curve(0, bands=["g"]).columns[:6].tolist()
        ['train_id', 'epoch', 'band', 'mjd', 'mag', 'magerr']
        """
        return to_long(self.raw_light_curve(train_id), int(train_id), bands)


def _reopen(location: str, options: dict[str, Any]) -> TrainingSet:
    return TrainingSet(location, **options)


def _fields(dtype: np.dtype[Any]) -> str:
    if not dtype.names:
        return str(dtype)
    first = ", ".join(f"{n} {dtype[n].str}" for n in dtype.names[:3])
    return f"{len(dtype.names)} fields: {first}{', ...' if len(dtype.names) > 3 else ''}"


class Tree:
    """An overview that prints as text and shows as a nested list in a notebook."""

    def __init__(self, lines: list[tuple[int, str]]) -> None:
        self._lines = lines

    def __repr__(self) -> str:
        out = []
        for i, (depth, text) in enumerate(self._lines):
            later = [d for d, _ in self._lines[i + 1 :]]

            def goes_on(at: int, later: list[int] = later) -> bool:
                upto = next((k for k, d in enumerate(later) if d < at), len(later))
                return at in later[:upto]

            bars = "".join(" │  " if goes_on(d) else "    " for d in range(1, depth))
            branch = "" if not depth else " ├── " if goes_on(depth) else " └── "
            out.append(bars + branch + text)
        return "\n".join(out)

    def _repr_html_(self) -> str:
        out, at = ['<div class="agn-tree">'], -1
        for depth, text in self._lines:
            if depth > at:
                out.append("<ul><li>" * (depth - at))
            else:
                out.append("</li></ul>" * (at - depth) + "</li><li>")
            name, _, rest = text.partition(" ")
            out.append(f"<strong>{html.escape(name)}</strong> {html.escape(rest)}".rstrip())
            at = depth
        out.append("</li></ul>" * (at + 1) + "</div>")
        return "".join(out)
