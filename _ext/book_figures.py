"""Every picture says in words what it shows, and weighs little."""

from __future__ import annotations

from pathlib import Path

from docutils import nodes
from PIL import Image
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


def lighten_pictures(app: Sphinx, exception: Exception | None) -> None:
    """Store the site's figures with at most 256 colours each: a third of the bytes.

    Plots have few colours, so nobody sees a difference; the notebooks keep the full picture.
    """
    if exception or app.builder.format != "html":
        return
    for path in Path(app.outdir, "_images").glob("*.png"):
        with Image.open(path) as picture:
            if picture.mode == "P":
                continue
            flat = Image.new("RGB", picture.size, "white")
            flat.paste(picture, mask=picture.getchannel("A") if picture.mode == "RGBA" else None)
        small = flat.quantize(256, dither=Image.Dither.NONE)
        small.save(path, optimize=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx about this extension."""
    app.connect("doctree-read", require_alternative_text)
    app.connect("build-finished", lighten_pictures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
