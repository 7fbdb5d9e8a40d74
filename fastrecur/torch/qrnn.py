"""The quasi-recurrent network: layers that pool one matrix product over time."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .._arguments import messages as say, names
from . import state as _state
from ._rnn import arguments
from .qrnn_layer import BothDirections, QRNNLayer
from .state import QRNNState


class QRNN(nn.Module):
    r"""A quasi-recurrent network of several layers, called as `torch.nn.GRU` is.

    Each layer is a `QRNNLayer`, whose page says more; one alone may run in reverse. Of the last inputs ``s[t]``,

    ``z[t], f[t], o[t] = tanh(W_z @ s[t] + b_z), sigmoid(W_f @ s[t] + b_f), sigmoid(W_o @ s[t] + b_o)``,
    ``c[t] = f[t]*z[t] + (1 - f[t])*c[t-1]``, ``h[t] = o[t]*c[t]``.

    Parameters
    ----------
    input_size, hidden_size : int
        Features of the input, and of each layer and direction, ``H``, which are `input_size` if left out.
    num_layers : int, default 1
        How many layers, ``L``, each of which reads the output of the one before.
    batch_first : bool, default False
        The input and output are (B, T, features). Does not affect the states.
    dropout : float, default 0
        The probability of dropout on the output of each layer but the last, in training.
    bidirectional : bool, default False
        Run every layer in both directions (``D = 2``, else 1); the next layer reads both.
    layers : iterable of QRNNLayer, optional
        Ready layers, whose sizes may differ, in place of those that the other arguments describe. The network's sizes
        are theirs then.
    bias, window, zoneout, output_gate, save_prev_x, use_cuda, device, dtype : optional
        As `QRNNLayer` takes them, for every layer. `save_prev_x` is for one direction only.

    Attributes
    ----------
    layers : ModuleList
        The layers. The state dict has torchqrnn's names, ``layers.0.linear.weight`` and so on; the other direction's
        are ``layers.0.linear_reverse.weight`` and so on.

    Examples
    --------
    >>> import torch
    >>> from fastrecur.torch import QRNN
    >>> rnn = QRNN(10, 20, 2)  # before: torch.nn.GRU(10, 20, 2)
    >>> output, h_n = rnn(torch.randn(5, 3, 10), torch.randn(2, 3, 20))
    >>> output.shape, h_n.shape
    (torch.Size([5, 3, 20]), torch.Size([2, 3, 20]))
    """

    @names.suggesting
    def __init__(
        self,
        input_size: int,
        hidden_size: int | None = None,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        layers: Iterable[Any] | None = None,
        *,
        window: int = 1,
        zoneout: float = 0.0,
        output_gate: bool = True,
        save_prev_x: bool = False,
        use_cuda: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        hidden_size = input_size if hidden_size is None else hidden_size
        layers = None if layers is None else list(layers)
        num_layers = len(layers) if layers else num_layers
        arguments.check_sizes(input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        arguments.check_flags(bias=bias, batch_first=batch_first, bidirectional=bidirectional)
        if bidirectional and save_prev_x is True:
            raise ValueError(say.rnn_saved_bidirectional())
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.bidirectional = bias, batch_first, bidirectional
        self.dropout = arguments.probability("dropout", dropout)
        if self.dropout > 0 and num_layers == 1:
            warnings.warn(say.rnn_dropout_of_one_layer(dropout), stacklevel=2)
        if layers:
            described = {
                "bidirectional": (bidirectional, False), "window": (window, 1), "zoneout": (zoneout, 0),
                "output_gate": (output_gate, True), "save_prev_x": (save_prev_x, False), "device": (device, None),
                "dtype": (dtype, None),
            }  # fmt: skip
            if given := [name for name, (value, default) in described.items() if value != default]:
                raise ValueError(say.rnn_layers_options(given))
            self.hidden_size = arguments.check_chain(layers, input_size)
        else:
            kind = BothDirections if bidirectional else QRNNLayer
            layers = [
                kind(
                    input_size if k == 0 else hidden_size * (1 + bidirectional), hidden_size, save_prev_x, zoneout,
                    window, output_gate, bias=bias, device=device, dtype=dtype,
                )
                for k in range(num_layers)
            ]  # fmt: skip
        self.layers: Any = nn.ModuleList(layers)

    def reset(self) -> None:
        """Let every layer forget the inputs that `save_prev_x` kept."""
        for layer in self.layers:
            layer.reset()

    def reset_parameters(self) -> None:
        """Draw new weights, as `torch.nn.Linear` draws them."""
        for layer in self.layers:
            layer.reset_parameters()

    def flatten_parameters(self) -> None:
        """Do nothing: for `torch.nn.GRU`'s call sites."""

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """The parameters of each layer and direction, in a list of their own."""
        return [list(linear.parameters()) for layer in self.layers for linear in layer.children()]

    def extra_repr(self) -> str:
        """Return the arguments that are not the defaults."""
        return arguments.format_extra_repr(self)

    def initial_state(
        self, batch_size: int | None = None, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> QRNNState:
        """Return the state before any input, zeros: as `QRNNLayer.initial_state`, for all layers."""
        _state.check_layers(self.layers)
        states = [layer.initial_state(batch_size, device=device, dtype=dtype) for layer in self.layers]
        return _state.join(states)  # type: ignore[no-any-return]

    @names.closed
    def forward(
        self,
        input: Tensor | PackedSequence,
        hidden: Tensor | Sequence[Tensor | None] | QRNNState | None = None,
        *,
        hx: Tensor | Sequence[Tensor | None] | QRNNState | None = None,
        offsets: Any = None,
        resets: Any = None,
        **unknown: Any,
    ) -> tuple[Any, Any]:
        """Return the output and the last states.

        Parameters
        ----------
        input : Tensor or PackedSequence
            (T, B, `input_size`); (B, T, `input_size`) if `batch_first`; (T, `input_size`) for one sequence; or packed.
        hidden, hx : Tensor, list of Tensor or QRNNState, optional
            The states before the first step (two names, of which `torch.nn.GRU` has the second): (L*D, B, H), or
            (L*D, H) for one sequence; or a list of L*D states (1, B, H_i), in which None is zeros. Zeros if left out. A
            `QRNNState` holds the inputs before the first step too: give it where a sequence comes in chunks. In a
            bidirectional network they are the forward directions', and the reverse directions begin anew at the end of
            each chunk, so that chunks do not make a whole.
        offsets : array_like of int, optional
            Where each of N sequences begins that are packed one after another in an input (total, `input_size`), and
            the end: 0, ..., total. There are states for each of them: (L*D, N, H). A sequence without steps hands its
            state on.
        resets : array_like of bool, optional
            True where a sequence begins anew: (T, B), or (B, T) if `batch_first`, or (T,). Neither a state nor the
            window passes the border before such a step, in either direction. Where the first step has a flag, the
            state of a reverse direction is 0 afterwards, as no state passes on. Both may be on the host, too; on a
            GPU the host does not look at them.

        Returns
        -------
        output : Tensor or PackedSequence
            The last layer's ``h`` in the input's form, with D*H features.
        h_n : Tensor, list of Tensor or QRNNState
            The states ``c`` of each layer and direction after the last valid step in its scan direction, before the
            output gate, as `hidden` takes them: a list where the layers' sizes differ. A `QRNNState` if one was given.
        """
        if unknown:
            raise names.refused(QRNN.forward, unknown)
        rows, batch_sizes, is_batched, batch, hidden, cut = arguments.open_call(
            self, input, hidden, hx, offsets, resets, []
        )
        if hidden is None and batch_sizes is not None and torch.compiler.is_dynamo_compiling():
            # By them layers know how many sequences there are.
            states: list[Any] = [rows.new_zeros(1 + self.bidirectional, batch, v.hidden_size) for v in self.layers]
        else:
            states = _state.of_network(self, hidden, rows, batch, is_batched)
        is_given = batch_sizes is not None or offsets is not None  # layers take the input as it is
        step, lasts = self._through(input if is_given else rows, states, **cut._asdict() if cut else {})
        output = step if is_given else arguments.repack_output(self, step, input)
        return output, _state.join(lasts, is_batched)

    def step(self, input: Tensor, state: QRNNState) -> tuple[Tensor, QRNNState]:
        """Return the output at one step, and the state after it: what the whole call gives at that step.

        Each layer's `linear` is called as a module, so that its hooks hold; those of the layers themselves do not.

        Parameters
        ----------
        input : Tensor
            (B, `input_size`), or (`input_size`,) for one sequence. The output is (B, H), or (H,).
        state : QRNNState
            As `initial_state`, `forward` or `step` returned it.
        """
        is_alone = len(layers := self.layers) == 1 and type(layers[0]) is QRNNLayer  # which checks the same
        if is_alone and getattr(getattr(state, "hidden", None), "ndim", 0) == getattr(input, "ndim", 0) + 1:
            return layers[0].step(input, state)  # type: ignore[no-any-return]
        turns = {getattr(layer, "reverse", False) for layer in self.layers}
        rows, is_batched = _state.rows_of_step(input, state, not self.bidirectional and len(turns) == 1)
        firsts = _state.of_network(self, state, rows, rows.shape[0], is_batched, "state.hidden")
        rows, lasts = self._through(rows, firsts, lambda layer, *given: layer.step(*given))
        return rows if is_batched else rows.squeeze(0), _state.join(lasts, is_batched)

    def _through(self, step: Any, states: list[Any], call: Any = None, **cut: Any) -> tuple[Any, list[Any]]:
        """Return the last layer's output, and the last states of all; layers are called, or by a ``call`` of them."""
        lasts = []
        for k, (layer, state) in enumerate(zip(self.layers, states, strict=True)):
            if k > 0 and self.dropout > 0 and self.training:
                step = arguments.drop_out(step, self.dropout)
            step, last = layer(step, state, **cut) if call is None else call(layer, step, state)
            lasts.append(last)
        return step, lasts
