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
    f, x : array_like
        Gate and candidate; they broadcast against each other.
    h0 : array_like, optional
        State before the first step, in the shape of the result without `axis` or broadcasting
        to it. Zeros if not given.
    axis : int
        The axis of time in the result.
    reverse : bool
        Run from the last step to the first, ``h[t] = f[t]*x[t] + (1 - f[t])*h[t+1]``.
    lengths : array_like of int, optional
        Number of valid steps of each series, in the shape of the leading axes that remain when
        `axis` is removed. Later steps are never read, and are zeros in the result.
    offsets : array_like of int, optional
        Where segments begin, and the end: each is a series of its own. `h0` and the returned state
        then have one more axis, the first: a state for each segment. An empty segment keeps its `h0`.
    resets : array_like of bool, optional
        True where a step begins anew: no state passes the border before it. Shaped like leading
        axes of the result, time among them; an axis of 1 is broadcast.
    return_state : bool
        Also return the state after the last valid step in the scan direction.

    Returns
    -------
    h : ndarray
        The state after every step, in the computing precision.
    h_last : ndarray
        Only with ``return_state=True``.

    Notes
    -----
    The paper that named the operation [1]_ uses the opposite convention in its equation (3),
    ``h[t] = f[t]*h[t-1] + (1 - f[t])*z[t]``: its `f` is ``1 - f`` here.

    References
    ----------
    .. [1] J. Bradbury, S. Merity, C. Xiong, R. Socher, "Quasi-Recurrent Neural Networks",
       ICLR 2017, arXiv:1611.01576.

    Examples
    --------
    >>> from fastrecur import reference
    >>> reference.forget_mult([1, 0.5, 0], [8, 4, 2])
    array([8., 6., 6.])
    >>> reference.forget_mult(0.5, [8, 4, 2], 16, reverse=True, return_state=True)
    (array([7.25, 6.5 , 9.  ]), array(7.25))
    """
    f, x, h0 = _widen(f, x, h0)
    return _forward(_forget_step, 0, f, x, h0, axis, reverse, (lengths, offsets, resets), return_state)


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
    a, b, h0 = _widen(a, b, h0)
    return _forward(_linear_step, 1, a, b, h0, axis, reverse, (lengths, offsets, resets), return_state)


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
    grad_h : array_like
        Cotangent of `h`.
    f, x, h0, axis, reverse, lengths, offsets, resets
        As given to `forget_mult`.
    h : array_like
        The result of `forget_mult`.
    grad_state : array_like, optional
        Cotangent of `h_last`. Zeros if not given.

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
    return _vjp(_forget_gradients, 0, grad_h, f, x, h, h0, axis, reverse, (lengths, offsets, resets), grad_state)


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
    return _vjp(_linear_gradients, 1, grad_h, a, b, h, h0, axis, reverse, (lengths, offsets, resets), grad_state)


def _forget_step(f, x, h):
    return f * x + (1 - f) * h


def _linear_step(a, b, h):
    return a * h + b


def _forget_gradients(g, f, x, h_before):
    return g * np.conj(x - h_before), g * np.conj(f)


def _linear_gradients(g, a, b, h_before):
    return g * np.conj(h_before), g


def _forward(step, keep, gate, value, h0, axis, reverse, cuts, return_state):
    # `keep` is the gate that, with the value 0, leaves the state as it is: padding becomes that.
    shape = np.broadcast_shapes(gate.shape, value.shape)
    if cuts[1] is not None:
        h, state = _each_segment(step, keep, gate, value, h0, axis, reverse, cuts, shape)
        return (h, state) if return_state else h
    valid, fresh = _valid(cuts[0], shape, axis, reverse), _fresh(cuts, shape, axis, reverse)
    gate, value = _steps(keep, gate, value, valid, fresh, shape, axis, reverse)
    h = np.empty_like(value)
    state = np.broadcast_to(h0, value.shape[1:])
    with np.errstate(all="ignore"):
        for t in range(len(h)):
            h[t] = state = step(gate[t], value[t], np.where(fresh[t], 0, state))
    state = np.where(fresh[-1], 0, state)
    h = _untravel(np.where(valid, h, 0), axis, reverse)
    return (h, np.array(state)) if return_state else h


def _each_segment(step, keep, gate, value, h0, axis, reverse, cuts, shape):
    _, offsets, resets = cuts
    gate, value = np.broadcast_to(gate, shape), np.broadcast_to(value, shape)
    h, states = np.empty(shape, value.dtype), _states(h0, offsets, shape, axis)
    for n, at in _segments(offsets, shape, axis):
        own = None, None, _part(resets, at)
        h[at], states[n] = _forward(step, keep, gate[at], value[at], states[n], axis, reverse, own, True)
    return h, states


def _vjp(gradients, keep, grad_h, gate, value, h, h0, axis, reverse, cuts, grad_state):
    operands = gate, value, h0
    grad_h, gate, value, h, h0, g = _widen(grad_h, gate, value, h, h0, grad_state)
    shape = np.broadcast_shapes(gate.shape, value.shape)
    if cuts[1] is None:
        grads = _gradients(gradients, keep, (grad_h, gate, value, h), h0, axis, reverse, cuts, g, shape)
    else:
        inputs = [np.broadcast_to(array, shape) for array in (grad_h, gate, value, h)]
        h0, g = _states(h0, cuts[1], shape, axis), _states(g, cuts[1], shape, axis)
        grads = np.empty(shape, value.dtype), np.empty(shape, value.dtype), g
        for n, at in _segments(cuts[1], shape, axis):
            own, steps = (None, None, _part(cuts[2], at)), [array[at] for array in inputs]
            some = _gradients(gradients, keep, steps, h0[n], axis, reverse, own, g[n], steps[0].shape)
            grads[0][at], grads[1][at], g[n] = some
    return tuple(
        None if operand is None else _sum_to(grad, np.asarray(operand))
        for grad, operand in zip(grads, operands, strict=True)
    )


def _gradients(gradients, keep, inputs, h0, axis, reverse, cuts, g, shape):
    """Return the gradients of both operands, of the result's shape, and of every lane's first state."""
    grad_h, gate, value, h = inputs
    valid, fresh = _valid(cuts[0], shape, axis, reverse), _fresh(cuts, shape, axis, reverse)
    grad_h = np.where(valid, _travel(grad_h, shape, axis, reverse), 0)
    gate, value = _steps(keep, gate, value, valid, fresh, shape, axis, reverse)
    h0 = np.broadcast_to(h0, value.shape[1:])
    h = np.where(valid, _travel(h, shape, axis, reverse), h0)
    h_before = np.where(fresh[:-1], 0, np.concatenate([h0[np.newaxis], h])[:-1])
    g = np.where(fresh[-1], 0, np.broadcast_to(g, h0.shape))
    carried = np.empty_like(grad_h)
    with np.errstate(all="ignore"):
        # The state enters a step of either recurrence times this factor.
        decay = np.conj(gate if keep == 1 else 1 - gate)
        for t in reversed(range(len(carried))):
            carried[t] = g = grad_h[t] + g
            g = np.where(fresh[t], 0, decay[t] * g)
        grad_gate, grad_value = gradients(carried, gate, value, h_before)
    unused = fresh[:-1] & (keep == 1)  # a coefficient that no state was multiplied by
    grads = np.where(valid & ~unused, grad_gate, 0), np.where(valid, grad_value, 0)
    return *(_untravel(grad, axis, reverse) for grad in grads), g


def _widen(*operands):
    """Every operand in the one computing precision; None is 0."""
    arrays = [np.asarray(0 if operand is None else operand) for operand in operands]
    # One by one: not every dtype promotes with every other, but each does with float64.
    dtype = functools.reduce(np.result_type, arrays, np.float64)
    return [array.astype(dtype) for array in arrays]


def _travel(array, shape, axis, reverse):
    """`array` broadcast to `shape`, its steps first and in the order in which they are visited."""
    array = np.moveaxis(np.broadcast_to(array, shape), axis, 0)
    return array[::-1] if reverse else array


def _untravel(array, axis, reverse):
    return np.ascontiguousarray(np.moveaxis(array[::-1] if reverse else array, 0, axis))


def _valid(lengths, shape, axis, reverse):
    """Which steps count, in the order of travel: all of them, or those before a lane's length."""
    steps = np.arange(shape[axis]).reshape(-1, *[1] * (len(shape) - 1))
    lengths = np.asarray(shape[axis] if lengths is None else lengths)
    valid = steps < lengths.reshape(lengths.shape + (1,) * (len(shape) - 1 - lengths.ndim))
    return valid[::-1] if reverse else valid


