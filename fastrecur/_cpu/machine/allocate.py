"""Arrays that kernels write to: where they begin, and whose memory they take; zeros to start from."""

import functools
import math

import numpy as np

from .memory_pool import LINE, borrow, fresh

LARGE = 64 << 10  # bytes from which it pays to align a result
FEW_ZEROS = 1 << 20  # bytes of states up to which all plans start from the same zeros

BYTE = np.dtype(np.uint8)


def aligned(shape, dtype, allocate=borrow, strides=None):
    """Allocate an array, in C order or with other dense strides, that starts with a cache line.

    NumPy's own start a quarter into one: every second register of a row would stand in two lines, and rows of results
    would begin and end within one.
    """
    buffer, place = allocate(math.prod(shape) * dtype.itemsize + LINE)
    return np.ndarray(shape, dtype, buffer, -place % LINE, strides)


def zeros(shape, dtype):
    """Allocate zeros in C order that start with a cache line."""
    return aligned(shape, dtype, functools.partial(fresh, make=np.zeros))


ZEROS = zeros((FEW_ZEROS,), BYTE)
ZEROS.setflags(write=False)


def zero_states(plan):
    """Return zero states for a plan to start from, or more of them, which nobody may write to."""
    return ZEROS if plan.state_bytes <= FEW_ZEROS else zeros((plan.state_bytes,), BYTE)


def empty(shape, dtype, strides, large=None):
    """Allocate an array with given (dense) strides, aligned if it is ``large``, or if so many bytes."""
    if math.prod(shape) * dtype.itemsize >= (LARGE if large is None else large):
        return aligned(shape, dtype, strides=strides)
    return np.ndarray(shape, dtype, strides=strides)


def maker(shape, dtype, strides):
    """Return what allocates such arrays, as `empty` does."""
    is_small = math.prod(shape) * dtype.itemsize < LARGE  # NumPy's own are quicker made
    return functools.partial(np.ndarray if is_small else aligned, shape, dtype, strides=strides)
