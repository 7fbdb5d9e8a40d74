"""Filters of tensors: the operators, what they are on fake tensors, under vmap, and their derivatives of every order."""

import numpy as np
import torch

from ..._arguments import checks, messages as say, shapes
from ..._cpu import filters as _host
from ..._cpu.machine import threads as _threads
from ..._plan.filters import A0, check_sections, check_states, lengths_of, state_shape
from . import autograd
from .ops import library
from .team import team

library.define(
    "sosfilt(Tensor x, Tensor sos, Tensor? zi, Tensor? lengths, int axis, bool reverse) -> (Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
library.define(
    "sosfilt_backward(Tensor grad_y, Tensor? grad_zf, Tensor x, Tensor sos, Tensor? zi, Tensor? lengths, int axis, "
    "bool reverse) -> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_forward, _backward = torch.ops.fastrecur.sosfilt.default, torch.ops.fastrecur.sosfilt_backward.default


# ---- Calls --------------------------------------------------------------------------------------------------------------


def sosfilt(x, sos, zi, axis, reverse, lengths, out):
    """Return the output of a cascade, and the states after it."""
    x, sos, zi, axis, lengths = _taken(x, sos, {"zi": zi}, axis, lengths)
    if out is not None:
        _check_out(out, x, (x, sos, zi))
    y, zf = _forward(x, sos, zi, lengths, axis, reverse)
    return (y if out is None else out.copy_(y)), zf


def sosfilt_vjp(g, sos, x, y, zi, axis, reverse, lengths, grad_zf):
    """Return the gradients of the coefficients, the input and the first states."""
    x, sos, zi, axis, lengths, g, grad_zf = _taken(x, sos, {"zi": zi, "grad_zf": grad_zf}, axis, lengths, g)
    grad_x, grad_sos, grad_zi = _backward(g, grad_zf, x, sos, zi, lengths, axis, reverse)
    return grad_sos, grad_x, None if zi is None else grad_zi


def _taken(x, sos, states, axis, lengths, *others):
    x = _tensor("x", x, None)
    sos, *others = (_tensor(name, v, x) for name, v in zip(("sos", "grad_y"), (sos, *others), strict=False))
    states = {name: None if v is None else _tensor(name, v, x) for name, v in states.items()}
    if sos.is_complex():
        raise TypeError(say.filter_real("sos", sos.dtype))
    axis = shapes.axis_of(axis, tuple(x.shape), ("x",))
    check_sections(tuple(sos.shape), tuple(x.shape), axis)
    check_states(states, sos.shape[-2], tuple(x.shape), axis)
    for other in others:
        if other.shape != x.shape:
            raise ValueError(say.operand_shape("grad_y", tuple(other.shape), tuple(x.shape)))
    if lengths is not None and not isinstance(lengths, torch.Tensor):
        lengths = torch.from_numpy(np.array(lengths_of(lengths, tuple(x.shape), axis)))
    zi, *grad_zf = states.values()
    return x, sos, zi, axis, lengths, *others, *grad_zf


def _tensor(name, value, like):
    """Return an argument as a tensor of floating-point numbers in CPU memory."""
    if not isinstance(value, torch.Tensor):
        if value is None:
            raise TypeError(say.not_an_array(name, type(None)))
        value = torch.as_tensor(value)
    if value.layout is not torch.strided:
        raise TypeError(say.layout(name, f"layout {value.layout}"))
    if not value.is_cpu and not value.is_meta:
        raise TypeError(say.filter_gpu(name, type(value)))
    if value.is_floating_point() or value.is_complex():
        is_half = value.dtype in (torch.float16, torch.bfloat16)
        return value.float() if is_half and name not in ("x", "grad_y") else value
    return value.to(torch.get_default_dtype() if name in ("x", "grad_y") else torch.float64)


def _check_out(out, x, operands):
    if not isinstance(out, torch.Tensor):
        raise TypeError(say.out_type(type(out)))
    if out.shape != x.shape:
        raise ValueError(say.out_shape(tuple(out.shape), tuple(x.shape)))
    if out.dtype != x.dtype:
        raise TypeError(say.out_dtype(out.dtype, x.dtype))
    if torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in (*operands, out)):
        raise RuntimeError(say.out_gradient())


# ---- In memory, and fake ------------------------------------------------------------------------------------------------


def _wide(x, *others):
    """Return the dtype of states and of cotangents: float64, complex if one operand is."""
    is_complex = any(v is not None and v.is_complex() for v in (x, *others))
    return torch.complex128 if is_complex else torch.float64


def _signal(x, *others):
    return torch.promote_types(x.dtype, torch.complex64) if _wide(x, *others).is_complex else x.dtype


def _numpy(tensor):
    if tensor is None:
        return None
    tensor = tensor.detach().resolve_conj().resolve_neg()
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _sections(sos):
    if not bool((sos[..., A0] == 1).all()):
        raise ValueError(say.filter_a0())
    return _numpy(sos)


def _run_forward(x, sos, zi, lengths, axis, reverse):
    y, coefficients = torch.empty_like(x, dtype=_signal(x, zi)), _sections(sos)
    lengths = None if lengths is None else lengths_of(lengths, tuple(x.shape), axis)
    with _threads.lent(team()):
        zf = _host.forward(_numpy(x), coefficients, _numpy(zi), axis, reverse, lengths, _numpy(y))
    return y, torch.from_numpy(np.ascontiguousarray(zf))


def _run_backward(g, grad_zf, x, sos, zi, lengths, axis, reverse):
    given = [_numpy(v) for v in (g, x)]
    grad_x = torch.empty_like(x, dtype=_signal(x, g, zi, grad_zf))
    lengths = None if lengths is None else lengths_of(lengths, tuple(x.shape), axis)
    with _threads.lent(team()):
        rest = _numpy(zi), _numpy(grad_zf), axis, reverse, lengths, _numpy(grad_x)
        grad_sos, grad_zi = _host.vjp(*given, _sections(sos), *rest)
    grad_x = grad_x if x.is_complex() or not grad_x.is_complex() else grad_x.real.clone()
    grad_zi = torch.from_numpy(np.ascontiguousarray(grad_zi))
    if zi is not None:
        grad_zi = _like(grad_zi, zi)
    return grad_x, torch.from_numpy(np.ascontiguousarray(grad_sos)).to(sos.dtype), grad_zi


def _like(grad, operand):
    """Return a gradient of an operand, summed over what that was broadcast to."""
    grad = grad.real if grad.is_complex() and not operand.is_complex() else grad
    return grad.sum_to_size(operand.shape).to(operand.dtype).clone()


def _fake_forward(x, sos, zi, lengths, axis, reverse):
    shape = state_shape(sos.shape[-2], x.shape, axis)
    return torch.empty_like(x, dtype=_signal(x, zi)), x.new_empty(shape, dtype=_wide(x, zi))


def _fake_backward(g, grad_zf, x, sos, zi, lengths, axis, reverse):
    shape = state_shape(sos.shape[-2], x.shape, axis)
    grad_zi = x.new_empty(shape, dtype=_wide(x, g, zi, grad_zf)) if zi is None else zi.new_empty(zi.shape)
    return torch.empty_like(x), sos.new_empty(sos.shape), grad_zi


# ---- Derivatives --------------------------------------------------------------------------------------------------------


class _Sosfilt(autograd.Rules):
    operators = {"sosfilt": _forward}

    @staticmethod
    def setup(family, ctx, inputs, output, needed=None, has_tangents=False):
        *tensors, ctx.axis, ctx.reverse = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)

    @staticmethod
    def gradients(ctx, needed, g, grad_zf):
        x, sos, zi, lengths = ctx.saved_tensors
        if g is None and grad_zf is None:
            return (None,) * 6
        if g is None:
            g = torch.zeros_like(x, dtype=_signal(x, zi))
        grads = _backward(g, grad_zf, x, sos, zi, lengths, ctx.axis, ctx.reverse)
        return *(grad if need else None for grad, need in zip(grads, needed, strict=False)), None, None, None


