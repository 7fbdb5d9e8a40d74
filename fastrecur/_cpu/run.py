"""Run a problem: allocate, share the work out among threads, call the kernel, hand back the results."""

import functools
import math
from collections import namedtuple

import numpy as np

from .._arguments import shapes
from .._arguments.arrays import SCALARS, address, summed_to
from .._plan.layout import CARRY, FLAGS, SUMS_A, SUMS_B, TO_A, TO_B, A, B, G, H
from .._plan.problem import OFFSETS, ROWS
from . import cost
from .bound import BORDERS, bind, is_short, short_call
from .machine import allocate as _allocate, threads
from .machine.memory_pool import LINE
from .parts import Parts
from .time_chunks import RowChunks, ScanChunks

# What a run asks of its operands' library: addresses, a result with time in front and what allocates one like it, how
# to fill an array with states, a sum in a gradient's dtype, threads.
Library = namedtuple("Library", "place by_time fill narrowed team")


def narrowed(array, dtype):
    """Return wide results in their dtype, infinite where they are too large for it."""
    if array.dtype == dtype:
        return np.asarray(array)  # a sum of everything is a scalar
    if array.dtype.kind == "c" and dtype.kind != "c":
        array = array.real
    with np.errstate(all="ignore"):
        return np.asarray(array, dtype)


_NUMPY = Library(
    address,
    lambda out, axis: (np.moveaxis(out, axis, 0), functools.partial(np.empty, dtype=out.dtype)),
    lambda states, given: np.copyto(states, given, casting="unsafe"),
    narrowed,
    lambda: threads.team(),
)


def forward(plan, a, b, h0, lengths, out, return_state, cuts=None, library=_NUMPY):
    """Run a forward plan; return the result and, if asked for, the states after the last valid step.

    ``cuts`` are those of a plan whose series begin anew inside the axis of time; there are states for each segment,
    which are results. Other states are arrays for any ``library``.
    """
    team = _waking_team(plan, library.team())
    if out is None:
        out = _allocate.empty(plan.shape, plan.dtype, plan.h_strides)
    has_segments = cuts is not None and cuts.kind == OFFSETS
    carry = None if has_segments or (h0 is None and not return_state) else states_of(plan, h0, library)
    if plan.traversal != "empty":
        a, b = as_array(a, plan.wide), as_array(b, plan.wide)
        lengths = plan.full_lengths if lengths is None else lengths
        places = [None if v is None else library.place(v) for v in (a, b, out, carry, lengths)]
        starts = None if h0 is None or not has_segments else states_of(plan, h0, library, (cuts.segments,))
        forward_at(plan, *places, team, _marks(plan, cuts, starts))
    if has_segments and return_state:
        carry = _last_states(plan, out, h0, cuts, library)
    if cuts is not None and carry is not None:
        cuts.clear_ends(carry)
    return out, carry


def _last_states(plan, out, h0, cuts, library):
    """Return the states after segments' last steps."""
    by_time, allocate = library.by_time(out, plan.axis)

    def first_states(shape):
        fill_states(library, states := allocate(shape), h0)
        return states

    return cuts.last_states(by_time, first_states)


def _marks(plan, cuts, states=None):
    """Return flags, offsets and ``states`` of segments as a kernel reads them; what it does not read is a valid place.

    They are to live as long as the call.
    """
    if cuts is None:
        return ()
    marks = cuts.marks()
    states = _allocate.zero_states(plan) if states is None else states[-1:] if cuts.reverse else states
    return marks[0] if plan.is_flagged else _allocate.ZEROS, marks[-1] if plan.has_offsets else _allocate.ZEROS, states


def _waking_team(plan, team):
    """Return who will run a plan; workers among whom it will be shared wake up while the call is prepared."""
    if plan.traversal != "empty" and team.run is threads.run and (n := cost.choose(plan, team.size).threads) > 1:
        ready = threads.prewake(n)
        return team if ready == n else team._replace(size=ready)
    return team


def forward_at(plan, a, b, h, carry, lengths, team, marks=()):
    """Run a forward plan on addresses, on a team's threads.

    ``carry`` is None if states are zeros, and nobody asks what became of them. ``marks`` are those of `_marks`.
    """
    is_fresh = h != a and h != b and h % plan.dtype.itemsize == 0 and plan.is_aligned
    is_whole = lengths == address(plan.full_lengths)
    starts_line = (h + plan.offsets[H]) % LINE == 0
    way = cost.choose(plan, team.size, is_fresh, starts_line, is_whole)
    _run(plan, "forward", way, team, (a, b, h, carry, lengths), marks=marks)


