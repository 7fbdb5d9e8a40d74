"""API pages without a look elsewhere: what a docstring leaves to a relative's stands on its own page, too.

A docstring that says that its other arguments, result or errors are those of another function is short in Python's
`help`, where that function is one line away. On its page the sections that it leaves out follow, and the gallery's
examples that use the name.
"""

import ast
import inspect
import sys
from pathlib import Path

import make_gallery
from numpydoc.docscrape import NumpyDocString

import fastrecur.returns
import fastrecur.smoothing
import fastrecur.torch

_RELATIVES = {
    fastrecur.smoothing: {
        "ewm_sum": "ewm_mean", "ewm_var": "ewm_mean", "ewm_std": "ewm_var", "ewm_cov": "ewm_var",
        "ewm_corr": "ewm_cov", "ewm_filtfilt": "ewm_mean", "kama": "ewm_mean",
    },
    fastrecur.returns: {"gae": "discounted_returns", "lambda_returns": "gae", "vtrace": "gae"},
}  # fmt: skip


def sections(module, name):
    """Return the parameters by name, the results and the errors of a function, or those of a relative."""
    function = getattr(module, name)
    page, relative = NumpyDocString(inspect.getdoc(function)), _RELATIVES[module].get(name)
    parameters = {each: entry for entry in page["Parameters"] for each in entry.name.split(", ")}
    results, errors = page["Returns"], page["Raises"]
    if relative:
        theirs = sections(module, relative)
        own = {each: entry for each, entry in parameters.items() if not " ".join(entry.desc).startswith("As for ")}
        parameters = {
            each: own.get(each) or theirs[0].get(each) or parameters[each]
            for each in inspect.signature(function).parameters
        }
        results, errors = results or theirs[1], errors or theirs[2]
    return parameters, results, errors


def complete(app, what, name, thing, options, lines):
    """Write what a docstring leaves out, and links to examples, before numpydoc reads it."""
    module, _, name = name.rpartition(".")
    module = sys.modules.get(module)
    if name in _RELATIVES.get(module, {}):
        page, whole = NumpyDocString("\n".join(lines)), sections(module, name)
        page["Parameters"] = list({id(entry): entry for entry in whole[0].values()}.values())
        page["Returns"], page["Raises"] = whole[1:]
        lines[:] = str(page).split("\n")
    examples = examples_of(name) if what in ("function", "class") else []
    if examples:
        text = ["In the gallery: " + ", ".join(f":doc:`/gallery/{example}`" for example in examples) + ".", ""]
        if "Examples" not in lines:
            lines += ["", "Examples", "--------"]
        where = lines.index("Examples") + 2
        lines[where:where] = text


def examples_of(name):
    """Return the gallery's examples that use a public name."""
    return [example for example in make_gallery.ALL if name in _names(make_gallery.EXAMPLES / f"{example}.py")]


def _names(path: Path):
    tree = ast.walk(ast.parse(path.read_text()))
    return {getattr(node, "id", None) or getattr(node, "attr", None) for node in tree}


def setup(app):
    app.connect("autodoc-process-docstring", complete, priority=400)  # numpydoc's has 500
    return {"parallel_read_safe": True}
