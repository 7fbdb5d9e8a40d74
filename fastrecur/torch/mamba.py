"""Mamba's functions as mamba_ssm names them, of `fastrecur.selective_scan`, and transformers' models with them.

`selective_scan_fn` and `selective_state_update` take mamba_ssm's arguments in its order, on any device.
`patch_transformers` puts them in the place of transformers' own, which loop in Python.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import torch

from .._arguments import messages as say
from .._arguments.shapes import check_exact
from ..selective import selective_scan

__all__ = ["Patched", "patch_transformers", "selective_scan_fn", "selective_state_update"]

FEW = 1 << 18  # numbers of a state up to which torch's operators take less time for a step than a kernel's call
_FAMILIES = "mamba", "falcon_mamba", "jamba", "zamba"


def selective_scan_fn(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None = None,
    z: torch.Tensor | None = None,
    delta_bias: torch.Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Any:
    """Scan as mamba_ssm's function of this name does: `fastrecur.selective_scan` of (B, D, L), without more options.

    Parameters
    ----------
    u, delta, z : Tensor
        The input, the steps' lengths and the gate, (B, D, L). Without ``z`` there is no gate.
    A : Tensor
        The continuous decay, (D, N), usually negative. Real.
    B, C : Tensor
        The maps into the states and out of them: (B, N, L), for groups of channels (B, G, N, L), or constant (D, N).
    D, delta_bias : Tensor, optional
        What the input is multiplied by and added to the output, and what is added to ``delta``, (D,).
    delta_softplus : bool
        Take the softplus of ``delta`` and its bias.
    return_last_state : bool
        Also return the states after the last step.

    Returns
    -------
    y : Tensor
        The output, (B, D, L), in the dtype of ``u``.
    last_state : Tensor
        Only with ``return_last_state``: (B, D, N), in float32, or in float64 for a ``u`` in float64.

    Examples
    --------
    >>> import torch
    >>> from fastrecur.torch.mamba import selective_scan_fn
    >>> u, one = torch.tensor([[[1.0, 2.0, 3.0]]]), torch.ones(1, 1, 3)
    >>> selective_scan_fn(u, one, torch.tensor([[-0.5]]), one, one, return_last_state=True)
    (tensor([[[1.0000, 2.6065, 4.5809]]]), tensor([[[4.5809]]]))
    """
    return selective_scan(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus=delta_softplus, return_state=return_last_state
    )


def selective_state_update(
    state: torch.Tensor,
    x: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None = None,
    z: torch.Tensor | None = None,
    dt_bias: torch.Tensor | None = None,
    dt_softplus: bool = False,
) -> torch.Tensor:
    """Advance states by one step, in place, as mamba_ssm's function of this name does: for decoding.

    Parameters
    ----------
    state : Tensor
        The states, (B, D, N). They are overwritten. Of any floating dtype: a step is computed in float32 or float64.
    x, dt, z : Tensor
        The step's input, its length and its gate, (B, D).
    B, C : Tensor
        The maps into the states and out of them: (B, N), or for groups of channels (B, G, N).
    A, D, dt_bias, dt_softplus
        As for `selective_scan_fn`.

    Returns
    -------
    y : Tensor
        The output, (B, D), in the dtype of ``x``.

    Notes
    -----
    Heads, (B, H, D, N), are Mamba-2's: they raise.

    Examples
    --------
    >>> import torch
    >>> from fastrecur.torch.mamba import selective_state_update
    >>> state, one = torch.ones(1, 1, 1), torch.ones(1, 1)
    >>> selective_state_update(state, 2 * one, one, torch.tensor([[-0.5]]), one, one)
    tensor([[2.6065]])
    >>> state
    tensor([[[2.6065]]])
    """
    if x.dim() != 2:
        raise ValueError(say.exact_shape("x", x.shape, "(B, D)"))
    (batch, channels), states = x.shape, A.shape[-1]
    maps = [(batch, *v.shape[1:-1], states) if v.dim() == 3 else (batch, states) for v in (B, C)]
    for name, v, shape in (
        ("state", state, (*x.shape, states)), ("dt", dt, x.shape), ("A", A, (channels, states)), ("B", B, maps[0]),
        ("C", C, maps[1]), ("D", D, x.shape[1:]), ("z", z, x.shape), ("dt_bias", dt_bias, x.shape[1:]),
    ):  # fmt: skip
        if v is not None:
            check_exact(name, v.shape, shape)
    if state.numel() < FEW and not (B.dim() == 3 or C.dim() == 3):
        y, last = _step(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus)
    else:
        u, delta, B, C = (v.unsqueeze(1) for v in (x, dt, B, C))
        y, last = selective_scan(
            u, delta, A, B, C, D, None if z is None else z.unsqueeze(1), dt_bias, state, delta_softplus=dt_softplus,
            layout="bld", return_state=True,
        )  # fmt: skip
        y = y.squeeze(1)
    state.copy_(last)
    return y


def _step(
    state: torch.Tensor, x: torch.Tensor, dt: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor,
    D: torch.Tensor | None, z: torch.Tensor | None, dt_bias: torch.Tensor | None, dt_softplus: bool,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return a step's output and its states, of torch's operators."""
    dtype = torch.float64 if x.dtype is torch.float64 else torch.float32
    u, delta = x.to(dtype), dt.to(dtype)
    delta = delta if dt_bias is None else delta + dt_bias.to(dtype)
    delta = torch.nn.functional.softplus(delta) if dt_softplus else delta
    decay, taken = torch.exp(delta.unsqueeze(-1) * A.to(dtype)), (delta * u).unsqueeze(-1) * B.to(dtype).unsqueeze(1)
    last = decay * state.to(dtype) + taken
    y = torch.matmul(last, C.to(dtype).unsqueeze(-1)).squeeze(-1)
    y = y if D is None else y + u * D.to(dtype)
    return (y if z is None else y * torch.nn.functional.silu(z.to(dtype))).to(x.dtype), last


