"""Threads that take chunks of time: of many short rows, or of few long series.

What stands before a chunk is predicted, mostly by a warm-up over a few steps before it: what came before these is
forgotten. Afterwards each prediction is compared with what the chunk before came to, to the last bit, and a chunk that
started from another state is scanned again. Hence results are those of one scan, whatever gates do; but where one was
wrong, time is not cut for a while.
"""

import ctypes
import itertools

import numpy as np

from .._arguments.arrays import address, are_same, array_at
from .._plan import layout as at
from .._plan.fields.scan import ALL, BLOCK, DOWNSWEEP, HOLD, REDUCE, SCAN_CARRIES, SUMMARY, WARM_UP
from .._plan.layout import CARRY, SUMS_A, SUMS_B, H
from .._plan.problem import APART
from .bound import FIRST, Calls, geometry_of, sum_bytes_of
from .machine import allocate
from .machine.threads import ranges


def mispredicted(own, predicted, order):
    """Yield which chunks did not start from what the one before came to: that is where they start from now."""
    for before, k in itertools.pairwise(order):
        if not are_same(own[before], predicted[k]):
            own[k] = own[before]
            yield k


class RowChunks:
    """Chunks of a plan's rows, of which all is known but addresses.

    Threads that share rows of lanes take a part of each row: the processor's own prefetcher, which follows what is
    contiguous, starts anew with each part, and runs past its end. A chunk of time is contiguous. Warm-ups start from
    zeros.
    """

    def __init__(self, bound, way):
        plan, geometry = bound.plan, geometry_of(bound.plan, way)
        self._bound, self._plan = bound, plan
        self._is_back, self._lanes = bool(plan.gradients), plan.sizes[2]
        self._steps, self._unit = plan.steps, way.sum_steps or 1
        self._count = count = way.chunks
        units = -(-self._steps // self._unit)
        self._cuts = [min(self._steps, self._unit * (units * k // count)) for k in range(count + 1)]
        # States: of all chunks, then predictions, then what comes before chunks.
        self._before = 2 * count - 1
        self._pitch = -(-self._lanes * plan.wide.itemsize // 64) * 64 + APART
        self._chunks, self._warm_ups, part = Calls(bound), Calls(bound), (0, 1, 0, 1, 0, self._lanes)
        for k in range(count):
            moved = {CARRY: k * self._pitch, FIRST: (self._before + k) * self._pitch}
            moved[SUMS_A] = self._sums_of(k)[0] * self._lanes * plan.wide.itemsize
            self._chunks.add(geometry, part, moved, steps=self._range(*self._cuts[k : k + 2]))
        # A warm-up's results go to one row that a result comes to later: it stays in the cache. Rows of their own would
        # be there when results are streamed to them, which takes longer. Nothing is summed.
        geometry = geometry.copy()
        geometry[at.STREAMING] = 0
        for k in (at.TO_A, at.TO_B) if self._is_back else (H,):
            geometry[at.HEAD + 3 * k] = 0
        if geometry[at.SUM_STEPS] > 0:
            geometry[at.A_MODE], geometry[at.SUM_STEPS] = at.UNWANTED, 0
        for k in range(1, count):
            moved = {CARRY: (count + k - 1) * self._pitch, FIRST: self._before * self._pitch}
            start = max(self._cuts[k - 1], self._cuts[k] - way.warm_up)
            self._warm_ups.add(geometry, part, moved, steps=self._range(start, self._cuts[k]))

    def _range(self, first, stop):
        """Return a range of steps in the order of time, of one that is counted in the order of the scan."""
        return (self._steps - stop, self._steps - first) if self._is_back else (first, stop)

    def _sums_of(self, k):
        """Return which of the partial sums are the k-th chunk's."""
        return [-(-steps // self._unit) for steps in self._cuts[k : k + 2]]

    def scan(self, team, places, sums=None):
        """Scan all steps; return whether all carries were predicted.

        ``places`` are the operands' addresses. The carry's may be None: zeros, for which nobody asks afterwards.
        ``sums`` are the partial sums of a's gradient, all 0, None if it has none.
        """
        plan, count, lanes = self._plan, self._count, self._lanes
        slots = self._before + (count if self._is_back else 0)
        states = allocate.zeros((slots, self._pitch // plan.wide.itemsize), plan.wide)[:, :lanes]
        own, predicted = states[:count], states[count - 1 : self._before]  # of the first, nothing is
        given = dict(zip(self._bound.order, places, strict=True))
        room = address(states)
        if self._is_back:
            for k in range(count - 1):
                states[self._before + k] = self._row(given[H], self._steps - self._cuts[k + 1] - 1)
            ctypes.memmove(address(states[-1]), given[FIRST], own[0].nbytes)
        if given[CARRY] is not None:
            ctypes.memmove(room, given[CARRY], own[0].nbytes)
        aside = {CARRY: room, FIRST: room, at.LENGTHS: 0, SUMS_A: room if sums is None else address(sums), SUMS_B: room}
        to = [aside.get(k, given[k]) for k in self._bound.order]
        self._warm_ups.run(team, min(team.size, count - 1), to)
        own[1:] = predicted[1:]
        self._chunks.run(team, min(team.size, count), to)
        are_predicted = True
        for k in mispredicted(own, predicted, range(count)):
            are_predicted = False
            if sums is not None:
                sums[slice(*self._sums_of(k))] = 0
            self._chunks.run_here(to, slice(k, k + 1))
        if given[CARRY] is not None:
            ctypes.memmove(given[CARRY], address(own[-1]), own[0].nbytes)
        if not are_predicted:
            plan.wait()
        return are_predicted

    def _row(self, h, step):
        """Return the results of a step as states are."""
        element = self._plan.elements["h"]
        dtype = np.dtype(np.uint16 if element == "bf2" else element)
        place = h + self._bound.offset(H) + self._plan.distance(H, step)
        row = array_at(place, (self._lanes,), dtype)
        return (row.astype(np.uint32) << 16).view(np.float32) if element == "bf2" else row


class ScanChunks:
    """Chunks of a plan's blocks of time, of which all is known but addresses.

    A warm-up is in the kernel: it composes a few blocks before the chunk, and more where these do not forget. Where
    many would not, all blocks are reduced first, one thread scans the carries, and then all are scanned again.
    """

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
            geometry[[at.FIRST_BLOCK, at.LAST_BLOCK, at.PHASE]] = part
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
        plan, order, lanes = self._plan, self._order, self._plan.lanes
        states = np.zeros((len(order), APART // plan.wide.itemsize), plan.wide)
        # Of each chunk the carry and what was predicted; whether it was; whether its first gate is closed.
        own, predicted, flags = states[:, :lanes], states[:, lanes : 2 * lanes], states[:, 2 * lanes : 2 * lanes + 2]
        place = self._bound.order.index(CARRY)
        to = *places[:place], address(states), *places[place + 1 :]
        ctypes.memmove(address(own[order[0]]), places[place], own[0].nbytes)
        self._predicting.run(team, len(order), to)  # and scans
        if not flags[order[1:], 0].all():
            plan.wait()
            return False
        for k in mispredicted(own, predicted, order):
            self._clear(places, *self._sums[k])
            self._again.run_here(to, slice(k, k + 1))
        ctypes.memmove(places[place], address(own[order[-1]]), own[0].nbytes)
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
