"""What runs by default is worth running: every public name, dtype, axis, direction, traversal and example."""

import ast
import importlib.util
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


# Tests of which some case runs by default: of each traversal, in both directions of time,
TRAVERSALS = {
    "rows": "test_rows.test_the_bits_are_those_of_contiguous_time",
    "gradients of rows": "test_rows.test_the_bits_of_gradients_are_those_of_contiguous_time",
    "narrow rows": "test_narrow.test_the_bits_are_those_of_contiguous_time",
    "rows shared among threads": "test_by_time.test_the_bits_are_those_of_one_walk",
    "packed": "test_packed.test_the_bits_are_those_of_neighbouring_lanes",
    "transpose8": "test_transpose8.test_the_bits_are_those_of_neighbouring_lanes",
    "scan": "test_long_lanes.test_gates_at_both_ends",
    "segments": "test_segments.test_nan_stops_at_borders",
    "lengths": "test_lengths.test_ragged",
}
# and of what each call rests on.
SHOWN = {
    "all kernels, as Python": "test_interpreted.test_kernels_as_python",
    "a GPU's series side by side": "test_gpu_kernels.test_lanes",
    "a GPU's series one by one": "test_gpu_kernels.test_contiguous_time",
    "torch's operators": "test_torch_compile.test_operators_are_what_they_claim",
    "torch's transforms": "test_torch_transforms.test_transform",
    "gradients of gradients": "test_torch_gradients.test_first_and_second_order",
    "later calls": "test_second_calls.test_recurrences",
    "later calls of tensors": "test_torch_second_calls.test_recurrences",
}


@pytest.mark.parametrize("what", TRAVERSALS | SHOWN)
def test_what_is_shown(selected, what):
    module, name = (TRAVERSALS | SHOWN)[what].split(".")
    if "gpu" in module and importlib.util.find_spec("numba_cuda") is None:
        pytest.skip("without numba-cuda there are no tests of GPU kernels")
    cases = [item for item in selected if (item.module.__name__.split(".")[-1], item.originalname) == (module, name)]
    assert cases
    if what in TRAVERSALS:
        assert {case.callspec.params.get("reverse") for case in cases} in ({False, True}, {None})


def test_every_example_is_run(selected, request):
    """README's, and of each public name that has one in its docstring."""
    examples = {item.name for item in request.session.items if isinstance(item, pytest.DoctestItem)}
    wanted = {"README.md"}
    for module in map(importlib.import_module, MODULES):
        public = [getattr(module, name) for name in module.__all__]
        wanted |= {f"{each.__module__}.{each.__qualname__}" for each in public if ">>>" in (each.__doc__ or "")}
    assert wanted <= examples, wanted - examples
