"""What the kernels of the selective scan are told, and how much scratch memory they need."""

import numpy as np

from ..selective import CHUNK, GROUP
from ..widths import WIDTH

TILE = CHUNK * WIDTH

# Fields of ``geometry``: sizes, of `_plan.selective.Units` too; whether steps go through softplus, there is a gate,
# checkpoints are kept, outputs are written; then strides in bytes: of what has a number for each step those of a
# sequence, a step and a channel; of B and C those of a sequence, a step, a group and a state, or a channel and a state.
(
    STATES, CHANNELS, BATCH, N_STEPS, PARTS, GROUPS, SUBS, PER_GROUP, VECTORS, OF_UNIT, ROWS, REVERSE, SOFTPLUS, GATED,
    KEEPS, WRITES,
) = np.arange(16, dtype=np.int64)  # fmt: skip
HEAD = 16
TIMED = "u", "delta", "z", "y", "g", "to_u", "to_delta", "to_z"
U, DELTA, Z, Y, G, TO_U, TO_DELTA, TO_Z = HEAD + 3 * np.arange(8, dtype=np.int64)
B, C = HEAD + 24 + 4 * np.arange(2, dtype=np.int64)
FIELDS = HEAD + 32

# What kernels take as one value: addresses. States, and what goes with them in a gradient, are (rows, channels,
# states); ``carry`` is scratch memory.
FORWARD = "u delta z b c y a skip bias states checkpoints rows chunks carry"
BACKWARD = (
    "g u delta z b c a skip bias states checkpoints rows chunks to_u to_delta to_z to_a to_b to_c to_skip to_bias carry"
)


def scratch_numbers(states: int, back: bool) -> int:
    """Return how much scratch memory a call needs, in numbers."""
    blocks, row = GROUP * WIDTH * states, GROUP * WIDTH
    forward = 2 * blocks + 2 * max(blocks, -(-states // WIDTH) * TILE) + 2 * row
    return forward + back * (4 * blocks + 2 * TILE * states + 2 * row)
