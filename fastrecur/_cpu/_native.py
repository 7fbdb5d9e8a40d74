"""Native code that calls kernels: from Python, or on threads, an OpenMP team's or workers of our own.

A kernel is a native function ``int32 f(result, exception, *arguments)`` whose arguments are all 64 bits wide. Of a
`table` of kernels and their arguments, each of n threads takes every n-th. The functions below are few and small, and
written in the compiler's own terms: so a process that finds its kernels compiled does without Numba's compiler, whose
start takes longer than most of what it would be asked for.

A worker waits busily, then by yielding its processor, and sleeps when nothing came: waking a sleeping thread takes
as long as many a kernel. Its `mail` is three cache lines: its state, what to do, and whether that is done. Who gives it
work also looks whether both are on one processor, where one would have to wait for the other; and does itself what a
worker has not begun by the time it is done: other work may hold the worker's processor for much longer than this takes.
"""

import contextlib
import ctypes
import functools
import pathlib
import sys
import threading

import numpy as np
from llvmlite import binding, ir

from .. import _cache
from .. import _messages as say

MOST_ARGUMENTS = 32
MOST_SCRATCH = 256  # words of memory that a prepared call may ask for
MOST_ROWS = 16  # calls of a table that goes by `share`
_ROW = 2 + MOST_ARGUMENTS  # a kernel's address, how many arguments it takes, and these
_PREPARED, _PLACES = 12, 5  # words of a prepared call before its arguments, and before the places in them
_HEAD = 3  # the addresses of two functions, which tell a thread's number and its team's size; how many rows there are

ASLEEP, AWAKE, POSTED, TAKEN = range(4)
# Words of a mail, which has three lines of 8. `_HERE` is the processor that who posts is on, `_SEEN` the one that the
# worker was on when it last waited.
_STATE, _TABLE, _THREAD, _THREADS, _HERE, _LOCK, _DONE, _SEEN = 0, 8, 9, 10, 11, 12, 16, 17
# Who waits does so busily for some turns, then yields the processor at each turn. After that, a worker sleeps (after
# about a millisecond in all), and who waits for a worker naps between turns: others may need the processors.
BUSY, PATIENT = 2000, 3500
NAP = 50  # microseconds

_I32, _I64, _VOID = ir.IntType(32), ir.IntType(64), ir.VoidType()
_places = {}
_lock = threading.RLock()


class _Method(ctypes.Structure):
    """Python's PyMethodDef."""

    _fields_ = [
        ("name", ctypes.c_char_p), ("function", ctypes.c_void_p), ("flags", ctypes.c_int), ("doc", ctypes.c_char_p),
    ]  # fmt: skip


_FASTCALL = 0x80  # the function is given the address of its arguments, and their number


def callable_of(code, symbol):
    """Return the kernel of some machine code as something to be called from Python, without its lock."""
    engine = _loaded(code)
    place = engine.get_function_address(symbol)
    if not place:
        raise RuntimeError(say.no_kernel(symbol))
    call = functions().callable_at(place)
    _places[call] = place, engine
    return call


