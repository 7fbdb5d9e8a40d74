"""Series that begin anew inside the axis of time: each segment is walked as the kernel of whole series walks one.

``starts`` is a list of int64: how many segments with steps there are; 1 if one segment's states stand for all, which
begin as zeros; 1 if each has first states of its own, of which a gradient wants to know; then of each, in scan order,
its first step, the step behind its last and where its states stand, in bytes. One segment may have ``lengths``, and any
may have ``flags`` within.
"""

from .. import _layout
from .._layout import FIELDS, FLAGS, HEAD, N_STEPS, STRIDES, A, B, G, H
from . import _packed, _rows
from ._numba import INLINE, helper, inlined
from ._operands import ZERO, at_place, operand, write_zeros
from ._rules import Marks, choice
from ._scalars import itemsize, load_int, minimum, shift, stack_ints, store

_forward_rows, _vjp_rows = helper(_rows.forward), helper(_rows.vjp)
_forward, _vjp = helper(_packed.forward), helper(_packed.vjp)
TOGETHER = 32  # series that are taken through all segments before the next ones


@inlined
def _both(rule, lengths, flags):
    return Marks(lengths, flags)


@inlined
def _lengths(rule, lengths, flags):
    return lengths


marks = choice("flagged", _both, _lengths, options=INLINE)


@helper
def take_segment(own, length, segment):
    """Make ``own`` the geometry of a segment; return its first step and where its states stand."""
    start, stop, state = load_int(segment, 0), load_int(segment, 1), load_int(segment, 2)
    store(own, N_STEPS, stop - start)
    store(length, 0, stop - start)
    return start, state


@helper
def copy_geometry(own, geometry):
    for k in range(FIELDS):
        store(own, k, load_int(geometry, k))


@inlined
def row_at(pointer, geometry, k, t):
    """Return an operand of rows from step t on."""
    return shift(pointer, t * load_int(geometry, HEAD + 3 * k))


@inlined
def series_at(pointer, geometry, k, t):
    """Return an operand of series from step t on."""
    return shift(pointer, t * load_int(geometry, STRIDES + 4 * k))


@helper
def clear_rows(carry, geometry, outer_first, outer_last, row_first, row_last, lane_first, lane_last):
    """Make states zero."""
    states = operand(carry, geometry, _layout.CARRY)
    for outer in range(outer_first, outer_last):
        for row in range(row_first, row_last):
            write_zeros(at_place(states, ZERO, row, outer, lane_first), carry, lane_last - lane_first)


@inlined
def segment_of(starts, n):
    return shift(starts, 8 * (3 + 3 * n))


def forward_rows(
    rule, a, b, h, carry, lengths, flags, starts, geometry, outer_first, outer_last, row_first, row_last, lane_first,
    lane_last,
):  # fmt: skip
    """Take rows; ``carry`` holds all segments' first states, then the last."""
    own, length, count = stack_ints(FIELDS), stack_ints(1), load_int(starts, 0)
    copy_geometry(own, geometry)
    for n in range(count):
        t, state = take_segment(own, length, segment_of(starts, n))
        if load_int(starts, 1) != 0:
            clear_rows(carry, own, outer_first, outer_last, row_first, row_last, lane_first, lane_last)
        _forward_rows(
            rule, row_at(a, own, A, t), row_at(b, own, B, t), row_at(h, own, H, t), shift(carry, state),
            marks(rule, length if count > 1 else lengths, row_at(flags, own, FLAGS, t)), own, outer_first, outer_last,
            row_first, row_last, lane_first, lane_last,
        )  # fmt: skip


def vjp_rows(
    rule, g, a, b, h, h0, carry, to_a, to_b, sums_a, sums_b, lengths, flags, starts, geometry, outer_first, outer_last,
    row_first, row_last, lane_first, lane_last,
):  # fmt: skip
    """Take rows back; ``carry`` holds all segments' last states' cotangents, then the first states'."""
    own, length = stack_ints(FIELDS), stack_ints(1)
    copy_geometry(own, geometry)
    count = load_int(starts, 0)
    for ago in range(count):
        t, state = take_segment(own, length, segment_of(starts, count - 1 - ago))
        if load_int(starts, 1) != 0:
            clear_rows(carry, own, outer_first, outer_last, row_first, row_last, lane_first, lane_last)
        _vjp_rows(
            rule, row_at(g, own, G, t), row_at(a, own, A, t), row_at(b, own, B, t), row_at(h, own, H, t),
            shift(h0, state * load_int(starts, 2)), shift(carry, state), row_at(to_a, own, _layout.TO_A, t),
            row_at(to_b, own, _layout.TO_B, t), row_at(sums_a, own, _layout.SUMS_A, t),
            row_at(sums_b, own, _layout.SUMS_B, t),
            marks(rule, length if count > 1 else lengths, row_at(flags, own, FLAGS, t)), own, outer_first, outer_last,
            row_first, row_last, lane_first, lane_last,
        )  # fmt: skip


def forward(rule, a, b, h, carry, lengths, flags, starts, geometry, first, last):
    """Walk series ``first`` to ``last``; ``carry`` holds all segments' first states, then the last."""
    own, length, count = stack_ints(FIELDS), stack_ints(1), load_int(starts, 0)
    copy_geometry(own, geometry)
    together = TOGETHER if count > 1 else last - first
    for lane in range(first, last, together):
        for n in range(count):
            t, state = take_segment(own, length, segment_of(starts, n))
            last_lane = minimum(lane + together, last)
            if load_int(starts, 1) != 0:
                write_zeros(shift(carry, lane * itemsize(carry)), carry, last_lane - lane)
            _forward(
                rule, series_at(a, own, A, t), series_at(b, own, B, t), series_at(h, own, H, t), shift(carry, state),
                marks(rule, length if count > 1 else lengths, series_at(flags, own, FLAGS, t)), own, lane, last_lane,
            )  # fmt: skip


def vjp(rule, g, a, b, h, h0, carry, to_a, to_b, sums_a, sums_b, lengths, flags, starts, geometry, first, last):
    """Walk series back; ``carry`` holds all segments' last states' cotangents, then the first states'."""
    own, length, count = stack_ints(FIELDS), stack_ints(1), load_int(starts, 0)
    copy_geometry(own, geometry)
    together = TOGETHER if count > 1 else last - first
    for lane in range(first, last, together):
        for ago in range(count):
            t, state = take_segment(own, length, segment_of(starts, count - 1 - ago))
            last_lane = minimum(lane + together, last)
            if load_int(starts, 1) != 0:
                write_zeros(shift(carry, lane * itemsize(carry)), carry, last_lane - lane)
            _vjp(
                rule, series_at(g, own, G, t), series_at(a, own, A, t), series_at(b, own, B, t),
                series_at(h, own, H, t), shift(h0, state * load_int(starts, 2)), shift(carry, state),
                series_at(to_a, own, _layout.TO_A, t), series_at(to_b, own, _layout.TO_B, t),
                series_at(sums_a, own, _layout.SUMS_A, t), series_at(sums_b, own, _layout.SUMS_B, t),
                marks(rule, length if count > 1 else lengths, series_at(flags, own, FLAGS, t)), own, lane, last_lane,
            )  # fmt: skip
