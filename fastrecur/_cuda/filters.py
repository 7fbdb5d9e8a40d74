"""Filters of arrays on a GPU: look at them, plan one launch, put it in order with their streams.

Coefficients and states may be the host's, which are copied; those on a GPU are not looked at. A complex signal is two
series, of which the kernel knows nothing.
"""

import functools
import math

import numpy as np

from .._arguments import checks, messages as say, shapes
from .._arguments.arrays import element, is_on_device
from .._plan import loops, problem
from .._plan.filters import (
    FIELDS,
    check_a0,
    check_cascade,
    check_order,
    check_polynomial,
    check_settles,
    state_shape,
    take,
)
from . import plan as _plan
from .arrays import View
from .call import Form, floats, ghost_of, ghost_of_out, is_view, result, signature_of, take_views
from .kernels.filters import THREADS

_NAMES = "x", "sos", "h0", "y", "last", "lengths", "g", "to_x", "to_k"
_SIGNALS = "x", "y", "grad_y", "out"
# Sections that continue an end, fed backwards from it, and by what it is multiplied to be their first state: 2*end - x;
# x; the end.
_CONTINUED = {
    "odd": ((-1, 1, 0, 1, -1, 0), 2.0),
    "even": ((1, 0, 0, 1, 0, 0), 0.0),
    "constant": ((0, 0, 0, 1, -1, 0), 1.0),
}
_WIDE, _PAIR = np.dtype(np.float64), np.dtype(np.complex128)


def taken(values, lengths=None, numbers=()):
    """Return views of what is on a device and of copies of the rest, by name; lengths, and the call's place.

    ``values`` are by name; signals and out are no host's, None is left out. Python's numbers stay such where
    ``numbers`` has their names.
    """
    values = {k: float(v) if k in numbers and checks.is_number(v) else v for k, v in values.items()}
    there = {k: v if k in _SIGNALS or type(v) is float or is_on_device(v) else None for k, v in values.items()}
    views, ends, work = take_views(None, tuple(there), tuple(there.values()), lengths)
    found = dict(zip(there, views, strict=True))
    for name, value in values.items():
        if value is not None and found[name] is None:
            found[name] = work.upload(name, take(name, value, halves=())[0])
        elif value is None and name not in ("zi", "grad_zf", "out"):
            raise TypeError(say.not_an_array(name, type(None)))
        elif value is not None and not is_view(found[name]) and name not in numbers:
            raise TypeError(say.not_an_array(name, type(value)))
    return found, ends, work


def check_out(view, x, dtype, others, ends):
    """Raise unless a result like x may be written to a view; it may be x, and shares nothing with ``others``."""
    ghost, ends = ghost_of_out(view, dtype, ends)
    others = [(name, ghost_of(v)) for name, v in others.items() if v is not None]
    checks.out_array(ghost, x.shape, ghost.dtype, [("x", ghost_of(x))], others + ends)


def sosfilt(x, sos, zi, axis, reverse, lengths, out, fields, poles):
    """Return the output of a cascade and its last states; of poles alone, these have no axis of sections."""
    label = "a" if poles else "sos"
    views, ends, work = taken({"x": x, label: sos, "zi": zi, "out": out}, lengths)
    axis = shapes.axis_of(axis, views["x"].shape, ("x",))
    if not poles and not is_on_device(sos):
        check_a0(take("sos", sos)[0])
    return _filter(views, label, axis, reverse, poles, out, ends, work)


def lfilter(b, a, x, zi, axis, reverse, lengths, out):
    """Return the output of a filter of any order and its last states."""
    b, a = (v if is_on_device(v) else np.atleast_1d(take(name, v)[0]) for name, v in (("b", b), ("a", a)))
    views, ends, work = taken({"x": x, "b": b, "a": a, "zi": zi, "out": out}, lengths)
    shape = views["x"].shape
    axis = shapes.axis_of(axis, shape, ("x",))
    given = {name: _polynomial(name, views.pop(name), shape, axis) for name in ("b", "a")}
    if not is_on_device(a) and not a[..., 0].all():
        raise ValueError(say.filter_lead())
    ranks = {len(own.shape) for own in given.values()}
    if ranks == {len(shape), len(shape) + 1} and len(shape) > 1:  # one for each series beside one for each step
        given |= {k: _with_axis(own, axis) for k, own in given.items() if len(own.shape) == len(shape)}
    lead, counts = zip(*((own.shape[:-1], own.shape[-1]) for own in given.values()), strict=True)
    check_order(max(counts) - 1, max(ranks) > len(shape))
    form = fresh((*shapes.broadcast_shape(("b", "a"), lead), 2 * max(counts)), _WIDE)
    with work.lent([form]) as (at,):
        views["sos"], made = _with_axis(view_of(at, form), -1), (form, at)
        quotient = given, {"x": made, "y": made}, len(form.shape) - 1
        return _filter(views, "sos", axis, reverse, False, out, ends, work, quotient)


