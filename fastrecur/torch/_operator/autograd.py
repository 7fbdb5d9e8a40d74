"""Operators of torch's, with all that torch asks of one: every device, derivatives of every order, every transform.

The rules belong to the operators (their autograd and vmap keys), so they hold for every graph that an operator stands
in, however it came there.
"""

import contextlib
import functools
from typing import Any

import torch

from . import internals

library = torch.library.Library("fastrecur", "DEF")


def define(schema, fake, **runs):
    """Define an operator by what it is of fake tensors, and by what runs it for each dispatch key; return it."""
    name = schema.partition("(")[0]
    library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.register_fake(f"fastrecur::{name}", fake, lib=library)
    for key, run in runs.items():
        library.impl(name, internals.untraced(run), key)
    return getattr(torch.ops.fastrecur, name).default


def anywhere(fake, run):
    """Return what runs an operator that is composed: fresh results, of the dtypes and layouts of fake ones."""

    def call(*arguments):
        found = zip(fake(*arguments), run(*arguments), strict=True)
        return tuple(own.copy_(v.real if v.is_complex() and not own.is_complex() else v) for own, v in found)

    return call


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
            library.impl(cls.operator, internals.untraced(cls.run), "Autograd", with_keyset=True)
        else:
            torch.library.register_autograd(
                cls.operator, lambda ctx, *grads: cls.needed(ctx, ctx.needs_input_grad, *grads),
                setup_context=cls.keep, lib=library,
            )  # fmt: skip
        torch.library.register_vmap(cls.operator, vmap, lib=library)


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


def operator(
    schema, fake, *, cpu, cuda, vmap, rules=Composed, composed=None, elsewhere=None, back=None, **own
):  # fmt: skip
    """Define an operator with all that torch asks of it, in every graph and under every transform; return it.

    ``fake`` gives its results of tensors without numbers; ``cpu`` and ``cuda`` run it, and ``elsewhere``, if it is
    given, all other devices. ``composed`` does the same by what has derivatives: it is what gradients are made of,
    unless an operator ``back`` or other ``rules``, which have their ``own``, make them. ``vmap`` takes the operator,
    and then what torch gives.
    """
    runs = {"CPU": cpu, "CUDA": cuda}
    if elsewhere is not None:
        runs["CompositeExplicitAutograd"] = anywhere(fake, elsewhere)
    run = define(schema, fake, **runs)
    known = {"operator": run, "composed": composed and staticmethod(composed), "back": back, **own}
    made: Any = type(rules.__name__, (rules if back is None else Recorded,), known)
    made.register(functools.partial(vmap, run))
    return run


def nothing(like, shape, dtype):
    """Return zeros of a shape that take no memory."""
    return like.new_zeros((), dtype=dtype).expand(shape)


def with_batch(tensor, dim, size, at):
    """Return an operand with the batch at an axis; where it has none, so many times itself; None as it is."""
    if tensor is None:
        return None
    return tensor.expand(size, *tensor.shape).movedim(0, at) if dim is None else tensor.movedim(dim, at)
