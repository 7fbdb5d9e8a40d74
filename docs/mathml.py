"""Formulas as MathML, which browsers draw themselves: no script and no font is fetched, and nothing needs a network."""

import html
import re
from xml.etree import ElementTree

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

# Sizes of brackets, which MathML finds itself and docutils does not know.
SIZE = re.compile(r"\\[bB]igg?[lrm]?(?![a-zA-Z])")


ENTITY = re.compile(r"&(?!lt;|gt;|amp;)\w+;")  # HTML's, which XML does not know
NAMESPACE = "http://www.w3.org/1998/Math/MathML"
ElementTree.register_namespace("", NAMESPACE)


def mathml(tex, **options):
    """Return a formula as MathML. Of an accented letter docutils puts an index below, between it and the accent's."""
    text = ENTITY.sub(lambda found: html.unescape(found[0]), tex2mathml(SIZE.sub("", tex), **options))
    formula = ElementTree.fromstring(text)
    for part in formula.iter(f"{{{NAMESPACE}}}munderover"):
        letter, index, accent = part
        if accent.tag.endswith("}mo") and accent.get("stretchy") == "false":
            part.tag = f"{{{NAMESPACE}}}msub"
            accented = ElementTree.Element(f"{{{NAMESPACE}}}mover", accent="true")
            accented.extend([letter, accent])
            part[:] = [accented, index]
    return ElementTree.tostring(formula, "unicode")


def inline(translator, node):
    translator.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def block(translator, node):
    translator.body.append(f'<div class="math">{mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx):
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
