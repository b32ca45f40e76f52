"""Damage valid stores in every way we can think of, and see that reading them ends well.

    python tools/fuzz.py --n 10000 --seed 1

Each mutant is a store with some bytes, JSON fields, values, names or zip records changed. A worker with a
memory limit opens it, reads all of it, validates it, and compares every array with what Zarr itself reads.
Allowed is the right answer (Zarr's) or a `TrainingSetError`, within 5 s and 512 MiB. And: no byte of the
store changes, no file appears beside it, and `validate` with a manifest notices each changed byte.

Mutant number k of a seed is always the same: ``--only k`` makes it again and keeps it to look at.
"""

import argparse
import contextlib
import copy
import functools
import hashlib
import json
import multiprocessing
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs import get_codec

import agn_helpers as agn
from agn_helpers.columns import edition_2020
from agn_helpers.sample import build_sample_store

SECONDS, MEGABYTES = 5, 512
Members = list[tuple[str, bytes]]  # a list and not a dict: a zip may hold a name twice
Rng = np.random.Generator


# -- valid stores ------------------------------------------------------------------------------------


@functools.cache
def content() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return catalogue and light curves of a small sample."""
    with tempfile.TemporaryDirectory() as folder:
        store = build_sample_store(Path(folder) / "s.zarr.zip", n=4, progress=False)
        with agn.open_training_set(store) as ts:
            catalog = ts._arrays.read("catalog")
            curves = {str(i): ts.raw_light_curve(i)[: 3 + 4 * k] for k, i in enumerate(ts.light_curve_ids())}
    catalog["lcN"] = [len(c) for c in curves.values()]
    return catalog, curves


CODECS: dict[str, tuple[Any, Any]] = {
    "blosc": ({"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}, None),
    "zlib": ({"id": "zlib", "level": 1}, None),
    "gzip": ({"id": "gzip", "level": 1}, None),
    "bz2": ({"id": "bz2", "level": 1}, None),
    "lzma": ({"id": "lzma", "format": 1, "check": -1, "preset": 1, "filters": None}, None),
    "zstd": ({"id": "zstd", "level": 1, "checksum": True}, None),
    "lz4": ({"id": "lz4", "acceleration": 1}, None),
    "none": (None, None),
    "shuffle": ({"id": "zlib", "level": 1}, [{"id": "shuffle", "elementsize": 8}]),
    "crc": (None, [{"id": "crc32"}]),
}


def dump(document: Any) -> bytes:
    return json.dumps(document, indent=4).encode()


def store_v2(catalog: np.ndarray, curves: dict[str, np.ndarray], codec: str) -> Members:
    """Return the members of a store in Zarr format 2, written by hand."""
    compressor, filters = CODECS[codec]
    edition = edition_2020()
    out = [(".zgroup", dump({"zarr_format": 2})), (".zattrs", dump(edition["root_attrs"]))]
    out += [("sdss_lc/.zgroup", dump({"zarr_format": 2}))]
    out += [("catalog/.zattrs", dump(edition["catalog_definitions"]))]
    steps = [get_codec(dict(f)) for f in [*(filters or []), compressor] if f]
    for path, record in {"catalog": catalog, **{f"sdss_lc/{k}": v for k, v in curves.items()}}.items():
        n = max(1, len(record) if path != "catalog" else 3)
        names = record.dtype.names
        meta = {
            "chunks": [n] * record.ndim,
            "compressor": compressor,
            "dtype": [[f, record.dtype[f].str] for f in names] if names else record.dtype.str,
            "fill_value": None,
            "filters": filters,
            "order": "C",
            "shape": list(record.shape),
            "zarr_format": 2,
        }
        out.append((f"{path}/.zarray", dump(meta)))
        for i in range(-(-len(record) // n)):
            block: Any = np.zeros((n, *record.shape[1:]), record.dtype)
            part = record[i * n : (i + 1) * n]
            block[: len(part)] = part
            for step in steps:
                block = step.encode(block.view("u1") if step.codec_id == "shuffle" else block)
            out.append((f"{path}/{i}", bytes(block)))
    return out


def store_v3(catalog: np.ndarray, curves: dict[str, np.ndarray], codec: str) -> Members:
    """Return the members of a store in Zarr format 3, written by Zarr."""
    memory: dict[str, Any] = {}
    codecs = {
        "zstd": zarr.codecs.ZstdCodec(level=1, checksum=True),
        "gzip": zarr.codecs.GzipCodec(level=1),
        "blosc": zarr.codecs.BloscCodec(typesize=8),
        "crc": None,
        "transpose": None,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = zarr.create_group(zarr.storage.MemoryStore(memory), attributes=edition_2020()["root_attrs"])
        group = root.create_group("sdss_lc")
        for path, record in {"catalog": catalog, **curves}.items():
            where = root if path == "catalog" else group
            made = where.create_array(
                path,
                data=record,
                chunks=(max(1, len(record) if path != "catalog" else 3), *record.shape[1:]),
                # The short road does not know this filter: Zarr itself reads these.
                filters=[zarr.codecs.TransposeCodec(order=(0,))] if codec == "transpose" else None,
                compressors=codecs[codec],
            )
            if path == "catalog":
                made.attrs.update(edition_2020()["catalog_definitions"])
    return [(name, buffer.to_bytes()) for name, buffer in memory.items()]


def store_packed(catalog: np.ndarray, curves: dict[str, np.ndarray], codec: str) -> Members:
    """Return the members of a packed store, in a zip written by `pack_store`."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "s.zarr", Path(folder) / "p.zarr.zip"
        write_folder(store_v2(catalog, curves, "none"), source)
        agn.pack_store(source, target, progress=False)
        with zipfile.ZipFile(target) as z:
            return [(name, z.read(name)) for name in z.namelist()]


