"""What is said of arguments in tests/records.py is said of all that there are, and of nothing else."""

import inspect

import numpy as np
import pytest
from promised import FUNCTIONS, call, draw, operands
from records import ARGUMENTS, FAMILIES, KINDS, NAMES, SHAPES, function, record

import fastrecur
from fastrecur import filters, returns, smoothing

UNRECORDED = {"get_num_threads", "set_num_threads", "show_config", "reference"}  # which take no series
UNRECORDED |= {"forecast", "fit_holt_winters"}  # which take, or return, states alone


def test_every_public_function_has_a_record():
    for module in fastrecur, filters, returns, smoothing:
        place = module.__name__.removeprefix("fastrecur").removeprefix(".")
        for name in set(module.__all__) - UNRECORDED:
            path = f"{place}.{name}" if place else name
            assert path in NAMES or not inspect.isroutine(getattr(module, name)), path


@pytest.mark.parametrize("name", NAMES)
def test_words(name):
    pytest.importorskip("torch")
    found = record(name)
    for given, argument in found.arguments.items():
        assert argument.kind in KINDS, given
        assert argument.shape in SHAPES, given
    for shape in found.results.values():
        assert shape in SHAPES or shape in found.arguments
    if found.vjp is not None:
        assert found.arguments.keys() - {"return_state", "out"} <= record(found.vjp).arguments.keys()


def test_no_row_is_of_nothing():
    pytest.importorskip("torch")
    used = set()
    for own, functions in FAMILIES.values():
        given = set().union(*(inspect.signature(function(name)).parameters for name in functions))
        assert own.keys() <= given
        used |= given - own.keys()
    assert ARGUMENTS.keys() <= used
    words = [argument for own, _ in FAMILIES.values() for argument in (*own.values(), *ARGUMENTS.values())]
    assert {word.kind for word in words} == KINDS.keys()
    assert {word.shape for word in words} == SHAPES.keys()


def answers(name, given):
    """Return whether a call takes what it is given."""
    try:
        call(name, given)
    except (TypeError, ValueError):
        return False
    return True


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_may_be_complex(name):
    given, told = draw(name, dtype="f8"), record(name).arguments
    for argument, array in operands(name, given).items():
        if told[argument].kind in ("result", "cotangent", "cotangent of the state"):  # which follow the result
            continue
        assert answers(name, given | {argument: array + 0.1j}) == told[argument].complex, argument


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_may_be_a_number(name):
    given, told = draw(name, dtype="f8"), record(name).arguments
    for argument, array in operands(name, given).items():
        if told[argument].kind == "signal":  # which may be a number where others have a shape
            continue
        own = {a: v for a, v in given.items() if a not in ("zi", "grad_zf")} if argument in ("a", "b") else given
        number = bool(array.flat[0]) if array.dtype == bool else 0.5
        assert answers(name, own | {argument: number}) == told[argument].number, argument


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_may_be_on_the_host(name):
    torch = pytest.importorskip("torch")
    given, told = draw(name, dtype="f8"), record(name).arguments
    tensors = given | {argument: torch.tensor(array) for argument, array in operands(name, given).items()}
    arrays = operands(name, given)
    for argument, array in arrays.items() if len(arrays) > 1 else ():
        assert answers(name, tensors | {argument: np.array(array)}) == told[argument].host, argument
