"""Filters of Dask arrays: chunks of time one after the other, with the state from each to the next."""

import functools

import dask.array as da
import numpy as np

from .. import _dask
from .._arguments import messages as say, shapes
from .._cpu import filters
from .._cpu.machine import threads
from .._dask import SEGMENTS, Operand
from .._plan.filters import check_a0, check_cascade, floats, lengths_of, state_shape, take

_FIELDS = SEGMENTS - 1  # the axis of coefficients, which is none of the result's


def sosfilt(x, sos, zi, axis, reverse, lengths, out, fields, poles):
    """Return the graph of a cascade's output, and that of the states after it."""
    if out is not None:
        raise TypeError(say.out_lazy())
    x, sos, zi = (v if v is None else taken(name, v) for name, v in (("x", x), ("sos", sos), ("zi", zi)))
    axis = shapes.axis_of(axis, x.shape, ("x",))
    form, every = sos.shape, tuple(range(x.ndim))
    wanted = state_shape(form, x.shape, axis, poles)
    count, order = wanted[0], wanted[axis + 1]
    check_cascade(sos, {"zi": zi}, x.shape, axis, fields, poles)
    if zi is not None and zi.dtype.kind == "c":
        x = x.astype(np.result_type(x.dtype, np.complex64))
    lengths, lanes = lengths_of(lengths, x.shape, axis), every[:axis] + every[axis + 1 :]
    own = () if sos.ndim == 2 else every if sos.ndim == x.ndim + 2 else lanes
    sos = Operand(sos.reshape(*form[:-2], count * form[-1]), (*own, _FIELDS))
    if zi is not None:
        xp = da if isinstance(zi, da.Array) else np
        zi = xp.broadcast_to(zi, wanted)
        zi = xp.moveaxis(zi, axis + 1, 1).reshape(count * order, *(x.shape[k] for k in lanes))
    first = Operand(zi, () if zi is None else (SEGMENTS, *lanes))
    operands = {"x": Operand(x, every), "sos": sos, "lengths": Operand(lengths, () if lengths is None else lanes)}
    step = functools.partial(_chunk, axis=axis, reverse=reverse, count=count, poles=poles)
    walk = _dask.along_time("sosfilt", step, x.shape, axis, operands, first, reverse, count * order)
    wide = np.result_type(x.dtype, np.float64)
    last = walk.result("last", -1, np.empty((0,) * x.ndim, wide))
    last = last.reshape(count, order, *last.shape[1:])
    return walk.result("y", 0, np.empty((0,) * x.ndim, x.dtype)), da.moveaxis(last, 1, axis + 1)


def sosfilt_vjp(*arguments):
    raise TypeError(say.filter_lazy())


def taken(name, value):
    """Return an argument as a Dask array, or another, of floats or complex numbers."""
    value = _dask.take(name, value)
    return floats(name, value) if isinstance(value, da.Array) else take(name, value)[0]


def _chunk(state, place, x, sos, lengths, *, axis, reverse, count, poles):
    lanes = x.shape[:axis] + x.shape[axis + 1 :]
    sos = sos.reshape(*sos.shape[:-1], count, sos.shape[-1] // count)
    if not poles:
        check_a0(sos)
    zi = None if state is None else np.moveaxis(state.reshape(count, len(state) // count, *lanes), 1, axis + 1)
    y = np.empty_like(x)
    lengths = None if lengths is None else (lengths - place[0]).clip(0, x.shape[axis])
    with threads.alone():
        zf = filters.forward(x, sos, zi, axis, reverse, lengths, y, poles)
    return y, np.moveaxis(zf, axis + 1, 1).reshape(count * zf.shape[axis + 1], *lanes)
