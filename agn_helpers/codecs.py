"""From a codec's description to a function that decodes safely.

Only codecs that unpack or rearrange bytes are known here, never one that could run code (pickle), and
each compressor's output is bounded before it is unpacked, or while it is.
"""

import bz2
import functools
import lzma
import math
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numcodecs

from agn_helpers.errors import DamagedStoreError

__all__ = ["Decoder", "decoder", "try_unpacking"]

Decoder = Callable[[Any], Any]

# What only rearranges numbers or unpacks bytes. Never here: pickle, json2, msgpack2, vlen-*.
SAFE = {
    "delta", "shuffle", "fixedscaleoffset", "quantize", "bitround", "astype", "packbits",
    "crc32", "crc32c", "adler32", "fletcher32", "jenkins_lookup3",
    "blosc", "zstd", "lz4", "zlib", "gzip", "bz2", "lzma",
}  # fmt: skip


def decoder(config: Any, limit: int, v3: bool = False) -> Decoder:
    """Return a function from stored to decoded bytes that refuses to unpack more than `limit`.

    Parameters
    ----------
    config : dict
        As in the array's metadata: ``{"id": "blosc", ...}``.
    limit : int
        Most bytes that one chunk may unpack to.
    v3 : bool
        Whether the description is of Zarr format 3, which spells parameters differently.

    Raises
    ------
    DamagedStoreError
        If the codec is not one that is known to be harmless, or its parameters are wrong.
    """
    if not isinstance(config, dict) or not isinstance(config.get("id"), str):
        raise DamagedStoreError(f"a codec is not described as one: {str(config)[:60]}.")
    name = config["id"]
    if name not in SAFE:
        raise DamagedStoreError(f"the codec {name!r} is not one this module uses (some can run code).")
    for key in ("dtype", "astype", "encode_dtype", "decode_dtype"):
        # A filter to texts of a million letters would be a bomb.
        if not re.fullmatch(r"[<>|=]?[biufcMm]\d{1,2}(\[\w{1,4}\])?", str(config.get(key, "f8"))):
            raise DamagedStoreError(f"the codec {name!r} works on {str(config[key])[:60]}, not on numbers.")
    if v3 and name in ("blosc", "zstd"):
        config = {"id": name}  # decoding needs no parameter
    try:
        decode: Decoder = numcodecs.get_codec(dict(config)).decode
    except Exception as e:  # unknown parameters, wrong types
        raise DamagedStoreError(f"the codec {name!r} cannot be set up: {e}.") from e
    guard = GUARDS.get(name)
    return functools.partial(guard, decode, limit) if guard else decode


def try_unpacking(data: Any, codecs: Any, shape: Sequence[int], itemsize: int | None, limit: int) -> None:
    """Unpack a chunk that Zarr itself will read, bounded, so that Zarr unpacks nothing larger.

    Parameters
    ----------
    data : bytes
        The chunk as stored.
    codecs : list of dict
        Of Zarr format 3, shards included (Zarr's specification of the codec ``sharding_indexed``).
    shape : sequence of int
        Of the chunk.
    itemsize : int or None
        Bytes per element, None where elements have no fixed size.
    limit : int
        Most bytes that the chunk, or a chunk inside it, may unpack to where its size is not known.

    Raises
    ------
    DamagedStoreError, ValueError
        If it unpacks to more, holds what is no shard, or a codec is not known to be harmless.
    """
    if itemsize is not None:
        limit = min(limit, 2 * math.prod(shape) * itemsize + 4096)
    for codec in reversed(codecs):
        name, config = codec["name"].removeprefix("numcodecs."), codec.get("configuration") or {}
        if name in ("bytes", "vlen-utf8", "vlen-bytes"):
            return  # what comes before in the list only rearranges
        if name == "sharding_indexed":
            inner = [int(n) for n in config["chunk_shape"]]
            for start, size in _shard_index(data, config, shape, inner):
                if start + size > len(data):
                    raise ValueError("a chunk of the shard lies outside of it")
                try_unpacking(data[start : start + size], config["codecs"], inner, itemsize, limit)
            return
        data = decoder({**config, "id": name}, limit, v3=True)(data)


def _shard_index(
    data: Any, config: dict[str, Any], shape: Sequence[int], inner: Sequence[int]
) -> list[tuple[int, int]]:
    """Return where the chunks of a shard begin and how long they are, without those it lacks."""
    steps = [c["name"] for c in config["index_codecs"]]
    if steps not in (["bytes"], ["bytes", "crc32c"]):
        raise ValueError(f"its index is stored by {str(steps)[:60]}")
    n = math.prod(-(-s // c) for s, c in zip(shape, inner, strict=True))
    size = 16 * n + 4 * (len(steps) - 1)
    if size > len(data):
        raise ValueError("it is shorter than the index of its chunks")
    at = 0 if config.get("index_location", "end") == "start" else len(data) - size
    order = ">" if (config["index_codecs"][0].get("configuration") or {}).get("endian") == "big" else "<"
    pairs = struct.iter_unpack(f"{order}QQ", data[at : at + 16 * n])
    return [(start, size) for start, size in pairs if start != 2**64 - 1]


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
    # The header says how much memory unpacking needs; the highest preset needs 65 MiB.
    memory = None if codec.format == lzma.FORMAT_RAW else 2**28
    make = functools.partial(lzma.LZMADecompressor, codec.format, memory, codec.filters)
    return _streamed(make)(decode, limit, data)


GUARDS: dict[str, Callable[[Decoder, int, Any], Any]] = {
    "blosc": _blosc,
    "lz4": _lz4,
    "zstd": _zstd,
    "zlib": _streamed(zlib.decompressobj),
    "gzip": _streamed(lambda: zlib.decompressobj(wbits=31)),
    "bz2": _streamed(bz2.BZ2Decompressor),
    "lzma": _lzma,
}
