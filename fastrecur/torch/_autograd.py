"""Derivatives: the adjoint of a linear recurrence is one in the other direction, so the family is closed.

For the scan direction ``h[t] = q[t]*h' + c[t]``, with ``h'`` the state before and ``q`` the decay (``a``, or
``1 - f``), the adjoint state is ``D[t] = g[t] + conj(q[t+1])*D[t+1]``, and

* a tangent of the states is the linear recurrence with ``q`` over the tangent of one step for a fixed ``h'``;
* the gradients are ``D`` times a step's own derivatives;
* a gradient of the gradients is again the linear recurrence ``E`` with ``q``, over what the cotangents make of one
  step, and elementwise work. `_Vjp.backward` has it in full.

All is made of the two operators and of torch's own, so every order of every derivative follows. The rules belong to
the operators (their autograd and vmap keys), so they hold for every graph that an operator stands in, however it came
there.
"""

import contextlib
from typing import Any, NamedTuple

import torch
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad as _forward_ad
from torch.autograd.function import _SingleLevelFunction

from .._problem import FORGET, LINEAR
from . import _ops, _tensors
from ._ops import forward, vjp


class _Rules(_SingleLevelFunction):
    """An operator's autograd kernel, of its ``arguments`` behind the ``way`` on: keys, and whether there are tangents.

    One level of functorch is all that a kernel sees, so it is not a `torch.autograd.Function`, which sees to them all.
    """

    @classmethod
    def run(cls, keyset, *arguments):
        tensors = [v for v in arguments if isinstance(v, torch.Tensor)]
        records = torch.is_grad_enabled() and any(v.requires_grad for v in tensors)
        has_tangents = _may_have_tangents() and any(map(_has_tangent, tensors))
        if not records and not has_tangents:
            with torch._C._AutoDispatchBelowAutograd():
                return cls.operator.redispatch(keyset & torch._C._after_autograd_keyset, *arguments)
        with enable_single_level_autograd_function():
            return cls.apply((keyset, has_tangents), *arguments)

    @classmethod
    def below(cls, keyset, arguments):
        """Run the operator without recording here; levels further out record for themselves."""
        with contextlib.ExitStack() as stack:
            if torch._C._functorch.peek_interpreter_stack() is not None:
                stack.enter_context(torch.enable_grad())
                stack.enter_context(_forward_ad._set_fwd_grad_enabled(True))
            stack.enter_context(torch._C._AutoDispatchBelowAutograd())
            return cls.operator.redispatch(keyset & torch._C._after_autograd_keyset, *arguments)


def _may_have_tangents():
    # The compiler enters levels unseen by `torch.autograd.forward_ad`, but inside a transform.
    is_entered = _forward_ad._current_level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None
    return is_entered and torch._C._is_fwd_grad_enabled()


def _has_tangent(tensor):
    return torch._VF._unpack_dual(tensor, level=0)[1] is not None


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


