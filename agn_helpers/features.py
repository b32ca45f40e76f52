"""Write a table of features from many workers at once, lose nothing, and seal it into one zip.

Zarr changes a chunk by reading it, changing it and writing it back. Two writers in one chunk can both read
before either writes; then one's values are gone, and nobody is told. Here each writer gets whole chunks, and
a table appears under its name only when every chunk of it is on disk.
"""

import contextlib
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr
from zarr.codecs import ZstdCodec

from agn_helpers.arrays import StoredArrays
from agn_helpers.columns import MISSING_INTEGER
from agn_helpers.errors import InvalidValueError, NotATrainingSetError, UnsafeWriteError
from agn_helpers.files import AnyPath, Place, write_zip
from agn_helpers.parallel import in_order

__all__ = ["FeatureWriter", "read_features", "seal_zip", "write_features"]

INDEX = "train_id"
LEFTOVER = ".partial"
"""Zarr writes a chunk to a name that ends so, then renames it; what is left belonged to a killed writer."""


class FeatureWriter:
    """A table under construction, filled by as many threads, processes or machines as you like.

    The process that makes it owns it. Workers get it as an argument (it pickles to its place on disk), each
    writes some of its `regions`, and the owner finishes it, best with a ``with`` block: at its end the
    table appears at `path`, complete; after an error nothing appears. `write_features` is shorter
    where one process has all values.

    Parameters
    ----------
    path : str or os.PathLike
        Folder to make, on a disk that all workers reach. It must not exist.
    n : int
        Number of rows.
    columns : mapping of str to dtype
        Names and types: numbers, booleans, or pandas' ``Int64``, whose missing values are stored as -99.
    chunk : int
        Rows per chunk, which is what one writer must have for itself.
    attrs : mapping, optional
        Attributes of the table, for example how the features were computed.
    manifest : bool
        Write the SHA-256 checksums beside it too, as `write_manifest` does, in ``NAME.sha256``.

    Raises
    ------
    TargetExistsError
        If there is something at `path`, or beside it the manifest of a former table.
    UnsafeWriteError
        If `path` names a zip.
    InvalidValueError
        If a column has a type that cannot be stored.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with FeatureWriter(f"{folder}/f.zarr", n=3, columns={"rows": "int64"}, chunk=2) as writer:
    ...         for start, stop in writer.regions:
    ...             index = pd.RangeIndex(start, stop, name="train_id")
    ...             writer.write(start, pd.DataFrame({"rows": 10 * index}, index=index))
    ...     read_features(f"{folder}/f.zarr")["rows"].tolist()
    [0, 10, 20]
    """

    def __init__(
        self,
        path: AnyPath,
        n: int,
        columns: Mapping[str, Any],
        chunk: int = 4096,
        attrs: Mapping[str, Any] | None = None,
        *,
        manifest: bool = False,
    ) -> None:
        if n < 0 or chunk < 1:
            raise InvalidValueError(f"n={n} rows in chunks of {chunk} cannot be: n >= 0, chunk >= 1.")
        self.n, self.chunk = int(n), int(chunk)
        self.columns = {str(name): _storable(str(name), dtype) for name, dtype in columns.items()}
        if os.fspath(path).endswith(".zip") or "://" in os.fspath(path):
            msg = f"{os.fspath(path)!r} is not a folder. A zip has one index at its end, which writers"
            msg += " overwrite for each other. Write to a folder first, then: seal_zip(folder, zip)"
            raise UnsafeWriteError(msg)
        self._place: Place | None = Place(path, folder=True, manifest=manifest)
        self._folder = self._place.temporary
        try:
            about: dict[str, Any] = {**(attrs or {}), "columns": list(self.columns)}
            root = zarr.create_group(self._folder, attributes=about)
            codec = ZstdCodec(level=3, checksum=True)  # a folder has no other checksum
            for name, dtype in {INDEX: np.dtype(np.int64), **self.columns}.items():
                nullable = isinstance(dtype, pd.Int64Dtype)
                kind = np.int64 if nullable else dtype
                about = {"missing_value": MISSING_INTEGER} if nullable else {}
                root.create_array(
                    name,
                    shape=(self.n,),
                    chunks=(self.chunk,),
                    dtype=kind,
                    compressors=codec,
                    attributes=about,
                )
        except BaseException:
            self.discard()
            raise

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_place": None}

    @property
    def regions(self) -> list[tuple[int, int]]:
        """First row and end of each chunk: what may be written by different workers at once."""
        return [(i, min(i + self.chunk, self.n)) for i in range(0, self.n, self.chunk)]

    def write(self, start: int, frame: pd.DataFrame) -> None:
        """Write one or more whole chunks. Writing the same rows again, as a retry does, is no harm.

        Parameters
        ----------
        start : int
            First row: the beginning of one of the `regions`.
        frame : pandas.DataFrame
            Indexed by ``train_id``, with the columns and types of the table.

        Raises
        ------
        UnsafeWriteError
            If these rows share a chunk with other rows, or columns and types are not the table's.
        """
        stop = start + len(frame)
        aligned = start % self.chunk == 0 and (stop % self.chunk == 0 or stop == self.n)
        if not aligned or not 0 <= start <= stop <= self.n:
            msg = (
                f"Rows {start} to {stop} are not whole chunks of {self.chunk} in a table of {self.n} rows: "
                "another writer could change the same chunk, and one of you would lose. Write what .regions "
                "lists."
            )
            raise UnsafeWriteError(msg)
        _check_frame(frame, self.columns)
        root = zarr.open_group(self._folder, mode="r+")
        for name in [*self.columns, INDEX]:
            # Zarr would leave a chunk of zeros out; here what is absent was not written.
            array = root[name].with_config({"write_empty_chunks": True})  # type: ignore[union-attr]  # no group
            array[start:stop] = _values(frame.index if name == INDEX else frame[name], name)

    def finish(self) -> Path:
        """Check that every chunk of every column was written, and let the table appear. Owner only.

        Returns
        -------
        pathlib.Path
            Where it is.

        Raises
        ------
        UnsafeWriteError
            If rows are missing or a ``train_id`` stands twice. Nothing appears then.
        """
        if self._place is None:
            raise UnsafeWriteError("Only the process that made this writer can finish it, and only once.")
        try:
            for i, (start, stop) in enumerate(self.regions):
                for name in [*self.columns, INDEX]:
                    if not (self._folder / name / "c" / str(i)).exists():
                        msg = f"Rows {start} to {stop} of {name!r} were never written: did a worker die? "
                        again = "Nothing was kept. Run it again, and wait for every worker's answer."
                        raise UnsafeWriteError(msg + again)
            for leftover in self._folder.rglob(f"*{LEFTOVER}"):
                leftover.unlink()
            ids = pd.Index(_read(self._folder, [INDEX])[INDEX])
            if not ids.is_unique:
                twice = ids[ids.duplicated()][0]
                raise UnsafeWriteError(f"train_id {twice} stands twice. Nothing was kept. Check the index.")
            return self._place.reveal()
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove what was written so far. After `finish` this does nothing."""
        if self._place is not None:
            self._place.remove()
            self._place = None

    def __enter__(self) -> "FeatureWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.finish()
        else:
            self.discard()

    def _grow(self, n: int) -> None:
        root = zarr.open_group(self._folder, mode="r+")
        for name in [*self.columns, INDEX]:
            root[name].resize((n,))  # type: ignore[union-attr]  # made as an array, no group
        self.n = n


def write_features(
    path: AnyPath,
    features: pd.DataFrame | pd.Series | Iterable[pd.DataFrame],
    chunk: int = 4096,
    workers: int | None = None,
    attrs: Mapping[str, Any] | None = None,
    *,
    manifest: bool = False,
) -> Path:
    """Write a table of features to a new folder store: one array per column, whole or not at all.

    Writers work side by side, each on chunks of its own. The table appears at `path` when all of it is on
    disk; a process that is killed on the way leaves nothing there. Its hidden leftovers are removed by
    the next write to the same path. To hand the table on as one file, use `seal_zip`.

    Parameters
    ----------
    path : str or os.PathLike
        Folder to make, for example ``"features.zarr"``. It must not exist.
    features : pandas.DataFrame, Series or iterable of DataFrame
        Indexed by ``train_id``. Parts of a table come one after the other, with the same columns and
        types; only a few chunks of them are in memory at once.
    chunk : int
        Rows per chunk.
    workers : int, optional
        Writers at once, four by default.
    attrs : mapping, optional
        Attributes of the table.
    manifest : bool
        Write the SHA-256 checksums beside it too, as `write_manifest` does, in ``NAME.sha256``.

    Returns
    -------
    pathlib.Path
        Where it is.

    Raises
    ------
    TargetExistsError
        If there is something at `path`, or beside it the manifest of a former table.
    UnsafeWriteError
        If `path` names a zip, a ``train_id`` stands twice, or parts differ in columns or types.
    InvalidValueError
        If there is nothing to write, or a column that cannot be stored.

    Examples
    --------
    >>> import tempfile
    >>> index = pd.Index([0, 3], name="train_id")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     made = write_features(f"{folder}/f.zarr", pd.DataFrame({"scatter": [0.1, 0.2]}, index=index))
    ...     read_features(made)["scatter"].tolist()
    [0.1, 0.2]
    """
    if isinstance(features, pd.Series):
        features = features.to_frame(features.name if features.name is not None else "value")
    parts = iter([features] if isinstance(features, pd.DataFrame) else features)
    first = next(parts, None)
    if first is None:
        raise InvalidValueError("There are no features to write: the iterator gave no frame.")
    threads = workers or 4
    writer = FeatureWriter(path, 0, dict(first.dtypes.items()), chunk, attrs, manifest=manifest)
    with writer, ThreadPoolExecutor(threads) as pool:

        def submit(block: pd.DataFrame) -> Any:
            start = writer.n
            writer._grow(start + len(block))
            return pool.submit(writer.write, start, block)

        for _ in in_order(submit, _blocks(first, parts, writer), 2 * threads):
            pass
    return Path(path)


def _blocks(
    first: pd.DataFrame, rest: Iterator[pd.DataFrame], writer: FeatureWriter
) -> Iterator[pd.DataFrame]:
    """Cut parts of any length into blocks of one chunk; only the last may be shorter."""
    _check_frame(first, writer.columns)
    held = first
    while True:
        whole = len(held) - len(held) % writer.chunk
        for i in range(0, whole, writer.chunk):
            yield held.iloc[i : i + writer.chunk]
        held = held.iloc[whole:]
        part = next(rest, None)
        if part is None:
            break
        _check_frame(part, writer.columns)
        held = pd.concat([held, part[list(writer.columns)]]) if len(held) else part
    if len(held):
        yield held


def _storable(name: str, dtype: Any) -> Any:
    dtype = pd.api.types.pandas_dtype(dtype)
    if not (isinstance(dtype, pd.Int64Dtype) or (isinstance(dtype, np.dtype) and dtype.kind in "biuf")):
        msg = f"The column {name!r} holds {dtype}; only numbers, booleans and Int64 are stored. Leave it out:"
        raise InvalidValueError(f"{msg} features.drop(columns={name!r})")
    if not name or name == INDEX or set(name) & set("/\\") or name.startswith((".", "__")):
        msg = f"{name!r} cannot name a column of a store. Use: features.rename(columns=...)"
        raise InvalidValueError(msg)
    return dtype


def _check_frame(frame: pd.DataFrame, columns: Mapping[str, Any]) -> None:
    if not pd.api.types.is_integer_dtype(frame.index.dtype):
        msg = f"The index holds {frame.index.dtype}, not train_id. Use: features.set_index('train_id')"
        raise UnsafeWriteError(msg)
    if set(frame.columns) != set(columns) or len(frame.columns) != len(columns):
        msg = f"Columns {list(frame.columns)} are not those of the table. Use: frame[{list(columns)}]"
        raise UnsafeWriteError(msg)
    for name, dtype in columns.items():
        if frame[name].dtype != dtype:
            msg = (
                f"The column {name!r} is {frame[name].dtype} here and {dtype} in the table: converting could "
                f"round. Use: frame.astype({{{name!r}: {str(dtype)!r}}})"
            )
            raise UnsafeWriteError(msg)


def _values(column: pd.Series | pd.Index, name: str) -> npt.NDArray[Any]:
    if not isinstance(column.dtype, pd.Int64Dtype):
        return np.asarray(column)
    if (column == MISSING_INTEGER).any():
        msg = f"The column {name!r} holds {MISSING_INTEGER}, which means missing in a store. Use float64."
        raise UnsafeWriteError(msg)
    filled: npt.NDArray[Any] = column.to_numpy(dtype=np.int64, na_value=MISSING_INTEGER)
    return filled


def _read(path: Path, names: list[str] | None = None) -> dict[str, Any]:
    with contextlib.closing(StoredArrays(path)) as arrays:
        known = arrays.attrs().get("columns")
        if not isinstance(known, list) or arrays.kind(INDEX) != "array":
            msg = f"{path} is not a table of features. For other stores: zarr.open_group({str(path)!r})"
            raise NotATrainingSetError(msg)
        columns: dict[str, Any] = {}
        for name in names or [INDEX, *map(str, known)]:
            values = arrays.read(name)
            if "missing_value" in arrays.attrs(name):
                values = pd.arrays.IntegerArray(values, values == arrays.attrs(name)["missing_value"])
            columns[name] = values
        return columns


def read_features(path: AnyPath) -> pd.DataFrame:
    """Return a table that `write_features` wrote, from its folder or from its zip.

    Parameters
    ----------
    path : str or os.PathLike
        The folder, or the ``.zarr.zip`` that `seal_zip` made.

    Returns
    -------
    pandas.DataFrame
        Indexed by ``train_id``, in the order in which it was written.

    Raises
    ------
    NotATrainingSetError
        If this is no table of features.
    DamagedStoreError
        If a chunk is missing, or its checksum does not match.

    Examples
    --------
    >>> import tempfile
    >>> index = pd.Index([0, 3], name="train_id")
    >>> table = pd.DataFrame({"n": pd.array([5, None], dtype="Int64")}, index=index)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     read_features(write_features(f"{folder}/f.zarr", table))
                 n
    train_id
    0            5
    3         <NA>
    """
    columns = _read(Path(path))
    return pd.DataFrame(columns).set_index(INDEX)


def seal_zip(folder: AnyPath, target: AnyPath, *, manifest: bool = False) -> Path:
    """Turn a finished folder store into one read-only zip: complete or absent, the same bytes each time.

    Chunks are compressed already, so the zip only stores them. Its index is written last; that is why a
    zip must never be written by several processes, nor by one that may be killed. Here it is written under
    a hidden name, read back, and renamed.

    Parameters
    ----------
    folder : str or os.PathLike
        A Zarr store of format 2 or 3. It stays as it is.
    target : str or os.PathLike
        The file to make, for example ``"features.zarr.zip"``. It must not exist.
    manifest : bool
        Write the SHA-256 checksums beside it too, as `write_manifest` does, in ``NAME.sha256``.

    Returns
    -------
    pathlib.Path
        Where it is.

    Raises
    ------
    TargetExistsError
        If there is something at `target`, or beside it the manifest of a former store.
    NotATrainingSetError
        If `folder` is no Zarr store.
    UnsafeWriteError
        If `folder` holds links, or the zip does not read back.

    Examples
    --------
    >>> import tempfile
    >>> index = pd.Index([0, 3], name="train_id")
    >>> with tempfile.TemporaryDirectory() as d:
    ...     made = write_features(f"{d}/f.zarr", pd.DataFrame({"scatter": [0.1, 0.2]}, index=index))
    ...     sealed = seal_zip(made, f"{d}/f.zarr.zip")
    ...     read_features(sealed).index.tolist()
    [0, 3]
    """
    source = Path(folder)
    if not any((source / top).is_file() for top in ("zarr.json", ".zgroup", ".zarray")):
        msg = f"{source} is not a folder that holds a Zarr store. Look at it: ls -a {source}"
        raise NotATrainingSetError(msg)
    files = sorted(p for p in source.rglob("*") if p.is_symlink() or not p.is_dir())
    if links := [p for p in files if p.is_symlink() or not p.is_file()]:
        msg = f"{links[0]} is a link, or no ordinary file. Seal a plain copy: cp -rL {source} copy.zarr"
        raise UnsafeWriteError(msg)
    names = {p.relative_to(source).as_posix(): p for p in files if not p.name.endswith(LEFTOVER)}
    with Place(target, manifest=manifest) as place:
        write_zip(place.temporary, ((name, path.read_bytes()) for name, path in names.items()))
        with zipfile.ZipFile(place.temporary) as z:
            if z.namelist() != list(names) or z.testzip() is not None:
                raise UnsafeWriteError(f"The new zip does not read back. Is the disk full? df -h {source}")
    return place.target
