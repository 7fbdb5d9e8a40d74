"""Derivatives: the adjoint of a linear recurrence is one in the other direction, so the family is closed.

For the scan direction ``h[t] = q[t]*h' + c[t]``, with ``h'`` the state before and ``q`` the decay (``a``, or
``1 - f``), the adjoint state is ``D[t] = g[t] + conj(q[t+1])*D[t+1]``, and

* a tangent of the states is the linear recurrence with ``q`` over the tangent of one step for a fixed ``h'``;
* the gradients are ``D`` times a step's own derivatives;
* a gradient of the gradients is again the linear recurrence ``E`` with ``q``, over what the cotangents make of one
  step, and elementwise work. `_Vjp.gradients` has it in full.

All is made of the operators and of torch's own, so every order of every derivative follows. The rules belong to
the operators (their autograd and vmap keys), so they hold for every graph that an operator stands in, however it came
there.
"""

import contextlib
import functools
from typing import Any, NamedTuple

import torch

from .. import _messages as say
from .._checks import Segments
from .._problem import FORGET, LINEAR
from . import _ops, _tensors
from . import _torch_internals as _internals
from ._along_time import decay, first_step, lanes, like, masked, state_before, step_after, valid_steps
from ._ops import forward, vjp


class _Rules(_internals.KernelFunction):  # type: ignore[misc]
    """An operator's autograd kernel, of its arguments behind the ``way`` on: family, keys, whether there are tangents.

    Where torch has not what such a kernel needs, `setup` and `gradients` are registered as for any custom operator.
    """

    @classmethod
    def run(cls, family, keyset, *arguments):
        tensors = [v for v in arguments if isinstance(v, torch.Tensor)]
        records = torch.is_grad_enabled() and any(v.requires_grad for v in tensors)
        has_tangents = _internals.may_have_tangents() and any(map(_internals.has_tangent, tensors))
        if not records and not has_tangents:
            with _internals.below_autograd():
                return cls.operators[family].redispatch(keyset & _internals.after_autograd, *arguments)
        with _internals.enable_one_level():
            return cls.apply((family, keyset, has_tangents), *arguments)

    @classmethod
    def forward(cls, ctx, way, *arguments):
        """Run the operator without recording here; levels further out record for themselves."""
        family, keyset, has_tangents = way
        with contextlib.ExitStack() as stack:
            if _internals.interpreter() is not None:
                stack.enter_context(torch.enable_grad())
                stack.enter_context(_internals.with_forward_mode(True))
            stack.enter_context(_internals.below_autograd())
            output = cls.operators[family].redispatch(keyset & _internals.after_autograd, *arguments)
        cls.setup(ctx, family, ctx.needs_input_grad[1:], arguments, output, has_tangents)
        return output

    @classmethod
    def backward(cls, ctx, *grads):
        """Return the gradients of the operator's arguments, behind that of the way."""
        return None, *cls.gradients(ctx, ctx.needs_input_grad[1:], *grads)

    @classmethod
    def register(cls, vmap):
        for family, operator in cls.operators.items():
            name = operator.name().partition(".")[0]
            if _internals.HAS_KERNELS:
                _ops.library.impl(operator, functools.partial(cls.run, family), "Autograd", with_keyset=True)
            else:
                torch.library.register_autograd(
                    name, lambda ctx, *grads: cls.gradients(ctx, ctx.needs_input_grad, *grads),
                    setup_context=functools.partial(cls._setup, family), lib=_ops.library,
                )  # fmt: skip
            torch.library.register_vmap(name, functools.partial(vmap, family), lib=_ops.library)

    @classmethod
    def _setup(cls, family, ctx, inputs, output):
        cls.setup(ctx, family, ctx.needs_input_grad, inputs, output, False)


class Steps(NamedTuple):
    """What a derivative is of: a recurrence, what its steps read, and the states ``h`` that they made."""

    family: str
    axis: int
    reverse: bool
    dtype: Any
    a: Any
    b: Any
    h: Any
    h0: Any
    lengths: Any


def _lengths(ends):
    """Return an operator's lengths, alone or with offsets and resets, as one."""
    return Segments(*ends) if len(ends) > 1 else ends[0]


