"""Measure how fast the training set is read, with the helper and with other libraries.

    python benchmarks/run.py                                     the helper, Zarr-Python 3, Parquet, floors
    python benchmarks/run.py --zarr2 ENV --others ENV            also those that live in their own environment
    python benchmarks/run.py --sizes 2458 24579 --rounds 5       other sizes, more rounds

Other sizes than the real set's are measured in one round. Larger ones are made by copying light curves.

ENV is an environment's folder: make the first from ``benchmarks/requirements-zarr2.txt``, the second from
``benchmarks/requirements-others.txt``. Each measurement is a process of its own; readers take turns within a
round, so that a busy minute of the machine does not meet one of them alone; what is reported is the median of
all rounds. Stores are made once in ``--folder`` and used again. The result goes to
``benchmarks/results.json``, which the page "Performance as measured" shows.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import measure  # noqa: E402  # found because of the line above
import repeat  # noqa: E402  # likewise

FULL = 24579
TOUCHED = 4 * 2**30  # bytes; no reader needs more at the real set's size
LARGE = ("some_frames", "records", "everything", "columns", "band", "feature")
SLOW = {("zarr 3", "ids")}
PACKAGES = ("zarr", "numcodecs", "numpy", "pandas", "pyarrow", "h5py", "tensorstore", "agn-helpers")


def make_stores(folder, n, others):
    """Write the original, the packed copy, Parquet and HDF5, each once."""
    import pyarrow
    import pyarrow.parquet

    import agn_helpers
    from agn_helpers.sample import build_sample_store

    folder.mkdir(parents=True, exist_ok=True)
    original, packed = folder / "original.zarr.zip", folder / "packed.zarr.zip"
    if not original.exists() and n > FULL:
        make_stores(folder.with_name(str(FULL)), FULL, None)
        repeat.repeat(folder.with_name(str(FULL)) / original.name, original, n // FULL)
    elif not original.exists():
        build_sample_store(original, n=n)
    for target in (packed, folder / "packed.zarr"):
        if not target.exists():
            agn_helpers.pack_store(original, target, max_bytes=measure.MAX_BYTES)
    with agn_helpers.open_training_set(packed, max_bytes=measure.MAX_BYTES) as training_set:
        ids = training_set.light_curve_ids()
        (folder / "keys.json").write_text(json.dumps(sorted(map(str, ids.tolist()))))
        group = training_set.root["sdss_lc"]
        lengths = np.diff(group["offset"][:])
        names = training_set._arrays.dtype.names
        size = int(lengths.sum()) * training_set._arrays.dtype.itemsize
        about = {"bytes": size, "epochs": int(lengths.sum()), "quasars": len(ids)}
        (folder / "about.json").write_text(json.dumps(about))
        if not (folder / "epochs.parquet").exists():
            columns = {"train_id": np.repeat(ids, lengths)} | {n: group[f"columns/{n}"][:] for n in names}
            path, table = folder / "epochs.parquet", pyarrow.table(columns)
            pyarrow.parquet.write_table(table, path, compression="zstd", row_group_size=65536)
    if others and not (folder / "epochs.h5").exists():
        subprocess.run([python_of(others), str(HERE / "to_hdf5.py"), str(folder)], check=True)
    sizes = {}
    for name in ("original.zarr.zip", "packed.zarr.zip", "epochs.parquet", "epochs.h5"):
        if (folder / name).exists():
            sizes[name] = (folder / name).stat().st_size
    return about | {"files": sizes}


def python_of(environment):
    """Return the interpreter of an environment's folder."""
    return str(Path(environment) / ("Scripts" if os.name == "nt" else "bin") / "python")


def readers_at_hand(zarr2, others):
    """Return which interpreter runs each reader."""
    here = {name: sys.executable for name in measure.READERS}
    here |= {name: others and python_of(others) for name in ("hdf5", "tensorstore, packed")}
    here["zarr 2"] = zarr2 and python_of(zarr2)
    return {name: python for name, python in here.items() if python}


