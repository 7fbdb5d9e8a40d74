"""From the caller's arguments to a canonical problem: what is asked, on which lanes, by which kernel.

A plan depends on dtypes, shapes and strides only, never on values or addresses, so it is made once for each kind of
call and remembered.
"""

import functools
import math
from dataclasses import dataclass, field, replace

import numpy as np

from .._arguments import checks, messages as say, shapes
from .._arguments.arrays import element
from .._arguments.shapes import gradient_dtype, is_c_order, like, own_dtypes, own_strides, result_dtype, wide_dtype
from . import layout as _layout
from .layout import ACCUMULATE, CARRY, FLAGS, LENGTHS, REDUCE, STORE, SUMS_A, SUMS_B, TO_A, TO_B, UNWANTED, A, B, G, H
from .loops import NAMES, Operands, find_loops, in_memory_order, lane_loops, repetitions, row_loops

ROWS, TRANSPOSE8, SCAN, PACKED = "rows", "transpose8", "scan", "packed"
FORGET, LINEAR = "forget", "linear"
RESETS, OFFSETS = "resets", "offsets"  # borders; with offsets there may be resets, too

FEW_LANES = 8  # fewer than these, and a series is split in time once it is long
LONG_SERIES = 2048
OCTET = 8  # steps from which lanes go by octets
LONG_LANE = 512  # steps from which more lanes are walked along time, if they are neighbours there
REPEATED = 1 << 14  # elements from which rows of lanes are worth a walk of their own
NARROW_ROW = 32  # rows of fewer lanes, complex ones of half as many: their number is known to a kernel of their own,
NARROW_LEAST = 1 << 12  # which to compile so many elements are worth
LARGE_PROBLEM = 1 << 20  # bytes
APART = 512  # bytes from one thread's states to another's, for a processor fetches what stands behind its own too
PATIENCE = 16  # runs of a plan in which time is not cut after one in which carries were not predicted


@dataclass(eq=False)
class Plan:
    """A problem made canonical, and everything about running it that does not depend on addresses."""

    # What is asked.
    rule: str
    shape: tuple
    axis: int
    dtype: np.dtype
    wide: np.dtype  # of states
    steps: int
    traversal: str
    # Kernels.
    elements: dict = field(default_factory=dict)  # their parameters' names -> element names
    traits: tuple = ()  # what one is made for beside rule and types, see _cpu/kernels/rules.py
    narrow: tuple = ()  # and what only one for rows of so few series is made for; empty if there is none
    geometry: np.ndarray | None = None
    # Where things stand, in bytes by number of operand.
    itemsizes: tuple = ()
    time_strides: tuple = ()  # in scan order
    lane_strides: tuple = ()  # of neighbouring series
    offsets: tuple = ()  # from the first element to the first in scan order
    extra: tuple = ()  # offsets of each repetition of the whole walk
    carry_strides: tuple = ()  # in the axes of the series' shape
    # How much there is.
    lanes: int = 0
    sizes: tuple = ()  # outer, middle, inner
    word: int = 0  # bytes that a step of a series moves
    row_bytes: int = 0  # bytes of a piece of result that is contiguous at each step
    # Results.
    h_strides: tuple | None = None  # of a newly allocated one
    gradients: tuple = ()  # of both operands: shape, dtype, strides of a new array (None: a sum); None if unwanted
    h0_dtype: np.dtype | None = None  # of the first states' gradient
    # What is learnt.
    waiting: int = 0  # for how many more runs time is not cut

    def __post_init__(self):
        self.lane_shape = self.shape[: self.axis] + self.shape[self.axis + 1 :]
        self.full_lengths = np.array([self.steps], np.int64)
        self.carry_c_order = is_c_order(self.lane_shape, self.carry_strides)
        self.c_order = self.h_strides is not None and is_c_order(self.shape, self.h_strides)
        # Kernels read where series begin anew inside the axis of time: flags, offsets, or both.
        self.is_flagged, self.has_offsets = "flagged" in self.traits, "offsets" in self.traits
        self.is_aligned = not any(stride % self.dtype.itemsize for stride in self.h_strides or ())
        self.state_bytes = math.prod(self.lane_shape) * self.wide.itemsize  # of all repetitions

    def wait(self):
        """Have time not cut for some runs: carries were not predicted."""
        self.waiting = PATIENCE

    def waits(self):
        """Return whether time is not to be cut in this run."""
        is_waiting, self.waiting = self.waiting > 0, max(self.waiting - 1, 0)
        return is_waiting

    def distance(self, operand, steps):
        """Return how many bytes an operand's place is from the first one, after so many steps."""
        return steps * self.time_strides[operand]


