"""The public selective scan, Mamba's, and its gradient."""

from typing import Any

from . import _dispatch
from ._arguments import adapters
from ._arguments.names import suggesting
from ._arguments.selective import Operands

__all__ = ["selective_scan", "selective_scan_vjp"]


@suggesting
def selective_scan(
    u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any = None, z: Any = None, delta_bias: Any = None, h0: Any = None, *,
    delta_softplus: bool = False, layout: str = "bdl", reverse: bool = False, lengths: Any = None, offsets: Any = None,
    resets: Any = None, return_state: bool = False, out: Any = None,
) -> Any:  # fmt: skip
    r"""Run the selective scan of Mamba: for each channel d, N states with steps and maps that depend on the input.

    ``h[t,d,n] = exp(delta[t,d]*A[d,n])*h[t-1,d,n] + delta[t,d]*B[t,n]*u[t,d]``,
    ``y[t,d] = (sum(C[t,n]*h[t,d,n] for n in range(N)) + D[d]*u[t,d])*silu(z[t,d])``

    .. math::

       h_{t,d,n} = e^{\Delta_{t,d} A_{d,n}} h_{t-1,d,n} + \Delta_{t,d} B_{t,n} u_{t,d}, \qquad
       y_{t,d} = \Big(\sum_n C_{t,n} h_{t,d,n} + D_d u_{t,d}\Big) \, \text{silu}(z_{t,d})

    with :math:`\Delta = \text{softplus}(\text{delta} + \text{delta\_bias})` if asked for. No array with states of
    all steps exists at any time.

    Parameters
    ----------
    u : array_like
        The inputs: (B, D, L) for B sequences of L steps of D channels, or (B, L, D), see ``layout``.
    delta : array_like
        The step sizes, in the shape of ``u``.
    A : array_like
        (D, N), real; usually negative.
    B, C : array_like
        What goes into the states and out of them. (B, N, L), or (B, L, N) in the layout "bld"; for G groups of
        channels, of which D is a multiple, (B, G, N, L) or (B, L, G, N); the same for all steps, (D, N).
    D, delta_bias : array_like, optional
        (D,): the factor of the input in the output, and what is added to ``delta``. Zeros by default.
    z : array_like, optional
        The gate of the output, in the shape of ``u``.
    h0 : array_like, optional
        The states before the first step (after the last one if ``reverse``), (B, D, N). Zeros by default.
    delta_softplus : bool, default False
        Take ``delta`` and its bias through ``log(1 + exp(x))``.
    layout : {"bdl", "bld"}
        The axes of ``u``, ``delta``, ``z`` and the result: Mamba's own, or with channels last. Neither is copied.
    reverse : bool, default False
        Run from the last step to the first.
    lengths : array_like of int, optional
        (B,): the number of valid steps of each sequence. Steps at and past it are not read, and are zeros in ``y``.
    offsets : array_like of int, optional
        Where segments begin along time, and the end, for a batch of 1, as for `forget_mult`: each segment has states of
        its own, ``h0`` and ``state`` are (segments, D, N).
    resets : array_like of bool, optional
        (B, L) in both layouts; an axis of 1 is broadcast. True where a step begins anew: no state
        passes the border before it, in either direction.
    return_state : bool, default False
        Also return the last states.
    out : array, optional
        The array to write ``y`` to, of its shape and dtype. It may be ``u``, ``delta`` or ``z`` itself, and must share
        no memory with anything else that is passed.

    Returns
    -------
    y : array
        The outputs, in the shape, dtype and memory layout of ``u``. Gradients flow to tensors that require grad.
    state : array
        Only with ``return_state``: the states after the last valid step in the scan direction, (B, D, N), in float32,
        or float64 if ``u`` is. To continue a stream, pass it as ``h0`` to the next call.

    Raises
    ------
    TypeError
        For dtypes and libraries that are not supported, and for arrays of different libraries.
    ValueError
        For shapes that do not match, a complex operand, and an ``out`` that is read-only or shares memory. Nothing is
        written in these cases.

    See Also
    --------
    selective_scan_vjp : the gradient.
    fastrecur.reference.selective_scan : the definition.

    Notes
    -----
    float32, float64, float16 and bfloat16, which may be mixed: states are carried in float32, or in float64 if ``u`` is
    float64. An exponential is within 2 ulp, apart from its argument's rounding; a step of 0 keeps the state, bit for
    bit. NaN stays in its channel. An infinite ``A`` or step counts as 1e18 in the exponent. The same input gives the
    same bits for any number of threads.

    On an NVIDIA GPU kernels compute it and its gradient, for up to 256 states a channel: arrays with more are refused,
    tensors scanned by torch's operators. They were checked without a GPU, and not measured. They do not cut time: few
    channels of one long sequence leave most of a GPU without work.

    Complex states, and Mamba-2's products of chunks, which matrix multiplication does better, are not computed here.

    References
    ----------
    .. [1] A. Gu, T. Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023, arXiv:2312.00752,
       algorithm 2.

    Examples
    --------
    >>> import numpy as np
    >>> from fastrecur import selective_scan
    >>> u = np.array([[[1.0, 2.0, 3.0]]])  # one sequence, one channel, three steps
    >>> one = np.ones((1, 1, 3))
    >>> selective_scan(u, one, A=[[0.0]], B=one, C=one)  # what does not decay is a sum
    array([[[1., 3., 6.]]])
    >>> A, D = [[-np.log(2)]], [0.5]
    >>> y, state = selective_scan(u, one, A, B=one, C=one, D=D, return_state=True)
    >>> y
    array([[[1.5 , 3.5 , 5.75]]])
    >>> state
    array([[[4.25]]])
    """
    operands = Operands(u, delta, A, B, C, D, z, delta_bias, h0)
    options = delta_softplus, layout, reverse, lengths, offsets, resets
    return _dispatch.selective((*operands, out), "selective_scan").forward(operands, options, return_state, out)


