"""Run weighted statistics of NumPy arrays: lay out series, cut long ones into chunks, share the work out; decays."""

import functools
import math

import numpy as np

from .._arguments import shapes
from .._arguments.arrays import address, element
from .._plan import problem
from .._plan.fields import decays as _decays, weighted
from .._plan.fields.weighted import (
    ALIKE,
    COUNT,
    COVARIANCE,
    MEAN,
    MEAN_Y,
    ORIGIN,
    ORIGIN_Y,
    PLANES,
    ROOM,
    STEPS,
    WEIGHT,
)
from .._plan.loops import Series, starts
from .._plan.widths import WIDTH
from . import cost, run as _run
from .compiler import native
from .compiler.compile import kernel
from .machine import allocate, threads as _threads
from .prepared import MOST_KEPT, prepared

LARGE = 16 << 20  # bytes of a result from which it goes past the cache
FEW_LANES = problem.FEW_LANES  # fewer are cut into chunks where they are long,
FEW_ALONG = 2 * WIDTH  # or of contiguous time so many
LONG_SERIES = 1 << 16  # steps of a series that is cut
MANY_SAMPLES = 1 << 14  # from which it pays to look for a plain recurrence,
LARGE_TABLE = 1 << 18  # or of a table: of a smaller one a walk is prepared once
MOST_VECTORS = 8  # of chunks that a series is cut into
WARM_UP = 1 / 8  # of a chunk, at most, where there is more than one vector of them
FORGOTTEN = 2.0**-80  # what is left of a state that a warm-up need not know
BELOW_DIGITS = 2.0**-56  # and in a kernel, where chunks are so short that it matters, and are walked again at once
LAST_DIGIT = 2.0**-52  # what the weights' sum may still change by, of itself, where it counts as settled
FIRST_STEPS = 64  # of a long series, that are walked alone
CUT_STEPS = 1 << 12  # of a series that a kernel cuts by itself
FEW_ALONE = 3  # series that are walked one after the other
KEPT_LANES = 1024  # up to which it is remembered where series begin
LONG_TIMES = 1024  # times of which a kernel makes decays quicker
MOST_EXACT = 1 << 53  # up to which integers are float64, as microseconds since 1970 are
TIME_BYTES = 64  # that are moved in the time that a decay takes
_WIDE = np.dtype(np.float64)
_ONE = _WIDE, (), ()  # what one gate has: a dtype, a shape and strides
_UNSETTLED = "timed", "covariance", "flagged", "by_group"  # rules of which no statistic is a plain recurrence


class Layout:
    """What is asked of a statistic, and where its operands stand: all that does not depend on values and addresses."""

    def __init__(self, statistic, kind, options, shape, dtype, axis, signatures):
        """Take what samples and gates, and borders if there are some, have: a dtype, a shape and strides.

        That of ``y`` is None, or empty where it is ``x``.
        """
        x, y, gate, *borders = signatures
        traits = {"sum": statistic == "sum", "covariance": y is not None, "one_series": not y}
        traits |= {"flagged" if border.kind == "b" else "by_group": True for border, *_ in borders}
        self.rule = " ".join([kind, *(trait for trait, holds in traits.items() if holds)])
        self.shape, self.dtype, self.strides = shape, dtype, shapes.like(shape, dtype, x[1:])
        size, self.series = math.prod(shape), Series(shape, self.strides, axis)
        self.options, self.is_empty = (*options, size * dtype.itemsize >= LARGE), size == 0
        self.steps, self.lanes = shape[axis], self.series.count
        self.order = axis, *self.series.order  # time first
        may_settle = self.lanes > 1 and size >= LARGE_TABLE and not any(word in self.rule for word in _UNSETTLED)
        is_short = self.steps < LONG_SERIES and self.lanes <= KEPT_LANES and not may_settle
        self.new = allocate.maker(shape, dtype, self.strides)
        self.walk = self.short = None  # which are all there is to a call, if it is short
        if is_short and not self.is_empty and "by_group" not in traits:
            places = [self._place(v) for v in (x, y or x, (dtype, shape, self.strides), gate, *borders)]
            self.walk = Walk(self.rule, places, self.lanes, self.steps, self.options)
            self.short = self.walk.prepared()

    def _place(self, signature):
        """Return an operand's dtype, its stride of time and where series begin."""
        dtype, shape, strides = signature
        strides = shapes.spread(shape, strides, self.shape)
        return dtype, strides[self.order[0]], self.series.starts(strides)


