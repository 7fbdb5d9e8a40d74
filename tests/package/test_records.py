"""What is said of arguments in tests/records.py is said of all that there are, and of nothing else."""

import inspect

import pytest
from records import ARGUMENTS, FAMILIES, KINDS, NAMES, SHAPES, function, record

import fastrecur
from fastrecur import filters, returns, smoothing

UNRECORDED = {"get_num_threads", "set_num_threads", "show_config", "reference"}  # which take no series


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
