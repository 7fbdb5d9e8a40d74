"""The public functions: the two recurrences and their adjoints."""

from . import _call
from ._problem import FORGET, LINEAR

_FORGET, _FORGET_VJP = ("f", "x", "h0"), ("grad_h", "f", "x", "h")
_LINEAR, _LINEAR_VJP = ("a", "b", "h0"), ("grad_h", "a", "b", "h")


def forget_mult(f, x, h0=None, *, axis=0, reverse=False, lengths=None, return_state=False, out=None):
    return _call.forward(FORGET, _FORGET, f, x, h0, axis, reverse, lengths, return_state, out)


def forget_mult_vjp(grad_h, f, x, h, h0=None, *, axis=0, reverse=False, lengths=None, grad_state=None):
    return _call.vjp(FORGET, _FORGET_VJP, grad_h, f, x, h, h0, axis, reverse, lengths, grad_state)


def linear_recurrence(a, b, h0=None, *, axis=0, reverse=False, lengths=None, return_state=False, out=None):
    return _call.forward(LINEAR, _LINEAR, a, b, h0, axis, reverse, lengths, return_state, out)


def linear_recurrence_vjp(grad_h, a, b, h, h0=None, *, axis=0, reverse=False, lengths=None, grad_state=None):
    return _call.vjp(LINEAR, _LINEAR_VJP, grad_h, a, b, h, h0, axis, reverse, lengths, grad_state)
