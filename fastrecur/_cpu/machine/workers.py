"""Workers: threads that run no Python, wait for tables of calls, and take their items one by one.

What threads tell each other stands in a *block* of memory that is never freed: a head, and a slot for each worker. Who
has a table (`lead`) submits it to workers that have nothing to do, takes items itself, withdraws it from workers that
have not come, and waits for items that others have begun. A counter says how many items are left. It is in the block,
and of one `ticket`: so a worker that comes late finds that nothing is left of its ticket, and never looks at the table.

A worker waits busily, then by yielding its processor, and sleeps when nothing came for about a millisecond: waking a
sleeping thread takes as long as many a kernel. Other processes may have its processor, for milliseconds at a time. So
it notes when it last looked for work, and a call does not count on a worker that has not done so just now (`prewake`):
parts for two threads take one longer than the whole does. All that is in `_cpu/kernels/workers.py`.
"""

import ctypes
import functools
import time
from collections import namedtuple

import numpy as np

from ..._arguments.arrays import address
from ..compiler import native as _native, python
from ..compiler.compile import kernel
from ..compiler.records import ITEMS, LEFT

MOST_WORKERS = 512
BUSY, PATIENT = 1000, 2500  # turns for which who waits does so busily, then by yielding; then it sleeps, or naps
NAP = 50  # microseconds
# Nanoseconds: with a processor, after which a worker yields, so that most of a time slice is left for an item; without,
# after which it sleeps, since threads that only wait are counted among those that share processors; and since its last
# look for work, if it has a processor.
SLICE, AWAY, RECENT = np.array([200_000, 200_000, 5_000])

# A block's head, in bytes: the next ticket; how many workers there are; addresses; the number of the clock.
TICKETS, COUNT, RUN, ENTER, SERVE, CLOCK = 0, 64, 72, 80, 88, 96
START, ALLOCATE, ACQUIRE, RELEASE, YIELD, SLEEP, TIME = range(104, 160, 8)
_ADDRESSES = dict(zip(python.WORKERS, range(START, TIME + 8, 8), strict=True))
SLOTS = 192
# A slot: its state; the table and the counter that were submitted; a counter for who leads; when the worker last looked
# for work; its lock; room for the time; what it is entered with.
SLOT, STATE, TABLE, COUNTER_AT, COUNTER, LOOKED, LOCK, NOW, ENTRY = 320, 0, 64, 72, 128, 192, 200, 208, 256
ASLEEP, AWAKE, HELD, TAKEN = range(4)  # states; or the ticket that was submitted, which is larger
TICKET = 1 << 32  # from one to the next


_Block = namedtuple("_Block", "place words lead prewake")
_blocks = {}


@functools.cache
def can_hire():
    """Return whether there can be workers: the system has what they need."""
    return bool(python.addresses(python.WORKERS))


def _block():
    """Return this process's block, made at the first call: by several threads at once, one's is taken."""
    return _blocks.get("block") or _blocks.setdefault("block", _new_block())


def after_fork():
    """Forget the parent's workers: a child has none of its threads."""
    _blocks.clear()


def _new_block():
    words = python.keep_for_ever(np.zeros((SLOTS + MOST_WORKERS * SLOT + 64) // 8, np.int64))
    words = words[-address(words) % 64 // 8 :]
    native = _native.trampolines()
    words[TICKETS // 8], words[RUN // 8], words[ENTER // 8] = TICKET, native.run, native.enter
    words[CLOCK // 8], words[SERVE // 8] = time.CLOCK_MONOTONIC, _native.place_of(_kernel("serve"))
    for name, function in python.addresses(python.WORKERS).items():
        words[_ADDRESSES[name] // 8] = function
    return _Block(address(words), words, _kernel("lead"), _kernel("prewake"))


def _kernel(name):
    return kernel(f"workers.{name}", None, None)


def _entry(name, *arguments):
    """Return the address of what takes one address, and what that is, to call a kernel."""
    row = np.array([_native.place_of(_kernel(name)), len(arguments), *arguments], np.int64)
    return _native.trampolines().enter, row


def run(table, threads, most):
    """Do all of a table on so many threads, this one among them; of workers there will be no more than ``most``."""
    block = _block()
    if block.words[COUNT // 8] < min(threads - 1, most):
        wanted = min(threads - 1, most, int(table[ITEMS]) - 1, MOST_WORKERS)
        enter, row = _entry("hire", block.place, wanted)
        ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(enter)(address(row))
    block.lead(block.place, address(table), threads - 1)


def wake(threads):
    """Wake workers for so many threads if they sleep; return on how many threads, this one included, to count."""
    block = _block()
    if block.words[COUNT // 8] < threads - 1:  # the call will start others
        return threads
    room = np.empty(2, np.int64)
    block.prewake(block.place, threads - 1, address(room))
    return 1 + int(room[0])


def team_entry(table):
    """Return the address of what each thread of a team is to call, and the array at whose address that looks."""
    table[LEFT] = table[ITEMS]  # if it has run before
    return _entry("team", _native.trampolines().run, address(table))
