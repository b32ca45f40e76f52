"""map_light_curves: the same answer whoever computes it, and a clear error whatever goes wrong."""

import itertools
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time
import types

import numpy as np
import pandas as pd
import pytest

import agn_helpers as agn
from agn_helpers import parallel

EXECUTORS = ["threads", "processes", "dask"]


def local(source, **names):
    """A function as a notebook has them: no module can import it."""
    module = types.ModuleType("__main__")
    exec(textwrap.dedent(source), module.__dict__ | names, scope := {**names, "__name__": "__main__"})  # noqa: S102
    return scope["function"]


@pytest.fixture
def ts(small_store):
    with agn.open_training_set(small_store) as training_set:
        yield training_set


@pytest.fixture(scope="module")
def cluster():
    """A Dask cluster of two worker processes and its client."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50
        ) as made,
        distributed.Client(made) as client,
    ):
        yield client


def describe(light_curve):
    return {
        "train_id": int(light_curve["train_id"].iloc[0]) if len(light_curve) else None,
        "rows": len(light_curve),
        "brightest": light_curve["mag"].min(),
    }


def serial(ts, ids):
    return pd.DataFrame([describe(ts.light_curve(i)) for i in ids], index=pd.Index(ids, name="train_id"))


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("workers", [1, 3])
def test_equals_a_loop_in_the_order_of_ids(ts, executor, workers):
    ids = [100, 0, 66, 3, 0, 10]
    found = agn.map_light_curves(describe, ts, ids, workers, executor, progress=False)
    pd.testing.assert_frame_equal(found, serial(ts, ids))
    assert found["train_id"].tolist() == ids


@pytest.mark.skipif(not pathlib.Path("/proc/self/fd").exists(), reason="counts open files in /proc")
def test_a_cluster_equals_a_loop_and_opens_the_store_once_per_worker(ts, cluster):
    ids = [int(i) for i in ts.light_curve_ids()] * 60
    opened = local("""
        def function(light_curve):
            import os
            return {"pid": os.getpid(), "files": len(os.listdir("/proc/self/fd")), "rows": len(light_curve)}
    """)
    found = agn.map_light_curves(opened, ts, ids, executor="dask", progress=False)
    assert found.index.tolist() == ids
    assert found["rows"].tolist() == [len(ts.light_curve(i)) for i in ids]
    assert os.getpid() not in set(found["pid"])
    assert found["pid"].nunique() <= 2
    assert (found.groupby("pid")["files"].agg(np.ptp) <= 5).all()


def test_all_light_curves_by_default(ts):
    found = agn.map_light_curves(len, ts, progress=False)
    assert found.index.tolist() == ts.light_curve_ids().tolist()
    assert found.name == "len"
    assert found.dtype == np.int64


@pytest.mark.parametrize("executor", EXECUTORS)
def test_nothing_to_do(ts, executor):
    found = agn.map_light_curves(describe, ts, [], executor=executor, progress=False)
    assert len(found) == 0
    assert found.index.name == "train_id"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_function_of_a_notebook_reaches_every_kind_of_process(ts, method, monkeypatch):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"{method} does not exist on this system")
    monkeypatch.setattr(parallel, "_context", lambda: multiprocessing.get_context(method))
    function = local("def function(light_curve): return len(light_curve) * factor", factor=3)
    found = agn.map_light_curves(function, ts, executor="processes", workers=2, progress=False)
    assert found.tolist() == [3 * len(ts.light_curve(i)) for i in ts.light_curve_ids()]


def test_a_script_and_a_notebook_need_nothing_special(small_store, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import agn_helpers as agn

        def rows(light_curve):
            return len(light_curve)

        if __name__ == "__main__":
            with agn.open_training_set({str(small_store)!r}) as ts:
                print(agn.map_light_curves(rows, ts, executor="processes").sum())
        """)
    )
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    typed = subprocess.run(
        [sys.executable, "-c", script.read_text()], capture_output=True, text=True, timeout=120
    )
    assert (run.stderr, typed.stderr) == ("", "")
    assert run.stdout == typed.stdout != ""


