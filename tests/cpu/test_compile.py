"""How kernels are compiled."""

import pytest

CALLS = """
import numpy as np
import fastrecur
for shape in (40, 33), (3000,):
    x = np.full(shape, 0.5, np.float32)
    np.testing.assert_allclose(fastrecur.forget_mult(x, x)[-1], 0.5)
"""

STARTED = """
import sys
from fastrecur._cpu.kernels import operands as _operands
# What Numba's compiler imports when it first compiles, which takes it half a second.
started = {name for name in sys.modules if name in ("numba.core.typing.arraydecl", "numba.np.linalg")}
"""


@pytest.mark.exhaustive
def test_kernels_that_are_kept_are_used_without_the_compiler(run_python, tmp_path):
    cache = str(tmp_path / "kernels")
    made = "assert len(started) == 2 and 'dispatcher' in vars(_operands.valid_range)\n"
    kept = "assert not started and 'dispatcher' not in vars(_operands.valid_range)\n"
    for expected in (made, kept):
        run_python(CALLS + STARTED + expected, FASTRECUR_CACHE_DIR=cache)


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
assert set(generated) == {{"nrt", "forward"}}, generated  # the former is Numba's own
"""
    run_python(script, FASTRECUR_CACHE_DIR=str(tmp_path / "kernels"))
