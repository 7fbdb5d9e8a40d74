"""Filters of tensors: the operators, what they are of fake tensors and under vmap, and derivatives of every order."""

import numpy as np
import torch

from ..._arguments import messages as say, shapes
from ..._cpu import filters as _host
from ..._cpu.machine import threads as _threads
from ..._plan.filters import FIELDS, check_a0, check_cascade, lengths_of, state_shape
from . import arguments, autograd
from .along_time import ends_of, like, steps_of
from .autograd import anywhere, with_batch
from .team import team
from .tensors import empty_like, numpy_of

# ---- Calls ----------------------------------------------------------------------------------------------------------


def sosfilt(x, sos, zi, axis, reverse, lengths, out, fields, poles):
    """Return the output of a cascade, and the states after it."""
    x, sos, zi, axis, lengths = _taken(fields, poles, x, sos, {"zi": zi}, axis, lengths)
    if out is not None:
        check_out(out, x, (x, sos, zi))
    y, zf = _forward(x, sos, zi, lengths, axis, reverse, poles)
    return (y if out is None else out.copy_(y)), zf


def sosfilt_vjp(g, sos, x, y, zi, axis, reverse, lengths, grad_zf, poles):
    """Return the gradients of the coefficients, the input and the first states."""
    fields, states, given = sos.shape[-1] if poles else FIELDS, {"zi": zi, "grad_zf": grad_zf}, (g, y)[: 1 + poles]
    x, sos, zi, axis, lengths, g, *y, grad_zf = _taken(fields, poles, x, sos, states, axis, lengths, *given)
    grad_x, grad_sos, grad_zi = _backward(g, grad_zf, *(y or [x]), sos, zi, lengths, axis, reverse, poles)
    grad_x = grad_x.real if poles and grad_x.is_complex() and not x.is_complex() else grad_x
    return grad_sos, grad_x, None if zi is None else grad_zi


def _taken(fields, poles, x, sos, states, axis, lengths, *others):
    x, names = tensor_of("x", x, None), ("a" if poles else "sos", "grad_y", "y")
    sos, *others = (tensor_of(name, v, x) for name, v in zip(names, (sos, *others), strict=False))
    states = {name: None if v is None else tensor_of(name, v, x) for name, v in states.items()}
    if sos.is_complex():
        raise TypeError(say.filter_real(names[0], sos.dtype))
    axis = shapes.axis_of(axis, tuple(x.shape), ("x",))
    check_cascade(sos, states, tuple(x.shape), axis, fields, poles)
    for name, other in zip(names[1:], others, strict=False):
        shapes.check_exact(name, other.shape, x.shape)
    if lengths is not None and not isinstance(lengths, torch.Tensor):
        lengths = torch.from_numpy(np.array(lengths_of(lengths, tuple(x.shape), axis)))
    zi, *grad_zf = states.values()
    return x, sos, zi, axis, lengths, *others, *grad_zf


def tensor_of(name, value, like, anywhere=False):
    """Return an argument as a tensor of floating-point numbers, in CPU memory, on a GPU or anywhere, or as ``like``."""
    if not isinstance(value, torch.Tensor):
        if value is None:
            raise TypeError(say.not_an_array(name, type(None)))
        digits = torch.float64 if isinstance(value, float) and name != "x" else None  # torch's default has fewer
        device = None if like is None else like.device
        value = np.asarray(value) if isinstance(value, (list, tuple)) else value
        if isinstance(value, np.ndarray) and not torch.compiler.is_compiling():
            value = _readable(value)
        value = torch.as_tensor(value, dtype=digits, device=device)
    if value.layout is not torch.strided:
        raise TypeError(say.layout(name, f"layout {value.layout}"))
    if not anywhere and value.device.type not in ("cpu", "cuda", "meta"):
        raise TypeError(say.filter_device(name, value.device))
    if value.is_floating_point() or value.is_complex():
        is_half = value.dtype in (torch.float16, torch.bfloat16)
        return value.float() if is_half and name not in ("x", "y", "grad_y", "a") else value
    return value.to(torch.get_default_dtype() if name in ("x", "y", "grad_y") else torch.float64)


def _readable(array):
    """Return an array's numbers in one that torch takes, and does not warn that it must not write to.

    torch's operators crash on what is not aligned to a whole element: github.com/pytorch/pytorch/issues/190043.
    """
    is_aligned = all(n >= 0 and n % array.itemsize == 0 for n in (array.ctypes.data, *array.strides))
    if array.flags.writeable and array.dtype.isnative and is_aligned:
        return array
    return np.array(array, array.dtype.newbyteorder("="), order="C")


