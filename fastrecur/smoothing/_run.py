"""A statistic, from plain arguments to its result: at once, by groups or chunks; by a kernel, or by the formulas."""

import functools
import operator
import sys
from collections import namedtuple

import numpy as np

from .. import _dispatch
from .._arguments import arrays, messages as say, shapes
from .._arguments.arrays import at, quiet
from .._arguments.checks import flag, is_array
from .._arguments.shapes import axis_of
from .._cpu import weighted_run
from .._cpu.machine import threads
from .._plan.fields.weighted import AVERAGE_PLANES, PLANES
from . import _formulas
from ._arguments import ALPHA, Constant, least_count, remembered
from ._arrays import Data, check_constant
from ._formulas import NO_STATE, State
from ._frames import aligned, along, is_labelled, is_series, unwrap
from ._segments import NOWHERE, Borders, numbers, sorted_by_group
from ._times import edge, in_units, placed, steps, take_times

# What is asked of a statistic beside its data, and what the caller calls these.
Request = namedtuple(
    "Request", "constant times adjust ignore_na min_periods bias borders name", defaults=(False, NOWHERE, "x")
)


_FLOATS = np.dtype(np.float32), np.dtype(np.float64)
_OWN = np.ndarray, np.float64  # what the states of NumPy's data are


def kind_of(request):
    """Return how weights come about: see `_formulas`."""
    return "adjust" if request.adjust else "fixed" if request.times is None else "timed"


def is_plain(x, y, request):
    """Return whether a statistic is one of numbers of NumPy and of one constant, so that a kernel is all it takes."""
    return (
        type(x) is np.ndarray and x.dtype in _FLOATS and (y is None or y is x) and request.times is None
        and request.borders is NOWHERE and not request.constant.arrays
    )  # fmt: skip


def asked(statistic, x, borders, constants, times, adjust, ignore_na, min_periods, bias=False):
    """Return a request from its arguments as they were given."""
    flags = flag("adjust", adjust), flag("ignore_na", ignore_na)
    make = remembered if type(x) is np.ndarray or is_labelled(x) else Constant  # torch's compiler knows no memory
    constant, least, bias = make(times is not None, *constants), least_count(min_periods), flag("bias", bias)
    if statistic == "sum" and not flags[0]:
        raise NotImplementedError(say.sum_adjust())
    if borders[0] is None and borders[1] is None and borders[2] is None:
        borders = NOWHERE  # else as they were given, for now
    return Request(constant, times, *flags, least, bias, borders)


def compute(statistic, x, y, axis, *how):
    """Return a statistic of one or two series (of one with itself), in their library and with their labels."""
    request, wrap = asked(statistic, x, *how), None
    if x is None or (y is None and statistic in ("covary", "corr")):
        raise TypeError(say.not_an_array("x" if x is None else "y", type(None)))
    if not is_plain(x, y, request):
        request, x, y, axis, wrap = unlabelled(request, x, y, axis)
    result = run("covary" if statistic == "root" else statistic, request, x, y, axis)
    if statistic == "root":
        result = np.sqrt(result, out=result) if isinstance(result, np.ndarray) else _root(result)
    return wrap(result) if wrap else result


def _root(variance):
    """Return standard deviations; where one is 0 its derivative is 0, as that of `torch.std`, and not NaN."""
    is_recorded = arrays.any_tensor(variance) and (variance.requires_grad or not _dispatch.tensors().no_modes_active())
    if not is_recorded and not arrays.any_of_jax(variance):
        return variance**0.5
    xp, is_zero = sys.modules["torch" if is_recorded else "jax.numpy"], variance == 0
    return xp.where(is_zero, 0.0, xp.where(is_zero, 1.0, variance) ** 0.5)


def run(statistic, request, x, y, axis):
    """Return a statistic of what has no labels."""
    if statistic != "corr" and is_plain(x, y, request):
        return weighted_run.run_whole(statistic, x, y, *_plainly(request, x, axis))
    borders, constants = request.borders, request.constant.arrays.values()
    if arrays.any_lazy(x, y, *constants, request.times, borders.resets, borders.groups):
        return _by_chunk(statistic, request, x, y, axis)
    return at_once(statistic, request, x, y, axis)[0]


