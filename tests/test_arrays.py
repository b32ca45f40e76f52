"""Damaged and hostile stores end in one of our errors, soon, and never in wrong numbers."""

import base64
import json
import os
import struct
import sys
import zipfile
import zlib
from contextlib import closing

import numcodecs
import numpy as np
import pytest
import stores

import agn_helpers as agn
from agn_helpers import arrays as arrays_room
from agn_helpers import members as members_room
from agn_helpers.arrays import StoredArrays
from agn_helpers.errors import DamagedStoreError, LimitError

VALUES = np.arange(6, dtype="<f8")
ZARRAY = {
    "zarr_format": 2,
    "shape": [6],
    "chunks": [4],
    "dtype": "<f8",
    "compressor": None,
    "fill_value": 0,
    "order": "C",
    "filters": None,
}
V3 = {
    "zarr_format": 3,
    "node_type": "array",
    "shape": [6],
    "data_type": "float64",
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4]}},
    "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
    "fill_value": 0,
    "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
}


def chunk(part, encode=bytes):
    return encode(np.pad(VALUES[4 * part : 4 * part + 4], (0, 2 * part)).tobytes())


def store_of(folder, members):
    """Write members as a folder store and as a zip; yield each, opened."""
    for name, content in members.items():
        path = folder / "s.zarr" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    stores.zip_store(folder / "s.zarr", folder / "s.zarr.zip")
    for path in (folder / "s.zarr", folder / "s.zarr.zip"):
        with closing(StoredArrays(path)) as opened:
            yield opened


def v2(stored=None, /, **changes):
    chunks = {"a/0": chunk(0), "a/1": chunk(1)} if stored is None else stored
    return {".zgroup": b'{"zarr_format": 2}', "a/.zarray": json.dumps(ZARRAY | changes).encode(), **chunks}


def v3(stored=None, /, **changes):
    chunks = {"a/c/0": chunk(0), "a/c/1": chunk(1)} if stored is None else stored
    group = json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}}).encode()
    return {"zarr.json": group, "a/zarr.json": json.dumps(V3 | changes).encode(), **chunks}


@pytest.mark.parametrize("members", [v2(), v3()], ids=["v2", "v3"])
def test_the_undamaged_store_reads(tmp_path, members):
    """The judge of all that follows: without the damage there is no error."""
    for opened in store_of(tmp_path, members):
        np.testing.assert_array_equal(opened.read("a"), VALUES)


def blosc(data):
    return bytes(numcodecs.Blosc().encode(data))