class _Forward(_Rules):
    """A recurrence."""

    operators = _ops.FORWARD

    @staticmethod
    def setup(ctx, family, wanted, arguments, output, has_tangents):
        """Keep what the gradients that are wanted read, and nothing else."""
        (a, b, h0, *ends, axis, reverse, dtype), (h, _) = arguments, output
        ctx.problem = family, axis, reverse, dtype
        ctx.b_shape, ctx.b_dtype = b.shape, b.dtype
        ctx.set_materialize_grads(False)
        if has_tangents:
            ctx.save_for_forward(a, b, h, h0, *ends)
        ctx.save_for_backward(*_tensors.to_save(family, wanted, a, b, h, h0, *ends))

    @staticmethod
    def gradients(ctx, needed, grad_h, grad_last):
        """Return the gradients of a, b and h0."""
        wanted, rest = needed[:3], [None] * len(needed[3:])
        if (grad_h is None and grad_last is None) or not any(wanted):
            return None, None, None, *rest
        a, b, h, h0, *ends = ctx.saved_tensors
        form = ctx.b_shape, ctx.b_dtype
        grads = recorded_vjp(ctx.problem, grad_h, a, b, h, h0, grad_last, _lengths(ends), form, wanted)
        return *grads, *rest

    @staticmethod
    def jvp(ctx, _way, a_dot, b_dot, h0_dot, *rest):
        """Return the tangents of h and h_last."""
        a, b, h, h0, *ends = map(_internals.primal, ctx.saved_tensors)
        steps = Steps(*ctx.problem, a, b, h, h0, _lengths(ends))
        with _internals.with_forward_mode(True):
            return _tangents(steps, a_dot, b_dot, h0_dot)


def _tangents(steps, a_dot, b_dot, h0_dot):
    """Return the tangents of a recurrence's states: it is linear in all but its gate."""
    q, source = decay(steps.family, steps.a, steps.dtype), source_of(steps, a_dot, b_dot)
    return forward(LINEAR, q, source, h0_dot, steps.lengths, steps.axis, steps.reverse, steps.dtype)


def recorded_vjp(problem, g, a, b, h, h0, grad_last, lengths, b_form, wanted):
    """Return the gradients that are wanted, through the dispatcher; g, b and h may be left out, b with its form."""
    family, axis, reverse, dtype = problem
    if b is None:
        b = nothing(a, *b_form)
    if g is None or h is None:
        zeros = nothing(a, torch.broadcast_shapes(a.shape, b.shape), dtype)
        g, h = (zeros if v is None else v for v in (g, h))
    grads = vjp(family, g, a, b, h, h0, grad_last, lengths, axis, reverse, dtype, *wanted)
    return tuple(grad if is_wanted else None for grad, is_wanted in zip(grads, wanted, strict=True))


class _Vjp(_Rules):
    """A recurrence's adjoint."""

    operators = _ops.VJP

    @staticmethod
    def setup(ctx, family, wanted, arguments, output, has_tangents):
        """Keep all operands: each is in the gradient's gradient."""
        *operands, axis, reverse, dtype, want_a, want_b, want_h0 = arguments
        ctx.problem = family, axis, reverse, dtype
        ctx.wanted = want_a, want_b, want_h0
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(v for v, is_wanted in zip(output, ctx.wanted, strict=True) if not is_wanted))
        ctx.save_for_backward(*operands)
        if has_tangents:
            ctx.save_for_forward(*operands)

    @staticmethod
    def gradients(ctx, needed, v, u, w):
        """Return the gradients of g, a, b, h, h0 and grad_last for the cotangents of grad_a, grad_b and grad_h0.

        With ``s`` a step's derivative by ``a`` (``x - h'``, or ``h'``) and ``r`` that by ``b`` (``f``, or 1):
        ``E = q*E' + u*r + v*s`` from ``w`` on is the gradient of ``g``; ``conj(v)*D`` is that of ``s``; and
        ``conj(E')*D`` (of ``q``) and ``conj(u)*D`` (of ``r``) make up that of ``a``.
        """
        g, a, b, h, h0, grad_last, *ends = ctx.saved_tensors
        family, axis, reverse, dtype = ctx.problem
        v, u, w = (c if is_wanted else None for c, is_wanted in zip((v, u, w), ctx.wanted, strict=True))
        if v is None and u is None and w is None:
            return (None,) * len(needed)
        for_g, for_a, for_b, for_h, for_h0, for_last, *_ = needed
        q, lengths = decay(family, a, dtype), _lengths(ends)
        steps = Steps(family, axis, reverse, dtype, a, b, h, h0, lengths)
        source = source_of(steps, v, u)
        e, e_last = forward(LINEAR, q, source, w, lengths, axis, reverse, dtype)
        grad_q, d, _ = vjp(LINEAR, g, q, source, e, w, grad_last, lengths, axis, reverse, dtype, for_a, True, False)
        through = through_steps(steps, v, u, grad_q, d, (for_a, for_b, for_h, for_h0))
        to_g = like(e, g) if for_g else None
        to_last = like(e_last, grad_last) if for_last else None
        return to_g, *through, to_last, *[None] * len(needed[6:])

    @staticmethod
    def jvp(ctx, _way, g_dot, a_dot, b_dot, h_dot, h0_dot, last_dot, *rest):
        """Return the tangents of the gradients."""
        g, a, b, h, h0, grad_last, *ends = map(_internals.primal, ctx.saved_tensors)
        steps = Steps(*ctx.problem, a, b, h, h0, _lengths(ends))
        with _internals.with_forward_mode(True):
            d, d_dot, grad_h0 = _adjoint_tangents(steps, g, grad_last, g_dot, a_dot, last_dot, ctx.wanted[2])
            return *_gradient_tangents(steps, d, d_dot, a_dot, b_dot, h_dot, h0_dot, ctx.wanted), grad_h0