def test_a_script_without_main_guard_is_told_so(small_store, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"import agn_helpers as agn\nts = agn.open_training_set({str(small_store)!r})\n"
        "agn.map_light_curves(len, ts, executor='processes')\n"
    )
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert run.returncode != 0
    assert "WorkerLostError" in run.stderr
    assert "a script lacks `if __name__ == '__main__':`" in run.stderr


# -- what a function may return -------------------------------------------------------------------


def test_series_become_columns(ts):
    found = agn.map_light_curves(lambda lc: lc[["mag", "magerr"]].max(), ts, [0, 3], progress=False)
    assert found.columns.tolist() == ["mag", "magerr"]


def test_big_integers_stay_exact_beside_missing_ones(ts):
    big = 2**62 + 1
    found = agn.map_light_curves(lambda lc: {"id": big} if len(lc) else None, ts, [0, 4], progress=False)
    assert found["id"].tolist() == [big, pd.NA]
    found = agn.map_light_curves(lambda lc: big if len(lc) else None, ts, [0, 4], progress=False)
    assert found.tolist() == [big, pd.NA]


def test_missing_numbers_are_nan(ts):
    found = agn.map_light_curves(lambda lc: lc["mag"].min() if len(lc) else None, ts, [0, 4], progress=False)
    assert found.dtype == np.float64
    assert found.isna().tolist() == [False, True]


@pytest.mark.parametrize("executor", EXECUTORS)
def test_arrays_and_frames_stay_whole(ts, executor):
    arrays = agn.map_light_curves(lambda lc: lc["mag"].to_numpy(), ts, [0, 3], 2, executor, progress=False)
    assert [len(a) for a in arrays] == [len(ts.light_curve(i)) for i in (0, 3)]
    frames = agn.map_light_curves(lambda lc: lc, ts, [66, 66], 2, executor, progress=False)
    pd.testing.assert_frame_equal(frames.iloc[1], ts.light_curve(66))


# -- what can go wrong ----------------------------------------------------------------------------


def fails_on_66_and_100(light_curve):
    if light_curve["train_id"].iloc[0] in (66, 100):
        raise ZeroDivisionError("no epochs left")
    return {"rows": len(light_curve)}


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize(("ids", "first"), [([0, 100, 3, 66], 100), ([66, 0, 100], 66)])
def test_the_first_failure_names_its_light_curve(ts, executor, ids, first):
    with pytest.raises(
        agn.LightCurveFailedError, match=rf"train_id {first}: Zero.*ts.light_curve\({first}\)"
    ) as e:
        agn.map_light_curves(fails_on_66_and_100, ts, ids, 2, executor, progress=False)
    assert e.value.train_id == first
    assert isinstance(e.value.__cause__, ZeroDivisionError)
    assert str(e.value.__cause__) == "no epochs left"


def test_the_worker_tells_where_it_failed(ts):
    with pytest.raises(agn.LightCurveFailedError, match="train_id 66") as e:
        agn.map_light_curves(fails_on_66_and_100, ts, [66], executor="processes", progress=False)
    assert 'raise ZeroDivisionError("no epochs left")' in e.value.__cause__.__notes__[0]


@pytest.mark.parametrize("executor", EXECUTORS)
def test_failures_are_collected_where_asked(ts, executor):
    found = agn.map_light_curves(
        fails_on_66_and_100, ts, [0, 66, 3, 100], 2, executor, progress=False, errors="collect"
    )
    assert found["error"].tolist() == [
        pd.NA,
        "ZeroDivisionError: no epochs left",
        pd.NA,
        "ZeroDivisionError: no epochs left",
    ]
    assert found["rows"].tolist() == [300, pd.NA, 345, pd.NA]


def test_collecting_without_failures_says_so(ts):
    found = agn.map_light_curves(len, ts, progress=False, errors="collect")
    assert found.columns.tolist() == ["len", "error"]
    assert found["error"].isna().all()


