"""What ranks tell each other: one all-gather of packets that say whose they are.

A packet is a header of `HEADER` bytes, then vectors. All ranks must send the same, so each header says what its rank is
at: a rank that is at something else, or has other lanes, is found by every other from what it has received anyway.
"""

import sys
import weakref
import zlib

import torch
import torch.distributed as dist
from torch.autograd import Function

from ..._arguments import messages as say
from ..._plan.problem import FORGET, LINEAR

HEADER = 128  # bytes: what the rank is at, and in the last 8 of them the steps that it has
_WORDS = HEADER - 8
WINDOW = "window"
KINDS = {FORGET: "a forget_mult", LINEAR: "a linear_recurrence", WINDOW: "inputs of a window"}
NO_GROUP = ""

_groups: weakref.WeakValueDictionary = weakref.WeakValueDictionary()
_agreed: set = set()  # what was found to agree on a device whose memory is read only at the cost of a wait


@torch.compiler.assume_constant_result
def name_of(group):
    """Return the name by which a group (None: of all processes) is found again; raise unless this process is in it."""
    if not dist.is_initialized():
        raise RuntimeError(say.no_processes())
    if group is None:
        return NO_GROUP
    if not isinstance(group, dist.ProcessGroup):
        raise TypeError(say.group_type(type(group)))
    _groups[group.group_name] = group
    return group.group_name


def members(name):
    """Return a group, this process's rank in it, and how many there are."""
    group = dist.group.WORLD if name == NO_GROUP else _groups[name]
    return group, dist.get_rank(group), dist.get_world_size(group)


def place_of(name, reverse):
    """Return which rank of a group, counted in the scan direction, this process is, and how many there are."""
    _, rank, size = members(name)
    return size - 1 - rank if reverse else rank, size


def describe(kind, dtype, lanes, wants, **flags):
    """Return what a packet says of itself: the same on all ranks."""
    told = ", ".join(name for name, flag in {**flags, "a gradient wanted": wants}.items() if flag)
    return f"{KINDS[kind]} of lanes {tuple(lanes)}, {dtype}" + (told and f", {told}")


def gather(name, header, steps, *vectors, is_read=False):
    """Return all ranks' vectors and steps, stacked, and what `_check` does: numbers are NaN if that is false."""
    group, rank, size = members(name)
    told = bytearray(_encoded(header) + steps.to_bytes(8, sys.byteorder))
    parts = [v.reshape(-1).view(torch.uint8) for v in vectors]
    own = torch.cat([torch.frombuffer(told, dtype=torch.uint8).to(parts[0].device), *parts])
    own = torch.nn.functional.pad(own, (0, -len(own) % 16))  # so that every packet's numbers stand where numbers may
    packets = torch.zeros(size, len(own), dtype=torch.uint8, device=own.device)
    _collect(dist.all_gather, group, list(packets), own)
    agree = _check(name, header, packets[:, :_WORDS], rank, is_read)
    sizes = [_WORDS, 8, *map(len, parts)]
    _, counts, *given = packets[:, : sum(sizes)].split(sizes, 1)
    given = [theirs.view(v.dtype).reshape(size, *v.shape) for theirs, v in zip(given, vectors, strict=True)]
    if agree is not None:
        given = [v if v.dtype is torch.bool else torch.where(agree, v, torch.nan) for v in given]
    return given, counts.view(torch.int64).flatten(), agree


def _collect(collective, group, *arguments):
    try:
        collective(*arguments, group=group)
    except RuntimeError as error:
        raise RuntimeError(say.exchange_failed(dist.get_rank(group), error)) from error


def _encoded(header):
    """Return a header's bytes: of a long one, with a digest in place of its end."""
    words = header.encode()
    if len(words) > _WORDS:
        words = words[: _WORDS - 10] + b"..%08x" % zlib.crc32(words)
    return words.ljust(_WORDS, b"\0")


def _is_waited_for(tensor):
    return not tensor.is_cpu


def _check(name, header, headers, rank, is_read):
    """Raise unless all ranks sent the same header; else return None, or what tells it on a GPU."""
    # There to look is to wait for the exchange. So once a header was found to agree, it is only compared there, and the
    # flag that says whether it still agrees is returned, unless the packets are to be read (`is_read`) anyway.
    if _is_waited_for(headers) and not is_read:
        if (name, header) in _agreed:
            return (headers == headers[rank]).all()
        _agreed.add((name, header))
    for other, theirs in enumerate(map(bytes, headers.tolist())):
        if theirs != _encoded(header):
            _agreed.discard((name, header))
            words = theirs.rstrip(b"\0").decode(errors="replace")
            raise RuntimeError(say.ranks_differ(rank, header, other, words if words.isprintable() else repr(words)))
    return None


class Sum(Function):
    """The sum of a tensor over all ranks of a group, and of its gradients: ``(name, tensor) -> sum``."""

    @staticmethod
    def forward(ctx, name, tensor):
        ctx.group = name
        tensor = tensor.clone(memory_format=torch.contiguous_format)  # gloo adds up what lies in memory
        _collect(dist.all_reduce, members(name)[0], tensor)
        return tensor

    @staticmethod
    def backward(ctx, grad):
        return None, Sum.apply(ctx.group, grad)
