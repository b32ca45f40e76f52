"""The page "Explorer": its controls, made from the exported data, and scripts that only it loads.

`tools/explorer.py` exports the data into the folder `explorer_data` of the sources before the build.
"""

from __future__ import annotations

import html
import json
import shutil
from pathlib import Path
from typing import Any

import bokeh
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

LOG = logging.getLogger(__name__)
HERE = Path(__file__).parent / "explorer"
DATA = "explorer_data"
SCRIPTS = ("bokeh.min.js", "explorer.js", "data/index.js")
LIBRARY = Path(bokeh.__file__).parent / "server" / "static" / "js" / "bokeh.min.js"
RANGE = """<fieldset data-range="{key}"><legend>{name}</legend>
<label>from <input type="number" step="any" inputmode="{mode}" name="{key}-from" placeholder="{low}"></label>
<label>to <input type="number" step="any" inputmode="{mode}" name="{key}-to" placeholder="{high}"></label>
</fieldset>"""


def ranges(index: dict[str, Any]) -> list[tuple[str, str, list[float]]]:
    """Key, name and values of each quantity that the reader can filter by."""
    plots = index["plots"]
    found = [
        ("x2", plots["second"]["x"]["name"], plots["second"]["x"]["values"]),
        ("y2", "Magnitude", [m for values in plots["mag"].values() for m in values]),
        ("epochs", "Number of epochs", index["epochs"]),
        ("x", plots["first"]["x"]["name"], plots["first"]["x"]["values"]),
        ("y", plots["first"]["y"]["name"], plots["first"]["y"]["values"]),
    ]
    same_colour = found[3][1] == found[0][1]
    return [(key, name, [v for v in values if v is not None])
            for key, name, values in found if not (key == "x" and same_colour)]  # fmt: skip


def filters(index: dict[str, Any]) -> str:
    """Two labelled inputs for each quantity, which show the lowest and the highest value."""
    boxes = []
    for key, name, values in ranges(index):
        whole = key == "epochs"
        low, high = (f"{f(values):.4g}" for f in (min, max)) if values else ("", "")
        mode = "numeric" if whole else "text" if values and min(values) < 0 else "decimal"
        boxes.append(RANGE.format(key=key, name=html.escape(name), mode=mode, low=low, high=high))
    return "\n".join(boxes)


class Explorer(SphinxDirective):
    """`find`, `look` or `about`: one part of the page, filled in from the exported data."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Make the part."""
        part = self.arguments[0]
        file = Path(self.env.srcdir, DATA, "index.json")
        if not file.exists():
            LOG.warning("no data for the explorer; tools/explorer.py makes it", location=self.get_location())
            return []
        self.env.note_dependency(str(file))
        index = json.loads(file.read_text(encoding="utf-8"))
        if part == "about":
            return self.about(index)
        template = HERE / f"{part}.html"
        self.env.note_dependency(str(template))
        text = template.read_text(encoding="utf-8").replace("{filters}", filters(index))
        for name in ("first", "second"):
            plot = index["plots"][name]
            text = text.replace(f"{{{name}-title}}", html.escape(plot["title"]))
            text = text.replace(f"{{{name}-text}}", html.escape(plot["text"]))
        return [nodes.raw("", text, format="html", classes=["explorer"])]

    def about(self, index: dict[str, Any]) -> list[nodes.Node]:
        """What the data is, in the store's own words; as text, whatever it holds."""
        shown, total = len(index["ids"]), index["total"]
        many = f"all {total}" if shown == total else f"{shown} of {total}, evenly spread over the catalogue"
        most, size = index["limits"]
        text = (
            f"Sources of the store on this page: {many}. A page carries at most {most} sources "
            f"and {size / 1e6:g} megabytes; of a larger store it takes fewer, evenly spread over the rows."
        )
        found: list[nodes.Node] = [nodes.paragraph("", text)]
        if index["synthetic"]:
            found.append(nodes.paragraph("", "The store says of itself:"))
            found.append(nodes.block_quote("", nodes.paragraph("", index["synthetic"])))
        return found


def add_files(
    app: Sphinx, page: str, template: str, context: dict[str, Any], tree: nodes.document | None
) -> None:
    """Load the scripts and the style on a page that holds the explorer, and on no other."""
    if tree and any("explorer" in raw["classes"] for raw in tree.findall(nodes.raw)):
        for name in SCRIPTS:
            app.add_js_file(f"explorer/{name}", loading_method="defer")
        app.add_css_file("explorer/explorer.css", priority=900)


def copy_files(app: Sphinx, exception: Exception | None) -> None:
    """Put the scripts and the data into the site.

    Not by way of the sources' `_static`: Jupyter Book would load every script there on each page.
    """
    data = Path(app.srcdir, DATA)
    if exception or app.builder.format != "html" or not data.is_dir():
        return
    target = Path(app.outdir) / "_static" / "explorer"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(data, target / "data", ignore=shutil.ignore_patterns("index.json", "*.part"))
    for file in (LIBRARY, HERE / "explorer.js", HERE / "explorer.css"):
        shutil.copyfile(file, target / file.name)


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx about this extension."""
    app.add_directive("explorer", Explorer)
    app.connect("html-page-context", add_files)
    app.connect("build-finished", copy_files)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