@suggesting
def selective_scan_vjp(
    grad_y: Any, u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any = None, z: Any = None, delta_bias: Any = None,
    h0: Any = None, *, delta_softplus: bool = False, layout: str = "bdl", reverse: bool = False, lengths: Any = None,
    offsets: Any = None, resets: Any = None, grad_state: Any = None,
) -> Operands:  # fmt: skip
    """Return the gradients of `selective_scan`: its vector-Jacobian product.

    Parameters
    ----------
    grad_y : array_like
        The gradient of the loss with respect to ``y``, in its shape.
    u, delta, A, B, C, D, z, delta_bias, h0, delta_softplus, layout, reverse, lengths, offsets, resets
        As given to `selective_scan`.
    grad_state : array_like, optional
        The gradient of the loss with respect to the last state, if the loss depends on it, in the shape of that.

    Returns
    -------
    tuple of array
        A gradient for each operand in their order, in its shape and dtype; None for those that were not given. The
        names of the entries are the operands'. Zero at and past the length of a sequence.

    Raises
    ------
    TypeError, ValueError
        As `selective_scan`.

    Notes
    -----
    The states are scanned twice: first to keep those before every chunk of steps (32 on a CPU), then, from these on,
    against time. Sums over steps, sequences and channels are added up chunk by chunk in the precision of the states, in
    an order that does not depend on the number of threads, nor on the model of a GPU.

    Examples
    --------
    >>> import numpy as np
    >>> from fastrecur import selective_scan_vjp
    >>> u, one = np.array([[[1.0, 2.0, 3.0]]]), np.ones((1, 1, 3))
    >>> grads = selective_scan_vjp(one, u, one, A=[[0.0]], B=one, C=one)
    >>> grads.u
    array([[[3., 2., 1.]]])
    >>> grads.A
    array([[5.]])
    """
    operands = Operands(u, delta, A, B, C, D, z, delta_bias, h0)
    options = delta_softplus, layout, reverse, lengths, offsets, resets
    adapter = _dispatch.selective((grad_y, *operands, grad_state), "selective_scan_vjp")
    gradients: Operands = adapter.vjp(grad_y, operands, options, grad_state)
    return gradients


adapters.public["selective_scan"] = selective_scan, selective_scan_vjp
