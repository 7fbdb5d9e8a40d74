"""Covariances and correlations of all pairs of columns: at each time, at some times, and of a stream."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._arguments import checks, messages as say
from .._arguments.arrays import any_lazy, at as taken, join, quiet
from .._arguments.names import suggesting
from .._arguments.shapes import axis_of
from ..recurrence import linear_recurrence
from ._arguments import Constant, arrays_of, least_count
from ._arrays import Data
from ._formulas import NO_STATE, State, shares
from ._frames import in_columns, is_labelled, is_table, is_table_of, unwrap
from ._run import Request, asked, at_once, gate_of, kind_of, run, unlabelled
from ._segments import NOWHERE, Borders
from ._stream import same_fields
from ._times import edge, take_times

BLOCK = 64  # steps whose matrices are in memory at once, where only those of some are wanted


def compute_pairs(statistic: str, x: Any, y: Any, axis: Any, pairwise: Any, at: Any, *how: Any) -> Any:
    """Return matrices of all pairs of columns, the last axis but time: at each time, or ``at`` some."""
    if not checks.flag("pairwise", pairwise):
        raise ValueError(say.pairs_only())
    if y is not None:
        raise ValueError(say.pairs_y())
    if x is None:
        raise TypeError(say.not_an_array("x", type(None)))
    frame = x if is_labelled(x) else None
    request, x, _, axis, _ = unlabelled(asked(statistic, x, *how), x, None, axis)
    x = x if hasattr(x, "shape") else np.asarray(x)
    axis = axis_of(axis, tuple(x.shape), ("x",))
    _check(request, x, frame, axis)
    if at is None:
        return _labelled(frame, _everywhere(statistic, request, x, axis))
    places = _places(at, x.shape[axis], frame)
    if any_lazy(x, request.times, request.borders.resets):
        return taken(_everywhere(statistic, request, x, axis), _paired(x, axis)[2], places)
    if request.borders.groups is not None:
        raise ValueError(say.pairs_groups())
    return _labelled(frame, _at_places(statistic, request, x, axis, places), places)


def _check(request: Any, x: Any, frame: Any, axis: int) -> None:
    _check_number(request.constant)
    if x.ndim < 2:
        raise ValueError(say.pairs_shape(tuple(x.shape)))
    for name, value in (("times", request.times), ("resets", request.borders.resets)):
        if value is not None and getattr(value, "ndim", 1) != 1:
            raise ValueError(say.pairs_steps(name, tuple(value.shape)))
    if frame is not None and (not is_table_of(frame, "pandas") or axis != 0):
        raise TypeError(say.pairs_frame(type(frame)))


def _check_number(constant: Any) -> None:
    for name, value in constant.arrays.items():
        if np.ndim(value):
            raise ValueError(say.pairs_number(name))


def _places(at: Any, steps: int, frame: Any) -> Any:
    """Return positions of times, which may be labels of a frame's index: an integer for one."""
    came = np.asarray(at)
    if came.size == 0:
        came = came.astype(int)
    if came.dtype.kind not in "iu":
        if frame is None or came.dtype.kind == "b" or not frame.index.is_unique:
            raise TypeError(say.pairs_at(at))
        try:
            labels = sys.modules["pandas"].Index([at] if came.ndim == 0 else at).astype(frame.index.dtype)
            came = frame.index.get_indexer(labels).reshape(came.shape)
        except (TypeError, ValueError):
            raise ValueError(say.pairs_label(at)) from None
        if (came < 0).any():
            raise ValueError(say.pairs_label(at))
    if ((came < -steps) | (came >= steps)).any():
        raise ValueError(say.pairs_range(steps, at))
    came = came.astype(np.int64) % max(1, steps)
    return came if came.ndim else int(came)


def _paired(x: Any, axis: int) -> tuple[Any, Any, int]:
    """Return both operands of all pairs, which broadcast against each other, and the axis of time in them."""
    column = x.ndim - 2 if axis == x.ndim - 1 else x.ndim - 1
    lead = (slice(None),) * column
    return x[(*lead, slice(None), None)], x[(*lead, None)], axis + (axis > column)


def _along(borders: Borders, time: int) -> Borders:
    """Return borders whose resets, one a step, stand along an axis of time."""
    if borders.resets is None:
        return borders
    return Borders(resets=borders.resets.reshape((1,) * time + (-1,)), offsets=borders.offsets)