def _polynomial(name, view, shape, axis):
    """Return a view of a polynomial, with an axis; raise unless it fits a signal of a shape."""
    view = view if view.shape else _with_axis(view, 0)
    check_polynomial(name, view.shape, shape, axis)
    if view.dtype.kind == "c":
        raise TypeError(say.filter_real(name, view.dtype))
    return view


def _filter(views, label, axis, reverse, poles, out, ends, work, quotient=None):
    """Return a filter's output and last states.

    ``quotient`` are arguments of `run_levels` that make the coefficients of a filter of any order.
    """
    signal, is_one = views["x"], poles or quotient is not None
    fields = FIELDS if quotient is None else views[label].shape[-1]
    given, (state,) = _look(views, label, ("zi",), axis, fields, poles, is_one, ends)
    dtype = floats(signal.dtype)
    if views["out"] is not None:
        check_out(views["out"], signal, dtype, {name: views[name] for name in (label, "zi")}, ends)
    y, to, y_at = result(signal, dtype, work, out, views["out"])
    last, last_at = work.empty(*_last_of(given, signal, axis, poles, is_one))
    known = signature_of(ends.lengths), work.ends(ends, signal.shape[axis])
    if quotient is not None:
        run_levels("quotient", *quotient, work)
    operands = {"x": signal, "sos": given, "h0": state, "y": view_of(y_at, to)}
    _run(operands, last_at, axis, reverse, known, work, poles)
    return y, last


def _look(views, label, states, axis, fields, poles, is_one, ends):
    """Return coefficients and states with an axis of sections; raise unless they fit a signal."""
    signal, given = views["x"], views[label]
    if given.dtype.kind == "c":
        raise TypeError(say.filter_real(label, given.dtype))
    states = {name: views[name] for name in states}
    for name, value in (states | {k: views.get(k) for k in ("grad_y", "y")}).items():
        if value is not None and (value.dtype.kind == "c") != (signal.dtype.kind == "c"):
            raise TypeError(say.filter_states(name, value.dtype, signal.dtype))
    if poles:
        check_polynomial("a", given.shape, signal.shape, axis)
        check_order(given.shape[-1], len(given.shape) > len(signal.shape))
        given = _with_axis(given, -1)
    if is_one:
        for name, own in states.items():
            states[name] = own and _with_axis(own, 0)
    check_cascade(given, states, signal.shape, axis, fields, poles)
    if ends.lengths is not None:
        problem.check_lengths_shape(ends.lengths.shape, signal.shape[:axis] + signal.shape[axis + 1 :])
    return given, states.values()


def fresh(shape, dtype):
    """Return the form of a fresh array in C order."""
    return Form(dtype, shape, shapes.c_strides(shape, dtype.itemsize))


def _last_of(sos, x, axis, poles, is_one=False):
    """Return the shape and dtype of the last states."""
    return state_shape(sos.shape, x.shape, axis, poles)[is_one:], _PAIR if x.dtype.kind == "c" else _WIDE


def view_of(pointer, form):
    """Return a view of memory that no library is asked about."""
    return View(pointer, *form, None, None, True, None)


