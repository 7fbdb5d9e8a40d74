"""A quasi-recurrent network on a sequence whose time is held in shards, one for each rank."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.utils.rnn import PackedSequence

from ..._arguments import messages as say
from ..._plan.problem import FORGET
from .. import state as _state
from .._operator import exchange, shards
from .._operator.exchange import WINDOW
from .._rnn.arguments import check_input, repack_output, unpack_input
from .._rnn.windows import windows
from ..qrnn import QRNN
from ..qrnn_layer import REVERSE, QRNNLayer


class SequenceParallel(nn.Module):
    r"""A `QRNN` or a `QRNNLayer` on a sequence whose time is held in shards, one by each rank of a group.

    Called as the network itself: each rank with its own shard, in the order of the ranks, and gets the output at its
    own steps. Outputs, states and gradients are those of the network on one process that has the whole sequence.

    Parameters
    ----------
    module : QRNN or QRNNLayer
        The network, the same on all ranks, an attribute afterwards. Its parameters, and buffers if a `linear` of one's
        own has any, are set to those of the group's first rank. Its own forward method knows nothing of other ranks.
    group : ProcessGroup, optional
        The ranks that hold a sequence; all processes if left out.

    Notes
    -----
    Collective: every rank must call it with the same batch, and differentiate if one does. The gradients of all
    parameters are added up over the group by one all-reduce at the end of the backward pass, so each rank has the whole
    gradient of the sum of the ranks' losses, and takes the same step with it. Wrap in
    `torch.nn.parallel.DistributedDataParallel` over the ranks that hold *other* sequences at the same place, not over
    `group`: see :doc:`/howto/sequence_parallel`, also for what is exchanged. `offsets` and `resets` are for the
    recurrences alone. Masks of zoneout and dropout are drawn by each rank for its own steps: seed the ranks differently
    in training.

    Examples
    --------
    >>> import torch, torch.distributed as dist
    >>> from fastrecur.torch import QRNN
    >>> from fastrecur.torch.distributed import SequenceParallel
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> network = SequenceParallel(QRNN(3, 8, 2, window=2))
    >>> output, h_n = network(torch.randn(100, 5, 3))
    >>> output.shape, h_n.shape
    (torch.Size([100, 5, 8]), torch.Size([2, 5, 8]))
    >>> dist.destroy_process_group()
    """

    def __init__(self, module: nn.Module, group: Any = None) -> None:
        super().__init__()
        layers = list(module.layers) if isinstance(module, QRNN) else [module]
        for layer in layers:
            if not isinstance(layer, QRNNLayer):
                raise TypeError(say.sequence_module(type(layer)))
        self.module: Any = module
        self._group = exchange.name_of(group)
        group, _, _ = exchange.members(self._group)
        with torch.no_grad():
            for tensor in [*module.parameters(), *module.buffers()]:
                dist.broadcast(tensor, dist.get_global_rank(group, 0), group=group)

    def reset(self) -> None:
        """Let every layer forget the inputs that `save_prev_x` kept."""
        self.module.reset()

    def forward(self, input: Tensor, hidden: Tensor | Sequence[Tensor | None] | None = None) -> Any:
        """Return the output at this rank's steps, and the states behind the whole sequence, on every rank.

        Parameters
        ----------
        input : Tensor
            This rank's shard in a form that the network takes: any number of steps, also none. Not packed.
        hidden : Tensor or list of Tensor, optional
            The states before the whole sequence, as the network takes them, read by the rank where a direction begins.
            Its gradient is there alone: the sum over the ranks is the whole.
        """
        named = {f"module.{name}": p for name, p in self.module.named_parameters() if p.requires_grad}
        walk = _Walk(self.module, self._group)
        if not torch.is_grad_enabled() or not named:
            return walk(input, hidden)
        shared = dict(zip(named, _Shared.apply(self._group, *named.values()), strict=True))
        return torch.func.functional_call(walk, shared, (input, hidden))


class _Walk(nn.Module):
    """A network's way from its input to its output, which its parameters can be put into."""

    def __init__(self, module: Any, group: str) -> None:
        super().__init__()
        self.module, self.group = module, group

    def forward(self, input: Any, hidden: Any) -> Any:
        module = self.module
        if isinstance(input, PackedSequence):
            raise TypeError(say.sequence_packed())
        rows, _, is_batched = unpack_input(module, input, 0)
        if isinstance(module, QRNNLayer):
            output, *lasts = self.layer(module, rows, hidden, is_batched)
        elif isinstance(hidden, _state.QRNNState):
            raise TypeError(say.rnn_hidden_type("hidden", type(hidden)))
        else:
            states = _state.of_network(module, hidden, rows, rows.shape[1], is_batched)
            output, lasts = module._through(rows, states, self.layer)
        return repack_output(module, output, input), _state.join(lasts, is_batched)

    def layer(self, layer: QRNNLayer, rows: Tensor, hidden: Any, is_batched: bool = True) -> tuple[Tensor, Tensor]:
        """Return a layer's output, and the last state of each direction."""
        check_input(rows, layer.input_size, layer._direction_weights())
        states = _state.of_layer(layer, hidden, rows, rows.shape[1], is_batched)
        if layer.save_prev_x and layer.window > 1:
            _state.check_saved(layer, rows, rows.shape[1])

        def see(direction: str) -> Tensor:
            return rows if layer.window == 1 else self.windows(layer, rows, layer.reverse or direction == REVERSE)

        # Averages are over all ranks' shards.
        return layer._scan(see, states, recurrence=functools.partial(shards.run, FORGET, axis=0, group=self.group))

    def windows(self, layer: Any, rows: Tensor, reverse: bool) -> Tensor:
        """Return what each step sees, and keep the whole sequence's last inputs if the layer keeps any."""
        # Every rank tells its last rows, and which of them it has: a shard may be shorter than what the next one sees.
        before = layer.window - 1
        n = min(len(rows), before)
        edge = rows[:n].flip(0) if reverse else rows[len(rows) - n :]
        edge = torch.cat([rows.new_zeros(before - n, *rows.shape[1:]), edge])
        edges, steps = _Gather.apply(edge, len(rows), reverse, rows.requires_grad, self.group)
        edges, counts = _flipped(edges, reverse), _flipped(steps, reverse).clamp(max=before)
        slots = torch.arange(before, device=rows.device)
        held = torch.cat([torch.ones_like(slots).bool(), (slots >= before - counts.unsqueeze(1)).flatten()])
        so_far = held.cumsum(0)
        totals = so_far[before - 1 :: before]  # before each rank, and in the end
        index = torch.searchsorted(so_far, totals.unsqueeze(1) - before + 1 + slots)
        saved = rows.new_zeros(before, *rows.shape[1:]) if layer.prevX is None else layer.prevX
        table = torch.cat([_flipped(saved, reverse), edges.flatten(0, 1)])  # in the scan direction
        place, _ = exchange.place_of(self.group, reverse)
        previous, last = (_flipped(table.index_select(0, index[k]), reverse) for k in (place, -1))
        if layer.save_prev_x:
            layer.prevX = last.detach()
        return windows(rows, layer.window, previous, reverse, False)[0]  # type: ignore[no-any-return]


