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
        self.views = [view for view in views if type(view) is _arrays.View]
        streams = [view.stream for view in self.views if view.stream]
        self.stream = streams[0] if streams else owner.stream(device)
        self.foreign = [stream for stream in dict.fromkeys(streams) if stream != self.stream]

    def _check_capture(self):
        """Raise where the library cannot allocate because the stream is captured; its own error would end the graph."""
        if not self.owner.allocates_in_capture and _launch.driver().is_capturing(self.device, self.stream):
            raise RuntimeError(say.gpu_capture(self.owner.name))

    def empty(self, shape, dtype, strides=None):
        """Return a fresh array and its address."""
        self._check_capture()
        return self.owner.empty(shape, dtype, strides, self.device, self.stream)

    def upload(self, array):
        """Return a view of a host array's copy."""
        self._check_capture()
        array = self.owner.upload(array, self.device, self.stream)
        return _arrays.library(array).view("lengths", array)

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
        program = _run.program(plan, tuple(places))
        with self.scratch(program.scratch) as scratch:
            program.run(list(places.values()), scratch, self.device, self.stream)
        for stream in self.foreign:
            _launch.driver().order(self.stream, stream, self.device)


def _place(value):
    return value.pointer if type(value) is _arrays.View else (0 if value is None else value)


def _signature(value):
    if type(value) is _arrays.View:
        return value.signature
    return complex if type(value) is complex else None


def _state(value):
    if type(value) is _arrays.View:
        return value.signature
    return None if value is None else (complex if type(value) is complex else float)


def shape_of(value):
    """Return the shape of a view or a number."""
    return value.shape if type(value) is _arrays.View else ()


def _bring(work, dtype, value, shape, target, target_at, target_shape=None):
    """Write a state, a number or (None) zero to an array in C order, summed over what its shape lacks of ``shape``."""
    if type(value) is _arrays.View:
        source, strides, at = value.dtype, _shapes.spread(value.shape, value.strides, shape), value.pointer
    else:
        source, strides, at = "number", (0,) * len(shape), 0.0 if value is None else value
    own = _shapes.own_strides(shape if target_shape is None else target_shape, shape, target.itemsize)
    plan = _plan.added(dtype, source, shape, strides, target, own)
    work.run(plan, {"source": at, "source_sum": target_at})


def _check_complex(family, names, *operands):
    """Raise for the complex averages that have no kernel here."""
    for name, value in zip(names, operands, strict=True):
        kind = value.dtype.kind if type(value) is _arrays.View else ("c" if type(value) is complex else "f")
        if kind == "c" and family == _problem.FORGET:
            raise TypeError(say.complex_on_gpu(name))


def _lengths(lengths, names, owner, device):
    """Return lengths as a view; host ones are checked, and copied."""
    if lengths is None:
        return None
    if not (isinstance(lengths, (int, list, tuple, np.ndarray, np.generic)) or not host.is_on_device(lengths)):
        (view,), its, where = _arrays.take(("lengths",), (lengths,))
        if not owner.takes(its):
            raise TypeError(say.mixed([(names[0], owner.name), ("lengths", its.name)]))
        if where != device:
            raise ValueError(say.two_devices(names[0], device, "lengths", where))
        if view.dtype.kind not in "iu":
            raise TypeError(say.lengths_dtype(f"dtype {view.dtype}"))
        return view
    return _checks.lengths(lengths)


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
        if type(operand) is not _arrays.View:
            continue
        other = _ghost(operand)
        if host.overlap(ghost, other):
            if not host.is_same_view(ghost, other):
                raise ValueError(say.out_overlap(name))
            in_place = True
    return in_place


# Calls of kinds seen before, by everything that their plan depends on.
_shortcuts: dict = {}
_MOST_SHORTCUTS = 1024


class _Shortcut(NamedTuple):
    """A call that is checked and planned: which places its operands have, and what makes its results."""

    program: _run.Program
    owner: object
    device: int
    labels: tuple  # what the caller calls the operands that are not left out
    watched: tuple  # of them: place and the bits of its address that must be clear
    makes: tuple  # for every result a function that returns a fresh array and its address; or None
    lend: object  # what lends scratch memory, if any is needed


