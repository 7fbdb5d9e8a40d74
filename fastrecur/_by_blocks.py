"""Threads that share the time of few long lanes: a stretch of blocks each.

A thread has to know the state that its stretch starts from. Mostly a few blocks before it tell that to the last bit,
whatever they start from: so each thread asks these and walks on, and what it was told is compared with what the stretch
before came to. Where blocks do not tell, all are summarised first, one thread folds the summaries, and then all are
walked; for a while, blocks of such problems are not asked again. `_cpu/_scan.py` says what its kernels do.
"""

import ctypes
import itertools

import numpy as np

from . import _threads
from ._arrays import address, are_same
from ._cpu import _native
from ._cpu._scan import ALL, BLOCK, DOWNSWEEP, HOLD, PART, REDUCE, SCAN_CARRIES, SUMMARY, WARM_UP
from ._layout import H
from ._problem import APART, FEW_LANES
from ._threads import ranges

SLOWER = 1.6  # times as long as a summary takes a walk
# Of a kernel's arguments behind the rule, before the geometry's: how many there are, and which is the states'.
ADDRESSES, STATES = {"forward": 5, "vjp": 11}, {"forward": 3, "vjp": 5}


def shares_lanes(plan):
    """Return whether threads take lanes of a series problem, not stretches of time."""
    return plan.lanes >= FEW_LANES


def parts(plan, threads, pieces):
    """Return each call's part of the lanes, or of the blocks of time: whole pieces, if sums have so many of them."""
    if shares_lanes(plan):
        return ranges(plan.lanes, pieces or threads)
    blocks = plan.steps // BLOCK
    if not pieces:
        return ranges(blocks, threads)
    cuts = ranges(blocks, pieces)
    return [(cuts[first][0], cuts[last - 1][1]) for first, last in ranges(len(cuts), threads)]


def _told_calls(plan, call, direction, table, stretches, at, summaries):
    """Return the calls that walk stretches from what blocks tell.

    ``at`` are their first addresses, among which the states' is where all stretches' begin.
    """
    place, blocks = STATES[direction], plan.steps // BLOCK
    calls = []
    for k, (low, high) in enumerate(stretches):
        is_told = direction == "forward" or k < len(stretches) - 1  # forward, the first block has nothing before it
        head = *at[:place], at[place] + k * APART, *at[place + 1 :], table, summaries
        calls.append((call, None, *head, 0, plan.lanes, low, high, blocks, WARM_UP if is_told else ALL))
    return calls


def told_template(plan, call, direction, table, stretches):
    """Return the table of the calls that walk stretches from what blocks tell, as if all addresses but its own were 0.

    None where there are none, or they are not native.
    """
    if len(stretches) == 1 or shares_lanes(plan) or not _native.is_native([(call,)]):
        return None
    return _native.table(_told_calls(plan, call, direction, table, stretches, (0,) * ADDRESSES[direction], 0))


def _were_told(came, way, lanes):
    """Return whether all stretches but the first on the way were told where to start: what stands behind all states."""
    for k in way[1:]:
        if not came[k][2 * lanes]:
            return False
    return True


def _are_right(came, way, lanes):
    """Return whether stretches were told what those before came to, as far as is soon seen: not of zeros and NaN."""
    before = way[0]
    for k in way[1:]:
        for lane in range(lanes):
            if not came[before][lane] == came[k][lanes + lane] != 0:
                return False
        before = k
    return True


