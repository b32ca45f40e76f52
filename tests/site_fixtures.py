"""The built site, for every test that looks at it."""

import html.parser
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """Folder of the site, built once, with warnings as errors."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, ROOT / "tools" / "build_book.py", "--output", folder]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if built.returncode:
        pytest.fail(f"the site does not build:\n{built.stdout}{built.stderr}", pytrace=False)
    return folder / "html"


LOADERS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data"}


class Page(html.parser.HTMLParser):
    """What a page links to, what it loads, and the names inside it."""

    def __init__(self, text):
        super().__init__()
        self.names, self.links, self.loads, self.pictures = set(), [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.names.update(values[key] for key in ("id", "name") if values.get(key))
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if tag == "link" and values.get("rel") != "canonical":
            self.loads.append(values["href"])
        if values.get(LOADERS.get(tag)):
            self.loads.append(values[LOADERS[tag]])
        if tag == "img":
            self.pictures.append(values)


def read_pages(folder):
    """Every page of a site by its path."""
    found = (path for path in folder.rglob("*.html") if "_static" not in path.parts)
    return {path: Page(path.read_text(encoding="utf-8")) for path in sorted(found)}


def problems(folder):
    """Links and loads of a site that lead nowhere, or to another host where nothing may."""
    pages, bad = read_pages(folder), []
    home = "/agn-training-set-book/"
    for path, page in pages.items():
        where = path.relative_to(folder)
        for kind, address in [("link", a) for a in page.links] + [("load", a) for a in page.loads]:
            parts = urlsplit(address)
            if parts.scheme in ("data", "mailto") or (where.name == "404.html" and address == home):
                continue
            if parts.scheme or parts.netloc:
                if kind == "load":
                    bad.append(f"{where}: loads from another host: {address}")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                bad.append(f"{where}: no such file: {address}")
            elif parts.fragment and unquote(parts.fragment) not in pages[target].names:
                bad.append(f"{where}: no such anchor: {address}")
    return bad