def _loaded(code):
    """Return an engine that has machine code in place."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    empty = binding.parse_assembly("")
    empty.triple = binding.get_process_triple()
    engine = binding.create_mcjit_compiler(empty, binding.Target.from_triple(empty.triple).create_target_machine())
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine


class Prepared:
    """A kernel with all of its arguments but a few addresses: what is called so often that each argument counts.

    Of the kernel's ``arguments``, those in ``places`` are what is added to the addresses that `call` is given, in that
    order, and the one in ``scratch`` will be the address of ``words`` zeros, made anew at each call. Python's lock is
    given up for the time of the call only if ``releases``.
    """

    def __init__(self, kernel, arguments, places, scratch, words, releases):
        head = _places[kernel][0], len(arguments), scratch, words, releases, *places
        self._record = np.zeros(_PREPARED + MOST_ARGUMENTS, np.int64)  # must stay
        self._record[: len(head)] = head
        self._record[_PREPARED : _PREPARED + len(arguments)] = arguments
        self.call = functions().prepared_at(self._record.ctypes.data)


def is_native(calls):
    """Return whether all ``(function, *arguments)`` are kernels."""
    return all(call[0] in _places for call in calls)


def table(calls):
    """Return calls, ``(kernel, *arguments)``, as an array that the functions below read."""
    rows = np.zeros(_HEAD + _ROW * len(calls), np.int64)
    rows[2] = len(calls)
    for k, (kernel, *arguments) in enumerate(calls):
        if arguments[0] is None:  # the rule, of which nothing is left in compiled code
            arguments[0] = 0
        at = _HEAD + _ROW * k
        rows[at : at + 2 + len(arguments)] = _places[kernel][0], len(arguments), *arguments
    return rows


def with_addresses(rows, addresses):
    """Return a copy of a table in which addresses are added to each call's first arguments, behind the rule."""
    rows = rows.copy()
    arguments = rows[_HEAD:].reshape(-1, _ROW)[:, 2:]
    arguments[:, 1 : 1 + len(addresses)] += addresses
    return rows


def sharer(rows):
    """Return a function that does what a table says with addresses added, on threads; None if the table is long.

    ``share(mails, count, *addresses)`` adds addresses as `with_addresses` does, to a copy. It takes this thread and so
    many workers, and does nothing and returns False if one of these is asleep or would have to leave this processor.
    The given table must stay.
    """
    return functions().sharer_at(rows.ctypes.data) if rows[2] <= MOST_ROWS else None


def lock_mail(mail):
    """Give a mail the lock by which its worker sleeps, closed. It stays as long as the process."""
    make = ctypes.PYFUNCTYPE(ctypes.c_void_p)(("PyThread_allocate_lock", ctypes.pythonapi))
    take = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)(("PyThread_acquire_lock", ctypes.pythonapi))
    lock = make()
    if not lock:
        raise MemoryError
    take(lock, 1)
    mail[_LOCK] = lock


def name_team(rows, thread_number, team_size):
    """Note in a table which functions tell a thread of an OpenMP team its number, and the team's size."""
    rows[:2] = thread_number, team_size


class Functions:
    """The native functions.

    ``team(table)`` is what each thread of an OpenMP team runs. ``post(mail, table, thread, threads)`` gives work to a
    worker and returns what is left to do: 0 for nothing, `MEETS` to have it leave the processor whose number is the
    mail's word `HERE`, `SLEEPS` to wake it. ``locate(mail)`` writes that word.
    ``rouse(mail)`` wakes it, be it for nothing. ``serve(mail)`` is what a worker runs, and never leaves: it sleeps in
    there, by `lock_mail`'s lock, so that it wakes without Python's own, which who wakes it has.
    ``lead(table, threads, mails, count)`` does the first thread's share, and those that the workers behind ``mails``
    have not begun, and waits for the others. ``meet`` is a kernel, by which two threads tell each other so many times,
    in a word at ``cell``, that it is the other's turn: ``meet(cell, times, side, looks)``, where side is 0 or 1. Who
    has looked so often in vain gives up and leaves the word negative, so that the other does as well.
    """

    STATE, DONE = _STATE, _DONE  # words of a mail: `ASLEEP` and so on; 0 while a worker has work
    HERE, SEEN = _HERE, _SEEN
    SLEEPS, MEETS = 1, 2

    def __init__(self):
        for name, place in _symbols().items():
            binding.add_symbol(name, place)
        triple = binding.get_process_triple()
        name = _cache.name_of("native", _cache.digest(pathlib.Path(__file__).parent, "llvmlite"), triple, sys.version)
        code, _ = _cache.find(name) or (None, None)
        if code is None:
            code = _compiled(triple)
            _cache.keep(name, code, "")
        self._engine = _loaded(code)
        at = self._engine.get_function_address
        self.team = at("team")
        number = ctypes.c_int64
        self.post = ctypes.CFUNCTYPE(number, number, number, number, number)(at("post"))
        # With Python's lock, which they do not keep for long.
        self.locate = ctypes.PYFUNCTYPE(None, number)(at("locate"))
        self.rouse = ctypes.PYFUNCTYPE(None, number)(at("rouse"))
        self.serve = ctypes.CFUNCTYPE(None, number)(at("serve"))
        self.lead = ctypes.CFUNCTYPE(None, number, number, number, number)(at("lead"))
        self._method, self._prepared, self._share = (
            _Method(b"kernel", at(name), _FASTCALL, None) for name in ("call", "prepared", "share")
        )
        make = ctypes.pythonapi.PyCFunction_NewEx
        self._make = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)(
            ctypes.cast(make, ctypes.c_void_p).value
        )

        self.meet = self.callable_at(at("meet"))
        _places[self.meet] = at("meet"), self._engine

    def callable_at(self, place):
        """Return a kernel at an address as something to be called from Python."""
        return self._make(ctypes.addressof(self._method), place, None)

    def prepared_at(self, place):
        """Return the call whose record is at an address."""
        return self._make(ctypes.addressof(self._prepared), place, None)

    def sharer_at(self, place):
        """Return `sharer`'s function of the table at an address."""
        return self._make(ctypes.addressof(self._share), place, None)