def _everywhere(statistic: str, request: Any, x: Any, axis: int) -> Any:
    one, other, time = _paired(x, axis)
    request = request._replace(borders=_along(request.borders, time))
    is_plain = type(x) is np.ndarray and x.dtype.kind in "fiu" and not request.constant.arrays
    if statistic == "corr" and is_plain and np.isfinite(x).all():
        one, other = (v.astype(np.float64) for v in (one, other))
        return _normalized(run("covary", request, one, other, time), time).astype(_dtype(x), copy=False)
    return run(statistic, request, one, other, time)


def _dtype(x: np.ndarray) -> np.dtype[Any]:
    return x.dtype.newbyteorder("=") if x.dtype.kind == "f" else np.dtype(np.float64)


def _normalized(covariances: np.ndarray, time: int) -> np.ndarray:
    """Make correlations of matrices, in their place: the last axes but time."""
    matrices = np.moveaxis(covariances, time, 0)
    for begin in range(0, len(matrices), BLOCK):  # of which the nearest cache holds more
        block = matrices[begin : begin + BLOCK]
        with quiet(np):
            deviations = np.sqrt(np.diagonal(block, axis1=-2, axis2=-1))
            block /= deviations[..., np.newaxis] * deviations[..., np.newaxis, :]
    return covariances


def _at_places(statistic: str, request: Any, x: Any, axis: int, places: Any) -> Any:
    times = None if request.times is None else take_times(request.times)
    if times is not None and len(times) != x.shape[axis]:
        raise ValueError(say.times_shape(times.shape, x.shape[axis]))
    flags = request.borders.flags((x.shape[axis],), 0)
    found, states, done, last_time = {}, None, 0, None
    for place in np.unique(places).tolist():
        steps = slice(done, place + 1)
        borders = NOWHERE if flags is None else Borders(resets=flags[steps])
        piece = request._replace(times=None if times is None else times[steps], borders=borders)
        found[place], states = advance(statistic, piece, taken(x, axis, steps), axis, states, last_time)
        done, last_time = place + 1, None if times is None else edge(times[steps], 0)
    if isinstance(places, int):
        return found[places]
    time = _paired(x, axis)[2]
    if not found:
        bare = request._replace(times=None if times is None else times[:0], borders=NOWHERE)
        return _everywhere(statistic, bare, taken(x, axis, slice(0)), axis)
    data, matrices = _data(request, x), [found[place] for place in places.tolist()]
    if data.by_kernel:
        return data.give(np.stack([np.asarray(matrix) for matrix in matrices], time))
    return join(data.xp, [matrix[(*(slice(None),) * time, None)] for matrix in matrices], time)


def _data(request: Any, x: Any) -> Data:
    """Return the data with the constants, of which a gradient may be wanted."""
    given = {"x": x, request.constant.name: request.constant.value, **request.constant.arrays}
    return Data(tuple(given), tuple(given.values()))


def advance(statistic: str, request: Any, x: Any, axis: int, states: Any, last_time: Any) -> tuple[Any, Any]:
    """Return the matrix after the last of some steps, and the states after it.

    While each step has all samples or none, weights are the same for all pairs, numbers in the state, and steps add a
    product of matrices. Later pairs are walked, each as the two series that it is.
    """
    data = _data(request, x)
    is_simple = data.by_kernel and request.borders is NOWHERE and not request.constant.arrays
    if is_simple and (states is None or np.ndim(states[0].weight) == 0):
        values = np.moveaxis(data.wide(data.values[0]), axis, 0)
        seen = np.isfinite(values).reshape(len(values), math.prod(values.shape[1:]))
        if (seen.any(1) == seen.all(1)).all():
            named = dict(zip(data.names, data.values, strict=True))
            gate = gate_of(data, request, named, (len(seen),), 0, last_time)
            result, state = _add_product(request, values, seen.all(1), np.broadcast_to(gate, len(seen)), states)
            if statistic == "corr":
                result = _normalized(result[np.newaxis], 0)[0]
            return data.give(data.narrow(result, _dtype(data.values[0]))), (state,)
    if states is not None and x.shape[axis] == 0:
        return _matrix(data.xp, request, states[0]), states
    if states is not None and statistic == "corr" and len(states) == 1:
        states = _of_variances(states[0])
    one, other, time = _paired(x, axis)
    for begin in range(0, max(1, x.shape[axis]), BLOCK):
        steps = slice(begin, begin + BLOCK)
        resets, times = (None if v is None else v[steps] for v in (request.borders.resets, request.times))
        piece = request._replace(times=times, borders=_along(Borders(resets=resets), time))
        pair = taken(one, time, steps), taken(other, time, steps)
        result, states = at_once(statistic, piece, *pair, time, states, last_time)
        last_time = edge(times, 0) if times is not None and len(times) else last_time
    return taken(result, time, -1) if x.shape[axis] else _matrix(data.xp, request, states[0]), states


