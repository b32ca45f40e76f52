"""What can go wrong, in the reader's words.

Every error of this module is a `TrainingSetError`, so that one ``except`` catches them all, and is also
the builtin error that one would expect (`KeyError` for an unknown id, `FileNotFoundError` for a missing
file), so that code that knows nothing of this module keeps working. Each message says what happened,
shows the value, and ends with what to do next.
"""

import difflib
import importlib
from collections.abc import Iterable
from typing import Any


class TrainingSetError(Exception):
    """Base of every error that this module raises on purpose."""

    def __str__(self) -> str:
        # KeyError shows the repr of its message, quotes and all; readers get the sentence itself.
        return str(self.args[0]) if self.args else ""


class StoreNotFoundError(TrainingSetError, FileNotFoundError):
    """There is nothing at this location."""


class NotATrainingSetError(TrainingSetError, ValueError):
    """Something is there, but it is not a training set: no Zarr store, or one without its two parts."""


class DamagedStoreError(TrainingSetError, ValueError):
    """The store contradicts itself or asks for something unsafe. Nothing was returned."""


class FetchError(TrainingSetError, OSError):
    """A file could not be fetched, or is not the one that was fetched first."""


class DamagedIdsWarning(UserWarning):
    """Identifiers went through a floating-point number, which rounded their last digits."""


class LimitError(DamagedStoreError):
    """The store declares more bytes or pieces than the limit that protects your memory."""


class TargetExistsError(TrainingSetError, FileExistsError):
    """Something is there already; nothing was written over it."""


class ClosedError(TrainingSetError, ValueError):
    """The training set was closed; open it again to go on."""


class UnknownTrainIdError(TrainingSetError, KeyError):
    """No light curve with this ``train_id`` is in the store."""


class UnknownColumnError(TrainingSetError, KeyError):
    """No column with this name is in the table."""


class UnknownBandError(TrainingSetError, ValueError):
    """No such band in this light curve."""


class InvalidValueError(TrainingSetError, ValueError):
    """An argument has a value that the function cannot work with."""


class LightCurveFailedError(TrainingSetError, RuntimeError):
    """A function failed on one light curve; the original error is its cause.

    Attributes
    ----------
    train_id : int or None
        Which light curve.
    """

    train_id: int | None = None


class WorkerLostError(TrainingSetError, RuntimeError):
    """A worker process ended without an answer."""


class UnsafeWriteError(TrainingSetError, ValueError):
    """This write could lose data, so it was refused. What was there before is as it was."""


def near(name: str, known: Iterable[str], n: int = 3) -> str:
    """Return ``" Did you mean 'a', 'b'?"`` with the names nearest to `name`, or an empty string."""
    by_lower: dict[str, str] = {}
    for k in known:
        by_lower.setdefault(k.lower(), k)
    hits = difflib.get_close_matches(name.lower(), by_lower, n=n, cutoff=0.5)
    return f" Did you mean {', '.join(repr(by_lower[h]) for h in hits)}?" if hits else ""


def need(module: str, extra: str, error: type[TrainingSetError]) -> Any:
    """Return a package that few readers need; raise `error` with what to install where it is absent."""
    try:
        return importlib.import_module(module)
    except ImportError as e:
        msg = f"This needs the package {module.partition('.')[0]}, which is not installed. Type:"
        raise error(f"{msg} python -m pip install 'agn-helpers[{extra}]'") from e
