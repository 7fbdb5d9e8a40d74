"""What ranks tell each other: one all-gather of packets that say whose they are.

A packet is a header of `HEADER` bytes, then vectors. All ranks must send the same, so each header says what its rank is
at: a rank that is at something else, or has other lanes, is found by every other from what it has received anyway.
"""

import weakref
import zlib

import torch
import torch.distributed as dist

from .. import _messages as say
from .._problem import FORGET, LINEAR

WORDS = 16  # of 8 bytes
HEADER = 8 * WORDS
_MARK = 0x66726563  # no other collective's bytes
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128)
_MOST_AXES = 8
WINDOW = "window"
KINDS = {FORGET: "a forget_mult", LINEAR: "a linear_recurrence", WINDOW: "inputs of a window"}
FORWARD, BACKWARD, AGAIN = range(3)  # what a packet is for
_ACTS = ("", "the gradient of ", "a second exchange for ")
FLAGS = ("reverse", "return_state", "a gradient wanted", "lengths")
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


def describe(act, kind, dtype, flags, lanes, steps):
    """Return what a packet says of itself; but for the steps it must be the same on all ranks."""
    if len(lanes) <= _MOST_AXES:
        sizes = (*lanes, *[0] * (_MOST_AXES - len(lanes)))
    else:
        sizes = (zlib.crc32(repr(tuple(lanes)).encode()), *[0] * (_MOST_AXES - 1))
    number = act * len(KINDS) + list(KINDS).index(kind)
    return (_MARK, number, _DTYPES.index(dtype), flags, len(lanes), *sizes, 0, 0, steps)


def again(header, turn):
    """Return the header of the ``turn``-th exchange that follows one with this header."""
    return (_MARK, AGAIN * len(KINDS) + header[1] % len(KINDS), *header[2:-3], turn, *header[-2:])


def gather(name, header, *vectors):
    """Return every rank's vectors and steps, stacked in the ranks' order; raise unless all ranks sent alike packets."""
    group, rank, size = members(name)
    nbytes = [v.numel() * v.element_size() for v in vectors]
    length = -(-(HEADER + sum(nbytes)) // 16) * 16  # so that every packet's numbers stand where numbers may
    own = torch.zeros(length, dtype=torch.uint8, device=vectors[0].device)
    own[:HEADER].view(torch.int64).copy_(torch.tensor(header, device="cpu"))
    places, at = [], HEADER
    for vector, n in zip(vectors, nbytes, strict=True):
        places.append(slice(at, at + n))
        own[places[-1]].view(vector.dtype).copy_(vector.reshape(-1))
        at += n
    packets = torch.zeros(size, len(own), dtype=torch.uint8, device=own.device)
    try:
        dist.all_gather(list(packets), own, group=group)
    except RuntimeError as error:
        raise RuntimeError(say.exchange_failed(rank, error)) from error
    agree = _check(name, header, packets[:, :HEADER].contiguous().view(torch.int64), rank)
    given = [
        packets[:, place].view(vector.dtype).reshape(size, *vector.shape)
        for place, vector in zip(places, vectors, strict=True)
    ]
    if agree is not None:
        given = [torch.where(agree, vector, torch.nan) for vector in given]
    return given, packets[:, HEADER - 8 : HEADER].view(torch.int64).flatten()


def total(name, tensor):
    """Return the sum of a tensor over all ranks."""
    group, rank, _ = members(name)
    tensor = tensor.clone()
    try:
        dist.all_reduce(tensor, group=group)
    except RuntimeError as error:
        raise RuntimeError(say.exchange_failed(rank, error)) from error
    return tensor


def _is_waited_for(tensor):
    return not tensor.is_cpu


def _check(name, header, headers, rank):
    """Raise unless all ranks sent the same header.

    On a GPU that waits for the exchange. So once a header was found to agree, it is only compared there, and whether it
    still agrees is returned: numbers of ranks that differ become NaN.
    """
    key = name, header[:-1]
    if _is_waited_for(headers):
        if key in _agreed:
            return (headers[:, :-1] == headers[rank, :-1]).all()
        _agreed.add(key)
    for other, theirs in enumerate(headers.tolist()):
        if tuple(theirs[:-1]) != header[:-1]:
            _agreed.discard(key)
            raise RuntimeError(say.ranks_differ(rank, _told(header), other, _told(theirs)))
    return None


def _told(header):
    mark, number, dtype, flags, ndim, *sizes = header[:-3]
    if mark != _MARK or not (0 <= dtype < len(_DTYPES) and 0 <= number < len(_ACTS) * len(KINDS)):
        return "another collective's bytes, or none"
    act, kind = divmod(number, len(KINDS))
    lanes = tuple(sizes[:ndim]) if ndim <= _MOST_AXES else f"of {ndim} axes"
    options = "".join(f", {flag}" for k, flag in enumerate(FLAGS) if flags >> k & 1)
    return f"{_ACTS[act]}{list(KINDS.values())[kind]} of lanes {lanes}, {_DTYPES[dtype]}{options}"
