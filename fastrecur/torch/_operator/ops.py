"""The recurrences as torch's dispatcher sees them: what runs them where, and their derivatives.

Each has an operator, and one for its gradients. Each result is fresh memory, laid out as torch's own operators lay
theirs out. The adjoint of a linear recurrence is one in the other direction, so there are derivatives of every order: a
tangent of the states is a recurrence over the tangents of single steps, and derivatives of the gradients are those of
what the kernels compute, made of a recurrence (`along_time.adjoint`).
"""

import functools
from typing import Any

import torch

from ..._arguments import checks, messages as say
from ..._plan.problem import FORGET, LINEAR
from . import along_time, autograd, composed, internals, tensors
from .along_time import lanes, or_empty
from .autograd import nothing, with_batch

NAMES = {FORGET: "forget_mult", LINEAR: "linear_recurrence"}
OPTIONS = "Tensor? lengths, Tensor? offsets, Tensor? resets, int axis, bool reverse, ScalarType dtype"

FORWARD: dict[str, Any] = {}  # of families, the operators
VJP: dict[str, Any] = {}


def forward(family, a, b, h0, lengths, *options):
    """Run a recurrence: ``(a, b, h0, lengths, axis, reverse, dtype) -> (h, h_last)``."""
    return FORWARD[family](a, b, h0, *checks.parts(lengths), *options)


def vjp(family, g, a, b, h, h0, grad_last, lengths, *options):
    """Run its adjoint, of ``(g, a, b, h, h0, grad_last, lengths, axis, reverse, dtype, want_a, want_b, want_h0)``."""
    # To ``(grad_a, grad_b, grad_h0)``, with an empty tensor for what is not wanted.
    return VJP[family](g, a, b, h, h0, grad_last, *checks.parts(lengths), *options)


# ---- In memory, on a GPU, and fake -----------------------------------------------------------------------------------


def _forward(family, *arguments):
    return tensors.forward(family, *arguments, True)


def _vjp(family, g, *arguments):
    *arguments, want_a, want_b, want_h0 = arguments
    return or_empty(g, tensors.vjp(family, g, *arguments, (want_a, want_b, want_h0)))


def _forward_cuda(family, a, b, *arguments):
    from . import device_tensors

    layout = tensors.layout(torch.broadcast_shapes(a.shape, b.shape), *(v for v in (b, a) if v.dim()))
    return device_tensors.forward(family, a, b, *arguments, True, layout)


def _vjp_cuda(family, g, a, b, h, *arguments):
    from . import device_tensors

    *arguments, want_a, want_b, want_h0 = arguments
    shape, wanted = torch.broadcast_shapes(a.shape, b.shape), (want_a, want_b, want_h0)
    layouts = tuple(tensors.layout(shape, v, h, g) if v.shape == shape else None for v in (a, b))
    return or_empty(g, device_tensors.vjp(family, g, a, b, h, *arguments, wanted, layouts=layouts))


def alike(shape, dtype, *prototypes):
    for tensor in prototypes:
        if tensors.is_full(tensor, shape):
            return torch.empty_like(tensor, dtype=dtype)
    return prototypes[0].new_empty(shape, dtype=dtype, device=composed.device_of(*prototypes))


def _forward_fake(family, a, b, h0, lengths, axis, reverse, dtype):
    shape = torch.broadcast_shapes(a.shape, b.shape)
    h = alike(shape, dtype, b, a)
    return h, h.new_empty(lanes(shape, axis, lengths))


def _vjp_fake(family, g, a, b, h, h0, grad_last, lengths, axis, reverse, dtype, *wanted):
    shape = torch.broadcast_shapes(a.shape, b.shape)
    return tuple(
        alike(v.shape, tensors.gradient_dtype(v, dtype), v, *((h, g) if v.shape == shape else ()))
        if is_wanted
        else g.new_empty(0)
        for v, is_wanted in zip((a, b, h0), wanted, strict=True)
    )


# ---- Derivatives -----------------------------------------------------------------------------------------------------