class _Forward(_Rules):
    """A recurrence: ``(family, a, b, h0, lengths, axis, reverse, dtype) -> (h, h_last)``."""

    operator = forward

    @staticmethod
    def forward(ctx, way, *arguments):
        """Run the operator; keep what the gradients that are wanted read, and nothing else."""
        (keyset, has_tangents), (family, a, b, h0, lengths, axis, reverse, dtype) = way, arguments
        output = h, _ = _Forward.below(keyset, arguments)
        wanted = ctx.needs_input_grad[2:5]
        needs_b, needs_h = _tensors.reads(family, wanted)
        ctx.problem = family, axis, reverse, dtype
        ctx.b_shape, ctx.b_dtype = b.shape, b.dtype
        ctx.set_materialize_grads(False)
        if has_tangents:
            ctx.save_for_forward(a, b, h, h0, lengths)
        ctx.save_for_backward(
            a, b if needs_b else None, h if needs_h else None, h0 if needs_h or wanted[2] else None, lengths
        )
        return output

    @staticmethod
    def backward(ctx, grad_h, grad_last):
        """Return the gradients of a, b and h0."""
        wanted = ctx.needs_input_grad[2:5]
        if (grad_h is None and grad_last is None) or not any(wanted):
            return (None,) * 9
        a, b, h, h0, lengths = ctx.saved_tensors
        family, axis, reverse, dtype = ctx.problem
        if b is None:
            b = _nothing(a, ctx.b_shape, ctx.b_dtype)
        if h is None or grad_h is None:
            zeros = _nothing(a, torch.broadcast_shapes(a.shape, ctx.b_shape), dtype)
            h = zeros if h is None else h
            grad_h = zeros if grad_h is None else grad_h
        grads = vjp(family, grad_h, a, b, h, h0, grad_last, lengths, axis, reverse, dtype, *wanted)
        grads = (grad if is_wanted else None for grad, is_wanted in zip(grads, wanted, strict=True))
        return None, None, *grads, *(None,) * 4

    @staticmethod
    def jvp(ctx, _way, _family, a_dot, b_dot, h0_dot, *rest):
        """Return the tangents of h and h_last."""
        steps = Steps(*ctx.problem, *map(_primal, ctx.saved_tensors))
        with _forward_ad._set_fwd_grad_enabled(True):
            return _tangents(steps, a_dot, b_dot, h0_dot)


def _tangents(steps, a_dot, b_dot, h0_dot):
    """Return the tangents of a recurrence's states: it is linear in all but its gate."""
    decay, source = _decay(steps.family, steps.a, steps.dtype), _source_of(steps, a_dot, b_dot)
    return forward(LINEAR, decay, source, h0_dot, steps.lengths, steps.axis, steps.reverse, steps.dtype)


class _Vjp(_Rules):
    """A recurrence's adjoint.

    ``(family, g, a, b, h, h0, grad_last, lengths, axis, reverse, dtype, want_a, want_b, want_h0) -> (grad_a, grad_b,
    grad_h0)``, with an empty tensor for what is not wanted.
    """

    operator = vjp

    @staticmethod
    def forward(ctx, way, *arguments):
        """Run the operator; keep all operands: each is in the gradient's gradient."""
        keyset, has_tangents = way
        family, g, a, b, h, h0, grad_last, lengths, axis, reverse, dtype, *wanted = arguments
        output = _Vjp.below(keyset, arguments)
        ctx.problem = family, axis, reverse, dtype
        ctx.wanted = tuple(wanted)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(grad for grad, is_wanted in zip(output, wanted, strict=True) if not is_wanted))
        ctx.save_for_backward(g, a, b, h, h0, grad_last, lengths)
        if has_tangents:
            ctx.save_for_forward(g, a, b, h, h0, grad_last, lengths)
        return output

    @staticmethod
    def backward(ctx, v, u, w):
        """Return the gradients of g, a, b, h, h0 and grad_last for the cotangents of grad_a, grad_b and grad_h0.

        With ``s`` a step's derivative by ``a`` (``x - h'``, or ``h'``) and ``r`` that by ``b`` (``f``, or 1):
        ``E = q*E' + u*r + v*s`` from ``w`` on is the gradient of ``g``; ``conj(v)*D`` is that of ``s``; and
        ``conj(E')*D`` (of ``q``) and ``conj(u)*D`` (of ``r``) make up that of ``a``.
        """
        g, a, b, h, h0, grad_last, lengths = ctx.saved_tensors
        family, axis, reverse, dtype = ctx.problem
        v, u, w = (c if is_wanted else None for c, is_wanted in zip((v, u, w), ctx.wanted, strict=True))
        if v is None and u is None and w is None:
            return (None,) * 15
        _, _, for_g, for_a, for_b, for_h, for_h0, for_last, *_ = ctx.needs_input_grad
        q = _decay(family, a, dtype)
        steps = Steps(family, axis, reverse, dtype, a, b, h, h0, lengths)
        source = _source_of(steps, v, u)
        e, e_last = forward(LINEAR, q, source, w, lengths, axis, reverse, dtype)
        grad_q, d, _ = vjp(LINEAR, g, q, source, e, w, grad_last, lengths, axis, reverse, dtype, for_a, True, False)
        through = _through_steps(steps, v, u, grad_q, d, (for_a, for_b, for_h, for_h0))
        to_g = _like(e, g) if for_g else None
        to_last = _like(e_last, grad_last) if for_last else None
        return None, None, to_g, *through, to_last, *(None,) * 7

    @staticmethod
    def jvp(ctx, _way, _family, g_dot, a_dot, b_dot, h_dot, h0_dot, last_dot, *rest):
        """Return the tangents of the gradients."""
        g, a, b, h, h0, grad_last, lengths = map(_primal, ctx.saved_tensors)
        steps = Steps(*ctx.problem, a, b, h, h0, lengths)
        with _forward_ad._set_fwd_grad_enabled(True):
            d, d_dot, grad_h0 = _adjoint_tangents(steps, g, grad_last, g_dot, a_dot, last_dot, ctx.wanted[2])
            return *_gradient_tangents(steps, d, d_dot, a_dot, b_dot, h_dot, h0_dot, ctx.wanted), grad_h0