def state_number(value):
    """Return the signature of a state that is no array: a number is not what is left out."""
    return None if value is None else complex if type(value) is complex else float


def fits(shape, into):
    """Return whether a shape broadcasts to another without changing it."""
    padded = (1,) * (len(into) - len(shape)) + tuple(shape)
    return len(shape) <= len(into) and all(n in (1, m) for n, m in zip(padded, into, strict=True))


def check_fits(name, shape, into, wrong=say.same_shape):
    """Raise unless an argument's shape broadcasts to another without changing it."""
    if not fits(shape, into):
        raise ValueError(wrong(name, tuple(shape), into))


def check_shapes(signatures, shape, lane_shape):
    """Raise unless each named array broadcasts to a result's shape, or a state to that of its lanes."""
    for name, signature in signatures.items():
        is_state = name in ("h0", "grad_state")
        into, wrong = (lane_shape, say.state_shape) if is_state else (shape, say.operand_shape)
        if type(signature) is tuple:
            check_fits(name, signature[1], into, wrong)


def _are_rows(operands, loops, modes):
    """Return whether series are neighbours in memory, or one value for all, in all operands."""
    itemsizes, inner, wide = operands.itemsizes, loops.inner_strides, operands.wide.itemsize
    read = (A, B, G, H) if itemsizes[G] else (A, B)
    # Around time rows are walked along one dimension of series; along others the walk is repeated.
    repeats = math.prod(size for size, _ in loops.outside[1:])
    return (
        inner[LENGTHS] == 0
        and all(inner[k] == itemsizes[k] or (k in read and inner[k] == 0) for k in operands.full)
        and (modes[0] != ACCUMULATE or inner[SUMS_A] == (wide if inner[A] else 0))
        and inner[SUMS_B] in (0, wide)
        and (len(loops.outside) <= 1 or repeats * REPEATED <= math.prod(operands.shape))
        and len(loops.inside) <= 2
        and (len(loops.inside) >= 1 or not loops.dims)
    )


def _ways_along_time(operands, loops, modes):
    """Return in which directions (1, -1) scan order goes through memory, if steps are neighbours; else nothing."""
    itemsizes, time = operands.itemsizes, loops.time
    moving = [k for k in operands.full if k != A or time[k] != 0]
    ways = {time[k] / itemsizes[k] for k in moving}
    sums_stand = (modes[0] != ACCUMULATE or time[SUMS_A] == 0) and modes[1] != ACCUMULATE
    return ways if ways <= {1, -1} and sums_stand else set()


def choose_traversal(operands, loops, modes, ways, borders, are_late):
    """Return which traversal scans a problem, by its shape and layout, and whether its flags are late."""
    lanes, steps, is_real = loops.lanes, loops.steps, operands.wide.kind != "c"
    rows = loops.inner >= min(2, lanes) and _are_rows(operands, loops, modes)
    in_octets = len(ways) == 1 and is_real and operands.strides[LENGTHS] is None and steps >= OCTET
    has_flags = operands.strides[FLAGS] is not None
    if has_flags:
        rows = rows and loops.inner_strides[FLAGS] in (0, 1)
        in_octets = in_octets and loops.time[FLAGS] in ways and borders != OFFSETS and not (are_late and 1 in ways)
    is_large = operands.word * steps * lanes >= LARGE_PROBLEM
    is_long = bool(ways) and operands.wide == np.float64 and steps >= LONG_LANE and is_large
    few = lanes < FEW_LANES and steps >= LONG_SERIES and not (rows and lanes > 1)
    if (few or (is_long and not in_octets)) and is_real and not (has_flags and borders == OFFSETS):
        return SCAN
    if rows:
        return ROWS
    return TRANSPOSE8 if in_octets else PACKED


