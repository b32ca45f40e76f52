"""A fixed sample of the fuzzer's mutants, in every run. Many more: ``python tools/fuzz.py --n 10000``."""

import importlib.util
import pathlib
import sys

import pytest

PATH = pathlib.Path(__file__).resolve().parents[1] / "tools" / "fuzz.py"

if not pathlib.Path("/proc/self/clear_refs").exists():
    pytest.skip("memory is measured as Linux tells it", allow_module_level=True)


@pytest.fixture(scope="module")
def fuzz():
    spec = importlib.util.spec_from_file_location("fuzz", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz"] = module
    spec.loader.exec_module(module)
    for number in range(len(module.BASES)):
        module.base(number)  # the valid stores, made before a test breaks what makes them
    return module


def test_two_hundred_mutants(fuzz):
    result = fuzz.run(seed=82, n=200, workers=1)
    assert result["done"] == 200
    assert not result["failures"], "\n".join(f"{k}: {v}" for k, v in result["failures"].items())
    outcomes = {o for _, o in result["kinds"]}
    assert outcomes == {"answer", "error"}
    assert len({k for k, _ in result["kinds"]}) == 10  # each kind of damage in a zip and in a folder
    assert result["tally"]["arrays equal to Zarr's"] > 300


def test_a_mutant_is_always_the_same(fuzz, tmp_path):
    def made(name):
        (tmp_path / name).mkdir()
        mutant = fuzz.make_mutant(82, 7, tmp_path / name)
        return mutant.kind, {k.replace(name, ""): v[2] for k, v in fuzz.snapshot(tmp_path / name).items()}

    assert made("one") == made("two")


def test_the_fuzzer_sees_a_wrong_answer(fuzz, monkeypatch):
    """Its judge works: numbers that are changed on the way are told."""
    from agn_helpers.store import TrainingSet

    right = TrainingSet.raw_light_curve

    def wrong(self, train_id):
        record = right(self, train_id)
        if len(record):
            record["psfmag_u"][0] += 1
        return record

    monkeypatch.setattr(TrainingSet, "raw_light_curve", wrong)
    result = fuzz.run(seed=82, n=20, workers=1)
    assert any("differs from what Zarr reads" in why for why in result["failures"].values())


def test_the_fuzzer_sees_an_error_that_is_not_ours(fuzz, monkeypatch):
    from agn_helpers.store import TrainingSet

    monkeypatch.setattr(TrainingSet, "light_curve_ids", lambda self: 1 / 0)
    result = fuzz.run(seed=82, n=10, workers=1)
    assert any("ZeroDivisionError" in why for why in result["failures"].values())
