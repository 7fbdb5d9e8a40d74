"""Formulas as MathML, which browsers draw themselves: no script and no font is fetched, and nothing needs a network."""

import re

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

# Sizes of brackets, which MathML finds itself and docutils does not know.
SIZE = re.compile(r"\\[bB]igg?[lrm]?(?![a-zA-Z])")


def inline(translator, node):
    translator.body.append(tex2mathml(SIZE.sub("", node.astext())))
    raise nodes.SkipNode


def block(translator, node):
    translator.body.append(f'<div class="math">{tex2mathml(SIZE.sub("", node.astext()), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx):
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