def _compiled(triple):
    """Return the functions' machine code."""
    module = ir.Module(name="fastrecur")
    module.triple = triple
    run = _write_run(module)
    work = _write_work(module, run)
    _write_call(module, run)
    _write_prepared(module, run)
    _write_team(module, work)
    _write_post(module)
    _write_locate(module)
    _write_rouse(module)
    _write_serve(module, work)
    lead = _write_lead(module, work)
    _write_share(module, work, lead)
    _write_meet(module)
    parsed = binding.parse_assembly(str(module))
    parsed.verify()
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding.Target.from_triple(triple).create_target_machine(opt=2).emit_object(parsed)


@functools.cache
def _symbols():
    """Return the addresses of what the functions ask of Python and of the C library, by name."""
    python = (
        "PyLong_AsLongLong", "PyErr_Occurred", "PyEval_SaveThread", "PyEval_RestoreThread", "Py_IncRef",
        "PyThread_acquire_lock", "PyThread_release_lock",
    )  # fmt: skip
    found = {name: ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value for name in python}
    found["_Py_NoneStruct"], found["_Py_FalseStruct"] = id(None), id(False)
    for name in ("usleep", "sched_yield", "sched_getcpu"):
        try:
            found[name] = ctypes.cast(getattr(ctypes.CDLL(None), name), ctypes.c_void_p).value
        except (AttributeError, OSError, TypeError):  # not on every platform
            pass
    return found


def functions():
    """Return the native functions, made at the first call."""
    with _lock:
        return _functions()


@functools.cache
def _functions():
    return Functions()


def after_fork():
    """Make anew what another thread of the parent may have held."""
    global _lock
    _lock = threading.RLock()


# ---- How they are written -------------------------------------------------------------------------------------------


def _function(module, name, result, arguments):
    function = ir.Function(module, ir.FunctionType(result, [_I64] * arguments), name)
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    return function, builder


def _place(builder, base, word):
    """Return the address of a word: of a number of it, or of one that is computed."""
    offset = ir.Constant(_I64, 8 * word) if isinstance(word, int) else builder.mul(word, ir.Constant(_I64, 8))
    return builder.inttoptr(builder.add(base, offset), _I64.as_pointer())


def _read(builder, base, word):
    return builder.load(_place(builder, base, word), typ=_I64)


def _write(builder, base, word, value):
    builder.store(value, _place(builder, base, word))


def _look(builder, base, word):
    return builder.load_atomic(_place(builder, base, word), "acquire", 8, typ=_I64)


def _announce(builder, base, word, value):
    value = ir.Constant(_I64, value) if isinstance(value, int) else value
    builder.store_atomic(value, _place(builder, base, word), "release", 8)


