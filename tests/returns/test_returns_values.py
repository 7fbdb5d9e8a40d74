"""The numbers of plain loops: every axis, layout, dtype, kind of flags and mask; and who may differ from whom."""

import hypothesis
import numpy as np
import pytest
from compare import assert_close, assert_same_bits
from hypothesis import strategies as st
from rollouts import KINDS, call, expect, with_next

from fastrecur import returns

SHAPES = {
    "one series": ((150,), 0),
    "one step": ((1, 3), 0),
    "a vector and one": ((17, 17), 0),
    "time last": ((3, 145), 1),
    "time between": ((2, 20, 18), 1),
    "few series": ((3, 20, 5), 1),
    "one of a row": ((33, 1), 0),
}


def check(kind, r):
    for result, wanted in zip(call(kind, r), expect(kind, r), strict=True):
        magnitude = 8 * np.abs(wanted).max(initial=1.0)
        assert_close(result, wanted, r["rewards"].dtype, magnitude=magnitude)


@pytest.mark.sample(masked=[False], name=["one series", "time last", "one of a row"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_shapes(record, rng, name, masked, kind):
    r = record(*SHAPES[name], masked=masked, fractions=True)
    check(kind, r)
    check(kind, r | {"cuts": None, "bootstrap": None})
    check(kind, with_next(r, rng))


@pytest.mark.sample(kind=["gae"], name=["one series"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["one series", "a vector and one", "time last"])
def test_float32_is_rounded_once(record, kind, name):
    """Sums are carried in float64; a discount that is a number is not rounded to float32."""
    r = record(*SHAPES[name], dtype=np.float32, masked=True)
    check(kind, r)
    r = r | {"gamma": 0.9999, "lam": 0.999, "mask": None}
    r |= {name: np.nan_to_num(r[name]) for name in ("rewards", "values", "log_rhos")}
    check(kind, r)


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.float64])
def test_flags_of_numbers(record, dtype):
    r = record((20, 3))
    as_numbers = {name: r[name].astype(dtype) for name in ("ends", "cuts")}
    for kind in list(KINDS)[np.dtype(dtype).kind == "f" :: 2]:  # a kernel for each pair
        for one, other in zip(call(kind, r), call(kind, r, **as_numbers), strict=True):
            assert_same_bits(one, other)


@pytest.mark.exhaustive
@pytest.mark.parametrize("count", [2, 15])
def test_few_series_are_each_as_alone(record, rng, count):
    """A row's states stay in a vector, padded; a series by itself is walked by numbers: the bits are the same."""
    for masked in (False, True):
        r = with_next(record((30, count), dtype=np.float32, masked=masked), rng)
        for kind in ("gae", "vtrace"):
            rows = call(kind, r)
            for k in range(count):
                own = {name: v[..., k] if np.ndim(v) else v for name, v in r.items()}
                for row, one in zip(rows, call(kind, own), strict=True):
                    assert_same_bits(np.ascontiguousarray(row[:, k]), one)


@pytest.mark.exhaustive
def test_calls_by_turns(record):
    """What is remembered of a call is of its layout alone: the second and fourth call, others between them."""
    records = [record((20, 5), 0), record((5, 20), 1), record((20, 5), 0, dtype=np.float32), record((20, 17), 0)]
    records += [records[0] | {"rewards": np.asfortranarray(records[0]["rewards"])}, records[0] | {"cuts": None}]
    first = [[call(kind, r) for kind in KINDS] for r in records]
    for _ in range(3):
        for r, results in zip(records, first, strict=True):
            for kind, wanted in zip(KINDS, results, strict=True):
                for result, one in zip(call(kind, r), wanted, strict=True):
                    assert_same_bits(result, one)
    for r in records:
        for kind in KINDS:
            check(kind, r)
            for _ in range(2):
                with pytest.raises(ValueError, match="must have the shape"):
                    call(kind, r, gamma=np.ones(7))
                with pytest.raises(TypeError, match="`axis`"):
                    call(kind, r, axis=True)
    changed = records[0] | {name: np.array(records[0][name]) for name in ("rewards", "values", "ends")}
    call("gae", changed)
    changed["rewards"] += 1
    changed["values"] *= 2
    changed["ends"][5] = True
    check("gae", changed)


def test_lists_and_whole_numbers():
    result = returns.gae([1, 1], [0, 0, 2], 0.5, 1, [False, 0])
    assert_same_bits(result, np.array([2.0, 2.0]))
    assert returns.discounted_returns(np.arange(3, dtype=np.int8), 0.5).dtype == np.float64


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["one series", "a vector and one", "time last", "few series"])
def test_what_is_behind_an_end_changes_no_bit(record, rng, name, kind):
    """Neither what is behind a terminated or truncated step, nor what is masked: finite, infinite or NaN."""
    shape, axis = SHAPES[name]
    r = with_next(record(shape, axis, masked=True), rng)
    cut, lead = shape[axis] // 2, (slice(None),) * axis
    behind = (*lead, slice(cut + 1, None))
    end = (*lead, cut)
    for flag in ("ends", "cuts")[: 1 + (kind != "returns")]:
        r["ends"][end], r["cuts"][end], r["mask"][end] = flag == "ends", flag == "cuts", True
        for operand in ("rewards", "values", "next_values", "log_rhos"):
            r[operand][end] = 0.5
        wanted = call(kind, r)
        for filling in (7.0, np.inf, np.nan):
            other = {name: np.array(value) if np.ndim(value) else value for name, value in r.items()}
            for operand in ("rewards", "values", "next_values", "log_rhos", "gamma", "lam"):
                other[operand][behind] = filling
                other[operand][~r["mask"]] = filling
            other["ends"][~r["mask"]], other["bootstrap"] = True, filling
            with np.errstate(all="raise"):
                results = call(kind, other)
            for one, result in zip(wanted, results, strict=True):
                before = (*lead, slice(0, cut + 1))
                assert_same_bits(np.ascontiguousarray(result[before]), np.ascontiguousarray(one[before]))
                assert (result[~r["mask"]] == 0).all()


