"""A layer of the quasi-recurrent network: one matrix product over time, pooled by the recurrence."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .._arguments import messages as say
from . import state as _state
from ._rnn import arguments, pooling
from ._rnn.windows import windows
from .state import QRNNState

FORWARD, REVERSE = "", "_reverse"  # what the names of a direction's weights end with


class QRNNLayer(nn.Module):
    r"""One layer of a quasi-recurrent network: a matrix product over all steps, pooled by the recurrence.

    ``z[t], f[t], o[t] = tanh(W_z @ s[t] + b_z), sigmoid(W_f @ s[t] + b_f), sigmoid(W_o @ s[t] + b_o)``,
    ``c[t] = f[t]*z[t] + (1 - f[t])*c[t-1]``, ``h[t] = o[t]*c[t]``

    .. math::

        z_t, f_t, o_t &= \tanh(W_z s_t + b_z),\ \sigma(W_f s_t + b_f),\ \sigma(W_o s_t + b_o) \\
        c_t &= f_t z_t + (1 - f_t) c_{t-1} \\
        h_t &= o_t c_t

    where :math:`s_t = (x_t, x_{t-1}, \ldots)` are the `window` last inputs, the present one first. With `reverse` time
    runs the other way: :math:`c_{t+1}` replaces :math:`c_{t-1}`, and the window looks at later inputs. The gate ``f``
    multiplies the *candidate*, as in torchqrnn; in the paper [1]_ it multiplies the *state*, and is ``1 - f`` here.

    Parameters
    ----------
    input_size, hidden_size : int
        Features of the input, and of the output, ``H``, which are `input_size` if left out.
    save_prev_x : bool, default False
        For torchqrnn's call sites: keep the last ``window - 1`` inputs, detached, on the module (``prevX``) for the
        next call, until `reset`. They are no part of the state dict. Where they would be lost (export, transforms,
        checkpointing), a call raises RuntimeError. A `QRNNState` has none of these limits: see `initial_state`.
    zoneout : float, default 0
        How probable it is, in training, that an element keeps its state for a step: its ``f`` is made 0, and the others
        are not rescaled. In evaluation ``f`` is multiplied by ``1 - zoneout``.
    window : int, default 1
        How many inputs a step sees.
    output_gate : bool, default True
        Without it ``h`` is ``c``, and `linear` has ``2H`` rows.
    use_cuda : bool
        For torchqrnn's call sites only: it changes nothing.
    bias, device, dtype : optional
        Of `linear`: whether it has a bias, True by default, and the device and dtype of its weights.
    batch_first : bool, default False
        The input and output are (B, T, features). Does not affect the states.
    reverse : bool, default False
        Scan from the last step to the first.

    Attributes
    ----------
    linear : Module
        The product, whose weight has ``3H`` rows, for z, f and o in this order, and ``window*input_size`` columns, the
        present input's first. It is called as a module, so that it may be hooked, pruned, quantized or replaced, by a
        `WeightDrop` for example. On the CPU a plain one's product is made without the call: in blocks if there are no
        gradients, and in float32 by oneDNN on AMD's processors from Zen 5 on. Last digits may differ from `linear`'s.

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
        arguments.check_sizes(input_size=input_size, hidden_size=hidden_size, window=window)
        arguments.check_flags(
            save_prev_x=save_prev_x, output_gate=output_gate, bias=bias, batch_first=batch_first, reverse=reverse
        )
        self.input_size, self.hidden_size, self.window = input_size, hidden_size, window
        self.zoneout = arguments.probability("zoneout", zoneout)
        self.save_prev_x, self.output_gate = save_prev_x, output_gate
        self.bias, self.batch_first, self.reverse = bias, batch_first, reverse
        for direction in self._directions:
            linear = nn.Linear(window * input_size, (2 + output_gate) * hidden_size, bias, device=device, dtype=dtype)
            self.register_module("linear" + direction, linear)
        # No buffer: those are averaged and sent to other processes, and this is a process's own place in its data.
        self.prevX: Tensor | None = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QRNNLayer:
        super()._apply(fn, recurse)
        self.prevX = None if self.prevX is None else fn(self.prevX)
        return self

    def reset(self) -> None:
        """Forget the inputs that `save_prev_x` kept."""
        self.prevX = None

    def initial_state(
        self, batch_size: int | None = None, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> QRNNState:
        """Return the state before any input: zeros, for ``batch_size`` sequences, or for one without a batch.

        The device and the dtype are the weights', if left out and these are floating-point numbers. Beside weights in
        half precision ``dtype=torch.float32`` is the hidden state's, which then stays in float32 from call to call.
        """
        arguments.check_batch_size(batch_size)
        weight = next(self.parameters(), None)
        if weight is not None and weight.is_floating_point():
            device, dtype = device or weight.device, dtype or weight.dtype
        batch = () if batch_size is None else (batch_size,)
        hidden = torch.zeros(len(self._directions), *batch, self.hidden_size, device=device, dtype=dtype)
        if self.window == 1:
            return QRNNState(hidden, (None,))
        kind = weight.dtype if weight is not None and pooling.is_wide(dtype, weight.dtype) else dtype
        inputs = torch.zeros(self.window - 1, *batch, self.input_size, device=device, dtype=kind)
        return QRNNState(hidden, (inputs,))

    def reset_parameters(self) -> None:
        """Draw new weights, as `torch.nn.Linear` draws them."""
        for direction in self._directions:
            getattr(self, "linear" + direction).reset_parameters()

    def extra_repr(self) -> str:
        """Return the arguments that are not the defaults."""
        return arguments.format_extra_repr(self)

    def forward(
        self,
        input: Tensor | PackedSequence,
        hidden: Tensor | QRNNState | None = None,
        *,
        hx: Tensor | QRNNState | None = None,
        offsets: Any = None,
        resets: Any = None,
    ) -> tuple[Any, Any]:
        """Return the output and the last state: arguments and results are those of `QRNN.forward`, with L = 1.

        ``hidden`` may lack the first axis, (B, H) or (H,), in one direction. The state that is returned has it.
        """
        rows, batch_sizes, is_batched, batch, hidden, cut = arguments.open_call(
            self, input, hidden, hx, offsets, resets, self._direction_weights()
        )
        given = hidden if isinstance(hidden, QRNNState) else None
        saves = given is None and self.save_prev_x and self.window > 1
        previous = None
        if given is not None:
            previous, hidden = _state.inputs_of_layer(self, given, rows, batch, is_batched), given.hidden
        elif saves:
            if cut is not None:
                raise RuntimeError(say.rnn_segments_saved("resets" if offsets is None else "offsets"))
            _state.check_saved(self, rows, batch)
            previous = self.prevX
        states = _state.of_layer(self, hidden, rows, batch, is_batched, given is not None)
        if states is not None and isinstance(input, PackedSequence) and input.sorted_indices is not None:
            states = states.index_select(1, input.sorted_indices)

        packed, keeps, kept = input if isinstance(input, PackedSequence) else None, saves or given is not None, []
        look = functools.partial(windows, packed=packed, batch=batch) if cut is None else cut.windows

        def see(direction: str) -> Tensor:
            # No inputs are known beyond the end: the other direction begins anew there.
            known = (previous, self.reverse, keeps) if direction == FORWARD else (None, True, False)
            source, last = look(rows, self.window, *known)
            kept.append(last)
            return source  # type: ignore[no-any-return]

        output, last = self._scan(
            see, states, may_be_wide=given is not None, batch_sizes=batch_sizes, batch=batch, cut=cut
        )
        if isinstance(input, PackedSequence) and input.unsorted_indices is not None:
            last = last.index_select(1, input.unsorted_indices)
        if saves:
            self.prevX = None if kept[0] is None else kept[0].detach()
        state = last if given is None else QRNNState(last, (kept[0],))
        return arguments.repack_output(self, output, input), _state.join([state], is_batched)

    def step(self, input: Tensor, state: QRNNState) -> tuple[Tensor, QRNNState]:
        """Return the output at one step, and the state after it: as `QRNN.step`, with `reverse` the last step first."""
        rows, is_batched = _state.rows_of_step(input, state, len(self._directions) == 1)
        arguments.check_input(rows, self.input_size, self._direction_weights())
        previous = _state.inputs_of_layer(self, state, rows, rows.shape[0], is_batched)
        hidden = _state.of_layer(self, state.hidden, rows, rows.shape[0], is_batched, True, "state.hidden")
        source, last_inputs = rows, None
        if self.window > 1:
            source, last_inputs = windows(rows.unsqueeze(0), self.window, previous, self.reverse, True)
            source = source.squeeze(0)
        product = getattr(self, "linear" + FORWARD)(source)
        self._check_product(FORWARD, product.shape[-1])
        c0 = None if hidden is None else pooling.first_state(hidden[0], product.dtype, True)
        h, c = pooling.pool_step(product, c0, output_gate=self.output_gate, keep=self._keep(product))
        last = QRNNState(c.unsqueeze(0), (last_inputs,))
        return h if is_batched else h.squeeze(0), _state.join([last], is_batched)

    def _scan(self, see: Any, states: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """Return the output and the last states, (D, B, H), of what steps see in a direction."""
        firsts = [None] * len(self._directions) if states is None else states
        both = zip(self._directions, firsts, strict=True)
        outputs, lasts = zip(*[self._travel(d, see(d), c0, **options) for d, c0 in both], strict=True)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1), torch.stack(lasts)

    def _travel(
        self,
        direction: str,
        source: Tensor,
        c0: Any,
        *,
        recurrence: Any = None,
        may_be_wide: bool = False,
        **options: Any,
    ) -> Any:
        """Return a direction's output and its last state, by another recurrence than this process's perhaps."""
        linear = getattr(self, "linear" + direction)
        options |= {"output_gate": self.output_gate, "reverse": self.reverse or direction == REVERSE}
        draws = self.training and self.zoneout > 0
        may_fuse = recurrence is None and not draws and pooling.is_unhooked_linear(linear)
        if may_fuse and pooling.is_inference(source, linear, c0, options.get("cut")):
            self._check_product(direction, linear.weight.shape[0])
            return pooling.layer_inference(source, linear.weight, linear.bias, c0, keep=self._keep(None), **options)
        product = pooling.product_of(linear, source)
        self._check_product(direction, product.shape[-1])
        keep = self._keep(product)
        # The product's dtype was chosen for the whole layer, by autocast for example.
        c0 = pooling.first_state(c0, product.dtype, may_be_wide)
        return pooling.pool(product, c0, keep=keep, recurrence=recurrence, **options)

    def _check_product(self, direction: str, features: int) -> None:
        wanted = (2 + self.output_gate) * self.hidden_size
        if features != wanted:
            raise RuntimeError(say.rnn_product("linear" + direction, features, wanted))

    def _keep(self, product: Any) -> Any:
        """Return what zoneout multiplies the gates by: None, a number, or, in training, a mask."""
        if self.zoneout == 0:
            return None
        if not self.training:
            return 1 - self.zoneout
        return torch.empty_like(product[..., : self.hidden_size], requires_grad=False).bernoulli_(1 - self.zoneout)

    def _direction_weights(self) -> list[Tensor]:
        """Return the weights that the input meets, where they are a plain Linear's."""
        linears = (getattr(self, "linear" + direction) for direction in self._directions)
        return [linear.weight for linear in linears if pooling.is_unhooked_linear(linear)]


class BothDirections(QRNNLayer):
    """A layer that runs in both directions, each with its own product; outputs are concatenated."""

    _directions = FORWARD, REVERSE
