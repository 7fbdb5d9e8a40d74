"""From the caller's arguments to a canonical problem: what is asked, on which lanes, by which kernel.

A plan depends on dtypes, shapes and strides only, never on values or addresses, so it is made once for each kind of
call and remembered. `choose` decides which traversal walks a problem. Of rows of few lanes `build` says that a kernel
for so many may walk them, which `_run` takes by their size; `_weighted_run` chooses for weighted statistics.
"""

import functools
import itertools
import math
from dataclasses import dataclass, field, replace

import numpy as np

from . import _blocks
from . import _messages as say
from ._arrays import BFLOAT16, element
from ._blocks import LINE
from ._layout import ACCUMULATE, CARRY, LENGTHS, REDUCE, STORE, SUMS_A, SUMS_B, TO_A, TO_B, UNWANTED, A, B, G, H

ROWS, OCTETS, PANELS, TILES, SCAN = "rows", "octets", "panels", "tiles", "scan"
FORGET, LINEAR = "forget", "linear"

FEW_LANES = 8  # fewer than these, and a series is split in time once it is long
LONG_SERIES = 2048
OCTET = 8  # steps from which lanes go by octets
LONG_LANE = 512  # steps from which more lanes are walked along time, if they are neighbours there
REPEATED = 1 << 14  # elements from which rows of lanes are worth a walk of their own
PANEL_LANES = 8  # lanes that follow each other from which they go by panels, unless steps are neighbours,
PANEL_STEPS = 1 << 24  # if there are fewer steps than these, whose numbers are exact in float32
NARROW_ROW = 32  # rows of fewer lanes, complex ones of half as many: their number is known to a kernel of their own,
NARROW_LEAST = 1 << 12  # which to compile so many elements are worth
LARGE_PROBLEM = 1 << 20  # bytes
APART = 512  # bytes from one thread's states to another's, for a processor fetches what stands behind its own too
LARGE = 64 << 10  # bytes from which it pays to align a result
PATIENCE = 16  # problems of a kind for which a way is not tried after one that it was tried for in vain
FEW_ZEROS = 1 << 20  # bytes of states up to which a plan keeps zeros to start from
PIECES = 8  # parts that a sum over lanes is made of, for any number of threads

BYTE = np.dtype(np.uint8)
_WIDE = {"f2": "f4", "bf2": "f4", "f4": "f8", "f8": "f8", "c8": "c16", "c16": "c16"}


def choose(lanes, steps, inner, inner_is_contiguous, is_complex, is_long, in_octets, is_nearly_along):
    """Return which traversal walks a problem: a function of its shape and layout alone.

    Parameters
    ----------
    lanes, steps : int
        The number of series, and their length.
    inner : int
        How many lanes follow each other, as far apart as they may stand.
    inner_is_contiguous : bool
        Whether they do so in every full operand, and share one length.
    is_complex : bool
        Whether states are complex: these are never split in time.
    is_long : bool
        Whether each lane is long, and its steps are neighbours in all operands (its gate may be one for all).
    in_octets : bool
        Whether lanes have the same steps, which are neighbours in all operands and met the same way through memory.
    is_nearly_along : bool
        Whether steps stand nearer than lanes in each operand that has several, as neighbours in all of these but one.
    """
    rows = inner_is_contiguous and inner >= min(2, lanes)
    few = lanes < FEW_LANES and steps >= LONG_SERIES and not (rows and lanes > 1)
    if (few or (is_long and not in_octets)) and not is_complex:
        return SCAN
    if rows:
        return ROWS
    if in_octets:
        return OCTETS
    if inner >= PANEL_LANES and steps < PANEL_STEPS and not is_complex and not (is_nearly_along and steps >= OCTET):
        return PANELS
    return TILES


