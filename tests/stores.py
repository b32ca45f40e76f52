"""Small training sets for the tests, written by Zarr itself, so that our reader has a judge."""

import pathlib
import shutil
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import zarr

from agn_helpers.catalog import published_record
from agn_helpers.columns import edition_2020

IDS = (0, 3, 4, 10, 66, 100)
LENGTHS = {0: 60, 3: 69, 4: 0, 10: 1, 66: 2, 100: 25}


def catalog_record(ids: Sequence[int] = IDS) -> np.ndarray:
    """The published rows' values under the given ids."""
    record = published_record()[np.arange(len(ids)) % 2].copy()
    record["train_id"] = ids
    record["lcN"] = [LENGTHS.get(i, 5) for i in ids]
    return record


def light_curve_record(train_id: int, n: int | None = None) -> np.ndarray:
    """A light curve with every trap: unsorted, a rejected epoch per band, each band with its own time."""
    edition = edition_2020()
    rng = np.random.default_rng([7, train_id])
    n = LENGTHS.get(train_id, 5) if n is None else n
    record = np.zeros(n, [tuple(f) for f in edition["light_curve_fields"]])
    day = rng.permutation(np.round(rng.uniform(51000, 54400, n), 2))
    for name in record.dtype.names:
        stem = name.split("_")[0]
        low, high = {"mjd": (0, 0.01), "run": (94, 7202), "airmass": (1, 2)}.get(stem, (0.01, 0.3))
        record[name] = rng.uniform(low, high, n)
        if stem == "mjd":
            record[name] += day
        elif stem in ("psfmag", "dered"):
            record[name] += 19
    for i, band in enumerate("ugriz"):
        for stem in ("psfmag", "psfmagerr", "dered"):
            record[f"{stem}_{band}"][i::7] = -99.0
    return record


def write_store(
    folder: pathlib.Path, zarr_format: Literal[2, 3] = 2, ids: Sequence[int] = IDS, **array: Any
) -> pathlib.Path:
    """Write a training set as a folder with plain Zarr."""
    edition = edition_2020()
    with warnings.catch_warnings():
        # Structured types are written in a spelling of format 3 that may still change.
        warnings.simplefilter("ignore", zarr.errors.UnstableSpecificationWarning)
        root = zarr.create_group(folder, zarr_format=zarr_format, attributes=edition["root_attrs"])
        catalog = catalog_record(ids)
        made = root.create_array("catalog", data=catalog, chunks=(4,), **array)
        made.attrs.update(edition["catalog_definitions"])
        group = root.create_group("sdss_lc")
        for i in ids:
            record = light_curve_record(i)
            group.create_array(str(i), data=record, chunks=(max(1, len(record)),), **array)
    return folder


def copy_light_curve(folder: pathlib.Path, record: np.ndarray, ids: Sequence[int]) -> None:
    """Put the same light curve under many ids, as files: Zarr would take milliseconds for each."""
    first = folder / "sdss_lc" / str(ids[0])
    zarr.open_group(folder, mode="a")["sdss_lc"].create_array(first.name, data=record, chunks=record.shape)
    for i in ids[1:]:
        shutil.copytree(first, first.with_name(str(i)))


def zip_store(folder: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """Zip the contents of a folder store, uncompressed."""
    import zipfile

    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as z:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                z.write(path, path.relative_to(folder).as_posix())
    return target


def copy_store(source: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """A copy that a test may damage."""
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)
    return target
