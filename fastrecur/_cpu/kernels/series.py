"""Consecutive steps of one series as vectors: pack them, compose them, unpack and store results.

A step is ``h -> decay*h + offset``. Steps compose, so a vector of them is scanned in registers: each lane is combined
with the one 1, 2, 4 and 8 lanes away, until it holds what all steps up to it do to the state before the vector. From
one vector to the next only the last lane counts, so the chain of dependent operations is short.

Kernels work on blocks of BLOCK steps. Steps that are contiguous and of the buffer's type are used in place.
"""

from collections import namedtuple

import numpy as np

from ..._plan.fields.scan import BLOCK
from ..._plan.widths import OCTET, WIDTH
from ..._steps.recurrence import constant, fma, is_finite, select
from ..compiler.numba_internals import INLINE, helper, inlined
from ..vectors import scalars
from ..vectors.scalars import in_place, is_same_kind, itemsize, load, load_int, maximum, prefetch, shift, store, width
from ..vectors.transposes import has_flags
from ..vectors.vectors import broadcast, load_vector, reverse_lanes, store_vector
from .operands import ONE, ZERO
from .rules import choice, decay, kept

PREFETCH = 1024  # bytes: prefetch distance within packed steps
# As int64: Numba compiles a function anew for each plain number that it is called with.
NO_STEPS, WHOLE_BLOCK = np.array([0, BLOCK])

# A series in memory: its first step, bytes from step to step, a buffer for a block, and the prefetch distance in bytes:
# to the next block in scan order. In place of that, offsets have where the number of the next one is kept.
Operand = namedtuple("Operand", "at step rows ahead")
# A series' states of segments: the first segment's, bytes to the next one's, and to another kind of states.
States = namedtuple("States", "at between kind")


@inlined
def lower(least, value):
    return select(value < least, value, least)


@inlined
def higher(most, value):
    return select(most < value, value, most)


@inlined
def compose(moved, decays, offsets, none):
    """Compose each step of a vector with all `earlier` ones, or all `later` ones; ``none`` is zero in all lanes."""
    one = constant(1.0, decays)
    offsets = fma(decays, moved(offsets, none, 1), offsets)
    decays = decays * moved(decays, one, 1)
    offsets = fma(decays, moved(offsets, none, 2), offsets)
    decays = decays * moved(decays, one, 2)
    offsets = fma(decays, moved(offsets, none, 4), offsets)
    decays = decays * moved(decays, one, 4)
    offsets = fma(decays, moved(offsets, none, 8), offsets)
    return decays * moved(decays, one, 8), offsets


@inlined
def compose_within(moved, any_moved, flags, t, are_few, decays, offsets, none):
    """Compose steps of one decay as `compose` does, but for what they do to states before a series begins anew.

    Their decays are the same for all vectors. Where borders are few, vectors without one are asked for.
    """
    one = constant(1.0, decays)
    if are_few and not (has_flags(shift(flags, t)) or has_flags(shift(flags, t + OCTET))):
        return compose(moved, decays, offsets, none)
    offsets = select(any_moved(flags, t, none, 1), offsets, fma(decays, moved(offsets, none, 1), offsets))
    decays = decays * moved(decays, one, 1)
    offsets = select(any_moved(flags, t, none, 2), offsets, fma(decays, moved(offsets, none, 2), offsets))
    decays = decays * moved(decays, one, 2)
    offsets = select(any_moved(flags, t, none, 4), offsets, fma(decays, moved(offsets, none, 4), offsets))
    decays = decays * moved(decays, one, 4)
    offsets = select(any_moved(flags, t, none, 8), offsets, fma(decays, moved(offsets, none, 8), offsets))
    return select(any_moved(flags, t, none, 16), none, decays * moved(decays, one, 8)), offsets


@inlined
def _by_decay(rule, moved, any_moved, flags, t, are_few, fresh, gate, offsets, none):
    return compose_within(moved, any_moved, flags, t, are_few, decay(rule, gate), offsets, none)


@inlined
def _by_decays(rule, moved, any_moved, flags, t, are_few, fresh, gate, offsets, none):
    return compose(moved, kept(rule, fresh, gate), offsets, none)


# Compose the steps of a vector, given what they add to a state and in which of them a series begins anew.
compose_steps = choice("time_invariant_a", choice("flagged", _by_decay, _by_decays), _by_decays, options=INLINE)