@dataclass(eq=False)
class Plan:
    """A problem made canonical, and everything about running it that does not depend on addresses."""

    rule: str
    shape: tuple
    axis: int
    dtype: np.dtype
    wide: np.dtype
    elements: dict  # the kernels' parameter names -> element names
    lane_order: tuple  # lane axes, outermost in memory first
    traversal: str
    traits: tuple  # what a kernel is made for beside rule and types, see _cpu/_rules.py
    steps: int
    lanes: int
    sizes: tuple  # outer, middle, inner
    geometry: np.ndarray
    itemsizes: tuple
    time_strides: tuple  # in the direction of travel
    lane_strides: tuple  # of neighbouring lanes
    offsets: tuple  # bytes from each operand's first element to the travel's start
    extra: tuple  # offsets of further repetitions of the whole walk, one tuple per repetition
    word: int  # bytes that a step of a lane moves
    row_bytes: int  # bytes of a piece of result that is contiguous at each step
    carry_strides: tuple  # in the axes of the lanes' shape
    narrow: tuple = ()  # what only a kernel for rows of so few lanes is made for; empty if there is none
    h_strides: tuple | None = None  # of a fresh result
    gradients: tuple = ()  # of both operands: shape, dtype, strides of a fresh array (None: a sum); None if unwanted
    h0_dtype: np.dtype | None = None  # of the first states' gradient
    calls: dict = field(default_factory=dict)  # compiled kernels
    in_vain: dict = field(default_factory=dict)  # for how many more runs a way is not tried

    def __post_init__(self):
        self.lane_shape = self.shape[: self.axis] + self.shape[self.axis + 1 :]
        self.full_lengths = np.array([self.steps], np.int64)
        self.carry_c_order = is_c_order(self.lane_shape, self.carry_strides)
        self.c_order = self.h_strides is not None and is_c_order(self.shape, self.h_strides)

    def note_in_vain(self, way):
        """Have a way of sharing the plan, which turned out not to lead anywhere, not tried for some runs."""
        self.in_vain[way] = PATIENCE

    def is_in_vain(self, way):
        """Return whether such a way is not to be tried in this run."""
        waits = self.in_vain.get(way, 0)
        if waits:
            self.in_vain[way] = waits - 1
        return waits > 0

    def distance(self, operand, steps, lanes=0):
        """Return how many bytes an operand's place is from the first one, after so many steps of travel and lanes."""
        return steps * self.time_strides[operand] + (
            lanes * self.itemsizes[operand] if self.lane_strides[operand] else 0
        )

    def zeros(self):
        """Return zero states to start from, which nobody may write to."""
        return self._few_zeros if math.prod(self.lane_shape) * self.wide.itemsize <= FEW_ZEROS else self._zeros()

    @functools.cached_property
    def _few_zeros(self):
        return self._zeros()

    def _zeros(self):
        return zeros((math.prod(self.lane_shape),), self.wide)


def is_c_order(shape, strides):
    """Return whether dense strides are C order's."""
    order = [s for n, s in zip(shape, strides, strict=True) if n > 1]
    return all(outer > inner for outer, inner in itertools.pairwise(order))


def result_dtype(names, dtypes, weak_complex=False):
    """Return the dtype of a result: NumPy's promotion, integers alone to float64. None is what has no part in it."""
    found = [(name, dtype) for name, dtype in zip(names, dtypes, strict=True) if dtype is not None]
    if found and not weak_complex and all(dtype is BFLOAT16 for _, dtype in found):
        return BFLOAT16  # of tensors, which NumPy does not know
    try:
        dtype = np.result_type(*(dtype for _, dtype in found)) if found else np.dtype(np.float64)
    except TypeError:
        raise TypeError(say.promotion(found)) from None
    if dtype.kind in "biu":
        dtype = np.dtype(np.float64)
    if element(dtype) is None:
        raise TypeError(say.promotion(found))
    if weak_complex and dtype.kind != "c":
        dtype = np.result_type(np.complex64, dtype)
    return dtype


def own_dtypes(*signatures):
    """Return the dtype of each operand that is an array; None for numbers."""
    return [signature[0] if type(signature) is tuple else None for signature in signatures]


def wide_dtype(dtype):
    """Return the carry's dtype: one precision wider than the result's where there is one."""
    return np.dtype(_WIDE[element(dtype)])


def normalise_axis(axis, shape, names):
    """Return an axis, an int, counted from the front; raise unless the result has it."""
    if not shape:
        raise ValueError(say.no_axis(names))
    if not -len(shape) <= axis < len(shape):
        raise ValueError(say.axis_range(axis, shape))
    return axis % len(shape)


def broadcast_shape(names, shapes, axis=None):
    """Return the shape that operands broadcast to; ``axis`` is time's, for the error's sake."""
    most = max(map(len, shapes))
    if most <= 32:
        try:
            return np.broadcast_shapes(*shapes)
        except ValueError:
            raise ValueError(say.broadcast(names, shapes, axis)) from None
    # NumPy's own function takes no more of the 64 that arrays may have.
    sizes = [{*sizes} - {1} for sizes in zip(*((1,) * (most - len(s)) + tuple(s) for s in shapes), strict=True)]
    if any(len(size) > 1 for size in sizes):
        raise ValueError(say.broadcast(names, shapes, axis))
    return tuple(size.pop() if size else 1 for size in sizes)