BASES = (
    [(store_packed, "zstd")] * 3
    + [(store_v2, c) for c in CODECS]
    + [(store_v3, c) for c in ("zstd", "gzip", "blosc", "crc", "transpose")]
)


@functools.cache
def base(number: int) -> tuple[tuple[str, bytes], ...]:
    make, codec = BASES[number]
    return tuple(make(*content(), codec))


# -- damage: members ------------------------------------------------------------------------------------


def cut(data: bytes, rng: Rng) -> bytes:
    """Damage some bytes: flip, set, delete, insert, repeat, truncate."""
    if not data:
        return rng.bytes(5)
    out, at = bytearray(data), int(rng.integers(len(data)))
    n = int(rng.integers(1, 40))
    kind = rng.integers(7)
    if kind == 0:
        out[at] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        out[at] = int(rng.choice([0, 1, 127, 128, 255]))
    elif kind == 2:
        del out[at : at + n]
    elif kind == 3:
        out[at:at] = rng.bytes(n)
    elif kind == 4:
        out[at:at] = out[at : at + n] * 3
    elif kind == 5:
        del out[at:]
    else:
        out[at : at + 4] = struct.pack("<I", int(rng.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**30])))
    return bytes(out)


HOSTILE: list[Any] = [
    None, True, False, "\ud800", 0, -1, 1, 2, 3, 10**6, 2**31, 2**53 + 1, 10**12, 2**63, 10**30, 1.5, 1e308,
    float("nan"), float("inf"), "", "x", "0", "é\u202e", "x" * 10_000, "\x00", "../..", "/etc/passwd",
    [], {}, [[]], [0], [-1], [1, 1], [10**12], [10**6, 10**6], [[["a", "<f8"]]], {"a": {}}, "|O", "|O8",
    "object", "<f8", ">f8", "<i4", "|b1", "|S1", "<U1", "<U99999999", "|V8", "|V2000000000", "<M8[ns]",
    "<m8[99999s]", "float64", "int8", "string", "variable_length_utf8", "bytes", "complex128", "r80",
    "pickle", "numcodecs.pickle", "json2", "vlen-utf8", "vlen-bytes", "msgpack2", "categorize", "zlib",
    "zstd", "blosc", "lz4", "delta", "packbits", "sharding_indexed", "transpose", "crc32c", "F", "/", ".",
    "array", "group", "NaN", "Infinity", "AAAA", "v2", "default", "regular", "rectangular", "big",
    {"id": "pickle", "protocol": 5}, [{"id": "pickle"}], {"id": "zlib", "level": 1}, {"id": "blosc"},
    [{"id": "vlen-utf8"}, {"id": "pickle"}], {"id": "astype", "encode_dtype": "<f8", "decode_dtype": "<U999"},
    [{"id": "delta", "dtype": "<f8"}],
    {"id": "lzma", "format": 3, "filters": [{"id": 33, "dict_size": 2**32 - 1}]},
    [{"id": "fixedscaleoffset", "dtype": "<f8", "scale": 0, "offset": 0}], {"id": "zstd"}, {"id": "n" * 99},
    [{"name": "bytes"}, {"name": "numcodecs.pickle"}],
    [{"name": "bytes", "configuration": {"endian": "big"}}],
]  # fmt: skip


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to every value in a JSON document."""
    yield path
    if isinstance(node, dict):
        for key, value in node.items():
            yield from places(value, (*path, key))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from places(value, (*path, i))


def mutate_document(data: bytes, rng: Rng) -> bytes:
    """Change one or two values of a JSON document, mostly to something hostile."""
    try:
        document = json.loads(data)
    except ValueError:
        return cut(data, rng)
    for _ in range(int(rng.integers(1, 3))):
        all_places = list(places(document))
        # Each key of the top has the chance of all that is below it, else the many fields always win.
        top = list(document) if isinstance(document, dict) else []
        near = [p for p in all_places if p and p[0] == (top[int(rng.integers(len(top)))] if top else None)]
        path = (near or all_places)[int(rng.integers(len(near or all_places)))]
        value = copy.deepcopy(HOSTILE[int(rng.integers(len(HOSTILE)))])
        if not path:
            document = value
            continue
        parent = functools.reduce(lambda n, k: n[k], path[:-1], document)
        kind = rng.integers(6)
        if kind == 0:
            del parent[path[-1]]
        elif kind == 1 and isinstance(parent, list):
            parent.insert(path[-1], value)
        elif kind == 1:
            parent[str(value)[:20]] = parent[path[-1]]
        elif kind == 2 and isinstance(parent[path[-1]], int):
            parent[path[-1]] += int(rng.choice([-1, 1, 7, 2**31]))
        elif kind == 3:
            other = all_places[int(rng.integers(len(all_places)))]
            parent[path[-1]] = copy.deepcopy(functools.reduce(lambda n, k: n[k], other, document))
        else:
            parent[path[-1]] = value
    return dump(document)


RAW_JSON = [
    b"", b"{", b"null", b"[]", b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe{}", b"\xef\xbb\xbf{}", b"{}{}",
    b'{"zarr_format": 2, "zarr_format": 3}', b"1" * 5000, b'{"shape": [' + b"1," * 10**6 + b"1]}",
    b'"' + b"x" * 10**6 + b'"', b"\x00" * 1000, b" " * 2**21 + b"{}", b'{"shape":[1e400]}',
]  # fmt: skip

BOMB = 2**28


@functools.cache
def bombs() -> list[bytes]:
    """Return small chunks that unpack, or claim to unpack, to far more than their array holds."""
    deflate = zlib.compressobj(9)
    packed = b"".join(deflate.compress(bytes(2**24)) for _ in range(BOMB // 2**24)) + deflate.flush()
    gz = zlib.compressobj(9, wbits=31)
    gzipped = b"".join(gz.compress(bytes(2**24)) for _ in range(BOMB // 2**24)) + gz.flush()
    blosc = get_codec({"id": "blosc", "cname": "zstd"}).encode(bytes(2**27))
    zstd = get_codec({"id": "zstd"}).encode(bytes(2**28))
    bz2 = get_codec({"id": "bz2"}).encode(bytes(2**26))
    lzma = get_codec({"id": "lzma"}).encode(bytes(2**26))
    lz4 = struct.pack("<I", 2**31 - 1) + bytes(64)
    return [packed, gzipped, blosc, zstd, bz2, lzma, lz4, packed + packed, gzipped + gzipped]


def is_document(name: str) -> bool:
    return name.rpartition("/")[2] in (".zarray", ".zattrs", ".zgroup", "zarr.json")


def pick(members: Members, rng: Rng, documents: bool | None = None) -> int:
    fitting = [i for i, (n, _) in enumerate(members) if documents is None or is_document(n) == documents]
    return int(rng.choice(fitting)) if fitting else int(rng.integers(len(members)))


def damage_bytes(members: Members, rng: Rng) -> None:
    i = pick(members, rng, documents=bool(rng.random() < 0.4))
    for _ in range(int(rng.integers(1, 4))):
        members[i] = members[i][0], cut(members[i][1], rng)


def damage_json(members: Members, rng: Rng) -> None:
    i = pick(members, rng, documents=True)
    if rng.random() < 0.1:
        members[i] = members[i][0], RAW_JSON[int(rng.integers(len(RAW_JSON)))]
    else:
        members[i] = members[i][0], mutate_document(members[i][1], rng)


def damage_members(members: Members, rng: Rng) -> None:
    """Lose, swap, rename, double or invent members."""
    i, j = pick(members, rng), pick(members, rng)
    (name, data), (other, content) = members[i], members[j]
    odd = ["../escape/0", "/abs/0", "a\\b", "x\x00y", "sdss_lc/../0", "é/\u202e", "sdss_lc/007/.zarray",
           "sdss_lc/-1/.zarray", "sdss_lc/1e3/.zarray", "sdss_lc/١/.zarray", "sdss_lc//.zarray", "x" * 99,
           "sdss_lc/0/.zgroup", "catalog/.zgroup", "sdss_lc/.zarray", ".zmetadata", "zarr.json", ".zgroup/0",
           "sdss_lc/99999999999999999999/.zarray", "catalog/0.0", "catalog/00", "catalog/9"]  # fmt: skip
    kind = rng.integers(7)
    if kind == 0:
        del members[i]
    elif kind == 1:
        members[i], members[j] = (name, content), (other, data)
    elif kind == 2:
        members[i] = odd[int(rng.integers(len(odd)))], data
    elif kind == 3:
        members.append((odd[int(rng.integers(len(odd)))], data))
    elif kind == 4:
        members.append((name, content))  # the same name twice in a zip; replaced in a folder
    elif kind == 5:
        members[i] = name, b""
    else:
        chunk = pick(members, rng, documents=False)
        members[chunk] = members[chunk][0], bombs()[int(rng.integers(len(bombs())))]


def damage_values(number: int, rng: Rng) -> Members:
    """Write a well-formed store with impossible values or types."""
    make, codec = BASES[number]
    catalog, curves = content()[0].copy(), {k: v.copy() for k, v in content()[1].items()}
    which = list(curves)[int(rng.integers(len(curves)))]
    odd = np.array([np.nan, np.inf, -np.inf, -99.0, 0.0, 1e308, -1e308, 5e-324])
    kind = rng.integers(10)
    if kind == 0:
        catalog["train_id"][int(rng.integers(1, 4))] = catalog["train_id"][0]
    elif kind == 1:
        catalog["train_id"][int(rng.integers(4))] = int(rng.choice([-1, -99, 2**62, 5, 2**63 - 1]))
    elif kind == 2:
        names = [n for n in catalog.dtype.names or () if catalog.dtype[n].kind in "if" and n != "train_id"]
        name = str(rng.choice(names))
        value = rng.choice(odd) if catalog.dtype[name].kind == "f" else rng.choice([-99, 0, 2**62, -(2**62)])
        catalog[name][rng.random(4) < 0.5] = value
    elif kind in (3, 4):
        name = str(rng.choice(list(curves[which].dtype.names or ())))
        values = curves[which][name]
        values[rng.random(len(values)) < 0.5] = rng.choice(odd) if values.dtype.kind == "f" else -99
    elif kind == 5:
        keep = [n for n in catalog.dtype.names or () if rng.random() < 0.9]
        catalog = np.array(catalog[keep].tolist(), [(n, catalog.dtype[n]) for n in keep]) if keep else catalog
    elif kind == 6:
        keep = [n for n in curves[which].dtype.names or () if rng.random() < 0.8]
        dtype = [(n, curves[which].dtype[n]) for n in keep]
        curves[which] = np.array(curves[which][keep].tolist(), dtype) if keep else curves[which]
    elif kind == 7:  # another type for one column
        table = catalog if rng.random() < 0.6 else curves[which]
        names = list(table.dtype.names or ())
        at = str(rng.choice(["train_id", "lcN"] if table is catalog and rng.random() < 0.5 else names))
        type_ = str(rng.choice(["<f4", "<i2", ">i8", "|b1", "<u8", "<c16", "<M8[s]", "<m8[D]", "<U3", "|S4"]))
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            changed = np.zeros(len(table), [(n, type_ if n == at else table.dtype[n]) for n in names])
            for n in names:
                with contextlib.suppress(ValueError, TypeError):
                    changed[n] = table[n].astype(changed.dtype[n])
        if table is catalog:
            catalog = changed
        else:
            curves[which] = changed
    elif kind == 8:  # no table at all
        odd_array = np.ones((3, 2)) if rng.random() < 0.5 else np.arange(4, dtype="<i8")
        if rng.random() < 0.5:
            catalog = odd_array
        else:
            curves[which] = odd_array
    else:  # light curves that the catalogue does not know, or the other way round
        new = str(rng.choice(["1", "77", "-5", "007", "abc", "9" * 18, "9" * 30]))
        curves = {new if k == which and rng.random() < 0.8 else k: v for k, v in curves.items()}
        curves[which] = curves.get(which, content()[1][which])[: int(rng.integers(0, 4))]
    try:
        return make(catalog, curves, codec)
    except Exception:  # what Zarr cannot write is written by hand, in format 2
        return store_v2(catalog, curves, "zlib")


# -- damage: containers ------------------------------------------------------------------------------------


def write_zip(members: Members, path: Path, rng: Rng, plain: bool) -> None:
    methods = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    odd = not plain and rng.random() < 0.3
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as z:
        warnings.simplefilter("ignore")  # the same name twice is meant
        for name, data in members:
            z.writestr(name, data, methods[int(rng.integers(4))] if odd else zipfile.ZIP_STORED)


LOCAL = {"flags": (6, "<H"), "method": (8, "<H"), "crc": (14, "<I"), "packed": (18, "<I"),
         "size": (22, "<I"), "name": (26, "<H"), "extra": (28, "<H")}  # fmt: skip
CENTRAL = {"flags": (8, "<H"), "method": (10, "<H"), "crc": (16, "<I"), "packed": (20, "<I"),
           "size": (24, "<I"), "name": (28, "<H"), "extra": (30, "<H"), "comment": (32, "<H"),
           "attr": (38, "<I"), "offset": (42, "<I"), "text": (46, "<I")}  # fmt: skip
END = {"disk": (4, "<H"), "here": (8, "<H"), "entries": (10, "<H"), "size": (12, "<I"), "offset": (16, "<I"),
       "comment": (20, "<H")}  # fmt: skip


def damage_zip(data: bytes, rng: Rng) -> bytes:
    """Change fields of a zip's records, or its bytes at large."""
    out = bytearray(data)
    kind = rng.integers(8)
    if kind < 2:
        return cut(data, rng)
    if kind == 2:
        return data[: int(rng.integers(len(data)))]
    if kind == 3:
        return rng.bytes(int(rng.integers(1, 99))) + data + (rng.bytes(9) if rng.random() < 0.5 else b"")
    for _ in range(int(rng.integers(1, 3))):
        signature, fields = [(b"PK\3\4", LOCAL), (b"PK\1\2", CENTRAL), (b"PK\5\6", END)][int(rng.integers(3))]
        starts, at = [], out.find(signature)
        while at >= 0:
            starts.append(at)
            at = out.find(signature, at + 4)
        if not starts:
            continue
        offset, form = list(fields.values())[int(rng.integers(len(fields)))]
        at = int(rng.choice(starts)) + offset
        if at + 4 > len(out):
            continue
        (old,) = struct.unpack_from(form, out, at)
        top = 2**16 - 1 if form == "<H" else 2**32 - 1
        new = [0, 1, old + 1, old - 1, old ^ 1, old * 2, top, top >> 1, 2**30, 8, 12][int(rng.integers(11))]
        struct.pack_into(form, out, at, new & top)
    return bytes(out)