def _flipped(rows: Tensor, reverse: bool) -> Tensor:
    """Return rows, or ranks, of time order in the order of the scan, and the other way round."""
    return rows.flip(0) if reverse else rows


class _Gather(Function):
    """All ranks' last rows, and how many steps each has: ``(edge, steps, reverse, wants, group) -> (edges, steps)``."""

    @staticmethod
    def forward(ctx: Any, edge: Tensor, steps: int, reverse: bool, wants: bool, group: str) -> tuple[Tensor, Tensor]:
        ctx.group = group
        header = exchange.describe(WINDOW, edge.dtype, edge.shape, wants, reverse=reverse)
        (edges,), all_steps, _ = exchange.gather(group, header, steps, edge)
        ctx.mark_non_differentiable(all_steps)
        return edges, all_steps

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _steps: Any) -> Any:
        _, rank, _ = exchange.members(ctx.group)
        return exchange.Sum.apply(ctx.group, grad)[rank], None, None, None, None


class _Shared(Function):
    """Parameters that all ranks hold alike: their gradients are added up over the ranks, of each dtype at once."""

    @staticmethod
    def forward(ctx: Any, group: str, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.group = group
        return tuple(p.view_as(p) for p in parameters)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        sums: list[Any] = [None] * len(grads)
        for dtype in dict.fromkeys(grad.dtype for grad in grads):
            these = [k for k, grad in enumerate(grads) if grad.dtype == dtype]
            flat = exchange.Sum.apply(ctx.group, torch.cat([grads[k].reshape(-1) for k in these]))
            for k, part in zip(these, flat.split([grads[k].numel() for k in these]), strict=True):
                sums[k] = part.reshape(grads[k].shape)
        return None, *sums