class Patched:
    """What `patch_transformers` has replaced; as a context manager, until it is left.

    Attributes
    ----------
    names : tuple of str
        The functions that were replaced, by family and name; empty where all of them were already.
    """

    def __init__(self, found: list[tuple[str, Any, str, Any]]) -> None:
        self.names = tuple(f"{family}.{name}" for family, _, name, _ in found)
        self._given = [(module, name, getattr(module, name)) for _, module, name, _ in found]
        for _, module, name, own in found:
            setattr(module, name, own)

    def undo(self) -> None:
        """Put transformers' own functions back."""
        while self._given:
            setattr(*self._given.pop())

    def __enter__(self) -> Patched:
        """Return what was replaced."""
        return self

    def __exit__(self, *_: object) -> None:
        """Put transformers' own functions back."""
        self.undo()

    def __repr__(self) -> str:
        """Say what was replaced."""
        return f"Patched({', '.join(self.names) or 'nothing: all was replaced before'})"


def patch_transformers() -> Patched:
    """Let transformers' Mamba-1 models scan with fastrecur: Mamba, FalconMamba, Jamba and Zamba.

    It replaces, in the modules of these models, the functions for a whole sequence and for a step in decoding, and
    turns off mamba_ssm's fused layer, if there is one. It holds for models that exist as for those that will, on every
    device; weights and caches stay as they are. On a GPU mamba_ssm's own kernels are the better choice: fastrecur's
    were not measured there.

    Returns
    -------
    Patched
        What was replaced. As a context manager it puts transformers' own functions back at the end; so does its method
        ``undo``.

    Raises
    ------
    ImportError
        Without transformers, and for a version that does not have these functions.

    Examples
    --------
    ::

        import torch
        from transformers import MambaForCausalLM
        from fastrecur.torch.mamba import patch_transformers

        model = MambaForCausalLM.from_pretrained("state-spaces/mamba-130m-hf")
        with patch_transformers():  # without `with`, for the rest of the process
            logits = model(torch.tensor([[1, 2, 3]])).logits
    """
    try:
        version = importlib.import_module("transformers").__version__
    except ImportError as error:
        raise ImportError(say.no_transformers()) from error
    return Patched([(family, *place) for family in _FAMILIES for place in _places(family, version)])


def _places(family: str, version: str) -> list[tuple[Any, str, Any]]:
    """Return the functions of a family that are not replaced yet: module, name and what takes their place."""
    path = f"transformers.models.{family}.modeling_{family}"
    try:
        module = importlib.import_module(path)
    except ImportError as error:
        raise ImportError(say.transformers_moved(version, path)) from error
    places = []
    for name, own in _REPLACED.items():
        given = getattr(module, name, None)
        if own is _no_inner and given is None:
            continue
        if given is None or own is not _no_inner and not _parameters(given) <= _parameters(own):
            raise ImportError(say.transformers_moved(version, f"{path}.{name}"))
        if given is not own:
            places.append((module, name, own))
    return places


def _parameters(function: Any) -> set[str]:
    return {p.name for p in inspect.signature(function).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD}


# As transformers names and orders arguments. The last two of the first choose among its own ways.
def _scan(
    hidden_states: Any, dt: Any, A: Any, B: Any, C: Any, D: Any = None, z: Any = None, delta_bias: Any = None,
    delta_softplus: bool = False, return_last_state: bool = False, use_mambapy: bool = False,
    use_associative_scan: bool = False,
) -> Any:  # fmt: skip
    return selective_scan_fn(hidden_states, dt, A, B, C, D, z, delta_bias, delta_softplus, return_last_state)


def _update(
    state: Any, hidden_states: Any, dt: Any, A: Any, B: Any, C: Any, D: Any = None, dt_bias: Any = None,
    dt_softplus: bool = False, z: Any = None,
) -> Any:  # fmt: skip
    return selective_state_update(state, hidden_states, dt, A, B, C, D, z, dt_bias, dt_softplus)


def _no_inner(*_: Any, **__: Any) -> None:
    """Say that there is no fused layer, as transformers' own function does."""


_REPLACED = {"mamba_selective_scan": _scan, "mamba_selective_state_update": _update, "mamba_inner_fn": _no_inner}
