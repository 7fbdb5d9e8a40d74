"""Holt's level and trend, with seasons or without, and envelopes, of tensors: the operators and their derivatives."""

import types

import numpy as np
import torch

from ..._cpu import levels as _host, seasons as _seasons
from ..._cpu.machine import threads as _threads
from ..._plan.problem import FORGET, LINEAR
from ..._steps import levels as _levels
from ..._steps.levels import Seasons
from . import autograd, ops
from .along_time import steps_of
from .autograd import anywhere, operator, with_batch
from .filters import tensor_of as tensor_of
from .team import team
from .tensors import empty_like, numpy_of

_sosfilt = torch.ops.fastrecur.sosfilt.default


# ---- In memory, and fake --------------------------------------------------------------------------------------------


def _run_holt(x, k, waits, axis):
    level, trend = empty_like(x), empty_like(x)
    with _threads.lent(team()):
        _host.holt(*_given(x, k, waits), axis, numpy_of(level), numpy_of(trend))
    return level, trend


def _run_holt_backward(grad_level, grad_trend, x, k, waits, level, trend, axis):
    if level.stride() != trend.stride():
        level, trend = level.contiguous(), trend.contiguous()
    gs = (level.new_zeros(()).expand(level.shape) if g is None else g for g in (grad_level, grad_trend))
    of_level, of_trend, level, trend = map(numpy_of, (*gs, level, trend))
    to_x, (x, k, waits) = empty_like(x), _given(x, k, waits)
    with _threads.lent(team()):
        to_k = _host.holt_vjp(of_level, of_trend, x, level, trend, k, waits, axis, numpy_of(to_x))
    return to_x, torch.from_numpy(np.ascontiguousarray(to_k))


def _given(x, k, waits):
    return numpy_of(x), numpy_of(k), 0 if waits is None else numpy_of(waits)


def _run_follow(x, attack, release, first, axis):
    y = empty_like(x)
    with _threads.lent(team()):
        last = _host.follow(*map(numpy_of, (x, attack, release, first)), axis, numpy_of(y))
    return y, torch.from_numpy(np.array(last, order="C"))


def _run_follow_backward(g, g_last, x, attack, release, first, y, axis):
    if _host.is_varying(x, axis, attack, release):
        return tuple(v.contiguous() for v in _follow_adjoint(g, g_last, x, attack, release, first, y, axis))
    g = y.new_zeros(()).expand(y.shape) if g is None else g
    to_x, g_last = empty_like(x), 0 if g_last is None else numpy_of(g_last)
    given = (numpy_of(v) for v in (x, attack, release, first.to(y.dtype).double(), y))
    with _threads.lent(team()):
        found = _host.follow_vjp(numpy_of(g), g_last, *given, axis, numpy_of(to_x))
    to_first, *to_gates = (torch.from_numpy(np.array(v, order="C")) for v in found)
    to_attack, to_release = (
        grad.unsqueeze(axis).sum_to_size(gate.shape).to(gate.dtype)
        for grad, gate in zip(to_gates, (attack, release), strict=True)
    )
    return to_x, to_attack.clone(), to_release.clone(), to_first


def _run_seasons(x, first, constants, multiply, axis):
    made = [empty_like(x) for _ in range(4)]
    with _threads.lent(team()):
        last = _seasons.holt_winters(*map(numpy_of, (x, first, constants)), multiply, axis, *map(numpy_of, made))
    return *made, torch.from_numpy(np.ascontiguousarray(last))


def _run_seasons_backward(
    g, g_level, g_trend, g_season, g_last, x, first, constants, forecast, level, trend, season, multiply, axis
):
    """Run the kernel of states before each step, all of which have one layout, as cotangents have."""
    before = _before(first, (level, trend, season), axis)
    g, *grads = (_given_or_none(v, x) for v in (g, g_level, g_trend, g_season))
    grads = grads if len({v.stride() for v in grads}) == 1 else [v.contiguous() for v in grads]
    g_last = torch.zeros_like(first) if g_last is None else g_last
    to_x, given = empty_like(x), [numpy_of(v) for v in (g_last, x, first, constants)]
    with _threads.lent(team()):
        found = _seasons.holt_winters_vjp(
            [*map(numpy_of, (g, *grads))], *given, [*map(numpy_of, before)], multiply, axis, numpy_of(to_x)
        )
    return to_x, *(torch.from_numpy(np.array(v, order="C")) for v in found)


