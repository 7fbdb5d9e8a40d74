"""The stubs have the names, the arguments and the defaults of the code. mypy checks what they say: user_code.py."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import fastrecur

PACKAGE = Path(fastrecur.__file__).parent
STUBS = {
    "fastrecur.filters": "filters/__init__.pyi",
    "fastrecur.recurrence": "recurrence.pyi",
    "fastrecur.returns": "returns/__init__.pyi",
    "fastrecur.selective": "selective.pyi",
    "fastrecur.smoothing": "smoothing/__init__.pyi",
}


def functions(name):
    """Return the functions of a stub, with all their overloads."""
    found = {}
    for node in ast.parse((PACKAGE / STUBS[name]).read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found.setdefault(node.name, []).append(node.args)
    return found


@pytest.mark.parametrize("name", STUBS)
def test_stub_has_the_arguments_of_the_code(name):
    module = importlib.import_module(name)
    for function, overloads in functions(name).items():
        parameters = inspect.signature(getattr(module, function)).parameters.values()
        positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        keyword = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        for arguments in overloads:
            assert [a.arg for a in arguments.args] == positional, function
            assert [a.arg for a in arguments.kwonlyargs] == keyword, function
            pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
            given = {a.arg: ast.literal_eval(default) for a, default in pairs if default is not None}
            assert all(value == defaults[argument] for argument, value in given.items()), function
            assert keyword == [*given] or set(keyword) - set(given) in ({"return_state"}, {"return_zf"}), function


@pytest.mark.parametrize("name", STUBS)
def test_stub_has_the_names_of_the_code(name):
    text = ast.parse((PACKAGE / STUBS[name]).read_text())
    (names,) = (node.value for node in text.body if isinstance(node, ast.Assign) and node.targets[0].id == "__all__")
    assert ast.literal_eval(names) == importlib.import_module(name).__all__
    again = {alias.asname for node in text.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(ast.literal_eval(names)) <= {*functions(name), *again}
