"""A call of the selective scan with tensors: check it, and hand it to the operators."""

import torch

from ..._arguments import adapters, arrays, checks, messages as say
from ..._arguments.records import SCAN
from ..._arguments.selective import Operands, check_shapes
from ..._arguments.shapes import check_exact
from . import arguments, selective
from .modes import hand_over, is_overridden

_OPTIONS = "delta_softplus", "layout", "reverse", "lengths", "offsets", "resets"


def forward(operands, options, return_state, out):
    """Run a scan; ``options`` are those of `_arguments.selective.check` as they were given."""
    if is_overridden(*operands, *options[3:], out):
        given = dict(zip(_OPTIONS, options, strict=True), return_state=return_state, out=out)
        return hand_over(adapters.public["selective_scan"][0], operands, given)
    return_state = checks.flag("return_state", return_state)
    _check_tensors(operands._asdict() | {"out": out})
    ends, options = _checked(operands, options)
    if out is not None:
        arguments.check_out(out, operands.u.shape, operands.u.dtype, operands._asdict().items())
    y, state, _ = selective.SCAN(*operands, *ends, *options, False)
    if out is not None:
        y = out.copy_(y)
    return (y, state) if return_state else y


def vjp(grad_y, operands, options, grad_state):
    """Run a scan's adjoint."""
    if is_overridden(grad_y, *operands, *options[3:], grad_state):
        given = dict(zip(_OPTIONS, options, strict=True), grad_state=grad_state)
        return hand_over(adapters.public["selective_scan"][1], (grad_y, *operands), given)
    _check_tensors({"grad_y": grad_y, **operands._asdict(), "grad_state": grad_state})
    ends, options = _checked(operands, options, grad_y, grad_state)
    wanted = [v is not None for v in operands]
    grads = selective.VJP(grad_y, grad_state, *operands, *ends, *options, None, wanted)
    return Operands(*[grad if is_wanted else None for grad, is_wanted in zip(grads, wanted, strict=True)])


def _check_tensors(named):
    """Raise unless all are dense tensors of real numbers on one device, or None where that may be."""
    first = None
    for name, v in named.items():
        if v is None and SCAN[name].optional:
            continue
        if not isinstance(v, torch.Tensor):
            library = None if v is None else arrays.library_of(v)
            raise TypeError(
                say.mixed([(name, library), (None, "torch")]) if library else say.scan_tensor(name, type(v))
            )
        arguments.check_tensor(name, v)
        if not (v.is_floating_point() or v.is_complex()):
            raise TypeError(say.scan_dtype(name, v.dtype))
        first = first or (name, v.device)
        if v.device != first[1]:
            raise ValueError(say.devices(*first, name, v.device))


def _checked(operands, options, grad_y=None, grad_state=None):
    """Return lengths, offsets and resets as tensors, and the other options."""
    *options, lengths, offsets, resets = options
    sizes, options = check_shapes(operands._asdict() | {"grad_y": grad_y, "h0": None}, *options, None, None, None)
    batch, states = sizes.batch, (sizes.batch, sizes.channels, sizes.states)
    for name, v, wanted in (("lengths", lengths, (batch,)), ("resets", resets, (batch, sizes.steps))):
        came = wanted if v is None else _shape(v)
        is_wide = name == "resets" and len(came) == 2  # axes of 1 are broadcast
        if came != wanted and not (is_wide and all(n in (1, m) for n, m in zip(came, wanted, strict=True))):
            raise ValueError(say.exact_shape(name, came, wanted))
    ends = checks.parts(arguments.ends(checks.split(lengths, offsets, resets), (batch, sizes.steps), 1, operands))
    if ends.resets is not None:
        ends = ends._replace(resets=ends.resets.expand(batch, sizes.steps))
    if ends.offsets is not None:
        if batch != 1:
            raise ValueError(say.scan_offsets_batch(batch))
        states = ends.offsets.shape[0] - 1, *states[1:]
    for name, v in (("h0", operands.h0), ("grad_state", grad_state)):
        if v is not None:
            check_exact(name, v.shape, states)
    return ends, options


def _shape(value):
    """Return the shape of an array or of lists; NumPy's function would break a graph."""
    if isinstance(value, (list, tuple)):
        return len(value), *(_shape(value[0]) if value else ())
    return tuple(getattr(value, "shape", ()))
