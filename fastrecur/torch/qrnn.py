"""The quasi-recurrent network: layers that pool one matrix product over time."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as _global
from torch.nn.utils.rnn import PackedSequence

from .. import _messages as say
from . import _modes, _pooling, _tensors
from ._windows import packed_windows, windows

__all__ = ["QRNN", "QRNNLayer"]

FORWARD, REVERSE = "", "_reverse"  # what the names of a direction's weights and of its saved inputs end with


class QRNNLayer(nn.Module):
    r"""One layer of a quasi-recurrent network: a matrix product over all steps, pooled by the recurrence.

    .. math::

        z_t, f_t, o_t &= \tanh(W_z s_t + b_z),\ \sigma(W_f s_t + b_f),\ \sigma(W_o s_t + b_o) \\
        c_t &= f_t z_t + (1 - f_t) c_{t-1} \\
        h_t &= o_t c_t

    where :math:`s_t = (x_t, x_{t-1}, \ldots)` are the `window` last inputs, the present one first. With `reverse` time
    runs the other way: :math:`c_{t+1}` stands for :math:`c_{t-1}`, and the window looks at later inputs.

    The gate ``f`` multiplies the *candidate*, as in torchqrnn; in the paper [1]_ it multiplies the *state*, and is
    ``1 - f`` here.

    Parameters
    ----------
    input_size : int
        Features of the input.
    hidden_size : int, optional
        Features of the output, ``H``; `input_size` if left out.
    save_prev_x : bool, default False
        Keep the last ``window - 1`` inputs, detached, for the next call, until `reset`: then a sequence in pieces, with
        the state handed on, gives what the whole gives. They are no part of the state dict.
    zoneout : float, default 0
        How probable it is, in training, that an element keeps its state for a step: its ``f`` is made 0, and the others
        are not rescaled. In evaluation ``f`` is multiplied by ``1 - zoneout``.
    window : int, default 1
        How many inputs a step sees.
    output_gate : bool, default True
        Without it ``h`` is ``c``, and `linear` has ``2H`` rows.
    use_cuda : bool
        For torchqrnn's call sites only: it changes nothing.
    bias : bool, default True
        Whether `linear` has a bias.
    batch_first : bool, default False
        Take and give (B, T, features). States are as ever.
    reverse : bool, default False
        Travel from the last step to the first.
    device, dtype : optional
        Of the weights.

    Attributes
    ----------
    linear : Module
        The product, whose weight has ``3H`` rows, for z, f and o in this order, and ``window*input_size`` columns, the
        present input's first. It is called as a module, so that it may be hooked, pruned, quantised or replaced, by a
        `WeightDrop` for example.
        Where no gradient is wanted on the CPU, a plain one's product is made in blocks that are pooled while they are
        in the cache, in float32 by oneDNN on AMD's processors from Zen 5 on: last digits may differ from training's.

    References
    ----------
    .. [1] J. Bradbury, S. Merity, C. Xiong, R. Socher, "Quasi-Recurrent Neural Networks", ICLR 2017,
       arXiv:1611.01576, equations (1) to (5), and "zoneout" in section 2.1.

    Examples
    --------
    >>> import torch
    >>> from fastrecur.torch import QRNNLayer
    >>> layer = QRNNLayer(3, 8, window=2)
    >>> h, c_last = layer(torch.randn(100, 5, 3))
    >>> h.shape, c_last.shape
    (torch.Size([100, 5, 8]), torch.Size([1, 5, 8]))
    """

    _directions: tuple[str, ...] = (FORWARD,)

    def __init__(
        self,
        input_size: int,
        hidden_size: int | None = None,
        save_prev_x: bool = False,
        zoneout: float = 0.0,
        window: int = 1,
        output_gate: bool = True,
        use_cuda: bool = True,
        *,
        bias: bool = True,
        batch_first: bool = False,
        reverse: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        hidden_size = input_size if hidden_size is None else hidden_size
        _check_sizes(input_size=input_size, hidden_size=hidden_size, window=window)
        _check_flags(
            save_prev_x=save_prev_x, output_gate=output_gate, bias=bias, batch_first=batch_first, reverse=reverse
        )
        self.input_size, self.hidden_size, self.window = input_size, hidden_size, window
        self.zoneout = _probability("zoneout", zoneout)
        self.save_prev_x, self.output_gate = save_prev_x, output_gate
        self.bias, self.batch_first, self.reverse = bias, batch_first, reverse
        for direction in self._directions:
            linear = nn.Linear(window * input_size, (2 + output_gate) * hidden_size, bias, device=device, dtype=dtype)
            self.register_module("linear" + direction, linear)
            # No buffer: those are averaged and sent to other processes, and this is a process's own place in its data.
            setattr(self, "prevX" + direction, None)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QRNNLayer:
        super()._apply(fn, recurse)
        for direction in self._directions:
            previous = getattr(self, "prevX" + direction)
            setattr(self, "prevX" + direction, None if previous is None else fn(previous))
        return self

    def reset(self) -> None:
        """Forget the inputs that `save_prev_x` kept."""
        for direction in self._directions:
            setattr(self, "prevX" + direction, None)

    def reset_parameters(self) -> None:
        """Draw new weights, as `torch.nn.Linear` draws them."""
        for direction in self._directions:
            getattr(self, "linear" + direction).reset_parameters()

    def extra_repr(self) -> str:
        """Return the arguments that are not the defaults."""
        return _written(self, ["bias", "batch_first", "window", "zoneout", "output_gate", "save_prev_x", "reverse"])

    def forward(
        self, input: Tensor | PackedSequence, hidden: Tensor | None = None, *, hx: Tensor | None = None
    ) -> tuple[Any, Tensor]:
        """Return the output and the last state.

        Parameters
        ----------
        input : Tensor or PackedSequence
            (T, B, `input_size`); (B, T, `input_size`) if `batch_first`; (T, `input_size`) for one sequence; or packed.
        hidden : Tensor, optional
            The state before the first step, (B, H) or (1, B, H); (H,) or (1, H) for one sequence. Zeros if left out.
        hx : optional
            Another name of `hidden`, as `torch.nn.GRU` has it.

        Returns
        -------
        output : Tensor or PackedSequence
            ``h``, in the input's form.
        state : Tensor
            The state ``c`` after the last valid step in the direction of travel, before the output gate: (1, B, H), or
            (1, H) for one sequence.
        """
        hidden = _hidden_or_hx(hidden, hx)
        rows, batch_sizes, is_batched = _opened(self, input)
        _check_input(rows, self.input_size, self._direction_weights())
        states = self._first_states(hidden, rows, batch_sizes, is_batched)
        if states is not None and isinstance(input, PackedSequence) and input.sorted_indices is not None:
            states = states.index_select(1, input.sorted_indices)
        if self.save_prev_x and self.window > 1:
            self._check_previous(rows, batch_sizes)

        outputs, lasts, kept = [], [], []
        for k, direction in enumerate(self._directions):
            c0 = None if states is None else states[k]
            h, c, last_inputs = self._travel(direction, rows, input, batch_sizes, c0)
            outputs.append(h)
            lasts.append(c)
            kept.append(last_inputs)
        for direction, last_inputs in zip(self._directions, kept, strict=True):
            if last_inputs is not None:
                setattr(self, "prevX" + direction, last_inputs)
        output = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
        state = torch.stack(lasts)
        if isinstance(input, PackedSequence) and input.unsorted_indices is not None:
            state = state.index_select(1, input.unsorted_indices)
        return _closed(self, output, input), state if is_batched else state.squeeze(1)

    def _travel(
        self, direction: str, rows: Tensor, input: Any, batch_sizes: Tensor | None, c0: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return a direction's output, its last state, and the inputs to keep for the next call."""
        linear, previous = (getattr(self, name + direction) for name in ("linear", "prevX"))
        reverse = self.reverse or direction == REVERSE
        options = {"output_gate": self.output_gate, "reverse": reverse}
        if batch_sizes is None:
            source, last_inputs = windows(rows, self.window, previous, reverse, self.save_prev_x)
        else:
            source, last_inputs = packed_windows(rows, self.window, previous, reverse, self.save_prev_x, input)
        if self._draws_no_mask() and _is_plain(linear) and _is_inference(source, linear, c0):
            self._check_product(direction, linear.weight.shape[0])
            h, c = _pooling.layer_inference(
                source, linear.weight, linear.bias, c0, batch_sizes=batch_sizes, keep=self._keep(None), **options
            )
            return h, c, last_inputs
        product = linear(source)
        self._check_product(direction, product.shape[-1])
        keep = self._keep(product)
        if c0 is not None and c0.dtype != product.dtype:
            c0 = c0.to(product.dtype)  # the product's dtype was chosen for the whole layer, by autocast for example
        if batch_sizes is None:
            h, c = _pooling.pool(product, c0, keep=keep, **options)
        else:
            h, c = _pooling.pool_packed(product, batch_sizes, c0, keep=keep, **options)
        return h, c, last_inputs

    def _check_product(self, direction: str, features: int) -> None:
        wanted = (2 + self.output_gate) * self.hidden_size
        if features != wanted:
            raise RuntimeError(say.rnn_product("linear" + direction, features, wanted))

    def _draws_no_mask(self) -> bool:
        return not self.training or self.zoneout == 0

    def _keep(self, product: Any) -> Any:
        """Return what zoneout multiplies the gates by: None, a number, or, in training, a mask."""
        if self.zoneout == 0:
            return None
        if not self.training:
            return 1 - self.zoneout
        mask = torch.empty_like(product[..., : self.hidden_size], requires_grad=False)
        return mask.bernoulli_(1 - self.zoneout)

    def _direction_weights(self) -> list[Tensor]:
        """Return the weights that the input meets, where they are a plain Linear's."""
        linears = (getattr(self, "linear" + direction) for direction in self._directions)
        return [linear.weight for linear in linears if type(linear) is nn.Linear]

    def _first_states(self, hidden: Any, rows: Tensor, batch_sizes: Tensor | None, is_batched: bool) -> Any:
        """Return the first states as (directions, B, H), checked."""
        if hidden is None:
            return None
        if not isinstance(hidden, Tensor):
            raise TypeError(say.rnn_hidden_type(type(hidden)))
        directions, lanes = len(self._directions), rows.shape[1] if batch_sizes is None else int(batch_sizes[0])
        wanted = (directions, lanes, self.hidden_size) if is_batched else (directions, self.hidden_size)
        if directions == 1 and hidden.dim() == len(wanted) - 1:
            hidden = hidden.unsqueeze(0)
        if hidden.shape != wanted:
            raise RuntimeError(say.rnn_hidden_shape(hidden.shape, wanted))
        if hidden.dtype != rows.dtype and not torch.is_autocast_enabled(rows.device.type):
            raise RuntimeError(say.rnn_hidden_dtype(hidden.dtype, rows.dtype))
        return hidden if is_batched else hidden.unsqueeze(1)

    def _check_previous(self, rows: Tensor, batch_sizes: Tensor | None) -> None:
        if getattr(self, "_is_replica", False):  # nn.DataParallel's mark
            raise RuntimeError(say.rnn_replica())
        lanes = rows.shape[1] if batch_sizes is None else int(batch_sizes[0])
        wanted = (self.window - 1, lanes, self.input_size), rows.dtype, rows.device
        for direction in self._directions:
            previous = getattr(self, "prevX" + direction)
            if previous is not None:
                came = tuple(previous.shape), previous.dtype, previous.device
                if came != wanted:
                    raise RuntimeError(say.rnn_previous("prevX" + direction, came, wanted))


