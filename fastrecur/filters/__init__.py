"""Filters whose state is several numbers: SciPy's names and numbers, many series at once, gradients, float64 states."""

from typing import Any

from . import _call

__all__ = ["sosfilt", "sosfilt_vjp"]


def sosfilt(
    sos: Any, x: Any, axis: int = -1, zi: Any = None, *, reverse: bool = False, lengths: Any = None,
    return_state: bool = False, out: Any = None,
) -> Any:  # fmt: skip
    r"""Filter along an axis with a cascade of sections of second order.

    .. math:: y_t = b_0 x_t + b_1 x_{t-1} + b_2 x_{t-2} - a_1 y_{t-1} - a_2 y_{t-2}

    for each section, whose output is the next one's input.

    Parameters
    ----------
    sos : array_like
        Each section's ``b0, b1, b2, a0, a1, a2`` with ``a0 = 1``, as ``scipy.signal.butter(..., output="sos")`` makes
        them: ``(sections, 6)``. One filter for each series: ``(*series, sections, 6)``, where the series are the shape
        of ``x`` without `axis`. Coefficients that vary in time: the shape of ``x`` and ``(sections, 6)``. An axis of
        ``x`` may be 1 there.
    x : array_like
        The signal: an array of any library in CPU memory, a tensor or a Dask array, of floats, complex numbers or
        integers.
    axis : int, default -1
        The axis of time. (In the rest of the library it is 0 by default.)
    zi : array_like, optional
        The states before the first step, ``(sections, ..., 2, ...)`` with the 2 in place of `axis`, or broadcast to
        that: of the transposed direct form II, as SciPy has them. Zeros by default.
    reverse : bool, default False
        From the last step to the first.
    lengths : array_like of int, optional
        How many steps each series has, as for `fastrecur.forget_mult`. What is behind them is not read, and 0 in ``y``.
    return_state : bool, default False
        Whether to return the states after the last step without ``zi``, too.
    out : array, optional
        Where to write the result; may be ``x``.

    Returns
    -------
    y : array
        Of the shape, dtype and library of ``x`` (integers give float64, of tensors torch's default dtype).
    zf : array
        With ``zi`` or ``return_state``: the states after the last step, float64 (of complex signals complex128), the
        ``zi`` of what follows.

    Raises
    ------
    ValueError
        For shapes that do not fit, and an ``a0`` that is not 1.
    TypeError
        For dtypes and libraries that are not supported or mixed, and for arrays on a GPU.

    See Also
    --------
    sosfilt_vjp : The gradient, without PyTorch.

    Notes
    -----
    The state is in float64, and for poles near 1 and -1 in difference form: see :doc:`/howto/coming_from_scipy`.
    Coefficients that vary: step t uses those of t, and the state is that of the transposed form. Tensors are
    differentiated in ``x``, ``sos`` (but ``a0``) and ``zi``; in every order, unless coefficients vary in time. Results
    do not depend on the number of threads.

    References
    ----------
    .. [1] A. Oppenheim, R. Schafer, "Discrete-Time Signal Processing", 3rd edition, 2010, section 6.3.

    Examples
    --------
    >>> import numpy as np
    >>> from fastrecur.filters import sosfilt
    >>> average_of_two = [[0.5, 0.5, 0.0, 1.0, 0.0, 0.0]]
    >>> sosfilt(average_of_two, [2.0, 4.0, 8.0])
    array([1., 3., 6.])
    >>> y, zf = sosfilt(average_of_two, [2.0, 4.0], return_state=True)
    >>> sosfilt(average_of_two, [8.0], zi=zf)[0]
    array([6.])
    """
    return _call.sosfilt(x, sos, zi, axis, reverse, lengths, return_state, out)


def sosfilt_vjp(
    grad_y: Any, sos: Any, x: Any, y: Any, zi: Any = None, *, axis: int = -1, reverse: bool = False,
    lengths: Any = None, grad_zf: Any = None,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """Return the gradients of `sosfilt`: its vector-Jacobian product.

    Parameters
    ----------
    grad_y : array_like
        The cotangents of the output, in the shape of ``x``.
    sos, x, zi, axis, reverse, lengths
        What `sosfilt` was called with.
    y : array_like
        What it returned. Only its shape is looked at: the signals between sections are computed again.
    grad_zf : array_like, optional
        The cotangents of the states after the last step.

    Returns
    -------
    grad_sos, grad_x, grad_zi : array
        Each in the shape and dtype of its operand; 0 for ``a0``. The last is None without ``zi``.

    Examples
    --------
    >>> from fastrecur.filters import sosfilt, sosfilt_vjp
    >>> sos, x = [[0.5, 0.0, 0.0, 1.0, -0.5, 0.0]], [2.0, 4.0, 8.0]
    >>> grad_sos, grad_x, _ = sosfilt_vjp([0.0, 0.0, 1.0], sos, x, sosfilt(sos, x))
    >>> grad_x
    array([0.125, 0.25 , 0.5  ])
    """
    grad_sos, grad_x, grad_zi = _call.sosfilt_vjp(grad_y, sos, x, y, zi, axis, reverse, lengths, grad_zf)
    return grad_sos, grad_x, grad_zi
