"""Worked numbers, made by hand or by others' libraries, and the promises that no library gives."""

import datetime

import numpy as np
import pytest
import torch
from scipy import signal

from fastrecur.smoothing import ewm_corr, ewm_cov, ewm_filtfilt, ewm_mean, ewm_std, ewm_sum, ewm_var, kama, pcen

N = np.nan
X5 = [1.0, 2, 3, 4, 5]

MEANS = [
    ([1, 2, 3, 4], {}, [1, 1.6666667, 2.4285714, 3.2666667]),
    ([1, 2, 3, 4], {"adjust": False}, [1, 1.5, 2.25, 3.125]),
    ([1, N, 3, N, N, 2], {}, [1, 1, 2.6, 2.6, 2.6, 2.0810811]),
    ([1, N, 3, N, N, 2], {"ignore_na": True}, [1, 1, 2.3333333, 2.3333333, 2.3333333, 2.1428571]),
    ([1, N, 3, N, N, 2], {"adjust": False, "ignore_na": True}, [1, 1, 2, 2, 2, 2]),
    # Not pandas' 2.5, which it gives for this alpha alone.
    ([1, N, 3], {"adjust": False}, [1, 1, 2.3333333]),
    ([N, np.inf, 1, -np.inf, 3], {}, [N, N, 1, 1, 2.6]),
    ([1, 2, 3], {"min_periods": 2}, [N, 1.6666667, 2.4285714]),
    ([1, N, 2], {"min_periods": 2}, [N, N, 1.8]),
]

# TA-Lib 0.8.2: KAMA([10, 11, 12, 11.5, 12.5, 13, 12, 12, 12, 12, 12, 12.5], timeperiod=3)
KAMA = [
    N,
    N,
    N,
    11.909344432882413,
    12.016436863698821,
    12.147897030835388,
    12.14283819656526,
    12.132789739269088,
    12.073772077371716,
    12.040984487428732,
    12.022769159682628,
    12.234871755379238,
]
# librosa 0.11.0: pcen([[0, 1, 100, 1, 0.5], [2, 2, 2, 2, 2]], sr=8000, hop_length=100), and of the second row with
# b=0.3 and power=0, and with bias=0.
PCEN = [
    [0.0, 0.32650772624456903, 3.8390660255155953, 0.08974834958188452, 0.04677579567800243],
    [0.5711025010577425, 0.5575801648326743, 0.5450912811729717, 0.5335263403133444, 0.5227908450627645],
]
PCEN_LOG = [0.9347412047521184, 0.8482107448254567, 0.7971704601107238, 0.7651645131525259, 0.7443357593405516]
PCEN_POWER = [1.2436053780412952, 1.1556229357231995, 1.104197705319465, 1.072076462560839, 1.0512101195895425]


@pytest.mark.parametrize(("x", "options", "expected"), MEANS)
def test_means(x, options, expected):
    np.testing.assert_allclose(ewm_mean(x, alpha=0.5, **options), expected, rtol=1e-7)


def test_times():
    times = np.array([0, 1, 3, 3, 10])
    expected = [1, 1.6666667, 2.6363636, 3.2105263, 4.9674017]
    given = [
        (times.astype("M8[s]"), np.timedelta64(1, "s")),
        (times.astype("M8[s]").astype("M8[ns]"), np.timedelta64(1000, "ms")),
        (times.astype("M8[s]"), datetime.timedelta(seconds=1)),
        (times, 1.0),
        (times * 0.5, 0.5),
    ]
    for when, halflife in given:
        result = ewm_mean([1, 2, 3, 4, 5], halflife=halflife, times=when)
        np.testing.assert_allclose(result, expected, rtol=1e-7)


