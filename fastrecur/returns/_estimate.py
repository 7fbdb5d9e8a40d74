"""What computes returns: the kernel for arrays in memory, formulas for all others."""

import functools
import itertools
import math
import operator
from collections import namedtuple

import numpy as np

from .._arguments import arrays as _arrays, checks, messages as say, shapes as _shapes
from .._arguments.arrays import at, join
from .._arguments.checks import number
from .._arguments.shapes import axis_of
from .._cpu import cost
from .._cpu.compiler.compile import kernel
from .._cpu.machine import allocate, threads as _threads
from .._cpu.prepared import keep, prepared
from .._plan import problem
from .._plan.fields import advantages as _advantages
from .._plan.fields.advantages import FIELDS, PLANES, H
from .._plan.layout import HEAD
from .._plan.loops import ONCE, Series, merge, repetitions
from .._plan.widths import WIDTH
from ..recurrence import linear_recurrence
from ..smoothing._arrays import Data

ROW = 2048  # series that are walked side by side: more rows at once are fewer pages to look up
_CARRY = np.dtype(np.float64)
_CLIPS = {name: (f"{name} >= 0", lambda limit: limit >= 0) for name in ("rho_clip", "c_clip", "pg_rho_clip")}

# What each step has, None for what there is not; and what stands behind the last one, without the axis of time.
_Steps = namedtuple("_Steps", "rewards values next_values mask gamma lam ends cuts log_rhos bootstrap last")
_NAMES = _Steps._fields
_DEFAULTS = [np.array(value) for value in (0.0, 0.0, 0.0, True, 0.0, 0.0, False, False, 0.0)]  # what kernels read then
_prepared: dict = {}  # calls of kinds seen before: their plan, and where the last value stands
_Rule = namedtuple("_Rule", "kind axis dtype limits")  # what is computed


def estimate(kind, axis, flags, rewards, gamma, values=None, next_values=None, lam=1.0, policy=None, bootstrap=None):
    """Check a call and choose who computes it; ``flags`` say which steps end an episode, cut it off and are read.

    ``policy`` are `log_rhos` and the greatest weights; None where the policy that took the steps is the learner's.
    """
    log_rhos, *limits = policy or (None,)
    own_flags, (ends, cuts, mask) = "done" if kind == "returns" else "terminated", flags
    key = _key(kind, axis, limits, (rewards, gamma, values, next_values, lam, log_rhos, bootstrap, *flags))
    if key and key in _prepared:
        plan, end = _prepared[key]
        last = None if end is None else values[end]
        steps = rewards, values, next_values, mask, gamma, lam, ends, cuts, _weights(log_rhos), bootstrap, last
        return _run(_Steps(*steps), plan)[:-1]
    floats = {"rewards": rewards, "gamma": gamma, "lam": lam}
    if kind != "returns":
        floats["values"] = values
    limits = tuple([number(name, limit, _CLIPS) for name, limit in zip(_CLIPS, limits, strict=False)])
    if policy is not None:
        floats["log_rhos"] = log_rhos
    if next_values is not None:
        floats["next_values"] = next_values
    if bootstrap is not None:
        floats["bootstrap"] = bootstrap
    names = tuple(floats)
    data = Data(names, tuple(floats.values()))
    found, shapes = dict(zip(names, data.values, strict=True)), tuple([tuple(value.shape) for value in data.values])
    for name, value in (("gamma", gamma), ("lam", lam)):
        # Functions of other libraries take flags before the discount, which would be taken for discounts of 0 and 1.
        if type(value) not in (int, float) and _is_bool(value if hasattr(value, "dtype") else np.asarray(value)):
            raise TypeError(say.discount_dtype(name, own_flags))
    check = _checked if data.by_kernel else _checked.__wrapped__  # torch's compiler knows no caches
    axis = check(kind, checks.axis(axis), names, shapes)
    shape, end = shapes[0], None
    if kind != "returns" and next_values is None:
        values, end = found["values"], (*(slice(None),) * axis, shape[axis], ...)
        found["values"], found["last"] = at(values, axis, slice(shape[axis])), values[end]
    if flags[0] is None and kind != "returns":
        raise TypeError(say.not_an_array("terminated", type(None)))
    named = zip((own_flags, "truncated", "mask"), flags, strict=True)
    found["ends"], found["cuts"], found["mask"] = [
        None if flag is None else _flags(data, name, flag, shape) for name, flag in named
    ]
    steps = _Steps(*map(found.get, _NAMES))
    rule = _Rule(kind, axis, data.dtype(found["rewards"]), limits)
    if data.is_lazy:
        return _lazy(steps, rule)
    if data.by_kernel:
        with data.threads():
            steps, plan = _planned(steps, rule)
            *results, _ = _run(steps, plan)
        pairs = zip(data.values, floats.values(), strict=True)
        are_read = all(own is value or type(value) is float for own, value in pairs)  # in place
        if key and are_read and all(v is None or v.dtype == np.bool_ for v in (steps.ends, steps.cuts)):
            keep(_prepared, key, (plan, end))
        return [data.give(result) for result in results]
    if data.at_hand:
        _check_flags(steps, rule, data.xp)
    return [data.narrow(result, rule.dtype) for result in _formulas(data, steps, rule)]


