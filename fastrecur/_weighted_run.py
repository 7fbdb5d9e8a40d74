"""Run weighted statistics of NumPy arrays: lay out series, cut long ones into chunks, share the work out; decays."""

import math

import numpy as np

from . import _cost, _problem, _run, _shapes, _threads
from ._arrays import address, element
from ._cpu import _decays, _weighted
from ._cpu._compile import kernel
from ._cpu._types import WIDTH
from ._cpu._weighted import COUNT, COVARIANCE, MEAN, MEAN_Y, ORIGIN, ORIGIN_Y, PLANES, ROOM, STEPS, WEIGHT

SERIAL_BYTES = _cost.SERIAL_BYTES // 4  # of samples, of which each takes so much longer than a recurrence's step
LARGE = 16 << 20  # bytes of a result from which it goes past the cache
FEW_LANES = _problem.FEW_LANES  # fewer are cut into chunks where they are long,
FEW_ALONG = 2 * WIDTH  # or of contiguous time so many
LONG_SERIES = 1 << 16  # steps of a series that is cut
MANY_SAMPLES = 1 << 14  # from which it pays to look for a plain recurrence
MOST_VECTORS = 8  # of chunks that a series is cut into
WARM_UP = 1 / 8  # of a chunk, at most, where there is more than one vector of them
FORGOTTEN = 2.0**-80  # what is left of a state that a warm-up need not know
ALIKE = 2.0**-40
LAST_DIGIT = 2.0**-52  # what the weights' sum may still change by, of itself, where it counts as settled
FIRST_STEPS = 64  # of a long series, that are walked alone
LONG_TIMES = 1024  # times of which a kernel makes decays quicker
SERIAL_TIMES = 1 << 15  # below which a second thread costs more than it brings
MOST_EXACT = 1 << 53  # up to which integers are float64, as microseconds since 1970 are
TIME_BYTES = 64  # that are moved in the time that a decay takes
_WIDE = np.dtype(np.float64)
_UNSETTLED = "timed", "covariance", "flagged", "by_group"  # rules of which no statistic is a plain recurrence


def run(statistic, x, y, gate, borders, shape, dtype, axis, kind, min_periods, bias, state):
    """Return a statistic, and the series' `PLANES` after the last step.

    ``kind`` says how weights come about: they "adjust" to each other and the gate is a decay; they are "fixed" by the
    gate; or they are "timed", and the gate is a decay again; and " ignore_na" may follow. ``y`` is None but for
    covariances. ``borders`` is None, or flags where series begin anew, or each step's group, a number. ``state`` is
    what stands before the first step: planes in their order, None for those that there are not.
    """
    h = _problem.empty(shape, dtype, _shapes.like(shape, dtype, (x.shape, x.strides)))
    lane_axes = [k for k in range(len(shape)) if k != axis]
    lane_shape = tuple(shape[k] for k in lane_axes)
    lanes, steps = math.prod(lane_shape), shape[axis]
    states = np.zeros((PLANES, *lane_shape))
    for plane, values in enumerate(state):
        states[plane] = 0 if values is None else values
    if lanes == 0 or steps == 0:
        return h, states
    traits = {"sum": statistic == "sum", "covariance": y is not None, "one_series": y is None or y is x}
    traits["flagged"] = borders is not None and borders.dtype == bool
    traits["by_group"] = borders is not None and borders.dtype != bool
    rule = " ".join([kind, *(trait for trait, holds in traits.items() if holds)])
    # Time first, then the series, outermost in memory first.
    gate = np.asarray(gate)
    order = sorted(lane_axes, key=lambda k: (-abs(h.strides[k]), k))
    others = x, x if y is None else y, gate, *([] if borders is None else [borders])
    x_all, y_all, *gates = (np.broadcast_to(v, shape).transpose(axis, *order) for v in others)
    operands = x_all, y_all, h.transpose(axis, *order), *gates
    states = states.transpose(0, *(1 + lane_axes.index(k) for k in order))
    options, after = (max(1, min_periods), bias, h.nbytes >= LARGE), states.reshape(PLANES, lanes)
    settled = _settled_after(rule, gate, operands, options[0])
    after = _walk(rule, [o[:settled] for o in operands], options, after)
    if settled < steps:
        rest = [o[settled:] for o in operands]
        if not _recur(rule, rest, gate, options[0], after):
            after = _walk(rule, rest, options, after)
    back = (1 + order.index(k) for k in lane_axes)
    return h, np.ascontiguousarray(after.reshape(states.shape).transpose(0, *back))


