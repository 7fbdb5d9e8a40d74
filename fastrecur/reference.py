"""The definition of every recurrence, as plain loops in NumPy.

Each function is a Python loop over time on whole arrays and shares no code with the kernels. Use it to
check a result. It computes in float64, or in the precision of the operands if that is wider
(``longdouble``), and does not round its result to the dtype of the operands.
"""

import functools
import itertools
from typing import Any

import numpy as np

__all__ = ["forget_mult", "forget_mult_vjp", "linear_recurrence", "linear_recurrence_vjp"]


def forget_mult(
    f: Any, x: Any, h0: Any = None, *, axis: int = 0, reverse: bool = False, lengths: Any = None,
    offsets: Any = None, resets: Any = None, return_state: bool = False,
) -> Any:  # fmt: skip
    """Dynamic weighted average, ``h[t] = f[t]*x[t] + (1 - f[t])*h[t-1]``.

    Parameters
    ----------
    f, x, h0, axis, reverse, lengths, offsets, resets, return_state
        As for `fastrecur.forget_mult`, which also names the source.

    Returns
    -------
    h : ndarray
        The state after every step, in the computing precision.
    h_last : ndarray
        Only with ``return_state=True``.

    Examples
    --------
    >>> from fastrecur import reference
    >>> reference.forget_mult([1, 0.5, 0], [8, 4, 2])
    array([8., 6., 6.])
    >>> reference.forget_mult(0.5, [8, 4, 2], 16, reverse=True, return_state=True)
    (array([7.25, 6.5 , 9.  ]), array(7.25))
    """
    return _forward(_forget_step, (f, x, h0), axis, reverse, (lengths, offsets, resets), return_state)


def linear_recurrence(
    a: Any, b: Any, h0: Any = None, *, axis: int = 0, reverse: bool = False, lengths: Any = None,
    offsets: Any = None, resets: Any = None, return_state: bool = False,
) -> Any:  # fmt: skip
    """First-order linear recurrence, ``h[t] = a[t]*h[t-1] + b[t]``.

    The arguments and results are those of `forget_mult`, with the coefficient `a` and the input
    `b` instead of `f` and `x`.

    Examples
    --------
    >>> from fastrecur import reference
    >>> reference.linear_recurrence([2, 2, 0], [1, 1, 5], 10)
    array([21., 43.,  5.])
    """
    return _forward(_linear_step, (a, b, h0), axis, reverse, (lengths, offsets, resets), return_state)


def forget_mult_vjp(
    grad_h: Any, f: Any, x: Any, h: Any, h0: Any = None, *, axis: int = 0, reverse: bool = False, lengths: Any = None,
    offsets: Any = None, resets: Any = None, grad_state: Any = None,
) -> Any:  # fmt: skip
    """Gradients of `forget_mult`: its vector-Jacobian product.

    With the cotangent carried against the scan direction,
    ``g[t] = grad_h[t] + (1 - f[t+1])*g[t+1]``, they are ``grad_x[t] = f[t]*g[t]``,
    ``grad_f[t] = (x[t] - h[t-1])*g[t]`` and ``grad_h0 = (1 - f[0])*g[0]``.

    Parameters
    ----------
    grad_h, f, x, h, h0, axis, reverse, lengths, offsets, resets, grad_state
        As for `fastrecur.forget_mult_vjp`.

    Returns
    -------
    grad_f, grad_x, grad_h0 : ndarray
        Each in the shape of its operand, summed over broadcast axes, and real if the operand
        is real; `grad_h0` is None if `h0` is. Complex gradients follow PyTorch's convention:
        the cotangent is multiplied by conjugates.

    Examples
    --------
    >>> from fastrecur import reference
    >>> f, x = [1, 0.5], [8, 4]
    >>> h = reference.forget_mult(f, x)
    >>> grad_f, grad_x, _ = reference.forget_mult_vjp([1, 1], f, x, h)
    >>> grad_f
    array([12., -4.])
    >>> grad_x
    array([1.5, 0.5])
    """
    return _vjp(_forget_adjoint, grad_h, (f, x, h0), h, grad_state, axis, reverse, (lengths, offsets, resets))


def linear_recurrence_vjp(
    grad_h: Any, a: Any, b: Any, h: Any, h0: Any = None, *, axis: int = 0, reverse: bool = False, lengths: Any = None,
    offsets: Any = None, resets: Any = None, grad_state: Any = None,
) -> Any:  # fmt: skip
    """Gradients of `linear_recurrence`: its vector-Jacobian product.

    With ``g[t] = grad_h[t] + conj(a[t+1])*g[t+1]`` they are ``grad_b[t] = g[t]``,
    ``grad_a[t] = conj(h[t-1])*g[t]`` and ``grad_h0 = conj(a[0])*g[0]``. The arguments and results
    are those of `forget_mult_vjp`.

    Examples
    --------
    >>> from fastrecur import reference
    >>> a, b, h0 = [3, 1], [2, 3], 2
    >>> h = reference.linear_recurrence(a, b, h0)
    >>> reference.linear_recurrence_vjp([1, 1], a, b, h, h0)
    (array([4., 8.]), array([2., 1.]), array(6.))
    """
    return _vjp(_linear_adjoint, grad_h, (a, b, h0), h, grad_state, axis, reverse, (lengths, offsets, resets))


