"""What the modules take: sizes, flags, inputs in each of their forms and their products, checked."""

import numbers

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..._arguments import messages as say
from .._operator import modes
from . import ops, segments


def open_call(module, input, hidden, hx, offsets, resets, weights):
    """Return what a module is called with, checked: what `unpack_input` returns, how many series, states, and cuts."""
    if hidden is not None and hx is not None:
        raise TypeError(say.rnn_two_hidden())
    rows, batch_sizes, is_batched = unpack_input(module, input)
    cut = segments.cut(module, input, rows, offsets, resets)
    check_input(rows, module.input_size, weights)
    hidden = hx if hidden is None else hidden
    if batch_sizes is not None:
        batch = _n_packed(input, getattr(hidden, "hidden", hidden))
    else:
        batch = cut.n_series(rows) if cut else rows.shape[1]
    return rows, batch_sizes, is_batched or offsets is not None, batch, hidden, cut


def _n_packed(packed, hidden):
    """Return how many sequences are packed: to a compiler, which knows no numbers, by a shape where one tells."""
    if not modes.compiling():
        return int(packed.batch_sizes[0])
    states = hidden if isinstance(hidden, (list, tuple)) else [hidden]
    known = next((v for v in states if isinstance(v, Tensor) and v.dim() > 1), None)
    if packed.sorted_indices is not None:
        return packed.sorted_indices.shape[0]
    return ops.BATCH(packed.batch_sizes).shape[0] if known is None else known.shape[-2]


def unpack_input(module, input, least=1):
    """Return rows, (T, B, features) or packed, (N, features); batch sizes if packed; and whether there is a batch."""
    if isinstance(input, PackedSequence):
        if input.data.dim() != 2:
            raise RuntimeError(say.rnn_packed_dim(input.data.dim()))
        return input.data, input.batch_sizes, True
    if not isinstance(input, Tensor):
        raise TypeError(say.rnn_input_kind(type(input)))
    if input.dim() not in (2, 3):
        raise ValueError(say.rnn_input_dim(input.dim()))
    rows = input.unsqueeze(1) if input.dim() == 2 else input.transpose(0, 1) if module.batch_first else input
    if rows.shape[0] < least:
        raise RuntimeError(say.rnn_no_steps())
    return rows, None, input.dim() == 3


def repack_output(module, rows, input):
    if isinstance(input, PackedSequence):
        return PackedSequence(rows, *input[1:])
    return rows.squeeze(1) if input.dim() == 2 else rows.transpose(0, 1) if module.batch_first else rows


def check_input(rows, size, weights):
    if rows.shape[-1] != size:
        raise RuntimeError(say.rnn_input_size(rows.shape[-1], size))
    for weight in weights:
        if weight.is_meta and not rows.is_meta:
            raise RuntimeError(say.rnn_meta(rows.device))
        if weight.dtype != rows.dtype and not modes.is_autocast_enabled(rows.device):
            model = f", or convert model: model.to({rows.dtype})" if rows.is_floating_point() else ""
            raise ValueError(say.rnn_input_dtype(rows.dtype, weight.dtype, hint=model))


def drop_out(step, p):
    if isinstance(step, PackedSequence):
        return PackedSequence(nn.functional.dropout(step.data, p), *step[1:])
    return nn.functional.dropout(step, p)


def check_sizes(**sizes):
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool):
            raise TypeError(say.rnn_number(name, "of type int", size))
        if size <= 0:
            raise ValueError(say.rnn_number(name, "greater than zero", size))


def check_batch_size(size):
    if size is not None and (not isinstance(size, (numbers.Integral, torch.SymInt)) or isinstance(size, bool)):
        raise TypeError(say.rnn_number("batch_size", "of type int", size))
    if size is not None and size < 0:
        raise ValueError(say.at_least("batch_size", 0, size))


def check_flags(**flags):
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise TypeError(say.rnn_number(name, "of type bool", flag))


def probability(name, p):
    if not isinstance(p, numbers.Real) or isinstance(p, bool) or not 0 <= float(p) <= 1:
        raise ValueError(say.rnn_dropout(p) if name == "dropout" else say.rnn_number(name, "a number in [0, 1]", p))
    return float(p)


def check_chain(layers, size):
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


def format_extra_repr(module) -> str:
    values = [(name, getattr(module, name, default), default) for name, default in _DEFAULTS.items()]
    options = [f"{name}={value}" for name, value, default in values if value != default]
    return ", ".join([str(module.input_size), str(module.hidden_size), *options])