def check_out(out, x, operands):
    if not isinstance(out, torch.Tensor):
        raise TypeError(say.out_type(type(out)))
    arguments.check_out(out, x.shape, x.dtype, enumerate(operands))
    return out


# ---- In memory, and fake --------------------------------------------------------------------------------------------


def _wide(x, *others):
    """Return the dtype of states and of cotangents: float64, complex if one operand is."""
    is_complex = any(v is not None and v.is_complex() for v in (x, *others))
    return torch.complex128 if is_complex else torch.float64


def _signal(x, *others):
    return torch.promote_types(x.dtype, torch.complex64) if _wide(x, *others).is_complex else x.dtype


def _sections(sos, poles, x):
    """Return coefficients as kernels and tables take them: bfloat16, of which NumPy has the bits, if they vary."""
    sos = numpy_of(sos.float() if sos.dtype is torch.bfloat16 and sos.ndim < x.ndim + 2 else sos)
    if not poles:
        check_a0(sos)
    return sos


def _read(value, result):
    """Return a signal's array; of bfloat16, of which NumPy has the bits, in float32 where the result is complex."""
    return numpy_of(value.float() if value.dtype is torch.bfloat16 and result.is_complex() else value)


def _run_forward(x, sos, zi, lengths, axis, reverse, poles):
    y, coefficients = empty_like(x, _signal(x, zi)), _sections(sos, poles, x)
    lengths = None if lengths is None else lengths_of(lengths, tuple(x.shape), axis)
    with _threads.lent(team()):
        zf = _host.forward(_read(x, y), coefficients, numpy_of(zi), axis, reverse, lengths, numpy_of(y), poles)
    return y, torch.from_numpy(np.ascontiguousarray(zf))


def _run_backward(g, grad_zf, x, sos, zi, lengths, axis, reverse, poles):
    grad_x = empty_like(x, _signal(x, g, zi, grad_zf))
    given = [_read(v, grad_x) for v in (g, x)]
    lengths = None if lengths is None else lengths_of(lengths, tuple(x.shape), axis)
    with _threads.lent(team()):
        rest = numpy_of(zi), numpy_of(grad_zf), axis, reverse, lengths, numpy_of(grad_x), poles
        grad_sos, grad_zi = _host.vjp(*given, _sections(sos, poles, x), *rest)
    grad_x = grad_x if x.is_complex() or not grad_x.is_complex() else grad_x.real.clone()
    grad_zi = torch.from_numpy(np.ascontiguousarray(grad_zi))
    if zi is not None:
        grad_zi = like(grad_zi, zi).clone()
    return grad_x, torch.from_numpy(np.ascontiguousarray(grad_sos)).to(sos.dtype), grad_zi


def _fake_forward(x, sos, zi, lengths, axis, reverse, poles):
    shape = state_shape(sos.shape, x.shape, axis, poles)
    return torch.empty_like(x, dtype=_signal(x, zi)), x.new_empty(shape, dtype=_wide(x, zi))


def _fake_backward(g, grad_zf, x, sos, zi, lengths, axis, reverse, poles):
    shape = state_shape(sos.shape, x.shape, axis, poles)
    grad_zi = x.new_empty(shape, dtype=_wide(x, g, zi, grad_zf)) if zi is None else zi.new_empty(zi.shape)
    return torch.empty_like(x), sos.new_empty(sos.shape), grad_zi


# ---- On a GPU -------------------------------------------------------------------------------------------------------


def _on_gpu(x, sos, zi, lengths, axis, reverse, poles):
    from ..._cuda import filters as device

    dtype, wide = _signal(x, zi), _wide(x, zi)
    y, zi = torch.empty_like(x, dtype=dtype), None if zi is None else zi.to(wide)
    x, sos, zi = (v if v is None else v.detach().resolve_conj().resolve_neg() for v in (x.to(dtype), sos, zi))
    return y, device.from_tensors(x, sos, zi, lengths, axis, reverse, poles, y)


# ---- Derivatives ----------------------------------------------------------------------------------------------------