def unlabelled(request, x, y, axis):
    """Return a request, data and the axis of time without labels, and what puts these on a result."""
    constant, borders = request.constant, request.borders
    if (y is None or y is x) and request.times is None and borders is NOWHERE and not constant.arrays:
        numbers, axis, wrap = unwrap(x, axis)
        return request, numbers, None if y is None else numbers, axis, wrap
    if is_series(x) and is_labelled(y) and not is_series(y):  # the frame first: what is asked of pairs is symmetric
        x, y = y, x
    if any(map(is_labelled, constant.arrays.values())):  # what belongs to a series stands where that does
        found = {name: aligned(x, value, name, axis) for name, value in constant.arrays.items()}
        constant = constant.replaced(**found)
    numbers, plain_axis, wrap = unwrap(x, axis)
    times = along(x, request.times, "times", plain_axis)
    if borders is not NOWHERE:
        offsets, resets, groups = borders
        borders = Borders(offsets, along(x, resets, "resets", plain_axis), along(x, groups, "groups", plain_axis))
    request = request._replace(constant=constant, times=times, borders=borders)
    other = None if y is None else numbers if y is x else aligned(x, y, "y", axis)
    return request, numbers, other, plain_axis, wrap


def _by_sorting(statistic, request, x, y, shape, axis, groups):
    """Return a statistic of each group by itself, in the order of the data: groups are brought together."""
    given = {"x": x} | ({} if y is None or y is x else {"y": y}) | request.constant.arrays
    values = {name: v if hasattr(v, "shape") else np.asarray(v) for name, v in given.items()}
    order, offsets = sorted_by_group(groups)

    def sort(v):
        own = axis - len(shape) + len(v.shape)
        return v if own < 0 or v.shape[own] == 1 else at(v, own, order)

    found = {name: sort(value) for name, value in values.items()}
    times, x_sorted = request.times, found.pop("x")
    y_sorted = x_sorted if y is x else found.pop("y", None)
    if times is not None:
        times = take_times(times, as_tensor=hasattr(times, "detach"))
        times = times[order] if times.ndim == 1 else sort(times)
    request = request._replace(constant=request.constant.replaced(**found), times=times, borders=Borders(offsets))
    result, _ = at_once(statistic, request, x_sorted, y_sorted, axis)
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    result = at(result, axis, back)
    if offsets[1]:
        result[(slice(None),) * axis + (order[: offsets[1]],)] = float("nan")
    return result


def _by_chunk(statistic, request, x, y, axis):
    """Return a statistic of Dask arrays: a chunk after the other, which hand the state on along time."""
    from .. import _dask

    is_variance, constants = y is x, request.constant.arrays
    given = {"x": x} | ({} if y is None or is_variance else {"y": y}) | constants
    values = {name: _dask.take(name, value) for name, value in given.items()}
    shape = shapes.broadcast_shape(tuple(values), [np.shape(value) for value in values.values()])
    axis = axis_of(axis, shape, ("x",))
    operands = {name: _dask.Operand(value, _dask.last_axes(value, range(len(shape)))) for name, value in values.items()}
    for name in constants:
        if isinstance(values[name], np.ndarray) and values[name].dtype.kind != "m":
            data = Data((name,), (values[name],))
            check_constant(data, name, data.values[0])
    flags, has_groups = request.borders.flags(shape, axis), request.borders.groups is not None
    if has_groups:
        operands["resets"], flags = _dask.Operand(request.borders.keys(shape[axis]), (axis,)), np.True_  # at any step
    elif flags is not None:
        operands["resets"] = _dask.Operand(flags, _dask.last_axes(flags, range(len(shape))))
    times = request.times
    if times is not None:
        if not arrays.any_lazy(times):
            times = take_times(times)
            in_units(times, request.constant.halflife, request.constant.dates)
            if not arrays.any_lazy(flags):
                steps(times, shape, axis, begins=flags)  # in memory, they are checked now
        times = _dask.take("times", times)
        if times.shape not in ((shape[axis],), shape):
            raise ValueError(say.times_shape(times.shape, shape[axis]))
        operands["times"] = _dask.Operand(times, (axis,) if times.ndim == 1 else tuple(range(len(shape))))
    constant = request.constant.replaced(**dict.fromkeys(constants))
    bare = request._replace(constant=constant, times=None, borders=Borders())
    step = functools.partial(
        _advance, statistic=statistic, request=bare, axis=axis, is_variance=is_variance, names=tuple(constants)
    )
    names = ("x", "y", "times", "resets", *constants)
    metas = {name: _dask.empty_like(operand.value) for name, operand in operands.items() if name != "resets"}
    meta, (after, _) = step(None, None, *map(metas.get, names))
    if has_groups:
        step = functools.partial(_advance_groups, step, meta, _planes(after), axis)
    operands = {name: operands.get(name, _dask.Operand(None)) for name in names}
    return _dask.along_time(f"ewm_{statistic}", step, shape, axis, operands).result("h", 0, meta)


