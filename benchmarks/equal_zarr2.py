"""Check that the helper reads what Zarr-Python 2.18 writes, array by array, byte by byte.

    python benchmarks/equal_zarr2.py ENV

ENV is an environment made from ``benchmarks/requirements-zarr2.txt``. There this file writes arrays of many
types, shapes, chunks, codecs, filters and orders with Zarr 2, as a zip and as a folder, and what Zarr 2 reads
back; here the helper reads them too. (The tests do the same with Zarr 3, which needs no other environment.)
"""

import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

RECORD = [("run", "<i8"), ("psfmag_g", "<f8"), ("name", "<U4"), ("flag", "|u1")]
TYPES = ["|b1", "|i1", "<u2", ">i4", "<i8", "<f2", "<f4", ">f8", "<c16", "|S5", "<U3", "<M8[ns]", RECORD]
SHAPES = [((), ()), ((0,), (3,)), ((7,), (7,)), ((7,), (3,)), ((5, 4), (2, 4)), ((3, 4, 5), (2, 3, 2))]


def compressors():
    """Every codec that Zarr 2 offers by default."""
    import numcodecs as nc

    yield from (None, nc.Blosc("lz4", 5, 1), nc.Blosc("zstd", 3, 2), nc.Blosc("zlib", 1, 0), nc.Zstd(1))
    yield from (nc.LZ4(), nc.Zlib(1), nc.GZip(1), nc.BZ2(1), nc.LZMA(preset=0))


def write(folder):
    """In the environment with Zarr 2: write the stores, and each array as Zarr 2 reads it."""
    import numcodecs as nc
    import zarr

    rng = np.random.default_rng(2018)
    for where in ("s.zarr", "s.zarr.zip"):
        zipped = where.endswith(".zip")
        store = (
            zarr.ZipStore(f"{folder}/{where}", mode="w")
            if zipped
            else zarr.DirectoryStore(f"{folder}/{where}")
        )
        root = zarr.group(store)
        number = 0
        for kind in TYPES:
            for shape, chunks in SHAPES:
                for compressor in compressors():
                    dtype = np.dtype(kind)
                    values = np.zeros(shape, dtype)
                    for name in dtype.names or [None]:
                        column = values if name is None else values[name]
                        column[...] = rng.integers(0, 99, shape).astype(column.dtype)
                    filters = [nc.Delta(dtype.str)] if dtype.kind in "iu" and number % 2 else None
                    array = root.create_dataset(
                        str(number),
                        shape=shape,
                        chunks=chunks or None,
                        dtype=dtype,
                        order="CF"[number % 3 == 0],
                        compressor=compressor,
                        filters=filters,
                        dimension_separator="./"[number % 5 == 0],
                    )
                    array[...] = values
                    np.save(f"{folder}/{where}-{number}.npy", np.asarray(array[...], dtype))
                    number += 1
        store.close()


def compare(folder):
    """Here: read them with the helper and return how many there were."""
    from agn_helpers.arrays import StoredArrays

    count = 0
    for where in ("s.zarr", "s.zarr.zip"):
        arrays = StoredArrays(pathlib.Path(folder) / where)
        for name in arrays.children(""):
            ours, theirs = arrays.read(name), np.load(f"{folder}/{where}-{name}.npy")
            if (ours.dtype, ours.shape, ours.tobytes()) != (theirs.dtype, theirs.shape, theirs.tobytes()):
                sys.exit(f"{where}/{name} differs: {arrays.layout(name)}")
            count += 1
        arrays.close()
    return count


def main():
    if sys.argv[1] == "--write":
        write(sys.argv[2])
        return
    python = pathlib.Path(sys.argv[1]) / ("Scripts" if os.name == "nt" else "bin") / "python"
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([python, __file__, "--write", folder], check=True)
        print(f"{compare(folder)} arrays written by Zarr 2.18, all read equal")


if __name__ == "__main__":
    main()
