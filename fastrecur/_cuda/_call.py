"""A call with arrays on a GPU: its axis and flags are checked, and it is run."""

from .. import _checks
from . import _recurrence


def forward(family, names, a, b, h0, axis, reverse, lengths, return_state, out):
    """Run a recurrence; ``names`` are what the caller calls the operands."""
    axis, reverse = _checks.axis(axis), _checks.flag("reverse", reverse)
    return_state = _checks.flag("return_state", return_state)
    return _recurrence.forward(family, names, a, b, h0, axis, reverse, lengths, return_state, out)


def vjp(family, names, g, a, b, h, h0, axis, reverse, lengths, grad_state):
    """Run a recurrence's adjoint; ``names`` are what the caller calls ``g, a, b, h``."""
    axis, reverse = _checks.axis(axis), _checks.flag("reverse", reverse)
    return _recurrence.vjp(family, names, g, a, b, h, h0, axis, reverse, lengths, grad_state)
