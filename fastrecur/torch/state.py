"""The state of a stream: what a call goes on from, checked, and what the next one gets."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._arguments import messages as say
from ._operator import internals, modes
from ._rnn import pooling


class QRNNState(NamedTuple):
    """What a `QRNN` or a `QRNNLayer` goes on from: an argument of a call, and a result.

    A module's `initial_state` makes the first one. Nothing is kept on the module, so chunks are right under
    checkpoints, export and transforms, and in threads. A state owns its memory. Gradients flow through all of it;
    `detach` ends them.

    Parameters
    ----------
    hidden : Tensor or list of Tensor
        The states ``c`` of all layers and directions, as a call takes and gives them: (L*D, B, H), or (L*D, H) for one
        sequence; a list where the layers' sizes differ. Beside a network in half precision it may be float32, and then
        stays so from call to call: ``initial_state(dtype=torch.float32)``. Rounded at each call, or at each `step`, it
        would stop changing where gates are small.
    inputs : tuple of Tensor or None
        For each layer its last ``window - 1`` inputs in time order, (window - 1, B, I), or (window - 1, I) for one
        sequence; None for a window of 1. `torch.utils._pytree` takes None for a leaf: move a state with
        ``tree_map_only(Tensor, ...)``.

    Examples
    --------
    >>> import torch
    >>> from fastrecur.torch import QRNN
    >>> rnn, x = QRNN(3, 8, window=2), torch.randn(10, 5, 3)
    >>> state = rnn.initial_state(5)
    >>> first, state = rnn(x[:4], state)
    >>> second, state = rnn(x[4:], state)
    >>> torch.allclose(torch.cat([first, second]), rnn(x)[0], atol=1e-6)
    True
    """

    hidden: Any
    inputs: tuple[Tensor | None, ...]

    def detach(self) -> QRNNState:
        """Return the same state without a gradient."""
        several = isinstance(self.hidden, (list, tuple))
        hidden = [h.detach() for h in self.hidden] if several else self.hidden.detach()
        return QRNNState(hidden, tuple(None if v is None else v.detach() for v in self.inputs))


# So that a state, and a program of torch.export that takes one, can be saved and loaded.
torch.serialization.add_safe_globals([QRNNState])
internals.register_namedtuple(QRNNState, serialized_type_name="fastrecur.torch.QRNNState")


def hint_for(hidden: Any) -> str:
    """Return what to say of a pair that is no state: a `QRNNState` of which a function made tuples, or an LSTM's."""
    if not isinstance(hidden, (list, tuple)) or isinstance(hidden, QRNNState) or len(hidden) != 2:
        return ""
    return say.TAKEN_APART if isinstance(hidden[1], (list, tuple)) else say.ONE_STATE


def rows_of_step(input: Any, state: Any, one_direction: bool) -> tuple[Tensor, bool]:
    """Return one step's rows, (B, features), and whether there is a batch; raise for what `step` does not take."""
    if not one_direction:
        raise RuntimeError(say.rnn_step_directions())
    if not isinstance(input, Tensor):
        raise TypeError(say.rnn_step_input(type(input)))
    if input.dim() not in (1, 2):
        raise ValueError(say.rnn_step_dim(input.dim()))
    if not isinstance(state, QRNNState):
        raise TypeError(say.rnn_step_state(type(state), hint=hint_for(state)))
    return (input, True) if input.dim() == 2 else (input.unsqueeze(0), False)


def of_layer(
    layer: Any, hidden: Any, rows: Tensor, batch: int, is_batched: bool, may_be_wide: bool = False, name: str = "hidden"
) -> Any:
    """Return a layer's first states as (directions, B, H), checked; they may be float32 beside half precision."""
    if hidden is None:
        return None
    if not isinstance(hidden, Tensor):
        raise TypeError(say.rnn_hidden_type(name, type(hidden), hint=hint_for(hidden)))
    directions = len(layer._directions)
    wanted = (directions, batch, layer.hidden_size) if is_batched else (directions, layer.hidden_size)
    if directions == 1 and hidden.dim() == len(wanted) - 1:
        hidden = hidden.unsqueeze(0)
    if hidden.shape != wanted:
        raise RuntimeError(say.rnn_hidden_shape(name, list(hidden.shape), wanted, rows.shape))
    if hidden.device != rows.device:
        raise RuntimeError(say.rnn_hidden_device(name, hidden.device, rows.device))
    is_right = hidden.dtype == rows.dtype or (may_be_wide and pooling.is_wide(hidden.dtype, rows.dtype))
    if not is_right and not modes.is_autocast_enabled(rows.device):
        raise RuntimeError(say.rnn_hidden_dtype(name, hidden.dtype, rows.dtype))
    return hidden if is_batched else hidden.unsqueeze(1)


def inputs_of_layer(layer: Any, state: QRNNState, rows: Tensor, batch: int, is_batched: bool) -> Tensor | None:
    """Return the inputs before a layer's first, (window - 1, B, I), checked; None is zeros."""
    if layer.save_prev_x and layer.window > 1:
        raise RuntimeError(say.rnn_state_and_saved())
    _check_count(state, 1)
    inputs = state.inputs[0]
    if layer.window == 1 or inputs is None:
        if (layer.window == 1) != (inputs is None):
            raise RuntimeError(say.rnn_state_window("None" if inputs is None else "a tensor", layer.window))
        return None
    wanted = (layer.window - 1, *([batch] * is_batched), layer.input_size)
    _check_inputs("inputs", inputs, wanted, rows, modes.is_autocast_enabled(rows.device))
    return inputs if is_batched else inputs.unsqueeze(1)


