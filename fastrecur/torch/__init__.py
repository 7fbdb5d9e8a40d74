"""PyTorch modules around the recurrence; the functions of `fastrecur` take tensors themselves."""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    from .._arguments.messages import no_torch

    raise ImportError(no_torch()) from error

from ._operator import short_calls as _short_calls  # noqa: F401 -- calls with tensors are known from now on
from .modules import ForgetMult
from .qrnn import QRNN
from .qrnn_layer import QRNNLayer
from .smoothing import PCEN, Ewm
from .state import QRNNState
from .weight_drop import WeightDrop

__all__ = ["PCEN", "QRNN", "Ewm", "ForgetMult", "QRNNLayer", "QRNNState", "WeightDrop"]
