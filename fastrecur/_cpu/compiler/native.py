"""Kernels as things to be called from Python, and tables of calls.

A kernel is a native function ``int32 f(result, exception, *arguments)`` whose arguments are all 64 bits wide. Python
calls it by a trampoline: native code that reads the arguments from Python's objects. Trampolines are few and small, and
written in the compiler's own terms: so a process that finds its kernels compiled does without Numba's compiler, whose
start takes longer than most of what it would be asked for.

A `table` of kernels and their arguments is what threads share. Its items are runs of calls that follow each other; each
thread takes the next item until none is left.
"""

import contextlib
import ctypes
import functools
import sys

import numpy as np
from llvmlite import binding, ir

from ..._arguments import messages as say
from ..._arguments.arrays import HEADER, address
from ..vectors.conversions import call_llvm
from . import cache, python

MOST_ARGUMENTS = 32
MOST_SCRATCH = 256  # words of memory that a prepared call may ask for

# Words of a prepared call: the kernel, how many arguments it takes, which of them is the address of how much memory,
# whether Python's lock is given up, how many arguments are given, the error where it is another number.
_FIELDS = _KERNEL, _ARITY, _SCRATCH, _SCRATCH_WORDS, _RELEASES, _GIVEN, _ERROR = range(7)
_PLACES = len(_FIELDS)  # Then which arguments are given,
_VALUES = _PLACES + MOST_ARGUMENTS  # and all arguments, of those what is added.

# Words of a table: how many items are left for threads that have no other counter (see `workers`), on a cache line of
# its own; how many items, calls and calls of an item there are; and how many items are done, again on its own.
LEFT, ITEMS, CALLS, CHAIN, DONE = 0, 8, 9, 10, 16
HEAD = 24  # Then a row for each call: the kernel, how many arguments it takes, and these.
ROW = 2 + MOST_ARGUMENTS

