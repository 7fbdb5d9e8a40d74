"""How kernels on the CPU number operands, the fields of ``geometry`` and what becomes of a gradient. Stands once.

``geometry`` is an array of int64: the fields below, then what a traversal needs of sizes and strides. Numbers are of a
type, since Numba compiles a function anew for each plain number that it is called with.
"""

from collections import namedtuple

import numpy as np

# Operands of a recurrence, in the order in which strides stand in ``geometry``.
# FLAGS are bytes, true where the state before a step, in scan order, is zero; if late, where the state behind it is.
A, B, H, CARRY, LENGTHS, G, TO_A, TO_B, SUMS_A, SUMS_B, FLAGS = np.arange(11, dtype=np.int64)
OPERANDS = 11
# What kernels take as one value each: a gradient's operands (``h0`` are the states before all steps) and its results;
# lengths, and flags and offsets in scan order if they are read, with the states of segments (see SEGMENT_BYTES); the
# part of the series that is taken, and of a row.
Given = namedtuple("Given", "g a b h h0")
Results = namedtuple("Results", "carry to_a to_b sums_a sums_b")
Marks = namedtuple("Marks", "lengths flags offsets segment_states")
Part = namedtuple("Part", "outer_first outer_last row_first row_last lane_first lane_last")

# Fields of ``geometry``:
(
    N_STEPS,
    REVERSE,  # in reverse, a series' valid steps are the last in scan order
    A_IS_BROADCAST,  # one value of a serves a whole row
    STREAMING,  # results are written with non-temporal stores; a scan's in place
    A_MODE,  # what becomes of a's gradient: an output mode
    B_MODE,
    PREFETCH,  # bytes: how much of each operand is prefetched, in whole rows; if negative, how far ahead
    SUM_STEPS,  # steps after which a partial sum of a's gradient is complete, 0 if there is one
    SUM_BYTES,  # from one such partial sum to the next
    PHASE,  # what a scan's call does, with which of its blocks
    FIRST_BLOCK,
    LAST_BLOCK,
    FIRST_STEP,  # of a chunk of time: how many steps the series have before it
    SEGMENT_BYTES,  # from one segment's states to the next one's in scan order, 0 if all are the same zeros,
    STATE_BYTES,  # and, going back, from these to the last states' cotangents, and on to where the first ones' go
) = np.arange(15, dtype=np.int64)
HEAD = 15  # fields before sizes and strides
# Where, but for rows, strides begin: each operand's four, along time and along series from outside in.
STRIDES = HEAD + 2

# Output modes of a gradient: not wanted; stored; accumulated along time; reduced over a row.
UNWANTED, STORE, ACCUMULATE, REDUCE = np.arange(4, dtype=np.int64)
