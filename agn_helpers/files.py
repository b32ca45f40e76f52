"""Writing so that a file or folder is complete or absent, whatever happens meanwhile."""

import contextlib
import os
import shutil
import sys
import uuid
from pathlib import Path

from agn_helpers.errors import StoreNotFoundError, TargetExistsError

if sys.platform != "win32":  # which lets nobody remove a file that is open, and has no such locks
    import fcntl

__all__ = ["Place"]


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
        If something is at `target`, now or when the sibling is to take its name.

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
        self, target: "str | os.PathLike[str]", *, folder: bool = False, overwrite: bool = False
    ) -> None:
        self.target = Path(os.path.abspath(os.path.expanduser(target)))
        self._overwrite = overwrite and not folder
        parent = str(self.target.parent)
        if not os.path.isdir(parent):
            msg = f"There is no folder {parent!r} to write to. Make it: Path({parent!r}).mkdir(parents=True)"
            raise StoreNotFoundError(msg)
        if os.path.lexists(self.target) and not self._overwrite:
            raise self._exists()
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
        for path in [*self.temporary.rglob("*"), self.temporary]:
            _sync(path)  # else a power cut could leave the name without its content
        try:
            if self.temporary.is_dir():
                if os.path.lexists(self.target):  # a rename would replace an empty folder
                    raise self._exists()
                self.temporary.rename(self.target)
            elif self._overwrite:
                self.temporary.replace(self.target)
            else:
                self._link()
        except OSError as e:
            if not self._overwrite and os.path.lexists(self.target):
                raise self._exists() from e
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

    def _exists(self) -> TargetExistsError:
        msg = f"There is something at {str(self.target)!r} already; it was left alone. Choose another name."
        return TargetExistsError(msg)


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
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
