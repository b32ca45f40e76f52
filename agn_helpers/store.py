"""Find and open a training set, read-only, look at it, let go of it."""

import bisect
import functools
import heapq
import html
import itertools
import os
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr
from tqdm import tqdm

from agn_helpers.arrays import MAX_BYTES, Layout, StoredArrays
from agn_helpers.catalog import catalog_frame
from agn_helpers.columns import check_names, definition_table, find_definition, missing_mask
from agn_helpers.errors import (
    ClosedError,
    DamagedStoreError,
    InvalidValueError,
    LimitError,
    NotATrainingSetError,
    UnknownColumnError,
    UnknownTrainIdError,
)
from agn_helpers.lightcurves import long_frame, to_long
from agn_helpers.packed import MARK, PackedArrays

__all__ = ["SCISERVER", "TrainingSet", "Tree", "open_training_set"]

SCISERVER = "/home/idies/workspace/Storage/ywx649999311/AGN_training/Data/qso.zarr.zip"
"""Where the original walkthrough found the store on SciServer."""

CATALOG, LIGHT_CURVES = "catalog", "sdss_lc"

Piece = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Any]

PORTION = 2**14
"""Epochs that are converted at a time; 8 to 64 thousand are equally fast."""


AHEAD = 1000
"""Metadata documents that are asked of object storage at once."""


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
        store there. Also the folder of the 2021 edition or of the AGN Data Challenge, with their files
        as published. Also an address on object storage, ``"s3://bucket/packed.zarr"``, with credentials
        where the library obstore looks for them (``AWS_ACCESS_KEY_ID`` and others); a packed copy is
        best there, see `pack_store`. By default what the environment variable ``AGN_STORE`` names, else
        the sample store, which is built once in your cache folder.
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
    edition = TrainingSet
    if "://" not in os.fspath(location):
        from agn_helpers.editions import edition_at

        edition = edition_at(location) or TrainingSet
    return edition(location, missing_chunks=missing_chunks, max_bytes=max_bytes)


