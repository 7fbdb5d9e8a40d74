"""Threads that take stretches of time of a long problem, where what came long before is forgotten.

Threads that share rows of lanes walk a piece of each row: the processor's own prefetcher, which follows what is
contiguous, starts anew with each piece, and runs past its end. A stretch of time is contiguous; but it has to know the
state that it starts from. The steps before it tell: they are walked twice, from zeros and from something else. Where
both come out the same to the last bit, the stretches are walked at once, and each state that was told is compared with
what the stretch before came to. So results are those of one walk, to the bit, whatever gates do: where a stretch turns
out to have started from another state, it is walked once more, and the next such problems are shared otherwise.

The gradient of a gate that does not change with time is a sum over all steps. It is made of partial sums, a lane's over
so many steps as the shape says: these are the same however threads share the walk, so the sum is as well.
"""

import itertools

import numpy as np

from . import _problem
from ._arrays import address, are_same, array_at
from ._problem import APART, ROWS, SUMS_A, TO_A, TO_B, UNWANTED, A, B, G, H

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


class _Operands:
    """A problem of so many steps whose ``operands`` stand ``at`` some addresses at the first step of travel."""

    def __init__(self, plan, geometry, operands, at):
        self.plan, self.geometry, self.at = plan, geometry, at
        self.strides = [plan.time_strides[k] for k in operands]
        self.results = [k in (H, TO_A, TO_B) for k in operands]
        self.keep = []  # what stands behind addresses

    def stretch(self, first, stop, aside=None):
        """Return where operands stand for the steps from ``first`` to ``stop``, their number's place and the rest.

        With a number of steps ``aside``, results go there, and stay in the cache, and nothing is summed.
        """
        table, lengths = self.geometry.copy(), np.array([stop - first], np.int64)
        table[0] = stop - first
        if aside is not None:
            table[3] = 0
            if table[9] > 0:
                table[4], table[9] = UNWANTED, 0
        self.keep += table, lengths
        moved = [
            at + (first + (aside or 0 if is_result else 0)) * stride
            for at, stride, is_result in zip(self.at, self.strides, self.results, strict=True)
        ]
        return moved, address(lengths), (address(table), 0, 1, 0, 1, 0, self.plan.sizes[2])

    def wide_row(self, k, step):
        """Return the address of a copy of the k-th operand's row at a step, as states are."""
        element, lanes = self.plan.elements["h"], self.plan.sizes[2]
        dtype = np.dtype(np.uint16 if element == "bf2" else element)
        row = array_at(self.at[k] + step * self.strides[k], (lanes,), dtype)
        if element == "bf2":
            row = (row.astype(np.uint32) << 16).view(np.float32)
        self.keep.append(row.astype(self.plan.wide))
        return address(self.keep[-1])


def _room(plan, *counts):
    """Return zero states, each some lines from the next."""
    lanes = plan.sizes[2]
    pitch = -(-lanes // 8) * 8 + APART // plan.wide.itemsize
    return _problem.zeros((*counts, pitch), plan.wide)[..., :lanes]


def _walk(plan, count, carry, team, tell, walk):
    """Walk so many stretches; return whether that was done, or states are not told.

    ``walk(k, states)`` returns the call for the k-th stretch of the way, and ``tell(k, turn, states)`` the one that
    tells where it starts, from zeros or in another turn from something else. ``carry`` is where states stand.
    """
    told = _room(plan, count - 1, 2)
    told[:, 1] = OTHER
    team.run([tell(k, turn, told[k - 1, turn]) for k in range(1, count) for turn in range(2)])
    if not are_same(told[:, 0], told[:, 1]):
        plan.note_in_vain("by time")
        return False
    states, given = _room(plan, count), array_at(carry, plan.sizes[2:], plan.wide)
    states[0], states[1:] = given, told[:, 0]
    team.run([walk(k, states[k]) for k in range(count)])
    for k in range(1, count):
        if not are_same(states[k - 1], told[k - 1, 0]):
            plan.note_in_vain("by time")
            states[k] = states[k - 1]
            team.run([walk(k, states[k])])
    given[...] = states[-1]
    return True


def _cut(steps, stretches, unit=1):
    """Return after how many steps stretches begin and the last ends, and how many steps tell a state.

    Stretches are of whole units of steps.
    """
    count, before = stretches
    units = -(-steps // unit)
    cuts = [min(steps, unit * (units * k // count)) for k in range(count + 1)]
    shortest = min(stop - start for start, stop in itertools.pairwise(cuts))
    return cuts, min(before, shortest // 2)  # twice as many have room


def forward(plan, call, geometry, at, carry, steps, stretches, team):
    """Walk some steps by ``stretches``; return whether that was done: else states are not told.

    ``at`` are the addresses of a, b and h at the first step of travel, ``carry`` that of the first states, then of the
    last. Results stand where no operand does: what tells states is written to places that come later.
    """
    cuts, before = _cut(steps, stretches)
    operands = _Operands(plan, geometry, (A, B, H), at)

    def call_of(first, stop, states, aside=None):
        moved, lengths, tail = operands.stretch(first, stop, aside)
        return call, None, *moved, address(states), lengths, *tail

    def walk(k, states):
        return call_of(cuts[k], cuts[k + 1], states)

    def tell(k, turn, states):
        return call_of(cuts[k] - before, cuts[k], states, -before * turn)

    return _walk(plan, len(cuts) - 1, carry, team, tell, walk)


def vjp(plan, call, geometry, at, first_states, carry, sums, stretches, team):
    """Walk all steps back by ``stretches``; as `forward`.

    ``at`` are the addresses of g, a, b, h and both gradients, ``first_states`` that of the states before all steps.
    ``sums`` are the partial sums of a's gradient, None if it has none.
    """
    unit = 1 if sums is None else int(geometry[9])
    ago, before = _cut(plan.steps, stretches, unit)
    cuts = [plan.steps - steps for steps in ago]
    operands = _Operands(plan, geometry, (G, A, B, H, TO_A, TO_B), at)
    befores = [*(operands.wide_row(3, cut - 1) for cut in cuts[1:-1]), first_states]

    def call_of(first, stop, states_before, states, aside=None, to_sums=carry):
        moved, lengths, tail = operands.stretch(first, stop, aside)
        # The carry is a valid place for sums, where there are none.
        return call, None, *moved[:4], states_before, address(states), *moved[4:], to_sums, carry, lengths, *tail

    def walk(k, states):
        to_sums = carry
        if sums is not None:
            first, stop = (-(-steps // unit) for steps in ago[k : k + 2])
            sums[first:stop] = 0
            to_sums = address(sums[first:])
        return call_of(cuts[k + 1], cuts[k], befores[k], states, to_sums=to_sums)

    def tell(k, turn, states):
        return call_of(cuts[k], cuts[k] + before, first_states, states, before * turn)

    return _walk(plan, len(cuts) - 1, carry, team, tell, walk)