def write_folder(members: Members, path: Path) -> None:
    path.mkdir()
    for name, data in members:
        target = path / name.lstrip("/")
        with contextlib.suppress(
            OSError, ValueError
        ):  # names that a file system refuses, or a folder in the way
            if ".." in name.split("/"):
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)


def damage_folder(path: Path, rng: Rng) -> None:
    """Put something else in place of a file or folder."""
    everything = sorted(path.rglob("*"))
    victim = everything[int(rng.integers(len(everything)))]
    shutil.rmtree(victim) if victim.is_dir() else victim.unlink()
    kind = rng.integers(6)
    if kind == 0:
        victim.mkdir()
    elif kind == 1:
        os.mkfifo(victim)
    elif kind == 2:
        victim.symlink_to("/etc/passwd")
    elif kind == 3:
        victim.symlink_to(path)
    elif kind == 4:
        victim.symlink_to(victim)
    # else nothing is there


@dataclass
class Mutant:
    """A damaged store on disk, with the sums that its undamaged original has."""

    path: Path
    kind: str


def make_mutant(seed: int, number: int, folder: Path) -> Mutant:
    """Write mutant `number` of a seed into `folder`, with the manifest of its original beside it."""
    rng = np.random.default_rng([seed, number])
    which, container = int(rng.integers(len(BASES))), "zip" if rng.random() < 0.5 else "folder"
    original: Members = list(base(which))
    members = list(original)
    kinds = ["bytes", "json", "json", "members", "values", container]
    kind = kinds[int(rng.integers(len(kinds)))]
    if kind == "values":
        members = damage_values(which, rng)
    elif kind in ("bytes", "json", "members"):
        damage = {"bytes": damage_bytes, "json": damage_json, "members": damage_members}[kind]
        damage(members, rng)
    path = folder / ("s.zarr.zip" if container == "zip" else "s.zarr")
    if container == "folder":
        sums = {f"{path.name}/{n}": hashlib.sha256(d).hexdigest() for n, d in original}
        write_folder(members, path)
        if kind == "folder":
            damage_folder(path, rng)
    else:
        write_zip(original, path, rng, plain=True)
        sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
        write_zip(members, path, rng, plain=kind == "zip")
        if kind == "zip":
            path.write_bytes(damage_zip(path.read_bytes(), rng))
    text = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
    (folder / f"{path.name}.sha256").write_text(text)
    return Mutant(path, f"{container}: {kind}")


