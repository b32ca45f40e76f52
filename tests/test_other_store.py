"""The whole book about a store with real content: each chapter must run on whatever a reader has.

In a file of its own, because it takes longest and runs beside the others.
"""

import subprocess
import sys

import execute
import pytest
from site_fixtures import ROOT


@pytest.mark.parametrize("name", ["qso_s82"])
def test_whole_book_about_a_store_with_real_content(name, site, tmp_path):
    store = ROOT.parent / "shared" / "data" / f"{name}.zarr.zip"
    if not store.exists():
        pytest.skip(f"needs {store.name} in ../shared/data, which is not part of the project")
    before = {p: p.read_bytes() for p in execute.notebooks()}
    command = [sys.executable, ROOT / "tools" / "build_book.py", "--store", store, "--output", tmp_path]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    pages = {p.relative_to(site) for p in site.rglob("*.html")}
    assert {p.relative_to(tmp_path / "html") for p in (tmp_path / "html").rglob("*.html")} == pages
    assert {p: p.read_bytes() for p in execute.notebooks()} == before
