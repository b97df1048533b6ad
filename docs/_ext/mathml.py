"""Formulas as MathML, which docutils makes at build time and browsers render without scripts or a network."""

import re
from html import escape
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

log = logging.getLogger(__name__)


def visit_inline(self: Any, node: nodes.math) -> None:
    self.body.append(_converted(node, as_block=False))
    raise nodes.SkipNode


def visit_block(self: Any, node: nodes.math_block) -> None:
    self.body.append(self.starttag(node, "div", CLASS="math"))
    self.body.append(_converted(node, as_block=True))
    if node["number"]:
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})')
        self.add_permalink_ref(node, "Link to this equation")
        self.body.append("</span>")
    self.body.append("</div>")
    raise nodes.SkipNode


def _converted(node: nodes.Element, as_block: bool) -> str:
    tex = node.astext()
    if re.search(r"frac\s*[^{\s]", tex):
        log.warning(r"docutils reads \frac12 as 12 over what follows; write \frac{1}{2}: %s", tex, location=node)
    try:
        return tex2mathml(tex, as_block=as_block)
    except (MathError, IndexError) as error:  # IndexError for a superscript without a base
        log.warning("docutils cannot read this formula (%s): %s", error, tex, location=node)
        return f"<code>{escape(tex)}</code>"


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("mathml", inline_renderers=(visit_inline, None), block_renderers=(visit_block, None))
    return {"parallel_read_safe": True}
