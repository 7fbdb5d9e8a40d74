"""Blocks of the steps of few long series, which `scan` and `scan_back` reduce, carry states over, and walk.

A block's summary gives the state after it from the one before it. What a call does with its blocks is its phase: see
`scan` and `time_chunks`.
"""

from ..._plan import layout
from ..._plan.fields.scan import BLOCK, DOWNSWEEP, REDUCE, SCAN_CARRIES, SUMMARY
from ..._plan.layout import LENGTHS, N_STEPS, REVERSE
from ..._plan.widths import OCTET
from ..._steps.recurrence import constant, fma, is_finite, magnitude
from ..compiler.numba_internals import helper, inlined
from ..vectors import scalars
from ..vectors.scalars import itemsize, load, load_int, maximum, minimum, shift, store
from ..vectors.transposes import has_flags
from . import rules, series as _series
from .operands import ONE, ZERO, valid_range
from .packing import lane_offset, strides_of
from .rules import is_flagged
from .series import WHOLE_BLOCK, Operand, States

# Numbers of a block's summary; the last one is the state before the block.
DECAY, OFFSET, WEIGHT, ORIGIN, PEAK, CARRY_IN = range(6)
MOST_WARM_UP, WARM_UP_SHARE = 64, 4  # blocks before a thread's own that it may reduce: one for so many of its own,
FORGOTTEN = 2.0**-80  # until no more than this is left of the state before them
NOT_A_NUMBER = float("nan")


@inlined
def operand(pointer, rows, geometry, k, lane, start, way):
    """Return a series of the k-th operand, from its first valid step on."""
    strides = strides_of(geometry, k)
    stride = load_int(strides, 0)
    return Operand(
        shift(pointer, lane_offset(geometry, strides, lane) + start * stride), stride, rows, way * BLOCK * stride
    )


@inlined
def _flags_of(rule, marks, flags, place, geometry, lane, start):
    strides = strides_of(geometry, layout.FLAGS)
    stride = load_int(strides, 0)  # not `operand`: it would be compiled for flags, too
    return Operand(shift(marks.flags, lane_offset(geometry, strides, lane) + start * stride), stride, flags, place)


@inlined
def _offsets_of(rule, marks, flags, place, geometry, lane, start):
    store(place, 0, ZERO)
    return Operand(marks.offsets, ZERO, flags, place)


borders_of = rules.choice("offsets", _offsets_of, _flags_of)  # a series' flags, or the offsets that tell them


@inlined
def states_of_segments(states, geometry, lane):
    """Return a series' states of segments."""
    between, kind = load_int(geometry, layout.SEGMENT_BYTES), load_int(geometry, layout.STATE_BYTES)
    return States(shift(states, lane * itemsize(states)), between, kind)


@inlined
def valid_steps(geometry, lengths, lane):
    """Return a series' first valid step and how many there are."""
    place = shift(lengths, lane_offset(geometry, strides_of(geometry, LENGTHS), lane))
    start, stop = valid_range(place, load_int(geometry, N_STEPS), load_int(geometry, REVERSE))
    return start, stop - start


@helper
def summary_of(series, block):
    return shift(series.summaries, block * SUMMARY * itemsize(series.summaries))


@inlined
def rows_of(x, t, is_in_place):
    """Return where results of a block are written: in place, or to the operand's buffer."""
    return scalars.in_place(x.rows, shift(x.at, t * x.step)) if is_in_place else x.rows


@inlined
def may_stand(x):
    """Return whether a block's results could be written in place."""
    return scalars.is_same_kind(x.rows, x.at) and x.step == itemsize(x.at)


@inlined
def stays_finite(h, peak):
    """Return whether no state within a block can overflow, where the one after it may look sound again."""
    return is_finite(fma(peak, constant(float(BLOCK), h), magnitude(h)))


@helper
def warm_up(reduce, scan_carry, rule, series, nearest, way, others, own, zero):
    """Predict the state behind block ``nearest`` from some of the ``others`` up to it, in view of how many are ``own``.

    Return it, and whether it does not depend on older blocks.
    """
    left, done = constant(1.0, zero), 0
    most = minimum(others, maximum(1, minimum(MOST_WARM_UP, own // WARM_UP_SHARE)))
    while done < most and not left < constant(FORGOTTEN, zero):
        block = nearest - way * done
        summary = summary_of(series, block)
        reduce(rule, series, summary, block, WHOLE_BLOCK)
        left = left * magnitude(load(summary, DECAY, summary))
        done += 1
    state = zero
    for k in range(done):
        block = nearest - way * (done - 1 - k)
        state = scan_carry(rule, series, summary_of(series, block), block, WHOLE_BLOCK, state)
    return state, left < constant(FORGOTTEN, zero)


@helper
def each_block(reduce, scan_carry, walk, rule, series, low, high, rest, way, phase, state):
    """Do with blocks what a phase is for, and walk the ``rest`` behind them; return the state after them."""
    count = high - low + 1 if rest > 0 else high - low
    for k in range(count):
        block = low + k if way > 0 else low + count - 1 - k
        summary = summary_of(series, block)
        if phase == REDUCE:
            reduce(rule, series, summary, block, WHOLE_BLOCK)
        elif phase == SCAN_CARRIES and block < high:
            state = scan_carry(rule, series, summary, block, WHOLE_BLOCK, state)
        else:
            if phase == DOWNSWEEP:
                state = load(summary, CARRY_IN, summary)
            else:
                summary = series.own
            state = walk(rule, series, summary, block, WHOLE_BLOCK if block < high else rest, state)
    return state


@helper
def has_border(rule, flags, steps):
    """Return whether a series begins anew in the vectors of a block."""
    if is_flagged(rule):
        for k in range(0, steps, OCTET):
            if has_flags(shift(flags, k)):
                return True
    return False


@helper
def flags_of_offsets(rule, series, carry, t, steps):
    x = series.flags
    n = first = _series.clear_flags(x, t, steps)
    while load_int(x.at, n) < t + steps:
        store(x.rows, load_int(x.at, n) - t, ONE)
        n += 1
    store(x.ahead, 0, n)
    return x.rows, n - first


clean_entries = rules.choice(
    "segment_states",
    lambda rule, to, entries, carry, steps: _series.clean(to, entries, carry, steps),
    lambda rule, to, entries, carry, steps: None,
)


@helper
def carry_on(composed, borders_at, walk, rule, series, summary, block, steps, h):
    """Note the state before a block in its summary; return the one after it: composed, or that of a walk."""
    store(summary, CARRY_IN, h)
    new, sound = composed(rule, summary, h)
    if sound:
        return new
    flags = borders_at(rule, series, summary, block * BLOCK, steps)[0]
    if not is_finite(h) and has_border(rule, flags, steps):
        h = constant(0.0, h)
        new, sound = composed(rule, summary, h)
    return new if sound or h != h else walk(rule, series, flags, summary, block * BLOCK, steps, h)
