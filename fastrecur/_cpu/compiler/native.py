"""Kernels as things to be called from Python, and tables of calls.

A kernel is a native function ``int32 f(result, exception, *arguments)`` whose arguments are all 64 bits wide. Python
calls it by a trampoline: native code that reads the arguments from Python's objects (`trampolines.py`).

A `table` of kernels and their arguments is what threads share. Its items are runs of calls that follow each other; each
thread takes the next item until none is left.
"""

import ctypes
import functools
import sys

import numpy as np
from llvmlite import binding

from ..._arguments import messages as say
from ..._arguments.arrays import HEADER, address
from . import bundle, cache, python
from .records import (
    CALLS,
    CHAIN,
    HEAD,
    ITEMS,
    LEFT,
    MOST_ARGUMENTS,
    MOST_SCRATCH,
    PLACES,
    ROW,
    VALUES,
)  # fmt: skip

# What trampolines know of Python, by the names that it has there.
THINGS = {
    "_Py_NoneStruct": None, "fastrecur_type_error": TypeError, "fastrecur_ndarray": np.ndarray,
    "fastrecur_float": float,
}  # fmt: skip
_known = {}  # of a kernel that is called by a trampoline: its address and how many arguments it takes


def callable_of(code, symbol, arity):
    """Return the kernel of some machine code, which takes so many arguments, as something to be called from Python."""
    place = _loaded(code, symbol)[0]
    call = _prepared(place, [0] * arity, range(arity), arity, 0, True, ())
    _known[call] = place, arity
    return call


def _loaded(code, *symbols):
    """Return the addresses of functions in machine code, which stays in place for ever: a worker may be in it."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    empty = binding.parse_assembly("")
    empty.triple = binding.get_process_triple()
    engine = binding.create_mcjit_compiler(empty, binding.Target.from_triple(empty.triple).create_target_machine())
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    places = [engine.get_function_address(symbol) for symbol in symbols]
    engine.detach()
    if not all(places):
        raise RuntimeError(say.no_kernel(symbols))
    return places


def prepared(kernel, arguments, places, scratch, words, releases, owners):
    """Return what calls a kernel with all of its arguments but a few addresses: for calls in which each one counts.

    Of the kernel's ``arguments``, those in ``places`` are what is added to the addresses that are given, in that order,
    and the one in ``scratch`` will be the address of ``words`` zeros, made anew at each call. Python's lock is given up
    for the time of the call only if ``releases``. The other arguments may be addresses in the memory of ``owners``,
    which live as long as what is returned.
    """
    if words > MOST_SCRATCH:
        raise ValueError(say.kernel_scratch(MOST_SCRATCH, words))
    scratch = scratch if words else len(arguments)
    return _prepared(_checked(kernel, arguments), arguments, places, scratch, words, releases, owners)


def _checked(kernel, arguments):
    """Return a kernel's address, if it takes so many arguments."""
    place, arity = _known[kernel]
    if len(arguments) != arity:
        raise TypeError(say.kernel_arguments(arity, len(arguments)))
    return place


def _prepared(place, arguments, places, scratch, words, releases, owners):
    error, record = say.kernel_arguments(len(places), "%ld").encode(), np.zeros(VALUES + MOST_ARGUMENTS, np.int64)
    message = ctypes.cast(error, ctypes.c_void_p).value
    record[:PLACES] = place, len(arguments), scratch, words, releases, len(places), message
    record[PLACES : PLACES + len(places)] = places
    record[VALUES : VALUES + len(arguments)] = arguments
    return trampolines().make(address(record), (record, error, owners))


def is_native(calls):
    """Return whether all ``(function, *arguments)`` are kernels that a table may hold."""
    return all(call[0] in _known for call in calls)


def place_of(kernel):
    return _known[kernel][0]


def table(calls, chain=1):
    """Return calls, ``(kernel, *arguments)``, as an array for `workers`; an item is ``chain`` calls, done in order."""
    made = np.zeros(HEAD + ROW * len(calls), np.int64)
    items = -(-len(calls) // chain)
    made[LEFT], made[ITEMS], made[CALLS], made[CHAIN] = items, items, len(calls), chain
    for row, (kernel, *arguments) in zip(rows_of(made), calls, strict=True):
        # None is the rule, of which nothing is left in compiled code.
        row[: 2 + len(arguments)] = _checked(kernel, arguments), len(arguments), *(a or 0 for a in arguments)
    return made


def rows_of(table):
    return table[HEAD:].reshape(-1, ROW)


def with_addresses(table, addresses):
    """Return a copy of a table in which addresses are added to each call's first arguments, behind the rule."""
    table = table.copy()
    rows_of(table)[:, 3 : 3 + len(addresses)] += addresses
    return table


def run_alone(table):
    for row in rows_of(table):
        trampolines().enter_row(address(row))


# ---- Trampolines ----------------------------------------------------------------------------------------------------


class _Method(ctypes.Structure):
    """Python's PyMethodDef."""

    _fields_ = [
        ("name", ctypes.c_char_p), ("function", ctypes.c_void_p), ("flags", ctypes.c_int), ("doc", ctypes.c_char_p),
    ]  # fmt: skip


class Trampolines:
    """The native functions: what Python calls, and what C does.

    ``run(kernel, count, words)`` calls a kernel with so many words. ``enter(row)`` does so with a row of a table, from
    where C wants a function of one address: the start of a thread, an OpenMP team.
    """

    def __init__(self, symbols):
        for name, place in symbols.items():
            binding.add_symbol(name, place)
        for name, thing in THINGS.items():
            binding.add_symbol(name, id(thing))
        code = _trampolines()
        self.run, self.enter, prepared = _loaded(code, "run", "enter", "prepared")
        self.enter_row = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self.enter)
        self._method = python.keep_for_ever(_Method(b"kernel", prepared, python.FASTCALL, None))
        make = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.py_object)
        self._make = make(symbols["PyCFunction_NewEx"])

    def make(self, record, keep):
        """Return what calls the kernel of a record at an address, and keeps something as long as it is there."""
        return self._make(ctypes.addressof(self._method), record, keep)


@functools.cache
def trampolines():
    """Return the native functions, made at the first call."""
    with cache.making:
        return Trampolines(python.addresses(python.TRAMPOLINES))


def _trampolines():
    """Return the trampolines' machine code."""
    found = bundle.find(bundle.TRAMPOLINES)
    if found:
        return found.code

    def make():
        from . import trampolines

        return trampolines.compiled(), ""

    sources = cache.digest(bundle.TRAMPOLINES.source, "llvmlite")
    name = cache.name_of("native", sources, binding.get_process_triple(), sys.version, HEADER)
    return cache.find_or_make(name, make)[0]