def _glance(call, *values):
    """Return what a shortcut is remembered by, and addresses or numbers; or no shortcut."""
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
        if value is None:
            key.append(None)
        elif type(value) is float:
            key.append(float)
            places.append(value)
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

    ``operands`` are names in the kernels, the caller's names, and views or numbers, None for what is left out;
    ``results`` names in the kernels, shapes, dtypes and strides, or None for what is not.
    """
    owner, device, stream = work.owner, work.device, work.stream
    operands = [operand for operand in operands if operand[2] is not None]
    labels = tuple(label for _, label, _ in operands)
    watched = tuple(
        (k, _arrays.odd(view))
        for k, (_, _, view) in enumerate(operands)
        if type(view) is _arrays.View and _arrays.odd(view)
    )
    makes = tuple(result and owner.maker(*result[1:], device, stream) for result in results)
    names = (*(name for name, _, _ in operands), *(result[0] for result in results if result))
    if len(_shortcuts) >= _MOST_SHORTCUTS:
        _shortcuts.clear()
    program = _run.program(plan, names)
    lend = owner.lender(program.scratch, device) if program.scratch else None
    _shortcuts[key] = _Shortcut(program, owner, device, labels, watched, makes, lend)


def remembered(family, axis, reverse, return_state, a, b, h0, dtype):
    """Return a plain forward call's shortcut, and what takes it and the operands' addresses or numbers; or None."""
    key, _ = _glance((family, axis, reverse, return_state, dtype), a, b, h0)
    shortcut = _shortcuts.get(key)
    return shortcut and (shortcut, _take_shortcut)


def remembered_vjp(family, axis, reverse, g, a, b, h, h0, grad_state, dtype):
    """Return a plain gradient's shortcut, as `remembered` does a forward call's."""
    key, _ = _glance((family, axis, reverse, dtype), g, a, b, h, h0, grad_state)
    shortcut = _shortcuts.get(key)
    return shortcut and (shortcut, _take_shortcut)


def _take_shortcut(shortcut, places):
    """Run a call that was remembered; return its results."""
    program, owner, device, labels, watched, makes, lend = shortcut
    for k, odd in watched:
        if places[k] & odd:
            raise ValueError(say.misplaced(labels[k], places[k], odd + 1))
    given = []
    for make in makes:
        array = None
        if make:
            array, pointer = make()
            places.append(pointer)
        given.append(array)
    stream = owner.stream(device)
    if lend is None:
        program.run(places, 0, device, stream)
        return given
    lent, address = lend(stream)
    try:
        program.run(places, address, device, stream)
    finally:
        owner.give_back(lent, device, stream)
    return given


def _run_aside(work, plan, aside, places, out):
    """Compute states that must not overwrite operands yet, and copy them to ``out``.

    The fix-up pass reads its operands again, and others its first state: these must still be there.
    """
    dtype = plan.plan.dtype
    with work.scratch(dtype.itemsize * int(np.prod(plan.plan.shape))) as states:
        work.run(aside, places | {"h": states})
        copy = _plan.added(dtype, dtype, plan.plan.shape, aside.plan.h_strides, dtype, out.strides)
        work.run(copy, {"source": states, "source_sum": out.pointer})


def forward(family, names, a, b, h0, axis, reverse, lengths, return_state, out, dtype=None, fresh=None):
    """Run a recurrence on a device.

    ``dtype`` is the result's where the library's own promotion has found it, ``fresh`` what a fresh result looks like
    (dtype, shape, strides), None to choose it.
    """
    key = None
    if lengths is None and out is None and fresh is None:
        key, addresses = _glance((family, axis, reverse, return_state, dtype), a, b, h0)
        shortcut = _shortcuts.get(key)
        if shortcut is not None:
            given = _take_shortcut(shortcut, addresses)
            return tuple(given) if return_state else given[0]
    given = out
    (a, b, h0, out), owner, device = _arrays.take((*names, "out"), (a, b, h0, out))
    _check_complex(family, names, a, b, h0)
    lengths = _lengths(lengths, names, owner, device)
    told = axis, reverse, _known_lengths(lengths), complex in (type(a), type(b), type(h0)), dtype
    operands = family, names, _signature(a), _signature(b), _state(h0)
    plan = _plan.forward(*operands, _signature(out) if fresh is None else fresh, *told)
    in_place = out is not None and _check_out(out, ((names[0], a), (names[1], b)))
    holds_h0 = out is not None and type(h0) is _arrays.View and host.overlap(_ghost(out), _ghost(h0))
    work = Work((a, b, h0, out, lengths), owner, device)
    if isinstance(lengths, np.ndarray):
        lengths = work.upload(_checks.lengths_in_range(lengths, plan.plan.steps))
    last, last_at = work.empty(plan.lane_shape, plan.plan.dtype) if return_state else (None, 0)
    if out is None:
        given, h_at = work.empty(plan.plan.shape, plan.plan.dtype, plan.plan.h_strides)
    else:
        h_at = out.pointer
    if plan.plan.traversal == "empty":
        if last_at and 0 not in plan.lane_shape:
            _bring(work, plan.plan.dtype, h0, plan.lane_shape, plan.plan.dtype, last_at)
    else:
        places = dict(
            a=_place(a), b=_place(b), h=h_at, h0=_place(h0), last=last_at, lengths=_place(lengths)
        )  # fmt: skip
        if holds_h0 or (in_place and plan.choice.tiles > 1):
            _run_aside(work, plan, _plan.forward(*operands, None, *told), places, out)
        else:
            work.run(plan, places)
        if key is not None:
            written = [("h", plan.plan.shape, plan.plan.dtype, plan.plan.h_strides)]
            written += [("last", plan.lane_shape, plan.plan.dtype, None)] if return_state else []
            _remember(key, plan, work, list(zip(("a", "b", "h0"), names, (a, b, h0), strict=True)), written)
    return (given, last) if return_state else given


def _fill_gradients(work, plan, h0, grad_state, places):
    """Write gradients of a problem without steps: zeros, and the last states' own for the first ones."""
    dtype = plan.carry_dtype
    for name, (shape, kind, _) in zip(("to_a", "to_b"), plan.plan.gradients, strict=True):
        if 0 not in shape:
            _bring(work, dtype, None, shape, kind, places[name + "_sum"])
    if h0 is not None and 0 not in (shape := shape_of(h0)):
        place, none = places["first" if shape == plan.lane_shape else "first_sum"], 0 in plan.lane_shape
        # Over no lanes the sum is zero.
        given, lanes = (None, shape) if none else (grad_state, plan.lane_shape)
        _bring(work, dtype, given, lanes, plan.plan.h0_dtype, place, shape)


