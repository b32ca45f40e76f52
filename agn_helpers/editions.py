"""The later editions of the training set, behind the same calls and the same frames.

The 2021 edition keeps its catalogue in Parquet and its light curves in Zarr; the AGN Data Challenge of 2021
has two Parquet tables. `open_training_set` looks at the folder and picks the class. Columns get the 2020
edition's names where they mean the same; all others keep theirs.
"""

import functools
import os
import pathlib
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from agn_helpers.arrays import StoredArrays
from agn_helpers.columns import BANDS, check_bands, check_names, definition_table, load_json, missing_mask
from agn_helpers.errors import (
    DamagedIdsWarning,
    DamagedStoreError,
    NotATrainingSetError,
    UnknownTrainIdError,
    need,
)
from agn_helpers.lightcurves import BAND_DTYPE, KEYS
from agn_helpers.store import LIGHT_CURVES, TrainingSet, Tree

__all__ = ["DataChallenge", "Edition2021", "edition_at"]

IDS = ("objid", "specobjid", "gaia_id", "thing_id", "SPIES_ID", "galex_id", "ukidss_id")


def edition_at(location: "str | os.PathLike[str]") -> "type[_Tables] | None":
    """Return the class that opens what is at `location`, None for a store of its own.

    Examples
    --------
    >>> edition_at("qso.zarr.zip") is None
    True
    """
    path = pathlib.Path(location).expanduser()
    for edition in (Edition2021, DataChallenge):
        folder = path.parent if path.name in edition.files else path
        if (folder / edition.files[0]).is_file() and not (folder / ".zgroup").exists():
            return edition
    return None


class _Tables(TrainingSet):
    """A training set whose catalogue is a Parquet table.

    Parameters
    ----------
    location : str or path
        The folder, or one of the files in it.
    **options
        As in `open_training_set`.
    """

    files: tuple[str, ...] = ("",)
    index = "train_id"

    def __init__(self, location: "str | os.PathLike[str]", **options: Any) -> None:
        path = pathlib.Path(os.path.abspath(os.path.expanduser(location)))
        self._folder = path.parent if path.name in self.files else path
        self.location = str(self._folder)
        self._options = options
        self._root = None
        if absent := [name for name in self.files[:2] if not (self._folder / name).is_file()]:
            msg = f"{self.location} holds only part of this edition: {absent[0]} is missing. Put it beside."
            raise NotATrainingSetError(msg)
        schema = self._parquet(self.files[0]).schema_arrow
        # pandas may have kept the index in a column without a name.
        found = [n for n in (self.index, "__index_level_0__") if n in schema.names]
        if not found:
            msg = f"{self._folder / self.files[0]} has no column {self.index!r}. Is it another table?"
            raise NotATrainingSetError(msg)
        self._stored_index = found[0]
        self._renamed: dict[str, str] = load_json("editions.json")[type(self).__name__]
        self._stored = {self._renamed.get(n, n): n for n in schema.names if n != found[0]}
        self._connect()

    def _connect(self) -> None:
        raise NotImplementedError  # each edition has its own

    def _parquet(self, name: str) -> Any:
        parquet = need("pyarrow.parquet", "editions", NotATrainingSetError)
        try:
            return parquet.ParquetFile(self._folder / name)
        except (OSError, ValueError) as e:
            msg = f"{self._folder / name} is no Parquet table: {str(e)[:200]} Fetch it again."
            raise DamagedStoreError(msg) from e

    @property
    def attrs(self) -> dict[str, Any]:
        """What this edition is."""
        return {"edition": (type(self).__doc__ or "").splitlines()[0]}

    def tree(self, level: int = 1) -> Tree:
        """Return an overview, as `TrainingSet.tree` does."""
        lines = [(0, "/"), (1, f"catalog {len(self._stored)} columns of {self.files[0]}")]
        lines.append((1, f"{LIGHT_CURVES} ({len(self.light_curve_ids()):,} light curves) of {self.files[1]}"))
        return Tree(lines[: 1 + 2 * (level > 0)])

    def light_curve(
        self, train_id: int, bands: Iterable[str] | None = None, columns: Iterable[str] | None = None
    ) -> pd.DataFrame:
        """Return one light curve, as `TrainingSet.light_curve` does."""
        return self.light_curves([train_id], bands, columns, progress=False)

    def _columns(self) -> list[str]:
        return ["train_id", *self._stored]

    def _definitions(self) -> dict[str, str]:
        return {}

    def define(self, column: str) -> str:
        """Return what one column means, as `TrainingSet.define` does."""
        check_names([column], self._definitions(), "the definitions", "See ts.column_definitions()")
        return self._definitions()[column]

    def column_definitions(self) -> pd.DataFrame:
        """Return what every column means, as `TrainingSet.column_definitions` does."""
        frame = self.catalog()
        plain = {n: getattr(t, "numpy_dtype", t) for n, t in frame.dtypes.items()}
        dtypes = {n: t if isinstance(t, np.dtype) else np.dtype("U1") for n, t in plain.items()}
        return definition_table(dtypes, self._definitions(), frame.isna().sum().to_dict())

    def catalog(self, columns: Iterable[str] | None = None) -> pd.DataFrame:
        """Return the catalogue, as `TrainingSet.catalog` does; warn of identifiers that were damaged."""
        known, see = self._columns(), "List all: ts.column_definitions()"
        names = known if columns is None else check_names(columns, known, "the catalogue", see)
        names = [n for n in dict.fromkeys(names) if n != "train_id"]
        try:
            table = self._parquet(self.files[0]).read([self._stored_index, *(self._stored[n] for n in names)])
        except (OSError, ValueError) as e:
            msg = f"{self._folder / self.files[0]} cannot be read: {str(e)[:200]} Fetch it again."
            raise DamagedStoreError(msg) from e
        index = _whole(table[self._stored_index])
        if index.isna().any() or index.duplicated().any():
            msg = f"{self.files[0]}: {self._stored_index} is missing in a row, or stands there twice."
            raise DamagedStoreError(msg)
        out = {n: _honest(n, table[self._stored[n]]) for n in names}
        if damaged := [n for n in names if n in IDS and _rounded(n, table[self._stored[n]], out[n])]:
            msg = f"{', '.join(damaged)} of {self.files[0]} went through float64, which rounded the last"
            msg += " digits. Do not match other catalogues by them; match positions instead."
            warnings.warn(msg, DamagedIdsWarning, stacklevel=2)
        return pd.DataFrame(out).set_axis(pd.Index(index.astype(np.int64), name="train_id"))