# -- reading a mutant ----------------------------------------------------------------------------------------


class TooSlowError(BaseException):
    """The alarm rang. Not an Exception, so that nothing takes it for damage."""


class WrongError(Exception):
    """An answer that is not the right one."""


def snapshot(folder: Path) -> dict[str, Any]:
    """Return what is in a folder, without following anything."""
    out: dict[str, Any] = {}
    for top, folders, files in os.walk(folder):
        for name in folders + files:
            path = Path(top) / name
            status = path.lstat()
            plain = path.is_file() and not path.is_symlink()
            out[str(path)] = (
                status.st_mode,
                status.st_mtime_ns,
                zlib.crc32(path.read_bytes()) if plain else 0,
            )
    return out


def attempt(call: Callable[[], Any]) -> tuple[Any, bool]:
    """Return an answer and True, or None and False where the module refuses. Other errors go on."""
    try:
        return call(), True
    except agn.TrainingSetError as e:
        if not str(e):
            raise WrongError("an error without a message") from e
        return None, False


def same(ours: np.ndarray, theirs: Any) -> bool:
    theirs = np.asarray(theirs)
    if ours.shape != theirs.shape or ours.dtype.names != theirs.dtype.names:
        return False
    return ours.tobytes() == theirs.astype(ours.dtype).tobytes()