BLOSC = {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}
HUGE = bytes(2**19)
PICKLED = base64.b64encode(b"cos\nsystem\n(S'exit 1'\ntR.").decode()
DAMAGED_V2 = {
    "chunk missing": (v2({"a/0": chunk(0)}), "chunk a/1 is not in the store. Pass missing_chunks='fill'"),
    "chunk empty": (v2({"a/0": b"", "a/1": chunk(1)}), "chunk a/0 cannot be decoded"),
    "chunk cut": (v2({"a/0": chunk(0)[:-1], "a/1": chunk(1)}), "chunk a/0 cannot be decoded"),
    "chunk too long": (v2({"a/0": chunk(0) * 2, "a/1": chunk(1)}), "chunk a/0 cannot be decoded"),
    "chunk far too long": (v2({"a/0": HUGE, "a/1": chunk(1)}), "a/0 .*524288 bytes, more than 4160"),
    "blosc cut": (
        v2({"a/0": chunk(0, blosc)[:-1], "a/1": chunk(1, blosc)}, compressor=BLOSC),
        r"chunk a/0 cannot be decoded: its header says \d+ bytes, found",
    ),
    "blosc, shorter than its header": (
        v2({"a/0": b"\2\1\1"}, compressor=BLOSC),
        "chunk a/0 cannot be decoded",
    ),
    "blosc bomb": (
        v2({"a/0": blosc(HUGE)}, compressor=BLOSC),
        r"unpacks to 524288 bytes where at most 4160 fit",
    ),
    "not compressed as it says": (v2(compressor={"id": "zstd", "level": 1}), "not a Zstandard frame"),
    "zstd bomb": (
        v2({"a/0": bytes(numcodecs.Zstd().encode(HUGE))}, compressor={"id": "zstd", "level": 1}),
        r"unpacks to 524288 bytes where at most 4160 fit",
    ),
    "zstd of unknown size": (
        v2({"a/0": b"\x28\xb5\x2f\xfd\x00\x58\x01\x00\x00"}, compressor={"id": "zstd", "level": 1}),
        "does not say its size",
    ),
    "lz4 bomb": (
        v2({"a/0": bytes(numcodecs.LZ4().encode(HUGE))}, compressor={"id": "lz4", "acceleration": 1}),
        "unpacks to 524288 bytes where at most 4160 fit",
    ),
    "shape of strings": (v2(shape=["6"]), "impossible shape or chunks"),
    "shape negative": (v2(shape=[-6]), "impossible shape or chunks"),
    "shape of booleans": (v2(shape=[True]), "impossible shape or chunks"),
    "shape not a list": (v2(shape=6), "impossible shape or chunks 6"),
    "shape of another rank": (v2(shape=[2, 3]), "do not fit each other"),
    "shape of 33 dimensions": (v2(shape=[1] * 33, chunks=[1] * 33), "do not fit each other"),
    "chunks of nothing": (v2(chunks=[0]), "do not fit each other"),
    "shape enormous": (
        v2(shape=[10**12], chunks=[10**6]),
        r"declares 8000000000000 bytes, more than max_bytes",
    ),
    "chunks enormous": (v2(chunks=[10**12]), "declares 8000000000000 bytes"),
    "number beyond 64 bits": (v2(shape=[10**30]), "impossible shape or chunks"),
    "chunks beyond counting": (v2(shape=[2**21], chunks=[1]), "declares more than 1048576 chunks"),
    "object dtype": (v2(dtype="|O"), r"data type \|O is not one this module reads"),
    "objects in a record": (v2(dtype=[["a", "|O"]]), "objects never are"),
    "no dtype": (v2(dtype=None), "data type None is not one"),
    "dtype of a million letters": (v2(dtype="<U99999999"), "more than max_bytes"),
    "field twice": (v2(dtype=[["a", "<f8"], ["a", "<f8"]]), "data type .* is not one"),
    "pickle compressor": (v2(compressor={"id": "pickle", "protocol": 5}), "codec 'pickle' .* can run code"),
    "pickle filter": (v2(filters=[{"id": "pickle"}]), "codec 'pickle' .* can run code"),
    "objects by pickle": (v2(dtype="|O", filters=[{"id": "vlen-utf8"}, {"id": "pickle"}]), "data type"),
    "fill value a pickle": (v2(dtype="|O", fill_value=PICKLED), "data type"),
    "codec unknown": (v2(compressor={"id": "magic"}), "codec 'magic' is not one"),
    "codec not an object": (v2(compressor="blosc"), "not described as one"),
    "codec of wrong parameters": (v2(compressor={"id": "zlib", "speed": 1}), "'zlib' cannot be set up"),
    "filters not a list": (v2(filters={"id": "delta"}), "filters are not a list"),
    "filter to text": (
        v2(filters=[{"id": "astype", "encode_dtype": "<f8", "decode_dtype": "<U99999999"}]),
        "'astype' works on <U99999999, not on numbers",
    ),
    "format": (v2(zarr_format=4), "not what Zarr 2 allows"),
    "order": (v2(order="X"), "not what Zarr 2 allows"),
    "separator": (v2(dimension_separator="../"), "not what Zarr 2 allows"),
    "not JSON": (v2() | {"a/.zarray": b"{"}, "a/.zarray: the metadata is not readable JSON"),
    "not text": (v2() | {"a/.zarray": b"\xff\xfe\xff"}, "not readable JSON"),
    "JSON, but a list": (v2() | {"a/.zarray": b"[]"}, "is not a JSON object"),
    "JSON nested deeply": (v2() | {"a/.zarray": b"[" * 10**5}, "not readable JSON"),
    "JSON of a number too long": (
        v2() | {"a/.zarray": b'{"shape": [' + b"9" * 5000 + b"]}"},
        "not readable JSON",
    ),
    "JSON enormous": (v2() | {"a/.zarray": b" " * (2**24 + 1)}, "more than 16777216"),
}
for name, compress in {
    "zlib": zlib.compress,
    "gzip": numcodecs.GZip().encode,
    "bz2": numcodecs.BZ2().encode,
    "lzma": numcodecs.LZMA().encode,
}.items():
    bomb, whole = bytes(compress(HUGE)), chunk(0, compress)
    DAMAGED_V2[f"{name} bomb"] = (
        v2({"a/0": bomb}, compressor={"id": name}),
        "unpacks to .* at most 4160 fit",
    )
    DAMAGED_V2[f"{name} cut"] = (v2({"a/0": whole[:-3]}, compressor={"id": name}), "a/0 cannot be decoded")
    # In a zip the member's own checksum would find it; in a folder the codec's has to.
    flipped = whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:]
    DAMAGED_V2[f"{name} flipped"] = (v2({"a/0": flipped}, compressor={"id": name}), "a/0 cannot be decoded")

