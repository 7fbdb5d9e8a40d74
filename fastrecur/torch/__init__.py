"""PyTorch modules around the recurrence; the functions of `fastrecur` take tensors themselves."""

from .modules import ForgetMult

__all__ = ["ForgetMult"]
