"""A plan's kernel in one direction, and calls of it: the one place where a kernel's arguments are put together."""

import numpy as np

from . import _arrays, _cost
from ._arrays import address
from ._cpu import _narrow, _native, _octets, _panels, _rows, _series, _summaries, _tiles
from ._cpu._compile import kernel
from ._layout import CARRY, LENGTHS, N_STEPS, SUMS_A, SUMS_B, TO_A, TO_B, A, B, G, H
from ._problem import OCTETS, PANELS, ROWS, SERIES, TILES

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
    (SERIES, "forward"): _series.forward,
    (SERIES, "vjp"): _series.vjp,
    (ROWS, "summary"): _summaries.rows,
    (ROWS, "summary back"): _summaries.rows_back,
    (TILES, "summary"): _summaries.tiles,
    (TILES, "summary back"): _summaries.tiles_back,
}

# Beside `_layout`'s operands, with strides as the carry's: the states before all steps, of which a gradient's carry
# tells nothing; the decay products of a summary.
FIRST, PRODUCTS = SUMS_B + 1, SUMS_B + 2
# The order in which kernels take operands. Behind these stand the geometry and the part of the lanes.
ORDER = {
    "forward": (A, B, H, CARRY, LENGTHS),
    "vjp": (G, A, B, H, FIRST, CARRY, TO_A, TO_B, SUMS_A, SUMS_B, LENGTHS),
    "summary": (A, B, CARRY, PRODUCTS, LENGTHS),
    "summary back": (A, B, CARRY, PRODUCTS, LENGTHS),
}
IN_TIME = A, B, H, G, TO_A, TO_B  # operands that have a place for each step


class Bound:
    """A plan's kernel in one direction, and where its operands' scans start."""

    def __init__(self, plan, direction):
        self.plan, self.direction, self.order = plan, direction, ORDER[direction]
        kind, traits = ("narrow", plan.narrow) if _cost.is_narrow(plan) else (plan.traversal, ())
        rule = " ".join([plan.rule, *plan.traits, *traits])
        self.kernel = kernel(_KERNELS[kind, direction], rule, _arrays.element(plan.wide), **plan.elements)
        self.is_native = _native.is_native([(self.kernel,)])

    def offset(self, operand, repeat=0):
        """Return how far from an operand's address a repetition of the scan starts, in bytes."""
        k = CARRY if operand in (FIRST, PRODUCTS) else operand
        return self.plan.offsets[k] + self.plan.extra[repeat][k]

    def whole_part(self):
        """Return the last arguments of a call on all lanes, of any traversal but a scan."""
        outer, middle, inner = self.plan.sizes
        return (0, outer, 0, middle, 0, inner) if self.plan.traversal == ROWS else (0, self.plan.lanes)


def bind(plan, direction):
    """Return a plan's bound kernel, made at the first call."""
    bound = plan.calls.get(direction)
    if bound is None:
        bound = plan.calls[direction] = Bound(plan, direction)
    return bound


def first_step(plan, shift):
    """Return with which step a scan starts whose rows of results are shifted by so many lanes, up in memory."""
    return int(shift > 0 and plan.time_strides[H] < 0)


class Calls:
    """Calls of a bound kernel of which all is known but addresses; so many of a ``chain`` are done one by one."""

    def __init__(self, bound, chain=1):
        self.bound, self._chain, self._calls, self._keep, self._tables = bound, chain, [], [], None

    def __len__(self):
        return len(self._calls)

    def add(self, geometry, part, moved=None, repeat=0, steps=None, lanes=0):
        """Add a call on a part of the lanes.

        ``moved`` says how far operands' addresses are moved, in bytes. The call may be about a range of ``steps`` only,
        and find its first lane so many ``lanes`` further on.
        """
        bound, plan, moved = self.bound, self.bound.plan, dict(moved or {})
        if steps is not None:
            first, stop = steps
            geometry, lengths = geometry.copy(), np.array([stop - first], np.int64)
            geometry[N_STEPS] = stop - first
            moved[LENGTHS] = address(lengths)
            for k in IN_TIME:
                moved[k] = moved.get(k, 0) + plan.distance(k, first, lanes)
            self._keep.append(lengths)
        self._keep.append(geometry)
        places = [bound.offset(k, repeat) + moved.get(k, 0) for k in bound.order]
        self._calls.append((bound.kernel, None, *places, address(geometry), *part))

    def run(self, team, threads, addresses):
        """Run the calls on threads, given what is added to the first arguments: operands' addresses, in their order."""
        if not self.bound.is_native:
            self.run_here(addresses)
            return
        if self._tables is None:
            # To be removed once `_native.table` takes chains: then there is one table.
            self._tables = [_native.table(self._calls[k :: self._chain]) for k in range(self._chain)]
        for table in self._tables:
            team.run(_native.with_addresses(table, addresses), threads)

    def run_here(self, addresses, which=slice(None)):
        """Run the calls, or some of them, on this thread."""
        for call, rule, *arguments in self._calls[which]:
            places = [own + given for own, given in zip(arguments, addresses, strict=False)]
            call(rule, *places, *arguments[len(places) :])


class ShortCall:
    """A short plan's kernel, of nothing but the addresses of ``given``; a state that is not given is zeros."""

    def __init__(self, plan, direction, given):
        bound = bind(plan, direction)
        zeros = plan.zeros()  # a first state; and a valid place for what is not read or written
        places = [bound.offset(k) if k in given else address(zeros) for k in bound.order[:-1]]
        arguments = [0, *places, address(plan.full_lengths), address(plan.geometry), *bound.whole_part()]
        where, carry = [1 + bound.order.index(k) for k in given], 1 + bound.order.index(CARRY)
        self._keep = plan, zeros
        words = -(-plan.lanes * plan.wide.itemsize // 8)
        releases = _cost.moved_bytes(plan) >= _cost.UNLOCKED_BYTES
        has_scratch = bound.is_native and words <= _native.MOST_SCRATCH and CARRY not in given
        needs_states = not has_scratch and CARRY not in given
        if needs_states:
            arguments[carry], where = 0, [*where, carry]
        if bound.is_native:
            scratch = (carry, words) if has_scratch else (0, 0)  # none, in the rule's place
            self._prepared = _native.Prepared(bound.kernel, arguments, where, *scratch, releases)
            call = self._prepared.call
        else:
            call = _interpreted(bound.kernel, arguments, where)
        shape, wide, fresh = plan.lane_shape, plan.wide, np.zeros

        def with_states(*addresses):
            states = fresh(shape, wide)
            call(*addresses, address(states))

        self.call = with_states if needs_states else call


def _interpreted(kernel, arguments, where):
    """Return what a prepared call does, of a kernel that is not compiled."""

    def call(*addresses):
        own = [None, *arguments[1:]]
        for place, given in zip(where, addresses, strict=True):
            own[place] += given
        kernel(*own)

    return call