@functools.lru_cache(1024)
def _checked(kind, axis, names, shapes):
    """Return the axis of time, counted from the first; raise unless arrays of these shapes are what a call takes."""
    shape, has_next = shapes[0], "next_values" in names
    axis = axis_of(axis, shape, ("rewards",))
    shapes = dict(zip(names, shapes, strict=True))
    if kind != "returns":
        own, steps = shapes["values"], shape[axis]
        came = own[axis] if len(own) == len(shape) else f"shape {own}"
        if came != steps + (not has_next):
            raise ValueError(say.values_steps(came, steps, has_next))
        shapes["values"] = (*own[:axis], steps, *own[axis + 1 :])
    for name, own in shapes.items():
        is_state = name == "bootstrap"
        wanted, wrong = (shape[:axis] + shape[axis + 1 :], say.state_shape) if is_state else (shape, say.same_shape)
        problem.check_fits(name, own, wanted, wrong)
    return axis


def _flags(data, name, flags, shape):
    """Return flags of the data's library, where the data are."""
    if getattr(flags, "requires_grad", False):
        raise TypeError(say.flags_gradient(name))
    _arrays.refuse_masked(name, flags)
    if not data.by_kernel and type(flags) in (bool, int, float) and flags in (0, 1):
        flags = data.beside(flags)  # torch's compiler takes NumPy's arrays for tensors, and says that they are none
    if data.by_kernel or not hasattr(flags, "shape"):
        flags = np.asarray(flags.detach().cpu().resolve_neg() if hasattr(flags, "detach") else flags)
    is_numpy = isinstance(flags, np.ndarray)
    if (name == "mask" and not _is_bool(flags)) or (is_numpy and flags.dtype.kind not in "biuf"):
        raise TypeError((say.mask_dtype if name == "mask" else say.flags_dtype)(name, flags.dtype))
    problem.check_fits(name, flags.shape, shape)
    flags = _arrays.numbers(name, flags) if is_numpy else flags
    return flags if data.by_kernel else data.beside(flags.copy() if is_numpy else flags)  # read later, by a gradient


def _is_bool(array):
    return array.dtype == np.bool_ if isinstance(array, np.ndarray) else str(array.dtype).rpartition(".")[2] == "bool"


def _check_flags(steps, rule, xp):
    """Raise unless all flags that are read are from 0 to 1."""
    for name, flags in (("done" if rule.kind == "returns" else "terminated", steps.ends), ("truncated", steps.cuts)):
        if flags is not None and flags.dtype != xp.bool:
            bad = ~((flags >= 0) & (flags <= 1))
            bad = bad if steps.mask is None else bad & steps.mask
            if bool(bad.any()):
                raise ValueError(say.flags_range(name, xp.broadcast_to(flags, bad.shape)[bad][0]))


def _key(kind, axis, limits, given):
    """Return what a prepared call depends on, of NumPy's arrays, floats and None; None of others."""
    if type(axis) is not int or type(given[0]) is not np.ndarray:
        return None
    key = [kind, axis, _threads.team().size, *limits]
    for value in (*limits, *given):
        own = type(value)
        if own is np.ndarray:
            key += value.dtype, value.shape, value.strides
        elif own is float or value is None:
            key.append(own)
        else:
            return None
    return tuple(key)


def _weights(log_rhos):
    if log_rhos is None:
        return None
    with np.errstate(all="ignore"):
        return np.asarray(np.exp(log_rhos, dtype=np.float64))


