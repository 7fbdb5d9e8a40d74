"""Threads that take stretches of time of a long problem, where what came long before is forgotten.

Threads that share rows of lanes walk a piece of each row: the processor's own prefetcher, which follows what is
contiguous, starts anew with each piece, and runs past its end. A stretch of time is contiguous; but it has to know the
state that it starts from. The steps before it tell: they are walked twice, from zeros and from something else. Where
both come out the same to the last bit, the stretches are walked at once, and each state that was told is compared with
what the stretch before came to. So results are those of one walk, to the bit, whatever gates do: where a stretch turns
out to have started from another state, it is walked once more, and the next such problems are shared otherwise.

As many steps as told a plan's last start are thought to tell its next: of two threads, both then walk these from zeros,
one to start from there, the other so that what it comes to can be compared with it.

The gradient of a gate that does not change with time is a sum over all steps. It is made of partial sums, a lane's over
so many steps as the shape says: these are the same however threads share the walk, so the sum is as well.
"""

import ctypes
import itertools

import numpy as np

from . import _problem, _threads
from ._arrays import address, are_same, array_at
from ._cpu import _native
from ._layout import A_MODE, HEAD, N_STEPS, STREAMING, SUM_STEPS, SUMS_A, TO_A, TO_B, UNWANTED, A, B, G, H
from ._problem import APART, ROWS

LEAST_BYTES = 6 << 20  # of a problem; below, it takes longer to see to it
FORWARD_ROW, BACK_ROW = 8 << 10, 16 << 10  # bytes of a row from which pieces of it are long enough
LEAST_BEFORE, MOST_BEFORE = 128, 1024  # steps that tell a state,
SHARE = 16  # and of how many steps of a stretch they are one
OTHER = 1e6  # what lanes start from when not from zeros: more than most data, so that those are forgotten too
SUMS = 16  # partial sums over time


def _is_long(plan):
    """Return whether a problem has many steps of short rows, and no others."""
    return (
        plan.steps >= 2 * SHARE * LEAST_BEFORE and plan.traversal == ROWS and plan.sizes[:2] == (1, 1)
        and len(plan.extra) == 1 and plan.wide.kind != "c"
        and plan.row_bytes <= (BACK_ROW if plan.gradients else FORWARD_ROW)
        and not (plan.gradients and plan.lane_strides[H] != plan.itemsizes[H])
    )  # fmt: skip