def _row_traits(operands, loops, modes):
    """Return what a kernel for rows knows when it is compiled, what one for so few series does, and output modes."""
    modes, inner, traits, narrow = list(modes), loops.inner_strides, [], ()
    if loops.inner > 1:
        traits = [f"broadcast_{NAMES[k]}" for k in (A, B, G, H) if k in operands.full and not inner[k]]
        if modes[0] == ACCUMULATE and not inner[A]:
            modes[0] = REDUCE
        if modes[1] == ACCUMULATE and not inner[SUMS_B]:
            modes[1] = REDUCE
            traits.append("reduce_b")
    is_complex = operands.wide.kind == "c"
    few = NARROW_ROW // 2 if is_complex else NARROW_ROW
    if (loops.inner > 1 or is_complex) and loops.inner < few and math.prod(operands.shape) >= NARROW_LEAST:
        narrow = "narrow", f"lanes_{loops.inner}"
    return tuple(traits), narrow, modes


def build(rule, operands, axis, reverse, dtype, modes=(STORE, STORE), traversal=None, borders="", per_segment=0):
    """Make a plan; ``traversal`` is chosen unless it is given.

    ``borders`` say where series begin anew, and ``per_segment`` how many states each segment has: none, or a first one,
    and going back the cotangents of the last and the first, too.
    """
    order, states = in_memory_order(operands, axis)
    operands.strides[CARRY] = states
    loops, elements = find_loops(operands, axis, reverse, order), operands.elements
    ways, are_late = _ways_along_time(operands, loops, modes), reverse and operands.strides[FLAGS] is not None
    traversal = traversal or choose_traversal(operands, loops, modes, ways, borders, are_late)
    row_bytes, traits, narrow = 0, (), ()
    if traversal == ROWS:
        sizes, body, beyond = row_loops(loops)
        row_bytes = (operands.itemsizes[TO_B] or operands.itemsizes[H]) * loops.inner
        if "to_a" in elements and set(modes) != {STORE}:  # what is summed at most needs no kernel of its own type
            both = "to_a", "to_b"
            stored = elements[both[modes.index(STORE)]] if STORE in modes else element(dtype)
            elements = elements | dict.fromkeys(both, stored)
        traits, narrow, modes = _row_traits(operands, loops, modes)
    else:
        sizes, body, beyond = lane_loops(loops)
        if traversal in (SCAN, TRANSPOSE8):
            descending = traversal == TRANSPOSE8 and ways == {-1}
            traits = ("time_invariant_a",) * (loops.time[A] == 0) + ("descending",) * descending
    elements = elements | {"flags": "b1"}
    if operands.strides[FLAGS] is not None:
        together = [loops.inner_strides] if traversal == ROWS else [strides for _, strides in loops.dims]
        is_one = traversal in (ROWS, TRANSPOSE8) and not any(strides[FLAGS] for strides in together)
        traits = (*traits, "flagged", *["broadcast_flags"] * is_one, *["late_flags"] * are_late)
        narrow = ()
    if borders == OFFSETS:  # a scan makes flags of them
        of_scan = "flagged", *["segment_states"] * (per_segment > 0)
        traits = (*traits, *of_scan * (traversal == SCAN), "offsets")
    head = np.zeros(_layout.HEAD, np.int64)
    head[[_layout.N_STEPS, _layout.REVERSE, _layout.A_MODE, _layout.B_MODE]] = loops.steps, reverse, *modes
    head[_layout.A_IS_BROADCAST] = loops.inner_strides[A] == 0 and loops.inner > 1
    if per_segment:
        state_bytes = math.prod(operands.shape) // loops.steps * operands.wide.itemsize
        head[_layout.STATE_BYTES] = state_bytes
        head[_layout.SEGMENT_BYTES] = per_segment * (-state_bytes if reverse else state_bytes)
    asked = rule, operands.shape, axis, dtype, operands.wide, loops.steps, traversal
    places = tuple(operands.itemsizes), loops.time, loops.inner_strides, loops.offsets, repetitions(beyond)
    lanes, lane_strides = math.prod(sizes) if beyond else loops.lanes, states[:axis] + states[axis + 1 :]
    kernel = elements, traits, narrow, np.array([*head, *body], np.int64)
    return Plan(*asked, *kernel, *places, lane_strides, lanes, sizes, operands.word, row_bytes)


