"""Run a recurrence of arrays on a GPU: look at them, plan, launch in order with their streams, remember."""

import contextlib
from typing import NamedTuple

import numpy as np

from .. import _arrays as host
from .. import _checks, _problem, _shapes
from .. import _messages as say
from . import _arrays, _launch, _plan, _run


class Work:
    """One call's place: its library, device and stream, and what it has allocated."""

    def __init__(self, views, owner, device):
        self.owner, self.device = owner, device
        streams = [view.stream for view in views if _is_view(view) and view.stream]
        self.stream = streams[0] if streams else owner.stream(device)
        self.foreign = [stream for stream in dict.fromkeys(streams) if stream != self.stream]

    def empty(self, shape, dtype, strides=None):
        """Return a fresh array and its address; raise where the library's own error would end a graph."""
        if not self.owner.allocates_in_capture and _launch.driver().is_capturing(self.device, self.stream):
            raise RuntimeError(say.gpu_capture(self.owner.name))
        return self.owner.empty(shape, dtype, strides, self.device, self.stream)

    def ends(self, ends, steps):
        """Return the places of lengths, offsets and resets, by name; those of the host are checked, and copied."""
        self.ends_there = views = ends._asdict()  # what is copied lives as long as this
        for name, value in views.items():
            if isinstance(value, np.ndarray):
                if name in _checks.IN_RANGE:
                    value = _checks.IN_RANGE[name](value, steps)
                value = np.asarray(value, order="C")
                if _launch.driver().is_capturing(self.device, self.stream):  # a replay would copy what is there then
                    raise RuntimeError(say.gpu_capture_host(name))
                array = self.owner.upload(value, self.device, self.stream)
                views[name] = _arrays.library(array).view(name, array)
        return {name: _place(view) for name, view in views.items()}

    @contextlib.contextmanager
    def scratch(self, size):
        """Give the address of so many bytes that are good for what is put into the stream meanwhile."""
        if not size:
            yield 0
            return
        lent, address = self.owner.lender(size, self.device)(self.stream)
        try:
            yield address
        finally:
            self.owner.give_back(lent, self.device, self.stream)

    def run(self, plan, places):
        """Start a plan's kernels after the work of the arrays' own streams, and before what these do next."""
        for stream in self.foreign:
            _launch.driver().order(stream, self.stream, self.device)
        with self.scratch(_run.program(plan).scratch) as scratch:
            _run.run(plan, places, scratch, self.device, self.stream)
        for stream in self.foreign:
            _launch.driver().order(self.stream, stream, self.device)


def _is_view(value):
    return type(value) is _arrays.View


def _place(value):
    return value.pointer if _is_view(value) else (0 if value is None else value)


def _signature(value):
    if _is_view(value):
        return value.signature
    if isinstance(value, np.ndarray):  # lengths, offsets or resets, as they will be copied
        dtype = np.dtype(bool if value.dtype == bool else np.int64)
        return dtype, value.shape, _shapes.c_strides(value.shape, dtype.itemsize)
    return complex if type(value) is complex else None


def _state(value):
    return float if value is not None and _signature(value) is None else _signature(value)


def _take(family, names, values, lengths):
    """Return operands as views or numbers, lengths, offsets and resets as views or the host's, and the call's place."""
    ends, count = _checks.parts(lengths)._asdict(), len(names)
    there = [name for name, value in ends.items() if value is not None and host.is_on_device(value)]
    values, owner, device = _arrays.take((*names, *there), (*values, *(ends[name] for name in there)))
    ends |= {n: _checks.TAKE[n](v) for n, v in ends.items() if v is not None and n not in there}
    ends |= zip(there, values[count:], strict=True)
    for name in there:
        _checks.kind(name, ends[name].dtype, ends[name].shape)
    for name, value in zip(names, values[:count], strict=True):
        is_complex = type(value) is complex or (_is_view(value) and value.dtype.kind == "c")
        if is_complex and family == _problem.FORGET and name != "out":
            raise TypeError(say.complex_on_gpu(name))
    return values[:count], _checks.Segments(**ends), Work(values, owner, device)


class _Places:
    def __init__(self, view):
        self.__array_interface__ = {
            "shape": view.shape, "strides": view.strides, "typestr": f"|V{view.dtype.itemsize}",
            "data": (view.pointer, False), "version": 3,
        }  # fmt: skip