_I32, _I64, _VOID = ir.IntType(32), ir.IntType(64), ir.VoidType()
# What trampolines know of Python, by the names that it has there.
_THINGS = {
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
    error, record = say.kernel_arguments(len(places), "%ld").encode(), np.zeros(_VALUES + MOST_ARGUMENTS, np.int64)
    message = ctypes.cast(error, ctypes.c_void_p).value
    record[:_PLACES] = place, len(arguments), scratch, words, releases, len(places), message
    record[_PLACES : _PLACES + len(places)] = places
    record[_VALUES : _VALUES + len(arguments)] = arguments
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
        for name, thing in _THINGS.items():
            binding.add_symbol(name, id(thing))
        triple = binding.get_process_triple()
        name = cache.name_of("native", cache.digest("cpu", "llvmlite"), triple, sys.version, HEADER)
        code, _ = cache.find_or_make(name, lambda: (_compiled(triple), ""))
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


def _compiled(triple):
    module = ir.Module(name="fastrecur")
    module.triple = triple
    run = _write_run(module)
    _write_enter(module, run)
    _write_prepared(module, run)
    parsed = binding.parse_assembly(str(module))
    parsed.verify()
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding.Target.from_triple(triple).create_target_machine(opt=2).emit_object(parsed)


def _function(module, name, result, arguments):
    function = ir.Function(module, ir.FunctionType(result, [_I64] * arguments), name)
    return function, ir.IRBuilder(function.append_basic_block("entry"))


def _place(builder, base, word):
    """Return the address of a word: of a number of it, or of one that is computed."""
    offset = ir.Constant(_I64, 8 * word) if isinstance(word, int) else builder.mul(word, ir.Constant(_I64, 8))
    return builder.inttoptr(builder.add(base, offset), _I64.as_pointer())


def _read(builder, base, word):
    return builder.load(_place(builder, base, word), typ=_I64)


def _write(builder, base, word, value):
    builder.store(value, _place(builder, base, word))


@contextlib.contextmanager
def _each(builder, count):
    """Write a loop around what is written inside; give the number of the turn."""
    test, body, end = (builder.function.append_basic_block(name) for name in ("test", "body", "end"))
    with builder.goto_entry_block():
        counter = builder.alloca(_I64)
    builder.store(ir.Constant(_I64, 0), counter)
    builder.branch(test)
    builder.position_at_end(test)
    k = builder.load(counter, typ=_I64)
    builder.cbranch(builder.icmp_signed("<", k, count), body, end)
    builder.position_at_end(body)
    yield k
    builder.store(builder.add(k, ir.Constant(_I64, 1)), counter)
    builder.branch(test)
    builder.position_at_end(end)


def _room(builder, words=1):
    """Return the address of some words on the stack."""
    return builder.ptrtoint(builder.alloca(_I64, words), _I64)


def _thing(builder, name):
    return builder.ptrtoint(builder.module.globals.get(name) or ir.GlobalVariable(builder.module, _I64, name), _I64)


def _write_run(module):
    function, builder = _function(module, "run", _VOID, 3)
    kernel, count, words = function.args
    # Room for a result, which is none, and for an exception, which kernels do not raise.
    room = [_room(builder) for _ in range(2)]
    after = function.append_basic_block("after")
    choice = builder.switch(count, after)
    for n in range(1, MOST_ARGUMENTS + 1):
        block = function.append_basic_block(f"with_{n}")
        choice.add_case(ir.Constant(_I64, n), block)
        builder.position_at_end(block)
        kind = ir.FunctionType(_I32, [_I64] * (2 + n))
        given = [_read(builder, words, k) for k in range(n)]
        builder.call(builder.inttoptr(kernel, kind.as_pointer()), [*room, *given])
        builder.branch(after)
    builder.position_at_end(after)
    builder.ret_void()
    return function


def _write_enter(module, run):
    function, builder = _function(module, "enter", _VOID, 1)
    (row,) = function.args
    words = builder.add(row, ir.Constant(_I64, 16))
    builder.call(run, [_read(builder, row, 0), _read(builder, row, 1), words])
    builder.ret_void()


def _address_of(builder, thing):
    """Return what stands for an argument: an array's first number, a float's own; another number is an address."""
    # Each object begins with a header, which ends with its type; then an array has its pointer, a float its number.
    kind = _read(builder, thing, HEADER // 8 - 1)
    is_array, is_float = (
        builder.icmp_signed("==", kind, _thing(builder, name)) for name in ("fastrecur_ndarray", "fastrecur_float")
    )
    with builder.goto_entry_block():
        found = builder.alloca(_I64)
    with builder.if_else(is_array) as (array, other):
        with array:
            builder.store(_read(builder, thing, HEADER // 8), found)
        with other, builder.if_else(is_float) as (own, number):
            with own:
                builder.store(builder.add(thing, ir.Constant(_I64, HEADER)), found)
            with number:
                builder.store(call_llvm(builder, "PyLong_AsLongLong", _I64, thing), found)
    return builder.load(found, typ=_I64)


def _write_prepared(module, run):
    """``prepared(self, given, count)``: what Python calls; ``self`` is the address of a record."""
    function, builder = _function(module, "prepared", _I64, 3)
    this, given, count = function.args
    nothing, none = ir.Constant(_I64, 0), _thing(builder, "_Py_NoneStruct")
    words, scratch = _room(builder, MOST_ARGUMENTS + 1), _room(builder, MOST_SCRATCH)
    record = call_llvm(builder, "PyLong_AsLongLong", _I64, this)
    wanted, error = _read(builder, record, _GIVEN), _read(builder, record, _ERROR)
    with builder.if_then(builder.icmp_signed("!=", count, wanted), likely=False):
        call_llvm(builder, "PyErr_Format", _I64, _thing(builder, "fastrecur_type_error"), error, more=[count])
        builder.ret(nothing)
    arity = _read(builder, record, _ARITY)
    with _each(builder, arity) as k:
        _write(builder, words, k, _read(builder, record, builder.add(k, ir.Constant(_I64, _VALUES))))
    with _each(builder, _read(builder, record, _SCRATCH_WORDS)) as k:
        _write(builder, scratch, k, nothing)
    _write(builder, words, _read(builder, record, _SCRATCH), scratch)
    with _each(builder, count) as k:
        place = _read(builder, record, builder.add(k, ir.Constant(_I64, _PLACES)))
        argument = _read(builder, given, k)
        # A rule is None; nothing is left of it in compiled code.
        with builder.if_then(builder.icmp_signed("!=", argument, none)):
            number = _address_of(builder, argument)
            _write(builder, words, place, builder.add(_read(builder, words, place), number))
    failed = builder.icmp_signed("!=", call_llvm(builder, "PyErr_Occurred", _I64), nothing)
    with builder.if_then(failed, likely=False):  # an argument is no number
        builder.ret(nothing)
    kernel, releases = (_read(builder, record, k) for k in (_KERNEL, _RELEASES))
    with builder.if_else(builder.icmp_signed("!=", releases, nothing)) as (long, short):
        with long:
            state = call_llvm(builder, "PyEval_SaveThread", _I64)
            builder.call(run, [kernel, arity, words])
            call_llvm(builder, "PyEval_RestoreThread", _VOID, state)
        with short:
            builder.call(run, [kernel, arity, words])
    call_llvm(builder, "Py_IncRef", _VOID, none)
    builder.ret(none)
