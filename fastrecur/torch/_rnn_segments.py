"""A QRNN on many series in one axis of time: each runs as one sequence of a packed batch; in a graph, where it is."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from .. import _checks
from .. import _messages as say
from ..recurrence import forget_mult
from . import _arguments
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


class Cut(NamedTuple):
    """Where series begin anew in rows, (T, B, features), that stay as they are: of a graph, so the host reads none."""

    offsets: Tensor | None
    resets: Tensor | None  # (T, B)
    n_series: Any

    def recurrence(self, f: Tensor, z: Tensor, c0: Tensor | None, **options: Any) -> tuple[Tensor, Tensor]:
        """Return `forget_mult`, and the last states of series, (N, H)."""
        options |= {"offsets": self.offsets, "resets": self.resets}
        if self.offsets is None:
            return forget_mult(f, z, c0, **options)  # type: ignore[no-any-return]
        h, last = forget_mult(f, z, None if c0 is None else c0.unsqueeze(1), **options)
        return h, last.squeeze(1)

    def windows(
        self, rows: Tensor, window: int, previous: Tensor | None, reverse: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return what `windows` returns, zeros beyond a border."""
        steps, before, count = rows.shape[0], window - 1, 1 if self.offsets is None else self.n_series
        if before == 0:
            return rows, None
        time, slots = torch.arange(steps, device=rows.device), torch.arange(count * before, device=rows.device)
        offsets = steps * time.new_tensor([0, 1]) if self.offsets is None else self.offsets.to(time).clamp(0, steps)
        # A table has the inputs of each series and, where it begins in the scan direction, those before them.
        own = torch.searchsorted(offsets[1:], time, right=True).clamp(max=count - 1)
        at = time + before * (own if reverse else own + 1)
        heads, tails = (side.repeat_interleave(before) + slots for side in (offsets[:-1], offsets[1:]))
        first, last = (tails, heads) if reverse else (heads, tails)
        table = rows.new_zeros(steps + count * before, *rows.shape[1:]).index_copy(0, at, rows)
        if previous is not None:
            previous = previous if self.offsets is None else previous.transpose(0, 1).reshape(-1, 1, rows.shape[2])
            table = table.index_copy(0, first, previous.to(rows))
        flags = at.new_zeros(table.shape[:2])
        flags = flags if self.resets is None else flags.index_copy(0, at, self.resets.to(at))
        begun = flags.cumsum(0)

        def seen(places: Tensor, whose: Tensor) -> Tensor:
            return torch.where((begun[places] == whose).unsqueeze(-1), table[places], 0)

        source = torch.cat([seen(at + k if reverse else at - k, begun[at]) for k in range(window)], -1)
        last = last.unflatten(0, (count, before))
        kept = seen(last, (begun - flags)[last[:, :1]] if reverse else begun[last[:, -1:]])
        return source, kept[0] if self.offsets is None else kept.squeeze(2).transpose(0, 1)


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
    given, in_graph = (module, rows, offsets, resets), torch.compiler.is_compiling()
    segments: Any = _cut(*given) if in_graph else _internals.uncompiled(_segments, *given)
    is_batched = is_batched or offsets is not None
    of_series = rows, segments.n_series, is_batched
    if is_network:
        states = _state.of_network(module, hidden, *of_series)
    elif isinstance(hidden, QRNNState):
        inputs = _state.inputs_of_layer(module, hidden, *of_series)
        states = [QRNNState(_state.of_layer(module, hidden.hidden, *of_series), (inputs,))]
    else:
        states = [_state.of_layer(module, hidden, *of_series)]
    layers = module.layers if is_network else [module]
    for layer, state in zip(layers, states, strict=True):
        if getattr(layer, "save_prev_x", False) and layer.window > 1 and not isinstance(state, QRNNState):
            raise RuntimeError(say.rnn_segments_saved(name))
    if in_graph:
        output, lasts = _in_graph(module, rows, states, segments)
        return repack_output(module, output, input), _state.join(lasts, is_batched)
    step: Any = PackedSequence(rows.flatten(0, 1).index_select(0, segments.order), segments.batch_sizes)
    firsts = [_each(segments.enter, layer, state) for layer, state in zip(layers, states, strict=True)]
    if is_network:
        step, found = module._through(step, firsts)
    else:  # not its call, which has run the hooks already
        step, *found = module.forward(step, *firsts)
    lasts = [_each(segments.leave, *each) for each in zip(layers, found, states, strict=True)]
    output = step.data.index_select(0, segments.back).unflatten(0, rows.shape[:2])
    return repack_output(module, output, input), _state.join(lasts, is_batched)


def _in_graph(module: Any, rows: Tensor, states: list[Any], cut: Cut) -> tuple[Tensor, list[Any]]:
    """Return the output, (T, B, features), and the layers' last states."""
    if hasattr(module, "layers"):
        given, packed = {"offsets": cut.offsets, "resets": cut.resets}, cut.offsets is not None
        rows = rows.squeeze(1) if packed else rows
        output, lasts = module._through(rows, states, lambda layer, *inputs: layer(*inputs, **given))
        return output.unsqueeze(1) if packed else output, lasts
    kept: list[Tensor | None] = []
    state = states[0]
    hidden, previous = (state.hidden, state.inputs[0]) if isinstance(state, QRNNState) else (state, None)

    def see(direction: str) -> Tensor:
        is_first = not kept
        source, last = cut.windows(rows, module.window, previous if is_first else None, module.reverse or not is_first)
        kept.append(last)
        return source

    output, last = module._scan(see, hidden, recurrence=cut.recurrence)
    return output, [QRNNState(last, (kept[0],)) if isinstance(state, QRNNState) else last]


def _cut(module: Any, rows: Tensor, offsets: Any, resets: Any) -> Cut:
    resets = None if resets is None else torch.as_tensor(resets)
    is_batch_first = module.batch_first and resets is not None and resets.dim() == 2
    shape = rows.shape[1::-1] if is_batch_first else rows.shape[:2]
    ends = _arguments.ends(_checks.split(None, offsets, resets), shape, int(is_batch_first), (rows,))
    if ends.resets is not None:
        resets = ends.resets.T if is_batch_first else ends.resets
        resets = resets.reshape(*resets.shape, *(1,) * (2 - resets.dim())).expand(rows.shape[:2])
    return Cut(ends.offsets, resets, rows.shape[1] if offsets is None else ends.offsets.shape[0] - 1)


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
