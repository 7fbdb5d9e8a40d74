"""PyTorch modules around the recurrence; the functions of `fastrecur` take tensors themselves."""

from . import _call as _call  # calls with tensors are known from now on
from .ewm import Ewm
from .modules import ForgetMult
from .pcen import PCEN
from .qrnn import QRNN
from .qrnn_layer import QRNNLayer
from .state import QRNNState
from .weight_drop import WeightDrop

__all__ = ["PCEN", "QRNN", "Ewm", "ForgetMult", "QRNNLayer", "QRNNState", "WeightDrop"]
