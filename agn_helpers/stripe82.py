"""Real quasars without an account: the public Stripe 82 archive as a store of the 2020 layout.

`fetch_stripe82` downloads the files of MacLeod et al. (2012, ApJ 753, 106) and checks them,
`build_stripe82_store` turns them into a store, and `read_stripe82_fits` reads the published damped random
walks (MacLeod et al. 2010, ApJ 721, 1014).
"""

import contextlib
import gzip
import json
import math
import re
import sys
import tarfile
import time
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import platformdirs
from tqdm import tqdm

from agn_helpers.columns import BANDS, MISSING_INTEGER, MISSING_MAGNITUDE, edition_2020, load_json
from agn_helpers.errors import DamagedStoreError, FetchError, LimitError, StoreNotFoundError, need
from agn_helpers.files import AnyPath, Place, sha256, write_zip
from agn_helpers.sample import (
    CATALOG_CHUNK,
    EXTINCTION,
    blosc_codec,
    catalog_records,
    derived_columns,
    designation,
    store_members,
)

__all__ = ["ARCHIVE", "FILES", "build_stripe82_store", "fetch_stripe82", "read_stripe82_fits"]

ARCHIVE = "http://faculty.washington.edu/ivezic/macleod/qso_dr7/"
"""Where the archive lies; its home page is ``Southern.html`` there."""

CATALOG, LIGHT_CURVES = "DB_QSO_S82.dat", "QSO_S82.tar.gz"
FITS = {b: f"s82drw_{b}.dat" for b in BANDS}

FILES = (CATALOG, LIGHT_CURVES, *FITS.values())
"""The archive's catalogue, its light curves, and the fits to them, band by band."""

MISSING = -99.99  # the archive's mark, in times, magnitudes and errors
_RECORD = "checksums.json"

# The archive's largest light curve has some hundred lines; these only stop what cannot be one.
MAX_FILE, MAX_FILES, MAX_TOTAL = 2**24, 100_000, 2**31

Floats = npt.NDArray[np.float64]


# -- fetching -----------------------------------------------------------------------------------


def fetch_stripe82(
    folder: AnyPath | None = None,
    names: Iterable[str] = FILES,
    *,
    addresses: Sequence[str] = (ARCHIVE,),
    attempts: int = 3,
    pause: float = 2.0,
    timeout: float = 60.0,
    progress: bool | None = None,
) -> dict[str, Path]:
    """Download the archive's files, once, and check them ever after.

    The archive publishes no checksums and speaks plain HTTP, so the SHA-256 of each file is recorded on first
    use, in ``checksums.json`` beside it. A file that is there and unchanged is not fetched again. A download
    that breaks off goes on where it stopped, now or the next time, if the server allows it.

    Parameters
    ----------
    folder : path-like, optional
        Where to keep the files; by default in your cache folder.
    names : iterable of str
        Which of `FILES`.
    addresses : sequence of str
        Folders on the web, tried in this order: put a mirror of yours first or last.
    attempts : int
        Per file and address. A server that answers "no" (status 4xx) is not asked again.
    pause : float
        Seconds before the second attempt, twice as many before the third, and so on.
    timeout : float
        Seconds without any byte after which an attempt has failed.
    progress : bool, optional
        Show a progress bar; None shows one where someone watches.

    Returns
    -------
    dict
        Name to path.

    Raises
    ------
    FetchError
        If no address gives a file, or one that differs from what was recorded.

    Examples
    --------
    >>> fetch_stripe82("stripe82", names=["s82drw_g.dat"])  # doctest: +SKIP
    {'s82drw_g.dat': PosixPath('stripe82/s82drw_g.dat')}
    """
    where = Path(folder) if folder is not None else platformdirs.user_cache_path("agn_helpers") / "stripe82"
    where.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name in names:
        record = _recorded(where)
        known = record.get(name, {}).get("sha256")
        paths[name] = path = where / name
        if path.exists():
            found, origin = sha256(path), record.get(name, {}).get("url")
            if known not in (None, found):
                msg = f"{path} is not what was fetched first: its SHA-256 is {found}, recorded is {known}."
                raise FetchError(f"{msg} Remove it and fetch again: fetch_stripe82({str(where)!r})")
        else:
            part = where / f"{name}.part"
            with _alone(part):
                origin = _from_any(name, part, addresses, attempts, pause, timeout=timeout, progress=progress)
                found = sha256(part)
                if known not in (None, found):
                    part.unlink()
                    msg = f"{origin} gave a file that differs from the one fetched first: its SHA-256 is"
                    msg += f" {found}, recorded is {known}. If the archive was corrected,"
                    raise FetchError(f"{msg} remove {where / _RECORD}")
                part.replace(path)
                _note(part).unlink(missing_ok=True)
        if known is None:
            with Place(where / _RECORD, overwrite=True) as place:
                everything = _recorded(where) | {name: {"sha256": found, "url": origin}}
                place.temporary.write_text(json.dumps(everything, indent=1, sort_keys=True))
    return paths


