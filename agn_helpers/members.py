"""Where a store's bytes come from: the members of one zip, or the files of one folder.

Each member is read whole, never more of it than the caller allows, and nothing is ever written.
"""

import os
import stat
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import zarr
from zarr.abc.store import Store

from agn_helpers.errors import DamagedStoreError, LimitError, StoreNotFoundError, TrainingSetError

__all__ = ["FolderMembers", "Members", "ZipMembers", "open_members"]

MAX_MEMBERS = 2**22
"""Most members that a zip may list (the real set has 49 thousand)."""

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


def open_members(path: Path) -> Members:
    """Return the members of the zip or folder at `path`."""
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
        if hasattr(os, "pread"):  # no shared file position, so threads need no lock
            return os.pread(self._file.fileno(), n, offset)
        with self._lock:
            self._file.seek(offset)
            return self._file.read(n)

    def read(self, name: str, limit: int) -> Buffer | None:
        info = self._infos.get(name)
        if info is None:
            return None
        if info.file_size > limit:
            raise LimitError(f"{self.path}: {name} unpacks to {info.file_size} bytes, more than {limit}.")
        if info.compress_type == zipfile.ZIP_DEFLATED:
            try:
                with self._zip.open(info) as f:
                    # Asking for a number of bytes keeps zipfile from unpacking more than it promises.
                    data = f.read(info.file_size + 1)
            except Exception as e:  # encrypted, bad checksum, cut short: in zipfile's own words
                raise self._damaged(name, str(e)) from e
            if len(data) != info.file_size:
                raise self._damaged(name, f"{len(data)} bytes where {info.file_size} are promised")
            return data
        if info.compress_size != info.file_size:
            raise self._damaged(name, "stored as it is, yet with two sizes")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise self._damaged(name, "encrypted, or compressed in a way that is not read here")
        # One read usually fetches the local header, whose length varies, and the data behind it.
        try:
            block = self._at(info.header_offset, 30 + len(name) + info.compress_size + 64)
            if len(block) < 30 or block[:4] != b"PK\3\4":
                raise self._damaged(name, "no member at its offset; did the file change while open?")
            start = 30 + sum(struct.unpack_from("<HH", block, 26))
            if start + info.compress_size > len(block):
                block = self._at(info.header_offset, start + info.compress_size)
        except (OSError, OverflowError) as e:  # an offset that no file has, a disk that fails
            raise self._damaged(name, str(e)) from e
        part = memoryview(block)[start : start + info.compress_size]
        if len(part) != info.file_size or zlib.crc32(part) != info.CRC:
            raise self._damaged(name, "the stored checksum does not match")
        return part

    def _damaged(self, name: str, why: str) -> DamagedStoreError:
        return DamagedStoreError(f"{self.path}: {name}: {why}. Fetch the file again.")

    def children(self, group: str) -> list[str]:
        prefix = f"{group}/" if group else ""
        n, ends = len(prefix), ("/.zarray", "/.zgroup", "/zarr.json")
        found = {
            name[n : name.rindex("/")]
            for name in self._infos
            if name.endswith(ends) and name.startswith(prefix) and name.count("/", n) == 1
        }
        return [f for f in found if f]

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

    def read(self, name: str, limit: int) -> Buffer | None:
        full = os.path.join(self._real, *name.split("/"))
        try:
            if os.path.realpath(full) != full:
                msg = f"{self.path}: {name} is a link that leads elsewhere; it is not followed."
                raise DamagedStoreError(msg)
            # Without O_NONBLOCK, opening a named pipe would wait for its writer for ever.
            with open(os.open(full, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as f:
                status = os.fstat(f.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise DamagedStoreError(f"{self.path}: {name} is not an ordinary file.")
                if status.st_size > limit:
                    msg = f"{self.path}: {name} holds {status.st_size} bytes, more than {limit}."
                    raise LimitError(msg)
                return f.read(status.st_size + 1)
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