def fits(shape, into):
    """Return whether a shape broadcasts to another without changing it."""
    if shape == into:
        return True
    padded = (1,) * (len(into) - len(shape)) + tuple(shape)
    return len(shape) <= len(into) and all(n in (1, m) for n, m in zip(padded, into, strict=True))


def check_shapes(signatures, shape, lane_shape):
    """Raise unless each named array broadcasts to a result's shape, or a state to that of its lanes."""
    for name, signature in signatures.items():
        is_state = name in ("h0", "grad_state")
        into, wrong = (lane_shape, say.state_shape) if is_state else (shape, say.operand_shape)
        if type(signature) is tuple and not fits(signature[1], into):
            raise ValueError(wrong(name, signature[1], into))


def like(shape, dtype, *prototypes):
    """Return the strides of a fresh result: laid out as the first operand of its shape, else in C order.

    ``prototypes`` are ``(shape, strides)``.
    """
    for other_shape, other_strides in prototypes:
        if other_shape == shape and not any(n > 1 and s == 0 for n, s in zip(shape, other_strides, strict=True)):
            order = sorted(range(len(shape)), key=lambda k: (-abs(other_strides[k]), k))
            dense = c_strides([shape[k] for k in order], dtype.itemsize)
            return tuple(dense[order.index(k)] for k in range(len(shape)))
    return c_strides(shape, dtype.itemsize)


def aligned(shape, dtype, allocate=_blocks.borrow, beside=0):
    """Allocate an array in C order that starts with a cache line; NumPy's own start a quarter into one.

    Every second register of a row would stand in two lines, and rows of results would begin and end within one.
    With an address ``beside``, it starts as far into a line as that one does.
    """
    buffer, place = allocate(math.prod(shape) * dtype.itemsize + LINE)
    return np.ndarray(shape, dtype, buffer, (beside - place) % LINE)


def zeros(shape, dtype):
    """Allocate zeros in C order that start with a cache line."""
    return aligned(shape, dtype, functools.partial(_blocks.fresh, make=np.zeros))


def empty(shape, dtype, strides, large=None, beside=0):
    """Allocate an array with given (dense) strides, aligned if it is ``large``, or if so many bytes."""
    in_memory, back = _memory_order(shape, strides)
    if math.prod(shape) * dtype.itemsize >= (LARGE if large is None else large):
        array = aligned(in_memory, dtype, beside=beside)
    else:
        array = np.empty(in_memory, dtype)
    return array if back is None else array.transpose(back)


@functools.lru_cache(maxsize=1024)
def _memory_order(shape, strides):
    """Return a shape in the order of memory, and the way back to the order of axes, None if they are the same."""
    order = sorted(range(len(shape)), key=lambda k: (-strides[k], k))
    if order == list(range(len(shape))):
        return shape, None
    return tuple(shape[k] for k in order), sorted(range(len(shape)), key=order.__getitem__)


def c_strides(shape, itemsize):
    """Return the strides in bytes of an array in C order."""
    strides, reach = [], itemsize
    for n in reversed(shape):
        strides.append(reach)
        reach *= n
    return tuple(reversed(strides))


def spread(operand_shape, strides, shape):
    """Return an operand's strides in the result's axes, 0 where it is broadcast."""
    missing = len(shape) - len(operand_shape)
    own = [0 if n == 1 else s for n, s in zip(operand_shape, strides, strict=True)]
    return (0,) * missing + tuple(own)


def own_strides(operand_shape, shape, itemsize):
    """Return the strides, in the result's axes, of a C-contiguous array of an operand's own shape."""
    return spread(operand_shape, c_strides(operand_shape, itemsize), shape)


def _merge(dims):
    """Merge neighbouring lane dimensions ``(size, strides)`` that every operand walks as one."""
    merged = []
    for size, strides in dims:
        if merged and all(outer == stride * size for outer, stride in zip(merged[-1][1], strides, strict=True)):
            merged[-1] = (merged[-1][0] * size, strides)
        else:
            merged.append((size, strides))
    return merged


