"""The definition of every recurrence, as plain loops in NumPy.

Each function is a Python loop over time on whole arrays and shares no code with the kernels. Use it to
check a result. It computes in float64, or in the precision of the operands if that is wider
(``longdouble``), and does not round its result to the dtype of the operands. It does not check its arguments; a step
that is in no segment has NaN.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

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
    return _forward(_FORGET, (f, x, h0), axis, reverse, (lengths, offsets, resets), return_state)


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
    return _forward(_LINEAR, (a, b, h0), axis, reverse, (lengths, offsets, resets), return_state)


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
    return _vjp(_FORGET, grad_h, (f, x, h0), h, grad_state, axis, reverse, (lengths, offsets, resets))


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
    return _vjp(_LINEAR, grad_h, (a, b, h0), h, grad_state, axis, reverse, (lengths, offsets, resets))


class _Rule(NamedTuple):
    """A step is ``decay*state + summand``. Where it is fresh the state before it is zero, and `a` is not used."""

    step: Callable  # of (gate, value, fresh): the decay and the summand
    adjoint: Callable  # of (g, gate, value, before, fresh), where g is the step's cotangent: both operands' gradients


_FORGET = _Rule(
    lambda f, x, fresh: (1 - f, f * x),
    lambda g, f, x, before, fresh: (g * np.conj(x - before), g * np.conj(f)),
)
_LINEAR = _Rule(
    lambda a, b, fresh: (_where(fresh, 0, a), b),
    lambda g, a, b, before, fresh: (_where(fresh, 0, g * np.conj(before)), g),
)


def _where(mask, yes, no):
    """Return one or the other, as `numpy.where`; a mask of None is true nowhere."""
    return no if mask is None else np.where(mask, yes, no)


def _forward(rule, operands, axis, reverse, cuts, return_state):
    gate, value, h0 = _widen(*operands)
    shape = np.broadcast_shapes(gate.shape, value.shape)
    gate, value = _time_first(gate, shape, axis), _time_first(value, shape, axis)
    padding, fresh, left = _masks(cuts, shape, axis, reverse)
    h, states = np.full_like(value, np.nan), _states(h0, cuts, value)
    with np.errstate(all="ignore"):
        decay, summand = rule.step(gate, value, fresh)
        for n, steps in enumerate(_segments(cuts, len(h), reverse)):
            state = states[n]
            for t in steps:
                before = state if fresh is None else np.where(fresh[t], 0, state)
                new = decay[t] * before + summand[t]
                h[t] = state = new if padding is None else np.where(padding[t], state, new)
            states[n] = _where(left and left[n], 0, state)
    h = np.ascontiguousarray(np.moveaxis(_where(padding, 0, h), 0, axis))
    return (h, states if cuts[1] is not None else states[0, ...]) if return_state else h


def _vjp(rule, grad_h, operands, h, grad_state, axis, reverse, cuts):
    gate, value, h0, grad_h, h, g = _widen(*operands, grad_h, h, grad_state)
    shape = np.broadcast_shapes(gate.shape, value.shape)
    grad_h, gate, value, h = (_time_first(array, shape, axis) for array in (grad_h, gate, value, h))
    padding, fresh, left = _masks(cuts, shape, axis, reverse)
    first, g = _states(h0, cuts, value), _states(g, cuts, value)
    before, totals = np.full((2, *value.shape), np.nan, value.dtype)
    with np.errstate(all="ignore"):
        decay = np.conj(rule.step(gate, value, None)[0])
        for n, steps in enumerate(_segments(cuts, len(h), reverse)):
            if steps:
                before[steps[0]], earlier = first[n], steps[:-1]
                before[steps[1:]] = _where(None if padding is None else padding[earlier], first[n], h[earlier])
            later = _where(left and left[n], 0, g[n])
            for t in reversed(steps):
                totals[t] = total = grad_h[t] + later
                onward = decay[t] * total if fresh is None else np.where(fresh[t], 0, decay[t] * total)
                later = onward if padding is None else np.where(padding[t], later, onward)
            g[n] = later
        grads = rule.adjoint(totals, gate, value, _where(fresh, 0, before), fresh)
    grads = [np.moveaxis(_where(padding, 0, grad), 0, axis) for grad in grads]
    return tuple(
        None if operand is None else _sum_to(grad, np.asarray(operand))
        for grad, operand in zip([*grads, g if cuts[1] is not None else g[0, ...]], operands, strict=True)
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


def _segments(cuts, steps, reverse):
    """Return the steps of each segment in scan order; without offsets there is one."""
    borders = [0, steps] if cuts[1] is None else cuts[1]
    return [range(start, stop)[:: -1 if reverse else 1] for start, stop in itertools.pairwise(borders)]


def _masks(cuts, shape, axis, reverse):
    """Return where steps are padding, where the state before them is zero, and where a segment's last one is.

    None stands for nowhere. The first two have time first; of the last there is one for each segment.
    """
    (lengths, _, resets), steps, lanes = cuts, shape[axis], len(shape) - 1
    padding = fresh = left = None
    if lengths is not None:
        lengths = np.reshape(lengths, np.shape(lengths) + (1,) * (lanes - np.ndim(lengths)))
        padding = np.arange(steps).reshape((steps, *(1,) * np.ndim(lengths))) >= lengths
    if resets is not None:
        resets = np.reshape(resets, np.shape(resets) + (1,) * (len(shape) - np.ndim(resets)))
        fresh = begins = _where(padding, False, _time_first(resets, shape, axis))
        if reverse:  # a flag at a step zeroes the state behind it
            fresh, left = np.zeros_like(begins), []
            for way in _segments(cuts, steps, reverse):
                fresh[way[1:]] = begins[way[:-1]]
                left.append(begins[way[-1]] if way else False)
    return padding, fresh, left


def _sum_to(grad, operand):
    """Undo broadcasting: sum `grad` to the shape of `operand`, and drop what is not of its kind."""
    grad = grad.sum(axis=tuple(range(grad.ndim - operand.ndim)))
    stretched = tuple(i for i, n in enumerate(operand.shape) if n == 1 and grad.shape[i] != 1)
    grad = np.asarray(grad.sum(axis=stretched, keepdims=True))
    return grad if np.iscomplexobj(operand) else grad.real
