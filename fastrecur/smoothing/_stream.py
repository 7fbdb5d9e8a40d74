"""The mean of a stream, chunk by chunk."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from .. import _arrays
from .. import _messages as say
from ._arguments import ALPHA, Constant, flag, integer, is_array, least_count
from ._dispatch import compute
from ._formulas import State
from ._frames import unwrap
from ._run import Request
from ._segments import Borders
from ._times import steps, take_times


@dataclass(eq=False)
class EwmState:
    """The state of an `Ewm`: for each series the weight of the samples so far, their number and their mean.

    ``steps`` counts all steps, missing samples included; ``first_time`` and ``last_time`` are None without times.
    States of the same numbers, in arrays of one library, are equal.
    """

    weight: Any
    count: Any
    mean: Any
    steps: int = 0
    first_time: Any = None
    last_time: Any = None

    def __eq__(self, other: object) -> bool:
        """Return whether two states are one."""
        if not isinstance(other, EwmState):
            return NotImplemented
        return all(_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    __hash__ = None  # type: ignore[assignment]


class Ewm:
    r"""The exponentially weighted mean of a stream: `ewm_mean`, chunk by chunk.

    Parameters
    ----------
    com, span, halflife, alpha : float or array_like, optional
        As for `ewm_mean`. An array broadcasts against a chunk and has one step along `axis`: a constant for each
        series. With times, ``halflife`` is required.
    adjust, ignore_na, min_periods, axis
        As for `ewm_mean`.

    Raises
    ------
    ValueError, TypeError
        As `ewm_mean`.

    Notes
    -----
    The results are those of one call on the whole series, within rounding. A stream can be copied and pickled.
    Its state has the size of one step of the data.

    Examples
    --------
    >>> import numpy as np
    >>> from fastrecur.smoothing import Ewm
    >>> stream = Ewm(alpha=0.5)
    >>> stream.update([1.0, 2.0])
    array([1.        , 1.66666667])
    >>> stream.update([3.0, 4.0])
    array([2.42857143, 3.26666667])
    >>> float(stream.state.weight), int(stream.state.count)
    (1.875, 4)
    """

    def __init__(
        self, *, com: Any = None, span: Any = None, halflife: Any = None, alpha: Any = None, adjust: bool = True,
        ignore_na: bool = False, min_periods: int | None = 0, axis: int = 0,
    ) -> None:  # fmt: skip
        alpha = np.asarray(alpha) if isinstance(alpha, (list, tuple)) else alpha
        com, span, halflife, alpha = (unwrap(value, 0)[0] for value in (com, span, halflife, alpha))
        self._given = {"com": com, "span": span, "halflife": halflife, "alpha": alpha}
        self._adjust, self._ignore_na = flag("adjust", adjust), flag("ignore_na", ignore_na)
        self._least = least_count(min_periods)
        self._axis = integer("axis", axis)
        self._timed = None if halflife is None else Constant(com, span, halflife, alpha, True)
        dated = self._timed is not None and self._timed.dates
        self._plain = None if dated else Constant(com, span, halflife, alpha, False)
        self.reset()

    def __repr__(self) -> str:
        """Return how the stream was made."""
        given = ", ".join(f"{name}={value!r}" for name, value in self._given.items() if value is not None)
        return f"Ewm({given}, adjust={self._adjust}, ignore_na={self._ignore_na}, axis={self._axis})"

    @property
    def state(self) -> EwmState | None:
        """The state after the last chunk: None before the first."""
        return self._state

    def reset(self) -> None:
        """Forget all samples."""
        self._state: EwmState | None = None
        self._lanes: tuple[int, ...] | None = None
        self._was_reset = False

    def update(self, chunk: Any, times: Any = None, resets: Any = None) -> Any:
        """Process the next samples and return the mean at each of them.

        Parameters
        ----------
        chunk : array_like
            The samples, in the shape of earlier chunks except along `axis`: arrays as for `ewm_mean`, but no frames. A
            chunk may be empty.
        times : array_like, optional
            Their times, as for `ewm_mean`: with every chunk, or with none.
        resets : array_like of bool, optional
            True where a step begins anew, as for `ewm_mean`. Such a stream cannot be merged.

        Returns
        -------
        array
            As `ewm_mean`.

        Raises
        ------
        ValueError
            For another shape than before, and for times with some chunks only.
        TypeError
            As `ewm_mean`.
        """
        had = self._state
        if _arrays.any_lazy(chunk, times):
            raise TypeError(say.lazy_stream())
        shape = tuple(chunk.shape) if hasattr(chunk, "shape") else np.shape(chunk)
        for name, value in self._given.items():
            if is_array(value) and value.shape:
                shape = _with_lanes_of(name, shape, tuple(value.shape), self._axis)
        if not shape:
            raise ValueError(say.no_axis(["chunk"]))
        axis = self._axis % len(shape) if -len(shape) <= self._axis < len(shape) else self._axis
        lanes = shape[:axis] + shape[axis + 1 :]
        if had is not None and lanes != self._lanes:
            raise ValueError(say.stream_shape(lanes, self._lanes))
        if had is not None and (times is None) != (had.last_time is None) and had.steps:
            raise ValueError(say.stream_times("no" if had.last_time is None else "every"))
        constant = self._plain if times is None else self._timed
        if constant is None:
            raise ValueError(say.halflife_without_times() if times is None else say.stream_halflife())
        when = None if times is None else take_times(times)
        borders = Borders(None, resets, None)
        request = Request(constant, when, self._adjust, self._ignore_na, self._least, borders=borders)
        self._was_reset = self._was_reset or resets is not None
        before = None if had is None else State(had.weight, had.count, had.mean)
        last_time = None if had is None else had.last_time
        result, after = compute("average", request, chunk, None, axis, before, last_time)
        first = None if had is None else had.first_time
        if when is not None and shape[axis]:
            if when.ndim > 1:
                when = np.moveaxis(when, axis, 0)
            ends = (slice(0, 1), slice(-1, None))
            low, high = (np.expand_dims(when[end][0], axis) if when.ndim > 1 else when[end][0] for end in ends)
            first, last_time = (low if first is None else first), high
        self._lanes = lanes
        so_far = (had.steps if had else 0) + shape[axis]
        self._state = EwmState(after.weight, after.count, after.mean, so_far, first, last_time)
        return result

    def merge(self, later: Ewm) -> Ewm:
        """Return a stream of the samples of this one, followed by those of a ``later`` one.

        Parameters
        ----------
        later : Ewm
            A stream of the samples that follow, created with the same arguments.

        Returns
        -------
        Ewm
            A new stream; the two others do not change.

        Raises
        ------
        ValueError
            With ``adjust=False``, and with times and ``ignore_na=True``, because the state does not hold what merging
            needs; and for streams with other arguments or of another shape.

        Examples
        --------
        >>> from fastrecur.smoothing import Ewm
        >>> first, second = Ewm(alpha=0.5), Ewm(alpha=0.5)
        >>> _ = first.update([1.0, 2.0]), second.update([3.0, 4.0])
        >>> first.merge(second).update([5.0])
        array([4.16129032])
        """
        if not self._adjust or not later._adjust:
            raise ValueError(say.merge("with adjust=True"))
        if self._was_reset or later._was_reset:
            raise ValueError(say.merge("where no chunk had resets"))
        if not self._is_made_as(later):
            raise ValueError(say.merge("if they were made alike"))
        a, b = self._state, later._state
        result = copy.deepcopy(self if b is None else later)
        if a is None or b is None:
            return result
        if self._lanes != later._lanes:
            raise ValueError(say.stream_shape(later._lanes or (), self._lanes or ()))
        before = self._decay(a, b) * a.weight
        weight = before + b.weight
        empty = weight == 0
        share = (b.weight + empty * (b.count > 0)) / (weight + empty)
        mean = a.mean + share * (b.mean - a.mean)
        first = b.first_time if a.first_time is None else a.first_time
        last = a.last_time if b.last_time is None else b.last_time
        result._state = EwmState(weight, a.count + b.count, mean, a.steps + b.steps, first, last)
        return result

    def _is_made_as(self, other: Ewm) -> bool:
        options = [(s._adjust, s._ignore_na, s._least, s._axis) for s in (self, other)]
        pairs = ((value, other._given[name]) for name, value in self._given.items())
        return options[0] == options[1] and all(_equal(*pair) for pair in pairs)

    def _of_lanes(self, values: Any) -> Any:
        """Return what broadcasts against a step of the data such that it does so against the lanes."""
        shape = tuple(getattr(values, "shape", ()))
        if not shape or self._lanes is None:
            return values
        steps = len(self._lanes) + 1
        shape = (1,) * (steps - len(shape)) + shape
        axis = self._axis % steps
        return values.reshape(shape[:axis] + shape[axis + 1 :])

    def _decay(self, a: EwmState, b: EwmState) -> Any:
        """Return what is left of the weight of ``a`` after the steps of ``b``."""
        if b.last_time is None or a.last_time is None:
            if self._plain is None or (a.last_time is None) != (b.last_time is None):
                raise ValueError(say.merge("if both or neither had times"))
            return self._kept(self._plain, a) ** (b.count if self._ignore_na else b.steps)
        if self._ignore_na:
            raise ValueError(say.merge("with ignore_na=False, where they have times"))
        if self._timed is None:
            raise ValueError(say.stream_halflife())
        times = np.stack(np.broadcast_arrays(a.last_time, b.last_time))
        gap = self._of_lanes(steps(times, self._timed.dates, times.shape, 0)[1])
        return self._kept(self._timed, a) ** (gap / self._of_lanes(_beside(self._timed.halflife, a.weight)))

    def _kept(self, constant: Constant, state: EwmState) -> Any:
        """Return what is left of the weight of a state after a step, or a half-life."""
        value = self._of_lanes(_beside(constant.value, state.weight))
        return 1.0 - ALPHA[constant.name](sys.modules["torch"] if hasattr(value, "detach") else np, value)


def _beside(value: Any, state: Any) -> Any:
    """Return a constant as an array of the library of a state that goes on with it."""
    is_tensor_beside_numbers = isinstance(state, (np.ndarray, np.generic)) and hasattr(value, "detach")
    return value.detach().cpu().numpy() if is_tensor_beside_numbers else value


def _equal(a: Any, b: Any) -> bool:
    """Return whether two values are one: numbers, times or arrays, of one device; NaN is NaN."""
    if a is b:
        return True
    if type(a) is not type(b) or getattr(a, "shape", ()) != getattr(b, "shape", ()):
        return bool(np.isscalar(a) and np.isscalar(b) and a == b)
    if getattr(a, "device", None) != getattr(b, "device", None) or getattr(a, "is_meta", False):
        return False
    same = (a == b) | ((a != a) & (b != b))
    return bool(same.all() if hasattr(same, "all") else same)


def _with_lanes_of(name: str, shape: tuple[int, ...], own: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """Return the shape that a chunk and its constants have together; raise where these change in time."""
    full = np.broadcast_shapes(shape, own)
    padded = (1,) * (len(full) - len(own)) + own
    if not -len(full) <= axis < len(full) or padded[axis] != 1:
        raise ValueError(say.stream_constant(name, own))
    return full
