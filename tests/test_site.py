"""The built site as files: links, words for pictures, what other programs read of it."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import execute
import pytest
import yaml
from site_fixtures import ROOT, problems, read_pages

CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
PAGE_LIMIT = 1_000_000  # bytes of a page with the pictures that only it shows


def documents():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return [toc["root"]] + [c["file"] for part in toc["parts"] for c in part["chapters"]]


def test_every_link_and_file_is_there_and_nothing_comes_from_another_host(site):
    assert problems(site) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ('<a href="nowhere.html">x</a>', "no such file: nowhere.html"),
        ('<a href="setup.html#nowhere">x</a>', "no such anchor: setup.html#nowhere"),
        ('<script src="https://example.org/a.js"></script>', "another host: https://example.org"),
        ('<img src="gone.png" alt="x">', "no such file: gone.png"),
    ],
)
def test_the_check_of_links_can_fail(tmp_path, wrong, message):
    (tmp_path / "setup.html").write_text("<h1 id='a'>x</h1>")
    (tmp_path / "index.html").write_text(wrong)
    assert [message in line for line in problems(tmp_path)] == [True]


def test_every_page_of_the_contents_is_built(site):
    assert [name for name in documents() if not (site / f"{name}.html").exists()] == []


def test_every_notebook_is_in_the_contents():
    assert {f"notebooks/{p.stem}" for p in execute.notebooks()} <= set(documents())


def test_every_picture_has_words(site):
    for path, page in read_pages(site).items():
        for picture in page.pictures:
            decorative = "logo" in picture["src"] or "/images/" in picture["src"]
            words = picture.get("alt") or ""
            assert decorative or len(words) >= 20, (path.name, picture)
            assert not re.search(r"\.(png|svg)$", words), "a file's name is no description"


def test_pages_are_light(site):
    heavy = {}
    for path, page in read_pages(site).items():
        own = [path] + [
            (path.parent / src).resolve()
            for src in {p["src"] for p in page.pictures}
            if "_images" in src or "drawn" in src
        ]
        total = sum(file.stat().st_size for file in own)
        if total > PAGE_LIMIT:
            heavy[path.name] = total
    assert heavy == {}


def test_others_learn_what_each_page_is_about(site):
    for name in documents():
        text = (site / f"{name}.html").read_text(encoding="utf-8")
        named = [tag for tag in re.findall("<meta [^>]*>", text) if 'name="description"' in tag]
        found = [re.search('content="([^"]*)"', tag)[1] for tag in named]
        assert len(found) == 1, name
        assert len(found[0]) >= 40, (name, found)
        assert 'property="og:title"' in text
        assert f'property="og:image" content="{CONFIG["html"]["baseurl"]}_static/' in text
    assert (site / "_static" / "drawn" / "social.png").stat().st_size > 10_000


def test_map_of_the_site_lists_every_page(site):
    tree = ElementTree.parse(site / "sitemap.xml")  # noqa: S314  (our own file)
    listed = {element.text for element in tree.iter() if element.tag.endswith("loc")}
    assert listed == {f"{CONFIG['html']['baseurl']}{name}.html" for name in documents()}


def test_missing_page_leads_home_from_any_depth(site):
    page = read_pages(site)[site / "404.html"]
    assert page.links == ["/agn-training-set-book/"]
    assert page.loads == ["data:,"], "a relative address would break below the first level"


MISTAKES = {
    "![](picture.png)": "image without alternative text: picture.png",
    "[x](gone.md)": "cross-reference target not found: 'gone.md'",
    "{term}`no such word`": "term not in glossary: 'no such word'",
    "```{nonsense}\n```": "Unknown directive type: 'nonsense'",
    r"$\nonsense$": 'Unknown LaTeX command "\\nonsense"',
    "{cite:t}`Nobody1900`": 'could not find bibtex key "Nobody1900"',
}


@pytest.fixture(scope="module")
def wrong_book(tmp_path_factory):
    """What the build says of a book with every mistake, under the project's own settings."""
    folder = tmp_path_factory.mktemp("wrong")
    book = folder / "book"
    book.mkdir()
    for name in ("_config.yml", "_ext", "_static", "reference"):
        (book / name).symlink_to(ROOT / name)
    (book / "_toc.yml").write_text("format: jb-book\nroot: index\n")
    (book / "index.md").write_text("# Title\n\n" + "\n\n".join(MISTAKES) + "\n")
    (book / "picture.png").write_bytes(b"")
    script = (
        "import sys; from pathlib import Path; import build_book as b; f = Path(sys.argv[1]);"
        "sys.exit(not b.build_site(f / 'book', f / 'html'))"
    )
    return subprocess.run(
        [sys.executable, "-c", script, folder],
        cwd=ROOT / "tools",
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("message", MISTAKES.values(), ids=list(MISTAKES))
def test_mistake_on_a_page_stops_the_build(message, wrong_book):
    assert wrong_book.returncode != 0
    assert message in wrong_book.stderr