DAMAGED_V3 = {
    "chunk missing": (v3({"a/c/0": chunk(0)}), "chunk a/c/1 is not in the store"),
    "no codecs": (v3(codecs=None), "lacks a field or holds a wrong one"),
    "no chunk grid": (v3(chunk_grid={}), "lacks a field or holds a wrong one"),
    "data type of another kind": (v3(data_type=7), "lacks a field or holds a wrong one"),
    "data type unknown": (v3(data_type="float1024"), "a/zarr.json: "),
    "pickle": (v3(codecs=[{"name": "numcodecs.pickle"}]), "'numcodecs.pickle' can run code"),
    "codec unknown": (v3(codecs=[{"name": "magic"}]), "a/zarr.json: "),
    "storage transformers": (v3(storage_transformers=[{"name": "magic"}]), "a/zarr.json: "),
    "shape enormous": (v3(shape=[10**12]), "declares 8000000000000 bytes"),
    "text enormous": (
        v3(data_type={"name": "fixed_length_utf32", "configuration": {"length_bytes": 4 * 10**9}}),
        "a/zarr.json: ",
    ),
    "crc32c": (
        v3({"a/c/0": chunk(0) + b"0000"}, codecs=[*V3["codecs"], {"name": "crc32c"}]),
        "a/c/0 cannot be decoded",
    ),
    "gzip bomb": (
        v3({"a/c/0": bytes(numcodecs.GZip().encode(HUGE))}, codecs=[*V3["codecs"], {"name": "gzip"}]),
        "unpacks to .* at most 4160 fit",
    ),
    "not an array": (v3(node_type="group"), "not the metadata of a Zarr 3 array"),
}


@pytest.mark.parametrize(
    ("members", "match"),
    [pytest.param(*v, id=f"v{f} {k}") for f, d in ((2, DAMAGED_V2), (3, DAMAGED_V3)) for k, v in d.items()],
)
def test_damage_is_told(tmp_path, members, match):
    for opened in store_of(tmp_path, members):
        with pytest.raises(DamagedStoreError, match=match) as e:
            opened.read("a")
        assert str(tmp_path) in str(e.value)
        assert len(str(e.value)) < 700


@pytest.mark.parametrize("depth", [1, 50, 200, 300, 400, 450, 480, 490, 500, 1000, 10**5])
def test_dtype_nested_deeply(tmp_path, depth):
    """Read, or refused: Python's limits on recursion are met at many depths, each in another place."""
    nested = b'[["a",' * depth + b'"<f8"' + b"]]" * depth
    for opened in store_of(tmp_path, v2() | {"a/.zarray": v2()["a/.zarray"].replace(b'"<f8"', nested)}):
        try:
            assert opened.read("a").tobytes() == VALUES.tobytes()
        except DamagedStoreError:
            assert depth > 50


def test_limits_can_be_raised(tmp_path):
    for opened in store_of(tmp_path, v2()):
        opened.max_bytes = 47
        with pytest.raises(LimitError, match=r"declares 48 bytes, more than max_bytes=47.*max_bytes=48\)"):
            opened.read("a")
        opened.max_bytes = 48
        assert len(opened.read("a")) == 6


@pytest.mark.parametrize(
    "members", [v2({"a/0": chunk(0)}, fill_value=7), v3({"a/c/0": chunk(0)}, fill_value=7)]
)
def test_missing_chunks_are_filled_where_asked_for(tmp_path, members):
    for opened in store_of(tmp_path, members):
        opened.missing_chunks = "fill"
        assert opened.read("a").tolist() == [0, 1, 2, 3, 7, 7]


def test_no_array_is_a_key_error(tmp_path):
    for opened in store_of(tmp_path, v2()):
        with pytest.raises(KeyError, match="b"):
            opened.read("b")
        assert [opened.kind(k) for k in ("a", "b", "a/0")] == ["array", None, None]


