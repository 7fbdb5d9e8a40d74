"""The kernels run as the Python they are written in, so that their lines are seen and measured."""

import pathlib


def test_kernels_as_python(run_python):
    script = (pathlib.Path(__file__).parents[1] / "interpreted.py").read_text()
    assert run_python(script, NUMBA_DISABLE_JIT="1") == "done\n"
