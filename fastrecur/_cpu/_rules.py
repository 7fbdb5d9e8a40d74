"""Which step a kernel takes: the table from a `Rule`, fixed at compile time, to the functions of `_steps`."""

from numba import njit
from numba.extending import overload

from .. import _steps
from ._memory import INLINE

# Rule -> step, adjoint, decay, and the two operands' values that leave the state as it is.
RULES = {
    "forget_wide": (_steps.forget_wide, _steps.forget_adjoint, _steps.forget_decay, 0.0, 0.0),
    "forget_same": (_steps.forget_same, _steps.forget_adjoint, _steps.forget_decay, 0.0, 0.0),
    "linear": (_steps.linear, _steps.linear_adjoint, _steps.linear_decay, 1.0, 0.0),
}
_COMPILED = {function: njit(**INLINE)(function) for rule in RULES.values() for function in rule[:3]}


def step(rule, h, a, b):
    """Return the next state."""
    return RULES[rule][0](h, a, b)


def adjoint(rule, g, a, b, h):
    """Return the cotangents of both operands and of the state before."""
    return RULES[rule][1](g, a, b, h)


def decay(rule, a):
    """Return what a step multiplies the state by."""
    return RULES[rule][2](a)


def neutral(rule, like):
    """Return operands, in the type of ``like``, that leave the state as it is."""
    return _steps.constant(RULES[rule][3], like), _steps.constant(RULES[rule][4], like)


def is_average(rule):
    """Return whether a step keeps a constant series constant, so that a series' own value is its best origin."""
    return rule != "linear"


def is_rounded(rule):
    """Return whether the carry is no wider than the data, so that ``1 - f`` is rounded."""
    return rule == "forget_same"


@overload(step, jit_options=INLINE)
def _step(rule, h, a, b):
    function = _COMPILED[RULES[rule.rule][0]]
    return lambda rule, h, a, b: function(h, a, b)


@overload(adjoint, jit_options=INLINE)
def _adjoint(rule, g, a, b, h):
    function = _COMPILED[RULES[rule.rule][1]]
    return lambda rule, g, a, b, h: function(g, a, b, h)


@overload(decay, jit_options=INLINE)
def _decay(rule, a):
    function = _COMPILED[RULES[rule.rule][2]]
    return lambda rule, a: function(a)


@overload(neutral, jit_options=INLINE)
def _neutral(rule, like):
    a, b = RULES[rule.rule][3:]
    return lambda rule, like: (_steps.constant(a, like), _steps.constant(b, like))


@overload(is_average, jit_options=INLINE)
def _is_average(rule):
    value = rule.rule != "linear"
    return lambda rule: value


@overload(is_rounded, jit_options=INLINE)
def _is_rounded(rule):
    value = rule.rule == "forget_same"
    return lambda rule: value