def _empty(shape, axis, dtype, wide):
    """Return the plan of a problem without elements: nothing to walk."""
    states = np.empty(shape[:axis] + shape[axis + 1 :], wide).strides
    return Plan("", shape, axis, dtype, wide, shape[axis], "empty", carry_strides=states)


def rule_of(family, dtype, wide, a):
    """Return which form of the step to take: exact with a carry wider than all operands, else the rounded one."""
    if family == LINEAR:
        return "linear"
    # A Python number has the carry's own precision; beside halves a tensor without dimensions may have more.
    as_wide = type(a) is not tuple or a[0].itemsize > dtype.itemsize
    return "forget_same" if dtype == wide or (as_wide and wide == np.float32) else "forget_wide"


def check_lengths_shape(shape, lanes):
    """Raise unless lengths are shaped like leading axes of the lanes."""
    if shape != lanes[: len(shape)] or (not shape and lanes):
        raise ValueError(say.lengths_shape(shape, lanes))


def checked_shape(names, a, b, others, axis, lengths):
    """Return the shape that operands broadcast to, and the axis of time; raise unless all others fit in."""
    shape = shapes.broadcast_shape(names, tuple(one[1] if type(one) is tuple else () for one in (a, b)), axis)
    axis = shapes.normalise_axis(axis, shape, names)
    lane_shape = shape[:axis] + shape[axis + 1 :]
    check_shapes(others, shape, lane_shape)
    if lengths is not None:
        check_lengths_shape(lengths, lane_shape)
    return shape, axis


@functools.lru_cache(maxsize=1024)
def forward(family, names, a, b, h0, out, axis, reverse, lengths, weak_complex, dtype=None, borders=("", None)):
    """Return the plan of a forward call.

    Arrays come as ``(dtype, shape, strides)``, ``h0`` without the strides, ``lengths`` as a shape; a complex Python
    number as ``complex``; any other number, and what is left out, as None, but ``h0`` that is a number as ``float``.
    ``dtype`` is the result's where another library's promotion has found it. ``borders`` are a `segments.Cuts`'
    signature.
    """
    if dtype is None:
        dtype = result_dtype(names, own_dtypes(a, b, h0), weak_complex)
    wide = wide_dtype(dtype)
    shape, axis = checked_shape(names[:2], a, b, {"h0": h0}, axis, lengths)
    if out is not None:
        checks.out_form(out[1], out[0], shape, dtype)
    kind, flags = borders
    operands = Operands(shape, wide, axis, lengths, flags)
    of_a, of_b = operands.read(A, a), operands.read(B, b)
    h_strides = out[2] if out is not None else like(shape, dtype, of_b, of_a)
    if 0 in shape:
        return replace(_empty(shape, axis, dtype, wide), h_strides=h_strides)
    operands.put(H, dtype, h_strides)
    rule, states = rule_of(family, dtype, wide, a), int(h0 is not None)
    plan = build(rule, operands, axis, reverse, dtype, borders=kind, per_segment=states)
    return replace(plan, h_strides=h_strides)


