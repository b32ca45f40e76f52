"""Pages that everybody can use.

Corrects what the theme and the notebook reader offer no option for, each found with axe-core or in
a browser's request log. `tests/test_site.py` and `tests/test_site_browser.py` keep it so.
Also adds what search engines and social networks read, a map of the site, and a page for addresses
that do not exist.
"""

from __future__ import annotations

import html
import itertools
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import book_loads
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
    # Docutils gives each source a role that a list may not hold.
    (r' role="doc-biblioentry"', ' role="listitem"'),
    # The book's title stands outside every landmark.
    (
        r'<div class="sidebar-primary-item">(?=\s*<a class="navbar-brand logo")',
        '<div class="sidebar-primary-item" role="navigation" aria-label="Book home">',
    ),
    # A size that the browser can scale, so that it leaves room for the picture before it comes.
    (r'(<img [^>]*) style="width: (\d+)px; height: (\d+)px;"', r'\1 width="\2" height="\3"'),
    # An icon is a character that means nothing when read aloud.
    (r'<i (?![^>]*aria-hidden)(class="[^"]*\bfa-[^>]*)>', r'<i aria-hidden="true" \1>'),
]
PATTERNS = [(re.compile(pattern), new) for pattern, new in SUBSTITUTIONS]
FRAME = re.compile(
    r'(?:<style scoped>.*?</style>\s*)?<table border="1" class="dataframe">(.*?)</table>', re.S
)

NUMBER = re.compile(r"[-+]?[\d.,]*(e[-+]?\d+)?|NaN|nan|&lt;NA&gt;|inf|None|True|False|—|\.\.\.")
LONG = 24  # characters; a column with longer words gets room for them


def accessible_frame(body: str) -> str:
    """Give a pandas table's header cells their scope, and its columns of words their class.

    An empty header cell is none. Words are aligned to the left and may be broken; numbers not.
    """
    head, end, rest = body.partition("</thead>")
    rows = [re.findall(r"<td>(.*?)</td>", row, re.S) for row in rest.split("</tr>")]
    width = max(map(len, rows), default=0)
    kind: dict[int, str] = {}
    for row in rows:
        for j, cell in enumerate(row):
            if not NUMBER.fullmatch(cell.strip()):
                kind[j] = "words long" if len(cell) > LONG or "long" in kind.get(j, "") else "words"

    def mark(row: re.Match[str], tag: str, first: int) -> str:
        column = itertools.count(-first)

        def with_class(cell: re.Match[str]) -> str:
            found = kind.get(next(column))
            return f'<{tag} class="{found}">' if found else cell[0]

        return re.sub(f"<{tag}>", with_class, row[0])

    rest = re.sub(r"<tr.*?</tr>", lambda row: mark(row, "td", 0), rest, flags=re.S)
    if head.count("<tr") == 1:
        names = len(re.findall(r"<th[ >]", head))
        head = re.sub(r"<tr.*?</tr>", lambda row: mark(row, "th", names - width), head, flags=re.S)
    head = re.sub(r"<th(?=[ >])", '<th scope="col"', head.replace("<th></th>", "<td></td>"))
    return head + end + re.sub(r"<th(?=[ >])", '<th scope="row"', rest)


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
    for page in book_loads.pages(app):
        old = page.read_text(encoding="utf-8")
        new = fix_page(book_loads.without_unused(old))
        if new != old:
            page.write_text(new, encoding="utf-8")


def describe(
    app: Sphinx, page: str, template: str, context: dict[str, Any], tree: nodes.document | None
) -> None:
    """Tell others what the page is about: its description, or its first paragraph.

    Also name the book's picture, which social networks show beside a link.
    """
    tags = context.get("metatags", "")
    found = re.search(r'<meta content="([^"]*)" name="description"', tags)
    text = found[1] if found else first_paragraph(tree)
    title = html.escape(re.sub(r"<.*?>", "", context.get("title", "")) or app.config.project)
    picture = app.config.html_baseurl + "_static/drawn/social.png"
    lines = [] if found or not text else [f'<meta name="description" content="{text}">']
    lines += [
        f'<meta property="og:title" content="{title}">',
        f'<meta property="og:site_name" content="{html.escape(app.config.project)}">',
        '<meta property="og:type" content="article">',
        f'<meta property="og:image" content="{picture}">',
        '<meta property="og:image:alt" content="Light curve of a quasar in five bands">',
        '<meta name="twitter:card" content="summary_large_image">',
    ]
    if text:
        lines.append(f'<meta property="og:description" content="{text}">')
    context["metatags"] = tags + "\n    " + "\n    ".join(lines)


def first_paragraph(tree: nodes.document | None) -> str:
    """The first paragraph of a page as text for an attribute, at most 200 characters."""
    paragraph = next(iter(tree.findall(nodes.paragraph)), None) if tree else None
    text = " ".join(paragraph.astext().split()) if paragraph else ""
    return html.escape(text if len(text) <= 200 else text[:197].rsplit(" ", 1)[0] + " ...")


def adapt_launch_buttons(
    app: Sphinx, page: str, template: str, context: dict[str, Any], tree: nodes.document | None
) -> None:
    """Add a button for the reader's own JupyterHub, whose address only the reader knows.

    It leads to a form on the set-up page, which knows the chapter and makes the link.
    Colab opens a notebook alone, without the project's files: one that has no cell to install
    what it needs there has no button either.
    """
    for button in context.get("header_buttons", []):
        if button.get("label") == "launch-buttons":
            if "install-on-colab" not in Path(app.env.doc2path(page)).read_text(encoding="utf-8"):
                button["buttons"] = [b for b in button["buttons"] if b["text"] != "Colab"]
            form = context["pathto"]("setup") + f"?chapter={page}.ipynb#own-jupyterhub"
            button["buttons"].append(
                {
                    "type": "link",
                    "text": "JupyterHub",
                    "tooltip": "Launch on your own JupyterHub",
                    "icon": "fas fa-server",
                    "url": form,
                }
            )


def write_extra_files(app: Sphinx, exception: Exception | None) -> None:
    """Write the map of the site and the page for addresses that do not exist."""
    if exception or app.builder.format != "html":
        return
    base, out = app.config.html_baseurl, Path(app.outdir)
    pages = "".join(
        f"<url><loc>{base}{app.builder.get_target_uri(name)}</loc></url>\n"
        for name in sorted(app.env.found_docs)
    )
    (out / "sitemap.xml").write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{pages}</urlset>\n',
        encoding="utf-8",
    )
    page = (Path(__file__).parent / "404.html").read_text(encoding="utf-8")
    home = urlsplit(base).path or "/"
    (out / "404.html").write_text(
        page.replace("{title}", html.escape(app.config.project)).replace("{home}", home),
        encoding="utf-8",
    )


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx about this extension."""
    app.connect("html-page-context", adapt_launch_buttons, priority=900)
    app.connect("html-page-context", describe, priority=900)
    app.connect("build-finished", write_extra_files)
    app.connect("build-finished", fix_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
