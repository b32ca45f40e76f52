"""Formulas as MathML, which today's browsers draw and read aloud by themselves.

The usual renderer is a script of 1.2 MB on every page with a formula, which draws after the page is
there. In JupyterLab the same formulas are drawn by its own.
"""

from __future__ import annotations

import re

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html import HTML5Translator

LOG = logging.getLogger(__name__)
# Where LaTeX leaves room: before a function's name, and after it unless a bracket follows.
ROOM = re.compile(
    r"(?<=</m[in]>)(?=\s*<mi[^>]*>\w+</mi>\s*<mo>&ApplyFunction;)|(?<=&ApplyFunction;</mo>)(?=\s*<m[in][ >])"
)
# As LaTeX does: one letter is slanted, but not a name of more, a capital Greek letter or a sign. Left to
# themselves browsers take slanted letters from another block of Unicode, and so from another font.
LETTER = re.compile(r"<mi(?: class=\"capital-greek\")?>(?=([a-zA-Zα-ωϑϕϵ]<)?)")
PUNCTUATION = re.compile(r"[.,;:!?)\]]+")
THIN_SPACE = '<mspace width="0.1667em"></mspace>'


def styled(letter: re.Match[str]) -> str:
    """The tag of a letter or a name; the style sheet slants its class."""
    return '<mi mathvariant="normal"' + (' class="slanted">' if letter[1] else ">")


def mathml(node: nodes.Element, as_block: bool) -> str:
    """The formula of a node; a mistake in it is a warning, which stops the build."""
    formula = node.astext()
    try:
        written = LETTER.sub(styled, tex2mathml(formula, as_block=as_block))
        return ROOM.sub(THIN_SPACE, written)
    except (ValueError, IndexError) as error:
        LOG.warning("cannot draw the formula %r: %s", formula, error, location=node)
        return ""


def keep_punctuation(app: Sphinx, document: nodes.document) -> None:
    """Let no line end between a formula and the comma after it, where browsers would break it."""
    for node in list(document.findall(nodes.math)):
        parent, after = node.parent, node.parent.index(node) + 1
        text = parent[after] if after < len(parent) else None
        if isinstance(text, nodes.Text) and (found := PUNCTUATION.match(text)):
            unbroken = nodes.inline("", "", node, nodes.Text(found[0]), classes=["unbroken"])
            parent[after - 1 : after + 1] = [unbroken, nodes.Text(text[found.end() :])]


def visit_inline(self: HTML5Translator, node: nodes.math) -> None:
    """Write a formula in a sentence."""
    self.body.append(self.starttag(node, "span", "", CLASS="math notranslate nohighlight"))
    self.body.append(mathml(node, as_block=False) + "</span>")
    raise nodes.SkipNode


def visit_block(self: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula of its own line, with its number when it has one."""
    self.body.append(self.starttag(node, "div", CLASS="math notranslate nohighlight"))
    if node["number"]:
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})')
        self.add_permalink_ref(node, "Link to this equation")
        self.body.append("</span>")
    # Reached by keyboard, for a formula that is wider than the page scrolls.
    self.body.append(mathml(node, as_block=True).replace("<math", '<math tabindex="0"', 1) + "</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx about this extension."""
    app.connect("doctree-read", keep_punctuation)
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
