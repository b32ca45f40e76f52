"""How stored bytes become NumPy arrays: the short road.

Zarr-Python 3 needs milliseconds to open an array, and a training set holds one small array per quasar.
This room reads the same bytes directly: find the zip member or file, verify its checksum, decode it with
numcodecs. What it does not know (sharding, unusual data types) it hands to Zarr itself, so the answer is
always Zarr's answer, or an error. The rest of the module does not know how it is done: it calls `read`.

Nothing that a store declares is believed before it is checked: sizes are bounded before memory is
allocated, and no codec that could run code is ever called.
"""

import bz2
import functools
import json
import lzma
import math
import os
import re
import stat
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numcodecs
import numpy as np
import numpy.typing as npt
import zarr
from zarr.abc.store import Store

from agn_helpers.errors import (
    DamagedStoreError,
    LimitError,
    NotATrainingSetError,
    StoreNotFoundError,
    TrainingSetError,
)

__all__ = ["MAX_BYTES", "StoredArrays"]

MAX_BYTES = 2**30
"""Largest array, in bytes, that is read unless the caller allows more (the real set needs 12 MB)."""

MAX_CHUNKS = 2**20
MAX_METADATA = 2**24
MAX_MEMBERS = 2**22

Buffer = bytes | memoryview
Decoder = Callable[[Any], Any]


class Members(Protocol):
    """Where a store's bytes come from. Names are relative to the store, with '/' between parts."""

    def read(self, name: str, limit: int) -> Buffer | None:
        """Return the bytes of one member, None where there is none."""

    def children(self, group: str) -> list[str]:
        """Return the names directly below `group` that may be arrays or groups."""

    def zarr_store(self) -> Store:
        """Return a read-only Zarr store over the same bytes."""

    def close(self) -> None:
        """Let go of the file."""


