"""Series that begin anew inside the axis of time: offsets and resets, checked, and as kernels on the CPU read them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from . import _checks, _problem


class Cuts(NamedTuple):
    """Where the series of a call begin anew."""

    lengths: np.ndarray | None
    segments: int | None  # how many, each of which has states of its own; None without offsets
    bounds: np.ndarray  # of segments with steps, in scan order: the first step, the one behind the last, its number
    flags: np.ndarray | None  # true where the state before a step, in scan order, is zero
    ends: np.ndarray | None  # and where the state behind the last step is

    @property
    def signature(self) -> tuple:
        """What a plan depends on."""
        return () if self.flags is None else (self.flags.shape, self.flags.strides)

    def clear_ends(self, states: np.ndarray) -> None:
        """Make states behind the last steps zero where series begin anew there."""
        if self.ends is not None:
            np.copyto(states, 0, where=self.ends)

    def table(self, state_bytes: int, has_first: bool, has_states: bool) -> np.ndarray:
        """Return the list that kernels read; without ``has_states``, one segment's stand for all and begin as zeros."""
        own = self.bounds.copy()
        own[:, 2] *= state_bytes if has_states else 0
        return np.array([len(own), not has_states, has_first, *own.ravel()], np.int64)


def check(
    names: tuple, a: Any, b: Any, states: dict[str, Any], axis: int, reverse: bool, segments: _checks.Segments
) -> Cuts:
    """Check what says where series begin anew; ``a``, ``b`` and ``states`` are the signatures of a plan."""
    lengths, offsets, resets = segments
    lengths = None if lengths is None else _checks.lengths(lengths)
    shape, axis = _problem.checked_shape(names, a, b, {}, axis, None if lengths is None else lengths.shape)
    lanes, steps, count = shape[:axis] + shape[axis + 1 :], shape[axis], None
    borders = np.array([0, steps])
    if offsets is not None:
        borders = _checks.offsets_in_range(_checks.offsets(offsets), steps)
        count = len(borders) - 1
    _problem.check_shapes(states, shape, lanes if count is None else (count, *lanes))
    if lengths is not None:
        lengths = _checks.lengths_in_range(lengths, steps)
    if resets is not None:
        resets = _checks.resets(resets)
        _checks.resets_shape(resets.shape, shape, axis)
        resets = resets.reshape(resets.shape + (1,) * (len(shape) - resets.ndim))
    flags, ends = resets, None
    if resets is not None and reverse:
        flags, ends = _reversed(resets, shape, axis, borders, lengths, count)
    return Cuts(lengths, count, _bounds(borders, steps, reverse), flags, ends)


def _bounds(borders: np.ndarray, steps: int, reverse: bool) -> np.ndarray:
    own = np.stack([borders[:-1], borders[1:], np.arange(len(borders) - 1)], axis=1)
    own = own[own[:, 0] < own[:, 1]]
    if reverse:
        own[:, :2] = steps - own[:, 1::-1]
    return own[::-1] if reverse else own


def _reversed(
    resets: np.ndarray, shape: tuple, axis: int, borders: np.ndarray, lengths: np.ndarray | None, count: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return flags of the steps before those of resets, which begin anew in reverse; and those of first steps."""
    steps, lanes = shape[axis], len(shape) - 1
    by_time = np.moveaxis(resets, axis, 0)
    first, has_steps = borders[:-1], borders[:-1] < borders[1:]
    own = (1,) * lanes if lengths is None else lengths.shape + (1,) * (lanes - lengths.ndim)
    by_time = np.broadcast_to(by_time, (steps, *np.broadcast_shapes(by_time.shape[1:], own)))
    shifted = np.zeros_like(by_time, order="C", subok=False)
    shifted[:-1] = by_time[1:]
    shifted[borders[1:][has_steps] - 1] = False
    ends = np.zeros((len(first), *by_time.shape[1:]), bool)
    ends[has_steps] = by_time[first[has_steps]]
    if lengths is not None:
        lengths = lengths.reshape(own)
        shifted &= np.arange(1, steps + 1).reshape(-1, *(1,) * lanes) < lengths
        ends &= lengths > 0
    return np.moveaxis(shifted, 0, axis), ends if count is not None else ends[0]
