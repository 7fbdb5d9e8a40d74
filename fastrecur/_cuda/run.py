"""Run a plan on a device: from addresses and a stream to launches, prepared once for all calls of a kind.

Nothing here knows an array library, synchronises, or allocates: so a call may be captured into a graph once its kernels
are loaded.
"""

import ctypes
import functools
from typing import NamedTuple

import numpy as np

from . import launch as _launch
from .plan import CLEAR

_NUMBERS = {"f4": ctypes.c_float, "f8": ctypes.c_double, "c8": ctypes.c_float, "c16": ctypes.c_double}
_APART = 256  # scratch regions begin at multiples of so many bytes, as a driver's allocations do


class Program(NamedTuple):
    scratch: int  # bytes
    regions: tuple  # where in these the plan's regions begin: their addresses are appended to the operands'
    numbers: tuple  # of operands that are passed by value: place, type, and whether an imaginary part is appended
    shifts: tuple  # for every repetition of the launches: pairs of a place and the bytes to add to it
    launches: tuple  # kernel, grid, threads, arguments that are known, and pairs of an argument and a place
    finish: tuple  # launches after all repetitions

    def run(self, places, scratch, device, stream):
        """Put the launches into a stream of a device.

        ``places`` are addresses in the order of the plan's names, 0 where there is no memory, and numbers; ``scratch``
        is an address of as many bytes.
        """
        places += [scratch + begin for begin in self.regions]
        for k, number, is_complex in self.numbers:
            value = places[k]
            places[k] = number(value.real)
            if is_complex:
                places.append(number(value.imag))
        start = _launch.driver().start
        for shift in self.shifts:
            here = places.copy()
            for k, offset in shift:
                if here[k]:
                    here[k] += offset
            start(self.launches, here, device, stream)
        if self.finish:
            start(self.finish, places, device, stream)


def apart(size):
    """Return how far from a scratch region of so many bytes the next one begins."""
    return -(-size // _APART) * _APART


@functools.lru_cache(1024)
def program(plan):
    """Return a plan's program."""
    index, itemsize, size, regions = {}, np.dtype(plan.carry).itemsize, 0, []
    for k, name in enumerate(plan.names):
        index[name] = index["result", name] = k
    for name, count in plan.scratch.items():
        index[name] = len(plan.names) + len(regions)
        regions.append(size)
        size += apart(count * itemsize)
    numbers = {name for each in plan.launches for name, kind in each.elements if kind == "number"}
    by_value, is_complex = [], plan.carry in ("c8", "c16")
    for name in sorted(numbers, key=index.get):
        if is_complex:
            index[name, "imag"] = len(plan.names) + len(regions) + len(by_value)
        by_value.append((index[name], _NUMBERS[plan.carry], is_complex))
    shifts = tuple(
        tuple((index[name], offset) for name, offset in each.items() if offset and name in index.keys() - numbers)
        for each in plan.offsets
    )
    launches, finish = (tuple(_prepare(launch, index) for launch in each) for each in (plan.launches, plan.finish))
    return Program(size, tuple(regions), tuple(by_value), shifts, launches, finish)


def _prepare(launch, index):
    """Return a launch with its kernel, its arguments with all that is known, and where which places go.

    Descriptors are cleared by the driver, not by a kernel. What a plan says nothing of is 0: an address, a stride.
    """
    if launch.kernel == CLEAR:
        return None, None, launch.values["words"], None, index["descriptors"]
    kernel, template, slots = _launch.kernel(*launch[:6]), [], []
    for name, kind in zip(kernel.parameters, kernel.signature, strict=True):
        if kind == "i8[3]":
            template += [ctypes.c_int64(stride) for stride in launch.values.get(name, (0, 0, 0))]
        elif kind in ("i4", "i8"):
            template.append((ctypes.c_int32 if kind == "i4" else ctypes.c_int64)(launch.values.get(name, 0)))
        else:
            place = launch.places.get(name, name)
            for part in (place, (place, "imag")) if kind in ("c8", "c16") else (place,):
                if part in index:
                    slots.append((len(template), index[part]))
                template.append(0)
    return kernel, launch.grid, launch.threads, template, tuple(slots)
