"""A problem as GPU kernels see it: which of them run, over how many threads, with which numbers.

What is checked and what the results look like is `problem`'s; here it only becomes launches. A plan depends on dtypes,
shapes and strides alone, so the same problem takes the same kernels, hence has the same bits, on every card.
"""

import functools
import itertools
import math
from collections import namedtuple
from dataclasses import dataclass, field

import numpy as np

from .._arguments import checks, messages as say, shapes
from .._arguments.arrays import element
from .._arguments.shapes import c_strides
from .._plan import loops, problem
from .kernels import descriptors, look_back
from .kernels.catalog import MOST_THREADS, THREADS

LANES, SERIES = "lanes", "series"
CLEAR = "clear"  # no kernel: the driver sets words to zero

# What `choose` reckons with. Not measured: a large card's numbers, rounded, and the same for every card.
BYTES_PER_US, INSTRUCTIONS_PER_US = 3e6, 29.6e6  # the second of threads, at 128 lanes a multiprocessor
# Instructions an element of lanes, series and the scan, by its bytes, forward (0) and backward: docs/gpu_kernels.txt.
EXECUTED = {(2, 0): (34, 68, 61), (4, 0): (38, 74, 67), (8, 0): (38, 120, 128)}
EXECUTED |= {(2, 1): (48, 55, 79), (4, 1): (38, 49, 75), (8, 1): (39, 115, 171)}
BATCH_US, STEP_US, CHUNK_US = 0.6, 0.013, 1.5  # memory's answer, a step once its operands are there, a warp's chunk
FIXED_US = 8.0  # what clearing descriptors, a look at flags and the launches of both take
LOOK_US, FOLD_US = 0.8, 0.007  # a status word's way to another block, and a tile's summary once it is there
THREADS_WANTED = 43_254  # that keep such a card's memory busy: tests/gpu_tools/table.py, the lanes' kernel in float32
IN_FLIGHT = THREADS_WANTED * 16 * 12  # bytes that these move in a batch; of fewer a thread there must be more threads
GAIN = 0.9  # three launches in the place of one are to save a tenth
FEW_LANES = 32
ACROSS = 32  # series side by side in a tile

# The names of operands and results, in the order of their addresses; and which of them have time.
FORWARD = "a", "b", "h0", "h", "last", "lengths"
VJP = "g", "a", "b", "h", "h0", "last", "to_a", "to_b", "first", "lengths"
CUTS = "offsets", "resets"  # in plans of calls that have some
POOL = "g", "product", "keep", "h", "states", "first", "carry", "to_product", "rows", "lengths"
_FULL = "g", "a", "b", "h", "to_a", "to_b", "resets"


# Which kernel scans, and into how many tiles time is cut for it: 1 if it is not.
Choice = namedtuple("Choice", "traversal tiles")
# What a problem should take in microseconds, in one piece and by the single-pass scan; `tests/gpu` prints it.
Estimate = namedtuple("Estimate", "choice whole scan")
# A kernel, what it is made for (``elements``: pairs of parameter names and elements), where, what is known of its
# parameters beforehand, and the names of places that are not called as parameters are.
Launch = namedtuple("Launch", "kernel rule carry options elements time grid threads values places", defaults=({},))


def overlapped(stream, work, alone, share):
    """Return what a kernel takes that moves bytes in ``stream``, by a share of the threads wanted, and waits."""
    return max(alone, work, min(stream / min(1, share), alone + stream))


