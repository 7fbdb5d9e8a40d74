"""What the caller gives, made plain: the smoothing constant, the times, counts and axes."""

from __future__ import annotations

import datetime
import math
import operator
from typing import Any

import numpy as np

from .. import _checks
from .. import _messages as say

LN2 = math.log(2.0)


class Constant:
    """A smoothing constant: `alpha`, and with times the half-life too (a timedelta where `dates`)."""

    def __init__(self, com: Any, span: Any, halflife: Any, alpha: Any, with_times: bool) -> None:
        given = {"com": com, "span": span, "halflife": halflife, "alpha": alpha}
        named = [name for name, value in given.items() if value is not None]
        self.halflife: Any = None
        self.dates = False
        if with_times:
            if halflife is None:
                raise ValueError(say.times_without_halflife())
            self.halflife, self.dates = _halflife(halflife)
            named.remove("halflife")
            if not named:
                self.alpha: Any = 0.5
                return
        if len(named) != 1:
            raise ValueError(say.one_constant(named))
        if not with_times and halflife is not None and (isinstance(halflife, str) or _is_timedelta(halflife)):
            raise ValueError(say.halflife_without_times())
        name = named[0]
        self.alpha = alpha if name == "alpha" and not is_number(alpha) else _alpha(name, number(name, given[name]))


def _alpha(name: str, value: float) -> float:
    rules = {
        "com": ("com >= 0", value >= 0),
        "span": ("span >= 1", value >= 1),
        "halflife": ("halflife > 0", value > 0),
        "alpha": ("0 < alpha <= 1", 0 < value <= 1),
    }
    rule, holds = rules[name]
    if not holds:
        raise ValueError(say.constant_domain(name, rule, value))
    formulas = {
        "com": lambda: 1 / (1 + value),
        "span": lambda: 2 / (value + 1),
        "halflife": lambda: -math.expm1(-LN2 / value),
        "alpha": lambda: value,
    }
    alpha = formulas[name]()
    if not alpha > 0:  # infinitely slow
        raise ValueError(say.constant_domain(name, "a finite number", value))
    return alpha


def is_number(value: Any) -> bool:
    # A timedelta64 is an integer to NumPy.
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, (bool, np.timedelta64))


def _is_timedelta(value: Any) -> bool:
    return isinstance(value, (datetime.timedelta, np.timedelta64))


def number(name: str, value: Any) -> float:
    """Return a real number as a float."""
    if not is_number(value):
        raise TypeError(say.constant_type(name, type(value)))
    return float(value)


def _halflife(value: Any) -> tuple[Any, bool]:
    """Return a half-life as ``(number or timedelta64, whether it is a time)``."""
    if isinstance(value, str):
        try:
            from pandas import Timedelta  # whoever writes pandas' strings has it

            value = Timedelta(value)
        except (ImportError, ValueError) as error:
            raise ValueError(say.halflife_string(value, error)) from None
    if _is_timedelta(value):
        value = value.to_timedelta64() if hasattr(value, "to_timedelta64") else np.timedelta64(value)
        if not value > np.timedelta64(0):  # NaT neither
            raise ValueError(say.constant_domain("halflife", "halflife > 0", value))
        return value, True
    if not is_number(value):
        raise TypeError(say.halflife_type(type(value)))
    if not value > 0:
        raise ValueError(say.constant_domain("halflife", "halflife > 0", value))
    return float(value), False


def take_times(times: Any) -> np.ndarray:
    """Return times as an array of datetime64 or float64; raise for what has no place on an axis of time."""
    if getattr(times, "requires_grad", False):
        raise TypeError(say.times_gradient())
    array = np.asarray(times)
    if array.dtype == object and hasattr(times, "to_numpy"):
        array = np.asarray(times.to_numpy("datetime64[ns]"))  # with a time zone
    elif array.dtype == object and all(isinstance(value, datetime.date) for value in array.flat):
        array = _dates(array)
    if array.dtype.kind == "M":
        bad = np.isnat(array).any()
    elif array.dtype.kind in "iuf":
        if array.dtype.kind == "i":
            array = array.astype(np.int64, copy=False)  # of fewer bits, differences may not fit
        bad = not np.isfinite(array).all()
    else:
        raise ValueError(say.times_dtype(array.dtype))
    if bad:
        raise ValueError(say.times_missing())
    return array


def _dates(values: np.ndarray) -> np.ndarray:
    """Return Python's or pandas' dates and times as datetime64, those with a time zone in UTC."""
    if len({getattr(value, "tzinfo", None) is None for value in values.flat}) > 1:
        raise ValueError(say.times_zones())
    found = []
    for value in values.flat:
        if getattr(value, "tzinfo", None) is not None:
            value = value.astimezone(datetime.timezone.utc).replace(tzinfo=None)
        # pandas' has nanoseconds
        found.append(value.to_datetime64() if hasattr(value, "to_datetime64") else np.datetime64(value, "us"))
    return np.array(found).reshape(values.shape)


def elapsed(
    times: np.ndarray, constant: Constant, shape: tuple[int, ...], axis: int, last: Any = None, begins: Any = None
) -> np.ndarray:
    """Return how many half-lives passed before each step, in the data's axes; ``last`` is the time before the first.

    Where a series ``begins`` anew, it is none: the clock may go back there.
    """
    if constant.dates != (times.dtype.kind == "M"):
        raise ValueError(say.times_units())
    if times.ndim == 1 and times.shape[0] == shape[axis]:
        times = times.reshape([-1 if k == axis else 1 for k in range(len(shape))])
    elif times.shape != shape:
        raise ValueError(say.times_shape(times.shape, shape[axis]))
    before = np.roll(times, 1, axis)  # differences of integers, so that no nanosecond is lost
    first = (slice(None),) * axis + (slice(0, 1),)
    before[first] = times[first] if last is None else last
    steps = times - before if times.dtype.kind != "u" else times.astype(np.float64) - before.astype(np.float64)
    if begins is not None:
        steps = np.where(begins, steps.dtype.type(0), steps)
    if (steps < steps.dtype.type(0)).any():
        raise ValueError(say.times_order())
    return np.asarray(steps / constant.halflife, np.float64)


def integer(name: str, value: Any, least: int | None = None) -> int:
    """Return an integer."""
    try:
        whole = None if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:  # an array has the method, but not for several numbers
        whole = None
    if whole is None:
        raise TypeError(say.count_type(name, type(value)))
    if least is not None and whole < least:
        raise ValueError(say.at_least(name, least, whole))
    return whole


def flag(name: str, value: Any) -> bool:
    """Return a bool."""
    return _checks.flag(name, value)


def least_count(min_periods: Any) -> int:
    """Return how many samples a statistic needs: no more than a kernel can count."""
    return 0 if min_periods is None else min(integer("min_periods", min_periods), 1 << 62)
