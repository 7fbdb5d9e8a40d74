"""The operators as the dispatcher sees them: schemas, what runs them where, and what they are on fake and meta tensors.

Two operators serve both recurrences. Each result is fresh memory, laid out as torch's own operators lay theirs out.
"""

import torch

from . import _tensors

library = torch.library.Library("fastrecur", "DEF")
library.define(
    "forward(str family, Tensor a, Tensor b, Tensor? h0, Tensor? lengths, int axis, bool reverse, ScalarType dtype)"
    " -> (Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
library.define(
    "vjp(str family, Tensor g, Tensor a, Tensor b, Tensor h, Tensor? h0, Tensor? grad_last, Tensor? lengths, int axis,"
    " bool reverse, ScalarType dtype, bool want_a, bool want_b, bool want_h0) -> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
forward = torch.ops.fastrecur.forward.default
vjp = torch.ops.fastrecur.vjp.default


def _forward(family, a, b, h0, lengths, axis, reverse, dtype):
    return _tensors.forward(family, a, b, h0, lengths, axis, reverse, dtype, True)


def _vjp(family, g, a, b, h, h0, grad_last, lengths, axis, reverse, dtype, *wanted):
    grads = _tensors.vjp(family, g, a, b, h, h0, grad_last, lengths, axis, reverse, dtype, wanted)
    return tuple(g.new_empty(0) if grad is None else grad for grad in grads)


def _alike(shape, dtype, *prototypes):
    for tensor in prototypes:
        if _tensors.is_full(tensor, shape):
            return torch.empty_like(tensor, dtype=dtype)
    return prototypes[0].new_empty(shape, dtype=dtype)


def _forward_fake(family, a, b, h0, lengths, axis, reverse, dtype):
    shape = torch.broadcast_shapes(a.shape, b.shape)
    lanes = shape[:axis] + shape[axis + 1 :]
    return _alike(shape, dtype, b, a), b.new_empty(lanes, dtype=dtype)


def _vjp_fake(family, g, a, b, h, h0, grad_last, lengths, axis, reverse, dtype, *wanted):
    shape = torch.broadcast_shapes(a.shape, b.shape)
    grads = []
    for operand, is_wanted in zip((a, b), wanted, strict=False):
        if not is_wanted:
            grads.append(g.new_empty(0))
            continue
        own = _tensors.gradient_dtype(operand, dtype)
        if operand.shape == shape:
            grads.append(_alike(shape, own, operand, h, g))
        else:
            grads.append(operand.new_empty(operand.shape, dtype=own))
    if wanted[2]:
        grads.append(h0.new_empty(h0.shape, dtype=_tensors.gradient_dtype(h0, dtype)))
    else:
        grads.append(g.new_empty(0))
    return tuple(grads)


def _forward_cuda(family, a, b, h0, lengths, axis, reverse, dtype):
    from . import _device_tensors

    layout = _tensors.layout(torch.broadcast_shapes(a.shape, b.shape), *(v for v in (b, a) if v.dim()))
    return _device_tensors.forward(family, a, b, h0, lengths, axis, reverse, dtype, True, layout)


def _vjp_cuda(family, g, a, b, h, h0, grad_last, lengths, axis, reverse, dtype, *wanted):
    from . import _device_tensors

    shape = torch.broadcast_shapes(a.shape, b.shape)
    layouts = tuple(_tensors.layout(shape, v, h, g) if v.shape == shape else None for v in (a, b))
    grads = _device_tensors.vjp(family, g, a, b, h, h0, grad_last, lengths, axis, reverse, dtype, wanted, layouts)
    return tuple(g.new_empty(0) if grad is None else grad for grad in grads)


library.impl("forward", _forward, "CPU")
library.impl("vjp", _vjp, "CPU")
library.impl("forward", _forward_cuda, "CUDA")
library.impl("vjp", _vjp_cuda, "CUDA")
torch.library.register_fake("fastrecur::forward", _forward_fake, lib=library)
torch.library.register_fake("fastrecur::vjp", _vjp_fake, lib=library)
