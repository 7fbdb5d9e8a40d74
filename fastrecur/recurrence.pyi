"""Types of the public functions for type checkers: an array gives an array of its library."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["forget_mult", "forget_mult_vjp", "linear_recurrence", "linear_recurrence_vjp"]

class _Array(Protocol):
    """An array of another library that NumPy's functions accept, such as CuPy's or Dask's; no tensor."""

    @property
    def __array_function__(self) -> Any: ...

class _Shaped(Protocol):
    """A tensor, a frame, a labeled array, an array of another library."""

    @property
    def shape(self) -> Any: ...

_Number: TypeAlias = complex | np.number[Any] | np.bool_
# Strings are sequences of strings: so nested sequences are spelled out.
_Sequence: TypeAlias = Sequence[complex] | Sequence[Sequence[complex]] | Sequence[Sequence[Sequence[complex]]]
_Plain: TypeAlias = _Number | NDArray[Any] | _Sequence | Sequence[NDArray[Any]]
_Tensor: TypeAlias = Tensor | _Number
_Lengths: TypeAlias = int | Sequence[int] | Sequence[Sequence[int]] | NDArray[Any] | Tensor | _Array | None
_A = TypeVar("_A", bound=_Array)
_Data = TypeVar("_Data", bound=_Shaped)
_Own: TypeAlias = _A | _Number | NDArray[Any]

# mypy: disable-error-code="overload-overlap"
# Numbers alone fit all overloads, and give an array: the first one is taken.
# Where torch is not installed, `Tensor` is Any for type checkers: arrays of NumPy come first.
# fmt: off
@overload
def forget_mult(
    f: _Plain, x: _Plain, h0: _Plain | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: Literal[False] = False, out: NDArray[Any] | None = None,
) -> NDArray[Any]: ...
@overload
def forget_mult(
    f: _Plain, x: _Plain, h0: _Plain | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: Literal[True], out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]: ...
@overload
def forget_mult(
    f: _Tensor, x: _Tensor, h0: _Tensor | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: Literal[False] = False, out: Tensor | None = None,
) -> Tensor: ...
@overload
def forget_mult(
    f: _Tensor, x: _Tensor, h0: _Tensor | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: Literal[True], out: Tensor | None = None,
) -> tuple[Tensor, Tensor]: ...
@overload
def forget_mult(
    f: _Own[_A], x: _Own[_A], h0: _Own[_A] | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: Literal[False] = False, out: _A | None = None,
) -> _A: ...
@overload
def forget_mult(
    f: _Own[_A], x: _Own[_A], h0: _Own[_A] | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: Literal[True], out: _A | None = None,
) -> tuple[_A, _A]: ...
@overload
def forget_mult(
    f: Any, x: Any, h0: Any = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: bool, out: Any = None,
) -> Any: ...
@overload
def forget_mult_vjp(
    grad_h: _Plain, f: _Plain, x: _Plain, h: _Plain, h0: None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    grad_state: _Plain | None = None,
) -> tuple[NDArray[Any], NDArray[Any], None]: ...
@overload
def forget_mult_vjp(
    grad_h: _Plain, f: _Plain, x: _Plain, h: _Plain, h0: _Plain,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    grad_state: _Plain | None = None,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]: ...
@overload
def forget_mult_vjp(
    grad_h: _Tensor, f: _Tensor, x: _Tensor, h: _Tensor, h0: None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    grad_state: _Tensor | None = None,
) -> tuple[Tensor, Tensor, None]: ...
@overload
def forget_mult_vjp(
    grad_h: _Tensor, f: _Tensor, x: _Tensor, h: _Tensor, h0: _Tensor,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    grad_state: _Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]: ...
@overload
def forget_mult_vjp(
    grad_h: _Own[_A], f: _Own[_A], x: _Own[_A], h: _Own[_A], h0: _Own[_A] | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    grad_state: _Own[_A] | None = None,
) -> tuple[_A, _A, _A | None]: ...
@overload
def linear_recurrence(
    a: _Plain, b: _Plain, h0: _Plain | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: Literal[False] = False, out: NDArray[Any] | None = None,
) -> NDArray[Any]: ...
@overload
def linear_recurrence(
    a: _Plain, b: _Plain, h0: _Plain | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: Literal[True], out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]: ...
@overload
def linear_recurrence(
    a: _Tensor, b: _Tensor, h0: _Tensor | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: Literal[False] = False, out: Tensor | None = None,
) -> Tensor: ...
@overload
def linear_recurrence(
    a: _Tensor, b: _Tensor, h0: _Tensor | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: Literal[True], out: Tensor | None = None,
) -> tuple[Tensor, Tensor]: ...
@overload
def linear_recurrence(
    a: _Own[_A], b: _Own[_A], h0: _Own[_A] | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: Literal[False] = False, out: _A | None = None,
) -> _A: ...
@overload
def linear_recurrence(
    a: _Own[_A], b: _Own[_A], h0: _Own[_A] | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: Literal[True], out: _A | None = None,
) -> tuple[_A, _A]: ...
@overload
def linear_recurrence(
    a: Any, b: Any, h0: Any = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: bool, out: Any = None,
) -> Any: ...
@overload
def linear_recurrence_vjp(
    grad_h: _Plain, a: _Plain, b: _Plain, h: _Plain, h0: None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    grad_state: _Plain | None = None,
) -> tuple[NDArray[Any], NDArray[Any], None]: ...
@overload
def linear_recurrence_vjp(
    grad_h: _Plain, a: _Plain, b: _Plain, h: _Plain, h0: _Plain,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    grad_state: _Plain | None = None,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]: ...
@overload
def linear_recurrence_vjp(
    grad_h: _Tensor, a: _Tensor, b: _Tensor, h: _Tensor, h0: None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    grad_state: _Tensor | None = None,
) -> tuple[Tensor, Tensor, None]: ...
@overload
def linear_recurrence_vjp(
    grad_h: _Tensor, a: _Tensor, b: _Tensor, h: _Tensor, h0: _Tensor,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    grad_state: _Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]: ...
@overload
def linear_recurrence_vjp(
    grad_h: _Own[_A], a: _Own[_A], b: _Own[_A], h: _Own[_A], h0: _Own[_A] | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    grad_state: _Own[_A] | None = None,
) -> tuple[_A, _A, _A | None]: ...
