"""Check a whole store before it is published or believed, and the checksums that travel beside it."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm import tqdm

from agn_helpers.arrays import MAX_BYTES, Layout, StoredArrays
from agn_helpers.catalog import check_catalog
from agn_helpers.columns import BANDS, MISSING_MAGNITUDE
from agn_helpers.errors import StoreNotFoundError, TrainingSetError
from agn_helpers.files import AnyPath, Place, checksums, manifest_beside, write_checksums
from agn_helpers.members import open_members
from agn_helpers.packed import PackedArrays
from agn_helpers.store import CATALOG, LIGHT_CURVES, TrainingSet, open_training_set

__all__ = ["Finding", "Report", "validate_store", "write_manifest"]

DOCUMENTS = (".zarray", ".zgroup", ".zattrs", "zarr.json")
LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")  # as sha256sum writes it
Level = Literal["ok", "warning", "error"]


class Finding(NamedTuple):
    """What one check found."""

    check: str
    level: Level
    text: str


class Report(list[Finding]):
    """What `validate_store` found, in the order in which it looked. Prints as a list, one finding a line."""

    @property
    def ok(self) -> bool:
        """Whether the store can be used: nothing found is an error. Read the warnings all the same."""
        return all(finding.level != "error" for finding in self)

    def frame(self) -> pd.DataFrame:
        """Return the findings as a table with the columns ``check``, ``level`` and ``text``."""
        return pd.DataFrame(self, columns=list(Finding._fields))

    def __str__(self) -> str:
        return "\n".join(f"{f.level:8}{f.check:14}{f.text}" for f in self)

    def note(self, check: str, problems: Iterable[tuple[Level, str]], fine: str) -> None:
        """Add each problem, or, where there is none, what was found to be fine."""
        found = [Finding(check, level, text) for level, text in problems]
        self.extend(found or [Finding(check, "ok", fine)])


def validate_store(location: AnyPath, *, max_bytes: int = MAX_BYTES, progress: bool | None = None) -> Report:
    """Read every byte of a store and say all that is wrong with it. Nothing is changed.

    Use it before you publish a store, and after you received one. For reading you do not need it:
    `open_training_set` refuses damage where it meets it. This looks everywhere, and also at what is no
    damage but still a mistake: light curves that the catalogue does not know, lengths that differ from
    ``lcN``, measurements without a time, derived columns that contradict their definition.

    Parameters
    ----------
    location : str or path
        A ``.zarr.zip`` or a folder.
    max_bytes : int
        As in `open_training_set`.
    progress : bool, optional
        Show a progress bar; None shows one where someone watches.

    Returns
    -------
    Report
        A list of findings with ``.ok``; print it, or look at its ``.frame()``.

    Raises
    ------
    StoreNotFoundError
        If nothing is at `location`. Everything else is a finding.

    Examples
    --------
    >>> from agn_helpers.sample import sample_store
    >>> report = validate_store(sample_store())
    >>> report.ok
    True
    >>> [f.text for f in report if f.check == "light curves"]
    ['500 light curves, every chunk decoded, every length as in lcN']
    """
    path, report = Path(os.path.abspath(os.path.expanduser(location))), Report()
    try:
        with open_training_set(path, max_bytes=max_bytes) as training_set:
            arrays = training_set._arrays
            stored = arrays.stored if isinstance(arrays, PackedArrays) else arrays
            structure = _structure(stored, packed=stored is not arrays)
            report.note("structure", structure, f"Zarr format {arrays.format}")
            lengths, faults = _light_curves(training_set, progress)
            report.note("catalogue", _catalogue(training_set), "every chunk decoded, every column defined")
            report.note("ids", _ids(training_set, lengths), "catalogue and light curves name the same")
            fine = f"{len(lengths):,} light curves, every chunk decoded, every length as in lcN"
            report.note("light curves", faults, fine)
    except StoreNotFoundError:
        raise
    except TrainingSetError as e:
        report.note("structure", [("error", str(e))], "")
    report.note("manifest", *_manifest(path))
    return report


def _few(what: Iterable[object], n: int = 3) -> str:
    things = [repr(str(w)[:80]) if isinstance(w, str) else str(w) for w in what]
    return ", ".join(things[:n]) + (f" and {len(things) - n:,} more" if len(things) > n else "")


# -- structure ------------------------------------------------------------------------------------


def _structure(arrays: StoredArrays, packed: bool) -> Iterator[tuple[Level, str]]:
    """Look at every name in the store, and at every document of metadata."""
    foreign, outside, layouts = [], [], {}
    for name in arrays.members.names():
        parts = name.split("/")
        path, rest = parts[:-1], parts[-1]
        depth = 1 if parts[0] == CATALOG else 2
        if packed and (parts[0] == CATALOG or parts[1:2] == ["columns"]):
            depth += 1
        if name.startswith("/") or ".." in parts or re.search(r"[\\:\x00-\x1f]", name):
            outside.append(name)
        elif name.endswith("/"):
            continue  # a zip may list its folders
        elif rest in DOCUMENTS and (not path or (path[0] in (CATALOG, LIGHT_CURVES) and len(path) <= depth)):
            try:
                arrays.attrs("/".join(path)) if rest in (".zattrs", "zarr.json") else None
            except TrainingSetError as e:
                yield "error", str(e)
        else:
            array = "/".join(parts[:depth])
            if array not in layouts:
                layouts[array] = _layout(arrays, array)
            if not _is_chunk("/".join(parts[depth:]), layouts[array]):
                foreign.append(name)
    if outside:
        yield "error", f"names that lead out of the store: {_few(outside)}"
    if foreign:
        yield "warning", f"{len(foreign):,} members that are no part of a training set: {_few(foreign)}"


def _layout(arrays: StoredArrays, path: str) -> Layout | None:
    try:
        return arrays.layout(path)
    except (KeyError, TrainingSetError):  # reported where the array is read
        return None


def _is_chunk(key: str, layout: Layout | None) -> bool:
    if layout is None or layout.decoders is None:
        return layout is not None  # Zarr knows its own names
    grid = [-(-s // c) for s, c in zip(layout.shape, layout.chunks, strict=True)]
    index = key.split(layout.separator)[len(layout.prefix) :] if grid or layout.prefix else []
    inside = len(index) == len(grid) and all(
        re.fullmatch(r"0|[1-9]\d{0,17}", i) and int(i) < n for i, n in zip(index, grid, strict=False)
    )
    return inside and key == (layout.separator.join([*layout.prefix, *index]) or "0")


# -- content --------------------------------------------------------------------------------------


def _light_curves(
    training_set: TrainingSet, progress: bool | None
) -> tuple[dict[int, int], list[tuple[Level, str]]]:
    """Return the length of each light curve that can be read, and what is wrong with the others."""
    keys = training_set._arrays.children(LIGHT_CURVES)
    ids = training_set.light_curve_ids().tolist()
    lengths, faults = {}, defaultdict[str, list[object]](list)
    if odd := sorted(set(keys) - {str(i) for i in ids}):
        faults["names below sdss_lc are no train_id"] = list(odd)
    disable = None if progress is None else not progress
    for train_id in tqdm(ids, desc="light curves", disable=disable):
        try:
            record = training_set.raw_light_curve(train_id)
        except TrainingSetError as e:
            faults["light curves cannot be read"].append(f"{train_id}: {e}")
            continue
        lengths[train_id] = len(record)
        for fault in _faults(record):
            faults[f"light curves {fault}"].append(train_id)
    return lengths, [("error", f"{len(ids):,} {fault}: {_few(ids)}") for fault, ids in faults.items()]


def _faults(record: npt.NDArray[Any]) -> Iterator[str]:
    """Yield what is wrong with one light curve, each thing once."""
    names = set(record.dtype.names or ())
    for band in BANDS:
        if not names >= {f"mjd_{band}", f"psfmag_{band}", f"psfmagerr_{band}"}:
            yield f"lack time, magnitude or error in {band}"
            continue
        mjd, mag, error = (record[f"{stem}_{band}"] for stem in ("mjd", "psfmag", "psfmagerr"))
        if {mjd.dtype.kind, mag.dtype.kind, error.dtype.kind} - set("iuf"):
            yield f"hold something else than numbers in {band}"
            continue
        if np.isinf(mag).any() or np.isinf(error).any():
            yield f"hold an infinite magnitude or error in {band}"
        measured = ~np.isnan(mag) & (mag != MISSING_MAGNITUDE)
        if not (np.isfinite(mjd) & (mjd != MISSING_MAGNITUDE))[measured].all():
            yield f"have a measurement without a time in {band}"


def _ids(training_set: TrainingSet, lengths: dict[int, int]) -> Iterator[tuple[Level, str]]:
    """Compare keys with the catalogue, and lengths with its column lcN."""
    here = set(training_set.light_curve_ids().tolist())
    catalog = training_set.catalog(["lcN"] if "lcN" in training_set._columns() else [])
    if unknown := sorted(here - set(catalog.index)):
        yield "error", f"{len(unknown):,} light curves of quasars that the catalogue lacks: {_few(unknown)}"
    promised = pd.Series(pd.NA, catalog.index, dtype="Int64")
    if "lcN" in catalog and pd.api.types.is_numeric_dtype(catalog["lcN"]):
        promised = catalog["lcN"].astype("Float64")
    else:
        yield "warning", "the catalogue has no column lcN with the lengths of the light curves"
    absent = promised[~promised.index.isin(here)].fillna(0)
    if len(lost := absent[absent > 0]):
        yield "error", f"{len(lost):,} light curves are absent though lcN promises them: {_few(lost.index)}"
    elif len(absent):
        yield "warning", f"{len(absent):,} quasars have no light curve: {_few(absent.index)}"
    stored = pd.Series(lengths, dtype="Int64").reindex(promised.index)
    wrong = promised.index[(promised != stored).fillna(False).to_numpy(bool)]
    if len(wrong):
        yield "error", f"{len(wrong):,} light curves differ in length from lcN: {_few(wrong)}"


def _catalogue(training_set: TrainingSet) -> Iterator[tuple[Level, str]]:
    """Read it all, ask what its columns mean, and compute the derived ones again."""
    frame = training_set.catalog()
    infinite = [c for c in frame if frame[c].dtype.kind == "f" and np.isinf(frame[c]).any()]
    if infinite:
        yield "error", f"infinite values in {_few(infinite)}"
    status = training_set.column_definitions()["status"]
    for what in ("no definition", "no column"):
        if len(names := status.index[status == what]):
            yield "warning", f"{what} for {_few(names)}"
    try:
        derived = check_catalog(frame)
    except TrainingSetError as e:
        yield "warning", f"derived columns were not checked: {e}"
        return
    for name, row in derived[derived["agree"] < derived["rows"]].iterrows():
        # The published rows contradict their own definition there: a fact to know, not a broken copy.
        level: Level = "warning" if str(name).startswith("psFlux") else "error"
        yield level, f"{name} in {row['rows'] - row['agree']:,} of {row['rows']:,} rows {row['finding']}"


# -- checksums that travel beside the store ---------------------------------------------------------


def write_manifest(location: AnyPath) -> Path:
    """Write the SHA-256 of a store's file, or of each file of a folder, beside the store.

    A zip has a checksum in it, a folder has none: one flipped bit in it may give wrong numbers without any
    error. With a manifest `validate_store` finds every change, and so does ``sha256sum -c`` in the folder
    that holds both. It protects against accidents. Who can change the store on purpose can change the
    manifest too, unless you keep it elsewhere.

    Parameters
    ----------
    location : str or path
        A ``.zarr.zip`` or a folder, finished: nobody writes to it any more.

    Returns
    -------
    pathlib.Path
        The manifest, ``NAME.sha256``. One that was there is replaced.

    Raises
    ------
    StoreNotFoundError
        If nothing is at `location`.
    InvalidValueError
        If a file's name cannot stand in a manifest.
    DamagedStoreError
        If a file of the store cannot be read, or is a link.

    Examples
    --------
    >>> import tempfile
    >>> from agn_helpers.sample import build_sample_store
    >>> with tempfile.TemporaryDirectory() as here:
    ...     store = build_sample_store(Path(here) / "two.zarr.zip", n=2)
    ...     write_manifest(store).read_text()[64:]
    '  two.zarr.zip\\n'
    """
    path = Path(os.path.abspath(os.path.expanduser(location)))
    open_members(path).close()  # says what is wrong where this is no zip
    with Place(manifest_beside(path), overwrite=True) as place:
        write_checksums(place.temporary, checksums(path, path.name))
    return place.target


def _manifest(path: Path) -> tuple[list[tuple[Level, str]], str]:
    manifest = manifest_beside(path)
    if not manifest.exists():
        kind = "a folder has no checksums: one" if path.is_dir() else "one"
        how = f"{kind} finds every changed byte: python -m agn_helpers manifest {path}"
        return [("warning" if path.is_dir() else "ok", f"none beside the store; {how}")], ""
    try:
        lines = manifest.read_text("utf-8").splitlines()
        listed = {m[2].partition("/")[2]: m[1] for m in map(LINE.fullmatch, lines) if m}
        if len(listed) != len(lines) or not lines:
            raise ValueError("it is not a list of SHA-256 sums, each name once")
        # The first part of each name is the store's own, which may have been renamed since.
        found = {name.partition("/")[2]: digest for name, digest in checksums(path, path.name).items()}
    except (OSError, ValueError) as e:  # a TrainingSetError about the store is a ValueError too
        return [("error", f"{manifest.name} cannot be compared: {e}")], ""
    differences = {
        "changed": {n for n in listed.keys() & found.keys() if listed[n] != found[n]},
        "vanished": listed.keys() - found.keys(),
        "came in addition": found.keys() - listed.keys(),
    }
    problems: list[tuple[Level, str]] = [
        ("error", f"{len(names):,} files {what}: {_few(n or path.name for n in sorted(names))}")
        for what, names in differences.items()
        if names
    ]
    return problems, f"{len(listed):,} files as in {manifest.name}"