def _advance(before, place, x, y, times, resets, *constants, statistic, request, axis, is_variance, names):
    state, last_time = (None, None) if before is None else before
    constant = request.constant.replaced(**dict(zip(names, constants, strict=True)))
    times = None if times is None else take_times(times)
    request = request._replace(constant=constant, times=times, borders=Borders(resets=resets))
    with threads.alone():
        result, after = at_once(statistic, request, x, x if is_variance else y, axis, state, last_time)
    if times is not None and times.size:
        last_time = edge(times, axis)
    return result, (after, last_time)


def _advance_groups(advance, meta, planes, axis, before, place, x, y, times, keys, *constants):
    """Do the same for groups: those of as many steps are series side by side. States have groups in place of time."""
    shape, lead, known = place[1], (slice(None),) * axis, {} if before is None else dict(before[0])
    count, codes = len(known), numbers(keys, known)
    order, offsets = sorted_by_group(codes, len(known))
    starts, sizes = offsets[1:], np.diff(offsets[1:])  # without the steps that have no group
    times = None if times is None else np.broadcast_to(placed(take_times(times), shape, axis), shape)
    clock = np.broadcast_to(0, shape) if times is None else times
    new = np.zeros_like(planes, shape=(*shape[:axis], len(known) - count, *shape[axis + 1 :], planes.shape[-1]))
    after = [new, at(clock, axis, order[starts[count:-1]])]
    if before is not None:
        after = [np.concatenate(pair, axis) for pair in zip(before[1:], after, strict=True)]
    (states, lasts), result = after, np.full_like(meta, np.nan, shape=shape)

    def taken(operand, steps):
        own = np.ndim(operand) + axis - len(shape)
        return operand if own < 0 else at(operand, own, np.minimum(steps, operand.shape[own] - 1))

    for size in {*sizes.tolist()} - {0}:
        own = np.flatnonzero(sizes == size)
        steps = order[starts[own] + np.arange(size)[:, np.newaxis]]
        state = _states(at(states, axis, own)), None if times is None else np.expand_dims(at(lasts, axis, own), axis)
        found = advance(state, None, *(taken(v, steps) for v in (x, y, times, None, *constants)))
        result[(*lead, steps)], states[(*lead, own)] = found[0], _planes(found[1][0])
        lasts[(*lead, own)] = at(clock, axis, steps[-1])
    return result, (known, states, lasts)


def _planes(after):
    """Return a statistic's states as one array: what they are made of stands along the last axis."""
    return np.stack([v for state in after for v in state if v is not None], -1)


def _states(planes):
    values, most = np.moveaxis(planes, -1, 0), len(State._fields)
    return tuple(State(*values[k : k + most]) for k in range(0, len(values), most))


def _plainly(request, x, axis):
    """Return the gate, the axis and options of a statistic that `is_plain`."""
    constant, _, adjust, ignore_na, least, bias, _, name = request
    kind = ("adjust" if adjust else "fixed") + " ignore_na" * ignore_na
    return 1.0 - constant.value if adjust else constant.value, axis_of(axis, x.shape, (name,)), kind, least, bias