class TrainingSet:
    """One open training set, read-only.

    Make one with `open_training_set`. It reads what you ask for when you ask for it and keeps
    nothing. It travels to other processes as its location and options, never as an open file.

    Attributes
    ----------
    location : str
        Absolute path or address of the store.
    """

    def __init__(
        self,
        location: "str | os.PathLike[str]",
        *,
        missing_chunks: Literal["error", "fill"] = "error",
        max_bytes: int = MAX_BYTES,
    ) -> None:
        address = os.fspath(location)
        remote = "://" in address
        self.location = address.rstrip("/") if remote else os.path.abspath(os.path.expanduser(address))
        self._options = {"missing_chunks": missing_chunks, "max_bytes": max_bytes}
        path = self.location if remote else pathlib.Path(self.location)
        opened = StoredArrays(path, missing_chunks, max_bytes)
        self._open: StoredArrays | PackedArrays | None = opened
        self._root: zarr.Group | None = None
        try:
            if opened.format == 3 and (about := opened.attrs(LIGHT_CURVES).get(MARK)) is not None:
                self._open = PackedArrays(opened, about)
            for part, kind in ((CATALOG, "array"), (LIGHT_CURVES, "group")):
                if self._open.kind(part) != kind:
                    msg = (
                        f"{self.location} is a Zarr store but has no {kind} {part!r}, so it is not a "
                        f"training set. See what it has: zarr.open_group(...).tree(level=0)"
                    )
                    raise NotATrainingSetError(msg)
        except Exception:
            opened.close()
            raise

    # -- life ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of the file. Calling it twice does no harm."""
        if self._open is not None:
            self._open.close()
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
    def _arrays(self) -> StoredArrays | PackedArrays:
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
                arrays.zarr_store, mode="r", zarr_format=arrays.format, use_consolidated=False
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
            lines.append((1, f"{CATALOG} {_described(self._catalog_layout())}"))
            keys = arrays.children(LIGHT_CURVES)
            shown = heapq.nsmallest(5, keys)  # as text, the order in which Zarr lists them
            first = ", ".join(map(repr, shown[:3]))
            more = ", ..." if len(keys) > 3 else ""
            lines.append((1, f"{LIGHT_CURVES} ({len(keys):,} arrays) keys {first}{more}"))
            if level >= 2:
                for key in shown:
                    try:
                        lines.append((2, f"{key} {_described(arrays.layout(f'{LIGHT_CURVES}/{key}'))}"))
                    except KeyError:
                        lines.append((2, f"{key!r} is not an array"))
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

    def _catalog_layout(self) -> Layout:
        try:
            return self._arrays.layout(CATALOG)
        except KeyError:  # it was there when the store was opened
            msg = f"The catalogue of {self.location} has vanished. Is the disk still there? Open it again."
            raise DamagedStoreError(msg) from None

    def _columns(self) -> list[str]:
        dtype = self._catalog_layout().dtype
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
        if isinstance(self._arrays, PackedArrays):
            return self._arrays.ids.copy()
        keys = self._arrays.children(LIGHT_CURVES)
        ids = [int(k) for k in keys if re.fullmatch("0|[1-9][0-9]{0,17}", k)]
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
        path, layout = self._find(train_id)
        record = np.empty(layout.shape, layout.dtype)
        self._arrays.read_into(record, path, layout)
        return record

    def _find(self, train_id: int) -> tuple[str, Layout]:
        """Return where the light curve `train_id` is and what it takes to read it."""
        # 66.0 comes out of float columns and means 66; "66", 66.5 and True are mistakes.
        if isinstance(train_id, (bool, str)) or not hasattr(train_id, "__int__") or int(train_id) != train_id:
            msg = f"A train_id is a whole number, not {train_id!r}. All of them: ts.light_curve_ids()"
            raise UnknownTrainIdError(msg)
        path = f"{LIGHT_CURVES}/{int(train_id)}"
        try:
            layout = self._arrays.layout(path)
        except KeyError:
            if train_id in self.light_curve_ids():
                msg = f"{self.location}: {path} has no metadata: it is no array, or a file was lost."
                raise DamagedStoreError(msg) from None
            raise UnknownTrainIdError(self._no_such_id(train_id)) from None
        if layout.dtype.names is None or len(layout.shape) != 1:
            msg = (
                f"{self.location}: light curve {train_id} is not a table of records but an array of "
                f"{layout.dtype}. See ts.root['{path}']"
            )
            raise DamagedStoreError(msg)
        return path, layout

    def _no_such_id(self, train_id: int) -> str:
        ids = self.light_curve_ids().tolist()
        at = bisect.bisect(ids, train_id)
        nearest = ", ".join(str(i) for i in ids[max(0, at - 2) : at + 2])
        return (
            f"No light curve with train_id {train_id} in {self.location}: ids have gaps. "
            + (f"The nearest are {nearest}. " if ids else "It has none at all. ")
            + "All of them: ts.light_curve_ids()"
        )

    def light_curve(
        self, train_id: int, bands: Iterable[str] | None = None, columns: Iterable[str] | None = None
    ) -> pd.DataFrame:
        """Return one light curve, one row per measurement, in time order within each band.

        Parameters
        ----------
        train_id : int
            As in the catalogue's index.
        bands : iterable of str, optional
            Some of u, g, r, i, z; all by default.
        columns : iterable of str, optional
            Columns to return after ``train_id``, ``epoch`` and ``band``; all by default.

        Returns
        -------
        pandas.DataFrame
            See `agn_helpers.to_long`: ``train_id, epoch, band, mjd`` (days), ``mag, magerr`` (mag) and what
            else the store has. Rejected measurements are there, with NaN.

        Raises
        ------
        UnknownTrainIdError
            If there is no light curve with this id.
        UnknownBandError, UnknownColumnError
            If one of `bands` or `columns` is not in it.

        Examples
        --------
        >>> with open_training_set() as training_set:
        ...     training_set.light_curve(0, bands=["g"]).columns[:6].tolist()
        ['train_id', 'epoch', 'band', 'mjd', 'mag', 'magerr']
        """
        return to_long(self.raw_light_curve(train_id), int(train_id), bands, columns)

    def light_curves(
        self,
        train_ids: Iterable[int] | None = None,
        bands: Iterable[str] | None = None,
        columns: Iterable[str] | None = None,
        progress: bool | None = None,
    ) -> pd.DataFrame:
        """Return many light curves in one frame, one after the other.

        The same rows as `light_curve` gives one by one, many times faster. All of the full set take
        less than a gigabyte; for less at a time see `iter_light_curves`.

        Parameters
        ----------
        train_ids : iterable of int, optional
            In the order wanted; all in numeric order by default.
        bands, columns : iterable of str, optional
            As in `light_curve`. Fewer of them take less memory.
        progress : bool, optional
            Show a progress bar; None shows one where someone watches.

        Returns
        -------
        pandas.DataFrame
            See `light_curve`. Rows are numbered from 0.

        Raises
        ------
        UnknownTrainIdError
            If one of `train_ids` has no light curve.
        UnknownBandError, UnknownColumnError
            If a light curve lacks one of `bands` or `columns`.
        LimitError
            If there is not enough memory.

        Examples
        --------
        >>> with open_training_set() as training_set:
        ...     frame = training_set.light_curves([3, 0], bands=["g", "r"], columns=["mjd", "mag"])
        >>> frame["train_id"].unique().tolist(), frame.columns.tolist()
        ([3, 0], ['train_id', 'epoch', 'band', 'mjd', 'mag'])
        """
        arrays = self._arrays
        ids = self.light_curve_ids().tolist() if train_ids is None else list(train_ids)
        bands = None if bands is None else list(bands)
        columns = [columns] if isinstance(columns, str) else None if columns is None else list(columns)
        with tqdm(
            total=2 * len(ids), desc="light curves", disable=None if progress is None else not progress
        ) as bar:
            groups: Iterable[tuple[np.dtype[Any], int, Iterable[Piece]]]
            if isinstance(arrays, PackedArrays):
                wanted = np.asarray(ids)
                if wanted.dtype.kind not in "iu" or not np.isin(wanted, arrays.ids).all():
                    wanted = np.array([int(i) for i in ids if self._find(i)], np.int64)
                groups = [(arrays.dtype, *arrays.pieces(wanted.astype(np.int64)))]
            else:
                groups = self._pieces(arrays, ids, bar)
            frames = []
            for dtype, n, pieces in groups:
                try:
                    frames.append(long_frame(dtype, _counted(pieces, bar), n, bands, columns))
                except MemoryError as e:
                    msg = f"{len(ids)} light curves do not fit in memory. Use ts.iter_light_curves() instead."
                    raise LimitError(msg) from e
        if len(frames) == 1:
            return frames[0]
        if frames:  # light curves with different columns: pandas knows how to line them up
            return pd.concat(frames, ignore_index=True)
        known = self.light_curve_ids()[:1]
        dtype = self._find(known[0])[1].dtype if len(known) else np.dtype([])
        return long_frame(dtype, [], 0, bands, columns)

    def _pieces(
        self, arrays: StoredArrays, ids: list[int], bar: Any
    ) -> Iterator[tuple[np.dtype[Any], int, Iterator[Piece]]]:
        """Yield dtype, number of epochs and pieces for `long_frame` of light curves with equal columns."""

        def piece(part: list[_Found]) -> Piece:
            paths, layouts = [f.path for f in part], [f.layout for f in part]
            arrays.read_ahead(paths, layouts)
            table = arrays.read_rows(paths, layouts)
            lengths = np.array([f.layout.shape[0] for f in part], np.int64)
            return np.array([f.train_id for f in part], np.int64), lengths, table

        found = []
        for i, train_id in enumerate(ids):
            if i % AHEAD == 0:
                near = ids[i : i + AHEAD]
                arrays.read_ahead([f"{LIGHT_CURVES}/{k}" for k in near if isinstance(k, (int, np.integer))])
            found.append(_Found(int(train_id), *self._find(train_id)))
            bar.update()
        for dtype, group in itertools.groupby(found, key=lambda f: f.layout.dtype):
            alike = list(group)
            yield dtype, sum(f.layout.shape[0] for f in alike), map(piece, _portions(alike))

    def iter_light_curves(
        self,
        train_ids: Iterable[int] | None = None,
        *,
        bands: Iterable[str] | None = None,
        columns: Iterable[str] | None = None,
        batch: int = 1000,
    ) -> Iterator[pd.DataFrame]:
        """Yield what `light_curves` returns, `batch` light curves at a time.

        Use it when all of them do not fit in memory, or when you reduce each to a few numbers.

        Parameters
        ----------
        train_ids, bands, columns : optional
            As in `light_curves`.
        batch : int
            Light curves per frame; 1000 take some 25 MB.

        Examples
        --------
        >>> with open_training_set() as training_set:
        ...     sum(frame["train_id"].nunique() for frame in training_set.iter_light_curves(batch=200))
        500
        """
        if batch < 1:
            msg = f"batch={batch!r} is not a number of light curves. Leave it out for 1000."
            raise InvalidValueError(msg)
        ids = iter(self.light_curve_ids().tolist() if train_ids is None else train_ids)
        bands = None if bands is None else list(bands)
        columns = [columns] if isinstance(columns, str) else None if columns is None else list(columns)
        while part := list(itertools.islice(ids, batch)):
            yield self.light_curves(part, bands, columns, progress=False)

    def to_dask(
        self,
        train_ids: Iterable[int] | None = None,
        *,
        bands: Iterable[str] | None = None,
        columns: Iterable[str] | None = None,
        batch: int = 2500,
    ) -> Any:
        """Return what `light_curves` returns as a Dask DataFrame, which is read when it is computed.

        The same code then runs on threads, on processes, or on a cluster whose machines all reach the
        store. It pays for work of many seconds; the read itself is soonest done by `light_curves`. Each
        partition opens the store anew, which takes long for a zip of many small arrays and no time for a
        packed copy: see `pack_store`.

        Parameters
        ----------
        train_ids, bands, columns : optional
            As in `light_curves`.
        batch : int
            Light curves per partition; 2500 take some 60 MB. No light curve is in two partitions.

        Returns
        -------
        dask.dataframe.DataFrame
            Rows are numbered from 0 in each partition.

        Examples
        --------
        >>> with open_training_set() as training_set:
        ...     frame = training_set.to_dask(bands=["g"], columns=["mag"], batch=100)
        ...     rows = frame["mag"].count().compute(scheduler="threads")
        >>> frame.npartitions, bool(rows > 0)
        (5, True)
        """
        import dask.dataframe

        if batch < 1:
            raise InvalidValueError(f"batch={batch!r} is not a number of light curves. Leave it out.")
        bands = None if bands is None else list(bands)
        columns = [columns] if isinstance(columns, str) else None if columns is None else list(columns)
        meta = self.light_curves([], bands, columns, progress=False)
        ids = self.light_curve_ids().tolist() if train_ids is None else list(train_ids)
        parts = [ids[i : i + batch] for i in range(0, max(1, len(ids)), batch)]
        # Dask narrows an argument named `columns` to those that a computation uses.
        read = functools.partial(_read_part, self.location, self._options, bands, columns=list(meta))
        from_map: Any = dask.dataframe.from_map
        return from_map(read, parts, meta=meta, label="light-curves")