def _source_of(steps, v, u):
    """Return ``u*r + v*s`` in `_Vjp.backward`'s letters: what drives ``E``, or, of tangents, those of the states."""
    family, axis, reverse, _, a, b, h, h0, lengths = steps
    source = None
    if u is not None:
        source = u * a if family == FORGET else u
    if v is not None:
        before = _before(h, h0, lengths, axis, reverse)
        source = _sum(source, v * (b - before if family == FORGET else before))
    return _full(source, h)


def _through_steps(steps, v, u, grad_q, d, wanted):
    """Return the gradients of a, b, h and h0 that are wanted, of what each step makes of them."""
    family, axis, reverse, _, a, b, h, h0, lengths = steps
    is_forget, valid = family == FORGET, _valid(h, lengths, axis)
    for_a, for_b, for_h, for_h0 = wanted
    to_a = to_b = to_h = to_h0 = None
    if for_a:
        to_a = _like(-grad_q if is_forget else grad_q, a)
        if is_forget and u is not None:
            to_a = to_a + _like(_masked(u.conj() * d, valid), a)
    if v is not None and (for_b or for_h or for_h0):
        to_s = _masked(v.conj() * d, valid)
        to_b = _like(to_s, b) if for_b and is_forget else None
        to_before = -to_s if is_forget else to_s
        to_h = _like(_shifted(to_before, None, valid, axis, not reverse), h) if for_h else None
        to_h0 = _like(_first(to_before, lengths, axis, reverse), h0) if for_h0 else None
    return to_a, to_b, to_h, to_h0


def _adjoint_tangents(steps, g, grad_last, g_dot, a_dot, last_dot, want_h0):
    """Return ``D``, its tangent, which is that of a recurrence in the other direction, and the tangent of grad_h0."""
    family, axis, reverse, dtype, a, _, h, h0, lengths = steps
    q, valid = _decay(family, a, dtype), _valid(h, lengths, axis)
    zeros = _nothing(g, h.shape, dtype)
    options = lengths, axis, reverse, dtype, False, True
    _, d, _ = vjp(LINEAR, g, q, zeros, zeros, None, grad_last, *options, False)
    source, through_q = g_dot, None
    if a_dot is not None:
        q_dot = -a_dot if family == FORGET else a_dot
        through_q = _masked(q_dot.conj() * d, valid)
        source = _sum(source, _shifted(through_q, None, valid, axis, not reverse))
    lanes = _nothing(g, h.shape[:axis] + h.shape[axis + 1 :], dtype)
    start = lanes if h0 is None else _full(h0, lanes)
    _, d_dot, first_dot = vjp(LINEAR, _full(source, h), q, zeros, zeros, start, last_dot, *options, want_h0)
    if not want_h0:
        return d, d_dot, None
    if through_q is not None:
        first_dot = first_dot + _first(through_q, lengths, axis, reverse)
    return d, d_dot, _like(first_dot, h0)


