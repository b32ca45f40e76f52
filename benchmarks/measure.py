"""Measure one task with one reader, in a process of its own, and print a JSON line.

    python benchmarks/measure.py READER TASK FOLDER [WARM]

`benchmarks/run.py` starts it. It needs only what the reader itself needs, because some readers run in an
environment of their own. The stores in FOLDER are those that `run.py` makes; those in WARM are tiny, the
task is done there first, so that no import is measured.
"""

import functools
import json
import pathlib
import sys
import time

import numpy as np

BAND = ("mjd_g", "psfmag_g", "psfmagerr_g")
MAX_BYTES = 2**28  # the catalogue of the largest store needs more than is allowed by default
FEW = 501  # light curves that one is measured with


class Reader:
    """A library's own way to read; a task that it cannot do is absent."""

    stored = "original.zarr.zip"
    sample = None  # how many light curves a task on all of them is measured with; None for all

    def __init__(self, folder):
        self.folder = folder
        self.keys = json.loads((folder / "keys.json").read_text())
        self.shuffled = np.random.default_rng(1).permutation(self.keys).tolist()
        self.some, self.many = self.shuffled[:FEW], self.shuffled[-500:]

    def some_of_them(self, read):
        """Time for one light curve of many at random, each let go before the next; the first is left out."""
        read(self.some[0])

        def loop():
            for key in self.some[1:]:
                read(key)

        return timed(loop) / (len(self.some) - 1)

    @staticmethod
    def tidy(table, ids, lengths):
        """The long form of one band: missing as NaN, in time order within each light curve."""
        import pandas as pd

        frame = pd.DataFrame({n: np.asarray(table[n], dtype="f8") for n in BAND})
        frame = frame.mask(frame == -99.0)
        frame.insert(0, "train_id", np.repeat(ids, lengths))
        return frame.sort_values(["train_id", "mjd_g"], kind="stable", ignore_index=True)


class Helper(Reader):
    """agn_helpers on the original layout, one zip."""

    def opened(self):
        import agn_helpers

        return agn_helpers.open_training_set(self.folder / self.stored, max_bytes=MAX_BYTES)

    def open(self):
        return timed(self.opened)

    def ids(self):
        return timed(self.opened().light_curve_ids)

    def tree(self):
        training_set = self.opened()
        return timed(lambda: repr(training_set.tree(level=1)))

    def catalog(self):
        return timed(self.opened().catalog)

    def one(self):
        training_set = self.opened()
        return self.some_of_them(lambda key: training_set.raw_light_curve(int(key)))

    def one_frame(self):
        training_set = self.opened()
        return self.some_of_them(lambda key: training_set.light_curve(int(key)))

    def some_frames(self):
        training_set = self.opened()
        return timed(lambda: training_set.light_curves([int(k) for k in self.many]))

    def records(self):
        """Everything in one record array."""
        training_set = self.opened()

        def read():
            found = [training_set._find(int(k)) for k in self.keys]
            return training_set._arrays.read_rows([f[0] for f in found], [f[1] for f in found])

        return timed(read)

    def everything(self):
        return timed(self.opened().light_curves)

    def band(self):
        training_set = self.opened()
        return timed(lambda: training_set.light_curves(bands=["g"], columns=["mjd", "mag", "magerr"]))

    def feature(self):
        training_set = self.opened()

        def compute():
            frame = training_set.light_curves(bands=["g"], columns=["mag"])
            return frame.groupby("train_id")["mag"].std()

        return timed(compute)


class Packed(Helper):
    """agn_helpers on a packed copy, one zip."""

    stored = "packed.zarr.zip"
    records = None

    def columns(self):
        training_set = self.opened()

        def read():
            _, pieces = training_set._arrays.pieces(training_set.light_curve_ids())
            return [[table[n] for n in BAND] for _, _, table in pieces]

        return timed(read)