def measure_all(folder, warm, interpreters, tasks, rounds, large=False):
    """Yield, after each round, time and memory of every task with every reader so far."""
    runs = {}
    for turn in range(rounds):
        for task in tasks:
            for name, python in interpreters.items():
                if getattr(measure.READERS[name], task, None) is None:
                    continue
                if (turn or large) and (name, task) in SLOW:
                    continue  # a minute and more: once
                if task in LARGE:
                    touch_memory()
                command = [python, str(HERE / "measure.py"), name, task, str(folder), str(warm)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
                run = json.loads(done.stdout.splitlines()[-1])
                runs.setdefault(task, {}).setdefault(name, []).append(run)
                print(f"round {turn + 1}, {task}, {name}: {run['seconds']:.4g} s", flush=True)
        yield {t: {name: summary(name, t, r) for name, r in of_task.items()} for t, of_task in runs.items()}


def touch_memory():
    """Touch memory and let go of it, before each measurement, for every reader alike.

    In a virtual machine the first program to touch a page waits until the host finds one. For 400 MB that
    can take longer than to decode them, and the next program to use the page does not pay again. A process
    of its own does it: what the parent held at most would count as the measured one's.
    """
    subprocess.run([sys.executable, "-c", f"b'x' * {TOUCHED}"], check=True)


def summary(name, task, runs):
    """Return what is reported of several runs of one task with one reader."""
    sampled = task in ("records", "everything", "band")
    memory = {
        "peak_bytes": max(r["peak"] or 0 for r in runs),
        "before_bytes": runs[-1]["before"],
        "result_bytes": runs[-1]["result_bytes"],
    }
    return (memory if task == "everything" else {}) | {
        "seconds": statistics.median(r["seconds"] for r in runs),
        "cpu_seconds": statistics.median(r["cpu_seconds"] for r in runs),
        "fastest": min(r["seconds"] for r in runs),
        "slowest": max(r["seconds"] for r in runs),
        "runs": len(runs),
        "sample": measure.READERS[name].sample if sampled else None,
    }


def versions(python):
    """Return the versions of what is measured in an environment."""
    if python == sys.executable:
        return {p: v for p in PACKAGES if (v := _version(p))}
    code = (
        "import importlib.metadata as m, json\n"
        f"print(json.dumps({{p: m.version(p) for p in {PACKAGES!r} if list(m.distributions(name=p))}}))"
    )
    # -I: the folder that this is started from does not count.
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def _version(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def machine():
    """Return what the figures depend on."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    memory = None
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_bytes": memory,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def load():
    """Return how many programs on average wanted to run, 1.0 if the benchmark was alone."""
    return round(os.getloadavg()[2], 1) if hasattr(os, "getloadavg") else None


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "agn_benchmarks")
    parser.add_argument("--sizes", type=int, nargs="+", default=[FULL // 10, FULL, 10 * FULL])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", choices=measure.TASKS, help="only these; the others are kept")
    parser.add_argument("--zarr2", type=Path, help="environment with Zarr-Python 2.18")
    parser.add_argument("--others", type=Path, help="environment with TensorStore and h5py")
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    options = parser.parse_args(arguments)
    interpreters = readers_at_hand(options.zarr2, options.others)
    result = {"machine": machine(), "rounds": options.rounds, "sizes": []}
    result["versions"] = {name: versions(python) for name, python in interpreters.items()}
    old = json.loads(options.out.read_text()) if options.tasks and options.out.exists() else result
    today = {"date": result["machine"]["date"]}
    if (old["machine"] | today, old["versions"]) != (result["machine"], result["versions"]):
        sys.exit(f"{options.out} is of another machine or other versions. Measure all: leave --tasks out")
    kept = {size["quasars"]: size for size in old["sizes"]}
    warm = options.folder / "warm"
    make_stores(warm, 20, options.others)
    for n in options.sizes:
        folder = options.folder / str(n)
        about = make_stores(folder, n, options.others)
        before = kept.get(about["quasars"], {"tasks": {}})["tasks"]
        kept[about["quasars"]] = about
        result["sizes"] = [kept[size] for size in sorted(kept)]
        rounds = options.rounds if n == FULL else 1
        wanted = options.tasks or measure.TASKS
        for tasks in measure_all(folder, warm, interpreters, wanted, rounds, large=n > FULL):
            about |= {"load": load(), "tasks": before | tasks}
            options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"Written: {options.out}")


if __name__ == "__main__":
    main()