def _settled_after(rule, gate, operands, least):
    """Return after how many steps a statistic may be a plain recurrence; all, if it is none, or too short for that.

    Once the weights' sum has come to its limit, all shares are the same, and a mean is `forget_mult` of a number and
    the samples. A sum is `linear_recurrence` of the decay anyway.
    """
    x, _, h, *_ = operands
    steps, kept = len(x), float(gate.flat[0]) if "adjust" in rule else 0.0
    if gate.size > 1 or x.size < MANY_SAMPLES or x.dtype != h.dtype or any(w in rule for w in _UNSETTLED):
        return steps
    settled = 1 if kept == 0 else 2 + int(math.log(LAST_DIGIT / 2) / math.log(kept)) if kept < 1 else steps
    return max(settled, least) if max(settled, least) <= steps // 2 else steps


def _recur(rule, operands, gate, least, states):
    """Run a plain recurrence from the states before it, which become those after it; return whether that was right.

    If a sample is missing, the last state is NaN.
    """
    x, _, h, *_ = operands
    weight, family, a = states[WEIGHT, 0], _problem.FORGET, float(gate.flat[0])
    kept = a if "adjust" in rule else 0.0  # of the weights' sum, beside which a sample weighs 1
    is_settled = (states[WEIGHT] == weight) & (abs(weight * kept + 1 - weight) <= LAST_DIGIT * weight)
    if not (is_settled & (states[COUNT] >= least)).all():
        return False
    if "sum" in rule:
        family = _problem.LINEAR
    elif "adjust" in rule:
        a = 1 / float(weight)
    of_x, of_h = ((v.dtype, v.shape, v.strides) for v in (x, h))
    plan = _problem.forward(family, ("gate", "x", "state"), None, of_x, None, of_h, 0, False, None, False)
    _, last = _run.forward(plan, a, x, states[MEAN].reshape(x.shape[1:]), None, h, True)
    if not np.isfinite(last).all():
        return False
    states[MEAN], states[COUNT] = last.reshape(-1), states[COUNT] + len(x)
    return True


def _offsets(operand):
    """Return where series begin, in bytes, in their order."""
    offsets = np.zeros(1, np.int64)
    for size, stride in zip(operand.shape[1:], operand.strides[1:], strict=True):
        offsets = np.add.outer(offsets, np.arange(size) * stride).reshape(-1)
    return offsets


