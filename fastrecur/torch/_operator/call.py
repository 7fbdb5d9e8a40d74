"""A call with tensors: check it, choose a way (docs/explanation/a_call.rst names them), run."""

import torch

from ..._arguments import adapters, checks, messages as say
from ..._arguments.checks import Segments
from . import arguments, eager, ops, tensors as _tensors
from .along_time import lanes
from .arguments import as_tensor, is_complex
from .modes import PLAIN, event, hand_over, is_overridden, kernel_can_read, no_modes_active
from .ops import NAMES
from .team import team as team  # for kernels of smoothing on tensors

_is_number = _tensors.is_number
_grad_enabled = torch.is_grad_enabled


def forward(family, names, a, b, h0, axis, reverse, lengths, return_state, out):
    """Run a recurrence; ``names`` are what the caller calls the operands."""
    given = checks.parts(lengths)
    if is_overridden(a, b, h0, out, *given):
        options = dict(axis=axis, reverse=reverse, **given._asdict(), return_state=return_state, out=out)
        return hand_over(adapters.public[family][0], (a, b, h0), options)
    call = arguments.take_call(family, names, a, b, h0, out, axis, reverse, lengths, return_state)
    a, b, h0, out, axis, reverse, lengths, return_state, dtype, shape = call
    lengths = _placed_lengths(lengths, shape, axis, (a, b, h0))
    arguments.check_shapes({"h0": h0}, shape, lanes(shape, axis, lengths))
    operands = (names[0], a), (names[1], b)
    if out is not None:
        arguments.check_out(out, shape, dtype, (*operands, ("h0", h0)))
    is_pair, a, lengths, dtype, b, h0 = arguments.as_pairs(a, lengths, dtype, b, h0)
    if out is not None and not is_pair and no_modes_active() and all(
        kernel_can_read(v) for v in (a, b, h0, out, *checks.parts(lengths)) if not _is_number(v)
    ):  # fmt: skip
        arguments.check_overlap(out, operands, lengths)
        with event(NAMES[family]):
            _, h_last = _tensors.forward(family, a, b, h0, lengths, axis, reverse, dtype, return_state, out)
        if not out.is_inference():
            torch.autograd.graph.increment_version(out)
        return (out, h_last) if return_state else out
    tensors = [v for v in (a, b, h0) if isinstance(v, torch.Tensor)]
    engine = None if type(lengths) is Segments else eager.engine(tensors, lengths)
    if engine is None:
        a, b, h0 = (as_tensor(v, tensors[0]) for v in (a, b, h0))
        h, h_last = ops.forward(family, a, b, h0, lengths, axis, reverse, dtype)
    else:
        kind = eager.Call(engine, family, axis, reverse, dtype, return_state, (a, b, h0))
        is_recorded = _grad_enabled() and any(v.requires_grad for v in tensors)
        result = (kind.record if is_recorded else kind.run)(a, b, h0, lengths)
        h, h_last = result if return_state else (result, None)
    if is_pair:
        h, h_last = arguments.joined(h), None if h_last is None else arguments.joined(h_last)
    if out is not None:
        h = out.copy_(h)
    return (h, h_last) if return_state else h


def vjp(family, names, g, a, b, h, h0, axis, reverse, lengths, grad_state):
    """Run a recurrence's adjoint; ``names`` are what the caller calls ``g, a, b, h``."""
    given = checks.parts(lengths)
    if is_overridden(g, a, b, h, h0, grad_state, *given):
        options = dict(axis=axis, reverse=reverse, **given._asdict(), grad_state=grad_state)
        return hand_over(adapters.public[family][1], (g, a, b, h, h0), options)
    g, a, b, h, h0, grad_state = arguments.take((*names, "h0", "grad_state"), g, a, b, h, h0, grad_state)
    axis, reverse = checks.axis(axis), checks.flag("reverse", reverse)
    arguments.check_gate(family, names[1], a)
    own = arguments.result_dtype((*names[1:3], "h0"), a, b, h0)
    dtype = arguments.result_dtype((*names, "h0", "grad_state"), g, a, b, h, h0, grad_state)
    for name, value in ((names[0], g), (names[3], h), ("grad_state", grad_state)):
        if value is not None and is_complex(value) and not own.is_complex:
            raise TypeError(say.complex_of_real(name, "complex" if _is_number(value) else value.dtype))
    shape, axis = arguments.shape_and_axis(names[1:3], a, b, axis)
    lengths = arguments.ends(lengths, shape, axis, (a, b))
    lengths = _placed_lengths(lengths, shape, axis, (a, b, h0))
    others = {"h0": h0, "grad_state": grad_state, names[0]: g, names[3]: h}
    arguments.check_shapes(others, shape, lanes(shape, axis, lengths))
    operands = a, b, h0
    is_pair, a, lengths, dtype, *given = arguments.as_pairs(a, lengths, dtype, b, h0, g, h, grad_state)
    b, h0, g, h, grad_state = given
    problem, wanted = (family, axis, reverse, dtype), (True, True, h0 is not None)
    grads = eager.gradients(problem, wanted, g, a, b, h, h0, grad_state, lengths)
    if is_pair:
        grad_a, *others = grads
        others = (v if v is None else arguments.joined(v) for v in others)
        others = (v if v is None or is_complex(o) else v.real for v, o in zip(others, operands[1:], strict=True))
        grads = grad_a if _is_number(a) else grad_a.squeeze(-1), *others
    return tuple(
        None if operand is None else grad.to(_tensors.gradient_dtype(operand, own))
        for grad, operand in zip(grads, operands, strict=True)
    )


def _placed_lengths(lengths, shape, axis, operands):
    """Return lengths as they stand beside operands: beside DTensors, which must not be sharded along time, as one."""
    if all(_is_number(v) or v is None or type(v) in PLAIN or type(v).__name__ != "DTensor" for v in operands):
        return lengths
    from . import placements

    return placements.beside(lengths, len(shape), axis, operands)
