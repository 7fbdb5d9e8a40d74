"""A kernel's function, and from it and the types behind its addresses to machine code, or to a call of it as Python."""

import importlib
import inspect

import numpy as np
from numba import types

from ..._arguments import messages as say
from ..vectors import arithmetic  # noqa: F401 -- it says how vectors are added and multiplied
from ..vectors.types import BITS, Address, Pointer, Rule
from .numba_internals import machine_code
from .records import MOST_ARGUMENTS

_OF_CARRY = frozenset(("carry", "h0", "sums_a", "sums_b", "summaries", "products", "segment_states"))
_INTEGERS = frozenset(("lengths", "geometry", "starts", "offsets"))
_NUMPY_DTYPES = {"bf2": BITS, "b1": np.dtype(bool)}


def function_of(name):
    file, _, function = name.rpartition(".")
    return getattr(importlib.import_module(f"...kernels.{file}", __name__), function)


def dtypes_of(wanted):
    """Return the names of a kernel's dtypes."""
    names = ["bfloat16" if e == "bf2" else str(np.dtype(e)) for _, e in wanted.elements if e != "b1"]
    return list(dict.fromkeys(names))


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


def signature_of(wanted, function):
    """Return the types of a kernel's arguments, and how many numbers these are."""
    parameters, elements = _parameters(function), dict(wanted.elements)
    count = sum(len(names) for _, names in parameters)
    if count > MOST_ARGUMENTS:
        raise TypeError(say.kernel_parameters(function, MOST_ARGUMENTS))

    def kind(name):
        element = _element(name, wanted.carry, elements)
        if name == "rule":
            return Rule(wanted.rule)
        if element is None:
            return types.int64
        return Pointer(element)

    arguments = []
    for group, names in parameters:
        kinds = tuple(map(kind, names))
        arguments.append(kinds[0] if group is None else types.BaseTuple.from_types(kinds, group))
    return types.none(*arguments), count


def compiled(wanted):
    """Return the machine code of a kernel, its symbol in there and how many arguments it takes."""
    function = function_of(wanted.name)
    signature, count = signature_of(wanted, function)
    return *machine_code(function, signature), count


def interpreted(wanted):
    """Return a kernel as Python."""
    function, elements = function_of(wanted.name), dict(wanted.elements)
    parameters = _parameters(function)

    def argument(name, value):
        element = _element(name, wanted.carry, elements)
        if name == "rule":
            return wanted.rule
        return value if element is None else Address(value, _NUMPY_DTYPES.get(element, element))

    def call(*values):
        values, arguments = iter(values), []
        for group, names in parameters:
            own = [argument(name, next(values)) for name in names]
            arguments.append(own[0] if group is None else group(*own))
        with np.errstate(all="ignore"):
            function(*arguments)

    return call
