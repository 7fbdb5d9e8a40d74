"""Run a problem: allocate, share the work out among threads, call the kernel, hand back the results."""

import ctypes
import functools
import math
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from . import _arrays, _blocks, _by_blocks, _by_time, _problem, _threads
from ._arrays import address, array_at
from ._blocks import LINE
from ._cpu import _narrow, _native, _octets, _panels, _rows, _scan, _scan_back, _summaries, _tiles
from ._cpu._compile import kernel
from ._cpu._memory import OCTET, WIDTH
from ._layout import (
    A_IS_BROADCAST,
    A_MODE,
    ACCUMULATE,
    CARRY,
    HEAD,
    LENGTHS,
    N_STEPS,
    PREFAULT_THREAD,
    PREFAULT_THREADS,
    PREFETCH,
    REDUCE,
    STREAMING,
    SUM_BYTES,
    SUM_STEPS,
    SUMS_A,
    SUMS_B,
    TO_A,
    TO_B,
    A,
    B,
    G,
    H,
)
from ._problem import APART, OCTETS, PANELS, PIECES, ROWS, SCAN, TILES
from ._threads import ranges

_KERNELS = {
    (ROWS, "forward"): _rows.forward,
    (ROWS, "vjp"): _rows.vjp,
    ("narrow", "forward"): _narrow.forward,
    ("narrow", "vjp"): _narrow.vjp,
    (OCTETS, "forward"): _octets.forward,
    (OCTETS, "vjp"): _octets.vjp,
    (PANELS, "forward"): _panels.forward,
    (PANELS, "vjp"): _panels.vjp,
    (TILES, "forward"): _tiles.forward,
    (TILES, "vjp"): _tiles.vjp,
    (SCAN, "forward"): _scan.forward,
    (SCAN, "vjp"): _scan_back.vjp,
    (ROWS, "summary"): _summaries.rows,
    (ROWS, "summary back"): _summaries.rows_back,
    (TILES, "summary"): _summaries.tiles,
    (TILES, "summary back"): _summaries.tiles_back,
}

SERIAL_BYTES = _problem.LARGE_PROBLEM  # below this a second thread costs more than it brings,
LOCKED_BYTES = 1 << 14  # below this it is over before other threads of Python would have had the lock
SERIAL_ROWS = 3 << 20  # and where threads halve rows, whose ends share lines and pages
LONG_PIECE = 128  # bytes in a row, of one operand, from which threads may share rows among them; of results that stay
CACHED_PIECE = 1024  # in the cache more, for where two threads' pieces meet, each step waits for a line of the other's
LARGE_SUM = 24 << 20  # bytes of a problem from which a sum may have parts as short as that; before, as one thread
LONG_SUM = 8 << 10  # the same for a sum's parts, which one thread may have to walk one after another
AHEAD, MOST_AHEAD = 16 << 10, 8 << 10  # bytes asked for before their turn: of all operands together, and of one;
LONG_AHEAD = 8 << 10  # of such a row, not the next ones but what follows,
WITHIN = 1 << 10  # so many bytes further on; and of what is in the cache, even of
CACHED_AHEAD = 4 << 10  # such pieces of rows, or of whole rows that follow each other
FORESEEN = 64 << 10  # but of several operands' such rows nothing: the processor itself sees it coming
BYPASS_ROW = 512  # bytes of a row from which it pays to write past the cache, though its ends fill no line,
BYPASS_ROW_BACK = 256  # and where two rows are written for four that are read
MOST_APART = 64 << 10  # bytes of states beyond which it is no matter how near threads' are: a step takes long
FRESH_BYTES = 16 << 20  # results from which the system's providing of pages takes as long as the walk
LARGE, LARGER = 1 / 3, 0.65  # of the cache: results of larger problems go past it, and of these where they could stay
CACHE = "/sys/devices/system/cpu/cpu0/cache/index3/"  # where the system tells of the last level
SOCKET_CACHE = 128 << 20  # bytes from which a cache belongs to all processors of a socket, also those of others,
CACHE_A_PROCESSOR = 12 << 20  # of which each may count on so many,
STAYING = 32 << 20  # and on so many for results that are written as they come, lane by lane;
GIVEN = 64 << 20  # and each thread on so many for rows that go to the caller's own memory,
SHARED = 64 << 20  # but not on less in all where threads share rows, and lines between them go to and fro


@functools.cache
def _cache():
    """Return what may be kept in the last-level cache, which processors share it, and what stays in a socket's.

    As far as the system tells: of a socket's cache no processors, of another nothing that stays.
    """
    try:
        with open(CACHE + "size") as file:
            size = int(file.read().strip().removesuffix("K")) << 10
    except (OSError, ValueError):
        return 32 << 20, set(), 0
    if size >= SOCKET_CACHE:
        processors = os.cpu_count() or 1
        return min(size, CACHE_A_PROCESSOR * processors), set(), min(size, STAYING * processors)
    try:
        with open(CACHE + "shared_cpu_list") as file:
            spans = [part.split("-") for part in file.read().strip().split(",")]
        processors = {k for first, *last in spans for k in range(int(first), int((last or [first])[0]) + 1)}
    except (OSError, ValueError):
        processors = set()
    return size, processors, 0


def _cache_bytes():
    """Return how much this machine may keep in the last-level cache: what is larger streams from memory."""
    return _cache()[0]


