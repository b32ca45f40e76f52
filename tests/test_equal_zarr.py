"""The short road gives Zarr's answer: arrays of every kind, written by Zarr, read by both roads."""

import pathlib
import tempfile
import warnings
import zipfile
from contextlib import closing

import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec

from agn_helpers.arrays import StoredArrays
from agn_helpers.errors import DamagedStoreError

NUMBERS = ["b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16"]
RECORD = [("run", "<i8"), ("psfmag_g", "<f8"), ("name", "<U4"), ("flag", "|u1")]
OTHERS = ["S5", "U3", "M8[ns]", "m8[s]", RECORD, [("a", ">f4"), ("b", "|S3"), ("c", "<c8")]]
COMPRESSORS = [
    None,
    numcodecs.Blosc("lz4", 5, 1),
    numcodecs.Blosc("zstd", 1, 0),
    numcodecs.Blosc("blosclz", 9, 2, 128),
    numcodecs.Zstd(3, checksum=True),
    numcodecs.LZ4(),
    numcodecs.Zlib(1),
    numcodecs.GZip(6),
    numcodecs.BZ2(1),
    numcodecs.LZMA(preset=1),
    numcodecs.LZMA(format=2, preset=0),  # FORMAT_ALONE
    numcodecs.LZMA(format=3, check=-1, filters=[{"id": 0x21, "preset": 0}]),  # FORMAT_RAW
]
FILTERS_V3 = [[], [ZstdCodec()], [ZstdCodec(checksum=True)], [GzipCodec()], [Crc32cCodec()]]
BLOSC_V3 = [
    BloscCodec(typesize=8, cname=c, shuffle=s) for c, s in (("lz4", "shuffle"), ("zstd", "noshuffle"))
]


@st.composite
def arrays(draw):
    """Arguments of `zarr.create_array` that Zarr accepts, and the store to write to."""
    v = draw(st.sampled_from([2, 3]))
    kind = draw(st.sampled_from(NUMBERS) | st.sampled_from(OTHERS))
    dtype = np.dtype(kind)
    big = draw(st.booleans())
    if big and v == 2 and isinstance(kind, str):
        dtype = dtype.newbyteorder(">")
    shape = tuple(draw(st.lists(st.integers(0, 7), max_size=3)))
    made = {
        "shape": shape,
        "chunks": tuple(draw(st.integers(1, 8)) for _ in shape),
        "dtype": dtype,
    }
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    data = np.frombuffer(rng.bytes(int(np.prod(shape)) * dtype.itemsize), f"V{dtype.itemsize}")
    if dtype.kind == "f":
        made["data"] = rng.normal(20, 3, shape).astype(dtype)
    elif dtype.kind in "US" or dtype.names:  # any letters would not be text
        values = np.zeros(shape, dtype)
        for name in dtype.names or [None]:
            column = values if name is None else values[name]
            column[...] = rng.integers(0, 99, shape).astype(column.dtype)
        made["data"] = values
    else:
        made["data"] = data.view(dtype).reshape(shape) if dtype.kind != "b" else rng.random(shape) < 0.5
    if draw(st.booleans()) and dtype.kind in "biuf":
        made["data"] = np.where(rng.random(shape) < 0.8, 0, made["data"]).astype(dtype)
        made["fill_value"] = draw(st.sampled_from([0, 1]))
    separator = draw(st.sampled_from("./"))
    if v == 2:
        made["chunk_key_encoding"] = {"name": "v2", "separator": separator}
        made["order"] = draw(st.sampled_from("CF"))
        made["compressors"] = draw(st.sampled_from(COMPRESSORS))
        made["filters"] = draw(filters_v2(dtype))
    else:
        made["chunk_key_encoding"] = {"name": "default", "separator": separator}
        made["serializer"] = BytesCodec(endian="big" if big else "little")
        made["compressors"] = draw(st.sampled_from(FILTERS_V3 + [[b] for b in BLOSC_V3]))
        if draw(st.integers(0, 4)) == 0 and shape:
            made["filters"] = [TransposeCodec(order=tuple(range(len(shape)))[::-1])]
        elif draw(st.integers(0, 4)) == 0 and shape and not dtype.names:
            made["shards"] = tuple(2 * c for c in made["chunks"])
    return v, made, draw(st.sampled_from(["folder", "stored", "deflated"]))


