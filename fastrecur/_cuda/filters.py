"""Filters of arrays on a GPU: look at them, plan one launch, put it in order with their streams.

Coefficients and states may be the host's, which are copied; those on a GPU are not looked at. A complex signal is two
series, of which the kernel knows nothing.
"""

import functools
import math
from types import SimpleNamespace

import numpy as np

from .._arguments import checks, messages as say, shapes
from .._arguments.arrays import element, is_on_device
from .._plan import loops, problem
from .._plan.filters import check_a0, check_polynomial, check_sections, check_states, state_shape, take
from . import plan as _plan
from .call import (
    Form,
    floats,
    ghost_of as _ghost,
    ghost_of_out,
    is_view as _is_view,
    result,
    signature_of as _signature,
    take_views as _take,
)
from .kernels.filters import THREADS

_NAMES = "x", "sos", "h0", "y", "last", "lengths"
_WIDE, _PAIR = np.dtype(np.float64), np.dtype(np.complex128)


def taken(values, lengths=None, numbers=()):
    """Return views of what is on a device and of copies of the rest, by name; lengths, and the call's place.

    ``values`` are by name; x and out are no host's, None is left out. Python's numbers stay such where ``numbers`` has
    their names.
    """
    values = {k: float(v) if k in numbers and checks.is_number(v) else v for k, v in values.items()}
    there = {k: v if k in ("x", "out") or type(v) is float or is_on_device(v) else None for k, v in values.items()}
    views, ends, work = _take(None, tuple(there), tuple(there.values()), lengths)
    found = dict(zip(there, views, strict=True))
    for name, value in values.items():
        if value is not None and found[name] is None:
            found[name] = work.upload(name, take(name, value, halves=())[0])
        elif value is None and name not in ("zi", "out"):
            raise TypeError(say.not_an_array(name, type(None)))
        elif value is not None and not _is_view(found[name]) and name not in numbers:
            raise TypeError(say.not_an_array(name, type(value)))
    return found, ends, work


def check_out(view, x, dtype, others, ends):
    """Raise unless a result like x may be written to a view; it may be x, and shares nothing with ``others``."""
    ghost, ends = ghost_of_out(view, dtype, ends)
    others = [(name, _ghost(v)) for name, v in others.items() if v is not None]
    checks.out_array(ghost, x.shape, ghost.dtype, [("x", _ghost(x))], others + ends)


def sosfilt(x, sos, zi, axis, reverse, lengths, out, fields, poles):
    """Return the output of a cascade and its last states.

    ``sos`` may be a function that returns coefficients of one section, given what has a signal's shape, and its axis of
    time. States beside it, and both of ``poles``, have no axis of sections.
    """
    label, is_one = "a" if poles else "sos", poles or callable(sos)
    views, ends, work = taken({"x": x} | ({} if callable(sos) else {label: sos}) | {"zi": zi, "out": out}, lengths)
    signal, state = views["x"], views["zi"]
    axis = shapes.axis_of(axis, signal.shape, ("x",))
    if callable(sos):
        rows = sos(SimpleNamespace(shape=signal.shape, ndim=len(signal.shape)), axis)
        views[label], fields = work.upload(label, rows), rows.shape[-1]
    elif not poles and not is_on_device(sos):
        check_a0(take("sos", sos)[0])
    given = views[label]
    if given.dtype.kind == "c":
        raise TypeError(say.filter_real(label, given.dtype))
    if state is not None and (state.dtype.kind == "c") != (signal.dtype.kind == "c"):
        raise TypeError(say.filter_states(state.dtype, signal.dtype))
    if poles:
        check_polynomial("a", given.shape, signal.shape, axis)
        form, strides = (*given.shape[:-1], 1, given.shape[-1]), given.strides
        given = given._replace(shape=form, strides=(*strides[:-1], 0, strides[-1]))
    else:
        check_sections(given.shape, signal.shape, axis, fields)
    if state is not None and is_one:
        state = state._replace(shape=(1, *state.shape), strides=(0, *state.strides))
    check_states({"zi": None if state is None else Form(*_signature(state))}, given.shape, signal.shape, axis, poles)
    if ends.lengths is not None:
        problem.check_lengths_shape(ends.lengths.shape, signal.shape[:axis] + signal.shape[axis + 1 :])
    dtype = floats(signal.dtype)
    if views["out"] is not None:
        check_out(views["out"], signal, dtype, {name: views[name] for name in (label, "zi")}, ends)
    y, to, y_at = result(signal, dtype, work, out, views["out"])
    operands = {"x": signal, "sos": given, "h0": state}
    return y, _run(operands, to, y_at, axis, reverse, ends, work, poles, is_one)


def sosfilt_vjp(g, *arguments):
    raise TypeError(say.filter_gpu("grad_y", type(g)))