def _composed(g, grad_zf, x, sos, zi, lengths, axis, reverse):
    """Do what `sosfilt_backward` does, of filters and sums that have derivatives themselves."""
    wide, count, series = _wide(x, g, zi, grad_zf), sos.shape[-2], x.shape[:axis] + x.shape[axis + 1 :]
    full = state_shape(sos.shape, tuple(x.shape), axis)
    first, last = (x.new_zeros(full, dtype=wide) if v is None else v.to(wide).expand(full) for v in (zi, grad_zf))
    place, steps = _counts(x, lengths, axis)
    valid, coefficients, g, grads, firsts = steps < place, sos.double(), g.to(wide), [], []
    signals = [x.to(wide) if lengths is None else torch.where(valid, x, 0).to(wide)]
    for s in range(count):
        scan = coefficients.narrow(-2, s, 1), first[s : s + 1], lengths, axis, reverse, False
        signals.append(_forward(signals[s], *scan)[0])
    for s in range(count - 1, -1, -1):
        signal = last[s], *signals[s : s + 2], coefficients.select(-2, s), lengths
        g, grad, before = _section_back(g, *signal, place, valid, axis, reverse)
        grads.append(grad)
        firsts.append(before)
    grad_sos = torch.stack(grads[::-1], -2)
    grad_sos = grad_sos.sum(tuple(range(len(series)))) if sos.dim() == 2 else grad_sos.sum_to_size(sos.shape)
    grad_zi = torch.stack(firsts[::-1])
    grad_x = g if x.is_complex() or not g.is_complex() else g.real
    return grad_x.to(x.dtype), grad_sos.to(sos.dtype), grad_zi if zi is None else like(grad_zi, zi)


def _counts(x, lengths, axis):
    """Return how many steps each series has, with 1 in place of time, and the steps, along its axis."""
    count = torch.full((), x.shape[axis], device=x.device) if lengths is None else lengths.to(torch.int64)
    return ends_of(x, count, axis).expand(*x.shape[:axis], 1, *x.shape[axis + 1 :]), steps_of(x, axis)


def _section_back(g, last, v, y, k, lengths, place, valid, axis, reverse):
    """Return the cotangents of a section's input, of its coefficients for each series, and of its first state.

    Those of its output, with all that comes of it, are the output of its poles against time; those of its states are
    that output one step later, two, and so on.
    """
    order, steps, varies = k.shape[-1] // 2 - 1, g.shape[axis], k.dim() > g.dim()
    fields = [c if k.dim() == 1 or varies else c.unsqueeze(axis) for c in k.unbind(-1)]
    ends, b, poles = last.split(1, axis), fields[: order + 1], k.narrow(-1, order + 2, order).unsqueeze(-2)
    e = _forward(g, poles, last.unsqueeze(0), lengths, axis, not reverse, True)[0]
    if reverse:  # the scan ends at the first step, and each series has begun at its own last one
        e = torch.cat([*ends[::-1], e], axis)
        before = e.gather(axis, torch.cat([place + n for n in range(order - 1, -1, -1)], axis))
    else:
        e = torch.cat([e, torch.zeros_like(last)], axis)
        e = e.scatter(axis, torch.cat([place + n for n in range(order)], axis), last)
        before = e.narrow(axis, 0, order)
    later = [e.narrow(axis, order - n if reverse else n, steps) * valid for n in range(order + 1)]

    def product(one, other):
        found = one * other.conj_physical()
        found = found.real if found.is_complex() else found
        return found if varies else found.sum(axis)

    of_b, of_a = [product(own, v) for own in later], [-product(own, y) for own in later[1:]]
    grads = torch.stack([*of_b, torch.zeros_like(of_b[0]), *of_a], -1)
    return sum(c * own for c, own in zip(b, later, strict=True)), grads, before


def _composed_poles(g, grad_zf, y, sos, zi, lengths, axis, reverse):
    """Do what `_composed` does of poles alone, whose output is ``y``: in the order of the scan."""
    order, wide, steps = sos.shape[-1], _wide(y, g, zi, grad_zf), y.shape[axis]
    full = state_shape(sos.shape, tuple(y.shape), axis, poles=True)
    past, last = (
        y.new_zeros(full[1:], dtype=wide) if v is None else v[0].to(wide).expand(full[1:]) for v in (zi, grad_zf)
    )
    (place, step), varies = _counts(y, lengths, axis), sos.dim() == y.dim() + 2

    def turned(v):
        v = v.expand(y.shape)
        v = v.gather(axis, (place - 1 - step).clip(0)) if reverse else v
        return torch.where(step < place, v, 0)

    def with_zeros(before, v, behind):
        parts = (v.new_zeros(*v.shape[:axis], n, *v.shape[axis + 1 :]) for n in (before, behind))
        return torch.cat([next(parts), v, *parts], axis)

    each = [
        c if sos.dim() == 2 else turned(c) if varies else c.unsqueeze(axis)
        for c in sos.select(-2, 0).double().unbind(-1)
    ]
    g, outputs = with_zeros(order, turned(g.to(wide)), 0), torch.cat([past.flip(axis), turned(y.to(wide))], axis)
    g = g.scatter_add(axis, torch.cat([place + n for n in range(order - 1, -1, -1)], axis), last)
    later = sos
    if varies:  # the adjoint multiplies by those of later steps
        later = [with_zeros(0, c, k).narrow(axis, k, steps) for k, c in enumerate(each, 1)]
        later = torch.stack(later, -1).unsqueeze(-2)
    e = _forward(g.narrow(axis, order, steps), later, None, lengths, axis, True, True)[0]
    grads = []
    for k, c in enumerate(each, 1):
        grad = -(e * outputs.narrow(axis, order - k, steps).conj_physical())
        grads.append(grad.real if grad.is_complex() else grad)
        g = g - with_zeros(order - k, c * e, k)
    grads = torch.stack([turned(grad) for grad in grads] if varies else [grad.sum(axis) for grad in grads], -1)
    grad_sos = grads.sum_to_size(sos.shape[:-2] + sos.shape[-1:]).unsqueeze(-2)
    grad_zi = g.narrow(axis, 0, order).flip(axis).unsqueeze(0)
    grad_y = turned(e)
    return grad_y.to(_signal(y, g)), grad_sos.to(sos.dtype), grad_zi if zi is None else like(grad_zi, zi)


