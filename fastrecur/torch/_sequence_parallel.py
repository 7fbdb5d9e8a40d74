"""A quasi-recurrent network on a sequence whose time is held in shards, one for each rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.utils.rnn import PackedSequence

from .. import _messages as say
from .._problem import FORGET
from . import _exchange, _shards
from . import state as _state
from ._exchange import BACKWARD, FORWARD, WINDOW
from ._rnn_arguments import check_input, drop_out, repack_output, unpack_input
from ._windows import windows
from .qrnn import QRNN
from .qrnn_layer import REVERSE, QRNNLayer


class SequenceParallel(nn.Module):
    r"""A `QRNN` or a `QRNNLayer` on a sequence whose time is held in shards, one by each rank of a group.

    Called as the network itself: each rank with its own shard, in the order of the ranks, and gets the output at its
    own steps. Outputs, states and gradients are those of the network on one process that has the whole sequence.

    Parameters
    ----------
    module : QRNN or QRNNLayer
        The network, the same on all ranks. Its parameters, and buffers if a `linear` of one's own has any, are set to
        those of the group's first rank.
    group : ProcessGroup, optional
        The ranks that hold a sequence; all processes if left out.

    Attributes
    ----------
    module : QRNN or QRNNLayer
        The network. Its forward method knows nothing of other ranks.

    Notes
    -----
    Collective: every rank must call it with the same batch, and differentiate if one does. Every layer and direction
    has one all-gather for its recurrence, forward and back, and one more for the ``window - 1`` inputs before each
    shard. The gradients of all parameters are added up over the group by one all-reduce at the end of the backward
    pass, so each rank has the whole gradient of the sum of the ranks' losses, and takes the same step with it. Wrap in
    `torch.nn.parallel.DistributedDataParallel` over the ranks that hold *other* sequences at the same place, not over
    `group`.

    Masks of zoneout and dropout are drawn by each rank for its own steps: seed the ranks differently in training.

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
        self.module = module
        self._group = _exchange.name_of(group)
        group, _, _ = _exchange.members(self._group)
        with torch.no_grad():
            for tensor in [*module.parameters(), *module.buffers()]:
                dist.broadcast(tensor, dist.get_global_rank(group, 0), group=group)

    def reset(self) -> None:
        """Let every layer forget the inputs that `save_prev_x` kept."""
        module: Any = self.module
        module.reset()

    def forward(self, input: Tensor, hidden: Tensor | Sequence[Tensor | None] | None = None) -> Any:
        """Return the output at this rank's steps, and the last states of the whole sequence.

        Parameters
        ----------
        input : Tensor
            This rank's shard in a form that the network takes: any number of steps, also none. Not packed.
        hidden : Tensor or list of Tensor, optional
            The states before the whole sequence, as the network takes them, read by the rank where a direction begins.
            Its gradient is there alone: the sum over the ranks is the whole.

        Returns
        -------
        output : Tensor
            The output at this rank's steps.
        h_n : Tensor or list of Tensor
            The states behind the whole sequence, on every rank.
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
        module: Any = self.module
        if isinstance(input, PackedSequence):
            raise TypeError(say.sequence_packed())
        rows, _, is_batched = unpack_input(module, input, 0)
        if isinstance(module, QRNNLayer):
            check_input(rows, module.input_size, module._direction_weights())
            output, state = self.layer(module, rows, _state.of_layer(module, hidden, rows, rows.shape[1], is_batched))
            return repack_output(module, output, input), state if is_batched else state.squeeze(1)
        check_input(rows, module.input_size, [])
        h_n = []
        if isinstance(hidden, _state.QRNNState):
            raise TypeError(say.rnn_hidden_type(type(hidden)))
        states = _state.of_network(module, hidden, rows, rows.shape[1], is_batched)
        for k, (layer, state) in enumerate(zip(module.layers, states, strict=True)):
            if k > 0 and module.dropout > 0 and module.training:
                rows = drop_out(rows, module.dropout)
            check_input(rows, layer.input_size, layer._direction_weights())
            rows, state = self.layer(layer, rows, _state.of_layer(layer, state, rows, rows.shape[1], True))
            h_n.append(state if is_batched else state.squeeze(1))
        same = len({state.shape[-1] for state in h_n}) == 1
        return repack_output(module, rows, input), torch.cat(h_n) if same else h_n

    def layer(self, layer: Any, rows: Tensor, states: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return a layer's output, and the last state of each direction."""
        if layer.save_prev_x and layer.window > 1:
            _state.check_saved(layer, rows, rows.shape[1])
        outputs, lasts = [], []
        for k, direction in enumerate(layer._directions):
            reverse = layer.reverse or direction == REVERSE
            source = rows
            if layer.window > 1:
                source = self.windows(layer, rows, reverse)
            product = getattr(layer, "linear" + direction)(source)
            layer._check_product(direction, product.shape[-1])
            z, f, *o = product.chunk(2 + layer.output_gate, -1)
            f, keep = f.sigmoid(), layer._keep(product)
            c0 = None if states is None else states[k].to(product.dtype)
            c, last = _shards.run(
                FORGET, f if keep is None else f * keep, z.tanh(), c0, 0, reverse, None, True, self.group
            )
            outputs.append(o[0].sigmoid() * c if o else c)
            lasts.append(last)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1), torch.stack(lasts)

    def windows(self, layer: Any, rows: Tensor, reverse: bool) -> Tensor:
        """Return what each step sees, and keep the whole sequence's last inputs if the layer keeps any."""
        saved = layer.prevX
        if saved is None:
            saved = rows.new_zeros(layer.window - 1, *rows.shape[1:])
        previous, last = _Reach.apply(rows, saved, reverse, rows.requires_grad, self.group)
        if layer.save_prev_x:
            layer.prevX = last.detach()
        source: Tensor = windows(rows, layer.window, previous, reverse, False)[0]
        return source


