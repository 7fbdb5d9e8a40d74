"""Where series begin anew: the flags of resets, and the step and its adjoint where one may be set.

A flag is read with its step, in reverse with the one after it in the direction of the scan: the state before a step
that has one is zero, and its coefficient is not used.
"""

from collections import namedtuple

import numpy as np

from ..._steps.recurrence import select
from . import device as gpu
from .operands import offset

Flags = namedtuple("Flags", "cuts series reverse")  # those of one series


@gpu.helper
def flag_of(flags, j):
    """Return the flag of a thread's step j, as `read_flags` keeps it."""
    return gpu.narrow((flags >> j) & 1)


def flags_of(cuda, zero, count, cuts):
    """Return the device functions that read flags of ``count`` steps, and those for states between steps."""
    has_resets = "resets" in cuts

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
    def behind(state, own, valid):
        """Return the state behind the last step, or what flows to it: in reverse none if that step begins anew."""
        if has_resets:
            if own.reverse != 0 and valid.start < valid.stop:
                at = offset(own.cuts.series, own.series) + (valid.stop - 1) * own.cuts.time
                state = select(gpu.load_int(own.cuts.resets, at) != 0, zero, state)
        return state

    @gpu.helper
    def passed(flag, state):
        """Return what of a state passes between a step and the one before it."""
        if has_resets:
            state = select(gpu.anew(flag) != 0, zero, state)
        return state

    return load_flags, read_flags, behind, passed


def borders(cuda, rule, zero, count, cuts):
    """Return the first three of these, and the step and its adjoint where a flag may be set."""
    step, adjoint, drops_gate = rule.step, rule.adjoint, "resets" in cuts and not rule.is_average
    load_flags, read_flags, behind, passed = flags_of(cuda, zero, count, cuts)

    @gpu.helper
    def advance(flag, state, gate, value):
        return step(passed(flag, state), passed(flag, gate) if drops_gate else gate, value)

    @gpu.helper
    def retreat(flag, arrived, gate, value, before):
        grad_a, grad_b, onward = adjoint(arrived, gate, value, passed(flag, before))
        return passed(flag, grad_a) if drops_gate else grad_a, grad_b, passed(flag, onward)

    return load_flags, read_flags, advance, retreat, behind