def _ghost(view):
    """Return an array that names a view's places and must never be read."""
    return np.asarray(_Places(view))


def _check_out(out, operands):
    """Raise unless results may be written to ``out``; return whether it is one of the operands."""
    if not out.is_writeable:
        raise ValueError(say.out_read_only())
    ghost, in_place = _ghost(out), False
    if host.overlaps_itself(ghost):
        raise ValueError(say.out_self_overlap())
    for name, operand in operands:
        if _is_view(operand) and host.overlap(ghost, other := _ghost(operand)):
            if not host.is_same_view(ghost, other):
                raise ValueError(say.out_overlap(name))
            in_place = True
    return in_place


# Calls of kinds seen before, by everything that their plan depends on.
_shortcuts: dict = {}
_MOST_SHORTCUTS = 1024


class _Shortcut(NamedTuple):
    """A call that is checked and planned: what it needs of its operands' addresses, and what makes its results."""

    program: _run.Program
    owner: object
    device: int
    watched: tuple  # operands: place, what the caller calls it, and the bits of its address that must be clear
    makes: tuple  # for every result a function that returns a fresh array and its address; or None
    lend: object  # what lends scratch memory, if any is needed


def _glance(call, *values):
    """Return what a shortcut is remembered by, and addresses or numbers, 0 for None; or no shortcut."""
    owner = None
    for value in values:
        kind = type(value)
        if value is None or kind is float:
            continue
        its = _arrays._libraries.get(kind)
        if its is None or (owner is not None and its is not owner):
            return None, None  # before the driver is asked: a host array beside others needs none
        owner = its
    device, key, places = None, [call, owner], []
    for value in values:
        if value is None or type(value) is float:
            key.append(type(value))
            places.append(0 if value is None else value)
        else:
            seen = owner.glance(value)
            if seen is None:
                return None, None
            on, place, form = seen
            if on != device:
                if device is not None:
                    return None, None
                device = on
            key.append(form)
            places.append(place)
    key.append(device)
    return tuple(key), places


def _remember(key, plan, work, operands, results):
    """Remember a call.

    ``operands`` are the caller's names, and views or numbers, None for what is left out; ``results`` shapes, dtypes and
    strides, or None for what is not.
    """
    owner, device = work.owner, work.device
    watched = tuple(
        (k, name, _arrays.odd(view)) for k, (name, view) in enumerate(operands) if _is_view(view) and _arrays.odd(view)
    )
    makes = tuple(result and owner.maker(*result, device, work.stream) for result in results)
    if len(_shortcuts) >= _MOST_SHORTCUTS:
        _shortcuts.clear()
    program = _run.program(plan)
    lend = owner.lender(program.scratch, device) if program.scratch else None
    _shortcuts[key] = _Shortcut(program, owner, device, watched, makes, lend)


def remembered(options, *operands):
    """Return a plain call's shortcut, and what takes it and the operands' addresses or numbers, 0 for None; or None.

    ``options`` are family, axis, reverse, of a forward call return_state, and the dtype; operands are in the function's
    order.
    """
    shortcut = _shortcuts.get(_glance(options, *operands)[0])
    return shortcut and (shortcut, _take_shortcut)


def _take_shortcut(shortcut, places):
    """Run a call that was remembered; return its results."""
    program, owner, device, watched, makes, lend = shortcut
    for k, name, odd in watched:
        if places[k] & odd:
            raise ValueError(say.misplaced(name, places[k], odd + 1))
    given = []
    for make in makes:
        array, pointer = make() if make else (None, 0)
        given.append(array)
        places.append(pointer)
    places.append(0)  # no lengths
    stream = owner.stream(device)
    lent, address = lend(stream) if lend else (None, 0)
    try:
        program.run(places, address, device, stream)
    finally:
        if lend:
            owner.give_back(lent, device, stream)
    return given


def _run_aside(work, plan, aside, places, out):
    """Compute states that must not overwrite operands yet, and copy them to ``out``.

    The fix-up pass reads its operands again, and others its first state: these must still be there.
    """
    dtype, shape = plan.plan.dtype, plan.plan.shape
    with work.scratch(dtype.itemsize * int(np.prod(shape))) as states:
        work.run(aside, places | {"h": states})
        copy = _plan.copied(dtype, shape, aside.plan.h_strides, out.strides)
        work.run(copy, {"source": states, "target": out.pointer})


