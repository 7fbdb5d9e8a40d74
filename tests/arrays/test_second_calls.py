"""Every function by its second and fourth call: with the same arrays, others, and whatever may come in between."""

import numpy as np
import pytest
from repeated import check_again, numbers, same

import fastrecur
from fastrecur import filters, returns, smoothing

STEPS = 1100  # as many as kernels read offsets of, and states of which are too many for the stack
FORGET, LINEAR = fastrecur.forget_mult, fastrecur.linear_recurrence
FORGET_VJP, LINEAR_VJP = fastrecur.forget_mult_vjp, fastrecur.linear_recurrence_vjp


def arrays_of(*makers):
    """Return a function from a number to arrays of its values."""

    def make(number):
        rng = np.random.default_rng(number)
        return [one(rng) for one in makers]

    return make


def uniform(*shape, dtype=np.float64):
    return lambda rng: rng.random(shape).astype(dtype)


def borders(steps, count):
    """Offsets of so many segments, some of them empty perhaps."""
    return lambda rng: np.concatenate([[0], np.sort(rng.integers(0, steps + 1, count - 1)), [steps]])


def flags(*shape):
    return lambda rng: rng.random(shape) < 0.1


def fill(operands, others):
    for own, other in zip(operands, others, strict=True):
        own[...] = other


def with_out(call):
    """Return a call whose results are written to memory of its own, which nobody keeps."""
    return lambda f, x, *borders: call(f, x, *borders, np.full_like(x, np.nan))


SHORT = {
    "one after the other": lambda f, x, o, r: FORGET(f, x),
    "with its state": lambda f, x, o, r: FORGET(f, x, return_state=True),
    "reverse": lambda f, x, o, r: FORGET(f, x, reverse=True),
    "the last axis": lambda f, x, o, r: FORGET(f, x, axis=1),
    "linear": lambda f, x, o, r: LINEAR(f, x),
    "of a number": lambda f, x, o, r: FORGET(0.25, x),
    "of another number": lambda f, x, o, r: FORGET(0.75, x),
    "transposed": lambda f, x, o, r: FORGET(f.T, x.T, axis=1),
    "with out": with_out(lambda f, x, o, r, out: FORGET(f, x, out=out)),
    "with a first state": lambda f, x, o, r: FORGET(f, x, f[0]),
    "with a number as its first state": lambda f, x, o, r: FORGET(f, x, 0.5, resets=r, return_state=True),
    "with another number": lambda f, x, o, r: FORGET(f, x, 1.5, resets=r, return_state=True),
    "offsets with first states": lambda f, x, o, r: FORGET(f, x, f[: len(o) - 1], offsets=o, return_state=True),
    "offsets with one first state": lambda f, x, o, r: FORGET(f, x, f[0], offsets=o[[0, 2, -1]], return_state=True),
    "float64": lambda f, x, o, r: FORGET(f.astype("f8"), x.astype("f8")),
    "mixed": lambda f, x, o, r: FORGET(f.astype("f8"), x),
    "lengths": lambda f, x, o, r: FORGET(f, x, lengths=np.arange(x.shape[1]) % len(x)),
    "offsets": lambda f, x, o, r: FORGET(f, x, offsets=o, return_state=True),
    "offsets in reverse": lambda f, x, o, r: FORGET(f, x, offsets=o, reverse=True),
    "offsets of a number": lambda f, x, o, r: LINEAR(0.5, x, offsets=o),
    "resets": lambda f, x, o, r: FORGET(f, x, resets=r),
    "resets in reverse": lambda f, x, o, r: FORGET(f, x, resets=r, reverse=True, return_state=True),
    "resets of each series": lambda f, x, o, r: FORGET(f, x, resets=x > 0.8),
    "resets in reverse along the last axis": lambda f, x, o, r: FORGET(
        f, x, resets=x > 0.8, axis=1, reverse=True, return_state=True
    ),
    "both": lambda f, x, o, r: FORGET(f, x, offsets=o, resets=r),
    "out and offsets": with_out(lambda f, x, o, r, out: FORGET(f, x, offsets=o, out=out)),
    "gradients": lambda f, x, o, r: FORGET_VJP(x, f, x, f),
    "gradients in reverse": lambda f, x, o, r: FORGET_VJP(x, f, x, f, reverse=True),
    "gradients of a number": lambda f, x, o, r: LINEAR_VJP(x, 0.5, x, f),
    "gradients of a row": lambda f, x, o, r: LINEAR_VJP(x, f[:1], x, f),
    "gradients, offsets": lambda f, x, o, r: FORGET_VJP(x, f, x, f, offsets=o),
    "gradients, a first state": lambda f, x, o, r: FORGET_VJP(x, f, x, f, x[0]),
    "gradients, offsets with first states": lambda f, x, o, r: FORGET_VJP(x, f, x, f, x[: len(o) - 1], offsets=o),
    "gradients, resets": lambda f, x, o, r: FORGET_VJP(x, f, x, f, resets=r, reverse=True),
}  # fmt: skip


