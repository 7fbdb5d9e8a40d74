"""What computes returns: the kernel for arrays in memory, formulas for all others, and for V-trace."""

from __future__ import annotations

import functools
import itertools
import math
import operator
from typing import Any, NamedTuple

import numpy as np

from . import _arrays, _problem, _shapes, _threads
from . import _messages as say
from ._cpu import _advantages
from ._cpu._compile import kernel
from ._cpu._types import WIDTH
from ._loops import merge
from .recurrence import linear_recurrence
from .smoothing._arguments import number
from .smoothing._arrays import Data, axis_of

SERIAL_STEPS = 1 << 18  # steps of all series together from which a second thread pays
ROW = 2048  # series that are walked side by side: more rows at once are fewer pages to look up
BLOCK = 1 << 15  # steps of all series together that formulas take at once
ONCE = 1, (0,) * 10  # a dimension of one
_OPTIONAL = "next_values", "bootstrap"
NONE, ONE, ALL = np.zeros(()), np.ones(()), np.array(True)


class _Steps(NamedTuple):
    """What each step has, None for what there is not; and what stands behind the last one, without the axis of time."""

    rewards: Any
    values: Any
    successors: Any
    mask: Any
    gamma: Any
    lam: Any
    ends: Any
    cuts: Any
    log_rhos: Any
    later: Any
    value: Any


class _Rule(NamedTuple):
    """What is computed."""

    kind: str
    axis: int
    dtype: Any
    limits: tuple[float, ...]


def estimate(kind: str, floats: Any, flags: Any, axis: Any, limits: Any = None) -> Any:
    """Check a call and choose who computes it."""
    limits = {name: number(name, limit) for name, limit in (limits or {}).items()}
    for name, limit in limits.items():
        if not limit >= 0:
            raise ValueError(say.constant_domain(name, f"{name} >= 0", limit))
    floats = {name: value for name, value in floats.items() if value is not None or name not in _OPTIONAL}
    data = Data(tuple(floats), tuple(floats.values()))
    found = dict(zip(floats, data.values, strict=True))
    shape = tuple(found["rewards"].shape)
    axis = axis_of(axis, shape, ("rewards",))
    lanes = shape[:axis] + shape[axis + 1 :]
    values, following, last = _split_values(found, shape, axis)
    for name, value in {**found, "values": values, "next_values": following}.items():
        fits, wanted = (_problem.fits, lanes if name == "bootstrap" else shape)
        if value is not None and not fits(tuple(value.shape), wanted):
            raise ValueError(
                (say.state_shape if name == "bootstrap" else say.same_shape)(name, tuple(value.shape), wanted)
            )
    ends, *cuts, mask = (
        None if value is None else _flags(data, name, value, shape) for name, value in flags.items()
    )  # fmt: skip
    if ends is None:
        raise TypeError(say.not_an_array(next(iter(flags)), type(None)))
    steps = _Steps(
        found["rewards"], values, following, mask, found["gamma"], found.get("lam"), ends, (cuts or [None])[0],
        found.get("log_rhos"), found.get("bootstrap"), last,
    )  # fmt: skip
    rule = _Rule(kind, axis, data.dtype(found["rewards"]), tuple(limits.values()))
    if data.is_lazy:
        return _lazy(steps, rule)
    if data.give is not None:
        with data.threads():
            *results, _ = _run(steps, rule, None)
        return [data.give(result) for result in results]
    if data.at_hand:
        _check_flags(steps, data.xp)
    *results, _ = _formulas(data, steps, rule, None)
    return [data.narrow(result, rule.dtype) for result in results]


def _split_values(found: Any, shape: tuple[int, ...], axis: int) -> tuple[Any, Any, Any]:
    """Return the values of the states before steps and after them (None: of the next step), and after the last step."""
    values, following = found.get("values"), found.get("next_values")
    if values is None:
        return None, None, None
    steps, lead = shape[axis], (slice(None),) * axis
    wanted = steps + (following is None)
    if len(values.shape) != len(shape) or values.shape[axis] != wanted:
        came = values.shape[axis] if len(values.shape) == len(shape) else f"shape {tuple(values.shape)}"
        raise ValueError(say.values_steps(came, steps, following is not None))
    if following is not None:
        return values, following, None
    return values[(*lead, slice(0, steps), ...)], None, values[(*lead, steps, ...)]


