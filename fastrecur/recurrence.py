"""The public functions: the two recurrences and their adjoints."""

from __future__ import annotations

from typing import Any

from . import _adapters, _dispatch
from ._problem import FORGET, LINEAR

__all__ = ["forget_mult", "forget_mult_vjp", "linear_recurrence", "linear_recurrence_vjp"]

_FORGET, _FORGET_VJP = ("f", "x", "h0"), ("grad_h", "f", "x", "h")
_LINEAR, _LINEAR_VJP = ("a", "b", "h0"), ("grad_h", "a", "b", "h")


def forget_mult(
    f: Any,
    x: Any,
    h0: Any = None,
    *,
    axis: int = 0,
    reverse: bool = False,
    lengths: Any = None,
    return_state: bool = False,
    out: Any = None,
) -> Any:
    r"""Average a series with a weight that may change at every step.

    .. math:: h_t = f_t x_t + (1 - f_t) h_{t-1}

    or, with ``reverse=True``, :math:`h_t = f_t x_t + (1 - f_t) h_{t+1}`. The gate comes first, and the third argument
    is a state: `axis` is given by its name.

    Parameters
    ----------
    f : array_like
        The gate: how much of the new value is let in. Usually in [0, 1]; other values are legal. Real.
    x : array_like
        The candidate values; ``f`` and ``x`` broadcast against each other without being copied, so that
        ``forget_mult(0.1, x)`` is an exponential moving average that reads ``x`` once. As NumPy's they are aligned at
        their last axes: of an ``x`` with time first, ``f[:, None]`` is a gate for each step.
    h0 : array_like, optional
        The state before the first step (after the last one if ``reverse``): of the result's shape without
        `axis`, or broadcast to it. Zeros if left out.
    axis : int, default 0
        The axis of time.
    reverse : bool, default False
        Travel from the last step to the first.
    lengths : array_like of int, optional
        How many steps of each lane (each series along `axis`) are valid, from the first on: shaped like one or more
        leading axes of the result without `axis`. Steps at and past a lane's length are not read and come out as
        zeros. In reverse each lane starts at its own last valid step.
    return_state : bool, default False
        Also return the state after the last valid step in the direction of travel.
    out : array, optional
        Where to write the result: of its shape and dtype. It may be an operand itself, but not overlap one in part.
        Not for tensors of which a gradient is wanted.

    Returns
    -------
    h : array
        The states: an array of the operands' library, of their common shape and dtype. Integers and bools
        alone count as float64 (as torch's default dtype for tensors); Python numbers do not take part in the
        promotion. PyTorch tensors are differentiated where they require it. Of Dask arrays it is a Dask array, not
        computed yet.
    h_last : array
        Only with ``return_state``: the last state, of the result's shape without `axis`. As the next call's
        ``h0`` it continues the stream.

    Raises
    ------
    TypeError
        For a library, or a dtype, that is not supported, and for arrays of different libraries.
    ValueError
        For shapes that do not fit, an axis or lengths out of range, and an ``out`` that is read-only or overlaps.
        Nothing has been written then.
    RuntimeError
        For an ``out`` where a tensor wants a gradient, and for arrays on a GPU without a driver that answers.

    See Also
    --------
    forget_mult_vjp : the gradient.
    linear_recurrence : the same with free coefficients.
    fastrecur.reference.forget_mult : the definition.

    Notes
    -----
    The state is carried one precision wider than the data (float16 and bfloat16 in float32, float32 in float64), so
    that float32 results are the exact ones, rounded once; float64 is carried in float64 by a step that is exact at
    both ends. ``f == 1`` gives ``x`` and ``f == 0`` keeps the state, bit for bit, of finite inputs and but for a zero's
    sign; a constant series stays constant.
    The same input gives the same bits for any number of threads. A complex ``x`` is two real series.

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
    """
    return _dispatch.forward(FORGET, _FORGET, f, x, h0, axis, reverse, lengths, return_state, out)


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
    grad_state: Any = None,
) -> tuple[Any, Any, Any]:
    r"""Return the gradients of `forget_mult`: its vector-Jacobian product.

    A bar is the gradient of a loss with respect to what is below it, the cotangent of that, and :math:`h_{-1}` the
    state ``h0`` before step 0. With :math:`G_t = \bar h_t + (1 - f_{t+1}) G_{t+1}`, what reaches a state by all ways,

    .. math:: \bar f_t = G_t (x_t - h_{t-1}), \quad \bar x_t = f_t G_t, \quad \bar h_{-1} = (1 - f_0) G_0.

    In reverse :math:`t - 1` and :math:`t + 1` change places.

    Parameters
    ----------
    grad_h : array_like
        The gradient of the loss with respect to ``h``, which comes first: of its shape, or broadcast to it.
    f, x, h0, axis, reverse, lengths
        As given to `forget_mult`.
    h : array_like
        What it returned.
    grad_state : array_like, optional
        The gradient of the loss with respect to ``h_last``, where that took part: of the result's shape without
        `axis`, or broadcast to it.

    Returns
    -------
    grad_f, grad_x : array
        Each of its operand's own shape and dtype (the result's dtype for integers, bools and numbers; its real part's
        for real ones of a complex result), summed over what was broadcast, in the precision that the state is carried
        in. Zero at and past a lane's length.
    grad_h0 : array or None
        Of the shape and dtype of ``h0``; None if there was none. Where ``h0`` was made of ``x``, as ``h0=x[0]``, that
        part of the gradient of ``x`` is here, and still to be added to ``grad_x``.

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
    gradients: tuple[Any, Any, Any] = _dispatch.vjp(
        FORGET, _FORGET_VJP, grad_h, f, x, h, h0, axis, reverse, lengths, grad_state
    )
    return gradients


def linear_recurrence(
    a: Any,
    b: Any,
    h0: Any = None,
    *,
    axis: int = 0,
    reverse: bool = False,
    lengths: Any = None,
    return_state: bool = False,
    out: Any = None,
) -> Any:
    r"""Solve a first-order linear recurrence with coefficients that may change at every step.

    .. math:: h_t = a_t h_{t-1} + b_t

    or, with ``reverse=True``, :math:`h_t = a_t h_{t+1} + b_t`. The third argument is a state: `axis` is given by its
    name.

    Parameters
    ----------
    a : array_like
        What the state before is multiplied by. Real or complex.
    b : array_like
        What is added. Real or complex; ``a`` and ``b`` broadcast against each other without being copied.
    h0, axis, reverse, lengths, return_state, out
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
    Each step is one fused multiply-add in the carry's precision, which is one wider than the data's where there is
    one. A long single series is split in time; where a composed piece would overflow, it is walked step by step.

    Examples
    --------
    >>> import numpy as np
    >>> from fastrecur import linear_recurrence
    >>> linear_recurrence(1.0, np.arange(5.0))  # numpy.cumsum
    array([ 0.,  1.,  3.,  6., 10.])
    >>> linear_recurrence(0.5, [1.0, 1.0, 1.0], reverse=True)  # discounted returns
    array([1.75, 1.5 , 1.  ])
    """
    return _dispatch.forward(LINEAR, _LINEAR, a, b, h0, axis, reverse, lengths, return_state, out)


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
    grad_state: Any = None,
) -> tuple[Any, Any, Any]:
    r"""Return the gradients of `linear_recurrence`: its vector-Jacobian product.

    A bar over a letter with an index of time is a gradient, as in `forget_mult_vjp`, and a long one the complex
    conjugate. With :math:`G_t = \bar h_t + \overline{a_{t+1}} G_{t+1}`,

    .. math:: \bar a_t = G_t \overline{h_{t-1}}, \quad \bar b_t = G_t, \quad \bar h_{-1} = \overline{a_0} G_0.

    Parameters
    ----------
    grad_h : array_like
        The gradient of the loss with respect to ``h``, which comes first: of its shape, or broadcast to it.
    a, b, h0, axis, reverse, lengths
        As given to `linear_recurrence`.
    h : array_like
        What it returned.
    grad_state : array_like, optional
        The gradient of the loss with respect to ``h_last``, where that took part.

    Returns
    -------
    grad_a, grad_b : array
        Each of its operand's own shape and dtype, as for `forget_mult_vjp`.
    grad_h0 : array or None
        Of the shape and dtype of ``h0``; None if there was none.

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
    gradients: tuple[Any, Any, Any] = _dispatch.vjp(
        LINEAR, _LINEAR_VJP, grad_h, a, b, h, h0, axis, reverse, lengths, grad_state
    )
    return gradients


_adapters.public.update(
    {FORGET: (forget_mult, forget_mult_vjp), LINEAR: (linear_recurrence, linear_recurrence_vjp)}
)  # fmt: skip