def short(shape):
    """Of float32, as the tests of segments: they share kernels."""
    values = uniform(*shape, dtype=np.float32)
    return arrays_of(values, values, borders(shape[0], 5), flags(shape[0]))


def some(ways, *names):
    return {name: ways[name] for name in names}


SETS = [list(SHORT)[k : k + 7] for k in range(0, len(SHORT), 7)]


@pytest.mark.sample(shape=[(40, 5)])
@pytest.mark.parametrize("names", SETS, ids=lambda names: names[0])
@pytest.mark.parametrize("shape", [(STEPS, 3), (40, 5)], ids=str)
def test_recurrences(names, shape):
    """Short problems, which are remembered down to the kernel's arguments."""
    check_again(some(SHORT, *names), short(shape), fill)


@pytest.mark.exhaustive
@pytest.mark.parametrize("shape", [(70_000,), (300, 2000)], ids=str)
def test_larger_recurrences(shape):
    """Problems that are shared among threads, and results of memory that is used again."""
    ways = (
        "one after the other",
        "reverse",
        "offsets",
        "resets in reverse",
        "gradients",
        "gradients, offsets",
        "with out",
    )
    check_again(some(SHORT, *ways), short(shape), fill)


def test_first_states_are_those_of_all_segments():
    x, h0 = np.ones(40), np.ones(3)
    for _ in range(3):
        FORGET(0.5, x, h0, offsets=np.array([0, 10, 20, 40]))
    with pytest.raises(ValueError, match=r"`h0` must have the shape .*, \(2,\), or broadcast to it, got \(3,\)"):
        FORGET(0.5, x, h0, offsets=np.array([0, 10, 40]))


SMOOTHED = {
    "mean": lambda x, a, t, k: smoothing.ewm_mean(x, alpha=0.3),
    "mean of others": lambda x, a, t, k: smoothing.ewm_mean(x, alpha=0.6),
    "mean by another constant": lambda x, a, t, k: smoothing.ewm_mean(x, com=0.3),
    "mean, adjust=False": lambda x, a, t, k: smoothing.ewm_mean(x, alpha=0.3, adjust=False),
    "mean, ignore_na": lambda x, a, t, k: smoothing.ewm_mean(np.where(x < 0.1, np.nan, x), alpha=0.3, ignore_na=True),
    "mean, min_periods": lambda x, a, t, k: smoothing.ewm_mean(x, alpha=0.3, min_periods=4),
    "mean along the last axis": lambda x, a, t, k: smoothing.ewm_mean(x, alpha=0.3, axis=-1),
    "mean of float32": lambda x, a, t, k: smoothing.ewm_mean(x.astype("f4"), alpha=0.3),
    "mean of strided": lambda x, a, t, k: smoothing.ewm_mean(x[::2], alpha=0.3),
    "an alpha for each step": lambda x, a, t, k: smoothing.ewm_mean(x, alpha=a),
    "times": lambda x, a, t, k: smoothing.ewm_mean(x, halflife=2.0, times=np.cumsum(t)),
    "groups": lambda x, a, t, k: smoothing.ewm_mean(x, alpha=0.3, groups=k),
    "resets": lambda x, a, t, k: smoothing.ewm_mean(x, alpha=0.3, resets=k == 0),
    "sum": lambda x, a, t, k: smoothing.ewm_sum(x, alpha=0.3),
    "variance": lambda x, a, t, k: smoothing.ewm_var(x, alpha=0.3),
    "variance, bias": lambda x, a, t, k: smoothing.ewm_var(x, alpha=0.3, bias=True),
    "deviation": lambda x, a, t, k: smoothing.ewm_std(x, alpha=0.3),
    "covariance": lambda x, a, t, k: smoothing.ewm_cov(x, x[::-1], alpha=0.3),
    "correlation": lambda x, a, t, k: smoothing.ewm_corr(x, x[::-1], alpha=0.3),
    "both ways": lambda x, a, t, k: smoothing.ewm_filtfilt(x, alpha=0.3),
    "kama": lambda x, a, t, k: smoothing.kama(x),
    "pcen": lambda x, a, t, k: smoothing.pcen(x, axis=0),
    "a stream": lambda x, a, t, k: in_chunks(smoothing.Ewm(alpha=0.3), x),
    "a stream with times": lambda x, a, t, k: in_chunks(smoothing.Ewm(halflife=2.0), x, np.cumsum(t)),
}