def _recorded(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / _RECORD).read_text())
        if not all(isinstance(v, dict) for v in record.values()):
            raise ValueError
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError):
        msg = f"{folder / _RECORD} is damaged. Remove it, and the files beside it that you do not trust."
        raise FetchError(msg) from None
    return dict(record)


def _note(part: Path) -> Path:
    """Return the file that says of which version of which address the bytes in `part` are."""
    return part.with_name(f"{part.name}.from")


@contextlib.contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Keep other processes from writing to the same file."""
    with part.open("ab") as file:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                msg = f"Another process is fetching {part.stem}. Wait for it, then call fetch_stripe82 again."
                raise FetchError(msg) from None
        yield


def _from_any(
    name: str, part: Path, addresses: Sequence[str], attempts: int, pause: float, **options: Any
) -> str:
    """Fetch `name` into `part` from the first address that gives it; return its URL."""
    requests = need("requests", "download", FetchError)
    failures = []
    for address in addresses:
        url = f"{address.rstrip('/')}/{name}"
        for attempt in range(attempts):
            time.sleep(pause * 2 ** (attempt - 1) if attempt else 0.0)
            try:
                _transfer(url, part, **options)
                return url
            except requests.HTTPError as e:
                status = e.response.status_code if e.response is not None else 0
                failures.append(f"{url}: status {status}")
                if status == 416:  # asked for bytes after the end: the part is of no use
                    part.write_bytes(b"")
                elif status < 500:
                    break
            except (requests.RequestException, OSError) as e:
                failures.append(f"{url}: {type(e).__name__}")
    msg = f"{name} could not be fetched: {'; '.join(failures) or 'no address given'}."
    raise FetchError(f"{msg} Try again later, or pass a mirror: fetch_stripe82(addresses=[...])")


def _transfer(url: str, part: Path, timeout: float, progress: bool | None) -> None:
    """Fetch `url` into `part`, after the bytes that it holds if the server allows it."""
    import requests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pooch asks tqdm for a notebook's progress bar, which few have
        import pooch
    with part.open("ab") as file, contextlib.ExitStack() as stack:
        held, note = file.tell(), _note(part)
        headers = {"Accept-Encoding": "identity", "User-Agent": "agn_helpers (fetch_stripe82)"}
        version = note.read_text().splitlines() if held and note.exists() else []
        if version[:1] == [url] and len(version) == 2:
            headers |= {"Range": f"bytes={held}-", "If-Range": version[1]}

        def begin(response: requests.Response, *_: Any, **__: Any) -> None:
            if response.status_code == 206:
                if not response.headers.get("Content-Range", "").startswith(f"bytes {held}-"):
                    raise requests.ConnectionError("the server sent other bytes than asked for")
            elif response.status_code == 200:
                file.truncate(0)
                tag = response.headers.get("ETag", "")
                tag = response.headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag
                note.write_text(f"{url}\n{tag}" if tag else "")
            if response.ok and not {"Content-Length", "Transfer-Encoding"} & set(response.headers):
                raise requests.ConnectionError("the server does not say how long the file is")

        hidden = None if progress is None else not progress
        bar: Any = tqdm(desc=part.stem, total=1, unit="B", unit_scale=True, disable=hidden)
        stack.enter_context(bar)
        kwargs: dict[str, Any] = {"headers": headers, "timeout": timeout, "hooks": {"response": begin}}
        pooch.HTTPDownloader(progressbar=bar, chunk_size=2**12, **kwargs)(url, file, None)


# -- reading ------------------------------------------------------------------------------------


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    msg = f"There is no {name} in {str(folder)!r}. Fetch it: fetch_stripe82({str(folder)!r})"
    raise StoreNotFoundError(msg)


def _read_text(path: Path) -> str:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    opened: Any = gzip.open if packed else open
    try:
        with opened(path, "rb") as stream:
            raw = stream.read(MAX_FILE + 1)
    except (EOFError, OSError, zlib.error) as e:
        msg = f"{path} cannot be read: {type(e).__name__}: {e}. Remove it and fetch it again."
        raise DamagedStoreError(msg) from e
    return _decoded(raw, str(path))


def _decoded(raw: bytes, where: str) -> str:
    if len(raw) > MAX_FILE:
        raise LimitError(f"{where} is longer than {MAX_FILE:,} bytes, so it is not what its name says.")
    # Characters that are no text become marks that are no numbers, and the line is named below.
    return raw.decode("ascii", errors="replace")


def _numbers(text: str, width: int, where: str, *, finite: bool = True) -> Floats:
    """Return the numbers of a white-space table of `width` columns; a bad line is named."""
    rows = [(k, line.split()) for k, line in enumerate(text.splitlines(), 1)]
    rows = [(k, row) for k, row in rows if row and not row[0].startswith("#")]
    for k, row in rows:
        try:
            values = [float(word) for word in row]
            fine = len(row) == width and (not finite or all(map(math.isfinite, values)))
        except ValueError:
            fine = False
        if not fine:
            msg = f"{where}, line {k}: expected {width} numbers, found {' '.join(row)[:80]!r}."
            raise DamagedStoreError(f"{msg} Remove the file and fetch it again.")
    return np.array([row for _, row in rows], dtype=np.float64).reshape(-1, width)


def _catalog(path: Path) -> dict[int, dict[str, Any]]:
    """Return the archive's catalogue as rows of the layout, still without ``lcN``, by train_id."""
    rows: dict[int, dict[str, Any]] = {}
    for values in _numbers(_read_text(path), 15, str(path)).tolist():
        train_id, ra, dec, z = int(values[0]), values[1], values[2], values[6]
        if values[0] != train_id or train_id < 0 or train_id in rows:
            msg = f"{path}: dbID {values[0]:g} is no whole number, or stands there twice. Fetch it again."
            raise DamagedStoreError(msg)
        if not (0 <= ra < 360 and -90 <= dec <= 90):
            msg = f"{path}: dbID {train_id} lies at ra {ra}, dec {dec}, which is not on the sky."
            raise DamagedStoreError(msg)
        row: dict[str, Any] = {"train_id": train_id, "ra_sdss": ra, "dec_sdss": dec, "z": z}
        row["sdssj"] = designation(ra, dec)
        # 0.000 stands for a magnitude, or an extinction, that is not known.
        for band, mag, share in zip(BANDS, values[9:14], EXTINCTION.tolist(), strict=True):
            row[f"psfmag_{band}"] = mag or math.nan
            row[f"extinction_{band}"] = round(share * values[14], 6) or math.nan
        rows[train_id] = row | derived_columns(row)
    return rows


