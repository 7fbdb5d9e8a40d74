"""Types of the public functions for type checkers: a signal gives a result of its type."""

from typing import Any, Literal, overload

from numpy.typing import NDArray

from ..recurrence import _A, _F, _R, _Other, _Plain, _Tensor

__all__ = ["allpole", "allpole_vjp", "follow", "lfilter", "sosfilt", "sosfilt_vjp", "sosfiltfilt"]

# mypy: disable-error-code="overload-overlap"
# With `zi`, or where states are asked for, the last ones are returned, too.
# fmt: off
@overload
def allpole(
    a: Any, x: _Other, axis: int = -1, zi: None = None,
    *, reverse: bool = False, lengths: Any = None, return_state: Literal[False] = False,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]: ...
@overload
def allpole(
    a: Any, x: NDArray[_F], axis: int = -1, zi: None = None,
    *, reverse: bool = False, lengths: Any = None, return_state: Literal[False] = False,
    out: NDArray[Any] | None = None,
) -> NDArray[_F]: ...
@overload
def allpole(
    a: Any, x: _Tensor[_R], axis: int = -1, zi: None = None,
    *, reverse: bool = False, lengths: Any = None, return_state: Literal[False] = False,
    out: _R | None = None,
) -> _R: ...
@overload
def allpole(
    a: Any, x: _A, axis: int = -1, zi: None = None,
    *, reverse: bool = False, lengths: Any = None, return_state: Literal[False] = False,
    out: _A | None = None,
) -> _A: ...
@overload
def allpole(
    a: Any, x: _Other, axis: int = -1, zi: Any = None,
    *, reverse: bool = False, lengths: Any = None, return_state: bool = False,
    out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]: ...
@overload
def allpole(
    a: Any, x: NDArray[_F], axis: int = -1, zi: Any = None,
    *, reverse: bool = False, lengths: Any = None, return_state: bool = False,
    out: NDArray[Any] | None = None,
) -> tuple[NDArray[_F], NDArray[Any]]: ...
@overload
def allpole(
    a: Any, x: _Tensor[_R], axis: int = -1, zi: Any = None,
    *, reverse: bool = False, lengths: Any = None, return_state: bool = False,
    out: _R | None = None,
) -> tuple[_R, _R]: ...
@overload
def allpole(
    a: Any, x: _A, axis: int = -1, zi: Any = None,
    *, reverse: bool = False, lengths: Any = None, return_state: bool = False,
    out: _A | None = None,
) -> tuple[_A, _A]: ...
@overload
def allpole_vjp(
    grad_y: Any, a: Any, x: _Plain, y: Any, zi: None = None,
    *, axis: int = -1, reverse: bool = False, lengths: Any = None, grad_zf: Any = None,
) -> tuple[NDArray[Any], NDArray[Any], None]: ...
@overload
def allpole_vjp(
    grad_y: Any, a: Any, x: _Plain, y: Any, zi: Any,
    *, axis: int = -1, reverse: bool = False, lengths: Any = None, grad_zf: Any = None,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]: ...
@overload
def allpole_vjp(
    grad_y: Any, a: Any, x: _Tensor[_R], y: Any, zi: None = None,
    *, axis: int = -1, reverse: bool = False, lengths: Any = None, grad_zf: Any = None,
) -> tuple[_R, _R, None]: ...
@overload
def allpole_vjp(
    grad_y: Any, a: Any, x: _Tensor[_R], y: Any, zi: Any,
    *, axis: int = -1, reverse: bool = False, lengths: Any = None, grad_zf: Any = None,
) -> tuple[_R, _R, _R]: ...
@overload
def allpole_vjp(
    grad_y: Any, a: Any, x: _A, y: Any, zi: None = None,
    *, axis: int = -1, reverse: bool = False, lengths: Any = None, grad_zf: Any = None,
) -> tuple[_A, _A, None]: ...
@overload
def allpole_vjp(
    grad_y: Any, a: Any, x: _A, y: Any, zi: Any,
    *, axis: int = -1, reverse: bool = False, lengths: Any = None, grad_zf: Any = None,
) -> tuple[_A, _A, _A]: ...
@overload
def follow(
    x: _Other, attack: Any, release: Any, axis: int = -1, zi: None = None,
    *, return_state: Literal[False] = False,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]: ...
