"""Run kernels on threads that know nothing of Python: such as an OpenMP team's.

A kernel is a native function ``int32 f(result, exception, *arguments)`` whose arguments are all 64 bits wide. `worker`
is what every thread of a team runs: of a table of kernels and their arguments it takes every n-th, n being the team's
size.
"""

import functools

import numpy as np
from llvmlite import ir
from numba import cfunc, types
from numba.extending import intrinsic

MOST_ARGUMENTS = 32
_ROW = 2 + MOST_ARGUMENTS  # a kernel's address, how many arguments it takes, and these
_HEAD = 3  # the addresses of two functions, of a thread's number and of the team's size, and how many rows there are

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_places = {}


def register(call, compiled):
    """Remember the native function behind what `_compile.kernel` returns."""
    name = compiled.fndesc.llvm_func_name
    _places[call] = compiled.library.get_pointer_to_function(name), compiled.library


def is_native(calls):
    """Return whether all ``(function, *arguments)`` are kernels."""
    return all(call[0] in _places for call in calls)


def table(calls, thread_number, team_size):
    """Return what `worker` wants, as an array, for ``(kernel, *arguments)`` calls."""
    rows = np.zeros(_HEAD + _ROW * len(calls), np.int64)
    rows[:_HEAD] = thread_number, team_size, len(calls)
    for k, (kernel, *arguments) in enumerate(calls):
        if arguments[0] is None:  # the rule, of which nothing is left in compiled code
            arguments[0] = 0
        at = _HEAD + _ROW * k
        rows[at : at + 2 + len(arguments)] = _places[kernel][0], len(arguments), *arguments
    return rows


def _peek_code(typingctx, address):
    def codegen(context, builder, signature, args):
        return builder.load(builder.inttoptr(args[0], _I64.as_pointer()), typ=_I64)

    return types.int64(types.int64), codegen


def _ask_code(typingctx, function):
    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(_I32, [])
        return builder.sext(builder.call(builder.inttoptr(args[0], kind.as_pointer()), []), _I64)

    return types.int64(types.int64), codegen


def _call_code(typingctx, row):
    def codegen(context, builder, signature, args):
        base = builder.inttoptr(args[0], _I64.as_pointer())

        def word(k):
            return builder.load(builder.gep(base, [ir.Constant(_I64, k)], source_etype=_I64), typ=_I64)

        function, count = word(0), word(1)
        # Room for the result, which is none, and for an exception, which kernels do not raise.
        room = [builder.alloca(_I64), builder.alloca(_I64)]
        done = builder.append_basic_block("done")
        choice = builder.switch(count, done)
        for n in range(1, MOST_ARGUMENTS + 1):
            block = builder.append_basic_block(f"with_{n}")
            choice.add_case(ir.Constant(_I64, n), block)
            builder.position_at_end(block)
            kind = ir.FunctionType(_I32, [room[0].type, room[1].type, *[_I64] * n])
            builder.call(builder.inttoptr(function, kind.as_pointer()), [*room, *(word(2 + k) for k in range(n))])
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.none(types.int64), codegen


_peek, _ask, _call = intrinsic(_peek_code), intrinsic(_ask_code), intrinsic(_call_code)


def _work(at):
    thread, threads, rows = _ask(_peek(at)), _ask(_peek(at + 8)), _peek(at + 16)
    for k in range(thread, rows, threads):
        _call(at + 8 * (_HEAD + _ROW * k))


@functools.cache
def worker():
    """Return the address of the function that every thread of a team runs, of a table's address."""
    signature = types.void(types.int64)
    try:
        function = cfunc(signature, cache=True)(_work)
    except Exception:  # no place to cache: compile and go on
        function = cfunc(signature)(_work)
    _keep.append(function)
    return function.address


_keep = []