class _BothDirections(QRNNLayer):
    """A layer that travels both ways, of which each has its own product; outputs stand side by side."""

    _directions = FORWARD, REVERSE


class QRNN(nn.Module):
    r"""A quasi-recurrent network of several layers, called as `torch.nn.GRU` is.

    Each layer is a `QRNNLayer`, whose page has the formulas.

    Parameters
    ----------
    input_size : int
        Features of the input.
    hidden_size : int, optional
        Features of each layer and direction, ``H``; `input_size` if left out.
    num_layers : int, default 1
        How many layers, ``L``, each of which reads the output of the one before.
    bias : bool, default True
        Whether the products have a bias.
    batch_first : bool, default False
        Take and give (B, T, features). States are as ever.
    dropout : float, default 0
        The probability of dropout on the output of each layer but the last, in training.
    bidirectional : bool, default False
        Let every layer travel both ways (``D = 2``, else 1); the next layer reads both.
    layers : iterable of QRNNLayer, optional
        Ready layers, whose sizes may differ, in place of those that the other arguments describe. The network's sizes
        are theirs then.
    window, zoneout, output_gate, save_prev_x : optional
        As `QRNNLayer` takes them, for every layer.
    use_cuda : bool
        For torchqrnn's call sites only: it changes nothing.
    device, dtype : optional
        Of the weights.

    Attributes
    ----------
    layers : ModuleList
        The layers. The state dict has torchqrnn's names, ``layers.0.linear.weight`` and so on; the other direction's
        are ``layers.0.linear_reverse.weight`` and so on.

    See Also
    --------
    QRNNLayer : one layer, which may travel in reverse.

    Examples
    --------
    >>> import torch
    >>> from fastrecur.torch import QRNN
    >>> rnn = QRNN(10, 20, 2)  # before: torch.nn.GRU(10, 20, 2)
    >>> output, h_n = rnn(torch.randn(5, 3, 10), torch.randn(2, 3, 20))
    >>> output.shape, h_n.shape
    (torch.Size([5, 3, 20]), torch.Size([2, 3, 20]))
    """

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
        _check_sizes(input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        _check_flags(bias=bias, batch_first=batch_first, bidirectional=bidirectional)
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.bidirectional = bias, batch_first, bidirectional
        self.dropout = _probability("dropout", dropout)
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
            self.hidden_size = _check_chain(layers, input_size)
        else:
            kind = _BothDirections if bidirectional else QRNNLayer
            layers = [
                kind(
                    input_size if k == 0 else hidden_size * (1 + bidirectional), hidden_size, save_prev_x, zoneout,
                    window, output_gate, bias=bias, device=device, dtype=dtype,
                )
                for k in range(num_layers)
            ]  # fmt: skip
        self.layers = nn.ModuleList(layers)

    def reset(self) -> None:
        """Let every layer forget the inputs that `save_prev_x` kept."""
        layer: Any
        for layer in self.layers:
            layer.reset()

    def reset_parameters(self) -> None:
        """Draw new weights, as `torch.nn.Linear` draws them."""
        layer: Any
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
        names = ["num_layers", "bias", "batch_first", "dropout", "bidirectional"]
        return _written(self, names)

    def forward(
        self,
        input: Tensor | PackedSequence,
        hidden: Tensor | Sequence[Tensor | None] | None = None,
        *,
        hx: Tensor | Sequence[Tensor | None] | None = None,
    ) -> tuple[Any, Any]:
        """Return the output and the last states.

        Parameters
        ----------
        input : Tensor or PackedSequence
            (T, B, `input_size`); (B, T, `input_size`) if `batch_first`; (T, `input_size`) for one sequence; or packed.
        hidden : Tensor or list of Tensor, optional
            The states before the first step, (L*D, B, H), or (L*D, H) for one sequence; or a list of L*D states
            (1, B, H_i), in which None is zeros. Zeros if left out.
        hx : optional
            Another name of `hidden`, as `torch.nn.GRU` has it.

        Returns
        -------
        output : Tensor or PackedSequence
            The last layer's ``h`` in the input's form, with D*H features.
        h_n : Tensor or list of Tensor
            The states ``c`` of each layer and direction after the last valid step in its direction of travel, before
            the output gate, as `hidden` takes them: a list where the layers' sizes differ.
        """
        hidden = _hidden_or_hx(hidden, hx)
        rows, batch_sizes, is_batched = _opened(self, input)
        _check_input(rows, self.input_size, [])
        states = self._first_states(hidden, rows, batch_sizes, is_batched)
        step: Any = rows if batch_sizes is None else input
        h_n: list[Tensor] = []
        for k, (layer, state) in enumerate(zip(self.layers, states, strict=True)):
            if k > 0 and self.dropout > 0 and self.training:
                step = _dropped(step, self.dropout)
            step, state = layer(step, state)
            h_n.append(state if is_batched else state.squeeze(1))
        output = _closed(self, step, input) if batch_sizes is None else step
        same = len({state.shape[-1] for state in h_n}) == 1
        return output, torch.cat(h_n) if same else h_n

    def _first_states(self, hidden: Any, rows: Tensor, batch_sizes: Tensor | None, is_batched: bool) -> Any:
        """Return the first state of every layer, (D, B, H) or None, checked."""
        directions, layers = 1 + self.bidirectional, len(self.layers)
        if hidden is None:
            return [None] * layers
        lanes = rows.shape[1] if batch_sizes is None else int(batch_sizes[0])
        sizes: list[Any] = [layer.hidden_size for layer in self.layers]
        if isinstance(hidden, Tensor):
            if len(set(sizes)) > 1:
                raise RuntimeError(say.rnn_hidden_sizes(sizes))
            if hidden.dim() != 2 + is_batched:
                raise RuntimeError(say.rnn_hidden_dim(is_batched, hidden.dim()))
            wanted = (layers * directions, *([lanes] * is_batched), sizes[0])
            if hidden.shape != wanted:
                raise RuntimeError(say.rnn_hidden_shape(hidden.shape, wanted))
            states = hidden if is_batched else hidden.unsqueeze(1)
            return list(states.split(directions))
        if not isinstance(hidden, (list, tuple)):
            raise TypeError(say.rnn_hidden_type(type(hidden)))
        if len(hidden) != layers * directions:
            raise RuntimeError(say.rnn_hidden_count(len(hidden), layers * directions))
        given: list[Any] = []
        for k, state in enumerate(hidden):
            wanted = (1, *([lanes] * is_batched), sizes[k // directions])
            if state is None:
                given.append(rows.new_zeros(1, lanes, wanted[-1]) if directions == 2 else None)
                continue
            if not isinstance(state, Tensor):
                raise TypeError(say.rnn_hidden_type(type(state)))
            if state.shape not in (wanted, wanted[1:]):
                raise RuntimeError(say.rnn_hidden_shape(state.shape, wanted))
            given.append(state.reshape(1, lanes, wanted[-1]))
        if directions == 1:
            return given
        return [torch.cat(given[k : k + 2]) for k in range(0, len(given), 2)]


def _hidden_or_hx(hidden: Any, hx: Any) -> Any:
    """Return the first states, which have two names."""
    if hidden is not None and hx is not None:
        raise TypeError(say.rnn_two_hidden())
    return hidden if hx is None else hx


def _opened(module: Any, input: Any, least: int = 1) -> tuple[Tensor, Tensor | None, bool]:
    """Return rows, (T, B, features) or packed, (N, features); batch sizes if packed; and whether there is a batch."""
    if isinstance(input, PackedSequence):
        if input.data.dim() != 2:
            raise RuntimeError(say.rnn_packed_dim(input.data.dim()))
        return input.data, input.batch_sizes, True
    if not isinstance(input, Tensor):
        raise TypeError(say.rnn_input_kind(type(input)))
    if input.dim() not in (2, 3):
        raise ValueError(say.rnn_input_dim(input.dim()))
    if input.dim() == 2:
        rows = input.unsqueeze(1)
    else:
        rows = input.transpose(0, 1) if module.batch_first else input
    if rows.shape[0] < least:
        raise RuntimeError(say.rnn_no_steps())
    return rows, None, input.dim() == 3


def _closed(module: Any, rows: Any, input: Any) -> Any:
    """Return rows in the input's form."""
    if isinstance(input, PackedSequence):
        return PackedSequence(rows, *input[1:])
    if input.dim() == 2:
        return rows.squeeze(1)
    return rows.transpose(0, 1) if module.batch_first else rows


def _check_input(rows: Tensor, size: int, weights: list[Tensor]) -> None:
    if rows.shape[-1] != size:
        raise RuntimeError(say.rnn_input_size(rows.shape[-1], size))
    for weight in weights:
        if weight.dtype != rows.dtype and not torch.is_autocast_enabled(rows.device.type):
            raise ValueError(say.rnn_input_dtype(rows.dtype, weight.dtype))


def _dropped(step: Any, p: float) -> Any:
    if isinstance(step, PackedSequence):
        return PackedSequence(nn.functional.dropout(step.data, p), *step[1:])
    return nn.functional.dropout(step, p)


def _is_plain(linear: nn.Module) -> bool:
    """Return whether a module is a `torch.nn.Linear` and nothing else: its call may be left out."""
    return (
        type(linear) is nn.Linear
        and "forward" not in linear.__dict__
        and linear._compiled_call_impl is None
        and not (
            linear._forward_hooks
            or linear._forward_pre_hooks
            or linear._backward_hooks
            or linear._backward_pre_hooks
            or _global._global_forward_hooks
            or _global._global_forward_pre_hooks
            or _global._global_backward_hooks
            or _global._global_backward_pre_hooks
        )
    )


def _is_inference(source: Tensor, linear: Any, c0: Tensor | None) -> bool:
    """Return whether torch has nothing in play but numbers in CPU memory: no gradient, transform, mode or autocast."""
    weight, bias, dtype = linear.weight, linear.bias, source.dtype
    tensors = [v for v in (source, weight, bias, c0) if v is not None]
    if dtype not in _tensors.FLOATING or not _modes.no_modes_active():
        return False
    for tensor in tensors:
        if not _modes.kernel_can_read(tensor) or tensor.dtype is not dtype:
            return False
    return (
        (bias is None or bias.shape == weight.shape[:1] and bias.is_contiguous())
        and not (torch.is_grad_enabled() and any(v.requires_grad for v in tensors))
        and not torch.is_autocast_enabled("cpu")
    )


def _check_sizes(**sizes: Any) -> None:
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool):
            raise TypeError(say.rnn_number(name, "of type int", size))
        if size <= 0:
            raise ValueError(say.rnn_greater_than_zero(name, size))


def _check_flags(**flags: Any) -> None:
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise TypeError(say.rnn_number(name, "of type bool", flag))


def _probability(name: str, p: Any) -> float:
    if not isinstance(p, numbers.Real) or isinstance(p, bool) or not 0 <= float(p) <= 1:
        raise ValueError(say.rnn_dropout(p) if name == "dropout" else say.rnn_number(name, "a number in [0, 1]", p))
    return float(p)


def _check_chain(layers: list[Any], size: int) -> int:
    """Check that ready layers fit one another; return the last one's size."""
    for k, layer in enumerate(layers):
        if not (hasattr(layer, "input_size") and hasattr(layer, "hidden_size")):
            raise TypeError(say.rnn_layer_kind(k, type(layer)))
        if getattr(layer, "batch_first", False):
            raise ValueError(say.rnn_layers_batch_first(k))
        if layer.input_size != size:
            raise ValueError(say.rnn_layers_chain(k, layer.input_size, size))
        size = layer.hidden_size
    return size


_DEFAULTS = {
    "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0, "bidirectional": False, "window": 1,
    "zoneout": 0, "output_gate": True, "save_prev_x": False, "reverse": False,
}  # fmt: skip


def _written(module: Any, names: list[str]) -> str:
    values = [(name, getattr(module, name)) for name in names]
    options = [f"{name}={value}" for name, value in values if value != _DEFAULTS[name]]
    return ", ".join([str(module.input_size), str(module.hidden_size), *options])