def test_a_damaged_light_curve_is_a_failure_like_any_other(made, tmp_path):
    import stores

    folder = stores.copy_store(made[2, "folder"], tmp_path / "damaged")
    (folder / "sdss_lc" / "3" / "0").unlink()
    with agn.open_training_set(folder) as ts:
        with pytest.raises(agn.LightCurveFailedError, match="train_id 3: DamagedStoreError"):
            agn.map_light_curves(len, ts, progress=False)
        found = agn.map_light_curves(len, ts, progress=False, errors="collect")
        assert found["error"].notna().sum() == 1
        assert "sdss_lc/3/0 is not in the store" in found.loc[3, "error"]


class Picky(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def picky(light_curve):
    raise Picky(1, 2)


@pytest.mark.parametrize("executor", ["processes", "cluster"])
def test_an_error_that_cannot_travel_still_tells(ts, executor, request):
    if executor == "cluster":
        request.getfixturevalue("cluster")
    with pytest.raises(agn.LightCurveFailedError, match="1 and 2"):
        agn.map_light_curves(
            picky, ts, executor="dask" if executor == "cluster" else executor, progress=False
        )


def test_an_answer_that_cannot_travel_is_a_failure(ts):
    with pytest.raises(
        agn.LightCurveFailedError, match="train_id 0: TypeError: the answer cannot be sent back"
    ):
        agn.map_light_curves(lambda lc: threading.Lock(), ts, executor="processes", progress=False)


@pytest.mark.parametrize("executor", ["processes", "cluster"])
def test_a_function_that_cannot_travel_is_refused(ts, executor, request):
    if executor == "cluster":
        request.getfixturevalue("cluster")
    lock = threading.Lock()
    with pytest.raises(agn.InvalidValueError, match=r"cannot be sent to another process.*executor='threads'"):
        agn.map_light_curves(
            lambda lc: lock, ts, executor="dask" if executor == "cluster" else executor, progress=False
        )


def test_a_worker_that_dies_is_reported(ts):
    function = local("""
        def function(light_curve):
            import os
            if len(light_curve) == 10:  # train_id 66
                os._exit(1)
    """)
    with pytest.raises(agn.WorkerLostError, match=r"train_id .* or one of the next.*executor='threads'"):
        agn.map_light_curves(function, ts, executor="processes", workers=2, progress=False)


def test_a_cluster_whose_workers_die_is_reported(ts):
    distributed = pytest.importorskip("distributed")
    import dask

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=":0", silence_logs=60
        ) as made,
        distributed.Client(made),
    ):
        function = local("def function(light_curve):\n    import os\n    os._exit(1)")
        with pytest.raises(agn.WorkerLostError, match="A worker ended without an answer"):
            agn.map_light_curves(function, ts, executor="dask", progress=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"executor": "gpu"}, "executor='gpu' .* 'threads', 'processes' or 'dask'"),
        ({"errors": "ignore"}, "errors='ignore'"),
        ({"workers": 0}, "workers=0 can do nothing"),
        ({"ids": [True, False]}, "ids are bool.*not integers"),
        ({"ids": [0.5]}, "ids are Float64.*not integers|ids are float64.*not integers"),
        ({"ids": ["0"]}, "not integers"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(ts, arguments, message):
    called = []
    with pytest.raises(agn.InvalidValueError, match=message):
        agn.map_light_curves(called.append, ts, **{"progress": False, **arguments})
    assert not called


def test_an_unknown_id_is_refused_before_anything_runs(ts):
    called = []
    with pytest.raises(agn.UnknownTrainIdError, match="No light curve with train_id 5"):
        agn.map_light_curves(called.append, ts, [0, 5], progress=False)
    assert not called


def test_a_closed_training_set_says_so(ts):
    ts.close()
    with pytest.raises(agn.ClosedError, match="is closed"):
        agn.map_light_curves(len, ts, progress=False)


def test_a_batch_ends_with_its_first_failure(ts):
    outcomes = parallel.Task(fails_on_66_and_100, ts, True)([0, 66, 3])
    assert [type(o.error) for o in outcomes] == [type(None), ZeroDivisionError]


def test_threads_leave_after_their_current_light_curve(ts):
    calls = []

    def function(light_curve):
        calls.append(1)
        assert len(calls) < 20_000, "nobody told it to stop"

    running = parallel._by_threads(parallel.Task(function, ts, True), iter([[0], itertools.repeat(0)]), 2)
    next(running)
    running.close()
    assert len(calls) < 20_000


def test_ctrl_c_is_the_parents_business(ts):
    found = agn.map_light_curves(
        lambda _: signal.getsignal(signal.SIGINT) is signal.SIG_IGN, ts, executor="processes", progress=False
    )
    assert found.all()


def test_only_a_few_batches_wait_at_once(ts):
    """Memory is bounded because the next batch is made only when an old one is done."""
    made, yielded, most = [0], 0, 0

    def batches():
        for _ in range(50):
            made[0] += 1
            yield [0]

    for _ in parallel._by_threads(parallel.Task(len, ts, True), batches(), 2):
        yielded += 1
        most = max(most, made[0] - yielded)
    assert yielded == 50
    assert most <= 4


@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal")
@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_ctrl_c_leaves_no_worker_behind(small_store, tmp_path, executor):
    """The signal goes to the whole group, as a terminal sends it. Workers mark their presence by a file."""
    program = textwrap.dedent(f"""
        import os, pathlib, signal, time
        import agn_helpers as agn

        # A test run in the background of a shell inherits that the signal is ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)

        def slow(light_curve):
            pathlib.Path({str(tmp_path)!r}, f"{{os.getpid()}}").touch()
            time.sleep({0.2 if executor == "threads" else 60})

        with agn.open_training_set({str(small_store)!r}) as ts:
            agn.map_light_curves(slow, ts, [0] * 640, executor={executor!r}, workers=2)
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wanted = 2 if executor == "processes" else 1
    until = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < wanted and time.monotonic() < until:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert err.count("Traceback") == 1, "workers stay silent"
    workers = [int(p.name) for p in tmp_path.iterdir()]
    assert len(workers) == wanted
    for pid in workers:
        assert not pathlib.Path(f"/proc/{pid}").exists()


@pytest.mark.skipif(not pathlib.Path("/proc/self").exists(), reason="looks for processes in /proc")
def test_workers_end_when_their_parent_is_killed(small_store, tmp_path):
    """A notebook's kernel that is restarted is killed; it cannot tell its workers."""
    program = textwrap.dedent(f"""
        import os, pathlib, time
        import agn_helpers as agn

        def slow(light_curve):
            pathlib.Path({str(tmp_path)!r}, f"{{os.getpid()}}").touch()
            time.sleep(600)

        with agn.open_training_set({str(small_store)!r}) as ts:
            agn.map_light_curves(slow, ts, [0] * 640, executor="processes", workers=2)
    """)
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    process.kill()
    process.wait()
    workers = [pathlib.Path("/proc", p.name) for p in tmp_path.iterdir()]
    assert len(workers) == 2
    while any(w.exists() for w in workers) and time.monotonic() < until:
        time.sleep(0.01)
    assert not [w for w in workers if w.exists()]


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_an_interrupted_call_ends_its_workers(ts, executor, monkeypatch):
    """The same where the signal reaches the parent alone."""

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(parallel.tqdm, "update", stop)
    before = set(multiprocessing.active_children())
    with pytest.raises(KeyboardInterrupt):
        agn.map_light_curves(len, ts, [0] * 640, executor=executor, workers=2, progress=False)
    assert not set(multiprocessing.active_children()) - before


def test_progress_is_drawn_only_where_somebody_watches(ts, capfd, monkeypatch):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    agn.map_light_curves(len, ts)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    agn.map_light_curves(len, ts)
    out, err = capfd.readouterr()
    assert "len: 100%" in out
    assert "6/6" in out
    assert err == ""
    agn.map_light_curves(len, ts, progress=False)
    assert capfd.readouterr() == ("", "")