def _gradient_tangents(steps, d, d_dot, a_dot, b_dot, h_dot, h0_dot, wanted):
    """Return the tangents of the gradients of a and b that are wanted, of ``D`` and its tangent."""
    family, axis, reverse, dtype, a, b, h, h0, lengths = steps
    is_forget, valid = family == FORGET, _valid(h, lengths, axis)
    grad_a = grad_b = None
    if wanted[0]:
        before = _before(h, h0, lengths, axis, reverse)
        before_dot = None
        if h_dot is not None or h0_dot is not None:
            h_dot = _nothing(d, h.shape, dtype) if h_dot is None else h_dot
            before_dot = _before(h_dot, h0_dot, lengths, axis, reverse)
        step = b - before if is_forget else before
        step_dot = before_dot
        if is_forget:
            step_dot = _sum(b_dot, None if before_dot is None else -before_dot)
        grad_a = d_dot * step.conj()
        if step_dot is not None:
            grad_a = grad_a + d * step_dot.conj()
        grad_a = _like(_masked(grad_a, valid), a)
    if wanted[1]:
        grad_b = d_dot
        if is_forget:
            grad_b = _masked(a * d_dot if a_dot is None else a * d_dot + a_dot * d, valid)
        grad_b = _like(grad_b, b)
    return grad_a, grad_b


# ---- vmap -----------------------------------------------------------------------------------------------------------


def _forward_vmap(info, in_dims, family, a, b, h0, lengths, axis, reverse, dtype):
    """Take the batch for one more lane axis, the last."""
    rank = max(_rank(a, in_dims[1]), _rank(b, in_dims[2]))
    batched = in_dims[1] is not None or in_dims[2] is not None
    a, b, h0 = (_with_batch(v, dim) for v, dim in zip((a, b, h0), in_dims[1:4], strict=True))
    if not batched:
        b = b.expand(b.shape[:-1] + (info.batch_size,))
    lengths = _lengths_with_batch(lengths, in_dims[4], a, b, axis, rank)
    return forward(family, a, b, h0, lengths, axis, reverse, dtype), (rank, rank - 1)


def _vjp_vmap(info, in_dims, *arguments):
    """Take the batch for one more lane axis, the last; each sample has gradients of its own."""
    family, g, a, b, h, h0, grad_last, lengths, axis, reverse, dtype, *wanted = arguments
    operands, dims = (g, a, b, h, h0, grad_last), in_dims[1:7]
    rank = max(_rank(a, dims[1]), _rank(b, dims[2]))
    g, a, b, h, h0, grad_last = (_with_batch(v, dim, info.batch_size) for v, dim in zip(operands, dims, strict=True))
    lengths = _lengths_with_batch(lengths, in_dims[7], a, b, axis, rank)
    grads = vjp(family, g, a, b, h, h0, grad_last, lengths, axis, reverse, dtype, *wanted)
    return grads, tuple(v.dim() - 1 if is_wanted else None for v, is_wanted in zip((a, b, h0), wanted, strict=True))


for _rules, _vmap in ((_Forward, _forward_vmap), (_Vjp, _vjp_vmap)):
    _name = _rules.operator.name().partition(".")[0]
    _ops.library.impl(_rules.operator, _rules.run, "Autograd", with_keyset=True)
    torch.library.register_vmap(_name, _vmap, lib=_ops.library)


# ---- Along time -----------------------------------------------------------------------------------------------------


def _decay(family, a, dtype):
    """Return what a step multiplies the state by: ``1 - f`` exactly, or small gates would not forget."""
    return a if family == LINEAR else 1 - a.to(_tensors.WIDE[dtype])


def _steps(array, axis):
    """Return the numbers of the steps, along time."""
    steps = torch.arange(array.shape[axis], device=array.device)
    return steps.reshape((-1,) + (1,) * (array.dim() - 1 - axis))


