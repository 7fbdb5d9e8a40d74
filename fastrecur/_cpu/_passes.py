"""Numba's compiler for kernels: no passes that find nothing in them, no machine code of what only kernels call.

Both together take a quarter of a first call's time.
"""

from numba import _dynfunc
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import AnalysisPass, register_pass
from numba.core.typed_passes import NativeLowering

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
