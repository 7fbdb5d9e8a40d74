"""Lanes whose steps are neighbours, 8 at a time in registers: the same bits as lanes that are neighbours give."""

import itertools

import ml_dtypes
import numpy as np
import pytest
from compare import assert_same_bits, check_both, check_forward, check_vjp
from layouts import guarded
from test_forward import RECURRENCES, operands
from thresholds import lower_thresholds

import fastrecur
from fastrecur._plan import problem

pytestmark = pytest.mark.usefixtures("rows_of_any_length")

FLOATS = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
# Less than a block of 8, one, and some, to the step; and what is left of them, up to more than a buffer of 32.
STEPS = [1, 7, 8, 9, 15, 16, 17, 24, 31, 40, 47, 64, 71, 73, 104, 2055]
LANES = [1, 8, 9, 16, 17, 33]


def plan_of(a, b, out=None, **options):
    a, b, out = ((v.dtype, v.shape, v.strides) if isinstance(v, np.ndarray) else None for v in (a, b, out))
    given = {"family": "forget", "axis": 1, "reverse": False, "lengths": None, "weak_complex": False} | options
    return problem.forward(names=("f", "x", "h0"), a=a, b=b, h0=None, out=out, **given)


@pytest.mark.sample(dtype=[np.float32, np.float64])
@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("reverse", [False, True])
def test_the_bits_are_those_of_neighbouring_lanes(rng, both, name, dtype, reverse):
    recurrence, vjp = getattr(fastrecur, name), getattr(fastrecur, name + "_vjp")
    for _, steps, lanes in itertools.product(both(), STEPS, LANES):
        if steps * lanes > 20_000:
            continue
        if lanes >= 8 and steps >= 8:
            x = np.empty((lanes, steps), dtype)
            plan = plan_of(x, x, reverse=reverse)
            assert plan.traversal == problem.TRANSPOSE8
            assert plan.traits == (("descending",) if reverse else ())
        gate, value = operands(rng, (steps, lanes), dtype)
        g, h0 = rng.standard_normal((steps, lanes)).astype(dtype), rng.standard_normal(lanes).astype(dtype)
        options = {"reverse": reverse}
        across = [np.ascontiguousarray(v.T) for v in (gate, value, g)]
        h, last = recurrence(gate, value, h0, return_state=True, **options)
        got, got_last = recurrence(across[0], across[1], h0, axis=1, return_state=True, **options)
        assert_same_bits(got, np.ascontiguousarray(h.T))
        assert_same_bits(got_last, last)
        wanted = vjp(g, gate, value, h, h0, grad_state=last, **options)
        grads = vjp(across[2], across[0], across[1], got, h0, grad_state=last, axis=1, **options)
        for grad, right in zip(grads, wanted, strict=True):
            assert_same_bits(grad, np.ascontiguousarray(right.T))


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("gate", ["number", "by lane", "by step", "one step"])
def test_gates_of_fewer_dimensions(rng, both, name, reverse, gate):
    dtypes = [np.float32, np.float16][: 2 if name == "forget_mult" else 1]
    for _, steps, dtype in itertools.product(both(), [24, 77, 2100], dtypes):
        lanes = 19
        full = {"number": (), "by lane": (lanes, 1), "by step": (1, steps), "one step": (1, 1)}[gate]
        a = rng.random(full).astype(dtype) if full else 0.3
        value, h0 = rng.standard_normal((lanes, steps)).astype(dtype), rng.standard_normal(lanes).astype(dtype)
        check_both(name, a, value, h0, rng=rng, axis=1, reverse=reverse)


@pytest.mark.sample(dtype=[np.float32, np.float64])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("reverse", [False, True])
def test_nothing_is_written_beside_results(rng, both, dtype, reverse):
    """Wherever in a line they begin: rows of which the first and last lines are not whole."""
    size = np.dtype(dtype).itemsize
    offsets = [0, size, 16, 64 - size]
    for _, steps, lanes, offset in itertools.product(both(), [40, 77, 2048, 2077], [8, 13], offsets):
        gate, value = operands(rng, (lanes, steps), dtype)
        out, memory = guarded((lanes, steps), dtype, offset)
        before = memory.copy()
        wanted = fastrecur.forget_mult(gate, value, axis=1, reverse=reverse)
        assert fastrecur.forget_mult(gate, value, axis=1, reverse=reverse, out=out) is out
        assert_same_bits(out.copy(), wanted)
        out.view(np.uint8)[...] = 0xA5
        np.testing.assert_array_equal(memory, before)


@pytest.mark.sample(name=["forget_mult"])
@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("flips", list(itertools.product([False, True], repeat=2)))
def test_operands_that_are_met_in_other_directions(rng, both, name, flips):
    gate, value = operands(rng, (17, 90), np.float32)
    flipped = [v[:, ::-1].copy()[:, ::-1] if flip else v for v, flip in zip((gate, value), flips, strict=True)]
    for _, reverse in itertools.product(both(), [False, True]):
        check_both(name, *flipped, rng=rng, axis=1, reverse=reverse)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("kinds", "reverse"),
    [((np.float16, np.float32), False), ((np.float64, np.float32), True), ((bool, np.float32), False)],
)
def test_operands_of_several_dtypes(rng, both, kinds, reverse):
    for _, shape in itertools.product(both(), [(17, 90), (16, 96), (9, 160)]):  # rows of whole lines, and others
        operands_of = [v.astype(kind) for v, kind in zip(operands(rng, shape, np.float32), kinds, strict=True)]
        check_both("forget_mult", *operands_of, rng=rng, axis=1, reverse=reverse)


