"""PyTorch modules around the recurrence; the functions of `fastrecur` take tensors themselves."""

from . import _call as _call  # calls with tensors are known from now on
from .modules import ForgetMult
from .qrnn import QRNN, QRNNLayer
from .weight_drop import WeightDrop

__all__ = ["QRNN", "ForgetMult", "QRNNLayer", "WeightDrop"]