def forward(family, names, a, b, h0, axis, reverse, lengths, return_state, out, dtype=None, fresh=None):
    """Run a recurrence on a device; ``names`` are what the caller calls the operands.

    ``dtype`` is the result's where the library's own promotion has found it, ``fresh`` what a fresh result looks like
    (dtype, shape, strides), None to choose it.
    """
    axis, reverse = _checks.axis(axis), _checks.flag("reverse", reverse)
    return_state, key, given = _checks.flag("return_state", return_state), None, out
    if lengths is None and out is None and fresh is None:
        key, places = _glance((family, axis, reverse, return_state, dtype), a, b, h0)
        shortcut = _shortcuts.get(key)
        if shortcut is not None:
            results = _take_shortcut(shortcut, places)
            return tuple(results) if return_state else results[0]
    (a, b, h0, out), ends, work = _take(family, (*names, "out"), (a, b, h0, out), lengths)
    told = axis, reverse, _checks.split(*map(_signature, ends)), complex in (type(a), type(b), type(h0)), dtype
    operands = family, names, _signature(a), _signature(b), _state(h0)
    plan = _plan.forward(*operands, _signature(out) if fresh is None else fresh, *told)
    known = plan.plan
    in_place = out is not None and _check_out(out, ((names[0], a), (names[1], b)))
    holds_h0 = out is not None and _is_view(h0) and host.overlap(_ghost(out), _ghost(h0))
    ends = work.ends(ends, known.steps)
    results = [(known.shape, known.dtype, known.h_strides), (plan.state_shape, known.dtype, None)]
    last, last_at = work.empty(*results[1]) if return_state else (None, 0)
    given, h_at = work.empty(*results[0]) if out is None else (given, out.pointer)
    places = dict(a=_place(a), b=_place(b), h0=_place(h0), h=h_at, last=last_at, **ends)
    if holds_h0 or (in_place and plan.choice.tiles > 1):
        _run_aside(work, plan, _plan.forward(*operands, None, *told), places, out)
    else:
        work.run(plan, places)
        if key is not None:
            results = results if return_state else [results[0], None]
            _remember(key, plan, work, list(zip(names, (a, b, h0), strict=True)), results)
    return (given, last) if return_state else given


def vjp(family, names, g, a, b, h, h0, axis, reverse, lengths, grad_state, dtype=None, layouts=(None, None)):
    """Run a recurrence's adjoint on a device; ``names`` are what the caller calls ``g, a, b, h``.

    ``layouts`` are the strides of fresh gradients, None to choose them.
    """
    axis, reverse, key = _checks.axis(axis), _checks.flag("reverse", reverse), None
    if lengths is None and layouts == (None, None):
        key, places = _glance((family, axis, reverse, dtype), g, a, b, h, h0, grad_state)
        shortcut = _shortcuts.get(key)
        if shortcut is not None:
            return tuple(_take_shortcut(shortcut, places))
    labels = (*names, "h0", "grad_state")
    values, ends, work = _take(family, labels, (g, a, b, h, h0, grad_state), lengths)
    *operands, h0, grad_state = values
    signatures = (*map(_signature, operands), _state(h0), _state(grad_state))
    _problem.check_kind(names, *signatures)
    plan = _plan.vjp(
        family, names, *signatures, axis, reverse, _checks.split(*map(_signature, ends)),
        complex in map(type, values), dtype, layouts,
    )  # fmt: skip
    ends = work.ends(ends, plan.plan.steps)
    results = list(plan.plan.gradients)
    if h0 is not None:
        results.append((h0.shape if _is_view(h0) else (), plan.plan.h0_dtype, None))
    made = [work.empty(*result) for result in results]
    places = dict(zip(_plan.VJP, [*map(_place, values), *(place for _, place in made)], strict=False))
    work.run(plan, places | ends)
    if key is not None:
        _remember(key, plan, work, list(zip(labels, values, strict=True)), [*results, None][:3])
    return (*(array for array, _ in made), None)[:3]
