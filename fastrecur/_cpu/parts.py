"""Threads that take parts of a plan's lanes."""

import ctypes

import numpy as np

from .._arguments.arrays import address
from .._plan.layout import CARRY, HEAD, SUMS_A, SUMS_B
from .._plan.problem import APART, ROWS
from . import cost
from .bound import PRODUCTS, Calls, geometry_of, parts_of, sum_bytes_of
from .machine import allocate
from .machine.memory_pool import LINE


class Parts:
    """Calls on parts of a plan's lanes, of which all is known but addresses; parts of one row have their own states."""

    def __init__(self, bound, way):
        plan = bound.plan
        geometry, sum_bytes = geometry_of(plan, way), sum_bytes_of(plan)
        parts = parts_of(plan, way.parts)
        self._threads = min(way.threads, len(parts))
        self._spans = _state_spans(plan, parts)
        self._room = plan.state_bytes + APART * len(self._spans) + LINE
        self._states = [at for at, k in enumerate(bound.order) if k in (CARRY, PRODUCTS)]
        # A sum is one place for all repetitions: each part goes through these one by one.
        self._calls = Calls(bound, len(plan.extra))
        for k, part in enumerate(parts):
            moved = {CARRY: k * APART, PRODUCTS: k * APART} if self._spans else {}
            if way.sums and not cost.cuts_time(plan):
                moved |= {SUMS_A: k * sum_bytes[0], SUMS_B: k * sum_bytes[1]}
            for repeat in range(len(plan.extra)):
                self._calls.add(geometry, part, moved, repeat)

    def run(self, team, places):
        places, keep, moves = list(places), [], []
        for at in self._states:
            given = places[at]
            if given is None or self._spans:
                room = np.zeros(self._room, allocate.BYTE)
                own = address(room) + -address(room) % LINE
                keep.append(room)
                if given is not None:
                    spans = enumerate(self._spans)
                    moves += [(own + k * APART + begin, given + begin, end - begin) for k, (begin, end) in spans]
                places[at] = own
        for own, given, size in moves:
            ctypes.memmove(own, given, size)
        self._calls.run(team, self._threads, places)
        for own, given, size in moves:
            ctypes.memmove(given, own, size)


def _state_spans(plan, parts):
    """Return where in bytes each part's states begin and end, if they are to stand apart; else nothing."""
    if plan.traversal != ROWS or len(parts) == 1:
        return []
    outer, middle, inner = plan.sizes
    size, row = plan.wide.itemsize, int(plan.geometry[HEAD + 3 * CARRY + 1])
    if outer > 1 or (middle > 1 and row != inner * size) or middle * inner * size > cost.STATES_BYTES:
        return []
    return [(first * row + low * size, (last - 1) * row + high * size) for _, _, first, last, low, high in parts]