def _ends(array, lengths, axis):
    """Return each lane's length along the axes of an array."""
    rest = array.dim() - 1 - lengths.dim()
    return lengths.reshape(tuple(lengths.shape) + (1,) * rest).unsqueeze(axis)


def _valid(array, lengths, axis):
    """Return which steps are; None: all."""
    return None if lengths is None else _steps(array, axis) < _ends(array, lengths, axis)


def _masked(array, valid):
    return array if valid is None else torch.where(valid, array, 0)


def _shifted(array, first, valid, axis, reverse):
    """Return each step's neighbour before it in the scan direction: ``first`` (None: zeros) for the first."""
    steps = array.shape[axis]
    if steps == 0:
        return array
    edge = torch.zeros_like(array.narrow(axis, 0, 1)) if first is None else first.unsqueeze(axis)
    body = array.narrow(axis, int(reverse), steps - 1)
    return _masked(torch.cat([body, edge] if reverse else [edge, body], axis), valid)


def _before(h, h0, lengths, axis, reverse):
    """Return the state before each step, in the scan direction."""
    h0 = h.new_zeros(h.shape[:axis] + h.shape[axis + 1 :]) if h0 is None else h0
    h0 = h0.to(h.dtype).expand(h.shape[:axis] + h.shape[axis + 1 :])
    before = _shifted(h, h0, None, axis, reverse)
    if lengths is None or not reverse:
        return before
    return torch.where(_steps(h, axis) == _ends(h, lengths, axis) - 1, h0.unsqueeze(axis), before)


def _first(array, lengths, axis, reverse):
    """Return the first valid step in the scan direction; zeros where there is none."""
    if array.shape[axis] == 0:
        return array.sum(axis)
    if lengths is None or not reverse:
        return array.select(axis, -1 if reverse else 0)
    return torch.where(_steps(array, axis) == _ends(array, lengths, axis) - 1, array, 0).sum(axis)


def _primal(tensor):
    """Return a tensor without its own tangent; torch itself leaves out the tangents of a function's tangents."""
    return None if tensor is None else torch._VF._unpack_dual(tensor, level=0)[0]


# ---- Small parts ----------------------------------------------------------------------------------------------------


def _nothing(like, shape, dtype):
    """Return zeros of a shape that take no memory."""
    return like.new_zeros((), dtype=dtype).expand(shape)


def _sum(one, other):
    return other if one is None else one if other is None else one + other


def _full(array, like):
    """Return an array (None: zeros) in the shape of another."""
    return _nothing(like, like.shape, like.dtype) if array is None else array.expand(like.shape)


def _like(grad, operand):
    """Return a gradient in its operand's shape and dtype."""
    if grad.is_complex() and not operand.is_complex():
        grad = grad.real
    return grad.sum_to_size(operand.shape).to(operand.dtype)


def _rank(tensor, dim):
    return tensor.dim() - (dim is not None)


def _with_batch(tensor, dim, size=1):
    """Return an operand with the batch behind all other axes; where it has none, so many times itself."""
    if tensor is None:
        return None
    return tensor.unsqueeze(-1).expand(*tensor.shape, size) if dim is None else tensor.movedim(dim, -1)


def _lengths_with_batch(lengths, dim, a, b, axis, rank):
    """Return lengths for lanes that have the batch behind them."""
    if lengths is None or (dim is None and lengths.dim()):
        return lengths
    shape = torch.broadcast_shapes(a.shape, b.shape)
    lanes = shape[:axis] + shape[axis + 1 :]
    if dim is None:  # one series has become as many as the batch has samples
        return lengths.expand(lanes)
    lengths = lengths.movedim(dim, -1)
    rest = rank - lengths.dim()
    lengths = lengths.reshape(tuple(lengths.shape[:-1]) + (1,) * rest + tuple(lengths.shape[-1:]))
    return lengths.expand(lanes[:-1] + tuple(lengths.shape[-1:]))
