"""How kernels are compiled."""

CALLS = """
import numpy as np
import fastrecur
from fastrecur import smoothing
for shape, axis in (((40, 33), 0), ((40, 33), 1), ((3000,), 0)):
    x = np.full(shape, 0.5, np.float32)
    fastrecur.forget_mult(x, x, axis=axis)
smoothing.ewm_mean(np.ones((40, 3)), span=5)
"""

STARTED = """
import sys
from fastrecur._cpu import _numba, _rows
# What Numba's compiler imports when it first compiles, which takes it half a second.
started = {name for name in sys.modules if name in ("numba.core.typing.arraydecl", "numba.np.linalg")}
"""


def test_kernels_that_are_kept_are_used_without_the_compiler(run_python, tmp_path):
    cache = str(tmp_path / "kernels")
    made = "assert len(started) == 2 and 'dispatcher' in vars(_rows.forward_rows)\n"
    kept = "assert not started and 'dispatcher' not in vars(_rows.forward_rows)\n"
    for expected in (made, kept):
        run_python(CALLS + STARTED + expected, FASTRECUR_CACHE_DIR=cache)


def test_a_kernel_that_an_interrupt_kept_from_being_handed_over_is_made_again(run_python, tmp_path):
    """Python cannot raise where LLVM calls it: the library then holds no code."""
    run_python(
        """
import numpy as np
import fastrecur
from fastrecur._cpu import _compile
make, made = _compile.compiled, []
def compiled(*arguments):
    made.append(make(*arguments))
    if len(made) == 1:
        made[0].library._compiled_object = None
    return made[-1]
_compile.compiled = compiled
np.testing.assert_array_equal(fastrecur.forget_mult(0.5, [8.0, 4.0]), [4, 4])
assert len(made) == 2
""",
        FASTRECUR_CACHE_DIR=str(tmp_path / "kernels"),
    )