def _swap(builder, base, word, old, new):
    """Return whether a word was ``old`` and is now ``new``."""
    old, new = ir.Constant(_I64, old), ir.Constant(_I64, new)
    pair = builder.cmpxchg(_place(builder, base, word), old, new, "acq_rel", "acquire")
    return builder.extract_value(pair, 1)


def _ask(builder, name, result, *arguments):
    """Call a function of Python's or of the C library's."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(function, arguments)


def _ask_system(builder, name, *numbers):
    if name in _symbols():
        _ask(builder, name, _I32, *(ir.Constant(_I32, number) for number in numbers))


def _processor(builder):
    """Return the number of the processor that this thread is on; -1 where the system does not tell."""
    name = "sched_getcpu"
    if name in _symbols():
        return builder.sext(_ask(builder, name, _I32), _I64)
    return ir.Constant(_I64, -1)


def _wait_a_turn(builder, turn):
    """Wait: for a moment, until others have had the processor, or for a nap."""

    def is_from(first):
        return builder.icmp_signed(">=", turn, ir.Constant(_I64, first))

    with builder.if_else(is_from(BUSY)) as (later, sooner):
        with later, builder.if_else(is_from(PATIENT)) as (latest, late):
            with latest:
                _ask_system(builder, "usleep", NAP)
            with late:
                _ask_system(builder, "sched_yield")
        with sooner:
            if "x86" in binding.get_process_triple():
                _ask(builder, "llvm.x86.sse2.pause", _VOID)


@contextlib.contextmanager
def _each(builder, count, first=None, step=None):
    """Write a loop around what is written inside; give the number of the turn, from 0 on and by 1 if not said."""
    first = ir.Constant(_I64, 0) if first is None else first
    step = ir.Constant(_I64, 1) if step is None else step
    test, body, end = (builder.function.append_basic_block(name) for name in ("test", "body", "end"))
    with builder.goto_entry_block():
        counter = builder.alloca(_I64)
    builder.store(first, counter)
    builder.branch(test)
    builder.position_at_end(test)
    k = builder.load(counter, typ=_I64)
    builder.cbranch(builder.icmp_signed("<", k, count), body, end)
    builder.position_at_end(body)
    yield k
    builder.store(builder.add(k, step), counter)
    builder.branch(test)
    builder.position_at_end(end)


def _room(builder, words=1):
    """Return the address of some words on the stack."""
    return builder.ptrtoint(builder.alloca(_I64, words), _I64)


def _number(builder, value):
    return _ask(builder, "PyLong_AsLongLong", _I64, value)


def _give_up(builder):
    """Return to Python if an argument was no number: the exception is set."""
    error = _ask(builder, "PyErr_Occurred", _I64)
    with builder.if_then(builder.icmp_signed("!=", error, ir.Constant(_I64, 0)), likely=False):
        builder.ret(ir.Constant(_I64, 0))


def _give(builder, thing):
    _ask(builder, "Py_IncRef", _VOID, thing)
    builder.ret(thing)


def _none(builder):
    return _thing(builder, "_Py_NoneStruct")


def _thing(builder, name):
    """Return the address of one of Python's own objects."""
    return builder.ptrtoint(builder.module.globals.get(name) or ir.GlobalVariable(builder.module, _I64, name), _I64)


def _write_run(module):
    """``run(kernel, count, words)``: call a kernel with so many words as its arguments."""
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


def _write_call(module, run):
    """``call(self, arguments, count)``: what Python calls; ``self`` is a kernel's address, and a rule is None."""
    function, builder = _function(module, "call", _I64, 3)
    this, given, count = function.args
    words = _room(builder, MOST_ARGUMENTS)
    kernel, none = _number(builder, this), _none(builder)
    with _each(builder, count) as k:
        argument = _read(builder, given, k)
        with builder.if_else(builder.icmp_signed("==", argument, none)) as (is_rule, is_number):
            with is_rule:  # of which nothing is left in compiled code
                _write(builder, words, k, ir.Constant(_I64, 0))
            with is_number:
                _write(builder, words, k, _number(builder, argument))
    _give_up(builder)
    state = _ask(builder, "PyEval_SaveThread", _I64)
    builder.call(run, [kernel, count, words])
    _ask(builder, "PyEval_RestoreThread", _VOID, state)
    _give(builder, none)