def in_chunks(stream, x, times=None):
    parts = [slice(0, 7), slice(7, 7), slice(7, 20), slice(20, None)]
    results = [stream.update(x[part], None if times is None else times[part]) for part in parts]
    return [*results, stream.state.mean, stream.state.weight]


@pytest.mark.sample(shape=[(40,)], first=[0, 18])
@pytest.mark.parametrize("first", range(0, len(SMOOTHED), 6))
@pytest.mark.parametrize("shape", [(40,), (300, 3)], ids=str)
def test_smoothing(first, shape):
    keys = lambda rng: rng.integers(0, 4, shape[0])  # noqa: E731
    operands = uniform(*shape), lambda rng: 0.1 + 0.8 * rng.random(shape), uniform(shape[0]), keys
    check_again(some(SMOOTHED, *list(SMOOTHED)[first : first + 6]), arrays_of(*operands), fill)


@pytest.mark.exhaustive
@pytest.mark.parametrize("steps", [1000, 17_000, 70_000])
def test_smoothing_of_one_series(steps):
    """Series that are cut into chunks, or taken for a plain recurrence."""
    ways = "mean", "mean, adjust=False", "mean, ignore_na", "variance", "mean of strided"
    operands = uniform(steps), uniform(steps), uniform(steps), lambda rng: rng.integers(0, 4, steps)
    check_again(some(SMOOTHED, *ways), arrays_of(*operands), fill)


RETURNS = {
    "discounted": lambda r, v, e, w: returns.discounted_returns(r, 0.9),
    "discounted, done": lambda r, v, e, w: returns.discounted_returns(r, 0.9, e),
    "gae": lambda r, v, e, w: returns.gae(r, v, 0.9, 0.95, e),
    "gae of others": lambda r, v, e, w: returns.gae(r, v, 0.8, 0.5, e),
    "gae, next values": lambda r, v, e, w: returns.gae(r, v[:-1], 0.9, 0.95, e, next_values=v[1:]),
    "lambda": lambda r, v, e, w: returns.lambda_returns(r, v, 0.9, 0.95, e),
    "vtrace": lambda r, v, e, w: returns.vtrace(w, r, v, 0.9, e),
    "masked": lambda r, v, e, w: returns.gae(r, v, 0.9, 0.95, e, mask=r > 0.2),
}


@pytest.mark.sample(shape=[(30,)])
@pytest.mark.parametrize("shape", [(30,), (50, 8)], ids=str)
def test_returns(shape):
    after = (shape[0] + 1, *shape[1:])
    check_again(RETURNS, arrays_of(uniform(*shape), uniform(*after), flags(*shape), uniform(*shape)), fill)


def test_returns_of_axes_that_are_walked_one_by_one():
    """Several calls of a kernel, which are given numbers as arrays."""
    rng = np.random.default_rng(0)
    r, v = (rng.random((steps, 8, 6))[:, ::2, ::2] for steps in (9, 10))
    done, wanted = r > 0.8, returns.gae(r.copy(), v.copy(), 0.9, 0.5, r > 0.8)
    for _ in range(4):
        np.testing.assert_allclose(returns.gae(r, v, 0.9, 0.5, done), wanted, rtol=1e-12, atol=0)
    with pytest.raises(TypeError, match="`terminated` must be"):
        returns.gae(r, v, 0.9, 0.5, None)