@helper
def fill_constant(x):
    """Fill the buffer of a time-invariant operand: once a series."""
    if x.step == 0:
        value = broadcast(load(x.at, 0, x.rows))
        for t in range(0, BLOCK, width(x.rows)):
            store_vector(x.rows, t, value)


@helper
def pack(rows, source, stride, steps, ahead):
    """Copy steps into a buffer."""
    lanes, size = width(rows), itemsize(source)
    whole = steps - steps % lanes if abs(stride) == size else 0
    for t in range(0, whole, lanes):
        if stride > 0:
            prefetch(source, t, ahead)
            store_vector(rows, t, load_vector(source, t, rows))
        else:
            prefetch(source, 1 - t - lanes, ahead)
            store_vector(rows, t, reverse_lanes(load_vector(source, 1 - t - lanes, rows)))
    for t in range(whole, steps):
        store(rows, t, load(shift(source, t * stride), 0, rows))


@helper
def packed(x, t, steps):
    """Return where steps from ``t`` on are contiguous: in memory, else in the operand's buffer."""
    source = shift(x.at, t * x.step)
    if is_same_kind(x.rows, source) and x.step == itemsize(source):
        return in_place(x.rows, source)
    if x.step != 0:  # else the buffer is filled
        pack(x.rows, source, x.step, steps, x.ahead)
    return x.rows


@helper
def _copied_flags(x, source, first, steps):
    """Copy flags to the buffer, those of its ``first`` steps not set."""
    store(x.rows, 0, ZERO)
    if x.step == -1:
        for _ in range((steps - first) // WIDTH):
            scalars.copy_reversed(shift(x.rows, first), shift(source, 1 - WIDTH - first))
            first += WIDTH
    for k in range(first, steps):
        scalars.copy_number(x.rows, k, shift(source, k * x.step), 0)
    return x.rows


@helper
def _packed_flags(rule, x, t, steps):
    source = shift(x.at, t * x.step)
    return in_place(x.rows, source) if x.step == 1 else _copied_flags(x, source, ZERO, steps)


@helper
def _late_flags(rule, x, t, steps):
    """Return the flags of the steps before those from ``t`` on; none is before the first."""
    first, source = maximum(ONE - t, ZERO), shift(x.at, (t - 1) * x.step)
    return in_place(x.rows, source) if x.step == 1 and t > 0 else _copied_flags(x, source, first, steps)


@inlined
def clear_flags(x, t, steps):
    """Clear flags; return the number of the first offset that is not before step t."""
    for k in range(steps):
        store(x.rows, k, ZERO)
    return next_border(x, t)


@inlined
def next_border(x, t):
    n = load_int(x.ahead, 0)
    while n > 0 and load_int(x.at, n - 1) >= t:
        n -= 1
    while load_int(x.at, n) < t:
        n += 1
    return n


_read_flags = choice("late_flags", _late_flags, _packed_flags, options=INLINE)

# Return where flags of steps from ``t`` on are contiguous, if they are read.
packed_flags = choice("flagged", _read_flags, lambda rule, x, t, steps: x.rows, options=INLINE)


@helper
def clean(target, rows, carry, steps):
    """Copy contiguous steps with zeros in place of what is not finite."""
    for k in range(steps):
        value = load(rows, k, carry)
        store(target, k, select(is_finite(value), value, constant(0.0, value)))


@helper
def unpack(x, t, steps):
    """Write steps from an operand's buffer."""
    target, rows, lanes, size = shift(x.at, t * x.step), x.rows, width(x.rows), itemsize(x.at)
    whole = steps - steps % lanes if abs(x.step) == size else 0
    for k in range(0, whole, lanes):
        if x.step > 0:
            store_vector(target, k, load_vector(rows, k, rows))
        else:
            store_vector(target, 1 - k - lanes, reverse_lanes(load_vector(rows, k, rows)))
    for k in range(whole, steps):
        store(shift(target, k * x.step), 0, load(rows, k, rows))


@helper
def clear_outside(x, start, steps, all_steps):
    """Write zeros to the steps that are not valid; ``x`` stands at the first one that is."""
    zero = constant(0.0, load(x.rows, 0, x.rows))
    for k in range(all_steps - steps):
        t = k - start if k < start else k - start + steps
        store(shift(x.at, t * x.step), 0, zero)