def filters_v2(dtype):
    """Filters that can work on this dtype, alone and in a row."""
    sums = [numcodecs.CRC32(), numcodecs.Adler32(), numcodecs.Fletcher32(), numcodecs.JenkinsLookup3()]
    numeric = [numcodecs.Shuffle(dtype.itemsize)]
    if dtype.kind in "iu":
        numeric.append(numcodecs.Delta(dtype))
    if dtype.kind == "f":
        numeric.append(numcodecs.FixedScaleOffset(offset=20, scale=100, dtype=dtype, astype="i4"))
        numeric.append(numcodecs.Quantize(3, dtype))
        if dtype.itemsize > 2 and dtype.isnative:
            numeric.append(numcodecs.BitRound(10))
            numeric.append(numcodecs.AsType("f8", dtype))
    if dtype.kind == "b":
        numeric = [numcodecs.PackBits()]
    one = st.sampled_from(numeric)
    return st.one_of(st.none(), one.map(lambda f: [f]), st.tuples(one, st.sampled_from(sums)).map(list))


def write(top, v, made, where):
    path = pathlib.Path(top) / ("s.zarr" if where == "folder" else "s.zarr.zip")
    how = zipfile.ZIP_DEFLATED if where == "deflated" else zipfile.ZIP_STORED
    store = (
        zarr.storage.LocalStore(path)
        if where == "folder"
        else zarr.storage.ZipStore(path, mode="w", compression=how)
    )
    made = dict(made)
    data = made.pop("data")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Zarr's about types and codecs without a specification
        zarr.create_group(store, zarr_format=v)
        array = zarr.create_array(
            store, name="a", zarr_format=v, config={"write_empty_chunks": False}, **made
        )
        array[...] = data
    store.close()
    return path


def by_zarr(path):
    store = (
        zarr.storage.LocalStore(path, read_only=True)
        if path.is_dir()
        else zarr.storage.ZipStore(path, mode="r")
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array = zarr.open_array(store, path="a", mode="r")
        out = np.asarray(array[...], array.dtype)  # of 0-d texts Zarr returns a shorter scalar
    store.close()
    return out


def same(ours, theirs):
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    assert ours.tobytes() == theirs.tobytes() if not ours.dtype.hasobject else (ours == theirs).all()


ODD = {"shape": (5,), "chunks": (2,), "dtype": np.dtype("f8"), "data": np.zeros(5), "fill_value": 1.5}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(arrays())
@example((2, ODD | {"data": np.full(5, 1.5)}, "folder"))
@example((3, ODD | {"data": np.full(5, 1.5)}, "stored"))
def test_any_array_reads_as_zarr_reads_it(case):
    v, made, where = case
    with tempfile.TemporaryDirectory() as top:
        path = write(top, v, made, where)
        with closing(StoredArrays(path, missing_chunks="fill")) as arrays:
            same(arrays.read("a"), by_zarr(path))
            layout = arrays.layout("a")
    dtypes = [made["dtype"][n] for n in made["dtype"].names or ()] or [made["dtype"]]
    by_zarr_itself = v == 3 and ("shards" in made or "filters" in made or any(d.kind in "Mm" for d in dtypes))
    assert (layout.decoders is None) == by_zarr_itself


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([2, 3]), st.permutations([n for n, _ in RECORD]), st.integers(1, 4), st.booleans())
def test_some_fields_are_those_of_the_whole(v, order, n_fields, missing):
    values = np.zeros(11, RECORD)
    if not missing:
        values["run"] = np.arange(11)
        values["name"] = "a"
    made = {"shape": (11,), "chunks": (4,), "dtype": values.dtype, "data": values}
    with tempfile.TemporaryDirectory() as top:
        path = write(top, v, made, "stored")
        with closing(StoredArrays(path, missing_chunks="fill")) as arrays:
            some, whole = arrays.read("a", order[:n_fields]), arrays.read("a")
    assert list(some.dtype.names) == order[:n_fields]
    for name in some.dtype.names:
        np.testing.assert_array_equal(some[name], whole[name])


@pytest.mark.parametrize("v", [2, 3])
@pytest.mark.parametrize("where", ["folder", "stored"])
def test_texts_of_any_length(tmp_path, v, where):
    """Variable-length text is Zarr's to read, where Zarr can do it without objects."""
    made = {"shape": (3,), "chunks": (2,), "dtype": str, "data": np.array(["u", "quasar", ""])}
    path = write(tmp_path, v, made, where)
    with closing(StoredArrays(path, missing_chunks="fill")) as arrays:
        if v == 3:
            assert arrays.read("a").tolist() == ["u", "quasar", ""]
        else:
            with pytest.raises(DamagedStoreError, match=r"data type \|O is not one this module reads"):
                arrays.read("a")


def test_every_array_of_the_shared_stores(shared_store):
    """They were written by Zarr-Python 2.18, as the original was."""
    store = zarr.storage.ZipStore(shared_store, mode="r")
    root = zarr.open_group(store, mode="r", use_consolidated=False)
    with closing(StoredArrays(shared_store)) as arrays, closing(store):
        keys = arrays.children("sdss_lc")
        assert len(keys) >= 193
        for path in ["catalog", *(f"sdss_lc/{k}" for k in keys)]:
            same(arrays.read(path), root[path][...])
            assert arrays.layout(path).decoders is not None
