"""PCEN against librosa where it is installed, and else against what it is made of in SciPy."""

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage, signal

from fastrecur.smoothing import pcen
from fastrecur.torch import PCEN

try:
    import librosa
except ImportError:
    librosa = None


def restated(S, *, b, max_size=1, ref=None, axis=-1, max_axis=None, zi=None, return_zf=False):
    """What librosa 0.11 does, with its gain, bias, power and eps."""
    if ref is None:
        bands = np.mod(1 - axis, 2) if max_axis is None else max_axis
        ref = S if max_size == 1 else ndimage.maximum_filter1d(S, max_size, axis=bands)
    if zi is None:
        zi = np.full([1] * ref.ndim, 1 - b)
    mean, zf = signal.lfilter([b], [1, b - 1], ref, zi=zi, axis=axis)
    smooth = np.exp(-0.98 * (np.log(1e-6) + np.log1p(mean / 1e-6)))
    result = np.sqrt(2) * np.expm1(0.5 * np.log1p(S * smooth / 2))
    return (result, zf) if return_zf else result


ORACLES = [restated] if librosa is None else [restated, librosa.pcen]
CASES = [
    ((5, 20), {"max_size": 3}),
    ((5, 20), {"max_size": 4}),
    ((20, 5), {"max_size": 2, "axis": 0}),
    ((5, 20), {"max_size": 9, "axis": -1}),
    ((20, 5), {"max_size": 100, "axis": -2}),
    ((5, 20), {"max_size": 3, "max_axis": 1}),
    ((2, 5, 20), {"max_size": 3, "max_axis": 1}),
    ((2, 20, 5), {"max_size": 5, "axis": 1, "max_axis": -1}),
    ((1, 20), {"max_size": 3}),
    ((20,), {}),
    ((3, 20), {"axis": 0}),
]


@pytest.mark.parametrize("oracle", ORACLES)
@pytest.mark.parametrize(("shape", "options"), CASES)
def test_as_the_oracle(rng, oracle, shape, options):
    S, axis = rng.random(shape), options.get("axis", -1)
    flat = list(shape)
    flat[axis] = 1
    for more in ({}, {"zi": rng.random(flat)}, {"zi": np.full([1] * len(shape), 0.3)}, {"ref": rng.random(shape)}):
        wanted, last = oracle(S, b=0.2, return_zf=True, **options, **more)
        result, zf = pcen(S, b=0.2, return_zf=True, **options, **more)
        np.testing.assert_allclose(result, wanted, rtol=1e-11)
        np.testing.assert_allclose(zf, last, rtol=1e-13)
        assert zf.shape == last.shape
        np.testing.assert_array_equal(pcen(S, b=0.2, **options, **more), result)
        single, state = pcen(S.astype(np.float32), b=0.2, return_zf=True, **options, **{
            name: value.astype(np.float32) for name, value in more.items()
        })  # fmt: skip
        assert single.dtype == state.dtype == np.float32
        np.testing.assert_allclose(single, wanted, rtol=1e-4)
    result, zf = pcen(S, b=0.2, ref=S[..., :1, :] if len(shape) > 1 else S, return_zf=True, axis=axis)
    if len(shape) > 1 and axis == -1:
        wanted, last = oracle(S, b=0.2, ref=S[..., :1, :], return_zf=True)
        np.testing.assert_allclose(result, wanted, rtol=1e-11)
        np.testing.assert_allclose(zf, last, rtol=1e-13)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("convert", [np.asarray, torch.tensor, lambda x: torch.tensor(x).requires_grad_()])
def test_chunk_by_chunk_is_the_whole(rng, axis, convert):
    S = rng.random((30, 30))
    for options in ({}, {"b": 0.3}, {"b": 1.0}, {"b": 0.0}, {"b": rng.uniform(0.1, 0.9, (30, 1) if axis else (30,))}):
        given = {n: convert(v) if np.ndim(v) and convert is not np.asarray else v for n, v in options.items()}
        whole, last = pcen(S, **options, axis=axis, return_zf=True)
        parts, zf = [], None
        for rows in np.split(S, [1, 7, 7, 20], axis):
            part, zf = pcen(convert(rows), **given, axis=axis, zi=zf, return_zf=True)
            parts.append(part.detach().numpy() if hasattr(part, "detach") else part)
        np.testing.assert_allclose(np.concatenate(parts, axis), whole, rtol=1e-12)
        np.testing.assert_allclose(zf.detach() if hasattr(zf, "detach") else zf, last, rtol=1e-12)


