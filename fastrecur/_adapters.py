"""What adapters enter when they are imported, and what they are told from above: neither imports the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# By the type of the second operand: what runs a call at once, or returns None where other operands must be looked at.
quick_forward: dict[type, Callable[..., Any]] = {}
quick_vjp: dict[type, Callable[..., Any]] = {}

# The public functions by family, forward and adjoint: what a subclass or a mode of torch is told was called.
public: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {}