class _SosfiltBackward(autograd.Rules):
    operators = {"sosfilt": _backward}
    setup = _Sosfilt.setup

    @staticmethod
    def gradients(ctx, needed, *cotangents):
        tensors = ctx.saved_tensors
        sos, x = tensors[3], tensors[2]
        if sos.dim() == x.dim() + 2:
            raise NotImplementedError(say.filter_second())
        grads = autograd.gradients_of(
            lambda *operands: _composed(*operands, ctx.axis, ctx.reverse), tensors, needed[: len(tensors)], cotangents
        )
        return *grads, None, None


def _composed(g, grad_zf, x, sos, zi, lengths, axis, reverse):
    """Do what `sosfilt_backward` does, of filters and sums that have derivatives themselves.

    The cotangents of a section's output, with all that comes of it, are an all-pole filter's output against time.
    """
    wide = _wide(x, g, zi, grad_zf)
    signal, coefficients, first = x.to(wide), sos.double(), None if zi is None else zi.to(wide)
    count, shape = sos.shape[-2], tuple(x.shape)
    if first is None:
        first = torch.zeros(state_shape(count, shape, axis), dtype=wide)
    first = first.expand(state_shape(count, shape, axis))
    signals = [signal]
    for s in range(count):
        signals.append(_forward(signals[s], coefficients[..., s : s + 1, :], first[s : s + 1], lengths, axis, reverse)[0])
    last = torch.zeros_like(first) if grad_zf is None else grad_zf.to(wide)
    g, grads, firsts = g.to(wide), [], []
    if lengths is not None:
        lengths = lengths.reshape(lengths.shape + (1,) * (x.dim() - 1 - lengths.dim())).expand(
            shape[:axis] + shape[axis + 1 :]
        )
    for s in range(count - 1, -1, -1):
        g, own, before = _section_back(g, last[s], signals[s], signals[s + 1], coefficients[..., s, :], lengths, axis, reverse)
        grads.append(own)
        firsts.append(before)
    grad_sos = torch.stack(grads[::-1], -2)
    grad_sos = grad_sos.sum(tuple(range(grad_sos.dim() - 2))) if sos.dim() == 2 else grad_sos.sum_to_size(sos.shape)
    grad_zi = torch.stack(firsts[::-1])
    grad_x = g if x.is_complex() or not g.is_complex() else g.real
    return grad_x.to(x.dtype), grad_sos.to(sos.dtype), grad_zi if zi is None else _like(grad_zi, zi)


