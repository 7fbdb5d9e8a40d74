"""Memory of large results: the pool refers to each buffer it hands out, and hands it out again once nobody else does.

The system clears new memory page by page when it is first touched, which takes as long as the computation, or longer.
A buffer that was used before has its pages. Whether a buffer is free is asked at the next request, by its count of
references: no Python code runs when a result is dropped, so no exception can be lost there.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from ..._arguments import messages as say
from ..._arguments.arrays import address

LINE = 64  # bytes of a cache line
SMALLEST = 128 << 10  # bytes of a result; smaller ones are left to the C library, which keeps their memory itself
MOST_BUFFERS = 32  # for each request looks at all
PATIENCE = 16  # requests for which a free buffer waits for one that it fits, before it is given back
MOST_BYTES = (256 << 20) + LINE  # in all, by default: a result of 256 MiB and what it takes to align it,
MOST_SHARE = 1 / 16  # and no more than this share of the machine's memory
UNKNOWN_MACHINE = 64_000_000  # bytes in all, by default, where the system does not tell how much memory it has
VARIABLE = "FASTRECUR_KEEP_MEMORY"


class _Buffer(NamedTuple):
    memory: np.ndarray  # the first field: see `_references`
    nbytes: int
    free_since: int | None = None  # the request that found it free; None if none did since it was handed out


# Oldest first. Whoever looks at a buffer takes it off first, in one operation that no other thread comes between: so
# there is no lock to be left locked, and a buffer that an exception keeps from coming back is an ordinary array.
_buffers: collections.deque[_Buffer] = collections.deque(maxlen=MOST_BUFFERS)
_requests = itertools.count()


def _references(buffer: _Buffer) -> int:
    """Return how many references to a buffer's memory there are, counted in C: compiled Python may borrow some."""
    return next(map(sys.getrefcount, buffer))


def _references_if_free() -> int:
    """Return how many references a buffer's memory has if nobody else refers to it; 0 where counts do not tell."""
    if sys.implementation.name != "cpython" or not getattr(sys, "_is_gil_enabled", lambda: True)():
        return 0
    buffer = _Buffer(np.empty(1, np.uint8), 1)
    before = _references(buffer)
    result = np.ndarray(1, np.uint8, buffer.memory)
    between = _references(buffer)
    del result
    return before if (between, _references(buffer)) == (before + 1, before) else 0


_FREE = _references_if_free()


@functools.cache
def limit() -> int:
    """Return how many bytes the pool may refer to, in use or not; 0 if it keeps nothing."""
    given = os.environ.get(VARIABLE)
    if given and not (given.isascii() and given.isdigit()):
        raise ValueError(say.keep_memory(VARIABLE, given))
    if not _FREE:
        return 0
    if given:
        return int(given)
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on every platform
        return UNKNOWN_MACHINE
    return min(MOST_BYTES, int(machine * MOST_SHARE))


def keeps(nbytes: int) -> bool:
    """Return whether results of so many bytes stand in the pool's memory."""
    return SMALLEST <= nbytes <= limit()


def fresh(nbytes: int, make: Callable[..., np.ndarray] = np.empty) -> tuple[np.ndarray, int]:
    """Return new memory and its address. If there is none left, what is free in the pool is given back first."""
    try:
        memory = make(nbytes, np.uint8)
    except MemoryError:
        _forget(kept_bytes(), in_use=False)
        memory = make(nbytes, np.uint8)
    return memory, address(memory)


def borrow(nbytes: int) -> tuple[np.ndarray, int]:
    """Return memory for a result and its address: that of a dropped result, if some fits."""
    if not keeps(nbytes):
        return fresh(nbytes)
    found = _find(nbytes, next(_requests))
    memory = fresh(nbytes)[0] if found is None else found.memory
    _buffers.append(_Buffer(memory, memory.nbytes))
    if found is None:
        for in_use in (False, True):
            _forget(kept_bytes() - limit(), in_use)
    return memory, address(memory)


def _taken_off() -> Iterator[_Buffer]:
    """Take one buffer after the other off the pool, once round, so that those that come back stay in order."""
    with contextlib.suppress(IndexError):  # other threads look at the rest
        for _ in range(len(_buffers)):
            yield _buffers.popleft()


def _find(nbytes: int, now: int) -> _Buffer | None:
    """Take the smallest free buffer that fits, the newest of these, off the pool; drop those that waited in vain."""
    best = None
    for buffer in _taken_off():
        if _references(buffer) != _FREE:
            _buffers.append(buffer)
        elif nbytes <= buffer.nbytes <= nbytes + nbytes // 4 and (best is None or buffer.nbytes <= best.nbytes):
            if best is not None:
                _buffers.append(best)
            best = buffer
        elif buffer.free_since is None:
            _buffers.append(buffer._replace(free_since=now))
        elif now - buffer.free_since <= PATIENCE:
            _buffers.append(buffer)
    return best


def _forget(nbytes: int, in_use: bool) -> None:
    """Drop the oldest buffers that are free, or ``in_use`` too, until so many bytes are gone."""
    for buffer in _taken_off():
        if nbytes > 0 and (in_use or _references(buffer) == _FREE):
            nbytes -= buffer.nbytes
        else:
            _buffers.append(buffer)


def kept_bytes() -> int:
    """Return how many bytes the pool refers to, in use or not."""
    return sum(buffer.nbytes for buffer in list(_buffers))


def describe() -> str:
    """Return what a report about a problem needs to say."""
    return f"{kept_bytes() / 1e6:.0f} MB for results, of {limit() / 1e6:.0f} MB at most ({VARIABLE})"