SOS = np.array([[0.5, 0.3, -0.2, 1, -0.6, 0.2]])
FILTERED = {
    "sections": lambda x, a, z: filters.sosfilt(SOS, x, 0, return_state=True),
    "other sections, and states": lambda x, a, z: filters.sosfilt([[1, 0, 0, 1, -z[0, 0, 0] / 2, 0]], x, 0, z),
    "in reverse": lambda x, a, z: filters.sosfilt(SOS, x, 0, reverse=True),
    "gradients": lambda x, a, z: filters.sosfilt_vjp(x, SOS, x, x, z, axis=0),
    "poles that vary": lambda x, a, z: filters.allpole(a, x, 0, z[0]),
    "gradients of poles": lambda x, a, z: filters.allpole_vjp(x, a, x, x, axis=0),
}
SCANNED = {
    "scan": lambda u, B: fastrecur.selective_scan(u, u, -np.ones((20, 4), "f4"), B, B, layout="bld"),
    "gradients": lambda u, B: fastrecur.selective_scan_vjp(u, u, u, -np.ones((20, 4), "f4"), B, B, layout="bld"),
}


FOLLOWED = {
    "sections": lambda x: filters.sosfilt(SOS, x, 0),
    "sections and states": lambda x: filters.sosfilt(SOS, x, 0, x[None, :2], return_state=True),
    "an envelope": lambda x: filters.follow(x, 0.5, 0.25, 0),
    "by other gates": lambda x: filters.follow(x, 0.75, 0.125, 0, return_state=True),
    "by gates of series": lambda x: filters.follow(x, x[:1], 0.125, 0, return_state=True),
    "of strided": lambda x: filters.follow(x[::-2, ::2], 0.5, 0.25, 0, return_state=True),
    "along the last axis": lambda x: filters.follow(x.T, 0.5, 0.25, return_state=True),
    "a level": lambda x: smoothing.holt(x, 0.5, 0.25),
    "by other factors": lambda x: smoothing.holt(x, 0.25, 1, phi=0.5),
    "a level of a missing value": lambda x: smoothing.holt(np.where(np.arange(40)[:, None] == 1, np.nan, x), 0.5, 0.25),
    "a level of strided": lambda x: smoothing.holt(x[::-2, ::2], 0.5, 0.25),
    "a level from a state": lambda x: smoothing.holt(x, 0.5, 0.25, level=x[0], trend=0.0),
}


def test_filters_by_numbers():
    check_again(FOLLOWED, arrays_of(uniform(40, 5)), fill)


@pytest.mark.parametrize(
    ("call", "wrong", "text"),
    [
        (lambda x, v: filters.follow(x, v, 0.5), "0.5", "`attack` must be an array"),
        (lambda x, v: filters.follow(x, v, 0.5), 0.5j, "`attack` must be real"),
        (lambda x, v: filters.follow(x, 0.5, 0.5, v), False, "`axis` must be an integer"),
        (lambda x, v: filters.follow(x, 0.5, 0.5, v), 3.0, "`axis` must be an integer"),
        (lambda x, v: filters.follow(x, 0.5, 0.5, v), 3, "`axis` must be in"),
        (lambda x, v: filters.follow(x, 0.5, 0.5, return_state=v), 1, "`return_state` must be"),
        (lambda x, v: smoothing.holt(x, v, 0.5), 1.5, "`alpha` must satisfy: 0 <= alpha <= 1"),
        (lambda x, v: smoothing.holt(x, 0.5, v), np.nan, "`beta` must satisfy: 0 <= beta <= 1"),
        (lambda x, v: smoothing.holt(x, 0.5, 0.5, axis=v), False, "`axis` must be an integer"),
        (lambda x, v: returns.gae(x, v, 0.9, 0.9, x > 2), np.ones(9), "`values` must have 21 steps"),
        (lambda x, v: returns.gae(x, np.ones(21), v, 0.9, x > 2), 1j, "`gamma` must"),
        (lambda x, v: returns.gae(x, np.ones(21), 0.9, 0.9, v), None, "`terminated` must"),
        (lambda x, v: returns.gae(x, np.ones(21), 0.9, 0.9, v), np.full(20, 2.0), "`terminated` must be from 0 to 1"),
        (lambda x, v: returns.gae(x, np.ones(21), 0.9, 0.9, x > 2, mask=v), np.ones(20), "`mask` must"),
        (lambda x, v: returns.vtrace(x, x, np.ones(21), 0.9, x > 2, c_clip=v), -1.0, "`c_clip` must satisfy"),
        (lambda x, v: returns.vtrace(x, x, np.ones(21), 0.9, x > 2, c_clip=v), True, "`c_clip` must be"),
        (lambda x, v: returns.discounted_returns(x, 0.9, axis=v), False, "`axis` must be an integer"),
    ],
)
def test_what_is_wrong_is_seen_after_calls_of_the_same_kind(call, wrong, text):
    right = {"`axis": 0, "`return_state": True, "`values": np.ones(21), "`terminated": np.ones(20, bool)}
    right |= {"`mask": np.ones(20, bool), "`c_clip": 1.0}
    x, value = np.linspace(0, 1, 20), right.get(text.partition("` ")[0], 0.5)
    for _ in range(3):
        call(x, value)
        with pytest.raises((ValueError, TypeError), match=text):
            call(x, wrong)