def _write_prepared(module, run):
    """``prepared(self, addresses, count)``: what Python calls; ``self`` is the address of a record of `Prepared`."""
    function, builder = _function(module, "prepared", _I64, 3)
    this, given, count = function.args
    words, scratch = _room(builder, MOST_ARGUMENTS), _room(builder, MOST_SCRATCH)
    record, none = _number(builder, this), _none(builder)
    kernel, arguments, scratch_place, scratch_words, releases = (_read(builder, record, k) for k in range(_PLACES))
    with _each(builder, arguments) as k:
        _write(builder, words, k, _read(builder, record, builder.add(k, ir.Constant(_I64, _PREPARED))))
    with _each(builder, scratch_words) as k:
        _write(builder, scratch, k, ir.Constant(_I64, 0))
    _write(builder, words, scratch_place, scratch)
    with _each(builder, count) as k:
        place = _read(builder, record, builder.add(k, ir.Constant(_I64, _PLACES)))
        _write(
            builder, words, place, builder.add(_read(builder, words, place), _number(builder, _read(builder, given, k)))
        )
    _give_up(builder)
    releases = builder.icmp_signed("!=", releases, ir.Constant(_I64, 0))
    with builder.if_else(releases) as (long, short):
        with long:
            state = _ask(builder, "PyEval_SaveThread", _I64)
            builder.call(run, [kernel, arguments, words])
            _ask(builder, "PyEval_RestoreThread", _VOID, state)
        with short:
            builder.call(run, [kernel, arguments, words])
    _give(builder, none)


def _write_work(module, run):
    """``work(table, thread, threads)``: do every n-th row of a table."""
    function, builder = _function(module, "work", _VOID, 3)
    table, thread, threads = function.args
    with _each(builder, _read(builder, table, 2), thread, threads) as k:
        offset = builder.mul(
            builder.add(builder.mul(k, ir.Constant(_I64, _ROW)), ir.Constant(_I64, _HEAD)), ir.Constant(_I64, 8)
        )
        row = builder.add(table, offset)
        builder.call(run, [_read(builder, row, 0), _read(builder, row, 1), builder.add(row, ir.Constant(_I64, 16))])
    builder.ret_void()
    return function


def _write_team(module, work):
    function, builder = _function(module, "team", _VOID, 1)
    (table,) = function.args
    kind = ir.FunctionType(_I32, [])
    thread, threads = (
        builder.sext(builder.call(builder.inttoptr(_read(builder, table, k), kind.as_pointer()), []), _I64)
        for k in range(2)
    )
    builder.call(work, [table, thread, threads])
    builder.ret_void()


def _write_letter(builder, mail, table, thread, threads, here):
    """Put work into a mail; return whether its worker had gone to sleep and was not told."""
    for word, value in ((_TABLE, table), (_THREAD, thread), (_THREADS, threads), (_HERE, here)):
        _write(builder, mail, word, value)
    _announce(builder, mail, _DONE, 0)
    return builder.not_(_swap(builder, mail, _STATE, AWAKE, POSTED))


def _meets(builder, mail, here):
    """Return whether a worker was last seen on the processor that this thread is on."""
    is_known = builder.icmp_signed(">=", here, ir.Constant(_I64, 0))
    return builder.and_(is_known, builder.icmp_signed("==", _read(builder, mail, _SEEN), here))


def _write_post(module):
    function, builder = _function(module, "post", _I64, 4)
    mail, table, thread, threads = function.args
    here = _processor(builder)
    sleeps = _write_letter(builder, mail, table, thread, threads, here)
    with builder.if_then(sleeps):
        _announce(builder, mail, _STATE, POSTED)
    meets = _meets(builder, mail, here)
    answers = [ir.Constant(_I64, answer) for answer in (Functions.SLEEPS, Functions.MEETS, 0)]
    builder.ret(builder.select(sleeps, answers[0], builder.select(meets, *answers[1:])))