def _run_on_gpu(kernel, axis, **tensors):
    from ..._cuda import levels as device

    tensors = {name: v if v is None else v.detach().resolve_neg() for name, v in tensors.items()}
    device.run_tensors(kernel, axis, **tensors)


def _of_series(k, waits, axis):
    names = ("level0", "trend0", "alpha", "beta", "phi")
    found = {name: v.unsqueeze(axis) for name, v in zip(names, k.unbind(0), strict=True)}
    return found | {"waits": None if waits is None else waits.unsqueeze(axis)}


def _holt_on_gpu(x, k, waits, axis):
    level, trend = torch.empty_like(x), torch.empty_like(x)
    _run_on_gpu("holt", axis, x=x, **_of_series(k, waits, axis), y=level, slope=trend)
    return level, trend


def _holt_backward_on_gpu(grad_level, grad_trend, x, k, waits, level, trend, axis):
    to_x, to_k = torch.empty_like(x), torch.zeros_like(k, memory_format=torch.contiguous_format)
    given = {"x": x, **_of_series(k, waits, axis), "y": level, "slope": trend, "g": grad_level, "g_slope": grad_trend}
    _run_on_gpu("holt_vjp", axis, **given, to_x=to_x, to_k=to_k.movedim(0, axis))
    return to_x, to_k


def _follow_on_gpu(x, attack, release, first, axis):
    y, last = torch.empty_like(x), torch.empty_like(first.unsqueeze(axis))
    given = {"attack": attack, "release": release, "h0": first.unsqueeze(axis)}
    _run_on_gpu("follow", axis, x=x, **given, y=y, last=last)
    return y, last.squeeze(axis)


def _fake_holt(x, k, waits, axis):
    return torch.empty_like(x), torch.empty_like(x)


def _fake_holt_backward(grad_level, grad_trend, x, k, waits, level, trend, axis):
    return torch.empty_like(x), k.new_empty(k.shape)


def _fake_follow(x, attack, release, first, axis):
    return torch.empty_like(x), first.new_empty(first.shape)


def _fake_follow_backward(g, g_last, x, attack, release, first, y, axis):
    return torch.empty_like(x), *(v.new_empty(v.shape) for v in (attack, release, first))


def _fake_seasons(x, first, constants, multiply, axis):
    return *(torch.empty_like(x) for _ in range(4)), first.new_empty(first.shape)


def _fake_seasons_backward(*arguments):
    x, first, constants = arguments[5:8]
    return torch.empty_like(x), *(v.new_empty(v.shape) for v in (first, constants))


# ---- Derivatives ----------------------------------------------------------------------------------------------------


def _composed_holt(x, k, waits, axis):
    """Do what `holt` does, such that all of it has derivatives of every order.

    What a step predicts, ``level + phi*trend``, is a recurrence of the last two predictions.
    """
    level, trend, alpha, beta, phi = (v.unsqueeze(axis) for v in k)
    place, wide = steps_of(x, axis), x.double()
    if waits is not None:  # each series begins at the first step, and what is behind its end is missing
        waits = waits.unsqueeze(axis)
        behind = (place + waits).expand(x.shape)
        wide = torch.where(behind < len(place), wide.gather(axis, behind.clip(max=len(place) - 1)), torch.nan)
    seen = wide.isfinite()
    wide, gain = torch.where(seen, wide, 0), alpha * seen

    def before(first, v):
        return torch.cat([first, v], axis).narrow(axis, 0, len(place))

    nothing, scale, first = torch.zeros_like(level), 1 + phi * beta, level + phi * trend
    now, last = gain * wide, before(nothing, gain)
    poles = torch.stack([scale * gain - (1 + phi), phi * (1 - last)], -1).unsqueeze(-2)
    source = scale * now - phi * before(nothing, now)
    start = torch.cat([first, level], axis).unsqueeze(0)
    predicted = before(first, _sosfilt(source, poles, start, None, axis, False, True)[0])
    move = gain * (wide - predicted)
    options = trend.squeeze(axis), None, axis, False, torch.float64
    found = predicted + move, ops.forward(LINEAR, phi, beta * move, *options)[0]
    if waits is not None:
        there = (place - waits).expand(x.shape)
        found = (torch.where(there < 0, torch.nan, v.gather(axis, there.clip(0))) for v in found)
    return tuple(v.to(x.dtype) for v in found)