def compare_with_zarr(path: Path, format_: int, arrays: dict[str, np.ndarray], tally: Counter[str]) -> None:
    """Read the same arrays with plain Zarr. Where it refuses, there is no judge."""
    store = (
        zarr.storage.LocalStore(path, read_only=True)
        if path.is_dir()
        else zarr.storage.ZipStore(path, mode="r")
    )
    try:
        for name, ours in arrays.items():
            try:
                theirs = zarr.open_array(store, path=name, mode="r", zarr_format=format_)[...]
            except (Exception, TooSlowError):  # of any kind: Zarr's refusals are not our subject
                tally["arrays that Zarr refuses"] += 1
                continue
            tally["arrays equal to Zarr's"] += 1
            if not same(ours, theirs):
                raise WrongError(f"{name} differs from what Zarr reads")
    finally:
        store.close()


def examine(mutant: Mutant, tally: Counter[str]) -> str:
    """Read everything in a mutant. Return "answer" or "error"; raise whatever is not allowed."""
    before = snapshot(mutant.path.parent)
    refused, packed, arrays, format_ = False, False, {}, 2
    ts, opened = attempt(lambda: agn.open_training_set(mutant.path))
    if opened:
        with ts:
            format_ = ts._arrays.format
            packed = hasattr(ts._arrays, "stored")  # Zarr has no arrays of these names to compare with
            calls: list[Callable[[], Any]] = [
                lambda: ts.attrs,
                lambda: repr(ts.tree(2)),
                lambda: ts.tree(1)._repr_html_(),
                lambda: ts.define("psfmag_u"),
                lambda: ts.catalog(["z"]),
                ts.catalog,
                ts.column_definitions,
            ]
            for call in calls:
                refused |= not attempt(call)[1]
            raw, good = attempt(lambda: ts._arrays.read("catalog"))
            if good:
                arrays["catalog"] = raw
            ids, good = attempt(ts.light_curve_ids)
            frames = {}
            for train_id in ids if good else []:
                raw, good = attempt(functools.partial(ts.raw_light_curve, train_id))
                refused |= not good
                if good:
                    arrays[f"sdss_lc/{train_id}"] = raw
                frame, good = attempt(functools.partial(ts.light_curve, train_id))
                if good:
                    frames[train_id] = frame
                refused |= not good
            if frames:
                together, good = attempt(lambda: ts.light_curves(list(frames), progress=False))
                if good and len(together) != sum(map(len, frames.values())):
                    raise WrongError("light_curves and light_curve give different numbers of rows")
    # No TrainingSetError is expected here: whatever is wrong with a store is a finding.
    report = agn.validate_store(mutant.path, progress=False)
    str(report)
    noticed = refused or not opened or any(f.level == "error" for f in report if f.check != "manifest")
    listed = any(f.level == "error" for f in report if f.check == "manifest")
    if snapshot(mutant.path.parent) != before:
        raise WrongError("reading changed a byte or made a file")
    if changed_bytes(mutant) != listed:
        raise WrongError(f"the manifest finds {listed} where bytes changed is {not listed}: {report[-1]}")
    tally["bytes unchanged"] += not listed
    tally["changed, noticed only by the manifest"] += listed and not noticed
    # Zarr would wait for the writer of a pipe, for ever.
    pipes = [path for path in mutant.path.parent.rglob("*") if path.is_fifo()]
    if arrays and not pipes and not packed:
        signal.setitimer(signal.ITIMER_REAL, SECONDS)  # for Zarr
        compare_with_zarr(mutant.path, format_, arrays, tally)
    return "error" if refused or not opened else "answer"


