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

__all__ = [
    "forget_mult",
    "forget_mult_vjp",
    "linear_recurrence",
    "linear_recurrence_vjp",
    "selective_scan",
    "selective_scan_vjp",
]


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


def selective_scan(
    u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any = None, z: Any = None, delta_bias: Any = None, h0: Any = None, *,
    delta_softplus: bool = False, layout: str = "bdl", reverse: bool = False, lengths: Any = None, offsets: Any = None,
    resets: Any = None, return_state: bool = False,
) -> Any:  # fmt: skip
    """Mamba's selective scan, whose states are a `linear_recurrence`.

    Parameters
    ----------
    u, delta, A, B, C, D, z, delta_bias, h0, delta_softplus, layout, reverse, lengths, offsets, resets, return_state
        As for `fastrecur.selective_scan`, which also names the source.

    Returns
    -------
    y : ndarray
        The outputs, in the computing precision.
    state : ndarray
        Only with ``return_state=True``.

    Examples
    --------
    >>> from fastrecur import reference
    >>> reference.selective_scan([[[1, 2, 3]]], [[[1, 1, 1]]], [[0]], [[1]], [[1]])  # sums
    array([[[1., 3., 6.]]])
    """
    call = _Selective(u, delta, A, B, C, D, z, delta_bias, h0, delta_softplus, layout, resets, offsets)
    cuts = lengths, offsets, call.resets
    with np.errstate(all="ignore"):
        h, last = _forward(_LINEAR, (call.decay, call.input, call.h0), 0, reverse, cuts, True)
        y = call.output(h) * call.silu
    y = call.back(_where(_masks(cuts, y.shape, 0, reverse)[0], 0, y))
    return (y, last if offsets is None else last[:, 0]) if return_state else y


def selective_scan_vjp(
    grad_y: Any, u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any = None, z: Any = None, delta_bias: Any = None,
    h0: Any = None, *, delta_softplus: bool = False, layout: str = "bdl", reverse: bool = False, lengths: Any = None,
    offsets: Any = None, resets: Any = None, grad_state: Any = None,
) -> Any:  # fmt: skip
    """Gradients of `selective_scan`: its vector-Jacobian product.

    Parameters
    ----------
    grad_y, u, delta, A, B, C, D, z, delta_bias, h0, delta_softplus, layout, reverse, lengths, offsets, resets
        As for `fastrecur.selective_scan_vjp`.
    grad_state : array_like, optional
        The gradient with respect to the last state.

    Returns
    -------
    tuple of ndarray
        One for each operand in their order, in its shape; None for those that are None.

    Examples
    --------
    >>> from fastrecur import reference
    >>> one = [[[1, 1, 1]]]
    >>> reference.selective_scan_vjp(one, [[[1, 2, 3]]], one, [[0]], [[1]], [[1]])[0]
    array([[[3., 2., 1.]]])
    """
    call = _Selective(u, delta, A, B, C, D, z, delta_bias, h0, delta_softplus, layout, resets, offsets)
    cuts = lengths, offsets, call.resets
    grad_state = None if grad_state is None else np.reshape(grad_state, call.states)
    with np.errstate(all="ignore"):
        h = _forward(_LINEAR, (call.decay, call.input, call.h0), 0, reverse, cuts, False)
        padding = _masks(cuts, call.u.shape, 0, reverse)[0]
        grad_y = call.rows(grad_y)
        grad_out = _where(padding, 0, grad_y * call.silu)
        grad_h = grad_out[..., None] * call.C
        operands = call.decay, call.input, call.h0
        g_decay, g_input, g_h0 = _vjp(_LINEAR, grad_h, operands, h, grad_state, 0, reverse, cuts)
        mask = None if padding is None else padding[..., None]
        g_exponent = _where(mask, 0, g_decay * call.decay)
        g_x = (g_input * _where(mask, 0, call.B)).sum(-1)  # of step times input
        g_step = g_x * call.u + (g_exponent * call.A).sum(-1)
        if delta_softplus:
            g_step = g_step / (1 + np.exp(-call.raw))
        gate = 1 / (1 + np.exp(-call.z))
        grads = [
            g_x * call.step + grad_out * call.D, g_step, g_exponent * call.step[..., None],
            g_input * (call.step * call.u)[..., None], grad_out[..., None] * h, grad_out * call.u,
            grad_y * call.output(h) * gate * (1 + call.z * (1 - gate)), g_step,
        ]  # fmt: skip
    grads = [_where(padding if grad.ndim == 3 else mask, 0, grad) for grad in grads]
    return call.gradients([*grads, g_h0])


