"""How kernels are compiled."""

import pytest

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
