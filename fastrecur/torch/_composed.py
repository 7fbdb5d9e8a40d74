"""The recurrences of torch's own operators: for every device that has no kernels here.

Two steps do to a state what one does, ``h -> a*h + b``. So pairs of steps are scanned, in pairs again, which gives the
state after every second step, and the others are one step away: elementwise work in ``2*log2(T)`` rounds. A series for
which a composed step is not sound (a factor above 1, a number that is not finite) is scanned step by step instead.
"""

import torch

from .._problem import LINEAR
from . import _tensors
from ._along_time import adjoint, masked, valid_steps


def forward(family, a, b, h0, lengths, axis, reverse, dtype):
    """Return the states and the last one, in the dtype that states are carried in."""
    shape, device = torch.broadcast_shapes(a.shape, b.shape), device_of(a, b, h0)
    wide = _tensors.wide(dtype, device)
    a, b = (v.to(device, wide).expand(shape) for v in (a, b))
    valid = valid_steps(b, lengths, axis)
    q, c = (a, b) if family == LINEAR else (1 - a, a * b)
    if valid is not None:
        q, c = torch.where(valid, q, 1), torch.where(valid, c, 0)
    h = _scan(q, c, None if h0 is None else h0.to(device, wide), axis, reverse)
    if not shape[axis]:
        last = c.sum(axis) if h0 is None else h0.to(device, wide).expand(c.sum(axis).shape)
    else:
        last = h.select(axis, 0 if reverse else -1)
    return masked(h, valid), last


def vjp(family, g, a, b, h, h0, grad_last, lengths, axis, reverse, dtype):
    """Return the gradients of a and b in full, and that of h0 in all lanes, in the dtype that states are carried in."""
    device = device_of(g, a, b, h)
    wide = _tensors.wide(dtype, device)
    g, a, b, h = (v.to(device, wide).expand(h.shape) for v in (g, a, b, h))
    h0, grad_last = (None if v is None else v.to(device) for v in (h0, grad_last))

    def run(q, source):
        return *forward(LINEAR, q, source, grad_last, lengths, axis, not reverse, wide), grad_last

    return adjoint((family, axis, reverse, dtype, a, b, h, h0, lengths), run, g, (True, True))


def device_of(*operands):
    """Return where operands are: numbers beside them may be on the CPU."""
    tensors = [v for v in operands if v is not None]
    return next((v.device for v in tensors if v.device.type != "cpu"), tensors[0].device)


def _scan(a, b, start, axis, reverse):
    """Return the states of ``h = a*h + b`` from ``start`` (None: zeros) along an axis."""
    if not b.shape[axis]:
        return b
    a, b = a.movedim(axis, 0), b.movedim(axis, 0)
    if reverse:
        a, b = a.flip(0), b.flip(0)
    if start is not None:
        b = torch.cat([(b[0] + a[0] * start).unsqueeze(0), b[1:]])
    h = _scan_pairs(a, b)
    is_sound = (a.abs() <= 1).all(0) & torch.isfinite(h).all(0)
    if not bool(is_sound.all()):
        h = torch.where(is_sound, h, _scan_steps(a, b))
    return (h.flip(0) if reverse else h).movedim(0, axis)


def _scan_pairs(a, b):
    steps = len(b)
    if steps < 2:
        return b
    even = steps - steps % 2
    then = a[1:even:2]
    odd = _scan_pairs(then * a[0:even:2], b[1:even:2] + then * b[0:even:2])
    h = torch.empty_like(b)
    h[0], h[1::2] = b[0], odd
    h[2::2] = b[2::2] + a[2::2] * odd[: (steps - 1) // 2]
    return h


def _scan_steps(a, b):
    states = [b[0]]
    for q, c in zip(a[1:].unbind(), b[1:].unbind(), strict=True):
        states.append(c + q * states[-1])
    return torch.stack(states)
