"""Ways to lay the same values out in memory: each takes an array and returns an equal view."""

import numpy as np


def c_order(a):
    return np.array(a, order="C")


def fortran(a):
    return np.array(a, order="F")


def first_two_swapped(a):
    return np.array(a.swapaxes(0, 1), order="C").swapaxes(0, 1)


def last_two_swapped(a):
    return np.array(a.swapaxes(-1, -2), order="C").swapaxes(-1, -2)


def negative_strides(a):
    return np.array(np.flip(a), order="C")[(slice(None, None, -1),) * a.ndim]


def negative_first_stride(a):
    return np.array(a[::-1], order="C")[::-1]


def gate_slice(a):
    """The middle third of the last axis, as one gate of a (T, B, 3H) product is."""
    n = a.shape[-1]
    wide = np.full((*a.shape[:-1], 3 * n), np.nan).astype(a.dtype)
    wide[..., n : 2 * n] = a
    return wide[..., n : 2 * n]


def every_other_lane(a):
    wide = np.full((*a.shape[:-1], 2 * a.shape[-1]), np.nan).astype(a.dtype)
    wide[..., ::2] = a
    return wide[..., ::2]


def every_third_row_backwards(a):
    tall = np.full((3 * a.shape[0], *a.shape[1:]), np.nan).astype(a.dtype)
    tall[::-3] = a
    return tall[::-3]


def unaligned(a):
    buffer = np.empty(a.nbytes + 1, np.uint8)
    view = buffer[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def guarded(shape, dtype, offset):
    """An array that begins so many bytes behind a cache line and rows of which are apart, and all of its memory."""
    rows = -(-shape[1] // 64) * 64 + 64
    memory = np.full((shape[0] + 2) * rows * np.dtype(dtype).itemsize + 192, 0xA5, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    rest = memory[start : start + (shape[0] + 2) * rows * np.dtype(dtype).itemsize]
    return rest.view(dtype).reshape(-1, rows)[1:-1, 8 : 8 + shape[1]], memory


def other_byte_order(a):
    return a.astype(a.dtype.newbyteorder())


def read_only(a):
    view = np.array(a)
    view.flags.writeable = False
    return view


def memory_mapped(a):
    import tempfile

    with tempfile.TemporaryFile() as file:
        view = np.memmap(file, a.dtype, "w+", shape=a.shape)
    view[...] = a
    return view


# What any array may look like; and what no array that is written to does.
WRITEABLE = [
    c_order,
    fortran,
    first_two_swapped,
    last_two_swapped,
    negative_strides,
    negative_first_stride,
    gate_slice,
    every_other_lane,
    every_third_row_backwards,
]
FOREIGN = [unaligned, other_byte_order, read_only, memory_mapped]