@pytest.mark.parametrize("format_", [2, 3])
def test_attributes_that_are_not_an_object(tmp_path, format_):
    members = v2() | {".zattrs": b"[]"} if format_ == 2 else v3()
    if format_ == 3:
        members["zarr.json"] = members["zarr.json"].replace(b"{}", b"[1]")
    for opened in store_of(tmp_path, members):
        with pytest.raises(DamagedStoreError, match=r"is not a JSON object|attributes are not an object"):
            opened.attrs()


# -- zip ---------------------------------------------------------------------------------------------


def zipped(tmp_path, members=None, how=zipfile.ZIP_STORED):
    path = tmp_path / "s.zarr.zip"
    with zipfile.ZipFile(path, "w", how) as z:
        for name, content in (members or v2()).items():
            z.writestr(name, content)
    return path


def test_every_flipped_bit_of_a_small_zip(tmp_path):
    """An error of ours or the right numbers, wherever the bit is."""
    path = zipped(tmp_path)
    good = path.read_bytes()
    found = 0
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= 1 << at % 8
        path.write_bytes(bad)
        try:
            with closing(StoredArrays(path)) as opened:
                values = opened.read("a")
        except (agn.TrainingSetError, KeyError):
            found += 1
        else:
            np.testing.assert_array_equal(values, VALUES)
    assert found > len(good) / 3


def test_every_length_of_a_cut_zip(tmp_path):
    path = zipped(tmp_path)
    good = path.read_bytes()
    for n in range(len(good)):
        path.write_bytes(good[:n])
        with pytest.raises(DamagedStoreError, match=f"s.zarr.zip cannot be read as a zip: .* ls -l {path}"):
            StoredArrays(path)


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_flipped_chunk_in_a_zip_has_the_wrong_checksum(tmp_path, how):
    path = zipped(tmp_path, how=how)
    with zipfile.ZipFile(path) as z:
        info = z.getinfo("a/0")
    data = bytearray(path.read_bytes())
    data[info.header_offset + 30 + len("a/0") + 5] ^= 4
    path.write_bytes(data)
    with pytest.raises(DamagedStoreError, match=r"a/0: .*Fetch"), closing(StoredArrays(path)) as opened:
        opened.read("a")


def patched(path, name, **fields):
    """Change fields of one member in the zip's directory."""
    offsets = {
        "flag": (8, "<H"),
        "method": (10, "<H"),
        "crc": (16, "<I"),
        "packed": (20, "<I"),
        "size": (24, "<I"),
    }
    offsets["offset"] = (42, "<I")
    data = bytearray(path.read_bytes())
    at = data.rindex(name.encode()) - 46
    assert data[at : at + 4] == b"PK\1\2"
    for field, value in fields.items():
        struct.pack_into(offsets[field][1], data, at + offsets[field][0], value)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"flag": 1}, "a/1: encrypted, or compressed in a way"),
        ({"method": 14}, "a/1: encrypted, or compressed in a way"),
        ({"method": 8}, "a/1: "),
        ({"crc": 1}, "a/1: the stored checksum does not match"),
        ({"size": 31}, "a/1: the zip gives two sizes"),
        ({"size": 2**31}, "a/1 unpacks to 2147483648 bytes, more than"),
        ({"packed": 2**31, "size": 64}, "a/1: the zip gives two sizes"),
        ({"offset": 7}, "a/1: no member at its offset"),
        ({"offset": 2**31}, "cannot be read as a zip|a/1: no member at its offset"),
    ],
)
def test_zip_directory_that_lies(tmp_path, fields, match):
    path = zipped(tmp_path)
    patched(path, "a/1", **fields)
    with pytest.raises(DamagedStoreError, match=match), closing(StoredArrays(path)) as opened:
        opened.read("a")


def test_deflated_bomb_that_lies_about_its_size(tmp_path, monkeypatch):
    """A gigabyte that says it is 32 bytes is not unpacked to find out."""
    path = zipped(tmp_path, v2({"a/0": chunk(0), "a/1": bytes(2**26)}), zipfile.ZIP_DEFLATED)
    patched(path, "a/1", size=32)
    import tracemalloc

    with closing(StoredArrays(path)) as opened:
        tracemalloc.start()
        with pytest.raises(DamagedStoreError, match="a/1: the zip gives two sizes"):
            opened.read("a")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2**22


def test_a_name_stored_twice(tmp_path):
    path = zipped(tmp_path)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as z:
        z.writestr("a/1", chunk(0))
    with pytest.raises(DamagedStoreError, match="stores a name twice"):
        StoredArrays(path)


