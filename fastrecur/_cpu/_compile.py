"""From a kernel's Python function and the types behind its addresses to something that can be called.

Kernels are compiled on first use, and their machine code is kept on disk. A call goes straight to it: the types are
fixed by the signature, so nothing needs to be looked at again.
"""

import functools
import inspect
import pathlib
import sys

import numpy as np
from numba import types

from .. import _cache
from .. import _messages as say
from . import _arithmetic, _native  # noqa: F401 -- the former says how vectors are added and multiplied
from ._numba import circumstances, machine_code
from ._types import INTERPRETED, Address, Pointer, Rule

_SCRATCH = frozenset(("carry", "h0", "sums_a", "sums_b", "summaries", "products"))
_INTEGERS = frozenset(("lengths", "geometry", "starts", "counts"))
_NUMPY_NAMES = {"bf2": "bfloat16", "b1": "?"}


@functools.cache
def kernel(function, rule, carry, **elements):
    """Return the kernel for a rule, a carry element and its operands' elements; addresses are ints."""
    with _cache.making:
        return _made(function, rule, carry, tuple(elements.items()))


@functools.cache
def _made(function, rule, carry, elements):
    build = _interpreted if INTERPRETED else _compiled
    return build(function, rule, carry, dict(elements))


def _element(parameter, carry, elements):
    if parameter in _SCRATCH:
        return carry
    return "i8" if parameter in _INTEGERS else elements.get(parameter)


def _compiled(function, rule, carry, elements):
    parameters = inspect.signature(function).parameters
    if len(parameters) > _native.MOST_ARGUMENTS:
        raise TypeError(say.kernel_parameters(function, _native.MOST_ARGUMENTS))
    arguments = []
    for name in parameters:
        element = _element(name, carry, elements)
        if name == "rule":
            arguments.append(Rule(rule))
        elif element is None:
            arguments.append(types.int64)
        else:
            arguments.append(Pointer(element, scratch=name in _SCRATCH or name in _INTEGERS))
    made_for = function.__module__, rule, carry, sorted(elements.items())
    name = _cache.name_of(f"{function.__name__}-cpu", *made_for, *_circumstances())
    kept = _cache.find(name)
    if kept is None:
        kept = machine_code(function, types.none(*arguments))
        _cache.keep(name, *kept)
    return _native.callable_of(*kept, len(parameters))


@functools.cache
def _circumstances():
    """Return what machine code depends on beside the kernel."""
    sources = _cache.digest(pathlib.Path(__file__).parent, "numba", "llvmlite", "numpy")
    return sources, sys.version_info[:2], circumstances()


def _interpreted(function, rule, carry, elements):
    parameters = list(inspect.signature(function).parameters)

    def call(*values):
        arguments = []
        for name, value in zip(parameters, values, strict=True):
            element = _element(name, carry, elements)
            if name == "rule":
                arguments.append(rule)
            elif element is None:
                arguments.append(value)
            else:
                arguments.append(Address(value, np.dtype(_NUMPY_NAMES.get(element, element))))
        with np.errstate(all="ignore"):
            function(*arguments)

    return call
