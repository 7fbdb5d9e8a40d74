"""What kernels for GPUs are written in: typed addresses, loads, stores and the threads' own operations.

These bodies serve the interpreter, in which tests run kernels line by line; `_compiler` gives each function its
meaning in compiled code. A kernel is a plain function that calls nothing but these, the steps of `_steps`, and helpers
marked by `helper`, so that which compiler it goes to is decided elsewhere.

Offsets are bytes. Values are converted on the way: kernels compute in the *carry* type only, of which ``like`` is a
number. What stands behind an address is in its type: see `Pointer` in `_compiler`.
"""

HELPERS = []


def helper(function):
    """Mark a function that kernels call."""
    HELPERS.append(function)
    return function


class Machine:
    """What the interpreter asks about threads; a simulator puts itself in the place of `machine`."""

    def __getattr__(self, name):
        raise AttributeError("a kernel runs on a GPU or in a simulator")


machine = Machine()


def thread():
    """Return this thread's number in its block."""
    return machine.thread()


def block():
    """Return this block's number."""
    return machine.block()


def block_row():
    """Return this block's number along the grid's second axis."""
    return machine.block_row()


def block_threads():
    """Return how many threads a block has."""
    return machine.block_threads()


def barrier():
    """Wait for all threads of the block."""
    machine.barrier()


def shuffle(value, lane):
    """Return what ``value`` is in a lane of this warp; every lane takes part."""
    return machine.shuffle(value, lane)


def ballot(condition):
    """Return a bit for each lane of this warp, set where the condition holds; every lane takes part."""
    return machine.ballot(condition)


def highest(bits):
    """Return the number of the highest set bit of 32, -1 if there is none."""
    return int(bits).bit_length() - 1


def divide(a, b):
    """Return the whole quotient of two non-negative int32."""
    return a // b


def narrow(number):
    """Return an integer as an int32."""
    return number


def is_null(pointer):
    """Return whether an operand was left out."""
    return pointer.address == 0


def shift(pointer, offset):
    """Return an address so many bytes further; a number stays what it is."""
    return pointer.shift(offset)


def load(pointer, offset, like):
    """Return the number at an address; a number stands at all of its addresses."""
    return pointer.load(offset, like.dtype)


def load_raw(pointer, offset, like):
    """Return what stands at an address, to be made a number by `unpack` when it is needed."""
    return pointer.load_raw(offset, like.dtype)


def unpack(pointer, raw, like):
    """Return the number that `load_raw` brought; the compiler must not do so, or use it, any earlier."""
    return pointer.unpack(raw, like.dtype)


def anew(value):
    """Return a value that the compiler takes for another each time: what is made of it is made where it is used."""
    return value


def store(pointer, offset, value):
    """Round a carry and write it."""
    pointer.store(offset, value)


def load_int(pointer, offset):
    """Return the integer at an address."""
    return pointer.load_int(offset)


def load_wide(pointer, offset, like):
    """Return the numbers in 16 aligned bytes, as a tuple."""
    return pointer.load_wide(offset, like.dtype)


def store_wide(pointer, offset, values):
    """Round a tuple of carries and write them to 16 aligned bytes."""
    pointer.store_wide(offset, values)


def misalignment(pointer):
    """Return how many bytes past a multiple of 16 an address stands."""
    return pointer.address % 16


# ---- What blocks tell each other ------------------------------------------------------------------------------------
# Status words: 32 bits of a number and the mark that they are there, written and read as 64 bits at once; a float64
# takes two. So a reader that sees the marks sees the number, in whatever order memory makes other writes visible. They
# begin as 0.


def store_status(pointer, offset, value):
    """Write a number that threads of other blocks wait for."""
    pointer.store_status(offset, value)


def load_status(pointer, offset, like):
    """Return whether a number has been written at an address, and which."""
    return pointer.load_status(offset, like.dtype)


def take_ticket(pointer):
    """Return the integer at an address, and add 1 to it; no two threads get the same."""
    return pointer.take_ticket()


def nap():
    """Let other threads work for a tenth of a microsecond."""
    machine.nap()


def trap():
    """Stop the kernel with an error."""
    machine.trap()