def _add_product(request: Any, values: Any, seen: Any, gate: Any, states: Any) -> tuple[Any, Any]:
    """Return the matrix after some steps, and the state: its deviations are from the first row that was there."""
    w_state = NO_STATE if states is None else State(*(None if v is None else np.asarray(v) for v in states[0]))
    w = shares(np, seen, gate, kind_of(request), request.ignore_na, 0, 0, w_state, None)
    _, room = linear_recurrence(w.kept * w.kept, 2 * w.kept * w.share, w_state.room, return_state=True)
    later = np.cumprod(np.append(1.0, w.kept[:0:-1]))[::-1]  # what is left of a step's share after all of them
    v, left = w.share * later[: len(seen)], float(np.prod(w.kept))
    rows = values[seen]
    if w_state.weight is None or not w_state.count > 0:
        origin = rows[0] if len(rows) else np.zeros(values.shape[1:])
        mean, covariance, left = np.zeros_like(origin), 0.0, 0.0
    else:
        origin, mean, covariance = w_state.origin[..., 0], w_state.mean[..., 0], w_state.covariance
    weights = v[seen].reshape(-1, *(1,) * (values.ndim - 1))
    rows = rows - origin
    own = weights.sum()
    center = (weights * rows).sum(0) / own if own > 0 else mean
    z = np.moveaxis(np.sqrt(weights) * (rows - center), 0, -2)
    apart = np.sqrt(left * own) * (mean - center)
    covariance = left * covariance + np.swapaxes(z, -1, -2) @ z + apart[..., np.newaxis] * apart[..., np.newaxis, :]
    mean = left * mean + own * center
    mean, origin = mean[..., np.newaxis], origin[..., np.newaxis]
    others = np.swapaxes(origin, -1, -2), np.swapaxes(mean, -1, -2)
    state = State(w.weight, w.count, mean, origin, *others, covariance, room)
    return _matrix(np, request, state), state


def _matrix(xp: Any, request: Any, state: Any) -> Any:
    """Return the covariances of a state, NaN where there were too few samples."""
    enough = (state.count >= max(1, request.min_periods)) & (request.bias | (state.room > 0))
    with quiet(xp):
        return xp.where(enough, state.covariance if request.bias else state.covariance / state.room, np.nan)


def _of_variances(state: Any) -> tuple[Any, ...]:
    """Return the states of a correlation's covariance and variances, from one whose weights are those of all pairs."""
    variances = np.diagonal(state.covariance, axis1=-2, axis2=-1)[..., np.newaxis]
    one = state._replace(mean_y=state.mean, origin_y=state.origin, covariance=variances)
    swapped = (np.swapaxes(v, -1, -2) if np.ndim(v) else v for v in one)
    return state, one, State(*swapped)


def _labelled(frame: Any, result: Any, places: Any = None) -> Any:
    """Return matrices as pandas does: rows of times and columns; one matrix with its columns in both axes."""
    if frame is None:
        return result
    columns, index = frame.columns, frame.index
    if isinstance(places, int):
        return frame._constructor(result, index=columns, columns=columns, copy=False)
    index, count = index if places is None else index[places], len(columns)
    make = sys.modules["pandas"].MultiIndex
    if index.nlevels == columns.nlevels == 1:
        rows = make.from_product([index, columns])
    else:
        own, other = index.repeat(count), columns.take(np.tile(np.arange(count), len(index)))
        rows = make.from_arrays([v.get_level_values(k) for v in (own, other) for k in range(v.nlevels)])
    return frame._constructor(result.reshape(-1, count), index=rows, columns=columns, copy=False)


@dataclass(eq=False)
class EwmCovState:
    """The state of an `EwmCov`: the weight of the samples so far, their number, means and covariances of all pairs.

    While no row had some of its samples missing, ``weight`` and ``count`` are those of all pairs. ``mean`` is counted
    from ``origin``, ``mean_y`` from ``origin_y``; ``room`` is what unbiased covariances are divided by. ``steps``
    counts all rows, missing ones included; ``last_time`` is None without times.
    """

    weight: Any
    count: Any
    mean: Any
    origin: Any
    origin_y: Any
    mean_y: Any
    covariance: Any
    room: Any
    steps: int = 0
    last_time: Any = None

    def __eq__(self, other: object) -> bool:
        """Return whether two states are one."""
        same: bool = same_fields(self, other)
        return same


