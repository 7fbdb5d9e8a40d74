"""How many threads, and the workers that all calls share.

Kernels are native code that walks ranges, so plain threads suffice. Workers are made on first use and made anew in a
forked child. A call takes the workers that are free, and takes a share of the work itself; so any number of threads
may call at once, from anywhere, even while the interpreter shuts down, and calls never wait for each other. A worker
waits for more for about a millisecond before it sleeps. Waking it takes as long as many a call, so that is the first
thing a call does, and meanwhile prepares the rest. The system may put a worker on its caller's processor, where each
would wait for the other: so it is put on another.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, SupportsIndex

import numpy as np

from . import _messages as say
from ._arrays import address
from ._cpu import _native

FEW = 4  # threads of a call
NEAR = 100e-9  # seconds in which a line goes from one processor to another that has a cache in common with it
TIMES, TRIES = 200, 3  # a line goes to and fro; and is that tried
LOOKS = 1 << 22  # after which who waits for it gives up: a millisecond or a few, longer than it takes to wake a worker
VALID = 1.0  # seconds for which the answer holds: a virtual machine is moved to other processors at any time

_lock = threading.RLock()  # a signal's handler, or a finalizer, may call from where this thread holds it
_idle: list[_Worker] = []
_workers = 0
_threads: int | None = None
_lent = threading.local()
_near = False, -math.inf  # whether threads seemed to have a cache in common, and until when that holds


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
        raise TypeError(say.threads_type(type(n)))
    try:
        n = n.__index__()
    except TypeError:
        raise TypeError(say.threads_type(type(n))) from None
    if n < 1:
        raise ValueError(say.threads_range(n))
    _threads = n


class Team(NamedTuple):
    """Who runs the kernels of a call: so many threads at most, and the function that runs calls on them, as `run`."""

    size: int
    run: Callable[..., None]


def team() -> Team:
    """Return the team that the calling thread is lent, or else this module's: its workers, as many as are set."""
    return getattr(_lent, "team", None) or Team(get_num_threads(), run)


@contextlib.contextmanager
def lent(team: Team | None) -> Iterator[None]:
    """Let what this thread calls meanwhile run on a team, as arrays that are another library's own memory should."""
    before = getattr(_lent, "team", None)
    _lent.team = team
    try:
        yield
    finally:
        _lent.team = before


def alone() -> contextlib.AbstractContextManager[None]:
    """Keep what this thread calls meanwhile on this thread: one of many that a scheduler runs side by side."""
    return lent(Team(1, run))


def share_a_cache(team: Team) -> bool:
    """Return whether threads of a team are on processors that seem to have a cache in common.

    By the time that a line takes between two of them, as virtual machines do not know. False until that was seen.
    """
    global _near
    shares, until = _near
    now = time.monotonic()
    if team.size > 1 and now > until:
        _near = shares, now + VALID  # what other callers take meanwhile, and this one if nobody comes
        for _ in range(TRIES):
            seconds = _seconds_apart(team)
            if seconds <= NEAR or seconds == math.inf:
                break
        if seconds < math.inf:
            _near = seconds <= NEAR, now + VALID
    return team.size > 1 and _near[0]


def _seconds_apart(team: Team) -> float:
    """Return how long a line takes from one thread of a team to another; infinite if they did not meet."""
    line = _lines(1)
    meet = _native.functions().meet
    start = time.perf_counter()
    team.run([(meet, address(line), TIMES, side, LOOKS) for side in range(2)])
    seconds = time.perf_counter() - start
    return seconds / (2 * TIMES) if line[0] == 2 * TIMES else math.inf


