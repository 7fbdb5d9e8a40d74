"""Which step a kernel takes: the table from a `Rule`, fixed at compile time, to the functions of `_steps`."""

import numpy as np
from numba import njit, types
from numba.extending import overload, register_jitable

from .. import _pooling, _steps
from ._memory import INLINE

# Rule -> step, adjoint, decay, intake, and the two operands' values that leave the state as it is.
RULES = {
    "forget_wide": (_steps.forget_wide, _steps.forget_adjoint, _steps.forget_decay, _steps.forget_intake, 0.0, 0.0),
    "forget_same": (_steps.forget_same, _steps.forget_adjoint, _steps.forget_decay, _steps.forget_intake, 0.0, 0.0),
    "linear": (_steps.linear, _steps.linear_adjoint, _steps.linear_decay, _steps.linear_intake, 1.0, 0.0),
}
STEP, ADJOINT, DECAY, INTAKE = range(4)
_COMPILED = {function: njit(**INLINE)(function) for rule in RULES.values() for function in rule[:4]}


def step(rule, h, a, b):
    """Return the next state."""
    return RULES[rule][STEP](h, a, b)


def adjoint(rule, g, a, b, h):
    """Return the cotangents of both operands and of the state before."""
    return RULES[rule][ADJOINT](g, a, b, h)


def decay(rule, a):
    """Return what a step multiplies the state by."""
    return RULES[rule][DECAY](a)


def intake(rule, a, b):
    """Return what a step adds to the decayed state."""
    return RULES[rule][INTAKE](a, b)


def neutral(rule, like):
    """Return operands, in the type of ``like``, that leave the state as it is."""
    return _steps.constant(RULES[rule][4], like), _steps.constant(RULES[rule][5], like)


def is_average(rule):
    """Return whether a step keeps a constant series constant."""
    return rule != "linear"


def is_rounded(rule, like):
    """Return whether an average's products of decays, in the type of ``like``, are rounded as its values are."""
    return rule == "forget_same" or (rule == "forget_wide" and like.dtype == np.float32)


@overload(step, jit_options=INLINE)
def _step(rule, h, a, b):
    function = _COMPILED[RULES[rule.rule][STEP]]
    return lambda rule, h, a, b: function(h, a, b)


@overload(adjoint, jit_options=INLINE)
def _adjoint(rule, g, a, b, h):
    function = _COMPILED[RULES[rule.rule][ADJOINT]]
    return lambda rule, g, a, b, h: function(g, a, b, h)


@overload(decay, jit_options=INLINE)
def _decay(rule, a):
    function = _COMPILED[RULES[rule.rule][DECAY]]
    return lambda rule, a: function(a)


@overload(intake, jit_options=INLINE)
def _intake(rule, a, b):
    function = _COMPILED[RULES[rule.rule][INTAKE]]
    return lambda rule, a, b: function(a, b)


@overload(neutral, jit_options=INLINE)
def _neutral(rule, like):
    a, b = RULES[rule.rule][4:]
    return lambda rule, like: (_steps.constant(a, like), _steps.constant(b, like))


@overload(is_rounded, jit_options=INLINE)
def _is_rounded(rule, like):
    value = rule.rule == "forget_same" or (rule.rule == "forget_wide" and like == types.float32)
    return lambda rule, like: value


@overload(is_average, jit_options=INLINE)
def _is_average(rule):
    value = rule.rule != "linear"
    return lambda rule: value


# Functions that call nothing but primitives and each other, callable from kernels as they stand.
for _function in (
    _steps.forget_wide,
    _steps.forget_adjoint,
    _pooling.exponential,
    _pooling.sigmoid,
    _pooling.tanh,
    _pooling.pool,
    _pooling.pool_adjoint,
    _pooling.put_out,
    _pooling.put_out_adjoint,
):
    register_jitable(**INLINE, error_model="numpy")(_function)
