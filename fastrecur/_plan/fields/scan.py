"""Fields of a scan's geometry, and what its blocks of time are."""

BLOCK = 512  # steps

# Phases. WARM_UP does not look at the result that it follows: HOLD does.
ALL, WARM_UP, REDUCE, SCAN_CARRIES, DOWNSWEEP, HOLD = range(6)
SUMS = 6  # fields of a scan, in place of those of rows: how many partial sums over time; then bytes of a's and b's
SUMMARY = 8  # numbers in a block's summary
CANCELLED = 16.0  # a linear recurrence's composed state must not be so many times smaller than its summands
