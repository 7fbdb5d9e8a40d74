"""What computes returns: the kernel for arrays in memory, formulas for all others."""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections import namedtuple
from typing import Any

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
ONE = 1, (0,) * 11  # a dimension of one
_OPTIONAL = "next_values", "bootstrap"
DEFAULTS = {"values": np.zeros(()), "mask": np.array(True), "lam": np.ones(()), "log_rhos": np.zeros(())}


# What each step has, None for what there is not; and what stands behind the last one, without the axis of time.
_Steps = namedtuple("_Steps", "rewards values successors mask gamma lam ends cuts log_rhos later value")
_Rule = namedtuple("_Rule", "kind axis dtype limits")  # what is computed


def estimate(kind: str, floats: Any, flags: Any, axis: Any, limits: Any = None) -> Any:
    """Check a call and choose who computes it."""
    rules = {name: (f"{name} >= 0", lambda limit: limit >= 0) for name in limits or ()}
    limits = {name: number(name, limit, rules) for name, limit in (limits or {}).items()}
    floats = {name: value for name, value in floats.items() if value is not None or name not in _OPTIONAL}
    data = Data(tuple(floats), tuple(floats.values()))
    found = dict(zip(floats, data.values, strict=True))
    shape = tuple(found["rewards"].shape)
    axis = axis_of(axis, shape, ("rewards",))
    lanes = shape[:axis] + shape[axis + 1 :]
    values, following, last = _split_values(found, shape, axis)
    for name, value in {**found, "values": values, "next_values": following}.items():
        message, wanted = (say.state_shape, lanes) if name == "bootstrap" else (say.same_shape, shape)
        if value is not None and not _problem.fits(tuple(value.shape), wanted):
            raise ValueError(message(name, tuple(value.shape), wanted))
    ends, cuts, mask = (None if value is None else _flags(data, name, value, shape) for name, value in flags.items())
    if ends is None:
        raise TypeError(say.not_an_array(next(iter(flags)), type(None)))
    steps = _Steps(
        found["rewards"], values, following, mask, found["gamma"], found.get("lam"), ends, cuts,
        found.get("log_rhos"), found.get("bootstrap"), last,
    )  # fmt: skip
    rule = _Rule(kind, axis, data.dtype(found["rewards"]), tuple(limits.values()))
    if data.is_lazy:
        return _lazy(steps, rule)
    if data.by_kernel:
        with data.threads():
            *results, _ = _run(steps, rule, None)
        return [data.give(result) for result in results]
    if data.at_hand:
        _check_flags(steps, data.xp)
    return [data.narrow(result, rule.dtype) for result in _formulas(data, steps, rule)]


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
    if data.by_kernel:
        return _arrays.numbers(name, flags)
    return data.beside(flags.copy() if isinstance(flags, np.ndarray) else flags)  # a backward pass reads them later


def _check_flags(steps: _Steps, xp: Any) -> None:
    """Raise unless all flags that are read are from 0 to 1."""
    for flags in (steps.ends, steps.cuts):
        if flags is not None and flags.dtype != xp.bool:
            bad = ~((flags >= 0) & (flags <= 1))
            if bool((bad if steps.mask is None else bad & steps.mask).any()):
                raise ValueError(say.flags_range())


def _run(steps: _Steps, rule: _Rule, carry: Any) -> Any:
    """Return results of NumPy's arrays, and ``carry``, what the steps before them go on from: the kernel's planes."""
    _check_flags(steps, np)
    rewards, shape, axis, is_off_policy = steps.rewards, steps.rewards.shape, rule.axis, rule.kind == "vtrace"
    if carry is None:
        planes = (steps.later, steps.value, 0, 0, *(rule.limits or (1, 1, 1)))
        carry = np.empty((len(planes), *shape[:axis], *shape[axis + 1 :]))
        for k, value in enumerate(planes):
            carry[k] = 0 if value is None else value
    order = _shapes.like(shape, rule.dtype, (shape, rewards.strides))
    results = _problem.empty((1 + is_off_policy, *shape), rule.dtype, (rewards.size * rule.dtype.itemsize, *order))
    if not rewards.size:
        return *results, carry
    s = steps._replace(**{name: value for name, value in DEFAULTS.items() if getattr(steps, name) is None})
    with np.errstate(all="ignore"):
        rhos = np.asarray(np.exp(s.log_rhos, dtype=np.float64))
    has_successors, has_cuts = s.successors is not None, s.cuts is not None
    arrays = [
        rewards, s.values, s.successors if has_successors else s.values, s.mask, s.gamma, s.lam, s.ends,
        s.cuts if has_cuts else s.ends, rhos, results[0], carry,
    ]  # fmt: skip
    forms, team = tuple([(array.dtype, array.shape, array.strides) for array in arrays]), _threads.team()
    traits = ["off_policy"] * is_off_policy + ["has_successors"] * has_successors + ["has_cuts"] * has_cuts
    adds_values, threads = rule.kind in ("targets", "vtrace"), team.size if rewards.size >= SERIAL_STEPS else 1
    call, tables, repeats = _plan(forms, results.strides[0], axis, adds_values, tuple(traits), threads)
    places = list(map(_arrays.address, arrays))
    runs = itertools.product(repeats, tables)
    team.run([(call, None, *map(operator.add, places, offsets), _arrays.address(table)) for offsets, table in runs])
    return *results, carry


