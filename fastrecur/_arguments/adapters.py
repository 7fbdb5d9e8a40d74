"""What adapters enter when they are imported, and what they are told from above: neither imports the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# Plain types of tensors, and what runs a call whose second operand is of one: most such calls are known early.
# Names, not a dictionary: torch's compiler does not follow one whose keys are types.
tensor_types: tuple[type, ...] = ()
quick_forward: Callable[..., Any]
quick_vjp: Callable[..., Any]

# What `torch.cuda.current_stream` asks for the handle of a stream, without the object around it. None: ask that.
raw_stream: Callable[[int], int] | None = None

# The public functions by family, forward and adjoint: what a subclass or a mode of torch is told was called.
public: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {}
