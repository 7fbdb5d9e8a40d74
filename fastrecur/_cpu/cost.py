"""The cost model: how a plan is run on this machine. `choose` is the one place that decides.

No bit of a result depends on it: partial sums are cut by the shape alone.
"""

import contextlib
import ctypes
import functools
import glob
import math
import os
import sys
from typing import NamedTuple

from .._plan.fields.scan import BLOCK
from .._plan.layout import A_IS_BROADCAST, SUMS_A, H
from .._plan.problem import FEW_LANES, LARGE_PROBLEM, ROWS, SCAN, TRANSPOSE8
from .._plan.widths import OCTET, WIDTH
from .machine.memory_pool import LINE

# Bytes "moved" are those that all operands and results of a problem have together.
SERIAL_BYTES = LARGE_PROBLEM  # moved, below which a second thread costs more than it brings,
# by how many times as long as a recurrence's bytes a family's numbers of 8 bytes take (a statistic's bytes),
WEIGHTS = {"filters": 8, "statistics": 4, "pooling": 2, "returns": 1 / 2, "selective": 1 / 2}
SERIAL_ROW_BYTES = 3 << 20  # and where threads share rows, at whose cuts they share cache lines and pages
UNLOCKED_BYTES = 1 << 14  # moved, from which Python's lock is given up: taking it again costs as much as fewer take

PART_BYTES = 1024  # of a result's row that a thread takes at least: at a cut, each step waits for the other's line,
STREAMED_PART_BYTES = 128  # unless results are streamed
LONG_ROW_BYTES = 8 << 10  # of a result's row from which parts of it are as good as whole rows
ITEMS_A_THREAD = 4  # where cuts are free: who is late leaves some to others,
ITEM_BYTES = 128 << 10  # moved by an item at least
STATES_BYTES = 64 << 10  # of a row's states, up to which it matters that threads' own stand apart

PARTIAL_SUMS = 8  # most, over lanes
PARTIAL_SUMS_IN_TIME = 16

# A thread that starts in the middle of time takes its first state from a warm-up over the steps before it.
CHUNKED_BYTES = 6 << 20  # moved, from which rows are cut into chunks of time
WARM_UP_STEPS = 128, 1024  # least and most
WARM_UP_SHARE = 16  # of how many of a chunk's steps a warm-up may take one

# Results are streamed where a problem moves more than this part of the last-level cache, and more than so many bytes
# for each processor: the cache of a server's socket belongs to others too.
STREAMED_ROWS = 1 / 3, 6 << 20
SHARED_ROWS = 0.65, 12 << 20  # of rows of which each thread takes a long part, without gradients
STREAMED_SERIES = 0.65, 32 << 20  # of transpose8, which writes one series' steps after the other
# Of a row from which it is streamed though its ends, which are taken one by one, fill no cache line.
STREAMED_ROW_BYTES, STREAMED_NUMBERS = 512, 128

# Without prefetches rows on an EPYC take 0.83 to 1.39 of the time: less for gradients that are streamed, else more.
PREFETCH_BYTES = 16 << 10  # prefetch distance: of all operands' rows together,
PREFETCH_WITHIN_BYTES = 1 << 10  # or within a long row
CACHES = "/sys/devices/system/cpu/cpu0/cache"  # where Linux tells the sizes of a processor's caches,
CACHE_NAMES = b"hw.l3cachesize", b"hw.perflevel0.l2cachesize", b"hw.l2cachesize"  # and their names on macOS
USUAL_CACHE_BYTES = 32 << 20  # where neither does, as on Windows and on many virtual machines with ARM processors


class Way(NamedTuple):
    """How a plan is run."""

    threads: int
    parts: int  # into how many its lanes, or a scan's blocks of time, are cut
    sums: int  # partial sums over lanes of the gradient of what was broadcast; 0 if there are none,
    sum_steps: int  # or over how many steps each goes, of a gate that does not change with time; 0 if over all
    streaming: int
    prefetch: int
    chunks: int  # of time, if rows are cut so; else 0
    warm_up: int  # steps before a chunk, at most


