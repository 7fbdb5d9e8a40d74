"""Sphinx configuration. Build with `sphinx-build -n -W docs docs/_build`."""

import os
import sys
from pathlib import Path

from docutils import nodes

import fastrecur

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import addresses  # noqa: E402
import layers  # noqa: E402
import make_gallery  # noqa: E402
import reports  # noqa: E402
import search  # noqa: E402

make_gallery.write(HERE / "_static" / "layers.svg", layers.draw())
make_gallery.write_pages()

project = "fastrecur"
author = "fastrecur contributors"
copyright = "2026, fastrecur contributors"
release = version = fastrecur.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx.ext.viewcode",
    "numpydoc",
    "myst_parser",
    "sphinx_copybutton",
    "mathml",
    "whole_pages",
]
exclude_patterns = ["_build", "paper"]
templates_path = ["_templates"]
nitpicky = True
default_role = "autolink"  # a name in backticks is a link where it is one of ours
# Other libraries' names may be named; their documentation is linked where a build may use the network.
nitpick_ignore_regex = [("py:.*", r"(numpy|scipy|pandas|torch)\..*")]
if os.environ.get("DOCS_ONLINE"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "scipy": ("https://docs.scipy.org/doc/scipy", None),
        "pandas": ("https://pandas.pydata.org/docs", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
    }

autodoc_typehints = "none"
autosummary_generate_overwrite = True
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

# Every example in these pages is run.
doctest_test_doctest_blocks = "default"

# Buttons copy what a reader would type: no prompt and no result.
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

html_theme = "pydata_sphinx_theme"
html_title = "fastrecur"
html_logo = "_static/logo.svg"
html_favicon = "_static/logo.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_sidebars = {"*": ["whole-site"]}  # pages of a section show that section
html_baseurl, html_context, at_addresses = addresses.options(addresses.read(), version)
html_theme_options = {
    "logo": {"text": "fastrecur"},
    "show_toc_level": 2,
    "header_links_before_dropdown": 6,
    "navigation_with_keys": False,
    "footer_start": ["copyright"],
    "footer_end": [],
    **at_addresses,
}


def add_search_terms(app, page, source):
    """Give a page the index entries by which the search finds it first."""
    terms = [f"! {term}" for term, target in search.terms().items() if target == page]
    if terms:
        source[0] = f".. index:: {', '.join(terms)}\n\n{source[0]}"


def leave_targets_out(app, doctree):
    """Show reports of benchmarks without the project's own targets."""
    for block in doctree.findall(nodes.literal_block):
        if str(block.get("source", "")).endswith(".txt"):
            block.children[:] = [nodes.Text(reports.for_readers(block.astext()))]


def leave_listings_out(app, doctree):
    """Let the search find the text of a page, and not its listings: they have names of every library that they use."""
    for kind in (nodes.literal_block, nodes.doctest_block):
        for block in doctree.findall(kind):
            block["classes"].append("no-search")


def finish(app, page, template, context, doctree):
    """Give the page of the search what suggests a word for a misspelt one; link no file of a page that has none."""
    if page == "search":
        app.add_js_file("suggest.js", loading_method="defer")
    if page.startswith(addresses.MADE):
        context["theme_use_edit_page_button"] = False


def setup(app):
    app.connect("doctree-read", leave_targets_out)
    app.connect("doctree-read", leave_listings_out)
    app.connect("html-page-context", finish, priority=400)  # before the theme leaves out what is empty
    app.connect("source-read", add_search_terms)
