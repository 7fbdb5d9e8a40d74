"""What the kernels of levels that follow a signal keep of each series."""

import numpy as np

# Planes of ``carry``, one number for each series: the state; Holt's constants, or an envelope's two gates; steps until
# a series begins; cotangents of the state; sums of the gradients of constants.
LEVEL, TREND, ALPHA, BETA, PHI, LEFT, TO_LEVEL, TO_TREND, TO_ALPHA, TO_BETA, TO_PHI = np.arange(11, dtype=np.int64)
PLANES = 11
ATTACK, RELEASE, TO_ATTACK, TO_RELEASE = ALPHA, BETA, TO_ALPHA, TO_BETA

# With seasons: no series waits; a season a step of the period follows, and behind these the cotangents of seasons.
GAMMA, TO_GAMMA, SEASONS = LEFT, np.int64(PLANES), np.int64(PLANES + 1)
