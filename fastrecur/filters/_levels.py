"""A call of levels that follow a signal, envelopes or Holt's: taken, checked, run and handed back in any library."""

import functools
import sys
from collections import namedtuple

import numpy as np

from .. import _dispatch
from .._arguments import messages as say, shapes
from .._cpu.machine import allocate, threads
from .._plan.filters import take
from . import _call

# Levels: their name in all adapters, and how many results are like the signal. `check` looks at x, others by name and
# the axis, as `check_levels` does; `prepare` returns the axis and what adapters are given beside x; `operands` makes of
# that a walk's operands and first state, for Dask arrays, and `resume` of a state and blocks what a chunk is given.
# `last` makes of the last level what is returned behind the results, and is None where nothing is; `rows` of one, if it
# is given, is how many numbers each series has there. ``anywhere`` says that devices without kernels have it, too.
Levels = namedtuple(
    "Levels", "name results check prepare operands resume run last rows anywhere", defaults=(None, False)
)


def call(kind, x, given, axis, out=None):
    """Return the results of a call, and behind them, if there is one, the last level, with 1 in place of the axis."""
    place = _dispatch.place(x, *given.values(), out)
    if place == "device":
        return getattr(_dispatch.on_device("levels"), kind.name)(x, given, axis, out, kind.check)
    return _RUN[place](kind, x, given, axis, out)


def wide(array):
    return array.astype(np.float64) if hasattr(array, "astype") else array.double()


def _of_arrays(kind, x, given, axis, out):
    (x, owner), given = take("x", x), {name: take(name, value)[0] for name, value in given.items()}
    axis, rest = kind.prepare(np, x, given, axis)
    strides = shapes.like(x.shape, x.dtype, (x.shape, x.strides))
    if out is None:
        made = [allocate.empty(x.shape, x.dtype, strides) for _ in range(kind.results)]
    else:
        made = [_call.check_out(out, x, x.dtype, (("x", x), *given.items()))]
    last = kind.run(x, *rest, axis, *made)
    results = map(owner.give, made) if out is None else [out]
    return *results, *([owner.give(np.ascontiguousarray(kind.last(np, last, axis)))] if kind.last else [])


def _of_tensors(kind, x, given, axis, out):
    tensor_of = functools.partial(_dispatch.tensors("filters").tensor_of, anywhere=kind.anywhere)
    x = tensor_of("x", x, None)
    given = {name: tensor_of(name, value, x).to(x.device) for name, value in given.items()}
    axis, rest = kind.prepare(sys.modules["torch"], x, given, axis)
    if out is not None:
        _dispatch.tensors("filters").check_out(out, x, (x, *given.values()))
    y, *more = getattr(_dispatch.tensors("levels"), kind.name)(x, *rest, axis)
    if kind.last:
        more[-1] = kind.last(sys.modules["torch"], more[-1], axis)
    return y if out is None else out.copy_(y), *more


def _of_dask(kind, x, given, axis, out):
    import dask.array as da

    from .. import _dask
    from ._lazy import taken

    if out is not None:
        raise TypeError(say.out_lazy())
    x, *values = (da.asarray(taken(name, value)) for name, value in {"x": x, **given}.items())
    axis, rest = kind.prepare(da, x, dict(zip(given, values, strict=True)), axis)
    operands, first = kind.operands(da, x, axis, *rest)
    operands = {name: _dask.Operand(*operand) for name, operand in {"x": (x, tuple(range(x.ndim))), **operands}.items()}
    step = functools.partial(_chunk, kind=kind, axis=axis)
    rows = kind.rows and kind.rows(*rest)
    walk = _dask.along_time(kind.name, step, x.shape, axis, operands, _dask.Operand(*first), segments=rows)
    found = [walk.result(f"{kind.name}{k}", k, _dask.empty_like(x)) for k in range(kind.results)]
    if kind.last:
        last = walk.result("last", -1, np.empty((0,) * (x.ndim - 1 + bool(rows))))
        found.append(kind.last(da, last, axis))
    return found


def moved(xp, array, source, target):
    """Return an array with an axis moved; a tensor by what has a rule for every transform."""
    return array.movedim(source, target) if hasattr(array, "movedim") else xp.moveaxis(array, source, target)


def as_step(xp, last, axis):
    """Return the last level with 1 in place of time's axis."""
    return moved(xp, last[None], 0, axis)


def _chunk(state, place, x, *blocks, kind, axis):
    made = [np.empty_like(x) for _ in range(kind.results)]
    with threads.alone():
        return *made, kind.run(x, *kind.resume(state, *blocks), axis, *made)


_RUN = {"memory": _of_arrays, "tensors": _of_tensors, "lazy": _of_dask}