def from_tensors(x, sos, zi, lengths, axis, reverse, poles, y):
    """Run a cascade of an operator's arguments, which were checked, into a tensor; return the last states."""
    views, ends, work = _take(None, ("x", "sos", "zi", "y"), (x, sos, zi, y), lengths)
    operands = dict(zip(("x", "sos", "h0"), views, strict=False))
    return _run(operands, Form(*_signature(views[3])), views[3].pointer, axis, reverse, ends, work, poles)


def _run(operands, to, y_at, axis, reverse, ends, work, poles, is_one=False):
    """Run a cascade of views; return the last states."""
    x = operands["x"]
    full = state_shape(operands["sos"].shape, x.shape, axis, poles)
    last, last_at = work.empty(full[is_one:], _PAIR if x.dtype.kind == "c" else _WIDE)
    places = {name: view.pointer for name, view in operands.items() if view is not None} | {"y": y_at, "last": last_at}
    places |= work.ends(ends, x.shape[axis])
    if math.prod(x.shape[:axis] + x.shape[axis + 1 :]):
        forms = (None if view is None else Form(*_signature(view)) for view in operands.values())
        work.run(plan(*forms, to, _signature(ends.lengths), axis, bool(reverse), poles), places)
    return last


def follow(x, given, axis, out, check):
    """Return an envelope and the last of it; ``check`` returns the axis and the shape of states, with 1 there."""
    views, ends, work = taken({"x": x, **given, "out": out}, numbers=("attack", "release"))
    signal, to, first = views.pop("x"), views.pop("out"), views.get("zi")
    axis, one, _ = check(signal, _with_shapes(views), axis)
    if to is not None:
        check_out(to, signal, floats(signal.dtype), {k: v for k, v in views.items() if _is_view(v)}, ends)
    y, form, y_at = result(signal, floats(signal.dtype), work, out, to)
    last, last_at = work.empty(one, _WIDE)
    operands = {"x": signal, "attack": views["attack"], "release": views["release"], "h0": first}
    made = {"y": (form, y_at), "last": (Form(_WIDE, one, shapes.c_strides(one, 8)), last_at)}
    _run_levels("follow", operands, made, axis, work)
    return y, last


def holt(x, given, axis, check):
    """Return levels and trends; ``check`` returns the axis, the shape of states with 1 there, and without it."""
    views, _, work = taken({"x": x, **given}, numbers=tuple(given))
    signal = views.pop("x")
    axis, one, series = check(signal, _with_shapes(views), axis)
    for name in views.keys() & {"level", "trend"}:
        if _is_view(own := views[name]):
            strides = shapes.spread(own.shape, own.strides, series)
            views[name] = own._replace(shape=one, strides=(*strides[:axis], 0, *strides[axis:]))
    made = (result(signal, floats(signal.dtype), work, None, None) for _ in range(2))
    (level, form, y_at), (trend, _, trend_at) = made
    operands = {"x": signal, **{f"{name}0": views.pop(name, None) for name in ("level", "trend")}, **views}
    _run_levels("holt", operands | {"waits": None}, {"y": (form, y_at), "slope": (form, trend_at)}, axis, work)
    return level, trend


def _with_shapes(views):
    return {name: np.array(v) if type(v) is float else v for name, v in views.items()}


def run_tensors(kernel, axis, **tensors):
    """Run a kernel of `level_plan` on an operator's tensors, results included; states have 1 in place of time."""
    views, _, work = _take(None, tuple(tensors), tuple(tensors.values()), None)
    _run_levels(kernel, dict(zip(tensors, views, strict=True)), {}, axis, work)


def _run_levels(kernel, operands, made, axis, work):
    """Run a kernel of views, and of what is made: forms and addresses."""
    places = {name: v.pointer if _is_view(v) else v for name, v in operands.items() if v is not None}
    forms = {name: Form(*_signature(v)) if _is_view(v) else v is not None for name, v in operands.items()}
    forms |= {name: form for name, (form, _) in made.items()}
    shape = forms["x"].shape
    if math.prod(shape[:axis] + shape[axis + 1 :]):
        work.run(level_plan(kernel, tuple(forms.items()), axis), places | {name: at for name, (_, at) in made.items()})


# ---- Plans ----------------------------------------------------------------------------------------------------------


def paired(form, axis=None):
    """Return a form of complex numbers as one of pairs, behind all axes."""
    if form is None or form.dtype.kind != "c":
        return form
    size = form.dtype.itemsize // 2
    return Form(np.dtype(f"f{size}"), (*form.shape, 2), (*form.strides, size))


def without(own, axis, k):
    """Return strides of a state without the numbers' axis and those before time's, and with none there."""
    return (*own[k : axis + k], 0, *own[axis + k + 1 :])


def of_series(form, shape, axis):
    """Return the strides, in all axes of a signal, of what has its series' leading axes, or all of them."""
    lanes = shape[:axis] + shape[axis + 1 :]
    missing = len(lanes) - len(form.shape)
    own = shapes.spread(form.shape + (1,) * missing, form.strides + (0,) * missing, lanes)
    return (*own[:axis], 0, *own[axis:])