def _flags(data: Data, name: str, flags: Any, shape: tuple[int, ...]) -> Any:
    """Return flags of the data's library, where the data are."""
    if getattr(flags, "requires_grad", False):
        raise TypeError(say.flags_gradient(name))
    if data.by_kernel or not hasattr(flags, "shape"):
        flags = np.asarray(flags.detach().cpu() if hasattr(flags, "detach") else flags)
    is_bool = str(flags.dtype).rpartition(".")[2] == "bool"
    if (name == "mask" and not is_bool) or (isinstance(flags, np.ndarray) and flags.dtype.kind not in "biuf"):
        raise TypeError((say.mask_dtype if name == "mask" else say.flags_dtype)(name, flags.dtype))
    if not _problem.fits(tuple(flags.shape), shape):
        raise ValueError(say.same_shape(name, tuple(flags.shape), shape))
    return _arrays.numbers(name, flags) if data.by_kernel else data.beside(flags)


def _check_flags(steps: _Steps, xp: Any) -> None:
    """Raise unless all flags that are read are from 0 to 1."""
    for flags in (steps.ends, steps.cuts):
        if flags is not None and flags.dtype != xp.bool:
            bad = (flags < 0) | (flags > 1)
            if bool((bad if steps.mask is None else bad & steps.mask).any()):
                raise ValueError(say.flags_range())


# ---- Arrays in memory -----------------------------------------------------------------------------------------------