def changed_bytes(mutant: Mutant) -> bool:
    """Compare with the manifest as sha256sum would, by other code than the module's."""
    listed = (mutant.path.parent / f"{mutant.path.name}.sha256").read_text().splitlines()
    sums = dict(reversed(line.split("  ", 1)) for line in listed)
    top = mutant.path.parent
    if not mutant.path.is_dir():
        return sums != {mutant.path.name: hashlib.sha256(mutant.path.read_bytes()).hexdigest()}
    found = {}
    for path in mutant.path.rglob("*"):
        if path.is_symlink() or not path.is_dir():
            plain = path.is_file() and not path.is_symlink()
            found[path.relative_to(top).as_posix()] = hashlib.sha256(
                path.read_bytes() if plain else b""
            ).hexdigest()
            if not plain:
                return True
    return sums != found


# -- many of them -------------------------------------------------------------------------------------------


def peak_memory() -> float:
    """Return the most memory, in MiB, that this process held since the last call."""
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    Path("/proc/self/clear_refs").write_text("5")
    return peak


def ring(*_: object) -> None:
    raise TooSlowError


def run_one(seed: int, number: int, folder: Path, tally: Counter[str]) -> tuple[str, str, float, float]:
    """Return kind, outcome ("answer", "error" or what went wrong), seconds and MiB of one mutant."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    mutant = make_mutant(seed, number, folder)
    resident = peak_memory()
    resident = float(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20
    start = time.perf_counter()
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcome = examine(mutant, tally)
    except TooSlowError:
        outcome = f"FAILED: more than {SECONDS} s\n{traceback.format_exc()[-1500:]}"
    except BaseException:
        outcome = "FAILED: " + traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return mutant.kind, outcome, time.perf_counter() - start, peak_memory() - resident


def work(seed: int, numbers: list[int], pipe: Connection) -> None:
    """Work on mutants in a process of limited memory, and say before each which one it is."""
    signal.signal(signal.SIGALRM, ring)
    for number in range(len(BASES)):
        base(number)  # made once, before memory is limited
    bombs()
    with tempfile.TemporaryDirectory() as top:
        zarr.open_group(zarr.storage.MemoryStore({}), mode="w").create_array("a", data=np.arange(3))[:]
        used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
        limit = used + 2 * MEGABYTES * 2**20  # addresses; what counts as memory is measured
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for number in numbers:
            pipe.send(("start", number))
            tally: Counter[str] = Counter()
            result = run_one(seed, number, Path(top) / "mutant", tally)
            pipe.send(("done", number, result, tally))
    pipe.send(("end",))


def run(seed: int, n: int, workers: int, report: Callable[[int], None] = lambda done: None) -> dict[str, Any]:
    """Try `n` mutants of a seed; return counts, the worst time and memory, and every failure."""
    context = multiprocessing.get_context("fork" if workers == 1 else "spawn")
    kinds: Counter[tuple[str, str]] = Counter()
    tally: Counter[str] = Counter()
    failures: dict[int, str] = {}
    slowest = largest = 0.0
    done = 0
    active: dict[Connection, tuple[Any, list[int], int | None]] = {}

    def start(numbers: list[int]) -> None:
        if numbers:
            mine, theirs = context.Pipe(duplex=False)
            process = context.Process(target=work, args=(seed, numbers, theirs))
            process.start()
            theirs.close()
            active[mine] = (process, numbers, None)

    for w in range(workers):
        start(list(range(w, n, workers)))
    while active:
        ready = multiprocessing.connection.wait(list(active), timeout=10 * SECONDS)
        for pipe in ready or list(active):
            process, numbers, current = active[pipe]  # type: ignore[index]
            try:
                if not ready:
                    process.kill()
                    raise EOFError
                message = pipe.recv()  # type: ignore[union-attr]
            except EOFError:
                del active[pipe]  # type: ignore[arg-type]
                process.join()
                if current is not None:  # it died: whatever it worked on did it
                    failures[current] = f"FAILED: the process died, exit code {process.exitcode}"
                    done += 1
                    start(numbers[numbers.index(current) + 1 :])
                continue
            if message[0] == "start":
                active[pipe] = (process, numbers, message[1])  # type: ignore[index]
            elif message[0] == "done":
                _, number, (kind, outcome, seconds, megabytes), counted = message
                active[pipe] = (process, numbers, None)  # type: ignore[index]
                slowest, largest = max(slowest, seconds), max(largest, megabytes)
                tally += counted
                kinds[kind, outcome.split(":")[0]] += 1
                if outcome not in ("answer", "error"):
                    failures[number] = f"{kind}\n{outcome}"
                elif megabytes > MEGABYTES:
                    failures[number] = f"{kind}\nFAILED: {megabytes:.0f} MiB"
                done += 1
                report(done)
            else:
                active[pipe] = (process, numbers, None)  # type: ignore[index]
    return {
        "kinds": kinds,
        "tally": tally,
        "failures": failures,
        "seconds": slowest,
        "MiB": largest,
        "done": done,
    }


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", type=int, help="make this one mutant again, and say where it is")
    chosen = parser.parse_args()
    if chosen.only is not None:
        signal.signal(signal.SIGALRM, ring)
        folder = Path(tempfile.gettempdir()) / f"mutant-{chosen.seed}-{chosen.only}"
        tally: Counter[str] = Counter()
        kind, outcome, seconds, megabytes = run_one(chosen.seed, chosen.only, folder, tally)
        print(f"{folder}\n{kind}\n{outcome}\n{seconds:.2f} s, {megabytes:.0f} MiB, {dict(tally)}")
        return int(outcome not in ("answer", "error"))
    begin = time.perf_counter()
    result = run(
        chosen.seed,
        chosen.n,
        chosen.workers,
        lambda d: print(f"\r{d}", end="", file=sys.stderr) if d % 50 == 0 else None,
    )
    print(f"\r{'damage':20}{'answer':>8}{'error':>8}{'FAILED':>8}")
    for kind in sorted({k for k, _ in result["kinds"]}):
        print(f"{kind:20}" + "".join(f"{result['kinds'][kind, o]:8}" for o in ("answer", "error", "FAILED")))
    for words, count in sorted(result["tally"].items()):
        print(f"{count:8} {words}")
    for number, why in sorted(result["failures"].items()):
        print(f"\n--- mutant {number}: {why}")
    good = result["done"] - len(result["failures"])
    print(
        f"{good} of {chosen.n} mutants end in the right answer or our error; "
        f"slowest {result['seconds']:.2f} s, most memory {result['MiB']:.0f} MiB; "
        f"{time.perf_counter() - begin:.0f} s in all"
    )
    return int(good != chosen.n)


if __name__ == "__main__":
    sys.exit(main())