def test_gradients_of_all_that_is_new(rng):
    S, ref = (torch.tensor(rng.random((4, 6)) + 0.1, requires_grad=True) for _ in range(2))
    zi = torch.tensor(rng.random((4, 1)), requires_grad=True)
    assert torch.autograd.gradcheck(lambda S, zi: pcen(S, b=0.3, max_size=3, zi=zi, return_zf=True), (S, zi))
    assert torch.autograd.gradcheck(lambda S, ref, zi: pcen(S, b=0.3, ref=ref, zi=zi), (S, ref, zi))


def test_other_libraries(rng):
    S, zi = rng.random((6, 40)), rng.random((6, 1))
    wanted, last = pcen(S, b=0.2, max_size=3, zi=zi, return_zf=True)
    lazy, state = pcen(da.from_array(S, (2, 7)), b=0.2, max_size=3, zi=zi, return_zf=True)
    assert isinstance(lazy, da.Array)
    np.testing.assert_allclose(lazy.compute(), wanted, rtol=1e-12)
    np.testing.assert_allclose(np.asarray(state), last, rtol=1e-12)
    S[2, 5] = np.nan
    assert np.isnan(pcen(S, b=0.2, max_size=3)[1:4, 5:]).all()
    assert np.isfinite(pcen(S, b=0.2, max_size=3)[4:]).all()
    for shape in ((0, 5), (5, 0)):
        result, zf = pcen(np.zeros(shape), b=0.2, max_size=3, return_zf=True)
        assert result.shape == shape and zf.shape == (shape[0], 1)
        np.testing.assert_allclose(zf, 0.8)


X = np.ones((3, 4))


@pytest.mark.parametrize(
    ("kind", "match", "S", "options"),
    [
        (TypeError, "`max_size` must be an integer", X, {"max_size": 2.0}),
        (ValueError, "`max_size` must be at least 1", X, {"max_size": 0}),
        (ValueError, "`max_size` must be 1 unless", X[0], {"max_size": 2}),
        (ValueError, "`max_size` must be 1 unless", X[None], {"max_size": 2}),
        (ValueError, "`axis`", X, {"max_size": 2, "max_axis": 2}),
        (ValueError, r"`zi` must have the shape \(3, 1\)", X, {"zi": np.ones((1, 4))}),
        (ValueError, "`zi` must have the shape", X, {"zi": 0.5}),
        (TypeError, "`zi` must hold float32", X, {"zi": np.ones((3, 1), complex)}),
        (TypeError, "`zi` must not be a masked array", X, {"zi": np.ma.ones((3, 1))}),
        (ValueError, "`zi` must have the shape", X, {"zi": np.ones(3)}),
        (TypeError, "`zi` must be .*DataFrame: pass its `to_numpy", X, {"zi": pd.DataFrame(np.ones((3, 1)))}),
        (ValueError, "`b` of a stream must be constant in time", X, {"b": np.full(4, 0.5), "return_zf": True}),
        (ValueError, "`time_constant` of a stream", X, {"time_constant": np.full(4, 0.5), "zi": np.ones((3, 1))}),
        (TypeError, "`return_zf` must be True or False", X, {"return_zf": 1}),
        (ValueError, "broadcast", X, {"ref": np.ones(5)}),
    ],
)
def test_errors(kind, match, S, options):
    with pytest.raises(kind, match=match):
        pcen(S, **options)


def test_the_module_as_a_stream():
    S = torch.rand(2, 4, 10)
    for axis, given in ((-1, S), (1, S.transpose(1, 2))):
        module = PCEN(4, max_size=3, axis=axis)
        options = {"gain": 0.98, "bias": 2.0, "power": 0.5, "b": 0.025, "max_size": 3, "axis": axis}
        wanted = pcen(given, max_axis=-2 if axis == -1 else -1, **options)
        whole, last = module(given, return_zf=True)
        torch.testing.assert_close(whole.detach(), wanted, check_stride=False)
        first, zf = module(given.narrow(axis, 0, 6), return_zf=True)
        second, zf = module(given.narrow(axis, 6, 4), zf, return_zf=True)
        torch.testing.assert_close(torch.cat([first, second], axis), whole)
        torch.testing.assert_close(zf, last)