def _holt_adjoint(g_level, g_trend, x, k, waits, level, trend, axis):
    """Do what `holt_backward` does, of filters and sums that have derivatives themselves."""
    given = lambda x, k: _composed_holt(x, k, waits, axis), (x, k), (True, True), (g_level, g_trend)
    return autograd.gradients_of(*given)


def _follow_adjoint(g, g_last, x, attack, release, first, y, axis):
    """Do what `follow_backward` does, such that all of it has derivatives.

    Gradients are those of the recurrence whose gates are the branches taken, as told by the stored envelope.
    """
    g = torch.zeros_like(y) if g is None else g
    start, g_last = (v if v is None else v.to(y.dtype) for v in (first, g_last))
    rises = x > torch.cat([start.unsqueeze(axis), y], axis).narrow(axis, 0, x.shape[axis])
    gate = torch.where(rises, attack.to(y.dtype), release.to(y.dtype))
    options = None, axis, False, y.dtype, True, True, True
    to_gate, to_x, to_first = ops.vjp(FORGET, g, gate, x, y, start, g_last, *options)
    to_attack, to_release = (
        torch.where(own, to_gate, 0).double().sum_to_size(v.shape).to(v.dtype)
        for own, v in ((rises, attack), (~rises, release))
    )
    return to_x, to_attack, to_release, to_first.to(first.dtype)


def _composed_seasons(x, first, constants, multiply, axis):
    """Do what `holt_winters` does, step by step."""
    (level, trend, *waves), k, found = first, Seasons(*constants), []
    for value in x.double().unbind(axis):
        forecast, level, trend, season = _step(value, level, trend, waves.pop(0), k, multiply)
        waves.append(season)
        found.append((forecast, level, trend, season))
    results = (torch.stack(v, axis).to(x.dtype) for v in zip(*found, strict=True))
    return *(results if found else (x.clone() for _ in range(4))), torch.stack([level, trend, *waves])


def _seasons_adjoint(g, g_level, g_trend, g_season, g_last, x, first, constants, *others):
    """Do what `holt_winters_backward` does, step by step, such that all of it has derivatives."""
    _, *results, multiply, axis = others
    to_x, k, to_k = [], Seasons(*constants), torch.zeros_like(constants)
    r_level, r_trend, *waves = torch.zeros_like(first) if g_last is None else g_last
    rows = (x, *_before(first, results, axis), *(_given_or_none(v, x) for v in (g, g_level, g_trend, g_season)))
    for value, level, trend, season, *grads in zip(*(v.double().unbind(axis)[::-1] for v in rows), strict=True):
        after = r_level + grads[1], r_trend + grads[2], waves.pop() + grads[3]
        grad, r_level, r_trend, r_season, *more = _step_adjoint(
            grads[0], *after, value, level, trend, season, k, multiply
        )
        waves.insert(0, r_season)
        to_x.append(grad)
        to_k = to_k + torch.stack(more)
    to_x = torch.stack(to_x[::-1], axis).to(x.dtype) if to_x else x.clone()
    return to_x, torch.stack([r_level, r_trend, *waves]), to_k


def _before(first, results, axis):
    """Return levels, trends and seasons before each step: those of the first state, and then of the step before."""
    steps, starts = results[0].shape[axis], first.movedim(0, axis).split([1, 1, len(first) - 2], axis)
    pairs = zip(starts, results, strict=True)
    return [torch.cat([start.to(v.dtype), v], axis).narrow(axis, 0, steps).contiguous() for start, v in pairs]


