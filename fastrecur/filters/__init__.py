"""Filters whose state is several numbers: SciPy's names and numbers, many series at once, gradients, float64 states."""

from typing import Any

from .._arguments.names import suggesting
from . import _call, _follow, _forms

__all__ = ["allpole", "allpole_vjp", "follow", "lfilter", "sosfilt", "sosfilt_vjp", "sosfiltfilt"]


@suggesting
def allpole(
    a: Any, x: Any, axis: int = -1, zi: Any = None, *, reverse: bool = False, lengths: Any = None,
    return_state: bool = False, out: Any = None,
) -> Any:  # fmt: skip
    r"""Filter along an axis with poles alone: linear prediction's synthesis filter.

    ``y[t] = x[t] - a[t, 1]*y[t-1] - ... - a[t, N]*y[t-N]``

    .. math:: y_t = x_t - \sum_{k=1}^N a_{t,k} y_{t-k}

    Parameters
    ----------
    a : array_like
        Real factors of the ``N`` last outputs, the newest first: ``(N,)``, ``(*series, N)`` for one filter a series, or
        the shape of ``x`` and ``(N,)`` for coefficients that vary in time; an axis of ``x`` may be 1 there.
    x : array_like
        The signal, as for `sosfilt`.
    axis, reverse, lengths, return_state, out
        As for `sosfilt`.
    zi : array_like, optional
        The outputs before the first step, ``(..., N, ...)`` with the N in place of `axis`, the newest first.

    Returns
    -------
    y : array
        Of the shape, dtype and library of ``x``.
    zf : array
        With ``zi`` or ``return_state``: the last outputs, as ``zi``, in float64 (complex128).

    See Also
    --------
    allpole_vjp : The gradient, without PyTorch.

    Notes
    -----
    Tensors have gradients of every order. Coefficients are read in place, in float16 and bfloat16 too; those
    that vary in time are of order 94 at most. torchlpc's
    ``sample_wise_lpc(x, A, zi)`` is ``allpole(A, x, zi=zi)``.

    References
    ----------
    .. [1] J. Makhoul, "Linear prediction: a tutorial review", Proceedings of the IEEE 63(4), 1975, equation (1).

    Examples
    --------
    >>> from fastrecur.filters import allpole
    >>> allpole([-0.5, 0.25], [8.0, 0.0, 0.0])
    array([8., 4., 0.])
    """
    return _forms.allpole(a, x, axis, zi, reverse, lengths, return_state, out)


