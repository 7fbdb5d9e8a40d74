"""From a kernel's name and the types behind its addresses to something that can be called.

The machine code of a kernel is looked for in a bundle that came with the package, then in the user's folder. If it is
nowhere, it is compiled, and kept. A call goes straight to it: the types are fixed by the signature, so nothing needs to
be looked at again. What compiles is imported when it is needed.
"""

import contextlib
import functools
import gc
import sys

from ..vectors.processor import circumstances, is_interpreted
from . import bundle, cache, native
from .bundle import Wanted


@functools.cache
def kernel(name, rule, carry, **elements):
    """Return the kernel of a name, for a rule, a carry element and its operands' elements; addresses are ints."""
    with cache.making:
        return _made(Wanted(name, rule, carry, tuple(sorted(elements.items()))))


@functools.cache  # for several threads that come first
def _made(wanted):
    if is_interpreted():
        from . import build

        return build.interpreted(wanted)
    return native.callable_of(*code_of(wanted))


def code_of(wanted):
    """Return the machine code of a kernel, its symbol in there and how many arguments it takes."""
    return bundle.find(wanted) or kept_or_made(wanted)


@contextlib.contextmanager
def _without_collections():
    """Let Python look for no garbage meanwhile: of Numba's million objects it would find little, again and again."""
    is_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_on:
            gc.enable()


def kept_or_made(wanted):
    """Return the same from the user's folder, or compile it."""

    @_without_collections()
    def make():
        from . import build

        code, symbol, count = build.compiled(wanted)
        return code, f"{count} {symbol}"

    name = cache.name_of(f"{wanted.name.rpartition('.')[2]}-cpu", *wanted, *_circumstances(wanted.source))
    code, label = cache.find_or_make(name, make, lambda: _in_words(wanted))
    count, symbol = label.split(" ")
    return code, symbol, int(count)


def _in_words(wanted):
    """Return what a kernel is, for people: its name and its operands' dtypes."""
    from . import build

    return f"{wanted.name} of {', '.join(build.dtypes_of(wanted))}"


@functools.cache
def _circumstances(source):
    """Return what machine code depends on beside the kernel."""
    sources = cache.digest(source, "numba", "llvmlite", "numpy")
    return sources, sys.version_info[:2], circumstances()