def _section_back(g, last, v, y, k, lengths, axis, reverse):
    """Return the cotangents of a section's input, of its coefficients for each series, and of its first state."""
    b0, b1, b2, _, a1, a2 = (c if k.dim() == 1 else c.unsqueeze(axis) for c in k.unbind(-1))
    one, two = last.narrow(axis, 0, 1), last.narrow(axis, 1, 1)
    zi = torch.cat([-a1 * one - a2 * two, -a2 * one], axis).unsqueeze(0)
    zero = torch.zeros_like(k[..., 0])
    poles = torch.stack([zero + 1, zero, zero, zero + 1, k[..., 4], k[..., 5]], -1).unsqueeze(-2)
    steps = g.shape[axis]
    e = _forward(g, poles, zi, lengths, axis, not reverse)[0]
    if reverse:  # its last step is the first one
        after = torch.cat([two, one, e], axis)
        e, e1, e2 = (after.narrow(axis, k, steps) for k in (2, 1, 0))
        ends = e.narrow(axis, steps - 1, 1) if lengths is None else e.gather(axis, (lengths.unsqueeze(axis) - 1).clamp(min=0))
        second = e1.narrow(axis, steps - 1, 1) if lengths is None else e1.gather(axis, (lengths.unsqueeze(axis) - 1).clamp(min=0))
    else:
        after = torch.cat([e, one, two], axis)
        if lengths is not None:
            place = lengths.unsqueeze(axis)
            clear = torch.cat([e, torch.zeros_like(one), torch.zeros_like(two)], axis)
            after = clear.scatter(axis, torch.cat([place, place + 1], axis), torch.cat([one, two], axis))
        e1, e2 = after.narrow(axis, 1, steps), after.narrow(axis, 2, steps)
        ends, second = after.narrow(axis, 0, 1), after.narrow(axis, 1, 1)
    if lengths is not None:
        at = torch.arange(steps).reshape(-1, *(1,) * (g.dim() - 1 - axis))
        valid = at < lengths.unsqueeze(axis)
        e1, e2 = e1 * valid, e2 * valid
        if reverse:
            none = lengths.unsqueeze(axis) == 0
            ends, second = torch.where(none, one, ends), torch.where(none, two, second)
    before = torch.cat([ends, second], axis)

    def product(one, other):
        found = one * other.conj()
        return (found.real if found.is_complex() else found).sum(axis)

    grads = product(e, v), product(e1, v), product(e2, v), torch.zeros_like(product(e, v)), -product(e1, y), -product(e2, y)
    return b0 * e + b1 * e1 + b2 * e2, torch.stack(grads, -1), before


