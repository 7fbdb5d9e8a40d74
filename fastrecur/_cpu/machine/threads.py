"""How many threads a call may use, and which: this one and the workers that all calls share, or a team that is lent.

Kernels are native code that walks ranges, so plain threads suffice. Workers are made on first use and made anew in a
forked child. A call takes the workers that are free, and takes a share of the work itself; so any number of threads
may call at once, from anywhere, even while the interpreter shuts down, and calls never wait for each other. Waking a
worker takes as long as many a call, so that is the first thing a call does, and meanwhile prepares the rest.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, SupportsIndex

import numpy as np

from ..._arguments import checks
from ..compiler import native
from ..vectors.processor import is_interpreted
from . import workers

_threads: int | None = None
_lent = threading.local()


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
    if _threads is None:  # not before the first call: a child may have fewer processors
        wanted, affinity = os.environ.get("NUMBA_NUM_THREADS", ""), getattr(os, "sched_getaffinity", None)
        available = len(affinity(0)) if affinity else os.cpu_count() or 1
        _threads = max(1, int(wanted)) if wanted.isdigit() else available
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
    _threads = checks.count("n", n)


class Team(NamedTuple):
    """Who runs the kernels of a call: so many threads at most, and the function that runs calls on them, as `run`."""

    size: int
    run: Callable[..., None]


def team() -> Team:
    """Return the team that the calling thread is lent, or else this module's: its workers, as many as are set."""
    return getattr(_lent, "team", None) or Team(get_num_threads(), run)


@contextlib.contextmanager
def lent(team: Team | None) -> Iterator[None]:
    """Let what this thread calls meanwhile run on a team, as arrays that are another library's own memory should.

    None changes nothing: a thread that is `alone` stays so.
    """
    before = getattr(_lent, "team", None)
    _lent.team = team or before
    try:
        yield
    finally:
        _lent.team = before


def alone() -> contextlib.AbstractContextManager[None]:
    """Keep what this thread calls meanwhile on this thread: one of many that a scheduler runs side by side."""
    return lent(Team(1, run))


def ranges(n: int, parts: int) -> list[tuple[int, int]]:
    parts = max(1, min(parts, n))
    return [(n * k // parts, n * (k + 1) // parts) for k in range(parts)]


def run(calls: Iterable[tuple[Any, ...]] | np.ndarray, threads: int | None = None) -> None:
    """Run ``(function, *arguments)`` calls at once, or on so many threads; return when all are done.

    This thread and workers that are free take one call after another, or as a table of `native` says, which may stand
    for the calls if ``threads`` is given. Functions that are not compiled run one after another, on this thread.
    """
    if not isinstance(calls, np.ndarray):
        calls = list(calls)
        threads = min(len(calls), len(calls) if threads is None else threads)
        if threads <= 1 or not native.is_native(calls):
            for function, *arguments in calls:
                function(*arguments)
            return
        calls = native.table(calls)
    if threads is None or threads == 1 or not workers.can_hire():
        native.run_alone(calls)
    else:
        workers.run(calls, threads, get_num_threads() - 1)


def prewake(threads: int) -> int:
    """Wake workers for so many threads if they sleep, while a call that will want them is prepared.

    Return for how many threads to prepare it: fewer where others have the workers' processors, or have the workers.
    """
    if is_interpreted():  # what is not compiled runs on this thread, part by part
        return threads
    return workers.wake(threads) if workers.can_hire() else 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=workers.after_fork)
