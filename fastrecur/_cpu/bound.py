"""A plan's kernel in one direction, and calls of it: the one place where a kernel's arguments are put together."""

import functools
import math

import numpy as np

from .._arguments import arrays
from .._arguments.arrays import address
from .._plan import layout as at
from .._plan.fields import scan as blocks
from .._plan.fields.scan import BLOCK
from .._plan.layout import ACCUMULATE, CARRY, FLAGS, LENGTHS, N_STEPS, SUMS_A, SUMS_B, TO_A, TO_B, A, B, G, H
from .._plan.problem import PACKED, ROWS, SCAN, TRANSPOSE8
from . import cost
from .compiler import native
from .compiler.compile import kernel
from .machine import allocate, threads as _threads
from .machine.threads import ranges

_KERNELS = {
    ROWS: ("rows.forward", "rows.vjp"),
    TRANSPOSE8: ("transpose8.forward", "transpose8_back.vjp"),
    PACKED: ("packed.forward", "packed.vjp"),  # summaries, too
    SCAN: ("scan.forward", "scan_back.vjp"),
}

# Beside `layout`'s operands, with strides as the carry's: the states before all steps, of which a gradient's carry
# tells nothing; the decay products of a summary. And offsets, with the states of segments.
FIRST, PRODUCTS, BORDERS, STATES = FLAGS + 1, FLAGS + 2, FLAGS + 3, FLAGS + 4
# The order in which kernels take operands. Behind these stand the geometry and the part of the lanes.
ORDER = {
    "forward": (A, B, H, CARRY, LENGTHS, FLAGS, BORDERS, STATES),
    "vjp": (G, A, B, H, FIRST, CARRY, TO_A, TO_B, SUMS_A, SUMS_B, LENGTHS, FLAGS, BORDERS, STATES),
    "summary": (A, B, PRODUCTS, CARRY, LENGTHS, FLAGS, BORDERS, STATES),
    "summary back": (A, B, PRODUCTS, CARRY, LENGTHS, FLAGS, BORDERS, STATES),
}
IN_TIME = A, B, H, G, TO_A, TO_B, FLAGS  # operands that have a place for each step


class Bound:
    """A plan's kernel in one direction, and where its operands' scans start."""

    def __init__(self, plan, direction):
        self.plan, self.direction, self.order = plan, direction, ORDER[direction]
        traits = plan.narrow if cost.is_narrow(plan) else ()
        wide, elements = arrays.element(plan.wide), plan.elements
        if "summary" in direction:
            traits, elements = direction.split(), elements | {"h": wide}
        rule = " ".join([plan.rule, *plan.traits, *traits])
        name = _KERNELS[plan.traversal][direction == "vjp"]
        self.kernel = kernel(name, rule, wide, **elements)
        self.is_native = native.is_native([(self.kernel,)])

    def offset(self, operand, repeat=0):
        """Return how far from an operand's address a repetition of the scan starts, in bytes."""
        if operand == BORDERS:
            return 0
        k = CARRY if operand in (FIRST, PRODUCTS, STATES) else operand
        return self.plan.offsets[k] + self.plan.extra[repeat][k]


bind = functools.lru_cache(maxsize=4096)(Bound)  # in every direction of the plans that are kept


