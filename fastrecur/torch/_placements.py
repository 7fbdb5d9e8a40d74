"""DTensors: what stands sharded along time in a device mesh is taken as the stretches that its ranks hold."""

import torch
from torch.autograd import Function
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

from .. import _messages as say


def is_placed(*operands):
    """Return whether an operand is a DTensor."""
    return any(isinstance(v, DTensor) for v in operands)


class _OfOne(Function):
    """What all ranks hold alike: its gradient, which they hold alike too, goes to one of them."""

    @staticmethod
    def forward(ctx, value, mine):
        ctx.mine = mine
        return value.view_as(value)

    @staticmethod
    def backward(ctx, grad):
        return grad if ctx.mine else torch.zeros_like(grad), None


def run(call, family, a, b, h0, axis, reverse, lengths, return_state, group):
    """Run a recurrence of DTensors; its result is placed as its operands are."""
    full = [v for v in (a, b) if isinstance(v, DTensor)]
    if not full or not isinstance(axis, int):
        raise ValueError(say.placements())
    guide = max(full, key=lambda v: v.dim())
    time, shape = axis % guide.dim(), torch.broadcast_shapes(*(v.shape for v in full))
    mesh, placements = guide.device_mesh, guide.placements
    dims = [k for k, p in enumerate(placements) if p == Shard(time)]
    if len(dims) != 1 or len(shape) != guide.dim() or any(v.placements != placements for v in full):
        raise ValueError(say.placements())
    own = mesh.get_group(dims[0])
    if group is not None and group != own:
        raise ValueError(say.placements())
    lanes = []
    for k, p in enumerate(placements):
        if k == dims[0]:
            lanes.append(Replicate())
        elif isinstance(p, Shard):
            lanes.append(Shard(p.dim - (p.dim > time)))
        else:
            lanes.append(p)
    if isinstance(h0, DTensor):
        back = [Partial() if k == dims[0] else p for k, p in enumerate(lanes)]
        h0 = h0.redistribute(placements=lanes).to_local(grad_placements=back)
    a, b = (v.to_local() if isinstance(v, DTensor) else v for v in (a, b))
    result = call(family, a, b, h0, axis, reverse, lengths, return_state, own)
    h, h_last = result if return_state else (result, None)
    h = _placed(h, mesh, placements, shape)
    if not return_state:
        return h
    h_last = _OfOne.apply(h_last, mesh.get_local_rank(dims[0]) == 0)
    return h, _placed(h_last, mesh, lanes, shape[:time] + shape[time + 1 :])


def _placed(local, mesh, placements, shape):
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(local.contiguous(), mesh, placements, run_check=False, shape=shape, stride=stride)