def _fresh(cuts, shape, axis, reverse):
    """Where the state is zero before a step, in the order of travel, and after all: one more than there are steps."""
    lengths, _, resets = cuts
    resets = np.zeros((1,) * len(shape), bool) if resets is None else np.asarray(resets)
    resets = resets.reshape(resets.shape + (1,) * (len(shape) - resets.ndim))
    flags = _travel(resets, shape, axis, reverse) & _valid(lengths, shape, axis, reverse)
    none = np.zeros((1, *flags.shape[1:]), bool)
    return np.concatenate([none, flags] if reverse else [flags, none])


def _steps(keep, gate, value, valid, fresh, shape, axis, reverse):
    """Gates and values in the order of travel; where a state begins anew, a coefficient of it is not used: 0."""
    gate = np.where(valid, _travel(gate, shape, axis, reverse), keep)
    value = np.where(valid, _travel(value, shape, axis, reverse), 0)
    return (np.where(fresh[:-1], 0, gate) if keep == 1 else gate), value


def _segments(offsets, shape, axis):
    """Yield the number and the index of each segment that has steps."""
    bounds = np.asarray(offsets).tolist()
    for n, (start, stop) in enumerate(itertools.pairwise(bounds)):
        if start < stop:
            yield n, (slice(None),) * (axis % len(shape)) + (slice(start, stop),)


def _states(state, offsets, shape, axis):
    """Return a state of every lane for each segment."""
    axis = axis % len(shape)
    return np.array(np.broadcast_to(state, (len(offsets) - 1, *shape[:axis], *shape[axis + 1 :])))


def _part(resets, at):
    """Return the flags of a segment."""
    if resets is None:
        return None
    resets = np.asarray(resets)
    return resets if resets.shape[len(at) - 1] == 1 else resets[at]


def _sum_to(grad, operand):
    """Undo broadcasting: sum `grad` to the shape of `operand`, and drop what is not of its kind."""
    grad = grad.sum(axis=tuple(range(grad.ndim - operand.ndim)))
    stretched = tuple(i for i, n in enumerate(operand.shape) if n == 1 and grad.shape[i] != 1)
    grad = np.asarray(grad.sum(axis=stretched, keepdims=True))
    return grad if np.iscomplexobj(operand) else grad.real
