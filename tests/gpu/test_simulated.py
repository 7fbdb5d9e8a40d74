"""The GPU's kernels run as the Python they are written in, so that their lines are seen and measured."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parents[1]
# What holds for arrays anywhere, by processes: others measure the CPU's ways, or are too large to be interpreted.
FORWARD = {"lanes", "series", "scan"}
BACK = {"lanes_vjp", "series_vjp", "scan_vjp", "sums"}
SUITE = [
    (["forward"], FORWARD),
    (["vjp", "lengths"], FORWARD | BACK),
    (["state", "layouts", "out", "dtypes", "properties"], FORWARD | BACK),
    (["segments"], {"lanes", "lanes_vjp", "sums"}),
]


def run(*arguments):
    """Run Python in a process that is not measured by itself; return what it printed."""
    places = map(str, [HERE.parent, HERE, HERE / "gpu_tools", HERE / "arrays"])
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("COVERAGE_P", "PYTEST"))}
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment | {"PYTHONPATH": os.pathsep.join(places)},
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout[-10000:] + done.stderr
    return done.stdout


@pytest.mark.exhaustive
def test_kernels_in_the_simulator():
    # Of coroutines coverage has to be told, and measures them at a third of the speed, so nothing else is run so.
    measured = ["-m", "coverage", "run", "--parallel-mode", "--concurrency=thread,greenlet"]
    measured = measured if "COVERAGE_PROCESS_CONFIG" in os.environ else []
    assert run("-W", "error", *measured, str(HERE / "simulated.py")) == "done\n"


@pytest.mark.exhaustive
@pytest.mark.parametrize(("names", "kernels"), SUITE)
def test_the_arrays_own_tests_in_the_simulator(names, kernels):
    """Every array on a device, threads in random order, memory poisoned."""
    files = [str(HERE / "arrays" / f"test_{name}.py") for name in names]
    # What is measured of lines, `simulated.py` has shown.
    options = ["-p", "interpreted_arrays", "-m", "", "-n", "0", "--no-cov", "-q", "--assert=plain"]
    options += ["-p", "no:cacheprovider"]
    printed = run("-m", "pytest", *options, *files)
    # What they are run for was run.
    launched = set(re.search("launched: (.*)", printed)[1].split())
    assert kernels <= launched, printed[-1000:]
    # Most of their tests, that is; what a CPU takes in parts is too large here.
    passed, ended = (int(re.search(rf"(\d+) {word}", printed)[1]) for word in ("passed", "skipped"))
    assert ended < passed / 6, printed[-1000:]
