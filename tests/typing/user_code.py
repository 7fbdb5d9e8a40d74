"""Code of a user, for mypy: each `assert_type` must hold, and each ignored line must be an error of that kind.

Checked by `mypy` with the configuration of pyproject.toml (an ignore that is not needed is an error there). Not run.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import assert_type

import fastrecur
from fastrecur import (
    forget_mult,
    forget_mult_vjp,
    linear_recurrence,
    linear_recurrence_vjp,
    selective_scan,
    selective_scan_vjp,
)
from fastrecur.filters import allpole, follow, lfilter, sosfilt, sosfilt_vjp, sosfiltfilt
from fastrecur.returns import discounted_returns, gae, vtrace
from fastrecur.smoothing import (
    Ewm,
    HoltWinters,
    HoltWintersFit,
    HoltWintersState,
    ewm_corr,
    ewm_mean,
    ewm_var,
    fit_holt_winters,
    holt,
    holt_winters,
    pcen,
)
from fastrecur.torch import QRNN, QRNNState


class Lazy:
    """What type checkers know of Dask's arrays."""

    def __dask_graph__(self) -> Any: ...


Array = NDArray[Any]
Singles = NDArray[np.float32]
Known = NDArray[np.float64 | Any]
x, h0 = np.ones((5, 3), np.float32), np.ones(3)
shaped = np.arange(15.0).reshape(5, 3)  # of `float64 | Any`
integers, lazy = np.arange(15), Lazy()
t = torch.ones(5, 3)
some: Any = None
asked: bool = len(x) > 3

# ---- Arrays ----------------------------------------------------------------------------------------------------------

assert_type(forget_mult(0.5, x), Singles)
assert_type(forget_mult(x, 1, 0.0), Singles)
assert_type(forget_mult(x, x, h0, axis=0, reverse=True, lengths=[5, 3, 2]), NDArray[np.float32 | np.float64])
assert_type(forget_mult(x, x, offsets=[0, 2, 5], resets=some), Singles)
assert_type(forget_mult(shaped, shaped), Known)
assert_type(forget_mult(0.5, shaped, return_state=True), tuple[Known, Known])
assert_type(forget_mult_vjp(shaped, shaped, shaped, shaped), tuple[Array, Array, None])
assert_type(forget_mult(0.5, integers), Array)
assert_type(forget_mult(0.5, x, [0.0, 0.0, 0.0]), Array)
assert_type(linear_recurrence(0.5j, x), Array)
assert_type(forget_mult([0.5, 0.5], [8.0, 4.0]), Array)
assert_type(forget_mult(np.float64(0.5), x, out=x), Array)
assert_type(forget_mult(0.5, x, return_state=True), tuple[Singles, Singles])
assert_type(linear_recurrence(a=0.5, b=x), Singles)
assert_type(linear_recurrence(0.5, x, return_state=True)[1], Singles)
assert_type(forget_mult(x, lazy, h0), Lazy)
assert_type(forget_mult(lazy, 1.0, return_state=True), tuple[Lazy, Lazy])
assert_type(forget_mult_vjp(x, 0.5, x, x), tuple[Array, Array, None])
assert_type(linear_recurrence_vjp(x, x, x, x, 1.0, grad_state=h0), tuple[Array, Array, Array])

# ---- Tensors ---------------------------------------------------------------------------------------------------------

assert_type(forget_mult(0.5, t), torch.Tensor)
assert_type(forget_mult(torch.nn.Parameter(t), t, 0.0, lengths=np.array([5, 3, 2])), torch.Tensor)
assert_type(forget_mult(torch.nn.Parameter(t), 1.0), torch.Tensor)
assert_type(linear_recurrence(t, t, t[0], return_state=True), tuple[torch.Tensor, torch.Tensor])
assert_type(forget_mult_vjp(t, 0.5, t, t, t[0]), tuple[torch.Tensor, torch.Tensor, torch.Tensor])

# ---- What is not known in advance ------------------------------------------------------------------------------------

forget_mult(some, some).mean()
first, state = forget_mult(0.5, x, return_state=asked)

# ---- Filters and the selective scan ----------------------------------------------------------------------------------

