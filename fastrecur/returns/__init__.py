"""Returns of reinforcement learning: discounted and lambda returns, advantages, V-trace, for arrays of any library."""

from typing import Any

from .._arguments.names import suggesting
from ._estimate import estimate

__all__ = ["discounted_returns", "gae", "lambda_returns", "vtrace"]


@suggesting
def discounted_returns(
    rewards: Any, gamma: Any, done: Any = None, *, bootstrap: Any = None, mask: Any = None, axis: int = 0
) -> Any:
    r"""Return the discounted sum of each reward and all later ones of its episode.

    ``G[t] = r[t] + gamma[t]*(1 - done[t])*G[t+1]``

    .. math:: G_t = r_t + \gamma_t (1 - \text{done}_t) G_{t+1}

    Parameters
    ----------
    rewards : array_like
        Arrays of any library, tensors or Dask arrays of float32, float64 or integers, with time along `axis`.
    gamma : float or array_like
        The discount; an array broadcasts to the rewards.
    done : array_like, optional
        Whether the episode ended with that step (cleanrl's ``dones[t+1]``), as bools or weights from 0 to 1, broadcast
        to the rewards.
    bootstrap : array_like, optional
        The return after the last step, in the rewards' shape without `axis` or broadcast to that; 0 by default.
    mask : array_like of bool, optional
        False for steps that are not part of the record (padding, prompts, a tool's tokens), broadcast to the rewards.
        Their results are 0, nothing of them is read, and the steps around them are neighbors.
    axis : int, default 0
        The axis of time: 0 for ``(T, environments)``, 1 for ``(environments, T)``.

    Returns
    -------
    array
        Of the library, dtype and shape of ``rewards``, float64 or the library's default for integers.

    Raises
    ------
    ValueError
        For shapes that do not broadcast to that of ``rewards``, and for flags beyond 0 and 1 where they are in memory.
    TypeError
        For dtypes and libraries that are not supported or mixed, and for flags that require grad.

    Notes
    -----
    Sums are carried in float64. Differentiable for tensors, in ``gamma`` too, except in flags. What is behind an
    episode's end or a masked step changes no bit before it.

    References
    ----------
    .. [1] R. Sutton, A. Barto, "Reinforcement Learning: An Introduction", 2nd edition, 2018, equation (3.9).

    Examples
    --------
    >>> from fastrecur.returns import discounted_returns
    >>> discounted_returns([1.0, 1.0, 1.0], 0.5, bootstrap=8.0)
    array([2.75, 3.5 , 5.  ])
    >>> discounted_returns([1.0, 1.0, 1.0], 0.5, [False, True, False])
    array([1.5, 1. , 1. ])
    """
    return estimate("returns", axis, (done, None, mask), rewards, gamma, bootstrap=bootstrap)[0]


@suggesting
def gae(
    rewards: Any, values: Any, gamma: Any, lam: Any, terminated: Any, truncated: Any = None, *,
    next_values: Any = None, mask: Any = None, axis: int = 0,
) -> Any:  # fmt: skip
    r"""Return generalized advantage estimates.

    ``delta[t] = r[t] + gamma[t]*(1 - terminated[t])*next_V[t] - V[t]``,
    ``A[t] = delta[t] + gamma[t]*lam[t]*(1 - done[t])*A[t+1]``

    .. math:: \delta_t = r_t + \gamma_t (1 - \text{terminated}_t) V'_t - V_t, \qquad
              A_t = \delta_t + \gamma_t\lambda_t (1 - \text{done}_t) A_{t+1}

    with the value :math:`V'` of the next state, and :math:`\text{done}` the larger of terminated and truncated.

    Parameters
    ----------
    rewards, mask, axis
        As for `discounted_returns`: ``T`` steps along `axis`.
    values : array_like
        The value of the state before each step. Without ``next_values``, also the value of the state after the last
        step: ``T + 1`` steps.
    gamma, lam : float or array_like
        The discount, and the trade-off between bias and variance; arrays broadcast to the rewards.
    terminated : array_like
        Whether the episode ended with that step, as bools or weights from 0 to 1 (cleanrl's ``dones[1:]`` together with
        ``next_done``). No later reward counts.
    truncated : array_like, optional
        Whether it was cut off with that step: the value of the next state counts, later rewards do not.
    next_values : array_like, optional
        The value of the state after each step, ``T`` steps; then ``values`` has ``T`` steps, too. Pass it for
        environments that reset themselves: there the recorded state after a truncated step is the first one of the
        next episode. By default, :math:`V'` is the value of the next step that is not masked, and after the last of
        them ``values[T]``.

    Returns
    -------
    array
        The advantages, as `discounted_returns`. Errors are its, and ValueError for a wrong number of ``values``.

    References
    ----------
    .. [1] J. Schulman, P. Moritz, S. Levine, M. Jordan, P. Abbeel, "High-dimensional continuous control using
       generalized advantage estimation", ICLR 2016, arXiv:1506.02438, equation (16).

    Examples
    --------
    >>> import numpy as np
    >>> from fastrecur.returns import gae
    >>> terminated, truncated = [False, True, False], [False, False, True]
    >>> gae(np.ones(3), np.full(4, 2.0), 0.5, 1.0, terminated, truncated)
    array([-0.5, -1. ,  0. ])
    >>> gae(np.ones(4), np.zeros(5), 0.5, 1.0, False, mask=[True, False, True, True])
    array([1.75, 0.  , 1.5 , 1.  ])
    """
    return estimate("gae", axis, (terminated, truncated, mask), rewards, gamma, values, next_values, lam)[0]