def test_times_as_python_s_and_pandas_dates():
    pd = pytest.importorskip("pandas")
    times = [datetime.datetime(2024, 1, 1, h) for h in (0, 1, 3, 3, 10)]
    expected = ewm_mean(X5, halflife=1.0, times=[0.0, 1, 3, 3, 10])
    zones = datetime.timezone.utc, datetime.timezone(datetime.timedelta(hours=3))
    for given in [
        times,
        tuple(times),
        [pd.Timestamp(t) for t in times],
        [pd.Timestamp(t, tz="UTC") for t in times],
        [t.replace(tzinfo=zones[0]).astimezone(zones[k % 2]) for k, t in enumerate(times)],
    ]:
        np.testing.assert_allclose(ewm_mean(X5, halflife=datetime.timedelta(hours=1), times=given), expected)
    days = [datetime.date(2024, 1, 1 + d) for d in (0, 1, 3, 3, 10)]
    np.testing.assert_allclose(ewm_mean(X5, halflife=datetime.timedelta(1), times=days), expected)
    near = [pd.Timestamp("2024-01-01") + pd.Timedelta(k, "ns") for k in range(5)]
    expected = ewm_mean(X5, alpha=0.5)
    np.testing.assert_allclose(ewm_mean(X5, halflife=np.timedelta64(1, "ns"), times=near), expected)
    with pytest.raises(ValueError, match="`times` must all have a time zone, or none"):
        ewm_mean(X5, halflife=datetime.timedelta(1), times=[*times[:4], times[4].replace(tzinfo=zones[0])])
    with pytest.raises(ValueError, match="NaT"):
        ewm_mean(X5, halflife=datetime.timedelta(1), times=[*times[:4], pd.NaT])


def test_nanoseconds_far_from_1970_are_not_rounded():
    times = np.array([10**18, 10**18 + 1, 10**18 + 2]).view("M8[ns]")
    result = ewm_mean([1.0, 2.0, 3.0], halflife=np.timedelta64(1, "ns"), times=times)
    np.testing.assert_allclose(result, ewm_mean([1.0, 2.0, 3.0], alpha=0.5), rtol=1e-14)


@pytest.mark.parametrize("ignore_na", [False, True])
def test_equal_times_add_nothing_without_adjust(ignore_na):
    x, times = [1.0, 5.0, N, 3.0], [0.0, 0.0, 1.0, 2.0]
    result = ewm_mean(x, halflife=1.0, times=times, adjust=False, ignore_na=ignore_na)
    left = 0.5 if ignore_na else 0.25
    np.testing.assert_allclose(result, [1, 1, 1, left + (1 - left) * 3], rtol=1e-14)


def test_alpha_beside_times_is_for_one_half_life():
    x, times = [1.0, 2.0, 4.0], [0.0, 2.0, 3.0]
    decays = 0.7 ** (np.array([2.0, 1.0]) / 2.0)
    w = [decays[0] * decays[1], decays[1], 1.0]
    result = ewm_mean(x, alpha=0.3, halflife=2.0, times=times)
    np.testing.assert_allclose(result[2], np.dot(w, x) / np.sum(w), rtol=1e-14)
    fixed = ewm_mean(x, alpha=0.3, halflife=2.0, times=times, adjust=False)
    np.testing.assert_allclose(fixed[1], decays[0] + 2 * (1 - decays[0]), rtol=1e-14)


def test_factors_beside_times():
    x, times = np.array([[1.0, 2.0], [2.0, 5.0], [4.0, 3.0]]), [0.0, 2.0, 3.0]
    for alpha in (np.array([0.3, 0.6]), np.array([0.3, 0.6], np.float32), torch.tensor([0.3, 0.6], requires_grad=True)):
        data = torch.tensor(x) if isinstance(alpha, torch.Tensor) else x
        result = ewm_mean(data, alpha=alpha, halflife=2.0, times=times)
        lanes = [ewm_mean(x[:, k], alpha=alpha.tolist()[k], halflife=2.0, times=times) for k in range(2)]
        result = result.detach().numpy() if isinstance(alpha, torch.Tensor) else result
        np.testing.assert_allclose(result, np.stack(lanes, 1), rtol=1e-14)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.uint64])