@functools.lru_cache(maxsize=1024)
def summary(family, names, a, b, axis, reverse, lengths, dtype):
    """Return the plan of a walk that keeps nothing but the last states; arguments as for `forward`."""
    wide = wide_dtype(dtype)
    shape, axis = checked_shape(names, a, b, {}, axis, lengths)
    if 0 in shape:
        return _empty(shape, axis, dtype, wide)
    operands = Operands(shape, wide, axis, lengths)
    of_a, of_b = operands.read(A, a), operands.read(B, b)
    operands.strides[H] = like(shape, wide, of_b, of_a)  # the order of series alone
    return build(rule_of(family, dtype, wide, a), operands, axis, reverse, dtype, traversal=PACKED)


@functools.lru_cache(maxsize=1024)
def vjp(
    family, names, signatures, axis, reverse, lengths, weak_complex, dtype=None, wanted=(True, True),
    reads=(True, True), layouts=(None, None), borders=("", None),
):  # fmt: skip
    """Return the plan of a gradient call; arguments as for `forward`.

    ``signatures`` are those of the results' cotangents, of a, b and h, and of the first and the last states' h0 and
    grad_state. ``wanted`` says which operands' gradients are; the kernel then ``reads`` b and h or does without.
    ``layouts`` are the strides of fresh gradients, None to choose them.
    """
    g, a, b, h, h0, grad_state = signatures
    if dtype is None:
        dtype = result_dtype((*names[1:3], "h0"), own_dtypes(a, b, h0), weak_complex)
        wide = wide_dtype(result_dtype((*names, "h0", "grad_state"), own_dtypes(*signatures), weak_complex))
    else:
        wide = wide_dtype(dtype)
    others = {"h0": h0, "grad_state": grad_state, names[0]: g, names[3]: h}
    shape, axis = checked_shape(names[1:3], a, b, others, axis, lengths)
    kind, flags = borders
    operands = Operands(shape, wide, axis, lengths, flags)
    operands.read(G, g)
    of_a, of_b, of_h = operands.read(A, a), operands.read(B, b), operands.read(H, h)
    for k, is_read in zip((B, H), reads, strict=True):
        if not is_read:
            operands.leave(k)
    modes, gradients = [], []
    for signature, own, to, sums, is_wanted, layout in (
        (a, of_a, TO_A, SUMS_A, wanted[0], layouts[0]),
        (b, of_b, TO_B, SUMS_B, wanted[1], layouts[1]),
    ):
        (own_shape, _), own_dtype, strides = own, gradient_dtype(signature, dtype), None
        operands.elements[NAMES[to]] = element(wide)  # it is not written, but summed as it is
        modes.append(ACCUMULATE if is_wanted else UNWANTED)
        if is_wanted and own_shape == shape:
            modes[-1], strides = STORE, layout or like(shape, own_dtype, own, of_h)
            operands.put(to, own_dtype, strides)
        elif is_wanted:
            operands.strides[sums] = own_strides(own_shape, shape, wide.itemsize)
        gradients.append((own_shape, own_dtype, strides) if is_wanted else None)
    if 0 in shape:
        plan = _empty(shape, axis, dtype, wide)
    else:
        rule = rule_of(family, dtype, wide, a)
        states = 0 if h0 is None and grad_state is None else 3
        plan = build(rule, operands, axis, reverse, dtype, tuple(modes), borders=kind, per_segment=states)
    return replace(plan, gradients=tuple(gradients), h0_dtype=gradient_dtype(h0, dtype))


def check_kind(names, g, a, b, h, h0, grad_state):
    """Raise where operands are real, and so the result is, but what is given of its kind is complex."""

    def is_complex(one):
        return one is complex or (type(one) is tuple and one[0].kind == "c")

    for name, one in ((names[0], g), (names[3], h), ("grad_state", grad_state)):
        if is_complex(one) and not any(map(is_complex, (a, b, h0))):
            raise TypeError(say.complex_of_real(name, "complex" if one is complex else one[0]))