def parts_of(plan, count):
    """Return the last arguments of calls on so many parts of a plan's lanes."""
    if plan.traversal == SCAN:
        lanes = [(0, plan.lanes)] if cost.cuts_time(plan) else ranges(plan.lanes, count)
        return [(0, *part) for part in lanes]  # no summaries
    if plan.traversal != ROWS:
        unit = cost.lanes_together(plan)
        return [(unit * low, min(plan.lanes, unit * high)) for low, high in ranges(-(-plan.lanes // unit), count)]
    outer, middle, inner = plan.sizes
    if outer > 1:
        return [(*part, 0, middle, 0, inner) for part in ranges(outer, count)]
    if middle > 1:
        return [(0, 1, *part, 0, inner) for part in ranges(middle, count)]
    units = ranges(-(-inner // 64), count)
    return [(0, 1, 0, 1, 64 * low, min(inner, 64 * high)) for low, high in units]


def geometry_of(plan, way):
    """Return a plan's geometry with what depends on how it is run."""
    geometry = plan.geometry.copy()
    geometry[at.STREAMING], geometry[at.PREFETCH] = way.streaming, way.prefetch
    geometry[at.PHASE], geometry[at.LAST_BLOCK] = blocks.ALL, plan.steps // BLOCK
    if way.sum_steps:
        sum_bytes = plan.lanes * plan.wide.itemsize
        geometry[at.A_MODE], geometry[at.SUM_STEPS], geometry[at.SUM_BYTES] = ACCUMULATE, way.sum_steps, sum_bytes
    if way.sums and cost.cuts_time(plan):
        geometry[blocks.SUMS : blocks.SUMS + 3] = way.sums, *sum_bytes_of(plan)
    return geometry


def sum_bytes_of(plan):
    """Return how many bytes a partial sum of each operand's gradient has, 0 if it is none."""
    return [
        0 if gradient is None or gradient[2] is not None else math.prod(gradient[0]) * plan.wide.itemsize
        for gradient in plan.gradients
    ]


class Calls:
    """Calls of a bound kernel of which all is known but addresses; one thread does a ``chain`` of so many in order."""

    def __init__(self, bound, chain=1):
        self.bound, self._chain, self._calls, self._keep, self._table = bound, chain, [], [], None

    def add(self, geometry, part, moved=None, repeat=0, steps=None):
        """Add a call on a part of the lanes, or on a range of ``steps``; operands are ``moved`` by so many bytes."""
        bound, plan, moved = self.bound, self.bound.plan, dict(moved or {})
        if steps is not None:
            first, stop = steps
            geometry, lengths = geometry.copy(), np.array([stop - first], np.int64)
            geometry[N_STEPS], geometry[at.FIRST_STEP] = stop - first, first
            moved[LENGTHS] = address(lengths)
            for k in IN_TIME:
                moved[k] = moved.get(k, 0) + plan.distance(k, first)
            self._keep.append(lengths)
        self._keep.append(geometry)
        places = [bound.offset(k, repeat) + moved.get(k, 0) for k in bound.order]
        self._calls.append((bound.kernel, None, *places, address(geometry), *part))

    def run(self, team, threads, addresses):
        """Run the calls on threads, given what is added to the first arguments: operands' addresses, in their order."""
        if not self.bound.is_native or (threads == 1 and team.run is _threads.run):
            self.run_here(addresses)
            return
        if self._table is None:
            self._table = native.table(self._calls, self._chain)
        team.run(native.with_addresses(self._table, addresses), threads)

    def run_here(self, addresses, which=slice(None)):
        """Run the calls, or some of them, on this thread."""
        for call, rule, *arguments in self._calls[which]:
            places = [own + given for own, given in zip(arguments, addresses, strict=False)]
            call(rule, *places, *arguments[len(places) :])


def is_short(plan):
    """Return whether one call of one compiled kernel on this thread is all there is to a plan."""
    is_scan = plan.traversal in (SCAN, "empty")
    if is_scan or len(plan.extra) > 1 or cost.moved_bytes(plan) >= cost.SERIAL_BYTES:
        return False
    return bind(plan, "vjp" if plan.gradients else "forward").is_native


def short_call(plan, direction, given):
    """Return what calls a short plan's kernel, of nothing but what is ``given``: arrays, floats of float64, addresses.

    A state that is not given is zeros. What the kernel reads beside what is given lives as long as what is returned.
    """
    bound = bind(plan, direction)
    zeros = allocate.zero_states(plan)  # a first state; and a valid place for what is not read or written
    words = -(-plan.state_bytes // 8)
    makes_states = CARRY not in given and words > native.MOST_SCRATCH
    if makes_states:
        given = *given, CARRY
    others = {LENGTHS: address(plan.full_lengths)}
    places = [bound.offset(k) if k in given else others.get(k, address(zeros)) for k in bound.order]
    arguments = [0, *places, address(plan.geometry), *parts_of(plan, 1)[0]]
    where = [1 + bound.order.index(k) for k in given]
    scratch = (0, 0) if CARRY in given else (1 + bound.order.index(CARRY), words)  # none, in the rule's place
    releases, owners = cost.moved_bytes(plan) >= cost.UNLOCKED_BYTES, (plan.full_lengths, plan.geometry, zeros)
    call = native.prepared(bound.kernel, arguments, where, *scratch, releases, owners)
    if not makes_states:
        return call
    shape, wide, fresh = plan.lane_shape, plan.wide, np.zeros

    def with_states(*operands):
        call(*operands, fresh(shape, wide))

    return with_states
