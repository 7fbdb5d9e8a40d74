"""Constants that are arrays or tensors, for each series or each step, and their gradients; modules that train them."""

import itertools
import math

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
import xarray as xr

from fastrecur.smoothing import Ewm, ewm_corr, ewm_cov, ewm_filtfilt, ewm_mean, ewm_std, ewm_sum, ewm_var, pcen
from fastrecur.torch import PCEN, Ewm as TrainedEwm

TIMES = np.cumsum([0, 1, 3, 0, 0.5, 2, 7])
VALUES = {"com": [0.5, 3.0, 9.0], "span": [1.0, 4.0, 9.0], "halflife": [0.7, 2.0, 50.0], "alpha": [0.3, 0.6, 1.0]}


def data(missing=True):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(7, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    if missing:
        x[0, 1] = x[2, 0] = x[3, 0] = x[4, 2] = math.nan
    return x, y


def each(function, x, name, values, **options):
    """Return a statistic of each column with its own constant."""
    return np.stack([function(x[:, k], **{name: value}, **options) for k, value in enumerate(values)], 1)


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("function", [ewm_mean, ewm_sum, ewm_var, ewm_std])
def test_a_constant_for_each_series(name, timed, function):
    x = data()[0].numpy()
    options = {"times": TIMES, **({} if name == "halflife" else {"halflife": 2.0})} if timed else {}
    for adjust in [True] if function is ewm_sum else [True, False]:
        options["adjust"] = adjust
        expected = each(function, x, name, VALUES[name], **options)
        tensor = torch.tensor(VALUES[name], dtype=torch.float64)
        for constant in (tensor.numpy(), tensor, tensor.clone().requires_grad_()):
            given = x if isinstance(constant, np.ndarray) else torch.from_numpy(x)
            for values, axis in ((given, 0), (given.T, 1)):
                own = constant if axis == 0 else constant[:, None]
                result = function(values, **{name: own}, axis=axis, **options)
                result = result.detach().numpy() if hasattr(result, "detach") else result
                np.testing.assert_allclose(result if axis == 0 else result.T, expected, rtol=1e-12, equal_nan=True)


def test_half_lives_that_are_times():
    x, times = data()[0].numpy(), (TIMES * 1000).astype("M8[ms]")
    spans = np.array([700, 2000, 50_000], "m8[ms]")
    np.testing.assert_allclose(
        ewm_mean(x, halflife=spans, times=times), each(ewm_mean, x, "halflife", spans, times=times), rtol=1e-14
    )
    with pytest.raises(ValueError, match="`halflife` must satisfy"):
        ewm_mean(x, halflife=-spans, times=times)
    with pytest.raises(ValueError, match="mixture"):
        ewm_mean(x, halflife=spans, times=TIMES)


def test_what_a_constant_broadcasts_to():
    x = data()[0].numpy()
    assert ewm_mean(x[:, :1], span=np.array([2.0, 5.0])).shape == (7, 2)
    assert ewm_mean(x[:, :1], halflife=np.array([2.0, 5.0]), times=TIMES).shape == (7, 2)
    assert ewm_mean(np.float32(x), span=np.full(3, 5, np.float32)).dtype == np.float32
    assert ewm_mean(np.float32(x), span=np.full(3, 5)).dtype == np.float64
    assert ewm_mean(np.empty((0, 3)), halflife=np.ones(3), times=np.empty(0)).shape == (0, 3)
    steps = np.linspace(1, 9, 7)  # a constant for each step
    expected = ewm_mean(x, alpha=2 / (steps[:, None] + 1))
    np.testing.assert_allclose(ewm_mean(x, span=steps[:, None]), expected, rtol=1e-14)


def test_pairs_and_filters():
    x, y = (v.numpy() for v in data(missing=False))
    for function in (ewm_cov, ewm_corr):
        expected = [function(x[:, k], y[:, k], span=s) for k, s in enumerate(VALUES["span"])]
        result = function(x, y, span=np.array(VALUES["span"]))
        np.testing.assert_allclose(result, np.stack(expected, 1), rtol=1e-12)
    result = ewm_filtfilt(x, halflife=np.array(VALUES["halflife"]))
    np.testing.assert_allclose(result, each(ewm_filtfilt, x, "halflife", VALUES["halflife"]), rtol=1e-14)


def test_labels():
    x = data()[0].numpy()
    frame = pd.DataFrame(x, columns=list("abc"))
    spans = pd.Series([9.0, 1.0, 4.0], index=list("cab"))
    expected = each(ewm_mean, x, "span", [1.0, 4.0, 9.0])
    np.testing.assert_allclose(ewm_mean(frame, span=spans), expected, rtol=1e-14)
    np.testing.assert_allclose(ewm_mean(frame, halflife=spans, times=TIMES)["c"],
                               ewm_mean(x[:, 2], halflife=9.0, times=TIMES), rtol=1e-14)  # fmt: skip
    with pytest.raises(ValueError, match="`span`"):
        ewm_mean(frame["a"], span=pd.DataFrame(x + 5))
    array = xr.DataArray(x.T, dims=["place", "time"])
    result = ewm_mean(array, span=xr.DataArray([1.0, 4.0, 9.0], dims=["place"]), axis="time")
    np.testing.assert_allclose(result.T, expected, rtol=1e-14)
    series = ewm_mean(pl.Series("a", x[:, 0]), span=np.array(3.0))
    np.testing.assert_allclose(series, ewm_mean(x[:, 0], span=3.0), rtol=1e-14)


@pytest.mark.parametrize("name", VALUES)
def test_a_stream(name):
    x, constant = data()[0].numpy(), np.array(VALUES[name])
    for times in (None, TIMES):
        options = {name: constant}
        if times is not None and name != "halflife":
            continue
        whole = ewm_mean(x, **options, times=times)
        stream, first, second = Ewm(**options), Ewm(**options), Ewm(**options)
        cut = [None, None] if times is None else [times[:3], times[3:]]
        parts = [stream.update(x[:3], cut[0]), stream.update(x[3:], cut[1])]
        np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-12)
        first.update(x[:3], cut[0])
        second.update(x[3:], cut[1])
        merged = first.merge(second)
        np.testing.assert_allclose(merged.state.mean, stream.state.mean, rtol=1e-12)
    with pytest.raises(ValueError, match=f"`{name}` of a stream must be constant in time"):
        Ewm(**{name: np.full((7, 1), 0.5)}).update(x)


