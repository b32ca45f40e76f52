"""One function for every light curve: in threads, in processes, or on a Dask cluster.

The answer never depends on who computes it. Each worker opens the store once, works on a batch of light
curves at a time, and only a few batches wait at once, so that memory does not grow with the store.
"""

import functools
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm import tqdm

from agn_helpers.errors import InvalidValueError, LightCurveFailedError, WorkerLostError, need
from agn_helpers.store import TrainingSet

__all__ = ["map_light_curves"]

LARGEST_BATCH = 64
"""Light curves per task: enough to make sending it cheap, few enough to keep progress smooth."""


class Outcome(NamedTuple):
    """What one light curve gave: a value, or the error."""

    value: Any
    error: Exception | None


Outcomes = Generator[list[Outcome], None, None]


class Task:
    """The function and the training set. It is sent to each worker once, and keeps the store open there."""

    def __init__(
        self, function: Callable[[pd.DataFrame], Any], training_set: TrainingSet, stop_at_error: bool
    ) -> None:
        self.function, self.training_set, self.stop_at_error = function, training_set, stop_at_error

    def __call__(self, ids: Iterable[int]) -> list[Outcome]:
        outcomes = []
        for train_id in ids:
            try:
                outcomes.append(Outcome(self.function(self.training_set.light_curve(train_id)), None))
            except Exception as e:  # whatever a reader's function may raise
                outcomes.append(Outcome(None, e))
                if self.stop_at_error:
                    break
        return outcomes


