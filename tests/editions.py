"""Small copies of each published edition, with the column names and types of the originals.

2021: RichardsGroup/LSST_training, ``Script_NBs/00_Getting_started.ipynb`` and ``01_Zarr.ipynb``. AGN Data
Challenge: RichardsGroup/AGN_DataChallenge, ``getting_started/01_ReadTables.ipynb`` and
``03_ForcedSourceTable.ipynb``. All values are invented.
"""

import pathlib

import numpy as np
import pandas as pd
import stores
import zarr

BANDS = "ugriz"
FIELDS_2021 = [
    ("run", "<i8"),
    *[(f"{stem}_{b}", "<f8") for stem in ("dered", "psfmagerr", "mjd") for b in BANDS],
    *[(f"{stem}_{b}", "<f8") for stem in ("offsetRa", "offsetDec") for b in "ugiz"],
    *[(f"airmass_{b}", "<f8") for b in BANDS],
]
CLASSES = ("s82Qso", "vStar", "gal")
META = {
    "train_id": "Unique ID in the training set",
    "ra": "RA in degrees (J2000)",
    "psfmag_{band}": "PSF magnitude",
    "class": "Class label",
}


def _numbers(rng, n, names):
    return {name: rng.uniform(0, 2, n) for name in names}


def master_2021(n=60, damaged=True):
    """The master table: every second id has no light curve; ids went through float64, as published."""
    rng = np.random.default_rng(21)
    objid = 8647474692728160000 + rng.integers(10**9, size=n)
    gaia = 4226318531605912577 + 128 * rng.integers(10**9, size=n)
    if damaged:
        objid, gaia = (v.astype(float).astype(np.int64) for v in (objid, gaia))
    mag = {f"psfmag_{b}": rng.uniform(18, 21, n) for b in BANDS}
    extinction = {f"extinction_{b}": rng.uniform(0.1, 0.4, n) for b in BANDS}
    gaia_id = pd.array(gaia, dtype="Int64")
    gaia_id[::5] = pd.NA
    return pd.DataFrame(
        {"train_id": np.arange(n) * 3, "ra": rng.uniform(0, 360, n), "dec": rng.uniform(-1, 1, n)}
        | {
            "z": np.where(np.arange(n) % 3, np.nan, rng.uniform(0, 4, n)),
            "source_z": ["DR6Q_HW", None] * (n // 2),
        }
        | {"specobjid": np.where(np.arange(n) % 4, 1.257728e18, np.nan), "sdss_objid": objid}
        | _numbers(rng, n, [f"psfmagerr_{b}" for b in BANDS])
        | mag
        | extinction
        | {f"dered_{b}": mag[f"psfmag_{b}"] - extinction[f"extinction_{b}"] for b in BANDS}
        | {"type": 6, "run": 206, "gaia_id": gaia_id, "spies_id": pd.array([None] * n, "Int64")}
        | _numbers(rng, n, ["flux_auto_ch1", "src2gaia", "parallax", "psPm[0]", "stdColor[0]", "psFlux[u]"])
        | {"class": [CLASSES[i % 3] for i in range(n)], "s82SDSS": 1, "sdss_lcN": np.arange(n) % 7}
    )


def write_2021(folder: pathlib.Path, **kwargs) -> pathlib.Path:
    """`AllMasters.parquet`, `LCs.zarr.zip` and `meta.yaml` in a folder."""
    folder.mkdir()
    table = master_2021(**kwargs)
    table.to_parquet(folder / "AllMasters.parquet")
    (folder / "meta.yaml").write_text("".join(f"'{k}': '{v}'\n" for k, v in META.items()))
    group = zarr.create_group(folder / "lcs", zarr_format=2).create_group("sdss_lc")
    for k, row in enumerate(table.itertuples(index=False)):
        if k % 2:
            continue
        rng = np.random.default_rng([21, row.train_id])
        n = 3 + k % 5
        record = np.zeros(n, FIELDS_2021)
        day = rng.permutation(np.arange(52000.0, 52000.0 + n))
        for name in record.dtype.names:
            record[name] = rng.uniform(0.01, 0.2, n) + (day if name.startswith("mjd") else 0)
            if name.startswith("dered"):
                record[name] += 19
        record["run"] = 2583
        record["dered_g"][1] = record["psfmagerr_g"][1] = -99.0
        group.create_array(str(row.train_id), data=record, chunks=(n,))
    stores.zip_store(folder / "lcs", folder / "LCs.zarr.zip")
    __import__("shutil").rmtree(folder / "lcs")
    return folder


def objects(n=30):
    rng = np.random.default_rng(22)
    names = [f"{stem}_{b}" for stem in ("psFlux", "psMag", "psMagErr", "extendedness") for b in "ugrizy"]
    names += [f"stdColor_{i}" for i in range(5)] + [f"lcPeriodic[4]_{b}" for b in BANDS] + ["photoZ_pest"]
    table = pd.DataFrame(
        {"ra": rng.uniform(0, 360, n), "dec": rng.uniform(-1, 1, n), "psPm_ra": np.nan, "psParallax": 0.1}
        | _numbers(rng, n, names)
        | {"class": ["Star", "Agn", "Qso", "highZQso", "Gal", None] * (n // 6), "z": 1.5}
        | {"flags_g": pd.array([9007199422513169, None] * (n // 2), "Int64")}
    )
    table.index = pd.Index(1377887 + 7 * np.arange(n), name="objectId")
    return table


def forced_sources(ids, as_text=True):
    rng = np.random.default_rng(23)
    rows = []
    for i in ids:
        for code in range(5):
            m = 2 + (i + code) % 4  # bands do not have the same epochs
            rows.append(
                pd.DataFrame(
                    {"objectId": i, "mjd": rng.uniform(51000, 54400, m), "psMag": rng.uniform(18, 23, m)}
                    | {"psMagErr": 0.1, "flags": 9007199422513169 + np.arange(m), "psFlux": 1584.2}
                    | {"psFluxErr": 759.3, "psDiffFlux": 839.4, "psDiffFluxErr": 1350.9, "filter": code}
                )
            )
    table = pd.concat(rows, ignore_index=True)
    table.loc[3, ["psMag", "psMagErr"]] = np.nan
    return table.astype({"objectId": "int64"}).astype({"objectId": str} if as_text else {})


def write_challenge(folder: pathlib.Path, as_text=True) -> pathlib.Path:
    """`ObjectTable.parquet` and `ForcedSourceTable.parquet`; ids are text in one, numbers in the other."""
    folder.mkdir()
    table = objects()
    table.to_parquet(folder / "ObjectTable.parquet")
    forced_sources(table.index[::3], as_text).to_parquet(folder / "ForcedSourceTable.parquet")
    return folder