def _adjoint(family, g, a, b, h, h0, grad_last, lengths, axis, reverse, dtype, *wanted):
    """Do what the adjoint's operator does, such that all of it has derivatives: on any device, in float32 at least."""
    device, wide = composed.device_of(g, a, b, h), torch.float32 if dtype.itemsize < 4 else dtype
    operands = [v.to(device, torch.promote_types(v.dtype, wide)) for v in (a, b, h)]
    g, first, grad_last = (v if v is None else v.to(device) for v in (g, h0, grad_last))

    def run(q, source):
        return *forward(LINEAR, q, source, grad_last, lengths, axis, not reverse, wide), grad_last

    steps = family, axis, reverse, dtype, *operands, first, lengths
    *grads, grad_h0, _ = along_time.adjoint(steps, run, g.to(operands[-1].dtype), wanted)
    grads = zip((*grads, grad_h0), (a, b, h0), wanted, strict=True)
    found = (
        along_time.like(grad, v).to(v.device, tensors.gradient_dtype(v, dtype)) if is_wanted else None
        for grad, v, is_wanted in grads
    )
    return or_empty(g, found)


class _Forward(autograd.Rules):
    family: str

    @classmethod
    def setup(cls, ctx, inputs, output):
        """Keep what the gradients that are wanted read, and nothing else."""
        (a, b, h0, *ends, axis, reverse, dtype), (h, _) = inputs, output
        ctx.problem = cls.family, axis, reverse, dtype
        ctx.b_form = tensors.form(b)
        if getattr(ctx, "has_tangents", False):
            ctx.save_for_forward(a, b, h, h0, *ends)
        needs = ctx.needs_input_grad[-len(inputs) :]  # without what is needed of the way
        needs_b, needs_h = tensors.reads(cls.family, needs)
        b, h, h0 = b if needs_b else None, h if needs_h else None, h0 if needs_h or needs[2] else None
        ctx.save_for_backward(a, b, h, h0, *ends)

    @staticmethod
    def gradients(ctx, needs, grad_h, grad_last):
        a, b, h, h0, *ends = ctx.saved_tensors
        b = ctx.b_form if b is None else b
        return recorded_vjp(ctx.problem, grad_h, a, b, h, h0, grad_last, checks.split(*ends), needs[:3])

    @staticmethod
    def jvp(ctx, _way, a_dot, b_dot, h0_dot, *rest):
        """Return the tangents of h and h_last: a recurrence is linear in all but its gate."""
        a, b, h, h0, *ends = map(internals.primal, ctx.saved_tensors)
        (family, axis, reverse, dtype), lengths = ctx.problem, checks.split(*ends)
        with internals.with_forward_mode(True):
            source = nothing(h, h.shape, h.dtype)
            if b_dot is not None:
                source = source + (b_dot * a if family == FORGET else b_dot)
            if a_dot is not None:
                before = along_time.state_before(h, h0, lengths, axis, reverse)
                source = source + a_dot * (b - before if family == FORGET else before)
            return forward(LINEAR, along_time.decay(family, a, dtype), source, h0_dot, lengths, axis, reverse, dtype)


def recorded_vjp(problem, g, a, b, h, h0, grad_last, lengths, wanted):
    """Return the gradients that are wanted, through the dispatcher; g and h may be None, and b its form."""
    family, axis, reverse, dtype = problem
    if type(b) is tensors.Form:
        b = nothing(a, b.shape, b.dtype)
    shape = torch.broadcast_shapes(a.shape, b.shape)
    g, h = (nothing(a, shape, dtype) if v is None else v.expand(shape) for v in (g, h))
    grads = vjp(family, g, a, b, h, h0, grad_last, lengths, axis, reverse, dtype, *wanted)
    return tuple(grad if is_wanted else None for grad, is_wanted in zip(grads, wanted, strict=True))


# ---- The operators ---------------------------------------------------------------------------------------------------


