"""Complex numbers: vectors of eight lanes, rows of few whose number is known, packed blocks of any layout."""

import itertools

import numpy as np
import pytest
from compare import assert_same_bits, check_both, check_nothing_beside
from layouts import c_order, every_other_lane, fortran, guarded, negative_first_stride
from test_dtypes import numbers
from test_forward import RECURRENCES
from test_packed import every
from thresholds import lower_thresholds

import fastrecur
from fastrecur._plan import problem

DTYPES = [np.complex64, np.complex128]
LANES = [1, 2, 3, 7, 8, 9, 15, 16, 17]
LAYOUTS = [c_order, fortran, every_other_lane, every(-1), negative_first_stride]


@pytest.fixture(params=[0, 1 << 40], ids=["narrow", "wide"])
def few_lanes(request, monkeypatch, forget_plans):
    """Rows of few lanes have kernels for their number, or not."""
    monkeypatch.setattr(problem, "NARROW_LEAST", request.param)
    forget_plans()


@pytest.mark.exhaustive
@pytest.mark.usefixtures("few_lanes")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reverse", [False, True])
def test_rows(rng, dtype, reverse):
    for lanes, steps in [*zip(LANES, [9] * len(LANES), strict=True), (4, 700)]:
        a, b = numbers(rng, (steps, lanes), dtype), numbers(rng, (steps, lanes), dtype)
        a /= abs(a).max() * dtype(1.01)
        for gate in [a, a[:1], a[:, :1], 0.5 + 0.25j, 0.5]:
            check_both("linear_recurrence", gate, b, b[0], rng=rng, dtype=dtype, reverse=reverse)
    a, b = numbers(rng, (2, 9, 3, 5), dtype), numbers(rng, (2, 9, 3, 5), dtype)
    for lengths in [[3, 9], [[0, 9, 4], [9, 9, 1]]]:
        options = {"axis": 1, "reverse": reverse, "lengths": lengths}
        check_both("linear_recurrence", a, b, rng=rng, **options)


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_lane_has_the_same_bits_wherever_it_is_walked(rng, monkeypatch, forget_plans, set_threads, dtype):
    """In a vector, behind the last one, in a row of few lanes, packed; on any number of threads."""
    a, b = numbers(rng, (50, 29), dtype), numbers(rng, (50, 29), dtype)
    g = numbers(rng, (50, 29), dtype)

    def everything(a, b, g, axis):
        h = fastrecur.linear_recurrence(a, b, axis=axis)
        return [h, *fastrecur.linear_recurrence_vjp(g, a, b, h, axis=axis)[:2]]

    whole = everything(a, b, g, 0)
    for lane in [0, 7, 8, 23, 24, 28]:
        for result, expected in zip(everything(*(x[:, lane : lane + 1] for x in (a, b, g)), 0), whole, strict=True):
            assert_same_bits(result, expected[:, lane : lane + 1].copy())
    for _ in range(2):
        for threads, layout in itertools.product([1, 3], LAYOUTS):
            set_threads(threads)
            for result, expected in zip(everything(layout(a), b, g, 0), whole, strict=True):
                assert_same_bits(result.copy(), expected)
            across = everything(layout(a).T, layout(b).T, np.ascontiguousarray(g.T), 1)
            for result, expected in zip(across, whole, strict=True):
                assert_same_bits(result.T.copy(), expected)
        lower_thresholds(monkeypatch.setattr)
        monkeypatch.setattr(problem, "NARROW_LEAST", 0)
        forget_plans()


