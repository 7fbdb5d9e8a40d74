"""Derivatives of every order: the adjoint of a linear recurrence is one in the other direction.

A tangent of the states is a recurrence over the tangents of single steps, and derivatives of the gradients are those of
what the kernels compute, made of a recurrence: `along_time.adjoint`. The rules belong to the operators (their autograd
and vmap keys), so they hold for every graph that an operator stands in, however it came there.
"""

import contextlib
import functools
from typing import Any

import torch

from ..._arguments import checks, messages as say
from ..._plan.problem import FORGET, LINEAR
from . import internals, ops, tensors as _tensors
from .along_time import adjoint, decay, lanes, like, or_empty, state_before
from .ops import forward, vjp


class Rules(internals.KernelFunction):  # type: ignore[misc]
    """An operator's autograd kernel, of its arguments behind the ``way`` on: keys, and whether there are tangents.

    ``setup`` keeps what ``gradients`` reads, which returns those of leading arguments, where some are needed and not
    all cotangents are None. Where torch has not what such a kernel needs, both are registered as for any custom
    operator. Where there are tangents, and no `jvp`, what the operator is ``composed`` of is run in its place.
    """

    operator: Any
    composed: Any = None

    @staticmethod
    def _compiled_autograd_key(ctx):  # as `torch.autograd.Function` has it, to which a kernel's function is no heir
        return (ctx._autograd_function_id,)

    @classmethod
    def run(cls, keyset, *arguments):
        tensors = [v for v in arguments if isinstance(v, torch.Tensor)]
        records = torch.is_grad_enabled() and any(v.requires_grad for v in tensors)
        has_tangents = internals.have_tangents(tensors)
        if has_tangents and cls.composed is not None:
            return cls.composed(*arguments)
        if not records and not has_tangents:
            with internals.below_autograd():
                return cls.operator.redispatch(keyset & internals.after_autograd, *arguments)
        with internals.enable_one_level():
            return cls.apply((keyset, has_tangents), *arguments)

    @classmethod
    def forward(cls, ctx, way, *arguments):
        """Run the operator without recording here; levels further out record for themselves."""
        keyset, ctx.has_tangents = way
        with contextlib.ExitStack() as stack:
            if internals.interpreter():
                stack.enter_context(torch.enable_grad())
                stack.enter_context(internals.with_forward_mode(True))
            stack.enter_context(internals.below_autograd())
            output = cls.operator.redispatch(keyset & internals.after_autograd, *arguments)
        cls.keep(ctx, arguments, output)
        return output

    @classmethod
    def keep(cls, ctx, inputs, output):
        ctx.set_materialize_grads(False)
        cls.setup(ctx, inputs, output)

    @staticmethod
    def backward(ctx, *grads):
        return None, *ctx._forward_cls.needed(ctx, ctx.needs_input_grad[1:], *grads)

    @classmethod
    def needed(cls, ctx, needs, *grads):
        """Return the gradients of all arguments, None for those that are not needed."""
        if not any(needs) or all(grad is None for grad in grads):
            return (None,) * len(needs)
        found = [grad if need else None for grad, need in zip(cls.gradients(ctx, needs, *grads), needs, strict=False)]
        return *found, *[None] * (len(needs) - len(found))

    @classmethod
    def register(cls, vmap):
        if internals.HAS_KERNELS:
            run = internals.untraced(cls.run)
            ops.library.impl(cls.operator, run, "Autograd", with_keyset=True)
        else:
            torch.library.register_autograd(
                cls.operator, lambda ctx, *grads: cls.needed(ctx, ctx.needs_input_grad, *grads),
                setup_context=cls.keep, lib=ops.library,
            )  # fmt: skip
        torch.library.register_vmap(cls.operator, vmap, lib=ops.library)