def _forward_vmap(operator, info, in_dims, *arguments):
    """Take the batch for one more lane axis, the last."""
    a, b, h0, *ends, axis, reverse, dtype = arguments
    rank = max(v.dim() - (dim is not None) for v, dim in zip((a, b), in_dims[:2], strict=True))
    batched = in_dims[0] is not None or in_dims[1] is not None
    a, b, h0 = (with_batch(v, dim, 1, -1) for v, dim in zip((a, b, h0), in_dims[:3], strict=True))
    if not batched:
        b = b.expand(b.shape[:-1] + (info.batch_size,))
    lengths = _lengths_with_batch(ends, in_dims[3:], a, b, axis, rank)
    last = len(lanes(torch.broadcast_shapes(a.shape, b.shape), axis, lengths)) - 1
    return operator(a, b, h0, *checks.parts(lengths), axis, reverse, dtype), (rank, last)


def _vjp_vmap(operator, info, in_dims, *arguments):
    """Take the batch for one more lane axis, the last; each sample has gradients of its own."""
    *operands, lengths, offsets, resets, axis, reverse, dtype, want_a, want_b, want_h0 = arguments
    wanted, dims = (want_a, want_b, want_h0), in_dims[:6]
    rank = max(v.dim() - (dim is not None) for v, dim in zip(operands[1:3], dims[1:3], strict=True))
    operands = [with_batch(v, dim, info.batch_size, -1) for v, dim in zip(operands, dims, strict=True)]
    a, b, h0 = operands[1], operands[2], operands[4]
    ends = checks.parts(_lengths_with_batch((lengths, offsets, resets), in_dims[6:], a, b, axis, rank))
    grads = operator(*operands, *ends, axis, reverse, dtype, *wanted)
    return grads, tuple(v.dim() - 1 if is_wanted else None for v, is_wanted in zip((a, b, h0), wanted, strict=True))


def _lengths_with_batch(ends, dims, a, b, axis, rank):
    """Return lengths, offsets and resets for lanes that have the batch behind them."""
    (lengths, offsets, resets), (dim, of_offsets, of_resets) = ends, dims[:3]
    if of_offsets is not None:
        raise NotImplementedError(say.segments_batched())
    resets = resets if of_resets is None else _leading_with_batch(resets, of_resets, rank)
    if dim is not None:
        lengths = _leading_with_batch(lengths, dim, rank - 1)
    if lengths is not None and (dim is not None or not lengths.dim()):  # one series is as many as the batch has samples
        lengths = lengths.expand(lanes(torch.broadcast_shapes(a.shape, b.shape), axis, None))
    return checks.split(lengths, offsets, resets)


def _leading_with_batch(tensor, dim, rank):
    """Return what has the leading ones of so many axes, with the batch behind all of them."""
    tensor = tensor.movedim(dim, -1)
    return tensor.reshape(tuple(tensor.shape[:-1]) + (1,) * (rank + 1 - tensor.dim()) + tuple(tensor.shape[-1:]))


def kernel(run, family, place):
    """Return an operator's kernel of what takes lengths, offsets and resets, which begin at a place, as one."""

    def call(*arguments):
        lengths = checks.split(*arguments[place : place + 3])
        return run(family, *arguments[:place], lengths, *arguments[place + 3 :])

    return call


for _family, (_a, _b, _) in tensors.NAMES.items():
    _of = functools.partial(kernel, family=_family, place=3)
    FORWARD[_family] = autograd.operator(
        f"{NAMES[_family]}(Tensor {_a}, Tensor {_b}, Tensor? h0, {OPTIONS}) -> (Tensor, Tensor)",
        _of(_forward_fake), cpu=_of(_forward), cuda=_of(_forward_cuda), elsewhere=_of(composed.forward),
        vmap=_forward_vmap, rules=_Forward, family=_family,
    )  # fmt: skip
    _of = functools.partial(kernel, family=_family, place=6)
    VJP[_family] = autograd.operator(
        f"{NAMES[_family]}_backward(Tensor grad_h, Tensor {_a}, Tensor {_b}, Tensor h, Tensor? h0, Tensor? grad_last,"
        f" {OPTIONS}, bool want_{_a}, bool want_{_b}, bool want_h0) -> (Tensor, Tensor, Tensor)",
        _of(_vjp_fake), cpu=_of(_vjp), cuda=_of(_vjp_cuda), composed=_of(_adjoint), elsewhere=_of(_adjoint),
        vmap=_vjp_vmap,
    )  # fmt: skip
