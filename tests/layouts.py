"""Ways to lay the same values out in memory: each takes an array and returns an equal view."""

import numpy as np


def _around(shape, dtype):
    """Memory whose numbers are NaN where they may be, for a view of some of it."""
    return np.full(shape, 77 if dtype.kind in "iu" else np.nan).astype(dtype)


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
    wide = _around((*a.shape[:-1], 3 * n), a.dtype)
    wide[..., n : 2 * n] = a
    return wide[..., n : 2 * n]


def every_other_lane(a):
    wide = _around((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
    wide[..., ::2] = a
    return wide[..., ::2]


def every_third_row_backwards(a):
    tall = _around((3 * a.shape[0], *a.shape[1:]), a.dtype)
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
    return a.astype(a.dtype.newbyteorder()) if a.dtype.kind in "fciu" else a


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
    c_order, fortran, first_two_swapped, last_two_swapped, negative_strides, negative_first_stride, gate_slice,
    every_other_lane, every_third_row_backwards,
]  # fmt: skip
FOREIGN = [unaligned, other_byte_order, read_only, memory_mapped]


# ---- At random ------------------------------------------------------------------------------------------------------


def axes_in_any_order(a, rng):
    order = rng.permutation(a.ndim)
    return np.ascontiguousarray(a.transpose(order)).transpose(np.argsort(order))


def some_backwards(a, rng):
    axes = tuple(k for k in range(a.ndim) if rng.random() < 0.6) or tuple(range(a.ndim))
    return np.flip(np.array(np.flip(a, axes), order="C"), axes)


def repeated(a, rng):
    """The same numbers along some axes, which have no stride; other numbers than before."""
    few = a[tuple(slice(None, 1) if rng.random() < 0.5 else slice(None) for _ in a.shape)]
    return np.broadcast_to(np.array(few), a.shape)


FIXED = [c_order] * 5
FIXED += [every_other_lane, every_third_row_backwards, gate_slice, unaligned, read_only, other_byte_order]
RANDOM = [axes_in_any_order, some_backwards, some_backwards, repeated]


def laid_out(a, rng, may_repeat=False):
    """An array of those numbers in memory of some layout; some may be repeated in place of others."""
    k = int(rng.integers(len(FIXED) + len(RANDOM) - (not may_repeat)))
    if not a.ndim:
        return np.array(a)
    return FIXED[k](a) if k < len(FIXED) else RANDOM[k - len(FIXED)](a, rng)
