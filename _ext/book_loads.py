"""What a page loads: nothing from another host, and little that it does not use.

`tests/test_site_browser.py` weighs each page as a first visitor's browser loads it.
"""

from __future__ import annotations

import base64
import io
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import pydata_sphinx_theme
from docutils import nodes
from fontTools import subset
from sphinx.application import Sphinx

THEME = Path(pydata_sphinx_theme.__file__).parent / "theme" / "pydata_sphinx_theme" / "static"
STYLE = Path("styles", "pydata-sphinx-theme.css")
FONTS = Path("vendor", "fontawesome", "webfonts")
ICON = re.compile(r"\bfa-[a-z0-9-]+")
ICON_RULE = re.compile(r'(?:\.fa-[\w-]+:before,?)+\{content:"[^"]+"\}')
ESCAPE = re.compile(r"\\([0-9a-f]{4,5})\b")
FONT = re.compile(r'url\([^)]*\.woff2\) format\("woff2"\),url\([^)]*/([\w-]+)\.ttf\) format\("truetype"\)')

# On every page of the theme: a script of 1.5 MB that draws each icon a second time, over the one from
# the font, ...
ICON_SCRIPT = re.compile(r'<script defer src="[^"]*/fontawesome\.js[^"]*"></script>\n')
# ... and the index for a search that answers while one types, which is off. One page does search.
SEARCH = re.compile(r'<script src="[^"]*(?:searchtools|language_data|searchindex)\.js"></script>\n\s*')
SEARCHES = 'id="search-results"'


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


def without_unused(page: str) -> str:
    """The text of a page without what the theme's own templates load in vain."""
    page = ICON_SCRIPT.sub("", page)
    return page if SEARCHES in page else SEARCH.sub("", page)


def pages(app: Sphinx) -> list[Path]:
    """Every page that was written."""
    out = Path(app.outdir)
    return [page for page in out.rglob("*.html") if page.relative_to(out).parts[0] != "_static"]


def cut_icons(app: Sphinx, exception: Exception | None) -> None:
    """Leave of the theme's two thousand icons those that a page or a script names.

    Their fonts become part of the style sheet: browsers differ in what a page that is opened from a
    folder may load.
    """
    if exception or app.builder.format != "html":
        return
    static = Path(app.outdir) / "_static"
    for file in (static / "scripts").glob("fontawesome.js*"):
        file.unlink()
    shutil.rmtree(static / FONTS, ignore_errors=True)
    files = [*pages(app), *static.rglob("*.js")]
    named = {name for file in files for name in ICON.findall(file.read_text(encoding="utf-8"))}
    style = ICON_RULE.sub(
        lambda rule: rule[0] if named.intersection(ICON.findall(rule[0])) else "",
        (THEME / STYLE).read_text(encoding="utf-8"),
    )
    drawn = {int(code, 16) for code in ESCAPE.findall(style)} | {ord(c) for c in style if c >= "\ue000"}
    style = FONT.sub(lambda source: f'url("{cut_font(source[1], drawn)}") format("truetype")', style)
    (static / STYLE).write_text(style, encoding="utf-8")


def cut_font(name: str, drawn: set[int]) -> str:
    """An address that holds a font of the theme itself, cut to some characters."""
    logging.getLogger("fontTools.subset").setLevel(logging.WARNING)  # tells each table otherwise
    options = subset.Options(name_IDs="*")  # its licence is among them
    cutter = subset.Subsetter(options)
    cutter.populate(unicodes=drawn)
    file = io.BytesIO()
    with subset.load_font(THEME / FONTS / f"{name}.ttf", options) as font:
        cutter.subset(font)
        subset.save_font(font, file, options)
    return f"data:font/ttf;base64,{base64.b64encode(file.getvalue()).decode()}"


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx about this extension."""
    app.connect("html-page-context", drop_thebe, priority=900)
    app.connect("build-finished", cut_icons, priority=900)  # looks at the pages as they will be
    return {"parallel_read_safe": True, "parallel_write_safe": True}
