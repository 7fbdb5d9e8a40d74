"""Types of the public functions for type checkers: inputs give a result of their type."""

from typing import Any, Generic, Literal, NamedTuple, overload

from numpy.typing import NDArray

from .recurrence import _A, _F, _R, _Other, _Plain, _Tensor

__all__ = ["selective_scan", "selective_scan_vjp"]

class _Gradients(NamedTuple, Generic[_R]):
    u: _R
    delta: _R
    A: _R
    B: _R
    C: _R
    D: _R | None
    z: _R | None
    delta_bias: _R | None
    h0: _R | None

# mypy: disable-error-code="overload-overlap"
# fmt: off
@overload
def selective_scan(
    u: _Other, delta: Any, A: Any, B: Any, C: Any, D: Any = None, z: Any = None,
    delta_bias: Any = None, h0: Any = None, *, delta_softplus: bool = False, layout: str = "bdl",
    reverse: bool = False, lengths: Any = None, offsets: Any = None, resets: Any = None,
    return_state: Literal[False] = False, out: NDArray[Any] | None = None,
) -> NDArray[Any]: ...
@overload
def selective_scan(
    u: NDArray[_F], delta: Any, A: Any, B: Any, C: Any, D: Any = None, z: Any = None,
    delta_bias: Any = None, h0: Any = None, *, delta_softplus: bool = False, layout: str = "bdl",
    reverse: bool = False, lengths: Any = None, offsets: Any = None, resets: Any = None,
    return_state: Literal[False] = False, out: NDArray[Any] | None = None,
) -> NDArray[_F]: ...
@overload
def selective_scan(
    u: _Tensor[_R], delta: Any, A: Any, B: Any, C: Any, D: Any = None, z: Any = None,
    delta_bias: Any = None, h0: Any = None, *, delta_softplus: bool = False, layout: str = "bdl",
    reverse: bool = False, lengths: Any = None, offsets: Any = None, resets: Any = None,
    return_state: Literal[False] = False, out: _R | None = None,
) -> _R: ...
@overload
def selective_scan(
    u: _A, delta: Any, A: Any, B: Any, C: Any, D: Any = None, z: Any = None,
    delta_bias: Any = None, h0: Any = None, *, delta_softplus: bool = False, layout: str = "bdl",
    reverse: bool = False, lengths: Any = None, offsets: Any = None, resets: Any = None,
    return_state: Literal[False] = False, out: _A | None = None,
) -> _A: ...
@overload
def selective_scan(
    u: _Other, delta: Any, A: Any, B: Any, C: Any, D: Any = None, z: Any = None,
    delta_bias: Any = None, h0: Any = None, *, delta_softplus: bool = False, layout: str = "bdl",
    reverse: bool = False, lengths: Any = None, offsets: Any = None, resets: Any = None,
    return_state: bool, out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]: ...
@overload
def selective_scan(
    u: NDArray[_F], delta: Any, A: Any, B: Any, C: Any, D: Any = None, z: Any = None,
    delta_bias: Any = None, h0: Any = None, *, delta_softplus: bool = False, layout: str = "bdl",
    reverse: bool = False, lengths: Any = None, offsets: Any = None, resets: Any = None,
    return_state: bool, out: NDArray[Any] | None = None,
) -> tuple[NDArray[_F], NDArray[Any]]: ...
@overload
def selective_scan(
    u: _Tensor[_R], delta: Any, A: Any, B: Any, C: Any, D: Any = None, z: Any = None,
    delta_bias: Any = None, h0: Any = None, *, delta_softplus: bool = False, layout: str = "bdl",
    reverse: bool = False, lengths: Any = None, offsets: Any = None, resets: Any = None,
    return_state: bool, out: _R | None = None,
) -> tuple[_R, _R]: ...
@overload
def selective_scan(
    u: _A, delta: Any, A: Any, B: Any, C: Any, D: Any = None, z: Any = None,
    delta_bias: Any = None, h0: Any = None, *, delta_softplus: bool = False, layout: str = "bdl",
    reverse: bool = False, lengths: Any = None, offsets: Any = None, resets: Any = None,
    return_state: bool, out: _A | None = None,
) -> tuple[_A, _A]: ...
@overload
def selective_scan_vjp(
    grad_y: Any, u: _Plain, delta: Any, A: Any, B: Any, C: Any, D: Any = None, z: Any = None,
    delta_bias: Any = None, h0: Any = None, *, delta_softplus: bool = False, layout: str = "bdl",
    reverse: bool = False, lengths: Any = None, offsets: Any = None, resets: Any = None,
    grad_state: Any = None,
) -> _Gradients[NDArray[Any]]: ...
@overload
def selective_scan_vjp(
    grad_y: Any, u: _Tensor[_R], delta: Any, A: Any, B: Any, C: Any, D: Any = None, z: Any = None,
    delta_bias: Any = None, h0: Any = None, *, delta_softplus: bool = False, layout: str = "bdl",
    reverse: bool = False, lengths: Any = None, offsets: Any = None, resets: Any = None,
    grad_state: Any = None,
) -> _Gradients[_R]: ...
@overload
def selective_scan_vjp(
    grad_y: Any, u: _A, delta: Any, A: Any, B: Any, C: Any, D: Any = None, z: Any = None,
    delta_bias: Any = None, h0: Any = None, *, delta_softplus: bool = False, layout: str = "bdl",
    reverse: bool = False, lengths: Any = None, offsets: Any = None, resets: Any = None,
    grad_state: Any = None,
) -> _Gradients[_A]: ...
