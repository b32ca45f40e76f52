"""Pages that need no other host and that everybody can use.

Corrects what the theme and the notebook reader offer no option for, each found with axe-core or in
a browser's request log. `tests/test_site.py` and `tests/test_site_browser.py` keep it so.
"""

from __future__ import annotations

import importlib.util
import itertools
import re
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

SUBSTITUTIONS = [
    # A label that hides the words one sees (WCAG 2.5.3): on folded cells, ...
    (r'<summary aria-label="Toggle hidden content">', "<summary>"),
    # ... on the search button, ...
    (r'(<button class="btn search-button-field[^>]*?) title="Search" aria-label="Search"', r"\1"),
    # ... and on the colour-mode button, whose icon's title is read as its name.
    (
        r'(<i class="theme-switch [^>]*?data-mode="\w+")\s+title="[^"]*"',
        r'\1 aria-hidden="true"',
    ),
    # The book's title stands outside every landmark.
    (
        r'<div class="sidebar-primary-item">(?=\s*<a class="navbar-brand logo")',
        '<div class="sidebar-primary-item" role="navigation" aria-label="Book home">',
    ),
]
PATTERNS = [(re.compile(pattern), new) for pattern, new in SUBSTITUTIONS]
FRAME = re.compile(r'(?:<style scoped>.*?</style>\s*)?<table border="1" class="dataframe">(.*?)</table>', re.S)  # fmt: skip


def accessible_frame(body: str) -> str:
    """Give a pandas table's header cells their scope; an empty one is no header."""
    head, _, rest = body.partition("</thead>")
    head = head.replace("<th></th>", "<td></td>").replace("<th>", '<th scope="col">')
    head = head.replace("<th ", '<th scope="col" ')
    return head + _ + rest.replace("<th>", '<th scope="row">').replace("<th ", '<th scope="row" ')


def fix_page(text: str) -> str:
    """Apply every correction to the text of one page; correcting twice changes nothing more."""
    for pattern, new in PATTERNS:
        text = pattern.sub(new, text)
    number = itertools.count(text.count('class="table-scroll"') + 1)
    return FRAME.sub(
        lambda match: (
            '<div class="table-scroll" role="region" tabindex="0" '
            f'aria-label="Table {next(number)}, scrolls sideways">'
            f'<table class="dataframe">{accessible_frame(match[1])}</table></div>'
        ),
        text,
    )


def fix_pages(app: Sphinx, exception: Exception | None) -> None:
    """Correct every page that was written."""
    if exception or app.builder.format != "html":
        return
    for page in Path(app.outdir).rglob("*.html"):
        old = page.read_text(encoding="utf-8")
        new = fix_page(old)
        if new != old:
            page.write_text(new, encoding="utf-8")


def copy_mathjax(app: Sphinx, exception: Exception | None) -> None:
    """Serve MathJax from the site.

    Not from `_static` of the sources: Jupyter Book would load every script there on each page.
    """
    if exception or app.builder.format != "html":
        return
    found = importlib.util.find_spec("sphinx-mathjax-offline")
    assert found and found.origin, "sphinx-mathjax-offline is in requirements.txt"  # noqa: S101
    source = Path(found.origin).parent / "static" / "mathjax"
    target = Path(app.outdir) / "_static" / "mathjax"
    fonts = Path("output", "chtml", "fonts")
    shutil.copytree(source / fonts, target / fonts, dirs_exist_ok=True)
    shutil.copyfile(source / "tex-chtml.js", target / "tex-chtml.js")


def drop_thebe(
    app: Sphinx, page: str, template: str, context: dict[str, Any], tree: nodes.document | None
) -> None:
    """Leave out the files of sphinx-thebe.

    Jupyter Book 1 always loads it, it would fetch its library from another host, and it declares
    one name twice, which is an error on every page.
    """

    def wanted(file: object) -> bool:
        attributes = getattr(file, "attributes", None) or {}
        return "THEBE_JS_URL" not in attributes.get("body", "") and "sphinx-thebe" not in str(file)

    for kind in ("script_files", "css_files"):
        if context.get(kind):
            context[kind] = [file for file in context[kind] if wanted(file)]


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx about this extension."""
    app.connect("html-page-context", drop_thebe, priority=900)
    app.connect("build-finished", copy_mathjax)
    app.connect("build-finished", fix_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