# A step takes the state before it, which is zero where it is fresh: there the coefficient is not used.
def _forget_step(f, x, h, fresh):
    return f * x + (1 - f) * h


def _forget_adjoint(g, f, x, h, fresh):
    return g * np.conj(x - h), g * np.conj(f), np.conj(1 - f) * g


def _linear_step(a, b, h, fresh):
    return _where(fresh, 0, a) * h + b


def _linear_adjoint(g, a, b, h, fresh):
    return _where(fresh, 0, g * np.conj(h)), g, np.conj(a) * g


def _where(mask, yes, no):
    """Return one or the other, as `numpy.where`; a mask of None is true nowhere."""
    return no if mask is None else np.where(mask, yes, no)


def _forward(step, operands, axis, reverse, cuts, return_state):
    gate, value, h0 = _widen(*operands)
    shape = np.broadcast_shapes(gate.shape, value.shape)
    gate, value = _time_first(gate, shape, axis), _time_first(value, shape, axis)
    h, states = np.empty_like(value), _states(h0, cuts, value)
    with np.errstate(all="ignore"):
        for n, t, padding, fresh, is_left in _visits(cuts, shape, axis, reverse):
            new = step(gate[t], value[t], _where(fresh, 0, states[n]), fresh)
            h[t] = _where(padding, 0, new)
            states[n] = _where(is_left, 0, _where(padding, states[n], new))
    h = np.ascontiguousarray(np.moveaxis(h, 0, axis))
    return (h, states if cuts[1] is not None else states[0, ...]) if return_state else h


def _vjp(adjoint, grad_h, operands, h, grad_state, axis, reverse, cuts):
    gate, value, h0, grad_h, h, g = _widen(*operands, grad_h, h, grad_state)
    shape = np.broadcast_shapes(gate.shape, value.shape)
    grad_h, gate, value, h = (_time_first(array, shape, axis) for array in (grad_h, gate, value, h))
    state, g = _states(h0, cuts, value), _states(g, cuts, value)
    before, grad_gate, grad_value = np.empty((3, *value.shape), value.dtype)
    visits = _visits(cuts, shape, axis, reverse)
    for n, t, padding, fresh, _ in visits:
        before[t] = _where(fresh, 0, state[n])
        state[n] = _where(padding, state[n], h[t])
    with np.errstate(all="ignore"):
        for n, t, padding, fresh, is_left in reversed(visits):
            total = grad_h[t] + _where(is_left, 0, g[n])
            *grads, onward = adjoint(total, gate[t], value[t], before[t], fresh)
            grad_gate[t], grad_value[t] = (_where(padding, 0, grad) for grad in grads)
            g[n] = _where(padding, g[n], _where(fresh, 0, onward))
    grads = np.moveaxis(grad_gate, 0, axis), np.moveaxis(grad_value, 0, axis), g if cuts[1] is not None else g[0, ...]
    return tuple(
        None if operand is None else _sum_to(grad, np.asarray(operand))
        for grad, operand in zip(grads, operands, strict=True)
    )


def _widen(*operands):
    """Return every operand in the one computing precision; None is 0."""
    arrays = [np.asarray(0 if operand is None else operand) for operand in operands]
    # One by one: not every dtype promotes with every other, but each does with float64.
    dtype = functools.reduce(np.result_type, arrays, np.float64)
    return [array.astype(dtype) for array in arrays]


def _time_first(array, shape, axis):
    return np.moveaxis(np.broadcast_to(array, shape), axis, 0)


def _states(state, cuts, value):
    """Return a state of every lane for each segment; without offsets there is one."""
    segments = 1 if cuts[1] is None else len(cuts[1]) - 1
    return np.array(np.broadcast_to(state, (segments, *value.shape[1:])))


def _visits(cuts, shape, axis, reverse):
    """Return every step in scan order: its segment, its place in time, and three masks of the lanes.

    They say where the step is padding, where the state before it is zero, and where that after it is.
    """
    lengths, offsets, resets = cuts
    steps, lanes = shape[axis], len(shape) - 1
    padding, begins = [None] * steps, [None] * (steps + 1)
    if lengths is not None:
        lengths = np.reshape(lengths, np.shape(lengths) + (1,) * (lanes - np.ndim(lengths)))
        padding = [t >= lengths for t in range(steps)]
    if resets is not None:
        resets = np.reshape(resets, np.shape(resets) + (1,) * (len(shape) - np.ndim(resets)))
        begins[:steps] = [
            _where(pad, False, flag) for pad, flag in zip(padding, _time_first(resets, shape, axis), strict=True)
        ]
    visits = []
    for n, (start, stop) in enumerate(itertools.pairwise([0, steps] if offsets is None else offsets)):
        for t in range(start, stop):
            later = begins[t + 1] if t + 1 < stop else None
            fresh, is_left = (later, begins[t]) if reverse else (begins[t], None)
            visits.append((n, t, padding[t], fresh, is_left))
    return visits[::-1] if reverse else visits


def _sum_to(grad, operand):
    """Undo broadcasting: sum `grad` to the shape of `operand`, and drop what is not of its kind."""
    grad = grad.sum(axis=tuple(range(grad.ndim - operand.ndim)))
    stretched = tuple(i for i, n in enumerate(operand.shape) if n == 1 and grad.shape[i] != 1)
    grad = np.asarray(grad.sum(axis=stretched, keepdims=True))
    return grad if np.iscomplexobj(operand) else grad.real
