"""Fixtures that several test files share."""

import pathlib
import sys

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(pathlib.Path(__file__).parent))  # tests/stores.py is imported by its name

import stores
from site_fixtures import site  # noqa: F401  (a fixture)

# A property holds or not; how long one example takes says something of the machine only.
settings.register_profile("book", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("book")

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def _no_store_from_outside(monkeypatch):
    """A reader's AGN_STORE must not change what the tests read."""
    monkeypatch.delenv("AGN_STORE", raising=False)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """The same small training set in both formats, as folder and as zip."""
    top = tmp_path_factory.mktemp("stores")
    out = {}
    for f in (2, 3):
        folder = stores.write_store(top / f"v{f}", f)
        out[f, "folder"] = folder
        out[f, "zip"] = stores.zip_store(folder, top / f"v{f}.zarr.zip")
    return out


@pytest.fixture(
    params=[(2, "zip"), (2, "folder"), (3, "zip"), (3, "folder")], ids=lambda p: f"v{p[0]}-{p[1]}"
)
def any_store(request, made):
    """One small training set after the other. Read only."""
    return made[request.param]


@pytest.fixture
def small_store(made):
    """A small training set in the original's format: one zip, Zarr 2. Read only."""
    return made[2, "zip"]


@pytest.fixture(params=["qso_s82", "vstar_s82"])
def shared_store(request):
    """A store with real content, where one lies beside the project."""
    path = SHARED / f"{request.param}.zarr.zip"
    if not path.exists():
        pytest.skip(f"needs {path.name} in ../shared/data, which is not part of the project")
    return path
