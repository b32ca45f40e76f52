"""How stored bytes become NumPy arrays: the short road.

Zarr-Python 3 needs milliseconds to open an array, and a training set holds one small array per quasar.
This room reads the same bytes directly: find the zip member or file, verify its checksum, decode it with
numcodecs. What it does not know (sharding, unusual data types) it hands to Zarr itself, so the answer is
always Zarr's answer, or an error. The rest of the module does not know how it is done.

Nothing that a store declares is believed before it is checked: sizes are bounded before memory is
allocated, and no codec that could run code is ever called.
"""

import functools
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import zarr
from zarr.abc.store import Store
from zarr.buffer.cpu import Buffer
from zarr.storage import MemoryStore

from agn_helpers.codecs import Decoder, decoder, try_unpacking
from agn_helpers.errors import DamagedStoreError, LimitError, NotATrainingSetError, TrainingSetError
from agn_helpers.members import ObjectMembers, ZipMembers, open_members

__all__ = ["MAX_BYTES", "Layout", "StoredArrays"]

MAX_BYTES = 2**27
"""Largest array, in bytes, that is read unless the caller allows more (the real set needs 12 MB)."""

MAX_CHUNKS = 2**20
MAX_METADATA = 2**24
MAX_AHEAD = 4096  # objects that are asked for before the first is looked at


@dataclass(frozen=True)
class Layout:
    """One array's metadata, checked. Where `decoders` is None, Zarr itself must read the array."""

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    stored: np.dtype[Any]
    decoders: tuple[Decoder, ...] | None
    order: Literal["C", "F"] = "C"
    prefix: tuple[str, ...] = ()
    separator: str = "."

    @property
    def chunk_bytes(self) -> int:
        """Size of one chunk after decoding."""
        return math.prod(self.chunks) * self.stored.itemsize


