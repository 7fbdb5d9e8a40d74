"""Threads that take chunks of time of many short rows.

Threads that share rows of lanes take a part of each row: the processor's own prefetcher, which follows what is
contiguous, starts anew with each part, and runs past its end. A chunk of time is contiguous.

A warm-up that starts from zeros predicts a carry if one that starts from something else comes to the same, to the last
bit. As many steps as were enough for a plan's last scan are thought to be enough for its next; then zeros alone do.

The gradient of a gate that does not change with time is a sum over all steps. It is made of partial sums, a series'
over so many steps as the shape says: these are the same however threads share the scan, so the sum is as well.
"""

import ctypes
import itertools

import numpy as np

from . import _problem
from ._arrays import address, are_same, array_at
from ._bound import FIRST, Calls, geometry_of
from ._chunked import scan
from ._layout import A_MODE, CARRY, HEAD, LENGTHS, STREAMING, SUM_STEPS, SUMS_A, SUMS_B, TO_A, TO_B, UNWANTED, H
from ._problem import APART

OTHER = 1e6  # what a second warm-up starts from: more than most data, so that those are forgotten too
FEWER = [0.5 ** (k / 2) for k in range(6, -1, -1)]  # of the steps of a warm-up, what is tried first


class RowChunks:
    """Chunks of a plan's rows, of which all is known but addresses."""

    def __init__(self, bound, way):
        plan = bound.plan
        geometry = geometry_of(plan, way)
        self._bound, self._plan, self._geometry = bound, plan, geometry
        self._is_back, self._lanes = bool(plan.gradients), plan.sizes[2]
        self._part = 0, 1, 0, 1, 0, self._lanes
        self._results = (TO_A, TO_B) if self._is_back else (H,)
        self._steps, self._unit = plan.steps, way.sum_steps or 1
        self._count = count = way.chunks
        units = -(-self._steps // self._unit)
        self._cuts = [min(self._steps, self._unit * (units * k // count)) for k in range(count + 1)]
        shortest = min(stop - start for start, stop in itertools.pairwise(self._cuts))
        most = min(way.warm_up, shortest // 2)  # two of them have room in a chunk
        self._enough = [max(1, int(most * part)) for part in FEWER]
        self._known = None
        # States: of all chunks, then predictions from zeros and from something else, then what comes before chunks.
        self._predicted, self._before = count, count + 2 * (count - 1)
        self._pitch = -(-self._lanes * plan.wide.itemsize // 64) * 64 + APART
        self._chunks, self._warm_ups = Calls(bound), {}
        for k in range(count):
            moved = {CARRY: k * self._pitch, FIRST: (self._before + k) * self._pitch}
            moved[SUMS_A] = self._sums_of(k)[0] * self._lanes * plan.wide.itemsize
            self._chunks.add(geometry, self._part, moved, steps=self._range(*self._cuts[k : k + 2]))

    def _range(self, first, stop):
        """Return a range of steps in the order of time, of one that is counted in the order of the scan."""
        return (self._steps - stop, self._steps - first) if self._is_back else (first, stop)

    def _sums_of(self, k):
        """Return which of the partial sums are the k-th chunk's."""
        return [-(-steps // self._unit) for steps in self._cuts[k : k + 2]]

    def _warm_up(self, steps, turns):
        """Return the calls of all warm-ups of so many steps, from zeros and, of two turns, from something else.

        Their results go to one row that a result comes to later, another one for each turn: it stays in the cache. Rows
        of their own would be there when results are streamed to them, which takes longer. Nothing is summed.
        """
        calls = self._warm_ups.get((steps, turns))
        if calls is None:
            calls, geometry = Calls(self._bound), self._geometry.copy()
            geometry[STREAMING] = 0
            for k in self._results:
                geometry[HEAD + 3 * k] = 0
            if geometry[SUM_STEPS] > 0:
                geometry[A_MODE], geometry[SUM_STEPS] = UNWANTED, 0
            for k, turn in itertools.product(range(1, self._count), range(turns)):
                aside = steps * turn * (1 if self._is_back else -1)
                moved = {result: self._plan.distance(result, aside) for result in self._results}
                moved[CARRY] = (self._predicted + 2 * (k - 1) + turn) * self._pitch
                moved[FIRST] = self._before * self._pitch
                calls.add(geometry, self._part, moved, steps=self._range(self._cuts[k] - steps, self._cuts[k]))
            self._warm_ups[steps, turns] = calls
        return calls

    def scan(self, team, places, sums=None):
        """Scan; return whether that was done: not if carries are not predicted.

        ``places`` are the operands' addresses. The carry's may be None: zeros, for which nobody asks afterwards.
        ``sums`` are the partial sums of a's gradient, all 0, None if it has none.
        """
        plan, count, lanes = self._plan, self._count, self._lanes
        slots = self._before + (count if self._is_back else 0)
        states = _problem.zeros((slots, self._pitch // plan.wide.itemsize), plan.wide)[:, :lanes]
        own, others = states[:count], states[self._predicted : self._before]
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

        def predict():
            if (known := self._known) is not None:  # of other threads' calls too
                self._warm_up(known, 1).run(team, min(team.size, count - 1), to)
            elif not self._find(others, team, to):
                plan.wait()
                return False
            own[1:] = others[::2]
            return True

        def scan_all():
            self._chunks.run(team, min(team.size, count), to)

        def is_right(k):
            return are_same(own[k - 1], others[2 * (k - 1)])

        def scan_again(k):
            plan.wait()
            self._known = None
            own[k] = own[k - 1]
            if sums is not None:
                sums[slice(*self._sums_of(k))] = 0
            self._chunks.run_here(to, slice(k, k + 1))

        done = scan(count, predict, scan_all, is_right, scan_again)
        if done and given[CARRY] is not None:
            ctypes.memmove(given[CARRY], address(own[-1]), size)
        return done

    def _find(self, predicted, team, to):
        """Find how many steps are enough to predict all carries; return whether any number is."""
        for steps in self._enough:
            predicted[::2], predicted[1::2] = 0, OTHER
            self._warm_up(steps, 2).run(team, min(team.size, len(predicted)), to)
            if are_same(predicted[::2], predicted[1::2]):
                self._known = steps
                return True
        return False

    def _row(self, h, step):
        """Return the results of a step as states are."""
        element = self._plan.elements["h"]
        dtype = np.dtype(np.uint16 if element == "bf2" else element)
        place = h + self._bound.offset(H) + self._plan.distance(H, step)
        row = array_at(place, (self._lanes,), dtype)
        return (row.astype(np.uint32) << 16).view(np.float32) if element == "bf2" else row
