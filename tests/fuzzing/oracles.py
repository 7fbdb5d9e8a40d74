"""What each function is, one step after the other in long double. Nothing of the package is used here.

Operands are wide arrays (`wide`), None where there is none; each function returns a list of arrays.
"""

import itertools
import math

import numpy as np


def wide(value):
    """Return an operand in long double; None stays None."""
    if value is None:
        return None
    array = np.asarray(value)
    if array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    return array.astype(np.clongdouble if array.dtype.kind == "c" else np.longdouble)


def _spread(array, shape, axis):
    """Return what broadcasts to a shape, with time first."""
    return np.moveaxis(np.broadcast_to(array, shape), axis, 0)


def _trailing(array, rank):
    """Return what belongs to leading axes, with axes of 1 behind."""
    array = np.asarray(array)
    return array.reshape(array.shape + (1,) * (rank - array.ndim))


def linear(decay, summand, h0, reverse, lengths=None, offsets=None, resets=None):
    """Return all states and the last ones of ``decay*state + summand``; time is first, segments are before series."""
    steps, lanes = len(summand), summand.shape[1:]
    lengths = np.broadcast_to(steps if lengths is None else lengths, lanes)
    resets = np.broadcast_to(False if resets is None else resets, summand.shape)
    borders = [0, steps] if offsets is None else offsets
    dtype = np.result_type(decay, summand, 0.0 if h0 is None else h0)
    first = np.broadcast_to(0 if h0 is None else h0, (len(borders) - 1, *lanes)).astype(dtype)
    h, last = np.zeros(summand.shape, dtype), np.zeros(first.shape, dtype)
    for n, (low, high) in enumerate(itertools.pairwise(borders)):
        state = first[n]
        for t in range(low, high)[:: -1 if reverse else 1]:
            flag, there = (t + 1, t + 1 < high) if reverse else (t, True)  # of the border that the state passes
            begins = resets[flag] & (flag < lengths) if there else False
            new = np.where(begins, 0, decay[t] * state) + summand[t]
            inside = t < lengths
            state, h[t] = np.where(inside, new, state), np.where(inside, new, 0)
        if reverse and low < high:
            state = np.where(resets[low] & (low < lengths), 0, state)
        last[n] = state
    return h, last if offsets is not None else last[0, ...]


def recurrence(name, gate, value, h0, axis, reverse=False, lengths=None, offsets=None, resets=None):
    shape = np.broadcast_shapes(gate.shape, value.shape)
    gate, value = _spread(gate, shape, axis), _spread(value, shape, axis)
    operands = (1 - gate, gate * value) if name == "forget_mult" else (gate, value)
    lengths = None if lengths is None else _trailing(lengths, len(shape) - 1)
    resets = None if resets is None else _spread(_trailing(resets, len(shape)), shape, axis)
    h, last = linear(*operands, h0, reverse, lengths, offsets, resets)
    return [np.moveaxis(h, 0, axis), last]


