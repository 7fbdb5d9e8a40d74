"""A problem as GPU kernels see it: which of them run, over how many threads, with which numbers.

What is checked and what the results look like is `_problem`'s; here it only becomes launches. A plan depends on dtypes,
shapes and strides alone, so the same problem takes the same kernels, hence has the same bits, on every card.
"""

import functools
import itertools
import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from .. import _loops, _problem, _shapes
from .. import _messages as say
from .._arrays import element
from .._shapes import c_strides
from . import _descriptors, _look_back
from ._kernels import MOST_THREADS, THREADS

LANES, SERIES = "lanes", "series"
CLEAR = "clear"  # no kernel: the driver sets words to zero

_CARRY = {"f2": "f4", "bf2": "f4", "f4": "f4", "f8": "f8", "c8": "c8", "c16": "c16"}
_DTYPES = {name: np.dtype(name) for name in ("f4", "f8", "c8", "c16")}

# What `choose` reckons with. Not measured: a large card's numbers, rounded, and the same for every card.
BYTES_PER_US = 3e6
BATCH_US, STEP_US = 0.6, 0.013  # what memory takes to answer, and a step once its operands are there
CHUNK_US = 1.5  # a warp's chunk
FIXED_US = 8.0  # what clearing descriptors, a look at flags and the launches of both take
LOOK_US, FOLD_US = 0.8, 0.007  # a status word's way to another block, and a tile's summary once it is there
THREADS_WANTED = 38_620  # that keep such a card's memory busy: tests/gpu_tools/table.py, the lanes' kernel
GAIN = 0.9  # three launches in the place of one are to save a tenth
FEW_LANES = 32
ACROSS = 32  # series side by side in a tile


class Choice(NamedTuple):
    """Which kernel scans, and into how many tiles time is cut for it: 1 if it is not."""

    traversal: str
    tiles: int


class Estimate(NamedTuple):
    """What a problem should take in microseconds, in one piece and by the single-pass scan; `tests/gpu` prints it."""

    choice: Choice
    whole: float
    scan: float


def _overlapped(stream, alone, threads):
    """Return what a kernel takes that moves its bytes in ``stream`` and waits for memory ``alone``.

    Too few threads ask for too few bytes at once; but to wait and to move, one after the other, takes longest.
    """
    return max(alone, min(stream / min(1, threads / THREADS_WANTED), alone + stream))