def _check_count(state: QRNNState, layers: int) -> None:
    came = len(state.inputs) if isinstance(state.inputs, (tuple, list)) else state.inputs
    if came != layers:
        raise RuntimeError(say.rnn_state_layers(came, layers))


def _check_inputs(name: str, inputs: Tensor, shape: tuple[int, ...], rows: Tensor, any_dtype: bool) -> None:
    if inputs.shape != shape or inputs.device != rows.device or not (any_dtype or inputs.dtype == rows.dtype):
        came = tuple(inputs.shape), inputs.dtype, inputs.device
        raise RuntimeError(say.rnn_previous(name, came, (shape, rows.dtype, rows.device)))


def check_saved(layer: Any, rows: Tensor, batch: int) -> None:
    """Raise where the inputs that a module keeps would be lost, or are none of this call's."""
    lost = "nn.DataParallel" if internals.is_replica(layer) else modes.loses_attributes()
    if lost:
        raise RuntimeError(say.rnn_saved_lost(lost))
    if layer.prevX is not None:
        _check_inputs("prevX", layer.prevX, (layer.window - 1, batch, layer.input_size), rows, False)


def check_layers(layers: Any) -> None:
    """Raise unless each layer has a state of its own."""
    for k, layer in enumerate(layers):
        if not hasattr(layer, "initial_state"):
            raise TypeError(say.rnn_state_kind(k, type(layer)))


def of_network(network: Any, hidden: Any, rows: Tensor, batch: int, is_batched: bool, name: str = "hidden") -> Any:
    """Return what each layer of a network goes on from, checked: None, a tensor (D, B, H), or a `QRNNState`."""
    layers = list(network.layers)
    if hidden is None:
        return [None] * len(layers)
    directions = 1 + network.bidirectional
    if not isinstance(hidden, QRNNState):
        return _hidden_of_network(layers, directions, hidden, rows, batch, is_batched, name)
    check_layers(layers)
    _check_count(hidden, len(layers))
    firsts = _hidden_of_network(layers, directions, hidden.hidden, rows, batch, is_batched, name)
    inputs = hidden.inputs if is_batched else [None if v is None else v.unsqueeze(1) for v in hidden.inputs]
    return [QRNNState(first, (before,)) for first, before in zip(firsts, inputs, strict=True)]


def _hidden_of_network(
    layers: Any, directions: int, hidden: Any, rows: Tensor, batch: int, is_batched: bool, name: str
) -> Any:
    """Return the first state of every layer, (D, B, H) or None, checked."""
    sizes, states = [layer.hidden_size for layer in layers], len(layers) * directions
    if isinstance(hidden, Tensor):
        if len(set(sizes)) > 1:
            raise RuntimeError(say.rnn_hidden_sizes(name, tuple(sizes)))
        if hidden.dim() != 2 + is_batched:
            raise RuntimeError(say.rnn_hidden_dim(name, "" if is_batched else "un", 2 + is_batched, hidden.dim()))
        wanted = (states, *([batch] * is_batched), sizes[0])
        if hidden.shape != wanted:
            raise RuntimeError(say.rnn_hidden_shape(name, list(hidden.shape), wanted, rows.shape))
        hidden = hidden if is_batched else hidden.unsqueeze(1)
        return [hidden] if len(layers) == 1 else list(hidden.split(directions))
    hint = hint_for(hidden)
    if not isinstance(hidden, (list, tuple)) or isinstance(hidden, QRNNState) or hint == say.TAKEN_APART:
        raise TypeError(say.rnn_hidden_type(name, type(hidden), hint=hint))
    if len(hidden) != states:
        raise RuntimeError(say.rnn_hidden_count(name, len(hidden), states, hint=hint))
    given: list[Any] = []
    for k, state in enumerate(hidden):
        wanted = (1, *([batch] * is_batched), sizes[k // directions])
        if state is None:
            given.append(rows.new_zeros(1, batch, wanted[-1]) if directions == 2 else None)
            continue
        if not isinstance(state, Tensor):
            raise TypeError(say.rnn_hidden_type(name, type(state)))
        if state.shape not in (wanted, wanted[1:]):
            raise RuntimeError(say.rnn_hidden_shape(name, list(state.shape), wanted, rows.shape, hint))
        given.append(state.reshape(1, batch, wanted[-1]))
    return given if directions == 1 else [torch.cat(given[k : k + 2]) for k in range(0, len(given), 2)]


def join(lasts: list[Any], is_batched: bool = True) -> Any:
    """Return the states of layers, tensors or each a `QRNNState`, as a network's; of one sequence without a batch."""
    if len(lasts) == 1 and is_batched:
        return lasts[0]
    if isinstance(lasts[0], QRNNState):
        hidden = join([last.hidden for last in lasts], is_batched)
        inputs = [last.inputs[0] for last in lasts]
        return QRNNState(hidden, tuple(v if v is None or is_batched else v.squeeze(1) for v in inputs))
    if not is_batched:
        lasts = [last.squeeze(1) for last in lasts]
    same = all(last.shape[-1] == lasts[0].shape[-1] for last in lasts)  # while torch.jit traces, sizes are tensors
    return torch.cat(lasts) if same else lasts
