"""Many long lanes walked along time, where one gate may be all steps': lengths differ, or operands' directions."""

import numpy as np
import pytest
from compare import assert_same_bits, check_both, check_forward, check_vjp

import fastrecur
from fastrecur._plan import problem

LANES, STEPS = 9, 1543  # two blocks, vectors, and what is left


@pytest.fixture(autouse=True)
def as_if_large(monkeypatch):
    """Let lanes of a few thousand steps be many enough."""
    monkeypatch.setattr(problem, "LARGE_PROBLEM", 0)
    monkeypatch.setattr(problem, "OCTET", 1 << 30)  # nor are they walked in octets
    for plan in (problem.forward, problem.vjp):
        monkeypatch.setattr(problem, plan.__name__, plan.__wrapped__)
    monkeypatch.setattr(fastrecur._cpu.host, "_shortcuts", {})


def is_along_time(gate, value):
    signatures = [None if type(v) is float else (v.dtype, v.shape, v.strides) for v in (gate, value)]
    plan = problem.forward("forget", ("f", "x", "h0"), *signatures, None, None, 1, False, None, False)
    return plan.traversal == problem.SCAN


@pytest.fixture(params=["number", "by lane", "full"])
def gate(request, rng):
    return {
        "number": lambda dtype: 0.3,
        "by lane": lambda dtype: rng.random((LANES, 1)).astype(dtype),
        "full": lambda dtype: rng.random((LANES, STEPS)).astype(dtype),
    }[request.param]


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("name", "dtype"), [("forget_mult", np.float32), ("linear_recurrence", np.float32), ("forget_mult", np.float64)]
)
@pytest.mark.parametrize("reverse", [False, True])
def test_all_gates(rng, gate, name, dtype, reverse):
    gate, value = gate(dtype), rng.standard_normal((LANES, STEPS)).astype(dtype)
    if name == "linear_recurrence":
        gate = np.asarray(gate, dtype)  # a Python number is in the carry's dtype: another kernel
    assert is_along_time(gate, value)
    h0 = rng.standard_normal(LANES).astype(dtype)
    options = {"axis": 1, "reverse": reverse}
    check_both(name, gate, value, h0, rng=rng, **options)
    lengths = rng.integers(0, STEPS + 1, LANES)
    lengths[:4] = 0, 3, 512, STEPS
    check_both(name, gate, value, rng=rng, lengths=lengths, **options)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["forget_mult", "linear_recurrence"])
def test_the_bits_do_not_depend_on_threads(rng, gate, name, set_threads):
    gate, value = gate(np.float32), rng.standard_normal((LANES, 40_000)).astype(np.float32)
    if np.shape(gate) == (LANES, STEPS):
        gate = np.tile(gate, 26)[:, : value.shape[1]]
    results = []
    for threads in (1, 2, 3):
        set_threads(threads)
        h = getattr(fastrecur, name)(gate, value, axis=1)
        results.append((h, *getattr(fastrecur, name + "_vjp")(value, gate, value, h, axis=1)[:2]))
    for result in results[1:]:
        for one, other in zip(result, results[0], strict=True):
            assert_same_bits(one, other)


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_gate_is_as_good_as_many(rng, dtype):
    value, gate = rng.standard_normal((LANES, STEPS)).astype(dtype), rng.random((LANES, 1)).astype(dtype)
    many = np.repeat(gate, STEPS, axis=1)
    h = fastrecur.forget_mult(gate, value, axis=1)
    assert_same_bits(h, fastrecur.forget_mult(many, value, axis=1))
    _, to_value, _ = fastrecur.forget_mult_vjp(value, gate, value, h, axis=1)
    assert_same_bits(to_value, fastrecur.forget_mult_vjp(value, many, value, h, axis=1)[1])


@pytest.mark.sample(dtype=[np.float32])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("reverse", [False, True])
def test_gates_at_both_ends(rng, dtype, reverse):
    """A closed gate repeats the first state to the bit, an open one the values."""
    value = rng.standard_normal((LANES, STEPS)).astype(dtype)
    gate, h0 = np.resize([0, 1, 0.5], (LANES, 1)).astype(dtype), rng.standard_normal(LANES).astype(dtype)
    h = check_forward("forget_mult", gate, value, h0, axis=1, reverse=reverse)
    check_vjp("forget_mult", gate, value, h0, rng=rng, axis=1, reverse=reverse)
    assert_same_bits(h[::3], np.repeat(h0[::3, np.newaxis], STEPS, axis=1))
    assert_same_bits(h[1::3], value[1::3])


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_decays_that_grow_or_alternate(rng, dtype):
    value = rng.standard_normal((LANES, STEPS)).astype(dtype)
    gate = np.resize([1.0, -1.0, 1.01, -1.001, 0.0, -0.5, 2.0], (LANES, 1)).astype(dtype)
    with np.errstate(all="ignore"):
        check_forward("linear_recurrence", gate, value, 0.25, axis=1)
    steady = np.abs(gate[:, 0]) < 1.1
    check_vjp("linear_recurrence", gate[steady], value[steady], 0.25, rng=rng, axis=1)


@pytest.mark.sample(dtype=[np.float32])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_lane_and_time(rng, dtype, bad):
    value = rng.standard_normal((LANES, STEPS)).astype(dtype)
    clean = fastrecur.forget_mult(0.3, value, axis=1)
    value[3, 700] = bad
    h = fastrecur.forget_mult(0.3, value, axis=1)
    np.testing.assert_allclose(h[3, :700], clean[3, :700], rtol=1e-12 if dtype == np.float64 else 1e-6)
    assert_same_bits(np.delete(h, 3, 0), np.delete(clean, 3, 0))
    assert not np.isfinite(h[3, 700:]).any()


@pytest.mark.sample(dtype=[np.float32])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_constant_series_stays_constant(dtype):
    value = np.repeat(np.linspace(-7, 7, LANES).astype(dtype)[:, np.newaxis], STEPS, axis=1)
    for gate in (1e-9, 0.1, 0.77, np.linspace(0.01, 0.99, LANES).astype(dtype)[:, np.newaxis]):
        assert_same_bits(fastrecur.forget_mult(gate, value, value[:, 0].copy(), axis=1), value)