@functools.lru_cache(1024)
def _plan(forms: Any, apart: int, axis: int, adds_values: bool, traits: Any, threads: int) -> Any:
    """Return the kernel, tables of its words for each thread, and the operands' offsets whenever all is repeated."""
    (_, shape, _), (_, _, (plane, *lanes)) = forms[-2:]
    strides = [_shapes.spread(own, steps, shape) for _, own, steps in forms[:-1]]
    strides.append((*lanes[:axis], 0, *lanes[axis:]))
    sizes = [dtype.itemsize for dtype, _, _ in forms]
    order = sorted((k for k in range(len(shape)) if k != axis), key=lambda k: (-abs(strides[-2][k]), k))
    *outer, (count, inner) = merge([(shape[k], tuple(s[k] for s in strides)) for k in order if shape[k] > 1]) or [ONE]
    are_neighbors = inner[-2] == sizes[-2] and all(a in (0, size) for a, size in zip(inner, sizes, strict=True))
    by_vectors, time = count >= WIDTH and are_neighbors, tuple(s[axis] for s in strides)
    chunk = ROW if by_vectors or 0 < abs(inner[-2]) < abs(time[-2]) else 1
    words = chunk, by_vectors, adds_values, plane, apart, *time, *inner
    tables = [np.array([shape[axis], *part, *words], np.int64) for part in _threads.ranges(count, threads)]
    *names, h, _ = _advantages.FIELDS
    ones = [name for name, stride in zip(names, inner, strict=False) if stride == 0] if by_vectors else []
    elements = {name: _arrays.element(form[0]) for name, form in zip((*names, h), forms, strict=False)}
    call = kernel(_advantages.walk, " ".join([*traits, *ones]), "f8", **elements)
    indices = itertools.product(*(range(size) for size, _ in outer))
    repeats = [[sum(i * d[1][k] for i, d in zip(index, outer, strict=True)) for k in range(11)] for index in indices]
    return call, tables, repeats


def _formulas(data: Data, s: _Steps, rule: _Rule) -> Any:
    """Return results in float64, by the functions of the data's library."""
    xp, axis, shape = data.xp, rule.axis, tuple(s.rewards.shape)
    rewards, values, successors, mask, gamma, lam, ends, cuts, log_rhos, later, value = (
        None if v is None else data.wide(v) for v in s
    )
    if 0 in shape:
        return [rewards] * (1 + (rule.kind == "vtrace"))
    lead, edge = (slice(None),) * axis, (*shape[:axis], 1, *shape[axis + 1 :])
    one, zero = xp.ones_like(rewards), xp.zeros_like(rewards)

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
    after = shifted(values if mask is None else scan(_are_finite(values), one - mask, values, value), value)
    successors = xp.where(ends == 1, zero, after if successors is None else read(successors))
    # What is not finite takes no part, in gradients neither: its step is marked, and the marks give NaN.
    numbers = rewards, values, successors, gamma, lam, read(zero if log_rhos is None else log_rhos)
    sound = _are_finite(*numbers[:5]) & (numbers[5] == numbers[5])
    rewards, values, successors, gamma, lam, log_rhos = (xp.where(sound, array, zero) for array in numbers)
    weight, decay = gamma * (one - ends), xp.where(done == 1, zero, gamma * lam * (one - done))
    error = rewards + weight * successors - values
    if rule.kind != "vtrace":
        sums = scan(sound, read(decay, one), error, later)
        return [read(sums + values if rule.kind == "targets" else sums)]
    rho, c, pg_rho = (_clipped(xp, log_rhos, limit) for limit in rule.limits)
    sums = scan(sound, read(decay * c, one), rho * error, later)
    beyond = shifted(sums, later)
    if s.successors is not None:
        seen = one if mask is None else scan(one == one, one - mask, one * mask, None)
        beyond = beyond + shifted(seen, None) * (after - successors)
    target = successors + xp.where(done == 1, zero, (one - done) * beyond)
    known = sound & _are_finite(target)
    advantages = pg_rho * (rewards + weight * xp.where(known, target, zero) - values)
    return read(sums + values), read(xp.where(known, advantages, xp.full_like(zero, math.nan)))


def _are_finite(*arrays: Any) -> Any:
    return functools.reduce(operator.and_, (array - array == 0 for array in arrays))


def _scan(xp: Any, sound: Any, decay: Any, added: Any, later: Any, axis: int) -> Any:
    """Return ``h[t] = decay[t]*h[t+1] + added[t]``, NaN at what is not sound and all that it is carried to."""
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
    zero = xp.zeros_like(logarithm)
    return xp.where(beyond, limit + zero, xp.exp(xp.where(beyond, zero, logarithm)))


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


def _chunk(carry: Any, place: Any, *blocks: Any, rule: _Rule) -> Any:
    with _threads.alone():
        return _run(_Steps(*blocks), rule, None if carry is None else carry.copy())