def _staying_bytes():
    """Return how large a problem may be whose results stay in a socket's cache; 0 if there is none."""
    return _cache()[2]


def _have_one_cache(team):
    """Return whether a team's processors, and few others, have a cache in common.

    The system may be wrong on that, as it is on virtual machines; so the time that a line takes must tell the same.
    """
    having_it = _cache()[1]
    try:
        may = bool(having_it) and os.sched_getaffinity(0) <= having_it
    except AttributeError:  # not on every platform
        may = False
    return may and _threads.share_a_cache(team)


# ---- Runs -----------------------------------------------------------------------------------------------------------


def forward(plan, a, b, h0, lengths, out, return_state):
    """Run a forward plan on arrays; return the result and, if asked for, the states after the last valid step."""
    team, ours = _waking_team(plan), out is None
    if ours:
        out = _problem.empty(plan.shape, plan.dtype, plan.h_strides, beside=line_offset(plan, b, a))
    carry = None if h0 is None and not return_state else _states(plan, h0)
    if plan.traversal != "empty":
        a, b = _number(a, plan.wide), _number(b, plan.wide)
        lengths = plan.full_lengths if lengths is None else lengths
        places = address(a), address(b), address(out), None if carry is None else address(carry), address(lengths)
        forward_at(plan, *places, out.nbytes if ours else 0, out.flags.aligned, team)
    return out, carry


def _waking_team(plan):
    """Return who will run a plan; workers among whom it will be shared wake up while the call is prepared."""
    team = _threads.team()
    if team.run is _threads.run and (n := _likely_threads(plan, team.size)) > 1:
        _threads.stir(n)
    return team


@functools.lru_cache(maxsize=1024)
def _likely_threads(plan, most):
    return _useful_threads(plan, most, True)


def forward_at(plan, a, b, h, carry, lengths, fresh_bytes, aligned, team):
    """Run a forward plan on addresses, on a team's threads.

    ``fresh_bytes`` is the size of a result that was allocated for this call, else 0. ``carry`` is None if states are
    zeros, and nobody asks what became of them.
    """
    from_first, fresh, given = plan.offsets, h != a and h != b and aligned, not fresh_bytes
    fresh_bytes = _new_bytes(h, fresh_bytes)
    is_whole = lengths == address(plan.full_lengths)
    stretches = _by_time.stretches(plan, team.size) if fresh and is_whole else None
    stays = fresh and _stays(plan, team, stretches, given)
    sharing = _sharing(plan, team.size, fresh, fresh_bytes, "forward", stays=stays)
    if stretches is None and sharing.template is not None and plan.traversal != SCAN:
        place = h + from_first[H] + plan.extra[0][H]
        past = plan.traversal == ROWS and sharing.geometry[STREAMING]
        shift = _lanes_to_shift(plan, sharing.geometry, place) if past and is_whole else 0
        if shift and carry is None and _run_shifted(plan, team, shift, (a, b, h)):
            return
        is_plain = not shift and (not past or _may_bypass(plan, place))
        if is_plain and (carry is None or not sharing.spans):
            _run_template(team, sharing, (a, b, h, carry, lengths), 3)
            return
    if stretches is not None:
        (extra,) = plan.extra
        at = a + from_first[A] + extra[A], b + from_first[B] + extra[B], h + from_first[H] + extra[H]
        shift = _lanes_to_shift(plan, sharing.geometry, at[-1])
        past = sharing.geometry[STREAMING] and (shift or _may_bypass(plan, at[-1]))
        ways = _stretches(plan, "forward", bool(past), stays, 0, stretches, shift)
        if ways.walk(team, at, None if carry is None else carry + extra[CARRY]):
            return
    call, zeros = _bound(plan, "forward"), None
    if carry is None:
        zeros = _states(plan, None)
        carry = address(zeros)
    for extra in plan.extra:
        at = (
            a + from_first[A] + extra[A], b + from_first[B] + extra[B], h + from_first[H] + extra[H],
            carry + extra[CARRY], lengths + extra[LENGTHS],
        )  # fmt: skip
        if plan.traversal == SCAN:
            _by_blocks.forward(plan, call, sharing, at, fresh, team)
            continue
        shift = _lanes_to_shift(plan, sharing.geometry, at[H]) if is_whole else 0
        if shift:
            _forward_shifted(plan, call, at, carry, sharing, shift, team)
            continue
        if sharing.geometry[STREAMING] and plan.traversal == ROWS and not _may_bypass(plan, at[H]):
            sharing = _sharing(plan, team.size, False, fresh_bytes, "forward")
        _run_parts(team, sharing, [(call, None, *at)] * len(sharing.tails), (5,))


def vjp(plan, g, a, b, h, h0, grad_state, lengths):
    """Run a gradient plan on arrays; return the gradients of a, b and of the first states (of every lane).

    The last are None, or anything, where no first states were given.
    """
    team = _waking_team(plan)
    carry = None if h0 is None and grad_state is None else _states(plan, grad_state)
    first = None if h0 is None else _states(plan, h0)
    results, place = [], line_offset(plan, b, a)
    for *own, strides in plan.gradients:
        results.append(None if strides is None else _problem.empty(*own, strides, beside=place))
    if plan.traversal != "empty":
        g, a, b, h = (_number(value, plan.wide) for value in (g, a, b, h))
        lengths = plan.full_lengths if lengths is None else lengths
        places = [None if r is None else (address(r), r.nbytes) for r in results]
        states = (None if value is None else address(value) for value in (first, carry))
        here = address(g), address(a), address(b), address(h), *states, address(lengths)
        totals = vjp_at(plan, *here, places, team)
    else:
        totals = [np.zeros(shape, plan.wide) for shape, _, _ in plan.gradients]
    grad_a, grad_b = (
        narrowed(total, dtype) if result is None else result
        for result, total, (_, dtype, _) in zip(results, totals, plan.gradients, strict=True)
    )
    return grad_a, grad_b, carry


