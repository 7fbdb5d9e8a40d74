"""Numba's compiler for kernels: a target with what they use, no passes that find nothing in them, no needless code.

Kernels are numbers, addresses, tuples and loops. Numba's own target has all that people write beside it, down to linear
algebra, for which it imports SciPy where there is one; and links every function with what counts references. That, the
passes and machine code of what only kernels call took two fifths of a first call.
"""

import functools

from numba import _dynfunc, config
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import AnalysisPass, register_pass
from numba.core.cpu import CPUContext
from numba.core.decorators import jit
from numba.core.registry import CPUDispatcher, CPUTarget
from numba.core.target_extension import CPU, dispatcher_registry, jit_registry, target_override, target_registry
from numba.core.typed_passes import NativeLowering
from numba.core.typing.context import BaseContext

TARGET = "fastrecur"

# What they look for is not in kernels: closures and comprehensions, expressions of arrays, `with`, loops over what has
# several types, branches that depend on whether an argument is None, messages for people.
NEEDLESS = frozenset(
    (
        "AnnotateTypes",
        "DeadBranchPrune",
        "DumpParforDiagnostics",
        "FindLiterallyCalls",
        "InlineClosureLikes",
        "InlineInlinables",
        "InlineOverloads",
        "LiteralPropagationSubPipelinePass",
        "LiteralUnroll",
        "MakeFunctionToJitFunction",
        "NoPythonSupportedFeatureValidation",
        "NopythonRewrites",
        "RewriteDynamicRaises",
        "WithLifting",
    )
)


class Part(JITCodeLibrary):
    """Code that kernels are linked with, and which does not run by itself."""

    def _finalize_final_module(self):
        self._finalized = True


@register_pass(mutates_CFG=False, analysis_only=True)
class AnnouncePart(AnalysisPass):
    """Make a function known to those that call it, as Numba does when it has put one in place."""

    _name = "fastrecur_announce_part"

    def __init__(self):
        AnalysisPass.__init__(self)

    def run_pass(self, state):
        """Give the function what stands for its place."""
        lowered, library = state.cr, state.library
        nowhere = _dynfunc.make_function(lowered.fndesc.lookup_module(), "part", "", 0, lowered.env, (library,))
        state.targetctx.insert_user_function(nowhere, lowered.fndesc, [library])
        state.cr = lowered._replace(cfunc=nowhere)
        return False


class KernelCompiler(CompilerBase):
    """A pipeline for kernels, which release Python's lock, and for what they call, which is not said to.

    A pass that a later Numba adds is kept.
    """

    def define_pipelines(self):
        """Return the one pipeline."""
        state = self.state
        pipeline = DefaultPassBuilder.define_nopython_pipeline(state, "kernel")
        pipeline.passes = [each for each in pipeline.passes if each[0].__name__ not in NEEDLESS]
        if not state.flags.release_gil:
            state.flags.no_compile = True
            state.library = Part(state.targetctx.codegen(), state.func_id.func_qualname)
            pipeline.add_pass_after(AnnouncePart, NativeLowering)
        pipeline.finalize()
        return [pipeline]


class _Typing(BaseContext):
    """The types of what kernels use: what Numba always knows, and functions of `math`."""

    def load_additional_registries(self):
        from numba.core.typing import mathdecl

        self.install_registry(mathdecl.registry)


class _Context(CPUContext):
    """The code of what kernels use."""

    def load_additional_registries(self):
        from numba.cpython import builtins, iterators, mathimpl, numbers, rangeobj, tupleobj  # noqa: F401

        self.install_registry(mathimpl.registry)

    def post_lowering(self, mod, library):
        """Do without what Numba links for objects that count their references."""


class _Descriptor(CPUTarget):
    @functools.cached_property
    def _toplevel_typing_context(self):
        return _Typing()

    @functools.cached_property
    def _toplevel_target_context(self):
        return _Context(self.typing_context, self._target_name)


class _Kernels(CPU):
    """What Numba knows the target by: all that is written for its own holds for it."""


class _Dispatcher(CPUDispatcher):
    targetdescr = _Descriptor(TARGET)


target_registry[TARGET] = _Kernels
dispatcher_registry[_Kernels] = _Dispatcher
jit_registry[_Kernels] = functools.partial(jit, _target=TARGET)

# How kernels and what they call are compiled: without wrappers for other callers, which take as long again, and with
# NumPy's division, which never raises.
HELPER = {
    "error_model": "numpy",
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "pipeline_class": KernelCompiler,
    "_nrt": False,
}
INLINE = {"forceinline": True, **HELPER}


class _Helper:
    """A function that kernels call. Numba is told when it compiles one: a process that has all kernels does without.

    The name of the attribute is Numba's, which asks any object for it that it does not know.
    """

    def __init__(self, function, options):
        self._function, self._options = function, options

    @functools.cached_property
    def _dispatcher(self):
        return jit(_target=TARGET, **self._options)(self._function)

    @property
    def _numba_type_(self):
        return self._dispatcher._numba_type_


def helper(function):
    """Let kernels call a function."""
    return function if config.DISABLE_JIT else _Helper(function, HELPER)


def inlined(function):
    """Let kernels call a function, of which a copy stands wherever it is called."""
    return function if config.DISABLE_JIT else _Helper(function, INLINE)


def compiled(function, signature):
    """Return what Numba makes of a kernel."""
    dispatcher = jit(nogil=True, _target=TARGET, **HELPER)(function)
    with target_override(TARGET):
        dispatcher.compile(signature)
    return dispatcher.overloads[signature.args]