def test_nan_stays_in_its_series_and_episode(rng):
    rewards, values = rng.standard_normal((40, 20)), rng.standard_normal((41, 20))
    ends = np.zeros((40, 20), bool)
    ends[20] = True
    whole = returns.gae(rewards, values, 0.9, 0.9, ends)
    rewards[30, 3] = np.nan
    result = returns.gae(rewards, values, 0.9, 0.9, ends)
    assert np.isnan(result[21:31, 3]).all()
    result[21:31, 3] = whole[21:31, 3]
    assert_same_bits(result, whole)


@pytest.mark.exhaustive
@hypothesis.given(
    steps=st.integers(1, 60), series=st.integers(1, 20), seed=st.integers(0, 99), cut=st.integers(0, 60),
    masked=st.booleans(),
)  # fmt: skip
def test_split_and_carry(steps, series, seed, cut, masked):
    """A record in two chunks is the whole one, and advantages are linear in rewards and values together."""
    rng, cut = np.random.default_rng(seed), min(cut, steps)
    shape = steps, series
    rewards, values, ends = (
        rng.standard_normal(shape),
        rng.standard_normal((steps + 1, series)),
        rng.random(shape) < 0.1,
    )
    mask = rng.random(shape) < 0.8 if masked else np.ones(shape, bool)
    whole = returns.discounted_returns(rewards, 0.9, ends, bootstrap=values[-1], mask=mask)
    behind = returns.discounted_returns(rewards[cut:], 0.9, ends[cut:], bootstrap=values[-1], mask=mask[cut:])
    first = values[-1].copy()  # the return before the second chunk: of the first step that is read
    for k in range(series):
        there = np.flatnonzero(mask[cut:, k])
        first[k] = behind[there[0], k] if there.size else first[k]
    before = returns.discounted_returns(rewards[:cut], 0.9, ends[:cut], bootstrap=first, mask=mask[:cut])
    np.testing.assert_allclose(np.concatenate([before, behind]), whole, rtol=1e-12, atol=1e-12)
    one, two = (returns.gae(k * rewards, k * values, 0.9, 0.8, ends, mask=mask) for k in (1, 2))
    np.testing.assert_array_equal(two, 2 * one)


def test_threads_change_no_bit(record, set_threads):
    for shape, axis in ((300, 500), 0), ((300, 500), 1):
        r, found = record(shape, axis), []
        for threads in (1, 2):
            set_threads(threads)
            found.append(call("gae", r)[0])
        assert_same_bits(*found)


@pytest.mark.exhaustive
def test_nothing_larger_than_the_result_is_allocated(record):
    import tracemalloc

    for masked in (False, True):
        r = record((500, 64), dtype=np.float32, masked=masked)
        for kind in KINDS:
            call(kind, r)
            tracemalloc.start()
            results = call(kind, r)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < (2 if kind != "vtrace" else 2.5) * sum(v.nbytes for v in results)


@pytest.mark.exhaustive
def test_without_episodes_they_are_one_another(record):
    """The textbook's identities."""
    r = record((30, 4)) | {"ends": False, "cuts": None}
    steps = r["values"][:-1]
    np.testing.assert_allclose(call("targets", r)[0], call("gae", r)[0] + steps, rtol=1e-12, atol=1e-12)
    monte_carlo = returns.discounted_returns(r["rewards"], r["gamma"], bootstrap=r["values"][-1])
    np.testing.assert_allclose(call("targets", r, lam=1.0)[0], monte_carlo, rtol=1e-12, atol=1e-12)
    on_policy, _ = returns.vtrace(np.zeros((30, 4)), r["rewards"], r["values"], r["gamma"], False, lam=r["lam"])
    np.testing.assert_allclose(on_policy, call("targets", r)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.exhaustive
def test_the_package_has_it_without_its_own_import(run_python):
    run_python("import fastrecur\nfastrecur.returns.discounted_returns([1.0], 0.5)")
