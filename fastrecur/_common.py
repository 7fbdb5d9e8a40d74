"""Common calls: of which kernels are compiled beforehand, for a user's folder or for a bundle."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from . import filters, returns, smoothing
from .recurrence import forget_mult, forget_mult_vjp, linear_recurrence, linear_recurrence_vjp
from .selective import selective_scan, selective_scan_vjp

DTYPES = "float16", "float32", "float64"
# Shapes and axes of time: each has kernels of its own.
LAYOUTS = {
    "one series": ((1_000_000,), 0),
    "one short series": ((1000,), 0),
    "time first": ((1000, 1000), 0),
    "time last": ((1000, 1000), 1),
    "few series": ((100_000, 4), 0),
}

Calls = Iterator[tuple[str, Callable[[], Any]]]  # what is called, in words, and the call


def calls(dtype: str) -> Calls:
    """Yield the calls whose kernels are compiled for a user."""
    for layout, (shape, axis) in LAYOUTS.items():
        x = np.full(shape, 0.5, dtype)
        for gate, f in (("a number", 0.5), ("an array", x)):
            yield f"forget_mult, {layout}, f is {gate}", partial(forget_mult, f, x, axis=axis)
            yield f"forget_mult_vjp, {layout}, f is {gate}", partial(forget_mult_vjp, x, f, x, x, axis=axis)
        for statistic in (smoothing.ewm_mean, smoothing.ewm_std) if dtype != "float16" else ():
            yield f"{statistic.__name__}, {layout}", partial(statistic, x, alpha=0.5, axis=axis)


def calls_of_bundle(dtype: str) -> Calls:
    """Yield the calls whose kernels a bundle has."""
    yield from calls(dtype)
    for layout, (shape, axis) in LAYOUTS.items():
        x = np.full(shape, 0.5, dtype)
        yield f"linear_recurrence, {layout}", partial(linear_recurrence, x, x, axis=axis)
        yield f"linear_recurrence_vjp, {layout}", partial(linear_recurrence_vjp, x, x, x, x, axis=axis)
        yield from _filters(layout, x, axis)
    for shape in ((1000,), (1000, 8), (1000, 64)):
        yield from _returns(f"{shape[1:]}", np.full(shape, 0.5, dtype))
    u, B = np.full((2, 100, 64), 0.5, dtype), np.full((2, 100, 16), 0.5, dtype)
    given = u, u, np.full((64, 16), -0.5, dtype), B, B, np.ones(64, dtype)
    yield "selective_scan", partial(selective_scan, *given, layout="bld")
    yield "selective_scan_vjp", partial(selective_scan_vjp, u, *given, layout="bld")
    if importlib.util.find_spec("torch"):
        yield "QRNN", partial(_train, dtype)


def _filters(layout: str, x: Any, axis: int) -> Calls:
    sos = np.array([[1, 0.5, 0.2, 1, -0.5, 0.1]] * 2)
    yield f"sosfilt, {layout}", partial(filters.sosfilt, sos, x, axis)
    yield f"sosfilt_vjp, {layout}", partial(filters.sosfilt_vjp, x, sos, x, x, axis=axis)
    yield f"lfilter, {layout}", partial(filters.lfilter, sos[0, :3], sos[0, 3:], x, axis)


def _returns(layout: str, rewards: Any) -> Calls:
    values, flags = np.concatenate([rewards, rewards[:1]]), np.zeros(rewards.shape, bool)
    yield f"gae, {layout}", partial(returns.gae, rewards, values, 0.99, 0.95, flags)
    yield f"gae, {layout}, both flags", partial(returns.gae, rewards, values, 0.99, 0.95, flags, flags)
    yield f"discounted_returns, {layout}", partial(returns.discounted_returns, rewards, 0.99)
    yield f"discounted_returns, {layout}, flags", partial(returns.discounted_returns, rewards, 0.99, flags)


def _train(dtype: str) -> None:
    """Make a step of training of a QRNN."""
    import torch

    from .torch import QRNN

    layer = QRNN(8, 16, dtype=getattr(torch, dtype))
    y, _ = layer(torch.rand(12, 3, 8, dtype=getattr(torch, dtype)))
    y.sum().backward()