class StoredArrays:
    """The arrays of one store, read-only.

    Parameters
    ----------
    path : pathlib.Path or str
        A ``.zarr.zip`` or a folder; as text, an address on object storage.
    missing_chunks : {"error", "fill"}
        Whether a chunk that the store lacks is an error, or is filled as Zarr does.
    max_bytes : int
        Largest array in bytes, and largest chunk after decoding.
    """

    def __init__(
        self,
        path: Path | str,
        missing_chunks: Literal["error", "fill"] = "error",
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.path, self.missing_chunks, self.max_bytes = path, missing_chunks, max_bytes
        self.members = open_members(path)
        try:
            self.format: Literal[2, 3] = 3 if self._document("zarr.json") is not None else 2
            if self.format == 2 and self._document(".zgroup") is None:
                raise NotATrainingSetError(f"{path} is not a Zarr group. {self._hint()}")
        except TrainingSetError:
            self.close()
            raise

    def _hint(self) -> str:
        inner = self.members.top_folders() if isinstance(self.members, ZipMembers) else set()
        if len(inner) != 1:
            return "Look at what it holds: a Zarr group has a .zgroup or zarr.json at its top."
        return (
            f"The zip holds the folder {min(inner)!r}: zip the folder's contents instead, "
            f"(cd {min(inner)} && zip -r0 ../store.zarr.zip .)"
        )

    def close(self) -> None:
        """Let go of the file, Zarr's view of it included."""
        self.members.close()
        if "zarr_store" in self.__dict__:
            self.zarr_store.close()

    @functools.cached_property
    def zarr_store(self) -> Store:
        """A read-only Zarr store over the same bytes."""
        return self.members.zarr_store()

    def _document(self, name: str) -> bytes | None:
        raw = self.members.read(name.lstrip("/"), MAX_METADATA)
        return None if raw is None else bytes(raw)

    def attrs(self, path: str = "") -> dict[str, Any]:
        """Return the attributes of a group or array as a new dictionary."""
        name = f"{path}/{'.zattrs' if self.format == 2 else 'zarr.json'}"
        raw = self._document(name)
        document = {} if raw is None else _json(raw, f"{self.path}: {name}")
        attrs = document if self.format == 2 else document.get("attributes", {})
        if not isinstance(attrs, dict):
            raise DamagedStoreError(f"{self.path}: {name}: attributes are not an object.")
        return attrs

    def kind(self, path: str) -> Literal["array", "group"] | None:
        """Return what stands at `path`."""
        if self.format == 2:
            if self._document(f"{path}/.zarray") is not None:
                return "array"
            return "group" if self._document(f"{path}/.zgroup") is not None else None
        raw = self._document(f"{path}/zarr.json")
        if raw is None:
            return None
        kind = _json(raw, f"{self.path}: {path}/zarr.json").get("node_type")
        return kind if kind in ("array", "group") else None

    def children(self, group: str) -> list[str]:
        """Return the names below `group`, in no order, without opening any of them."""
        return self.members.children(group)

    def _metadata_name(self, path: str) -> str:
        return f"{path}/{'.zarray' if self.format == 2 else 'zarr.json'}"

    def layout(self, path: str) -> Layout:
        """Return shape, dtype and what else it takes to read the array at `path`.

        Raises
        ------
        KeyError
            If there is no array at `path`.
        DamagedStoreError
            If its metadata is not what Zarr allows, or asks for too much.
        """
        name = self._metadata_name(path)
        raw = self._document(name)
        if raw is None:
            raise KeyError(path)
        try:
            layout = (_parse_v2 if self.format == 2 else _parse_v3)(raw, self.max_bytes)
            if layout is None:
                array = self._zarr_array(path)
                dtype = np.dtype(array.dtype)
                _bounded(array.shape, array.chunks, dtype.itemsize, self.max_bytes)
                layout = Layout(array.shape, array.chunks, dtype, dtype, None)
        except TrainingSetError as e:
            raise type(e)(f"{self.path}: {name}: {e}") from e
        except Exception as e:  # Zarr refuses metadata in many ways
            raise DamagedStoreError(f"{self.path}: {name}: {type(e).__name__}: {e}") from e
        return layout

    def read(self, path: str, fields: Sequence[str] | None = None) -> npt.NDArray[Any]:
        """Return one array, or only some `fields` of a structured one.

        Raises
        ------
        KeyError
            If there is no array at `path`.
        DamagedStoreError
            If its metadata or bytes are not what they claim to be, or a chunk is missing.
        """
        layout = self.layout(path)
        dtype = layout.dtype if fields is None else np.dtype([(f, layout.dtype[f]) for f in fields])
        out = np.empty(layout.shape, dtype)
        self.read_into(out, path, layout)
        return out

    def read_into(self, out: npt.NDArray[Any], path: str, layout: Layout) -> None:
        """Fill `out` with the array at `path`, or with those of its fields that `out` has."""
        for here, block in self._blocks(path, layout):
            if out.dtype.names and out.dtype.names != layout.dtype.names:
                for field in out.dtype.names:
                    out[field][here] = block[field]
            elif out.dtype.names and block.dtype == out.dtype and block.ndim:
                # Records move as opaque bytes: NumPy would copy them field by field, 7 times slower.
                opaque = f"V{out.dtype.itemsize}"
                out.view(opaque)[here] = block.view(opaque)
            else:
                out[here] = block

    def read_rows(self, paths: Sequence[str], layouts: Sequence[Layout]) -> npt.NDArray[Any]:
        """Return the one-dimensional arrays at `paths`, all of one dtype, end to end in one table."""
        ends = np.cumsum([0, *(layout.shape[0] for layout in layouts)])
        table = np.empty(ends[-1], layouts[0].dtype)
        for path, layout, start, stop in zip(paths, layouts, ends[:-1], ends[1:], strict=True):
            self.read_into(table[start:stop], path, layout)
        return table

    def read_ahead(self, paths: Sequence[str], layouts: Sequence[Layout] | None = None) -> None:
        """Ask object storage for the metadata of several arrays at once or, given that, for their chunks."""
        if not isinstance(self.members, ObjectMembers) or not paths:
            return
        if layouts is None:
            names = [self._metadata_name(path) for path in paths]
            self.members.read_ahead(names, MAX_METADATA)
            return
        parts = [(p, one) for p, one in zip(paths, layouts, strict=True) if one.decoders is not None]
        chunks = ((p, one, index) for p, one in parts for index in _grid(one.shape, one.chunks))
        names = [_chunk_name(*chunk) for chunk in islice(chunks, MAX_AHEAD)]
        self.members.read_ahead(names, max((_room(one.chunk_bytes) for _, one in parts), default=0))

    def _blocks(self, path: str, layout: Layout) -> Iterator[tuple[tuple[slice, ...], npt.NDArray[Any]]]:
        """Yield where each chunk belongs and what it holds, cut to the array's edges."""
        if layout.decoders is None:
            yield (), self._by_zarr(path)
            return
        if layout.shape == layout.chunks:  # as nearly every light curve: one chunk, nothing to cut
            block = self.chunk(path, layout, (0,) * len(layout.shape))
            if block is not None:
                yield (), block
                return
        fill = None
        for index in _grid(layout.shape, layout.chunks):
            bounds = zip(index, layout.chunks, layout.shape, strict=True)
            here = tuple(slice(i * c, min((i + 1) * c, s)) for i, c, s in bounds)
            block = self.chunk(path, layout, index)
            if block is not None:
                yield here, block[tuple(slice(h.stop - h.start) for h in here)]
                continue
            if fill is None:
                value = self._zarr_array(path).metadata.fill_value
                fill = np.zeros((), layout.dtype) if value is None else np.array(value, layout.dtype)
            yield here, fill

    def chunk(self, path: str, layout: Layout, index: tuple[int, ...]) -> npt.NDArray[Any] | None:
        """Return one chunk decoded, None where the store lacks it and that is allowed."""
        name = _chunk_name(path, layout, index)
        data: Any = self.members.read(name, _room(layout.chunk_bytes))
        if data is None:
            if self.missing_chunks == "fill":
                return None
            raise self._missing(name)
        try:
            for decode in layout.decoders or ():
                data = decode(data)
            flat = np.frombuffer(data, layout.stored)
            return flat.reshape(layout.chunks, order=layout.order)
        except Exception as e:  # each codec has its own way to refuse bytes
            msg = f"{self.path}: the chunk {name} cannot be decoded: {e}. Fetch the store again."
            raise DamagedStoreError(msg) from e

    def _missing(self, name: str) -> DamagedStoreError:
        msg = (
            f"{self.path}: the chunk {name} is not in the store. "
            "Pass missing_chunks='fill' to open_training_set if fill values are meant there."
        )
        return DamagedStoreError(msg)

    def _zarr_array(self, path: str) -> Any:
        return zarr.open_array(self.zarr_store, path=path, mode="r", zarr_format=self.format)

    def _by_zarr(self, path: str) -> npt.NDArray[Any]:
        # Zarr gets copies: it would follow links, wait for pipes, and fill what is missing.
        copies: dict[str, Any] = {}
        room = _room(self.max_bytes)
        for name in self.members.names(path):
            data = self.members.read(name, room) or b""
            room -= len(data)
            copies[name] = Buffer.from_bytes(bytes(data))
        try:
            array: Any = zarr.open_array(MemoryStore(copies), path=path, mode="r", zarr_format=self.format)
            stored = array.shards or array.chunks
            itemsize = None if (dtype := np.dtype(array.dtype)).hasobject else dtype.itemsize
            codecs = _json(copies[f"{path}/zarr.json"].to_bytes(), path)["codecs"]
            for index in _grid(array.shape, stored):
                name = f"{path}/{array.metadata.encode_chunk_key(index)}"
                if name in copies:
                    try_unpacking(copies[name].to_bytes(), codecs, stored, itemsize, _room(self.max_bytes))
                elif self.missing_chunks == "error":
                    raise self._missing(name)
            return np.asarray(array[...], array.dtype)  # of 0-d texts Zarr returns a shorter scalar
        except TrainingSetError:
            raise
        except Exception as e:  # Zarr and its codecs raise errors of many kinds
            msg = f"{self.path}: Zarr cannot read {path}: {type(e).__name__}: {e}"
            raise DamagedStoreError(msg) from e


def _chunk_name(path: str, layout: Layout, index: tuple[int, ...]) -> str:
    return f"{path}/{layout.separator.join([*layout.prefix, *map(str, index)]) or '0'}"


def _grid(shape: Sequence[int], chunks: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield the index of every chunk."""
    return product(*(range(-(-s // c)) for s, c in zip(shape, chunks, strict=True)))


def _json(raw: bytes, where: str) -> dict[str, Any]:
    try:
        document = json.loads(raw)
        if b"\\ud" in raw.lower():  # half a character, which no text may hold
            json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as e:
        raise DamagedStoreError(f"{where} is not readable JSON: {e}.") from e
    if not isinstance(document, dict):
        raise DamagedStoreError(f"{where} is not a JSON object.")
    return document


# -- metadata documents ---------------------------------------------------------------------------
# Thousands of light curves share about a hundred distinct documents: each is parsed once.


@functools.lru_cache(maxsize=4096)
def _parse_v2(raw: bytes, max_bytes: int) -> Layout | None:
    meta = _json(raw, "the metadata")
    shape, chunks = _sizes(meta.get("shape")), _sizes(meta.get("chunks"))
    dtype = dtype_of(meta.get("dtype"))
    filters = meta.get("filters") or []
    order, separator = meta.get("order", "C"), meta.get("dimension_separator", ".")
    if meta.get("zarr_format") != 2 or order not in ("C", "F") or separator not in (".", "/"):
        raise DamagedStoreError("format, order or dimension_separator is not what Zarr 2 allows.")
    if not isinstance(filters, list):
        raise DamagedStoreError("filters are not a list.")
    room = _room(_bounded(shape, chunks, dtype.itemsize, max_bytes))
    decoders = tuple(decoder(c, room) for c in (meta.get("compressor"), *reversed(filters)) if c)
    return Layout(shape, chunks, dtype, dtype, decoders, order, (), separator)


@functools.lru_cache(maxsize=4096)
def _parse_v3(raw: bytes, max_bytes: int) -> Layout | None:
    """Return the layout, None where Zarr must read the array."""
    meta = _json(raw, "the metadata")
    try:
        grid, keys = meta["chunk_grid"], meta["chunk_key_encoding"]
        shape, chunks = _sizes(meta["shape"]), _sizes(grid["configuration"]["chunk_shape"])
        names = [c["name"] for c in meta["codecs"]]
        configs = [c.get("configuration") or {} for c in meta["codecs"]]
        if meta["zarr_format"] != 3 or meta["node_type"] != "array":
            raise DamagedStoreError("this is not the metadata of a Zarr 3 array.")
        separator = (keys.get("configuration") or {}).get("separator", "/")
        if separator not in (".", "/"):
            raise DamagedStoreError("the separator of its chunk names is neither . nor /.")
        dtype = _dtype_v3(meta["data_type"])
        room = _room(_bounded(shape, chunks, dtype.itemsize if dtype else 1, max_bytes))
        if unsafe := [n for n in names if "pickle" in n]:
            raise DamagedStoreError(f"the codec {unsafe[0]!r} can run code; it is never used.")
        plain = names[:1] == ["bytes"] and {"blosc", "zstd", "gzip", "crc32c"}.issuperset(names[1:])
        plain = plain and (grid["name"], keys["name"]) == ("regular", "default")
        if dtype is None or not plain or meta.get("storage_transformers"):
            return None
        stored = dtype.newbyteorder(">" if configs[0].get("endian") == "big" else "<")
        steps = reversed(list(zip(names[1:], configs[1:], strict=True)))
        decoders = tuple(decoder({**config, "id": name}, room, v3=True) for name, config in steps)
        return Layout(shape, chunks, dtype, stored, decoders, "C", ("c",), separator)
    except TrainingSetError:
        raise
    except Exception as e:  # any field may be absent or of any JSON type
        msg = f"the metadata lacks a field or holds a wrong one ({type(e).__name__}: {e})."
        raise DamagedStoreError(msg) from e


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(v) is int and 0 <= v < 2**63 for v in value):
        raise DamagedStoreError(f"impossible shape or chunks {str(value)[:60]}.")
    return tuple(value)


def _room(size: int) -> int:
    """Return how many bytes a chunk of `size` may take: some codecs add a header."""
    return 2 * size + 4096


def _bounded(shape: tuple[int, ...], chunks: tuple[int, ...], itemsize: int, limit: int) -> int:
    """Return the size of one chunk in bytes, or raise if shape and chunks are impossible or too large."""
    # NumPy before 2.2 lets the size of an enormous text overflow, below zero.
    if len(shape) != len(chunks) or len(shape) > 32 or 0 in chunks or itemsize < 1:
        raise DamagedStoreError(f"shape {str(shape)[:60]}, chunks {str(chunks)[:60]} do not fit each other.")
    chunk = math.prod(chunks) * itemsize
    if (size := max(math.prod(shape) * itemsize, chunk)) > limit:
        msg = (
            f"it declares {size} bytes, more than max_bytes={limit}. If you trust the "
            f"store, raise it: open_training_set(..., max_bytes={size})"
        )
        raise LimitError(msg)
    if math.prod(-(-s // c) for s, c in zip(shape, chunks, strict=True)) > MAX_CHUNKS:
        raise LimitError(f"it declares more than {MAX_CHUNKS} chunks.")
    return chunk


def dtype_of(value: Any) -> np.dtype[Any]:
    try:
        return _dtype_of(_hashable(value))
    except (TypeError, ValueError, RecursionError):
        msg = f"the data type {str(value)[:60]} is not one this module reads (objects never are)."
        raise DamagedStoreError(msg) from None


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


@functools.lru_cache(maxsize=256)  # all light curves of a store have one or two types
def _dtype_of(value: Any) -> np.dtype[Any]:
    if isinstance(value, str) and re.fullmatch(r"[<>|][biufcSUVMm]\d{1,9}(\[\d*[a-zA-Z]{1,2}\])?", value):
        return np.dtype(value)
    if not value or not all(isinstance(name, str) for name, _ in value):
        raise ValueError
    return np.dtype([(name, _dtype_of(t)) for name, t in value])


def _dtype_v3(value: Any) -> np.dtype[Any] | None:
    """Return the data type, None for those that Zarr itself must read."""
    if isinstance(value, str):
        known = re.fullmatch(r"bool|u?int(8|16|32|64)|float(16|32|64)|complex(64|128)", value)
        return np.dtype(value) if known else None
    name, config = value["name"], value.get("configuration") or {}
    if name in ("structured", "struct"):
        pairs = [(f["name"], f["data_type"]) if isinstance(f, dict) else f for f in config["fields"]]
        parts = [(str(n), _dtype_v3(t)) for n, t in pairs]
        return None if any(t is None for _, t in parts) else np.dtype(parts)
    if name == "null_terminated_bytes":
        return np.dtype(f"S{int(config['length_bytes'])}")
    if name == "fixed_length_utf32":
        return np.dtype(f"<U{int(config['length_bytes']) // 4}")
    return None
