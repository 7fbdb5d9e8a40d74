"""What kernels need of Numba that it does not document, each with what happens where a version of it has no such name.

Numba compiles kernels as it compiles anything. Only what it is told to leave out is not part of its documentation, and
the way to the machine code that it has made.
"""

import functools

from numba import config, njit
from numba.extending import typeof_impl

# NumPy's division, which never raises. No wrappers for other callers, which take as long again to compile as what they
# wrap.
HELPER = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True, "_nrt": False}
INLINE = {"forceinline": True, **HELPER}


class _Helper:
    """A function that kernels call. Numba is told when it compiles one: a process that has all kernels does without."""

    def __init__(self, function, options):
        self._function, self._options = function, options

    @functools.cached_property
    def dispatcher(self):
        return njit(**self._options)(self._function)


@typeof_impl.register(_Helper)
def _type_of_helper(value, purpose):
    return typeof_impl(value.dispatcher, purpose)


def helper(function):
    """Let kernels call a function."""
    return function if config.DISABLE_JIT else _Helper(function, HELPER)


def inlined(function):
    """Let kernels call a function, of which a copy stands wherever it is called."""
    return function if config.DISABLE_JIT else _Helper(function, INLINE)


def compiled(function, signature):
    """Return what Numba makes of a kernel."""
    dispatcher = njit(**HELPER)(function)
    dispatcher.compile(signature)
    return dispatcher.overloads[signature.args]
