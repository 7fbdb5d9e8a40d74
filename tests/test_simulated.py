"""The GPU's kernels run as the Python they are written in, so that their lines are seen and measured."""

import pathlib


def test_kernels_in_the_simulator(run_python):
    script = pathlib.Path(__file__).with_name("simulated.py").read_text()
    assert run_python(script) == "done\n"