def build(rule, shape, axis, reverse, dtype, wide, elements, itemsizes, strides, modes=(STORE, STORE), word=0):
    """Make a plan from every operand's strides in the result's axes (None: it takes no part)."""
    steps = shape[axis]
    lane_axes = [k for k in range(len(shape)) if k != axis and shape[k] != 1]
    lead = strides[H] if strides[H] is not None else strides[B]
    guide = next((strides[k] for k in (TO_B, TO_A) if strides[k] is not None), lead)
    lane_order = tuple(sorted(lane_axes, key=lambda k: (-abs(guide[k]), k)))
    # The carry is contiguous in that order.
    carry_strides, reach = [0] * len(shape), wide.itemsize
    for k in reversed(lane_order):
        carry_strides[k] = reach
        reach *= shape[k]
    strides = list(strides)
    strides[CARRY] = carry_strides
    is_ragged = strides[LENGTHS] is not None
    strides = [(0,) * len(shape) if s is None else s for s in strides]
    time = [s[axis] if steps > 1 else 0 for s in strides]
    dims = _merge([(shape[k], tuple(s[k] for s in strides)) for k in lane_order])
    offsets = tuple((steps - 1) * t if reverse else 0 for t in time)
    if reverse:
        time = [-t for t in time]
    lanes = math.prod(size for size, _ in dims)

    full = [k for k in (A, B, H, G, TO_A, TO_B) if itemsizes[k]]
    is_complex = wide.kind == "c"
    alone = [itemsizes[k] if k in full else 0 for k in range(10)]
    if is_complex:  # one lane is a row: real ones are not
        alone[SUMS_A] = alone[SUMS_B] = wide.itemsize
    inner, inner_strides = dims[-1] if dims else (1, tuple(alone))
    time_guide = abs(strides[TO_B][axis] or strides[TO_A][axis] or strides[H][axis])
    inside = [d for d in dims if steps == 1 or abs(d[1][TO_B] or d[1][TO_A] or d[1][H]) < time_guide]
    # Around time rows are walked along one dimension of lanes; along others the walk is repeated.
    outside = sorted(dims[: len(dims) - len(inside)], key=lambda d: -d[0])
    repeats = math.prod(size for size, _ in outside[1:])
    read = (A, B, G, H) if itemsizes[G] else (A, B)
    contiguous = (
        inner_strides[LENGTHS] == 0
        and all(inner_strides[k] == itemsizes[k] or (k in read and inner_strides[k] == 0) for k in full)
        and (modes[0] != ACCUMULATE or inner_strides[SUMS_A] == (wide.itemsize if inner_strides[A] else 0))
        and inner_strides[SUMS_B] in (0, wide.itemsize)
        and (len(outside) <= 1 or repeats * REPEATED <= math.prod(shape))
        and len(inside) <= 2
        and (len(inside) >= 1 or not dims)
    )
    moving = [k for k in full if k != A or time[k] != 0]
    ways = {time[k] // itemsizes[k] for k in moving}  # through memory
    is_along_time = (
        all(time[k] % itemsizes[k] == 0 for k in moving)
        and ways <= {1, -1}
        and (modes[0] != ACCUMULATE or strides[SUMS_A][axis] == 0)
        and modes[1] != ACCUMULATE
    )
    is_long = is_along_time and wide == np.float64 and steps >= LONG_LANE and word * steps * lanes >= LARGE_PROBLEM
    in_octets = is_along_time and len(ways) == 1 and not is_complex and not is_ragged and steps >= OCTET
    is_nearly_along = (
        all(0 in (time[k], inner_strides[k]) or abs(time[k]) < abs(inner_strides[k]) for k in full)
        and sum(abs(time[k]) > itemsizes[k] for k in full) <= 1
    )
    traversal = choose(lanes, steps, inner, contiguous, is_complex, is_long, in_octets, is_nearly_along)
    traits, narrow = [], ()
    if traversal in (SCAN, OCTETS):
        traits = ["level"] * (time[A] == 0) + ["down"] * (traversal == OCTETS and ways == {-1})
    a_constant = int(inner_strides[A] == 0 and inner > 1)
    a_mode, b_mode = modes
    if traversal == ROWS and inner > 1:
        if a_mode == ACCUMULATE and a_constant:
            a_mode = REDUCE
        if b_mode == ACCUMULATE and inner_strides[SUMS_B] == 0:
            b_mode = REDUCE
            traits.append("sum_b")
        traits += [word for k, word in ((B, "one_b"), (G, "one_g"), (H, "one_h")) if k in full and not inner_strides[k]]
    if traversal == ROWS and (inner > 1 or is_complex) and math.prod(shape) >= NARROW_LEAST:
        if inner < (NARROW_ROW // 2 if is_complex else NARROW_ROW):
            narrow = (f"lanes_{inner}", *["one_a"] * a_constant)
    head = [steps, int(reverse), a_constant, 0, a_mode, b_mode, 0, 0, 0, 0, 0]
    extra = (tuple([0] * 10),)
    zero = (1, (0,) * 10)
    if traversal == ROWS:
        outer, beyond = outside[0] if outside else zero, outside[1:]
        middle = inside[-2] if len(inside) == 2 else zero
        sizes = (outer[0], middle[0], inner)
        body = list(itertools.chain.from_iterable((time[k], middle[1][k], outer[1][k]) for k in range(10)))
        row_bytes = itemsizes[TO_B] or itemsizes[H]
        row_bytes *= inner
        if set(modes) > {STORE}:  # of the other at most sums are written: nothing more is compiled for its type
            both = "to_a", "to_b"
            elements = elements | dict.fromkeys(both, elements[both[modes.index(STORE)]])
    else:
        padded = [zero] * (3 - len(dims)) + dims
        beyond, (outer, middle, last) = padded[:-3], padded[-3:]
        sizes = (outer[0], middle[0], last[0])
        body = [middle[0], last[0]]
        for k in range(10):
            body += [time[k], outer[1][k], middle[1][k], last[1][k]]
        row_bytes = 0
    if beyond:
        extra = tuple(
            tuple(sum(i * d[1][k] for i, d in zip(index, beyond, strict=True)) for k in range(10))
            for index in itertools.product(*(range(d[0]) for d in beyond))
        )
        lanes = math.prod(sizes)
    return Plan(
        rule=rule, shape=shape, axis=axis, dtype=dtype, wide=wide, elements=elements, lane_order=lane_order,
        traversal=traversal, steps=steps,
        lanes=lanes, sizes=sizes, geometry=np.array(head + body, np.int64),
        itemsizes=tuple(itemsizes), time_strides=tuple(time), lane_strides=tuple(inner_strides), offsets=offsets,
        traits=tuple(traits), narrow=narrow, extra=extra, word=word, row_bytes=row_bytes,
        carry_strides=tuple(carry_strides[:axis] + carry_strides[axis + 1 :]),
    )  # fmt: skip


def _rule(family, dtype, wide, a):
    """Return which form of the step to take: exact with a carry wider than all operands, else the rounded one."""
    if family == LINEAR:
        return "linear"
    # A Python number has the carry's own precision; beside halves a tensor without dimensions may have more.
    as_wide = type(a) is not tuple or a[0].itemsize > dtype.itemsize
    return "forget_same" if dtype == wide or (as_wide and wide == np.float32) else "forget_wide"


def _operand(signature, wide):
    """Return (element, itemsize, shape, strides) of an operand's signature; a Python number is a carry."""
    if signature is None or signature is complex:
        return element(wide), wide.itemsize, (), ()
    dtype, shape, strides = signature
    return element(dtype), dtype.itemsize, shape, strides


def lengths_strides(shape, ndim, axis):
    """Return, in the result's axes, the strides of contiguous int64 lengths of a shape."""
    lane_axes = [k for k in range(ndim) if k != axis][: len(shape)]
    strides = [0] * ndim
    for k, n, stride in zip(lane_axes, shape, c_strides(shape, 8), strict=True):
        strides[k] = 0 if n == 1 else stride
    return tuple(strides)


def check_lengths_shape(shape, lanes):
    """Raise unless lengths are shaped like leading axes of the lanes."""
    if shape != lanes[: len(shape)] or (not shape and lanes):
        raise ValueError(say.lengths_shape(shape, lanes))


@functools.lru_cache(maxsize=1024)
def forward(family, names, a, b, h0, out, axis, reverse, lengths, weak_complex, dtype=None):
    """Return the plan of a forward call.

    Arrays come as ``(dtype, shape, strides)``, ``h0`` without the strides, ``lengths`` as a shape; a complex Python
    number as ``complex``; any other number, and what is left out, as None. ``dtype`` is the result's where another
    library's promotion has found it.
    """
    if dtype is None:
        dtype = result_dtype(names, own_dtypes(a, b, h0), weak_complex)
    wide = wide_dtype(dtype)
    a_element, a_size, a_shape, a_strides = _operand(a, wide)
    b_element, b_size, b_shape, b_strides = _operand(b, wide)
    shape = broadcast_shape(names[:2], (a_shape, b_shape), axis)
    axis = normalise_axis(axis, shape, names[:2])
    lane_shape = shape[:axis] + shape[axis + 1 :]
    check_shapes({"h0": h0}, shape, lane_shape)
    if lengths is not None:
        check_lengths_shape(lengths, lane_shape)
    if out is not None:
        if out[1] != shape:
            raise ValueError(say.out_shape(out[1], shape))
        if out[0] != dtype:
            raise TypeError(say.out_dtype(out[0], dtype))
    h_strides = out[2] if out is not None else like(shape, dtype, (b_shape, b_strides), (a_shape, a_strides))
    strides = [None] * 10
    strides[A] = spread(a_shape, a_strides, shape)
    strides[B] = spread(b_shape, b_strides, shape)
    strides[H] = h_strides
    strides[LENGTHS] = None if lengths is None else lengths_strides(lengths, len(shape), axis)
    sizes = [0] * 10
    sizes[A], sizes[B], sizes[H] = a_size, b_size, dtype.itemsize
    if 0 in shape:
        return replace(_empty(shape, axis, dtype, wide), h_strides=h_strides)
    plan = build(
        _rule(family, dtype, wide, a), shape, axis, reverse, dtype, wide,
        {"a": a_element, "b": b_element, "h": element(dtype)}, sizes, strides,
        word=dtype.itemsize + sum(size for size, s in ((a_size, strides[A]), (b_size, strides[B])) if any(s)),
    )  # fmt: skip
    return replace(plan, h_strides=h_strides)


@functools.lru_cache(maxsize=1024)
def summary(family, names, a, b, axis, reverse, lengths, dtype):
    """Return the plan of a walk that keeps nothing but the last states; arguments as for `forward`."""
    wide = wide_dtype(dtype)
    a_element, a_size, a_shape, a_strides = _operand(a, wide)
    b_element, b_size, b_shape, b_strides = _operand(b, wide)
    shape = broadcast_shape(names, (a_shape, b_shape), axis)
    if 0 in shape:
        return _empty(shape, axis, dtype, wide)
    strides, sizes = [None] * 10, [0] * 10
    strides[A], strides[B] = spread(a_shape, a_strides, shape), spread(b_shape, b_strides, shape)
    strides[H] = like(shape, wide, (b_shape, b_strides), (a_shape, a_strides))  # the order of lanes alone
    strides[LENGTHS] = None if lengths is None else lengths_strides(lengths, len(shape), axis)
    sizes[A], sizes[B] = a_size, b_size
    plan = build(
        _rule(family, dtype, wide, a), shape, axis, reverse, dtype, wide, {"a": a_element, "b": b_element}, sizes,
        strides, word=sum(size for size, s in ((a_size, strides[A]), (b_size, strides[B])) if any(s)),
    )  # fmt: skip
    row_bytes = b_size * plan.sizes[2]
    if plan.traversal == ROWS:
        return replace(plan, narrow=(), row_bytes=row_bytes)
    return replace(plan, traversal=TILES, traits=(), row_bytes=row_bytes)


def _empty(shape, axis, dtype, wide):
    """Return the plan of a problem without elements: nothing to walk."""
    lanes = np.empty(shape[:axis] + shape[axis + 1 :], wide)
    return Plan(
        rule="", shape=shape, axis=axis, dtype=dtype, wide=wide, elements={}, lane_order=(), traversal="empty",
        traits=(), steps=shape[axis],
        lanes=0, sizes=(), geometry=None, itemsizes=(), time_strides=(), lane_strides=(), offsets=(), extra=(),
        word=0, row_bytes=0,
        carry_strides=lanes.strides,
    )  # fmt: skip


@functools.lru_cache(maxsize=1024)
def vjp(
    family, names, g, a, b, h, h0, grad_state, axis, reverse, lengths, weak_complex, dtype=None, wanted=(True, True),
    reads=(True, True), layouts=(None, None),
):  # fmt: skip
    """Return the plan of a gradient call; arguments as for `forward`, ``grad_state`` like ``h0``.

    ``wanted`` says which operands' gradients are; the kernel then ``reads`` b and h or does without (it is given ``g``
    in their place). ``layouts`` are the strides of fresh gradients, None to choose them.
    """
    if dtype is None:
        everything = own_dtypes(g, a, b, h, h0, grad_state)
        dtype = result_dtype((*names[1:3], "h0"), own_dtypes(a, b, h0), weak_complex)
        wide = wide_dtype(result_dtype((*names, "h0", "grad_state"), everything, weak_complex))
    else:
        wide = wide_dtype(dtype)
    g_element, g_size, g_shape, g_strides = _operand(g, wide)
    a_element, a_size, a_shape, a_strides = _operand(a, wide)
    b_element, b_size, b_shape, b_strides = _operand(b, wide)
    h_element, h_size, h_shape, h_strides = _operand(h, wide)
    shape = broadcast_shape(names[1:3], (a_shape, b_shape), axis)
    axis = normalise_axis(axis, shape, names[1:3])
    lane_shape = shape[:axis] + shape[axis + 1 :]
    check_shapes({"h0": h0, "grad_state": grad_state, names[0]: g, names[3]: h}, shape, lane_shape)
    if lengths is not None:
        check_lengths_shape(lengths, lane_shape)
    to_a, to_b = (gradient_dtype(s, dtype) for s in (a, b))
    strides, sizes, modes = [None] * 10, [0] * 10, []
    strides[A], strides[B] = spread(a_shape, a_strides, shape), spread(b_shape, b_strides, shape)
    strides[H], strides[G] = spread(h_shape, h_strides, shape), spread(g_shape, g_strides, shape)
    strides[LENGTHS] = None if lengths is None else lengths_strides(lengths, len(shape), axis)
    sizes[A], sizes[B], sizes[H], sizes[G] = a_size, b_size, h_size, g_size
    unread = [k for k, is_read in zip((B, H), reads, strict=True) if not is_read]
    word = sum(size for k, size in enumerate(sizes) if any(strides[k] or ()) and k not in unread)
    for k in unread:
        strides[k], sizes[k] = strides[G], sizes[G]
    b_element, h_element = g_element if B in unread else b_element, g_element if H in unread else h_element
    gradients, kept = [], []
    for own_shape, own, to, target, sums, is_wanted, layout in (
        (a_shape, a_strides, to_a, TO_A, SUMS_A, wanted[0], layouts[0]),
        (b_shape, b_strides, to_b, TO_B, SUMS_B, wanted[1], layouts[1]),
    ):  # fmt: skip
        if not is_wanted:
            gradients.append(None)
            modes.append(UNWANTED)
            kept.append(element(wide))
        elif tuple(own_shape) == shape:
            strides[target] = layout or like(shape, to, (own_shape, own), (h_shape, h_strides))
            sizes[target] = to.itemsize
            word += to.itemsize
            modes.append(STORE)
            kept.append(element(to))
            gradients.append((own_shape, to, strides[target]))
        else:
            strides[sums] = own_strides(own_shape, shape, wide.itemsize)
            modes.append(ACCUMULATE)
            kept.append(element(wide))  # not written, but summed as it is
            gradients.append((own_shape, to, None))
    if 0 in shape:
        plan = _empty(shape, axis, dtype, wide)
    else:
        plan = build(
            _rule(family, dtype, wide, a), shape, axis, reverse, dtype, wide,
            dict(g=g_element, a=a_element, b=b_element, h=h_element, to_a=kept[0], to_b=kept[1]),
            sizes, strides, tuple(modes), word=word,
        )  # fmt: skip
    return replace(plan, gradients=tuple(gradients), h0_dtype=gradient_dtype(h0, dtype))


def check_kind(names, g, a, b, h, h0, grad_state):
    """Raise where operands are real, and so the result is, but what is given of its kind is complex."""

    def is_complex(one):
        return one is complex or (type(one) is tuple and one[0].kind == "c")

    for name, one in ((names[0], g), (names[3], h), ("grad_state", grad_state)):
        if is_complex(one) and not any(map(is_complex, (a, b, h0))):
            raise TypeError(say.complex_of_real(name, "complex" if one is complex else one[0]))


def gradient_dtype(signature, dtype):
    """Return a gradient's dtype: its operand's own; the result's, real or complex as it is, for any other number."""
    if signature is complex:
        return dtype
    if signature is None or signature[0].kind in "biu":
        return np.empty(0, dtype).real.dtype if dtype.kind == "c" else dtype
    return signature[0]
