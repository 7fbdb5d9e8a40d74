"""What workers do, as native code: see `machine/workers.py`, which has the places of the words that they share."""

from llvmlite import binding, ir
from numba import types

from ..compiler.numba_internals import helper
from ..compiler.records import CALLS, CHAIN, DONE, HEAD, ITEMS, LEFT, ROW
from ..machine.workers import (
    ACQUIRE,
    ALLOCATE,
    ASLEEP,
    AWAKE,
    AWAY,
    BUSY,
    CLOCK,
    COUNT,
    COUNTER,
    COUNTER_AT,
    ENTER,
    ENTRY,
    HELD,
    LOCK,
    LOOKED,
    NAP,
    NOW,
    PATIENT,
    RECENT,
    RELEASE,
    RUN,
    SERVE,
    SLEEP,
    SLICE,
    SLOT,
    SLOTS,
    START,
    STATE,
    TABLE,
    TAKEN,
    TICKET,
    TICKETS,
    TIME,
    YIELD,
)
from ..vectors.conversions import call_llvm
from ..vectors.types import I64, primitive

_IS_X86 = "x86" in binding.get_process_triple()


# ---- Atomic words ---------------------------------------------------------------------------------------------------


def _word(builder, place):
    return builder.inttoptr(place, I64.as_pointer())


@primitive(types.int64, lambda e, place: e.builder.load_atomic(_word(e.builder, place), "acquire", 8, typ=I64))
def load(place):
    """Return a word; what others wrote before they stored it is seen."""


@primitive(types.none, lambda e, place, value: e.builder.store_atomic(value, _word(e.builder, place), "release", 8))
def store(place, value):
    """Write a word; who loads it sees what was written before."""


def _swap(emitter, place, old, new):
    pair = emitter.builder.cmpxchg(_word(emitter.builder, place), old, new, "acq_rel", "acquire")
    return emitter.builder.extract_value(pair, 1)


@primitive(types.boolean, _swap)
def swap(place, old, new):
    """Return whether a word was ``old`` and is now ``new``."""


@primitive(types.int64, lambda e, place, value: e.builder.atomic_rmw("add", _word(e.builder, place), value, "acq_rel"))
def add(place, value):
    """Add to a word; return what it was."""


@primitive(types.none, lambda e: call_llvm(e.builder, "llvm.x86.sse2.pause", ir.VoidType()) if _IS_X86 else None)
def pause():
    """Let the processor know that this thread waits."""


def _ask(emitter, function, *arguments):
    kind = ir.FunctionType(I64, [I64] * len(arguments))
    return emitter.builder.call(emitter.builder.inttoptr(function, kind.as_pointer()), arguments)


@primitive(types.int64, _ask)
def ask(function, a, b, c):
    """Call a function of C, which may take fewer arguments; of what it returns, an int is the lower half."""


# ---- Kernels --------------------------------------------------------------------------------------------------------


@helper
def claim(counter, ticket):
    """Take an item of a ticket; return how many were left, this one included: 0 if none was."""
    while True:
        word = load(counter)
        left = word - ticket
        if left <= 0 or left >= TICKET:  # none, or it counts for a later ticket
            return 0
        if swap(counter, word, word - 1):
            return left


@helper
def work(run, table, left):
    """Do the item of which `claim` said that so many were left. After the last, the table may go at any time."""
    chain = load(table + 8 * CHAIN)
    first = (load(table + 8 * ITEMS) - left) * chain
    calls = load(table + 8 * CALLS)
    for k in range(first, first + chain):
        if k < calls:
            row = table + 8 * (HEAD + k * ROW)
            ask(run, load(row), load(row + 8), row + 16)
    add(table + 8 * DONE, 1)


@helper
def work_all(run, table, counter, ticket):
    left = claim(counter, ticket)
    while left > 0:
        work(run, table, left)
        left = claim(counter, ticket)


@helper
def now(block, room):
    """Return the time in nanoseconds, by way of two words of memory."""
    ask(load(block + TIME), load(block + CLOCK), room, 0)
    return load(room) * 1_000_000_000 + load(room + 8)


