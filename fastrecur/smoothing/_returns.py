"""What reinforcement learning takes from the reverse direction: discounted returns and advantages."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import _messages as say
from .. import _problem, _shapes, _threads
from .._arrays import address, element
from .._cpu import _advantages
from .._cpu._compile import kernel
from ..recurrence import linear_recurrence
from ._arguments import number
from ._arrays import Data, axis_of

SERIAL_STEPS = 1 << 19  # steps of all lanes together from which a second thread pays


def discounted_returns(r: Any, gamma: float, done: Any = None, *, axis: int = 0) -> Any:
    r"""Return the discounted sum of each reward and all later ones of its episode.

    .. math:: G_t = r_t + \gamma (1 - \text{done}_t) G_{t+1}

    Parameters
    ----------
    r : array_like
        The rewards: arrays as for `ewm_mean`, but no frames.
    gamma : float
        The discount.
    done : array_like of bool, optional
        Whether the episode ended with that step (cleanrl's ``dones[t+1]``), in the shape of ``r`` or broadcast to it.
    axis : int, default 0
        The axis of time.

    Returns
    -------
    array
        Of the library, dtype and shape of ``r``. The value after the last step is zero.

    Raises
    ------
    ValueError, TypeError
        As `fastrecur.linear_recurrence`.

    Examples
    --------
    >>> from fastrecur.smoothing import discounted_returns
    >>> discounted_returns([1.0, 1.0, 1.0], 0.5)
    array([1.75, 1.5 , 1.  ])
    >>> discounted_returns([1.0, 1.0, 1.0], 0.5, [False, True, False])
    array([1.5, 1. , 1. ])
    """
    gamma = number("gamma", gamma)
    data = Data(("r",), (r,))
    rewards = data.values[0]
    axis = axis_of(axis, tuple(rewards.shape), ("r",))
    rewards = _floating(data, rewards)
    decay = gamma if done is None else _decay(data, gamma, _flags(data, "done", done, rewards), rewards)
    with data.threads():
        result = linear_recurrence(decay, rewards, axis=axis, reverse=True)
    dtype = data.dtype(rewards)
    if result.dtype != dtype:
        result = data.narrow(result, dtype)
    return result if data.give is None else data.give(result)


def gae(
    rewards: Any,
    values: Any,
    gamma: float,
    lam: float,
    terminated: Any,
    truncated: Any = None,
    *,
    next_values: Any = None,
    axis: int = 0,
) -> Any:
    r"""Return generalized advantage estimates.

    .. math:: \delta_t = r_t + \gamma (1 - \text{terminated}_t) V'_t - V_t, \qquad
              A_t = \delta_t + \gamma\lambda (1 - \text{done}_t) A_{t+1}

    where :math:`V'` is the value of the next state, and a step is done if the episode was terminated or truncated.

    Parameters
    ----------
    rewards : array_like
        ``T`` steps along `axis`: arrays as for `ewm_mean`, but no frames.
    values : array_like
        The value of the state before each step. Without ``next_values``, also the value of the state after the last
        step: ``T + 1`` steps.
    gamma, lam : float
        The discount, and the trade-off between bias and variance.
    terminated : array_like of bool
        Whether the episode ended with that step. No later reward counts.
    truncated : array_like of bool, optional
        Whether it was truncated with that step: the value of the next state counts, later rewards do not.
    next_values : array_like, optional
        The value of the state after each step, ``T`` steps; then ``values`` has ``T`` steps, too. Pass it for
        environments that reset themselves: there the recorded state after a truncated step is the first one of the
        next episode.
    axis : int, default 0
        The axis of time: 0 for ``(T, envs)``, 1 for ``(envs, T)``.

    Returns
    -------
    array
        The advantages, of the library and shape of ``rewards``. The returns are ``advantages + values[:T]``.

    Raises
    ------
    ValueError
        For a wrong number of steps of ``values``, and for shapes that do not broadcast to that of ``rewards``.
    TypeError
        As `ewm_mean`.

    Notes
    -----
    The sum is carried in float64. Differentiable for tensors. In terms of cleanrl's loops, ``terminated`` is
    ``dones[1:]`` together with ``next_done``.

    References
    ----------
    .. [1] J. Schulman, P. Moritz, S. Levine, M. Jordan, P. Abbeel, "High-dimensional continuous control using
       generalized advantage estimation", ICLR 2016, arXiv:1506.02438, equation (16).

    Examples
    --------
    >>> import numpy as np
    >>> from fastrecur.smoothing import gae
    >>> gae(np.ones(3), np.zeros(4), 0.5, 1.0, [False, False, False])
    array([1.75, 1.5 , 1.  ])
    >>> gae(np.ones(3), np.full(4, 2.0), 0.5, 1.0, [False, True, False], [False, False, True])
    array([-0.5, -1. ,  0. ])
    """
    gamma, lam = number("gamma", gamma), number("lam", lam)
    names = ("rewards", "values") if next_values is None else ("rewards", "values", "next_values")
    data = Data(names, (rewards, values) if next_values is None else (rewards, values, next_values))
    rewards, values, *rest = data.values
    shape = tuple(rewards.shape)
    axis = axis_of(axis, shape, ("rewards",))
    steps = shape[axis]
    lead = (slice(None),) * axis
    wanted = steps if rest else steps + 1
    if len(values.shape) != len(shape) or values.shape[axis] != wanted:
        came = values.shape[axis] if len(values.shape) == len(shape) else f"shape {tuple(values.shape)}"
        raise ValueError(say.values_steps(came, steps, bool(rest)))
    following = rest[0] if rest else values[(*lead, slice(1, None), ...)]
    values = values[(*lead, slice(0, steps), ...)]
    for name, value in (("values", values), ("next_values", following)):
        if not _problem.fits(tuple(value.shape), shape):
            raise ValueError(say.same_shape(name, tuple(value.shape), shape))
    ends = _flags(data, "terminated", terminated, rewards)
    cut = ends if truncated is None else _flags(data, "truncated", truncated, rewards)
    dtype = data.dtype(*data.values)
    if data.give is not None:
        with data.threads():
            return data.give(_walk(rewards, values, following, ends, cut, gamma, gamma * lam, axis, dtype))
    xp = data.xp
    rewards, values, following = (data.wide(v) for v in (rewards, values, following))
    if data.is_lazy:  # what is shifted by a step is chunked as the rewards are
        values, following, ends, cut = (
            xp.broadcast_to(v, shape).rechunk(rewards.chunks) for v in (values, following, ends, cut)
        )
    successor = xp.where(ends, xp.zeros_like(rewards), xp.broadcast_to(following, shape))
    error = rewards + gamma * successor - values
    advantages = linear_recurrence(_decay(data, gamma * lam, ends | cut, error), error, axis=axis, reverse=True)
    return data.narrow(advantages, dtype)


def _floating(data: Data, values: Any) -> Any:
    return values if data.give is not None else data.narrow(values, data.dtype(values))


def _decay(data: Data, decay: float, done: Any, like: Any) -> Any:
    """Return each step's decay, in float64: in float32, what 0.9999 lacks to 1 would be off by 2e-4 of it."""
    xp = data.xp
    return xp.where(done, xp.zeros_like(like, dtype=xp.float64), xp.full_like(like, decay, dtype=xp.float64))


def _flags(data: Data, name: str, flags: Any, like: Any) -> Any:
    """Return flags as bools of the data's library and shape."""
    xp = data.xp
    if data.give is not None:
        array = np.asarray(flags.detach().cpu() if hasattr(flags, "detach") else flags)
        if array.dtype.kind not in "biuf":
            raise TypeError(say.flags_dtype(name, array.dtype))
    else:
        array = data.beside(flags)
    if not _problem.fits(tuple(array.shape), tuple(like.shape)):
        raise ValueError(say.same_shape(name, tuple(array.shape), tuple(like.shape)))
    flags = array if array.dtype == xp.bool else array != 0
    return flags if flags.shape == like.shape else xp.broadcast_to(flags, tuple(like.shape))


def _walk(
    rewards: Any, values: Any, following: Any, ends: Any, cut: Any, gamma: float, decay: float, axis: int, dtype: Any
) -> np.ndarray:
    """Run the kernel, on blocks of C order."""
    shape = rewards.shape
    outer, steps, inner = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    out: np.ndarray = _problem.empty(shape, dtype, _shapes.c_strides(shape, dtype.itemsize))
    if out.size == 0:
        return out
    blocks = [
        np.ascontiguousarray(array if array.shape == shape else np.broadcast_to(array, shape), kind)
        for array, kind in ((rewards, dtype), (values, dtype), (following, dtype), (ends, np.bool_), (cut, np.bool_))
    ]
    name = element(dtype)
    call = kernel(
        _advantages.walk, None, "f8", rewards=name, values=name, successors=name, ends="b1", cuts="b1", h=name
    )  # fmt: skip
    table = np.array([steps, inner], np.int64)
    team = _threads.team()
    threads = team.size if out.size >= SERIAL_STEPS else 1
    size, blocks_first = (outer, True) if outer >= threads else (inner, False)
    parts = _threads.ranges(size, threads)
    carries = [np.append(np.empty(inner), [gamma, decay]) for _ in parts]
    team.run(
        [
            (
                call, *map(address, (*blocks, out, carry, table)),
                *((low, high, 0, inner) if blocks_first else (0, outer, low, high)),
            )
            for (low, high), carry in zip(parts, carries, strict=True)
        ]
    )  # fmt: skip
    return out