def _run(steps: _Steps, rule: _Rule, state: Any) -> Any:
    """Return results of NumPy's arrays, and what the steps before them go on from, as ``state``, three planes."""
    _check_flags(steps, np)
    shape, axis = steps.rewards.shape, rule.axis
    if state is None:
        state = np.zeros((3, *shape[:axis], *shape[axis + 1 :]))
        state[0], state[1] = (0 if value is None else value for value in (steps.later, steps.value))
    if rule.kind != "vtrace":
        return _walk(steps, rule, state), state
    results = [np.empty(shape, rule.dtype) for _ in range(2)]
    data, size = Data(("state",), (state,)), max(1, BLOCK // max(1, state[0].size))
    for stop in range(shape[axis], 0, -size):
        at = (slice(None),) * axis + (slice(max(0, stop - size), stop),)
        cut = [v if v is None else _cut(v, at, len(shape)) for v in steps[:9]]
        with np.errstate(all="ignore"):
            *parts, state = _formulas(data, _Steps._make([*cut, None, None]), rule, state)
        for result, part in zip(results, parts, strict=True):
            result[at] = part
    return *results, state


def _cut(array: Any, at: tuple[slice, ...], ndim: int) -> Any:
    """Return some steps of what broadcasts to a number of dimensions; ``at`` ends with the axis of time."""
    behind = ndim - len(at)
    if array.ndim <= behind or array.shape[-1 - behind] == 1:
        return array
    index: Any = (..., at[-1], *(slice(None),) * behind)
    return array[index]


def _walk(steps: _Steps, rule: _Rule, state: np.ndarray) -> np.ndarray:
    """Run the kernel, which changes the state."""
    rewards, shape = steps.rewards, steps.rewards.shape
    h: np.ndarray = _problem.empty(shape, rule.dtype, _shapes.like(shape, rule.dtype, (shape, rewards.strides)))
    if h.size == 0:
        return h
    values = NONE if steps.values is None else steps.values
    arrays = [
        rewards, values, values if steps.successors is None else steps.successors,
        ALL if steps.mask is None else steps.mask, steps.gamma, ONE if steps.lam is None else steps.lam,
        steps.ends, steps.ends if steps.cuts is None else steps.cuts, h, state,
    ]  # fmt: skip
    forms = tuple([(array.dtype, array.shape, array.strides) for array in arrays])
    team = _threads.team()
    threads = team.size if h.size >= SERIAL_STEPS else 1
    options = steps.successors is not None, rule.kind == "targets"
    call, tables, repeats = _plan(forms, rule.axis, options, threads)
    places = list(map(_arrays.address, arrays))
    team.run(
        [
            (call, None, *map(operator.add, places, offsets), _arrays.address(table))
            for offsets in repeats
            for table in tables
        ]
    )
    return h


@functools.lru_cache(1024)
def _plan(forms: Any, axis: int, options: tuple[bool, ...], threads: int) -> Any:
    """Return the kernel, tables of its words for each thread, and the operands' offsets whenever all is repeated."""
    _, shape, _ = forms[8]
    strides = [_shapes.spread(own, apart, shape) for _, own, apart in forms[:9]]
    plane, *lanes = forms[9][2]
    strides.append((*lanes[:axis], 0, *lanes[axis:]))
    sizes = [dtype.itemsize for dtype, _, _ in forms]
    order = sorted((k for k in range(len(shape)) if k != axis), key=lambda k: (-abs(strides[8][k]), k))
    dims = merge([(shape[k], tuple(s[k] for s in strides)) for k in order if shape[k] > 1])
    *beyond, outer, inner = [ONCE] * (2 - len(dims)) + dims
    time = tuple(s[axis] for s in strides)

    def are_neighbors(apart: Any) -> bool:
        return apart[8] == sizes[8] and all(a in (0, size) for a, size in zip(apart, sizes, strict=True))

    by_series = inner[0] >= WIDTH and are_neighbors(inner[1])
    by_steps = not by_series and shape[axis] >= WIDTH and are_neighbors((*time[:9], 0))
    chunk = ROW if by_series or 0 < abs(inner[1][8]) < abs(time[8]) else 1
    apart = outer[1] + time + inner[1]
    by_outer = outer[0] >= threads
    parts = _threads.ranges(outer[0] if by_outer else inner[0], threads)
    ranges = [(*part, 0, inner[0]) if by_outer else (0, outer[0], *part) for part in parts]
    tables = [np.array([shape[axis], *part, chunk, by_series, *options, plane, *apart], np.int64) for part in ranges]
    names: Any = _advantages.Operands._fields[:9]
    ones = [name for name, stride in zip(names[:8], time if by_steps else inner[1], strict=False) if stride == 0]
    rule = " ".join(["by_steps"] * by_steps + ones * (by_steps or by_series))
    elements = {name: _arrays.element(form[0]) for name, form in zip(names, forms, strict=False)}
    call = kernel(_advantages.walk, rule, "f8", **elements)
    indices = itertools.product(*(range(size) for size, _ in beyond))
    repeats = [[sum(i * d[1][k] for i, d in zip(index, beyond, strict=True)) for k in range(10)] for index in indices]
    return call, tables, repeats


# ---- Formulas -------------------------------------------------------------------------------------------------------


def _formulas(data: Data, s: _Steps, rule: _Rule, state: Any) -> Any:
    """Return results in float64, by the functions of the data's library; and the state, if one is given, as `_run`."""
    xp, axis, shape = data.xp, rule.axis, tuple(s.rewards.shape)
    wide = [None if v is None else data.wide(v) for v in s]
    rewards, values, successors, mask, gamma, lam, ends, cuts, log_rhos, later, value = wide
    if 0 in shape:
        return rewards, rewards, state
    lead, edge, follows = (slice(None),) * axis, (*shape[:axis], 1, *shape[axis + 1 :]), None
    one, zero = xp.ones_like(rewards), xp.zeros_like(rewards)
    if state is not None:
        later, value, follows = state

    def read(array: Any, default: Any = zero) -> Any:
        return array if mask is None else xp.where(s.mask, array, default)

    def shifted(array: Any, last: Any) -> Any:
        end = zero[(*lead, slice(0, 1), ...)]
        if last is not None:
            end = xp.reshape(xp.broadcast_to(last, edge[:axis] + edge[axis + 1 :]), edge)
        return xp.concat([array[(*lead, slice(1, None), ...)], end], axis=axis)

    scan = functools.partial(_scan, xp, axis=axis)
    rewards, values = read(rewards), read(zero if values is None else values)
    gamma, lam, ends = read(gamma), read(one if lam is None else lam), read(ends)
    done = ends if cuts is None else xp.maximum(ends, read(cuts))
    carried = values if mask is None else scan(_are_finite(values), one - mask, values, value)
    after = shifted(carried, value)
    successors = xp.where(ends == 1, zero, after if successors is None else read(successors))
    # What is not finite takes no part, in gradients neither: its step is marked, and the marks give NaN.
    numbers = rewards, values, successors, gamma, lam, read(zero if log_rhos is None else log_rhos)
    sound = _are_finite(*numbers[:5]) & (numbers[5] == numbers[5])
    rewards, values, successors, gamma, lam, log_rhos = (
        numbers if xp is np and sound.all() else (xp.where(sound, array, zero) for array in numbers)
    )
    weight, decay = gamma * (one - ends), xp.where(done == 1, zero, gamma * lam * (one - done))
    error = rewards + weight * successors - values
    if rule.kind != "vtrace":
        sums = scan(sound, read(decay, one), error, later)
        return read(sums + values if rule.kind == "targets" else sums), state
    clipped = {limit: _clipped(xp, log_rhos, limit) for limit in set(rule.limits)}
    rho, c, pg_rho = (clipped[limit] for limit in rule.limits)
    sums, seen = scan(sound, read(decay * c, one), rho * error, later), one
    beyond = shifted(sums, later)
    if s.successors is not None:
        seen = one if mask is None else scan(one == one, one - mask, one * mask, follows)
        beyond = beyond + shifted(seen, follows) * (after - successors)
    target = successors + xp.where(done == 1, zero, (one - done) * beyond)
    known = sound & _are_finite(target)
    advantages = pg_rho * (rewards + weight * xp.where(known, target, zero) - values)
    if state is not None:
        state = np.stack([array[(*lead, 0)] for array in (sums, carried, seen)])
    return read(sums + values), read(xp.where(known, advantages, xp.full_like(zero, math.nan))), state


def _are_finite(*arrays: Any) -> Any:
    return functools.reduce(operator.and_, (array - array == 0 for array in arrays))


def _scan(xp: Any, sound: Any, decay: Any, added: Any, later: Any, axis: int) -> Any:
    """Return ``h[t] = decay[t]*h[t+1] + added[t]``, NaN at what is not sound and all that it is carried to."""
    if xp is np and sound.all() and (later is None or np.isfinite(later).all()):  # there is nothing to be marked
        return linear_recurrence(decay, added, later, axis=axis, reverse=True)
    zero, one = xp.zeros_like(decay), xp.ones_like(decay)
    marks = None
    if later is not None:
        marks = xp.where(_are_finite(later), xp.zeros_like(later), xp.ones_like(later))
        later = xp.where(marks == 0, later, xp.zeros_like(later))
    h = linear_recurrence(decay, xp.where(sound, added, zero), later, axis=axis, reverse=True)
    passes, lost = xp.where(decay == 0, zero, one), xp.where(sound, zero, one)
    marks = linear_recurrence(passes, lost, marks, axis=axis, reverse=True)
    return xp.where(marks == 0, h, xp.full_like(h, math.nan))


def _clipped(xp: Any, logarithm: Any, limit: float) -> Any:
    """Return exponentials that are at most a limit; no gradient is lost to infinities beyond it."""
    beyond = logarithm > (math.log(limit) if limit else -math.inf)
    return xp.where(
        beyond, limit + 0 * xp.ones_like(logarithm), xp.exp(xp.where(beyond, xp.zeros_like(logarithm), logarithm))
    )


# ---- Dask arrays ----------------------------------------------------------------------------------------------------


def _lazy(steps: _Steps, rule: _Rule) -> Any:
    """Return results of Dask arrays: a chunk after the other, against time."""
    from ._dask import Operand, Walk, align, last_axes

    shape = steps.rewards.shape
    every = range(len(shape))
    lanes = [k for k in every if k != rule.axis]
    given = {
        name: Operand(value, last_axes(value, lanes if name in ("later", "value") else every))
        for name, value in zip(_Steps._fields, steps, strict=True)
        if value is not None
    }
    chunks, given = align(given, shape)
    blocks = [given.get(name, Operand(None)) for name in _Steps._fields]
    walk = Walk("returns", functools.partial(_chunk, rule=rule), chunks, blocks, rule.axis, True, Operand(None))
    meta = np.empty((0,) * len(shape), rule.dtype)
    return [walk.result(f"h{k}", k, meta) for k in range(1 + (rule.kind == "vtrace"))]


def _chunk(state: Any, place: Any, *blocks: Any, rule: _Rule) -> Any:
    with _threads.alone():
        return _run(_Steps(*blocks), rule, None if state is None else state.copy())