class _Forward(Rules):
    family: str

    @classmethod
    def setup(cls, ctx, inputs, output):
        """Keep what the gradients that are wanted read, and nothing else."""
        (a, b, h0, *ends, axis, reverse, dtype), (h, _) = inputs, output
        ctx.problem = cls.family, axis, reverse, dtype
        ctx.b_form = _tensors.form(b)
        if getattr(ctx, "has_tangents", False):
            ctx.save_for_forward(a, b, h, h0, *ends)
        needs = ctx.needs_input_grad[-len(inputs) :]  # without what is needed of the way
        ctx.save_for_backward(*_tensors.to_save(cls.family, needs, a, b, h, h0, *ends))

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
                before = state_before(h, h0, lengths, axis, reverse)
                source = source + a_dot * (b - before if family == FORGET else before)
            return forward(LINEAR, decay(family, a, dtype), source, h0_dot, lengths, axis, reverse, dtype)


def recorded_vjp(problem, g, a, b, h, h0, grad_last, lengths, wanted):
    """Return the gradients that are wanted, through the dispatcher; g and h may be None, and b its form."""
    family, axis, reverse, dtype = problem
    if type(b) is _tensors.Form:
        b = nothing(a, b.shape, b.dtype)
    shape = torch.broadcast_shapes(a.shape, b.shape)
    g, h = (nothing(a, shape, dtype) if v is None else v.expand(shape) for v in (g, h))
    grads = vjp(family, g, a, b, h, h0, grad_last, lengths, axis, reverse, dtype, *wanted)
    return tuple(grad if is_wanted else None for grad, is_wanted in zip(grads, wanted, strict=True))


def gradients_of(function, operands, needed, cotangents):
    """Return the gradients that are needed of operands of a function, which is run anew; None for the others."""
    operands, cotangents = (tuple(map(internals.alive, tensors)) for tensors in (operands, cotangents))
    wanted = [v for v, need in zip(operands, needed, strict=True) if need]
    places = [k for k, cotangent in enumerate(cotangents) if cotangent is not None]

    def run(*wanted):
        given = iter(wanted)
        results = function(*(next(given) if need else v for v, need in zip(operands, needed, strict=True)))
        return tuple(results[k] for k in places)

    if internals.interpreter():
        _, pull = torch.func.vjp(run, *wanted)
        grads = pull(tuple(cotangents[k] for k in places))
    else:  # where hooks on saved tensors may be, which a transform refuses
        with torch.enable_grad():
            # Views, or of one that is two operands each would have both's.
            wanted = [v.view_as(v) if v.requires_grad else v.detach().requires_grad_() for v in wanted]
            pairs = [(result, cotangents[k]) for k, result in zip(places, run(*wanted), strict=True)]
        pairs = [pair for pair in pairs if pair[0].requires_grad]
        if not pairs:
            return [None] * len(needed)
        results, given = zip(*pairs, strict=True)
        grads = torch.autograd.grad(results, wanted, given, create_graph=torch.is_grad_enabled(), allow_unused=True)
    grads = iter(grads)
    return [next(grads) if need else None for need in needed]


class Composed(Rules):
    """An operator whose derivatives are those of what it is composed of, which is run anew."""

    @staticmethod
    def setup(ctx, inputs, output):
        """Keep all arguments: each is in the gradient's gradient."""
        is_tensor = [isinstance(v, torch.Tensor) for v in inputs]
        ctx.others = [None if is_one else v for v, is_one in zip(inputs, is_tensor, strict=True)]
        ctx.save_for_backward(*(v if is_one else None for v, is_one in zip(inputs, is_tensor, strict=True)))

    @classmethod
    def gradients(cls, ctx, needs, *cotangents):
        inputs = [other if v is None else v for v, other in zip(ctx.saved_tensors, ctx.others, strict=True)]
        return gradients_of(cls.composed, inputs, needs, cotangents)


class Recorded(Rules):
    """An operator whose gradients are those of an operator ``back``: of cotangents, all tensors, and first results."""

    back: Any

    @classmethod
    def setup(cls, ctx, inputs, output):
        tensors = [v for v in inputs if v is None or isinstance(v, torch.Tensor)]
        ctx.back, ctx.others = cls.back, inputs[len(tensors) :]  # compilers read a context alone
        count = len(cls.back._schema.arguments) - len(inputs) - len(output)
        ctx.save_for_backward(*tensors, *output[:count])

    @staticmethod
    def gradients(ctx, needs, *cotangents):
        return ctx.back(*cotangents, *ctx.saved_tensors, *ctx.others)