def _walk_told(plan, call, direction, sharing, at, walk_again, team):
    """Walk stretches from what blocks tell; return which begin with closed gates, None if blocks do not tell.

    ``walk_again(k, states, summaries)`` walks the k-th once more, where it was not told what came.
    """
    if plan.is_in_vain("told"):
        return None
    stretches, lanes, place, size = sharing.tails, plan.lanes, STATES[direction], plan.wide.itemsize
    count = len(stretches)
    states, summaries = np.zeros((count, APART // size), plan.wide), _summaries(plan)
    way = range(count) if direction == "forward" else range(count - 1, -1, -1)
    start, given = address(states), at[place]
    ctypes.memmove(start + way[0] * APART, given, lanes * size)
    at = *at[:place], start, *at[place + 1 :]
    if sharing.template is None:
        team.run(_told_calls(plan, call, direction, sharing.table, stretches, at, address(summaries)))
    else:
        _threads.run_template(team, sharing.template, sharing.sharer, (*at, 0, address(summaries)), count)
    came = states.tolist()
    if not _were_told(came, way, lanes):
        plan.note_in_vain("told")
        return None
    if not _are_right(came, way, lanes):
        for before, k in itertools.pairwise(way):
            if not are_same(states[before, :lanes], states[k, lanes : 2 * lanes]):
                states[k, :lanes] = states[before, :lanes]
                walk_again(k, start + k * APART, address(summaries))
    ctypes.memmove(given, start + way[-1] * APART, lanes * size)
    return [k for k in way if came[k][2 * lanes + 1]]


def _summaries(plan):
    return np.empty(plan.lanes * (plan.steps // BLOCK) * SUMMARY, plan.wide)


def forward(plan, call, sharing, at, fresh, team):
    """Walk all steps, given the addresses of a, b, h, states and lengths; results are ``fresh`` where no operand is."""
    head, blocks, lanes = (None, *at, sharing.table), plan.steps // BLOCK, plan.lanes
    if shares_lanes(plan):
        team.run([(call, *head, 0, *part, 0, blocks, blocks, ALL) for part in sharing.tails])
        return
    stretches = sharing.tails
    if len(stretches) == 1 or not fresh:
        call(*head, 0, 0, lanes, 0, blocks, blocks, ALL)
        return

    def hold(*firsts):
        """Repeat results where a thread did not see what it followed."""
        for first in firsts:
            call(*head, 0, 0, lanes, first, first + 1, blocks, HOLD)

    def walk_again(k, states, summaries):
        low, high = stretches[k]
        own = None, *at[:3], states, at[4], sharing.table, summaries, 0, lanes
        call(*own, low, high, blocks, PART)
        if high == blocks:
            call(*own, blocks, blocks, blocks, ALL)

    closed = _walk_told(plan, call, "forward", sharing, at, walk_again, team)
    if closed is not None:
        hold(*(stretches[k][0] for k in closed))
        return
    threads = len(stretches)
    summaries = _summaries(plan)
    own = *head, address(summaries), 0, lanes
    # The first thread goes the whole way on the first blocks while the others summarise the rest.
    first = max(1, round(blocks / (1 + SLOWER * (threads - 1))))
    rest = [(first + low, first + high) for low, high in ranges(blocks - first, threads - 1)]
    team.run([(call, *own, 0, first, blocks, PART), *((call, *own, *part, blocks, REDUCE) for part in rest)])
    call(*own, first, blocks, blocks, SCAN_CARRIES)
    rest = [(first + low, first + high) for low, high in ranges(blocks - first, threads)]
    team.run([(call, *own, *part, blocks, DOWNSWEEP) for part in rest])
    hold(*(low for low, high in rest if low < high))
    call(*own, blocks, blocks, blocks, ALL)


def vjp(plan, call, sharing, at, strides, team):
    """Walk all steps back, given the addresses before the geometry's; ``strides`` are the sums' sizes in bytes."""
    head, blocks, lanes = (None, *at, sharing.table), plan.steps // BLOCK, plan.lanes
    if shares_lanes(plan):
        calls = []
        for k, part in enumerate(sharing.tails):
            sums = (place + k * stride for place, stride in zip(at[8:10], strides, strict=True))
            calls.append((call, None, *at[:8], *sums, at[10], sharing.table, 0, *part, 0, blocks, blocks, ALL))
        team.run(calls, sharing.threads)
        return
    stretches = sharing.tails
    if len(stretches) == 1:
        call(*head, 0, 0, lanes, 0, blocks, blocks, ALL)
        return

    def clear(first, last):
        """Make sums 0 again."""
        for place, stride in zip(at[8:10], strides, strict=True):
            ctypes.memset(place + first * stride, 0, (last - first) * stride)

    def walk_again(k, states, summaries):
        if sharing.pieces:
            clear(*ranges(sharing.pieces, len(stretches))[k])
        call(None, *at[:5], states, *at[6:], sharing.table, summaries, 0, lanes, *stretches[k], blocks, PART)

    if _walk_told(plan, call, "vjp", sharing, at, walk_again, team) is not None:
        return
    clear(0, sharing.pieces)
    summaries = _summaries(plan)
    team.run([(call, *head, address(summaries), 0, lanes, *part, blocks, REDUCE) for part in stretches])
    # One after the other, and in the kernel's order, as one thread adds up what they share.
    for lane in range(lanes)[:: -1 if plan.time_strides[H] > 0 else 1]:
        own = *head, address(summaries), lane, lane + 1
        call(*own, 0, blocks, blocks, SCAN_CARRIES)
        team.run([(call, *own, *part, blocks, DOWNSWEEP) for part in stretches])