def lead(block, table, most):
    """Do a table's items with workers, at most so many; return when all are done."""
    items, count = load(table + 8 * ITEMS), load(block + COUNT)
    if most >= items:
        most = items - 1
    store(table + 8 * LEFT, items)
    store(table + 8 * DONE, 0)
    counter, ticket, hired, k = table + 8 * LEFT, 0, 0, 0
    while k < count and hired < most:
        slot = block + SLOTS + k * SLOT
        state = load(slot + STATE)
        if state <= AWAKE and swap(slot + STATE, state, HELD):
            if hired == 0:
                # Nobody else counts here before this ticket's items are all taken.
                counter, ticket = slot + COUNTER, add(block + TICKETS, TICKET)
                store(counter, ticket + items)
            store(slot + TABLE, table)
            store(slot + COUNTER_AT, counter)
            if state == ASLEEP:
                ask(load(block + RELEASE), load(slot + LOCK), 0, 0)  # which wakes it
            store(slot + STATE, ticket)
            hired += 1
        k += 1
    work_all(load(block + RUN), table, counter, ticket)
    if hired > 0:
        for k in range(count):
            swap(block + SLOTS + k * SLOT + STATE, ticket, AWAKE)
    turn = 0
    while load(table + 8 * DONE) < items:
        if turn < BUSY:
            pause()
        elif turn < PATIENT:
            ask(load(block + YIELD), 0, 0, 0)
        else:  # where yielding does not let others have the processor
            ask(load(block + SLEEP), NAP, 0, 0)
        turn += 1


def team(run, table):
    """Do a table's items as one thread of a team that all work on it, and wait for each other."""
    work_all(run, table, table + 8 * LEFT, 0)


@helper
def look(block, slot):
    """Note that a worker has a processor; return when that was."""
    time = now(block, slot + NOW)
    store(slot + LOOKED, time)
    return time


@helper
def give_way(block, slot, since, least):
    """Let others have this processor if a worker has had it for so long; return since when it has."""
    if look(block, slot) - since <= least:
        return since
    ask(load(block + YIELD), 0, 0, 0)
    return look(block, slot)


@helper
def serve_ticket(block, slot, ticket, since):
    """Do items of a ticket; return since when this thread has its processor."""
    table, counter, left = load(slot + TABLE), load(slot + COUNTER_AT), 1
    while left > 0:
        since = give_way(block, slot, since, SLICE)
        left = claim(counter, ticket)
        if left > 0:
            work(load(block + RUN), table, left)
    return since


def serve(block, slot):
    while True:
        turn, since = 0, look(block, slot)
        while turn < PATIENT or not swap(slot + STATE, AWAKE, ASLEEP):
            ticket = load(slot + STATE)
            if ticket > TAKEN and swap(slot + STATE, ticket, TAKEN):
                since = serve_ticket(block, slot, ticket, since)
                turn = 0
                store(slot + STATE, AWAKE)
            else:
                pause()
                before = load(slot + LOOKED)
                since = give_way(block, slot, since, SLICE if turn < BUSY else 0)
                turn = turn + 1 if since - before < AWAY else PATIENT
        ask(load(block + ACQUIRE), load(slot + LOCK), 1, 0)


def prewake(block, most, room):
    """Wake workers that sleep: so many, as `lead` takes them.

    Write to the first of the two words of ``room`` how many of them will come when they are given work.
    """
    tried, found, time = 0, 0, now(block, room)
    for k in range(load(block + COUNT)):
        slot = block + SLOTS + k * SLOT
        state = load(slot + STATE)
        if tried < most and state <= AWAKE:
            tried += 1
            if state == ASLEEP and swap(slot + STATE, ASLEEP, HELD):
                ask(load(block + RELEASE), load(slot + LOCK), 0, 0)
                store(slot + STATE, AWAKE)
            if state == ASLEEP or time - load(slot + LOOKED) < RECENT:
                found += 1
    store(room, found)


def hire(block, most):
    """Start workers up to so many, as far as the system lets us. Python's lock is held: one thread at a time does so.

    Python cannot be interrupted in here: a worker is counted if, and only if, it is there.
    """
    count = load(block + COUNT)
    while count < most:
        slot = block + SLOTS + count * SLOT
        if load(slot + LOCK) == 0:  # which is closed from the first on
            lock = ask(load(block + ALLOCATE), 0, 0, 0)
            if lock == 0:
                return
            ask(load(block + ACQUIRE), lock, 1, 0)
            store(slot + LOCK, lock)
        store(slot + STATE, AWAKE)
        store(slot + ENTRY, load(block + SERVE))
        store(slot + ENTRY + 8, 2)
        store(slot + ENTRY + 16, block)
        store(slot + ENTRY + 24, slot)
        if ask(load(block + START), load(block + ENTER), slot + ENTRY, 0) == -1:
            return
        count += 1
        store(block + COUNT, count)
