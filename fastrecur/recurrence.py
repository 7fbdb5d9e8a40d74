"""The public functions: the two recurrences and their adjoints."""

from __future__ import annotations

from typing import Any

from . import _dispatch
from ._arguments import adapters, checks, names
from ._plan.problem import FORGET, LINEAR

__all__ = ["forget_mult", "forget_mult_vjp", "linear_recurrence", "linear_recurrence_vjp"]

_FORGET, _FORGET_VJP = ("f", "x", "h0"), ("grad_h", "f", "x", "h")
_LINEAR, _LINEAR_VJP = ("a", "b", "h0"), ("grad_h", "a", "b", "h")


@names.closed
def forget_mult(
    f: Any,
    x: Any,
    h0: Any = None,
    *,
    axis: int = 0,
    reverse: bool = False,
    lengths: Any = None,
    offsets: Any = None,
    resets: Any = None,
    return_state: bool = False,
    out: Any = None,
    **unknown: Any,
) -> Any:
    r"""Average a series with a weight that may change at every step.

    ``h[t] = f[t]*x[t] + (1 - f[t])*h[t-1]``

    .. math:: h_t = f_t x_t + (1 - f_t) h_{t-1}

    or, with ``reverse=True``, ``h[t] = f[t]*x[t] + (1 - f[t])*h[t+1]``. The gate comes first, and the third argument
    is a state; `axis` is keyword-only.

    Parameters
    ----------
    f : array_like
        The gate: the weight of the new value. Usually in [0, 1]; other values are legal. Real.
    x : array_like
        The candidate values. ``f`` and ``x`` broadcast against each other without a copy, so ``forget_mult(0.1, x)`` is
        an exponential moving average that reads ``x`` once. Broadcasting aligns the last axes, as in NumPy: for an
        ``x`` with time first, ``f[:, None]`` is a gate for each step.
    h0 : array_like, optional
        The state before the first step (after the last one if ``reverse``), in the result's shape without `axis` or
        broadcast to it. Zeros by default.
    axis : int, default 0
        The axis of time.
    reverse : bool, default False
        Run from the last step to the first.
    lengths : array_like of int, optional
        The number of valid steps of each series along `axis`, from the first on, in the shape of one or more leading
        axes of the result without `axis`. Steps at and past the length are not read, and are zeros in the result. In
        reverse each series starts at its own last valid step.
    offsets : array_like of int, optional
        Where segments begin along `axis`, and the end (``cu_seqlens``): N + 1 integers that never descend, the first 0,
        the last the number of steps. Each segment is a series of its own; states, ``h0`` and ``h_last``, are then
        of shape ``(N, ...)``, the result's shape without `axis` behind N, and an empty segment hands its ``h0`` on.
        Not together with ``lengths``.
    resets : array_like of bool, optional
        True where a step begins anew: no state passes the border before it, in either direction. Shaped like one or
        more leading axes of the result, time among them; an axis of 1 is broadcast. At such a border the state is
        exactly zero, and `linear_recurrence` does not use the coefficient.
    return_state : bool, default False
        Also return the state after the last valid step in the scan direction.
    out : array, optional
        The array to write the result to, of its shape and dtype. It may be an operand itself, but must not overlap one
        in part, nor `offsets` or `resets` at all. Not for tensors that require grad.

    Returns
    -------
    h : array
        The states: an array of the operands' library, of their common shape and dtype. If all operands are integers or
        bools, the dtype is float64 (for tensors, torch's default dtype). Python numbers do not affect the dtype.
        Gradients flow to tensors that require grad. For Dask arrays the result is a lazy Dask array.
    h_last : array
        Only with ``return_state``: the last state, of the result's shape without `axis`. To continue a stream, pass it
        as ``h0`` to the next call.

    Raises
    ------
    TypeError
        For unsupported libraries and dtypes, and for arrays of different libraries.
    ValueError
        For shapes that do not match, an axis or lengths out of range, and an ``out`` that is read-only or overlaps an
        operand in part. Nothing is written in these cases.
    RuntimeError
        For ``out`` with a tensor that requires grad, and for arrays on a GPU without a driver that responds.

    See Also
    --------
    forget_mult_vjp : the gradient.
    linear_recurrence : the same with free coefficients.
    fastrecur.reference.forget_mult : the definition.

    Notes
    -----
    On a CPU the state is carried one precision wider than the data (float16 and bfloat16 in float32, float32 in
    float64), so float32 results are within one ulp of the float64 result. float64 is carried in float64, by a
    compensated step. For finite inputs ``f == 1`` gives ``x`` and ``f == 0`` keeps the state, bit for bit, except for
    the sign of a zero; on a GPU that splits time over blocks, within a few ulp. A constant series stays constant. The
    same input gives the same bits for any number of threads. A complex ``x`` is computed as two real series.

    The QRNN [1]_ calls this recurrence *f-pooling*, in its equation (3), with the opposite convention: its forget
    gate multiplies the state, and is ``1 - f`` here.

    References
    ----------
    .. [1] J. Bradbury, S. Merity, C. Xiong, R. Socher, "Quasi-Recurrent Neural Networks", ICLR 2017,
       arXiv:1611.01576.

    Examples
    --------
    >>> import numpy as np
    >>> from fastrecur import forget_mult
    >>> forget_mult(0.5, [8.0, 4.0, 2.0])
    array([4., 4., 3.])
    >>> f = np.array([1.0, 0.5, 0.0])
    >>> forget_mult(f, np.array([8.0, 4.0, 2.0]), return_state=True)
    (array([8., 6., 6.]), array(6.))
    >>> forget_mult(0.5, np.array([[8.0, 4.0], [2.0, 2.0]]), axis=1, lengths=[2, 1])
    array([[4., 4.],
           [1., 0.]])
    >>> forget_mult(0.5, [8.0, 4.0, 2.0], offsets=[0, 1, 3], return_state=True)
    (array([4., 2., 2.]), array([4., 2.]))
    >>> forget_mult(0.5, [8.0, 4.0, 2.0], resets=[False, True, False])
    array([4., 2., 2.])
    """
    if unknown:
        raise names.refused(forget_mult, unknown)
    if offsets is not None or resets is not None:
        lengths = checks.split(lengths, offsets, resets)
    return _dispatch.forward(FORGET, _FORGET, f, x, h0, axis, reverse, lengths, return_state, out)