def vjp(family, names, g, a, b, h, h0, axis, reverse, lengths, grad_state, dtype=None, layouts=(None, None)):
    """Run a recurrence's adjoint on a device; ``layouts`` are the strides of fresh gradients, None to choose them."""
    key = None
    if lengths is None and layouts == (None, None):
        key, addresses = _glance((family, axis, reverse, dtype), g, a, b, h, h0, grad_state)
        shortcut = _shortcuts.get(key)
        if shortcut is not None:
            return tuple(_take_shortcut(shortcut, addresses))
    (g, a, b, h, h0, grad_state), owner, device = _arrays.take(
        (*names, "h0", "grad_state"), (g, a, b, h, h0, grad_state)
    )
    _check_complex(family, (*names, "h0", "grad_state"), g, a, b, h, h0, grad_state)
    _problem.check_kind(names, *map(_signature, (g, a, b, h)), _state(h0), _state(grad_state))
    lengths = _lengths(lengths, names, owner, device)
    plan = _plan.vjp(
        family, names, _signature(g), _signature(a), _signature(b), _signature(h), _state(h0), _state(grad_state),
        axis, reverse, _known_lengths(lengths), complex in map(type, (g, a, b, h, h0, grad_state)), dtype, layouts,
    )  # fmt: skip
    work = Work((g, a, b, h, h0, grad_state, lengths), owner, device)
    if isinstance(lengths, np.ndarray):
        lengths = work.upload(_checks.lengths_in_range(lengths, plan.plan.steps))
    places = dict(
        g=_place(g), a=_place(a), b=_place(b), h=_place(h), h0=_place(h0), last=_place(grad_state),
        lengths=_place(lengths),
    )  # fmt: skip
    written = [
        (name if strides is not None else name + "_sum", shape, dtype, strides)
        for name, (shape, dtype, strides) in zip(("to_a", "to_b"), plan.plan.gradients, strict=True)
    ]
    if h0 is not None:
        shape = shape_of(h0)
        written.append(("first" if shape == plan.lane_shape else "first_sum", shape, plan.plan.h0_dtype, None))
    results = []
    for name, *like in written:
        array, places[name] = work.empty(*like)
        results.append(array)
    if plan.plan.traversal == "empty":
        _fill_gradients(work, plan, h0, grad_state, places)
    else:
        work.run(plan, places)
        if key is not None:
            takes = ("g", "a", "b", "h", "h0", "last"), (*names, "h0", "grad_state"), (g, a, b, h, h0, grad_state)
            takes = list(zip(*takes, strict=True))
            _remember(key, plan, work, takes, written if h0 is not None else [*written, None])
    return tuple(results) if h0 is not None else (*results, None)


def _known_lengths(lengths):
    if lengths is None:
        return None
    if isinstance(lengths, np.ndarray):
        return np.dtype(np.int64), lengths.shape, _shapes.c_strides(lengths.shape, 8)
    return lengths.signature
