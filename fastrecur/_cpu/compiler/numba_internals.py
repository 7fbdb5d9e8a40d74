"""What kernels need of Numba that it does not document, each with what happens where a Numba has no such name.

Everything else comes from `numba.extending`, `numba.types`, `numba.config` and llvmlite, as these are documented. The
last row of the table is tried on a small function before it is used: a name can be there and no longer do the same.

======================================  ======================================  ====================================
name                                    why                                     without it
======================================  ======================================  ====================================
jit's ``no_cpython_wrapper`` and        wrappers take as long again to compile  wrappers are compiled
``no_cfunc_wrapper``                    as what they wrap
jit's ``_nrt``                          kernels own no objects                  code to count references is linked
jit's ``forceinline``                   a helper's numbers stay in registers    LLVM chooses what it inlines
``numba.core.cpu.CPUTargetOptions``     says which options jit has              none of these is used
``library`` of jit's ``overloads``,     has the machine code that Numba made    code is generated from the text that
``serialize_using_object_code`` of it                                           ``inspect_llvm`` returns
a function's type in LLVM's terms       trampolines call kernels so             `RuntimeError`
``JITCodeLibrary``, ``NativeLowering``  a helper is linked into kernels only:   helpers are optimised and generated,
and what these have                     neither optimised nor generated alone   too, which takes half as long again
``PassManager``, its registry and the   passes that change nothing in kernels   all passes of Numba run
names of passes                         take a tenth of the time
======================================  ======================================  ====================================
"""

import functools
import sys

import numba
from llvmlite import binding
from numba import config, njit, types
from numba.extending import typeof_impl

from ..._arguments import messages as say
from ..vectors.processor import processor
from . import cache


def _known(options):
    """Return those options that this Numba knows."""
    try:
        from numba.core.cpu import CPUTargetOptions
    except ImportError:
        return {}
    return {name: value for name, value in options.items() if hasattr(CPUTargetOptions, name)}


# Passes whose subject does not stand in kernels: closures, contexts, exceptions, tuples that are unrolled, functions
# inlined before types are known, arguments that are None, expressions of arrays; and those that note for people.
_NEEDLESS = (
    "AnnotateTypes", "DeadBranchPrune", "DumpParforDiagnostics", "FindLiterallyCalls", "InlineClosureLikes",
    "InlineInlinables", "InlineOverloads", "LiteralPropagationSubPipelinePass", "LiteralUnroll",
    "MakeFunctionToJitFunction", "NoPythonSupportedFeatureValidation", "NopythonRewrites", "RewriteDynamicRaises",
    "RewriteSemanticConstants", "WithLifting",
)  # fmt: skip


def _pipelines():
    """Return the classes that compile kernels and helpers, of which the latter are only linked into kernels."""
    try:
        from numba.core.codegen import JITCodeLibrary
        from numba.core.compiler import CompilerBase, DefaultPassBuilder
        from numba.core.compiler_machinery import PassManager, _pass_registry, register_pass
        from numba.core.typed_passes import NativeLowering
    except ImportError:
        return ()

    class Passes(PassManager):
        def run(self, state):
            # Numba's own finds out after each pass where variables live, and tells listeners; passes that need it ask.
            for step, _ in self.passes:
                found = _pass_registry.get(step).pass_inst
                found.analysis = self._analysis
                for run in found.run_initialization, found.run_pass, found.run_finalizer:
                    run(state)

    class Library(JITCodeLibrary):
        def _optimize_functions(self, module):
            # As Numba's own does, which makes these passes anew for each function, and for each that is only named.
            module.data_layout = self._codegen._data_layout
            passes, builder = self._codegen._function_pass_manager()
            for function in module.functions:
                if not function.is_declaration:
                    passes.run(function, builder)

    class Linked(Library):
        def finalize(self):
            for library in dict.fromkeys(self._linking_libraries):
                self._final_module.link_in(library._get_module_for_linking(), preserve=True)
            self._finalized = True

    @register_pass(mutates_CFG=True, analysis_only=False)
    class Lowering(NativeLowering):
        _name = "fastrecur_lowering"

        def run_pass(self, state):
            state.library = Library(state.targetctx.codegen(), state.func_id.func_qualname)
            state.library.enable_object_caching()
            return super().run_pass(state)

    @register_pass(mutates_CFG=True, analysis_only=False)
    class LinkedLowering(NativeLowering):
        _name = "fastrecur_linked_lowering"

        def run_pass(self, state):
            state.library = Linked(state.targetctx.codegen(), state.func_id.func_qualname)
            state.flags.no_compile = True
            super().run_pass(state)
            key = [].append  # Numba finds a function by what would call it: this is nobody else's
            state.targetctx.insert_user_function(key, state.cr.fndesc, [state.library])
            state.cr = state.cr._replace(cfunc=key)
            return True

    class Kernels(CompilerBase):
        lowering = Lowering

        def define_pipelines(self):
            usual = DefaultPassBuilder.define_nopython_pipeline(self.state)
            own = Passes("fastrecur")
            for step, why in usual.passes:
                if step.__name__ not in _NEEDLESS:
                    own.add_pass(self.lowering if step is NativeLowering else step, why)
            own.finalize()
            return [own]

    class Helpers(Kernels):
        lowering = LinkedLowering

    return Kernels, Helpers


