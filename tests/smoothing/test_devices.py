"""Tensors of another device, and torch's default device: numbers stand where the data stand."""

import copy
import pickle

import numpy as np
import pytest
import torch

import fastrecur
from fastrecur.filters import follow, lfilter
from fastrecur.smoothing import (
    Ewm,
    EwmState,
    ewm_corr,
    ewm_cov,
    ewm_filtfilt,
    ewm_mean,
    ewm_std,
    ewm_sum,
    ewm_var,
    holt,
    kama,
    pcen,
)
from fastrecur.torch._operator import modes

TIMES = np.arange(12.0)
DATES = TIMES.astype("M8[s]")


def stream(x, y, *times, **options):
    made = Ewm(**options)
    made.update(x, *times)
    return made.update(y, *(t + (t[-1] - t[0]) for t in times))


CALLS = {
    "mean": lambda x, y: ewm_mean(x, alpha=0.5),
    "mean without adjust": lambda x, y: ewm_mean(x, span=3, adjust=False),
    "mean with times": lambda x, y: ewm_mean(x, halflife=2.0, times=TIMES),
    "mean with dates": lambda x, y: ewm_mean(x, halflife=np.timedelta64(2, "s"), times=DATES, adjust=False),
    "mean with factors": lambda x, y: ewm_mean(x, alpha=y[0].sigmoid()),
    "mean with a factor of the CPU": lambda x, y: ewm_mean(x, alpha=torch.tensor(0.5, device="cpu")),
    "mean with half-lives": lambda x, y: ewm_mean(x, halflife=y[0].exp()),
    "mean with half-lives and times": lambda x, y: ewm_mean(x, halflife=y[0].exp(), times=TIMES, adjust=False),
    "var with times of tensors": lambda x, y: ewm_var(x, halflife=2.0, times=torch.arange(12, device=x.device)),
    "sum": lambda x, y: ewm_sum(x, com=2.0, min_periods=2),
    "var": lambda x, y: ewm_var(x, alpha=0.5),
    "std": lambda x, y: ewm_std(x, alpha=0.5, ignore_na=True),
    "cov": lambda x, y: ewm_cov(x, y, alpha=0.5, bias=True),
    "corr": lambda x, y: ewm_corr(x, y, alpha=0.5),
    "corr of one series": lambda x, y: ewm_corr(x, y[:, :1], alpha=0.5),
    "filtfilt": lambda x, y: ewm_filtfilt(x, alpha=0.5),
    "filtfilt with factors": lambda x, y: ewm_filtfilt(x, alpha=y[0].sigmoid()),
    "kama": lambda x, y: kama(x, 3),
    "pcen": lambda x, y: pcen(x.abs()),
    "pcen with gains": lambda x, y: pcen(x.abs(), gain=y[0].sigmoid(), b=y[0].sigmoid(), axis=0),
    "stream": lambda x, y: stream(x, y, alpha=0.5),
    "stream with times": lambda x, y: stream(x, y, TIMES, halflife=2.0),
    "stream with factors": lambda x, y: stream(x, y, alpha=y[0].sigmoid()),
}


@pytest.fixture
def pair(gradients):
    """Return what makes two tensors, where it is told."""
    return lambda **where: [torch.rand(12, 3, requires_grad=gradients, **where) for _ in range(2)]


# Without CUDA, torch's autograd aborts the process for fake tensors of such a device.
@pytest.mark.parametrize(("device", "gradients"), [("cuda", False), ("meta", False), ("meta", True)])
@pytest.mark.parametrize("name", CALLS)
def test_another_device(fake_device, name, device, pair):
    """A constant became a tensor of the CPU, and nothing went with it on a GPU."""
    with fake_device(device):
        x, y = pair(device=device)
        result = CALLS[name](x, y)
        assert (result.device.type, result.shape, result.dtype) == (device, (12, 3), torch.float32)


@pytest.mark.sample(gradients=[False], name=["mean", "mean with factors", "corr", "kama"])
@pytest.mark.parametrize("how", ["context", "default"])
@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_default_device(name, gradients, how, pair):
    """The data say where all is, and kernels run as without."""
    x, y = pair()
    expected = CALLS[name](x, y)
    if how == "default":
        torch.set_default_device("meta")
    try:
        with torch.device("meta"):
            result = CALLS[name](x, y)
            slopes = torch.autograd.grad(result.nansum(), x) if gradients else ()
    finally:
        torch.set_default_device(None)
    torch.testing.assert_close(result, expected, equal_nan=True, rtol=0, atol=0)
    if gradients:
        torch.testing.assert_close(slopes, torch.autograd.grad(expected.nansum(), x), rtol=0, atol=0)


def test_a_default_device_is_no_mode_that_sees_operators():
    with torch.device("cpu"):
        assert modes.no_modes_active()
        with torch.overrides.BaseTorchFunctionMode():
            assert not modes.no_modes_active()
    assert modes.no_modes_active()