assert_type(sosfilt(h0, x), Singles)
assert_type(sosfilt(h0, shaped), Known)
assert_type(sosfilt(h0, integers), Array)
assert_type(lfilter([1.0], [2.0], x, 0, h0), tuple[Singles, Array])
assert_type(allpole([0.5], shaped, return_state=True), tuple[Known, Array])
assert_type(follow(t, 0.5, 0.25, zi=t), tuple[torch.Tensor, torch.Tensor])
assert_type(follow([8.0, 8.0], 0.5, 0.25), Array)
assert_type(sosfiltfilt(h0, lazy), Lazy)
assert_type(sosfilt_vjp(x, h0, shaped, x), tuple[Array, Array, None])
assert_type(sosfilt_vjp(t, h0, t, t, t), tuple[torch.Tensor, torch.Tensor, torch.Tensor])
assert_type(selective_scan(shaped, x, x, x, x), Known)
assert_type(selective_scan(x, x, x, x, x, return_state=True), tuple[Singles, Array])
assert_type(selective_scan(t, t, t, t, t), torch.Tensor)
assert_type(selective_scan_vjp(x, shaped, x, x, x, x).A, Array)

# ---- Smoothing -------------------------------------------------------------------------------------------------------

assert_type(ewm_mean(x, halflife=3), Array)
assert_type(ewm_mean([1.0, 2.0], alpha=x, times=[0.0, 1.0]), Array)
assert_type(ewm_var(t, span=9, bias=True), torch.Tensor)
assert_type(ewm_corr(x, x, com=1.0, axis=1), Array)
assert_type(ewm_mean(shaped, span=3), Array)
assert_type(holt(shaped, 0.5, 0.5), tuple[Array, Array])
assert_type(holt_winters(shaped, 0.5), HoltWinters)
assert_type(holt_winters(shaped, 0.5, return_state=True), tuple[HoltWinters, HoltWintersState])
assert_type(fit_holt_winters(shaped, 4), HoltWintersFit)
assert_type(pcen(shaped, return_zf=True), tuple[Array, Array])
assert_type(ewm_mean(t, halflife=t), torch.Tensor)
assert_type(pcen(t, sr=8000, gain=t), torch.Tensor)
assert_type(pcen(t, return_zf=True)[0], torch.Tensor)
assert_type(Ewm(alpha=0.5).update(x), Array)
assert_type(Ewm(alpha=0.5).update(shaped), Array)
assert_type(Ewm(alpha=0.5).update(t), torch.Tensor)
assert_type(Ewm(halflife=np.timedelta64(3, "m")).merge(Ewm(halflife="3min")), Ewm)

assert_type(discounted_returns([1.0, 2.0], 0.9), Array)
assert_type(gae(x, x, 0.9, 0.95, some), Array)
assert_type(vtrace(shaped, shaped, shaped, 0.9, some), tuple[Array, Array])
assert_type(vtrace(t, t, t, 0.9, some), tuple[torch.Tensor, torch.Tensor])

# ---- Networks --------------------------------------------------------------------------------------------------------

rnn = QRNN(3, 4, 2, batch_first=True, window=2)
output, h_n = rnn(t)
assert_type(rnn.initial_state(5), QRNNState)
assert_type(rnn.step(t, rnn.initial_state(5)), tuple[torch.Tensor, QRNNState])
assert_type(fastrecur.get_num_threads(), int)

# ---- Errors ----------------------------------------------------------------------------------------------------------

forget_mult(0.5)  # type: ignore[call-overload]
forget_mult(0.5, x, h0, 1)  # type: ignore[call-overload]
forget_mult("0.5", x)  # type: ignore[arg-type]
forget_mult(0.5, "readings.csv")  # type: ignore[arg-type]
forget_mult(x, t)  # type: ignore[call-overload]
forget_mult(0.5, x, out=t)  # type: ignore[call-overload]
forget_mult(0.5, x, axis=None)  # type: ignore[call-overload]
forget_mult(0.5, x, lengths="all")  # type: ignore[arg-type]
forget_mult(f=0.5, b=x)  # type: ignore[call-overload]
linear_recurrence(f=0.5, x=x)  # type: ignore[call-overload]
sosfilt(h0, x, zx=h0)  # type: ignore[call-overload]
forget_mult_vjp(t, x, x, x)  # type: ignore[call-overload]
forget_mult(0.5, t).ravell()  # type: ignore[attr-defined]
forget_mult(0.5, x, return_state=True).mean()  # type: ignore[attr-defined]
ewm_mean(x, 3)  # type: ignore[call-overload]
ewm_mean("readings.csv", halflife=3)  # type: ignore[arg-type]
gae(x, x, 0.9, 0.95, some, gama=0.9)  # type: ignore[call-overload]
ewm_mean(x, half_life=3)  # type: ignore[call-overload]
rnn.step(t)  # type: ignore[call-arg]
fastrecur.set_num_threads("2")  # type: ignore[arg-type]
