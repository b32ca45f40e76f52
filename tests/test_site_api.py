"""The reference page names everything that users can import."""

import pydoc
import re

import pytest
import yaml
from site_fixtures import ROOT, read_pages

import agn_helpers as agn

CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))


def test_every_public_name_is_on_the_reference_page(site):
    page = (site / "reference" / "api.html").read_text(encoding="utf-8")
    source = (ROOT / "reference" / "api.md").read_text(encoding="utf-8")
    listed = set(re.findall(r'id="agn_helpers\.(?:\w+\.)*(\w+)"', page)) | set(re.findall(r"`(\w+)`", source))
    assert set(agn.__all__) - listed == set()


INVENTORIES = sorted((ROOT / "reference" / "inventories").glob("*.txt"))


@pytest.mark.parametrize("path", INVENTORIES, ids=lambda path: path.stem)
def test_each_name_of_another_project_exists_and_the_reference_leads_to_its_page(path, site):
    base, file = CONFIG["sphinx"]["config"]["intersphinx_mapping"][path.stem]
    assert ROOT / file == path
    page = read_pages(site)[site / "reference" / "api.html"]
    lines = [line.split() for line in path.read_text().splitlines() if not line.startswith("#")]
    assert lines
    for name, _, location in lines:
        assert pydoc.locate(name), name
        assert f"{base}{location}#{name}" in page.links


def test_errors_of_a_function_lead_to_what_they_mean(site):
    page = (site / "reference" / "api.html").read_text(encoding="utf-8")
    for name in ("errors.InvalidValueError", "errors.UnknownTrainIdError", "TrainingSet"):
        link = f'<a class="reference internal" href="#agn_helpers.{name}" title="agn_helpers.{name}"><code'
        assert link in page, name
