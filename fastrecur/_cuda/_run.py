"""Run a plan on a device: from addresses and a stream to launches, prepared once for all calls of a kind.

Nothing here knows an array library, synchronises, or allocates: so a call may be captured into a graph once its kernels
are loaded.
"""

import ctypes
from typing import NamedTuple

from . import _launch
from ._plan import CLEAR

_PLACES = frozenset(
    ("g", "a", "b", "h", "h0", "last", "first", "to_a", "to_b", "lengths", "descriptors")
    + ("source", "target", "product", "keep", "states", "carry", "to_product", "rows")
)  # fmt: skip
_NUMBERS = {"f4": ctypes.c_float, "f8": ctypes.c_double, "c8": ctypes.c_float, "c16": ctypes.c_double}
_APART = 256  # scratch regions begin at multiples of so many bytes, as a driver's allocations do


class Program(NamedTuple):
    """A plan's launches for operands of certain names, whose addresses or numbers come in this order."""

    scratch: int  # bytes
    regions: tuple  # where in these the plan's regions begin: their addresses are appended to the operands'
    numbers: tuple  # of operands that are passed by value: place, type, and whether an imaginary part is appended
    shifts: tuple  # for every repetition of the launches: pairs of a place and the bytes to add to it
    launches: tuple  # kernel, grid, threads, arguments that are known, and pairs of an argument and a place
    finish: tuple  # launches after all repetitions

    def run(self, places, scratch, device, stream):
        """Put the launches into a stream.

        ``places`` are addresses, 0 where there is no memory, and numbers; ``scratch`` is an address of as many bytes.
        """
        if self.regions:
            places += [scratch + begin for begin in self.regions]
        for k, number, is_complex in self.numbers:
            value = places[k]
            places[k] = number(value.real)
            if is_complex:
                places.append(number(value.imag))
        start = _launch.driver().start
        for shift in self.shifts:
            here = places
            if shift:
                here = places.copy()
                for k, offset in shift:
                    if here[k]:
                        here[k] += offset
            start(self.launches, here, device, stream)
        if self.finish:
            start(self.finish, places, device, stream)


def program(plan, names):
    """Return a plan's program for operands and results of these names; what is not named is a null address.

    What is only summed up is named with ``_sum`` where the sum belongs.
    """
    found = plan.prepared.get(names)
    if found is None:
        found = plan.prepared[names] = _program(plan, names)
    return found


def _program(plan, names):
    index = {name: k for k, name in enumerate(names)}
    itemsize, size, regions = plan.carry_dtype.itemsize, 0, []
    partials = [(f"partials {j}", finish[2]) for j, finish in enumerate(plan.finish) if finish[2]]
    for name, count in (*plan.scratch.items(), *plan.temporaries.items(), *partials):
        index[name] = len(names) + len(regions)
        regions.append(size)
        size += -(-count * itemsize // _APART) * _APART
    launched = [*plan.launches, *(finish[3][0] for finish in plan.finish)]
    numbers = {
        dict(each.places).get(name, name) for each in launched for name, kind in each.elements if kind == "number"
    }
    by_value = []
    for name in sorted(numbers & set(names), key=index.get):
        is_complex = plan.carry in ("c8", "c16")
        by_value.append((index[name], _NUMBERS[plan.carry], is_complex))
        if is_complex:
            index[name, "imag"] = len(names) + len(regions) + len(by_value) - 1
    moved = index.keys() - numbers
    shifts = tuple(
        tuple((index[name], offset) for name, offset in offsets.items() if offset and name in moved)
        for offsets in plan.offsets
    )
    finish = []
    for j, (source, target, count, launches) in enumerate(plan.finish):
        stops = [source, target + "_sum"]
        if count:
            stops.insert(1, f"partials {j}")
        finish += [
            _prepare(launch, index | {"source": index.get(stops[k]), "target": index[stops[k + 1]]})
            for k, launch in enumerate(launches)
        ]
    launches = tuple(_prepare(launch, index) for launch in plan.launches)
    return Program(size, tuple(regions), tuple(by_value), shifts, launches, tuple(finish))


def _prepare(launch, index):
    """Return a launch with its kernel, its arguments with all that is known, and where which places go.

    Descriptors are cleared by the driver, not by a kernel.
    """
    if launch.kernel == CLEAR:
        return None, None, launch.values["words"], None, index["descriptors"]
    kernel = _launch.kernel(launch.kernel, launch.rule, launch.carry, launch.options, launch.elements, launch.time)
    template, slots, is_complex = [], [], launch.carry in ("c8", "c16")
    elements, other = dict(launch.elements), dict(launch.places)
    for name, kind in zip(kernel.parameters, kernel.signature, strict=True):
        if name in _PLACES:
            parts = (other.get(name, name),)
            if elements.get(name) == "number" and is_complex:
                parts = (*parts, (parts[0], "imag"))
            for part in parts:
                if index.get(part) is not None:
                    slots.append((len(template), index[part]))
                template.append(0)
        elif kind == "i8[3]":
            template += [ctypes.c_int64(stride) for stride in launch.values[name]]
        else:
            template.append((ctypes.c_int32 if kind == "i4" else ctypes.c_int64)(launch.values[name]))
    return kernel, launch.grid, launch.threads, template, tuple(slots)


def run(plan, places, borrow, device, stream):
    """Run a plan.

    Parameters
    ----------
    plan : DevicePlan
    places : dict
        The address of each operand and result by its name in the kernels, 0 for what is left out; a Python number for
        an operand that is one.
    borrow : callable
        From a number of bytes to an address on the device that is good for what is put into the stream.
    device : int
        The device's number.
    stream : int
        The stream's handle.
    """
    ready = program(plan, tuple(places))
    ready.run(list(places.values()), borrow(ready.scratch) if ready.scratch else 0, device, stream)
