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

Nothing of numba-cuda's is changed: other threads compile their own kernels meanwhile. `missing` names what a numba-cuda
lacks of these.
"""

from types import FunctionType, SimpleNamespace

from numba.cuda import decorators, dispatcher, types
from numba.cuda.typing import templates

# What helpers are compiled for. Their code is inlined into kernels, which are compiled for a card's own capability.
CAPABILITY = 7, 5


def missing():
    """Return which names are not there, or not what they were."""
    needed = {
        "dispatcher.CUDADispatcher.compile_device": _reads(
            getattr(dispatcher.CUDADispatcher, "compile_device", None), "get_current_device"
        ),
        "decorators.jit": _reads(getattr(decorators, "jit", None), "CUDADispatcher"),
        "templates.make_overload_template": callable(getattr(templates, "make_overload_template", None)),
        "templates.infer": callable(getattr(templates, "infer", None)),
        "templates.infer_global": callable(getattr(templates, "infer_global", None)),
        "templates._OverloadFunctionTemplate._get_jit_decorator": callable(
            getattr(getattr(templates, "_OverloadFunctionTemplate", None), "_get_jit_decorator", None)
        ),
    }
    return [name for name, is_there in needed.items() if not is_there]


def _reads(function, name):
    return isinstance(function, FunctionType) and name in function.__code__.co_names


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


def overload(function, strict=True):
    """Declare a function's meaning in kernels, as `numba.cuda.extending.overload` does."""

    def decorate(implementation):
        template = templates.make_overload_template(
            function, implementation, _OPTIONS, strict, "never", False, target="cuda"
        )
        template._get_jit_decorator = lambda self: _jit
        templates.infer(template)
        templates.infer_global(function, types.Function(template))
        return implementation

    return decorate
