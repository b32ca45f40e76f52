"""From a codec's description to a function that decodes safely.

Only codecs that unpack or rearrange bytes are known here, never one that could run code (pickle), and
each compressor's output is bounded before it is unpacked, or while it is.
"""

import bz2
import functools
import lzma
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numcodecs

from agn_helpers.errors import DamagedStoreError

__all__ = ["Decoder", "decoder"]

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