def _write_locate(module):
    function, builder = _function(module, "locate", _VOID, 1)
    (mail,) = function.args
    _write(builder, mail, _HERE, _processor(builder))
    builder.ret_void()


def _write_rouse(module):
    function, builder = _function(module, "rouse", _VOID, 1)
    (mail,) = function.args
    _ask(builder, "PyThread_release_lock", _VOID, _read(builder, mail, _LOCK))
    builder.ret_void()


def _write_serve(module, work):
    function, builder = _function(module, "serve", _VOID, 1)
    (mail,) = function.args
    turn = builder.alloca(_I64)
    sleep, look, take, work_block, wait, tired = (
        function.append_basic_block(name) for name in ("sleep", "look", "take", "work", "wait", "tired")
    )
    builder.branch(sleep)
    builder.position_at_end(sleep)
    _ask(builder, "PyThread_acquire_lock", _I32, _read(builder, mail, _LOCK), ir.Constant(_I32, 1))
    builder.store(ir.Constant(_I64, 0), turn)
    _write(builder, mail, _SEEN, _processor(builder))
    _swap(builder, mail, _STATE, ASLEEP, AWAKE)  # unless there is work already
    builder.branch(look)
    builder.position_at_end(look)
    posted = builder.icmp_signed("==", _look(builder, mail, _STATE), ir.Constant(_I64, POSTED))
    builder.cbranch(posted, take, wait)
    builder.position_at_end(take)
    builder.cbranch(_swap(builder, mail, _STATE, POSTED, TAKEN), work_block, wait)
    builder.position_at_end(work_block)
    builder.call(work, [_read(builder, mail, word) for word in (_TABLE, _THREAD, _THREADS)])
    # Awake before done: who finds it done may post again.
    _announce(builder, mail, _STATE, AWAKE)
    _announce(builder, mail, _DONE, 1)
    builder.store(ir.Constant(_I64, 0), turn)
    builder.branch(look)
    builder.position_at_end(wait)
    _write(builder, mail, _SEEN, _processor(builder))
    now = builder.load(turn, typ=_I64)
    builder.store(builder.add(now, ir.Constant(_I64, 1)), turn)
    _wait_a_turn(builder, now)
    builder.cbranch(builder.icmp_signed("<", now, ir.Constant(_I64, PATIENT)), look, tired)
    builder.position_at_end(tired)
    builder.cbranch(_swap(builder, mail, _STATE, AWAKE, ASLEEP), sleep, look)


def _write_lead(module, work):
    function, builder = _function(module, "lead", _VOID, 4)
    table, threads, mails, count = function.args
    builder.call(work, [table, ir.Constant(_I64, 0), threads])
    with _each(builder, count) as k:
        mail = _read(builder, mails, k)
        with builder.if_then(_swap(builder, mail, _STATE, POSTED, AWAKE)):
            builder.call(work, [_read(builder, mail, word) for word in (_TABLE, _THREAD, _THREADS)])
            _announce(builder, mail, _DONE, 1)
    at, turn = builder.alloca(_I64), builder.alloca(_I64)
    for slot in (at, turn):
        builder.store(ir.Constant(_I64, 0), slot)
    test, look, wait, following, end = (
        function.append_basic_block(name) for name in ("test", "look", "wait", "following", "end")
    )
    builder.branch(test)
    builder.position_at_end(test)
    k = builder.load(at, typ=_I64)
    builder.cbranch(builder.icmp_signed("<", k, count), look, end)
    builder.position_at_end(look)
    mail = _read(builder, mails, k)
    done = builder.icmp_signed("==", _look(builder, mail, _DONE), ir.Constant(_I64, 1))
    builder.cbranch(done, following, wait)
    builder.position_at_end(wait)
    now = builder.load(turn, typ=_I64)
    builder.store(builder.add(now, ir.Constant(_I64, 1)), turn)
    _wait_a_turn(builder, now)
    builder.branch(look)
    builder.position_at_end(following)
    builder.store(builder.add(k, ir.Constant(_I64, 1)), at)
    builder.branch(test)
    builder.position_at_end(end)
    builder.ret_void()
    return function