def estimate(lanes, steps, neighbours, time_is_contiguous, word, ahead, executed=EXECUTED[4, 0]):
    """Return what `choose` reckons with; arguments are as there."""
    in_time = time_is_contiguous and neighbours < FEW_LANES and steps > 1
    series = in_time or (lanes < FEW_LANES and neighbours < FEW_LANES and steps > ahead)
    stream, wanted = word * lanes * steps / BYTES_PER_US, IN_FLIGHT / (ahead * max(1, word))
    of_lanes, of_series, of_scan = (lanes * steps * each / INSTRUCTIONS_PER_US for each in executed)
    batch = CHUNK_US if series else BATCH_US + ahead * STEP_US
    across, width, work = (1, 32, of_series) if series else (ACROSS, 1, of_lanes)
    whole = overlapped(stream, work, math.ceil(steps / (width * ahead)) * batch, width * lanes / wanted)
    tiles = -(-steps // (look_back.THREADS // across * ahead))
    window = look_back.window(across)
    looks = tiles / window * (LOOK_US + window * FOLD_US)
    share = tiles * -(-lanes // across) * look_back.THREADS / wanted
    scan = overlapped(stream, of_scan, batch + looks, share) + FIXED_US
    is_cut = tiles > 1 and scan < GAIN * whole
    return Estimate(Choice(SERIES if series else LANES, tiles if is_cut else 1), whole, scan)


def choose(lanes, steps, neighbours, time_is_contiguous, word, ahead, by_lanes=False, executed=EXECUTED[4, 0]):
    """Return the choice for a problem: a function of its shape and layout alone.

    In memory ``neighbours`` lanes stand next to each other, and steps do if ``time_is_contiguous``, in every operand
    that has them all. A step of a lane moves ``word`` bytes, and a thread takes ``ahead`` steps at once. ``by_lanes``:
    complex states and offsets have the one kernel only, and time is not cut. ``executed``: a value of `EXECUTED`.
    """
    if by_lanes or not lanes or not steps:
        return Choice(LANES, 1)
    return estimate(lanes, steps, neighbours, time_is_contiguous, word, ahead, executed).choice


@dataclass(eq=False)
class DevicePlan:
    plan: object  # what `problem` says about it: shape, dtypes, strides of results
    carry: str
    names: tuple  # of operands and results, in the order in which `run` is given their addresses
    launches: tuple = ()
    offsets: tuple = ()  # for every repetition of the launches, name -> bytes
    choice: Choice | None = None
    scratch: dict = field(default_factory=dict)  # name -> how many carries
    finish: tuple = ()  # launches after all repetitions: sums
    state_shape: tuple = ()


def carry_of(dtype):
    """Return the name of what states of a dtype are computed in."""
    name = element(dtype)
    return "f4" if name in ("f2", "bf2") else name


class _Operands:
    """A problem's operands and results by a kernel's parameters: elements, itemsizes, strides in the result's axes."""

    def __init__(self, plan, carry, ends):
        self.plan, self.carry = plan, carry
        self.elements, self.sizes, self.strides = {}, {}, {}
        self.lengths, self.offsets, self.resets = ends
        self.cuts = tuple(name for name, its in zip(CUTS, ends[1:], strict=True) if its is not None)
        self.segments = 1 if self.offsets is None else self.offsets[1][0] - 1
        self.state_shape = (self.segments,) * (self.offsets is not None) + plan.lane_shape
        self.next = {}  # name -> bytes to the next segment's

    def put(self, name, dtype, strides, label=""):
        """Note what has these strides; raise unless they are whole elements."""
        self.elements[name], self.sizes[name], self.strides[name] = element(dtype), dtype.itemsize, strides
        if any(s % dtype.itemsize for s in strides):
            raise ValueError(say.unaligned(label))

    def read(self, name, label, signature):
        is_array = type(signature) is tuple
        dtype, shape, strides = signature if is_array else (np.dtype(self.carry), (), ())
        self.put(name, dtype, shapes.spread(shape, strides, self.plan.shape), label)
        if not is_array:
            self.elements[name] = "number"

    def put_state(self, name, dtype, shape, strides, label=""):
        """Note what has no time."""
        own, axis = list(shapes.spread(shape, strides, self.state_shape)), self.plan.axis
        self.next[name] = 0 if self.offsets is None else own.pop(0)
        self.put(name, dtype, (*own[:axis], 0, *own[axis:]), label or name)

    def read_state(self, name, label, signature):
        """Note a state, or a number; None is a null address."""
        problem.check_shapes({label: signature}, self.plan.shape, self.state_shape)
        self.put_state(name, *(signature if type(signature) is tuple else (self.plan.dtype, (), ())), label)
        if signature is float or signature is complex:
            self.elements[name] = "number"

    def read_ends(self):
        """Note lengths, which lead the axes of series, resets, which lead all axes, and offsets."""
        dtype, shape, strides = self.lengths or (np.dtype(np.int64), (), ())
        missing = len(self.plan.lane_shape) - len(shape)
        self.put_state("lengths", dtype, shape + (1,) * missing, strides + (0,) * missing)
        if not self.cuts:
            return
        dtype, shape, strides = self.resets or (np.dtype(bool), (), ())
        if self.resets is not None:
            checks.resets_shape(shape, self.plan.shape, self.plan.axis)
        missing = len(self.plan.shape) - len(shape)
        own = shapes.spread(shape + (1,) * missing, strides + (0,) * missing, self.plan.shape)
        self.put("resets", dtype, own, "resets")
        dtype, _, (self.next["offsets"],) = self.offsets or (np.dtype(np.int64), (), (0,))
        self.elements["offsets"] = element(dtype)
        if self.next["offsets"] % dtype.itemsize:
            raise ValueError(say.unaligned("offsets"))

    def lay_out(self, reverse):
        """Choose a kernel, and note the numbers that all launches share."""
        sizes, elements, strides, axis = self.sizes, self.elements, self.strides, self.plan.axis
        steps, full = self.plan.shape[axis], [name for name in _FULL if name in strides]
        time = {name: (strides[name][axis] if steps > 1 else 0) for name in full}
        base = {name: ((steps - 1) * time[name] if reverse else 0) for name in full}
        if reverse:
            time = {name: -t for name, t in time.items()}
        self.dims = _dims(self)
        lane_sizes, lane_strides, repetitions = cut(self.dims, list(strides))
        self.lanes = math.prod(lane_sizes) * self.segments
        check_size(self.lanes, steps)
        moved = [name for name in full if any(strides[name])]
        wide = [name for name in moved if elements[name] != "number" and name != "resets"]
        inner, inner_strides = self.dims[-1] if self.dims else (1, dict.fromkeys(strides, 0))
        neighbours = inner if all(inner_strides[n] in (0, sizes[n]) for n in wide) else 1
        in_time = [n for n in wide if time[n]]
        time_is_contiguous = bool(in_time) and all(abs(time[n]) == sizes[n] for n in in_time)
        largest = max((sizes[n] for n in wide), default=4)
        self.ahead = ahead = (16 if largest <= 4 else 8) // (2 if "g" in full else 1)
        word = sum(sizes[name] for name in moved)
        by_lanes = self.carry.startswith("c") or "offsets" in self.cuts
        executed = EXECUTED[largest if largest in (2, 8) else 4, int("g" in full)]
        self.choice = choose(self.lanes, steps, neighbours, time_is_contiguous, word, ahead, by_lanes, executed)
        packs, guide, width, self.tiles, self.across = dict.fromkeys(full, 0), ("b", 0), 1, 1, ACROSS
        if self.choice.traversal == SERIES:
            for name in full:
                pack = 16 // sizes[name]
                is_packed = abs(time[name]) == sizes[name] and elements[name] in ("f2", "bf2", "f4", "f8")
                packs[name] = pack if is_packed and pack <= ahead else 0
            by = max(("b", "a"), key=lambda n: packs[n])
            guide, width, self.across = (by, packs[by]), 32, 1
            while width > 1 and width // 2 * ahead >= steps + guide[1]:
                width //= 2
        if self.choice.tiles > 1:
            self.tiles = -(-(steps + guide[1]) // (look_back.THREADS // self.across * ahead))
        farthest = max([abs(t) for t in time.values()] or [0]) * (16 + ahead)
        self.time = "i4" if farthest < 1 << 31 else "i8"
        self.values = dict(
            steps=steps, reverse=int(reverse), lanes=self.lanes, middles=lane_sizes[1], inners=lane_sizes[2],
            width=width, tiles=self.tiles, outers=lane_sizes[0],
        )  # fmt: skip
        self.values |= {f"{name}_time": t for name, t in time.items()}
        self.values |= {f"{name}_lane": s for name, s in lane_strides.items()}
        self.values |= {f"{name}_next": n for name, n in self.next.items()}
        self.chunks = dict(count=ahead, packs=tuple(sorted(packs.items())), guide=guide, cuts=self.cuts)
        self.starts = [{name: o + base.get(name, 0) for name, o in each.items()} for each in repetitions]

    def launches(self, rule, **told):
        """Return the launches of this problem, and what they need of scratch: name -> how many carries."""
        lanes, back = self.lanes, "_vjp" if told else ""
        elements, carry = tuple(sorted(self.elements.items())), self.carry

        def launch(kernel, threads, per_block, **options):
            options = tuple(sorted((told | options).items()))
            grid = -(-threads // per_block), 1, 1
            return Launch(kernel + back, rule, carry, options, elements, self.time, grid, per_block, self.values)

        if self.tiles > 1:
            threads = -(-lanes // self.across) * self.tiles * look_back.THREADS
            size = np.dtype(carry).itemsize
            is_average = rule != "linear" and not back
            needed = descriptors.bytes_of(lanes, self.tiles, self.across, is_average, size)
            clear = Launch(CLEAR, "", carry, (), (), "i4", (), 0, {"words": needed // 4})
            scan = launch("scan", threads, look_back.THREADS, across=self.across, **self.chunks)
            fix_up = launch("series", lanes * 32, _block(lanes * 32), is_fix_up=True, **self.chunks)
            return (clear, scan, fix_up), {"descriptors": needed // size}
        if self.choice.traversal == LANES:
            options = {"ahead": self.ahead, "cuts": self.cuts}
            return (launch("lanes", lanes, _block(lanes), **options),) if lanes else (), {}
        threads = lanes * self.values["width"]
        return (launch("series", threads, _block(threads), is_fix_up=False, **self.chunks),), {}


def _dims(operands):
    """Return dimensions of series, merged: size and each operand's strides."""
    strides, plan = operands.strides, operands.plan
    guides = [strides[name] for name in "hbag" if name in strides]
    axes = [k for k, n in enumerate(plan.shape) if k != plan.axis and n != 1]
    axes.sort(key=lambda k: (-abs(next((guide[k] for guide in guides if guide[k]), 0)), k))
    dims = loops.merge([(plan.shape[k], tuple(own[k] for own in strides.values())) for k in axes])
    return [(size, dict(zip(strides, own, strict=True))) for size, own in dims]


def cut(dims, names):
    """Return the sizes of three dimensions, each operand's strides in them, and the offsets of their repetitions."""
    beyond, three = dims[:-3], dims[-3:]
    three = [(1, dict.fromkeys(names, 0))] * (3 - len(three)) + three
    strides = {name: tuple(s[name] for _, s in three) for name in names}
    offsets = tuple(
        {name: sum(i * s[name] for i, (_, s) in zip(index, beyond, strict=True)) for name in names}
        for index in itertools.product(*(range(size) for size, _ in beyond))
    )
    return [size for size, _ in three], strides, offsets


def _block(threads):
    return min(MOST_THREADS, max(32, -(-threads // 32) * 32))


def check_size(lanes, steps):
    if lanes >= 1 << 31 or steps >= 1 << 31:
        raise ValueError(say.too_many(lanes, steps))


@functools.lru_cache(maxsize=1024)
def forward(family, names, a, b, h0, out, axis, reverse, lengths, weak_complex=False, dtype=None, aside=False):
    """Return the plan of a forward call.

    Arrays come as ``(dtype, shape, strides)``, and so do ``h0`` and ``lengths``, or what is in their place; a complex
    Python number as ``complex``; any other number, and what is left out, as None, ``h0`` as a number with ``float``.
    ``dtype`` is the result's where the library's own promotion has found it. ``aside``: states are copied to ``out`` at
    the end, and overwrite no operands before: the fix-up pass reads these again, and other lanes their first state.
    """
    ends, to = checks.parts(lengths), None if aside else out
    known = None if ends.lengths is None else ends.lengths[1]
    plan = problem.forward(family, names, a, b, _known(h0, ends), to, axis, reverse, known, weak_complex, dtype)
    carry = carry_of(plan.dtype)
    operands = _Operands(plan, carry, ends)
    operands.read("a", names[0], a)
    operands.read("b", names[1], b)
    operands.put("h", plan.dtype, plan.h_strides, "out")
    operands.read_state("h0", "h0", h0)
    operands.put_state("last", plan.dtype, operands.state_shape, c_strides(operands.state_shape, plan.dtype.itemsize))
    operands.read_ends()
    operands.lay_out(reverse)
    launches, scratch = operands.launches(problem.rule_of(family, plan.dtype, np.dtype(carry), a))
    finish = ()
    if aside:
        scratch["h"], name = math.prod(plan.shape), element(plan.dtype)
        finish = sums(scratch, "h", "h", list(zip(plan.shape, plan.h_strides, out[2], strict=True)), carry, name, name)
    rest = operands.choice, scratch, finish, operands.state_shape
    return DevicePlan(plan, carry, FORWARD + CUTS * bool(operands.cuts), launches, tuple(operands.starts), *rest)


def _known(state, ends):
    """Return what `problem` asks of a state: none has the shape of several segments'."""
    if type(state) is not tuple:
        return state
    return state[0], state[1] if ends.offsets is None else ()


@functools.lru_cache(maxsize=1024)
def vjp(
    family, names, signatures, axis, reverse, lengths, weak_complex=False, dtype=None, layouts=(None, None)
):  # fmt: skip
    """Return the plan of a gradient call; arguments as for `forward`.

    ``signatures`` are those of g, a, b, h, h0 and, like ``h0``, grad_state. ``layouts`` are the strides of fresh
    gradients, None to choose them.
    """
    *full, h0, grad_state = signatures
    h, ends = full[3], checks.parts(lengths)
    plan = problem.vjp(
        family, names, (*full, _known(h0, ends), _known(grad_state, ends)), axis, reverse,
        None if ends.lengths is None else ends.lengths[1], weak_complex, dtype, layouts=layouts,
    )  # fmt: skip
    if dtype is None:
        dtype = shapes.result_dtype((*names, "h0", "grad_state"), shapes.own_dtypes(*signatures), weak_complex)
    carry, shape = carry_of(dtype), plan.shape
    operands, kind = _Operands(plan, carry, ends), np.dtype(carry)
    state_shape = operands.state_shape
    for name, label, signature in zip("gabh", names, full, strict=True):
        operands.read(name, label, signature)
    operands.read_state("h0", "h0", h0)
    operands.read_state("last", "grad_state", grad_state)
    operands.read_ends()
    # Gradients: of a full operand where they belong, else in the carry's type and added up afterwards.
    prototypes = [(h[1], h[2])] if type(h) is tuple else []
    dense, summed, totals = shapes.like(shape, kind, *prototypes), {}, {}
    for name, (own_shape, own_dtype, strides) in zip(("to_a", "to_b"), plan.gradients, strict=True):
        totals[name] = False
        if strides is not None:
            operands.put(name, own_dtype, strides)
            continue
        own = shapes.own_strides(own_shape, shape, own_dtype.itemsize)
        summed[name], totals[name] = (own_dtype, own), own[plan.axis] == 0
        operands.put(name, kind, (0,) * len(shape) if totals[name] else dense)
        operands.strides[name + "_sum"] = (*own[: plan.axis], 0, *own[plan.axis + 1 :])
    h0_shape = h0[1] if type(h0) is tuple else ()
    h0_is_full = h0 is None or h0_shape == state_shape
    first = (plan.h0_dtype or plan.dtype) if h0_is_full else kind
    operands.put_state("first", first, state_shape, c_strides(state_shape, first.itemsize))
    operands.lay_out(reverse)
    rule = "linear" if family == problem.LINEAR else "forget_wide"  # which of its steps does not matter
    launches, scratch = operands.launches(rule, a_is_total=totals["to_a"], b_is_total=totals["to_b"])
    finish, partials = (), {}
    for name, (own_dtype, own) in summed.items():
        scratch[name] = math.prod(shape)
        dims = list(zip(shape, dense, own, strict=True))
        if totals[name]:
            each = operands.tiles * operands.lanes
            scratch[name] = each * len(operands.starts)
            for k, start in enumerate(operands.starts):
                start[name] = k * each * kind.itemsize
            dims = _dims_of_totals(operands, name + "_sum", kind.itemsize)
        finish += sums(partials, name, name, dims, carry, element(own_dtype))
    if not h0_is_full:
        scratch["first"] = math.prod(state_shape)
        own = shapes.own_strides(h0_shape, state_shape, plan.h0_dtype.itemsize)
        dims = list(zip(state_shape, c_strides(state_shape, kind.itemsize), own, strict=True))
        finish += sums(partials, "first", "first", dims, carry, element(plan.h0_dtype))
    rest = operands.choice, scratch | partials, finish
    return DevicePlan(plan, carry, VJP + CUTS * bool(operands.cuts), launches, tuple(operands.starts), *rest)


def _dims_of_totals(operands, name, size):
    """Return the dimensions of totals as the kernel leaves them: repetitions, tiles or segments, lanes in its order."""
    dims = [(n, own[name]) for n, own in operands.dims]
    dims.insert(max(len(dims) - 3, 0), (operands.tiles * operands.segments, 0))
    sizes, strides = zip(*dims, strict=True)
    return list(zip(sizes, c_strides(sizes, size), strides, strict=True))


SLICE = 1 << 12  # summands that a block adds up
MOST_SLICES = 1 << 8


def sums(scratch, source, result, dims, carry, to, of=None):
    """Return launches that add up a source into a result, elements ``of`` (the carry's) as others; note partial sums.

    ``dims`` are ``(size, source stride, target stride)``, the latter 0 along what is summed over.
    """
    dims = sorted((d for d in dims if d[0] != 1), key=lambda d: -abs(d[1]))
    kept = loops.merge([(n, (s, t)) for n, s, t in dims if t])
    summed = loops.merge([(n, (s, 0)) for n, s, t in dims if not t])
    if len(kept) > 3 or len(summed) > 3:
        raise NotImplementedError(say.too_many_dimensions())
    kept, summed = ([(1, (0, 0))] * (3 - len(dims)) + dims for dims in (kept, summed))
    results, summands = (math.prod(n for n, _ in dims) for dims in (kept, summed))
    check_size(results, summands)
    if not results:
        return ()
    slices = min(MOST_SLICES, -(-summands // SLICE) or 1) if results < THREADS_WANTED else 1
    slice_size = -(-summands // slices) or 1
    slices = -(-summands // slice_size) or 1
    (_, middles, inners), across = (n for n, _ in kept), min(32, 1 << (results - 1).bit_length())

    def launch(source, target, source_kept, summed, target_kept, slice_size, target_slice, slices):
        (source, of), (target, to), (sizes, strides) = source, target, zip(*summed, strict=True)
        values = dict(
            results=results, middles=middles, inners=inners, summands=math.prod(sizes), summed_middles=sizes[1],
            summed_inners=sizes[2], slice_size=slice_size, across=across, source_kept=source_kept,
            source_summed=strides, target_kept=target_kept, target_slice=target_slice,
        )  # fmt: skip
        elements, grid = (("source", of), ("target", to)), (-(-results // across), slices, 1)
        places = {"source": source, "target": target}
        return Launch("sums", "", carry, (), elements, "i4", grid, THREADS["sums"], values, places)

    of_source, of_target = (tuple(strides[k] for _, strides in kept) for k in (0, 1))
    summed, source, result = [(n, stride) for n, (stride, _) in summed], (source, of or carry), (("result", result), to)
    if slices == 1:
        return (launch(source, result, of_source, summed, of_target, summands, 0, 1),)
    size, between = np.dtype(carry).itemsize, (f"partial sums of {source[0]}", carry)
    partial, stride = (middles * inners * size, inners * size, size), results * size
    scratch[between[0]] = slices * results
    first = launch(source, between, of_source, summed, partial, slice_size, stride, slices)
    return first, launch(between, result, partial, [(1, 0), (1, 0), (slices, stride)], of_target, slices, 0, 1)


@functools.lru_cache(maxsize=1024)
def pool(name, operands, steps, batch, width, reverse, gated, packed):
    """Return the plan of a layer's pooling: of the kernel `pool` or `pool_vjp`.

    ``operands`` holds, for each, its name, its dtype, or None for a number that is passed by value, and its strides in
    bytes, of a step and of a sequence; ``carry`` is dense, and ``rows`` of int64. There are so many ``steps`` at most,
    ``batch`` sequences of ``width`` lanes each, with output gates if ``gated``; if ``packed``, steps are where `rows`
    says. With ``offsets`` among the operands these say which steps a sequence has.
    """
    lanes = batch * width
    check_size(lanes, steps)
    dtypes, strides = ({its[0]: its[k] for its in operands} for k in (1, 2))
    cuts, carry = tuple(cut for cut in CUTS if cut in dtypes), carry_of(dtypes["product"])
    # What may be left out is a null address.
    elements = {"states": element(dtypes["product"]), "lengths": "i8", "offsets": "i8", "resets": "b1"}
    elements |= {label: "number" if dtype is None else element(dtype) for label, dtype in dtypes.items()}
    elements |= {"carry": carry, "rows": "i8"}
    places, values = {}, dict(steps=steps, reverse=int(reverse), lanes=lanes, inners=width, width=1, tiles=1, outers=1)
    values["middles"] = batch
    if "offsets" in cuts:  # sequences are segments, in the outer dimension
        values |= {"middles": 1, "first_next": strides.get("first", (0, 0))[1], "offsets_next": strides["offsets"][1]}
    for label, dtype, (step, sequence) in operands:
        if reverse and not packed:
            places[label], step = (steps - 1) * step, -step
        itemsize = 0 if dtype is None or label in ("lengths", "resets") else dtype.itemsize
        values |= {f"{label}_time": step, f"{label}_lane": (width * itemsize, sequence, itemsize)}
    ahead = (8 if carry == "f4" else 4) // (2 if name == "pool_vjp" else 1)
    options, per_block = (("ahead", ahead), ("cuts", cuts), ("gated", gated), ("packed", packed)), _block(lanes)
    grid = -(-lanes // per_block), 1, 1
    launch = Launch(name, "", carry, options, tuple(sorted(elements.items())), "i8", grid, per_block, values)
    return DevicePlan(None, carry, POOL + CUTS * bool(cuts), (launch,), (places,))
