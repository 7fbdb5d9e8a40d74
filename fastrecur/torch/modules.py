"""Modules with the names and arguments of torchqrnn."""

from __future__ import annotations

import torch

from .._arguments import messages as say
from .._plan import problem
from ..recurrence import forget_mult
from ._operator import tensors

__all__ = ["ForgetMult"]


class ForgetMult(torch.nn.Module):
    r"""The recurrence as torchqrnn's module.

    ``h[t] = f[t]*x[t] + (1 - f[t])*h[t-1]``

    .. math:: h_t = f_t x_t + (1 - f_t) h_{t-1}

    It has no parameters. `fastrecur.forget_mult` does the same, on any axis and with more options.

    Examples
    --------
    >>> import torch
    >>> from fastrecur.torch import ForgetMult
    >>> f, x = torch.full((3, 1, 1), 0.5), torch.tensor([8.0, 4.0, 2.0]).reshape(3, 1, 1)
    >>> ForgetMult()(f, x).flatten()
    tensor([4., 4., 3.])
    """

    def forward(
        self, f: torch.Tensor, x: torch.Tensor, hidden_init: torch.Tensor | None = None, use_cuda: bool = True
    ) -> torch.Tensor:
        """Return the states, (T, B, H).

        Parameters
        ----------
        f, x : Tensor
            The gate and the candidates, (T, B, H).
        hidden_init : Tensor, optional
            The state before the first step, (B, H) or (1, B, H). Zeros if left out.
        use_cuda : bool
            For torchqrnn's call sites only: it changes nothing, the recurrence is run where the tensors are.
        """
        if hidden_init is not None:
            if not isinstance(hidden_init, torch.Tensor):
                raise TypeError(say.not_a_tensor("hidden_init", type(hidden_init)))
            if hidden_init.dim() == x.dim() and hidden_init.shape[0] == 1:
                hidden_init = hidden_init[0]
            problem.check_fits("hidden_init", hidden_init.shape, tensors.result_shape(problem.FORGET, f, x)[1:])
        return forget_mult(f, x, hidden_init)
