"""Smoothing as modules, whose constants are trained."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from .._arguments import checks, messages as say
from ..smoothing._averages import pcen
from ..smoothing._statistics import ewm_mean

# What holds of a constant that has a half-life, and that of it.
_HALFLIVES = {
    "com": ("com > 0", lambda value: math.log(2.0) / torch.log1p(1 / value)),
    "span": ("span > 1", lambda value: math.log(2.0) / torch.log1p(2 / (value - 1))),
    "halflife": ("halflife > 0", lambda value: value),
    "alpha": ("0 < alpha < 1", lambda value: -math.log(2.0) / torch.log1p(-value)),
}


class Ewm(nn.Module):
    r"""The exponentially weighted mean with a half-life that is trained: `fastrecur.smoothing.ewm_mean` as a module.

    The parameter is the logarithm of the half-life :math:`\tau`, one number or one for each series,

    ``d = 2**(-1/tau)``, ``tau = exp(theta)``, ``y[t] = (x[t] + d*x[t-1] + d**2*x[t-2] + ...) / (1 + d + d**2 + ...)``

    .. math:: d = 2^{-1/\tau}, \quad \tau = e^{\theta}, \qquad
              y_t = \frac{\sum_{k \ge 0} d^k x_{t-k}}{\sum_{k \ge 0} d^k}.

    Parameters
    ----------
    com, span, halflife, alpha : float or array_like, optional
        Where training starts: exactly one. An array has a value for each series and broadcasts against the data.
    adjust, ignore_na, min_periods, axis, device, dtype
        As for `fastrecur.smoothing.ewm_mean`, and for any module.

    Attributes
    ----------
    log_halflife : Parameter
        The logarithm of the half-life, in steps or in the unit of the times.

    Raises
    ------
    ValueError
        If not exactly one constant is given, or if it has no half-life: ``alpha`` is 1, ``com`` is 0.

    Notes
    -----
    A step of an optimizer changes how much is remembered by the same share, whether that is ten samples or a million,
    and the decay cannot leave (0, 1). This is the parametrization of the linear recurrent unit,
    :math:`d = \exp(-\exp(\nu))` [1]_, with :math:`\nu = \log\log 2 - \theta`.

    References
    ----------
    .. [1] A. Orvieto et al., "Resurrecting recurrent neural networks for long sequences", ICML 2023, arXiv:2303.06349,
       section 3.3.

    Examples
    --------
    >>> import torch
    >>> from fastrecur.torch import Ewm
    >>> mean = Ewm(halflife=1.0)
    >>> y = mean(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    >>> y.detach()
    tensor([1.0000, 1.6667, 2.4286, 3.2667])
    >>> y[-1].backward()
    >>> mean.log_halflife.grad
    tensor(-0.5976)
    """

    def __init__(
        self, *, com: Any = None, span: Any = None, halflife: Any = None, alpha: Any = None, adjust: bool = True,
        ignore_na: bool = False, min_periods: int = 0, axis: int = 0, device: Any = None, dtype: Any = None,
    ):  # fmt: skip
        super().__init__()
        given = {"com": com, "span": span, "halflife": halflife, "alpha": alpha}
        named = {name: value for name, value in given.items() if value is not None}
        if len(named) != 1:
            raise ValueError(say.one_constant(list(named)))
        [(name, value)] = named.items()
        rule, halflife_of = _HALFLIVES[name]
        value = torch.as_tensor(value, dtype=torch.float64, device="cpu").detach()
        found = halflife_of(value).log()
        if not bool(found.isfinite().all()):
            raise ValueError(say.constant_domain(name, rule, value.tolist()))
        found = found.to(device or torch.get_default_device(), dtype or torch.get_default_dtype())
        self.log_halflife = nn.Parameter(found)
        self.adjust, self.ignore_na, self.min_periods, self.axis = adjust, ignore_na, min_periods, axis

    @property
    def halflife(self) -> torch.Tensor:
        """The half-life."""
        return self.log_halflife.exp()

    def forward(self, x: torch.Tensor, times: Any = None) -> torch.Tensor:
        """Return the mean at each step, as `fastrecur.smoothing.ewm_mean`, of the shape that ``x`` and half-lives have.

        NaN is missing. ``times`` of the samples, if there are any, are numbers in the unit of the half-life.
        """
        options = {name: getattr(self, name) for name in ("halflife", "adjust", "ignore_na", "min_periods", "axis")}
        return ewm_mean(x, times=times, **options)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """Return what is shown of the module."""
        return f"series={tuple(self.log_halflife.shape)}, adjust={self.adjust}, axis={self.axis}"


class PCEN(nn.Module):
    r"""Per-channel energy normalization with parameters of its own for each band, all of which are trained.

    It is `fastrecur.smoothing.pcen`, whose page has the formula; so the mean starts from 1.

    Parameters
    ----------
    num_bands : int
        The number of bands.
    gain, bias, power, b, eps : float
        Where training starts, by default as in [1]_, section 2; and the lower bound of the mean, a constant.
    max_size : int, default 1
        How many neighboring bands have a mean in common: that of their greatest value.
    axis : int, default -1
        The axis of time. If it is the last one, bands are on the one before it, else on the last.
    device, dtype
        As for any module.

    Raises
    ------
    ValueError
        For no bands, parameters that are not positive, or a ``b`` that is not below 1.

    Attributes
    ----------
    log_gain, log_bias, log_power : Parameter
        Logarithms, as in [1]_, section 3: what is trained stays positive. Of shape ``(num_bands,)``.
    logit_b : Parameter
        The gate of the mean before a sigmoid, of shape ``(num_bands,)``. For slow means it is the logarithm of ``b``.

    References
    ----------
    .. [1] Y. Wang et al., "Trainable frontend for robust and far-field keyword spotting", ICASSP 2017,
       arXiv:1607.05666. It mixes the means of several fixed gates; here the gate itself is trained.

    Examples
    --------
    >>> import torch
    >>> from fastrecur.torch import PCEN
    >>> normalize = PCEN(2)
    >>> normalize(torch.tensor([[1.0, 1.0, 100.0], [2.0, 2.0, 2.0]])).detach()
    tensor([[0.3178, 0.3178, 4.1985],
            [0.5738, 0.5626, 0.5521]])
    >>> [tuple(p.shape) for p in normalize.parameters()]
    [(2,), (2,), (2,), (2,)]
    """

    def __init__(
        self, num_bands: int, *, gain: float = 0.98, bias: float = 2.0, power: float = 0.5, b: float = 0.025,
        eps: float = 1e-6, max_size: int = 1, axis: int = -1, device: Any = None, dtype: Any = None,
    ):  # fmt: skip
        super().__init__()
        for name, value in (("gain", gain), ("bias", bias), ("power", power), ("eps", eps), ("b", b)):
            if not 0 < value < (1 if name == "b" else float("inf")):
                raise ValueError(say.constant_domain(name, "0 < b < 1" if name == "b" else f"{name} > 0", value))
        checks.count("num_bands", num_bands)
        self.num_bands, self.eps, self.max_size, self.axis = num_bands, eps, max_size, axis
        starts = (math.log(value) for value in (gain, bias, power, b / (1 - b)))
        self.log_gain, self.log_bias, self.log_power, self.logit_b = (
            nn.Parameter(torch.full((num_bands,), start, device=device, dtype=dtype)) for start in starts
        )

    def forward(self, S: torch.Tensor, zi: Any = None, return_zf: bool = False) -> Any:  # noqa: N803 - librosa's name
        """Return what is made of energies or magnitudes, which are not negative: normalized ones, in the same shape.

        A stream goes on from ``zi``, what `return_zf` has returned with the chunk before, as in
        `fastrecur.smoothing.pcen`.
        """
        time_last = self.axis % max(1, S.dim()) == S.dim() - 1
        bands = S.shape[-2 if time_last else -1] if S.dim() > 1 else None
        if bands != self.num_bands:
            raise ValueError(say.pcen_bands(self.num_bands, tuple(S.shape), self.axis))
        constants = self.log_gain.exp(), self.log_bias.exp(), self.log_power.exp(), self.logit_b.sigmoid()
        gain, bias, power, b = (v[:, None] if time_last else v for v in constants)
        return pcen(
            S, gain=gain, bias=bias, power=power, b=b, eps=self.eps, max_size=self.max_size, axis=self.axis,
            max_axis=-2 if time_last else -1, zi=zi, return_zf=return_zf,
        )  # fmt: skip

    def extra_repr(self) -> str:
        """Return what is shown of the module."""
        return f"{self.num_bands}, eps={self.eps}, axis={self.axis}"
