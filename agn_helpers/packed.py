"""A packed copy of a training set: one long array per column, for work on all light curves at once.

The original keeps one small array per quasar, which is right for writing and for looking at one. To read
one band of all, a reader needs three columns of thousands of arrays. Here each column of all light curves
is one array, in large chunks, with a table that says where each light curve begins.

Layout, Zarr format 3: ``catalog/<column>``, ``sdss_lc/columns/<column>``, ``sdss_lc/train_id`` and
``sdss_lc/offset`` (light curve k has rows offset[k] to offset[k + 1]). The attributes of ``sdss_lc`` keep the
original data types.
"""

import functools
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numcodecs
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from agn_helpers.arrays import MAX_BYTES, Layout, StoredArrays, dtype_of
from agn_helpers.errors import DamagedStoreError, InvalidValueError
from agn_helpers.files import AnyPath, Place, write_zip
from agn_helpers.members import ObjectMembers

__all__ = ["PackedArrays", "pack_store"]

CHUNK = 2**16
"""Rows per chunk: 0.5 MB, small enough for one light curve, large enough for few requests."""

LEVEL = 6
"""Of Zstandard. Without byte shuffle, which makes rounded decimals larger."""

PORTION = 2**18
"""Epochs that are converted at a time: each column is unpacked chunk by chunk, once per portion."""

CACHED = 64
"""Chunks kept unpacked, 32 MB: all columns of the light curves around the last one."""

MARK = "packed"


class PackedArrays(StoredArrays):
    """A packed store that answers as `agn_helpers.arrays.StoredArrays` does for the original.

    Parameters
    ----------
    arrays : StoredArrays
        The open store.
    about : dict
        What the attribute ``packed`` of its ``sdss_lc`` says.
    """

    def __init__(self, arrays: StoredArrays, about: Any) -> None:
        vars(self).update(vars(arrays))
        self.stored = arrays
        self._load = functools.lru_cache(CACHED)(self._block)
        self._column = functools.cache(self._layout_of)
        try:
            if about["version"] != 1:
                msg = f"it has version {about['version']!r}, this module reads version 1; update it"
                raise ValueError(msg)
            self.fields = dtype_of(about["catalog"])
            self.dtype = dtype_of(about["light_curves"]) if about["light_curves"] else np.dtype([])
            self.ids, self._offset = arrays.read("sdss_lc/train_id"), arrays.read("sdss_lc/offset")
            lengths = np.diff(self._offset)
            shapes = (self.ids.shape, (lengths.size,), self._offset.dtype.kind + self.ids.dtype.kind)
            if shapes != ((lengths.size,), self.ids.shape, "ii") or self._offset[0] or (lengths < 0).any():
                raise ValueError("train_id and offset do not fit each other")
            if (np.diff(self.ids) <= 0).any():
                raise ValueError("train_id is not in order")
        except (ValueError, KeyError, TypeError, IndexError) as e:
            msg = f"{self.path}: the packed layout cannot be read: {e}. Pack the original again: pack_store()"
            raise DamagedStoreError(msg) from e

    def close(self) -> None:
        """Let go of the file and of what is unpacked."""
        self._load.cache_clear()
        super().close()
        self.stored.close()

    def kind(self, path: str) -> Literal["array", "group"] | None:
        """Return what stands at `path` in the original."""
        kind = super().kind(path)
        return "array" if path == "catalog" and kind == "group" else kind

    def children(self, group: str) -> list[str]:
        """Return the names below `group` in the original, in no order."""
        return list(map(str, self.ids.tolist())) if group == "sdss_lc" else super().children(group)

    def layout(self, path: str) -> Layout:
        """Return shape and dtype of the original array at `path`."""
        if path == "catalog":
            shape = self._column("catalog", self.fields.names[0]).shape if self.fields.names else (0,)
            return Layout(shape, shape, self.fields, self.fields, ())
        start, stop = self._rows(path)
        return Layout((stop - start,), (stop - start,), self.dtype, self.dtype, ())

    def read_into(self, out: npt.NDArray[Any], path: str, layout: Layout) -> None:
        """Fill `out` with the original array at `path`, or with those of its fields that `out` has."""
        for name in out.dtype.names or ():
            if path == "catalog":
                if self._column("catalog", name).shape != out.shape:
                    raise self._unequal(f"catalog/{name}")
                out[name] = self.stored.read(f"catalog/{name}")
            else:
                out[name] = self._gather(name, *np.array([self._rows(path)]).T)

    def pieces(self, ids: npt.NDArray[np.int64]) -> tuple[int, Iterator[Any]]:
        """Return the number of epochs of light curves `ids`, which exist, and pieces for `long_frame`."""
        at = np.searchsorted(self.ids, ids)
        starts, stops = self._offset[at], self._offset[at + 1]
        lengths = stops - starts

        def cut() -> Iterator[Any]:
            # The conversion pads each light curve to the longest one of its portion.
            step = max(1, PORTION // max(1, int(lengths.max(initial=1))))
            for i in range(0, len(ids), step):
                here = slice(i, i + step)
                yield ids[here], lengths[here], _Columns(self, starts[here], stops[here])

        return int(lengths.sum()), cut()

    def _rows(self, path: str) -> tuple[int, int]:
        group, _, key = path.partition("/")
        if group != "sdss_lc" or not key.isdecimal():
            raise KeyError(path)
        at = int(np.searchsorted(self.ids, int(key)))
        if at == len(self.ids) or str(self.ids[at]) != key:
            raise KeyError(path)
        return int(self._offset[at]), int(self._offset[at + 1])

    def _layout_of(self, group: str, name: str) -> Layout:
        try:
            return self.stored.layout(f"{group}/{name}")
        except KeyError:
            raise DamagedStoreError(f"{self.path}: the column {group}/{name} is not in the store.") from None

    def _unequal(self, path: str) -> DamagedStoreError:
        return DamagedStoreError(f"{self.path}: {path} has not as many rows as it should.")

    def _block(self, name: str, index: int) -> npt.NDArray[Any]:
        layout = self._column("sdss_lc/columns", name)
        if layout.shape != (self._offset[-1],):
            raise self._unequal(f"sdss_lc/columns/{name}")
        block = self.stored.chunk(f"sdss_lc/columns/{name}", layout, (index,))
        return np.zeros(layout.chunks, layout.dtype) if block is None else block

    def _read_ahead(self, name: str, first: npt.NDArray[np.int64], last: npt.NDArray[np.int64]) -> None:
        """Ask object storage for all chunks of one column at once."""
        if isinstance(self.members, ObjectMembers):
            spans = set(zip(first.tolist(), last.tolist(), strict=True))
            chunks = sorted({i for a, b in spans for i in range(a, b + 1)})
            if len(chunks) > 1:
                names = [f"sdss_lc/columns/{name}/c/{i}" for i in chunks]
                self.members.read_ahead(names, 2 * self.stored.max_bytes)

    def _gather(
        self, name: str, starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]
    ) -> npt.NDArray[Any]:
        """Return rows starts[0] to stops[0], starts[1] to stops[1] ... of one column, end to end."""
        size = self._column("sdss_lc/columns", name).chunks[0]
        ends = np.cumsum(stops - starts)
        out = np.empty(ends[-1], self.dtype[name].newbyteorder("="))
        # Light curves that are neighbours in the store are copied together, and each chunk is met once.
        order = np.argsort(starts, kind="stable")
        first, last, end = starts[order], stops[order], ends[order]
        self._read_ahead(name, first // size, (last - 1) // size)
        apart = np.flatnonzero((first[1:] != last[:-1]) | (order[1:] != order[:-1] + 1))
        heads, tails = np.r_[0, apart + 1], np.r_[apart, len(order) - 1]
        for start, stop, to in np.stack([first[heads], last[tails], end[tails] - last[tails]], 1).tolist():
            while start < stop:
                index, within = divmod(start, size)
                n = min(stop - start, size - within)
                out[start + to : start + to + n] = self._load(name, index)[within : within + n]
                start += n
        return out


class _Columns:
    """Some light curves' epochs end to end; each column is read when it is asked for."""

    def __init__(
        self, arrays: PackedArrays, starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]
    ) -> None:
        self._packed, self._starts, self._stops = arrays, starts, stops

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self._packed._gather(name, self._starts, self._stops)