def _read_part(
    location: str, options: dict[str, Any], bands: list[str] | None, ids: list[int], columns: list[str]
) -> pd.DataFrame:
    with _reopen(location, options) as training_set:
        return training_set.light_curves(ids, bands, columns, progress=False)[columns]


def _counted(pieces: Iterable[Piece], bar: Any) -> Iterator[Piece]:
    for piece in pieces:
        bar.update(len(piece[0]))
        yield piece


class _Found(NamedTuple):
    train_id: int
    path: str
    layout: Layout


def _portions(found: list[_Found]) -> Iterator[list[_Found]]:
    """Yield light curves in portions that fit the processor's cache."""
    part: list[_Found] = []
    longest = 0
    for one in found:
        longest = max(longest, one.layout.shape[0])
        # The conversion pads each light curve to the longest one of its portion.
        if part and (len(part) + 1) * longest > PORTION:
            yield part
            part, longest = [], one.layout.shape[0]
        part.append(one)
    if part:
        yield part


def _reopen(location: str, options: dict[str, Any]) -> TrainingSet:
    return open_training_set(location, **options)


def _described(layout: Layout) -> str:
    dtype = layout.dtype
    if not dtype.names:
        return f"{layout.shape} {dtype}"
    first = ", ".join(f"{n} {dtype[n].str}" for n in dtype.names[:3])
    return f"{layout.shape} {len(dtype.names)} fields: {first}{', ...' if len(dtype.names) > 3 else ''}"


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