@pytest.mark.exhaustive
@pytest.mark.usefixtures("few_lanes")
@pytest.mark.parametrize(
    ("few_lanes", "kinds"),
    [*itertools.product([0, 1 << 40], ["fF", "dD", "Ff"]), (0, "bF"), (1 << 40, "eF")],
    indirect=["few_lanes"],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_real_operands(rng, kinds, reverse):
    """A real operand beside a complex one, whose gradient is real; time first and last, blocks and what is left."""
    for shape, axis in [((9, 13), 0), ((9, 5), 0), ((11, 19), 1), ((19, 9), 1)]:
        a, b = (numbers(rng, shape, kind) for kind in kinds)
        check_both("linear_recurrence", a, b, rng=rng, axis=axis, reverse=reverse)


@pytest.mark.sample(dtype=[np.complex64], layout=[every_other_lane])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout(rng, dtype, layout):
    """Steps that are neighbours, by blocks of 8 both ways through memory; lanes that are apart, and ragged."""
    for lanes, steps in [(1, 9), (7, 40), (8, 8), (9, 33), (17, 41)]:
        a, b = numbers(rng, (lanes, steps), dtype), numbers(rng, (lanes, steps), dtype)
        for reverse in [False, True]:
            options = {"axis": 1, "reverse": reverse}
            for gate in [layout(a), a[:, :1], a[:1]]:
                check_both("linear_recurrence", gate, layout(b), b[:, 0], rng=rng, **options)
        options = {"axis": 1, "lengths": rng.integers(0, steps + 1, lanes)}
        check_both("linear_recurrence", layout(a), b, rng=rng, **options)


@pytest.mark.sample(dtype=[np.complex128], axis=[0], few_lanes=[1 << 40])
@pytest.mark.usefixtures("few_lanes")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "axis", "gap"), [((9, 5), 0, 1), ((9, 21), 0, 0), ((9, 20), 1, 0), ((9, 19), 1, 2)])
@pytest.mark.parametrize("offset", [0, 8])
def test_nothing_is_written_beside_results(rng, both, dtype, shape, axis, gap, offset):
    """Of results that begin anywhere, in the cache and past it."""
    a, b = numbers(rng, shape, dtype), numbers(rng, shape, dtype)
    wanted = fastrecur.linear_recurrence(a, b, axis=axis)
    whole, memory = guarded((shape[0], shape[1] + gap), dtype, offset)
    for _ in both():
        check_nothing_beside("linear_recurrence", a, b, wanted, whole[:, : shape[1]], memory, axis=axis)


def test_infinities_stay_in_their_lanes(rng):
    a, b = numbers(rng, (20, 19), np.complex64), numbers(rng, (20, 19), np.complex64)
    clean = fastrecur.linear_recurrence(a, b)
    b[3, 2], b[5, 17] = np.nan, np.inf
    for axis, own in [(0, (a, b)), (1, (a.T, b.T)), (1, (a.T.copy(), b.T.copy()))]:
        h = fastrecur.linear_recurrence(*own, axis=axis)
        h = h if axis == 0 else h.T
        others = np.delete(np.arange(19), [2, 17])
        assert_same_bits(h[:, others].copy(), clean[:, others].copy())
        assert not np.isfinite(h[3:, 2]).any()
        assert not np.isfinite(h[5:, 17]).any()
        assert_same_bits(h[:3, 2].copy(), clean[:3, 2].copy())


def test_which_problems_are_narrow():
    """One lane as well, and a gate that is one number; up to half as many lanes as of real numbers."""
    options = {"reverse": False, "lengths": None, "weak_complex": False}
    x, number = np.empty((5000, 30), np.complex64), (np.dtype(np.complex64), (1, 1), (8, 8))
    for lanes in range(1, 30):
        values = x.dtype, (5000, lanes), x.strides
        for gate in (values, number):
            plan = problem.forward("linear", ("a", "b", "h0"), gate, values, None, None, axis=0, **options)
            assert plan.traversal == problem.ROWS
            assert bool(plan.narrow) == (lanes < 16)
        vjp = problem.vjp(
            "linear", ("grad_h", "a", "b", "h"), (values, number, values, values, None, None),
            axis=0, **options,
        )  # fmt: skip
        assert vjp.traversal == problem.ROWS
        assert bool(vjp.narrow) == (lanes < 16)


@pytest.mark.parametrize("name", RECURRENCES)
def test_more_axes_than_numpy_broadcasts(rng, name):
    value = rng.standard_normal((5, 3))
    many = value.reshape(5, *[1] * 60, 3)
    h = getattr(fastrecur, name)(0.5, many + 1j)
    assert_same_bits(h.real.copy(), getattr(fastrecur, name)(0.5, value).reshape(many.shape))
