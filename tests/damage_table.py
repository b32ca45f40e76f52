"""Each kind of damage once: how to make it, what the reader sees, what to do. The page and the tests use it.

``python tests/damage_table.py`` writes the tables of ``reference/what_can_go_wrong.md`` anew.
"""

import json
import os
import pathlib
import shutil
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import zarr

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import stores

import agn_helpers as agn

PAGE = pathlib.Path(__file__).resolve().parents[1] / "reference" / "what_can_go_wrong.md"


class Row(NamedTuple):
    """One kind of damage."""

    part: str  # of the page
    words: str  # what is wrong
    sees: str  # "Error: message" or "validate: finding"; "..." stands for anything
    todo: str
    container: str  # "zip", "folder" or "" for nothing
    damage: Callable[[pathlib.Path], None]
    read: Callable[[agn.TrainingSet], Any] = lambda ts: ts.catalog()


# -- how to damage -------------------------------------------------------------------------------------


def members(path: pathlib.Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as z:
        return {n: z.read(n) for n in z.namelist()}


def rewrite(path: pathlib.Path, change: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> None:
    """Write a zip again with some members changed, all its checksums correct."""
    content = members(path) | change
    with zipfile.ZipFile(path, "w") as z:
        for name, data in content.items():
            z.writestr(name, data, method if name in change else zipfile.ZIP_STORED)


def edit(**fields: Any) -> Callable[[pathlib.Path], None]:
    """Return a function that changes fields of the catalogue's metadata."""

    def damage(path: pathlib.Path) -> None:
        meta = json.loads(members(path)["catalog/.zarray"])
        rewrite(path, {"catalog/.zarray": json.dumps(meta | fields).encode()})

    return damage


def put(name: str, data: bytes, method: int = zipfile.ZIP_STORED) -> Callable[[pathlib.Path], None]:
    return lambda path: rewrite(path, {name: data}, method)


def flip(name: str) -> Callable[[pathlib.Path], None]:
    """Return a function that flips one bit in the middle of a member, and leaves the checksum as it was."""

    def damage(path: pathlib.Path) -> None:
        if path.is_dir():
            data = bytearray((path / name).read_bytes())
            data[len(data) // 2] ^= 4
            (path / name).write_bytes(data)
            return
        with zipfile.ZipFile(path) as z:
            info = z.getinfo(name)
        data = bytearray(path.read_bytes())
        start = info.header_offset + 30 + sum(struct.unpack_from("<HH", data, info.header_offset + 26))
        data[start + info.file_size // 2] ^= 4
        path.write_bytes(data)

    return damage


def record(name: str, offset: int, form: str, value: int, signature: bytes = b"PK\1\2") -> Any:
    """Return a function that changes one field of a member's record in the zip's directory."""

    def damage(path: pathlib.Path) -> None:
        data = bytearray(path.read_bytes())
        length = {b"PK\1\2": 46, b"PK\3\4": 30}[signature]
        at = data.find(signature)
        while bytes(data[at + length : at + length + len(name)]) != name.encode():
            at = data.find(signature, at + 4)
        struct.pack_into(form, data, at + offset, value)
        path.write_bytes(data)

    return damage


def cut(n: int) -> Callable[[pathlib.Path], None]:
    return lambda path: os.truncate(path, path.stat().st_size - n)


def twice(path: pathlib.Path) -> None:
    name = "sdss_lc/0/0"
    data = members(path)[name]
    with zipfile.ZipFile(path, "a") as z:
        z.NameToInfo.pop(name)  # else zipfile would warn
        z.writestr(name, data)


def replace(name: str, put_there: Callable[[pathlib.Path], None]) -> Callable[[pathlib.Path], None]:
    """Return a function that puts something else in place of a file of a folder store."""

    def damage(path: pathlib.Path) -> None:
        (path / name).unlink()
        put_there(path / name)

    return damage


def link_outside(path: pathlib.Path) -> None:
    outside = path.parents[3] / "outside"
    outside.write_bytes(b"not yours")
    path.symlink_to(outside)


def catalog(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[pathlib.Path], None]:
    """Return a function that writes the catalogue of a folder store again, changed."""

    def damage(path: pathlib.Path) -> None:
        root = zarr.open_group(path, mode="a", use_consolidated=False)
        attrs = root["catalog"].attrs.asdict()
        made = root.create_array("catalog", data=change(root["catalog"][:]), overwrite=True)
        made.attrs.update(attrs)

    return damage


def column(name: str, at: Any, value: Any) -> Callable[[np.ndarray], np.ndarray]:
    def change(table: np.ndarray) -> np.ndarray:
        table = table.copy()
        table[name][at] = value
        return table

    return change


def retype(name: str, dtype: str) -> Callable[[np.ndarray], np.ndarray]:
    return lambda table: table.astype(
        [(n, dtype if n == name else table.dtype[n]) for n in table.dtype.names]
    )


def curve(train_id: int, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[pathlib.Path], None]:
    """Return a function that writes one light curve of a folder store again, changed."""

    def damage(path: pathlib.Path) -> None:
        group = zarr.open_group(path, mode="a", use_consolidated=False)["sdss_lc"]
        group.create_array(str(train_id), data=change(group[str(train_id)][:]), overwrite=True)

    return damage


def without_band(table: np.ndarray) -> np.ndarray:
    keep = [n for n in table.dtype.names if not n.endswith("_u")]
    out = np.zeros(len(table), [(n, table.dtype[n]) for n in keep])
    for n in keep:
        out[n] = table[n]
    return out


def with_manifest(damage: Callable[[pathlib.Path], None]) -> Callable[[pathlib.Path], None]:
    def both(path: pathlib.Path) -> None:
        agn.write_manifest(path)
        damage(path)

    return both


def swap_byte_order(path: pathlib.Path) -> None:
    meta = path / "catalog/.zarray"
    meta.write_text(meta.read_text().replace("<f8", ">f8"))


def zeros(n: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(n // 2**20)) + packer.flush()


AGAIN = "Fetch the file again. Compare its size with the original's."
SUSPECT = "Do not trust the file. Ask its author for a clean copy."
RAISE = "If you trust the file, pass the larger limit that the message names."
MAKER = "Tell whoever made the store. Other quasars can be read."


def quasar(ts: agn.TrainingSet) -> Any:
    return ts.light_curve(0)


def band_u(ts: agn.TrainingSet) -> Any:
    return ts.light_curve(100, bands=["u"])


A, B, C, D, E = "File", "Size", "Metadata", "Content", "Folder"

ROWS = [
    Row(
        A,
        "Nothing is at the path",
        "StoreNotFoundError: There is nothing at ...",
        "Check the path.",
        "",
        lambda path: path.unlink(),
    ),
    Row(
        A,
        "The download stopped early",
        "DamagedStoreError: ... cannot be read as a zip: ...",
        AGAIN,
        "zip",
        cut(200),
    ),
    Row(
        A,
        "One bit changed in a chunk of a zip",
        "DamagedStoreError: ... sdss_lc/0/0: the stored checksum does not match...",
        AGAIN,
        "zip",
        flip("sdss_lc/0/0"),
        quasar,
    ),
    Row(
        A,
        "One bit changed in the metadata of a zip",
        "DamagedStoreError: ... catalog/.zarray: the stored checksum does not match...",
        AGAIN,
        "zip",
        flip("catalog/.zarray"),
    ),
    Row(
        A,
        "A byte changed in the zip's directory",
        "DamagedStoreError: ... cannot be read as a zip: ...",
        AGAIN,
        "zip",
        record("catalog/.zarray", 0, "<I", 0),
    ),
    Row(
        A,
        "The zip's directory points to the wrong place",
        "DamagedStoreError: ... catalog/.zarray: no member at its offset...",
        AGAIN,
        "zip",
        record("catalog/.zarray", 42, "<I", 7),
    ),
    Row(
        A,
        "A member of the zip lies about its size",
        "DamagedStoreError: ... catalog/.zarray: the zip gives two sizes that do not fit each other...",
        SUSPECT,
        "zip",
        record("catalog/.zarray", 24, "<I", 3),
    ),
    Row(
        A,
        "A name stands twice in the zip",
        "DamagedStoreError: ... stores a name twice...",
        SUSPECT,
        "zip",
        twice,
    ),
    Row(
        A,
        "A member is encrypted",
        "DamagedStoreError: ... catalog/.zarray: encrypted...",
        "Unpack it with its password, and zip it again without one.",
        "zip",
        record("catalog/.zarray", 8, "<H", 1),
    ),
    Row(
        A,
        "The folder was zipped, not its contents",
        "NotATrainingSetError: ... is not a Zarr group. The zip holds the folder 'qso.zarr'...",
        "Zip again as the message says.",
        "zip",
        lambda path: stores.zip_store(unpacked(path), path),
    ),
    Row(
        B,
        "A chunk unpacks to far more than its array holds (in the zip)",
        "LimitError: ... catalog/0 unpacks to 268435456 bytes, more than ...",
        SUSPECT,
        "zip",
        put("catalog/0", bytes(2**28), zipfile.ZIP_DEFLATED),
    ),
    Row(
        B,
        "A chunk unpacks to far more than its array holds (in its codec)",
        "DamagedStoreError: ... the chunk catalog/0 cannot be decoded: it says that it unpacks to ...",
        SUSPECT,
        "zip",
        lambda path: (
            edit(compressor={"id": "zlib", "level": 1})(path),
            put("catalog/0", zeros(2**22))(path),
        ),
    ),
    Row(
        B,
        "The catalogue declares 10**12 rows",
        "LimitError: ... it declares ... bytes, more than max_bytes=...",
        RAISE,
        "zip",
        edit(shape=[10**12], chunks=[10**12]),
    ),
    Row(
        B,
        "Gigabytes of fill values, and no chunk",
        "LimitError: ... it declares ... bytes, more than max_bytes=...",
        RAISE,
        "zip",
        edit(shape=[10**7], chunks=[10**7], fill_value=1),
    ),
    Row(
        B,
        "More than a million chunks",
        "LimitError: ... it declares more than 1048576 chunks...",
        "Ask for a store with larger chunks.",
        "zip",
        edit(shape=[2**20 + 1], chunks=[1], dtype="|u1"),
    ),
    Row(
        B,
        "A metadata document of more than 16 MB",
        "LimitError: ... catalog/.zarray unpacks to ... bytes, more than ...",
        SUSPECT,
        "zip",
        put("catalog/.zarray", b" " * 2**24 + b"{}"),
    ),
    Row(
        C,
        "Metadata nested 100,000 levels deep",
        "DamagedStoreError: ... is not readable JSON: ...",
        SUSPECT,
        "zip",
        put("catalog/.zarray", b'{"a":' * 100_000),
    ),
    Row(
        C,
        "Metadata that is not JSON",
        "DamagedStoreError: ... is not readable JSON: ...",
        AGAIN,
        "zip",
        put("catalog/.zarray", b"\x89PNG"),
    ),
    Row(
        C,
        "A field of the metadata is missing",
        "DamagedStoreError: ... impossible shape or chunks None...",
        AGAIN,
        "zip",
        edit(shape=None),
    ),
    Row(
        C,
        "A codec that nobody knows",
        "DamagedStoreError: ... the codec 'rot13' is not one this module uses...",
        "Ask what wrote the store, and read it with that.",
        "zip",
        edit(compressor={"id": "rot13"}),
    ),
    Row(
        C,
        "The codec `pickle`, which can run code",
        "DamagedStoreError: ... the codec 'pickle' is not one this module uses...",
        SUSPECT,
        "zip",
        edit(filters=[{"id": "pickle", "protocol": 4}]),
    ),
    Row(
        C,
        "An array of Python objects",
        "DamagedStoreError: ... the data type |O is not one this module reads...",
        SUSPECT,
        "zip",
        edit(dtype="|O", filters=[{"id": "vlen-utf8"}, {"id": "pickle"}]),
    ),
    Row(
        C,
        "The store has no catalogue, or no light curves",
        "NotATrainingSetError: ... but has no array 'catalog'...",
        "It is another Zarr store. Read it with `zarr.open_group`.",
        "folder",
        lambda path: shutil.rmtree(path / "catalog"),
    ),
    Row(
        D,
        "The catalogue is not a table",
        "NotATrainingSetError: The catalogue of ... has no column 'train_id'...",
        'Look at it with `ts.root["catalog"]`.',
        "folder",
        catalog(lambda table: np.arange(6.0)),
    ),
    Row(
        D,
        "`train_id` is not an integer",
        "DamagedStoreError: The catalogue's column 'train_id' holds float64...",
        "Tell whoever made the store.",
        "folder",
        catalog(retype("train_id", "<f8")),
    ),
    Row(
        D,
        "A `train_id` stands twice in the catalogue",
        "DamagedStoreError: The catalogue has 1 train_id more than once...",
        "Tell whoever made the store.",
        "folder",
        catalog(column("train_id", 1, 0)),
    ),
    Row(
        D,
        "A chunk is missing",
        "DamagedStoreError: ... the chunk sdss_lc/0/0 is not in the store...",
        'Fetch the store again, or pass `missing_chunks="fill"` if zeros are meant.',
        "folder",
        lambda path: (path / "sdss_lc/0/0").unlink(),
        quasar,
    ),
    Row(
        D,
        "A light curve has lost its metadata",
        "DamagedStoreError: ... sdss_lc/0 has no metadata...",
        "Fetch the store again. Other quasars can be read.",
        "folder",
        lambda path: (path / "sdss_lc/0/.zarray").unlink(),
        quasar,
    ),
    Row(
        D,
        "A light curve lacks a band",
        "UnknownBandError: No band 'u'; this light curve has g, r, i, z...",
        "Read the other bands.",
        "folder",
        curve(100, without_band),
        band_u,
    ),
    Row(
        D,
        "A light curve lacks a band, and you read all bands",
        "validate: ... lack time, magnitude or error in u: 100",
        MAKER,
        "folder",
        curve(100, without_band),
    ),
    Row(
        D,
        "A light curve holds text instead of numbers",
        "InvalidValueError: The column 'psfmag_u' of a light curve holds <U4...",
        MAKER,
        "folder",
        curve(0, retype("psfmag_u", "<U4")),
        quasar,
    ),
    Row(
        D,
        "Measurements without a time",
        "validate: ... have a measurement without a time in g: 0",
        "Reading gives them, with NaN. Drop them.",
        "folder",
        curve(0, column("mjd_g", [1, 2], np.nan)),
    ),
    Row(
        D,
        "Infinite magnitudes",
        "validate: ... hold an infinite magnitude or error in r: 0",
        "Reading gives them. Drop them with `numpy.isfinite`.",
        "folder",
        curve(0, column("psfmag_r", 3, np.inf)),
    ),
    Row(
        D,
        "A quasar of the catalogue has no light curve",
        "UnknownTrainIdError: No light curve with train_id 0 in ...",
        "Choose from `ts.light_curve_ids()`.",
        "folder",
        lambda path: shutil.rmtree(path / "sdss_lc/0"),
        quasar,
    ),
    Row(
        D,
        "A light curve is lost that `lcN` promises",
        "validate: ... are absent though lcN promises them: 0",
        MAKER,
        "folder",
        lambda path: shutil.rmtree(path / "sdss_lc/0"),
    ),
    Row(
        D,
        "A light curve of a quasar that the catalogue lacks",
        "validate: ... of quasars that the catalogue lacks: 77",
        MAKER,
        "folder",
        lambda path: (path / "sdss_lc/66").rename(path / "sdss_lc/77"),
    ),
    Row(
        D,
        "A light curve is shorter than `lcN`",
        "validate: ... differ in length from lcN: 0",
        MAKER,
        "folder",
        curve(0, lambda table: table[:-1]),
    ),
    Row(
        D,
        "A derived column contradicts its definition",
        "validate: dered_g in ... rows ...",
        "Compute it yourself: `check_catalog` says how.",
        "folder",
        catalog(column("dered_g", slice(None), 17.0)),
    ),
    Row(
        E,
        "A chunk file was cut",
        "DamagedStoreError: ... the chunk sdss_lc/0/0 cannot be decoded: ...",
        AGAIN,
        "folder",
        lambda path: cut(1)(path / "sdss_lc/0/0"),
        quasar,
    ),
    Row(
        E,
        "A link leads out of the folder",
        "DamagedStoreError: ... is a link that leads elsewhere; it is not followed...",
        SUSPECT,
        "folder",
        replace("sdss_lc/0/0", link_outside),
        quasar,
    ),
    Row(
        E,
        "Something that is no file (a pipe) is in the place of a chunk",
        "DamagedStoreError: ... is not an ordinary file...",
        SUSPECT,
        "folder",
        replace("sdss_lc/0/0", lambda p: os.mkfifo(p)),
        quasar,
    ),
    Row(
        E,
        "Names that lead out of the store (`../`, `/`, `\\`)",
        "validate: names that lead out of the store: '../outside'",
        "Nothing was written there: names are only looked up. " + SUSPECT,
        "zip",
        put("../outside", b"x"),
    ),
    Row(
        E,
        "A file that belongs to no array",
        "warning: ... members that are no part of a training set: 'notes.txt'",
        "Reading ignores it.",
        "folder",
        lambda path: (path / "notes.txt").write_text("x"),
    ),
    Row(
        E,
        "One bit changed in a chunk of a folder",
        "validate: 1 files changed: 'sdss_lc/0/0'",
        "Without a manifest nothing may be seen. " + AGAIN,
        "folder",
        with_manifest(flip("sdss_lc/0/0")),
    ),
    Row(
        E,
        "The metadata name another number type of the same size",
        "validate: 1 files changed: 'catalog/.zarray'",
        "Without a manifest nothing is seen. " + AGAIN,
        "folder",
        with_manifest(swap_byte_order),
    ),
]


def unpacked(path: pathlib.Path) -> pathlib.Path:
    """Return a folder that holds the store in the folder qso.zarr."""
    top = path.with_name("unpacked")
    with zipfile.ZipFile(path) as z:
        z.extractall(top / "qso.zarr")
    path.unlink()
    return top


def tables() -> str:
    """Return the page's tables."""
    out = []
    titles = {
        A: "The file",
        B: "Too much of something",
        C: "Metadata and codecs",
        D: "Content",
        E: "Folders, names, silent changes",
    }
    for part, title in titles.items():
        out += [f"## {title}", "", "| What is wrong | What you see | What to do |", "| --- | --- | --- |"]
        for row in ROWS:
            if row.part == part:
                kind, text = row.sees.split(": ", 1)
                kind = {"validate": "`validate_store`, error", "warning": "`validate_store`, warning"}.get(
                    kind, f"`{kind}`"
                )
                out.append(f"| {row.words} | {kind}: {text.replace('|', chr(92) + '|')} | {row.todo} |")
        out.append("")
    return "\n".join(out)


START, END = "<!-- tables: written by tests/damage_table.py -->\n", "<!-- end of tables -->"

if __name__ == "__main__":
    page = PAGE.read_text("utf-8")
    before, after = page.split(START)[0], page.split(END)[1]
    PAGE.write_text(before + START + "\n" + tables() + "\n" + END + after, "utf-8")