def test_times_of_few_bits_are_far_apart(kind):
    ends = np.array([np.iinfo(kind).min, np.iinfo(kind).max // 2 + 10], kind)
    result = ewm_mean([1.0, 2.0], halflife=float(ends[1]), times=ends)
    weight = 0.5 ** ((float(ends[1]) - float(ends[0])) / float(ends[1]))
    np.testing.assert_allclose(result[1], (weight + 2) / (weight + 1), rtol=1e-12)


def test_sums():
    np.testing.assert_allclose(ewm_sum([4, N, N], alpha=0.5), [4, 2, 1])
    np.testing.assert_allclose(ewm_sum([4, N, N], alpha=0.5, ignore_na=True), [4, 4, 4])
    np.testing.assert_allclose(ewm_sum([N, 4, 2], alpha=0.5, min_periods=2), [N, N, 4])
    np.testing.assert_allclose(ewm_sum([4.0, 1.0], halflife=1.0, times=[0.0, 2.0]), [4, 2])


def test_variances():
    x = np.array([1.0, 2, 4, 8])
    expected = [N, 0.5, 2.5, 11.0714286]
    np.testing.assert_allclose(ewm_var(x, alpha=0.5), expected, rtol=1e-7)
    # numbagg's difference of two sums gives -4.5 here.
    for offset in [1e8, -1e12, 2.0**52]:
        np.testing.assert_allclose(ewm_var(offset + x, alpha=0.5), expected, rtol=1e-7)
        np.testing.assert_allclose(ewm_cov(offset + x, -x, alpha=0.5), -np.array(expected), rtol=1e-7)
    np.testing.assert_allclose(ewm_std(x, alpha=0.5) ** 2, expected, rtol=1e-7)
    np.testing.assert_array_equal(ewm_var([5.0, N, N], alpha=0.3), [N, N, N])
    np.testing.assert_array_equal(ewm_var([5.0, 5.0, 5.0], alpha=0.3), [N, 0, 0])
    np.testing.assert_allclose(ewm_corr(x, [1.0, 0, 3, 1], alpha=0.5)[1:], [-1, 0.8819171, -0.1494406], rtol=1e-6)


def test_the_divisor_survives_a_long_gap():
    x = np.full(103, N)
    x[[0, 101, 102]] = 1.0, 3.0, 3.0
    # The old sample weighs 2**-101 beside the new one: the unbiased variance is half the squared distance.
    np.testing.assert_allclose(ewm_var(x, alpha=0.5)[101], 2.0, rtol=1e-12)


def longdouble_variance(x, alpha):
    x, out = x.astype(np.longdouble), []
    for t in range(len(x)):
        w = (1 - np.longdouble(alpha)) ** np.arange(t, -1, -1)
        w /= w.sum()
        mean = (w * x[: t + 1]).sum()
        spread = (w * (x[: t + 1] - mean) ** 2).sum()
        out.append(spread / (1 - (w**2).sum()) if t else N)
    return np.array(out, np.float64)


@pytest.mark.parametrize("alpha", [0.9, 0.1, 1e-3])
@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_variance_against_longdouble(rng, alpha, offset):
    x = rng.standard_normal(300) + offset
    np.testing.assert_allclose(ewm_var(x, alpha=alpha), longdouble_variance(x, alpha), rtol=1e-10)


def test_a_constant_series_stays_constant():
    for x in [np.full(5000, 0.1), np.full((40, 3), 1e17 + 32)]:
        for adjust in [True, False]:
            np.testing.assert_array_equal(ewm_mean(x, alpha=0.3, adjust=adjust), x)
            assert np.nanmax(ewm_var(x, alpha=0.3, adjust=adjust)) == 0


def test_differences_do_not_overflow():
    x = np.array([1.6e308, -1.6e308, 1.0])
    expected = [1.6e308, -2.823529411764707e307, -1.534246575342466e307]
    np.testing.assert_allclose(ewm_mean(x, alpha=0.3), expected, rtol=1e-12)
    long = np.tile(x, 2000)
    lanes = ewm_mean(np.stack([long] * 8, 1), alpha=0.3)[:, 0]
    np.testing.assert_allclose(ewm_mean(long, alpha=0.3), lanes, rtol=1e-9)
    assert np.isfinite(lanes).all()


def test_alpha_of_one_gives_the_last_sample():
    np.testing.assert_array_equal(ewm_mean([1e17, N, 1.0, N], alpha=1.0), [1e17, 1e17, 1, 1])


def test_gates_of_samples():
    x, alpha = np.array([1.0, 2.0, N, 4.0]), np.array([0.3, 0.5, 0.2, 0.9])
    # The weight before the last step has decayed by both gates since the last sample.
    before = 0.8 * (1 - 0.9)
    last = (before * 1.5 + 0.9 * 4) / (before + 0.9)
    np.testing.assert_allclose(ewm_mean(x, alpha=alpha, adjust=False), [1, 1.5, 1.5, last], rtol=1e-14)
    w = [0.5 * 0.8 * 0.1, 0.8 * 0.1, 1]
    np.testing.assert_allclose(ewm_mean(x, alpha=alpha)[3], np.dot(w, [1, 2, 4]) / np.sum(w), rtol=1e-14)


def test_gates_broadcast():
    x = np.arange(12.0).reshape(4, 3)
    lanes = ewm_mean(x, alpha=np.array([0.1, 0.5, 1.0]))
    for k, alpha in enumerate([0.1, 0.5, 1.0]):
        np.testing.assert_allclose(lanes[:, k], ewm_mean(x[:, k], alpha=alpha), rtol=1e-14)
    steps = np.array([0.2, 0.4, 0.6, 0.8])
    np.testing.assert_allclose(
        ewm_mean(x, alpha=steps[:, np.newaxis])[:, 1], ewm_mean(x[:, 1], alpha=steps), rtol=1e-14
    )
    assert ewm_mean(x[:, :1], alpha=np.array([0.1, 0.5])).shape == (4, 2)
    assert ewm_mean(np.float32(x), alpha=np.full(3, 0.5, np.float32)).dtype == np.float32


def test_kama():
    x = np.array([10.0, 11, 12, 11.5, 12.5, 13, 12, 12, 12, 12, 12, 12.5])
    assert np.isnan(kama(x, 3)[:3]).all()
    assert kama(x, 12).shape == x.shape
    assert np.isnan(kama(x, 12)).all()
    np.testing.assert_allclose(kama(x, 3), KAMA, rtol=1e-12)
    np.testing.assert_allclose(kama(np.stack([x, -x]), 3, axis=1), [KAMA, -np.array(KAMA)], rtol=1e-12)
    assert kama(np.float32(x), 3).dtype == np.float32


def test_pcen():
    S = np.array([[0.0, 1, 100, 1, 0.5], [2, 2, 2, 2, 2]])
    np.testing.assert_allclose(pcen(S, sr=8000, hop_length=100), PCEN, rtol=1e-10)
    np.testing.assert_allclose(pcen(S[1:], b=0.3, power=0)[0], PCEN_LOG, rtol=1e-10)
    np.testing.assert_allclose(pcen(S[1:], b=0.3, bias=0)[0], PCEN_POWER, rtol=1e-10)
    np.testing.assert_allclose(pcen(S.T, sr=8000, hop_length=100, axis=0).T, PCEN, rtol=1e-10)


def test_filtfilt(rng):
    x = rng.standard_normal((30, 7))
    for axis in [0, 1, -1]:
        expected = signal.filtfilt([0.2], [1, -0.8], x, axis=axis, padlen=0)
        np.testing.assert_allclose(ewm_filtfilt(x, alpha=0.2, axis=axis), expected, rtol=1e-11, atol=1e-13)
    assert ewm_filtfilt(np.float32(x), span=5).dtype == np.float32
    assert ewm_filtfilt(np.empty((0, 3)), span=5).shape == (0, 3)