@names.closed
def forget_mult_vjp(
    grad_h: Any,
    f: Any,
    x: Any,
    h: Any,
    h0: Any = None,
    *,
    axis: int = 0,
    reverse: bool = False,
    lengths: Any = None,
    offsets: Any = None,
    resets: Any = None,
    grad_state: Any = None,
    **unknown: Any,
) -> tuple[Any, Any, Any]:
    r"""Return the gradients of `forget_mult`: its vector-Jacobian product.

    A bar denotes the gradient of a loss with respect to the symbol below it (its cotangent), and :math:`h_{-1}` is the
    state ``h0`` before step 0. With the total gradient of a state, :math:`G_t = \bar h_t + (1 - f_{t+1}) G_{t+1}`,

    ``G[t] = grad_h[t] + (1 - f[t+1])*G[t+1]``, ``grad_f[t] = G[t]*(x[t] - h[t-1])``, ``grad_x[t] = f[t]*G[t]``,
    ``grad_h0 = (1 - f[0])*G[0]``

    .. math:: \bar f_t = G_t (x_t - h_{t-1}), \quad \bar x_t = f_t G_t, \quad \bar h_{-1} = (1 - f_0) G_0.

    In reverse, exchange :math:`t - 1` and :math:`t + 1`.

    Parameters
    ----------
    grad_h : array_like
        The gradient of the loss with respect to ``h``, in its shape or broadcast to it.
    f, x, h0, axis, reverse, lengths, offsets, resets
        As given to `forget_mult`.
    h : array_like
        The result of that call.
    grad_state : array_like, optional
        The gradient of the loss with respect to ``h_last``, if the loss depends on it, in the result's shape without
        `axis` or broadcast to it.

    Returns
    -------
    grad_f, grad_x : array
        In the shape and dtype of the operand (for integers, bools and numbers: the dtype of the result; for real
        operands of a complex result: the dtype of its real part). Summed over broadcast axes in the precision of the
        carry. Zero at and past the length of a series.
    grad_h0 : array or None
        In the shape and dtype of ``h0``; None without ``h0``. If ``h0`` came from ``x``, as in ``h0=x[0]``, add this to
        that part of ``grad_x``.

    Raises
    ------
    TypeError, ValueError
        As `forget_mult`.

    Notes
    -----
    Every operand is read once. Complex gradients follow PyTorch's conjugate convention; the gradient of a real
    operand is real.

    Examples
    --------
    >>> import numpy as np
    >>> from fastrecur import forget_mult, forget_mult_vjp
    >>> f, x = np.array([0.5, 0.5]), np.array([8.0, 4.0])
    >>> h = forget_mult(f, x)
    >>> forget_mult_vjp(np.ones(2), f, x, h)
    (array([12.,  0.]), array([0.75, 0.5 ]), None)
    """
    if unknown:
        raise names.refused(forget_mult_vjp, unknown)
    if offsets is not None or resets is not None:
        lengths = checks.split(lengths, offsets, resets)
    gradients: tuple[Any, Any, Any] = _dispatch.vjp(
        FORGET, _FORGET_VJP, grad_h, f, x, h, h0, axis, reverse, lengths, grad_state
    )
    return gradients