@overload
def follow(
    x: NDArray[_F], attack: Any, release: Any, axis: int = -1, zi: None = None,
    *, return_state: Literal[False] = False,
    out: NDArray[Any] | None = None,
) -> NDArray[_F]: ...
@overload
def follow(
    x: _Tensor[_R], attack: Any, release: Any, axis: int = -1, zi: None = None,
    *, return_state: Literal[False] = False,
    out: _R | None = None,
) -> _R: ...
@overload
def follow(
    x: _A, attack: Any, release: Any, axis: int = -1, zi: None = None,
    *, return_state: Literal[False] = False,
    out: _A | None = None,
) -> _A: ...
@overload
def follow(
    x: _Other, attack: Any, release: Any, axis: int = -1, zi: Any = None,
    *, return_state: bool = False,
    out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]: ...
@overload
def follow(
    x: NDArray[_F], attack: Any, release: Any, axis: int = -1, zi: Any = None,
    *, return_state: bool = False,
    out: NDArray[Any] | None = None,
) -> tuple[NDArray[_F], NDArray[Any]]: ...
@overload
def follow(
    x: _Tensor[_R], attack: Any, release: Any, axis: int = -1, zi: Any = None,
    *, return_state: bool = False,
    out: _R | None = None,
) -> tuple[_R, _R]: ...
@overload
def follow(
    x: _A, attack: Any, release: Any, axis: int = -1, zi: Any = None,
    *, return_state: bool = False,
    out: _A | None = None,
) -> tuple[_A, _A]: ...
@overload
def lfilter(
    b: Any, a: Any, x: _Other, axis: int = -1, zi: None = None,
    *, reverse: bool = False, lengths: Any = None, return_state: Literal[False] = False,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]: ...
@overload
def lfilter(
    b: Any, a: Any, x: NDArray[_F], axis: int = -1, zi: None = None,
    *, reverse: bool = False, lengths: Any = None, return_state: Literal[False] = False,
    out: NDArray[Any] | None = None,
) -> NDArray[_F]: ...
@overload
def lfilter(
    b: Any, a: Any, x: _Tensor[_R], axis: int = -1, zi: None = None,
    *, reverse: bool = False, lengths: Any = None, return_state: Literal[False] = False,
    out: _R | None = None,
) -> _R: ...
@overload
def lfilter(
    b: Any, a: Any, x: _A, axis: int = -1, zi: None = None,
    *, reverse: bool = False, lengths: Any = None, return_state: Literal[False] = False,
    out: _A | None = None,
) -> _A: ...
@overload
def lfilter(
    b: Any, a: Any, x: _Other, axis: int = -1, zi: Any = None,
    *, reverse: bool = False, lengths: Any = None, return_state: bool = False,
    out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]: ...
@overload
def lfilter(
    b: Any, a: Any, x: NDArray[_F], axis: int = -1, zi: Any = None,
    *, reverse: bool = False, lengths: Any = None, return_state: bool = False,
    out: NDArray[Any] | None = None,
) -> tuple[NDArray[_F], NDArray[Any]]: ...
@overload
def lfilter(
    b: Any, a: Any, x: _Tensor[_R], axis: int = -1, zi: Any = None,
    *, reverse: bool = False, lengths: Any = None, return_state: bool = False,
    out: _R | None = None,
) -> tuple[_R, _R]: ...
@overload
def lfilter(
    b: Any, a: Any, x: _A, axis: int = -1, zi: Any = None,
    *, reverse: bool = False, lengths: Any = None, return_state: bool = False,
    out: _A | None = None,
) -> tuple[_A, _A]: ...
@overload
def sosfilt(
    sos: Any, x: _Other, axis: int = -1, zi: None = None,
    *, reverse: bool = False, lengths: Any = None, return_state: Literal[False] = False,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]: ...