def _whole(values: Any) -> pd.Series:
    """Return whole numbers, stored as numbers or as text, exact and nullable."""
    import pyarrow as pa

    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        values = values.cast(pa.int64())
    if pa.types.is_floating(values.type):
        numbers = values.to_pandas().to_numpy(np.float64, na_value=np.nan)
        missing = ~(np.abs(numbers) < 2.0**64)
        large = (numbers[~missing] >= 2.0**63).any()
        whole = np.where(missing, 0, numbers).astype(np.uint64 if large else np.int64)
        return pd.Series(pd.arrays.IntegerArray(whole, missing | (numbers == -99)))
    kind = pd.UInt64Dtype() if values.type == pa.uint64() else pd.Int64Dtype()
    out = values.to_pandas(types_mapper={values.type: kind}.get).astype(kind)
    return out.mask(out == -99)


def _honest(name: str, values: Any) -> pd.Series:
    """Return one column with missing values as missing and identifiers as whole numbers."""
    import pyarrow as pa

    if name in IDS or pa.types.is_integer(values.type):
        return _whole(values)
    if pa.types.is_floating(values.type):
        numbers = values.to_pandas().to_numpy(np.float64, na_value=np.nan)
        return pd.Series(np.where(missing_mask(name, numbers), np.nan, numbers))
    return values.to_pandas().reset_index(drop=True)


def _rounded(name: str, stored: Any, whole: pd.Series) -> bool:
    """Return whether identifiers were in a float, or look as if: all of many are exact in one."""
    import pyarrow as pa

    large = [int(v) for v in whole.dropna() if v > 2**53]
    if name == "specobjid":  # its last ten bits are zero, so that a float holds it up to 2**63
        return pa.types.is_floating(stored.type) and any(v >= 2**63 for v in large)
    exact = len(large) >= 20 and all(int(float(v)) == v for v in large)
    return exact or (pa.types.is_floating(stored.type) and bool(large))


class Edition2021(_Tables):
    """The 2021 edition: quasars, variable stars and galaxies in one table, light curves in Zarr.

    It is on SciServer, for members of a group. Its light curves hold magnitudes corrected for extinction,
    ``dered``; ``mag`` is made from them by adding the catalogue's extinction. Not every source has one.
    """

    files = ("AllMasters.parquet", "LCs.zarr.zip", "meta.yaml")

    def _connect(self) -> None:
        options: dict[str, Any] = dict(self._options)
        self._open = StoredArrays(self._folder / self.files[1], **options)

    def _definitions(self) -> dict[str, str]:
        path = self._folder / self.files[2]
        if not path.exists():
            return {}
        import yaml

        try:
            found = yaml.safe_load(path.read_text("utf-8"))
            return {self._renamed.get(str(k), str(k)): str(v) for k, v in found.items()}
        except (yaml.YAMLError, AttributeError, UnicodeDecodeError) as e:
            raise DamagedStoreError(f"{path} holds no definitions: {str(e)[:200]}") from e

    def light_curves(
        self,
        train_ids: Iterable[int] | None = None,
        bands: Iterable[str] | None = None,
        columns: Iterable[str] | None = None,
        progress: bool | None = None,
    ) -> pd.DataFrame:
        """Return many light curves, as `TrainingSet.light_curves` does."""
        wanted = [columns] if isinstance(columns, str) else None if columns is None else list(columns)
        asked = wanted and list(dict.fromkeys("dered" if c == "mag" else c for c in wanted))
        frame = super().light_curves(train_ids, bands, asked, progress)
        if "dered" not in frame or (wanted is not None and "mag" not in wanted):
            return frame
        extinction = self.catalog([f"extinction_{b}" for b in BANDS]).set_axis(list(BANDS), axis=1)
        row = extinction.index.get_indexer(frame["train_id"])
        added = extinction.to_numpy()[row, frame["band"].cat.codes]
        mag = frame["dered"] + np.where(row >= 0, added, np.nan)
        if wanted is not None:
            return frame.assign(mag=mag)[[*KEYS, *(c for c in wanted if c not in KEYS)]]
        frame.insert(4, "mag", mag)
        return frame


