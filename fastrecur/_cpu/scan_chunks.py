"""Threads that take chunks of time of few long series: of a scan's blocks, some each.

Carries are predicted and compared as in `row_chunks`, but a warm-up is in the kernel: it composes a few blocks before
the chunk, and more where these do not forget. Where many would not, all blocks are reduced first, one thread scans the
carries, and then all are scanned again; for a while, warm-ups of such problems are not tried.
"""

import ctypes
import itertools

import numpy as np

from .._arguments.arrays import address, are_same
from .._plan.layout import CARRY, FIRST_BLOCK, LAST_BLOCK, PHASE, SUMS_A, SUMS_B, H
from .._plan.problem import APART
from .bound import Calls, geometry_of, sum_bytes_of
from .kernels.blocks import ALL, DOWNSWEEP, HOLD, REDUCE, SCAN_CARRIES, SUMMARY, WARM_UP
from .kernels.series import BLOCK
from .machine.threads import ranges


class ScanChunks:
    """Chunks of a plan's blocks of time, of which all is known but addresses."""

    def __init__(self, bound, way):
        self._bound, self._plan, self._geometry = bound, bound.plan, geometry_of(bound.plan, way)
        self._sum_bytes, self._is_back = sum_bytes_of(bound.plan), bool(bound.plan.gradients)
        self._n_blocks = blocks = bound.plan.steps // BLOCK
        # Chunks are of whole partial sums, if there are some.
        units = ranges(blocks, way.sums or way.threads)
        self._sums = ranges(len(units), way.threads)
        self._chunks = [(units[first][0], units[last - 1][1]) for first, last in self._sums]
        count = len(self._chunks)
        self._order = list(range(count))[:: -1 if self._is_back else 1]  # of the scan
        # The scan's first chunk has a carry; forward, the kernel sees that nothing is before it.
        phases = [ALL if self._is_back and k == count - 1 else WARM_UP for k in range(count)]
        self._predicting = self._calls(
            *((*chunk, phase) for chunk, phase in zip(self._chunks, phases, strict=True)), apart=APART
        )
        self._again = self._calls(*((*chunk, ALL) for chunk in self._chunks), apart=APART)

    def _calls(self, *parts, lanes=None, apart=0):
        calls, lanes = Calls(self._bound), lanes or (0, self._plan.lanes)
        for k, part in enumerate(parts):
            geometry = self._geometry.copy()
            geometry[[FIRST_BLOCK, LAST_BLOCK, PHASE]] = part
            calls.add(geometry, (0, *lanes), {CARRY: k * apart})
        return calls

    def scan(self, team, places):
        """Scan all steps, given operands' addresses; results are not where an operand is."""
        plan = self._plan
        blocks = np.empty(plan.lanes * self._n_blocks * SUMMARY, plan.wide)
        places = *places, 0, address(blocks)
        if plan.waits() or not self._scan_chunks(team, places):
            self._clear(places, 0, self._sums[-1][1])
            self._reduce(team, places)

    def _scan_chunks(self, team, places):
        """Scan chunks with warm-ups; return whether that was done."""
        plan, order, lanes, size = self._plan, self._order, self._plan.lanes, self._plan.wide.itemsize
        states = np.zeros((len(order), APART // size), plan.wide)
        # Of each chunk the carry and what was predicted; whether it was; whether its first gate is closed.
        own, predicted, flags = states[:, :lanes], states[:, lanes : 2 * lanes], states[:, 2 * lanes : 2 * lanes + 2]
        place = self._bound.order.index(CARRY)
        given, start = places[place], address(states)
        ctypes.memmove(start + order[0] * APART, given, lanes * size)
        to = *places[:place], start, *places[place + 1 :]

        self._predicting.run(team, len(order), to)  # and scans
        if not flags[order[1:], 0].all():
            plan.wait()
            return False
        for before, k in itertools.pairwise(order):
            if not are_same(own[before], predicted[k]):
                own[k] = own[before]
                self._clear(places, *self._sums[k])
                self._again.run_here(to, slice(k, k + 1))
        ctypes.memmove(given, start + order[-1] * APART, lanes * size)
        if not self._is_back:
            self._hold(places, [self._chunks[k][0] for k in order if flags[k, 1]])
        return True

    def _hold(self, places, firsts):
        """Repeat results where a chunk began with a closed gate and did not see what it followed."""
        self._calls(*((first, first + 1, HOLD) for first in firsts)).run_here(places)

    def _clear(self, places, first, last):
        """Make partial sums 0 again, if there are some."""
        for operand, nbytes in zip((SUMS_A, SUMS_B), self._sum_bytes, strict=True) if self._is_back else ():
            ctypes.memset(places[self._bound.order.index(operand)] + first * nbytes, 0, (last - first) * nbytes)

    def _reduce(self, team, places):
        """Reduce all blocks, scan the carries and then the blocks again.

        One series after the other, in the kernel's order, as one thread adds up what they share.
        """
        plan, threads = self._plan, len(self._chunks)
        self._calls(*((*chunk, REDUCE) for chunk in self._chunks)).run(team, threads, places)
        for lane in range(plan.lanes)[:: 1 if (plan.time_strides[H] < 0) == self._is_back else -1]:
            alone = lane, lane + 1
            self._calls((0, self._n_blocks, SCAN_CARRIES), lanes=alone).run_here(places)
            self._calls(*((*chunk, DOWNSWEEP) for chunk in self._chunks), lanes=alone).run(team, threads, places)
        if not self._is_back:
            self._hold(places, [low for low, _ in self._chunks[1:]])
            self._calls((self._n_blocks, self._n_blocks, ALL)).run_here(places)