def sosfilt_vjp(g, sos, x, y, zi, axis, reverse, lengths, grad_zf, poles):
    """Return the gradients of coefficients, input and first states; of poles alone, these have no axis of sections."""
    label = "a" if poles else "sos"
    views, ends, work = taken({"x": x, label: sos, "zi": zi, "grad_zf": grad_zf, "grad_y": g, "y": y}, lengths)
    signal = views["x"]
    axis = shapes.axis_of(axis, signal.shape, ("x",))
    if not poles and not is_on_device(sos):
        check_a0(take("sos", sos)[0])
    for name in ("grad_y", "y"):
        shapes.check_exact(name, views[name].shape, signal.shape)
    given, states = _look(views, label, ("zi", "grad_zf"), axis, FIELDS, poles, poles, ends)
    known = signature_of(ends.lengths), work.ends(ends, signal.shape[axis])
    grad_x, *to_x = result(signal, floats(signal.dtype), work, None, None)
    made = []
    for own in (views[label], views["zi"]):
        form = own and fresh(own.shape, floats(own.dtype))
        array, at = work.empty(own.shape, form.dtype) if own else (None, 0)
        made.append((array, own and view_of(at, form)))
    (grad_sos, to_sos), (grad_zi, to_zi) = made
    if poles:
        to_sos, to_zi = _with_axis(to_sos, -1), to_zi and _with_axis(to_zi, 0)
    operands = signal, given, *states, views["grad_y"], views["y"]
    _run_back(operands, view_of(*to_x[::-1]), to_sos, to_zi, axis, reverse, known, work, poles)
    return grad_sos, grad_x, grad_zi


def _run_back(operands, to_x, to_sos, to_zi, axis, reverse, known, work, poles):
    """Write gradients of an input, of coefficients and, if wanted, of first states.

    All sections' outputs, in float64, are in memory, as their gradients' parts are, one for each series, or step.
    """
    x, sos, zi, grad_zf, g, y = operands
    count, varies, is_pair = sos.shape[-2], len(sos.shape) - 2 == len(x.shape), x.dtype.kind == "c"
    full, wide = _last_of(sos, x, axis, poles)
    series = x.shape if varies else x.shape[:axis] + x.shape[axis + 1 :]
    forms = [Form(wide, x.shape, shapes.like(x.shape, wide, (x.shape, x.strides)))] * (1 if poles else count + 1)
    forms += fresh(full, wide), fresh((*series, *(2,) * is_pair, count, sos.shape[-1]), _WIDE)
    with work.lent(forms) as lent:
        e, *signals, last, parts = map(view_of, lent, forms)
        signals, to_k = [x, *signals], parts if varies else _with_axis(parts, axis)
        run, against = functools.partial(_run, axis=axis, known=known, work=work), not reverse
        if poles:
            run({"x": g, "sos": sos, "h0": grad_zf, "y": e}, last.pointer, reverse=against, poles=True, direct=False)
            own = {"x": y, "sos": sos, "h0": zi, "y": e, "g": e, "to_x": to_x, "to_k": to_k}
            run(own, 0, reverse=reverse, poles=True)
            count = 0
        for s in range(count):
            own = {"x": signals[s], "sos": _at(sos, -2, s), "h0": _at(zi, 0, s), "y": signals[s + 1]}
            run(own, last.pointer, reverse=reverse)
        for s in reversed(range(count)):
            section, later = _at(sos, -2, s), _at(grad_zf, 0, s)
            own = {"x": e if s < count - 1 else g, "sos": _at(section, -1, 4, 2), "h0": later, "y": e}
            run(own, _at(last, 0, s).pointer, reverse=against, poles=True)
            own = {"x": e, "sos": section, "h0": later, "y": signals[s + 1], "g": signals[s]}
            run(own | {"to_x": e if s else to_x, "to_k": _at(to_k, -2, s)}, 0, reverse=against)
        to_sos = _with_axis(to_sos, -2) if is_pair else to_sos  # both parts share coefficients
        for source, target in ((parts, to_sos), (last, to_zi)):
            if target is not None:
                places = {"source": source.pointer, "target": target.pointer}
                work.run(total(Form(*source.signature), Form(*target.signature)), places)


def _with_axis(view, at):
    """Return a view, or a form, with one more axis, before another."""
    at %= len(view.shape) if at < 0 else len(view.shape) + 1
    own, strides = view.shape, view.strides
    return view._replace(shape=(*own[:at], 1, *own[at:]), strides=(*strides[:at], 0, *strides[at:]))


def _at(view, axis, k=0, size=1):
    """Return a view of numbers k and following of an axis; of None, None."""
    if view is None:
        return None
    shape = list(view.shape)
    shape[axis] = size
    return view._replace(pointer=view.pointer + k * view.strides[axis], shape=tuple(shape))