def vjp(plan, g, a, b, h, h0, grad_state, lengths, cuts=None, results=None, library=_NUMPY):
    """Run a gradient plan; return the gradients of a, b and of the first states (of every lane).

    The last are None, or anything, where no first states were given. ``results`` are fresh gradients of a and b, None
    for what is summed or not wanted.
    """
    team = _waking_team(plan, library.team())
    has_segments, states = cuts is not None and cuts.kind == OFFSETS, None
    if h0 is None and grad_state is None:
        first = carry = None
    elif has_segments:
        states = _room_of(plan, (cuts.segments, 3))
        first, ends, carry = np.moveaxis(states, 1, 0)
        if h0 is None or grad_state is None:
            states.fill(0)
        if h0 is not None:
            fill_states(library, first, h0)
        if grad_state is not None:
            fill_states(library, ends, grad_state)
            cuts.clear_ends(ends)
            carry[...] = ends
    else:
        carry = states_of(plan, grad_state, library)
        first = None if h0 is None else states_of(plan, h0, library)
        if cuts is not None:
            cuts.clear_ends(carry)
    if results is None:
        results = [None if strides is None else _allocate.empty(*own, strides) for *own, strides in plan.gradients]
    if plan.traversal != "empty":
        g, a, b, h = (as_array(value, plan.wide) for value in (g, a, b, h))
        lengths = plan.full_lengths if lengths is None else lengths
        if has_segments:
            first, last = None, None if states is None else np.array(ends[cuts.last], order="K")
        else:
            last = carry
        operands = g, a, b, h, first, last, lengths, *results
        *places, to_a, to_b = (None if v is None else library.place(v) for v in operands)
        totals = _vjp_at(plan, *places, (to_a, to_b), team, _marks(plan, cuts, states))
    else:
        totals = [gradient and np.zeros(gradient[0], plan.wide) for gradient in plan.gradients]
    grad_a, grad_b = (
        library.narrowed(total, gradient[1]) if gradient and result is None else result
        for result, total, gradient in zip(results, totals, plan.gradients, strict=True)
    )
    return grad_a, grad_b, carry