def test_kinds_of_signals_by_numbers():
    """Each of them several times, beside what is looked at anew."""
    x, half, rng = np.linspace(0, 9, 40), np.array(0.5), np.random.default_rng(0)
    frozen = rng.random(40)
    frozen.setflags(write=False)
    signals = *(x.astype(dtype) for dtype in ("f8", "f4", "f2", ">f8", "i8")), frozen, x[::-1], x[:1], x[:0]
    for _ in range(3):
        for signal in signals:
            found = filters.follow(signal, 0.5, 0.25, return_state=True), smoothing.holt(signal, 0.5, 0.25)
            wanted = filters.follow(signal, half, 0.25, return_state=True), smoothing.holt(signal, half, 0.25)
            for one, other in zip(numbers(found), numbers(wanted), strict=True):
                assert same(one, other) and one.strides == other.strides
            for result in (*found[0], *found[1]):
                assert result.flags.writeable and not np.shares_memory(result, signal)


@pytest.mark.exhaustive
def test_filters_and_selective_scans():
    check_again(FILTERED, arrays_of(uniform(40, 3), uniform(40, 3, 2), uniform(1, 2, 3)), fill)
    check_again(SCANNED, arrays_of(uniform(1, 9, 20, dtype=np.float32), uniform(1, 9, 4, dtype=np.float32)), fill)


@pytest.mark.exhaustive
def test_in_memory_that_was_given_back(run_python):
    """In a process whose freed memory is overwritten at once, by the C library."""
    run_python(
        """
import test_second_calls as tests
tests.test_recurrences(list(tests.SHORT)[13:24], (tests.STEPS, 3))
tests.test_smoothing(0, (40,))
tests.test_returns((50, 8))
tests.test_filters_by_numbers()
""",
        MALLOC_PERTURB_="165",
    )


@pytest.mark.parametrize("steps", [50, 3000])
def test_out_where_borders_stand(steps):
    """It is refused before anything is written, at every call."""
    rng = np.random.default_rng(0)
    x, memory = rng.random(steps), np.zeros(steps + 3)
    offsets = memory.view(np.int64)[1:6]
    flags = memory.view(bool)[8 : 8 + steps]
    for given, values in (({"offsets": offsets}, [0, 3, 20, 20, steps]), ({"resets": flags}, rng.random(steps) < 0.1)):
        (border,) = given.values()
        for _ in range(4):
            memory[:] = 0
            border[...] = values
            before = memory.copy()
            for out in (memory[1 : 1 + steps], memory[:steps]):
                for options in ({}, {"return_state": True}, {"reverse": True}):
                    with pytest.raises(ValueError, match="`out` must share no memory with `(offsets|resets)`"):
                        FORGET(0.5, x, out=out, **given, **options)
            assert memory.tobytes() == before.tobytes()
    whole = memory[:steps].view(np.int64)  # of as many elements
    whole[:] = 0
    whole[-1] = steps
    with pytest.raises(ValueError, match="`out` must share no memory with `offsets`"):
        FORGET(0.5, x, out=memory[:steps], offsets=whole)
