"""The kernels run as the Python they are written in, so that their lines are seen and measured."""

import pathlib


def test_kernels_as_python(run_python):
    script = (pathlib.Path(__file__).parents[1] / "interpreted.py").read_text()
    assert run_python(script, NUMBA_DISABLE_JIT="1") == "done\n"


WITHOUT_ML_DTYPES = """
import sys, torch, fastrecur
torch.manual_seed(0)
x = torch.randint(-900, 900, (9, 5)).bfloat16()
x[3, 0], x[4, 1] = float("inf"), float("nan")
x[1:3, 2] = torch.tensor([2.0**-8, 3.0 * 2.0**-8]) * x[0, 2]  # ties
for axis in (0, 1):
    found = fastrecur.linear_recurrence(1.0, x, axis=axis)
    torch.testing.assert_close(found, x.float().cumsum(axis).bfloat16(), rtol=0, atol=0, equal_nan=True)
assert "ml_dtypes" not in sys.modules
print("done")
"""


def test_bfloat16_of_tensors_needs_no_other_library(run_python):
    assert run_python(WITHOUT_ML_DTYPES, NUMBA_DISABLE_JIT="1") == "done\n"
