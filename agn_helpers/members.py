"""Where a store's bytes come from: the members of one zip, the files of one folder, or objects on a server.

Each member is read whole, never more of it than the caller allows, and nothing is ever written.
"""

import contextlib
import os
import stat
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from io import BufferedReader
from pathlib import Path
from typing import Any, Protocol

import zarr
from zarr.abc.store import Store

from agn_helpers.errors import (
    ClosedError,
    DamagedStoreError,
    InvalidValueError,
    LimitError,
    StoreNotFoundError,
    TrainingSetError,
)

__all__ = ["FolderMembers", "Members", "ObjectMembers", "ZipMembers", "open_members"]

MAX_MEMBERS = 2**22
"""Most members that a zip may list (the real set has 49 thousand)."""

REQUESTS = 16
"""Objects that are fetched at a time from object storage."""

Buffer = bytes | memoryview


class Members(Protocol):
    """A store's bytes by name. Names are relative to the store, with '/' between their parts."""

    def read(self, name: str, limit: int) -> Buffer | None:
        """Return the bytes of one member, None where there is none."""

    def children(self, group: str) -> list[str]:
        """Return the names directly below `group` that may be arrays or groups."""

    def names(self, below: str = "") -> Iterable[str]:
        """Return the name of every member, of whatever kind, or only of those below a group or array."""

    def zarr_store(self) -> Store:
        """Return a read-only Zarr store over the same bytes."""

    def close(self) -> None:
        """Let go of the file."""


def open_members(path: Path | str) -> Members:
    """Return the members of the zip or folder at `path`, or below an address such as ``s3://bucket/a.zarr``."""
    if isinstance(path, str):
        return ObjectMembers(path)
    try:
        if path.is_dir():
            return FolderMembers(path)
        if path.is_file():
            return ZipMembers(path)
    except PermissionError as e:
        msg = f"{path} cannot be read ({e.strerror}). Check its permissions: ls -l {path}"
        raise DamagedStoreError(msg) from e
    msg = (
        f"There is nothing at {str(path)!r}. Check the path, or call open_training_set() without "
        "one for the sample store."
    )
    raise StoreNotFoundError(msg)


