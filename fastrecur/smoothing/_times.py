"""Times of samples, checked, and how long it is between them."""

import datetime

import numpy as np

from .._arguments import messages as say
from .._arguments.arrays import take
from .._arguments.checks import with_numbers

# In attoseconds, the least of NumPy's; of what has no fixed length, in months.
_UNITS = {"Y": 12, "M": 1, "W": 604800 * 10**18, "D": 86400 * 10**18, "h": 3600 * 10**18, "m": 60 * 10**18}
_UNITS |= {unit: 10 ** (18 - 3 * k) for k, unit in enumerate(("s", "ms", "us", "ns", "ps", "fs", "as"))}


def take_times(times, as_tensor=False):
    """Return times as an array of datetime64, int64, uint64 where int64 is too small, or floats; raise for others."""
    if getattr(times, "requires_grad", False):
        raise TypeError(say.times_gradient())
    if as_tensor:
        return times
    if isinstance(times, str):
        raise TypeError(say.times_dtype(str, hint=say.key_of("times", times)))
    if getattr(getattr(times, "dtype", None), "tz", None) is not None:  # of pandas: in UTC
        times = times.to_numpy(f"datetime64[{times.dtype.unit}]")
    elif isinstance(times, (np.ndarray, list, tuple)):
        times, _ = take("times", times)
    array = np.asarray(with_numbers("times", times))
    if array.dtype == object and all(isinstance(value, datetime.date) for value in array.flat):
        array = _dates(array)
    if array.dtype.kind not in "Miuf":
        kinds = ", ".join(sorted({type(value).__name__ for value in array.flat}))
        raise ValueError(say.times_dtype(kinds if array.dtype == object else f"dtype {array.dtype}"))
    kind = array.dtype.kind
    if kind == "i" or (kind == "u" and array.max(initial=0) <= np.iinfo(np.int64).max):
        return array.astype(np.int64, copy=False)  # of fewer bits, gaps may not fit
    return array


def has_zone(times):
    """Return whether dates have a time zone, which datetime64 has not."""
    kind = getattr(times, "dtype", None)
    if isinstance(times, (list, tuple)) or getattr(kind, "kind", "") == "O":
        kind = next(iter(np.asarray(times, object).flat), None)
    return any(getattr(kind, name, None) is not None for name in ("tz", "time_zone", "tzinfo"))


def _dates(values):
    """Return Python's or pandas' dates and times as datetime64, those with a time zone in UTC."""
    if len({getattr(value, "tzinfo", None) is None for value in values.flat}) > 1:
        raise ValueError(say.times_zones())
    found = list(values.flat)
    if getattr(next(iter(found), None), "tzinfo", None) is not None:
        found = [value.astimezone(datetime.timezone.utc).replace(tzinfo=None) for value in found]
    # pandas' has nanoseconds
    found = [v.to_datetime64() if hasattr(v, "to_datetime64") else np.datetime64(v, "us") for v in found]
    array = np.array(found)
    if any(v.dtype != array.dtype and at.astype(v.dtype) != v for v, at in zip(found, array, strict=True)):
        raise ValueError(say.times_range(array.dtype))
    return array.reshape(values.shape)


def in_units(times, halflife, dates, last=None):
    """Return times and the one before them in one unit, and a half-life as a number of it; raise if there is none."""
    if dates != (getattr(times.dtype, "kind", "") == "M"):
        raise ValueError(say.times_units())
    if last is not None and isinstance(times, np.ndarray):
        dtype = np.result_type(times, last)
        for value in (times, np.asarray(last)):
            if not np.array_equal(value.astype(dtype).astype(value.dtype), value, equal_nan=True):  # NumPy wraps
                raise ValueError(say.times_range(dtype))
        times, last = times.astype(dtype, copy=False), np.asarray(last, dtype)
    if dates:
        (own, count), (unit, many) = np.datetime_data(halflife.dtype), np.datetime_data(times.dtype)
        if not {own, unit} <= _UNITS.keys() or (own in "YM") != (unit in "YM"):
            raise ValueError(say.times_months(own, unit))
        halflife = np.asarray(halflife).astype(np.int64) * (count * _UNITS[own] / (many * _UNITS[unit]))
    return times, halflife, last


def steps(times, shape, axis, last=None, begins=None, xp=np, readable=True):
    """Return how long before each step the one before it was, in the data's axes and the unit of times, in float64."""
    # ``last`` is the time before the first step. Where a series ``begins`` anew, it is 0: the clock may go back there.
    # Times are checked if they are ``readable``: where that is no wait for a device.
    times, is_whole = placed(times, shape, axis), True
    if xp is not np:
        begins = None if begins is None else xp.as_tensor(begins, device=times.device)
        is_whole = not times.is_floating_point()
        times = times.to(xp.int64 if is_whole else xp.float64)
    elif times.dtype.kind == "f":
        times, is_whole = times.astype(np.float64, copy=False), False
    if readable and not bool((are_there := xp.isfinite(times)).all()):
        raise ValueError(say.times_missing(times[~are_there][0]))
    lead = (slice(None),) * axis
    first = times[(*lead, slice(0, 1))]
    before = first if last is None else xp.broadcast_to(last, first.shape)
    before = xp.concatenate([before, times[(*lead, slice(0, -1))]], axis=axis)
    if begins is not None:
        before = xp.where(begins, times, before)
    if readable and bool((bad := before > times).any()):
        raise ValueError(say.times_order(before[bad][0], times[bad][0]))
    if not is_whole:
        return times - before
    if xp is np:
        found = (times.astype(np.int64) - before.astype(np.int64)).astype(np.float64)
    else:
        found = (times - before).to(xp.float64)
    return xp.where(found < 0, found + 2.0**64, found)  # what is too far apart for 64 bits has wrapped


def edge(times, axis):
    """Return the times at the last step, with that axis where each series has its own."""
    return times[-1] if times.ndim == 1 else np.take(times, [-1], axis)


def placed(times, shape, axis):
    """Return times in the data's axes."""
    if times.ndim == 1 and times.shape[0] == shape[axis]:
        return times.reshape([-1 if k == axis else 1 for k in range(len(shape))])
    if tuple(times.shape) != tuple(shape):
        raise ValueError(say.times_shape(tuple(times.shape), shape[axis]))
    return times
