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


def _on_host(value):
    """Return a tensor without dimensions that stands on the CPU, beside others on a GPU, as a number."""
    return value.item() if value is not None and value.is_cpu and not value.dim() else value


def _lengths_for_cuda(lengths):
    return lengths.numpy() if lengths is not None and lengths.is_cpu else lengths


def _forward_cuda(family, a, b, h0, lengths, axis, reverse, dtype):
    from .._cuda import _call

    h = _alike(torch.broadcast_shapes(a.shape, b.shape), dtype, *(v for v in (b, a) if v.dim()))
    a, b, h0 = map(_on_host, (a, b, h0))
    names, lengths = _tensors.NAMES[family], _lengths_for_cuda(lengths)
    return _call.forward(
        family, names, a, b, h0, axis, reverse, lengths, True, h, _tensors.DTYPES[dtype], is_fresh=True
    )


def _vjp_cuda(family, g, a, b, h, h0, grad_last, lengths, axis, reverse, dtype, *wanted):
    from .._cuda import _call

    shape = torch.broadcast_shapes(a.shape, b.shape)
    layouts = []
    for operand in (a, b):
        size = _tensors.gradient_dtype(operand, dtype).itemsize
        layout = _tensors.layout(shape, operand, h, g) if operand.shape == shape else None
        layouts.append(layout and tuple(size * stride for stride in layout))
    on_host = [_on_host(v) for v in (g, a, b, h, h0, grad_last)]
    g_, a_, b_, h_, h0_, last_ = on_host
    grads = _call.vjp(
        family, ("grad_h", *_tensors.NAMES[family][:2], "h"), g_, a_, b_, h_, h0_, axis, reverse,
        _lengths_for_cuda(lengths), last_, _tensors.DTYPES[dtype], tuple(layouts),
    )  # fmt: skip
    return tuple(
        grad.to(operand.device, _tensors.gradient_dtype(operand, dtype)) if is_wanted else g.new_empty(0)
        for grad, operand, is_wanted in zip(grads, (a, b, h0), wanted, strict=True)
    )


library.impl("forward", _forward, "CPU")
library.impl("vjp", _vjp, "CPU")
library.impl("forward", _forward_cuda, "CUDA")
library.impl("vjp", _vjp_cuda, "CUDA")
torch.library.register_fake("fastrecur::forward", _forward_fake, lib=library)
torch.library.register_fake("fastrecur::vjp", _vjp_fake, lib=library)