class ZipMembers:
    """Members of one zip, each verified against the checksum that the zip stores for it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb", buffering=0)
        try:
            self._zip = zipfile.ZipFile(path)
            infos = self._zip.infolist()
            if len(infos) > MAX_MEMBERS:
                msg = f"{path} lists {len(infos)} members, more than {MAX_MEMBERS}: not read."
                raise LimitError(msg)
            self._infos = {i.filename: i for i in infos}
        except TrainingSetError:
            self._file.close()
            raise
        except Exception as e:  # zipfile answers a hostile directory with errors of many kinds
            self._file.close()
            msg = (
                f"{path} cannot be read as a zip: {e}. It is empty, a broken download, or a writer "
                f"never closed it. Fetch it again and compare sizes: ls -l {path}"
            )
            raise DamagedStoreError(msg) from e
        self._lock = threading.Lock()
        if len(self._infos) != len(infos):
            self.close()
            msg = f"{path} stores a name twice, so what it holds is ambiguous. Ask for a clean copy."
            raise DamagedStoreError(msg)

    def _at(self, offset: int, n: int) -> bytes:
        if hasattr(os, "pread"):  # no shared file position, so threads need no lock
            return os.pread(self._file.fileno(), n, offset)
        with self._lock:
            self._file.seek(offset)
            return self._file.read(n)

    def read(self, name: str, limit: int) -> Buffer | None:
        info = self._infos.get(name)
        if info is None:
            return None
        if info.file_size > limit:
            msg = f"{self.path}: {name} unpacks to {info.file_size} bytes, more than {limit}."
            raise LimitError(msg)
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            try:
                return self._zip.read(info)
            except Exception as e:  # encrypted, unknown method, bad checksum: zipfile's own words
                raise self._damaged(name, str(e)) from e
        # One read usually fetches the local header, whose length varies, and the data behind it.
        block = self._at(info.header_offset, 30 + len(name) + info.compress_size + 64)
        if len(block) < 30 or block[:4] != b"PK\3\4":
            raise self._damaged(name, "no member at its offset; did the file change while open?")
        start = 30 + sum(struct.unpack_from("<HH", block, 26))
        if start + info.compress_size > len(block):
            block = self._at(info.header_offset, start + info.compress_size)
        data = memoryview(block)[start : start + info.compress_size]
        if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
            raise self._damaged(name, "the stored checksum does not match")
        return data

    def _damaged(self, name: str, why: str) -> DamagedStoreError:
        return DamagedStoreError(f"{self.path}: {name}: {why}. Fetch the file again.")

    def children(self, group: str) -> list[str]:
        n = len(group) + 1
        ends = ("/.zarray", "/.zgroup", "/zarr.json")
        heads = {
            k[n : k.rindex("/")]
            for k in self._infos
            if k.startswith(f"{group}/") and k.endswith(ends)
        }
        return [h for h in heads if h and "/" not in h]

    def top_folders(self) -> set[str]:
        """Return the folders at the top, to recognise a zip of the folder instead of its contents."""
        return {k.split("/", 1)[0] for k in self._infos if "/" in k}

    def zarr_store(self) -> Store:
        return zarr.storage.ZipStore(self.path, mode="r")

    def close(self) -> None:
        self._file.close()
        self._zip.close()


class FolderMembers:
    """Members of a store that is a folder: one file each, and no checksum."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._real = os.path.realpath(path)

    def read(self, name: str, limit: int) -> Buffer | None:
        full = os.path.join(self._real, *name.split("/"))
        try:
            if os.path.realpath(full) != full:
                msg = f"{self.path}: {name} is a link that leads elsewhere; it is not followed."
                raise DamagedStoreError(msg)
            with open(full, "rb") as f:
                status = os.fstat(f.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise DamagedStoreError(f"{self.path}: {name} is not an ordinary file.")
                if status.st_size > limit:
                    msg = f"{self.path}: {name} holds {status.st_size} bytes, more than {limit}."
                    raise LimitError(msg)
                return f.read(status.st_size + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as e:
            msg = f"{self.path}: {name} cannot be read ({e.strerror}). Check its permissions."
            raise DamagedStoreError(msg) from e

    def children(self, group: str) -> list[str]:
        try:
            with os.scandir(os.path.join(self._real, group)) as entries:
                return [e.name for e in entries if e.is_dir() and not e.name.startswith(".")]
        except FileNotFoundError:
            return []

    def zarr_store(self) -> Store:
        return zarr.storage.LocalStore(self.path, read_only=True)

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Layout:
    """One array's metadata, checked. `decoders` stand in decoding order."""

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    stored: np.dtype[Any]
    order: Literal["C", "F"]
    decoders: tuple[Decoder, ...]
    prefix: str
    separator: str

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Parsed(NamedTuple):
    """Layout, or None where Zarr itself must read the array, and the bytes that it declares."""

    layout: Layout | None
    nbytes: int


class StoredArrays:
    """The arrays of one store, read-only.

    Parameters
    ----------
    path : pathlib.Path
        A ``.zarr.zip`` or a folder.
    missing_chunks : {"error", "fill"}
        Whether a chunk that the store lacks is an error, or is filled as Zarr does.
    max_bytes : int
        Largest array in bytes, and largest chunk after decoding.
    """

    def __init__(
        self,
        path: Path,
        missing_chunks: Literal["error", "fill"] = "error",
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.path, self.missing_chunks, self.max_bytes = path, missing_chunks, max_bytes
        self.members = _open_members(path)
        self.format: Literal[2, 3] = 3 if self._document("zarr.json") is not None else 2
        if self.format == 2 and self._document(".zgroup") is None:
            inner = self.members.top_folders() if isinstance(self.members, ZipMembers) else set()
            self.close()
            hint = (
                f" The zip holds the folder {min(inner)!r}: zip the folder's contents instead, "
                f"(cd {min(inner)} && zip -r0 ../store.zarr.zip .)"
                if len(inner) == 1
                else " Look at what it holds: a Zarr group has a .zgroup or zarr.json at its top."
            )
            raise NotATrainingSetError(f"{path} is not a Zarr group.{hint}")

    def close(self) -> None:
        self.members.close()

    def zarr_store(self) -> Store:
        return self.members.zarr_store()

    def _document(self, name: str) -> bytes | None:
        raw = self.members.read(name, MAX_METADATA)
        return None if raw is None else bytes(raw)

    def attrs(self, path: str = "") -> dict[str, Any]:
        """Return the attributes of a group or array as a new dictionary."""
        name = f"{path}/" * bool(path) + (".zattrs" if self.format == 2 else "zarr.json")
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
        """Return the names below `group`, in text order, without opening any of them."""
        return sorted(self.members.children(group))

    def _parsed(self, path: str) -> Parsed | None:
        name = f"{path}/{'.zarray' if self.format == 2 else 'zarr.json'}"
        raw = self._document(name)
        if raw is None:
            return None
        try:
            return (_parse_v2 if self.format == 2 else _parse_v3)(raw, self.max_bytes)
        except TrainingSetError as e:
            raise type(e)(f"{self.path}: {name}: {e}") from e

    def signature(self, path: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return shape and dtype of the array at `path` without reading its chunks."""
        parsed = self._parsed(path)
        if parsed is None:
            raise KeyError(path)
        if parsed.layout is None:
            array = self._zarr_array(path)
            return array.shape, np.dtype(array.dtype)
        return parsed.layout.shape, parsed.layout.dtype

    def read(self, path: str, fields: Sequence[str] | None = None) -> npt.NDArray[Any]:
        """Return one array, or only some `fields` of a structured one.

        Raises
        ------
        KeyError
            If there is no array at `path`.
        DamagedStoreError
            If its metadata or bytes are not what they claim to be, or a chunk is missing.
        """
        parsed = self._parsed(path)
        if parsed is None:
            raise KeyError(path)
        layout = parsed.layout
        if layout is None:
            whole = self._by_zarr(path)
            return whole if fields is None else whole[list(fields)].copy()
        if fields is None:
            out = np.empty(layout.shape, layout.dtype)
        else:
            out = np.empty(layout.shape, [(f, layout.dtype[f]) for f in fields])
        grid = (range(-(-s // c)) for s, c in zip(layout.shape, layout.chunks, strict=True))
        for index in product(*grid):
            block = self._chunk(path, layout, index)
            if block is None:
                whole = self._by_zarr(path)
                return whole if fields is None else whole[list(fields)].copy()
            here = tuple(
                slice(i * c, min((i + 1) * c, s))
                for i, c, s in zip(index, layout.chunks, layout.shape, strict=True)
            )
            block = block[tuple(slice(h.stop - h.start) for h in here)]
            if fields is not None:
                for f in fields:
                    out[f][here] = block[f]
            elif layout.dtype.names and layout.stored == layout.dtype:
                # Records move as opaque bytes: NumPy would copy them field by field, 7 times slower.
                opaque = f"V{layout.dtype.itemsize}"
                out.view(opaque)[here] = block.view(opaque)
            else:
                out[here] = block
        return out

    def _chunk(self, path: str, layout: Layout, index: tuple[int, ...]) -> npt.NDArray[Any] | None:
        key = layout.separator.join([layout.prefix, *map(str, index)][not layout.prefix :])
        name = f"{path}/{key or '0'}"
        size = math.prod(layout.chunks) * layout.stored.itemsize
        # Room for codecs that add a header to incompressible data.
        limit = min(2 * size + 4096, 2 * self.max_bytes)
        data: Any = self.members.read(name, limit)
        if data is None:
            if self.missing_chunks == "fill":
                return None
            msg = (
                f"{self.path}: the chunk {name} is not in the store. "
                "Pass missing_chunks='fill' to open_training_set if fill values are meant there."
            )
            raise DamagedStoreError(msg)
        try:
            for decode in layout.decoders:
                data = decode(data)
            flat = np.frombuffer(data, layout.stored)
            return flat.reshape(layout.chunks, order=layout.order)
        except Exception as e:  # each codec has its own way to refuse bytes
            msg = f"{self.path}: the chunk {name} cannot be decoded: {e}. Fetch the store again."
            raise DamagedStoreError(msg) from e

    def _zarr_array(self, path: str) -> Any:
        return zarr.open_array(self.zarr_store(), path=path, mode="r", zarr_format=self.format)

    def _by_zarr(self, path: str) -> npt.NDArray[Any]:
        try:
            return np.asarray(self._zarr_array(path)[...])
        except Exception as e:  # Zarr and its codecs raise errors of many kinds
            msg = f"{self.path}: Zarr cannot read {path}: {type(e).__name__}: {e}"
            raise DamagedStoreError(msg) from e


def _open_members(path: Path) -> ZipMembers | FolderMembers:
    try:
        if path.is_dir():
            return FolderMembers(path)
        if path.is_file():
            return ZipMembers(path)
    except PermissionError as e:
        msg = f"{path} cannot be read ({e.strerror}). Check its permissions: ls -l {path}"
        raise DamagedStoreError(msg) from e
    msg = (
        f"There is nothing at {str(path)!r}. Check the path, or call open_training_set() without "
        "one for the sample store."
    )
    raise StoreNotFoundError(msg)


def _json(raw: bytes, where: str) -> dict[str, Any]:
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as e:
        raise DamagedStoreError(f"{where} is not readable JSON: {e}.") from e
    if not isinstance(document, dict):
        raise DamagedStoreError(f"{where} is not a JSON object.")
    return document


# -- metadata documents ---------------------------------------------------------------------------
# Thousands of light curves share about a hundred distinct documents: each is parsed once.

NUMBER = re.compile(r"[<>|][biufcSUVMm]\d{1,9}(\[\d*[a-zA-Z]{1,2}\])?")
# What only rearranges numbers or unpacks bytes. Never here: pickle, json2, msgpack2, vlen-*.
FILTERS = {"delta", "shuffle", "fixedscaleoffset", "quantize", "bitround", "astype", "packbits"}
CHECKSUMS = {"crc32", "crc32c", "adler32", "fletcher32", "jenkins_lookup3"}
COMPRESSORS = {"blosc", "zstd", "lz4", "zlib", "gzip", "bz2", "lzma"}


@functools.lru_cache(maxsize=4096)
def _parse_v2(raw: bytes, max_bytes: int) -> Parsed:
    meta = _json(raw, "the metadata")
    shape, chunks = _sizes(meta.get("shape")), _sizes(meta.get("chunks"))
    dtype = _dtype_v2(meta.get("dtype"))
    compressor, filters = meta.get("compressor"), meta.get("filters") or []
    configs = [c for c in (compressor, *reversed(filters)) if c]
    order, separator = meta.get("order", "C"), meta.get("dimension_separator", ".")
    if meta.get("zarr_format") != 2 or order not in ("C", "F") or separator not in (".", "/"):
        raise DamagedStoreError("format, order or dimension_separator is not what Zarr 2 allows.")
    nbytes = _bounded(shape, chunks, dtype.itemsize, max_bytes)
    limit = 2 * math.prod(chunks) * dtype.itemsize + 4096
    decoders = tuple(_decoder(c, limit) for c in configs)
    return Parsed(Layout(shape, chunks, dtype, dtype, order, decoders, "", separator), nbytes)


@functools.lru_cache(maxsize=4096)
def _parse_v3(raw: bytes, max_bytes: int) -> Parsed:
    meta = _json(raw, "the metadata")
    try:
        grid, keys = meta["chunk_grid"], meta["chunk_key_encoding"]
        shape, chunks = _sizes(meta["shape"]), _sizes(grid["configuration"]["chunk_shape"])
        names = [c["name"] for c in meta["codecs"]]
        configs = [c.get("configuration") or {} for c in meta["codecs"]]
        if meta["zarr_format"] != 3 or meta["node_type"] != "array":
            raise DamagedStoreError("this is not the metadata of a Zarr 3 array.")
        separator = (keys.get("configuration") or {}).get("separator")
        dtype = _dtype_v3(meta["data_type"])
        nbytes = _bounded(shape, chunks, dtype.itemsize if dtype else 1, max_bytes)
        plain = names[:1] == ["bytes"] and {"blosc", "zstd", "gzip", "crc32c"}.issuperset(names[1:])
        if dtype is None or not plain or (grid["name"], keys["name"]) != ("regular", "default"):
            unsafe = [n for n in names if "pickle" in n]
            if unsafe:
                raise DamagedStoreError(f"the codec {unsafe[0]!r} can run code; it is never used.")
            return Parsed(None, nbytes)
        stored = dtype.newbyteorder(">" if configs[0].get("endian") == "big" else "<")
        limit = 2 * math.prod(chunks) * dtype.itemsize + 4096
        decoders = tuple(
            _decoder({**c, "id": n}, limit, v3=True)
            for n, c in reversed(list(zip(names[1:], configs[1:], strict=True)))
        )
        return Parsed(Layout(shape, chunks, dtype, stored, "C", decoders, "c", separator or "/"), nbytes)
    except TrainingSetError:
        raise
    except Exception as e:  # any field may be absent or of any JSON type
        msg = f"the metadata lacks a field or holds a wrong one ({type(e).__name__}: {e})."
        raise DamagedStoreError(msg) from e


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(v) is int and v >= 0 for v in value):
        raise DamagedStoreError(f"impossible shape or chunks {str(value)[:60]}.")
    return tuple(value)


def _bounded(shape: tuple[int, ...], chunks: tuple[int, ...], itemsize: int, limit: int) -> int:
    if len(shape) != len(chunks) or len(shape) > 32 or 0 in chunks or not itemsize:
        raise DamagedStoreError(f"shape {shape}, chunks {chunks} do not fit each other.")
    nbytes = math.prod(shape) * itemsize
    for size in (nbytes, math.prod(chunks) * itemsize):
        if size > limit:
            msg = (
                f"it declares {size:.3g} bytes, more than max_bytes={limit:.3g}. If you trust the "
                f"store, raise it: open_training_set(..., max_bytes={size})"
            )
            raise LimitError(msg)
    if math.prod(-(-s // c) for s, c in zip(shape, chunks, strict=True)) > MAX_CHUNKS:
        raise LimitError(f"it declares more than {MAX_CHUNKS} chunks.")
    return nbytes


def _dtype_v2(value: Any) -> np.dtype[Any]:
    try:
        if isinstance(value, list) and value and all(len(f) == 2 for f in value):
            return np.dtype([(str(name), _dtype_v2(t)) for name, t in value])
        if isinstance(value, str) and NUMBER.fullmatch(value):
            return np.dtype(value)
    except (TypeError, ValueError, RecursionError):
        pass
    msg = f"the data type {str(value)[:60]} is not one this module reads (objects never are)."
    raise DamagedStoreError(msg)


def _dtype_v3(value: Any) -> np.dtype[Any] | None:
    """Return the data type, None for those that Zarr itself must read."""
    if isinstance(value, str):
        known = re.fullmatch(r"bool|u?int(8|16|32|64)|float(16|32|64)|complex(64|128)", value)
        return np.dtype(value) if known else None
    name, config = value["name"], value.get("configuration") or {}
    if name in ("structured", "struct"):
        parts = [
            (f["name"], _dtype_v3(f["data_type"])) if isinstance(f, dict) else (f[0], _dtype_v3(f[1]))
            for f in config["fields"]
        ]
        if any(t is None for _, t in parts):
            return None
        return np.dtype([(str(n), t) for n, t in parts])
    if name == "fixed_length_utf32":
        return np.dtype(f"<U{int(config['length_bytes']) // 4}")
    return None


def _decoder(config: Any, limit: int, v3: bool = False) -> Decoder:
    """Return a function from stored to decoded bytes that refuses to unpack more than `limit`."""
    if not isinstance(config, dict) or not isinstance(config.get("id"), str):
        raise DamagedStoreError(f"a codec is not described as one: {str(config)[:60]}.")
    name = config["id"]
    if name not in FILTERS | CHECKSUMS | COMPRESSORS:
        msg = f"the codec {name!r} is not one this module uses (some can run code)."
        raise DamagedStoreError(msg)
    if v3 and name == "blosc":
        config = {"id": "blosc"}  # decoding needs no parameter, and v3 spells them differently
    if v3 and name == "zstd":
        config = {"id": "zstd"}
    try:
        decode: Decoder = numcodecs.get_codec(dict(config)).decode
    except Exception as e:  # unknown parameters, wrong types
        raise DamagedStoreError(f"the codec {name!r} cannot be set up: {e}.") from e
    guard = _GUARDS.get(name)
    return functools.partial(guard, decode, limit) if guard else decode


def _expect(size: int, limit: int) -> None:
    if size > limit:
        raise ValueError(f"it says that it unpacks to {size} bytes where at most {limit} fit")


def _blosc(decode: Decoder, limit: int, data: Any) -> Any:
    # Blosc trusts its header and reads past the end of a cut chunk, so the header is checked first.
    unpacked, _, packed = struct.unpack_from("<III", data, 4)
    _expect(unpacked, limit)
    if packed != len(data):
        raise ValueError(f"its header says {packed} bytes, found {len(data)}")
    return decode(data)


def _lz4(decode: Decoder, limit: int, data: Any) -> Any:
    _expect(struct.unpack_from("<I", data)[0], limit)
    return decode(data)


def _zstd(decode: Decoder, limit: int, data: Any) -> Any:
    # RFC 8878, 3.1.1.1: the frame header's first byte says how long the content size is.
    if bytes(data[:4]) != b"\x28\xb5\x2f\xfd":
        raise ValueError("this is not a Zstandard frame")
    flags = data[4]
    single, n = flags >> 5 & 1, (0, 2, 4, 8)[flags >> 6]
    if not n and not single:
        raise ValueError("the Zstandard frame does not say its size; read it with .root")
    at = 5 + (not single) + (0, 1, 2, 4)[flags & 3]
    size = int.from_bytes(data[at : at + (n or 1)], "little") + (256 if n == 2 else 0)
    _expect(size, limit)
    out = decode(data)
    _expect(len(out), limit)
    return out


def _streamed(make: Callable[[], Any]) -> Callable[[Decoder, int, Any], bytes]:
    def run(_: Decoder, limit: int, data: Any) -> bytes:
        out, rest = b"", bytes(data)
        while rest:
            stream = make()
            out += stream.decompress(rest, limit + 1 - len(out))
            _expect(len(out), limit)
            if not stream.eof:
                raise ValueError("the compressed data ends too early")
            rest = stream.unused_data
        return out

    return run


def _lzma(decode: Decoder, limit: int, data: Any) -> Any:
    codec = decode.__self__  # type: ignore[attr-defined]  # a bound method: mypy sees a Callable
    return _streamed(lambda: lzma.LZMADecompressor(codec.format, filters=codec.filters))(decode, limit, data)


_GUARDS: dict[str, Callable[[Decoder, int, Any], Any]] = {
    "blosc": _blosc,
    "lz4": _lz4,
    "zstd": _zstd,
    "zlib": _streamed(zlib.decompressobj),
    "gzip": _streamed(lambda: zlib.decompressobj(wbits=31)),
    "bz2": _streamed(bz2.BZ2Decompressor),
    "lzma": _lzma,
}
