"""Trampolines, in LLVM's terms: what Python calls a kernel by, and what C does.

They are few and small, and written in the compiler's own terms: so a process that finds its kernels compiled does
without Numba, whose start takes longer than most of what it would be asked for.
"""

import contextlib

from llvmlite import binding, ir

from ..._arguments.arrays import HEADER
from ..vectors.conversions import call_llvm
from .records import (
    ARITY,
    ERROR,
    GIVEN,
    KERNEL,
    MOST_ARGUMENTS,
    MOST_SCRATCH,
    PLACES,
    RELEASES,
    SCRATCH,
    SCRATCH_WORDS,
    VALUES,
)  # fmt: skip

_I32, _I64, _VOID = ir.IntType(32), ir.IntType(64), ir.VoidType()


def compiled():
    """Return the machine code of the trampolines."""
    triple = binding.get_process_triple()
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
    wanted, error = _read(builder, record, GIVEN), _read(builder, record, ERROR)
    with builder.if_then(builder.icmp_signed("!=", count, wanted), likely=False):
        call_llvm(builder, "PyErr_Format", _I64, _thing(builder, "fastrecur_type_error"), error, more=[count])
        builder.ret(nothing)
    arity = _read(builder, record, ARITY)
    with _each(builder, arity) as k:
        _write(builder, words, k, _read(builder, record, builder.add(k, ir.Constant(_I64, VALUES))))
    with _each(builder, _read(builder, record, SCRATCH_WORDS)) as k:
        _write(builder, scratch, k, nothing)
    _write(builder, words, _read(builder, record, SCRATCH), scratch)
    with _each(builder, count) as k:
        place = _read(builder, record, builder.add(k, ir.Constant(_I64, PLACES)))
        argument = _read(builder, given, k)
        # A rule is None; nothing is left of it in compiled code.
        with builder.if_then(builder.icmp_signed("!=", argument, none)):
            number = _address_of(builder, argument)
            _write(builder, words, place, builder.add(_read(builder, words, place), number))
    failed = builder.icmp_signed("!=", call_llvm(builder, "PyErr_Occurred", _I64), nothing)
    with builder.if_then(failed, likely=False):  # an argument is no number
        builder.ret(nothing)
    kernel, releases = (_read(builder, record, k) for k in (KERNEL, RELEASES))
    with builder.if_else(builder.icmp_signed("!=", releases, nothing)) as (long, short):
        with long:
            state = call_llvm(builder, "PyEval_SaveThread", _I64)
            builder.call(run, [kernel, arity, words])
            call_llvm(builder, "PyEval_RestoreThread", _VOID, state)
        with short:
            builder.call(run, [kernel, arity, words])
    call_llvm(builder, "Py_IncRef", _VOID, none)
    builder.ret(none)