class EwmCov:
    r"""The exponentially weighted covariances of all pairs of columns of a stream: `ewm_cov`, rows by rows.

    Parameters
    ----------
    com, span, halflife, alpha : float, optional
        The smoothing constant, exactly one, as for `ewm_mean`.
    adjust, ignore_na, min_periods, bias
        As for `ewm_cov`.

    Notes
    -----
    The results are those of one call on all rows, within rounding; so are errors. Each update costs a product of
    matrices, :math:`O(TN^2)`, and the state has the size of some results. A stream can be copied and pickled. Use it
    from one thread at a time: of two updates at once, one is lost.

    Examples
    --------
    >>> from fastrecur.smoothing import EwmCov
    >>> stream = EwmCov(alpha=0.5)
    >>> stream.update([[1.0, 2.0], [2.0, 1.0]])
    array([[ 0.5, -0.5],
           [-0.5,  0.5]])
    >>> stream.update([[4.0, 3.0]])
    array([[2.5       , 1.5       ],
           [1.5       , 1.35714286]])
    """

    @suggesting
    def __init__(
        self, *, com: Any = None, span: Any = None, halflife: Any = None, alpha: Any = None, adjust: bool = True,
        ignore_na: bool = False, min_periods: int | None = 0, bias: bool = False,
    ) -> None:  # fmt: skip
        self._given = arrays_of({"com": com, "span": span, "halflife": halflife, "alpha": alpha})
        self._flags = checks.flag("adjust", adjust), checks.flag("ignore_na", ignore_na), least_count(min_periods)
        self._bias = checks.flag("bias", bias)
        self._constant(halflife is not None)
        self.reset()

    def __repr__(self) -> str:
        """Return how the stream was made."""
        given = {name: value for name, value in self._given.items() if value is not None}
        options = dict(zip(("adjust", "ignore_na", "min_periods"), self._flags, strict=True)) | {"bias": self._bias}
        return f"EwmCov({', '.join(f'{name}={value!r}' for name, value in (given | options).items())})"

    def _constant(self, with_times: bool) -> Constant:
        constant = Constant(with_times, **self._given)
        _check_number(constant)
        return constant

    @property
    def state(self) -> EwmCovState | None:
        """The state after the last rows: None before the first."""
        return self._state

    def reset(self) -> None:
        """Forget all samples."""
        self._state: EwmCovState | None = None
        self._columns: list[Any] | None = None

    @suggesting
    def update(self, chunk: Any, times: Any = None) -> Any:
        """Process the next rows and return the covariances after them, (N, N): a frame for a frame.

        Parameters
        ----------
        chunk : array_like
            Rows of N columns, (T, N): as for `ewm_cov`, but no Dask array and no DataArray. It may be empty. Of frames
            columns are matched by their names.
        times : array_like, optional
            The rows' times: with every chunk, or with none.

        Raises
        ------
        ValueError, TypeError
            As `ewm_cov`, and ValueError for another number of columns than before, and for times with some chunks only.
        """
        if any_lazy(chunk, times):
            raise TypeError(say.lazy_stream())
        rows, columns = chunk, self._columns
        if type(chunk) is not np.ndarray and is_labelled(chunk):
            if not is_table(chunk):
                raise TypeError(say.pairs_frame(type(chunk)))
            chunk, columns = in_columns(chunk, columns, 0, self._state is None)
            rows, _, _ = unwrap(chunk, 0, "chunk")
        rows = rows if hasattr(rows, "shape") else np.asarray(rows)
        if rows.ndim != 2:
            raise ValueError(say.pairs_shape(tuple(rows.shape)))
        had = self._state
        if had is not None and had.covariance.shape[-1] != rows.shape[1]:
            raise ValueError(say.stream_shape((rows.shape[1],), (had.covariance.shape[-1],)))
        if had is not None and had.steps and (times is None) != (had.last_time is None):
            raise ValueError(say.stream_times("no" if had.last_time is None else "every"))
        when = None if times is None else take_times(times)
        request = Request(self._constant(times is not None), when, *self._flags, self._bias, name="chunk")
        states = None if had is None else (State(*(getattr(had, name) for name in State._fields)),)
        last_time, steps = (None, 0) if had is None else (had.last_time, had.steps)
        result, (after,) = advance("covary", request, rows, 0, states, last_time)
        last_time = edge(when, 0) if when is not None and len(when) else last_time
        self._state, self._columns = (
            EwmCovState(**after._asdict(), steps=steps + len(rows), last_time=last_time),
            columns,
        )
        if chunk is rows or not is_table_of(chunk, "pandas"):
            return result
        return chunk._constructor(result, index=chunk.columns, columns=chunk.columns, copy=False)