_layout = functools.lru_cache(MOST_KEPT // 4)(Layout)


def run_whole(statistic, x, y, gate, axis, kind, min_periods, bias):
    """Return a statistic of one array and one gate, a float, as `run` does where no state is given and none wanted.

    What a short call needs beside their addresses is prepared once.
    """
    own = x.dtype, x.shape, x.strides
    options = max(1, min_periods), bias
    asked = _layout(statistic, kind, options, x.shape, x.dtype, axis, (own, None if y is None else (), _ONE))
    if asked.short is None:
        return run(statistic, x, y, gate, None, x.shape, x.dtype, axis, kind, min_periods, bias, (None,))[0]
    h = asked.new()
    asked.short(x, x, h, gate, gate, *asked.walk.part(gate))
    return h


def run(statistic, x, y, gate, borders, shape, dtype, axis, kind, min_periods, bias, state):
    """Return a statistic, and the series' `PLANES` after the last step.

    ``kind`` says how weights come about: they "adjust" to each other and the gate is a decay; they are "fixed" by the
    gate; or they are "timed", and the gate is a decay again; and " ignore_na" may follow. ``y`` is None but for
    covariances. ``borders`` is None, or flags where series begin anew, or each step's group, a number. ``state`` is
    what stands before the first step: planes in their order, None for those that there are not.
    """
    gate = np.asarray(gate)
    given = [x, x if y is None else y, gate, *([] if borders is None else [borders])]
    signatures = [(v.dtype, v.shape, v.strides) for v in given]
    signatures[1] = None if y is None else () if y is x else signatures[1]
    asked = _layout(statistic, kind, (max(1, min_periods), bias), shape, dtype, axis, tuple(signatures))
    h = asked.new()
    states = np.zeros((PLANES, *asked.series.shape))
    if state[0] is not None:
        for plane, values in enumerate(state):
            states[plane] = 0 if values is None else values
    if asked.is_empty:
        return h, states
    given.insert(2, h)
    if asked.lanes == 1 and asked.walk is not None:
        return h, asked.walk.run(given, states.reshape(PLANES, 1)).reshape(states.shape)
    after = asked.series.lanes(states)
    if asked.walk is not None:
        after = asked.walk.run(given, after)
    else:
        after = _walk_long(asked, gate, [np.broadcast_to(v, shape).transpose(asked.order) for v in given], after)
    return h, np.ascontiguousarray(asked.series.back(after))


def _walk_long(asked, gate, operands, after):
    """Run a statistic of more than one call of a kernel: see `run`."""
    rule, options = asked.rule, asked.options
    settled = _settled_after(rule, gate, operands, options[0])
    is_cut = asked.steps >= LONG_SERIES
    after = _walk(rule, [o[:settled] for o in operands], options, after, is_cut)
    if settled < asked.steps:
        rest = [o[settled:] for o in operands]
        if not _recur(rule, rest, gate, options[0], after):
            after = _walk(rule, rest, options, after, is_cut)
    return after


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
    weight, family, a = states[WEIGHT, 0], problem.FORGET, float(gate.flat[0])
    kept = a if "adjust" in rule else 0.0  # of the weights' sum, beside which a sample weighs 1
    is_settled = (states[WEIGHT] == weight) & (abs(weight * kept + 1 - weight) <= LAST_DIGIT * weight)
    if not (is_settled & (states[COUNT] >= least)).all():
        return False
    if "sum" in rule:
        family = problem.LINEAR
    elif "adjust" in rule:
        a = 1 / float(weight)
    of_x, of_h = ((v.dtype, v.shape, v.strides) for v in (x, h))
    plan = problem.forward(family, ("gate", "x", "state"), None, of_x, None, of_h, 0, False, None, False)
    _, last = _run.forward(plan, a, x, states[MEAN].reshape(x.shape[1:]), None, h, True)
    if not np.isfinite(last).all():
        return False
    states[MEAN], states[COUNT] = last.reshape(-1), states[COUNT] + len(x)
    return True


def _walk(rule, operands, options, before, is_cut):
    """Walk operands whose first axis is time, in chunks if they are long; return the states after them."""
    steps, lanes = len(operands[0]), before.shape[1]
    places = [(o.dtype, o.strides[0], starts(o.shape[1:], o.strides[1:])) for o in operands]
    along = all(abs(o.strides[0]) in (0, o.itemsize) for o in operands)
    if "by_group" not in rule and steps >= LONG_SERIES and lanes < (FEW_ALONG if along else FEW_LANES):
        first = FIRST_STEPS if "covariance" in rule else 0  # they tell the origin of all chunks
        chunks, window = _chunks(rule, operands[3][first:], steps - first)
        if chunks > 1:
            if first:
                before = Walk(rule, places, lanes, first, options, is_cut=True).run(operands, before)
            places = [(dtype, stride, offsets + first * stride) for dtype, stride, offsets in places]
            flags = np.zeros((chunks, 1, 1), bool)
            if "flagged" in rule:
                flags = operands[4][first:][: (steps - first) // chunks * chunks].reshape(chunks, -1, lanes)
            return _walk_in_chunks(rule, operands, places, steps - first, options, before, flags, window)
    return Walk(rule, places, lanes, steps, options, is_cut).run(operands, before)


class Walk:
    """One walk of a kernel over some series, of which addresses and states are still to come.

    Places are each operand's dtype, its stride of time and where series begin. A few series have kernels of their own,
    but not what is walked beside chunks of series that Python cuts (``is_cut``): one kernel does all of that.
    """

    def __init__(self, rule, places, lanes, steps, options, is_cut=False, is_chunk=False):
        may_cut = not (is_cut or places[3][1] or places[4:])  # with a constant gate and no borders
        places = [*places, places[3]][:5]  # without borders, a valid place
        self.lanes, self.steps, self.by_group = lanes, steps, "by_group" in rule
        self.alone = lanes <= FEW_ALONE and not (is_cut or self.by_group)
        self.width = 1 if self.by_group or self.alone else WIDTH
        padded = -(-lanes // self.width) * self.width
        self.fill = np.minimum(np.arange(padded), lanes - 1)  # the last one fills a vector
        _, stride, offsets = places[2]
        by_rows = lanes > WIDTH and not is_chunk and abs(offsets[-1] - offsets[-2]) < abs(stride)
        self.table = np.zeros(weighted.HEAD + 5 * padded, np.int64)
        chunk = STEPS if by_rows else steps
        self.table[: weighted.HEAD] = [steps, chunk, lanes, padded, *(stride for _, stride, _ in places), *options]
        self.table[weighted.HEAD :] = np.concatenate([offsets[self.fill] for *_, offsets in places])
        self.geometry = address(self.table)
        if "flagged" in rule and not places[4][2].any():
            rule += " broadcast_flags"
        names = zip(("x", "y", "h", "gate", "borders"), places, strict=True)
        elements = {name: element(dtype) for name, (dtype, *_) in names}
        self.is_cut = lanes == 1 and steps >= CUT_STEPS and may_cut
        self.first, self.is_decay = FIRST_STEPS if "covariance" in rule else 0, "fixed" not in rule
        own = "walk_cut" if self.is_cut else "walk_alone"
        walk = "walk_groups" if self.by_group else own if self.alone else "walk"
        self.call = kernel(f"weighted.{walk}", rule, "f8", **elements)
        self.nbytes = places[0][0].itemsize * steps * lanes
        self.is_one = self.is_cut or cost.threads("statistics", self.nbytes, 2) == 1  # native call

    def prepared(self):
        """Return what walks from zero states, which stay in it, given operands, a place for borders, and `part`.

        None if a walk is more than one native call, or has states of many series.
        """
        words, releases = PLANES * len(self.fill), 4 * self.nbytes >= cost.UNLOCKED_BYTES
        if not self.is_one or words > native.MOST_SCRATCH:
            return None
        operands, carry, part = (1, 2, 3, 4, 5), 6, (8, 9)  # places among a kernel's arguments
        arguments = [*[0] * 7, self.geometry, 0, 0]
        return prepared(self.call, [arguments], operands + part, self.table, 1, (carry, words), releases)

    def part(self, gate):
        """Return the last arguments of a kernel that walks all series."""
        if not self.is_cut:
            return 0, len(self.fill)
        window = _warm_up(gate if self.is_decay else 1 - gate)
        is_short = window <= (self.steps - self.first) // WIDTH
        return (self.first, window) if is_short else (self.steps, 0)

    def run(self, operands, states):
        """Walk operands at their addresses; return the states after ``states``."""
        padded = len(self.fill)
        if self.by_group:
            carry = np.zeros((int(operands[4].max()) + 1, self.lanes, PLANES))
            carry[0, :, COUNT] = -math.inf  # of steps without a group, which so have no result
        elif self.alone:
            carry = states.T.copy()
        else:
            carry = allocate.zeros((PLANES, padded), _WIDE)
            carry[...] = states[:, self.fill]
        places = [address(operand) for operand in operands]
        head = (None, *places, *places[3:4] * (5 - len(places)), address(carry), self.geometry)  # borders in any case
        if self.is_one:
            self.call(*head, *self.part(float(operands[3].flat[0])))
        else:
            team, vectors = _threads.team(), padded // self.width
            threads = min(team.size, vectors)
            parts = _threads.ranges(vectors, cost.items(4 * self.nbytes, threads, vectors))
            team.run([(self.call, *head, self.width * low, self.width * high) for low, high in parts], threads)
        if self.by_group:
            return states
        return carry.T if self.alone else carry[:, : self.lanes]


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


def _warm_up(kept):
    """Return how many steps tell the state after them, where each but a fifth leaves so much of it."""
    if kept == 0:
        return WIDTH
    return WIDTH + int(1.25 * math.log(BELOW_DIGITS) / math.log(kept)) if kept < 1 else 1 << 62


def _window(gate, is_decay, length, chunks):
    """Return how many steps tell the state after them, before each chunk but the first.

    A share is no smaller than the gate's, whatever is missing: up to half of the steps may be.
    """
    if gate.strides[0] == 0:
        kept = float(np.max(gate[0] if is_decay else 1 - gate[0]))
        least = int(math.log(FORGOTTEN) / math.log(kept)) if 0 < kept < 1 else 0 if kept == 0 else math.inf
        return WIDTH + 2 + 2 * least
    gate = gate[(slice(None), *(slice(None if stride else 1) for stride in gate.strides[1:]))]
    least, edges, known, kept = WIDTH, np.arange(1, chunks) * length, 0, 1
    while 2 * least < length:
        before = np.stack([gate[edge - least : edge - known] for edge in edges])
        kept = kept * np.prod(before if is_decay else 1 - before, axis=1, dtype=_WIDE)
        if (kept <= FORGOTTEN).all():
            return WIDTH + 2 + 2 * least
        known, least = least, 2 * least
    return math.inf


def _walk_in_chunks(rule, operands, places, steps, options, before, flags, window):
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
        own = [(dtype, stride, offsets[lane] + first * stride) for dtype, stride, offsets in places]
        arrays = list(operands)
        if not writes:  # anything but one row
            dtype = places[2][0]
            arrays[2], own[2] = np.empty(len(lane), dtype), (dtype, 0, np.arange(len(lane)) * dtype.itemsize)
        return Walk(rule, own, len(lane), steps, (*options[:2], False), True, is_chunk=True).run(arrays, states)

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
    found = allocate.empty(times.shape, np.dtype(np.float64), (8,))
    found[0] = np.exp2(power * (first_gap / halflife))
    # Those between such ends are floats without a loss; others are out of order, which the kernel sees.
    are_exact = name != "i8" or max(abs(int(times[0])), abs(int(times[-1]))) <= MOST_EXACT
    call = kernel("decays.walk", "" if are_exact else "integers", "f8", times=name, decays="f8")
    team = _threads.team()
    threads = cost.threads("statistics", 8 * len(times), team.size)
    parts = _threads.ranges(len(times) - 1, cost.items(TIME_BYTES * len(times), threads, len(times) // LONG_TIMES))
    carries = np.zeros((len(parts), 2 * WIDTH))
    carries[:, : _decays.POWER + 1] = halflife, power
    calls = [(call, None, *map(address, (times, found, carry))) for carry in carries]
    team.run([(*own, 1 + low, 1 + high) for own, (low, high) in zip(calls, parts, strict=True)], threads)
    return found if (carries[:, _decays.SOUND :] >= 0).all() else None