def estimate(lanes, steps, neighbours, time_is_contiguous, word, ahead):
    """Return what `choose` reckons with; arguments are as there."""
    in_time = time_is_contiguous and neighbours < FEW_LANES and steps > 1
    series = in_time or (lanes < FEW_LANES and neighbours < FEW_LANES and steps > ahead)
    stream = word * lanes * steps / BYTES_PER_US
    batch = CHUNK_US if series else BATCH_US + ahead * STEP_US
    across, width = (1, 32) if series else (ACROSS, 1)
    whole = _overlapped(stream, math.ceil(steps / (width * ahead)) * batch, width * lanes)
    tiles = -(-steps // (_look_back.THREADS // across * ahead))
    window = _look_back.window(across)
    looks = tiles / window * (LOOK_US + window * FOLD_US)
    resident = tiles * -(-lanes // across) * _look_back.THREADS
    scan = _overlapped(stream, batch + looks, resident) + FIXED_US
    is_cut = tiles > 1 and scan < GAIN * whole
    return Estimate(Choice(SERIES if series else LANES, tiles if is_cut else 1), whole, scan)


def choose(lanes, steps, neighbours, time_is_contiguous, word, ahead, is_complex=False):
    """Return the choice for a problem: a function of its shape and layout alone.

    Parameters
    ----------
    lanes, steps : int
        The number of series, and their length.
    neighbours : int
        How many lanes stand next to each other in memory.
    time_is_contiguous : bool
        Whether steps do, in every operand that has them all.
    word : int
        How many bytes a step of a lane moves.
    ahead : int
        The steps that a thread takes at once.
    is_complex : bool
        Complex states have the one kernel only, and are not cut.
    """
    if is_complex:
        return Choice(LANES, 1)
    return estimate(lanes, steps, neighbours, time_is_contiguous, word, ahead).choice


class Launch(NamedTuple):
    """One kernel, what it is made for, and where."""

    kernel: str
    rule: str
    carry: str
    options: tuple
    elements: tuple  # pairs of parameter names and elements
    time: str
    grid: tuple
    threads: int
    values: dict  # the parameters that are known beforehand
    places: tuple = ()  # pairs: parameters that take another operand's address, and whose


@dataclass(eq=False)
class DevicePlan:
    """A problem as launches."""

    plan: object  # what `_problem` says about it: shape, dtypes, strides of results
    carry: str
    lane_shape: tuple
    choice: Choice
    launches: tuple
    scratch: dict  # name -> how many carries
    offsets: tuple  # for every repetition of the launches, name -> bytes
    finish: tuple = ()  # sums: (source name, target name, carries of partial sums, launches)
    temporaries: dict = field(default_factory=dict)  # name -> how many carries

    def __post_init__(self):
        self.carry_dtype = _DTYPES[self.carry]
        self.prepared = {}  # what `_run` has made of launches


def _signature_parts(signature, carry_dtype):
    if type(signature) is not tuple:
        return "number", carry_dtype.itemsize, (), ()
    dtype, shape, strides = signature
    return element(dtype), dtype.itemsize, shape, strides


def _rule(family, dtype, carry, a):
    if family == _problem.LINEAR:
        return "linear"
    is_number = type(a) is not tuple
    return "forget_same" if element(dtype) == carry or is_number else "forget_wide"


def _aligned(strides, itemsize, name):
    if any(s % itemsize for s in strides):
        raise ValueError(say.unaligned(name))


def _dims(shape, axis, operands, guides):
    """Return lane dimensions, merged: size and each operand's strides."""
    lane_axes = [k for k in range(len(shape)) if k != axis and shape[k] != 1]
    lane_axes.sort(key=lambda k: (-abs(next((operands[g][k] for g in guides if operands[g][k]), 0)), k))
    names = list(operands)
    dims = _loops.merge([(shape[k], tuple(operands[name][k] for name in names)) for k in lane_axes])
    return [(size, dict(zip(names, strides, strict=True))) for size, strides in dims]


def _cut(dims, names):
    """Return the sizes of three dimensions, each operand's strides in them, and the offsets of their repetitions."""
    beyond, three = dims[:-3], dims[-3:]
    three = [(1, dict.fromkeys(names, 0))] * (3 - len(three)) + three
    sizes = [size for size, _ in three]
    strides = {name: tuple(s[name] for _, s in three) for name in names}
    offsets = tuple(
        {name: sum(i * s[name] for i, (_, s) in zip(index, beyond, strict=True)) for name in names}
        for index in itertools.product(*(range(size) for size, _ in beyond))
    )
    return sizes, strides, offsets


def _packs(names, elements, sizes, time, most):
    """Return how many elements of each operand, ``most`` at most, are read at once: 0 unless time is contiguous."""
    packs = {}
    for name in names:
        contiguous = abs(time[name]) == sizes[name] and elements[name] in ("f2", "bf2", "f4", "f8")
        packs[name] = 16 // sizes[name] if contiguous and 16 // sizes[name] <= most else 0
    return packs


def _grid(threads, per_block):
    return (-(-threads // per_block), 1, 1)


def _block(threads):
    return min(MOST_THREADS, max(32, -(-threads // 32) * 32))


def _check_size(lanes, steps):
    if lanes >= 1 << 31 or steps >= 1 << 31:
        raise ValueError(say.too_many(lanes, steps))


def _geometry(shape, axis, reverse, operands, sizes, elements, guides, full, word, carry, is_vjp):
    """Return what all launches of a problem share.

    ``operands`` holds strides in the result's axes by name, 0 in time for those that have none; ``full`` names those
    with time, whose layout decides.
    """
    steps = shape[axis]
    time = {name: (operands[name][axis] if steps > 1 else 0) for name in full}
    base = {name: ((steps - 1) * time[name] if reverse else 0) for name in full}
    if reverse:
        time = {name: -t for name, t in time.items()}
    dims = _dims(shape, axis, operands, guides)
    lane_sizes, lane_strides, offsets = _cut(dims, list(operands))
    lanes = math.prod(lane_sizes)
    _check_size(lanes, steps)
    wide = [name for name in full if elements[name] != "number" and any(operands[name])]
    inner, inner_strides = dims[-1] if dims else (1, dict.fromkeys(operands, 0))
    neighbours = inner if all(inner_strides[n] in (0, sizes[n]) for n in wide) else 1
    in_time = [n for n in wide if time[n]]
    time_is_contiguous = bool(in_time) and all(abs(time[n]) == sizes[n] for n in in_time)
    largest = max((sizes[n] for n in wide), default=4)
    ahead = (16 if largest <= 4 else 8) // (2 if is_vjp else 1)
    choice = choose(lanes, steps, neighbours, time_is_contiguous, word, ahead, carry.startswith("c"))
    in_time, cut = choice.traversal == SERIES, choice.tiles > 1
    packs, guide, width, tiles = dict.fromkeys(full, 0), ("b", 0), 1, 1
    if in_time:
        packs = _packs(full, elements, sizes, time, ahead)
        by = max(("b", "a"), key=lambda n: packs[n])
        guide, width = (by, packs[by]), 32
        while width > 1 and width // 2 * ahead >= steps + guide[1]:
            width //= 2
    across = 1 if in_time else ACROSS
    if cut:
        tiles = -(-(steps + guide[1]) // (_look_back.THREADS // across * ahead))
    farthest = max([abs(t) for t in time.values()] or [0]) * (16 + ahead)
    values = dict(
        steps=steps, reverse=int(reverse), lanes=lanes, middles=lane_sizes[1], inners=lane_sizes[2], width=width,
        tiles=tiles,
    )  # fmt: skip
    values |= {f"{name}_time": t for name, t in time.items()}
    values |= {f"{name}_lane": s for name, s in lane_strides.items()}
    offsets = tuple({name: o + base.get(name, 0) for name, o in each.items()} for each in offsets)
    return Geometry(
        values, offsets, choice, tiles, lanes, ahead, across, packs, guide, "i4" if farthest < 1 << 31 else "i8", dims
    )


class Geometry(NamedTuple):
    """The numbers that a problem's launches share."""

    values: dict
    offsets: tuple
    choice: Choice
    tiles: int
    lanes: int
    ahead: int  # steps that a thread takes at once
    across: int  # series in a tile
    packs: dict
    guide: tuple
    time: str
    dims: list


def _launches(geometry, rule, carry, elements, back, **told):
    """Return the launches of this problem, and what they need of scratch: name -> how many carries."""
    lanes, tiles, packs = geometry.lanes, geometry.tiles, tuple(sorted(geometry.packs.items()))
    chunks = dict(count=geometry.ahead, packs=packs, guide=geometry.guide)

    def launch(kernel, threads, per_block, **options):
        return Launch(
            kernel + back, rule, carry, tuple(sorted((told | options).items())), tuple(sorted(elements.items())),
            geometry.time, _grid(threads, per_block), per_block, geometry.values,
        )  # fmt: skip

    if tiles > 1:
        threads = -(-lanes // geometry.across) * tiles * _look_back.THREADS
        size = _DTYPES[carry].itemsize
        is_average = rule != "linear" and not back
        needed = _descriptors.bytes_of(lanes, tiles, geometry.across, is_average, size)
        clear = Launch(CLEAR, "", carry, (), (), "i4", (), 0, {"words": needed // 4})
        scan = launch("scan", threads, _look_back.THREADS, across=geometry.across, **chunks)
        fix_up = launch("series", lanes * 32, _block(lanes * 32), is_fix_up=True, **chunks)
        return (clear, scan, fix_up), {"descriptors": needed // size}
    if geometry.choice.traversal == LANES:
        return (launch("lanes", lanes, _block(lanes), ahead=geometry.ahead),), {}
    threads = lanes * geometry.values["width"]
    return (launch("series", threads, _block(threads), is_fix_up=False, **chunks),), {}


def _own(shape, lane_shape, strides):
    """Return a state's strides in the lanes' axes."""
    return _shapes.spread(shape, strides, lane_shape)


def _with_time(strides, axis):
    return (*strides[:axis], 0, *strides[axis:])


@functools.lru_cache(maxsize=1024)
def forward(family, names, a, b, h0, out, axis, reverse, lengths, weak_complex=False, dtype=None):
    """Return the plan of a forward call.

    Arrays come as ``(dtype, shape, strides)``, and so do ``h0`` and ``lengths``; a complex Python number as
    ``complex``; any other number, and what is left out, as None, ``h0`` as a number with ``float``. ``dtype`` is the
    result's where the library's own promotion has found it.
    """
    h0_known = h0[:2] if type(h0) is tuple else (complex if h0 is complex else None)
    plan = _problem.forward(
        family, names, a, b, h0_known, out, axis, reverse, None if lengths is None else lengths[1], weak_complex, dtype
    )
    carry = _CARRY[element(plan.dtype)]
    carry_dtype = _DTYPES[carry]
    shape, axis, lane_shape = plan.shape, plan.axis, plan.lane_shape
    if 0 in shape:
        return DevicePlan(plan, carry, lane_shape, None, (), {}, ())
    elements, sizes, operands = {}, {}, {}
    for name, label, signature in (("a", names[0], a), ("b", names[1], b)):
        elements[name], sizes[name], own_shape, own = _signature_parts(signature, carry_dtype)
        operands[name] = _shapes.spread(own_shape, own, shape)
        _aligned(operands[name], sizes[name], label)
    elements["h"], sizes["h"], operands["h"] = element(plan.dtype), plan.dtype.itemsize, plan.h_strides
    _aligned(plan.h_strides, sizes["h"], "out")
    _state(elements, operands, "h0", h0, plan.dtype, lane_shape, axis)
    elements["last"] = elements["h"]
    operands["last"] = _with_time(c_strides(lane_shape, plan.dtype.itemsize), axis)
    _lengths(elements, operands, lengths, lane_shape, axis)
    word = plan.dtype.itemsize + sum(sizes[n] for n in "ab" if any(operands[n]))
    geometry = _geometry(
        shape, axis, reverse, operands, sizes, elements, ("h", "b", "a"), ("a", "b", "h"), word,
        carry, False,
    )  # fmt: skip
    rule = _rule(family, plan.dtype, carry, a)
    launches, scratch = _launches(geometry, rule, carry, elements, "")
    return DevicePlan(plan, carry, lane_shape, geometry.choice, launches, scratch, geometry.offsets)


def _state(elements, operands, name, state, like, lane_shape, axis):
    if type(state) is tuple:
        dtype, own_shape, own = state
        elements[name] = element(dtype)
        operands[name] = _with_time(_own(own_shape, lane_shape, own), axis)
        _aligned(operands[name], dtype.itemsize, name)
    else:
        elements[name] = element(like) if state is None else "number"  # None: a null address
        operands[name] = _with_time((0,) * len(lane_shape), axis)


def _lengths(elements, operands, lengths, lane_shape, axis):
    if lengths is None:
        elements["lengths"] = "i8"
        operands["lengths"] = (0,) * (len(lane_shape) + 1)
    else:
        dtype, own_shape, own = lengths
        elements["lengths"] = element(dtype)
        padded = own + (0,) * (len(lane_shape) - len(own))
        sizes = own_shape + (1,) * (len(lane_shape) - len(own))
        operands["lengths"] = _with_time(tuple(0 if n == 1 else s for n, s in zip(sizes, padded, strict=True)), axis)
        _aligned(operands["lengths"], dtype.itemsize, "lengths")


@functools.lru_cache(maxsize=1024)
def vjp(
    family, names, g, a, b, h, h0, grad_state, axis, reverse, lengths, weak_complex=False, dtype=None,
    layouts=(None, None),
):  # fmt: skip
    """Return the plan of a gradient call; arguments as for `forward`, ``grad_state`` like ``h0``.

    ``layouts`` are the strides of fresh gradients, None to choose them.
    """
    known = [s[:2] if type(s) is tuple else (complex if s is complex else None) for s in (h0, grad_state)]
    plan = _problem.vjp(
        family, names, (g, a, b, h, *known), axis, reverse, None if lengths is None else lengths[1], weak_complex,
        dtype, layouts=layouts,
    )  # fmt: skip
    if dtype is None:
        everything = _shapes.own_dtypes(g, a, b, h, h0, grad_state)
        dtype = _shapes.result_dtype((*names, "h0", "grad_state"), everything, weak_complex)
    carry = _CARRY[element(dtype)]
    carry_dtype = _DTYPES[carry]
    shape, axis, lane_shape = plan.shape, plan.axis, plan.lane_shape
    if 0 in shape:
        return DevicePlan(plan, carry, lane_shape, None, (), {}, ())
    elements, sizes, operands = {}, {}, {}
    for name, label, signature in (("g", names[0], g), ("a", names[1], a), ("b", names[2], b), ("h", names[3], h)):
        elements[name], sizes[name], own_shape, own = _signature_parts(signature, carry_dtype)
        operands[name] = _shapes.spread(own_shape, own, shape)
        _aligned(operands[name], sizes[name], label)
    _state(elements, operands, "h0", h0, plan.dtype, lane_shape, axis)
    _state(elements, operands, "last", grad_state, plan.dtype, lane_shape, axis)
    # Gradients: of a full operand where they belong, else in the carry's type and added up afterwards.
    totals, temporaries = {}, {}
    dense = (
        _shapes.like(shape, carry_dtype, (h[1], h[2])) if type(h) is tuple else c_strides(shape, carry_dtype.itemsize)
    )
    for name, (own_shape, dtype, strides) in zip(("to_a", "to_b"), plan.gradients, strict=True):
        own = _shapes.own_strides(own_shape, shape, dtype.itemsize)
        totals[name] = False
        if strides is not None:
            elements[name], sizes[name], operands[name] = element(dtype), dtype.itemsize, strides
            continue
        elements[name], sizes[name] = carry, carry_dtype.itemsize
        totals[name] = own[axis] == 0
        operands[name] = (0,) * len(shape) if totals[name] else dense
        operands[name + "_sum"] = (*own[:axis], 0, *own[axis + 1 :])
    h0_shape = h0[1] if type(h0) is tuple else ()
    full_state = h0_shape == lane_shape
    first_dtype = carry_dtype if h0 is not None and not full_state else plan.h0_dtype or plan.dtype
    elements["first"] = element(first_dtype)
    operands["first"] = _with_time(c_strides(lane_shape, first_dtype.itemsize), axis)
    _lengths(elements, operands, lengths, lane_shape, axis)
    word = sum(sizes[n] for n in ("g", "a", "b", "h", "to_a", "to_b") if any(operands[n]))
    full = ("g", "a", "b", "h", "to_a", "to_b")
    geometry = _geometry(shape, axis, reverse, operands, sizes, elements, ("h", "b", "a", "g"), full, word, carry, True)
    rule = _rule(family, np.dtype(carry_dtype) if plan.dtype.itemsize > 2 else plan.dtype, carry, a)
    lanes, tiles, repeats = geometry.lanes, geometry.tiles, len(geometry.offsets)
    told = dict(a_is_total=totals["to_a"], b_is_total=totals["to_b"])
    launches, scratch = _launches(geometry, rule, carry, elements, "_vjp", **told)
    finish = []
    size = carry_dtype.itemsize
    offsets = [dict(each) for each in geometry.offsets]
    for name, (own_shape, dtype, strides) in zip(("to_a", "to_b"), plan.gradients, strict=True):
        if strides is not None:
            continue
        own = _shapes.own_strides(own_shape, shape, dtype.itemsize)
        if totals[name]:
            temporaries[name] = repeats * tiles * lanes
            for k, each in enumerate(offsets):
                each[name] = k * tiles * lanes * size
            # As the kernel leaves them: repetitions, tiles, and the lanes in the kernel's order.
            reach, dims = size, []
            for n, s in reversed(geometry.dims[-3:]):
                dims.append((n, reach, s[name + "_sum"]))
                reach *= n
            dims.append((tiles, reach, 0))
            reach *= tiles
            for n, s in reversed(geometry.dims[:-3]):
                dims.append((n, reach, s[name + "_sum"]))
                reach *= n
        else:
            temporaries[name] = math.prod(shape)
            dims = [(n, s, o) for n, s, o in zip(shape, dense, own, strict=True)]
        finish.append((name, name, *_sum(dims, carry, element(dtype))))
    if h0 is not None and not full_state:
        temporaries["first"] = math.prod(lane_shape)
        source = c_strides(lane_shape, carry_dtype.itemsize)
        own = _shapes.own_strides(h0_shape, lane_shape, plan.h0_dtype.itemsize)
        dims = list(zip(lane_shape, source, own, strict=True))
        finish.append(("first", "first", *_sum(dims, carry, element(plan.h0_dtype))))
    return DevicePlan(
        plan, carry, lane_shape, geometry.choice, launches, scratch, tuple(offsets), tuple(finish), temporaries
    )


SLICE = 1 << 12  # summands that a block adds up
MOST_SLICES = 1 << 8


def added(dtype, source, shape, source_strides, target, target_strides):
    """Return a plan that adds up ``source`` into ``target_sum``, or copies, or fills where the source is a number.

    ``source`` is a dtype or ``"number"``; strides are in the axes of ``shape``, the target's 0 where it is summed over.
    """
    carry = _CARRY[element(dtype)]
    source = source if source == "number" else element(source)
    dims = list(zip(shape, source_strides, target_strides, strict=True))
    finish = (("source", "source", *_sum(dims, carry, element(target), source)),)
    return DevicePlan(None, carry, (), None, (), {}, (), finish)


def _sum(dims, carry, target, source=None):
    """Return ``(number of partial sums, launches)`` that add up a source into a target.

    ``dims`` are ``(size, source stride, target stride)``, the latter 0 along what is summed over.
    """
    dims = sorted((d for d in dims if d[0] > 1), key=lambda d: -abs(d[1]))
    kept = _loops.merge([(n, (s, t)) for n, s, t in dims if t])
    summed = _loops.merge([(n, (s, 0)) for n, s, t in dims if not t])
    if len(kept) > 3 or len(summed) > 3:
        raise NotImplementedError(say.too_many_dimensions())
    kept = [(1, (0, 0))] * (3 - len(kept)) + kept
    summed = [(1, (0, 0))] * (3 - len(summed)) + summed
    results, summands = math.prod(n for n, _ in kept), math.prod(n for n, _ in summed)
    _check_size(results, summands)
    slices = min(MOST_SLICES, -(-summands // SLICE)) if results < THREADS_WANTED else 1
    slice_size = -(-summands // slices)
    slices = -(-summands // slice_size)

    size = _DTYPES[carry].itemsize
    sizes, sums = [n for n, _ in kept], [n for n, _ in summed]
    at = dict(kept=[s for _, (s, _) in kept], put=[t for _, (_, t) in kept], summed=[s for _, (s, _) in summed])

    def launch(source, target, summands, sums, kept, summed, put, slices, slice_size, slice_stride):
        across = min(32, 1 << (results - 1).bit_length())
        values = dict(
            results=results, middles=sizes[1], inners=sizes[2], summands=summands, summed_middles=sums[1],
            summed_inners=sums[2], slice_size=slice_size, across=across, source_kept=tuple(kept),
            source_summed=tuple(summed), target_kept=tuple(put), target_slice=slice_stride,
        )  # fmt: skip
        return Launch(
            "sums", "", carry, (), (("source", source), ("target", target)), "i4", (-(-results // across), slices, 1),
            THREADS["sums"], values,
        )  # fmt: skip

    source = source or carry
    if slices == 1:
        one = launch(source, target, summands, sums, at["kept"], at["summed"], at["put"], 1, summands, 0)
        return 0, (one,)
    partial = (sizes[1] * sizes[2] * size, sizes[2] * size, size)
    stride = results * size
    first = launch(source, carry, summands, sums, at["kept"], at["summed"], partial, slices, slice_size, stride)
    second = launch(carry, target, slices, (1, 1, slices), partial, (0, 0, stride), at["put"], 1, slices, 0)
    return slices * results, (first, second)
