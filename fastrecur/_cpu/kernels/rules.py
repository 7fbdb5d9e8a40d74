"""Which step a kernel takes: the table from a `Rule`, fixed at compile time, to the functions of `_steps`.

A rule's name may be followed by words for the traits that hold.
"""

import numpy as np
from numba import types
from numba.extending import overload, register_jitable

from ..._steps import pooling, recurrence
from ..compiler.numba_internals import HELPER, INLINE, function_of, inlined
from ..vectors.arithmetic import compiled_truth, implement
from ..vectors.scalars import load, maximum

# Rule -> step, adjoint, decay, input.
RULES = {
    "forget_wide": (
        recurrence.forget_wide,
        recurrence.forget_adjoint,
        recurrence.forget_decay,
        recurrence.forget_input,
    ),
    "forget_same": (
        recurrence.forget_same,
        recurrence.forget_adjoint,
        recurrence.forget_decay,
        recurrence.forget_input,
    ),
    "linear": (recurrence.linear, recurrence.linear_adjoint, recurrence.linear_decay, recurrence.linear_input),
}
STEP, ADJOINT, DECAY, INPUT = range(4)
_COMPILED = {function: inlined(function) for rule in RULES.values() for function in rule}


def trait(word):
    """Return a function that says whether a rule has a trait, fixed when a kernel is compiled."""

    def has(rule):
        return word in rule.split()

    implement(has, compiled_truth(lambda rule: word in rule.rule.split()))
    return has


def choice(word, yes, no, options=HELPER):
    """Return a function that calls one of two, by a trait of the rule, its first argument, or by the rule's name.

    The other one need not be compiled, as it would in a branch. ``options`` are the compiler's: `HELPER` or `INLINE`.
    Each may be a choice itself.
    """

    def chosen(rule):
        one = yes if word in rule.split() else no
        return one.chosen(rule) if hasattr(one, "chosen") else one

    def call(rule, carry, *arguments):
        return chosen(rule)(rule, carry, *arguments)

    @overload(call, jit_options=options, strict=False)  # the chosen one has names for its arguments
    def _call(rule, carry, *arguments):
        return function_of(chosen(rule.rule))

    call.chosen = chosen
    return call


def by_borders(states, offsets, flags, options=HELPER):
    """Return a `choice`: one for offsets with states of segments, one for offsets without, one for flags or none."""
    return choice("segment_states", states, choice("offsets", offsets, flags), options)


def _name(rule):
    return rule.split()[0]


a_is_time_invariant = trait("time_invariant_a")
is_descending = trait("descending")  # scan order goes down through memory in all operands
# Of series that are neighbours in memory: their number is known; one value serves a row,
is_narrow = trait("narrow")
a_is_broadcast, b_is_broadcast = trait("broadcast_a"), trait("broadcast_b")
g_is_broadcast, h_is_broadcast = trait("broadcast_g"), trait("broadcast_h")
flag_is_broadcast = trait("broadcast_flags")  # also of 8 series whose blocks are transposed
flags_are_late = trait("late_flags")  # a step asks for the flag of the one before it, a series' first for none
b_is_reduced = trait("reduce_b")  # and b's gradient is summed over it


# By the number of arguments, since Numba takes three times as long to compile a function of any number.
_BEHIND_A_RULE = (
    lambda function: lambda rule, a: function(a),
    lambda function: lambda rule, a, b: function(a, b),
    lambda function: lambda rule, h, a, b: function(h, a, b),
    lambda function: lambda rule, g, a, b, h: function(g, a, b, h),
)


def _by_rule(which):
    """Return a function that calls one of a rule's functions with its arguments behind the rule."""

    def call(rule, *arguments):
        return RULES[_name(rule)][which](*arguments)

    @overload(call, jit_options=INLINE, strict=False)
    def _call(rule, *arguments):
        function = _COMPILED[RULES[_name(rule.rule)][which]]
        return _BEHIND_A_RULE[len(arguments) - 1](function)

    return call


step = _by_rule(STEP)  # of (h, a, b): the next state
adjoint = _by_rule(ADJOINT)  # of (g, a, b, h): the cotangents of both operands and of the state before
decay = _by_rule(DECAY)  # of (a): what a step multiplies the state by
step_input = _by_rule(INPUT)  # of (a, b): what a step adds to the decayed state


def is_average(rule):
    """Return whether a step keeps a constant series constant."""
    return _name(rule) != "linear"


def _is_rounded_in(rule, is_single):
    return _name(rule) == "forget_same" or (is_average(rule) and is_single)


def is_rounded(rule, like):
    """Return whether an average's products of decays, in the type of ``like``, are rounded as its values are."""
    return _is_rounded_in(rule, like.dtype == np.float32)


implement(is_rounded, compiled_truth(lambda rule, like: _is_rounded_in(rule.rule, like == types.float32)))
implement(is_average, compiled_truth(lambda rule: is_average(rule.rule)))


is_flagged = trait("flagged")


@inlined
def flag_step(rule, t):
    """Return the step whose flag step t asks for; late ones of a series' first step are not to be used."""
    return maximum(t - 1, 0) if flags_are_late(rule) else t


@inlined
def begins_anew(flags, k, carry):
    return load(flags, k, carry) != recurrence.constant(0.0, load(carry, 0, carry))


@inlined
def enter(rule, fresh, state, gate):
    """Where a series begins anew, the state before a step is zero, and at resets a coefficient of it is not used."""
    zero = recurrence.constant(0.0, state)
    if is_flagged(rule):
        return recurrence.select(fresh, zero, state), gate if is_average(rule) else recurrence.select(fresh, zero, gate)
    return state, gate


@inlined
def advance(rule, fresh, before, gate, value):
    """Return the state after a step."""
    before, gate = enter(rule, fresh, before, gate)
    return step(rule, before, gate, value)


@inlined
def retreat(rule, fresh, arrived, gate, value, before):
    """Return a step's gradients, and what flows on from it: not to a state or a coefficient that is not used."""
    before, gate = enter(rule, fresh, before, gate)
    grad_a, grad_b, r = adjoint(rule, arrived, gate, value, before)
    zero = recurrence.constant(0.0, r)
    if is_flagged(rule):
        grad_a = grad_a if is_average(rule) else recurrence.select(fresh, zero, grad_a)
        r = recurrence.select(fresh, zero, r)
    return grad_a, grad_b, r


@inlined
def kept(rule, fresh, gate):
    """Return what a step multiplies the state by: zero where a series begins anew."""
    own = decay(rule, gate)
    return recurrence.select(fresh, recurrence.constant(0.0, gate), own) if is_flagged(rule) else own


# Functions that call nothing but primitives and each other, callable from kernels as they stand.
for _function in (
    recurrence.forget_wide,
    recurrence.is_finite,
    recurrence.forget_adjoint,
    pooling.exponential,
    pooling.exponential2,
    pooling.sigmoid,
    pooling.tanh,
    pooling.pool,
    pooling.pool_adjoint,
    pooling.put_out,
    pooling.put_out_adjoint,
):
    register_jitable(**INLINE)(_function)
