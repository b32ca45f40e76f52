"""Every picture says in words what it shows; one that does not stops the build."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

LOG = logging.getLogger(__name__)


def require_alternative_text(app: Sphinx, document: nodes.document) -> None:
    """Warn about each image without alternative text; under `-W` this ends the build.

    Sphinx itself would write the file's name as the text, which no accessibility checker notices.
    """
    for image in document.findall(nodes.image):
        if not image.get("alt", "").strip() and "decorative" not in image.get("classes", []):
            LOG.warning(
                "image without alternative text: %s. In a notebook, add to the cell's metadata "
                '{"mystnb": {"image": {"alt": "..."}}}; in Markdown, ![text](file).',
                image.get("uri"),
                location=image if image.line else image.parent,
                type="book",
                subtype="alt",
            )


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx about this extension."""
    app.connect("doctree-read", require_alternative_text)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