DOMAINS = {"com": [-1.0, math.inf], "span": [0.5, math.inf], "halflife": [0.0, math.inf, math.nan], "alpha": [0.0, 1.5]}


@pytest.mark.parametrize(("name", "bad"), [(n, v) for n, values in DOMAINS.items() for v in values])
def test_domains(name, bad):
    good = VALUES[name][1]
    for made in (np.array, torch.tensor, lambda v: torch.tensor(v, requires_grad=True)):
        constant = made([good, good, bad])
        x = data()[0] if isinstance(constant, torch.Tensor) else data()[0].numpy()
        with pytest.raises(ValueError, match=f"`{name}` must satisfy: .* got {bad}"):
            ewm_mean(x, **{name: constant})
    with pytest.raises((TypeError, ValueError), match=f"`{name}`"):
        ewm_mean(data()[0].numpy(), **{name: "1"})


# ---- Gradients ------------------------------------------------------------------------------------------------------


def gradients_hold(function, *inputs):
    def finite(*values):
        result = function(*values)
        return torch.where(torch.isnan(result), 0.0, result)

    inputs = [v.clone().requires_grad_() for v in inputs]
    assert torch.autograd.gradcheck(finite, inputs)
    return torch.autograd.grad(finite(*inputs).sum(), inputs)


@pytest.mark.sample(adjust=[True])
@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("adjust", [True, False])
def test_gradients_of_constants(name, adjust):
    x, constant = data()[0], torch.tensor(VALUES[name], dtype=torch.float64) * 0.8 + (0.7 if name == "span" else 0.15)
    for own in (constant, constant[1]):
        found = gradients_hold(lambda c: ewm_mean(x, **{name: c}, adjust=adjust), own)
        assert (found[0] != 0).all()


