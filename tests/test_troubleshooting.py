"""Each row of the page "Error messages" is a message that really appears."""

import os
import re
import subprocess
import sys
import zipfile

import pandas as pd
import pytest
import zarr
from site_fixtures import ROOT

import agn_helpers as agn

PAGE = (ROOT / "reference" / "troubleshooting.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `([^`]+)`", PAGE, flags=re.MULTILINE)
FRAME = pd.DataFrame({"a": [1.0, 2.0]}, index=pd.Index([0, 3], name="train_id"))


def zip_of_nothing(folder, ts):
    zipfile.ZipFile(folder / "empty.zarr.zip", "w").close()
    agn.open_training_set(folder / "empty.zarr.zip")


def other_store(folder, ts):
    zarr.open_group(folder / "other.zarr", mode="w")
    agn.open_training_set(folder / "other.zarr")


def no_zip(folder, ts):
    (folder / "notes.txt").write_text("hello")
    agn.open_training_set(folder / "notes.txt")


def closed(folder, ts):
    ts.close()
    ts.catalog()


def fails(light_curve):
    raise ZeroDivisionError("a reason")


def write_twice(folder, ts):
    agn.write_features(folder / "a.zarr", FRAME)
    agn.write_features(folder / "a.zarr", FRAME)


def write_into_a_column(folder, ts):
    pd.DataFrame(ts.root["catalog"][:])["z"].to_numpy()[0] = 1


def write_into_the_store(folder, ts):
    ts.root["catalog"][0] = ts.root["catalog"][0]


CAUSES = [
    lambda folder, ts: agn.open_training_set(folder / "qso.zarr.zip"),
    zip_of_nothing,
    other_store,
    no_zip,
    closed,
    lambda folder, ts: ts.light_curve(1),
    lambda folder, ts: ts.catalog(columns=["psfmag_G"]),
    lambda folder, ts: ts.light_curve(0, bands="y"),
    lambda folder, ts: agn.map_light_curves(fails, ts, ids=[0], progress=False),
    write_twice,
    lambda folder, ts: agn.write_features(folder / "a.zarr.zip", FRAME),
    lambda folder, ts: zarr.open(str(ts.location)),
    lambda folder, ts: zarr.open(str(ts.location), mode="r"),
    lambda folder, ts: ts.root["sdss_lc/1"],
    lambda folder, ts: ts.root["sdss_lc"][0],
    write_into_a_column,
    write_into_the_store,
]


def said(row):
    """A row's words as a regular expression; `...` stands for anything."""
    return ".*".join(re.escape(part.strip()) for part in row.split("..."))


@pytest.mark.parametrize(("row", "cause"), list(zip(ROWS, CAUSES, strict=False)), ids=ROWS[: len(CAUSES)])
def test_message_is_the_one_on_the_page(row, cause, tmp_path):
    if cause is write_into_a_column and pd.__version__ < "3":
        pytest.skip("pandas 2 lets one write into the array behind a column")
    with agn.open_training_set() as ts, pytest.raises(Exception) as caught:  # noqa: PT011  (below)
        cause(tmp_path, ts)
    message = f"{type(caught.value).__name__}: {caught.value}"
    assert re.match(said(row), message, flags=re.DOTALL), message


def test_every_row_has_its_cause():
    assert len(ROWS) == len(CAUSES) + 3, "the last three are tested below"


def test_module_is_missing_in_another_environment(tmp_path):
    command = [sys.executable, "-I", "-S", "-c", "import agn_helpers"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert re.search(said(ROWS[-3]), ran.stderr)


@pytest.mark.skipif(os.name == "nt", reason="needs make")
@pytest.mark.parametrize("row", [ROWS[-2], ROWS[-1]])
def test_make_says_which_python_is_needed(row, tmp_path):
    """From a copy of the Makefile, where no environment stands yet."""
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"))
    python = tmp_path / "old-python"
    if row == ROWS[-1]:
        python.write_text("#!/bin/sh\n[ $1 = -V ] && echo Python 3.9.2\nexit 1\n")
        python.chmod(0o755)
    command = ["make", f"PYTHON={python}", "book"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode != 0
    assert re.search(said(row), ran.stderr), ran.stderr
    assert not (tmp_path / ".venv").exists()
