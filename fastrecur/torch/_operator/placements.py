"""DTensors: what stands sharded along time in a device mesh is taken as the shards that its ranks hold.

Shards of other axes are series of their own, of which no rank needs to know the others': the dispatcher is told so.
"""

import torch
from torch.autograd import Function
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.experimental import register_sharding

from ..._arguments import checks, messages as say
from ..._arguments.checks import Segments
from . import exchange, ops, shards


class _OfOne(Function):
    """What all ranks hold alike: its gradient, which they hold alike too, goes to one of them."""

    @staticmethod
    def forward(ctx, value, mine):
        ctx.mine = mine
        return value.view_as(value)

    @staticmethod
    def backward(ctx, grad):
        return grad if ctx.mine else torch.zeros_like(grad), None


def run(family, a, b, h0, axis, reverse, lengths, return_state, group):
    """Run a recurrence of this rank's shards, or of DTensors: its result is placed as they are."""
    if not any(isinstance(v, DTensor) for v in (a, b, h0)):
        return shards.run(family, a, b, h0, axis, reverse, lengths, return_state, exchange.name_of(group))
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
    lengths, offsets, resets = checks.parts(lengths)
    if isinstance(resets, DTensor):
        beside = tuple(_at(resets, p.dim) if isinstance(p, Shard) else p for p in placements)
        if resets.placements != beside:
            raise ValueError(say.placements())
        resets = resets.to_local()
    if isinstance(offsets, DTensor):
        offsets = offsets.full_tensor()
    front = int(offsets is not None)  # states have one axis more, of segments
    lanes = [Shard(front + p.dim - (p.dim > time)) if isinstance(p, Shard) else p for p in placements]
    lanes[dims[0]] = Replicate()
    if isinstance(h0, DTensor):
        back = [Partial() if k == dims[0] else p for k, p in enumerate(lanes)]
        h0 = h0.redistribute(placements=lanes).to_local(grad_placements=back)
    a, b = (v.to_local() if isinstance(v, DTensor) else v for v in (a, b))
    lengths = checks.split(lengths, offsets, resets)
    result = shards.run(family, a, b, h0, axis, reverse, lengths, return_state, exchange.name_of(own))
    if not return_state:
        return _placed(result, mesh, placements, shape)
    h, h_last = result[0], _OfOne.apply(result[1], mesh.get_local_rank(dims[0]) == 0)
    return _placed(h, mesh, placements, shape), _placed(
        h_last, mesh, lanes, h_last.shape[:front] + shape[:time] + shape[time + 1 :]
    )


def _placed(local, mesh, placements, shape):
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(local.contiguous(), mesh, placements, run_check=False, shape=shape, stride=stride)


def beside(lengths, ndim, axis, operands):
    """Return lengths, and what stands in their place, as DTensors beside operands; raise for one sharded along time."""
    placed = [v for v in operands if isinstance(v, DTensor)]
    for v in placed:
        time = axis - (ndim - v.dim()) if v is not operands[-1] else -1
        if time >= 0 and v.shape[time] > 1 and Shard(time) in v.placements:
            raise ValueError(say.time_is_sharded())
    mesh = placed[0].device_mesh

    def on_mesh(value):
        if value is None or isinstance(value, DTensor):
            return value
        return DTensor.from_local(value.to(mesh.device_type), mesh, [Replicate()] * mesh.ndim, run_check=False)

    return Segments(*map(on_mesh, lengths)) if type(lengths) is Segments else on_mesh(lengths)


def _at(operand, dim, ndim=None):
    """Return an operand's placement where the result is sharded along ``dim`` of ``ndim`` (None: nowhere)."""
    # Without ``ndim`` its axes are leading ones of the result.
    if operand is None:
        return None
    own = -1 if dim is None else dim if ndim is None else dim - (ndim - len(operand.shape))
    return Shard(own) if 0 <= own < len(operand.shape) and operand.shape[own] > 1 else Replicate()


def _ways(full, states, ends, axis):
    """Return along which axes of a result (None: no axis) shards are series of their own, and where operands stand."""
    # That are the placements of operands beside a result, of states, and of lengths, offsets and resets, for each axis.
    shape, (lengths, offsets, resets) = torch.broadcast_shapes(*(tuple(v.shape) for v in full)), ends
    rank = len(shape) - (offsets is None)  # of states: of each segment, or of each lane alone
    for dim in (None, *(k for k in range(len(shape)) if k != axis and shape[k] > 1)):
        lane = None if dim is None else dim - (dim > axis)
        state = None if lane is None else lane + (offsets is not None)
        own = _at(lengths, lane), _at(offsets, None), _at(resets, dim)
        yield dim, state, [_at(v, dim, len(shape)) for v in full], [_at(v, state, rank) for v in states], own


@register_sharding(list(ops.FORWARD.values()))  # the dispatcher asks for each dimension of a mesh alone
def _ways_forward(a, b, h0, lengths, offsets, resets, axis, reverse, dtype):
    ways = []
    for dim, state, given, states, ends in _ways((a, b), (h0,), (lengths, offsets, resets), axis):
        results = [Replicate()] * 2 if dim is None else [Shard(dim), Shard(state)]
        ways.append((results, [*given, *states, *ends, *[None] * 3]))
    return ways


@register_sharding(list(ops.VJP.values()))
def _ways_back(g, a, b, h, h0, grad_last, lengths, offsets, resets, axis, reverse, dtype, *wanted):
    ways = []
    for dim, _, given, states, ends in _ways((g, a, b, h), (h0, grad_last), (lengths, offsets, resets), axis):
        grads = [
            Partial() if dim is not None and is_wanted and own == Replicate() else own if is_wanted else Replicate()
            for own, is_wanted in zip((given[1], given[2], states[0]), wanted, strict=True)
        ]
        ways.append((grads, [*given, *states, *ends, *[None] * 6]))
    return ways
