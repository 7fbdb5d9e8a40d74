"""What the caller gives, made plain: the smoothing constant and counts."""

import copy
import datetime
import functools
import math
import re

import numpy as np

from .._arguments import messages as say
from .._arguments.arrays import take
from .._arguments.checks import axis, is_array, is_number, number

LN2 = math.log(2.0)
# Of each constant, a number or an array of a namespace: what holds, in words and in Python, and what of it is alpha.
RULES = {
    "com": ("0 <= com < infinity", lambda value: value >= 0, lambda xp, value: 1 / (1 + value)),
    "span": ("1 <= span < infinity", lambda value: value >= 1, lambda xp, value: 2 / (value + 1)),
    "halflife": ("0 < halflife < infinity", lambda value: value > 0, lambda xp, value: -xp.expm1(-LN2 / value)),
    "alpha": ("0 < alpha <= 1", lambda value: (value > 0) & (value <= 1), lambda xp, value: value),
}
ALPHA = {name: alpha for name, (_, _, alpha) in RULES.items()}


class Constant:
    """A smoothing constant: its name and its value, an array, or a number that is an alpha whatever it was.

    With times there is a half-life too, a time where `dates`: a number, a timedelta64 or an array.
    """

    def __init__(self, with_times, com, span, halflife, alpha):
        given = {"com": com, "span": span, "halflife": halflife, "alpha": alpha}
        named = arrays_of({name: value for name, value in given.items() if value is not None})
        self.halflife, self.dates, self.arrays = None, False, {}
        if with_times:
            if halflife is None:
                raise ValueError(say.times_without_halflife(named))
            self.halflife, self.dates = _halflife(named.pop("halflife"))
            named = named or {"alpha": 0.5}
            if is_array(self.halflife):
                self.arrays["halflife"] = self.halflife
        if len(named) != 1:
            raise ValueError(say.one_constant(named))
        [(self.name, self.value)] = named.items()
        if is_number(self.value):
            came, self.value = self.value, float(ALPHA[self.name](np, number(self.name, self.value, RULES)))
            if not self.value > 0:  # infinitely slow
                raise ValueError(say.constant_domain(self.name, RULES[self.name][0], came))
            self.name = "alpha"
        elif self.name == "halflife" and (isinstance(self.value, str) or _is_timedelta(self.value)):
            raise ValueError(say.halflife_without_times(self.value))
        elif self.name == "alpha" or is_array(self.value):
            self.arrays[self.name] = self.value
        else:
            raise TypeError(say.constant_or_array(self.name, type(self.value)))

    def replaced(self, **arrays):
        other = copy.copy(self)
        other.arrays = arrays
        other.value = arrays.get(self.name, self.value)
        other.halflife = arrays.get("halflife", self.halflife)  # beside times alone
        return other


_NUMBERS = {type(None), int, float}
_of_numbers = functools.lru_cache(maxsize=256)(Constant)


def remembered(with_times, *given):
    """Return a `Constant`: of numbers, and without times, the one of an earlier call with the same."""
    is_known = not with_times and _NUMBERS.issuperset(map(type, given))
    return (_of_numbers if is_known else Constant)(with_times, *given)


def _is_timedelta(value):
    return isinstance(value, datetime.timedelta) or getattr(getattr(value, "dtype", None), "kind", "") == "m"


def arrays_of(constants):
    """Return constants with arrays in the place of lists."""
    return {name: take(name, v)[0] if isinstance(v, (list, tuple)) else v for name, v in constants.items()}


def _halflife(value):
    """Return a half-life as ``(number, timedelta64 or array, whether it is a time)``."""
    if isinstance(value, str):
        try:
            from pandas import Timedelta  # whoever writes pandas' strings has it

            # polars' own "1d" and "1w", of which pandas warns
            value = Timedelta(re.sub(r"(?<=\d)[dw](?![a-z])", lambda found: found[0].upper(), value))
        except ImportError:
            raise ValueError(say.halflife_no_pandas(value)) from None
        except ValueError as error:
            raise ValueError(say.halflife_string(value, error)) from None
    if _is_timedelta(value):
        if not is_array(value):
            value = value.to_timedelta64() if hasattr(value, "to_timedelta64") else np.timedelta64(value)
        if not np.all(np.asarray(value) > np.timedelta64(0)):  # NaT neither
            raise ValueError(say.constant_domain("halflife", RULES["halflife"][0], value))
        return value, True
    if is_number(value):
        value = number("halflife", value, RULES)
    elif not is_array(value):
        raise TypeError(say.halflife_type(type(value)))
    return value, False


def least_count(min_periods):
    """Return how many samples a statistic needs: no more than a kernel can count."""
    return 0 if min_periods is None else min(axis(min_periods, "min_periods"), 1 << 62)
