"""Sequence parallel: a series whose time is held in shards, one for each process, and the network on it.

Each rank of a group of processes holds a consecutive shard of the time axis, in the order of the ranks; shards may
differ in length and may be empty. What one rank needs of the others are two numbers for each series.
"""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from ..._arguments import messages as say
from ..._arguments.checks import split
from ..._plan.problem import FORGET, LINEAR

if not dist.is_available():
    raise ImportError(say.no_distributed())

from .._operator import placements  # noqa: E402
from ._sequence_parallel import SequenceParallel  # noqa: E402

__all__ = ["SequenceParallel", "forget_mult", "linear_recurrence"]


def forget_mult(
    f: Any, x: Any, h0: Any = None, *, axis: int = 0, reverse: bool = False, lengths: Any = None, offsets: Any = None,
    resets: Any = None, return_state: bool = False, group: Any = None,
) -> Any:  # fmt: skip
    r"""Average along a time axis that is held in shards, one by each rank of a group.

    ``h[t] = f[t]*x[t] + (1 - f[t])*h[t-1]``

    .. math:: h_t = f_t x_t + (1 - f_t) h_{t-1}

    Put together along `axis` in the order of the ranks, the results are what `fastrecur.forget_mult` makes of the
    operands put together so, and the gradients are its gradients of the sum of what the ranks differentiate.

    Parameters
    ----------
    f, x : Tensor or float
        This rank's shard of the gates and of what is averaged. Shards may have different numbers of steps, also none;
        all else of shape and dtype must be the same on all ranks.
    h0 : Tensor or float, optional
        The state before the first step of all, (after the last, in `reverse`), in the shape of the series. The rank
        that holds that step reads it; for all others it is nothing, and their gradient of it zeros. With `offsets` each
        segment has one, ``(N, ...)``, read by the rank that holds that step of the segment; of one without steps, by
        rank 0.
    axis, reverse, return_state
        As in `fastrecur.forget_mult`: in `reverse` from the last step of the last rank to the first one of the first.
    lengths : Tensor, optional
        How many of *this rank's* steps are valid, in the shape of leading series axes: of lengths L of whole series,
        ``(L - steps_before).clamp(0, steps)``.
    offsets : Tensor or sequence of int, optional
        Where segments of *the whole* begin, and its end, N + 1 numbers: the same on all ranks, which may cut segments
        anywhere. Not together with `lengths`.
    resets : Tensor, optional
        Where *this rank's* steps begin anew: its shard of the bools of the whole.
    group : ProcessGroup, optional
        The ranks that hold the series; all processes if left out.

    Returns
    -------
    h : Tensor
        This rank's shard of the states.
    h_last : Tensor
        With `return_state`, the state after the last valid step of all, on every rank; with `offsets` those of all
        segments, ``(N, ...)``.

    Raises
    ------
    RuntimeError
        If there is no process group, if the ranks do not make the same call, or if the exchange fails: a rank has died
        or has not come within the group's timeout. Other numbers of series, and `offsets` or `resets` on some ranks
        alone, are the backend's to find: gloo ends a process that receives too much, and the others raise.
    TypeError, ValueError
        As `fastrecur.forget_mult`. Raised on one rank alone, it leaves the others to their group's timeout.

    Notes
    -----
    Collective: every rank must call it, and if any of its results is differentiated on one, on all. One all-gather runs
    forward and one back, of two numbers for each series; `offsets` take one before the first, which the host waits for.
    A shard is read, then the exchange takes place, then it is scanned: 5/3 of the memory traffic of one scan of it, 4/3
    in the gradient. :doc:`/howto/sequence_parallel` has the messages, and what else `offsets` and `resets` cost.

    States that reach a shard are composed. That costs the rounding of the carry, so float32 and shorter are as exact
    as on one process; float64 agrees within its rounding at the magnitudes involved. Where composing overflows or
    cancels, the ranks concerned take turns, with one more exchange each; on a GPU such series become NaN instead.

    Differentiable twice and more. No forward mode and no ``torch.func`` transforms: they raise.

    References
    ----------
    .. [1] G. E. Blelloch, "Prefix Sums and Their Applications", CMU-CS-90-190, 1990, section 1.4: recurrences as scans.

    Examples
    --------
    >>> import torch, torch.distributed as dist
    >>> from fastrecur.torch.distributed import forget_mult
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> x = torch.tensor([2.0, 4.0, 8.0])
    >>> forget_mult(0.5, x)
    tensor([1.0000, 2.5000, 5.2500])
    >>> forget_mult(0.5, x, offsets=[0, 2, 3], return_state=True)
    (tensor([1.0000, 2.5000, 4.0000]), tensor([2.5000, 4.0000]))
    >>> dist.destroy_process_group()
    """
    return placements.run(FORGET, f, x, h0, axis, reverse, split(lengths, offsets, resets), return_state, group)


def linear_recurrence(
    a: Any, b: Any, h0: Any = None, *, axis: int = 0, reverse: bool = False, lengths: Any = None, offsets: Any = None,
    resets: Any = None, return_state: bool = False, group: Any = None,
) -> Any:  # fmt: skip
    r"""Compute a linear recurrence along a time axis that is held in shards, one by each rank of a group.

    ``h[t] = a[t]*h[t-1] + b[t]``

    .. math:: h_t = a_t h_{t-1} + b_t

    Parameters
    ----------
    a, b : Tensor or float
        This rank's shard of the factors and of what is added; real or complex.
    h0, axis, reverse, lengths, offsets, resets, return_state, group
        As in `forget_mult`, and so are results, errors and notes. In `reverse`, `resets` take an all-gather before the
        first, and `a` may be copied.

    Examples
    --------
    >>> import torch, torch.distributed as dist
    >>> from fastrecur.torch.distributed import linear_recurrence
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> linear_recurrence(0.5, torch.tensor([1.0, 0.0, 0.0]), return_state=True)
    (tensor([1.0000, 0.5000, 0.2500]), tensor(0.2500))
    >>> dist.destroy_process_group()
    """
    return placements.run(LINEAR, a, b, h0, axis, reverse, split(lengths, offsets, resets), return_state, group)