def _walk(rule, operands, options, before):
    """Walk operands whose first axis is time, in chunks if they are long; return the states after them."""
    steps, lanes, h = len(operands[0]), before.shape[1], operands[2]
    parts = [(o, o.strides[0], _offsets(o)) for o in operands]
    along = all(abs(o.strides[0]) in (0, o.itemsize) for o in operands)
    if "by_group" not in rule and steps >= LONG_SERIES and lanes < (FEW_ALONG if along else FEW_LANES):
        first = FIRST_STEPS if "covariance" in rule else 0  # they tell the origin of all chunks
        chunks, window = _chunks(rule, operands[3][first:], steps - first)
        if chunks > 1:
            if first:
                before = _walk_once(rule, parts, first, first, options, before)
            rest = [(o, stride, offsets + first * stride) for o, stride, offsets in parts]
            flags = np.zeros((chunks, 1, 1), bool)
            if "flagged" in rule:
                flags = operands[4][first:][: (steps - first) // chunks * chunks].reshape(chunks, -1, lanes)
            return _walk_in_chunks(rule, rest, steps - first, options, before, flags, window)
    by_rows = h.ndim > 1 and abs(h.strides[-1]) < abs(h.strides[0])
    return _walk_once(rule, parts, steps, STEPS if by_rows and lanes > WIDTH else steps, options, before)


def _walk_once(rule, operands, steps, chunk, options, states):
    """Run the kernel; return the states after. Operands are ``(array, stride of time, series' offsets)``."""
    operands = [*operands, operands[3]][:5]  # without borders, a valid place
    lanes, by_group = states.shape[1], "by_group" in rule
    width = 1 if by_group else WIDTH
    padded = -(-lanes // width) * width  # the last one is walked again, as its offset is repeated, to fill a vector
    fill = np.minimum(np.arange(padded), lanes - 1)
    if by_group:
        carry = np.zeros((int(operands[4][0].max()) + 1, lanes, PLANES))
        carry[0, :, COUNT] = -math.inf  # of steps without a group, which so have no result
    else:
        carry = _problem.zeros((PLANES, padded), _WIDE)
        carry[...] = states[:, fill]
    table = np.zeros(_weighted.HEAD + 5 * padded, np.int64)
    table[: _weighted.HEAD] = [steps, chunk, lanes, padded, *(o[1] for o in operands), *options]
    table[_weighted.HEAD :] = np.concatenate([o[2][fill] for o in operands])
    elements = {name: element(o[0].dtype) for name, o in zip(("x", "y", "h", "gate", "borders"), operands, strict=True)}
    if "flagged" in rule and not operands[4][2].any():
        rule += " broadcast_flags"
    call = kernel(_weighted.walk_groups if by_group else _weighted.walk, rule, "f8", **elements)
    head = (None, *(address(o[0]) for o in operands), address(carry), address(table))
    vectors = padded // width
    nbytes, team = operands[0][0].itemsize * steps * lanes, _threads.team()
    threads = min(team.size, vectors) if nbytes >= SERIAL_BYTES else 1
    parts = _threads.ranges(vectors, _cost.items(4 * nbytes, threads, vectors))
    team.run([(call, *head, width * low, width * high) for low, high in parts], threads)
    return states if by_group else carry[:, :lanes]


def _chunks(rule, gate, steps):
    """Return how many chunks to cut series into, and how many steps before a chunk tell how it starts."""
    vectors, is_decay = MOST_VECTORS, "adjust" in rule or "timed" in rule
    while vectors >= 1:
        chunks = WIDTH * vectors
        length = steps // chunks
        window = _window(gate, is_decay, length, chunks)
        if window <= (WARM_UP if vectors > 1 else 1) * length:
            return chunks, window
        vectors //= 2
    return 1, 0


def _window(gate, is_decay, length, chunks):
    """Return how many steps tell the state after them, before each chunk but the first.

    A share is no smaller than the gate's, whatever is missing: up to half of the steps may be.
    """
    if gate.strides[0] == 0:
        kept = float(np.max(gate[0] if is_decay else 1 - gate[0]))
        least = int(math.log(FORGOTTEN) / math.log(kept)) if 0 < kept < 1 else 0 if kept == 0 else math.inf
        return WIDTH + 2 + 2 * least
    least, edges = WIDTH, np.arange(1, chunks) * length
    while 2 * least < length:
        before = np.stack([gate[edge - least : edge] for edge in edges])
        if (np.prod(before if is_decay else 1 - before, axis=1, dtype=_WIDE) <= FORGOTTEN).all():
            return WIDTH + 2 + 2 * least
        least *= 2
    return math.inf


def _walk_in_chunks(rule, operands, steps, options, before, flags, window):
    """Do what `_walk` does, in chunks that go side by side; ``window`` is the warm-up's number of steps.

    ``flags`` are those of chunks, steps and series.

    What stands before a chunk is found by a warm-up. Then the states that chunks come to are compared with those that
    the next ones began with, and chunks that began with another are walked again, until there are none. Each time the
    first of these is right for good: results are those of one walk but for roundings, whatever gaps and outliers do.
    """
    chunks, lanes, least = len(flags), before.shape[1], options[0]
    length = steps // chunks
    chunk, lane = np.divmod(np.arange(chunks * lanes), lanes)
    starts = np.zeros((PLANES, chunks, lanes))
    starts[[ORIGIN, ORIGIN_Y]], starts[COUNT] = before[[ORIGIN, ORIGIN_Y], np.newaxis], before[COUNT] > 0

    def walk(lane, first, steps, states, writes=True):
        """Walk so many steps of series, one for each state, from a first step of each on."""
        parts = [(o, stride, offsets[lane] + first * stride) for o, stride, offsets in operands]
        if not writes:  # anything but one row
            row = np.empty(len(lane), operands[2][0].dtype)
            parts[2] = row, 0, np.arange(len(row)) * row.itemsize
        return _walk_once(rule, parts, steps, steps, (*options[:2], False), states)

    warm_up = np.maximum(chunk * length - window, 0)
    starts = walk(lane, warm_up, window, starts.reshape(PLANES, -1), writes=False).reshape(starts.shape)
    # A count that began in the warm-up is known; others are as if results had all the samples that they need.
    is_known, anew = flags[:-1, length - window :].any(axis=1), flags.any(axis=1)
    starts[COUNT, 1:] = np.where(is_known, starts[COUNT, 1:], least)
    starts[:, 0] = before
    ends, seen, wrong = np.empty_like(starts), np.empty((chunks, lanes)), np.ones((chunks, lanes), bool)
    for right in range(1, chunks + 1):
        here = wrong.reshape(-1)
        ends[:, wrong] = walk(lane[here], chunk[here] * length, length, starts[:, wrong])
        seen[wrong] = (ends[COUNT] - np.where(anew, 0, starts[COUNT]))[wrong]
        counts = before[COUNT] + np.cumsum(seen, axis=0)
        ends[COUNT] = counts - np.maximum.accumulate(np.where(anew, counts - seen, 0), axis=0)
        wrong[1:] = ~_are_alike(starts[:, 1:], ends[:, :-1], least)
        wrong[:right] = False
        if not wrong.any():
            break
        starts[:, 1:] = np.where(wrong[1:], ends[:, :-1], starts[:, 1:])
    done = length * chunks
    return walk(np.arange(lanes), done, steps - done, ends[:, -1]) if done < steps else ends[:, -1]


def _are_alike(predicted, true, least):
    """Return which of some states give the same results as others but for roundings."""
    planes = [WEIGHT, MEAN, MEAN_Y, COVARIANCE, ROOM]
    enough = np.minimum(predicted[COUNT], least) == np.minimum(true[COUNT], least)
    with np.errstate(all="ignore"):
        apart, same = predicted - true, (predicted == true) | ((predicted != predicted) & (true != true))
        apart[[MEAN, MEAN_Y]] += apart[[ORIGIN, ORIGIN_Y]]
        same[[MEAN, MEAN_Y]] &= same[[ORIGIN, ORIGIN_Y]]
        return enough & np.all((np.abs(apart) <= ALIKE * np.abs(true))[planes] | same[planes], axis=0)


def decays(times, first_gap, halflife, alpha):
    """Return what is left of a weight at each of many times, from a kernel: ``(1 - alpha)**(time/halflife)``.

    ``first_gap`` is that before the first. None of what the kernel does not take, bad times among that.
    """
    is_date = times.dtype.kind == "M"
    name = "i8" if is_date and times.dtype.isnative else element(times.dtype)
    if name not in ("i8", "f4", "f8") or np.ndim(alpha) or np.ndim(halflife) or not alpha < 1:
        return None
    times = np.ascontiguousarray(times)
    times = times.view(np.int64) if is_date else times
    power = math.log2(1.0 - alpha)
    found = _problem.empty(times.shape, np.dtype(np.float64), (8,))
    found[0] = np.exp2(power * (first_gap / halflife))
    # Those between such ends are floats without a loss; others are out of order, which the kernel sees.
    are_exact = name != "i8" or max(abs(int(times[0])), abs(int(times[-1]))) <= MOST_EXACT
    call = kernel(_decays.walk, "" if are_exact else "integers", "f8", times=name, decays="f8")
    team = _threads.team()
    threads = team.size if len(times) >= SERIAL_TIMES else 1
    parts = _threads.ranges(len(times) - 1, _cost.items(TIME_BYTES * len(times), threads, len(times) // LONG_TIMES))
    carries = np.zeros((len(parts), 2 * WIDTH))
    carries[:, : _decays.POWER + 1] = halflife, power
    calls = [(call, None, *map(address, (times, found, carry))) for carry in carries]
    team.run([(*own, 1 + low, 1 + high) for own, (low, high) in zip(calls, parts, strict=True)], threads)
    return found if (carries[:, _decays.SOUND :] >= 0).all() else None