# ---- vmap ---------------------------------------------------------------------------------------------------------------


def _first(tensor, dim, size=None, at=0):
    """Return an operand with the batch at an axis; None, and what has none, as it is, or so many times itself."""
    if tensor is None:
        return None
    if dim is None:
        return tensor if size is None else tensor.unsqueeze(at).expand(*tensor.shape[:at], size, *tensor.shape[at:])
    return tensor.movedim(dim, at)


def _batched(info, dims, x, sos, zi, lengths, axis, own):
    """Return operands with the batch as the first axis of the series; ``own`` is whether each has coefficients."""
    size = info.batch_size
    rank = x.dim() - (dims[0] is not None)
    had = sos.dim() - (dims[1] is not None)
    x, zi = _first(x, dims[0], size), _first(zi, dims[2], size, at=1)
    if own or dims[1] is not None or had > 2:
        sos = _first(sos, dims[1], size)
        if had == 2:
            sos = sos.reshape(size, *(1,) * (rank - 1), *sos.shape[1:])
    if lengths is not None:
        lengths = _first(lengths, dims[3], size)
    return x, sos, zi, lengths, axis + 1


def _vmap_forward(_family, info, dims, x, sos, zi, lengths, axis, reverse):
    *operands, axis = _batched(info, dims, x, sos, zi, lengths, axis, own=False)
    return _forward(*operands, axis, reverse), (0, 1)


def _vmap_backward(_family, info, dims, g, grad_zf, x, sos, zi, lengths, axis, reverse):
    had = sos.shape if dims[3] is None else sos.movedim(dims[3], 0).shape[1:]
    *operands, axis = _batched(info, dims[2:6], x, sos, zi, lengths, axis, own=True)
    g, grad_zf = _first(g, dims[0], info.batch_size), _first(grad_zf, dims[1], info.batch_size, at=1)
    grad_x, grad_sos, grad_zi = _backward(g, grad_zf, *operands, axis, reverse)
    return (grad_x, grad_sos.reshape(info.batch_size, *had), grad_zi), (0, 0, 1)


for _name, _run, _fake in (
    ("sosfilt", _run_forward, _fake_forward), ("sosfilt_backward", _run_backward, _fake_backward)
):  # fmt: skip
    library.impl(_name, _run, "CPU")
    torch.library.register_fake(f"fastrecur::{_name}", _fake, lib=library)
_Sosfilt.register(_vmap_forward)
_SosfiltBackward.register(_vmap_backward)