@names.closed
def linear_recurrence(
    a: Any,
    b: Any,
    h0: Any = None,
    *,
    axis: int = 0,
    reverse: bool = False,
    lengths: Any = None,
    offsets: Any = None,
    resets: Any = None,
    return_state: bool = False,
    out: Any = None,
    **unknown: Any,
) -> Any:
    r"""Solve a first-order linear recurrence with coefficients that may change at every step.

    ``h[t] = a[t]*h[t-1] + b[t]``

    .. math:: h_t = a_t h_{t-1} + b_t

    or, with ``reverse=True``, ``h[t] = a[t]*h[t+1] + b[t]``. The third argument is a state; `axis` is
    keyword-only.

    Parameters
    ----------
    a : array_like
        The factor of the previous state. Real or complex.
    b : array_like
        The term to add. Real or complex; ``a`` and ``b`` broadcast against each other without a copy.
    h0, axis, reverse, lengths, offsets, resets, return_state, out
        As for `forget_mult`.

    Returns
    -------
    h : array
        The states, as for `forget_mult`.
    h_last : array
        Only with ``return_state``: the last state.

    Raises
    ------
    TypeError, ValueError
        As `forget_mult`.

    See Also
    --------
    linear_recurrence_vjp : the gradient.
    scipy.signal.lfilter : the same for one constant coefficient.

    Notes
    -----
    Each step is one fused multiply-add in the precision of the carry, which is wider than that of the data where
    possible. A single long series is split in time; where composing a chunk would overflow, it is scanned step by step.

    Examples
    --------
    >>> import numpy as np
    >>> from fastrecur import linear_recurrence
    >>> linear_recurrence(1.0, np.arange(5.0))  # numpy.cumsum
    array([ 0.,  1.,  3.,  6., 10.])
    >>> linear_recurrence(0.5, [1.0, 1.0, 1.0], reverse=True)  # discounted returns
    array([1.75, 1.5 , 1.  ])
    """
    if unknown:
        raise names.refused(linear_recurrence, unknown)
    if offsets is not None or resets is not None:
        lengths = checks.split(lengths, offsets, resets)
    return _dispatch.forward(LINEAR, _LINEAR, a, b, h0, axis, reverse, lengths, return_state, out)


@names.closed
def linear_recurrence_vjp(
    grad_h: Any,
    a: Any,
    b: Any,
    h: Any,
    h0: Any = None,
    *,
    axis: int = 0,
    reverse: bool = False,
    lengths: Any = None,
    offsets: Any = None,
    resets: Any = None,
    grad_state: Any = None,
    **unknown: Any,
) -> tuple[Any, Any, Any]:
    r"""Return the gradients of `linear_recurrence`: its vector-Jacobian product.

    A bar over a symbol with a time index denotes a gradient, as in `forget_mult_vjp`; a long bar is the complex
    conjugate. With :math:`G_t = \bar h_t + \overline{a_{t+1}} G_{t+1}`,

    ``G[t] = grad_h[t] + conj(a[t+1])*G[t+1]``, ``grad_a[t] = G[t]*conj(h[t-1])``, ``grad_b[t] = G[t]``,
    ``grad_h0 = conj(a[0])*G[0]``

    .. math:: \bar a_t = G_t \overline{h_{t-1}}, \quad \bar b_t = G_t, \quad \bar h_{-1} = \overline{a_0} G_0.

    Parameters
    ----------
    grad_h, a, b, h, h0, axis, reverse, lengths, offsets, resets, grad_state
        As for `forget_mult_vjp`, of `linear_recurrence`.

    Returns
    -------
    grad_a, grad_b : array
        In the shape and dtype of the operand, as for `forget_mult_vjp`.
    grad_h0 : array or None
        In the shape and dtype of ``h0``; None without ``h0``.

    Raises
    ------
    TypeError, ValueError
        As `forget_mult`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastrecur import linear_recurrence, linear_recurrence_vjp
    >>> a, b = np.array([0.5, 0.5]), np.array([8.0, 4.0])
    >>> h = linear_recurrence(a, b)
    >>> linear_recurrence_vjp(np.ones(2), a, b, h)
    (array([0., 8.]), array([1.5, 1. ]), None)
    """
    if unknown:
        raise names.refused(linear_recurrence_vjp, unknown)
    if offsets is not None or resets is not None:
        lengths = checks.split(lengths, offsets, resets)
    gradients: tuple[Any, Any, Any] = _dispatch.vjp(
        LINEAR, _LINEAR_VJP, grad_h, a, b, h, h0, axis, reverse, lengths, grad_state
    )
    return gradients


adapters.public.update({FORGET: (forget_mult, forget_mult_vjp), LINEAR: (linear_recurrence, linear_recurrence_vjp)})