@pytest.mark.parametrize("ignore_na", [True, False])
def test_gradients_of_half_lives_in_time(ignore_na):
    x, y = data()
    for adjust in (True, False):
        options = {"times": TIMES, "adjust": adjust, "ignore_na": ignore_na}
        halflife = torch.tensor([0.7, 2.0, 5.0], dtype=torch.float64)
        gradients_hold(lambda h: ewm_mean(x, halflife=h, **options), halflife)  # noqa: B023 -- called at once
        gradients_hold(lambda h: ewm_var(x, halflife=h, **options), halflife[0])  # noqa: B023
    gradients_hold(lambda h, a: ewm_cov(x, y, halflife=h, alpha=a, times=TIMES), halflife, halflife / 10)


@pytest.mark.parametrize("name", ["gain", "bias", "power", "eps", "b", "time_constant"])
def test_gradients_of_pcen(name):
    S = data(missing=False)[0].T.abs() + 0.1
    own = {"gain": 0.9, "bias": 2.0, "power": 0.5, "eps": 1e-3, "b": 0.2, "time_constant": 0.05}[name]
    constant = own * torch.tensor([[0.5], [1.0], [1.5]], dtype=torch.float64)
    gradients_hold(lambda S, c: pcen(S, **{name: c}), S, constant)
    result = pcen(S, **{name: constant})
    rows = [pcen(S[k], **{name: float(constant[k])}) for k in range(3)]
    torch.testing.assert_close(result, torch.stack(rows))
    np.testing.assert_allclose(pcen(S.numpy(), **{name: constant.numpy()}), result, rtol=1e-12)
    for bad in (-1.0, math.nan) + ((0.0,) if name in ("bias", "power", "eps") else ()):
        with pytest.raises(ValueError, match=f"`{name}` must satisfy"):
            pcen(S, **{name: torch.full((3, 1), bad, dtype=torch.float64)})


# ---- Times that are tensors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.int64, torch.int32, torch.uint8])
def test_times_of_tensors(kind):
    x = data()[0]
    times = torch.tensor([0, 1, 4, 4, 5, 7, 200]).to(kind)
    expected = ewm_mean(x, halflife=2.0, times=times.numpy())
    for given in (times, times[:, None].expand(7, 3)):
        torch.testing.assert_close(ewm_mean(x, halflife=2.0, times=given), expected, equal_nan=True)
        result = ewm_mean(x.clone().requires_grad_(), halflife=2.0, times=given)
        torch.testing.assert_close(result, expected, equal_nan=True, check_stride=False)
    x = x.requires_grad_()
    with pytest.raises(ValueError, match="backwards"):
        ewm_mean(x, halflife=2.0, times=times.flip(0))
    with pytest.raises(ValueError, match="same length"):
        ewm_mean(x, halflife=2.0, times=times[:3])
    with pytest.raises(ValueError, match="mixture"):
        ewm_mean(x, halflife=np.timedelta64(2, "s"), times=times)
    with pytest.raises(TypeError, match="constants"):
        ewm_mean(x, halflife=2.0, times=times.double().clone().requires_grad_())
    if kind.is_floating_point:
        with pytest.raises(ValueError, match="NaN"):
            ewm_mean(x, halflife=2.0, times=times / 0)