def _given_or_none(grad, like):
    return like.new_zeros(()).expand(like.shape) if grad is None else grad


def _of_tensors(step):
    """Return a step of `_steps` that takes tensors."""
    own = {"constant": lambda value, like: value, "select": torch.where, "is_finite": torch.isfinite}
    return types.FunctionType(step.__code__, step.__globals__ | own | {"fma": lambda a, b, c: a * b + c})


_step, _step_adjoint = _of_tensors(_levels.seasons), _of_tensors(_levels.seasons_adjoint)


# ---- The operators --------------------------------------------------------------------------------------------------


def _vmap(places, to):
    """Return the rule of an operator whose tensors have the batch at ``places``, its results at ``to``."""

    def call(operator, info, dims, *arguments):
        *others, axis = arguments[len(places) :]
        moved = (with_batch(v, dim, info.batch_size, at) for v, dim, at in zip(arguments, dims, places, strict=False))
        return operator(*moved, *others, axis + 1), to

    return call


_holt_backward = operator(
    "holt_backward(Tensor? grad_level, Tensor? grad_trend, Tensor x, Tensor k, Tensor? waits, Tensor level, "
    "Tensor trend, int axis) -> (Tensor, Tensor)",
    _fake_holt_backward, cpu=_run_holt_backward, cuda=_holt_backward_on_gpu, composed=_holt_adjoint,
    vmap=_vmap((0, 0, 0, 1, 0, 0, 0), (0, 1)),
)  # fmt: skip
holt = operator(  # of `_cpu.levels.holt`'s arguments; all have gradients
    "holt(Tensor x, Tensor k, Tensor? waits, int axis) -> (Tensor, Tensor)",
    _fake_holt, cpu=_run_holt, cuda=_holt_on_gpu, back=_holt_backward, vmap=_vmap((0, 1, 0), (0, 0)),
)  # fmt: skip
_follow_backward = operator(
    "follow_backward(Tensor? grad_y, Tensor? grad_last, Tensor x, Tensor attack, Tensor release, Tensor first, "
    "Tensor y, int axis) -> (Tensor, Tensor, Tensor, Tensor)",
    _fake_follow_backward, cpu=_run_follow_backward, cuda=anywhere(_fake_follow_backward, _follow_adjoint),
    composed=_follow_adjoint, vmap=_vmap((0,) * 7, (0,) * 4),
)  # fmt: skip
follow = operator(  # returns the envelope, and the last one in float64
    "follow(Tensor x, Tensor attack, Tensor release, Tensor first, int axis) -> (Tensor, Tensor)",
    _fake_follow, cpu=_run_follow, cuda=_follow_on_gpu, back=_follow_backward, vmap=_vmap((0,) * 4, (0, 0)),
)  # fmt: skip
_holt_winters_backward = operator(
    "holt_winters_backward(Tensor? grad_forecast, Tensor? grad_level, Tensor? grad_trend, Tensor? grad_season, "
    "Tensor? grad_last, Tensor x, Tensor first, Tensor constants, Tensor forecast, Tensor level, Tensor trend, "
    "Tensor season, bool multiply, int axis) -> (Tensor, Tensor, Tensor)",
    _fake_seasons_backward, cpu=_run_seasons_backward, cuda=anywhere(_fake_seasons_backward, _seasons_adjoint),
    elsewhere=_seasons_adjoint, composed=_seasons_adjoint,
    vmap=_vmap((0, 0, 0, 0, 1, 0, 1, 1, 0, 0, 0, 0), (0, 1, 1)),
)  # fmt: skip
holt_winters = operator(  # of `_cpu.seasons.holt_winters`' arguments; all have gradients
    "holt_winters(Tensor x, Tensor first, Tensor constants, bool multiply, int axis) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor)",
    _fake_seasons, cpu=_run_seasons, cuda=anywhere(_fake_seasons, _composed_seasons), elsewhere=_composed_seasons,
    back=_holt_winters_backward, vmap=_vmap((0, 1, 1), (0, 0, 0, 0, 1)),
)  # fmt: skip