def lay_out(shape, axis, reverse, strides, forms):
    """Return the values that launches over all series share, their elements, and the repetitions' offsets.

    ``strides`` are those of each operand in a signal's axes; ``forms`` have its dtype, too, by name; those of y lead.
    """
    for name, form in forms.items():
        if form is not None and any(stride % form.dtype.itemsize for stride in form.strides):
            raise ValueError(say.unaligned({"h0": "zi", "y": "out"}.get(name, name)))
    axes = sorted((k for k, n in enumerate(shape) if k != axis and n != 1), key=lambda k: -abs(strides["y"][k]))
    dims = loops.merge([(shape[k], tuple(own[k] for own in strides.values())) for k in axes])
    dims = [(size, dict(zip(strides, own, strict=True))) for size, own in dims]
    sizes, lanes, offsets = _plan.cut(dims, list(strides))
    count = math.prod(sizes)
    _plan.check_size(count, shape[axis])
    values = dict(steps=shape[axis], reverse=int(reverse), lanes=count, middles=sizes[1], inners=sizes[2], width=1)
    values |= {"tiles": 1} | {f"{name}_time": own[axis] for name, own in strides.items()}
    values |= {f"{name}_lane": own for name, own in lanes.items()}
    elements = {name: "f8" if form is None else element(form.dtype) for name, form in forms.items()}
    return values, elements | {"lengths": elements.get("lengths", "i8")}, offsets


def launch(kernel, options, values, elements, offsets, names):
    """Return the plan of one launch, of a thread for each series."""
    time, lane = abs(values["x_time"]), abs(values["x_lane"][2])
    options |= {"by_time": bool(time) and not 0 < lane < time}
    grid = -(-values["lanes"] // THREADS), 1, 1
    elements, options = (tuple(sorted(each.items())) for each in (elements, options))
    made = _plan.Launch(kernel, "", "f8", options, elements, "i8", grid, THREADS, values)
    return _plan.DevicePlan(None, "f8", names, (made,), offsets)


@functools.lru_cache(1024)
def plan(x, sos, h0, y, lengths, axis, reverse, poles):
    """Return the plan of a cascade, of forms, None for what is not there; states have SciPy's axes."""
    fields, rank, lead = sos.shape[-1], len(x.shape), len(sos.shape) - 2
    order, varies = (fields if poles else fields // 2 - 1), lead == rank
    full = state_shape(sos.shape, x.shape, axis, poles)
    wide = _PAIR if x.dtype.kind == "c" else _WIDE
    last = Form(wide, full, shapes.c_strides(full, wide.itemsize))
    if x.dtype.kind == "c" and lead:
        sos = Form(sos.dtype, (*sos.shape[:-2], 1, *sos.shape[-2:]), (*sos.strides[:-2], 0, *sos.strides[-2:]))
    x, h0, y, last = map(paired, (x, h0, y, last))
    own = (sos.shape[:-2], sos.strides[:-2])
    strides = {"x": x.strides, "y": y.strides}
    strides["sos"] = shapes.spread(*own, x.shape) if varies else of_series(Form(None, *own), x.shape, axis)
    nothing = Form(_WIDE, (1,) * (len(x.shape) + 1), (0,) * (len(x.shape) + 1))
    spread = {name: shapes.spread(v.shape, v.strides, v.shape) for name, v in (("h0", h0 or nothing), ("last", last))}
    strides |= {name: without(each, axis, 1) for name, each in spread.items()}
    ends = Form(*(lengths or (np.dtype(np.int64), (), ())))
    strides["lengths"] = of_series(ends, x.shape, axis)
    forms = {"x": x, "sos": sos, "h0": h0, "y": y, "last": last, "lengths": ends}
    values, elements, offsets = lay_out(x.shape, axis, reverse, strides, forms)
    values |= dict(sections=sos.shape[-2], section_next=sos.strides[-2], field_next=sos.strides[-1])
    for name, each in spread.items():
        values |= {f"{name}_next": each[0], f"{name}_number_next": each[axis + 1]}
    return launch("cascade", dict(order=order, poles=poles, varies=varies), values, elements, offsets, _NAMES)


@functools.lru_cache(1024)
def level_plan(kernel, forms, axis):
    """Return the plan of a kernel of pairs of names and forms; of a number instead True, of what is not there False."""
    forms = dict(forms) | {"lengths": False}
    shape, known = forms["x"].shape, {k: v if type(v) is Form else Form(_WIDE, (), ()) for k, v in forms.items()}
    strides = {name: shapes.spread(form.shape, form.strides, shape) for name, form in known.items()}
    values, elements, offsets = lay_out(shape, axis, False, strides, known)
    elements |= {name: "number" for name, form in forms.items() if form is True} | {"lengths": "i8"}
    gates = (known[k].shape for k in ("attack", "release") if kernel == "follow")
    varies = any(len(gate) >= len(shape) - axis and gate[axis - len(shape)] != 1 for gate in gates)
    options = {"varies": varies} if kernel == "follow" else {}
    return launch(kernel, options, values, elements, offsets, tuple(forms))
