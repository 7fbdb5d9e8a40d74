"""The GPU's kernels run as the Python they are written in, so that their lines are seen and measured."""

import os
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
# What holds for arrays anywhere. Others measure the CPU's ways, or are too large to be interpreted.
SUITE = "forward", "vjp", "lengths", "state", "layouts", "out", "dtypes", "properties"


def test_kernels_in_the_simulator(run_python):
    script = (HERE / "simulated.py").read_text()
    assert run_python(script) == "done\n"


def test_the_arrays_own_tests_in_the_simulator():
    """Every array on a device, threads in random order, memory poisoned."""
    files = [str(HERE / f"test_{name}.py") for name in SUITE]
    places = map(str, [HERE.parent, HERE, HERE / "gpu_tools"])
    # What is measured of lines, `simulated.py` has shown.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("COV", "PYTEST"))}
    options = ["-p", "interpreted_arrays", "-n", "0", "--no-cov", "-q", "--assert=plain", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *files],
        env=environment | {"PYTHONPATH": os.pathsep.join(places)},
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout[-10000:] + done.stderr
    # None was left out unseen, and what they are run for was run.
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 150, done.stdout[-1000:]
    kernels = {"lanes", "lanes_vjp", "series", "series_vjp", "fold", "sums", "mend", "mend_back", "summarise_lanes"}
    assert kernels <= set(re.search("launched: (.*)", done.stdout)[1].split()), done.stdout[-1000:]