def operator(schema, fake, *, cpu, cuda, vmap, rules=Composed, composed=None, is_anywhere=False, back=None):
    """Define an operator with all that torch asks of it, in every graph and under every transform; return it.

    ``fake`` gives its results of tensors without numbers; ``cpu`` and ``cuda`` run it. ``composed`` does the same by
    what has derivatives: it is what gradients are made of, unless an operator ``back`` or other ``rules`` make them,
    and what runs on all other devices if it ``is_anywhere``. ``vmap`` takes the operator, and then what torch gives.
    """
    runs = {"CPU": cpu, "CUDA": cuda}
    if is_anywhere:
        runs["CompositeExplicitAutograd"] = ops.anywhere(fake, composed)
    run = ops.define(schema, fake, **runs)
    known = {"operator": run, "composed": composed and staticmethod(composed), "back": back}
    own: Any = type(rules.__name__, (rules if back is None else Recorded,), known)
    own.register(functools.partial(vmap, run))
    return run


class _Vjp(Composed):
    family: str

    @classmethod
    def composed(cls, g, a, b, h, h0, grad_last, *rest):
        """Do what the adjoint's operator does, such that all of it has derivatives."""
        *ends, axis, reverse, dtype, want_a, want_b, want_h0 = rest
        lengths = checks.split(*ends)

        def run(q, source):
            return *forward(LINEAR, q, source, grad_last, lengths, axis, not reverse, dtype), grad_last

        steps = cls.family, axis, reverse, dtype, a, b, h, h0, lengths
        grad_a, grad_b, grad_h0, _ = adjoint(steps, run, g, (want_a, want_b))
        return or_empty(g, (grad_a, grad_b, like(grad_h0, h0) if want_h0 else None))


def _forward_vmap(family, info, in_dims, *arguments):
    """Take the batch for one more lane axis, the last."""
    a, b, h0, *ends, axis, reverse, dtype = arguments
    rank = max(v.dim() - (dim is not None) for v, dim in zip((a, b), in_dims[:2], strict=True))
    batched = in_dims[0] is not None or in_dims[1] is not None
    a, b, h0 = (with_batch(v, dim, 1, -1) for v, dim in zip((a, b, h0), in_dims[:3], strict=True))
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
    rank = max(v.dim() - (dim is not None) for v, dim in zip((a, b), dims[1:3], strict=True))
    batched = (with_batch(v, dim, info.batch_size, -1) for v, dim in zip(operands, dims, strict=True))
    g, a, b, h, h0, grad_last = batched
    lengths = _lengths_with_batch(ends, in_dims[6:], a, b, axis, rank)
    grads = vjp(family, g, a, b, h, h0, grad_last, lengths, axis, reverse, dtype, *wanted)
    return grads, tuple(v.dim() - 1 if is_wanted else None for v, is_wanted in zip((a, b, h0), wanted, strict=True))


for _family in ops.NAMES:
    for _rules, _operators, _vmap in ((_Forward, ops.FORWARD, _forward_vmap), (_Vjp, ops.VJP, _vjp_vmap)):
        _own: Any = type(_rules.__name__, (_rules,), {"family": _family, "operator": _operators[_family]})
        _own.register(functools.partial(_vmap, _family))


def nothing(like, shape, dtype):
    """Return zeros of a shape that take no memory."""
    return like.new_zeros((), dtype=dtype).expand(shape)


def with_batch(tensor, dim, size, at):
    """Return an operand with the batch at an axis; where it has none, so many times itself; None as it is."""
    if tensor is None:
        return None
    return tensor.expand(size, *tensor.shape).movedim(0, at) if dim is None else tensor.movedim(dim, at)


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
