"""The operators as the dispatcher sees them: schemas, what runs them where, and what they are on fake and meta tensors.

Each recurrence has one, and one for its gradients. Each result is fresh memory, laid out as torch's own operators lay
theirs out.
"""

import torch

from .. import _checks
from .._problem import FORGET, LINEAR
from . import _along_time, _composed, _tensors

NAMES = {FORGET: "forget_mult", LINEAR: "linear_recurrence"}
OPTIONS = "Tensor? lengths, Tensor? offsets, Tensor? resets, int axis, bool reverse, ScalarType dtype"

library = torch.library.Library("fastrecur", "DEF")
for _family, (_a, _b, _) in _tensors.NAMES.items():
    for _schema in (
        f"{NAMES[_family]}(Tensor {_a}, Tensor {_b}, Tensor? h0, {OPTIONS}) -> (Tensor, Tensor)",
        f"{NAMES[_family]}_backward(Tensor grad_h, Tensor {_a}, Tensor {_b}, Tensor h, Tensor? h0, Tensor? grad_last,"
        f" {OPTIONS}, bool want_{_a}, bool want_{_b}, bool want_h0) -> (Tensor, Tensor, Tensor)",
    ):
        library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))

FORWARD, VJP = (
    {family: getattr(torch.ops.fastrecur, name + suffix).default for family, name in NAMES.items()}
    for suffix in ("", "_backward")
)


def forward(family, a, b, h0, lengths, *options):
    """Run a recurrence: ``(a, b, h0, lengths, axis, reverse, dtype) -> (h, h_last)``."""
    return FORWARD[family](a, b, h0, *_checks.parts(lengths), *options)


def vjp(family, g, a, b, h, h0, grad_last, lengths, *options):
    """Run its adjoint, of ``(g, a, b, h, h0, grad_last, lengths, axis, reverse, dtype, want_a, want_b, want_h0)``."""
    # To ``(grad_a, grad_b, grad_h0)``, with an empty tensor for what is not wanted.
    return VJP[family](g, a, b, h, h0, grad_last, *_checks.parts(lengths), *options)


def _forward(family, *arguments):
    return _tensors.forward(family, *arguments, True)


def _vjp(family, g, *arguments):
    *arguments, want_a, want_b, want_h0 = arguments
    return _wanted_or_empty(g, _tensors.vjp(family, g, *arguments, (want_a, want_b, want_h0)))


def _wanted_or_empty(g, grads):
    return tuple(g.new_empty(0) if grad is None else grad for grad in grads)


def _forward_cuda(family, a, b, *arguments):
    from . import _device_tensors

    layout = _tensors.layout(torch.broadcast_shapes(a.shape, b.shape), *(v for v in (b, a) if v.dim()))
    return _device_tensors.forward(family, a, b, *arguments, True, layout)


def _vjp_cuda(family, g, a, b, h, h0, grad_last, *options):
    from . import _device_tensors

    *options, want_a, want_b, want_h0 = options
    shape = torch.broadcast_shapes(a.shape, b.shape)
    layouts = tuple(_tensors.layout(shape, v, h, g) if v.shape == shape else None for v in (a, b))
    operands, wanted = (g, a, b, h, h0, grad_last), (want_a, want_b, want_h0)
    return _wanted_or_empty(g, _device_tensors.vjp_laid_out(layouts, wanted, family, operands, *options))


def _alike(shape, dtype, *prototypes):
    for tensor in prototypes:
        if _tensors.is_full(tensor, shape):
            return torch.empty_like(tensor, dtype=dtype)
    return prototypes[0].new_empty(shape, dtype=dtype, device=_composed.device_of(*prototypes))


def _forward_fake(family, a, b, h0, lengths, axis, reverse, dtype):
    shape = torch.broadcast_shapes(a.shape, b.shape)
    h = _alike(shape, dtype, b, a)
    return h, h.new_empty(_along_time.lanes(shape, axis, lengths))


def _gradient_fake(operand, dtype, shape, *prototypes):
    own = _tensors.gradient_dtype(operand, dtype)
    return _alike(operand.shape, own, operand, *(prototypes if operand.shape == shape else ()))


def _vjp_fake(family, g, a, b, h, h0, grad_last, lengths, axis, reverse, dtype, *wanted):
    shape = torch.broadcast_shapes(a.shape, b.shape)
    return tuple(
        _gradient_fake(operand, dtype, shape, h, g) if is_wanted else g.new_empty(0)
        for operand, is_wanted in zip((a, b, h0), wanted, strict=True)
    )


def _forward_composed(family, a, b, *arguments):
    h, last = _composed.forward(family, a, b, *arguments)
    dtype = arguments[-1]
    own = _alike(h.shape, dtype, b, a)
    return own.copy_(h), own.new_empty(last.shape).copy_(last)


def _vjp_composed(family, g, a, b, h, h0, grad_last, lengths, axis, reverse, dtype, *wanted):
    grads = _composed.vjp(family, g, a, b, h, h0, grad_last, lengths, axis, reverse, dtype)
    return tuple(
        _gradient_fake(operand, dtype, h.shape, h, g).copy_(_along_time.like(grad, operand))
        if is_wanted
        else g.new_empty(0)
        for grad, operand, is_wanted in zip(grads, (a, b, h0), wanted, strict=True)
    )


def kernel(run, family):
    """Return an operator's kernel of what takes lengths, offsets and resets as one."""
    place = 3 if run in (_forward, _forward_cuda, _forward_composed, _forward_fake) else 6

    def call(*arguments):
        lengths = _checks.split(*arguments[place : place + 3])
        return run(family, *arguments[:place], lengths, *arguments[place + 3 :])

    return call


for _family, _name in NAMES.items():
    for _suffix, (_fake, *_runs) in {
        "": (_forward_fake, _forward, _forward_cuda, _forward_composed),
        "_backward": (_vjp_fake, _vjp, _vjp_cuda, _vjp_composed),
    }.items():
        for _run, _key in zip(_runs, ("CPU", "CUDA", "CompositeExplicitAutograd"), strict=True):
            library.impl(_name + _suffix, kernel(_run, _family), _key)
        torch.library.register_fake(f"fastrecur::{_name}{_suffix}", kernel(_fake, _family), lib=library)
