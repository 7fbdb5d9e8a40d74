"""PyTorch modules around the recurrence; the functions of `fastrecur` take tensors themselves."""

from . import _short_calls as _short_calls  # calls with tensors are known from now on
from .modules import ForgetMult
from .qrnn import QRNN
from .qrnn_layer import QRNNLayer
from .state import QRNNState
from .weight_drop import WeightDrop

__all__ = ["QRNN", "ForgetMult", "QRNNLayer", "QRNNState", "WeightDrop"]
