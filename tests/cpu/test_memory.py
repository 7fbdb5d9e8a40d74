"""No operand-sized copy, whatever the layout: measured."""

import sys
import tracemalloc

import numpy as np
import pytest
from layouts import (
    c_order,
    first_two_swapped,
    gate_slice,
    last_two_swapped,
    negative_first_stride,
    negative_strides,
    read_only,
)

import fastrecur
from fastrecur._cpu.machine import memory_pool

LAYOUTS = [
    c_order,
    first_two_swapped,
    last_two_swapped,
    gate_slice,
    negative_first_stride,
    negative_strides,
    read_only,
]
SHAPE = (96, 96, 128)
# What a call may allocate beside its results: carries, tiles, arguments; an operand has 4.7 MB.
SPARE = 2**20


def beside_results(call, out=None):
    """Bytes that are allocated at once by `call`, but for the results it allocates."""
    call()
    memory_pool._buffers.clear()
    tracemalloc.start()
    try:
        results = call()
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    results = results if isinstance(results, tuple) else (results,)
    return most - sum(buffer_bytes(r) for r in results if r is not None and r is not out)


def buffer_bytes(result):
    """Bytes of what a result stands in: a line more to align it."""
    buffer = result
    while isinstance(buffer.base, np.ndarray):
        buffer = buffer.base
    assert buffer.nbytes <= result.nbytes + 64
    return buffer.nbytes


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_layouts(rng, layout, axis):
    f, x, h0 = (layout(rng.random(shape, np.float32)) for shape in [SHAPE, SHAPE, np.delete(SHAPE, axis)])
    out = layout(np.empty(SHAPE, np.float32)) if layout is not read_only else None
    options = {"axis": axis, "reverse": axis == 1}
    lengths, resets = np.full(h0.shape[:1], 50), layout(rng.random(SHAPE) < 0.1)
    h = fastrecur.forget_mult(f, x, h0, **options)
    for call in [
        lambda: fastrecur.forget_mult(f, x, h0, **options),
        lambda: fastrecur.forget_mult(f, x, h0, **options, return_state=True, lengths=lengths),
        lambda: fastrecur.forget_mult_vjp(x, f, x, h, h0, **options),
        lambda: fastrecur.forget_mult(f, x, h0, **options, resets=resets),
        lambda: fastrecur.forget_mult_vjp(x, f, x, h, h0, **options, resets=resets),
    ]:
        assert beside_results(call) < SPARE
    if out is not None:
        call = lambda: fastrecur.forget_mult(f, x, h0, **options, out=out)  # noqa: E731
        assert beside_results(call, out) < SPARE


@pytest.mark.exhaustive
@pytest.mark.parametrize("shape", [SHAPE, (1000000,), (9, 200000)])
def test_broadcast_operands_are_not_materialised(rng, shape):
    x = rng.random(shape, np.float32)
    row = np.broadcast_to(np.float32(0.5), shape)
    for axis in range(len(shape)):
        # Every lane has a wide state, or two, however few its steps.
        spare = SPARE + 16 * x.size // shape[axis]
        for f in [0.5, row, np.float32(0.5)]:
            h = fastrecur.forget_mult(f, x, axis=axis)
            for call in [
                lambda f=f, axis=axis: fastrecur.forget_mult(f, x, axis=axis),
                lambda f=f, axis=axis, h=h: fastrecur.forget_mult_vjp(x, f, x, h, axis=axis),
            ]:
                assert beside_results(call) < spare
        call = lambda axis=axis: fastrecur.linear_recurrence(x, 1.0, axis=axis)  # noqa: E731
        assert beside_results(call) < spare


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_dtypes_are_not_converted(rng, dtype):
    f, x = rng.random((2, *SHAPE), np.float32).astype(dtype)
    for axis in range(3):
        h = fastrecur.forget_mult(f, x, axis=axis)
        assert beside_results(lambda axis=axis: fastrecur.forget_mult(f, x, axis=axis)) < SPARE
        call = lambda axis=axis, h=h: fastrecur.forget_mult_vjp(x, f, x, h, axis=axis)  # noqa: E731
        assert beside_results(call) < SPARE


@pytest.mark.exhaustive
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_resident_memory(run_python):
    """What compiled code allocates is not traced: the process as a whole must not grow either."""
    run_python(
        """
import resource
import numpy as np
import fastrecur

def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def calls(a, b, out):
    for axis in range(3):
        fastrecur.forget_mult(a, b, axis=axis, out=out)
        fastrecur.forget_mult(0.5, b, axis=axis, out=out)
        fastrecur.forget_mult(a[::-1], b[::-1], axis=axis, out=out)
        swapped = a.swapaxes(0, 1), b.swapaxes(0, 1)
        fastrecur.forget_mult(*swapped, axis=axis, out=out.swapaxes(0, 1))
        fastrecur.forget_mult(a.T, b.T, axis=axis, out=out.T)
    fastrecur.forget_mult(a.reshape(-1), b.reshape(-1), out=out.reshape(-1))

small = np.ones((3, 9, 9, 9), np.float32)
calls(*small)
arrays = np.ones((3, 64, 256, 1024), np.float32)
calls(*arrays[:, :, :40, :])
before = most()
calls(*arrays)
grown = most() - before
assert grown < arrays[0].nbytes / 4, grown
"""
    )


def test_nothing_is_kept(rng):
    f, x = rng.random((2, 300, 4097), np.float32)
    h = fastrecur.forget_mult(f, x)
    fastrecur.forget_mult_vjp(x, f, x, h)
    tracemalloc.start()
    try:
        for _ in range(3):
            fastrecur.forget_mult(f, x)
            fastrecur.forget_mult_vjp(x, f, x, h)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < SPARE / 4
