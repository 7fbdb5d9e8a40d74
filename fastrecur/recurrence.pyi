"""Types of the public functions for type checkers: an array gives an array of its library."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

__all__ = ["forget_mult", "forget_mult_vjp", "linear_recurrence", "linear_recurrence_vjp"]

# Libraries by what they have and NumPy's arrays do not: an array whose dtype is not known (`float64 | Any`, as of
# `reshape`) would fit overloads of several libraries, and mypy makes `Any` of that.
_R = TypeVar("_R")
_R_co = TypeVar("_R_co", covariant=True)

class _Tensor(Protocol[_R_co]):
    """A tensor of torch, and what its methods return: of a parameter a tensor."""

    @property
    def requires_grad(self) -> bool: ...
    def cpu(self) -> _R_co: ...

class _Lazy(Protocol):
    """An array of Dask."""

    def __dask_graph__(self) -> Any: ...

class _OnGpu(Protocol):
    """An array of CuPy."""

    @property
    def __cuda_array_interface__(self) -> Any: ...
    @property
    def __array_function__(self) -> Any: ...

class _Ready(Protocol):
    """An array of JAX."""

    def block_until_ready(self) -> Any: ...

class _Labeled(Protocol):
    """A Series or a frame of pandas or polars, an array of xarray."""

    def to_numpy(self) -> Any: ...

class _Complex(Protocol):
    """A complex number: `complex` means floats, too."""

    def __add__(self, value: complex, /) -> complex: ...

_Number: TypeAlias = complex | np.number[Any] | np.bool_
# Strings are sequences of strings: so nested sequences are spelled out.
_Sequence: TypeAlias = Sequence[complex] | Sequence[Sequence[complex]] | Sequence[Sequence[Sequence[complex]]]
_Plain: TypeAlias = _Number | NDArray[Any] | _Sequence | Sequence[NDArray[Any]]
# What may change the dtype of the floats beside it.
_Other: TypeAlias = _Complex | np.generic | NDArray[np.integer[Any] | np.bool_] | _Sequence | Sequence[NDArray[Any]]
_F = TypeVar("_F", bound=np.generic)
_G = TypeVar("_G", bound=np.generic)
_H = TypeVar("_H", bound=np.generic)
_Floats: TypeAlias = float | NDArray[_F]
_Tensors: TypeAlias = _Tensor[_R] | _Number
_A = TypeVar("_A", bound=_Lazy | _OnGpu | _Ready)
_Beside: TypeAlias = _A | _Number | NDArray[Any]
_Data = TypeVar("_Data", bound=_Tensor[Any] | _Lazy | _OnGpu | _Ready | _Labeled)
_Array: TypeAlias = NDArray[Any] | _Tensor[Any] | _Lazy | _OnGpu | _Ready
_Lengths: TypeAlias = int | Sequence[int] | Sequence[Sequence[int]] | _Array | None

# mypy: disable-error-code="overload-overlap"
# A flag that is no literal promises the pair: an overload that returns `Any` for it would fit whatever has `Any` in it.
# fmt: off
@overload
def forget_mult(
    f: _Other, x: _Plain, h0: _Plain | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: Literal[False] = False, out: NDArray[Any] | None = None,
) -> NDArray[Any]: ...
@overload
def forget_mult(
    f: _Plain, x: _Other, h0: _Plain | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: Literal[False] = False, out: NDArray[Any] | None = None,
) -> NDArray[Any]: ...
@overload
def forget_mult(
    f: _Plain, x: _Plain, h0: _Other,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: Literal[False] = False, out: NDArray[Any] | None = None,
) -> NDArray[Any]: ...
@overload
def forget_mult(
    f: _Floats[_F], x: _Floats[_G], h0: _Floats[_H] | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: Literal[False] = False, out: NDArray[Any] | None = None,
) -> NDArray[_F | _G | _H]: ...
@overload
def forget_mult(
    f: _Tensors[_R], x: _Tensors[_R], h0: _Tensors[_R] | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: Literal[False] = False, out: _R | None = None,
) -> _R: ...
@overload
def forget_mult(
    f: _Beside[_A], x: _A, h0: _Beside[_A] | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: Literal[False] = False, out: _A | None = None,
) -> _A: ...
@overload
def forget_mult(
    f: _A, x: _Number | NDArray[Any], h0: _Beside[_A] | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: Literal[False] = False, out: _A | None = None,
) -> _A: ...
@overload
def forget_mult(
    f: _Other, x: _Plain, h0: _Plain | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: bool, out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]: ...
@overload
def forget_mult(
    f: _Plain, x: _Other, h0: _Plain | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: bool, out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]: ...
@overload
def forget_mult(
    f: _Plain, x: _Plain, h0: _Other,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: bool, out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]: ...
@overload
def forget_mult(
    f: _Floats[_F], x: _Floats[_G], h0: _Floats[_H] | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: bool, out: NDArray[Any] | None = None,
) -> tuple[NDArray[_F | _G | _H], NDArray[_F | _G | _H]]: ...
@overload
def forget_mult(
    f: _Tensors[_R], x: _Tensors[_R], h0: _Tensors[_R] | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: bool, out: _R | None = None,
) -> tuple[_R, _R]: ...
@overload
def forget_mult(
    f: _Beside[_A], x: _A, h0: _Beside[_A] | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: bool, out: _A | None = None,
) -> tuple[_A, _A]: ...
@overload
def forget_mult(
    f: _A, x: _Number | NDArray[Any], h0: _Beside[_A] | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: bool, out: _A | None = None,
) -> tuple[_A, _A]: ...
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
    grad_h: _Tensors[_R], f: _Tensors[_R], x: _Tensors[_R], h: _Tensors[_R], h0: None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    grad_state: _Tensors[_R] | None = None,
) -> tuple[_R, _R, None]: ...
@overload
def forget_mult_vjp(
    grad_h: _Tensors[_R], f: _Tensors[_R], x: _Tensors[_R], h: _Tensors[_R], h0: _Tensors[_R],
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    grad_state: _Tensors[_R] | None = None,
) -> tuple[_R, _R, _R]: ...
@overload
def forget_mult_vjp(
    grad_h: _A, f: _Beside[_A], x: _Beside[_A], h: _Beside[_A], h0: _Beside[_A] | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    grad_state: _Beside[_A] | None = None,
) -> tuple[_A, _A, _A | None]: ...
@overload
def linear_recurrence(
    a: _Other, b: _Plain, h0: _Plain | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: Literal[False] = False, out: NDArray[Any] | None = None,
) -> NDArray[Any]: ...
@overload
def linear_recurrence(
    a: _Plain, b: _Other, h0: _Plain | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: Literal[False] = False, out: NDArray[Any] | None = None,
) -> NDArray[Any]: ...
@overload
def linear_recurrence(
    a: _Plain, b: _Plain, h0: _Other,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: Literal[False] = False, out: NDArray[Any] | None = None,
) -> NDArray[Any]: ...
@overload
def linear_recurrence(
    a: _Floats[_F], b: _Floats[_G], h0: _Floats[_H] | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: Literal[False] = False, out: NDArray[Any] | None = None,
) -> NDArray[_F | _G | _H]: ...
@overload
def linear_recurrence(
    a: _Tensors[_R], b: _Tensors[_R], h0: _Tensors[_R] | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: Literal[False] = False, out: _R | None = None,
) -> _R: ...
@overload
def linear_recurrence(
    a: _Beside[_A], b: _A, h0: _Beside[_A] | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: Literal[False] = False, out: _A | None = None,
) -> _A: ...
@overload
def linear_recurrence(
    a: _A, b: _Number | NDArray[Any], h0: _Beside[_A] | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: Literal[False] = False, out: _A | None = None,
) -> _A: ...
@overload
def linear_recurrence(
    a: _Other, b: _Plain, h0: _Plain | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: bool, out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]: ...
@overload
def linear_recurrence(
    a: _Plain, b: _Other, h0: _Plain | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: bool, out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]: ...
@overload
def linear_recurrence(
    a: _Plain, b: _Plain, h0: _Other,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: bool, out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]: ...
@overload
def linear_recurrence(
    a: _Floats[_F], b: _Floats[_G], h0: _Floats[_H] | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: bool, out: NDArray[Any] | None = None,
) -> tuple[NDArray[_F | _G | _H], NDArray[_F | _G | _H]]: ...
@overload
def linear_recurrence(
    a: _Tensors[_R], b: _Tensors[_R], h0: _Tensors[_R] | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: bool, out: _R | None = None,
) -> tuple[_R, _R]: ...
@overload
def linear_recurrence(
    a: _Beside[_A], b: _A, h0: _Beside[_A] | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: bool, out: _A | None = None,
) -> tuple[_A, _A]: ...
@overload
def linear_recurrence(
    a: _A, b: _Number | NDArray[Any], h0: _Beside[_A] | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    return_state: bool, out: _A | None = None,
) -> tuple[_A, _A]: ...
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
    grad_h: _Tensors[_R], a: _Tensors[_R], b: _Tensors[_R], h: _Tensors[_R], h0: None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    grad_state: _Tensors[_R] | None = None,
) -> tuple[_R, _R, None]: ...
@overload
def linear_recurrence_vjp(
    grad_h: _Tensors[_R], a: _Tensors[_R], b: _Tensors[_R], h: _Tensors[_R], h0: _Tensors[_R],
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    grad_state: _Tensors[_R] | None = None,
) -> tuple[_R, _R, _R]: ...
@overload
def linear_recurrence_vjp(
    grad_h: _A, a: _Beside[_A], b: _Beside[_A], h: _Beside[_A], h0: _Beside[_A] | None = None,
    *, axis: int = 0, reverse: bool = False, lengths: _Lengths = None, offsets: Any = None, resets: Any = None,
    grad_state: _Beside[_A] | None = None,
) -> tuple[_A, _A, _A | None]: ...
