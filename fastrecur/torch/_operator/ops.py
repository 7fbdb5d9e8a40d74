"""The operators as the dispatcher sees them: schemas, what runs them where, and what they are on fake and meta tensors.

Each recurrence has one, and one for its gradients. Each result is fresh memory, laid out as torch's own operators lay
theirs out.
"""

from typing import Any

import torch

from ..._arguments import checks
from ..._plan.problem import FORGET, LINEAR
from . import along_time, composed, internals, tensors

NAMES = {FORGET: "forget_mult", LINEAR: "linear_recurrence"}
OPTIONS = "Tensor? lengths, Tensor? offsets, Tensor? resets, int axis, bool reverse, ScalarType dtype"

library = torch.library.Library("fastrecur", "DEF")
FORWARD: dict[str, Any] = {}  # of families, the operators
VJP: dict[str, Any] = {}


def define(schema, fake, **runs):
    """Define an operator by what it is of fake tensors, and by what runs it for each dispatch key; return it."""
    name = schema.partition("(")[0]
    library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.register_fake(f"fastrecur::{name}", fake, lib=library)
    for key, run in runs.items():
        library.impl(name, internals.untraced(run), key)
    return getattr(torch.ops.fastrecur, name).default


def forward(family, a, b, h0, lengths, *options):
    """Run a recurrence: ``(a, b, h0, lengths, axis, reverse, dtype) -> (h, h_last)``."""
    return FORWARD[family](a, b, h0, *checks.parts(lengths), *options)


def vjp(family, g, a, b, h, h0, grad_last, lengths, *options):
    """Run its adjoint, of ``(g, a, b, h, h0, grad_last, lengths, axis, reverse, dtype, want_a, want_b, want_h0)``."""
    # To ``(grad_a, grad_b, grad_h0)``, with an empty tensor for what is not wanted.
    return VJP[family](g, a, b, h, h0, grad_last, *checks.parts(lengths), *options)


def _forward(family, *arguments):
    return tensors.forward(family, *arguments, True)


def _vjp(family, g, *arguments):
    *arguments, want_a, want_b, want_h0 = arguments
    return along_time.or_empty(g, tensors.vjp(family, g, *arguments, (want_a, want_b, want_h0)))


def _forward_cuda(family, a, b, *arguments):
    from . import device_tensors

    layout = tensors.layout(torch.broadcast_shapes(a.shape, b.shape), *(v for v in (b, a) if v.dim()))
    return device_tensors.forward(family, a, b, *arguments, True, layout)


def _vjp_cuda(family, g, a, b, h, *arguments):
    from . import device_tensors

    *arguments, want_a, want_b, want_h0 = arguments
    shape, wanted = torch.broadcast_shapes(a.shape, b.shape), (want_a, want_b, want_h0)
    layouts = tuple(tensors.layout(shape, v, h, g) if v.shape == shape else None for v in (a, b))
    return along_time.or_empty(g, device_tensors.vjp(family, g, a, b, h, *arguments, wanted, layouts=layouts))


def alike(shape, dtype, *prototypes):
    for tensor in prototypes:
        if tensors.is_full(tensor, shape):
            return torch.empty_like(tensor, dtype=dtype)
    return prototypes[0].new_empty(shape, dtype=dtype, device=composed.device_of(*prototypes))


def _forward_fake(family, a, b, h0, lengths, axis, reverse, dtype):
    shape = torch.broadcast_shapes(a.shape, b.shape)
    h = alike(shape, dtype, b, a)
    return h, h.new_empty(along_time.lanes(shape, axis, lengths))


def _vjp_fake(family, g, a, b, h, h0, grad_last, lengths, axis, reverse, dtype, *wanted):
    shape = torch.broadcast_shapes(a.shape, b.shape)
    return tuple(
        alike(v.shape, tensors.gradient_dtype(v, dtype), v, *((h, g) if v.shape == shape else ()))
        if is_wanted
        else g.new_empty(0)
        for v, is_wanted in zip((a, b, h0), wanted, strict=True)
    )


def anywhere(fake, run):
    """Return what runs an operator that is composed: fresh results, of the dtypes and layouts of fake ones."""

    def call(*arguments):
        found = zip(fake(*arguments), run(*arguments), strict=True)
        return tuple(own.copy_(v.real if v.is_complex() and not own.is_complex() else v) for own, v in found)

    return call


_forward_composed = anywhere(_forward_fake, composed.forward)
_vjp_composed = anywhere(_vjp_fake, composed.vjp)


def kernel(run, family):
    """Return an operator's kernel of what takes lengths, offsets and resets as one."""
    place = 3 if run in (_forward, _forward_cuda, _forward_composed, _forward_fake) else 6

    def call(*arguments):
        lengths = checks.split(*arguments[place : place + 3])
        return run(family, *arguments[:place], lengths, *arguments[place + 3 :])

    return call


for _family, (_a, _b, _) in tensors.NAMES.items():
    for _table, _schema, _runs in (
        (
            FORWARD, f"(Tensor {_a}, Tensor {_b}, Tensor? h0, {OPTIONS}) -> (Tensor, Tensor)",
            (_forward_fake, _forward, _forward_cuda, _forward_composed),
        ),
        (
            VJP, f"_backward(Tensor grad_h, Tensor {_a}, Tensor {_b}, Tensor h, Tensor? h0, Tensor? grad_last,"
            f" {OPTIONS}, bool want_{_a}, bool want_{_b}, bool want_h0) -> (Tensor, Tensor, Tensor)",
            (_vjp_fake, _vjp, _vjp_cuda, _vjp_composed),
        ),
    ):  # fmt: skip
        _fake, _cpu, _cuda, _other = (kernel(_run, _family) for _run in _runs)
        _table[_family] = define(
            NAMES[_family] + _schema, _fake, CPU=_cpu, CUDA=_cuda, CompositeExplicitAutograd=_other
        )