def _vjp_at(plan, g, a, b, h, first, carry, lengths, results, team, marks=()):
    """Run a gradient plan on addresses; return wide sums over what was broadcast, None for what has a result."""
    is_whole = lengths == address(plan.full_lengths)
    way = cost.choose(plan, team.size, is_whole=is_whole)
    summed = [
        None if gradient is None or gradient[2] is not None else np.zeros((way.sums, *gradient[0]), plan.wide)
        for gradient in plan.gradients
    ]
    if way.sum_steps:
        summed[0] = np.zeros((-(-plan.steps // way.sum_steps), plan.lanes), plan.wide)
    if first is None:
        zeros = _allocate.zero_states(plan)
        first = address(zeros)
    # The first states are a valid place for what a kernel is told not to write.
    to_a, to_b = (first if result is None else result for result in results)
    sums_a, sums_b = (first if sums is None else address(sums) for sums in summed)
    places = g, a, b, h, first, carry, to_a, to_b, sums_a, sums_b, lengths
    _run(plan, "vjp", way, team, places, summed[0] if way.sum_steps else None, marks)
    return [_added_up(sums, gradient) for sums, gradient in zip(summed, plan.gradients, strict=True)]


def summary_at(plan, direction, a, b, carry, products, lengths, team):
    """Run a summary plan on addresses: bring states and products from before a chunk to behind it."""
    way = cost.choose(plan, team.size, is_fresh=False)
    _run(plan, direction, way, team, (a, b, products, carry, lengths))


def known_forward(plan):
    """Return a function of a, b, h0, out, return_state and cuts that runs a plan; a short one's decides nothing.

    Cuts are of resets that stand as those do that the plan was made for.
    """
    if not is_short(plan) or not plan.c_order or not plan.carry_c_order:
        return lambda a, b, h0, out, return_state, cuts: forward(plan, a, b, h0, None, out, return_state, cuts)
    call = short_call(plan, "forward", (A, B, H, *_marks_given(plan)))
    call_with_states = short_call(plan, "forward", (A, B, H, CARRY, *_marks_given(plan)))
    shape, dtype, lane_shape, wide, empty = plan.shape, plan.dtype, plan.lane_shape, plan.wide, np.empty
    converts = wide != np.float64  # a number; of float64 it is read where Python has it

    def run(a, b, h0, out, return_state, cuts):
        wants_states = return_state or h0 is not None
        if wants_states and cuts is not None and cuts.kind == OFFSETS:
            return forward(plan, a, b, h0, None, out, return_state, cuts)
        if out is None:
            out = empty(shape, dtype)
        if converts and type(a) is float:
            a = as_array(a, wide)
        marks = () if cuts is None else cuts.marks()
        if not wants_states:
            call(a, b, out, *marks)
            return out, None
        carry = np.zeros(lane_shape, wide) if h0 is None else states_of(plan, h0)
        call_with_states(a, b, out, carry, *marks)
        if return_state and cuts is not None:
            cuts.clear_ends(carry)
        return out, carry

    return run


def known_vjp(plan):
    """Return a function of g, a, b, h, h0 and cuts that runs a plan, as `known_forward` does."""

    def run_any(g, a, b, h, h0, cuts):
        grad_a, grad_b, carry = vjp(plan, g, a, b, h, h0, None, None, cuts)
        return grad_a, grad_b, None if h0 is None else grad_of(h0, carry, plan)

    dense = all(strides is None or shapes.is_c_order(shape, strides) for shape, _, strides in plan.gradients)
    if not is_short(plan) or not dense or not plan.carry_c_order:
        return run_any
    wide = plan.wide
    # What is summed is so in zeros of the carry's dtype.
    (a_shape, a_dtype, a_strides), (b_shape, b_dtype, b_strides) = plan.gradients
    make_a, a_made, to_a = (np.zeros, wide, SUMS_A) if a_strides is None else (np.empty, a_dtype, TO_A)
    make_b, b_made, to_b = (np.zeros, wide, SUMS_B) if b_strides is None else (np.empty, b_dtype, TO_B)
    call = short_call(plan, "vjp", (G, A, B, H, to_a, to_b, *_marks_given(plan)))
    converts, narrows_a, narrows_b = wide != np.float64, a_made != a_dtype, b_made != b_dtype

    def run(g, a, b, h, h0, cuts):
        if h0 is not None:
            return run_any(g, a, b, h, h0, cuts)
        if converts and type(a) is float:
            a = as_array(a, wide)
        grad_a, grad_b = make_a(a_shape, a_made), make_b(b_shape, b_made)
        call(g, a, b, h, grad_a, grad_b, *(() if cuts is None else cuts.marks()))
        if narrows_a:
            grad_a = narrowed(grad_a, a_dtype)
        if narrows_b:
            grad_b = narrowed(grad_b, b_dtype)
        return grad_a, grad_b, None

    return run


def _marks_given(plan):
    """Return which of a `segments.Cuts`' marks a plan's kernels read."""
    return *[FLAGS] * plan.is_flagged, *[BORDERS] * plan.has_offsets


def _added_up(sums, gradient):
    """Return the gradient that some partial sums make; None if there are none."""
    if sums is None:
        return None
    with np.errstate(all="ignore"):
        total = sums.sum(axis=0) if len(sums) > 1 else sums[0]
        return (total if total.size == math.prod(gradient[0]) else total.sum()).reshape(gradient[0])


# ---- Sharing the work out -------------------------------------------------------------------------------------------


_parts = functools.lru_cache(maxsize=1024)(Parts)
_row_chunks = functools.lru_cache(maxsize=1024)(RowChunks)
_scan_chunks = functools.lru_cache(maxsize=1024)(ScanChunks)


def _run(plan, direction, way, team, places, sums=None, marks=()):
    """Run a plan on its operands' addresses in the kernel's order, of which the carry's may be None.

    ``sums`` are partial sums over some steps each.
    """
    bound = bind(plan, direction)
    at = bound.order.index(CARRY)
    places = *places, *map(address, marks or (_allocate.ZEROS,) * 3)
    if way.chunks and not plan.waits():
        _row_chunks(bound, way).scan(team, places, sums)
        return
    if places[at] is None and cost.cuts_time(plan):
        states = np.zeros(plan.state_bytes, np.uint8)
        places = *places[:at], address(states), *places[at + 1 :]
    if way.threads == 1 or not cost.cuts_time(plan):
        _parts(bound, way).run(team, places)
        return
    for repeat in range(len(plan.extra)):
        offsets = [bound.offset(k, repeat) - bound.offset(k) for k in bound.order]
        own = [place + offset for place, offset in zip(places, offsets, strict=True)]
        _scan_chunks(bound, way).scan(team, own)


# ---- Small parts ----------------------------------------------------------------------------------------------------


def as_array(value, wide):
    """Return a number as an array in the carry's dtype; what is none as it is."""
    if type(value) not in SCALARS:
        return value
    if type(value) is float and wide == np.float64:
        return np.array(value)
    with np.errstate(all="ignore"):  # beyond float32, a number is infinite, as an array's would be
        return np.array(value, wide)


def states_of(plan, state, library=_NUMPY, outside=()):
    """Return every lane's state in the carry's dtype, in the order in which the kernels walk lanes.

    ``outside`` is a shape: of how many such states.
    """
    if state is None and plan.carry_c_order and not outside:
        zeros = _allocate.zeros if plan.traversal == ROWS else np.zeros  # rows of it are walked with each step
        return zeros(plan.lane_shape, plan.wide)
    carry = _room_of(plan, outside)
    fill_states(library, carry, state)
    return carry


def _room_of(plan, outside):
    """Allocate states, or an array of such."""
    strides = *shapes.c_strides(outside, plan.state_bytes), *plan.carry_strides
    return _allocate.empty((*outside, *plan.lane_shape), plan.wide, strides, large=0)


def fill_states(library, states, given):
    """Fill an array with states; None are zeros."""
    with np.errstate(all="ignore"):
        library.fill(states, 0 if given is None else given)


def grad_of(h0, carry, plan):
    """Return the first states' gradient, in their own shape."""
    return narrowed(summed_to(carry, np.shape(h0)), plan.h0_dtype)