def pack_store(
    source: AnyPath | None,
    target: AnyPath,
    *,
    progress: bool | None = None,
    manifest: bool = False,
    max_bytes: int = MAX_BYTES,
) -> Path:
    """Write a packed copy of a training set, in which whole columns are read at once.

    Pack when you compute on all light curves again and again, or serve them from object storage.
    Keep the original where you add or change light curves, or read one at a time. The copy is smaller,
    opens faster, and `open_training_set` reads it with the same calls and the same answers; only
    ``training_set.root`` shows the packed arrays. It cannot be changed; pack again instead.

    Parameters
    ----------
    source : str or path
        As in `open_training_set`.
    target : str or path
        What to make. A name that ends in ``.zip`` makes one file, any other a folder. It must not exist.
    progress : bool, optional
        Show a progress bar; None shows one where someone watches.
    manifest : bool
        Write the SHA-256 checksums beside it too, as `write_manifest` does, in ``NAME.sha256``.
    max_bytes : int
        Largest array that is read from `source`, as in `open_training_set`.

    Returns
    -------
    pathlib.Path
        Where it is: complete, or absent if anything went wrong.

    Raises
    ------
    TargetExistsError
        If there is something at `target`, or beside it the manifest of a former store.
    InvalidValueError
        If the light curves have not all the same columns, or a column is of a kind that is not packed.

    Examples
    --------
    >>> import tempfile
    >>> from agn_helpers import open_training_set
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     packed = pack_store(None, f"{folder}/packed.zarr.zip")
    ...     with open_training_set(packed) as training_set:
    ...         training_set.light_curves(bands=["g"], columns=["mjd", "mag"]).shape[1]
    5
    """
    from agn_helpers.store import open_training_set  # which itself needs this room to read packed stores

    as_zip = os.fspath(target).endswith(".zip")
    with (
        open_training_set(source, max_bytes=max_bytes) as training_set,
        Place(target, folder=not as_zip, manifest=manifest) as place,
    ):
        members = _members(training_set, progress)
        if as_zip:
            write_zip(place.temporary, members)
        else:
            for name, content in members:
                path = place.temporary / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
    return place.target


