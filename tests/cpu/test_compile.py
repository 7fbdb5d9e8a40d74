"""How kernels are compiled."""

import contextlib
import gc
import platform
import re

import pytest
from llvmlite import binding
from numba import types

from fastrecur._cpu.compiler import build, compile
from fastrecur._cpu.compiler.numba_internals import _check_native

CALLS = """
import numpy as np
import fastrecur
for shape in (40, 33), (3000,):
    x = np.full(shape, 0.5, np.float32)
    np.testing.assert_allclose(fastrecur.forget_mult(x, x)[-1], 0.5)
"""


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "missing",
    [
        # Python cannot raise an interrupt where LLVM calls it: the library then holds no code.
        "library = codegen.JITCodeLibrary; library._object_compiled_hook = classmethod(lambda *arguments: None)",
        "del codegen.CPUCodeLibrary.serialize_using_object_code",
        "del cpu.CPUTargetOptions",
        "del typed_passes.NativeLowering",
    ],
)
def test_without_what_numba_does_not_document(run_python, tmp_path, missing):
    """Kernels are slower to make, work, and are kept."""
    script = f"""
from numba.core import codegen, cpu, typed_passes
{missing}
{CALLS}"""
    run_python(script, FASTRECUR_CACHE_DIR=str(tmp_path / "kernels"))
    assert len(list((tmp_path / "kernels").glob("forward*"))) == 2


RENAMED = """
import importlib.machinery as machinery
real = machinery.SourceFileLoader.get_code

def renamed(self, module):
    if not module.startswith("numba."):
        return real(self, module)
    path = self.get_filename(module)
    return self.source_to_code(self.get_data(path).replace(b"NAME", b"NAME_then"), path)

machinery.SourceFileLoader.get_code = renamed
"""


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "name",
    [
        "_linking_libraries",
        "_final_module",
        "_get_module_for_linking",
        "insert_user_function",
        "no_compile",
        "_pass_registry",
        "_function_pass_manager",
    ],
)
def test_names_of_another_numba(run_python, tmp_path, name):
    """A copy of Numba in which one of those names is another one that it does not document."""
    kernels = tmp_path / "kernels"
    run_python(RENAMED.replace("NAME", name) + CALLS, FASTRECUR_CACHE_DIR=str(kernels))
    assert len(list(kernels.glob("forward*"))) == 2
    assert not list(kernels.glob("linked-only*"))


@pytest.mark.parametrize("is_on", [False, True])
def test_garbage_is_not_looked_for_while_a_kernel_is_compiled(monkeypatch, tmp_path, is_on):
    """It is a quarter of the time. Afterwards it is as it was."""
    seen, before = [], gc.isenabled()

    def compiled(wanted):
        seen.append(gc.isenabled())
        return b"code", "symbol", 1

    monkeypatch.setenv("FASTRECUR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(build, "compiled", compiled)
    try:
        (gc.enable if is_on else gc.disable)()
        compile.kept_or_made(compile.Wanted("rows.forward", None, "f4", ()))
        assert (seen, gc.isenabled()) == ([False], is_on)
    finally:
        (gc.enable if before else gc.disable)()


AS_NUMBA = """
import os
import warnings
from fastrecur._cpu.vectors.processor import is_interpreted
values, found = ["", "0", "1", " 2 ", "true", "False", "1.0"], []
for value in values:
    os.environ["NUMBA_DISABLE_JIT"] = value
    found.append(is_interpreted())
warnings.simplefilter("ignore")  # Numba's own, of what it cannot read
from numba import config
for value, ours in zip(values, found):
    os.environ["NUMBA_DISABLE_JIT"] = value
    config.reload_config()
    assert ours == bool(config.DISABLE_JIT), value
"""


def test_numba_disable_jit_counts_as_numba_counts_it(run_python):
    run_python(AS_NUMBA)


@pytest.mark.parametrize(
    ("type_", "callable_here"),
    [
        ("i32 @f(ptr %result, ptr %error, ptr %x, i64 %n)", True),
        ("i64 @f(ptr %result, ptr %error, ptr %x, i64 %n)", False),
        ("i32 @f(ptr %result, ptr %x, i64 %n)", False),
        ("i32 @f(ptr %result, ptr %error, ptr %x, i32 %n)", False),
        ("{i32, i64} @f(ptr %error, ptr %x, i64 %n)", False),
    ],
)
def test_type_of_kernels_as_numba_compiles_them(type_, callable_here):
    """Trampolines rely on it; Numba does not promise it."""
    text = re.sub(" %[a-z]+", "", type_).replace("ptr", "i8*")  # as older versions of LLVM read it, too
    module = binding.parse_assembly("declare " + text)
    arguments = types.voidptr, types.int64
    raises = contextlib.nullcontext() if callable_here else pytest.raises(RuntimeError, match="numba .* of a type")
    with raises:
        _check_native(module.get_function("f").global_value_type, arguments)


MULTIPLIES_AND_ADDS = """
import numpy as np
import fastrecur
from fastrecur import _config
a, b = np.random.default_rng(0).standard_normal((2, 40, 33))
state = np.zeros(33)
for step, h in enumerate(fastrecur.linear_recurrence(a, b)):
    state = a[step] * state + b[step]
    assert (h == state).all(), step
assert _config._cpu().startswith("work, without fused multiply-add"), _config._cpu()
"""


@pytest.mark.exhaustive
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="others have it")
def test_a_processor_without_fused_multiply_add(run_python):
    """It multiplies and adds: a function of C that rounds once takes ten times as long as the rest of a step."""
    run_python(MULTIPLIES_AND_ADDS, NUMBA_CPU_NAME="x86-64-v2", NUMBA_CPU_FEATURES="")


@pytest.mark.exhaustive
def test_helpers_are_linked_into_kernels_only(run_python, tmp_path):
    """Machine code is generated of kernels, and of no function that they call."""
    script = f"""
from numba.core import codegen
generate, generated = codegen.JITCodeLibrary._finalize_specific, []
def note(library):
    generated.append(library.name)
    generate(library)
codegen.JITCodeLibrary._finalize_specific = note
{CALLS}
# The first is Numba's own, the next one is tried before the others.
assert set(generated) == {{"nrt", "_links.<locals>.trial", "forward"}}, generated
"""
    run_python(script, FASTRECUR_CACHE_DIR=str(tmp_path / "kernels"))