class DataChallenge(_Tables):
    """The LSST AGN Data Challenge of 2021: stars, quasars and galaxies, 440,000 objects.

    Public, doi:10.5281/zenodo.6878414. Its light curves are one long table, which does not say which
    measurements were taken together: ``epoch`` counts the rows of an object as stored, so that no two bands
    ever share one. ``psfmag`` is SDSS or DES, whichever its authors preferred.
    """

    files = ("ObjectTable.parquet", "ForcedSourceTable.parquet")
    index = "objectId"

    def _connect(self) -> None:
        self._sources: Any = self._parquet(self.files[1])

    def close(self) -> None:
        """Let go of the files. Calling it twice does no harm."""
        self._sources.close()

    def __repr__(self) -> str:
        return f"<TrainingSet {os.path.basename(self.location)!r}: AGN Data Challenge, read-only>"

    @functools.cached_property
    def _ids(self) -> npt.NDArray[np.int64]:
        found: set[Any] = set()
        for batch in self._sources.iter_batches(columns=["objectId"]):
            found.update(batch["objectId"].unique().to_pylist())
        return np.array(sorted(map(int, found)), dtype=np.int64)

    def light_curve_ids(self) -> npt.NDArray[np.int64]:
        """Return the ``train_id`` (their objectId) of every light curve, in numeric order."""
        return self._ids.copy()

    def raw_light_curve(self, train_id: int) -> npt.NDArray[Any]:
        """Return one light curve as stored: a record array, one row per measurement."""
        return np.asarray(self._rows([train_id]).drop(columns="objectId").to_records(index=False))

    def _rows(self, train_ids: Iterable[int]) -> pd.DataFrame:
        import pyarrow.compute
        import pyarrow.parquet

        ids = [int(i) for i in train_ids]
        for i in ids:
            if i not in self._ids:
                raise UnknownTrainIdError(self._no_such_id(i))
        kind = self._sources.schema_arrow.field("objectId").type
        values = pyarrow.array([str(i) for i in ids]).cast(kind)
        table = pyarrow.parquet.read_table(
            self._folder / self.files[1], filters=pyarrow.compute.field("objectId").isin(values)
        )
        whole = {t: pd.Int64Dtype() for t in (pyarrow.int64(), pyarrow.int32(), pyarrow.uint64())}
        return table.to_pandas(types_mapper=whole.get, ignore_metadata=True)

    def light_curves(
        self,
        train_ids: Iterable[int] | None = None,
        bands: Iterable[str] | None = None,
        columns: Iterable[str] | None = None,
        progress: bool | None = None,
    ) -> pd.DataFrame:
        """Return many light curves, as `TrainingSet.light_curves` does; one pass through the table."""
        ids = self._ids.tolist() if train_ids is None else [int(i) for i in train_ids]
        chosen = check_bands(bands)
        frame = self._rows(ids).rename(columns={"psMag": "mag", "psMagErr": "magerr", "filter": "band"})
        frame["train_id"] = frame.pop("objectId").astype(np.int64)
        frame["epoch"] = frame.groupby("train_id", sort=False).cumcount()
        codes = frame["band"].to_numpy(np.int64)
        frame["band"] = pd.Categorical.from_codes(np.where(codes < len(BANDS), codes, -1), dtype=BAND_DTYPE)
        frame = frame[frame["band"].isin(chosen)]
        place = frame["train_id"].map({i: k for k, i in enumerate(ids)})
        frame = frame.assign(_place=place).sort_values(["_place", "band", "mjd"], kind="stable")
        known = [c for c in ("mjd", "mag", "magerr") if c in frame]
        known += [c for c in frame if c not in (*KEYS, *known, "_place")]
        if columns is not None:
            wanted = check_names(columns, [*KEYS, *known], "a light curve", f"It has {', '.join(known)}.")
            known = [c for c in wanted if c not in KEYS]
        return frame[[*KEYS, *known]].reset_index(drop=True)
