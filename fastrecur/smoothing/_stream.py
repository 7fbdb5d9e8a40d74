"""The mean of a stream, chunk by chunk."""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from .._arguments import arrays, checks, messages as say, shapes as _shapes
from .._arguments.checks import is_array
from .._arguments.names import suggesting
from .._arguments.shapes import axis_of
from ._arguments import Constant, arrays_of, least_count
from ._formulas import State
from ._frames import along, in_columns, in_order, is_table, names_of, unwrap
from ._run import Request, at_once
from ._segments import NOWHERE, Borders
from ._times import edge, has_zone, take_times

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..recurrence import _Data, _Plain


@dataclass(eq=False)
class EwmState:
    """The state of an `Ewm`: for each series the weight of the samples so far, their number and their mean.

    ``steps`` counts all steps, missing samples included; ``last_time`` is None without times.
    States of the same numbers, in arrays of one library, are equal.
    """

    weight: Any
    count: Any
    mean: Any
    steps: int = 0
    last_time: Any = None

    def __eq__(self, other: object) -> bool:
        """Return whether two states are one."""
        same: bool = same_fields(self, other)
        return same


class Ewm:
    r"""The exponentially weighted mean of a stream: `ewm_mean`, chunk by chunk.

    Parameters
    ----------
    com, span, halflife, alpha, adjust, ignore_na, min_periods, axis
        As for `ewm_mean`. A constant that is an array broadcasts against a chunk and has one step along `axis`.

    Notes
    -----
    The results are those of one call on the whole series, within rounding; so are errors. A stream can be copied and
    pickled. Its state has the size of one step of the data. Use it from one thread at a time: of two updates at once,
    one is lost.

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

    @suggesting
    def __init__(
        self, *, com: Any = None, span: Any = None, halflife: Any = None, alpha: Any = None, adjust: bool = True,
        ignore_na: bool = False, min_periods: int | None = 0, axis: int = 0,
    ) -> None:  # fmt: skip
        given = arrays_of({"com": com, "span": span, "halflife": halflife, "alpha": alpha})
        # The columns of each constant that has one value for each.
        self._names = {name: names for name, value in given.items() if (names := names_of(value)) is not None}
        self._given = {name: unwrap(value, 0, name)[0] for name, value in given.items()}
        self._options = checks.flag("adjust", adjust), checks.flag("ignore_na", ignore_na), least_count(min_periods)
        self._axis = checks.axis(axis)
        self._shapes = {name: tuple(value.shape) for name, value in self._given.items() if is_array(value)}
        self.reset()

    def __repr__(self) -> str:
        """Return how the stream was made."""
        given = ", ".join(f"{name}={value!r}" for name, value in self._given.items() if value is not None)
        names = zip(("adjust", "ignore_na", "min_periods"), self._options, strict=True)
        return f"Ewm({given}, {', '.join(f'{name}={value}' for name, value in names)}, axis={self._axis})"

    @property
    def state(self) -> EwmState | None:
        """The state after the last chunk: None before the first."""
        return self._state

    def reset(self) -> None:
        """Forget all samples."""
        self._state: EwmState | None = None
        self._was_reset = False
        self._zone: bool | None = None
        self._take_columns(None)

    def _take_columns(self, columns: list[Any] | None) -> None:
        """Bring the constants into the order of columns; None are those of the first constant that has them."""
        self._columns, self._ordered = columns or next(iter(self._names.values()), None), dict(self._given)
        for name, own in self._names.items():
            if own != self._columns:
                wanted = in_order(name, own, self._columns, "the stream")
                self._ordered[name] = self._given[name][..., [own.index(column) for column in wanted]]
        self._timed = None if self._given["halflife"] is None else Constant(True, **self._ordered)
        dated = self._timed is not None and self._timed.dates
        self._plain = None if dated else Constant(False, **self._ordered)

    @overload
    def update(self, chunk: _Plain, times: Any = None, resets: Any = None) -> NDArray[Any]: ...
    @overload
    def update(self, chunk: _Data, times: Any = None, resets: Any = None) -> _Data: ...
    @suggesting
    def update(self, chunk: Any, times: Any = None, resets: Any = None) -> Any:
        """Process the next samples and return the mean at each of them, as `ewm_mean`: a Series or a frame for one.

        Parameters
        ----------
        chunk : array_like
            The samples, in the shape of earlier chunks except along `axis`, as for `ewm_mean`, but no DataArray. A
            chunk may be empty. Of a frame each column is a series: later frames must have the same columns, and results
            and state have them in the order of the first frame. A constant that is a Series is matched with them.
        times : array_like, optional
            Their times, as for `ewm_mean`: with every chunk, or with none.
        resets : array_like of bool, optional
            True where a step begins anew, as for `ewm_mean`. Such a stream cannot be merged.

        Raises
        ------
        ValueError, TypeError
            As `ewm_mean`, and ValueError for another shape than before, and for times with some chunks only.
        """
        if arrays.any_lazy(chunk, times):
            raise TypeError(say.lazy_stream())
        if self._state is None and self._names:
            self._take_columns(None)  # of a frame that was refused, others may be left
        numbers, wrap, shapes, columns = chunk, None, self._shapes, self._columns
        if type(chunk) is not np.ndarray and is_table(chunk):
            chunk, columns = in_columns(chunk, columns, self._axis, self._state is None)
            numbers, _, wrap = unwrap(chunk, 0, "chunk")
            if columns != self._columns and self._names:
                self._take_columns(columns)
        shape = tuple(numbers.shape) if hasattr(numbers, "shape") else np.shape(numbers)
        if not shape and not hasattr(numbers, "shape") and np.asarray(numbers).dtype.kind in "OU":  # None, text, a dict
            raise TypeError(say.not_an_array("chunk", type(chunk)))
        if shapes:
            shape = _shapes.broadcast_shape(("chunk", *shapes), [shape, *shapes.values()])
        axis = axis_of(self._axis, shape, ("chunk",))
        for name, own in shapes.items():
            at = axis - len(shape) + len(own)
            if at >= 0 and own[at] != 1:
                raise ValueError(say.stream_constant(name, own))
        had, lanes = self._state or EwmState(None, None, None), shape[:axis] + shape[axis + 1 :]
        if self._state is not None and tuple(had.mean.shape) != lanes:
            raise ValueError(say.stream_shape(lanes, tuple(had.mean.shape)))
        if had.steps and (times is None) != (had.last_time is None):
            raise ValueError(say.stream_times("no" if had.last_time is None else "every"))
        constant = self._plain if times is None else self._timed
        if constant is None:
            raise ValueError(
                say.halflife_without_times(self._given["halflife"]) if times is None else say.stream_halflife()
            )
        when, borders = None, NOWHERE
        if times is not None:
            times = along(chunk, times, "times", axis, "chunk")
            when = take_times(times)
        if resets is not None:
            borders = Borders(resets=along(chunk, resets, "resets", axis, "chunk"))
        zone = has_zone(times) if when is not None and when.size else self._zone
        if self._zone not in (None, zone):
            raise ValueError(say.times_zones())
        request = Request(constant, when, *self._options, borders=borders, name="chunk")
        before = None if self._state is None else (State(had.weight, had.count, had.mean),)
        result, (after,) = at_once("average", request, numbers, None, axis, before, had.last_time)
        result = wrap(result) if wrap else result
        last = edge(when, axis) if when is not None and shape[axis] else had.last_time
        self._zone, self._columns, self._was_reset = zone, columns, self._was_reset or resets is not None
        self._state = EwmState(after.weight, after.count, after.mean, had.steps + shape[axis], last)
        return result

    def merge(self, later: Ewm) -> Ewm:
        """Return a new stream: of the samples of this one, and those of a ``later`` one, made with the same arguments.

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
        if not isinstance(later, Ewm):
            raise TypeError(say.merge_kind(type(later)))
        if not self._options[0] or not later._options[0]:
            raise ValueError(say.merge("with adjust=True"))
        if self._was_reset or later._was_reset:
            raise ValueError(say.merge("where no chunk had resets"))
        pairs = [(value, later._given[name]) for name, value in self._given.items()]
        pairs.append(((*self._options, self._axis), (*later._options, later._axis)))
        if self._names != later._names or not all(_equal(*pair) for pair in pairs):
            raise ValueError(say.merge("if they were made alike"))
        a, b = self._state, later._state
        result = copy.copy(self if b is None else later)
        if a is None or b is None:
            return result
        if None not in (self._columns, later._columns) and self._columns != later._columns:
            raise ValueError(say.merge("with the same columns, in one order"))
        result._columns = self._columns or later._columns
        if a.mean.shape != b.mean.shape:
            raise ValueError(say.stream_shape(tuple(b.mean.shape), tuple(a.mean.shape)))
        before = self._decayed(a, b)
        if self._zone != later._zone:
            raise ValueError(say.times_zones())
        weight = before.weight + b.weight
        empty = weight == 0
        share = (b.weight + empty * (b.count > 0)) / (weight + empty)
        mean = before.mean + share * (b.mean - before.mean)
        last = a.last_time if b.last_time is None else b.last_time
        result._state = EwmState(weight, before.count + b.count, mean, a.steps + b.steps, last)
        return result

    def _decayed(self, a: EwmState, b: EwmState) -> Any:
        """Return what is left of ``a`` after the steps of ``b``: as after one missing sample, that many steps later."""
        ignore_na, axis = self._options[1], self._axis % (len(a.mean.shape) + 1)
        lead = (*(slice(None),) * axis, None)
        if (a.last_time is None) != (b.last_time is None):
            raise ValueError(say.merge("if both or neither had times"))
        last: Any = 0
        constant, times = self._timed, np.array([b.steps])
        if a.last_time is None:  # steps are times, where a half-life is one step if no other is given
            constant = constant or Constant(True, **self._ordered | {"halflife": 1.0})
            times = b.count[lead] if ignore_na else times
        elif ignore_na:
            raise ValueError(say.merge("with ignore_na=False, where they have times"))
        elif constant is None:
            raise ValueError(say.stream_halflife())
        else:
            times, last = np.broadcast_arrays(np.atleast_1d(b.last_time), a.last_time)
        mean = b.mean.detach() if hasattr(b.mean, "detach") else b.mean
        request = Request(constant, times, adjust=True, ignore_na=False, min_periods=0)
        before = (State(a.weight, a.count, a.mean),)
        return at_once("average", request, (np.nan * mean)[lead], None, axis, before, last)[1][0]


def same_fields(one: Any, other: Any) -> Any:
    """Return whether two states of one type are the same."""
    if type(one) is not type(other):
        return NotImplemented
    return all(_equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))


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