def map_light_curves(
    function: Callable[[pd.DataFrame], Any],
    training_set: TrainingSet,
    ids: Iterable[int] | None = None,
    workers: int | None = None,
    executor: Literal["threads", "processes", "dask"] = "threads",
    progress: bool = True,
    errors: Literal["raise", "collect"] = "raise",
) -> pd.Series | pd.DataFrame:
    """Call a function on many light curves in parallel and return its answers in the order of the ids.

    Use it for a feature of every quasar. Threads start at once, but share one Python interpreter: they
    help where the function waits or computes long inside NumPy. Processes take a second or two to
    start, then compute side by side. A loop is as good for a few hundred light curves.

    In a script, call it below ``if __name__ == "__main__":`` when you use processes; each process reads
    the script again to know its functions.

    Parameters
    ----------
    function : callable
        Gets one light curve as `TrainingSet.light_curve` returns it. It may be defined in a notebook.
        With processes and clusters it works on copies: changes to variables outside it are lost.
    training_set : TrainingSet
        Where to read.
    ids : iterable of int, optional
        Which ``train_id``, in which order; every light curve in numeric order by default.
    workers : int, optional
        How many work at once; as many as you may use processors by default. With a running Dask client,
        the cluster decides.
    executor : {"threads", "processes", "dask"}
        ``"dask"`` uses the current `distributed.Client` where there is one, else Dask's own threads.
    progress : bool
        Whether to draw a progress bar, where somebody can watch it: in a terminal or a notebook.
    errors : {"raise", "collect"}
        Whether to stop at the first light curve that fails, or to go on and say in the column ``error``
        what happened; it is missing where all went well.

    Returns
    -------
    pandas.Series or pandas.DataFrame
        Indexed by ``train_id``. Where the function returns dictionaries (or Series), a frame with one column
        per key, else a Series; always a frame with ``errors="collect"``. None becomes a missing value, and
        integers stay integers beside missing ones.

    Raises
    ------
    LightCurveFailedError
        If the function, or reading, fails. It carries the first failing ``train_id`` in the order of `ids`,
        and the original error as its cause.
    WorkerLostError
        If a worker process ended without an answer.
    UnknownTrainIdError
        If one of `ids` has no light curve. Nothing is computed then.
    InvalidValueError
        If another argument makes no sense, or the function cannot be sent to another process.

    Examples
    --------
    >>> from agn_helpers import open_training_set
    >>> def brightest(light_curve):
    ...     return {"rows": len(light_curve), "brightest": light_curve["mag"].min()}
    >>> with open_training_set() as training_set:
    ...     table = map_light_curves(brightest, training_set, ids=[3, 0], progress=False)
    >>> table["rows"].tolist(), table.index.tolist()
    ([345, 300], [3, 0])
    """
    runs = {"threads": _by_threads, "processes": _by_processes, "dask": _by_dask}
    if executor not in runs or errors not in ("raise", "collect"):
        msg = f"executor={executor!r} with errors={errors!r} is not known. The executor is 'threads',"
        raise InvalidValueError(f"{msg} 'processes' or 'dask', errors are 'raise' or 'collect'.")
    if workers is not None and workers < 1:
        raise InvalidValueError(f"workers={workers} can do nothing. Leave it out for one per processor.")
    wanted = _checked_ids(training_set, ids)
    n = workers or _processors()
    size = max(1, min(LARGEST_BATCH, -(-len(wanted) // (4 * n))))
    batches = (wanted[i : i + size] for i in range(0, len(wanted), size))
    task = Task(function, training_set, errors == "raise")
    values: list[Any] = []
    failures: list[str | None] = []
    name = getattr(function, "__name__", None)
    watched = progress and (sys.stderr.isatty() or "ipykernel" in sys.modules)
    try:
        # A notebook shows the error stream in red, so the bar goes to the other one there.
        out = sys.stderr if sys.stderr.isatty() else sys.stdout
        with (
            tqdm(total=len(wanted), desc=name, unit="lc", disable=not watched, file=out) as bar,
            closing(runs[executor](task, batches, n)) as results,
        ):
            for outcomes in results:
                for value, error in outcomes:
                    if error is not None and errors == "raise":
                        raise _failed(wanted[len(values)], name, error) from error
                    values.append(value)
                    failures.append(None if error is None else f"{type(error).__name__}: {error}")
                bar.update(len(outcomes))
    except BrokenProcessPool as e:
        msg = (
            f"A worker ended without an answer, on train_id {wanted[len(values)]} or one of the next. It may "
            "have run out of memory, the function may end Python, or a script lacks "
            "`if __name__ == '__main__':`. To find out: executor='threads', workers=1"
        )
        raise WorkerLostError(msg) from e
    index = pd.Index(wanted, dtype=np.int64, name="train_id")
    return _table(values, failures if errors == "collect" else None, index, name)


def _processors() -> int:
    """Return how many processors this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _checked_ids(training_set: TrainingSet, ids: Iterable[int] | None) -> list[int]:
    known = training_set.light_curve_ids()
    if ids is None:
        return list(known.tolist())
    wanted = pd.array(list(ids))
    if len(wanted) and not pd.api.types.is_integer_dtype(wanted.dtype):
        msg = f"ids are {wanted.dtype} (the first is {wanted[0]!r}), not integers. For all: leave ids out."
        raise InvalidValueError(msg)
    numbers: npt.NDArray[np.int64] = wanted.to_numpy(dtype=np.int64)
    for unknown in numbers[~np.isin(numbers, known)]:
        training_set.raw_light_curve(int(unknown))  # it knows how to say which ids are near
    return list(numbers.tolist())


def _failed(train_id: int, name: str | None, error: Exception) -> LightCurveFailedError:
    failure = LightCurveFailedError(
        f"{name or 'The function'} failed on train_id {train_id}: {type(error).__name__}: {error}. Try it "
        f"alone: {name or 'function'}(ts.light_curve({train_id})), or go on without it: errors='collect'"
    )
    failure.train_id = train_id
    return failure


def _table(
    values: list[Any], failures: list[str | None] | None, index: pd.Index, name: str | None
) -> pd.Series | pd.DataFrame:
    rows = [v for v in values if v is not None]
    if rows and all(isinstance(v, Mapping | pd.Series) for v in rows):
        names = dict.fromkeys(k for row in rows for k in row.keys())  # noqa: SIM118  (a Series iterates values)
        columns = {k: _column([None if v is None else v.get(k) for v in values]) for k in names}
        frame = pd.DataFrame(columns, index=index)
    elif failures is None:
        return pd.Series(_column(values), index=index, name=name)
    else:
        frame = pd.DataFrame({name or "value": _column(values)}, index=index)
    if failures is not None:
        frame["error"] = pd.array(failures, dtype="string")
    return frame


def _column(values: list[Any]) -> Any:
    """Return values as pandas would hold them, but integers beside missing ones exact to the last digit."""
    if pd.api.types.infer_dtype(values, skipna=True) == "integer" and any(v is None for v in values):
        return pd.array(values, dtype="Int64")
    if any(np.ndim(v) for v in values if not isinstance(v, str)):
        column = np.empty(len(values), dtype=object)  # arrays and frames stay what they are, one per row
        column[:] = values
        return column
    return values


# -- who computes ---------------------------------------------------------------------------------
# Each takes the task and the batches and yields, in their order, one list of outcomes per batch.


def in_order(submit: Callable[[Any], Any], batches: Iterator[Any], ahead: int) -> Iterator[Any]:
    """Keep at most `ahead` batches under way and yield their results in order."""
    waiting: deque[Any] = deque()
    try:
        for batch in batches:
            waiting.append(submit(batch))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _by_threads(task: Task, batches: Iterator[list[int]], workers: int) -> Outcomes:
    stop = threading.Event()

    def run(batch: list[int]) -> list[Outcome]:
        return task(itertools.takewhile(lambda _: not stop.is_set(), batch))

    with ThreadPoolExecutor(workers) as pool:
        try:
            yield from in_order(lambda batch: pool.submit(run, batch), batches, 2 * workers)
        finally:
            stop.set()  # a thread cannot be ended from outside: it leaves after its current light curve


# In a worker process only: its own task with its own open store, the sign that it should leave, and
# whether it is in the reader's function, where alone it may be interrupted.
_task: Task | None = None
_stop: Any = None
_busy = False


def _context() -> Any:
    # A copy (fork) of a process with threads can hang, and Zarr and Jupyter have threads.
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imported once, not once per worker
    return context


def _start_worker(packed: bytes, stop: Any) -> None:
    import cloudpickle

    global _task, _stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends the workers
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _task, _stop = cloudpickle.loads(packed), stop


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)  # a notebook's kernel that is restarted is killed, so it cannot end its workers


def _leave(*_: object) -> None:
    if _stop is None or not _stop.value:
        os._exit(1)
    if _busy:  # elsewhere it is about to leave, and may hold a lock or be sending an answer
        raise SystemExit


def _work(ids: list[int]) -> bytes:
    global _busy
    assert _task is not None  # noqa: S101  (for the type checker: the initializer ran)
    try:
        _busy = True
        outcomes = _task(itertools.takewhile(lambda _: not _stop.value, ids))
    finally:
        _busy = False
    return _pack(outcomes)


def _work_on(task: Task, ids: list[int]) -> bytes:
    return _pack(task(ids))


def _pack(outcomes: list[Outcome]) -> bytes:
    """Return outcomes as bytes; what cannot travel becomes an error that can."""
    import cloudpickle

    for _, error in outcomes:
        if error is not None:
            error.add_note("In the worker:\n" + "".join(traceback.format_exception(error)))
    try:
        packed: bytes = cloudpickle.dumps(outcomes)
        if any(error for _, error in outcomes):
            cloudpickle.loads(packed)  # some errors can be packed but not unpacked
        return packed
    except Exception:  # each class has its own way to refuse
        return cloudpickle.dumps([_able_to_travel(o) for o in outcomes])  # type: ignore[no-any-return]


def _able_to_travel(outcome: Outcome) -> Outcome:
    import cloudpickle

    try:
        cloudpickle.loads(cloudpickle.dumps(outcome))
        return outcome
    except Exception as e:
        if outcome.error is None:
            return Outcome(None, TypeError(f"the answer cannot be sent back from a worker: {e}"))
        return Outcome(None, RuntimeError(f"{type(outcome.error).__name__}: {outcome.error}"))


def _packed(task: Task) -> bytes:
    cloudpickle = need("cloudpickle", "parallel", InvalidValueError)
    try:
        return bytes(cloudpickle.dumps(task))
    except Exception as e:
        msg = f"The function cannot be sent to another process: {e}. Open files and make locks inside"
        raise InvalidValueError(f"{msg} the function, or use executor='threads'.") from e


def _by_processes(task: Task, batches: Iterator[list[int]], workers: int) -> Outcomes:
    cloudpickle = need("cloudpickle", "parallel", InvalidValueError)
    context = _context()
    stop = context.RawValue("b", 0)
    pool = ProcessPoolExecutor(workers, context, _start_worker, (_packed(task), stop))
    finished = False
    try:
        for packed in in_order(lambda batch: pool.submit(_work, batch), batches, 2 * workers):
            yield cloudpickle.loads(packed)
        finished = True
    finally:
        stop.value = 1
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=finished, cancel_futures=True)
        _wait_or_end(processes)


def _wait_or_end(processes: list[Any]) -> None:
    """Let each worker finish its light curve; one that takes long is interrupted, then killed."""
    for patience, harder in ((1, "terminate"), (5, "kill")):
        until = time.monotonic() + patience
        for process in processes:
            process.join(max(0, until - time.monotonic()))
            if process.is_alive():
                getattr(process, harder)()
    for process in processes:
        process.join()


def _by_dask(task: Task, batches: Iterator[list[int]], workers: int) -> Outcomes:
    dask = need("dask", "parallel", InvalidValueError)
    cloudpickle = need("cloudpickle", "parallel", InvalidValueError)
    client = _current_client()
    if client is None:
        run = dask.delayed(task.__call__, pure=False, traverse=False)
        while window := list(itertools.islice(batches, 2 * workers)):
            yield from dask.compute(*map(run, window), scheduler="threads", num_workers=workers)
        return
    from distributed import KilledWorker

    _packed(task)  # a clear error here instead of a long one from the scheduler
    there = client.scatter(task, broadcast=True, hash=False)  # each worker opens the store once
    ahead = 2 * max(1, sum(client.ncores().values()))
    try:
        submit = functools.partial(client.submit, _work_on, there, pure=False)
        for packed in in_order(submit, batches, ahead):
            yield cloudpickle.loads(packed)
    except KilledWorker as e:  # a cluster gave a task up because its workers died
        raise BrokenProcessPool(str(e)) from e


def _current_client() -> Any:
    """Return the running Dask client, None where nobody started one."""
    distributed = sys.modules.get("distributed")  # whoever has a client has imported it
    try:
        return distributed and distributed.Client.current()
    except ValueError:
        return None
