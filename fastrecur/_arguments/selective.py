"""What a call of the selective scan is given: operands, their shapes, and where states begin anew."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np

from . import checks, messages as say
from .records import SCAN
from .shapes import check_exact

Named = dict[str, Any]  # arrays, or what has a shape, by the names of `SCAN`; None for what is not given
# What is differentiated: arrays, or of each the same thing about it; None for what is not given.
Operands = namedtuple("Operands", "u delta A B C D z delta_bias h0", defaults=(None, None, None, None))
TIMED = "u", "delta", "z"  # which have a number for each step, sequence and channel
MAPS = "B", "C"  # which have one for each state
# How a call computes; `check` has looked at them, and lengths, offsets and resets are NumPy's.
Options = namedtuple("Options", "softplus layout reverse lengths offsets resets")
# How many there are; rows are sequences or segments: what has states of its own.
Sizes = namedtuple("Sizes", "batch steps channels states rows")


def check(
    named: Named, softplus: Any, layout: Any, reverse: Any, lengths: Any, offsets: Any, resets: Any
) -> tuple[Sizes, Options]:
    """Return the sizes and the options of a call; raise for what does not go with its arrays, by name."""
    given = zip(("lengths", "offsets", "resets"), (lengths, offsets, resets), strict=True)
    lengths, offsets, resets = (None if v is None else checks.on_host(name, v) for name, v in given)
    sizes, (softplus, layout, reverse) = check_shapes(named, softplus, layout, reverse, lengths, offsets, resets)
    if offsets is not None:
        offsets = checks.offsets_in_range(offsets, sizes.steps)
    if lengths is not None:
        lengths = checks.lengths_in_range(lengths, sizes.steps)
    if resets is not None:
        resets = np.broadcast_to(resets, (sizes.batch, sizes.steps))
    return sizes, Options(softplus, layout, reverse, lengths, offsets, resets)


def check_shapes(
    named: Named, softplus: Any, layout: Any, reverse: Any, lengths: Any, offsets: Any, resets: Any
) -> tuple[Sizes, tuple[bool, str, bool]]:
    """Return the sizes and three options of a call, of whose lengths, offsets and resets no number is looked at."""
    shapes = {name: value.shape for name, value in named.items() if value is not None}
    softplus, reverse = checks.flag("delta_softplus", softplus), checks.flag("reverse", reverse)
    if layout not in ("bdl", "bld"):
        raise ValueError(say.scan_layout(layout))
    for name, rule in (("u", f"(B, {', '.join(layout[1:].upper())})"), ("A", "(D, N)")):
        if len(shapes[name]) != rule.count(",") + 1:
            raise ValueError(say.exact_shape(name, shapes[name], rule))
    u, a = shapes["u"], shapes["A"]
    channels, steps = u[1:] if layout == "bdl" else u[:0:-1]
    if channels != a[0] == steps:
        raise ValueError(say.scan_other_layout(channels, layout, steps, "bld" if layout == "bdl" else "bdl"))
    batch, states, rows = u[0], a[1], u[0]
    if offsets is not None:
        if lengths is not None:
            raise ValueError(say.offsets_and_lengths())
        if batch != 1:
            raise ValueError(say.scan_offsets_batch(batch))
        rows = offsets.shape[0] - 1
    if lengths is not None:
        check_exact("lengths", lengths.shape, (batch,))
    if resets is not None:
        if len(resets.shape) != 2 or any(n not in (1, m) for n, m in zip(resets.shape, (batch, steps), strict=True)):
            raise ValueError(say.exact_shape("resets", resets.shape, (batch, steps)))
    wanted = {"full": u, "D N": (channels, states), "D": (channels,), "B D N": (rows, channels, states)}
    for name, shape in shapes.items():
        if checks.is_complex(named[name].dtype):
            raise ValueError(say.scan_complex(name, named[name].dtype))
        if SCAN[name].shape in wanted:
            check_exact(name, shape, wanted[SCAN[name].shape])
    groups = [_groups(name, shapes[name], layout, (batch, steps, channels, states)) for name in MAPS]
    if 1 not in groups and groups[0] != groups[1]:
        raise ValueError(say.scan_two_groups(*groups))
    return Sizes(batch, steps, channels, states, rows), (softplus, layout, reverse)


def check_out(out: np.ndarray, dtype: np.dtype, operands: Operands, ends: Any) -> None:
    """Raise unless an array may be written to; it may be what has a number for each of its own. ``ends`` are named."""
    named = operands._asdict()
    timed = [(name, named.pop(name)) for name in TIMED]
    checks.out_array(out, operands.u.shape, dtype, timed, [*named.items(), *ends])


def _groups(name, shape, layout, sizes):
    """Return how many groups of channels have numbers of their own in B or C; one if it is the same for all steps."""
    batch, steps, channels, states = sizes
    wanted, group = ((batch, states, steps), 1) if layout == "bdl" else ((batch, steps, states), 2)
    if len(shape) == 4 and (*shape[:group], *shape[group + 1 :]) == wanted:
        if shape[group] == 0 or channels % shape[group]:
            raise ValueError(say.scan_groups(name, channels, shape[group]))
        return shape[group]
    if tuple(shape) not in (wanted, (channels, states)):
        grouped = f"({', '.join(map(str, (*wanted[:group], 'G', *wanted[group:])))})"
        raise ValueError(say.scan_map(name, wanted, grouped, (channels, states), shape))
    return 1


def by_time(name: str, array: Any, layout: str) -> Any:
    """Return a view of an operand with the axes (batch, step, channel), or (batch, step, group, state)."""
    if name in MAPS:
        if array.ndim == 2:
            return array
        if array.ndim == 3:
            array = array[:, None] if layout == "bdl" else array[:, :, None]
        return array.transpose(0, 3, 1, 2) if layout == "bdl" else array
    return array.transpose(0, 2, 1) if layout == "bdl" else array