def selective_scan(
    u, delta, A, B, C, D, z, delta_bias, h0, delta_softplus=False, layout="bdl", reverse=False, lengths=None,
    offsets=None, resets=None,
):  # fmt: skip
    to_time = (2, 0, 1) if layout == "bdl" else (1, 0, 2)
    u, delta = u.transpose(to_time), delta.transpose(to_time)
    steps, batch, channels = u.shape

    def map_of(given):
        if given.ndim == 2:
            return given
        if given.ndim == 3:
            given = np.expand_dims(given, 1 if layout == "bdl" else 2)
        groups = given.transpose((3, 0, 1, 2) if layout == "bdl" else (1, 0, 2, 3))
        return np.repeat(groups, channels // groups.shape[2], 2)

    step = delta if delta_bias is None else delta + delta_bias
    step = np.logaddexp(0, step) if delta_softplus else step
    decay, summand = np.exp(step[..., None] * A), (step * u)[..., None] * map_of(B)
    cuts = (None if v is None else v[..., None, None] for v in (lengths, None if resets is None else resets.T))
    lengths, resets = cuts
    if h0 is not None and offsets is not None:
        h0 = h0[:, None]
    h, last = linear(decay, summand, h0, reverse, lengths, offsets, resets)
    y = (h * map_of(C)).sum(-1) + (0 if D is None else D * u)
    if z is not None:
        z = z.transpose(to_time)
        y = y * z / (1 + np.exp(-z))
    if lengths is not None:
        y = np.where(np.arange(steps)[:, None, None] < lengths[..., 0], y, 0)
    return [y.transpose(np.argsort(to_time)), last[:, 0] if offsets is not None else last]


# ---- Filters --------------------------------------------------------------------------------------------------------


def _each_step(coefficients, fields, x, axis):
    """Return coefficients of each step and series, with time first and the last axes as they are."""
    rank = coefficients.ndim - fields
    if 0 < rank < x.ndim:
        coefficients = np.expand_dims(coefficients, axis)
    last = coefficients.shape[coefficients.ndim - fields :]
    return np.moveaxis(np.broadcast_to(coefficients, (*x.shape, *last)), axis, 0)


def _in_order(x, axis, reverse, lengths):
    """Return a signal with time first, and pairs of steps in order and where they are no padding."""
    x = np.moveaxis(x, axis, 0)
    lengths = np.broadcast_to(len(x), x.shape[1:]) if lengths is None else _trailing(lengths, x.ndim - 1)
    return x, [(t, t < lengths) for t in range(len(x))[:: -1 if reverse else 1]]


def _section(b, a, x, states, order):
    """Return the output of one filter in transposed form, and its states; ``b, a`` are (steps, *series, K)."""
    y, states = np.zeros(x.shape, np.result_type(x, states)), list(states)
    for t, inside in order:
        now = b[t, ..., 0] * x[t] + (states[0] if states else 0)
        later = [*states[1:], 0]
        new = [b[t, ..., k] * x[t] - a[t, ..., k] * now + later[k - 1] for k in range(1, b.shape[-1])]
        y[t] = np.where(inside, now, 0)
        states = [np.where(inside, one, old) for one, old in zip(new, states, strict=True)]
    return y, np.array(states).reshape(b.shape[-1] - 1, *x.shape[1:])


def sosfilt(sos, x, zi, axis, reverse=False, lengths=None):
    shape = (sos.shape[-2], *x.shape[:axis], 2, *x.shape[axis + 1 :])
    states = np.moveaxis(np.broadcast_to(0 if zi is None else zi, shape), axis + 1, 1)
    each, (y, order) = _each_step(sos, 2, x, axis), _in_order(x, axis, reverse, lengths)
    y, states = y.astype(np.result_type(y, states)), states.astype(np.result_type(y, states))
    for s in range(len(states)):
        y, states[s] = _section(each[..., s, :3], each[..., s, 3:], y, states[s], order)
    return [np.moveaxis(y, 0, axis), np.moveaxis(states, 1, axis + 1)]


def lfilter(b, a, x, zi, axis, reverse=False, lengths=None):
    order = max(b.shape[-1], a.shape[-1]) - 1
    states = np.broadcast_to(0 if zi is None else zi, (*x.shape[:axis], order, *x.shape[axis + 1 :]))
    b, a = (
        _each_step(np.concatenate([v, np.zeros((*v.shape[:-1], order + 1 - v.shape[-1]))], -1), 1, x, axis)
        for v in (b, a)
    )
    x, steps = _in_order(x, axis, reverse, lengths)
    y, states = _section(b / a[..., :1], a / a[..., :1], x, np.moveaxis(states, axis, 0), steps)
    return [np.moveaxis(y, 0, axis), np.moveaxis(states, 0, axis)]


def allpole(a, x, zi, axis, reverse=False, lengths=None):
    each, (x_by_time, steps) = _each_step(a, 1, x, axis), _in_order(x, axis, reverse, lengths)
    shape = (*x.shape[:axis], a.shape[-1], *x.shape[axis + 1 :])
    past = np.moveaxis(np.broadcast_to(0 if zi is None else zi, shape), axis, 0)
    past, y = past.astype(np.result_type(x, past)), np.zeros(x_by_time.shape, np.result_type(x, past))
    for t, inside in steps:
        now = x_by_time[t] - sum(each[t, ..., k] * past[k] for k in range(len(past)))
        y[t] = np.where(inside, now, 0)
        past = np.where(inside, np.stack([now, *past[:-1]]), past)
    return [np.moveaxis(y, 0, axis), np.moveaxis(past, 0, axis)]


def sosfiltfilt(sos, x, axis, padtype="odd", padlen=None):
    each = sos if sos.ndim > 2 else np.broadcast_to(sos, (*x.shape[:axis], *x.shape[axis + 1 :], *sos.shape))
    if padlen is None:
        are_zero = (sos == 0).reshape(-1, *sos.shape[-2:]).all(0)
        padlen = 3 * (2 * sos.shape[-2] + 1 - min(are_zero[:, 2].sum(), are_zero[:, 5].sum()))
    padlen, by_time = 0 if padtype is None else padlen, np.moveaxis(x, axis, 0)
    if padlen:
        first, last = by_time[:1], by_time[-1:]
        head, tail = by_time[padlen:0:-1], by_time[-2 : -padlen - 2 : -1]
        if padtype == "odd":
            head, tail = 2 * first - head, 2 * last - tail
        elif padtype == "constant":
            head, tail = np.repeat(first, padlen, 0), np.repeat(last, padlen, 0)
        by_time = np.concatenate([head, by_time, tail])
    settled, level = [], 1
    for s in range(sos.shape[-2]):  # the states under an input of ones
        b0, b1, b2, _, a1, a2 = np.moveaxis(each[..., s, :], -1, 0)
        gain = (b0 + b1 + b2) / (1 + a1 + a2)
        settled.append([level * (gain - b0), level * (b2 - a2 * gain)])
        level = level * gain
    if not len(by_time):
        return [x]
    for reverse in (False, True):
        first = by_time[-1 if reverse else 0]
        by_time = sosfilt(sos, by_time, np.array(settled) * first, 0, reverse)[0] if sos.ndim == 2 else (
            sosfilt(each, by_time, np.array(settled) * first, 0, reverse)[0]
        )  # fmt: skip
    return [np.moveaxis(by_time[padlen : len(by_time) - padlen], 0, axis)]


# ---- Levels ---------------------------------------------------------------------------------------------------------


def follow(x, attack, release, zi, axis):
    shape, one = x.shape, (*x.shape[:axis], 1, *x.shape[axis + 1 :])
    x, attack, release = (_spread(v, shape, axis) for v in (x, attack, release))
    state, y = np.moveaxis(np.broadcast_to(0 if zi is None else zi, one), axis, 0)[0], np.zeros(x.shape, x.dtype)
    for t in range(len(x)):
        state = y[t] = state + np.where(x[t] > state, attack[t], release[t]) * (x[t] - state)
    return [np.moveaxis(y, 0, axis), np.expand_dims(np.asarray(state), axis)]


def holt(x, alpha, beta, phi, level, trend, axis):
    one, series = (*x.shape[:axis], 1, *x.shape[axis + 1 :]), x.shape[:axis] + x.shape[axis + 1 :]
    constants = [np.broadcast_to(v, one).reshape(-1) for v in (alpha, beta, phi)]
    firsts = [None if v is None else np.broadcast_to(v, series).reshape(-1) for v in (level, trend)]
    rows = np.moveaxis(x, axis, -1).reshape(math.prod(series), x.shape[axis])
    results = np.full((2, *rows.shape), np.nan, np.longdouble)
    for k, row in enumerate(rows):
        seen = np.flatnonzero(np.isfinite(row))
        own = [None if v is None else v[k] for v in firsts]
        begin = 0 if own[0] is not None else seen[0] if len(seen) else len(row)
        now = own[0] if own[0] is not None else row[seen[0]] if len(seen) else np.nan
        slope = own[1]
        if slope is None:
            slope = (row[seen[1]] - row[seen[0]]) / (seen[1] - seen[0]) if len(seen) > 1 else np.longdouble(0)
        a, b, p = (v[k] for v in constants)
        for t in range(begin, len(row)):
            ahead = now + p * slope
            new = a * row[t] + (1 - a) * ahead if np.isfinite(row[t]) else ahead
            slope = b * (new - now) + (1 - b) * p * slope if np.isfinite(row[t]) else p * slope
            now, results[:, k, t] = new, (new, slope)
    return [np.moveaxis(v, -1, axis) for v in results.reshape(2, *series, x.shape[axis])]


def _simple_start(row, period, kind):
    """Return the level, the trend and the seasons of a series by its first two periods."""
    one, two = row[:period], row[period : 2 * period]
    seen, both = np.isfinite(one), np.isfinite(one) & np.isfinite(two)
    level = one[seen].mean() if seen.any() else np.longdouble(np.nan)
    trend = (two - one)[both].mean() / period if both.any() else np.longdouble(0)
    season = one / level if kind == "mul" else one - level
    return level, trend, np.where(seen, season, 1 if kind == "mul" else 0)


def _without_seasons(row):
    seen = np.flatnonzero(np.isfinite(row))
    first = row[seen[0]] if len(seen) else np.longdouble(0)
    slope = (row[seen[1]] - first) / (seen[1] - seen[0]) if len(seen) > 1 else np.longdouble(0)
    return first, slope, np.ones(1)


def holt_winters(x, alpha, axis, beta=None, gamma=None, period=1, seasonal=None, phi=1, level=None, trend=None,
                 season=None):  # fmt: skip
    one, series = (*x.shape[:axis], 1, *x.shape[axis + 1 :]), x.shape[:axis] + x.shape[axis + 1 :]
    has_trend, period = beta is not None, period if seasonal else 1
    constants = [np.broadcast_to(0 if v is None else v, one).reshape(-1) for v in (alpha, beta, phi, gamma)]
    firsts = [None if v is None else np.broadcast_to(v, series).reshape(-1) for v in (level, trend)]
    if season is not None:
        season = np.moveaxis(np.broadcast_to(season, (*x.shape[:axis], period, *x.shape[axis + 1 :])), axis, -1)
        season = season.reshape(math.prod(series), period)
    rows = np.moveaxis(x, axis, -1).reshape(math.prod(series), x.shape[axis])
    results = np.full((4, *rows.shape), np.nan, np.longdouble)
    ends = np.full((2 + period, len(rows)), np.nan, np.longdouble)
    for k, row in enumerate(rows):
        a, b, p, g = (v[k] for v in constants)
        own = [None if v is None else v[k] for v in (*firsts, season)]
        if any(v is None for v, is_there in zip(own, (True, has_trend, seasonal), strict=True) if is_there):
            start = _simple_start(row, period, seasonal) if seasonal else _without_seasons(row)
            own = [mine if v is None else v for v, mine in zip(own, start, strict=True)]
        now, slope, waves = own[0], own[1] if has_trend else 0, list(own[2]) if seasonal else [0]
        for t, value in enumerate(row):
            ahead, wave = now + p * slope, waves[0]
            predicted = ahead * wave if seasonal == "mul" else ahead + wave
            if np.isfinite(value):
                new = a * (value / wave if seasonal == "mul" else value - wave) + (1 - a) * ahead
                wave = g * (value / ahead if seasonal == "mul" else value - ahead) + (1 - g) * wave
                now, slope = new, b * (new - now) + (1 - b) * p * slope
            else:
                now, slope = ahead, p * slope
            waves = [*waves[1:], wave] if seasonal else waves
            results[:, k, t] = predicted, now, slope, wave
        ends[:, k] = now, slope, *waves
    found = [np.moveaxis(v, -1, axis) for v in results.reshape(4, *series, x.shape[axis])]
    last = np.moveaxis(ends.reshape(2 + period, *series), 0, axis)
    level, trend, season = np.split(last, [1, 2], axis)
    return [*found, level, *([trend] if has_trend else []), *([season] if seasonal else [])]


# ---- Statistics -----------------------------------------------------------------------------------------------------


def _weights(seen, decays, shares, adjust, ignore_na):
    """Return, for each step, the weights of all samples so far. A step is decayed by, a new sample has the share."""
    weights, result, gap = np.zeros(len(seen), np.longdouble), [], np.longdouble(1)
    for t in range(len(seen)):
        if seen[t] or not ignore_na:
            weights = weights * decays[t]
            gap = gap * decays[t]
        if seen[t]:
            first = not weights.any()
            weights = weights.copy()
            weights[t] = 1 if adjust or first else shares[t] if shares is not None else 1 - gap
            gap = np.longdouble(1)
            if not adjust:
                weights = weights / weights.sum()
        result.append(weights)
    return result


def _statistic(kind, x, y, decays, shares, adjust, ignore_na, min_periods, bias):
    """Return a statistic of one series, every step from the weights of all steps up to it."""
    seen, result = np.isfinite(x) & np.isfinite(y), np.full(len(x), np.nan, np.longdouble)
    for t, weights in enumerate(_weights(seen, decays, shares, adjust, ignore_na)):
        here = seen & (np.arange(len(x)) <= t)
        count, w = here.sum(), weights[here]
        if count < max(1, min_periods):
            continue
        if kind == "sum":
            result[t] = w @ x[here]
            continue
        w = w / w.sum()
        one, other = (v[here][0] + w @ (v[here] - v[here][0]) for v in (x, y))
        if kind == "mean":
            result[t] = one
            continue
        apart, beside = x[here] - one, y[here] - other
        moment = w @ (apart * beside)
        if kind == "corr":
            spread = (w @ apart**2) * (w @ beside**2)
            result[t] = moment / np.sqrt(spread) if count > 1 and spread > 0 else np.nan
        elif count > 1 or bias:
            unbiased = 1 if bias else 2 * w[1:] @ np.cumsum(w)[:-1]
            moment = moment / unbiased if unbiased else np.nan
            result[t] = np.sqrt(max(moment, 0)) if kind == "std" else moment
    return result


def statistic(
    kind, x, y, alpha, axis, labels, times=None, halflife=None, adjust=True, ignore_na=False, min_periods=0, bias=False
):
    """Return a statistic of every series; ``labels`` has the segment of each element, -1 for none."""
    shape = x.shape if y is None else np.broadcast_shapes(x.shape, y.shape)
    y, series = x if y is None else y, shape[:axis] + shape[axis + 1 :]

    def rows(array):
        return np.moveaxis(np.broadcast_to(array, shape), axis, -1).reshape(math.prod(series), shape[axis])

    x, y, labels, alpha = rows(x), rows(y), rows(labels), rows(0 if alpha is None else alpha)
    times = None if times is None else rows(times)
    result = np.full(x.shape, np.nan, np.longdouble)
    for k in range(len(x)):
        for label in set(labels[k]) - {-1}:
            at = np.flatnonzero(labels[k] == label)
            if times is not None:
                gaps = np.diff(times[k, at], prepend=times[k, at[:1]])
                how = np.exp2(-gaps / halflife), None
            else:
                how = 1 - alpha[k, at], alpha[k, at]
            result[k, at] = _statistic(kind, x[k, at], y[k, at], *how, adjust, ignore_na, min_periods, bias)
    return [np.moveaxis(result.reshape(*series, shape[axis]), -1, axis)]


# ---- Returns --------------------------------------------------------------------------------------------------------


def returns(
    name, rewards, gamma, values=None, lam=None, next_values=None, log_rhos=None, bootstrap=None, ends=0.0, cuts=0.0,
    mask=True, clips=(1.0, 1.0, 1.0), axis=0,
):  # fmt: skip
    """Return sums, advantages or targets, with ``ends`` for done or terminated and ``cuts`` for truncated."""
    shape, steps = rewards.shape, rewards.shape[axis]
    series = shape[:axis] + shape[axis + 1 :]

    def rows(array):
        return np.moveaxis(np.broadcast_to(array, shape), axis, -1).reshape(math.prod(series), steps)

    last = np.zeros(series) if bootstrap is None else np.broadcast_to(bootstrap, series)
    if values is not None and next_values is None:
        last, values = np.take(values, steps, axis), np.take(values, range(steps), axis)
    given = {"values": values, "lam": lam, "next_values": next_values, "log_rhos": log_rhos}
    given = {key: rows(v) for key, v in given.items() if v is not None}
    given |= {"rewards": rows(rewards), "gamma": rows(gamma), "ends": rows(ends), "cuts": rows(cuts)}
    results = np.zeros((2, math.prod(series), steps), np.longdouble)
    for k, there in enumerate(rows(mask)):
        at = np.flatnonzero(there)
        own = {key: v[k, at] for key, v in given.items()}
        results[:, k, at] = _of_episode(name, own, np.reshape(last, -1)[k], clips)
    return [np.moveaxis(v, -1, axis) for v in results.reshape(2, *series, steps)][: 1 + (name == "vtrace")]


def _of_episode(name, own, last, clips):
    steps, plain = len(own["rewards"]), name == "discounted_returns"
    found, more = np.zeros((2, steps), np.longdouble)
    later, target = (last, None) if plain else (np.longdouble(0), None)
    for t in range(steps)[::-1]:
        gamma, end, done = own["gamma"][t], own["ends"][t], max(own["ends"][t], own["cuts"][t])
        if plain:
            later = found[t] = own["rewards"][t] + gamma * (1 - done) * later
            continue
        value = own["values"][t]
        ahead = own["next_values"][t] if "next_values" in own else own["values"][t + 1] if t + 1 < steps else last
        ratio = np.exp(own["log_rhos"][t]) if name == "vtrace" else 1
        rho, c, pg_rho = (min(ratio, clip) for clip in clips) if name == "vtrace" else (1, 1, 1)
        error = rho * (own["rewards"][t] + gamma * (1 - end) * ahead - value)
        beyond = ahead if target is None else done * ahead + (1 - done) * target
        more[t] = pg_rho * (own["rewards"][t] + gamma * (1 - end) * beyond - value)
        later = error + gamma * own["lam"][t] * c * (1 - done) * later
        target = later + value
        found[t] = later if name == "gae" else target
    return found, more


# ---- A network ------------------------------------------------------------------------------------------------------


def qrnn_direction(x, weight, bias, state, window, keep, has_gate, reverse, begins=None):
    """Return the outputs and the last state of one sequence (T, I); ``keep`` is 1 minus the zoneout."""
    hidden, steps = weight.shape[0] // (2 + has_gate), len(x)
    begins = np.zeros(steps, bool) if begins is None else begins
    y, past = np.zeros((steps, hidden), np.longdouble), []
    for t in range(steps)[:: -1 if reverse else 1]:
        if begins[t] if not reverse else t + 1 < steps and begins[t + 1]:
            state, past = 0 * state, []
        past = [x[t], *past][:window]
        seen = np.concatenate([*past, *[0 * x[t]] * (window - len(past))])
        row = weight @ seen + (0 if bias is None else bias)
        z, f, o = np.tanh(row[:hidden]), 1 / (1 + np.exp(-row[hidden : 2 * hidden])), row[2 * hidden :]
        f = f * keep
        state = f * z + (1 - f) * state
        y[t] = state / (1 + np.exp(-o)) if has_gate else state
    if reverse and steps and begins[0]:
        state = 0 * state
    return y, state


def qrnn(sequences, weights, states, window=1, keep=1.0, has_gate=True, begins=None, is_reverse=False):
    """Return each sequence's outputs and the states, (layers*directions, sequences, H).

    ``weights`` has for each layer a list of pairs for each direction; ``begins`` the flags of each sequence.
    """
    lasts, outputs, n = [], list(sequences), 0
    for directions in weights:
        halves = []
        for k, (weight, bias) in enumerate(directions):
            found = [
                qrnn_direction(
                    x, weight, bias, states[n][i], window, keep, has_gate, is_reverse if k == 0 else True,
                    None if begins is None else begins[i],
                )
                for i, x in enumerate(outputs)
            ]  # fmt: skip
            halves.append([y for y, _ in found])
            lasts.append(np.array([last for _, last in found]))
            n += 1
        outputs = [np.concatenate(parts, -1) for parts in zip(*halves, strict=True)]
    return outputs, np.array(lasts)