@overload
def sosfilt(
    sos: Any, x: NDArray[_F], axis: int = -1, zi: None = None,
    *, reverse: bool = False, lengths: Any = None, return_state: Literal[False] = False,
    out: NDArray[Any] | None = None,
) -> NDArray[_F]: ...
@overload
def sosfilt(
    sos: Any, x: _Tensor[_R], axis: int = -1, zi: None = None,
    *, reverse: bool = False, lengths: Any = None, return_state: Literal[False] = False,
    out: _R | None = None,
) -> _R: ...
@overload
def sosfilt(
    sos: Any, x: _A, axis: int = -1, zi: None = None,
    *, reverse: bool = False, lengths: Any = None, return_state: Literal[False] = False,
    out: _A | None = None,
) -> _A: ...
@overload
def sosfilt(
    sos: Any, x: _Other, axis: int = -1, zi: Any = None,
    *, reverse: bool = False, lengths: Any = None, return_state: bool = False,
    out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]: ...
@overload
def sosfilt(
    sos: Any, x: NDArray[_F], axis: int = -1, zi: Any = None,
    *, reverse: bool = False, lengths: Any = None, return_state: bool = False,
    out: NDArray[Any] | None = None,
) -> tuple[NDArray[_F], NDArray[Any]]: ...
@overload
def sosfilt(
    sos: Any, x: _Tensor[_R], axis: int = -1, zi: Any = None,
    *, reverse: bool = False, lengths: Any = None, return_state: bool = False,
    out: _R | None = None,
) -> tuple[_R, _R]: ...
@overload
def sosfilt(
    sos: Any, x: _A, axis: int = -1, zi: Any = None,
    *, reverse: bool = False, lengths: Any = None, return_state: bool = False,
    out: _A | None = None,
) -> tuple[_A, _A]: ...
@overload
def sosfilt_vjp(
    grad_y: Any, sos: Any, x: _Plain, y: Any, zi: None = None,
    *, axis: int = -1, reverse: bool = False, lengths: Any = None, grad_zf: Any = None,
) -> tuple[NDArray[Any], NDArray[Any], None]: ...
@overload
def sosfilt_vjp(
    grad_y: Any, sos: Any, x: _Plain, y: Any, zi: Any,
    *, axis: int = -1, reverse: bool = False, lengths: Any = None, grad_zf: Any = None,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]: ...
@overload
def sosfilt_vjp(
    grad_y: Any, sos: Any, x: _Tensor[_R], y: Any, zi: None = None,
    *, axis: int = -1, reverse: bool = False, lengths: Any = None, grad_zf: Any = None,
) -> tuple[_R, _R, None]: ...
@overload
def sosfilt_vjp(
    grad_y: Any, sos: Any, x: _Tensor[_R], y: Any, zi: Any,
    *, axis: int = -1, reverse: bool = False, lengths: Any = None, grad_zf: Any = None,
) -> tuple[_R, _R, _R]: ...
@overload
def sosfilt_vjp(
    grad_y: Any, sos: Any, x: _A, y: Any, zi: None = None,
    *, axis: int = -1, reverse: bool = False, lengths: Any = None, grad_zf: Any = None,
) -> tuple[_A, _A, None]: ...
@overload
def sosfilt_vjp(
    grad_y: Any, sos: Any, x: _A, y: Any, zi: Any,
    *, axis: int = -1, reverse: bool = False, lengths: Any = None, grad_zf: Any = None,
) -> tuple[_A, _A, _A]: ...
@overload
def sosfiltfilt(
    sos: Any, x: _Other, axis: int = -1, padtype: str | None = "odd", padlen: int | None = None,
) -> NDArray[Any]: ...
@overload
def sosfiltfilt(
    sos: Any, x: NDArray[_F], axis: int = -1, padtype: str | None = "odd", padlen: int | None = None,
) -> NDArray[_F]: ...
@overload
def sosfiltfilt(
    sos: Any, x: _Tensor[_R], axis: int = -1, padtype: str | None = "odd", padlen: int | None = None,
) -> _R: ...
@overload
def sosfiltfilt(
    sos: Any, x: _A, axis: int = -1, padtype: str | None = "odd", padlen: int | None = None,
) -> _A: ...
