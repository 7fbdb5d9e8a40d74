"""What the kernels of pooling are told."""

import numpy as np

# Fields of ``geometry``; then two strides in bytes for each operand, of a step and of a sequence. BATCH: how many
# sequences; WIDTH: how many channels; PREFETCH: the distance in the product in bytes, as the hardware prefetcher starts
# anew with each of a row's blocks. Then whether a part is of channels, not of sequences; there are output gates; `keep`
# differs from channel to channel; states are written too; cotangents of all results come; there are flags.
(
    N_STEPS, REVERSE, BATCH, PREFETCH, WIDTH, BY_CHANNELS, GATED, MASKED, SAVES, HAS_G, HAS_FLAGS,
) = np.arange(11, dtype=np.int64)  # fmt: skip
HEAD = 11
STRIDED = "product", "keep", "h", "states", "g", "to_product", "flags"
PRODUCT, KEEP, H, STATES, G, TO_PRODUCT, FLAGS = HEAD + 2 * np.arange(7, dtype=np.int64)
