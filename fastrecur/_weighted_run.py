"""Run weighted statistics of NumPy arrays: lay out the lanes, cut long series into segments, share the work out."""

import math

import numpy as np

from . import _problem, _run, _threads
from ._arrays import address, element
from ._cpu import _weighted
from ._cpu._compile import kernel
from ._cpu._memory import WIDTH
from ._cpu._weighted import (
    COUNT,
    COVARIANCE,
    DECAY,
    MEAN,
    MEAN_Y,
    ORIGIN,
    ORIGIN_Y,
    PLANES,
    ROOM,
    STEPS,
    WEIGHT,
)

SERIAL_BYTES = 1 << 18  # below this a second thread costs more than it brings
LARGE = 16 << 20  # bytes of a result from which it goes past the cache
SEGMENTS = 32  # that a long series is cut into
LIGHT = 1e-150  # a weight after a gap below which a segment's mean is not found again in its sums
_WIDE = np.dtype(np.float64)


def run(statistic, x, y, gate, shape, dtype, axis, kind, ignore_na, min_periods, bias=False, state=None):
    """Return a statistic, and the lanes' `PLANES` after the last step.

    ``kind`` says how weights come about: they "adjust" to each other and the gate is a decay; they are "fixed" by the
    gate; or they are "timed", and the gate is a decay again. ``y`` is None but for covariances. ``state`` is what
    stands before the first step: planes by their numbers.
    """
    h = _problem.empty(shape, dtype, _problem.like(shape, dtype, (x.shape, x.strides)))
    lane_axes = [k for k in range(len(shape)) if k != axis]
    lane_shape = tuple(shape[k] for k in lane_axes)
    lanes, steps = math.prod(lane_shape), shape[axis]
    states = np.zeros((PLANES, *lane_shape))
    for plane, values in (state or {}).items():
        states[plane] = values
    if lanes == 0 or steps == 0:
        return h, states
    traits = {"ignore_na": ignore_na, "sum": statistic == "sum", "variance": y is x}
    rule = " ".join([kind, *(trait for trait, holds in traits.items() if holds)])
    # Time first, then the lanes, outermost in memory first.
    order = sorted(lane_axes, key=lambda k: (-abs(h.strides[k]), k))
    operands = [None if v is None else np.broadcast_to(v, shape).transpose(axis, *order) for v in (x, y, gate)]
    operands.insert(2, h.transpose(axis, *order))
    if y is not None:
        for plane, values in ((ORIGIN, x), (ORIGIN_Y, y)):
            first = _first_values(np.moveaxis(np.broadcast_to(values, shape), axis, 0))
            states[plane] = np.where(states[COUNT] > 0, states[plane], first)
    states = states.transpose(0, *(1 + lane_axes.index(k) for k in order))
    if lanes < _problem.FEW_LANES and steps >= _problem.LONG_SERIES:
        last = np.empty(states.shape)
        for index in np.ndindex(states.shape[1:]):
            one = [None if o is None else o[(slice(None), *index)] for o in operands]
            before = states[(slice(None), *index)]
            last[(slice(None), *index)] = _run_series(rule, one, steps, [max(1, min_periods), bias], before)
    else:
        by_rows = bool(order) and abs(h.strides[order[-1]]) < abs(h.strides[axis])
        parts = [None if o is None else (o, o.strides[0], _offsets(o)) for o in operands]
        options = STEPS if by_rows else steps, max(1, min_periods), bias, h.nbytes >= LARGE
        last = _walk(rule, parts, steps, lanes, options, _pad(states.reshape(PLANES, lanes)))
        last = last[:, :lanes].reshape(states.shape)
    return h, np.ascontiguousarray(last.transpose(0, *(1 + order.index(k) for k in lane_axes)))


def _first_values(values):
    """Return the first finite value of each lane, time being the first axis; 0 where there is none."""
    first = np.array(values[0], _WIDE)
    for index in np.argwhere(~np.isfinite(first)):
        lane = values[(slice(None), *index)]
        at = np.argmax(np.isfinite(lane))
        first[tuple(index)] = lane[at] if np.isfinite(lane[at]) else 0
    return first


def _offsets(operand):
    """Return where lanes begin, in bytes, in their order."""
    offsets = np.zeros(1, np.int64)
    for size, stride in zip(operand.shape[1:], operand.strides[1:], strict=True):
        offsets = np.add.outer(offsets, np.arange(size) * stride).reshape(-1)
    return offsets