def _turned(view, axis):
    """Return a view in the other direction."""
    strides = list(view.strides)
    strides[axis] = -strides[axis]
    last = view.pointer + (view.shape[axis] - 1) * view.strides[axis]
    return view._replace(pointer=last, strides=tuple(strides))


def sosfiltfilt(x, sos, axis, padtype, padding):
    """Return what a cascade makes of a signal forward and then in reverse.

    ``padding`` returns by how many steps to continue both ends, given coefficients, if they are the host's, what has
    their shape, and a signal's, and its axis of time.
    """
    views, ends, work = taken({"x": x, "sos": sos})
    signal, host = views["x"], None if is_on_device(sos) else take("sos", sos)[0]
    axis = shapes.axis_of(axis, signal.shape, ("x",))
    given, _ = _look(views, "sos", (), axis, FIELDS, False, False, ends)
    pad = padding(host, given.shape, signal.shape, axis)
    if host is not None:
        check_a0(host)
        check_settles(host)
    (y, to, y_at), steps = result(signal, floats(signal.dtype), work, None, None), signal.shape[axis]
    if not steps:
        return y
    known = signature_of(ends.lengths), work.ends(ends, steps)
    full, wide = _last_of(given, signal, axis, False)
    both = 1 + 1j if signal.dtype.kind == "c" else 1.0  # parts are series of their own
    shape = *signal.shape[:axis], steps + 2 * pad, *signal.shape[axis + 1 :]
    forms = Form(wide, shape, shapes.like(shape, wide, (shape, signal.strides))), fresh(full, wide)
    with work.lent(forms) as lent:
        every, last = map(view_of, lent, forms)

        def run(own, to, sos, first, reverse=False):
            operands = {"x": own, "sos": sos, "h0": first, "y": to}
            _run(operands, last.pointer, axis, reverse, known, work, scaled=first is not last)

        part = functools.partial(_at, every, axis)
        head, middle, tail = part(0, pad), part(pad, steps), part(pad + steps, pad)
        if pad:  # an end is continued by a filter of the steps from it on, backwards
            section, first = _CONTINUED[padtype]
            row = work.upload("sos", np.array([section], float))
            first = both * np.array([first, 0.0]).reshape(1, *(2 if k == axis else 1 for k in range(len(shape))))
            first = work.upload("sos", first)
            run(_at(signal, axis, 0, pad + 1), _turned(part(0, pad + 1), axis), row, first)
            run(_turned(_at(signal, axis, steps - pad - 1, pad + 1), axis), part(pad + steps - 1, pad + 1), row, first)
            run(head, head, given, None)
        run(signal, middle, given, last if pad else None)
        if pad:
            run(tail, tail, given, last)
            run(tail, tail, given, None, reverse=True)
        run(middle, view_of(y_at, to), given, last if pad else None, reverse=True)
    return y


def from_tensors(x, sos, zi, lengths, axis, reverse, poles, y):
    """Run a cascade of an operator's arguments, which were checked, into a tensor; return the last states."""
    views, ends, work = take_views(None, ("x", "sos", "zi", "y"), (x, sos, zi, y), lengths)
    operands = dict(zip(("x", "sos", "h0", "y"), views, strict=True))
    last, last_at = work.empty(*_last_of(operands["sos"], operands["x"], axis, poles))
    known = signature_of(ends.lengths), work.ends(ends, x.shape[axis])
    _run(operands, last_at, axis, reverse, known, work, poles)
    return last


def _run(operands, last, axis, reverse, known, work, poles=False, direct=None, scaled=False):
    """Run a cascade of views, or `lags` where there is ``to_k``; ``known`` are lengths' signature and places."""
    x, (lengths, places) = operands["x"], known
    if math.prod(x.shape[:axis] + x.shape[axis + 1 :]):
        forms = tuple((name, None if view is None else Form(*view.signature)) for name, view in operands.items())
        made = plan(forms, lengths, axis, bool(reverse), poles, poles if direct is None else direct, scaled)
        places = places | {name: view.pointer for name, view in operands.items() if view is not None}
        work.run(made, places | {"last": last})


