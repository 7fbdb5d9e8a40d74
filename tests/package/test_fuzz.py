"""What the fuzzer finds: a fault is put into a function, and a case must fail. Kernels run as Python: none compiles."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SCRIPT = """
import functools, sys
import numpy as np
sys.path[:0] = {paths!r}
from fuzzing import cases, ways

family, name, fault, most, seed = {fault!r}
module, _, own = ("fastrecur." + name).rpartition(".")
module = __import__(module, fromlist=[own])
real = getattr(module, own)

@functools.wraps(real)
def broken(*given, **options):
    if fault == "a number as state is lost" and len(given) > 2 and isinstance(given[2], float):
        given = *given[:2], None, *given[3:]
    if fault == "float32 coefficients" and isinstance(given[0], np.ndarray):
        given = given[0].astype(np.float32), *given[1:]
    if fault == "no end is seen":
        options["truncated"] = None
    if fault == "a quotient is not wide" and "64" in str(given[2]):
        return given[1]
    return real(*given, **options)

setattr(module, own, broken)
np.seterr(all="ignore")
for number in cases.numbers(seed, family):
    try:
        cases.Case(seed, number).run()
    except ways.Mismatch as error:
        print("found", number, error)
        break
    most -= 1
    assert most, "nothing was found"
"""


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "fault",
    [
        ("recurrences", "forget_mult", "a number as state is lost", 400, 5),
        ("filters", "filters.sosfilt", "float32 coefficients", 200, 5),
        ("filters", "filters._forms._cast", "a quotient is not wide", 60, 4),
        ("returns", "returns.gae", "no end is seen", 300, 5),
    ],
)
def test_a_fault_is_found(fault):
    script = SCRIPT.format(paths=[str(TESTS), str(TESTS.parent)], fault=fault)
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True,
        timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "found" in done.stdout
