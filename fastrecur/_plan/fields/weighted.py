"""What the kernels of weighted statistics are told, and keep of each series."""

import numpy as np

# Fields of ``geometry``, before each operand's table of where each series begins, in bytes; strides are such, too.
(
    N_STEPS, CHUNK, N_SERIES, PADDED, X_STRIDE, Y_STRIDE, H_STRIDE, GATE_STRIDE, BORDERS_STRIDE, MIN_PERIODS, BIAS,
    STREAMING,
) = np.arange(12, dtype=np.int64)  # fmt: skip
HEAD = 12
# The rows of ``carry``. Means of what covaries are deviations from the ORIGIN, the first sample since the series began:
# data far from 0 lose nothing.
WEIGHT, COUNT, MEAN, ORIGIN, ORIGIN_Y, MEAN_Y, COVARIANCE, ROOM = range(8)
PLANES = 8
AVERAGE_PLANES = MEAN + 1
STEPS = 64
ALIKE = 2.0**-40  # by how much of itself a state may be off