def run_levels(kernel, operands, made, axis, work):
    """Run a kernel of views, and of what is made: forms and addresses."""
    places = {name: v.pointer if is_view(v) else v for name, v in operands.items() if v is not None}
    forms = {name: Form(*signature_of(v)) if is_view(v) else v is not None for name, v in operands.items()}
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
def plan(forms, lengths, axis, reverse, poles, direct, scaled=False):
    """Return the plan of a cascade, or of `lags`, of pairs of names and forms, None for what is not there.

    States have SciPy's axes.
    """
    forms = dict(forms)
    x, sos, h0, to_k = forms["x"], forms["sos"], forms["h0"], forms.pop("to_k", None)
    fields, rank, lead = sos.shape[-1], len(x.shape), len(sos.shape) - 2
    order, varies = (fields if poles else fields // 2 - 1), lead == rank
    full = state_shape(sos.shape, x.shape, axis, poles)
    wide = _PAIR if x.dtype.kind == "c" else _WIDE
    last = fresh(full, wide)
    if x.dtype.kind == "c" and lead:
        sos = _with_axis(sos, -2)
    forms |= {name: paired(form) for name, form in (forms | {"last": last}).items()}
    x, h0, last = forms["x"], forms["h0"], forms["last"]
    own = (sos.shape[:-2], sos.strides[:-2])
    strides = {name: forms[name].strides for name in ("x", "y", "g", "to_x") if name in forms}
    strides["sos"] = shapes.spread(*own, x.shape) if varies else of_series(Form(None, *own), x.shape, axis)
    nothing = Form(_WIDE, (1,) * (len(x.shape) + 1), (0,) * (len(x.shape) + 1))
    spread = {name: shapes.spread(v.shape, v.strides, v.shape) for name, v in (("h0", h0 or nothing), ("last", last))}
    strides |= {name: without(each, axis, 1) for name, each in spread.items()}
    ends = Form(*(lengths or (np.dtype(np.int64), (), ())))
    strides["lengths"] = of_series(ends, x.shape, axis)
    forms |= {"sos": sos, "lengths": ends}
    if to_k is not None:
        forms, strides = forms | {"to_k": to_k}, strides | {"to_k": to_k.strides[:-2]}
    values, elements, offsets = lay_out(x.shape, axis, reverse, strides, forms)
    values |= dict(sections=sos.shape[-2], section_next=sos.strides[-2], field_next=sos.strides[-1])
    for name, each in spread.items():
        values |= {f"{name}_next": each[0], f"{name}_number_next": each[axis + 1]}
    kernel = "cascade" if to_k is None else "lags"
    options = dict(order=order, poles=poles, varies=varies)
    options |= {"direct": direct, "scaled": scaled} if to_k is None else {}
    return launch(kernel, options, values, elements, offsets, _NAMES)


@functools.lru_cache(1024)
def total(source, target):
    """Return the plan that adds a source up into a target that broadcasts to it, or copies it there."""
    source, target = paired(source), paired(target)
    dims = zip(source.shape, source.strides, shapes.spread(target.shape, target.strides, source.shape), strict=True)
    partials: dict = {}
    finish = _plan.sums(partials, "source", "target", list(dims), "f8", element(target.dtype))
    return _plan.DevicePlan(None, "f8", ("source", "target"), scratch=partials, finish=finish)


@functools.lru_cache(1024)
def level_plan(kernel, forms, axis):
    """Return the plan of a kernel of pairs of names and forms; of a number instead True, of what is not there False."""
    forms = dict(forms) | {"lengths": False}
    shape, known = forms["x"].shape, {k: v if type(v) is Form else Form(_WIDE, (), ()) for k, v in forms.items()}
    strides = {name: shapes.spread(form.shape, form.strides, shape) for name, form in known.items()}
    values, elements, offsets = lay_out(shape, axis, False, strides, known)
    elements |= {name: "number" for name, form in forms.items() if form is True} | {"lengths": "i8"}
    values |= {f"{k}_count": known[k].shape[-1] for k in ("b", "a") if kernel == "quotient"}
    gates = (known[k].shape for k in ("attack", "release") if kernel == "follow")
    varies = any(len(gate) >= len(shape) - axis and gate[axis - len(shape)] != 1 for gate in gates)
    options = {"varies": varies} if kernel == "follow" else {}
    return launch(kernel, options, values, elements, offsets, tuple(forms))
