"""Calls by turns, so that what drifts drifts for all of them."""

import ctypes
import math
import statistics
import time


def keep_memory():
    """Have the C library keep what is freed, for all that is measured alike.

    Else each step waits for the system to provide new pages, which on a virtual machine takes anything from as long as
    the walk to ten times that, whoever asks for them.
    """
    mallopt = ctypes.CDLL(None).mallopt
    for option in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
        mallopt(option, 1 << 30)


def times(calls, seconds=0.0, fewest=1, most=math.inf, *, warm=False, at_once=1, wait=lambda: None):
    """Return lists of the seconds of each call: so many at least, more for as long as there is time.

    Each is called once before; with `warm` also before every call that is timed, so that what the caches hold does not
    depend on who went before. `wait` returns when a device is ready. Results are freed outside the timed part.
    """
    taken, order, count = {name: [] for name in calls}, list(calls), 0
    for call in calls.values():
        call()
    began = time.perf_counter()
    while count < fewest or (count < most and time.perf_counter() - began < seconds):
        for name in order:
            call = calls[name]
            if warm:
                call()
            wait()
            start = time.perf_counter()
            for _ in range(at_once):
                result = call()
            wait()
            taken[name].append((time.perf_counter() - start) / at_once)
            del result
        order.reverse()  # or one would always find the other's leavings
        count += 1
    return taken


def medians(calls, *arguments, **options):
    """Return the median seconds of each call."""
    return {name: statistics.median(own) for name, own in times(calls, *arguments, **options).items()}


def minima(calls, *arguments, **options):
    """Return the least seconds of each call."""
    return {name: min(own) for name, own in times(calls, *arguments, **options).items()}