class ZipMembers:
    """Members of one zip, each verified against the checksum that the zip stores for it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb", buffering=0)
        self._lock = threading.Lock()
        try:
            self._zip = zipfile.ZipFile(path)
            self._infos = self._zip.NameToInfo
            listed = len(self._zip.filelist)
            if listed > MAX_MEMBERS:
                raise LimitError(f"{path} lists {listed} members, more than {MAX_MEMBERS}: not read.")
            if len(self._infos) != listed:
                msg = f"{path} stores a name twice, so what it holds is ambiguous. Ask for a clean copy."
                raise DamagedStoreError(msg)
        except Exception as e:  # zipfile answers a hostile directory with errors of many kinds
            self.close()
            if isinstance(e, TrainingSetError):
                raise
            msg = (
                f"{path} cannot be read as a zip: {e}. It is empty, a broken download, or a writer "
                f"never closed it. Fetch it again and compare sizes: ls -l {path}"
            )
            raise DamagedStoreError(msg) from e

    def _at(self, offset: int, n: int) -> bytes:
        try:
            if hasattr(os, "pread"):  # no shared file position, so threads need no lock
                return os.pread(self._file.fileno(), n, offset)
            with self._lock:
                self._file.seek(offset)
                return self._file.read(n)
        except ValueError as e:  # by another thread
            raise ClosedError(f"{self.path} was closed while it was read. Open it again.") from e

    def read(self, name: str, limit: int) -> Buffer | None:
        info = self._infos.get(name)
        if info is None:
            return None
        if info.file_size > limit:
            raise LimitError(f"{self.path}: {name} unpacks to {info.file_size} bytes, more than {limit}.")
        deflated = info.compress_type == zipfile.ZIP_DEFLATED
        if info.flag_bits & 1 or not (deflated or info.compress_type == zipfile.ZIP_STORED):
            raise self._damaged(name, "encrypted, or compressed in a way that is not read here")
        # Deflate makes nothing larger, but for a few bytes of its own.
        least, most = (0, info.file_size * 1.001 + 64) if deflated else (info.file_size, info.file_size)
        if not least <= info.compress_size <= most:
            raise self._damaged(name, "the zip gives two sizes that do not fit each other")
        # One read usually fetches the local header, whose length varies, and the data behind it.
        try:
            block = self._at(info.header_offset, 30 + len(name) + info.compress_size + 64)
            if len(block) < 30 or block[:4] != b"PK\3\4":
                raise self._damaged(name, "no member at its offset; did the file change while open?")
            start = 30 + sum(struct.unpack_from("<HH", block, 26))
            if start + info.compress_size > len(block):
                block = self._at(info.header_offset, start + info.compress_size)
            part: Buffer = memoryview(block)[start : start + info.compress_size]
            if deflated:  # not by zipfile, whose file position forked processes would share
                part = zlib.decompressobj(-zlib.MAX_WBITS).decompress(part, info.file_size + 1)
        except (OSError, OverflowError, zlib.error) as e:  # an offset that no file has, a disk that fails
            raise self._damaged(name, str(e)) from e
        if len(part) != info.file_size or zlib.crc32(part) != info.CRC:
            raise self._damaged(name, "the stored checksum does not match")
        return part

    def _damaged(self, name: str, why: str) -> DamagedStoreError:
        return DamagedStoreError(f"{self.path}: {name}: {why}. Fetch the file again.")

    def children(self, group: str) -> list[str]:
        prefix = f"{group}/" if group else ""
        found = set()
        for name in self._infos:
            if name.startswith(prefix):
                child, _, rest = name[len(prefix) :].partition("/")
                if rest in (".zarray", ".zgroup", "zarr.json"):
                    found.add(child)
        return list(found - {""})

    def names(self, below: str = "") -> list[str]:
        prefix = f"{below}/" if below else ""
        return [name for name in self._infos if name.startswith(prefix)]

    def top_folders(self) -> set[str]:
        """Return the folders at the top, to recognise a zip of the folder instead of its contents."""
        return {name.split("/", 1)[0] for name in self._infos if "/" in name}

    def zarr_store(self) -> Store:
        return zarr.storage.ZipStore(self.path, mode="r")

    def close(self) -> None:
        self._file.close()
        if hasattr(self, "_zip"):
            self._zip.close()


class FolderMembers:
    """Members of a store that is a folder: one file each, and no checksum."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._real = os.path.realpath(path)

    def open(self, name: str) -> BufferedReader:
        """Open a file of any size that is neither a link nor a pipe."""
        full = os.path.join(self._real, *name.split("/"))
        if os.path.realpath(full) != full:
            msg = f"{self.path}: {name} is a link that leads elsewhere; it is not followed."
            raise DamagedStoreError(msg)
        # Without O_NONBLOCK, opening a named pipe would wait for its writer for ever.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        file = open(os.open(full, flags), "rb")  # noqa: SIM115  # the caller closes it
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise DamagedStoreError(f"{self.path}: {name} is not an ordinary file.")
        return file

    def read(self, name: str, limit: int) -> Buffer | None:
        try:
            with self.open(name) as f:
                size = os.fstat(f.fileno()).st_size
                if size > limit:
                    raise LimitError(f"{self.path}: {name} holds {size} bytes, more than {limit}.")
                return f.read(size + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as e:
            msg = f"{self.path}: {name} cannot be read ({e.strerror}). Check its permissions."
            raise DamagedStoreError(msg) from e

    def children(self, group: str) -> list[str]:
        try:
            with os.scandir(os.path.join(self._real, group)) as entries:
                return [e.name for e in entries if e.is_dir() and not e.name.startswith(".")]
        except OSError as e:
            msg = f"{self.path}: {group} cannot be listed ({e.strerror}). Check its permissions."
            raise DamagedStoreError(msg) from e

    def names(self, below: str = "") -> Iterator[str]:
        for top, folders, files in os.walk(os.path.join(self._real, below)):
            links = [f for f in folders if os.path.islink(os.path.join(top, f))]
            for name in files + links:
                yield os.path.relpath(os.path.join(top, name), self._real).replace(os.sep, "/")

    def zarr_store(self) -> Store:
        return zarr.storage.LocalStore(self.path, read_only=True)

    def close(self) -> None:
        pass


class ObjectMembers:
    """Members of a store on object storage, one object each, by way of obstore.

    Credentials and endpoint are found as that library finds them, for S3 in ``AWS_ACCESS_KEY_ID``,
    ``AWS_SECRET_ACCESS_KEY``, ``AWS_REGION``, ``AWS_ENDPOINT_URL``; for public data set
    ``AWS_SKIP_SIGNATURE=true``.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._ahead: dict[str, Buffer | None] = {}
        if path.endswith(".zip"):
            msg = f"{path} is a zip on object storage; only folders are read there. Download it first."
            raise InvalidValueError(msg)
        try:
            import obstore.store
        except ImportError as e:
            raise InvalidValueError(f"Reading {path} needs one more package: pip install obstore") from e
        quick: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=20)}
        try:
            self._store = obstore.store.from_url(path, retry_config=quick)
        except Exception as e:  # an unknown scheme, half a credential
            raise InvalidValueError(f"{path} is not an address that can be read: {e}") from e

    def read(self, name: str, limit: int) -> Buffer | None:
        with contextlib.suppress(KeyError):  # not asked ahead, or another thread was first
            return self._ahead.pop(name)
        try:
            got = self._store.get(name)
            if got.meta["size"] > limit:
                msg = f"{self.path}: {name} holds {got.meta['size']} bytes, more than {limit}."
                raise LimitError(msg)
            return bytes(got.bytes())
        except FileNotFoundError:
            return None
        except TrainingSetError:
            raise
        except Exception as e:  # one of obstore's many, with the server's words
            raise self._unreachable(name, e) from e

    def read_ahead(self, names: list[str], limit: int) -> None:
        """Fetch several members at once, to be read next: a request costs more time than its bytes."""
        with ThreadPoolExecutor(REQUESTS) as pool:
            self._ahead = dict(zip(names, pool.map(lambda name: self.read(name, limit), names), strict=True))

    def children(self, group: str) -> list[str]:
        try:
            listed = self._store.list_with_delimiter(f"{group}/" if group else None)
        except Exception as e:
            raise self._unreachable(group, e) from e
        return [prefix.rsplit("/", 1)[-1] for prefix in listed["common_prefixes"]]

    def names(self, below: str = "") -> Iterator[str]:
        for part in self._store.list(f"{below}/" if below else None):
            yield from (entry["path"] for entry in part)

    def _unreachable(self, name: str, e: Exception) -> DamagedStoreError:
        first = (str(e).strip() or type(e).__name__).splitlines()[0]
        msg = f"{self.path}: {name} cannot be read: {first[:300]} Check address, network and credentials."
        return DamagedStoreError(msg)

    def zarr_store(self) -> Store:
        return zarr.storage.ObjectStore(self._store, read_only=True)

    def close(self) -> None:
        self._ahead.clear()
