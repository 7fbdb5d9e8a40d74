"""A QRNN on many series in one axis of time: each runs as one sequence of a packed batch."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from .. import _checks
from .. import _messages as say
from . import _torch_internals as _internals
from . import state as _state
from ._rnn_arguments import check_input, repack_output, unpack_input
from .state import QRNNState


class Packed(NamedTuple):
    """Rows in a packed order, longest segment first; and which segments the caller's series begin and end with.

    A series is a segment of ``offsets``, or one of the batch; ``resets`` cut it further.
    """

    order: Tensor  # the row that stands at each place of the packed sequence,
    back: Tensor  # and the place of each row
    batch_sizes: Tensor
    series: Tensor  # those that have steps,
    last: Tensor  # and the segment that each of them ends with
    uncut: Tensor  # those of them that have no flag at their first step,
    first: Tensor  # and the segment that each of these begins with
    n_series: int  # all of them,
    n_segments: int  # and of those with steps

    def enter(self, states: Tensor, reverse: bool) -> Tensor:
        """Return first states of all segments, (n, segments, features), from those of series."""
        segment, series = (self.last, self.series) if reverse else (self.first, self.uncut)
        zeros = states.new_zeros(len(states), self.n_segments, states.shape[2])
        return zeros.index_copy(1, segment, states.index_select(1, series))

    def leave(self, states: Tensor, before: Tensor | None, reverse: bool) -> Tensor:
        """Return last states of series from those of segments; a series without steps hands on the one before it."""
        before = states.new_zeros(len(states), self.n_series, states.shape[2]) if before is None else before
        before, segment, series = before.to(states.dtype), self.last, self.series
        if reverse:  # nothing leaves where a flag stands
            before, segment, series = before.index_fill(1, series, 0), self.first, self.uncut
        return before.index_copy(1, series, states.index_select(1, segment))


def run(module: Any, input: Any, hidden: Any, offsets: Any, resets: Any) -> tuple[Any, Any]:
    """Return the output and the last states of a network, or of a layer."""
    is_network = hasattr(module, "layers")
    name = "resets" if offsets is None else "offsets"
    if not isinstance(input, Tensor) or (offsets is not None and input.dim() != 2):
        came = tuple(input.shape) if isinstance(input, Tensor) else type(input)
        raise (ValueError if isinstance(input, Tensor) else TypeError)(say.rnn_segments_input(name, came))
    rows, _, is_batched = unpack_input(module, input)
    if not rows.shape[1]:  # no series
        return module.forward(input, hidden)  # type: ignore[no-any-return]
    check_input(rows, module.input_size, [])
    segments = _internals.uncompiled(_segments, module, rows, offsets, resets)
    is_batched = is_batched or offsets is not None
    of_series = rows, segments.n_series, is_batched
    if is_network:
        states = _state.of_network(module, hidden, *of_series)
    elif isinstance(hidden, QRNNState):
        inputs = _state.inputs_of_layer(module, hidden, *of_series)
        states = [QRNNState(_state.of_layer(module, hidden.hidden, *of_series), (inputs,))]
    else:
        states = [_state.of_layer(module, hidden, *of_series)]
    step: Any = PackedSequence(rows.flatten(0, 1).index_select(0, segments.order), segments.batch_sizes)
    layers = module.layers if is_network else [module]
    for layer, state in zip(layers, states, strict=True):
        if getattr(layer, "save_prev_x", False) and layer.window > 1 and not isinstance(state, QRNNState):
            raise RuntimeError(say.rnn_segments_saved(name))
    firsts = [_each(segments.enter, layer, state) for layer, state in zip(layers, states, strict=True)]
    if is_network:
        step, found = module._through(step, firsts)
    else:  # not its call, which has run the hooks already
        step, *found = module.forward(step, *firsts)
    lasts = [_each(segments.leave, *each) for each in zip(layers, found, states, strict=True)]
    output = step.data.index_select(0, segments.back).unflatten(0, rows.shape[:2])
    return repack_output(module, output, input), _state.join(lasts, is_batched)


def _segments(module: Any, rows: Tensor, offsets: Any, resets: Any) -> Packed:
    """Return where the segments of rows, (T, B, features), are."""
    steps, batch = rows.shape[:2]
    lengths, flags = np.full(batch, steps), np.zeros((steps, batch), bool)
    if resets is not None:
        resets = _checks.resets(resets)
        is_batch_first = module.batch_first and resets.ndim == 2
        shape = (batch, steps) if is_batch_first else (steps, batch)
        _checks.resets_shape(resets.shape, shape, int(is_batch_first))
        flags[:] = resets.T if is_batch_first else resets.reshape(*resets.shape, *(1,) * (2 - resets.ndim))
    if offsets is not None:
        lengths = np.diff(_checks.offsets_in_range(_checks.offsets(offsets), steps))
    # From here on rows are numbered series by series.
    cuts, starts = flags.T.ravel(), lengths.cumsum() - lengths
    (series,) = lengths.nonzero()
    begins = cuts.copy()
    begins[starts[series]] = True
    (first_rows,) = begins.nonzero()
    sizes = np.diff(first_rows, append=len(begins))
    places = np.empty_like(first_rows)  # of segments among those of descending length
    places[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    own = begins.cumsum() - 1  # the segment of each row
    times = np.arange(len(begins)) - first_rows[own]
    order = np.lexsort((places[own], times))
    at = order if offsets is not None else order % steps * batch + order // steps
    back = np.empty_like(at)
    back[at] = np.arange(len(at))
    ends = starts[series] + lengths[series] - 1
    uncut = series[~cuts[starts[series]]]

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(rows.device)

    return Packed(
        tensor(at), tensor(back), torch.from_numpy(np.bincount(times)), tensor(series), tensor(places[own[ends]]),
        tensor(uncut), tensor(places[own[starts[uncut]]]), len(lengths), len(sizes),
    )  # fmt: skip


def _directions(layer: Any) -> list[bool]:
    """Return for each of a layer's directions whether it goes in reverse."""
    return [getattr(layer, "reverse", False) or bool(name) for name in getattr(layer, "_directions", ("",))]


def _each(function: Any, layer: Any, *states: Any) -> Any:
    """Return a layer's state made of others by a function of a direction's states, or of inputs, and of the turn."""
    if states[0] is None:
        return None
    turns = _directions(layer)
    if isinstance(states[0], QRNNState):
        inputs = [state.inputs[0] for state in states]
        made = None if inputs[0] is None else function(*inputs, turns[0])
        return QRNNState(_each(function, layer, *(state.hidden for state in states)), (made,))
    parts = ([None] * len(turns) if state is None else state.split(1) for state in states)
    return torch.cat([function(*each) for each in zip(*parts, turns, strict=True)])