def at_once(statistic, request, x, y, axis, before=None, last_time=None):
    """Return a statistic, in its data's library, and its state, of a correlation three; ``before`` are those before."""
    constant, least = request.constant, request.min_periods
    if statistic != "corr" and is_plain(x, y, request) and (before is None or type(before[0].mean) in _OWN):
        gate, *how = _plainly(request, x, axis)
        before = before[0] if before else NO_STATE
        result, planes = weighted_run.run(statistic, x, y, gate, None, x.shape, x.dtype, *how, before)
        return result, (_state(planes, y),)
    kind = kind_of(request) + " ignore_na" * request.ignore_na
    named = {request.name: x, **({} if y is None or y is x else {"y": y})}
    series = tuple(named)
    named |= {constant.name: constant.value, **constant.arrays}
    spans = named.pop("halflife", None) if constant.dates else None  # an array of timedeltas
    states = before or (NO_STATE,) * (3 if statistic == "corr" else 1)
    data = Data(tuple(named), tuple(named.values()), [v for state in states for v in state])
    xp, borders = data.xp, request.borders
    if before and before[0].origin is None:  # a stream's, which may have moved from another library
        states = (State(*map(data.beside, before[0][:3])),)
    values = dict(zip(named, data.values, strict=True))
    for name in constant.arrays.keys() & values.keys():
        check_constant(data, name, values[name])
    # A number has no part in the result's dtype.
    dtype = data.dtype(*(v for name, v in values.items() if name != constant.name or name in constant.arrays))
    shape = data.broadcast(*([] if spans is None else [spans]))
    axis = axis_of(axis, shape, series[:1])
    both, seen = [values[name] for name in series], None
    flags = borders.flags(shape, axis) if borders.groups is None else borders.numbers(shape[axis])
    if borders.groups is not None:  # they have states, which are to be no more than the data
        if request.times is not None or not data.by_kernel or flags.max(initial=0) * PLANES > len(flags):
            return _by_sorting(statistic, request, x, y, shape, axis, flags), None
        flags = placed(flags, shape, axis)
    with data.threads():
        gate = gate_of(data, request, values, shape, axis, last_time, flags)
        if not data.by_kernel:
            both = [xp.broadcast_to(data.wide(v), shape) for v in both]
        if not data.by_kernel or statistic == "corr":
            seen = functools.reduce(operator.and_, [xp.isfinite(xp.broadcast_to(v, shape)) for v in both])
        x, y = both[0], None if y is None else both[-1]
        if data.by_kernel:
            how = gate, flags, shape, dtype, axis, kind, least, request.bias
            result, after = _by_kernel(statistic, x, y, seen, how, states)
        else:
            gates, flags = shape, None if flags is None else data.beside(flags, "resets")
            if data.at_hand and flags is None and bool(seen.all()):  # no mask, and without a state gates as given
                own = (n if k == axis else 1 for k, n in enumerate(shape))
                seen, gates = None, np.broadcast_shapes(tuple(gate.shape), tuple(own)) if before is None else shape
            gate = xp.broadcast_to(gate, gates)
            w = _formulas.shares(xp, seen, gate, kind_of(request), request.ignore_na, least, axis, states[0], flags)
            result, after = _formulas.compute(statistic, xp, x, y, w, axis, request.bias, states)
    return data.give(data.narrow(result, dtype)), after


def gate_of(data, request, values, shape, axis, last_time, begins=None):
    """Return each step's decay, or alpha itself where a sample weighs that much."""
    constant, times = request.constant, request.times
    value, weighs = values[constant.name], constant.name == "alpha" and not request.adjust and times is None
    # Where it is the gate itself, a kernel reads it as it is.
    alpha = ALPHA[constant.name](data.xp, value if data.by_kernel and weighs else data.wide(value))
    if times is None:
        return 1.0 - alpha if request.adjust else alpha
    halflife = constant.halflife if constant.dates else values.get("halflife", constant.halflife)
    is_tensor = data.xp.__name__ == "torch" and isinstance(times, data.xp.Tensor)
    times, xp, readable = take_times(times, is_tensor), np, True
    if is_tensor:
        times, xp, readable = data.beside(times, "times"), data.xp, data.at_hand
    times, halflife, last_time = in_units(times, halflife, constant.dates, last_time)
    if data.by_kernel and begins is None and times.shape == (shape[axis],) and len(times) >= weighted_run.LONG_TIMES:
        found = weighted_run.decays(times, steps(times[:1], (1,), 0, last_time)[0], halflife, alpha)
        if found is not None:
            return placed(found, shape, axis)
    gaps = steps(times, shape, axis, last_time, begins, xp, readable)
    if constant.dates:
        gaps, halflife = gaps / halflife, 1.0
    gaps = data.wide(gaps) if is_tensor else data.beside(np.asarray(gaps, np.float64))
    gaps = gaps / (data.wide(halflife) if is_array(halflife) else halflife)
    return np.exp2(-gaps) if data.by_kernel and np.ndim(alpha) == 0 and alpha == 0.5 else (1.0 - alpha) ** gaps


def _by_kernel(statistic, x, y, seen, how, states):
    """Return a statistic, and for each state that it goes on from that after it."""
    pairs = [(x, y)]
    if statistic == "corr":  # from a covariance and two variances, with the same samples missing in both series
        one = _formulas.masked(np, seen, x)
        other = one if y is x else _formulas.masked(np, seen, y)
        pairs = (one, other), (one, one), (other, other)
        how = *how[:3], np.dtype(np.float64), *how[4:]  # what is divided may be small beyond float32 after a gap
    found = [weighted_run.run(statistic, *pair, *how, had) for pair, had in zip(pairs, states, strict=True)]
    (result, *variances), after = zip(*found, strict=True)
    if variances:
        with quiet(np):
            result /= np.sqrt(variances[0]) * np.sqrt(variances[1])
    return result, tuple(_state(planes, y) for planes in after)


def _state(planes, y):
    return State(*(planes[:AVERAGE_PLANES] if y is None else planes))