def _adjoint(*arguments):
    *given, poles = arguments
    return (_composed_poles if poles else _composed)(*given)


class _Sosfilt(autograd.Rules):
    @staticmethod
    def setup(ctx, inputs, output):
        x, *tensors, ctx.axis, ctx.reverse, ctx.poles = inputs
        ctx.is_complex = x.is_complex()
        ctx.save_for_backward(output[0] if ctx.poles else x, *tensors)  # what the gradient reads

    @staticmethod
    def gradients(ctx, needs, g, grad_zf):
        x, sos, zi, lengths = ctx.saved_tensors
        if g is None:
            g = torch.zeros_like(x, dtype=_signal(x, zi))
        grad_x, *grads = _backward(g, grad_zf, x, sos, zi, lengths, ctx.axis, ctx.reverse, ctx.poles)
        return grad_x.real if grad_x.is_complex() and not ctx.is_complex else grad_x, *grads


# ---- The operators ---------------------------------------------------------------------------------------------------


def _batched(info, dims, x, sos, zi, lengths, axis, own):
    """Return operands with the batch as the first axis of the series; ``own`` is whether each has coefficients."""
    size = info.batch_size
    rank = x.dim() - (dims[0] is not None)
    had = sos.dim() - (dims[1] is not None)
    x, zi, lengths = (with_batch(v, dims[k], size, at) for v, k, at in ((x, 0, 0), (zi, 2, 1), (lengths, 3, 0)))
    if own or dims[1] is not None or had > 2:
        sos = with_batch(sos, dims[1], size, 0)
        if had == 2:
            sos = sos.reshape(size, *(1,) * (rank - 1), *sos.shape[1:])
    return x, sos, zi, lengths, axis + 1


def _vmap_forward(_, info, dims, x, sos, zi, lengths, axis, *scan):
    *operands, axis = _batched(info, dims, x, sos, zi, lengths, axis, own=False)
    return _forward(*operands, axis, *scan), (0, 1)


def _vmap_backward(_, info, dims, g, grad_zf, x, sos, zi, lengths, axis, *scan):
    had = sos.shape if dims[3] is None else sos.movedim(dims[3], 0).shape[1:]
    *operands, axis = _batched(info, dims[2:6], x, sos, zi, lengths, axis, own=True)
    g, grad_zf = (with_batch(v, dims[k], info.batch_size, k) for k, v in enumerate((g, grad_zf)))
    grad_x, grad_sos, grad_zi = _backward(g, grad_zf, *operands, axis, *scan)
    return (grad_x, grad_sos.reshape(info.batch_size, *had), grad_zi), (0, 0, 1)


_ARGUMENTS = "Tensor x, Tensor sos, Tensor? zi, Tensor? lengths, int axis, bool reverse, bool poles"
_forward = autograd.operator(
    f"sosfilt({_ARGUMENTS}) -> (Tensor, Tensor)",
    _fake_forward, cpu=_run_forward, cuda=_on_gpu, rules=_Sosfilt, vmap=_vmap_forward,
)  # fmt: skip
_backward = autograd.operator(  # on a GPU of all signals between sections, in memory
    f"sosfilt_backward(Tensor grad_y, Tensor? grad_zf, {_ARGUMENTS}) -> (Tensor, Tensor, Tensor)",
    _fake_backward, cpu=_run_backward, cuda=anywhere(_fake_backward, _adjoint), composed=_adjoint, vmap=_vmap_backward,
)  # fmt: skip