@functools.lru_cache(maxsize=1024)
def choose(plan, most, is_fresh=True, starts_line=True, is_whole=True):
    """Return how to run a plan on so many threads at most.

    ``is_fresh`` says that results stand where no operand does, ``starts_line`` that the first row of results begins
    with a cache line, and ``is_whole`` that all series have all steps.
    """
    streams = is_fresh and _streams(plan, starts_line, most)
    sum_steps = sum_steps_of(plan) if is_whole else 0
    sums = 0 if sum_steps else _partial_sums(plan)
    threads = _useful_threads(plan, most, streams, is_fresh)
    chunks = _chunks(plan, most, sum_steps) if is_fresh and is_whole else 0
    parts = sums or _parts(plan, threads)
    streaming = int(is_fresh if plan.traversal == SCAN else streams)  # a scan is told whether it may write in place
    warm_up = min(WARM_UP_STEPS[1], plan.steps // (WARM_UP_SHARE * chunks)) if chunks else 0
    prefetch = _prefetch(plan, 1 if chunks else parts)
    return Way(threads, parts, sums, sum_steps, streaming, prefetch, chunks, warm_up)


def moved_bytes(plan):
    """Return how many bytes of operands and results a problem has."""
    return plan.word * plan.steps * plan.lanes


def is_narrow(plan):
    """Return whether rows take the kernel for their number of lanes; not whole vectors that are streamed."""
    return plan.narrow != () and not (plan.sizes[2] == WIDTH and moved_bytes(plan) > _cached_bytes(STREAMED_ROWS))


def cuts_time(plan):
    """Return whether threads take chunks of time of a scan, not series."""
    return plan.traversal == SCAN and plan.lanes < FEW_LANES


def lanes_together(plan):
    """Return how many lanes a traversal by lanes takes at a time."""
    return OCTET if plan.traversal == TRANSPOSE8 else 1 if plan.traversal == SCAN else WIDTH


def threads(family, nbytes, most):
    """Return on how many threads to run a call of a family: on one or on the most."""
    return most if WEIGHTS[family] * nbytes >= SERIAL_BYTES else 1


def items(nbytes, threads, most):
    """Return into how many items to cut what is freely cut into at most so many, on so many threads."""
    return 1 if threads == 1 else max(1, min(most, max(threads, min(ITEMS_A_THREAD * threads, nbytes // ITEM_BYTES))))


@functools.cache
def _cache_bytes():
    """Return the size of the last-level cache, which is the second of some processors and the third of others."""
    return max(_linux_caches(), default=0) or max(_mac_caches(), default=0) or USUAL_CACHE_BYTES


def _linux_caches():
    for path in glob.glob(f"{CACHES}/index*/size"):
        with contextlib.suppress(OSError, ValueError, IndexError), open(path) as file:
            text = file.read().strip()
            yield int(text.rstrip("KM")) << {"K": 10, "M": 20}.get(text[-1], 0)


def _mac_caches():
    for name in CACHE_NAMES if sys.platform == "darwin" else ():
        value, size = ctypes.c_int64(), ctypes.c_size_t(8)
        ctypes.CDLL(None).sysctlbyname(name, ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0))
        yield value.value


def _cached_bytes(limits):
    """Return how many bytes a problem may move so that its results stay in the cache."""
    share, for_each = limits
    return min(share * _cache_bytes(), for_each * (os.cpu_count() or 1))


def is_streamed(nbytes):
    """Return whether results of a filter that moves so many bytes are streamed, where they fill cache lines."""
    return nbytes > _cached_bytes(STREAMED_ROWS)


def _streams(plan, starts_line, threads):
    limits = STREAMED_SERIES if plan.traversal == TRANSPOSE8 else STREAMED_ROWS
    if plan.traversal == ROWS and not plan.gradients and 1 < threads <= _most_parts(plan, LONG_ROW_BYTES):
        limits = SHARED_ROWS
    # A scan's results would go through a buffer.
    if plan.traversal == SCAN or moved_bytes(plan) <= _cached_bytes(limits) or is_narrow(plan):
        return False
    if plan.traversal != ROWS or (starts_line and plan.row_bytes % LINE == 0):
        return True
    numbers = plan.sizes[2] * (2 if plan.wide.kind == "c" else 1)
    return plan.row_bytes >= STREAMED_ROW_BYTES and numbers >= STREAMED_NUMBERS


def _useful_threads(plan, most, streams, is_fresh):
    if moved_bytes(plan) < (SERIAL_ROW_BYTES if plan.traversal == ROWS and plan.sizes[0] == 1 else SERIAL_BYTES):
        return 1
    if cuts_time(plan):
        return min(most, max(1, plan.steps // BLOCK // 4)) if is_fresh else 1
    return min(most, _most_parts(plan, STREAMED_PART_BYTES if streams else PART_BYTES))


def _most_parts(plan, nbytes):
    """Return into how many parts lanes may be cut, if a row's have so many bytes at least."""
    if plan.traversal != ROWS:
        return -(-plan.lanes // lanes_together(plan))
    outer, middle, inner = plan.sizes
    if outer > 1:
        return outer
    return max(1, min(middle * plan.row_bytes // nbytes, middle if middle > 1 else inner // 64))


def _parts(plan, threads):
    if cuts_time(plan):
        return threads
    if plan.traversal == ROWS and plan.sizes[0] == 1:
        return threads  # each cut costs
    return items(moved_bytes(plan), threads, _most_parts(plan, 1))


def _partial_sums(plan):
    """Return of how many partial sums over lanes the gradient of what was broadcast is made, by the shape alone."""
    sums = [math.prod(gradient[0]) for gradient in plan.gradients if gradient is not None and gradient[2] is None]
    if not any(sums):
        return 0
    if moved_bytes(plan) < SERIAL_BYTES:
        return 1
    if plan.traversal == ROWS and plan.sizes[0] == 1:
        row = plan.sizes[1] * plan.row_bytes
        most = min(_most_parts(plan, PART_BYTES // 2), max(2, row // LONG_ROW_BYTES))
    elif cuts_time(plan):
        most = plan.steps // BLOCK
    else:
        most = _most_parts(plan, 1)
    return max(1, min(PARTIAL_SUMS, most, plan.steps * plan.lanes // (8 * max(sums))))


def _has_many_short_rows(plan):
    return (
        plan.traversal == ROWS and plan.sizes[:2] == (1, 1) and len(plan.extra) == 1 and plan.wide.kind != "c"
        and plan.steps >= 2 * WARM_UP_SHARE * WARM_UP_STEPS[0] and plan.row_bytes <= LONG_ROW_BYTES
        and not (plan.gradients and plan.lane_strides[H] != plan.itemsizes[H])
    )  # fmt: skip


def sum_steps_of(plan):
    """Return over how many steps go partial sums of the gradient of a number, or of a gate for each lane.

    0 if there are none, or they are made of parts of rows. By the shape alone, whatever else is read or wanted.
    """
    if not plan.gradients or plan.gradients[0] is None or not _has_many_short_rows(plan):
        return 0
    (_, _, strides), other = plan.gradients
    if strides is not None or plan.time_strides[SUMS_A] != 0 or (other is not None and other[2] is None):
        return 0
    if plan.dtype.itemsize * plan.steps * plan.lanes < CHUNKED_BYTES // 4:
        return 0
    return -(-plan.steps // PARTIAL_SUMS_IN_TIME)


def _chunks(plan, threads, sum_steps):
    """Return into how many chunks of time to cut rows; 0 if they are not cut so."""
    if moved_bytes(plan) < CHUNKED_BYTES or not _has_many_short_rows(plan):
        return 0
    count = min(threads, plan.steps // (WARM_UP_SHARE * WARM_UP_STEPS[0]))
    if sum_steps:
        count = min(count, -(-plan.steps // sum_steps))
    elif any(gradient is not None and gradient[2] is None for gradient in plan.gradients):
        return 0
    return count if count > 1 and 2 * count >= threads else 0


def _prefetch(plan, parts):
    """Return how many bytes of each operand's rows to prefetch, as `layout.PREFETCH` says."""
    if plan.traversal != ROWS or moved_bytes(plan) < SERIAL_BYTES:
        return 0
    outer, middle, _ = plan.sizes
    if outer > 1 or middle > 1:
        parts = 1
    in_cache = moved_bytes(plan) <= _cached_bytes(STREAMED_ROWS)
    if plan.row_bytes // parts >= LONG_ROW_BYTES or (in_cache and middle == 1 and parts == 1):
        return -PREFETCH_WITHIN_BYTES
    has_gates = plan.geometry[A_IS_BROADCAST] == 0
    return PREFETCH_BYTES // ((3 if plan.gradients else 1) + int(has_gates))
