"""What the kernels of filters, and of levels, are told: fields of ``geometry``, tables, and sizes of tiles."""

import numpy as np

# Fields of ``geometry``: how many sections, how many series, and how many with those that fill the last vector; steps
# that all series go before the next; numbers of a section's state; of coefficients that vary in time, how many a
# section has, bytes from one to the next, and 1, or -1 if time is reversed; bytes from step to step, by operand (X_STEP
# and what follows). Then tables: where each operand's series begin, in bytes; how many steps each series has; and how
# each operand is read, by vector.
N_SECTIONS, N_SERIES, PADDED, CHUNK, ORDER, OWN, APART, WAY, X_STEP = np.arange(9, dtype=np.int64)
X, Y, G, COEFFICIENTS, GRADS, COUNTS, WAYS = np.arange(7, dtype=np.int64)
OPERANDS = 5
HEAD, TABLES = 8 + OPERANDS, 2 * OPERANDS + 1
STEPS = 32  # of a tile
FIELDS = 6  # of a section: of `sections.Section`, or SciPy's where they vary in time
GRADIENTS = 5  # that have one: all but the sign, and SciPy's a0

# How an operand is read.
ROWS, BLOCKS, BLOCKS_BACK, SINGLE = np.arange(4, dtype=np.int64)
# What is written so goes past the cache, where all series of a tile begin with a line.
STREAMED = 4