class _Selective:
    """A call's operands in the computing precision, with time first: (L, B, D), or (L, B, D, N) with the states."""

    def __init__(self, u, delta, A, B, C, D, z, delta_bias, h0, delta_softplus, layout, resets, offsets):
        self.given = u, delta, A, B, C, D, z, delta_bias, h0
        self.layout = layout
        self.u, self.A = self.rows(u), np.asarray(A, np.float64)
        (steps, batch, self.channels), states = self.u.shape, self.A.shape[1]
        self.raw = self.rows(delta) + (0 if delta_bias is None else np.asarray(delta_bias, np.float64))
        with np.errstate(all="ignore"):
            self.step = np.logaddexp(0, self.raw) if delta_softplus else self.raw
            self.decay = np.exp(self.step[..., None] * self.A)
            self.B, self.C = (self.map(array, (steps, batch, states)) for array in (B, C))
            self.input = (self.step * self.u)[..., None] * self.B
            self.z = self.rows(0 if z is None else z)
            self.silu = 1 if z is None else self.z / (1 + np.exp(-self.z))
        self.D = np.asarray(0 if D is None else D, np.float64)
        self.states = (batch, self.channels, states) if offsets is None else (-1, 1, self.channels, states)
        self.h0 = None if h0 is None else np.reshape(np.asarray(h0, np.float64), self.states)
        self.resets = None if resets is None else np.broadcast_to(resets, (batch, steps)).T

    def rows(self, array):
        array = np.asarray(array, np.float64)
        return array if array.ndim < 3 else array.transpose((2, 0, 1) if self.layout == "bdl" else (1, 0, 2))

    def back(self, array):
        return np.ascontiguousarray(array.transpose((1, 2, 0) if self.layout == "bdl" else (1, 0, 2)))

    def map(self, array, sizes):
        """Return B or C for each step, sequence, channel and state."""
        array = np.asarray(array, np.float64)
        if array.ndim == 2:
            return np.broadcast_to(array, (*sizes[:2], *array.shape))
        if array.ndim == 3:
            array = array[:, None] if self.layout == "bdl" else array[:, :, None]
        array = array.transpose((3, 0, 1, 2) if self.layout == "bdl" else (1, 0, 2, 3))
        return np.repeat(array, self.channels // array.shape[2], axis=2)

    def output(self, h):
        return (self.C * h).sum(-1) + self.D * self.u

    def grad_map(self, grad, array):
        """Return the gradient of B or C, summed over the channels of each group."""
        shape = np.shape(array)
        if len(shape) == 2:
            return grad.sum((0, 1))
        groups = 1 if len(shape) == 3 else shape[1 if self.layout == "bdl" else 2]
        grad = grad.reshape((*grad.shape[:2], groups, self.channels // groups, grad.shape[-1])).sum(3)
        return grad.transpose((1, 2, 3, 0) if self.layout == "bdl" else (1, 0, 2, 3)).reshape(shape)

    def gradients(self, grads):
        """Return gradients, given for each step, in their operands' shapes."""
        u, delta, A, B, C, D, z, delta_bias, h0 = grads
        grads = [
            self.back(u), self.back(delta), A.sum((0, 1)), self.grad_map(B, self.given[3]),
            self.grad_map(C, self.given[4]), D.sum((0, 1)), self.back(z), delta_bias.sum((0, 1)),
            None if h0 is None else h0.reshape(np.shape(self.given[8])),
        ]  # fmt: skip
        return tuple(None if own is None else grad for grad, own in zip(grads, self.given, strict=True))


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
