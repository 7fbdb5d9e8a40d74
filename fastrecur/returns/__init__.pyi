"""Types of the public functions for type checkers: rewards give a result of their type."""

from typing import Any, overload

from numpy.typing import NDArray

from ..recurrence import _Data, _Plain

__all__ = ["discounted_returns", "gae", "lambda_returns", "vtrace"]

# fmt: off
@overload
def discounted_returns(
    rewards: _Plain, gamma: Any, done: Any = None, *, bootstrap: Any = None, mask: Any = None, axis: int = 0,
) -> NDArray[Any]: ...
@overload
def discounted_returns(
    rewards: _Data, gamma: Any, done: Any = None, *, bootstrap: Any = None, mask: Any = None, axis: int = 0,
) -> _Data: ...
@overload
def gae(
    rewards: _Plain, values: Any, gamma: Any, lam: Any, terminated: Any, truncated: Any = None, *,
    next_values: Any = None, mask: Any = None, axis: int = 0,
) -> NDArray[Any]: ...
@overload
def gae(
    rewards: _Data, values: Any, gamma: Any, lam: Any, terminated: Any, truncated: Any = None, *,
    next_values: Any = None, mask: Any = None, axis: int = 0,
) -> _Data: ...
@overload
def lambda_returns(
    rewards: _Plain, values: Any, gamma: Any, lam: Any, terminated: Any, truncated: Any = None, *,
    next_values: Any = None, mask: Any = None, axis: int = 0,
) -> NDArray[Any]: ...
@overload
def lambda_returns(
    rewards: _Data, values: Any, gamma: Any, lam: Any, terminated: Any, truncated: Any = None, *,
    next_values: Any = None, mask: Any = None, axis: int = 0,
) -> _Data: ...
@overload
def vtrace(
    log_rhos: Any, rewards: _Plain, values: Any, gamma: Any, terminated: Any, truncated: Any = None, *,
    lam: Any = 1.0, rho_clip: float = 1.0, c_clip: float = 1.0, pg_rho_clip: float = 1.0, next_values: Any = None,
    mask: Any = None, axis: int = 0,
) -> tuple[NDArray[Any], NDArray[Any]]: ...
@overload
def vtrace(
    log_rhos: Any, rewards: _Data, values: Any, gamma: Any, terminated: Any, truncated: Any = None, *,
    lam: Any = 1.0, rho_clip: float = 1.0, c_clip: float = 1.0, pg_rho_clip: float = 1.0, next_values: Any = None,
    mask: Any = None, axis: int = 0,
) -> tuple[_Data, _Data]: ...
