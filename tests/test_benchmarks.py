"""The benchmark runs from one command, and every reader reads what the others read."""

import contextlib
import json
import sys

import numpy as np
import pytest

import agn_helpers as agn
from agn_helpers.sample import build_sample_store
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import measure
import repeat
import run


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    top = tmp_path_factory.mktemp("benchmark")
    with pytest.MonkeyPatch.context() as patch:  # each measurement is a process of a second or two
        patch.setattr(measure, "TASKS", ("open", "everything", "columns"))
        patch.setattr(run, "TOUCHED", 2**20)
        run.main(["--folder", str(top), "--sizes", "25", "--rounds", "1", "--out", str(top / "r.json")])
    return top, json.loads((top / "r.json").read_text())


def test_every_task_of_every_reader_at_hand_is_measured(result):
    (size,) = result[1]["sizes"]
    assert size["quasars"] == 25
    assert set(size["tasks"]["open"]) == {
        "helper",
        "helper, packed",
        "zarr 3",
        "zarr 3, packed",
        "parquet",
        "floor",
    }
    assert set(size["tasks"]["everything"]) == {"helper", "helper, packed", "zarr 3", "floor"}
    assert set(size["tasks"]["columns"]) == {"helper, packed", "zarr 3, packed", "parquet"}
    for readers in size["tasks"].values():
        for figures in readers.values():
            assert 0 < figures["fastest"] <= figures["seconds"] <= figures["slowest"]
            assert figures["runs"] == 1
            assert figures["cpu_seconds"] > 0
    for figures in size["tasks"]["everything"].values():
        assert 10**7 < figures["before_bytes"] <= figures["peak_bytes"] < 10**9
    assert size["tasks"]["everything"]["helper"]["result_bytes"] > 10**5
    assert result[1]["versions"]["helper"]["zarr"].startswith("3.")
    assert result[1]["machine"]["cores"] >= 1


def test_some_tasks_again_leave_the_others(result, monkeypatch):
    top, before = result
    monkeypatch.setattr(run, "TOUCHED", 2**20)
    again = ["--folder", str(top), "--sizes", "25", "--rounds", "1", "--out", str(top / "r.json")]
    run.main([*again, "--tasks", "columns"])
    ((old,), (new,)) = before["sizes"], json.loads((top / "r.json").read_text())["sizes"]
    assert new["tasks"]["everything"] == old["tasks"]["everything"]
    assert new["tasks"]["columns"] != old["tasks"]["columns"]
    monkeypatch.setattr(run, "machine", lambda: before["machine"] | {"cores": 999})
    with pytest.raises(SystemExit, match="of another machine"):
        run.main([*again, "--tasks", "columns"])


def test_readers_of_one_band_agree(result, monkeypatch):
    kept, opened = [], measure.Helper.opened
    monkeypatch.setattr(measure, "timed", lambda work: kept.append(work()) or np.ones(2))
    with contextlib.ExitStack() as stack:
        monkeypatch.setattr(measure.Helper, "opened", lambda self: stack.enter_context(opened(self)))
        for name in ("helper", "helper, packed", "zarr 3", "zarr 3, packed", "parquet"):
            measure.READERS[name](result[0] / "25").band()
    assert len(kept) == 5
    expected = kept[0][["train_id", "mjd", "mag", "magerr"]].to_numpy()
    for frame in kept:
        names = ["train_id", "mjd", "mag", "magerr"] if "mag" in frame else ["train_id", *measure.BAND]
        ours = frame.sort_values(names[:2], kind="stable")[names].to_numpy()
        np.testing.assert_array_equal(ours, expected)


def test_a_reader_that_fails_stops_the_run(result, tmp_path):
    with pytest.raises(SystemExit, match=r"measure.py helper open .* failed"):
        next(run.measure_all(tmp_path, tmp_path, {"helper": sys.executable}, ["open"], 1))


def test_results_that_the_book_shows_are_whole():
    """They come from a run of this program, on a store of the original's size."""
    shown = json.loads((ROOT / "benchmarks" / "results.json").read_text())
    full = next(size for size in shown["sizes"] if size["quasars"] == run.FULL)
    assert [size["quasars"] for size in shown["sizes"]] == [run.FULL // 10, run.FULL, 10 * run.FULL]
    assert set(full["tasks"]) == set(measure.TASKS)
    assert {"helper", "helper, packed", "zarr 3", "zarr 2", "parquet", "floor"} <= set(full["tasks"]["open"])


def test_repeated_store_is_a_training_set_with_every_light_curve_so_often(tmp_path):
    source = build_sample_store(tmp_path / "source.zarr.zip", n=12)
    repeat.repeat(source, target := tmp_path / "target.zarr.zip", 3)
    with agn.open_training_set(source) as old, agn.open_training_set(target) as new:
        ids, step = old.light_curve_ids(), old.light_curve_ids().max() + 1
        assert new.light_curve_ids().tolist() == [*ids, *(ids + step), *(ids + 2 * step)]
        assert new.catalog().index.tolist() == new.light_curve_ids().tolist()
        assert new.catalog()["z"].tolist() == old.catalog()["z"].tolist() * 3
        for train_id in ids:
            for k in range(3):
                copy = new.raw_light_curve(train_id + k * step)
                assert copy.tobytes() == old.raw_light_curve(train_id).tobytes()
    assert agn.validate_store(target).ok
