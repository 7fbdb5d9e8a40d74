"""DropConnect: dropout on a module's weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from .._arguments import messages as say
from ._rnn.arguments import probability


class WeightDrop(nn.Module):
    r"""A module whose weights are dropped out anew at every call.

    In training each element of the weights is 0 with probability `dropout`, and the others are divided by
    ``1 - dropout``. This is the regularisation of the AWD-LSTM [1]_, with the arguments and names of its code.

    Parameters
    ----------
    module : Module
        What is called. It is changed: its parameter ``weight`` becomes ``weight_raw``, as in awd-lstm-lm's state dicts.
    weights : sequence of str
        The names of the parameters.
    dropout : float, default 0
        The probability, in [0, 1].
    variational : bool, default False
        Drop whole rows, and in evaluation as well, as awd-lstm-lm does.

    References
    ----------
    .. [1] S. Merity, N. S. Keskar, R. Socher, "Regularizing and Optimizing LSTM Language Models", ICLR 2018,
       arXiv:1708.02182, section 2.

    Examples
    --------
    >>> import torch
    >>> from fastrecur.torch import QRNNLayer, WeightDrop
    >>> layer = QRNNLayer(3, 4)
    >>> layer.linear = WeightDrop(layer.linear, ["weight"], dropout=0.5)
    >>> list(layer.state_dict())
    ['linear.module.bias', 'linear.module.weight_raw']
    """

    def __init__(self, module: nn.Module, weights: Sequence[str], dropout: float = 0.0, variational: bool = False):
        super().__init__()
        if not isinstance(module, nn.Module):
            raise TypeError(say.weight_drop_module(type(module)))
        if isinstance(weights, str) or not isinstance(weights, Iterable):
            raise TypeError(say.weight_drop_weights(weights))
        weights = list(dict.fromkeys(weights))
        for name in weights:
            if module._parameters.get(name) is None:
                raise ValueError(say.weight_drop_names(name, type(module).__name__))
        self.module: Any = module
        self.weights, self.dropout, self.variational = weights, probability("dropout", dropout), variational
        for name in self.weights:
            module.register_parameter(name + "_raw", module._parameters.pop(name))

    def reset_parameters(self) -> None:
        """Draw new weights, as the module draws them."""
        module: Any = self.module
        for name in self.weights:
            module._parameters[name] = module._parameters.pop(name + "_raw")
        try:
            module.reset_parameters()
        finally:
            for name in self.weights:
                module._parameters[name + "_raw"] = module._parameters.pop(name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module with dropped weights."""
        dropped = {name: self._dropped(getattr(self.module, name + "_raw")) for name in self.weights}
        return torch.func.functional_call(self.module, dropped, args, kwargs)

    def _dropped(self, weight: torch.Tensor) -> torch.Tensor:
        if self.variational:
            return weight * nn.functional.dropout(weight.new_ones(weight.shape[0], 1), self.dropout)
        return nn.functional.dropout(weight, self.dropout, self.training)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # awd-lstm-lm's checkpoints may hold the weights of their last call beside the raw ones.
        for name in self.weights:
            if f"{prefix}module.{name}_raw" in state_dict:
                state_dict.pop(f"{prefix}module.{name}", None)
        super()._load_from_state_dict(state_dict, prefix, *args)
