"""Threads that take chunks of time of many short rows.

Threads that share rows of lanes take a part of each row: the processor's own prefetcher, which follows what is
contiguous, starts anew with each part, and runs past its end. A chunk of time is contiguous.

Mostly a few steps before a chunk, the warm-up, tell the state that it starts from: what came before them is forgotten.
So these are scanned first, from zeros, which predicts the carry. Afterwards each prediction is compared with what the
chunk before came to, to the last bit, and a chunk that started from another state is scanned again. Hence results are
those of one scan, whatever gates do; but where one was wrong, time is not cut for a while.
"""

import ctypes

import numpy as np

from .._arguments.arrays import address, are_same, array_at
from .._plan.layout import A_MODE, CARRY, HEAD, LENGTHS, STREAMING, SUM_STEPS, SUMS_A, SUMS_B, TO_A, TO_B, UNWANTED, H
from .._plan.problem import APART
from .bound import FIRST, Calls, geometry_of
from .machine import allocate


class RowChunks:
    """Chunks of a plan's rows, of which all is known but addresses."""

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
        geometry[STREAMING] = 0
        for k in (TO_A, TO_B) if self._is_back else (H,):
            geometry[HEAD + 3 * k] = 0
        if geometry[SUM_STEPS] > 0:
            geometry[A_MODE], geometry[SUM_STEPS] = UNWANTED, 0
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
        own, predicted = states[:count], states[count : self._before]
        given = dict(zip(self._bound.order, places, strict=True))
        size = lanes * plan.wide.itemsize
        room = address(states)
        if self._is_back:
            for k in range(count - 1):
                states[self._before + k] = self._row(given[H], self._steps - self._cuts[k + 1] - 1)
            ctypes.memmove(address(states[-1]), given[FIRST], size)
        if given[CARRY] is not None:
            ctypes.memmove(room, given[CARRY], size)
        aside = {CARRY: room, FIRST: room, LENGTHS: 0, SUMS_A: room if sums is None else address(sums), SUMS_B: room}
        to = [aside.get(k, given[k]) for k in self._bound.order]
        self._warm_ups.run(team, min(team.size, count - 1), to)
        own[1:] = predicted
        self._chunks.run(team, min(team.size, count), to)
        are_predicted = True
        for k in range(1, count):
            if not are_same(own[k - 1], predicted[k - 1]):
                are_predicted, own[k] = False, own[k - 1]
                if sums is not None:
                    sums[slice(*self._sums_of(k))] = 0
                self._chunks.run_here(to, slice(k, k + 1))
        if given[CARRY] is not None:
            ctypes.memmove(given[CARRY], address(own[-1]), size)
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
