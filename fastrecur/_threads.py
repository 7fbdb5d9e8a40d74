"""How many threads, and the one pool they come from.

Kernels release the GIL and walk ranges, so plain threads suffice. The pool is made on first use and made anew in a
forked child. The calling thread takes a share of the work itself and tasks never wait for each other, so any number
of threads may call at once, from anywhere, even while the interpreter shuts down.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, SupportsIndex

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_workers = 0
_threads: int | None = None


def _default() -> int:
    try:
        available = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every platform
        available = os.cpu_count() or 1
    wanted = os.environ.get("NUMBA_NUM_THREADS", "")
    return max(1, int(wanted)) if wanted.isdigit() else available


def get_num_threads() -> int:
    """Return the number of threads that a call may use.

    Returns
    -------
    int
        What `set_num_threads` last set; until then ``NUMBA_NUM_THREADS`` if that is set, else the number of CPUs
        that this process may run on.

    Examples
    --------
    >>> import fastrecur
    >>> fastrecur.set_num_threads(2)
    >>> fastrecur.get_num_threads()
    2
    """
    global _threads
    if _threads is None:
        _threads = _default()
    return _threads


def set_num_threads(n: SupportsIndex) -> None:
    """Set the number of threads that a call may use, for the whole process.

    Results do not depend on it, to the bit. Short calls run on the calling thread whatever is set.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    TypeError
        If ``n`` is not an integer.
    ValueError
        If ``n`` is less than 1.

    Examples
    --------
    >>> import fastrecur
    >>> fastrecur.set_num_threads(1)
    """
    global _threads
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise TypeError(f"`n` must be an integer, got {type(n).__name__}")
    try:
        n = n.__index__()
    except TypeError:
        raise TypeError(f"`n` must be an integer, got {type(n).__name__}") from None
    if n < 1:
        raise ValueError(f"`n` must be at least 1, got {n}")
    _threads = n


class Team(NamedTuple):
    """Who runs the kernels of a call: so many threads at most, and the function that runs calls on them, as `run`."""

    size: int
    run: Callable[..., None]


def team() -> Team:
    """Return the team of this module: the pool, of as many threads as are set."""
    return Team(get_num_threads(), run)


def run(calls: Iterable[tuple[Any, ...]], threads: int | None = None) -> None:
    """Run ``(function, *arguments)`` calls at once, or on so many threads; return when all are done.

    Of n threads, each takes every n-th call, and this thread takes the first.
    """
    calls = list(calls)
    n = len(calls) if threads is None else min(threads, len(calls))
    waiting = [calls[k::n] for k in range(n)]
    futures = []
    if n > 1:
        try:
            pool = _get_pool(n - 1)
            while len(waiting) > 1:
                futures.append(pool.submit(_one_after_another, waiting[-1]))
                waiting.pop()
        except RuntimeError:  # the interpreter is shutting down, or no thread can be started
            pass
    for part in waiting:
        _one_after_another(part)
    for future in futures:
        future.result()


def _one_after_another(calls: list[tuple[Any, ...]]) -> None:
    for function, *arguments in calls:
        function(*arguments)


def _get_pool(workers: int) -> ThreadPoolExecutor:
    global _pool, _workers
    with _lock:
        if _pool is None or _workers < workers:
            # An outgrown pool finishes what it has; its idle threads end with it.
            if _pool is not None:
                _pool.shutdown(wait=False)
            _workers = max(workers, get_num_threads() - 1)
            _pool = ThreadPoolExecutor(_workers, thread_name_prefix="fastrecur")
        return _pool


def _after_fork() -> None:
    # The child has none of the parent's threads, and the lock may have been held.
    global _lock, _pool
    _lock = threading.Lock()
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
