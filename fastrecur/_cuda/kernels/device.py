"""What kernels for GPUs are written in: typed addresses, loads, stores and the threads' own operations.

A kernel is a plain function that calls nothing but these, the steps of `_steps`, and helpers marked by `helper`, so
that which compiler it goes to is decided elsewhere. These functions do nothing: `compile` gives each its meaning in
compiled code, and an interpreter, in which tests run kernels line by line, puts its own in their places. So kernels
call them as the module's.

Offsets are bytes. Values are converted on the way: kernels compute in the *carry* type only, of which ``like`` is a
number. What stands behind an address is in its type: see `Pointer` in `compile`.
"""

HELPERS = []


def helper(function):
    """Mark a function that kernels call."""
    HELPERS.append(function)
    return function


def thread():
    """Return this thread's number in its block."""


def block():
    """Return this block's number."""


def block_row():
    """Return this block's number along the grid's second axis."""


def block_threads():
    """Return how many threads a block has."""


def barrier():
    """Wait for all threads of the block."""


def shuffle(value, lane):
    """Return what ``value`` is in a lane of this warp; every lane takes part."""


def ballot(condition):
    """Return a bit for each lane of this warp, set where the condition holds; every lane takes part."""


def highest(bits):
    """Return the number of the highest set bit of 32, -1 if there is none."""


def divide(a, b):
    """Return the whole quotient of two non-negative int32."""


def narrow(number):
    """Return an integer as an int32."""


def is_null(pointer):
    """Return whether an operand was left out."""


def shift(pointer, offset):
    """Return an address so many bytes further; a number stays what it is."""


def load(pointer, offset, like):
    """Return the number at an address; a number stands at all of its addresses."""


def load_raw(pointer, offset, like):
    """Return what stands at an address, to be made a number by `unpack` when it is needed."""


def unpack(pointer, raw, like):
    """Return the number that `load_raw` brought; the compiler must not do so, or use it, any earlier."""


def anew(value):
    """Return a value that the compiler takes for another each time: what is made of it is made where it is used."""


def is_tagged(value):
    """Return whether a number's lowest bit is set."""


def tagged(value, tag):
    """Return a number with its lowest bit set, or cleared."""


def store(pointer, offset, value):
    """Round a carry and write it."""


def load_int(pointer, offset):
    """Return the integer at an address."""


def load_wide(pointer, offset, like):
    """Return the numbers in 16 aligned bytes, as a tuple."""


def store_wide(pointer, offset, values):
    """Round a tuple of carries and write them to 16 aligned bytes."""


def misalignment(pointer):
    """Return how many bytes past a multiple of 16 an address stands."""


# ---- What blocks tell each other ------------------------------------------------------------------------------------
# Status words, see `descriptors`: 32 bits of a number and the mark that they are there; a float64 takes two.


def store_status(pointer, offset, value):
    """Write a number that threads of other blocks wait for."""


def load_status(pointer, offset, like):
    """Return whether a number has been written at an address, and which."""


def take_ticket(pointer):
    """Return the integer at an address, and add 1 to it; no two threads get the same."""


def nap():
    """Let other threads work for a tenth of a microsecond."""


def trap():
    """Stop the kernel with an error."""