def vjp_at(plan, g, a, b, h, first, carry, lengths, results, team):
    """Run a gradient plan on addresses, on a team's threads; return the sums over what was broadcast.

    ``first`` and ``carry`` may be None as in `forward_at`. ``results`` are ``(address, bytes)`` of each operand's fresh
    gradient, None for one that is summed or not wanted; what is returned for them are wide arrays, None for the others.
    """
    sizes = [0 if result is None else _new_bytes(*result) for result in results]
    is_whole = lengths == address(plan.full_lengths)
    stretch = _by_time.sum_stretch(plan) if is_whole else 0
    stays = _stays(plan, team, None, False)
    sharing = _sharing(plan, team.size, True, max(sizes), "vjp", stretch, stays)
    summed = [
        None if gradient is None or gradient[2] is not None else np.zeros((sharing.pieces, *gradient[0]), plan.wide)
        for gradient in plan.gradients
    ]
    if stretch:
        summed[0] = np.zeros((-(-plan.steps // stretch), plan.lanes), plan.wide)
    zeros = []
    if first is None:
        zeros.append(plan.zeros())
        first = address(zeros[0])
    # The first states are a valid place for what a kernel is told not to write.
    to_a, to_b = (first if result is None else result[0] for result in results)
    sums_a, sums_b = (first if sums is None else address(sums) for sums in summed)
    stretches = _by_time.stretches(plan, team.size, stretch) if is_whole else None
    is_plain = plan.traversal != SCAN and sharing.template is not None
    if stretches is None and is_plain and (carry is None or not sharing.spans):
        _run_template(team, sharing, (g, a, b, h, first, carry, to_a, to_b, sums_a, sums_b, lengths), 5)
        return _added_up(plan, summed, sharing.pieces)
    if carry is None:
        zeros.append(_states(plan, None))
        carry = address(zeros[-1])
    if stretches is not None:
        (extra,), places = plan.extra, {G: g, A: a, B: b, H: h, TO_A: to_a, TO_B: to_b}
        at = [place + plan.offsets[k] + extra[k] for k, place in places.items()]
        ways = _stretches(plan, "vjp", bool(sharing.geometry[STREAMING]), stays, stretch, stretches)
        if ways.walk(team, at, carry + extra[CARRY], first + extra[CARRY], summed[0]):
            return _added_up(plan, summed, sharing.pieces)
    call, from_first, strides = _bound(plan, "vjp"), plan.offsets, _sum_strides(plan)
    for extra in plan.extra:
        at = (
            g + from_first[G] + extra[G], a + from_first[A] + extra[A], b + from_first[B] + extra[B],
            h + from_first[H] + extra[H], first + extra[CARRY], carry + extra[CARRY],
            to_a + from_first[TO_A] + extra[TO_A], to_b + from_first[TO_B] + extra[TO_B],
        )  # fmt: skip

        def head(piece, at=at, extra=extra):
            return (
                *at, sums_a + from_first[SUMS_A] + extra[SUMS_A] + piece * strides[0],
                sums_b + from_first[SUMS_B] + extra[SUMS_B] + piece * strides[1], lengths + extra[LENGTHS],
            )  # fmt: skip

        if plan.traversal == SCAN:
            _by_blocks.vjp(plan, call, sharing, head(0), strides, team)
        else:
            heads = [(call, None, *head(k if sharing.pieces else 0)) for k in range(len(sharing.tails))]
            _run_parts(team, sharing, heads, (7,))
    return _added_up(plan, summed, sharing.pieces)


def _sum_strides(plan):
    """Return how many bytes a partial sum of each operand's gradient has, 0 if it is none."""
    return [
        0 if gradient is None or gradient[2] is not None else math.prod(gradient[0]) * plan.wide.itemsize
        for gradient in plan.gradients
    ]


def _added_up(plan, summed, pieces):
    """Return gradients from so many partial sums, or from those that `_by_time.sum_stretch` is about."""
    if summed[0] is summed[1] is None:
        return summed
    if pieces and all(sums is None or (sums.ndim == 1 and sums.dtype == np.float64) for sums in summed):
        # Of one number: after a large walk, NumPy takes longer to come back into the cache than to add up.
        return [None if sums is None else np.float64(sum(sums.tolist())) for sums in summed]
    with np.errstate(all="ignore"):
        if pieces:
            return [None if sums is None else sums.sum(axis=0) if pieces > 1 else sums[0] for sums in summed]
        if summed[0] is not None:
            shape = plan.gradients[0][0]
            summed[0] = (summed[0].sum(axis=0) if math.prod(shape) > 1 else summed[0].sum()).reshape(shape)
    return summed


def _run_template(team, sharing, addresses, state):
    """Run a plan's parts: all is known of their calls but addresses, of which the ``state``-th begins the carry.

    If that is None, states are zeros, which nobody asks for afterwards.
    """
    if addresses[state] is None:
        room = np.zeros(sharing.room + LINE, _problem.BYTE)
        place = address(room)
        addresses = *addresses[:state], place + -place % LINE, *addresses[state + 1 :]
    _threads.run_template(team, sharing.template, sharing.sharer, addresses, min(sharing.threads, len(sharing.tails)))


def _template(plan, direction, tails, pieces, spans):
    """Return the calls of a plan's parts as if all addresses were 0; None where it is more than such calls."""
    if direction not in ("forward", "vjp") or plan.traversal == SCAN or len(plan.extra) > 1:
        return None
    call, (extra,), at = _bound(plan, direction), plan.extra, plan.offsets
    if not _native.is_native([(call,)]):
        return None
    strides, calls = _sum_strides(plan), []
    for k, tail in enumerate(tails):
        carry, piece = k * APART if spans else extra[CARRY], k if pieces else 0
        if direction == "forward":
            head = *(at[i] + extra[i] for i in (A, B, H)), carry, extra[LENGTHS]
        else:
            head = (
                *(at[i] + extra[i] for i in (G, A, B, H)), extra[CARRY], carry,
                *(at[i] + extra[i] for i in (TO_A, TO_B)),
                *(at[i] + extra[i] + piece * strides[n] for n, i in enumerate((SUMS_A, SUMS_B))), extra[LENGTHS],
            )  # fmt: skip
        calls.append((call, None, *head, *tail))
    return _native.table(calls)


def _new_bytes(place, nbytes):
    """Return how many bytes of a result the system has not provided yet, if that is worth a thought."""
    return 0 if nbytes < FRESH_BYTES or _blocks.has_pages(place) else nbytes


def summary_at(plan, direction, a, b, carry, products, lengths, team):
    """Run a summary plan on addresses: bring states and products from before a stretch to behind it."""
    call, from_first = _bound(plan, direction), plan.offsets
    sharing = _sharing(plan, team.size, False, 0, direction)
    for extra in plan.extra:
        at = (
            a + from_first[A] + extra[A], b + from_first[B] + extra[B], carry + extra[CARRY],
            products + extra[CARRY], lengths + extra[LENGTHS],
        )  # fmt: skip
        _run_parts(team, sharing, [(call, None, *at)] * len(sharing.tails), (4, 5))


def _run_parts(team, sharing, heads, states):
    """Run a plan's parts, given the first arguments of their calls, in which ``states`` are the places of addresses.

    What stands there is read and written at each step, so parts of one row have it in memory of its own: where two
    threads' lines are neighbours, each step would wait for a line that the other's processor has fetched too early.
    """
    if not sharing.spans:
        team.run([(*head, *tail) for head, tail in zip(heads, sharing.tails, strict=True)], sharing.threads)
        return
    calls, moves, keep = [list(head) for head in heads], [], []
    for place in states:
        room = _problem.aligned((sharing.room,), _problem.BYTE, _blocks.fresh)
        keep.append(room)
        for k, (call, (begin, end)) in enumerate(zip(calls, sharing.spans, strict=True)):
            own = address(room) + k * APART
            moves.append((own + begin, call[place] + begin, end - begin))
            call[place] = own
    for own, given, size in moves:
        ctypes.memmove(own, given, size)
    team.run([(*call, *tail) for call, tail in zip(calls, sharing.tails, strict=True)], sharing.threads)
    for own, given, size in moves:
        ctypes.memmove(given, own, size)


def known_forward(plan):
    """Return a function of a, b, out and return_state that runs a plan: of a short one, without deciding anything."""
    if not is_short(plan) or not plan.c_order or not plan.carry_c_order:
        return lambda a, b, out, return_state: forward(plan, a, b, None, None, out, return_state)
    call, lengths, table, part = short_parts(plan, "forward")
    shape, dtype, lane_shape, wide = plan.shape, plan.dtype, plan.lane_shape, plan.wide
    to_a, to_b, to_h = plan.offsets[A], plan.offsets[B], plan.offsets[H]
    empty, zeros = np.empty, np.zeros

    def run(a, b, out, _return_state):
        carry = zeros(lane_shape, wide)
        if out is None:
            out = empty(shape, dtype)
        if type(a) is float:
            a = _number(a, wide)
        call(None, address(a) + to_a, address(b) + to_b, address(out) + to_h, address(carry), lengths, table, *part)
        return out, carry

    run.keep = plan  # its geometry and lengths must stay
    return run


def known_vjp(plan):
    """Return a function of g, a, b and h alone that runs a plan: of a short one, without deciding anything."""
    dense = all(strides is None or _problem.is_c_order(shape, strides) for shape, _, strides in plan.gradients)
    if not is_short(plan) or not dense or not plan.carry_c_order:
        return lambda g, a, b, h: (*vjp(plan, g, a, b, h, None, None, None)[:2], None)
    wide = plan.wide
    # What is summed is so in zeros of the carry's dtype.
    (a_shape, a_dtype, a_strides), (b_shape, b_dtype, b_strides) = plan.gradients
    make_a, a_made, to_a = (np.zeros, wide, SUMS_A) if a_strides is None else (np.empty, a_dtype, TO_A)
    make_b, b_made, to_b = (np.zeros, wide, SUMS_B) if b_strides is None else (np.empty, b_dtype, TO_B)
    short = ShortCall(plan, "vjp", (G, A, B, H, to_a, to_b))
    call = short.call

    def run(g, a, b, h):
        if type(a) is float:
            a = _number(a, wide)
        grad_a, grad_b = make_a(a_shape, a_made), make_b(b_shape, b_made)
        call(address(g), address(a), address(b), address(h), address(grad_a), address(grad_b))
        if a_made != a_dtype:
            grad_a = narrowed(grad_a, a_dtype)
        if b_made != b_dtype:
            grad_b = narrowed(grad_b, b_dtype)
        return grad_a, grad_b, None

    run.keep = short
    return run


def is_short(plan):
    """Return whether one call of one kernel on this thread is all there is to a plan."""
    return plan.traversal in (ROWS, OCTETS, PANELS, TILES) and len(plan.extra) == 1 and _bytes(plan) < SERIAL_BYTES


def short_parts(plan, direction):
    """Return a short plan's kernel and its last arguments: lengths (all steps), geometry and the part that is all."""
    part = row_parts(plan, 1)[0] if plan.traversal == ROWS else (0, plan.lanes)
    return _bound(plan, direction), address(plan.full_lengths), address(plan.geometry), part


class ShortCall:
    """A short plan's kernel, of nothing but the addresses of ``given``; the state it starts from is zeros."""

    def __init__(self, plan, direction, given):
        kernel, lengths, table, part = short_parts(plan, direction)
        order = (A, B, H, CARRY) if direction == "forward" else (G, A, B, H, None, CARRY, TO_A, TO_B, SUMS_A, SUMS_B)
        zeros = np.zeros(plan.lane_shape, plan.wide)  # a first state; and a valid place for what is not read or written
        numbers = [plan.offsets[k] if k in given else address(zeros) for k in order]
        arguments = [0, *numbers, lengths, table, *part]
        places, carry = [1 + order.index(k) for k in given], 1 + order.index(CARRY)
        self._keep = plan, zeros
        words, is_native = -(-zeros.nbytes // 8), _native.is_native([(kernel,)])
        releases = _bytes(plan) >= LOCKED_BYTES
        if is_native and words <= _native.MOST_SCRATCH:
            self._prepared = _native.Prepared(kernel, arguments, places, carry, words, releases)
            self.call = self._prepared.call
            return
        arguments[carry], places = 0, [*places, carry]

        def interpreted(*addresses):
            own = [None, *arguments[1:]]
            for place, at in zip(places, addresses, strict=True):
                own[place] += at
            kernel(*own)

        whole = interpreted
        if is_native:
            self._prepared = _native.Prepared(
                kernel, arguments, places, 0, 0, releases
            )  # no scratch, in a rule's place
            whole = self._prepared.call
        shape, wide, fresh = plan.lane_shape, plan.wide, np.zeros

        def call(*addresses):
            states = fresh(shape, wide)
            whole(*addresses, address(states))

        self.call = call


def _lanes_to_shift(plan, geometry, place):
    """Return after how many lanes of a result's rows a cache line starts, if all rows are alike in that; else 0.

    Rows must follow each other without a gap, in the operands too.
    """
    inner = plan.sizes[2]
    if not geometry[STREAMING] or plan.traversal != ROWS or plan.steps == 1 or plan.row_bytes % LINE:
        return 0
    if plan.sizes[1] > 1 or len(plan.extra) > 1:
        return 0
    way = -inner if plan.time_strides[H] < 0 else inner
    one_value = plan.time_strides[A] == plan.lane_strides[A] == 0
    gapless = all(
        plan.time_strides[k] == way * plan.itemsizes[k] and plan.lane_strides[k] == plan.itemsizes[k]
        for k in ((B, H) if one_value else (A, B, H))
    )
    size, to_line = plan.itemsizes[H], -place % LINE
    return to_line // size if gapless and to_line % size == 0 else 0


def _may_bypass(plan, place):
    """Return whether the rows of a result, the first of which is there, are long or all start with a cache line."""
    if plan.row_bytes >= BYPASS_ROW:
        return True
    strides = plan.geometry[HEAD + 3 * H : HEAD + 3 * H + 3]
    return place % LINE == 0 and not (strides % LINE).any()


def _forward_shifted(plan, call, at, carry, sharing, shift, team):
    """Walk rows that start with a line: the first of each is the one that the row before it ends with.

    Lanes before that line go one step alone before all others, and these the last step alone.
    """
    outer, _, inner = plan.sizes
    size, last = plan.wide.itemsize, plan.steps - 1
    states = array_at(carry, (outer, inner), plan.wide)
    turned = _problem.aligned((outer, inner), plan.wide)
    turned[:, inner - shift :], turned[:, : inner - shift] = states[:, :shift], states[:, shift:]
    down = plan.time_strides[H] < 0

    def walk(steps, from_step, by_lanes, carry_at, bypass, parts):
        table = sharing.geometry.copy()
        table[N_STEPS], table[STREAMING] = steps, bypass
        lengths = np.array([steps], np.int64)
        moved = [at[k] + plan.distance(k, from_step, by_lanes) for k in (A, B, H)]
        tails = [(address(table), *part) for part in parts]
        head = (call, None, *moved, address(turned) + carry_at * size, address(lengths))
        here = sharing._replace(tails=tails, spans=sharing.spans if len(tails) > 1 else [])
        _run_parts(team, here, [head] * len(tails), (5,))

    before = (0, outer, 0, 1, 0, shift), inner - shift
    behind = (0, outer, 0, 1, shift, inner), -shift
    first, second = (behind, before) if down else (before, behind)
    walk(1, 0, 0, first[1], 0, [first[0]])
    walk(last, int(down), shift, 0, 1, [part for _, *part in sharing.tails])
    walk(1, last, 0, second[1], 0, [second[0]])
    states[:, :shift], states[:, shift:] = turned[:, inner - shift :], turned[:, : inner - shift]


# ---- Sharing the work out -------------------------------------------------------------------------------------------


def _run_shifted(plan, team, shift, addresses):
    """Walk as `_forward_shifted` does, from zeros that nobody asks for, all in one go; return whether that was done."""
    known = _shifted(plan, team.size, shift)
    if known is None or team.run is not _threads.run:
        return False
    states = np.zeros(known.room, _problem.BYTE)
    place = address(states)
    return _threads.share(known.sharer, (*addresses, place + -place % LINE), known.threads)


@functools.lru_cache(maxsize=256)
def _shifted(plan, size, shift):
    """Return a function of the addresses of operands, result and states that walks shifted rows, None if it is more.

    A thread takes three calls, and a lane's state is where it looks for it: each thread's stand apart.
    """
    sharing = _sharing(plan, size, True, 0, "forward")
    (outer, _, inner), parts = plan.sizes, [part for _, *part in sharing.tails]
    threads, low_of_last = len(parts), parts[-1][-2]
    if outer > 1 or threads > sharing.threads or shift > inner - low_of_last:
        return None
    call, last, down = _bound(plan, "forward"), plan.steps - 1, plan.time_strides[H] < 0
    tables, lengths = [sharing.geometry.copy() for _ in range(2)], np.array([1, last], np.int64)
    tables[0][N_STEPS], tables[0][STREAMING], tables[1][N_STEPS], tables[1][STREAMING] = 1, 0, last, 1

    def call_of(k, is_long, step, by_lanes, low, high, states_from):
        moved = [plan.offsets[i] + plan.extra[0][i] + plan.distance(i, step, by_lanes) for i in (A, B, H)]
        states = k * APART + states_from * plan.wide.itemsize
        own = states, address(lengths[is_long:]), address(tables[is_long])
        return call, None, *moved, *own, 0, 1, 0, 1, low, high

    def alone(step, before):
        for k, (*_, low, high) in enumerate(parts):
            if before:  # the line, which the last thread's lanes end with
                yield call_of(k, 0, step, 0, 0, shift if k == threads - 1 else 0, inner - shift)
            else:
                yield call_of(k, 0, step, 0, low + shift, min(high + shift, inner), -shift)

    together = (call_of(k, 1, int(down), shift, low, high, 0) for k, (*_, low, high) in enumerate(parts))
    rows = _native.table([*alone(0, not down), *together, *alone(last, down)])
    sharer = _native.sharer(rows)
    room = inner * plan.wide.itemsize + APART * threads + LINE
    return None if sharer is None else _Shifted(sharer, threads, room, (rows, tables, lengths))


class _Shifted(NamedTuple):
    sharer: Callable
    threads: int
    room: int  # bytes of states
    keep: tuple


class _Sharing(NamedTuple):
    """How threads share a plan, whatever its addresses are."""

    threads: int
    pieces: int  # how many partial sums a broadcast operand's gradient is made of, 0 if none is summed
    geometry: np.ndarray
    table: int  # where that stands
    tails: list  # the last arguments of each call: where its geometry stands, and its part of the lanes; of a series,
    # that of the lanes or of the blocks
    spans: list  # of each part's states if they are to stand apart: bytes from the first state
    room: int  # and how many bytes these take, or all states
    keep: list
    template: np.ndarray | None  # all parts' calls, but for addresses; of a series, see `_by_blocks`
    sharer: Callable | None  # a function of these, see `_native.sharer`


@functools.lru_cache(maxsize=1024)
def _sharing(plan, most, fresh, fresh_bytes, direction, stretch=0, stays=False):
    """Return how at most so many threads share a plan.

    ``fresh`` says whether results stand where no operand does, ``fresh_bytes`` how large new ones are, ``stretch`` what
    `_by_time.sum_stretch` does, and ``stays`` what `_stays` does.
    """
    bypass = _bypasses(plan, fresh, stays)
    threads, pieces = _useful_threads(plan, most, bypass), 0 if stretch else _pieces(plan)
    geometry = _geometry(plan, bypass, threads, stays, stretch, pieces)
    if plan.traversal == SCAN:
        tables, spans = [geometry], []
        tails = _by_blocks.parts(plan, threads, pieces)
        template = _by_blocks.told_template(plan, _bound(plan, direction), direction, address(geometry), tails)
    else:
        parts = (row_parts if plan.traversal == ROWS else lane_parts)(plan, pieces or threads)
        tables = [geometry] * len(parts)
        sharers = min(threads, len(parts)) if plan.traversal == ROWS and plan.sizes[0] == 1 else 0
        # Who provides pages walks step by step, and a sum over rows must not depend on that.
        if sharers > 1 and fresh_bytes >= FRESH_BYTES and geometry[A_MODE] != REDUCE:
            tables = [geometry.copy() for _ in parts]
            for mine, table in enumerate(tables[:sharers]):  # each sees to its share of the pages
                table[PREFAULT_THREADS], table[PREFAULT_THREAD] = sharers, mine
        tails = [(address(table), *part) for table, part in zip(tables, parts, strict=False)]
        spans = _spans(plan, parts)
        template = _template(plan, direction, tails, pieces, spans)
    room = spans[-1][1] + APART * len(spans) if spans else plan.lanes * plan.wide.itemsize
    sharer = None if template is None else _native.sharer(template)
    return _Sharing(threads, pieces, geometry, address(geometry), tails, spans, room, tables, template, sharer)


@functools.lru_cache(maxsize=1024)
def _stretches(plan, direction, bypass, stays, stretch, stretches, shift=0):
    """Return the way to walk a plan by ``stretches``; ``stretch`` is `_by_time.sum_stretch`'s."""
    geometry = _geometry(plan, bypass, 1, stays, stretch)
    return _by_time.Stretches(plan, _bound(plan, direction), geometry, stretches, shift)


def _spans(plan, parts):
    """Return where in bytes each part's states begin and end, if they are to stand apart; else nothing."""
    outer, middle, inner = plan.sizes
    size, row = plan.wide.itemsize, int(plan.geometry[HEAD + 3 * CARRY + 1])
    if plan.traversal != ROWS or len(parts) == 1 or outer > 1 or (middle > 1 and row != inner * size):
        return []
    if middle * inner * size > MOST_APART:
        return []
    return [(first * row + low * size, (last - 1) * row + high * size) for _, _, first, last, low, high in parts]


def _bytes(plan):
    return plan.word * plan.steps * plan.lanes


def _is_large(plan):
    """Return whether a problem takes so much of the cache that its results would not stay there for long."""
    return _bytes(plan) > LARGE * _cache_bytes()


def _is_narrow(plan):
    """Return whether rows have a kernel for their number of lanes; not whole vectors that go past the cache."""
    return plan.narrow != () and not (plan.sizes[2] == WIDTH and _is_large(plan))


def _stays(plan, team, stretches, given):
    """Return whether a large problem's results stay in the cache all the same, for who reads them next.

    Not where that takes longer: between threads that have a cache each, lines of rows go to and fro; and one alone is
    slower with them. Gradients only in a socket's. There rows that go to memory which is ``given`` stay, because what
    its owner has just used takes twice as long to write past the cache. New ones do not: they come to many places.
    """
    if not _is_large(plan) or _is_narrow(plan):
        return False
    if staying := _staying_bytes():
        if plan.traversal != ROWS:
            return plan.traversal in (OCTETS, SCAN) and _bytes(plan) <= staying
        most = min(2 * staying, GIVEN * team.size) if given and plan.dtype.itemsize >= 4 else 0
        if plan.sizes[:2] == (1, 1) and team.size > 1 and stretches is None:
            return _row_splits(plan, CACHED_PIECE) >= team.size and SHARED <= _bytes(plan) <= most
        return _bytes(plan) <= most
    if plan.gradients or _bytes(plan) > LARGER * _cache_bytes():
        return False
    if plan.traversal == ROWS:
        shares = stretches is not None or _row_splits(plan, CACHED_PIECE) >= team.size
        return shares and team.size > 1 and _have_one_cache(team)
    return plan.traversal in (OCTETS, SCAN) and (team.size == 1 or _have_one_cache(team))


def _bypasses(plan, fresh, stays):
    """Return whether results go past the cache; of a series, whether they may be written where they belong (1)."""
    large = _is_large(plan) and not stays
    if plan.traversal == SCAN:
        return (_scan.STREAMED if large else _scan.IN_PLACE) if fresh else 0
    row = BYPASS_ROW_BACK if plan.gradients else BYPASS_ROW
    long = plan.traversal in (OCTETS, PANELS, TILES) or plan.row_bytes >= row or plan.row_bytes % LINE == 0
    return fresh and long and large and not _is_narrow(plan)


def _useful_threads(plan, most, bypass):
    """Return how many threads to use. No bit depends on it: what is summed is cut by `_pieces`."""
    if _bytes(plan) < (SERIAL_ROWS if plan.traversal == ROWS and plan.sizes[0] == 1 else SERIAL_BYTES):
        return 1
    if plan.traversal == ROWS:
        return min(most, _row_splits(plan, LONG_PIECE if bypass else CACHED_PIECE))
    if plan.traversal in (OCTETS, PANELS, TILES):
        return min(most, -(-plan.lanes // _tile_lanes(plan)))
    return min(most, max(1, plan.lanes if _by_blocks.shares_lanes(plan) else plan.steps // _scan.BLOCK // 4))


def _row_splits(plan, piece):
    """Return into how many parts rows may be cut, of so many bytes at least."""
    outer, middle, inner = plan.sizes
    if outer > 1:
        return outer
    parts = middle * plan.row_bytes // piece
    return max(1, min(parts, middle if middle > 1 else inner // 64))


def _pieces(plan):
    """Return how many partial sums a broadcast operand's gradient is made of, 0 if none is: by the shape alone."""
    sums = [math.prod(gradient[0]) for gradient in plan.gradients if gradient is not None and gradient[2] is None]
    if not any(sums):
        return 0
    if _bytes(plan) < SERIAL_BYTES:
        return 1
    if plan.traversal == ROWS:
        outer, middle, _ = plan.sizes
        piece = LONG_PIECE if _bytes(plan) >= LARGE_SUM else CACHED_PIECE // 2
        most = outer if outer > 1 else min(_row_splits(plan, piece), max(2, middle * plan.row_bytes // LONG_SUM))
    elif plan.traversal in (OCTETS, PANELS, TILES):
        most = -(-plan.lanes // _tile_lanes(plan))
    else:
        most = plan.lanes if _by_blocks.shares_lanes(plan) else plan.steps // _scan.BLOCK
    room = plan.steps * plan.lanes // (8 * max(sums))
    return max(1, min(PIECES, most, room))


def row_parts(plan, parts):
    """Cut the lanes of a rows problem."""
    outer, middle, inner = plan.sizes
    if outer > 1:
        return [(*r, 0, middle, 0, inner) for r in ranges(outer, parts)]
    if middle > 1:
        return [(0, 1, *r, 0, inner) for r in ranges(middle, parts)]
    units = -(-inner // 64)
    return [(0, 1, 0, 1, 64 * low, min(inner, 64 * high)) for low, high in ranges(units, parts)]


def lane_parts(plan, parts):
    """Cut the lanes of a tiles problem into whole tiles."""
    unit = _tile_lanes(plan)
    return [(unit * low, min(plan.lanes, unit * high)) for low, high in ranges(-(-plan.lanes // unit), parts)]


def _tile_lanes(plan):
    """Return how many lanes are walked together."""
    return OCTET if plan.traversal == OCTETS else WIDTH


def _geometry(plan, bypass, threads, stays=False, stretch=0, pieces=0):
    """Return the geometry with what depends on the machine: if results go past the cache, how far to look ahead.

    And with partial sums of each lane over a ``stretch`` of time. Rows are cut for threads or into ``pieces``.
    """
    geometry = plan.geometry.copy()
    geometry[STREAMING], geometry[PREFETCH] = bypass, _ahead(plan, stays, max(threads, pieces))
    if stretch:
        geometry[A_MODE], geometry[SUM_STEPS], geometry[SUM_BYTES] = (
            ACCUMULATE,
            stretch,
            plan.lanes * plan.wide.itemsize,
        )
    if plan.traversal == SCAN and pieces and not _by_blocks.shares_lanes(plan):
        geometry[_scan.SUMS : _scan.SUMS + 3] = pieces, *_sum_strides(plan)
    return geometry


def _ahead(plan, stays, parts):
    """Return how many bytes of each operand's rows are asked for before their turn, as in `_layout`."""
    if plan.traversal != ROWS or _bytes(plan) < SERIAL_BYTES:
        return 0
    outer, middle, _ = plan.sizes
    parts = parts if outer == middle == 1 else 1
    piece = plan.row_bytes // parts
    has_gates = plan.geometry[A_IS_BROADCAST] == 0
    operands = (3 if plan.gradients else 1) + int(has_gates)
    is_near = not _is_large(plan) or (stays and not _staying_bytes())
    if is_near and middle == 1 and (parts == 1 or piece >= CACHED_AHEAD):
        return 0 if operands == 1 else -WITHIN
    if piece >= LONG_AHEAD:
        return 0 if piece >= FORESEEN and has_gates else -WITHIN
    return min(MOST_AHEAD, AHEAD // operands)


# ---- Small parts ----------------------------------------------------------------------------------------------------


def _bound(plan, direction):
    call = plan.calls.get(direction)
    if call is None:
        kind, words = ("narrow", plan.narrow) if _is_narrow(plan) else (plan.traversal, ())
        rule = " ".join([plan.rule, *plan.traits, *words])
        call = kernel(_KERNELS[kind, direction], rule, _arrays.element(plan.wide), **plan.elements)
        plan.calls[direction] = call
    return call


def line_offset(plan, *operands):
    """Return how far into a cache line a fresh result should start: where tiles end with an operand's lines, as far."""
    if plan.traversal in (OCTETS, TILES) and plan.steps >= _tiles.LONG:
        for value in operands:
            if type(value) is np.ndarray and value.size > 1 and value.itemsize == plan.dtype.itemsize:
                place = address(value) % LINE
                return place if place % 8 == 0 else 0  # any result must be aligned to its dtype
    return 0


def _number(value, wide):
    if type(value) is np.ndarray:
        return value
    if type(value) is float and wide == np.float64:
        return np.array(value)
    with np.errstate(all="ignore"):  # beyond float32, a number is infinite, as an array's would be
        return np.array(value, wide)


def _states(plan, state):
    """Return every lane's state in the carry's dtype, in the order in which the kernels walk lanes."""
    if state is None and plan.carry_c_order:
        zeros = _problem.zeros if plan.traversal == ROWS else np.zeros  # rows of it are walked with each step
        return zeros(plan.lane_shape, plan.wide)
    carry = _problem.empty(plan.lane_shape, plan.wide, plan.carry_strides, large=0)
    with np.errstate(all="ignore"):
        carry[...] = 0 if state is None else state
    return carry


def summed_to(array, shape, dtype):
    """Return an array summed over what was broadcast from a shape."""
    extra = array.ndim - len(shape)
    stretched = tuple(k + extra for k, n in enumerate(shape) if n == 1 and array.shape[k + extra] != 1)
    with np.errstate(all="ignore"):
        total = array.sum(axis=(*range(extra), *stretched)) if extra or stretched else array
    return narrowed(total, dtype).reshape(shape)


def narrowed(array, dtype):
    """Return wide results in their dtype, infinite where they are too large for it."""
    if array.dtype == dtype:
        return np.asarray(array)  # a sum of everything is a scalar
    if array.dtype.kind == "c" and dtype.kind != "c":
        array = array.real
    with np.errstate(all="ignore"):
        return np.asarray(array, dtype)
