"""Levels that follow arrays on a GPU, envelopes and Holt's: look at them, and run a kernel of their plan."""

import numpy as np

from .._arguments import shapes
from .call import floats, is_view, result, take_views
from .filters import check_out, fresh, run_levels, taken

_WIDE = np.dtype(np.float64)


def follow(x, given, axis, out, check):
    """Return an envelope and the last of it; ``check`` returns the axis and the shape of states, with 1 there."""
    views, ends, work = taken({"x": x, **given, "out": out}, numbers=("attack", "release"))
    signal, to, first = views.pop("x"), views.pop("out"), views.get("zi")
    axis, one, _ = check(signal, _with_shapes(views), axis)
    if to is not None:
        check_out(to, signal, floats(signal.dtype), {k: v for k, v in views.items() if is_view(v)}, ends)
    y, form, y_at = result(signal, floats(signal.dtype), work, out, to)
    last, last_at = work.empty(one, _WIDE)
    operands = {"x": signal, "attack": views["attack"], "release": views["release"], "h0": first}
    made = {"y": (form, y_at), "last": (fresh(one, _WIDE), last_at)}
    run_levels("follow", operands, made, axis, work)
    return y, last


def holt(x, given, axis, _out, check):
    """Return levels and trends; ``check`` returns the axis, the shape of states with 1 there, and without it."""
    views, _, work = taken({"x": x, **given}, numbers=tuple(given))
    signal = views.pop("x")
    axis, one, series = check(signal, _with_shapes(views), axis)
    for name in views.keys() & {"level", "trend"}:
        if is_view(own := views[name]):
            strides = shapes.spread(own.shape, own.strides, series)
            views[name] = own._replace(shape=one, strides=(*strides[:axis], 0, *strides[axis:]))
    made = (result(signal, floats(signal.dtype), work, None, None) for _ in range(2))
    (level, form, y_at), (trend, _, trend_at) = made
    operands = {"x": signal, **{f"{name}0": views.pop(name, None) for name in ("level", "trend")}, **views}
    run_levels("holt", operands | {"waits": None}, {"y": (form, y_at), "slope": (form, trend_at)}, axis, work)
    return level, trend


def _with_shapes(views):
    return {name: np.array(v) if type(v) is float else v for name, v in views.items()}


def run_tensors(kernel, axis, **tensors):
    """Run a kernel of `level_plan` on an operator's tensors, results included; states have 1 in place of time."""
    views, _, work = take_views(None, tuple(tensors), tuple(tensors.values()), None)
    run_levels(kernel, dict(zip(tensors, views, strict=True)), {}, axis, work)
