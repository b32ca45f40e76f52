"""Writing so that a file or folder is complete or absent, whatever happens meanwhile; and its checksums."""

import contextlib
import hashlib
import os
import re
import shutil
import sys
import uuid
import zipfile
from collections.abc import Iterable
from pathlib import Path

from agn_helpers.errors import DamagedStoreError, InvalidValueError, StoreNotFoundError, TargetExistsError
from agn_helpers.members import FolderMembers

if sys.platform != "win32":  # which lets nobody remove a file that is open, and has no such locks
    import fcntl

__all__ = ["AnyPath", "Place", "checksums", "manifest_beside", "sha256", "write_checksums", "write_zip"]

AnyPath = str | os.PathLike[str]


class Place:
    """A hidden sibling to write to, which takes the name of `target` in one step when it is complete.

    In a ``with`` block: if the block ends well the sibling becomes `target`, if it fails the sibling is
    removed. If the process is killed the sibling stays, and the next `Place` for the same target removes
    it: its maker held a lock on it, which died with the process. Any number of processes may do so at once.

    Parameters
    ----------
    target : str or path
        What is to be there in the end.
    folder : bool
        Whether the sibling is an empty folder; otherwise it is an empty file.
    overwrite : bool
        Whether a file that stands at `target` is replaced. A folder never is.
    manifest : bool
        Whether the checksums of what was written appear beside `target`, right after it.

    Attributes
    ----------
    target : pathlib.Path
        Absolute path.
    temporary : pathlib.Path
        The sibling, ``.NAME.RANDOM.part``.

    Raises
    ------
    StoreNotFoundError
        If there is no folder to write to.
    TargetExistsError
        If something is at `target`, now or when the sibling is to take its name, or the manifest of a
        former target is: it would be beside a store that it does not describe.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as here:
    ...     with Place(f"{here}/notes.txt") as place:
    ...         _ = place.temporary.write_text("complete")
    ...     os.listdir(here)
    ['notes.txt']
    """

    def __init__(
        self, target: AnyPath, *, folder: bool = False, overwrite: bool = False, manifest: bool = False
    ) -> None:
        self.target = Path(os.path.abspath(os.path.expanduser(target)))
        self._overwrite, self._manifest = overwrite and not folder, manifest
        parent = str(self.target.parent)
        if not os.path.isdir(parent):
            msg = f"There is no folder {parent!r} to write to. Make it: Path({parent!r}).mkdir(parents=True)"
            raise StoreNotFoundError(msg)
        self._check_free()
        _remove_leftovers(self.target)
        self._lock, self.temporary = _create(self.target, folder)

    def __enter__(self) -> "Place":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.reveal()
        finally:
            self.remove()

    def reveal(self) -> Path:
        """Put all on disk, then give it its name: the one step that shows everything at once."""
        with contextlib.ExitStack() as stack:
            if self._manifest:  # complete before the store has its name; it gets its own right after
                manifest = stack.enter_context(Place(manifest_beside(self.target)))
                write_checksums(manifest.temporary, checksums(self.temporary, self.target.name))
            for path in [*self.temporary.rglob("*"), self.temporary]:
                _sync(path)  # else a power cut could leave the name without its content
            self._check_free()  # a rename would replace an empty folder
            try:
                if self.temporary.is_dir():
                    self.temporary.rename(self.target)
                elif self._overwrite:
                    self.temporary.replace(self.target)
                else:
                    self._link()
            except OSError:
                self._check_free()
                raise
            _sync(self.target.parent)
        return self.target

    def _link(self) -> None:
        try:
            self.target.hardlink_to(self.temporary)  # unlike a rename it never replaces anything
        except OSError:
            if os.path.lexists(self.target):
                raise
            self.temporary.replace(self.target)  # a file system without hard links

    def remove(self) -> None:
        """Remove the sibling and let go of its lock. Calling it twice does no harm."""
        _remove(self.temporary)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _check_free(self) -> None:
        if self._overwrite:
            return
        if os.path.lexists(self.target):
            msg = f"There is something at {str(self.target)!r} already; it was left alone."
            raise TargetExistsError(f"{msg} Choose another name.")
        if os.path.lexists(manifest := manifest_beside(self.target)):
            msg = f"There is the manifest of a former store at {str(manifest)!r}; it was left alone."
            raise TargetExistsError(f"{msg} Move it away, or choose another name.")


def write_zip(target: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write names and contents, uncompressed: the same members give the same bytes, on every system."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name)  # dated 1980-01-01
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, content)


def manifest_beside(path: Path) -> Path:
    """Return where the manifest of the store at `path` stands."""
    return path.with_name(f"{path.name}.sha256")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(path: Path, name: str) -> dict[str, str]:
    """Return the SHA-256 of a file, or of every file of a folder, by its name below what is called `name`."""
    if not path.is_dir():
        return {name: sha256(path)}
    members, sums = FolderMembers(path), {}
    for member in sorted(members.names()):
        try:
            with members.open(member) as file:
                sums[f"{name}/{member}"] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as e:
            raise DamagedStoreError(f"{path}: {member} cannot be read ({e.strerror}).") from e
    return sums


def write_checksums(target: Path, sums: dict[str, str]) -> None:
    """Write a manifest as ``sha256sum`` does."""
    if odd := [name for name in sums if re.search(r"[\\\x00-\x1f]", name)]:
        raise InvalidValueError(f"The name {odd[0]!r} cannot stand in a manifest. Rename the file.")
    text = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
    target.write_text(text, encoding="utf-8", newline="\n")


def _create(target: Path, folder: bool) -> tuple[int | None, Path]:
    while True:
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
        temporary.mkdir() if folder else temporary.touch(exist_ok=False)
        if sys.platform == "win32":
            return None, temporary
        with contextlib.suppress(FileNotFoundError):  # somebody took it for a leftover: once more
            lock = os.open(temporary, os.O_RDONLY)
            with contextlib.suppress(OSError):  # a file system without locks: leftovers then stay
                fcntl.flock(lock, fcntl.LOCK_EX)
            if temporary.exists():
                return lock, temporary
            os.close(lock)


def _remove_leftovers(target: Path) -> None:
    # startswith and not glob: a name may hold characters that glob would interpret.
    for path in target.parent.iterdir():
        if not (path.name.startswith(f".{target.name}.") and path.suffix == ".part"):
            continue
        if sys.platform == "win32":
            _remove(path)
            continue
        with contextlib.suppress(OSError):  # locked: its writer lives; vanished: it has ended
            lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(path)
            finally:
                os.close(lock)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):  # gone already, or on Windows still open elsewhere
            path.unlink()


def _sync(path: Path) -> None:
    with contextlib.suppress(PermissionError, IsADirectoryError):  # Windows opens no folders
        # Windows puts a file on disk only through a handle that may write to it.
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