def ranges(n: int, parts: int) -> list[tuple[int, int]]:
    """Cut range(n) into nearly equal ranges."""
    parts = max(1, min(parts, n))
    return [(n * k // parts, n * (k + 1) // parts) for k in range(parts)]


def run(calls: Iterable[tuple[Any, ...]] | np.ndarray, threads: int | None = None) -> None:
    """Run ``(function, *arguments)`` calls at once, or on so many threads; return when all are done.

    Of n threads, each takes every n-th call, and this thread takes the first. Where no worker is free, this thread does
    what one would have done. Calls may be a table of `_native`, for so many threads. Functions that are not compiled
    run one after another, on this thread.
    """
    if isinstance(calls, np.ndarray):
        _run_table(calls, threads or 1)
        return
    calls = list(calls)
    n = len(calls) if threads is None else min(threads, len(calls))
    if n > 1 and _native.is_native(calls):
        _run_table(_native.table(calls), n)
        return
    for function, *arguments in calls:
        function(*arguments)


def run_template(
    team: Team, rows: np.ndarray, sharer: Callable[..., object] | None, addresses: tuple[int, ...], threads: int
) -> None:
    """Run a table of `_native` with addresses added, on so many threads; ``sharer`` is `_native.sharer`'s function."""
    if team.run is run and sharer is not None and share(sharer, addresses, threads):
        return
    team.run(_native.with_addresses(rows, addresses), threads)


def share(sharer: Callable[..., object], addresses: tuple[int, ...], n: int) -> bool:
    """Let a function of `_native.sharer` run on so many threads; return whether these could be had as they are.

    If so, each takes every n-th call, in their order.
    """
    workers = list[_Worker]()
    try:
        _hire(n - 1, workers)
        if len(workers) != n - 1:
            return False
        mails = workers[0].mails if n == 2 else np.array([worker.mail for worker in workers], np.int64)
        return sharer(address(mails), n - 1, *addresses) is None
    finally:
        _idle.extend(workers)


def stir(n: int) -> None:
    """Wake workers for so many threads if they sleep, while a call that will want them is prepared."""
    if any(not worker.is_asleep() for worker in _idle[-1:]):  # nor do the others
        return
    workers = list[_Worker]()
    try:
        _hire(n - 1, workers)
        for worker in workers:
            if worker.is_asleep():
                worker.locate()
                worker.wake(n)
    finally:
        _idle.extend(workers)


def _run_table(table: np.ndarray, n: int) -> None:
    native, workers = _native.functions(), list[_Worker]()
    try:
        _hire(n - 1, workers)
        n = len(workers) + 1
        mails = workers[0].mails if n == 2 else np.array([worker.mail for worker in workers], np.int64)
        for k, worker in enumerate(workers):
            answer = native.post(worker.mail, address(table), k + 1, n)
            if answer == native.SLEEPS:
                worker.wake(n)
            elif answer == native.MEETS:
                worker.elsewhere()
        native.lead(address(table), n, address(mails), len(workers))
    except BaseException:  # an interrupt; workers may be at work on arrays that are about to go
        _see_done(workers)
        raise
    finally:
        _idle.extend(workers)


def _see_done(workers: list[_Worker]) -> None:
    """Wait for workers of which it is not known whether they were given work, and woken."""
    while not all(worker.is_done() for worker in workers):
        try:
            for worker in workers:
                if not worker.is_done():
                    worker.rouse()
            time.sleep(1e-3)
        except KeyboardInterrupt:  # one is on its way already
            pass


def _lines(count: int) -> np.ndarray:
    """Return the words, all 0, of so many cache lines that hold nothing else."""
    room = np.zeros(8 * (count + 1), np.int64)
    skip = -address(room) % 64 // 8
    return room[skip : skip + 8 * count]


class _Worker:
    """A thread that runs parts of tables, all in native code, where it also sleeps."""

    def __init__(self) -> None:
        self._words = _lines(3)
        self.mail = address(self._words)
        self._words[_native.Functions.DONE] = 1
        self._words[_native.Functions.SEEN] = -1
        self._given: set[int] | None = None  # the processors that it may be on, while it is kept to fewer
        self.mails = np.array([self.mail], np.int64)
        _native.lock_mail(self._words)
        self._native = _native.functions()
        self._thread = threading.Thread(target=self._native.serve, args=(self.mail,), name="fastrecur", daemon=True)
        self._thread.start()

    def is_asleep(self) -> bool:
        """Return whether the worker sleeps, and has no work."""
        return bool(self._words[_native.Functions.STATE] == _native.ASLEEP)

    def locate(self) -> None:
        """Note on which processor this thread is, which has hired the worker."""
        self._native.locate(self.mail)

    def is_done(self) -> bool:
        """Return whether all is done that it was given."""
        return bool(self._words[_native.Functions.DONE])

    def elsewhere(self, then: Callable[[], object] | None = None) -> None:
        """Do something about the worker, for who has hired it, while it may not be on that one's processor.

        Afterwards it may: what else runs where it went may keep it waiting, and the system sees to that.
        """
        given, here = self._given, int(self._words[_native.Functions.HERE])
        if given is None:
            given = self._processors()
        if given is not None and here in given and len(given) > 1:
            self._given = given  # until it has them back: an interrupt may come anywhere
            self._allow(given - {here})
        try:
            if then is not None:
                then()
        finally:
            if self._given is not None:
                self._allow(self._given)
                self._given = None

    def _processors(self) -> set[int] | None:
        """Return where the worker may run; None where the system does not tell."""
        try:
            return os.sched_getaffinity(self._thread.native_id or -1)
        except (AttributeError, OSError):
            return None

    def _allow(self, processors: set[int]) -> None:
        with contextlib.suppress(AttributeError, OSError):  # not on every platform; not allowed
            os.sched_setaffinity(self._thread.native_id or -1, processors)

    def wake(self, n: int) -> None:
        """Rouse the worker for a call of n threads, on another processor than this one: of many, one is idle."""
        self.elsewhere(self.rouse) if n <= FEW else self.rouse()

    def rouse(self) -> None:
        """Have the worker look at its mail once more; for whoever has hired it."""
        self._native.rouse(self.mail)


def _hire(most: int, workers: list[_Worker]) -> None:
    """Add workers that nobody has now to a list; make more up to the number of threads that is set."""
    global _workers
    if sys.is_finalizing():  # no thread could be started
        return
    while len(workers) < most:
        try:
            workers.append(_idle.pop())
            continue
        except IndexError:
            pass
        counted, worker = False, None
        try:
            with _lock:
                if _workers >= get_num_threads() - 1:
                    break
                _workers, counted = _workers + 1, True
            # Nobody holds the lock: the new thread may collect garbage before it runs, and a finalizer may call.
            worker = _Worker()
            workers.append(worker)
        except RuntimeError:  # no thread can be started: there are too many, or the interpreter is shutting down
            break
        finally:
            if counted and worker is None:
                with _lock:
                    _workers -= 1


def _after_fork() -> None:
    # The child has none of the parent's threads, and the lock may have been held.
    global _lock, _idle, _workers
    _lock, _idle, _workers = threading.RLock(), [], 0
    _native.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