def _write_share(module, work, lead):
    """``share(self, arguments, count)``: what Python calls; ``self`` is the address of a `sharer`'s table."""
    function, builder = _function(module, "share", _I64, 3)
    this, given, count = function.args
    own, one = _room(builder, _HEAD + _ROW * MOST_ROWS), ir.Constant(_I64, 1)
    table, mails, workers = (_number(builder, v) for v in (this, _read(builder, given, 0), _read(builder, given, 1)))
    rows = _read(builder, table, 2)
    with _each(builder, builder.add(builder.mul(rows, ir.Constant(_I64, _ROW)), ir.Constant(_I64, _HEAD))) as k:
        _write(builder, own, k, _read(builder, table, k))
    with _each(builder, count, ir.Constant(_I64, 2)) as k:
        number = _number(builder, _read(builder, given, k))
        with _each(builder, rows) as row:
            # Behind the kernel, its number of arguments and its rule.
            place = builder.add(builder.mul(row, ir.Constant(_I64, _ROW)), builder.add(k, ir.Constant(_I64, _HEAD + 1)))
            _write(builder, own, place, builder.add(_read(builder, own, place), number))
    _give_up(builder)
    here = _processor(builder)
    with _each(builder, workers) as k:
        mail = _read(builder, mails, k)
        sleeps = builder.icmp_signed("!=", _look(builder, mail, _STATE), ir.Constant(_I64, AWAKE))
        with builder.if_then(builder.or_(sleeps, _meets(builder, mail, here)), likely=False):
            _give(builder, _thing(builder, "_Py_FalseStruct"))
    state = _ask(builder, "PyEval_SaveThread", _I64)
    threads = builder.add(workers, one)
    with _each(builder, workers) as k:
        mail, thread = _read(builder, mails, k), builder.add(k, one)
        missed = _write_letter(builder, mail, own, thread, threads, here)
        with builder.if_then(missed, likely=False):  # it has gone to sleep just now
            builder.call(work, [own, thread, threads])
            _announce(builder, mail, _DONE, 1)
    builder.call(lead, [own, threads, mails, workers])
    _ask(builder, "PyEval_RestoreThread", _VOID, state)
    _give(builder, _none(builder))


def _write_meet(module):
    """``meet(result, exception, cell, times, side, looks)``: a kernel, see `Functions`."""
    function, builder = _function(module, "meet", _I32, 6)
    _, _, cell, times, side, looks = function.args
    left = builder.alloca(_I64)
    builder.store(looks, left)
    with _each(builder, times) as k:
        mine = builder.add(builder.mul(k, ir.Constant(_I64, 2)), side)
        look, wait, give_up, answer = (
            function.append_basic_block(name) for name in ("look", "wait", "give_up", "answer")
        )
        builder.branch(look)
        builder.position_at_end(look)
        turn = _look(builder, cell, 0)
        builder.cbranch(builder.icmp_signed("==", turn, mine), answer, wait)
        builder.position_at_end(wait)  # without a pause, which takes as long as what is measured
        now = builder.load(left, typ=_I64)
        builder.store(builder.sub(now, ir.Constant(_I64, 1)), left)
        goes_on = [
            builder.icmp_signed(">", now, ir.Constant(_I64, 0)),
            builder.icmp_signed(">=", turn, ir.Constant(_I64, 0)),
        ]
        builder.cbranch(builder.and_(*goes_on), look, give_up)
        builder.position_at_end(give_up)
        _announce(builder, cell, 0, -1)
        builder.ret(ir.Constant(_I32, 0))
        builder.position_at_end(answer)
        _announce(builder, cell, 0, builder.add(mine, ir.Constant(_I64, 1)))
    builder.ret(ir.Constant(_I32, 0))
