"""From a kernel's Python function and the types behind its addresses to something that can be called.

Kernels are compiled on first use and cached on disk. Calling goes straight to the compiled entry point: the types are
fixed by the signature, so nothing needs to be looked at again.
"""

import functools
import hashlib
import inspect
import pathlib
from types import FunctionType

import numpy as np
from numba import njit, types

from .. import _messages as say
from . import _native
from ._memory import INTERPRETED, Address, Pointer, Rule

_SCRATCH = frozenset(("carry", "h0", "sums_a", "sums_b", "summaries"))
_INTEGERS = frozenset(("lengths", "geometry", "starts", "counts"))
_NUMPY_NAMES = {"bf2": "bfloat16", "b1": "?"}


@functools.cache
def kernel(function, rule, carry, **elements):
    """Return the kernel for a rule, a carry element and its operands' elements; addresses are ints."""
    build = _interpreted if INTERPRETED else _compiled
    return build(function, rule, carry, elements)


def _element(parameter, carry, elements):
    if parameter in _SCRATCH:
        return carry
    return "i8" if parameter in _INTEGERS else elements.get(parameter)


def _compiled(function, rule, carry, elements):
    parameters = inspect.signature(function).parameters
    arguments = []
    for name in parameters:
        element = _element(name, carry, elements)
        if name == "rule":
            arguments.append(Rule(rule))
        elif element is None:
            arguments.append(types.int64)
        else:
            arguments.append(Pointer(element, scratch=name in _SCRATCH or name in _INTEGERS))
    signature = types.none(*arguments)
    try:
        return _entry_point(_dispatcher(function, True), signature)
    except Exception:  # no place to cache, or one that cannot be read or written: compile and go on
        return _entry_point(_dispatcher(function, False), signature)


def cache_folder():
    """Return where compiled kernels are kept: this folder's part of numba's cache. Raise if no place can be written."""
    if INTERPRETED:
        raise RuntimeError(say.no_compiler())
    return njit(cache=True)(_element).stats.cache_path


@functools.cache
def _digest():
    """Return a name for the present state of the sources that kernels are made of.

    Numba's cache looks at the file of the kernel alone, and would serve a kernel whose helpers have changed since.
    """
    here = pathlib.Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted([*here.glob("*.py"), here.parent / "_pooling.py", here.parent / "_steps.py"]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


@functools.cache
def _dispatcher(function, cache):
    if cache:
        name = f"{function.__name__}_{_digest()}"
        function = FunctionType(function.__code__, function.__globals__, name)
        function.__qualname__ = name
    return njit(nogil=True, cache=cache, no_cfunc_wrapper=True)(function)


def _entry_point(dispatcher, signature):
    dispatcher.compile(signature)
    compiled = dispatcher.overloads[signature.args]
    _native.register(compiled.entry_point, compiled)
    return compiled.entry_point


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
