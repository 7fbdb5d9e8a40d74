"""The kernels run as the Python they are written in, so that their lines are seen and measured."""

import pathlib


def test_kernels_as_python(run_python):
    script = pathlib.Path(__file__).with_name("interpreted.py").read_text()
    assert run_python(script, NUMBA_DISABLE_JIT="1") == "done\n"


def test_threads_provide_all_pages_of_fresh_results(run_python):
    """Each page of a result once, by one of them, whether steps are taken one by one or several at once."""
    script = """
from thresholds import lower_thresholds
lower_thresholds(setattr)
import numpy as np
import fastrecur
from fastrecur import _run
from fastrecur._cpu import _rows

_rows.HUGE_PAGE = 4096
_run._is_new = lambda place, nbytes: True  # all memory is
provided = []
_rows.prefault = lambda place, offset: provided.append(offset)
fastrecur.set_num_threads(2)
for dtype in (np.float32, np.float64):
    x = np.full((64, 128), 0.5, dtype)
    pages = x.nbytes // 4096
    h = fastrecur.forget_mult(x, x)
    assert len(provided) == pages, (dtype, provided)
    provided.clear()
    fastrecur.forget_mult_vjp(x, x, x, h)
    assert len(provided) == 2 * pages, (dtype, provided)
    provided.clear()
print("done")
"""
    assert run_python(script, NUMBA_DISABLE_JIT="1") == "done\n"