def _tried(pipelines):
    """Return jit's options for kernels and for helpers; a pipeline is used if it works in this Numba."""

    def option(pipeline):
        class Compiler(pipeline):
            def define_pipelines(self):
                from numba.core.compiler import DefaultPassBuilder

                if _works(pipelines):
                    return super().define_pipelines()
                return [DefaultPassBuilder.define_nopython_pipeline(self.state)]

        return {"pipeline_class": Compiler}

    return map(option, pipelines) if pipelines else ({}, {})


@functools.cache
def _works(pipelines):
    """Return whether pipelines work in this Numba; that they do is noted where kernels are kept."""
    versions = cache.digest("_cpu/compiler/numba_internals.py", "numba", "llvmlite"), sys.version
    name = cache.name_of("linked-only", *versions)
    if cache.find(name) is None:
        if not _links(*pipelines):
            return False
        cache.keep(name, b"yes", "")
    return True


def _links(kernels, helpers):
    """Return whether a small function is compiled with a helper, of which nothing is left to be found elsewhere."""
    signature = types.int64(types.int64)
    try:
        helper = njit(**{**_OPTIONS, "pipeline_class": helpers})(lambda x: x + x)

        def trial(x):
            return helper(x) + x

        module, _ = _parsed(njit(signature, **{**_OPTIONS, "pipeline_class": kernels})(trial), signature)
    except Exception:  # whatever it is: there is another way
        return False
    return all(not f.is_declaration or f.name.startswith("llvm.") for f in module.functions)


# NumPy's division, which never raises.
_OPTIONS = {"error_model": "numpy", **_known({"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "_nrt": False})}
KERNEL, HELPER = ({**_OPTIONS, **option} for option in _tried(_pipelines()))
INLINE = {**HELPER, **_known({"forceinline": True})}


class _Helper:
    """A function that kernels call. Numba is told when it compiles one: a process that has all kernels does without."""

    def __init__(self, function, options):
        self.function, self._options = function, options

    @functools.cached_property
    def dispatcher(self):
        return njit(**self._options)(self.function)


@typeof_impl.register(_Helper)
def _type_of_helper(value, context):
    return typeof_impl(value.dispatcher, context)


def helper(function):
    """Let kernels call a function."""
    return function if config.DISABLE_JIT else _Helper(function, HELPER)


def inlined(function):
    """Let kernels call a function, of which a copy stands wherever it is called."""
    return function if config.DISABLE_JIT else _Helper(function, INLINE)


def function_of(called):
    """Return the function that kernels call, as it was written."""
    return called.function if isinstance(called, _Helper) else called


def compiled(function, signature):
    """Return Numba's dispatcher of a kernel, compiled for a signature."""
    return njit(signature, **KERNEL)(function)


def machine_code(function, signature):
    """Compile a kernel; return its machine code and its symbol in there."""
    dispatcher = compiled(function, signature)
    module, symbol = _parsed(dispatcher, signature)
    try:
        _, _, (code, *_) = dispatcher.overloads[signature.args].library.serialize_using_object_code()
    except (AttributeError, RuntimeError, TypeError, ValueError):
        # RuntimeError: an interrupt came while LLVM handed over the code; Python cannot raise it there.
        code = _target_machine().emit_object(module)
    return code, symbol


def _parsed(dispatcher, signature):
    """Return what a function was compiled to as LLVM's module, and the function's symbol in there."""
    module = binding.parse_assembly(dispatcher.inspect_llvm(signature.args))
    external = [f for f in module.functions if not f.is_declaration and f.linkage == binding.Linkage.external]
    native = next(f for f in external if not f.name.startswith(("cfunc.", "_ZN7cpython")))
    _check_native(native.global_value_type, signature.args)
    return module, native.name


def _check_native(kind, arguments):
    """Raise if a function is not ``int32 f(result, exception, *arguments)``, all of these 64 bits wide."""
    count = sum(len(argument) if isinstance(argument, types.BaseTuple) else 1 for argument in arguments)
    result, *given = map(str, kind.elements)
    if result != "i32" or len(given) != 2 + count or not all(k == "i64" or k.endswith(("ptr", "*")) for k in given):
        raise RuntimeError(say.kernel_type(numba.__version__, kind))


def _target_machine():
    """Return a machine that generates code as Numba's does: for the same processor, to stand anywhere in memory."""
    triple = binding.get_process_triple()
    cpu, features = processor()
    reloc = "static" if triple.startswith(("x86", "i386", "i686")) else "default"
    options = {"opt": int(config.OPT), "reloc": reloc, "codemodel": "jitdefault", "jit": True}
    return binding.Target.from_triple(triple).create_target_machine(cpu, features, **options)
