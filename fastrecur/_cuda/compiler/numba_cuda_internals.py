"""What compiling for a GPU needs of numba-cuda that it does not document, each with why.

Everything else comes from `numba.cuda`, `numba.cuda.types`, `numba.cuda.extending` and llvmlite. `setup.cfg` has a
ceiling for numba-cuda: the newest of its versions with which the tests pass.

====================================  =================================================================================
name                                  why
====================================  =================================================================================
``dispatcher.CUDADispatcher``         compiles what kernels call. It asks the thread's current device what to compile
                                      for, and its method ``compile_device`` has no argument for it: there may be no
                                      card, or another one than the kernel is for
``decorators.jit``                    makes such a dispatcher with all of numba-cuda's defaults
``typing.templates``:                 `extending.overload` calls these, and leaves no choice of the dispatcher
``make_overload_template``, `infer`,
``infer_global``,
``_get_jit_decorator``
====================================  =================================================================================

Nothing of numba-cuda's is changed: other threads compile their own kernels meanwhile.
"""

import inspect
from collections import namedtuple
from types import FunctionType, SimpleNamespace

from numba.cuda import decorators, dispatcher, types
from numba.cuda.extending import intrinsic
from numba.cuda.typing import templates

# What helpers are compiled for. Their code is inlined into kernels, which are compiled for a card's own capability.
CAPABILITY = 7, 5


def _copied(function, **names):
    """Return a copy of a function for which some names of its module mean something else."""
    own = {**function.__globals__, **names}
    copy = FunctionType(function.__code__, own, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    own[function.__name__] = copy  # for it may call itself
    return copy


class _Helper(dispatcher.CUDADispatcher):
    """A function that kernels call, compiled for a capability whether or not a card is there."""

    compile_device = _copied(
        dispatcher.CUDADispatcher.compile_device,
        get_current_device=lambda: SimpleNamespace(compute_capability=CAPABILITY),
    )


_jit = _copied(decorators.jit, CUDADispatcher=_Helper)
_OPTIONS = {"no_cpython_wrapper": True, "nopython": True, "forceinline": True}


KNOWN: set = set()  # functions that have a meaning in kernels


def overload(function, implementation):
    """Declare a function's meaning in kernels, as `numba.cuda.extending.overload` does."""
    KNOWN.add(function)
    template = templates.make_overload_template(
        function, implementation, _OPTIONS, False, "never", False, target="cuda"
    )
    template._get_jit_decorator = lambda self: _jit
    templates.infer(template)
    templates.infer_global(function, types.Function(template))


# A function of so many arguments that calls another. Kernels call what is declared so as a function of its own: where
# it was lowered in its place, comparisons came out in another width, and batches of loads came apart.
_CALLS = (
    lambda f: lambda: f(),
    lambda f: lambda a: f(a),
    lambda f: lambda a, b: f(a, b),
    lambda f: lambda a, b, c: f(a, b, c),
)


# A call whose instructions are written: the compiler's own words for it, and the types of its arguments and result.
Call = namedtuple("Call", "context builder kinds returned")


def means(function, signature):
    """Return a decorator of what writes the instructions of a function's calls in kernels.

    It takes a `Call` and its arguments' values, as many as the function, and returns the result's. ``signature``
    returns, from the types of arguments, those that the result and the arguments are to have.
    """

    def declare(write):
        def typed(typingctx, *kinds):
            def codegen(context, builder, signature, values):
                value = write(Call(context, builder, kinds, signature.return_type), *values)
                return context.get_dummy_value() if signature.return_type == types.none else value

            return signature(*kinds), codegen

        context = inspect.Parameter("typingctx", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = inspect.signature(function).parameters.values()
        typed.__signature__ = inspect.Signature([context, *parameters])
        call = _CALLS[len(parameters)](intrinsic(typed))
        overload(function, lambda *arguments: call)
        return write

    return declare
