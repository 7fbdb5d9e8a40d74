"""Kaufman's gates and average: by a kernel for NumPy's arrays, by formulas for all others."""

import math
from typing import Any

import numpy as np

from .._arguments import arrays, shapes
from .._arguments.arrays import address, at, join, quiet
from .._cpu import cost
from .._cpu.compiler.compile import kernel
from .._cpu.machine import allocate, threads as _threads
from .._plan.widths import WIDTH
from ..recurrence import forget_mult

BLOCK = 2048  # elements that are taken at once, of buffers that stay in the nearest cache
ROOM = 1 << 14  # elements of the steps before them, from which fewer series are taken side by side
_WIDE = np.dtype(np.float64)


def average(x: np.ndarray, period: int, quick: float, calm: float, axis: int) -> np.ndarray:
    """Return the average of an array of more than ``period`` steps, in float64."""
    order = sorted(range(x.ndim), key=lambda k: (-abs(x.strides[k]), k))
    own, back = order.index(axis), [order.index(k) for k in range(x.ndim)]
    x = np.ascontiguousarray(x.transpose(order))
    result = allocate.empty(x.shape, _WIDE, shapes.c_strides(x.shape, _WIDE.itemsize))
    result[(slice(None),) * own + (slice(period),)] = np.nan
    rest, gates = at(x, own, slice(period, None)), at(result, own, slice(period, None))
    if x.size:
        _write_gates(x, gates, period, quick, calm, own)
    forget_mult(gates, rest, at(x, own, period - 1), axis=own, out=gates)
    averages: np.ndarray = result.transpose(back)
    return averages


def _write_gates(x: np.ndarray, gates: np.ndarray, period: int, quick: float, calm: float, axis: int) -> None:
    steps, lanes, outer = x.shape[axis], math.prod(x.shape[axis + 1 :]), math.prod(x.shape[:axis])
    row = lanes
    if (period - 1) * lanes > ROOM:
        row = min(lanes, max(WIDTH, ROOM // (period - 1) // WIDTH * WIDTH))
    block = max(1, min(steps - period, max(BLOCK // row, period - 1)))
    room = (block + period - 1) * row
    team = _threads.team()
    threads = cost.threads("statistics", 8 * x.size, team.size)
    if outer >= threads:
        parts = [(*part, period, steps) for part in _threads.ranges(outer, threads)]
    else:
        parts = [(0, outer, period + low, period + high) for low, high in _threads.ranges(steps - period, threads)]
    spread = lanes * x.itemsize, lanes * _WIDE.itemsize
    apart = steps * spread[0], spread[0], steps * spread[1], spread[1]
    call = kernel("kaufman.walk", "", "f8", x=arrays.element(x.dtype), gates="f8")
    buffers = np.empty((len(parts), WIDTH + 2 * room))
    buffers[:, :2] = calm, quick - calm
    places = address(x), address(gates)
    team.run([
        (call, None, *places, address(buffer), *part, period, lanes, row, block, *apart, room)
        for buffer, part in zip(buffers, parts, strict=True)
    ])  # fmt: skip


def straightness(x: Any, *, xp: Any, period: int, axis: int) -> Any:
    """Return how straight the way was, for each step that has so many before it; 1 for others."""
    head = xp.ones_like(at(x, axis, slice(period)))
    if x.shape[axis] <= period:
        return head
    with quiet(xp):
        moved = abs(at(x, axis, slice(period, None)) - at(x, axis, slice(-period)))
        path = _paths(abs(at(x, axis, slice(1, None)) - at(x, axis, slice(-1))), period, axis)
        one, still = xp.ones_like(path), path <= 0
        found = xp.where(still, one, moved / xp.where(still, one, path))
        return join(xp, [head, xp.where(found > 1, one, found)], axis)  # rounding of the path


def _paths(strides: Any, period: int, axis: int) -> Any:
    """Return sums of all windows, added up as the kernel does: a running sum would keep what has left it."""
    paths, length = strides, 1
    for bit in bin(period)[3:]:
        paths = at(paths, axis, slice(length, None)) + at(paths, axis, slice(-length))
        length *= 2
        if bit == "1":
            paths = at(paths, axis, slice(1, None)) + at(strides, axis, slice(-length))
            length += 1
    return paths
