"""Per-channel energy normalization as a module, whose parameters are trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .. import _messages as say
from ..smoothing._filters import pcen

__all__ = ["PCEN"]


class PCEN(nn.Module):
    r"""Per-channel energy normalization with parameters of its own for each band, all of which are trained.

    .. math:: M_t = b S_t + (1 - b) M_{t-1}, \qquad
              P_t = \Big(\frac{S_t}{(\varepsilon + M_t)^{\text{gain}}} + \text{bias}\Big)^{\text{power}}
              - \text{bias}^{\text{power}}

    It is `fastrecur.smoothing.pcen`, so :math:`M` starts from 1.

    Parameters
    ----------
    num_bands : int
        The number of bands.
    gain, bias, power, b : float
        Where training starts. The defaults are those of [1]_, section 2: 0.98, 2, 0.5, 0.025.
    eps : float
        The lower bound of the mean: a constant.
    axis : int, default -1
        The axis of time. If it is the last one, bands are on the one before it, else on the last.
    device, dtype
        As for any module.

    Attributes
    ----------
    log_gain, log_bias, log_power : Parameter
        Logarithms, as in [1]_, section 3: what is trained stays positive. Of shape ``(num_bands,)``.
    logit_b : Parameter
        The gate of the mean before a sigmoid, of shape ``(num_bands,)``. For slow means it is the logarithm of ``b``.

    Raises
    ------
    ValueError
        For parameters that are not positive, or a ``b`` that is not below 1.

    Notes
    -----
    The paper mixes the means of several fixed gates; here the gate itself is trained, through the recurrence.

    References
    ----------
    .. [1] Y. Wang, P. Getreuer, T. Hughes, R. F. Lyon, R. A. Saurous, "Trainable frontend for robust and far-field
       keyword spotting", ICASSP 2017, arXiv:1607.05666, equations (1) and (2).

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
        eps: float = 1e-6, axis: int = -1, device: Any = None, dtype: Any = None,
    ):  # fmt: skip
        super().__init__()
        for name, value in (("gain", gain), ("bias", bias), ("power", power), ("eps", eps), ("b", b)):
            if not 0 < value < (1 if name == "b" else float("inf")):
                raise ValueError(say.constant_domain(name, "0 < b < 1" if name == "b" else f"{name} > 0", value))
        self.num_bands, self.eps, self.axis = num_bands, eps, axis

        def full(value: float) -> torch.Tensor:
            return torch.full((num_bands,), value, device=device, dtype=dtype)

        self.log_gain, self.log_bias, self.log_power = (nn.Parameter(full(v).log()) for v in (gain, bias, power))
        self.logit_b = nn.Parameter(full(b).logit())

    def forward(self, S: torch.Tensor) -> torch.Tensor:  # noqa: N803 - librosa's name
        """Return normalized energies.

        Parameters
        ----------
        S : Tensor
            Energies or magnitudes, not negative.

        Returns
        -------
        Tensor
            Of the shape of ``S``.
        """
        time_last = self.axis % max(1, S.dim()) == S.dim() - 1
        bands = S.shape[-2 if time_last else -1] if S.dim() > 1 else None
        if bands != self.num_bands:
            raise ValueError(say.pcen_bands(self.num_bands, tuple(S.shape), self.axis))
        logs = (self.log_gain, self.log_bias, self.log_power)
        gain, bias, power, b = (
            v[:, None] if time_last else v for v in (*(log.exp() for log in logs), self.logit_b.sigmoid())
        )
        result: torch.Tensor = pcen(S, gain=gain, bias=bias, power=power, b=b, eps=self.eps, axis=self.axis)
        return result

    def extra_repr(self) -> str:
        """Return what is shown of the module."""
        return f"{self.num_bands}, eps={self.eps}, axis={self.axis}"