@pytest.mark.sample(dtype=[np.float32, np.float64])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_lane_and_time(rng, dtype, bad):
    gate, value = operands(rng, (17, 90), dtype)
    clean = fastrecur.forget_mult(gate, value, axis=1)
    value[3, 50] = bad
    h = fastrecur.forget_mult(gate, value, axis=1)
    assert_same_bits(np.delete(h, 3, 0), np.delete(clean, 3, 0))
    assert_same_bits(h[3, :50], clean[3, :50])
    assert not np.isfinite(h[3, 50:].astype(np.float64)).any()


@pytest.mark.sample(name=["forget_mult"])
@pytest.mark.parametrize("name", RECURRENCES)
def test_lanes_of_several_axes_and_threads(rng, monkeypatch, set_threads, name):
    """Rows of lanes end within an octet, and threads have some of the octets."""
    lower_thresholds(monkeypatch.setattr)
    gate, value = operands(rng, (3, 11, 5, 300), np.float32)
    results = []
    for threads in [1, 2, 5]:
        set_threads(threads)
        for layout in [lambda v: v, lambda v: v[::2, 1:, ::-1]]:
            a, b = layout(gate), layout(value)
            h = check_forward(name, a, b, axis=-1)
            results.append((h, *check_vjp(name, a, b, rng=np.random.default_rng(0), axis=-1)[:2]))
    for one, other in zip(results[2:], results, strict=False):
        for got, right in zip(one, other, strict=True):
            assert_same_bits(got, right)


def test_which_problems_are_transposed():
    """Those of steps that are neighbours, 8 at least, met the same way, of lanes that have all of them."""
    x = np.empty((33, 77), np.float32)
    transpose8, packed, scan = problem.TRANSPOSE8, problem.PACKED, problem.SCAN
    for a, b, options, expected in [
        (x, x, {}, transpose8),
        (0.5, x, {}, transpose8),
        (x[:, :1], x, {}, transpose8),
        (x[:1], x, {}, transpose8),
        (x, x[:, ::-1], {}, packed),
        (x, x[:, :1], {}, packed),
        (x, x, {"lengths": (33,)}, packed),
        (x[:, :7], x[:, :7], {}, packed),
        (x[:, ::2], x[:, ::2], {}, packed),
        (x[:, ::2], np.empty((33, 39), np.float32), {}, packed),
        (x[:1], x[:, ::-1], {}, packed),
        (x.astype(np.complex64), x.astype(np.complex64), {}, packed),
        (np.empty((7, 5000), np.float32), np.empty((7, 5000), np.float32), {}, scan),
        (np.empty((8, 5000), np.float32), np.empty((8, 5000), np.float32), {}, transpose8),
    ]:
        assert plan_of(a, b, **options).traversal == expected


@pytest.mark.sample(dtype=[np.float32], name=["forget_mult"])
@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("dtype", FLOATS[:3])
@pytest.mark.parametrize("reverse", [False, True])
def test_any_number_of_steps(rng, both, name, dtype, reverse):
    """Whole blocks, and steps that fill none; in place; series that are one, that begin anew or end early."""
    lanes, options = 11, {"axis": 1, "reverse": reverse}
    for _, steps in itertools.product(both(), [*range(1, 18), 23, 40, 77]):
        gate, value = operands(rng, (lanes, steps), dtype)
        h0, repeated = rng.standard_normal(lanes).astype(dtype), np.broadcast_to(value[:1], value.shape)
        resets, lengths = rng.random((lanes, steps)) < 0.3, rng.integers(0, steps + 1, lanes)
        h = check_forward(name, gate, value, h0, **options)
        check_vjp(name, gate, value, h0, rng=rng, **options)
        for k in range(2):
            own = [gate.copy(), value.copy()]
            getattr(fastrecur, name)(*own, h0, out=own[k], **options)
            assert_same_bits(own[k], h)
        for given in {"resets": resets}, {"resets": resets, "lengths": lengths}, {"lengths": lengths}:
            check_both(name, gate, value, h0, rng=rng, **given, **options)
        check_both(name, gate, repeated, h0, rng=rng, **options)


@pytest.mark.sample(dtype=[np.float32, np.float64])
@pytest.mark.parametrize("dtype", FLOATS)
def test_fresh_results_are_aligned(dtype):
    """Though they start as far into a cache line as an operand of long lanes does."""
    shape = 16, 4096
    for offset in [0, 1, 2, 4, 8, 12]:
        memory = np.zeros(16 * 4096 * np.dtype(dtype).itemsize + 128, np.uint8)
        start = -memory.ctypes.data % 64 + offset
        x = memory[start : start + memory.size - 128].view(dtype).reshape(shape)
        h = fastrecur.forget_mult(0.5, x, axis=1)
        f = np.full(shape, 0.5, dtype)
        grads = fastrecur.forget_mult_vjp(h, f, x, h, axis=1)[:2]
        assert all(result.flags.aligned for result in (h, *grads))
