"""How kernels are compiled: what is left out must not be missed."""

import pytest

MACHINE_CODE = r"""
import hashlib, re, sys
from fastrecur._cpu import _target
if {everything}:
    _target.NEEDLESS, _target.TARGET = frozenset(), "cpu"
from fastrecur._cpu import _compile, {module}
make = _compile._machine_code
def told(*arguments):
    code, symbol = make(*arguments)
    named = re.sub(rb"pickle(buf|data)[.][0-9]+", b"", code)  # older Numbas name some data by where it stands
    print(hashlib.sha256(named).hexdigest(), "numba.np.linalg" in sys.modules, "scipy.linalg" in sys.modules)
    return code, symbol
_compile._machine_code = told
_compile.kernel({module}.forward, "forget_wide", "f8", a="f4", b="f4", h="f4")
"""


@pytest.mark.parametrize("module", ["_rows", "_octets", "_panels", "_scan"])
def test_what_is_left_out_changes_nothing(run_python, tmp_path, module):
    (code, *loaded), (code_of_everything, *everything_loaded) = (
        run_python(
            MACHINE_CODE.format(everything=everything, module=module),
            FASTRECUR_CACHE_DIR=str(tmp_path / str(everything)),
        ).split()
        for everything in (False, True)
    )
    assert code == code_of_everything
    assert loaded == ["False", "False"]
    assert everything_loaded[0] == "True"


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


@pytest.mark.parametrize("order", ["ours(); theirs()", "theirs(); ours(); theirs()"])
def test_numba_compiles_for_others_as_ever(run_python, tmp_path, order):
    """Numba's own target, with NumPy, dictionaries and complex numbers, beside the kernels'."""
    run_python(
        f"""
import math, numba, numpy as np, fastrecur
def theirs():
    @numba.njit
    def all_sorts(a):
        table, squares = {{1: abs(complex(3.0, 4.0))}}, [x * x for x in range(4)]
        return np.dot(a, a).sum() + np.linalg.norm(a) + table[1] + sum(squares) + math.hypot(3.0, 4.0)
    assert all_sorts(np.eye(4)) == 4 + 2 + 5 + 14 + 5
def ours():
    x = np.full((40, 3), 0.5 + 0.5j)
    h = fastrecur.linear_recurrence(x, x)
    assert np.allclose(h[-1], x[0] / (1 - x[0]))
    fastrecur.linear_recurrence_vjp(h, x, x, h)
{order}
""",
        FASTRECUR_CACHE_DIR=str(tmp_path),
    )
