"""An envelope follower: what is checked of a call, and which library computes."""

import sys

import numpy as np

from .. import _dispatch
from .._arguments import arrays, checks, messages as say, shapes
from .._cpu import levels
from .._cpu.machine import allocate
from .._plan.filters import check_real, take_in_memory
from .._plan.problem import check_fits
from . import _call


def follow(x, attack, release, axis, zi, return_state, out):
    """Return the envelope, and the last of it where it is wanted, with 1 in place of the axis."""
    axis, wants_state = checks.axis(axis), checks.flag("return_state", return_state) or zi is not None
    if type(x) is np.ndarray and zi is None and out is None and type(attack) is float and type(release) is float:
        known = levels.quick("follow", x, axis, attack, release, wants_state)
        if known is not None:
            return known if wants_state else known[0]
    given = {"attack": attack, "release": release} | ({} if zi is None else {"zi": zi})
    values = x, *given.values(), out
    if arrays.any_tensor(*values):
        y, zf = _of_tensors(x, given, axis, out)
    elif arrays.any_on_device(*values):
        y, zf = _dispatch.gpu_levels().follow(x, given, axis, out, _checked)
    else:
        y, zf = (_of_dask if arrays.any_lazy(*values) else _of_arrays)(x, given, axis, out)
    return (y, zf) if wants_state else y


def _checked(x, given, axis):
    """Return the axis, counted from the first, and the shapes of states with 1 there and without it."""
    axis, one, series = check_real(x, given, axis, say.follow_real)
    for name, value in given.items():
        check_fits(name, value.shape, one if name == "zi" else tuple(x.shape))
    return axis, one, series


def _of_arrays(x, given, axis, out):
    x, owner, given = take_in_memory(x, given)
    axis, one, series = _checked(x, given, axis)
    if out is None:
        y = allocate.empty(x.shape, x.dtype, shapes.like(x.shape, x.dtype, (x.shape, x.strides)))
    else:
        y = _call.check_out(out, x, x.dtype, (("x", x), *given.items()))
    first = np.broadcast_to(given.get("zi", np.zeros(())), one).reshape(series).astype(np.float64)
    last = levels.follow(x, given["attack"], given["release"], first, axis, y)
    return (owner.give(y) if out is None else out), owner.give(np.ascontiguousarray(np.expand_dims(last, axis)))


def _of_dask(x, given, axis, out):
    from . import _lazy

    if out is not None:
        raise TypeError(say.out_lazy())
    x, given = _lazy.taken("x", x), {name: _lazy.taken(name, value) for name, value in given.items()}
    axis, *_ = _checked(x, given, axis)
    return _lazy.follow(x, given, axis)


def _of_tensors(x, given, axis, out):
    torch, adapter = sys.modules["torch"], _dispatch.tensor_levels()
    x = adapter.tensor_of("x", x, None)
    given = {name: adapter.tensor_of(name, value, x).to(x.device) for name, value in given.items()}
    axis, one, series = _checked(x, given, axis)
    if out is not None:
        _dispatch.tensor_filters().check_out(out, x, (x, *given.values()))
    zi = given.get("zi")
    first = x.new_zeros(series, dtype=torch.float64) if zi is None else zi.double().expand(one).reshape(series)
    attack, release = (
        v.reshape((1,) * (x.dim() - v.dim()) + tuple(v.shape)) for v in (given["attack"], given["release"])
    )
    y, last = adapter.follow(x, attack, release, first, axis)
    return (y if out is None else out.copy_(y)), last.unsqueeze(axis)
