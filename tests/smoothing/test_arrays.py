"""Libraries and dtypes; what is asked and what it costs nobody else."""

import array_api_strict
import numpy as np
import pytest
import torch

import fastrecur
from fastrecur._cpu.machine import threads
from fastrecur.smoothing import ewm_corr, ewm_cov, ewm_filtfilt, ewm_mean, ewm_std, ewm_sum, ewm_var, kama, pcen

STATISTICS = [ewm_mean, ewm_sum, ewm_var, ewm_std]


def with_gaps(rng, shape):
    x = rng.standard_normal(shape) + 2
    x[rng.random(shape) < 0.2] = np.nan
    return x


def test_whole_numbers_lists_and_scalars():
    for x in [[1, 2, 4], np.array([1, 2, 4], np.int8), np.array([True, False, True]), (1, 2, 4)]:
        result = ewm_mean(x, alpha=0.5)
        assert result.dtype == np.float64
        np.testing.assert_array_equal(result, ewm_mean(np.asarray(x, float), alpha=0.5))
    assert ewm_mean(torch.tensor([1, 2]), alpha=0.5).dtype == torch.float32


def grid():
    for adjust in [True, False]:
        for ignore_na in [True, False]:
            yield {"alpha": 0.3, "adjust": adjust, "ignore_na": ignore_na, "min_periods": 2}
        yield {"halflife": 1.5, "adjust": adjust, "times": np.array([0.0, 1, 1, 2, 5, 6, 7, 9, 9.5, 10, 12, 20])}


@pytest.mark.exhaustive
def test_formulas_are_the_kernels(rng):
    """What other libraries' arrays take is what NumPy's take."""
    x, y = with_gaps(rng, (12, 5)), with_gaps(rng, (12, 5))
    alpha = rng.uniform(0.1, 0.9, (12, 5))
    for convert, back in [
        (array_api_strict.asarray, np.from_dlpack),
        (lambda v: torch.tensor(v, requires_grad=True), lambda v: v.detach().numpy()),
    ]:
        for options in [*grid(), {"alpha": alpha}, {"alpha": alpha, "adjust": False}]:
            given = {**options}
            if isinstance(given.get("alpha"), np.ndarray):
                given["alpha"] = convert(alpha)
            for statistic in STATISTICS:
                if statistic is ewm_sum and not options.get("adjust", True):
                    continue
                actual = back(statistic(convert(x), **given))
                np.testing.assert_allclose(actual, statistic(x, **options), rtol=1e-10, atol=1e-13)
            for statistic in [ewm_cov, ewm_corr]:
                actual = back(statistic(convert(x), convert(y), **given))
                np.testing.assert_allclose(actual, statistic(x, y, **options), rtol=1e-9, atol=1e-12)
        full = np.nan_to_num(x)
        actual = back(ewm_filtfilt(convert(full), alpha=0.3))
        np.testing.assert_allclose(actual, ewm_filtfilt(full, alpha=0.3), rtol=1e-13)
        np.testing.assert_allclose(back(kama(convert(full), 3)), kama(full, 3), rtol=1e-12)
        np.testing.assert_allclose(back(pcen(convert(abs(full)))), pcen(abs(full)), rtol=1e-11)


def test_tensors_without_gradients_take_the_kernels():
    x = torch.tensor([1.0, float("nan"), 3.0])
    result = ewm_mean(x, alpha=0.5)
    assert type(result) is torch.Tensor
    torch.testing.assert_close(result, torch.tensor([1.0, 1.0, 2.6]))
    with torch.no_grad():
        torch.testing.assert_close(ewm_mean(x.clone().requires_grad_(), alpha=0.5), result)


@pytest.mark.sample(kind=[torch.float32])
@pytest.mark.parametrize(("kind", "exact"), [(torch.float64, 1e-14), (torch.float32, 1e-5)])
def test_filters_of_tensors_without_gradients(rng, kind, exact):
    x = rng.random((30, 3))
    for function in [
        lambda x: ewm_filtfilt(x, alpha=0.3),
        lambda x: kama(x, 3),
        lambda x: kama(x, 40),
        lambda x: pcen(x),
        lambda x: pcen(x, power=0),
        lambda x: pcen(x, bias=0),
    ]:
        expected, tensor = function(x), torch.tensor(x, dtype=kind)
        actual, recorded = function(tensor), function(tensor.clone().requires_grad_())
        assert actual.dtype == kind and not actual.requires_grad
        assert recorded.requires_grad or np.isnan(expected).all()
        np.testing.assert_allclose(actual.numpy(), expected, rtol=exact)
        np.testing.assert_allclose(recorded.detach().numpy(), expected, rtol=exact)


def test_warnings_of_numpy_are_none(rng):
    """pytest makes an error of each."""
    x = np.array([np.nan, np.inf, -np.inf, 1e308, -1e308, 0.0, 1e-308])
    with np.errstate(all="raise"):
        for statistic in STATISTICS:
            statistic(x, alpha=0.5)
            statistic(np.float32([np.nan, 1, np.inf]), alpha=0.5)
        ewm_corr(x, x, alpha=0.5)
        kama(np.zeros(20), 3)
        pcen(np.zeros(5), bias=0)


def test_the_import_is_light(run_python):
    run_python("""
import sys, numba
before = set(sys.modules)
import fastrecur.smoothing
fastrecur.smoothing.ewm_mean([1.0, 2.0], alpha=0.5)
assert not {"torch", "pandas", "polars", "xarray", "scipy"} & (set(sys.modules) - before)
""")


def test_all():
    from fastrecur import smoothing

    for name in smoothing.__all__:
        assert getattr(smoothing, name).__doc__
    assert fastrecur.smoothing is smoothing


@pytest.mark.exhaustive
def test_found_without_its_own_import(run_python):
    run_python("import fastrecur\nfastrecur.smoothing.ewm_mean([1.0], alpha=0.5)")


CALLS = [
    lambda x: ewm_mean(x, alpha=0.1),
    lambda x: ewm_filtfilt(x, alpha=0.1),
    lambda x: kama(x),
    lambda x: pcen(x * x),
]


@pytest.mark.parametrize("call", CALLS)
def test_a_task_of_a_scheduler_stays_on_its_thread(monkeypatch, set_threads, call):
    """As Dask's tasks do, one of which runs on each thread already."""
    set_threads(2)
    sizes, real = [], threads.team
    monkeypatch.setattr(threads, "team", lambda: sizes.append(real().size) or real())
    with threads.alone():
        call(np.ones((512, 1024)))
    assert set(sizes) == {1}


@pytest.mark.parametrize("call", CALLS)
def test_tensors_run_on_torch_s_threads(torch_teams, set_threads, call):
    """As many as torch is told, whatever NumPy's arrays may have; and only meanwhile."""
    x = torch.randn(512, 1024)
    set_threads(1)
    torch.set_num_threads(2)
    both = call(x)
    assert set(torch_teams) == {2}
    del torch_teams[:]
    call(x.numpy())
    assert torch_teams == []
    torch.set_num_threads(1)
    set_threads(2)
    one = call(x)
    assert set(torch_teams) == {1}
    torch.testing.assert_close(both, one, equal_nan=True, rtol=0, atol=0)
