"""Times of samples, checked, and what is left of a weight between them."""

from __future__ import annotations

import datetime
import math
from typing import Any

import numpy as np

from .. import _cost, _problem, _threads
from .. import _messages as say
from .._arrays import address, element
from .._checks import with_numbers
from .._cpu import _decays
from .._cpu._compile import kernel
from .._cpu._types import WIDTH
from ._arguments import is_array

LONG = 1024  # times from which a kernel is quicker
SERIAL_STEPS = 1 << 15  # below which a second thread costs more than it brings
MOST_EXACT = 1 << 53  # up to which integers are float64, as microseconds since 1970 are
STEP_BYTES = 64  # that are moved in the time of a step


def take_times(times: Any, as_tensor: bool = False) -> Any:
    """Return times as an array of datetime64, int64, unsigned integers or floats; raise for other things."""
    if getattr(times, "requires_grad", False):
        raise TypeError(say.times_gradient())
    if as_tensor:
        return times
    array = np.asarray(with_numbers("times", times))
    if array.dtype == object and hasattr(times, "to_numpy"):
        array = np.asarray(times.to_numpy("datetime64[ns]"))  # with a time zone
    elif array.dtype == object and all(isinstance(value, datetime.date) for value in array.flat):
        array = _dates(array)
    if array.dtype.kind not in "Miuf":
        raise ValueError(say.times_dtype(array.dtype))
    return array.astype(np.int64, copy=False) if array.dtype.kind == "i" else array  # of fewer bits, gaps may not fit


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


def steps(
    times: Any, dates: bool, shape: tuple[int, ...], axis: int, last: Any = None, begins: Any = None, xp: Any = np,
    readable: bool = True,
) -> Any:  # fmt: skip
    """Return how long before each step the one before it was, in the data's axes: integers if times are.

    ``last`` is the time before the first step. Where a series ``begins`` anew, it is 0: the clock may go back there.
    Times are checked if they are ``readable``: where that is no wait for a device.
    """
    times = _placed(times, dates, shape, axis)
    # Of signed integers as such, so that no digit is lost.
    if xp is not np:
        is_signed = times.dtype in (xp.int8, xp.int16, xp.int32, xp.int64)
        times = times.to(xp.int64 if is_signed else xp.float64)
        last = None if last is None else xp.as_tensor(last, dtype=times.dtype, device=times.device)
        begins = None if begins is None else xp.as_tensor(begins, device=times.device)
    elif times.dtype.kind in "uf":
        times = times.astype(np.float64)
    if readable and not bool(xp.isfinite(times).all()):
        raise ValueError(say.times_missing())
    lead = (slice(None),) * axis
    first = times[(*lead, slice(0, 1))]
    before = first if last is None else xp.broadcast_to(last, first.shape)
    found = times - xp.concatenate([before, times[(*lead, slice(None, -1))]], axis=axis)
    if begins is not None:
        found = xp.where(begins, xp.zeros_like(found), found)
    if readable and bool((found < xp.zeros_like(found)).any()):
        raise ValueError(say.times_order())
    return found


def edge(times: Any, axis: int, step: int) -> Any:
    """Return the times at the first step (0) or the last one (-1), with that axis where each series has its own."""
    return times[step] if times.ndim == 1 else np.take(times, [step], axis)


def _placed(times: Any, dates: bool, shape: tuple[int, ...], axis: int) -> Any:
    """Return times in the data's axes."""
    if dates != (getattr(times.dtype, "kind", "") == "M"):
        raise ValueError(say.times_units())
    if times.ndim == 1 and times.shape[0] == shape[axis]:
        return times.reshape([-1 if k == axis else 1 for k in range(len(shape))])
    if tuple(times.shape) != tuple(shape):
        raise ValueError(say.times_shape(tuple(times.shape), shape[axis]))
    return times


def decays(
    times: np.ndarray, dates: bool, halflife: Any, alpha: Any, shape: tuple[int, ...], axis: int, last: Any = None,
    begins: Any = None,
) -> Any:  # fmt: skip
    """Return what is left of a weight at each step: ``(1 - alpha)**(time/halflife)``."""
    if begins is None and times.ndim == 1 and len(times) == shape[axis] >= LONG and dates == (times.dtype.kind == "M"):
        found = _by_kernel(times, halflife, alpha, last)
        if found is not None:
            return _placed(found, False, shape, axis)
    gaps = np.asarray(steps(times, dates, shape, axis, last, begins) / halflife, np.float64)
    return np.exp2(-gaps) if np.ndim(alpha) == 0 and alpha == 0.5 else (1.0 - np.asarray(alpha, np.float64)) ** gaps


def _by_kernel(times: np.ndarray, halflife: Any, alpha: Any, last: Any) -> np.ndarray | None:
    """Return decays from a kernel; None of what it does not take, bad times among that."""
    is_date = times.dtype.kind == "M"
    name = "i8" if is_date and times.dtype.isnative else element(times.dtype)
    if name not in ("i8", "f4", "f8") or np.ndim(alpha) or is_array(halflife) or not alpha < 1:
        return None
    head = np.asarray(steps(times[:1], is_date, (1,), 0, last) / halflife)
    times = np.ascontiguousarray(times)
    if is_date:
        unit = np.array(1, times.dtype.str.replace("M8", "m8", 1))
        halflife, times = halflife / unit, times.view(np.int64)
    power = math.log2(1.0 - alpha)
    found = _problem.empty(times.shape, np.dtype(np.float64), (8,))
    found[0] = np.exp2(power * head[0])
    # Those between such ends are floats without a loss; others are out of order, which the kernel sees.
    are_exact = name != "i8" or max(abs(int(times[0])), abs(int(times[-1]))) <= MOST_EXACT
    call = kernel(_decays.walk, "" if are_exact else "integers", "f8", times=name, decays="f8")
    team = _threads.team()
    threads = team.size if len(times) >= SERIAL_STEPS else 1
    parts = _threads.ranges(len(times) - 1, _cost.items(STEP_BYTES * len(times), threads, len(times) // LONG))
    carries = np.zeros((len(parts), 2 * WIDTH))
    carries[:, : _decays.POWER + 1] = halflife, power
    team.run(
        [
            (call, None, *map(address, (times, found, carry)), 1 + low, 1 + high)
            for (low, high), carry in zip(parts, carries, strict=True)
        ],
        threads,
    )
    return found if (carries[:, _decays.SOUND :] >= 0).all() else None