def _pad(states):
    """Return states with as many lanes as whole vectors have: the last is walked again, as its offset is repeated."""
    lanes = states.shape[1]
    full = _problem.zeros((PLANES, -(-lanes // WIDTH) * WIDTH), _WIDE)
    full[:, :lanes], full[:, lanes:] = states, states[:, -1:]
    return full


def _walk(rule, operands, steps, lanes, options, states):
    """Run the kernel, which changes the states; operands are ``(array, stride of time, lanes' offsets)``, or None."""
    chunk, *flags = options
    padded = states.shape[1]
    table = np.zeros(_weighted.HEAD + 4 * padded, np.int64)
    table[: _weighted.HEAD] = [steps, chunk, lanes, padded, *(0 if o is None else o[1] for o in operands), *flags]
    for k, operand in enumerate(operands):
        if operand is not None:
            own = table[_weighted.HEAD + k * padded :][:padded]
            own[:lanes], own[lanes:] = operand[2], operand[2][-1]
    elements = {name: element(o[0].dtype) for name, o in zip(("x", "y", "h", "gate"), operands, strict=True) if o}
    call = kernel(_weighted.average if operands[1] is None else _weighted.covariance, rule, "f8", **elements)
    head = (None, *(address(o[0]) for o in operands if o is not None), address(states), address(table))
    tiles = padded // WIDTH
    long = operands[0][0].itemsize * steps * lanes >= SERIAL_BYTES
    team = _threads.team()
    parts = min(team.size, tiles) if long else 1
    team.run([(call, *head, WIDTH * low, WIDTH * high) for low, high in _run.ranges(tiles, parts)])
    return states


# ---- One long series ------------------------------------------------------------------------------------------------


def _run_series(rule, operands, steps, flags, before):
    """Run one series in segments: each is summarised, the states before them follow in turn, each is walked.

    Where weights add up, a segment is summarised on its own, as a part of the data to be merged. Where they do not, it
    starts from a value of its own, and what it ends with moves with the state before it.
    """
    if operands[1] is None and "sum" not in rule and "timed" not in rule and operands[3].strides[0] == 0:
        complete = _run_complete(rule, operands, steps, flags, before)
        if complete is not None:
            return complete
    length = steps // SEGMENTS
    edges = np.arange(SEGMENTS) * length
    segments = [None if o is None else (o, o.strides[0], edges * o.strides[0]) for o in operands]
    options = length, *flags, False
    states = _pad(np.zeros((PLANES, SEGMENTS)))
    states[DECAY] = 1
    states[[ORIGIN, ORIGIN_Y]] = before[[ORIGIN, ORIGIN_Y], np.newaxis]
    adjust = "adjust" in rule
    if not adjust:
        _set_starts(rule, states, operands, edges, length, before)
    starts = states.T.tolist()
    summed = None
    if adjust and operands[1] is None and "sum" not in rule:
        summed = _summed(rule, segments, edges, length, options, states.copy())
    states = _walk(rule + " summarise", segments, length, SEGMENTS, options, states) if summed is None else summed
    firsts, now = [], before.tolist()
    for edge, start, end in zip(edges, starts, states.T.tolist(), strict=True):
        firsts.append(now)
        if not adjust:
            now = _moved(now, start, end)
        elif "sum" in rule or not end[COUNT] or end[WEIGHT] > LIGHT:
            now = merged(now, end, "sum" in rule)
        else:  # a gap ends the segment, and took its weight and what came before it below all numbers
            now = _walk_part(rule, operands, int(edge), length, options, now)[:, 0].tolist()
    states[...] = np.transpose(firsts)
    last = _walk(rule, segments, length, SEGMENTS, options, states)[:, -1:]
    done = SEGMENTS * length
    if done < steps:
        last = _walk_part(rule, operands, done, steps - done, options, last[:, 0])
    return last[:, 0]


def _run_complete(rule, operands, steps, flags, before):
    """Run an average of one series by the recurrence, for which nothing may be missing; None if something is.

    Weights that add up no longer change once what the first samples weigh is rounded away.
    """
    x, _, h, gate = operands
    gate = float(gate[0])
    if not 0 < gate < 1:
        return None
    settled = int(-40 / math.log(gate)) + 1 if "adjust" in rule else 1
    settled = max(settled, flags[0])
    if settled > steps // 8 or not np.isfinite(x[: settled + STEPS * WIDTH]).all():
        return None
    state = _walk_part(rule, operands, 0, settled, (settled, *flags, False), before)[:, 0]
    rest, out = x[settled:], h[settled:]
    weight = 1 - gate if "adjust" in rule else gate
    plan = _problem.forward(
        _problem.FORGET, ("alpha", "x", "h0"), None, (rest.dtype, rest.shape, rest.strides), (_WIDE, ()),
        (out.dtype, out.shape, out.strides), 0, False, None, False, dtype=out.dtype,
    )  # fmt: skip
    _, last = _run.forward(plan, weight, rest, state[MEAN], None, out)
    state[MEAN] = last
    state[COUNT] += len(rest)
    return state if np.isfinite(last) else None


def _walk_part(rule, operands, first, steps, options, before):
    """Walk some steps of one series from the state before them."""
    part = [None if o is None else (o[first:], o.strides[0], np.zeros(1, np.int64)) for o in operands]
    return _walk(rule, part, steps, 1, options, _pad(np.reshape(before, (PLANES, 1))))


def _summed(rule, segments, edges, length, options, states):
    """Return the segments' means by their sums, which need no division at each step; None if one overflows.

    Of deviations from a value of the segment, so that a constant series stays constant.
    """
    firsts = segments[0][0][edges]
    states[ORIGIN] = np.where(np.isfinite(firsts), firsts, 0)
    _walk(rule + " sum summarise", segments, length, SEGMENTS, options, states)
    if not np.isfinite(states[MEAN]).all():
        return None
    states[MEAN] = states[ORIGIN] + states[MEAN] / np.where(states[WEIGHT] > 0, states[WEIGHT], 1)
    return states


def merged(a, b, is_sum):
    """Return the state after two parts of the data whose weights add up; ``b``'s DECAY is that of all of its steps."""
    now = a.copy()
    now[WEIGHT], now[COUNT], now[DECAY] = b[DECAY] * a[WEIGHT] + b[WEIGHT], a[COUNT] + b[COUNT], a[DECAY] * b[DECAY]
    if is_sum:
        now[MEAN] = b[DECAY] * a[MEAN] + b[MEAN]
    elif b[COUNT]:
        ratio = a[WEIGHT] * (b[DECAY] / b[WEIGHT])  # in this order: a weight before a gap may be near the least number
        kept, share = ratio / (1 + ratio), 1 / (1 + ratio)
        x, y = b[MEAN] - a[MEAN], b[MEAN_Y] - a[MEAN_Y]
        for plane, difference in ((MEAN, x), (MEAN_Y, y)):
            now[plane] = a[plane] + share * difference if share < 0.5 else b[plane] - kept * difference
        now[COVARIANCE] = kept * a[COVARIANCE] + share * (b[COVARIANCE] + kept * x * y)
        now[ROOM] = kept * kept * a[ROOM] + share * (share * b[ROOM] + 2 * kept)
    return now


def _moved(now, start, end):
    """Return the state after a segment that was walked from ``start`` to ``end`` when it begins with ``now``."""
    after = now.copy()
    after[WEIGHT] = end[WEIGHT]
    if end[COUNT]:
        left = end[DECAY]  # what is left of the state before
        x, y = now[MEAN] - start[MEAN], now[MEAN_Y] - start[MEAN_Y]
        turn = x * (start[MEAN_Y] - end[MEAN_Y]) + y * (start[MEAN] - end[MEAN]) + (1 - left) * x * y
        after[COUNT] += end[COUNT]
        after[MEAN], after[MEAN_Y] = end[MEAN] + left * x, end[MEAN_Y] + left * y
        after[COVARIANCE] = end[COVARIANCE] + left * (now[COVARIANCE] + turn)
        after[ROOM] = end[ROOM] + left * left * now[ROOM]
    return after


def _set_starts(rule, states, operands, edges, length, before):
    """Set the weight before each segment, and as means its own first sample."""
    x, y, _, gate = operands
    states[WEIGHT] = 1
    states[WEIGHT, 0] = before[WEIGHT]
    for k in np.flatnonzero(~_seen(x, y, edges[1:] - 1)) + 1:
        states[WEIGHT, k] = _weight_before(x, y, gate, int(edges[k]), rule, before[WEIGHT])
    places = edges.copy()
    for k in np.flatnonzero(~_seen(x, y, places)):
        places[k] += np.argmax(_seen(x, y, slice(edges[k], edges[k] + length)))
    seen = _seen(x, y, places)
    states[MEAN] = np.where(seen, x[places] - before[ORIGIN], 0)
    if y is not None:
        states[MEAN_Y] = np.where(seen, y[places] - before[ORIGIN_Y], 0)


def _seen(x, y, where):
    seen = np.isfinite(x[where])
    return seen if y is None else seen & np.isfinite(y[where])


def _weight_before(x, y, gate, edge, rule, first):
    """Return what is left at an edge of the weight after the last sample before it."""
    left = 1.0
    for high in range(edge, 0, -STEPS * WIDTH):
        part = slice(max(0, high - STEPS * WIDTH), high)
        seen = np.flatnonzero(_seen(x, y, part))
        missing = slice(part.start + seen[-1] + 1 if len(seen) else part.start, high)
        if "ignore_na" not in rule:
            left *= math.prod((gate[missing] if "timed" in rule else 1 - gate[missing]).tolist())
        if len(seen):
            return left
    return left * first
