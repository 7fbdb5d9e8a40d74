"""The exponentially weighted mean as a module, whose constant is trained."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from .. import _messages as say
from ..smoothing._statistics import ewm_mean

__all__ = ["Ewm"]

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

    .. math:: d = 2^{-1/\tau}, \quad \tau = e^{\theta}, \qquad
              y_t = \frac{\sum_{k \ge 0} d^k x_{t-k}}{\sum_{k \ge 0} d^k}.

    Parameters
    ----------
    com, span, halflife, alpha : float or array_like, optional
        Where training starts: exactly one, as for `fastrecur.smoothing.ewm_mean`. An array has a value for each series
        and broadcasts against the data.
    adjust, ignore_na, min_periods, axis
        As for `fastrecur.smoothing.ewm_mean`.
    device, dtype
        As for any module.

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
    A decay near 1 is :math:`1 - \log(2)/\tau` nearly, so a step of an optimizer changes how much is remembered by the
    same share, whether that is ten samples or a million. It cannot leave (0, 1). This is the parametrization of the
    linear recurrent unit, :math:`d = \exp(-\exp(\nu))` [1]_, with :math:`\nu = \log\log 2 - \theta`.

    References
    ----------
    .. [1] A. Orvieto, S. L. Smith, A. Gu, A. Fernando, C. Gulcehre, R. Pascanu, S. De, "Resurrecting recurrent neural
       networks for long sequences", ICML 2023, arXiv:2303.06349, section 3.3.

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
        dtype = torch.get_default_dtype() if dtype is None else dtype
        self.log_halflife = nn.Parameter(found.to(device=device or torch.get_default_device(), dtype=dtype))
        self.adjust, self.ignore_na, self.min_periods, self.axis = adjust, ignore_na, min_periods, axis

    @property
    def halflife(self) -> torch.Tensor:
        """The half-life."""
        return self.log_halflife.exp()

    def forward(self, x: torch.Tensor, times: Any = None) -> torch.Tensor:
        """Return the mean at each step.

        Parameters
        ----------
        x : Tensor
            The data; NaN is missing.
        times : array_like, optional
            The times of the samples: numbers, in the unit of the half-life.

        Returns
        -------
        Tensor
            The means, of the shape that ``x`` and the half-life broadcast to.
        """
        result: torch.Tensor = ewm_mean(
            x, halflife=self.halflife, times=times, adjust=self.adjust, ignore_na=self.ignore_na,
            min_periods=self.min_periods, axis=self.axis,
        )  # fmt: skip
        return result

    def extra_repr(self) -> str:
        """Return what is shown of the module."""
        return f"series={tuple(self.log_halflife.shape)}, adjust={self.adjust}, axis={self.axis}"
