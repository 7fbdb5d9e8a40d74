"""Where series begin anew: the flags of resets, and the step and its adjoint where one may be set.

A flag is read with its step, in reverse with the one after it in the direction of the scan: the state before a step
that has one is zero, and its coefficient is not used.
"""

from collections import namedtuple

import numpy as np

from .._steps import select
from . import _device as gpu
from ._operands import offset

Flags = namedtuple("Flags", "cuts series reverse")  # those of one series


@gpu.helper
def flag_of(flags, j):
    """Return the flag of a thread's step j, as `read_flags` keeps it."""
    return gpu.narrow((flags >> j) & 1)


def borders(cuda, rule, zero, count, cuts):
    """Return the device functions for flags of ``count`` steps, and the step and its adjoint where one may be set."""
    step, adjoint, has_resets, drops_gate = rule.step, rule.adjoint, "resets" in cuts, not rule.is_average

    @gpu.helper
    def load_flags(own, t, way, low, high, flags):
        """Read the flags of steps from t on, one after the other (1) or before it (-1)."""
        if has_resets:
            at = offset(own.cuts.series, own.series)
            for u in range(count):
                flags[u] = 0
                if u >= low and u < high:
                    flags[u] = gpu.narrow(gpu.load_int(own.cuts.resets, at + (t + way * u) * own.cuts.time))

    @gpu.helper
    def read_flags(own, mine, low, high):
        """Return the flags of a thread's steps as bits, which take one register."""
        bits = gpu.narrow(0)
        if has_resets:
            flags = cuda.local.array(count, np.int32)
            load_flags(own, mine - own.reverse, 1, low + own.reverse, high, flags)
            for j in range(count):
                bits = gpu.narrow(bits | ((1 if flags[j] != 0 else 0) << j))
        return bits

    @gpu.helper
    def advance(flag, state, gate, value):
        if has_resets:
            begins = gpu.anew(flag) != 0
            state, gate = select(begins, zero, state), select(begins and drops_gate, zero, gate)
        return step(state, gate, value)

    @gpu.helper
    def retreat(flag, arrived, gate, value, before):
        if not has_resets:
            return adjoint(arrived, gate, value, before)
        begins = gpu.anew(flag) != 0
        grad_a, grad_b, onward = adjoint(arrived, gate, value, select(begins, zero, before))
        return select(begins and drops_gate, zero, grad_a), grad_b, select(begins, zero, onward)

    @gpu.helper
    def behind(state, own, valid):
        """Return the state behind the last step, or what flows to it: in reverse none if that step begins anew."""
        if has_resets:
            if own.reverse != 0 and valid.start < valid.stop:
                at = offset(own.cuts.series, own.series) + (valid.stop - 1) * own.cuts.time
                state = select(gpu.load_int(own.cuts.resets, at) != 0, zero, state)
        return state

    return load_flags, read_flags, advance, retreat, behind
