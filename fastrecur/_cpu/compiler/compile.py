"""From a kernel's Python function and the types behind its addresses to something that can be called.

Kernels are compiled on first use, and their machine code is kept on disk. A call goes straight to it: the types are
fixed by the signature, so nothing needs to be looked at again.
"""

import functools
import inspect
import sys

import numpy as np
from numba import types

from ..._arguments import messages as say
from ..vectors import arithmetic  # noqa: F401 -- it says how vectors are added and multiplied
from ..vectors.types import BITS, INTERPRETED, Address, Pointer, Rule
from . import cache, native
from .numba_internals import circumstances, machine_code

_OF_CARRY = frozenset(("carry", "h0", "sums_a", "sums_b", "summaries", "products", "segment_states"))
_INTEGERS = frozenset(("lengths", "geometry", "starts", "offsets"))
_NUMPY_DTYPES = {"bf2": BITS, "b1": np.dtype(bool)}


@functools.cache
def kernel(function, rule, carry, **elements):
    """Return the kernel for a rule, a carry element and its operands' elements; addresses are ints."""
    with cache.making:
        return _made(function, rule, carry, tuple(elements.items()))


@functools.cache  # for several threads that come first
def _made(function, rule, carry, elements):
    return (_interpreted if INTERPRETED else _compiled)(function, rule, carry, dict(elements))


def _element(parameter, carry, elements):
    if parameter in _OF_CARRY:
        return carry
    return "i8" if parameter in _INTEGERS else elements.get(parameter)


def _parameters(function):
    """Return for each parameter what it is a named tuple of (None: it is none), and the names of plain arguments."""
    parameters = []
    for name, parameter in inspect.signature(function).parameters.items():
        group = parameter.annotation
        parameters.append((None, (name,)) if group in (None, parameter.empty) else (group, group._fields))
    return parameters


def _compiled(function, rule, carry, elements):
    parameters = _parameters(function)
    count = sum(len(names) for _, names in parameters)
    if count > native.MOST_ARGUMENTS:
        raise TypeError(say.kernel_parameters(function, native.MOST_ARGUMENTS))

    def kind(name):
        element = _element(name, carry, elements)
        if name == "rule":
            return Rule(rule)
        if element is None:
            return types.int64
        return Pointer(element)

    arguments = []
    for group, names in parameters:
        kinds = tuple(map(kind, names))
        arguments.append(kinds[0] if group is None else types.BaseTuple.from_types(kinds, group))
    made_for = function.__module__, rule, carry, sorted(elements.items())
    name = cache.name_of(f"{function.__name__}-cpu", *made_for, *_circumstances())
    kept = cache.find_or_make(
        name, lambda: machine_code(function, types.none(*arguments)), _in_words(function, elements)
    )
    return native.callable_of(*kept, count)


def _in_words(function, elements):
    """Return what a kernel is, for people: its file, its name and its operands' dtypes."""
    names = [
        "bfloat16" if element == "bf2" else str(np.dtype(element)) for element in elements.values() if element != "b1"
    ]
    return f"{function.__module__.rpartition('.')[2]}.{function.__name__} of {', '.join(dict.fromkeys(names))}"


@functools.cache
def _circumstances():
    """Return what machine code depends on beside the kernel."""
    sources = cache.digest("cpu", "numba", "llvmlite", "numpy")
    return sources, sys.version_info[:2], circumstances()


def _interpreted(function, rule, carry, elements):
    parameters = _parameters(function)

    def argument(name, value):
        element = _element(name, carry, elements)
        if name == "rule":
            return rule
        return value if element is None else Address(value, _NUMPY_DTYPES.get(element, element))

    def call(*values):
        values, arguments = iter(values), []
        for group, names in parameters:
            own = [argument(name, next(values)) for name in names]
            arguments.append(own[0] if group is None else group(*own))
        with np.errstate(all="ignore"):
            function(*arguments)

    return call
