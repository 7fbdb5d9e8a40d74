"""Offsets and resets in the GPU's kernels: their real PTX, run on the CPU, against the reference."""

import itertools

import ml_dtypes
import numpy as np
import pytest
from compare import assert_same_bits, check_forward, check_vjp
from test_forward import RECURRENCES, operands
from test_gpu_kernels import gpu  # noqa: F401
from test_segments import lanes_of, some_offsets, some_resets

EACH = pytest.mark.parametrize("name", RECURRENCES)
BOTH_WAYS = pytest.mark.parametrize("reverse", [False, True])
FLOATS = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
CASES = [((19, 40), 0), ((5, 35), 1), ((7, 4, 3), 0), ((4, 17, 3), 1), ((50,), 0)]


def launched(driver):
    return [entry[1] for entry in driver.log if entry[0] == "launch"]


@EACH
@BOTH_WAYS
@pytest.mark.parametrize(("shape", "axis"), CASES)
def test_offsets(gpu, rng, name, reverse, shape, axis):  # noqa: F811
    gate, value = operands(rng, shape, np.float32)
    for count in (1, 9):
        options = {"axis": axis, "reverse": reverse, "offsets": some_offsets(rng, shape[axis], count)}
        h0 = rng.standard_normal((count, *lanes_of(shape, axis))).astype(np.float32)
        for state in (h0, None):
            check_forward(name, gate, value, state, **options)
            check_vjp(name, gate, value, state, rng=rng, **options)
    assert set(launched(gpu)) == {"lanes", "lanes_vjp"}


@EACH
@BOTH_WAYS
@pytest.mark.parametrize(("shape", "axis"), CASES)
def test_resets(gpu, rng, name, reverse, shape, axis):  # noqa: F811
    gate, value = operands(rng, shape, np.float32)
    h0 = rng.standard_normal(lanes_of(shape, axis)).astype(np.float32)
    for resets in some_resets(rng, shape, axis):
        options = {"axis": axis, "reverse": reverse, "resets": resets}
        for state in (h0, None):
            check_forward(name, gate, value, state, **options)
            check_vjp(name, gate, value, state, rng=rng, **options)
    assert set(launched(gpu)) == {"lanes", "lanes_vjp"}
