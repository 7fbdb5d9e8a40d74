"""Rows of few series, whose number is known when a kernel is compiled: a row's step is one operation.

States stay in registers from step to step. What bounds that is the chain of operations from one state to the next, so
that a step of eight series takes as long as one of two. What they compute is `rows.plain`.
"""

from ..._plan.layout import ACCUMULATE, REDUCE, STORE
from ..._steps.recurrence import constant
from ..compiler.numba_internals import inlined
from ..vectors.scalars import load, prefetch, prefetch_for_write, store
from ..vectors.vectors import broadcast_row, load_row, row_total, store_row
from .operands import NO, Gradient, bytes_of, gradient_later, inputs_later, later
from .rules import a_is_broadcast, adjoint, b_is_broadcast, g_is_broadcast, h_is_broadcast, step


@inlined
def row_of(rule, is_broadcast, x, carry, far):
    """Return a row; or what there is for all of it. What is read later is prefetched."""
    prefetch(x.at, 0, bytes_of(x, far))
    return broadcast_row(rule, load(x.at, 0, carry)) if is_broadcast else load_row(rule, x.at, carry)


@inlined
def put(rule, x, value, far):
    """Write a row; what is written later is prefetched."""
    prefetch_for_write(x.at, 0, bytes_of(x, far))
    store_row(rule, x.at, value)


@inlined
def forward_row(rule, carry, a, b, h, steps, scan):
    now = load_row(rule, carry, carry)
    for t in range(steps):
        gate = row_of(rule, a_is_broadcast(rule), later(a, t), carry, scan.far)
        value = row_of(rule, b_is_broadcast(rule), later(b, t), carry, scan.far)
        now = step(rule, now, gate, value)
        put(rule, later(h, t), now, scan.far)
    store_row(rule, carry, now)


@inlined
def add(rule, x, value):
    """Add a row to where a gradient is summed."""
    sums = x.sums.at
    if x.mode == ACCUMULATE:
        store_row(rule, sums, load_row(rule, sums, sums) + value)
    elif x.mode == REDUCE:
        store(sums, 0, load(sums, 0, sums) + row_total(rule, value))


@inlined
def settle(rule, x, value, total, far):
    """Store a row of a gradient, or add it up; return ``total``, with it if all steps' are summed in one place."""
    if x.mode == STORE:
        put(rule, x.to, value, far)
    elif x.sums.step == 0:
        return total + value
    else:
        add(rule, x, value)
    return total


@inlined
def take_back(rule, x, before, r, to_a, to_b, totals, far):
    """Take a row of cotangents back by a step."""
    arrived = row_of(rule, g_is_broadcast(rule), x.g, x.first, far) + r
    gate = row_of(rule, a_is_broadcast(rule), x.a, x.first, far)
    value = row_of(rule, b_is_broadcast(rule), x.b, x.first, far)
    grad_a, grad_b, r = adjoint(rule, arrived, gate, value, before)
    return r, (settle(rule, to_a, grad_a, totals[0], far), settle(rule, to_b, grad_b, totals[1], far))


@inlined
def take_all_back(rule, carry, x, to_a, to_b, steps, has_first, far):
    """Take a row back by some steps, the last of which has the first states before it, or (0) not."""
    zero = broadcast_row(rule, constant(0.0, load(carry, 0, carry)))
    r, totals = load_row(rule, carry, carry), (zero, zero)
    for ago in range(steps - has_first):
        now, a_now, b_now = inputs_later(x, -ago), gradient_later(to_a, -ago), gradient_later(to_b, -ago)
        before = row_of(rule, h_is_broadcast(rule), now.h, carry, far)
        r, totals = take_back(rule, now, before, r, a_now, b_now, totals, far)
    if has_first != 0:
        now, a_now, b_now = inputs_later(x, 1 - steps), gradient_later(to_a, 1 - steps), gradient_later(to_b, 1 - steps)
        r, totals = take_back(rule, now, load_row(rule, x.first, carry), r, a_now, b_now, totals, far)
    store_row(rule, carry, r)
    if to_a.sums.step == 0:
        add(rule, to_a, totals[0])
    if to_b.sums.step == 0:
        add(rule, to_b, totals[1])


@inlined
def vjp_row(rule, carry, x, to_a, to_b, steps, has_first, scan):
    """Do so with the modes of most gradients known to the compiler."""
    b_stored = Gradient(to_b.to, to_b.sums, STORE, NO)
    if to_a.mode == STORE and to_b.mode == STORE:
        take_all_back(rule, carry, x, Gradient(to_a.to, to_a.sums, STORE, NO), b_stored, steps, has_first, scan.far)
    elif to_b.mode == STORE:
        take_all_back(rule, carry, x, to_a, b_stored, steps, has_first, scan.far)
    else:
        take_all_back(rule, carry, x, to_a, to_b, steps, has_first, scan.far)
