"""Parts of pages that come from the notebooks and the configuration, so that they stay true."""

from __future__ import annotations

import html
import re
from pathlib import Path

import nbformat
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

CARD = """
::::{{grid-item-card}} {number} {title}
:link: /{name}
:link-type: doc
:class-card: chapter-card

{text}
{footer}
::::
"""
FOOTER = """
:::{{card-footer}}
{time}
:::
"""


def title_and_time(path: Path) -> tuple[str, str]:
    """First heading of a notebook, and its "about N minutes"; empty before it was measured."""
    cells = nbformat.read(path, as_version=4).cells
    title = re.search(r"^# (.+)$", "\n".join(c.source for c in cells), flags=re.MULTILINE)
    times = [c.source for c in cells if "measured-time" in c.metadata.get("tags", [])]
    minutes = re.search(r"about \d+ minutes", times[0]) if times else None
    return (title[1] if title else path.stem), (minutes[0] if minutes else "")


class ChapterCards(SphinxDirective):
    """One card for each line `name: what the chapter answers`."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Parse the cards as if they stood on the page."""
        cards = []
        for line in filter(None, self.content):
            name, _, text = line.partition(": ")
            path = Path(self.env.srcdir, f"{name}.ipynb")
            if not path.exists():  # tests/test_site_browser.py counts the cards
                continue
            self.env.note_dependency(str(path))
            title, time = title_and_time(path)
            footer = FOOTER.format(time=time) if time else ""
            number = path.stem[:2].lstrip("0")
            cards.append(CARD.format(number=number, title=title, name=name, text=text, footer=footer))
        grid = ":::::{grid} 1 2 2 4\n:gutter: 2\n" + "".join(cards) + ":::::\n"
        box = nodes.container()
        self.state.nested_parse(StringList(grid.splitlines()), self.content_offset, box)
        return box.children


class HubForm(SphinxDirective):
    """The form that makes a link to the reader's own JupyterHub; `_static/book.js` works it."""

    def run(self) -> list[nodes.Node]:
        """Fill in the project's address and the chapters."""
        options = self.config.html_theme_options
        found = sorted(Path(self.env.srcdir, "notebooks").glob("*.ipynb"))
        chapters = "".join(
            f'<option value="notebooks/{path.name}">{html.escape(title_and_time(path)[0])}</option>'
            for path in found
        )
        form = (Path(__file__).parent / "hub_form.html").read_text(encoding="utf-8")
        form = form.replace("{repository}", html.escape(options["repository_url"]))
        form = form.replace("{branch}", html.escape(options["repository_branch"]))
        return [nodes.raw("", form.replace("{chapters}", chapters), format="html")]


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx about this extension."""
    app.add_directive("chapter-cards", ChapterCards)
    app.add_directive("hub-form", HubForm)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
