"""What the kernel of returns is told, and keeps of each series."""

from collections import namedtuple

import numpy as np

REWARDS, VALUES, SUCCESSORS, MASK, GAMMA, LAM, ENDS, CUTS, RHOS, H, CARRY = np.arange(11, dtype=np.int64)
FIELDS = "rewards values successors mask gamma lam ends cuts rhos h carry".split()
# What a step goes on from, a plane of ``carry`` each: a sum; the value and the target of the next step that is read,
# whether there is one; the greatest weights of `_steps.vtrace`.
State = namedtuple("State", "later value target is_known rho c pg_rho")
PLANES = len(State._fields)
# Whether there are weights of actions, values of the states after each step (else the next step's are taken), episodes
# that are cut off, and steps that are masked; whether a step's own value is added to a sum.
TRAITS = "off_policy has_successors has_cuts masked adds_values".split()
