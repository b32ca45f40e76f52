"""The reference page names everything that users can import."""

import re

from site_fixtures import ROOT

import agn_helpers as agn


def test_every_public_name_is_on_the_reference_page(site):
    page = (site / "reference" / "api.html").read_text(encoding="utf-8")
    source = (ROOT / "reference" / "api.md").read_text(encoding="utf-8")
    listed = set(re.findall(r'id="agn_helpers\.(?:\w+\.)*(\w+)"', page)) | set(re.findall(r"`(\w+)`", source))
    assert set(agn.__all__) - listed == set()