def sum_stretch(plan):
    """Return over how many steps go partial sums of the gradient of a number, or of a gate for each lane.

    0 if there are none, or they are made of parts of rows. By the shape alone.
    """
    if not plan.gradients or plan.gradients[0] is None or not _is_long(plan):
        return 0
    if plan.dtype.itemsize * plan.steps * plan.lanes < LEAST_BYTES // 4:  # whatever else is read or wanted
        return 0
    (_, _, strides), other = plan.gradients
    if strides is not None or plan.time_strides[SUMS_A] != 0:
        return 0
    return -(-plan.steps // SUMS) if other is None or other[2] is not None else 0


def stretches(plan, threads, of_sums=0):
    """Return in how many stretches to walk a problem, and how many steps tell where one starts; None if in one.

    By the plan alone, and what became of the last ones of its kind. ``of_sums`` is its `sum_stretch`.
    """
    count = min(threads, plan.steps // (SHARE * LEAST_BEFORE))
    if of_sums:
        count = min(count, -(-plan.steps // of_sums))
    elif any(gradient is not None and gradient[2] is None for gradient in plan.gradients):
        return None
    if count <= 1 or 2 * count < threads or not _is_long(plan):
        return None
    if plan.word * plan.steps * plan.lanes < LEAST_BYTES:
        return None
    if plan.is_in_vain("by time"):
        return None
    return count, min(MOST_BEFORE, plan.steps // (SHARE * count))


class Stretches:
    """A way to walk a plan by stretches, of which all is known but a few addresses.

    ``call`` is the plan's kernel, ``geometry`` its table, and ``stretches`` what the function of that name returned.
    After a ``shift`` of so many lanes, rows of results start with a line: the first of each is then the one that the
    row before it ends with. Lanes before that line go one step alone before all others, and these the last step alone.
    """

    def __init__(self, plan, call, geometry, stretches, shift=0):
        self._plan, self._call, self._geometry, self._is_back = plan, call, geometry, bool(plan.gradients)
        self._operands, self._results = ((G, A, B, H, TO_A, TO_B), (TO_A, TO_B)) if self._is_back else ((A, B, H), (H,))
        self._lanes, self._keep = plan.sizes[2], []
        self._pitch = -(-self._lanes // 8) * 8 + APART // plan.wide.itemsize  # of states, which stand some lines apart
        self._unit = int(geometry[SUM_STEPS]) or 1
        self._shift, self._steps = shift, plan.steps - bool(shift)
        self._cuts, before = _cut(self._steps, stretches, self._unit)
        self._count = count = len(self._cuts) - 1
        # Where states stand: of the two walks that tell each, then of all stretches, then what comes before these.
        self._own, self._before = 2 * (count - 1), 2 * (count - 1) + count
        down = shift > 0 and plan.time_strides[H] < 0
        self._first, self._ends = int(down), []
        if shift:
            ends = (0, shift, self._lanes - shift), (shift, self._lanes, -shift)
            first, last = ends[:: -1 if down else 1]
            self._ends = [self._end(0, self._own, *first), self._end(self._steps, self._own + count - 1, *last)]
        self._walks = self._known([self._walk(k) for k in range(count)])
        # How many steps may tell, the fewest first; which of these did, if the last walk's states were told.
        self._enough = [max(1, int(before * 0.5 ** (k / 2))) for k in range(6, -1, -1)]
        self._fewest, self._told_by = 0, None
        self._tells, self._at_once = {}, {}

    def _telling(self, before):
        """Return the parts by which as many steps tell all starts, from zeros and from something else."""
        if before not in self._tells:
            turns = itertools.product(range(1, self._count), range(2))
            self._tells[before] = self._known([self._tell(k, before, 2 * (k - 1) + turn, -turn) for k, turn in turns])
        return self._tells[before]

    def _telling_on_the_way(self, before):
        """Return the parts of two threads: each is told the one start, the same, and walks; one from there."""
        if before not in self._at_once:
            (first, second), ends = self._walks[0], self._ends
            one = [self._tell(1, before, 0, 0), *ends[:1], first]
            other = [self._tell(1, before, self._own + 1, 1), second, *ends[1:]]
            self._at_once[before] = self._known([*one, *other], chain=len(one))
        return self._at_once[before]

    def _tell(self, k, before, states, turn):
        """Return the part that walks as many steps ``before`` the k-th stretch, which tells where that starts.

        What it writes goes to one row that a result comes to later: another one for each ``turn``, which is 0, 1 or -1.
        """
        cut = self._cuts[k]
        if self._is_back:
            here = self._steps - cut
            return self._part(here, here + before, states, self._before, 0, -before * turn)
        return self._part(cut - before, cut, states, 0, 0, before * turn)

    def _walk(self, k):
        first, stop = self._cuts[k : k + 2]
        if not self._is_back:
            return self._part(first, stop, self._own + k)
        to_sums = self._sums_of(k)[0] * self._lanes * self._plan.wide.itemsize
        return self._part(self._steps - stop, self._steps - first, self._own + k, self._before + k, to_sums)

    def _sums_of(self, k):
        """Return which of the partial sums are the k-th stretch's."""
        return [-(-steps // self._unit) for steps in self._cuts[k : k + 2]]

    def _part(self, first, stop, states, before=0, to_sums=0, aside=None):
        """Return what is added to addresses for the steps from ``first`` to ``stop``, and the last arguments.

        With a number of steps ``aside``, all results go to the row there, which stays in the cache, and nothing is
        summed: rows of their own would be in the cache when results are written to them past it, which takes longer.
        """
        table, lengths = self._geometry.copy(), np.array([stop - first], np.int64)
        table[N_STEPS] = stop - first
        if aside is not None:
            table[STREAMING] = 0
            for k in self._results:
                table[HEAD + 3 * k] = 0
            if table[SUM_STEPS] > 0:
                table[A_MODE], table[SUM_STEPS] = UNWANTED, 0
        self._keep += table, lengths
        step = self._first + first
        to_results = step + (aside or 0)
        moved = [
            self._plan.distance(k, to_results if k in self._results else step, self._shift) for k in self._operands
        ]
        pitch = self._pitch * self._plan.wide.itemsize
        return moved, states * pitch, before * pitch, to_sums, address(lengths), address(table), 0, self._lanes

    def _end(self, step, states, low, high, states_from):
        """Return the part of some lanes that take one step alone, with the lane 0's state so many lanes further on."""
        table, lengths = self._geometry.copy(), np.ones(1, np.int64)
        table[N_STEPS], table[STREAMING] = 1, 0
        self._keep += table, lengths
        moved = [self._plan.distance(k, step) for k in self._operands]
        place = (states * self._pitch + states_from) * self._plan.wide.itemsize
        return moved, place, 0, 0, address(lengths), address(table), low, high

    def _calls(self, parts, at, room, sums):
        """Return calls, given operands' addresses at the first step and those of states and sums."""
        calls = []
        for moved, states, before, to_sums, lengths, table, low, high in parts:
            places = [place + offset for place, offset in zip(at, moved, strict=True)]
            if self._is_back:
                places = *places[:4], room + before, room + states, *places[4:], sums + to_sums, room
            else:
                places = *places, room + states
            calls.append((self._call, None, *places, lengths, table, 0, 1, 0, 1, low, high))
        return calls

    def _known(self, parts, chain=1):
        """Return parts, and the table of their calls as if all addresses were 0, None if not native."""
        if not _native.is_native([(self._call,)]):
            return parts, None
        return parts, _native.table(self._calls(parts, [0] * len(self._operands), 0, 0), chain)

    def _run(self, known, team, threads, at, room, sums):
        parts, rows = known
        if rows is None:
            team.run(self._calls(parts, at, room, sums), threads)
            return
        places = (*at[:4], room, room, *at[4:], sums, room) if self._is_back else (*at, room)
        _threads.run_template(team, rows, places, threads)

    def walk(self, team, at, carry, first_states=0, sums=None):
        """Walk; return whether that was done: else states are not told.

        ``at`` are the addresses of a, b and h at the first step, of a gradient those of g, a, b, h and both gradients;
        ``carry`` is that of the states that travel begins with, then of those that it ends with, None if they are zeros
        and nobody asks for them. Results stand where no operand does. A gradient takes the states before all steps from
        ``first_states``; ``sums`` are the partial sums of a's gradient, all 0, None if it has none.
        """
        plan, count, lanes = self._plan, self._count, self._lanes
        states = _problem.zeros((self._before + (count if self._is_back else 0), self._pitch), plan.wide)
        room = address(states)
        if self._is_back:
            for k in range(count - 1):
                states[self._before + k, :lanes] = self._row(at[3], self._steps - self._cuts[k + 1] - 1)
            ctypes.memmove(address(states[-1]), first_states, lanes * plan.wide.itemsize)
        given = at, room, room if sums is None else address(sums)
        before, threads, shift = self._told_by, min(team.size, count), self._shift
        if carry is not None:
            carried, first, last = array_at(carry, (lanes,), plan.wide), states[self._own], states[self._before - 1]
            first[: lanes - shift], first[lanes - shift : lanes] = carried[shift:], carried[:shift]
        if count == 2 and before is not None:
            self._run(self._telling_on_the_way(before), team, threads, *given)
        else:
            told, other = states[0 : self._own : 2, :lanes], states[1 : self._own : 2, :lanes]
            for before in self._enough[self._fewest :]:
                told[...], other[...] = 0, OTHER
                self._run(self._telling(before), team, min(team.size, 2 * (count - 1)), *given)
                if are_same(told, other):
                    break
            else:
                plan.note_in_vain("by time")
                return False
            states[self._own + 1 : self._before, :lanes] = told
            self._walk_alone(self._ends[:1], *given)
            self._run(self._walks, team, threads, *given)
            self._walk_alone(self._ends[1:], *given)
            self._told_by = before
        for k in range(1, count):
            came = states[self._own + k - 1, :lanes]
            if not are_same(came, states[2 * (k - 1), :lanes]):
                plan.note_in_vain("by time")
                self._told_by = None
                self._fewest = min(self._enough.index(before) + 1, len(self._enough) - 1)
                states[self._own + k, :lanes] = came
                if sums is not None:
                    sums[slice(*self._sums_of(k))] = 0
                self._walk_alone(self._walks[0][k : k + 1], *given)
                if k == count - 1:
                    self._walk_alone(self._ends[1:], *given)
        if carry is not None:
            carried[shift:], carried[:shift] = last[: lanes - shift], last[lanes - shift : lanes]
        return True

    def _walk_alone(self, parts, *given):
        """Walk parts on this thread."""
        for call, *arguments in self._calls(parts, *given):
            call(*arguments)

    def _row(self, h, step):
        """Return the results of a step as states are."""
        element = self._plan.elements["h"]
        dtype = np.dtype(np.uint16 if element == "bf2" else element)
        row = array_at(h + step * self._plan.time_strides[H], (self._lanes,), dtype)
        return (row.astype(np.uint32) << 16).view(np.float32) if element == "bf2" else row


def _cut(steps, stretches, unit=1):
    """Return after how many steps stretches begin and the last ends, and how many steps tell a state.

    Stretches are of whole units of steps.
    """
    count, before = stretches
    units = -(-steps // unit)
    cuts = [min(steps, unit * (units * k // count)) for k in range(count + 1)]
    shortest = min(stop - start for start, stop in itertools.pairwise(cuts))
    return cuts, min(before, shortest // 2)  # twice as many have room
