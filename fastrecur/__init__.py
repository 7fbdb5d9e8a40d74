"""The forget-mult recurrence as one fast, exact, differentiable primitive for any array."""

from ._threads import get_num_threads, set_num_threads
from .recurrence import forget_mult, forget_mult_vjp, linear_recurrence, linear_recurrence_vjp

__all__ = [
    "forget_mult",
    "forget_mult_vjp",
    "get_num_threads",
    "linear_recurrence",
    "linear_recurrence_vjp",
    "set_num_threads",
]
