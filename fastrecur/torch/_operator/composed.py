"""The recurrences of torch's own operators, for every device that has no kernels here: pairs of steps are scanned.

A series for which a composed step is not sound (a factor above 1, a number that is not finite) is scanned step by step.
"""

import torch

from ..._arguments import checks
from ..._plan.problem import LINEAR
from . import tensors as _tensors
from .along_time import lanes, last_states, masked, valid_steps, with_first_states


def forward(family, a, b, h0, lengths, axis, reverse, dtype):
    """Return the states and the last one, in the dtype that states are carried in."""
    shape, device = torch.broadcast_shapes(a.shape, b.shape), device_of(a, b, h0)
    wide = _tensors.wide(dtype, device)
    a, b = (v.to(device, wide).expand(shape) for v in (a, b))
    cuts = checks.parts(lengths)
    if cuts.offsets is not None and cuts.offsets.is_cpu:
        checks.offsets_in_range(cuts.offsets.numpy(), shape[axis])
    valid, states = valid_steps(b, cuts, axis), lanes(shape, axis, cuts)
    q, c = (a, b) if family == LINEAR else (1 - a, a * b)
    q, c = masked(q, valid, 1), masked(c, valid)
    h0 = q.new_zeros(states) if h0 is None else h0.to(device, wide).expand(states)
    c, begins = with_first_states(family, q, c, h0, cuts, axis, reverse)
    h = _scan(torch.where(begins, 0, q) if cuts is lengths else q, c, begins.expand(shape), axis, reverse)
    return masked(h, valid), last_states(h, h0, cuts, axis, reverse)


def device_of(*operands):
    """Return where operands are: numbers beside them may be on the CPU."""
    tensors = [v for v in operands if v is not None]
    return next((v.device for v in tensors if v.device.type != "cpu"), tensors[0].device)


def _scan(a, b, begins, axis, reverse):
    """Return the states of ``h = a*h + b``, the first of which is b's, along an axis."""
    # Where steps begin anew a is 0. If what stands before is not finite, the series is not sound: steps do not read it.
    if not b.shape[axis]:
        return b
    a, b, begins = (v.movedim(axis, 0) for v in (a, b, begins))
    a, b, begins = (v.flip(0) if reverse else v for v in (a, b, begins))
    h = _scan_pairs(a, b)
    is_sound = (a.abs() <= 1).all(0) & torch.isfinite(h).all(0)
    if not bool(is_sound.all()):
        h = torch.where(is_sound, h, _scan_steps(a, b, begins))
    return (h.flip(0) if reverse else h).movedim(0, axis)


def _scan_pairs(a, b):
    steps = len(b)
    if steps < 2:
        return b
    even = steps - steps % 2
    first, then, rest = slice(0, even, 2), slice(1, even, 2), slice(2, None, 2)
    odd = _scan_pairs(a[then] * a[first], b[then] + a[then] * b[first])
    h = torch.empty_like(b)
    h[0], h[1::2] = b[0], odd
    h[rest] = b[rest] + a[rest] * odd[: (steps - 1) // 2]
    return h


def _scan_steps(a, b, begins):
    states = [b[0]]
    for q, c, begin in zip(a[1:].unbind(), b[1:].unbind(), begins[1:].unbind(), strict=True):
        states.append(torch.where(begin, c, c + q * states[-1]))
    return torch.stack(states)
