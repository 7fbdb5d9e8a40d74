"""What a kernel is told about its recurrence: the steps of `_steps` by name."""

from typing import NamedTuple

from .. import _steps


class Rule(NamedTuple):
    """One recurrence."""

    step: object
    deviation: object  # the step of deviations from an origin, and of weights: small ones need no care with 1 - f
    adjoint: object
    decay: object  # what a step multiplies the state by
    closed: float  # the first operand's value that leaves the state as it is, with 0 for the second
    is_average: bool  # a constant series stays constant, and a closed gate repeats the state to the bit


RULES = {
    "forget_wide": Rule(
        _steps.forget_wide, _steps.forget_wide, _steps.forget_adjoint, _steps.forget_decay, 0.0, True
    ),
    "forget_same": Rule(
        _steps.forget_same, _steps.forget_wide, _steps.forget_adjoint, _steps.forget_decay, 0.0, True
    ),
    "linear": Rule(_steps.linear, _steps.linear, _steps.linear_adjoint, _steps.linear_decay, 1.0, False),
}  # fmt: skip