class Zarr3(Reader):
    """Plain Zarr-Python 3, as its documentation says."""

    sample = 2500  # all take minutes

    def opened(self):
        import zarr

        store = zarr.storage.ZipStore(self.folder / self.stored, mode="r")
        return zarr.open_group(store, mode="r")

    def open(self):
        return timed(self.opened)

    def ids(self):
        root = self.opened()
        return timed(lambda: list(root["sdss_lc"].array_keys()))

    def tree(self):
        root = self.opened()
        return timed(lambda: str(root.tree(level=1)))

    def catalog(self):
        import pandas as pd

        root = self.opened()
        return timed(lambda: pd.DataFrame(root["catalog"][:]))

    def one(self):
        group = self.opened()["sdss_lc"]
        return self.some_of_them(lambda key: group[key][:])

    def one_frame(self):
        import pandas as pd

        root = self.opened()
        return self.some_of_them(lambda key: pd.DataFrame(root[f"sdss_lc/{key}"][:]))

    def some_frames(self):
        return self.frames(self.many)

    def everything(self):
        return self.of_a_sample(self.frames)

    def frames(self, keys):
        """A loop, one concat, then five bands side by side turned into rows: what a careful reader writes."""
        import pandas as pd

        group = self.opened()["sdss_lc"]

        def long():
            wide = pd.concat([pd.DataFrame(group[k][:]).assign(train_id=int(k)) for k in keys])
            shared = [c for c in wide if c[-2:-1] != "_" or c[-1] not in "ugriz"]
            bands = []
            for band in "ugriz":
                part = wide[shared + [c for c in wide if c.endswith(f"_{band}")]]
                bands.append(
                    part.rename(columns={c: c[:-2] for c in part if c not in shared}).assign(band=band)
                )
            return pd.concat(bands, ignore_index=True).sort_values(["train_id", "band", "mjd"])

        return timed(long)

    def records(self):
        group = self.opened()["sdss_lc"]
        return self.of_a_sample(lambda keys: timed(lambda: np.concatenate([group[k][:] for k in keys])))

    def band(self):
        group = self.opened()["sdss_lc"]

        def read(keys):
            parts = [group[k][:] for k in keys]
            table = {n: np.concatenate([p[n] for p in parts]) for n in BAND}
            return self.tidy(table, [int(k) for k in keys], [len(p) for p in parts])

        return self.of_a_sample(lambda keys: timed(lambda: read(keys)))

    def of_a_sample(self, measured):
        """Time for all light curves, from at most `sample` of them: it grows with their number."""
        keys = self.shuffled[: self.sample]
        return measured(keys) * (len(self.keys) / len(keys))


class Zarr2(Zarr3):
    """Zarr-Python 2.18, the generation that wrote the original."""

    sample = 25_000  # more do not fit in memory

    def opened(self):
        import zarr

        return zarr.open(str(self.folder / self.stored), mode="r")


class PackedZarr3(Reader):
    """Plain Zarr-Python 3 on the packed copy."""

    stored = "packed.zarr.zip"

    def opened(self):
        import zarr

        return zarr.open_group(zarr.storage.ZipStore(self.folder / self.stored, mode="r"), mode="r")

    def open(self):
        return timed(self.opened)

    def columns(self):
        group = self.opened()["sdss_lc/columns"]
        return timed(lambda: [group[n][:] for n in BAND])

    def band(self):
        group = self.opened()["sdss_lc"]

        def read():
            table = {n: group[f"columns/{n}"][:] for n in BAND}
            return self.tidy(table, group["train_id"][:], np.diff(group["offset"][:]))

        return timed(read)


class Parquet(Reader):
    """The same rows as one Parquet file, read with pyarrow."""

    stored = "epochs.parquet"

    @property
    def path(self):
        return self.folder / self.stored

    def open(self):
        import pyarrow.parquet

        return timed(lambda: pyarrow.parquet.ParquetFile(self.path))

    def columns(self):
        import pyarrow.parquet

        def read():
            table = pyarrow.parquet.read_table(self.path, columns=list(BAND))
            return [table[n].to_numpy() for n in BAND]

        return timed(read)

    def band(self):
        import pyarrow.parquet

        def read():
            table = pyarrow.parquet.read_table(self.path, columns=["train_id", *BAND])
            return self.tidy({n: table[n].to_numpy() for n in BAND}, table["train_id"].to_numpy(), 1)

        return timed(read)

    def one(self):
        import pyarrow.parquet

        def read(key):
            return pyarrow.parquet.read_table(self.path, filters=[("train_id", "==", int(key))])

        return self.some_of_them(read)

    def records(self):
        import pyarrow.parquet

        return timed(lambda: pyarrow.parquet.read_table(self.path))


