"""Words of memory that native code reads: of a prepared call, and of a table of calls."""

MOST_ARGUMENTS = 32
MOST_SCRATCH = 256  # words of memory that a prepared call may ask for

# Words of a prepared call: the kernel, how many arguments it takes, which of them is the address of how much memory,
# whether Python's lock is given up, how many arguments are given, the error where it is another number.
FIELDS = KERNEL, ARITY, SCRATCH, SCRATCH_WORDS, RELEASES, GIVEN, ERROR = range(7)
PLACES = len(FIELDS)  # Then which arguments are given,
VALUES = PLACES + MOST_ARGUMENTS  # and all arguments, of those what is added.

# Words of a table: how many items are left for threads that have no other counter (see `workers`), on a cache line of
# its own; how many items, calls and calls of an item there are; and how many items are done, again on its own.
LEFT, ITEMS, CALLS, CHAIN, DONE = 0, 8, 9, 10, 16
HEAD = 24  # Then a row for each call: the kernel, how many arguments it takes, and these.
ROW = 2 + MOST_ARGUMENTS