def source_of(steps, v, u):
    """Return ``u*r + v*s`` in `_Vjp.gradients`'s letters: what drives ``E``, or, of tangents, those of the states."""
    family, axis, reverse, _, a, b, h, h0, lengths = steps
    source = None
    if u is not None:
        source = u * a if family == FORGET else u
    if v is not None:
        before = state_before(h, h0, lengths, axis, reverse)
        source = _sum(source, v * (b - before if family == FORGET else before))
    return _full(source, h)


def through_steps(steps, v, u, grad_q, d, wanted):
    """Return the gradients of a, b, h and h0 that are wanted, of what each step makes of them."""
    family, axis, reverse, _, a, b, h, h0, lengths = steps
    is_forget, valid = family == FORGET, valid_steps(h, lengths, axis)
    for_a, for_b, for_h, for_h0 = wanted
    to_a = to_b = to_h = to_h0 = None
    if for_a:
        to_a = like(-grad_q if is_forget else grad_q, a)
        if is_forget and u is not None:
            to_a = to_a + like(masked(u.conj() * d, valid), a)
    if v is not None and (for_b or for_h or for_h0):
        to_s = masked(v.conj() * d, valid)
        to_b = like(to_s, b) if for_b and is_forget else None
        to_before = -to_s if is_forget else to_s
        to_h = like(step_after(to_before, lengths, axis, reverse), h) if for_h else None
        to_h0 = like(first_step(to_before, lengths, axis, reverse), h0) if for_h0 else None
    return to_a, to_b, to_h, to_h0


def _adjoint_tangents(steps, g, grad_last, g_dot, a_dot, last_dot, want_h0):
    """Return ``D``, its tangent, which is that of a recurrence in the other direction, and the tangent of grad_h0."""
    family, axis, reverse, dtype, a, _, h, h0, lengths = steps
    q, valid = decay(family, a, dtype), valid_steps(h, lengths, axis)
    zeros = nothing(g, h.shape, dtype)
    options = lengths, axis, reverse, dtype, False, True
    _, d, _ = vjp(LINEAR, g, q, zeros, zeros, None, grad_last, *options, False)
    source, through_q = g_dot, None
    if a_dot is not None:
        q_dot = -a_dot if family == FORGET else a_dot
        through_q = masked(q_dot.conj() * d, valid)
        source = _sum(source, step_after(through_q, lengths, axis, reverse))
    states = nothing(g, lanes(h.shape, axis, lengths), dtype)
    start = states if h0 is None else _full(h0, states)
    _, d_dot, first_dot = vjp(LINEAR, _full(source, h), q, zeros, zeros, start, last_dot, *options, want_h0)
    if not want_h0:
        return d, d_dot, None
    if through_q is not None:
        first_dot = first_dot + first_step(through_q, lengths, axis, reverse)
    return d, d_dot, like(first_dot, h0)


def _gradient_tangents(steps, d, d_dot, a_dot, b_dot, h_dot, h0_dot, wanted):
    """Return the tangents of the gradients of a and b that are wanted, of ``D`` and its tangent."""
    family, axis, reverse, dtype, a, b, h, h0, lengths = steps
    is_forget, valid = family == FORGET, valid_steps(h, lengths, axis)
    grad_a = grad_b = None
    if wanted[0]:
        before = state_before(h, h0, lengths, axis, reverse)
        before_dot = None
        if h_dot is not None or h0_dot is not None:
            h_dot = nothing(d, h.shape, dtype) if h_dot is None else h_dot
            before_dot = state_before(h_dot, h0_dot, lengths, axis, reverse)
        step = b - before if is_forget else before
        step_dot = before_dot
        if is_forget:
            step_dot = _sum(b_dot, None if before_dot is None else -before_dot)
        grad_a = d_dot * step.conj()
        if step_dot is not None:
            grad_a = grad_a + d * step_dot.conj()
        grad_a = like(masked(grad_a, valid), a)
    if wanted[1]:
        grad_b = d_dot
        if is_forget:
            grad_b = masked(a * d_dot if a_dot is None else a * d_dot + a_dot * d, valid)
        grad_b = like(grad_b, b)
    return grad_a, grad_b