class HDF5(Reader):
    """The same rows as one HDF5 file, a data set per column (gzip 4, shuffle), read with h5py."""

    stored = "epochs.h5"

    def opened(self):
        import h5py

        return h5py.File(self.folder / self.stored)

    def open(self):
        return timed(self.opened)

    def columns(self):
        file = self.opened()
        return timed(lambda: [file[n][:] for n in BAND])

    def band(self):
        file = self.opened()
        return timed(lambda: self.tidy({n: file[n][:] for n in BAND}, file["train_id"][:], 1))

    def one(self):
        file = self.opened()
        ids = file["train_id"][:]
        names = [n for n in file if n != "train_id"]

        def read(key):
            start, stop = np.searchsorted(ids, [int(key), int(key) + 1])
            return {n: file[n][start:stop] for n in names}

        return self.some_of_them(read)

    def records(self):
        file = self.opened()
        return timed(lambda: {n: file[n][:] for n in file})


class TensorStore(Reader):
    """TensorStore on the packed copy, as a folder."""

    stored = "packed.zarr"

    def columns(self):
        import tensorstore

        def read(name):
            path = str(self.folder / self.stored / "sdss_lc" / "columns" / name)
            spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}
            return tensorstore.open(spec).result().read()

        return timed(lambda: [r.result() for r in [read(n) for n in BAND]])


class Floor(Reader):
    """What no reader can go below: the zip's directory, and the codec alone on chunks in memory."""

    def open(self):
        import zipfile

        return timed(lambda: zipfile.ZipFile(self.folder / self.stored))

    def records(self):
        """Decode every chunk, nothing else."""
        import zipfile

        import numcodecs

        blosc = numcodecs.Blosc()
        with zipfile.ZipFile(self.folder / self.stored) as z:
            chunks = [z.read(f"sdss_lc/{k}/0") for k in self.keys]
        return timed(lambda: [None for c in chunks if blosc.decode(c) is None])

    def everything(self):
        """Copy as many bytes as the records have, into memory that is already there."""
        table = np.ones(json.loads((self.folder / "about.json").read_text())["bytes"], "u1")
        out = np.zeros_like(table)
        return timed(functools.partial(np.copyto, out, table))


READERS = {
    "helper": Helper,
    "helper, packed": Packed,
    "zarr 3": Zarr3,
    "zarr 2": Zarr2,
    "zarr 3, packed": PackedZarr3,
    "parquet": Parquet,
    "hdf5": HDF5,
    "tensorstore, packed": TensorStore,
    "floor": Floor,
}
TASKS = (
    "open",
    "ids",
    "tree",
    "catalog",
    "one",
    "one_frame",
    "some_frames",
    "records",
    "everything",
    "columns",
    "band",
    "feature",
)


def bring_to_memory(path):
    """Read all that is stored once, so that no reader waits for the disk."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as f:
                while f.read(2**20):
                    pass


def timed(work):
    """Seconds and seconds of processor time of `work`; what it returns is kept until the clocks are read."""
    start = np.array([time.perf_counter(), time.process_time()])
    result = work()
    seconds = np.array([time.perf_counter(), time.process_time()]) - start
    if type(result).__name__ == "DataFrame":
        timed.result_bytes = int(result.memory_usage().sum())
    return seconds


def peak():
    """Largest resident memory so far, in bytes."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main():
    reader, task, folder, *warm = sys.argv[1:]
    for tiny in warm:
        getattr(READERS[reader](pathlib.Path(tiny)), task)()
    measured = READERS[reader](pathlib.Path(folder))
    bring_to_memory(measured.folder / measured.stored)
    before = peak()
    seconds, cpu_seconds = getattr(measured, task)()
    result = {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak": peak(), "before": before}
    print(json.dumps(result | {"result_bytes": getattr(timed, "result_bytes", None)}))


if __name__ == "__main__":
    main()