def test_recurrences_under_a_default_device():
    f, x = torch.rand(12, 3), torch.rand(12, 3)
    calls = [
        lambda x: fastrecur.forget_mult(f, x, lengths=[12, 3, 0]),
        lambda x: fastrecur.forget_mult(0.5, x, 0.25, reverse=True),
        lambda x: fastrecur.linear_recurrence(f[:, :1], x, axis=1),
    ]
    for call in calls:
        results = []
        for device in (None, "meta"):
            wanted = x.clone().requires_grad_()
            torch.set_default_device(device)
            try:
                h = call(wanted)
                results.append((h, *torch.autograd.grad(h.square().sum(), wanted), call(x)))
            finally:
                torch.set_default_device(None)
        torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: follow(x, [0.5, 0.3, 0.2], 0.1, axis=0),
        lambda x: holt(x, 0.3, [0.2, 0.1, 0.5])[0],
        lambda x: lfilter([1.0, 0.5], [1.0], x, 0),
    ],
)
def test_numbers_of_filters_under_a_default_device(call):
    x = torch.rand(12, 3)
    with torch.device("meta"):
        result = call(x)
    torch.testing.assert_close(result, call(x), rtol=0, atol=0)


def test_data_on_two_devices():
    with pytest.raises(ValueError, match="all tensors must be on one device, got `x` on cpu, `y` on meta"):
        ewm_cov(torch.ones(3), torch.ones(3, device="meta"), alpha=0.5)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("alpha", lambda x: ewm_mean(x, alpha=torch.tensor(0.5, device="meta"))),
        ("times", lambda x: ewm_mean(x, halflife=2.0, times=torch.arange(12, device="meta"))),
        ("times", lambda x: Ewm(halflife=2.0).update(x, torch.arange(12, device="meta"))),
        ("resets", lambda x: ewm_mean(x, alpha=0.5, resets=torch.zeros(12, dtype=torch.bool, device="meta"))),
        ("state", lambda x: stream(x.to("meta"), x, alpha=0.5)),
        ("state", lambda x: stream(x.to("meta"), x.detach().numpy(), alpha=0.5)),
    ],
)
def test_what_has_no_numbers_beside_what_has_some(pair, gradients, name, call):
    x, _ = pair()
    with pytest.raises(ValueError, match=f"`{name}` must have numbers, got a tensor on the device meta"):
        call(x)


# A stream's state.


def test_a_gradient_wanted_from_the_second_chunk_on():
    """What the first chunk left was a NumPy number, among tensors."""
    for shape in [(6,), (6, 2)]:
        x = torch.rand(shape, dtype=torch.float64)
        for options in [{"alpha": 0.3}, {"halflife": 2.0, "adjust": False}]:
            made, later = Ewm(**options), x[3:].clone().requires_grad_()
            first = made.update(x[:3])
            second = made.update(later)
            torch.testing.assert_close(torch.cat([first, second]), ewm_mean(x, **options))
            whole = x.clone().requires_grad_()
            expected = torch.autograd.grad(ewm_mean(whole, **options)[3:].sum(), whole)[0][3:]
            torch.testing.assert_close(torch.autograd.grad(second.sum(), later)[0], expected)
            torch.testing.assert_close(made.update(x[:1]), ewm_mean(torch.cat([x, x[:1]]), **options)[-1:])


@pytest.mark.parametrize("gradients", [False, True])
def test_a_stream_that_moves(pair):
    """To another device, and to NumPy's arrays: its state goes with the chunks."""
    x, _ = pair()
    stream = Ewm(alpha=0.5)
    stream.update(x[:2])
    moved = copy.copy(stream)
    assert moved.update(x[2:].to("meta")).device.type == "meta"
    assert moved.update(x[2:].to("meta")).device.type == "meta"
    result = stream.update(x[2:].detach().numpy())
    assert type(result) is np.ndarray
    np.testing.assert_allclose(result, ewm_mean(x.detach().numpy(), alpha=0.5)[2:], rtol=1e-6)
    result = stream.update(x[:1])
    torch.testing.assert_close(result, ewm_mean(torch.cat([x, x[:1]]), alpha=0.5)[-1:])


@pytest.mark.parametrize("convert", [np.asarray, torch.tensor, lambda v: torch.tensor(v, requires_grad=True)])
@pytest.mark.parametrize("lanes", [(), (3,)])
def test_states_are_compared(convert, lanes):
    def made(value, times=None):
        stream = Ewm(halflife=2.0)
        stream.update(convert(np.full((4, *lanes), value)), times)
        return stream.state

    times = np.arange(4.0)
    with torch.no_grad():
        one, timed = made(1.0), made(1.0, times)
        for state, same in [(one, made(1.0)), (timed, made(1.0, times))]:
            assert state == same
            assert state == copy.deepcopy(state) == pickle.loads(pickle.dumps(state))
        for other in [made(2.0), timed, made(1.0, times + 1), None, 1.0]:
            assert one != other
        assert timed != made(1.0, times + 1)
    assert EwmState(np.ones(3), 1, np.ones(3)) != EwmState(np.ones(2), 1, np.ones(2))
    nothing = np.full(2, np.nan)
    assert EwmState(nothing, 0, nothing) == EwmState(nothing.copy(), 0, nothing.copy())
    assert EwmState(*(torch.ones(2, device=d) for d in ("cpu", "meta", "cpu"))) != EwmState(*torch.ones(3, 2))
