"""Run weighted statistics of NumPy arrays: lay out the lanes, cut long series into chunks, share the work out."""

import math

import numpy as np

from . import _cost, _problem, _shapes, _threads
from ._arrays import address, element
from ._chunked import scan
from ._cpu import _weighted, _weighted_scan
from ._cpu._compile import kernel
from ._cpu._types import WIDTH
from ._cpu._weighted import COUNT, COVARIANCE, MEAN, MEAN_Y, ORIGIN, ORIGIN_Y, PLANES, ROOM, STEPS, WEIGHT

SERIAL_BYTES = _cost.SERIAL_BYTES // 4  # of samples, of which each takes so much longer than a recurrence's step
LARGE = 16 << 20  # bytes of a result from which it goes past the cache
CHUNKS = 8  # that a long series is cut into, for each
LONG_CHUNK = 1 << 23  # steps
FORGOTTEN = 2.0**-80  # what is left of a state that a warm-up need not know
ALIKE = 2.0**-40
SEARCH = 1 << 20  # values that are looked at together for the first one that is there
ALONG = 0  # steps at a time: lanes are walked one by one, a vector of steps at a time
ALONG_LANES = 2 * WIDTH  # from as many on, tiles are quicker
_WIDE = np.dtype(np.float64)


def run(statistic, x, y, gate, shape, dtype, axis, kind, ignore_na, min_periods, bias=False, state=None):
    """Return a statistic, and the lanes' `PLANES` after the last step.

    ``kind`` says how weights come about: they "adjust" to each other and the gate is a decay; they are "fixed" by the
    gate; or they are "timed", and the gate is a decay again. ``y`` is None but for covariances. ``state`` is what
    stands before the first step: planes by their numbers.
    """
    h = _problem.empty(shape, dtype, _shapes.like(shape, dtype, (x.shape, x.strides)))
    lane_axes = [k for k in range(len(shape)) if k != axis]
    lane_shape = tuple(shape[k] for k in lane_axes)
    lanes, steps = math.prod(lane_shape), shape[axis]
    states = np.zeros((PLANES, *lane_shape))
    for plane, values in (state or {}).items():
        states[plane] = values
    if lanes == 0 or steps == 0:
        return h, states
    traits = {"ignore_na": ignore_na, "sum": statistic == "sum"}
    traits |= {"covariance": y is not None, "one_series": y is None or y is x}
    rule = " ".join([kind, *(trait for trait, holds in traits.items() if holds)])
    # Time first, then the lanes, outermost in memory first.
    gate = np.asarray(gate) if np.asarray(gate).dtype.kind == "f" else np.asarray(gate, _WIDE)
    order = sorted(lane_axes, key=lambda k: (-abs(h.strides[k]), k))
    operands = [None if v is None else np.broadcast_to(v, shape).transpose(axis, *order) for v in (x, y, gate)]
    operands.insert(2, h.transpose(axis, *order))
    if y is not None:
        first = None
        for plane, values in ((ORIGIN, x), (ORIGIN_Y, y)):
            if first is None or y is not x:
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
        along = lanes < ALONG_LANES and steps >= _problem.LONG_SERIES
        along = along and all(o is None or abs(o.strides[0]) in (0, o.itemsize) for o in operands)
        chunk = ALONG if along else STEPS if by_rows and lanes > WIDTH else steps
        options = chunk, max(1, min_periods), bias, h.nbytes >= LARGE
        last = _walk(rule, parts, steps, lanes, options, _pad(states.reshape(PLANES, lanes)))
        last = last[:, :lanes].reshape(states.shape)
    return h, np.ascontiguousarray(last.transpose(0, *(1 + order.index(k) for k in lane_axes)))


