"""Run a problem on CUDA tensors: what `tensors` is for those of the CPU."""

import torch

from ..._arguments import checks
from ..._cuda import call
from . import tensors


def _on_host(value):
    """Return a tensor without dimensions that stands on the CPU, beside others on a GPU, as a number."""
    return value.item() if isinstance(value, torch.Tensor) and value.is_cpu and not value.dim() else value


def _ends(lengths):
    """Return lengths, offsets and resets, those on the CPU as NumPy's."""
    return checks.split(*(v.numpy() if v is not None and v.is_cpu else v for v in checks.parts(lengths)))


def forward(family, a, b, h0, lengths, axis, reverse, dtype, return_state, fresh=None):
    """Run a recurrence; return the states and, if asked for, the last one."""
    # ``fresh`` are the strides of the states, in elements; None to choose them.
    own = tensors.DTYPES[dtype]
    if fresh is not None:
        fresh = own, tensors.result_shape(family, a, b), tuple(own.itemsize * stride for stride in fresh)
    a, b, h0 = map(_on_host, (a, b, h0))
    result = call.forward(
        family, tensors.NAMES[family], a, b, h0, axis, reverse, _ends(lengths), return_state, None, own, fresh
    )
    return result if return_state else (result, None)


def vjp(family, g, a, b, h, h0, grad_last, lengths, *options, layouts=(None, None)):
    """Run a recurrence's adjoint; return the gradients of a, b and h0 that are wanted, None for the others."""
    # What may be None is as in `tensors.vjp`. ``layouts`` are the strides of fresh gradients of a and b, in elements;
    # None to choose them.
    (axis, reverse, dtype, wanted), operands = options, (a, b, h0)
    if h is None or type(b) is tensors.Form:
        # The kernel reads all operands. Of one number at every step it makes what nobody wants, and no traffic.
        shape, number = tensors.result_shape(family, a, b), g
        if g is None:
            device = next(v for v in (a, h0, grad_last) if isinstance(v, torch.Tensor)).device
            number = torch.zeros((), dtype=dtype, device=device)
        h = number.as_strided(shape, (0,) * len(shape)) if h is None else h
        b = number.as_strided(b.shape, (0,) * len(b.shape)) if type(b) is tensors.Form else b
    sizes = [tensors.gradient_dtype(v, dtype).itemsize for v in operands[:2]]
    layouts = tuple(
        strides and tuple(size * stride for stride in strides) for size, strides in zip(sizes, layouts, strict=True)
    )
    g, a, b, h, h0, grad_last = map(_on_host, (0.0 if g is None else g, a, b, h, h0, grad_last))
    names = "grad_h", *tensors.NAMES[family][:2], "h"
    grads = call.vjp(
        family, names, g, a, b, h, h0, axis, reverse, _ends(lengths), grad_last, tensors.DTYPES[dtype], layouts
    )
    return tuple(
        _own(grad, operand, dtype) if is_wanted else None
        for grad, operand, is_wanted in zip(grads, operands, wanted, strict=True)
    )


def _own(grad, operand, dtype):
    """Return a gradient in its operand's dtype, where the operand is."""
    own = tensors.gradient_dtype(operand, dtype)
    device = getattr(operand, "device", grad.device)
    if grad.is_complex() and not own.is_complex:
        grad = grad.real
    return grad if grad.dtype is own and grad.device == device else grad.to(device, own)