@pytest.mark.exhaustive
def test_compiled_with_times():
    x, halflife = torch.rand(3, 20, requires_grad=True), torch.tensor([[2.0], [3.0], [9.0]], requires_grad=True)
    times = torch.arange(20.0) ** 1.5

    def call(x, halflife, times):
        return ewm_mean(x, halflife=halflife, times=times, axis=-1)

    actual = torch.compile(call, fullgraph=True, backend="aot_eager")(x, halflife, times)
    expected = call(x, halflife, times)
    torch.testing.assert_close(actual, expected)
    for found, wanted in zip(*(torch.autograd.grad(v.sum(), (x, halflife)) for v in (actual, expected)), strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.exhaustive
def test_compiled_modules():
    x, times = torch.rand(20, 3), torch.arange(20.0) ** 1.5
    for module, operands in ((TrainedEwm(halflife=[1.0, 2.0, 3.0]), (x, times)), (PCEN(3, axis=0), (x,))):
        expected = module(*operands)
        actual = torch.compile(module, fullgraph=True, backend="aot_eager")(*operands)
        torch.testing.assert_close(actual, expected)
        parameters = list(module.parameters())
        found, wanted = (torch.autograd.grad(v.sum(), parameters) for v in (actual, expected))
        torch.testing.assert_close(found, wanted)


# ---- Modules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "timed"), [*itertools.product(VALUES, [False]), ("halflife", True)])
def test_the_module_starts_from_its_constant(name, timed):
    x, times = data()[0], TIMES if timed else None
    values = [min(v, 0.9) if name == "alpha" else v + 0.5 for v in VALUES[name]]
    module = TrainedEwm(**{name: values}, dtype=torch.float64)
    result = module(x, times)
    np.testing.assert_allclose(result.detach(), each(ewm_mean, x.numpy(), name, values, times=times), rtol=1e-12)
    result.nansum().backward()
    assert (module.log_halflife.grad != 0).all()
    assert TrainedEwm(**{name: values[0]})(x.float()).dtype == torch.float32


def test_gradients_of_modules():
    x = data()[0]
    for module, given in ((TrainedEwm(halflife=[1.0, 2.0, 3.0]), x), (PCEN(3), x.T.nan_to_num().abs() + 0.1)):
        module = module.double()
        names, start = zip(*module.named_parameters(), strict=True)
        gradients_hold(
            lambda *values: torch.func.functional_call(module, dict(zip(names, values, strict=True)), (given,)),  # noqa: B023
            *(value.detach() for value in start),
        )


def test_the_module_of_pcen():
    S = data(missing=False)[0].abs().float()
    options = {"gain": 0.8, "bias": 3.0, "power": 0.4, "b": 0.1}
    for axis, given in ((-1, S.T), (1, S.T), (0, S), (-2, S), (-3, S[:, None]), (-1, S.T[None])):
        module = PCEN(3, **options, axis=axis)
        torch.testing.assert_close(module(given), pcen(given, **options, axis=axis), check_stride=False)
    again = PCEN(3)
    again.load_state_dict(module.state_dict())
    torch.testing.assert_close(again(S.T), pcen(S.T, **options))
    for given, match in ((S, "`S` must have 3 bands"), (S[0], "`S` must have 3 bands")):
        with pytest.raises(ValueError, match=match):
            module(given)
    for bad in ({"gain": 0.0}, {"b": 1.0}, {"eps": -1.0}):
        with pytest.raises(ValueError, match="must satisfy"):
            PCEN(3, **bad)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "got none"),
        ({"com": 1.0, "span": 3.0}, "`com`, `span`"),
        ({"alpha": 1.0}, "0 < alpha < 1"),
        ({"com": 0.0}, "com > 0"),
        ({"span": 1.0}, "span > 1"),
        ({"halflife": [1.0, -1.0]}, "halflife > 0"),
    ],
)
def test_constants_without_a_half_life(options, match):
    with pytest.raises(ValueError, match=match):
        TrainedEwm(**options)


def test_half_lives_are_found():
    """Of series that were smoothed with different ones, from one start."""
    generator = torch.Generator().manual_seed(0)
    x, wanted = torch.randn(400, 3, generator=generator), torch.tensor([1.0, 4.0, 30.0])
    target = ewm_mean(x, halflife=wanted)
    module = TrainedEwm(halflife=[5.0] * 3)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        ((module(x) - target).square().mean(0) / target.square().mean(0)).sum().backward()
        optimizer.step()
    torch.testing.assert_close(module.halflife.detach(), wanted, rtol=0.03, atol=0)
