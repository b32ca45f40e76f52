"""Writing so that a file or folder is complete or absent, whatever happens meanwhile."""

import contextlib
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

from agn_helpers.errors import StoreNotFoundError, TargetExistsError

if sys.platform != "win32":  # which lets nobody remove a file that is open, and has no such locks
    import fcntl

__all__ = ["replacing"]


@contextlib.contextmanager
def replacing(target: Path, *, folder: bool = False, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary sibling to write to, and put it in place of `target` if the block ends well.

    If the block fails, the sibling is removed and `target` is what it was. If the process is killed, the
    sibling stays, and the next call for the same `target` removes it: its writer held a lock on it, which
    died with the process. Any number of processes may do so at once.

    Parameters
    ----------
    target : pathlib.Path
        What is to be there in the end.
    folder : bool
        Whether the sibling is an empty folder; otherwise it is an empty file.
    overwrite : bool
        Whether a file that stands at `target` is replaced. A folder never is.

    Yields
    ------
    pathlib.Path
        The sibling, ``.NAME.RANDOM.part``.

    Raises
    ------
    StoreNotFoundError
        If there is no folder to write to.
    TargetExistsError
        If something is at `target`, before the block or after it.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as here:
    ...     with replacing(Path(here) / "notes.txt") as temporary:
    ...         _ = temporary.write_text("complete")
    ...     os.listdir(here)
    ['notes.txt']
    """
    if not target.parent.is_dir():
        parent = str(target.parent)
        msg = f"No folder {parent!r} to write to. Make it: Path({parent!r}).mkdir(parents=True)"
        raise StoreNotFoundError(msg)
    if os.path.lexists(target) and not overwrite:
        raise _exists(target)
    _remove_leftovers(target)
    lock, temporary = _create(target, folder)
    try:
        yield temporary
        for path in [p for p in temporary.rglob("*") if p.is_file()] if folder else [temporary]:
            _sync(path)  # else a power cut could leave the name without its content
        _move(temporary, target, overwrite)
    finally:
        _remove(temporary)
        os.close(lock)


def _exists(target: Path) -> TargetExistsError:
    msg = f"There is something at {str(target)!r} already; it was left alone. Choose another name."
    return TargetExistsError(msg)


def _create(target: Path, folder: bool) -> tuple[int, Path]:
    while True:
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
        temporary.mkdir() if folder else temporary.touch(exist_ok=False)
        if sys.platform == "win32":
            return os.open(os.devnull, os.O_RDONLY), temporary
        lock = os.open(temporary, os.O_RDONLY)
        with contextlib.suppress(OSError):  # a file system without locks: leftovers then stay
            fcntl.flock(lock, fcntl.LOCK_EX)
        if temporary.exists():  # nobody took it for a leftover before it was locked
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
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _move(temporary: Path, target: Path, overwrite: bool) -> None:
    try:
        if temporary.is_dir():
            if os.path.lexists(target):  # rename would replace an empty folder
                raise FileExistsError
            temporary.rename(target)
        elif overwrite:
            temporary.replace(target)
        else:
            try:
                target.hardlink_to(temporary)  # unlike a rename it never replaces anything
            except FileExistsError:
                raise
            except OSError:  # a file system without hard links
                if os.path.lexists(target):
                    raise FileExistsError from None
                temporary.replace(target)
    except OSError as e:
        if os.path.lexists(target):
            raise _exists(target) from e
        raise