def _first_values(values):
    """Return the first finite value of each lane, time being the first axis; 0 where there is none."""
    values = values[..., np.newaxis]
    first = np.array(values[0], _WIDE)
    open_lanes = np.nonzero(~np.isfinite(first))
    t, steps = 1, 8
    while t < len(values) and len(open_lanes[0]):
        block = values[(slice(t, t + steps), *open_lanes)]
        seen = np.isfinite(block)
        there, at = seen.any(axis=0), seen.argmax(axis=0)
        first[tuple(lanes[there] for lanes in open_lanes)] = block[at[there], np.flatnonzero(there)]
        open_lanes = tuple(lanes[~there] for lanes in open_lanes)
        t, steps = t + steps, min(2 * steps, 1 + SEARCH // (1 + len(open_lanes[0])))
    first[open_lanes] = 0
    return first[..., 0]


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
    operands = operands[0], operands[1] or operands[0], *operands[2:]
    padded = states.shape[1]
    table = np.zeros(_weighted.HEAD + 4 * padded, np.int64)
    table[: _weighted.HEAD] = [steps, chunk, lanes, padded, *(0 if o is None else o[1] for o in operands), *flags]
    for k, operand in enumerate(operands):
        if operand is not None:
            own = table[_weighted.HEAD + k * padded :][:padded]
            own[:lanes], own[lanes:] = operand[2], operand[2][-1]
    elements = {name: element(o[0].dtype) for name, o in zip(("x", "y", "h", "gate"), operands, strict=True) if o}
    along = chunk == ALONG
    call = kernel((_weighted_scan if along else _weighted).walk, rule, "f8", **elements)
    head = (None, *(address(o[0]) for o in operands if o is not None), address(states), address(table))
    size, unit = (lanes, 1) if along else (padded // WIDTH, WIDTH)
    nbytes, team = operands[0][0].itemsize * steps * lanes, _threads.team()
    threads = min(team.size, size) if nbytes >= SERIAL_BYTES else 1
    parts = _threads.ranges(size, _cost.items(4 * nbytes, threads, size))
    team.run([(call, *head, unit * low, unit * high) for low, high in parts], threads)
    return states


# ---- One long series ------------------------------------------------------------------------------------------------


def _run_series(rule, operands, steps, flags, before):
    """Run one series in chunks, at once: each is kept if its warm-up was right but for roundings."""
    h, gate = operands[2:]
    options = ALONG, *flags, False
    chunks = CHUNKS * -(-steps // LONG_CHUNK)
    length = steps // chunks
    edges = np.arange(chunks) * length
    window, least = _window(rule, gate, edges)
    enough = max(least, flags[0])
    if window > length // 4:
        return _walk_part(rule, operands, 0, steps, options, before)[:, 0]
    starts = np.zeros((PLANES, chunks))
    starts[[ORIGIN, ORIGIN_Y]] = before[[ORIGIN, ORIGIN_Y], np.newaxis]
    ends, seen, right = starts.copy(), np.zeros(chunks), np.zeros(chunks, bool)

    def predict():
        warm_up = _from_steps(operands, edges[1:] - window)
        spare = np.empty((chunks - 1, window), h.dtype)
        warm_up[2] = spare, spare.strides[1], np.arange(chunks - 1) * spare.strides[0]
        starts[:, 1:] = _walk(rule, warm_up, window, chunks - 1, options, starts[:, 1:].copy())
        starts[:, 0] = before
        return (starts[COUNT, 1:] < enough).sum() <= 1

    def scan_all():
        ends[...] = _walk(rule, _from_steps(operands, edges), length, chunks, options, starts.copy())
        seen[...] = ends[COUNT] - starts[COUNT]
        right[1:] = (starts[COUNT, 1:] >= enough) & _are_alike(starts[:, 1:], ends[:, :-1])

    def scan_again(k):
        state = ends[:, k - 1].copy()
        state[COUNT] = before[COUNT] + seen[:k].sum()
        ends[:, k] = _walk_part(rule, operands, k * length, length, options, state)[:, 0]
        seen[k] = ends[COUNT, k] - state[COUNT]
        after = slice(k + 1, k + 2)
        right[after] = (starts[COUNT, after] >= enough) & _are_alike(starts[:, after], ends[:, k : k + 1])

    if not scan(chunks, predict, scan_all, right.__getitem__, scan_again):
        return _walk_part(rule, operands, 0, steps, options, before)[:, 0]
    now, done = ends[:, -1].copy(), chunks * length
    now[COUNT] = before[COUNT] + seen.sum()
    return _walk_part(rule, operands, done, steps - done, options, now)[:, 0] if done < steps else now


def _from_steps(operands, first):
    """Return what `_walk` takes, for lanes that are one series from different steps on."""
    return [None if o is None else (o, o.strides[0], first * o.strides[0]) for o in operands]


def _window(rule, gate, edges):
    """Return how many steps tell the state after them, if not too many are missing: and how many samples that takes.

    A share is no smaller than the gate's, whatever is missing. Where gates change, it is asked before each edge.
    """
    is_decay = "adjust" in rule or "timed" in rule
    if gate.strides[0] != 0:
        least = WIDTH
        while 8 * least <= edges[1]:
            before = np.stack([gate[edge - least : edge] for edge in edges[1:]])
            if (np.prod(before if is_decay else 1 - before, axis=1, dtype=_WIDE) <= FORGOTTEN).all():
                return 2 * least + WIDTH, least
            least *= 2
        return math.inf, 0
    kept = float(gate[0]) if is_decay else 1 - float(gate[0])
    if "timed" in rule or not 0 <= kept < 1:
        return math.inf, 0
    least = int(math.log(FORGOTTEN) / math.log(kept)) + 1 if kept > 0 else 1
    return 2 * least + WIDTH, least


def _are_alike(predicted, true):
    """Return which of some states give the same results as others but for roundings."""
    planes = [WEIGHT, MEAN, MEAN_Y, COVARIANCE, ROOM]
    with np.errstate(all="ignore"):
        return np.all(np.abs(predicted[planes] - true[planes]) <= ALIKE * np.abs(true[planes]), axis=0)


def _walk_part(rule, operands, first, steps, options, before):
    """Walk some steps of one series from the state before them."""
    part = _from_steps(operands, np.array([first]))
    return _walk(rule, part, steps, 1, options, np.reshape(before, (PLANES, 1)).copy())
