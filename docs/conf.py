"""Sphinx configuration. Build with `sphinx-build -n -W docs docs/_build`."""

import sys
from pathlib import Path

import fastrecur

sys.path.insert(0, str(Path(__file__).parent))
import layers  # noqa: E402

(Path(__file__).parent / "_static" / "layers.svg").write_text(layers.draw())

project = "fastrecur"
author = "fastrecur contributors"
copyright = "2026, fastrecur contributors"
release = version = fastrecur.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx.ext.mathjax",
    "numpydoc",
    "myst_parser",
]
exclude_patterns = ["_build"]
nitpicky = True
default_role = "autolink"  # a name in backticks is a link where it is one of ours
# Other libraries' names may be named; their documentation is not linked.
nitpick_ignore_regex = [("py:.*", r"(numpy|scipy|pandas|torch)\..*")]

autodoc_typehints = "none"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

# Every example in these pages is run.
doctest_test_doctest_blocks = "default"

html_theme = "pydata_sphinx_theme"
html_title = "fastrecur"
html_static_path = ["_static"]
html_show_sourcelink = False
html_sidebars = {"*": []}  # pages that are no part of a section have none to show
html_theme_options = {"show_toc_level": 2, "navigation_with_keys": False}