def _planned(steps, rule):
    """Check flags; return steps with weights in place of their logarithms, and the plan of a run."""
    _check_flags(steps, rule, np)
    steps = steps._replace(log_rhos=_weights(steps.log_rhos))
    has = [value is not None for value in (steps.next_values, steps.cuts, steps.mask)]
    traits = rule.kind == "vtrace", *has, rule.kind in ("targets", "vtrace")
    given = [default if v is None else v for v, default in zip(steps, _DEFAULTS, strict=False)]
    forms = tuple([(array.dtype, array.shape, array.strides) for array in given])
    threads = cost.threads("returns", 8 * steps.rewards.size, _threads.team().size)
    return steps, _plan(forms, rule, traits, threads)


def _run(steps, plan, carry=None):
    """Return results of NumPy's arrays, and ``carry``, what the steps before them go on from: the kernel's planes."""
    new, first, call = plan
    if carry is None:
        carry = first.copy()
        for plane, value in enumerate((steps.bootstrap, steps.last)):
            if value is not None:
                carry[plane] = value
    results, arrays = new(), [default if v is None else v for v, default in zip(steps, _DEFAULTS, strict=False)]
    if call is not None:
        call(*arrays, results, carry)
    return *results, carry


@functools.lru_cache(1024)
def _plan(forms, rule, traits, threads):
    """Return what makes results, a first carry, and what runs a kernel.

    ``forms`` are what is read's dtypes, shapes and strides.
    """
    _, axis, dtype, limits = rule
    shape = forms[0][1]
    own, size = _shapes.like(shape, dtype, forms[0][1:]), math.prod(shape) * dtype.itemsize
    new = allocate.maker((1 + traits[0], *shape), dtype, (size, *own))
    lanes, first = (*shape[:axis], 1, *shape[axis + 1 :]), np.zeros((PLANES, *shape[:axis], *shape[axis + 1 :]))
    first.T[..., PLANES - len(limits) :] = limits
    if not size:
        return new, first, None
    forms = *forms, (dtype, shape, own), (_CARRY, lanes, _shapes.c_strides(lanes, _CARRY.itemsize))
    sizes = [dtype.itemsize for dtype, _, _ in forms]
    strides = [_shapes.spread(own, steps, shape) for _, own, steps in forms]
    order = [k for k in Series(shape, strides[H], axis).order if shape[k] > 1]
    *outer, (count, inner) = merge([(shape[k], tuple(s[k] for s in strides)) for k in order]) or [ONCE]
    are_neighbors = inner[H] == sizes[H] and all(a in (0, size) for a, size in zip(inner, sizes, strict=True))
    by_vectors, is_row = count >= WIDTH and are_neighbors, 1 < count < WIDTH and are_neighbors
    time = [s[axis] for s in strides]
    are_rows = by_vectors or 0 < abs(inner[H]) < abs(time[H])
    ranges = _threads.ranges(count, 1 if is_row else threads)
    ends = math.prod(lanes) * _CARRY.itemsize, size
    parts = [(shape[axis], *part, ROW, int(by_vectors), *ends) for part in ranges]
    geometry = np.zeros(HEAD + 3 * len(forms), np.int64)
    geometry[HEAD::3], geometry[HEAD + 1 :: 3] = time, inner
    words = [*itertools.compress(_advantages.TRAITS, traits)]
    words += ["narrow", f"lanes_{count}"] if is_row else ["rows"] if are_rows else []
    if by_vectors or is_row:
        words += [name for name, stride in zip(FIELDS[:H], inner, strict=False) if stride == 0]
    elements = {name: _arrays.element(dtype) for name, (dtype, _, _) in zip(FIELDS[: H + 1], forms, strict=False)}
    call = kernel("advantages.walk", " ".join(words), "f8", **elements)
    runs = itertools.product(repetitions(outer), parts)
    rows = [[0, *offsets[: len(forms)], _arrays.address(geometry), *part] for offsets, part in runs]
    return new, first, prepared(call, rows, range(1, 1 + len(forms)), geometry, threads)