def test_too_many_members(tmp_path, monkeypatch):
    monkeypatch.setattr(members_room, "MAX_MEMBERS", 3)
    with pytest.raises(LimitError, match="lists 4 members, more than 3"):
        StoredArrays(zipped(tmp_path))


def test_names_that_would_leave_the_store(tmp_path):
    """They are listed nowhere and nothing is unpacked to disk."""
    evil = {f"{n}/.zarray": b"{}" for n in ("../b", "/b", "a/../../b", "..", "c\\..\\d")}
    path = zipped(tmp_path, v2() | evil)
    with closing(StoredArrays(path)) as opened:
        assert [k for k in opened.children("") if k not in ("a", "..", "c\\..\\d", "b")] == []
        np.testing.assert_array_equal(opened.read("a"), VALUES)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["s.zarr.zip"]


def test_file_that_changes_while_open(tmp_path):
    path = zipped(tmp_path)
    with closing(StoredArrays(path)) as opened:
        path.write_bytes(b"")
        with pytest.raises(DamagedStoreError, match="did the file change while open"):
            opened.read("a")


def test_without_pread_the_file_is_read_all_the_same(tmp_path, monkeypatch):
    """Windows has no os.pread."""
    monkeypatch.delattr(os, "pread", raising=False)
    with closing(StoredArrays(zipped(tmp_path))) as opened:
        np.testing.assert_array_equal(opened.read("a"), VALUES)


def test_member_with_a_long_local_header(tmp_path):
    """The local header's extra field may be longer than a first read guesses."""
    path = tmp_path / "s.zarr.zip"
    with zipfile.ZipFile(path, "w") as z:
        for name, content in v2().items():
            info = zipfile.ZipInfo(name)
            info.extra = struct.pack("<HH", 0xCAFE, 500) + bytes(500)
            z.writestr(info, content)
    with closing(StoredArrays(path)) as opened:
        np.testing.assert_array_equal(opened.read("a"), VALUES)


# -- folder ------------------------------------------------------------------------------------------


def folder_of(tmp_path, members=None):
    for opened in store_of(tmp_path, members or v2()):
        return opened.path


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
def test_links_out_of_the_folder_are_not_followed(tmp_path):
    path = folder_of(tmp_path)
    secret = tmp_path / "secret"
    secret.write_bytes(chunk(1))
    (path / "a" / "1").unlink()
    (path / "a" / "1").symlink_to(secret)
    with (
        closing(StoredArrays(path)) as opened,
        pytest.raises(DamagedStoreError, match="a/1 is a link that leads"),
    ):
        opened.read("a")


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
def test_a_store_that_is_itself_reached_by_a_link(tmp_path):
    link = tmp_path / "link.zar"
    link.symlink_to(folder_of(tmp_path))
    with closing(StoredArrays(link)) as opened:
        np.testing.assert_array_equal(opened.read("a"), VALUES)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_named_pipe_does_not_wait(tmp_path):
    path = folder_of(tmp_path)
    (path / "a" / "1").unlink()
    os.mkfifo(path / "a" / "1")
    with (
        closing(StoredArrays(path)) as opened,
        pytest.raises(DamagedStoreError, match="not an ordinary file"),
    ):
        opened.read("a")


def test_folder_in_place_of_a_chunk(tmp_path):
    path = folder_of(tmp_path)
    (path / "a" / "1").unlink()
    (path / "a" / "1").mkdir()
    with closing(StoredArrays(path)) as opened, pytest.raises(DamagedStoreError, match="a/1"):
        opened.read("a")


def test_folder_that_cannot_be_listed(tmp_path):
    path = folder_of(tmp_path)
    with closing(StoredArrays(path)) as opened, pytest.raises(DamagedStoreError, match="x cannot be listed"):
        opened.children("x")


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path):
    path = folder_of(tmp_path)
    (path / "a" / "1").chmod(0)
    with (
        closing(StoredArrays(path)) as opened,
        pytest.raises(DamagedStoreError, match="Check its permissions"),
    ):
        opened.read("a")


def test_metadata_of_many_light_curves_is_parsed_once(tmp_path):
    arrays_room._parse_v2.cache_clear()
    path = zipped(tmp_path, v2() | {f"{i}/.zarray": v2()["a/.zarray"] for i in range(50)})
    with closing(StoredArrays(path)) as opened:
        layouts = {id(opened.layout(str(i))) for i in range(50)}
    assert len(layouts) == 1