def _members(training_set: Any, progress: bool | None) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of every file of the packed store."""
    arrays = training_set._arrays
    ids = training_set.light_curve_ids()
    found = [training_set._find(i) for i in ids.tolist()]
    dtype = found[0][1].dtype if found else np.dtype([])
    if other := next((path for path, layout in found if layout.dtype != dtype), None):
        msg = f"{other} has other columns than {found[0][0]}, so they do not fit in one table."
        raise InvalidValueError(msg)
    offset = np.cumsum([0, *(layout.shape[0] for _, layout in found)], dtype=np.int64)
    catalog = arrays.read("catalog")
    where = "sdss_lc/columns; light curve k has rows offset[k] to offset[k + 1]"
    about = {"version": 1, "catalog": _described(catalog.dtype), "light_curves": _described(dtype)}
    for name, attrs in (
        ("zarr.json", training_set.attrs),
        ("catalog/zarr.json", arrays.attrs("catalog")),
        ("sdss_lc/zarr.json", {MARK: about, "columns": where}),
        ("sdss_lc/columns/zarr.json", {}),
    ):
        yield name, _json({"zarr_format": 3, "node_type": "group", "attributes": attrs})
    columns = {f"catalog/{name}": catalog[name] for name in catalog.dtype.names}
    for path, values in (columns | {"sdss_lc/train_id": ids, "sdss_lc/offset": offset}).items():
        yield f"{path}/zarr.json", _document(len(values), values.dtype)
        for start in range(0, len(values), CHUNK):
            block = np.zeros(min(CHUNK, len(values)), values.dtype)
            part = values[start : start + CHUNK]
            block[: len(part)] = part
            yield f"{path}/c/{start // CHUNK}", _encoded(block)
    for name in dtype.names or ():
        yield f"sdss_lc/columns/{name}/zarr.json", _document(int(offset[-1]), dtype[name])
    waiting, full, chunks = bytearray(), min(CHUNK, int(offset[-1])) * dtype.itemsize, itertools.count()
    for path, layout in tqdm(found, "packing", disable=None if progress is None else not progress):
        record = np.empty(layout.shape, dtype)
        arrays.read_into(record, path, layout)
        waiting += record.tobytes()
        while len(waiting) >= full > 0:
            yield from _chunks(waiting[:full], dtype, next(chunks))
            del waiting[:full]
    if waiting:
        yield from _chunks(waiting.ljust(full, b"\0"), dtype, next(chunks))


def _chunks(rows: bytearray, dtype: np.dtype[Any], index: int) -> Iterator[tuple[str, bytes]]:
    table = np.frombuffer(rows, dtype)
    for name in dtype.names or ():
        yield f"sdss_lc/columns/{name}/c/{index}", _encoded(table[name])


def _encoded(values: npt.NDArray[Any]) -> bytes:
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return bytes(numcodecs.Zstd(LEVEL, checksum=True).encode(little.view("u1")))


def _document(n: int, dtype: np.dtype[Any]) -> bytes:
    """Return the metadata of a one-dimensional array, as the specification of Zarr format 3 has it."""
    kinds = {"U": "fixed_length_utf32", "S": "null_terminated_bytes"}
    kind: Any = dtype.newbyteorder("=").name
    if dtype.kind in kinds:
        kind = {"name": kinds[dtype.kind], "configuration": {"length_bytes": dtype.itemsize}}
    return _json(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [n],
            "data_type": kind,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [min(CHUNK, max(1, n))]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": {"b": False, "U": "", "S": ""}.get(dtype.kind, 0),
            "codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "zstd", "configuration": {"level": LEVEL, "checksum": True}},
            ],
            "attributes": {},
        }
    )


def _described(dtype: np.dtype[Any]) -> list[tuple[str, str]]:
    for name in dtype.names or ():
        if dtype[name].kind not in "biufUS" or dtype[name].itemsize > 2**16 // 4:
            raise InvalidValueError(f"The column {name!r} holds {dtype[name]}, which cannot be packed.")
        if "/" in name or "\\" in name or name in ("", ".", "..") or name.startswith("__"):
            raise InvalidValueError(f"The column {name!r} cannot be the name of an array. Rename it first.")
    return [(name, dtype[name].str) for name in dtype.names or ()]


def _json(document: Any) -> bytes:
    return json.dumps(document, indent=1).encode()