@suggesting
def lambda_returns(
    rewards: Any, values: Any, gamma: Any, lam: Any, terminated: Any, truncated: Any = None, *,
    next_values: Any = None, mask: Any = None, axis: int = 0,
) -> Any:  # fmt: skip
    r"""Return the targets of TD(:math:`\lambda`): ``G[t] = A[t] + V[t]`` with the advantages of `gae`.

    Without ends, ``G[t] = r[t] + gamma*((1 - lam)*V[t+1] + lam*G[t+1])``. Errors are those of `gae`.

    Parameters
    ----------
    rewards, values, gamma, lam, terminated, truncated, next_values, mask, axis
        As for `gae`.

    Returns
    -------
    array
        The targets, as `discounted_returns`.

    References
    ----------
    .. [1] R. Sutton, A. Barto, "Reinforcement Learning: An Introduction", 2nd edition, 2018, equation (12.20).

    Examples
    --------
    >>> from fastrecur.returns import lambda_returns
    >>> lambda_returns([1.0, 1.0], [2.0, 2.0, 4.0], 0.5, 0.5, False)
    array([2.25, 3.  ])
    """
    return estimate("targets", axis, (terminated, truncated, mask), rewards, gamma, values, next_values, lam)[0]


@suggesting
def vtrace(
    log_rhos: Any, rewards: Any, values: Any, gamma: Any, terminated: Any, truncated: Any = None, *, lam: Any = 1.0,
    rho_clip: float = 1.0, c_clip: float = 1.0, pg_rho_clip: float = 1.0, next_values: Any = None, mask: Any = None,
    axis: int = 0,
) -> tuple[Any, Any]:  # fmt: skip
    r"""Return V-trace's targets of the values and its advantages, for steps that another policy took.

    ``delta[t] = min(rho_clip, rho[t])*(r[t] + gamma[t]*(1 - terminated[t])*next_V[t] - V[t])``,
    ``a[t] = delta[t] + gamma[t]*lam[t]*min(c_clip, rho[t])*(1 - done[t])*a[t+1]``

    .. math:: \delta_t = \min(\bar\rho, \rho_t) (r_t + \gamma_t (1 - \text{terminated}_t) V'_t - V_t), \qquad
              a_t = \delta_t + \gamma_t \lambda_t \min(\bar c, \rho_t) (1 - \text{done}_t) a_{t+1}

    The targets are :math:`v_t = V_t + a_t`, the advantages
    :math:`\min(\bar\rho_{pg}, \rho_t) (r_t + \gamma_t (1 - \text{terminated}_t) v'_t - V_t)`, where :math:`v'_t` is the
    next step's target within the episode, else :math:`V'_t`.

    Parameters
    ----------
    log_rhos : array_like
        Logarithms of the ratios :math:`\rho` of the learner's and the actor's probabilities of each action.
    rewards, values, gamma, lam, terminated, truncated, next_values, mask, axis
        As for `gae`.
    rho_clip, c_clip, pg_rho_clip : float
        The greatest weights, :math:`\bar\rho, \bar c, \bar\rho_{pg}`; infinity for none.

    Returns
    -------
    targets, advantages : array
        Each as `discounted_returns`; errors are those of `gae`.

    References
    ----------
    .. [1] L. Espeholt et al., "IMPALA: Scalable Distributed Deep-RL with Importance Weighted Actor-Learner
       Architectures", ICML 2018, arXiv:1802.01561, equation (1) and section 4.2.

    Examples
    --------
    >>> from fastrecur.returns import vtrace
    >>> vtrace([0.0, 0.0], [1.0, 1.0], [2.0, 2.0, 4.0], 0.5, False)
    (array([2.5, 3. ]), array([0.5, 1. ]))
    """
    policy = log_rhos, rho_clip, c_clip, pg_rho_clip
    given = axis, (terminated, truncated, mask), rewards, gamma, values, next_values, lam
    targets, advantages = estimate("vtrace", *given, policy)
    return targets, advantages