def _formulas(data, s, rule):
    """Return results in float64, by the functions of the data's library."""
    xp, axis, shape = data.xp, rule.axis, tuple(s.rewards.shape)
    rewards, values, successors, mask, gamma, lam, ends, cuts, log_rhos, later, value = (
        None if v is None else data.wide(v) for v in s
    )
    if 0 in shape:
        return [rewards] * (1 + (rule.kind == "vtrace"))
    one, zero, scan = xp.ones_like(rewards), xp.zeros_like(rewards), functools.partial(_scan, xp, axis)

    def read(array, default=zero):
        array = default if array is None else array
        return array if mask is None else xp.where(s.mask, array, default)

    def shifted(array, last):
        end = at(zero, axis, slice(1))
        if last is not None:
            end = xp.reshape(xp.broadcast_to(last, (*shape[:axis], *shape[axis + 1 :])), end.shape)
        return join(xp, [at(array, axis, slice(1, None)), end], axis)

    numbers = rewards, values, gamma, lam, log_rhos, ends, cuts
    rewards, values, gamma, lam, log_rhos, ends, cuts = map(read, numbers)
    done = xp.maximum(ends, cuts)
    after = shifted(values if mask is None else scan(_are_finite(values), one - mask, values, value), value)
    successors = xp.where(ends == 1, zero, after if successors is None else read(successors))
    # What is not finite takes no part, in gradients neither: its step is marked, and the marks give NaN.
    numbers = rewards, values, successors, gamma, lam, log_rhos
    sound = _are_finite(*numbers[:5]) & (log_rhos == log_rhos)
    rewards, values, successors, gamma, lam, log_rhos = (xp.where(sound, array, zero) for array in numbers)
    weight, decay = gamma * (one - ends), xp.where(done == 1, zero, gamma * lam * (one - done))
    error = rewards + weight * successors - values
    if rule.kind != "vtrace":
        sums = scan(sound, read(decay, one), error, later)
        return [read(sums + values if rule.kind == "targets" else sums)]
    rho, c, pg_rho = (_clipped(xp, log_rhos, limit) for limit in rule.limits)
    sums = scan(sound, read(decay * c, one), rho * error, later)
    beyond = shifted(sums, later)
    if s.next_values is not None:
        seen = one if mask is None else scan(one == one, one - mask, one * mask, None)
        beyond = beyond + shifted(seen, None) * (after - successors)
    target = successors + xp.where(done == 1, zero, (one - done) * beyond)
    known = sound & _are_finite(target)
    advantages = pg_rho * (rewards + weight * xp.where(known, target, zero) - values)
    return read(sums + values), read(xp.where(known, advantages, xp.full_like(zero, math.nan)))


def _are_finite(*arrays):
    return functools.reduce(operator.and_, (array - array == 0 for array in arrays))


def _marked(xp, array, sound):
    """Return an array with 0 in the place of what is not sound, and marks of that."""
    zero = xp.zeros_like(array)
    return xp.where(sound, array, zero), xp.where(sound, zero, xp.ones_like(array))


def _scan(xp, axis, sound, decay, added, later):
    """Return ``h[t] = decay[t]*h[t+1] + added[t]``, NaN at what is not sound and all that it is carried to."""
    passes = xp.where(decay == 0, xp.zeros_like(decay), xp.ones_like(decay))
    firsts = (None, None) if later is None else _marked(xp, later, _are_finite(later))
    steps = zip((decay, passes), _marked(xp, added, sound), firsts, strict=True)
    h, marks = (linear_recurrence(*operands, axis=axis, reverse=True) for operands in steps)
    return xp.where(marks == 0, h, xp.full_like(h, math.nan))


def _clipped(xp, logarithm, limit):
    """Return exponentials that are at most a limit; no gradient is lost to infinities beyond it."""
    beyond = logarithm > (math.log(limit) if limit else -math.inf)
    zero = xp.zeros_like(logarithm)
    return xp.where(beyond, limit + zero, xp.exp(xp.where(beyond, zero, logarithm)))


def _lazy(steps, rule):
    """Return results of Dask arrays: a chunk after the other, against time."""
    from .._dask import Operand, along_time, last_axes

    shape = steps.rewards.shape
    lanes = [k for k in range(len(shape)) if k != rule.axis]
    axes = [range(len(shape))] * 9 + [lanes] * 2
    found = zip(_NAMES, steps, axes, strict=True)
    operands = {name: Operand(value, () if value is None else last_axes(value, own)) for name, value, own in found}
    walk = along_time("returns", functools.partial(_chunk, rule=rule), shape, rule.axis, operands, reverse=True)
    meta = np.empty((0,) * len(shape), rule.dtype)
    return [walk.result(f"h{k}", k, meta) for k in range(1 + (rule.kind == "vtrace"))]


def _chunk(carry, place, *blocks, rule):
    with _threads.alone():
        steps, plan = _planned(_Steps(*blocks), rule)
        return _run(steps, plan, None if carry is None else carry.copy())
