"""What runs by default is worth running: it has every public name, dtype, axis and direction."""

import ast
import importlib
import inspect
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from test_documentation import MODULES


def names_in(module, tests):
    """Return all words of a module, except those of its tests that are not among `tests`."""
    tree = ast.parse(Path(module.__file__).read_text())
    tree.body = [part for part in tree.body if not getattr(part, "name", "").startswith("test_") or part.name in tests]
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.fixture
def selected(request):
    """The tests that this run has, if it was given no names of tests."""
    config = request.config
    if {Path(place).name for place in config.args} != set(config.getini("testpaths")) or config.option.keyword:
        pytest.skip("only of a run of all files")
    return [item for item in request.session.items if isinstance(item, pytest.Function)]


def test_every_public_name_is_used(selected):
    tests = {}
    for item in selected:
        tests.setdefault(item.module, set()).add(item.originalname)
    used = {name for module, own in tests.items() for name in names_in(module, own)}
    for module in map(importlib.import_module, MODULES):
        for name in module.__all__:
            public = getattr(module, name)
            methods = vars(public) if inspect.isclass(public) and not issubclass(public, tuple) else {}
            wanted = {name, *(each for each, value in methods.items() if each[0] != "_" and inspect.isfunction(value))}
            assert wanted <= used | {"extra_repr"}, f"{module.__name__}: {wanted - used}"


def test_every_dtype_axis_and_direction_is_a_parameter(selected):
    values = [
        (name, value) for item in selected if hasattr(item, "callspec") for name, value in item.callspec.params.items()
    ]
    dtypes = {np.dtype(value) for name, value in values if name == "dtype" and isinstance(value, type)}
    floats = {np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.complex64, np.complex128}
    assert set(map(np.dtype, floats)) <= dtypes
    assert {0, 1, 2, -1} <= {value for name, value in values if name == "axis"}
    assert {False, True} <= {value for name, value in values if name == "reverse"}
