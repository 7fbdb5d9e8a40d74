"""Series that begin anew inside the axis of time: offsets and resets, checked, and as kernels on the CPU read them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from . import _checks, _problem


class Cuts(NamedTuple):
    """Where the series of a call begin anew."""

    kind: str  # `_problem`'s resets, offsets, or segments: all of which have states of their own
    lengths: np.ndarray | None
    borders: np.ndarray  # of segments; those of one if there are no offsets
    flags: np.ndarray | None  # resets; of segments alone None
    axis: int  # of time in flags
    reverse: bool
    layout: tuple | None  # shape and strides of flags

    @property
    def signature(self) -> tuple:
        """What a plan depends on."""
        return self.kind, self.layout

    def of(self, segments: _checks.Segments, steps: int) -> Cuts:
        """Return those of another call of the same kind, in whose `key` all is as in that of this one's."""
        _, offsets, resets = segments
        borders = self.borders if offsets is None else _checks.offsets_in_range(offsets, steps)
        flags = None if resets is None or self.layout is None else resets.reshape(self.layout[0])
        return Cuts(self.kind, None, borders, flags, self.axis, self.reverse, self.layout)

    @property
    def segments(self) -> int | None:
        """How many have states of their own; None if all lanes have one."""
        return len(self.borders) - 1 if self.kind == _problem.SEGMENTS else None

    def clear_ends(self, states: np.ndarray) -> None:
        """Make states behind the last steps zero where series begin anew there: in reverse, at the first in time."""
        if self.flags is None or not self.reverse:
            return
        has_steps = self.borders[:-1] < self.borders[1:]
        by_time = np.moveaxis(self.flags, self.axis, 0)
        found = by_time[np.minimum(self.borders[:-1][has_steps], len(by_time) - 1)]  # one may serve all steps
        own = () if self.lengths is None else self.lengths.shape + (1,) * (self.flags.ndim - 1 - self.lengths.ndim)
        ends = np.zeros((len(has_steps), *np.broadcast_shapes(found.shape[1:], own)), bool)
        ends[has_steps] = found
        if self.lengths is not None:
            ends &= self.lengths.reshape(own) > 0
        np.copyto(states, 0, where=ends if self.kind == _problem.SEGMENTS else ends[0])

    def last_states(self, h: Any, zeros: Any) -> Any:
        """Return the last results of segments, of those without steps ``zeros``; time is ``h``'s first axis."""
        states = zeros((len(self.borders) - 1, *h.shape[1:]))
        own = np.flatnonzero(self.borders[:-1] < self.borders[1:])
        states[own] = h[self.borders[own] if self.reverse else self.borders[own + 1] - 1]
        return states

    def marks(self, plan: _problem.Plan) -> tuple[np.ndarray, ...]:
        """Return what a plan's kernel reads behind lengths; then its segments, if it has some."""
        if self.kind == _problem.OFFSETS:
            return (self._offsets(plan),)
        flags = () if self.flags is None else (self.flags,)
        return (*flags, self._segments(plan)) if plan.is_segmented else flags

    def _offsets(self, plan: _problem.Plan) -> np.ndarray:
        """Return offsets in scan order if a plan's kernel reads these, else flags of the steps in the order of time."""
        steps = plan.steps
        borders: np.ndarray = steps - self.borders[::-1] if self.reverse else np.ascontiguousarray(self.borders)
        if plan.reads_offsets:
            return borders
        flags, own = np.zeros(steps, bool), borders[: np.searchsorted(borders, steps)]
        flags[steps - 1 - own if self.reverse else own] = True
        return flags

    def _segments(self, plan: _problem.Plan) -> np.ndarray:
        """Return of segments with steps: the first in scan order, how many there are, how far on states stand."""
        first, stop = self.borders[:-1], self.borders[1:]
        begin = plan.steps - stop if self.reverse else first
        return np.stack([begin, stop - first, np.arange(len(first)) * plan.state_bytes], axis=1)[first < stop]


def key(segments: Any) -> tuple | None:
    """Return what is remembered of offsets or resets beside their numbers; None for what is to be looked at anew."""
    if type(segments) is not _checks.Segments or segments.lengths is not None:
        return None
    offsets, resets = segments.offsets, segments.resets
    if offsets is None and type(resets) is np.ndarray and resets.dtype == bool:
        return resets.shape, resets.strides
    is_plain = resets is None and type(offsets) is np.ndarray and offsets.dtype == np.int64
    return (_problem.OFFSETS,) if is_plain and offsets.ndim == 1 and len(offsets) else None


def check(
    names: tuple, a: Any, b: Any, states: dict[str, Any], axis: int, reverse: bool, segments: _checks.Segments,
    has_states: bool,
) -> Cuts:  # fmt: skip
    """Check what says where series begin anew; ``a``, ``b`` and ``states`` are the signatures of a plan.

    ``has_states`` says whether a kernel is to be given states, of which each segment has its own.
    """
    lengths, offsets, resets = segments
    lengths = None if lengths is None else _checks.on_host("lengths", lengths)
    shape, axis = _problem.checked_shape(names, a, b, {}, axis, None if lengths is None else lengths.shape)
    lanes, steps, kind = shape[:axis] + shape[axis + 1 :], shape[axis], _problem.RESETS
    borders = np.array([0, steps])
    if offsets is not None:
        borders = _checks.offsets_in_range(_checks.on_host("offsets", offsets), steps)
        kind = _problem.OFFSETS if resets is None and not has_states else _problem.SEGMENTS
    _problem.check_shapes(states, shape, lanes if offsets is None else (len(borders) - 1, *lanes))
    if lengths is not None:
        lengths = _checks.lengths_in_range(lengths, steps)
    if resets is not None:
        resets = _checks.on_host("resets", resets)
        _checks.resets_shape(resets.shape, shape, axis)
        resets = resets.reshape(resets.shape + (1,) * (len(shape) - resets.ndim))
    layout = None if resets is None else (resets.shape, resets.strides)
    if kind == _problem.OFFSETS:
        is_time = [k == axis for k in range(len(shape))]
        layout = tuple(steps if own else 1 for own in is_time), tuple(map(int, is_time))
    return Cuts(kind, lengths, borders, resets, axis, reverse, layout)