def _light_curve(table: Floats, row: dict[str, Any]) -> npt.NDArray[np.void]:
    """Return the record array of one light curve from the 17 columns of its file."""
    table = np.where(table == MISSING, MISSING_MAGNITUDE, table)
    out = np.empty(len(table), dtype=[(n, k) for n, k in edition_2020()["light_curve_fields"]])
    for name in out.dtype.names or ():
        out[name] = MISSING_INTEGER if out.dtype[name].kind == "i" else math.nan
    for i, band in enumerate(BANDS):
        out[f"mjd_{band}"], mag, out[f"psfmagerr_{band}"] = table[:, 3 * i : 3 * i + 3].T
        dered = np.round(mag - row[f"extinction_{band}"], 6)
        missing = (mag == MISSING_MAGNITUDE) | np.isnan(dered)
        out[f"psfmag_{band}"] = mag
        out[f"dered_{band}"] = np.where(missing, MISSING_MAGNITUDE, dered)
    return out


def _members(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield dbID, where it stands, and text of each light curve; nothing is unpacked to disk."""
    total, seen = 0, set[int]()
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                where, total = f"{path}, member {member.name!r}", total + member.size
                parts = member.name.split("/")
                if member.name.startswith("/") or ".." in parts or not (member.isfile() or member.isdir()):
                    raise DamagedStoreError(f"{where} is not a plain file in a folder. Fetch the file again.")
                if member.size > MAX_FILE or total > MAX_TOTAL or len(seen) > MAX_FILES:
                    raise LimitError(f"{where} is too large, or there are too many: this is no such archive.")
                found = re.fullmatch(r"([0-9]{1,15})(\.\w{1,4})?", parts[-1])
                content = archive.extractfile(member) if found else None
                if not found or content is None:
                    continue  # folders, and notes of the authors
                if (train_id := int(found[1])) in seen:
                    raise DamagedStoreError(f"{where}: a second light curve of dbID {train_id}.")
                seen.add(train_id)
                yield train_id, where, _decoded(content.read(), where)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as e:
        msg = f"{path} is damaged or cut off: {type(e).__name__}: {e}. Remove it and fetch it again."
        raise DamagedStoreError(msg) from e


def build_stripe82_store(
    target: AnyPath, folder: AnyPath | None = None, *, progress: bool | None = None, manifest: bool = False
) -> Path:
    """Turn the public archive into one ``.zarr.zip`` of the 2020 layout: 9,258 real quasars.

    The same files give the same bytes. The store is complete or absent; it takes about a minute. Its
    attribute ``source`` says where each file came from and what was done to it.

    Parameters
    ----------
    target : path-like
        File to write; nothing may be there.
    folder : path-like, optional
        Where ``DB_QSO_S82.dat`` (or ``.gz``) and ``QSO_S82.tar.gz`` lie. By default they are fetched to your
        cache folder, see `fetch_stripe82`.
    progress : bool, optional
        Show progress bars; None shows them where someone watches.
    manifest : bool
        Write the SHA-256 checksums beside it too, as `write_manifest` does, in ``NAME.sha256``.

    Returns
    -------
    pathlib.Path
        Absolute path of the store. Quasars without a light curve are in its catalogue, with ``lcN`` 0.

    Raises
    ------
    FetchError
        If a file cannot be fetched.
    StoreNotFoundError
        If `folder` lacks a file.
    TargetExistsError
        If there is something at `target`, or beside it the manifest of a former store.
    DamagedStoreError
        If a file is not what it should be; the message names file and line.

    Examples
    --------
    >>> build_stripe82_store("stripe82.zarr.zip")  # doctest: +SKIP
    """
    hidden = None if progress is None else not progress
    # The place comes first, so that a bad target is told before a long download.
    with Place(target, manifest=manifest) as place:
        if folder is None:
            folder = fetch_stripe82(names=[CATALOG, LIGHT_CURVES], progress=progress)[CATALOG].parent
        files = [_find(Path(folder), CATALOG), _find(Path(folder), LIGHT_CURVES)]
        rows, compressor = _catalog(files[0]), blosc_codec()
        chunks: dict[int, bytes] = {}  # compressed, some 50 MB for all
        lengths, unknown = dict.fromkeys(rows, 0), 0
        with tqdm(total=len(rows), desc="light curves", disable=hidden) as bar:
            for train_id, where, text in _members(files[1]):
                if train_id not in rows:
                    unknown += 1
                    continue
                record = _light_curve(_numbers(text, 17, where), rows[train_id])
                lengths[train_id] = len(record)
                if len(record):
                    chunks[train_id] = compressor.encode(record)
                bar.update()
        recorded = _recorded(Path(folder))
        source = {
            "about": load_json("notes.json")["stripe82"],
            "light_curves_without_a_catalogue_row": unknown,
        }
        for file in files:
            url = recorded.get(file.name, {}).get("url")
            source[file.name] = {"sha256": sha256(file)} | ({"url": url} if url else {})
        records = catalog_records(rows[i] | {"lcN": lengths[i]} for i in sorted(rows))
        parts = (records[i : i + CATALOG_CHUNK] for i in range(0, len(records), CATALOG_CHUNK))
        in_text_order = ((i, lengths[i], chunks.pop(i)) for i in sorted(chunks, key=str))  # as in 2020
        about = {"train_id": "dbID of the public Stripe 82 archive"}
        write_zip(place.temporary, store_members({"source": source}, about, len(rows), parts, in_text_order))
    return place.target


def read_stripe82_fits(folder: AnyPath | None = None, bands: Iterable[str] = BANDS) -> pd.DataFrame:
    """Read the published damped random walks: one row per quasar and band.

    Use them beside fits of your own: they were made from the same light curves.

    Parameters
    ----------
    folder : path-like, optional
        Where ``DB_QSO_S82.dat`` and ``s82drw_*.dat`` (or ``.gz``) lie; by default they are fetched.
    bands : iterable of str
        Which of u, g, r, i, z.

    Returns
    -------
    pandas.DataFrame
        Indexed by ``train_id`` (the archive's dbID) and ``band``. ``tau`` (days, observed frame) with its
        1-sigma limits ``tau_low`` and ``tau_high``; ``sigma_hat`` (mag per square root of a year); ``sf_inf``
        (mag), the structure function at long lags, ``sigma_hat sqrt(tau / 365.25 d)``; ``edge``, True where
        the fit ran into the edge of its grid; ``mean`` (mag); ``n``, how many measurements. NaN where fewer
        than 10 measurements allowed no fit.

    Raises
    ------
    StoreNotFoundError
        If `folder` lacks a file.
    DamagedStoreError
        If a file is not what it should be, or is of other quasars than the catalogue.

    Examples
    --------
    >>> read_stripe82_fits().loc[(70, "g"), ["tau", "sf_inf"]]  # doctest: +SKIP
    """
    wanted = list(bands)
    if folder is None:
        folder = fetch_stripe82(names=[CATALOG, *(FITS[b] for b in wanted)])[CATALOG].parent
    path = _find(Path(folder), CATALOG)
    rows = _catalog(path)
    ids = {(r["ra_sdss"], r["dec_sdss"]): train_id for train_id, r in rows.items()}
    if len(ids) < len(rows):
        raise DamagedStoreError(f"{path}: two quasars stand at one place, so fits cannot be told apart.")
    frames = []
    for band in wanted:
        path = _find(Path(folder), FITS[band])
        table = _numbers(_read_text(path), 19, str(path), finite=False)  # chi2 may be Inf
        # A third of a thousand quasars has no other identifier than its position.
        try:
            train_ids = [ids[ra, dec] for ra, dec in table[:, 1:3].tolist()]
        except KeyError as e:
            msg = f"{path}: no quasar of the catalogue stands at ra, dec = {e}. Fetch both files again."
            raise DamagedStoreError(msg) from None
        fitted = table[:, 7] > -10.0
        power = np.where(fitted[:, None], 10.0 ** table[:, 7:13], np.nan)
        frame = pd.DataFrame({"train_id": train_ids, "band": band, "tau": power[:, 0]})
        frame["tau_low"], frame["tau_high"], frame["sigma_hat"] = power[:, 2], power[:, 3], power[:, 1]
        frame["sf_inf"] = power[:, 1] * np.sqrt(power[:, 0] / 365.25)
        frame["edge"], frame["mean"] = table[:, 13] != 0, np.where(fitted, table[:, 17], np.nan)
        frame["n"] = table[:, 18].astype(np.int64)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True).set_index(["train_id", "band"]).sort_index()
