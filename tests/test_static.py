"""Style, types and the short list of what must never be called, as tests."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
CODE = [name for name in ("agn_helpers", "tests", "tools", "_ext", "benchmarks") if (ROOT / name).is_dir()]


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", *CODE], ["ruff", "format", "--check", *CODE], ["mypy"]],
    ids=["ruff check", "ruff format", "mypy"],
)
def test_nothing_to_complain_about(command):
    run = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_numcodecs_is_one_that_runs_no_code():
    """With 0.16.5 and earlier, filters [vlen-utf8, pickle] ran code when an array was read."""
    wanted = re.search(r"^numcodecs==([\d.]+)", (ROOT / "requirements.txt").read_text(), re.M)[1]
    assert tuple(map(int, wanted.split("."))) >= (0, 16, 6)
    assert '"numcodecs>=0.16.6"' in (ROOT / "pyproject.toml").read_text()
