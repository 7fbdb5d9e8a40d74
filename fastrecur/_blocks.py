"""Memory of large results: what a dropped one leaves is kept for the next.

The system clears new memory page by page when it is first touched, which takes as long as the walk, or longer. Memory
that was used before has its pages. Meanwhile the system may take back those of all but the newest, if it runs short of
memory and they are large ones.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import mmap
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ._arrays import address

SMALLEST = 128 << 10  # bytes below which the C library keeps memory by itself
MOST = 1 << 30  # bytes that are kept at once
OWN = 64 << 20  # bytes of the newest that are not offered to the system, which costs; the C library keeps as much
LINE, ALIGNED = 64, 16  # bytes of a cache line, and what addresses of memory are multiples of
PATIENCE = 16  # results after which what none of them could use is given back
LARGE_PAGE = 2 << 20


class _Kept(NamedTuple):
    memory: np.ndarray
    order: int
    results: int  # that there had been
    is_offered: bool = False  # whether the system may have its pages


_kept: dict[tuple[int, int], _Kept] = {}  # by size and address
_used: set[int] = set()  # where memory begins that is a result's, and was another's before
_order = itertools.count()
_results = 0


def fresh(nbytes: int, make: Callable[..., np.ndarray] = np.empty) -> tuple[np.ndarray, int]:
    """Return new memory and its address."""
    memory = make(nbytes, np.uint8)
    return memory, address(memory)


def borrow(nbytes: int) -> tuple[Any, int]:
    """Return memory for a result and its address, kept memory where some fits; it is kept again when it is dropped.

    Whatever runs Python code may drop results, in this thread too: so each access is one operation of a dictionary,
    and there is no lock.
    """
    global _results
    if nbytes < SMALLEST or not keeps():
        return fresh(nbytes)
    _results += 1
    best = None
    for key in list(_kept):
        kept = _kept.get(key)
        if kept is None:
            continue
        if nbytes <= key[0] <= nbytes + nbytes // 4 and (best is None or key < best):  # the smallest that fits
            best = key
        elif _results - kept.results > PATIENCE:
            _kept.pop(key, None)
    if best is not None and (found := _kept.pop(best, None)) is not None:
        memory = found.memory
        _used.add(address(memory))
    else:
        try:
            memory = np.empty(nbytes, np.uint8)
        except MemoryError:
            _kept.clear()
            memory = np.empty(nbytes, np.uint8)
    place = address(memory)
    block = _block_type(nbytes).from_address(place)
    block.memory = memory
    return block, place


def has_pages(place: int) -> bool:
    """Return whether the memory that a result begins in has been used before, so that the system has provided it."""
    return any(place - back in _used for back in range(0, 2 * LINE, ALIGNED))


class _Block:
    """Whom a result's memory belongs to: goes when nothing refers to the memory any more."""

    memory: np.ndarray

    def __del__(self, is_ending: Callable[[], bool] = sys.is_finalizing) -> None:
        if not is_ending():  # or what modules define may be gone
            _used.discard(address(self.memory))
            _keep(self.memory)


@functools.lru_cache(maxsize=128)
def _block_type(nbytes: int) -> Any:
    # An array is made of ctypes' own kind of memory in a third of the time that an array interface takes.
    return type("_Block", (_Block, ctypes.c_char * nbytes), {})


def _keep(memory: np.ndarray) -> None:
    start, nbytes = address(memory), memory.nbytes
    total = nbytes + sum(size for size, _ in list(_kept))
    if total > MOST:
        for key in sorted(list(_kept), key=_rank):  # the oldest first
            if total <= MOST:
                break
            if _kept.pop(key, None):
                total -= key[0]
    if total <= MOST:
        _kept[nbytes, start] = _Kept(memory, next(_order), _results)
        if total > OWN:
            _offer()


def _rank(key: tuple[int, int]) -> int:
    kept = _kept.get(key)
    return 0 if kept is None else kept.order


def _offer() -> None:
    """Tell the system that it may have the pages of all but the newest."""
    own = 0
    for key in sorted(list(_kept), key=_rank, reverse=True):
        nbytes, start = key
        own += nbytes
        kept = _kept.get(key)
        if own <= OWN or kept is None or kept.is_offered:
            continue
        kept = _kept.pop(key, None)  # so that nobody takes it before it is offered
        if kept is None:
            continue
        first = -(-start // LARGE_PAGE) * LARGE_PAGE  # part of a large page would be a reason to split it
        inside = (start + nbytes - first) // LARGE_PAGE * LARGE_PAGE
        if inside > 0:
            advise(first, inside, _advice())
        _kept[key] = kept._replace(is_offered=True)


def keeps() -> bool:
    """Return whether the memory of dropped results is kept: where the system may have it back."""
    return _advice() is not None


@functools.cache
def _advice() -> int | None:
    """Return the advice that the system may have pages back, None on systems without it."""
    return getattr(mmap, "MADV_FREE", None) if _madvise() else None


@functools.cache
def _madvise() -> Callable[..., int] | None:
    try:
        function = ctypes.CDLL(None).madvise
    except (OSError, AttributeError, TypeError):  # not on every platform
        return None
    function.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    return function


def advise(start: int, nbytes: int, advice: int | None) -> None:
    """Tell the system how memory will be used, if it listens."""
    if advice is not None and (function := _madvise()) is not None:
        function(start, nbytes, advice)
