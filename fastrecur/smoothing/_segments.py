"""Where a statistic begins anew: borders of segments and groups, after which the samples so far weigh nothing."""

import sys
from collections.abc import Hashable

import numpy as np

from .._arguments import checks, messages as say
from .._arguments.arrays import any_lazy, take
from ._frames import is_labelled, plain


class Borders:
    """Where series begin anew along time: offsets, resets or groups; none if all are None."""

    def __init__(self, offsets=None, resets=None, groups=None):
        if groups is not None and (offsets is not None or resets is not None):
            raise ValueError(say.groups_alone())
        self.offsets = None if offsets is None else checks.on_host("offsets", plain(offsets))
        self.resets = resets.data if any_lazy(getattr(resets, "data", None)) else plain(resets)  # of a DataArray
        if not any_lazy(self.resets):
            self.resets = None if resets is None else checks.on_host("resets", self.resets)
        elif self.resets.dtype != np.bool_:
            raise TypeError(say.resets_dtype(self.resets.dtype))
        self.groups = groups.data if is_labelled(groups) and any_lazy(getattr(groups, "data", None)) else groups

    def flags(self, shape, axis):
        """Return at which steps of data series begin anew, with as many axes as these have; None if none may."""
        if self.offsets is None and self.resets is None:
            return None
        found = np.zeros(shape[axis], bool)
        if self.offsets is not None:
            offsets = checks.offsets_in_range(self.offsets, shape[axis])
            found[offsets[:-1][offsets[:-1] < offsets[1:]]] = True
        found = found.reshape([-1 if k == axis else 1 for k in range(len(shape))])
        if self.resets is None:
            return found
        checks.resets_shape(self.resets.shape, shape, axis)
        return found | self.resets.reshape(self.resets.shape + (1,) * (len(shape) - self.resets.ndim))

    def numbers(self, steps):
        """Return the number of each step's group, 0 where it has none."""
        return 1 + np.asarray(_codes(self.groups, steps, near=True)[0], np.int64)

    def keys(self, steps):
        """Return each step's key, as Dask array or as the number of its group, and NaN where it has none."""
        if not any_lazy(self.groups):
            codes, _ = _codes(self.groups, steps)
            return np.where(codes < 0, np.nan, codes)
        from .._dask import take as take_lazy

        keys = take_lazy("groups", self.groups)
        if keys.shape != (steps,):
            raise ValueError(say.groups_shape(keys.shape, steps, hint=say.KEYS * (keys.ndim != 1)))
        return keys


NOWHERE = Borders()


def sorted_by_group(numbers, groups=0):
    """Return the order that brings ``groups`` or more together, behind steps that have none, and offsets of these."""
    sizes = np.bincount(numbers, minlength=1 + groups)
    # NumPy sorts small integers in one pass or two.
    order = np.argsort(numbers.astype(np.uint16) if len(sizes) < 2**16 else numbers, kind="stable")
    return order, np.concatenate([[0], np.cumsum(sizes)])


def numbers(keys, known):
    """Return the number of each step's group, 0 where it has none; groups that are not known become so."""
    codes, found = _codes(keys, len(keys))
    return np.array([*(1 + known.setdefault(key, len(known)) for key in found), 0])[codes]


def _codes(groups, steps, near=False):
    """Return the number of each step's group, -1 where it has none, and the groups' keys.

    Integers ``near`` each other may number groups as they are, some of them no step's.
    """
    pandas = sys.modules.get("pandas")
    if isinstance(groups, str):
        raise TypeError(say.groups_kind(str, hint=say.key_of("groups", groups)))
    if not hasattr(groups, "__len__") or "GroupBy" in type(groups).__name__:
        raise TypeError(say.groups_kind(type(groups), hint=say.NGROUP * hasattr(groups, "ngroup")))
    shape = tuple(getattr(groups, "shape", (len(groups),)))
    if shape != (steps,):
        raise ValueError(say.groups_shape(shape, steps, hint=say.KEYS * (len(shape) != 1 or type(groups) is list)))
    # NumPy would make strings of all keys if one is, and polars floats of integers if one is missing.
    if isinstance(groups, (list, tuple)) or (callable(getattr(groups, "null_count", None)) and groups.null_count()):
        keys = np.fromiter(groups, object, len(groups))
    elif hasattr(groups, "factorize"):  # of pandas
        keys = groups
    else:
        keys = np.asarray(take("groups", groups)[0] if isinstance(groups, np.ndarray) else groups)
    if near and steps and isinstance(keys.dtype, np.dtype) and keys.dtype.kind in "iu":
        low, high = int(keys.min()), int(keys.max())
        if high - low < steps:
            return np.asarray(keys, keys.dtype.kind + "8") - low, range(low, high + 1)
    known = {}
    try:
        if pandas is not None:
            codes, found = pandas.factorize(keys)
        else:
            codes, found = np.array([known.setdefault(key, len(known)) for key in keys], np.int64), known
    except TypeError:  # of what has no hash
        kind = next((type(key) for key in keys if not isinstance(key, Hashable)), type(keys[0]))
        raise TypeError(say.groups_kind(f"{type(groups).__name__} of {kind.__name__}")) from None
    if str(getattr(found, "dtype", "object")) == "object":
        there = ~np.fromiter(map(_is_missing, found), bool, len(found))
        codes = np.append(np.where(there, np.cumsum(there) - 1, -1), -1)[codes]
        found = [key for key, is_there in zip(found, there, strict=True) if is_there]
    return codes, found


def _is_missing(key):
    if isinstance(key, tuple):
        return any(map(_is_missing, key))
    return key is None or type(key).__name__ == "NAType" or bool(key != key)
