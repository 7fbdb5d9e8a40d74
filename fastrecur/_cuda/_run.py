"""Run a plan on a device: from addresses, a stream and an allocator to launches.

Nothing here knows an array library, synchronises, or allocates but by the allocator: so a call may be captured into a
graph once its kernels are loaded.
"""

import ctypes

from . import _launch

_PLACES = frozenset(
    ("g", "a", "b", "h", "h0", "last", "first", "to_a", "to_b", "lengths", "descriptors")
    + ("source", "target", "product", "keep", "states", "carry", "to_product", "rows")
)  # fmt: skip
_NUMBERS = {"f4": ctypes.c_float, "f8": ctypes.c_double, "c8": ctypes.c_float, "c16": ctypes.c_double}


def run(plan, places, allocate, device, stream):
    """Run a plan's launches.

    Parameters
    ----------
    plan : DevicePlan
    places : dict
        The address of each operand and result by its name in the kernels, 0 or nothing for what is left out; a Python
        number for an operand that is one. What is only summed up, by its name and ``_sum`` where the sum belongs.
    allocate : callable
        From a number of bytes to an address on the device, good until this call's work is done in the stream.
    device : int
        The device's number.
    stream : int
        The stream's handle.
    """
    places = dict(places)
    itemsize = plan.carry_dtype.itemsize
    for name, count in (*plan.scratch.items(), *plan.temporaries.items()):
        places[name] = allocate(count * itemsize)
    for offsets in plan.offsets:
        for k, launch in enumerate(plan.launches):
            _start(plan, k, launch, places, offsets, device, stream)
    for j, (source, target, partials, launches) in enumerate(plan.finish):
        stops = [places[source], places[target + "_sum"]]
        if partials:
            stops.insert(1, allocate(partials * itemsize))
        for k, launch in enumerate(launches):
            here = {"source": stops[k], "target": stops[k + 1]}
            _start(plan, (j, k), launch, here, {}, device, stream)


def _start(plan, key, launch, places, offsets, device, stream):
    prepared = plan.prepared.get(key)
    if prepared is None:
        prepared = plan.prepared[key] = _prepare(launch)
    kernel, template, slots = prepared
    arguments = list(template)
    for at, name, number in slots:
        place = places.get(name, 0)
        if number is not None:
            arguments[at] = number(place.real)
            if launch.carry in ("c8", "c16"):
                arguments[at + 1] = number(place.imag)
        elif place:
            arguments[at] = place + offsets.get(name, 0)
    _launch.launch(kernel, launch.grid, launch.threads, arguments, device, stream)


def _prepare(launch):
    """Return a launch's kernel, its arguments with all that is known, and where addresses and numbers go."""
    kernel = _launch.kernel(launch.kernel, launch.rule, launch.carry, launch.options, launch.elements, launch.time)
    template = []
    slots = []
    elements = dict(launch.elements)
    for name, kind in zip(kernel.parameters, kernel.signature, strict=True):
        if name in _PLACES:
            number = _NUMBERS.get(launch.carry) if elements.get(name) == "number" else None
            slots.append((len(template), dict(launch.places).get(name, name), number))
            template += [0, 0] if number and launch.carry in ("c8", "c16") else [0]
        elif kind == "i8[3]":
            template += [ctypes.c_int64(stride) for stride in launch.values[name]]
        else:
            template.append((ctypes.c_int32 if kind == "i4" else ctypes.c_int64)(launch.values[name]))
    return kernel, template, slots
