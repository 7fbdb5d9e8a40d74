"""Series that begin anew inside the axis of time: offsets and resets, checked, and as kernels on the CPU read them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .._arguments import checks
from . import problem


class Cuts(NamedTuple):
    """Where the series of a call begin anew."""

    kind: str  # `problem`'s resets, or offsets
    lengths: np.ndarray | None
    borders: np.ndarray  # of segments; those of one if there are no offsets
    flags: np.ndarray | None  # resets, None without
    axis: int  # of time in flags
    reverse: bool
    layout: tuple | None  # shape and strides of flags

    @property
    def signature(self) -> tuple:
        """What a plan depends on."""
        return self.kind, self.layout

    def of(self, segments: checks.Segments) -> Cuts:
        """Return those of another call of the same kind, in whose `key` all is as in that of this one's."""
        _, offsets, resets = segments
        borders = self.borders if offsets is None else checks.offsets_in_range(offsets, int(self.borders[-1]))
        flags = None if resets is None or self.layout is None else resets.reshape(self.layout[0])
        return Cuts(self.kind, None, borders, flags, self.axis, self.reverse, self.layout)

    @property
    def segments(self) -> int:
        """Of segments."""
        return len(self.borders) - 1

    @property
    def last(self) -> int:
        """Which segment has the last step in scan order."""
        has_steps = self.borders[:-1] < self.borders[1:]
        return int(np.argmax(has_steps) if self.reverse else self.segments - 1 - np.argmax(has_steps[::-1]))

    def clear_ends(self, states: Any) -> None:
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
        ends = ends if self.kind == problem.OFFSETS else ends[0]
        states[np.array(np.broadcast_to(ends, states.shape))] = 0  # a tensor takes no read-only array

    def last_states(self, h: Any, first_states: Any) -> Any:
        """Return the last results of segments, of those without steps their first states; time is ``h``'s first axis.

        ``first_states`` makes an array of a shape with these.
        """
        states = first_states((self.segments, *h.shape[1:]))
        own = np.flatnonzero(self.borders[:-1] < self.borders[1:])
        states[own] = h[self.borders[own] if self.reverse else self.borders[own + 1] - 1]
        return states

    def marks(self) -> tuple[np.ndarray, ...]:
        """Return what kernels read: flags and offsets in scan order, as far as there are some."""
        flags = () if self.flags is None else (self.flags,)
        if self.kind != problem.OFFSETS:
            return flags
        return (*flags, self.borders[-1] - self.borders[::-1] if self.reverse else np.ascontiguousarray(self.borders))


def key(segments: Any) -> tuple | None:
    """Return what is remembered of offsets or resets beside their numbers; None for what is to be looked at anew."""
    if type(segments) is not checks.Segments or segments.lengths is not None:
        return None
    offsets, resets = segments.offsets, segments.resets
    if offsets is None and type(resets) is np.ndarray and resets.dtype == bool:
        return resets.shape, resets.strides
    is_plain = resets is None and type(offsets) is np.ndarray and offsets.dtype == np.int64
    return (problem.OFFSETS,) if is_plain and offsets.ndim == 1 and len(offsets) else None


def check(
    names: tuple, a: Any, b: Any, states: dict[str, Any], axis: int, reverse: bool, segments: checks.Segments
) -> Cuts:
    """Check what says where series begin anew; ``a``, ``b`` and ``states`` are the signatures of a plan."""
    lengths, offsets, resets = segments
    lengths = None if lengths is None else checks.on_host("lengths", lengths)
    shape, axis = problem.checked_shape(names, a, b, {}, axis, None if lengths is None else lengths.shape)
    lanes, steps, kind = shape[:axis] + shape[axis + 1 :], shape[axis], problem.RESETS
    borders = np.array([0, steps])
    if offsets is not None:
        borders = checks.offsets_in_range(checks.on_host("offsets", offsets), steps)
        kind = problem.OFFSETS
    problem.check_shapes(states, shape, lanes if offsets is None else (len(borders) - 1, *lanes))
    if lengths is not None:
        lengths = checks.lengths_in_range(lengths, steps)
    if resets is not None:
        resets = checks.on_host("resets", resets)
        checks.resets_shape(resets.shape, shape, axis)
        resets = resets.reshape(resets.shape + (1,) * (len(shape) - resets.ndim))
    layout = None if resets is None else (resets.shape, resets.strides)
    return Cuts(kind, lengths, borders, resets, axis, reverse, layout)