@suggesting
def allpole_vjp(
    grad_y: Any, a: Any, x: Any, y: Any, zi: Any = None, *, axis: int = -1, reverse: bool = False,
    lengths: Any = None, grad_zf: Any = None,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """Return the gradients of `allpole`: its vector-Jacobian product.

    Parameters
    ----------
    grad_y : array_like
        The cotangents of the output, in the shape of ``x``.
    a, x, zi, axis, reverse, lengths
        What `allpole` was called with.
    y : array_like
        What it returned, which is read, not computed again.
    grad_zf : array_like, optional
        The cotangents of the last outputs.

    Returns
    -------
    grad_a, grad_x, grad_zi : array
        Each in the shape and dtype of its operand. The last is None without ``zi``.

    Examples
    --------
    >>> from fastrecur.filters import allpole, allpole_vjp
    >>> a, x = [-0.5], [8.0, 0.0, 0.0]
    >>> grad_a, grad_x, _ = allpole_vjp([0.0, 0.0, 1.0], a, x, allpole(a, x))
    >>> grad_a, grad_x
    (array([-8.]), array([0.25, 0.5 , 1.  ]))
    """
    grad_a, grad_x, grad_zi = _forms.allpole_vjp(grad_y, a, x, y, zi, axis, reverse, lengths, grad_zf)
    return _call.in_dtype_of(a, grad_a), grad_x, _call.in_dtype_of(zi, grad_zi)


@suggesting
def follow(
    x: Any, attack: Any, release: Any, axis: int = -1, zi: Any = None, *, return_state: bool = False, out: Any = None
) -> Any:
    r"""Follow a signal's envelope along an axis, that rises by one gate and falls by another.

    ``y[t] = y[t-1] + g[t]*(x[t] - y[t-1])``, where ``g[t]`` is ``attack[t]`` if ``x[t] > y[t-1]``, else ``release[t]``

    .. math:: y_t = y_{t-1} + g_t (x_t - y_{t-1}), \quad
              g_t = \begin{cases} \text{attack}_t & x_t > y_{t-1} \\ \text{release}_t & \text{else} \end{cases}

    Parameters
    ----------
    x : array_like
        Magnitudes or levels: real numbers, otherwise as for `sosfilt`.
    attack, release : float or array_like
        The gates, which broadcast to the shape of ``x``; of a time constant of ``n`` steps ``1 - exp(-1/n)``.
    axis, return_state, out
        As for `sosfilt`.
    zi : array_like, optional
        The envelope before the first step, with 1 in place of `axis`, or broadcast to that. Zeros by default.

    Returns
    -------
    y : array
        Of the shape, dtype and library of ``x``.
    zf : array
        With ``zi`` or ``return_state``: the last envelope, as ``zi``, in float64.

    Notes
    -----
    The state is in float64. NaN stays until the end, and an infinity becomes NaN. Tensors have gradients of every order
    of ``x``, both gates and ``zi``: those of the recurrence whose gates are the branches taken, as told by ``y`` in its
    own precision. On a GPU each series has a thread, as for `sosfilt`.

    References
    ----------
    .. [1] D. Giannoulis, M. Massberg, J. D. Reiss, "Digital dynamic range compressor design: a tutorial and analysis",
       Journal of the Audio Engineering Society 60(6), 2012, equation (15).

    Examples
    --------
    >>> from fastrecur.filters import follow
    >>> follow([8.0, 8.0, 0.0, 0.0], attack=0.5, release=0.25)
    array([4.   , 6.   , 4.5  , 3.375])
    """
    return _follow.follow(x, attack, release, axis, zi, return_state, out)


@suggesting
def lfilter(
    b: Any, a: Any, x: Any, axis: int = -1, zi: Any = None, *, reverse: bool = False, lengths: Any = None,
    return_state: bool = False, out: Any = None,
) -> Any:  # fmt: skip
    r"""Filter along an axis with a filter of any order, given by two polynomials.

    ``a[0]*y[t] = b[0]*x[t] + b[1]*x[t-1] + ... - a[1]*y[t-1] - a[2]*y[t-2] - ...``

    .. math:: a_0 y_t = \sum_{k=0}^N b_k x_{t-k} - \sum_{k=1}^N a_k y_{t-k}

    Parameters
    ----------
    b, a : array_like
        Real coefficients, ``(K,)``, ``(*series, K)`` for one filter a series, or the shape of ``x`` and ``(K,)`` for
        coefficients that vary in time, of order 94 at most; an axis of ``x`` may be 1 there. All are divided by
        ``a[..., 0]``.
    x, axis, reverse, lengths, return_state, out
        As for `sosfilt`.
    zi : array_like, optional
        The states before the first step, ``(..., N, ...)`` with the order ``max(len(a), len(b)) - 1`` in place of
        `axis`, as SciPy has them.

    Returns
    -------
    y, zf : array
        As for `sosfilt`.

    Notes
    -----
    An ``a[..., 0]`` of 0 is an error of arrays in CPU memory. In tensors and on a GPU nobody looks at it, which would
    stall the host: 0 and NaN there make results that are not finite.

    Of an order above 2, polynomials lose digits as in SciPy, however exact the arithmetic is: small changes of ``a``
    move poles far. ``scipy.signal.tf2sos`` does not bring them back; design sections, and use `sosfilt`.

    Examples
    --------
    >>> from fastrecur.filters import lfilter
    >>> lfilter([1.0, 1.0], [2.0], [2.0, 4.0, 8.0])
    array([1., 3., 6.])
    """
    return _forms.lfilter(b, a, x, axis, zi, reverse, lengths, return_state, out)


@suggesting
def sosfilt(
    sos: Any, x: Any, axis: int = -1, zi: Any = None, *, reverse: bool = False, lengths: Any = None,
    return_state: bool = False, out: Any = None,
) -> Any:  # fmt: skip
    r"""Filter along an axis with a cascade of sections of second order.

    ``y[t] = b0*x[t] + b1*x[t-1] + b2*x[t-2] - a1*y[t-1] - a2*y[t-2]``

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
        The signal: an array of any library in CPU memory or on an NVIDIA GPU, a tensor or a Dask array, of floats,
        complex numbers or integers.
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
        For dtypes and libraries that are not supported or mixed.

    See Also
    --------
    sosfilt_vjp : The gradient, without PyTorch.

    Notes
    -----
    The state is in float64, and for poles near 1 and -1 in difference form: see :doc:`/howto/coming_from_scipy`.
    Coefficients that vary: step t uses those of t, and the state is that of the transposed form. Tensors are
    differentiated in ``x``, ``sos`` (but ``a0``) and ``zi``, in every order. Results do not depend on the number of
    threads.

    On a GPU each series has a thread, and time is not cut, so a few long series leave most of it without work (not
    measured). ``sos`` and ``zi`` may be in CPU memory beside an array or tensor there; ``a0`` is not looked at in those
    that are not. Gradients there keep the signals between sections in memory, in float64.

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


@suggesting
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
    return _call.in_dtype_of(sos, grad_sos), grad_x, _call.in_dtype_of(zi, grad_zi)


@suggesting
def sosfiltfilt(sos: Any, x: Any, axis: int = -1, padtype: str | None = "odd", padlen: int | None = None) -> Any:
    """Filter forward and then in reverse with a cascade of sections: without delay, of a whole record.

    Parameters
    ----------
    sos : array_like
        As for `sosfilt`; coefficients must not vary in time.
    x, axis
        As for `sosfilt`, but no Dask array.
    padtype : {"odd", "even", "constant", None}, default "odd"
        How the ends are continued before filtering, as in SciPy: mirrored and turned, mirrored, repeated, not at all.
    padlen : int, optional
        By how many steps, less than the signal has; by default SciPy's number, about six a section. It must be given
        for an array or a tensor ``sos`` on a GPU (or on torch's device meta), unless `padtype` is None: SciPy's depends
        on zeros among the coefficients, at which nobody looks there, as at ``a0``: that would stall the host.

    Returns
    -------
    array
        Of the shape, dtype and library of ``x``. Tensors are differentiated as in `sosfilt`.

    Notes
    -----
    Of a section with a pole at 1, no state is a steady one to begin with: an error of coefficients in CPU memory, as in
    SciPy. In tensors and on a GPU nobody looks for it; results are not finite.

    Examples
    --------
    >>> from fastrecur.filters import sosfiltfilt
    >>> sos = [[0.5, 0.0, 0.0, 1.0, -0.5, 0.0]]
    >>> sosfiltfilt(sos, [0.0, 0.0, 9.0, 0.0, 0.0], padtype=None)
    array([0.7734375, 1.546875 , 3.09375  , 1.6875   , 1.125    ])
    """
    return _forms.sosfiltfilt(sos, x, axis, padtype, padlen)
