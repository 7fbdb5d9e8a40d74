"""A layer's pooling as a launch: a function of dtypes, sizes and strides alone."""

import functools

from .._arrays import element
from . import _plan

# Of operands and results, in the order of their addresses.
NAMES = "g", "product", "keep", "h", "states", "first", "carry", "to_product", "rows", "lengths"


@functools.lru_cache(maxsize=1024)
def plan(name, operands, steps, batch, width, reverse, gated, packed):
    """Return the plan of `pool` or `pool_vjp`.

    Parameters
    ----------
    name : str
        Of the kernel.
    operands : tuple
        For each operand its name, its dtype, or None for a number that is passed by value, and its strides in bytes, of
        a step and of a sequence; ``carry`` is dense, and ``rows`` of int64.
    steps, batch, width : int
        The most steps, the sequences, and the lanes of each.
    reverse, gated, packed : bool
        The direction of travel; whether there are output gates; whether steps stand where `rows` says.
    """
    lanes = batch * width
    _plan._check_size(lanes, steps)
    product = dict((label, dtype) for label, dtype, _ in operands)["product"]
    carry = "f8" if element(product) == "f8" else "f4"
    # What may be left out is a null address.
    elements = {"carry": carry, "rows": "i8", "lengths": "i8", "states": element(product)}
    values = dict(steps=steps, reverse=int(reverse), lanes=lanes, middles=batch, inners=width, width=1, tiles=1)
    values["states_time"] = 0
    values |= {"states_lane": (0, 0, 0), "lengths_lane": (0, 0, 0)}
    offsets = {}
    for label, dtype, (step, sequence) in operands:
        itemsize = 0 if dtype is None else dtype.itemsize
        elements[label] = "number" if dtype is None else element(dtype)
        if reverse and not packed:
            offsets[label], step = (steps - 1) * step, -step
        values[label + "_time"] = step
        inner = 0 if label == "lengths" else itemsize
        values[label + "_lane"] = width * itemsize, sequence, inner
    ahead = (8 if carry == "f4" else 4) // (2 if name == "pool_vjp" else 1)
    options = dict(ahead=ahead, gated=gated, packed=packed)
    per_block = _plan._block(lanes)
    launch = _plan.Launch(
        name, "", carry, tuple(sorted(options.items())), tuple(sorted(elements.items())), "i8",
        _plan._grid(lanes, per_block), per_block, values,
    )  # fmt: skip
    return _plan.DevicePlan(None, carry, NAMES, (launch,), (offsets,))