class _Shared(Function):
    """Parameters that all ranks hold alike: their gradients are added up over the ranks."""

    @staticmethod
    def forward(ctx: Any, group: str, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.group = group
        return tuple(p.view_as(p) for p in parameters)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return None, *_Sum.apply(ctx.group, *grads)


class _Sum(Function):
    """The sums of tensors over the ranks, of each dtype by one all-reduce."""

    @staticmethod
    def forward(ctx: Any, group: str, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.group = group
        sums: list[Any] = [None] * len(tensors)
        for dtype in dict.fromkeys(t.dtype for t in tensors):
            these = [k for k, t in enumerate(tensors) if t.dtype == dtype]
            flat = _exchange.total(group, torch.cat([tensors[k].reshape(-1) for k in these]))
            parts = flat.split([tensors[k].numel() for k in these])
            for k, part in zip(these, parts, strict=True):
                sums[k] = part.reshape(tensors[k].shape)
        return tuple(sums)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return None, *_Sum.apply(ctx.group, *grads)


class _Reach(Function):
    """The inputs before a shard, and the last ones of all.

    ``(rows, saved, reverse, wants, group) -> (previous, last)``; ``saved`` precedes all shards. Every rank
    tells its last rows, and which of them it has: a shard may be shorter than what the next one sees of it.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, saved: Tensor, reverse: bool, wants: bool, group: str) -> tuple[Tensor, Tensor]:
        edges, index, place = _edges(rows, len(saved), reverse, wants, group)
        table = torch.cat([_turned(saved, reverse), edges.flatten(0, 1)])
        ctx.options, ctx.steps = (reverse, wants, group), rows.shape[0]
        ctx.index, ctx.place = index, place
        previous, last = (_turned(table.index_select(0, index[k]), reverse) for k in (place, -1))
        ctx.mark_non_differentiable(last)
        return previous, last

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _last: Any) -> Any:
        return _ReachBack.apply(grad, ctx.index, ctx.place, ctx.steps, *ctx.options), None, None, None, None


class _ReachBack(Function):
    """The adjoint of `_Reach`: cotangents of the inputs before shards go back to the ranks that hold these."""

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, index: Tensor, place: int, steps: int, reverse: bool, wants: bool, group: str
    ) -> Tensor:
        before = len(grad)
        ctx.before, ctx.options = before, (reverse, wants, group)
        header = _exchange.describe(BACKWARD, WINDOW, grad.dtype, reverse | wants << 2, grad.shape, steps)
        (grads,), _ = _exchange.gather(group, header, _turned(grad.contiguous(), reverse))
        grads = _turned(grads, reverse)
        table = grad.new_zeros(before * (1 + len(grads)), *grad.shape[1:])
        table.index_add_(0, index[:-1].flatten(), grads.flatten(0, 1))
        own = table[before * (1 + place) : before * (2 + place)]
        n = min(steps, before)
        to_rows = grad.new_zeros(steps, *grad.shape[1:])
        if n:
            edge = own[before - n :]
            (to_rows[:n] if reverse else to_rows[steps - n :]).copy_(_turned(edge, reverse))
        return to_rows

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        saved = grad.new_zeros(ctx.before, *grad.shape[1:])
        return _Reach.apply(grad, saved, *ctx.options)[0], *(None,) * 6


def _turned(rows: Tensor, reverse: bool) -> Tensor:
    """Return rows, or ranks, of time order in the order of travel, and the other way round."""
    return rows.flip(0) if reverse else rows


def _edges(rows: Tensor, before: int, reverse: bool, wants: bool, group: str) -> tuple[Tensor, Tensor, int]:
    """Return all ranks' last rows, which of them reach each rank and the end, and which of them is this rank's.

    All is in the order of travel.
    """
    steps = rows.shape[0]
    n = min(steps, before)
    edge = rows.new_zeros(before, *rows.shape[1:])
    if n:
        edge[before - n :] = rows[:n].flip(0) if reverse else rows[steps - n :]
    header = _exchange.describe(FORWARD, WINDOW, rows.dtype, reverse | wants << 2, edge.shape, steps)
    (edges,), all_steps = _exchange.gather(group, header, edge)
    edges, counts = _turned(edges, reverse), _turned(all_steps, reverse).clamp(max=before)
    slots = torch.arange(before, device=rows.device)
    held = torch.cat([torch.ones_like(slots).bool(), (slots >= before - counts.unsqueeze(1)).flatten()])
    so_far = held.cumsum(0)
    totals = so_far[before - 1 :: before]  # before each rank, and in the end
    index = torch.searchsorted(so_far, totals.unsqueeze(1) - before + 1 + slots)
    return edges, index, _exchange.place_of(group, reverse)[0]
