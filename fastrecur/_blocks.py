"""Memory of large results: what a dropped one leaves is kept for the next.

The system clears new memory page by page when it is first touched, which takes as long as the walk, or longer. Memory
that was used before has its pages. Meanwhile the system may take them back if it runs short of memory, where they are
large ones.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
from collections.abc import Callable

import numpy as np

from ._arrays import address

SMALLEST = 128 << 10  # bytes below which the C library keeps memory by itself
MOST = 1 << 30  # bytes that are kept at once
PATIENCE = 16  # results after which what none of them could use is given back
LARGE_PAGE = 2 << 20

_kept: dict[tuple[int, int], tuple[int, np.ndarray]] = {}  # by size and address: when it was kept, and the memory
_results = 0


def borrow(nbytes: int) -> np.ndarray:
    """Return memory for a result, kept memory where some fits; it is kept again when it is dropped.

    Whatever runs Python code may drop results, in this thread too: so each access is one operation of a dictionary,
    and there is no lock.
    """
    global _results
    if nbytes < SMALLEST or _advice() is None:
        return np.empty(nbytes, np.uint8)
    _results += 1
    memory = None
    for key in sorted(list(_kept)):  # the smallest first
        if memory is None and nbytes <= key[0] <= nbytes + nbytes // 4:
            _, memory = _kept.pop(key, (0, None))
        elif _results - _kept.get(key, (_results,))[0] > PATIENCE:
            _kept.pop(key, None)
    if memory is None:
        try:
            memory = np.empty(nbytes, np.uint8)
        except MemoryError:
            _kept.clear()
            memory = np.empty(nbytes, np.uint8)
    return np.asarray(_Block(memory))[:nbytes]


class _Block:
    """Whom a result's memory belongs to: goes when nothing refers to the memory any more."""

    def __init__(self, memory: np.ndarray) -> None:
        self._memory = memory
        self.__array_interface__ = memory.__array_interface__

    def __del__(self) -> None:
        if _keep is not None:  # as it is when the interpreter ends
            _keep(self._memory)


def _keep(memory: np.ndarray) -> None:
    start, nbytes = address(memory), memory.nbytes
    first = -(-start // LARGE_PAGE) * LARGE_PAGE  # part of a large page would be a reason to split it
    inside = (start + nbytes - first) // LARGE_PAGE * LARGE_PAGE
    if inside > 0:
        advise(first, inside, _advice())  # before anyone may take it
    total = nbytes + sum(size for size, _ in list(_kept))
    for key in list(_kept):  # the oldest first
        if total <= MOST:
            break
        if _kept.pop(key, None):
            total -= key[0]
    if total <= MOST:
        _kept[nbytes, start] = _results, memory


@functools.cache
def _advice() -> int | None:
    """Return the advice that the system may have pages back, None on systems without it, where nothing is kept."""
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