# ---- vmap -----------------------------------------------------------------------------------------------------------


def _forward_vmap(family, info, in_dims, *arguments):
    """Take the batch for one more lane axis, the last."""
    a, b, h0, *ends, axis, reverse, dtype = arguments
    rank = max(_rank(a, in_dims[0]), _rank(b, in_dims[1]))
    batched = in_dims[0] is not None or in_dims[1] is not None
    a, b, h0 = (_with_batch(v, dim) for v, dim in zip((a, b, h0), in_dims[:3], strict=True))
    if not batched:
        b = b.expand(b.shape[:-1] + (info.batch_size,))
    lengths = _lengths_with_batch(ends, in_dims[3:], a, b, axis, rank)
    last = len(lanes(torch.broadcast_shapes(a.shape, b.shape), axis, lengths)) - 1
    return forward(family, a, b, h0, lengths, axis, reverse, dtype), (rank, last)


def _vjp_vmap(family, info, in_dims, *arguments):
    """Take the batch for one more lane axis, the last; each sample has gradients of its own."""
    g, a, b, h, h0, grad_last, *ends, axis, reverse, dtype, want_a, want_b, want_h0 = arguments
    wanted = want_a, want_b, want_h0
    operands, dims = (g, a, b, h, h0, grad_last), in_dims[:6]
    rank = max(_rank(a, dims[1]), _rank(b, dims[2]))
    g, a, b, h, h0, grad_last = (_with_batch(v, dim, info.batch_size) for v, dim in zip(operands, dims, strict=True))
    lengths = _lengths_with_batch(ends, in_dims[6:], a, b, axis, rank)
    grads = vjp(family, g, a, b, h, h0, grad_last, lengths, axis, reverse, dtype, *wanted)
    return grads, tuple(v.dim() - 1 if is_wanted else None for v, is_wanted in zip((a, b, h0), wanted, strict=True))


class _ForwardSegments(_Forward):
    operators = _ops.FORWARD_SEGMENTS


class _VjpSegments(_Vjp):
    operators = _ops.VJP_SEGMENTS


for _rules in (_Forward, _ForwardSegments):
    _rules.register(_forward_vmap)
for _rules in (_Vjp, _VjpSegments):
    _rules.register(_vjp_vmap)


# ---- Small parts ----------------------------------------------------------------------------------------------------


def nothing(like, shape, dtype):
    """Return zeros of a shape that take no memory."""
    return like.new_zeros((), dtype=dtype).expand(shape)


def _sum(one, other):
    return other if one is None else one if other is None else one + other


def _full(array, like):
    """Return an array (None: zeros) in the shape of another."""
    return nothing(like, like.shape, like.dtype) if array is None else array.expand(like.shape)


def _rank(tensor, dim):
    return tensor.dim() - (dim is not None)


def _with_batch(tensor, dim, size=1):
    """Return an operand with the batch behind all other axes; where it has none, so many times itself."""
    if tensor is None:
        return None
    return tensor.unsqueeze(-1).expand(*tensor.shape, size) if dim is None else tensor.movedim(dim, -1)


def _lengths_with_batch(ends, dims, a, b, axis, rank):
    """Return lengths, offsets and resets for lanes that have the batch behind them."""
    lengths, dim = ends[0], dims[0]
    if len(ends) > 1:
        _, offsets, resets = ends
        if dims[1] is not None:
            raise NotImplementedError(say.segments_batched())
        lengths = _lengths_with_batch(ends[:1], dims, a, b, axis, rank)
        return Segments(lengths, offsets, resets if dims[2] is None else _leading_with_batch(resets, dims[2], rank))
    if lengths is None or (dim is None and lengths.dim()):
        return lengths
    shape = torch.broadcast_shapes(a.shape, b.shape)
    lane_shape = shape[:axis] + shape[axis + 1 :]
    if dim is None:  # one series has become as many as the batch has samples
        return lengths.expand(lane_shape)
    lengths = _leading_with_batch(lengths, dim, rank - 1)
    return lengths.expand(lane_shape[:-1] + tuple(lengths.shape[-1:]))


def _leading_with_batch(tensor, dim, rank):
    """Return what has the leading ones of so many axes, with the batch behind all of them."""
    tensor = tensor.movedim(dim, -1)
    return tensor.reshape(tuple(tensor.shape[:-1]) + (1,) * (rank + 1 - tensor.dim()) + tuple(tensor.shape[-1:]))
