"""Run a recurrence of arrays on a GPU: look at them, plan, launch in order with their streams, remember."""

import contextlib
import itertools
import math
from collections import namedtuple
from types import SimpleNamespace

import numpy as np

from .._arguments import arrays as host, checks, messages as say, shapes
from .._cpu import host as _host
from .._plan import problem
from . import arrays, launch, plan as _plan, run as _run


class Work:
    """One call's place: its library, device and stream, and what it has allocated."""

    def __init__(self, views, owner, device):
        self.owner, self.device = owner, device
        streams = [view.stream for view in views if is_view(view) and view.stream]
        self.stream = streams[0] if streams else owner.stream(device)
        self.foreign = [stream for stream in dict.fromkeys(streams) if stream != self.stream]

    def empty(self, shape, dtype, strides=None):
        """Return a fresh array and its address; raise where the library's own error would end a graph."""
        if not self.owner.allocates_in_capture and launch.driver().is_capturing(self.device, self.stream):
            raise RuntimeError(say.gpu_capture(self.owner.name))
        return self.owner.maker(shape, dtype, strides, self.device, self.stream)()

    def ends(self, ends, steps):
        """Return the places of lengths, offsets and resets, by name; those of the host are checked, and copied."""
        self.ends_there = views = ends._asdict()  # what is copied lives as long as this
        for name, value in views.items():
            if isinstance(value, np.ndarray):
                if name in checks.IN_RANGE:
                    value = checks.IN_RANGE[name](value, steps)
                views[name] = self.upload(name, value)
        return {name: place_of(view) for name, view in views.items()}

    def upload(self, name, value):
        """Return a view of a host array's copy."""
        if launch.driver().is_capturing(self.device, self.stream):  # a replay would copy what is there then
            raise RuntimeError(say.gpu_capture_host(name))
        array = self.owner.upload(np.asarray(value, order="C"), self.device, self.stream)
        return arrays.library(array).view(name, array)

    @contextlib.contextmanager
    def lent(self, forms):
        """Lend memory for forms; give addresses in their order."""
        sizes = [_run.apart(math.prod(form.shape) * form.dtype.itemsize) for form in forms]
        lent, address = self.owner.lender(max(sum(sizes), 1), self.device)(self.stream)
        try:
            yield [address + at for at in itertools.accumulate(sizes, initial=0)][:-1]
        finally:
            self.owner.give_back(lent, self.device, self.stream)

    def run(self, plan, places):
        """Start a plan's kernels after the work of the arrays' own streams, and before what these do next."""
        for stream in self.foreign:
            launch.driver().order(stream, self.stream, self.device)
        program = _run.program(plan)
        lend = program.scratch and self.owner.lender(program.scratch, self.device)
        _start(program, [places.get(name, 0) for name in plan.names], lend, self.owner, self.device, self.stream)
        for stream in self.foreign:
            launch.driver().order(self.stream, stream, self.device)


def _start(program, places, lend, owner, device, stream):
    """Put a program's launches into a stream; the scratch memory that they need, if any, is lent meanwhile."""
    lent, address = lend(stream) if lend else (None, 0)
    try:
        program.run(places, address, device, stream)
    finally:
        if lend:
            owner.give_back(lent, device, stream)


# An operand's dtype, shape and strides, as plans take it.
Form = namedtuple("Form", "dtype shape strides")


def is_view(value):
    return type(value) is arrays.View


def place_of(value):
    return value.pointer if is_view(value) else (0 if value is None else value)


def signature_of(value):
    if is_view(value):
        return value.signature
    if isinstance(value, np.ndarray):  # lengths, offsets or resets, as they will be copied
        dtype = np.dtype(bool if value.dtype == bool else np.int64)
        return dtype, value.shape, shapes.c_strides(value.shape, dtype.itemsize)
    return complex if type(value) is complex else None


def _state(value):
    return value.signature if is_view(value) else problem.state_number(value)


def take_views(family, names, values, lengths):
    """Return operands as views or numbers, lengths, offsets and resets as views or the host's, and the call's place."""
    ends, count = checks.parts(lengths), len(names)
    given = {name: v for name, v in ends._asdict().items() if v is not None}
    there = {name: v for name, v in given.items() if host.is_on_device(v)}
    taken, owner, device = arrays.take((*names, *there), (*values, *there.values()))
    there = dict(zip(there, taken[count:], strict=True))
    for name, view in there.items():
        checks.kind(name, view.dtype, view.shape)
    ends = ends._replace(**{n: there[n] if n in there else checks.on_host(n, v) for n, v in given.items()})
    for name, value in zip(names, taken[:count], strict=True) if family == problem.FORGET else ():
        if (type(value) is complex or (is_view(value) and value.dtype.kind == "c")) and name != "out":
            raise TypeError(say.complex_on_gpu(name))
    return taken[:count], ends, Work(taken, owner, device)


def floats(dtype):
    """Return the dtype of a result that has floats for integers and bools."""
    return np.dtype(np.float64) if dtype.kind in "biu" else dtype


def result(x, dtype, work, out, view):
    """Return what a result like x goes to, its form and its address; it is made unless there is an ``out``."""
    strides = shapes.like(x.shape, dtype, (x.shape, x.strides)) if view is None else view.strides
    array, place = work.empty(x.shape, dtype, strides) if view is None else (out, view.pointer)
    return array, Form(dtype, x.shape, strides), place


def ghost_of(value):
    """Return an array that names a view's places and must never be read; what is no view as it is."""
    if not is_view(value):
        return value
    interface = dict(shape=value.shape, strides=value.strides, typestr=f"|V{value.dtype.itemsize}", version=3)
    interface["data"] = value.pointer, not value.is_writeable
    return np.asarray(SimpleNamespace(__array_interface__=interface))


def _ghosts(ends):
    return [(name, ghost_of(view)) for name, view in ends._asdict().items() if is_view(view)]


def ghost_of_out(out, dtype, ends):
    """Return the ghosts of ``out``, which must have the result's dtype, and of ends by name."""
    if out.dtype != dtype:
        raise TypeError(say.out_dtype(out.dtype, dtype))
    return ghost_of(out), _ghosts(ends)


def _check_out(out, ends, names, *operands):
    """Raise unless results may be written to ``out``; return whether it is one of the operands."""
    ghost, others = ghost_of(out), [ghost_of(operand) for operand in operands]
    if host.overlaps_itself(ghost):
        raise ValueError(say.out_self_overlap())
    if not out.is_writeable:
        raise ValueError(say.out_read_only())
    checks.out_memory(ghost, zip(names, others, strict=False), _ghosts(ends))
    return any(type(other) is np.ndarray and host.overlap(ghost, other) for other in others)


# Calls of kinds seen before, by everything that their plan depends on.
_shortcuts: dict = {}


# A call that is checked and planned: ``makes`` are, for every result, a function that returns a fresh array and its
# address, or None; ``lend`` lends scratch memory, if any is needed.
_Shortcut = namedtuple("_Shortcut", "program owner device makes lend")


def _glance(call, *values):
    """Return what a call is remembered by, and addresses or numbers, 0 for None; or no key."""
    owner = device = None
    for value in values:
        if value is not None and type(value) is not float:
            its = arrays.libraries.get(type(value))
            if its is None or owner not in (None, its):
                return None, None  # before the driver is asked: a host array beside others needs none
            owner = its
    key, places = [call, owner], []
    for value in values:
        if value is None or type(value) is float:
            key.append(type(value))
            places.append(0 if value is None else value)
        else:
            on, place, form = owner.glance(value) or (None, 0, None)
            if on is None or device not in (None, on):
                return None, None
            device = on
            key += form, place & 7  # whether it is a multiple of a number's size is found out for those that end alike
            places.append(place)
    return (*key, device), places


def _remember(key, plan, work, results):
    """Remember a call; ``results`` are shapes, dtypes and strides, or None for what is not."""
    owner, device, program = work.owner, work.device, _run.program(plan)
    makes = tuple(result and owner.maker(*result, device, work.stream) for result in results)
    lend = owner.lender(program.scratch, device) if program.scratch else None
    _host.keep(_shortcuts, key, _Shortcut(program, owner, device, makes, lend))


def remembered(options, *operands):
    """Return a plain call's shortcut, or None.

    ``options`` are family, axis, reverse, of a forward call return_state, and the dtype; operands are in the function's
    order. Addresses must end as theirs do.
    """
    return _shortcuts.get(_glance(options, *operands)[0])


def take_shortcut(shortcut, places):
    """Run a call that was remembered, of its operands' addresses or numbers, 0 for None; return its results."""
    program, owner, device, makes, lend = shortcut
    given = []
    for make in makes:
        array, pointer = make() if make else (None, 0)
        given.append(array)
        places.append(pointer)
    places.append(0)  # no lengths
    _start(program, places, lend, owner, device, owner.stream(device))
    return given


def forward(family, names, a, b, h0, axis, reverse, lengths, return_state, out, dtype=None, fresh=None):
    """Run a recurrence on a device; ``names`` are what the caller calls the operands.

    ``dtype`` is the result's where the library's own promotion has found it, ``fresh`` what a fresh result looks like
    (dtype, shape, strides), None to choose it.
    """
    axis, reverse = checks.axis(axis), checks.flag("reverse", reverse)
    return_state, key, given = checks.flag("return_state", return_state), None, out
    if lengths is None and out is None and fresh is None:
        key, places = _glance((family, axis, reverse, return_state, dtype), a, b, h0)
        if key in _shortcuts:
            results = take_shortcut(_shortcuts[key], places)
            return tuple(results) if return_state else results[0]
    (a, b, h0, out), ends, work = take_views(family, (*names, "out"), (a, b, h0, out), lengths)
    told = axis, reverse, checks.split(*map(signature_of, ends)), complex in (type(a), type(b), type(h0)), dtype
    operands = family, names, signature_of(a), signature_of(b), _state(h0)
    to = signature_of(out) if fresh is None else fresh
    plan = _plan.forward(*operands, to, *told)
    if out is not None:
        in_place = _check_out(out, ends, names, a, b)
        if (in_place and plan.choice.tiles > 1) or (is_view(h0) and host.overlap(ghost_of(out), ghost_of(h0))):
            plan = _plan.forward(*operands, to, *told, aside=True)
    known = plan.plan
    ends = work.ends(ends, known.steps)
    results = [(known.shape, known.dtype, known.h_strides), (plan.state_shape, known.dtype, None)]
    last, last_at = work.empty(*results[1]) if return_state else (None, 0)
    given, h_at = work.empty(*results[0]) if out is None else (given, out.pointer)
    places = dict(a=place_of(a), b=place_of(b), h0=place_of(h0), h=h_at, last=last_at, **ends)
    work.run(plan, places)
    if key is not None:
        _remember(key, plan, work, results if return_state else [results[0], None])
    return (given, last) if return_state else given


def vjp(family, names, g, a, b, h, h0, axis, reverse, lengths, grad_state, dtype=None, layouts=(None, None)):
    """Run a recurrence's adjoint on a device; ``names`` are what the caller calls ``g, a, b, h``.

    ``layouts`` are the strides of fresh gradients, None to choose them.
    """
    axis, reverse, key = checks.axis(axis), checks.flag("reverse", reverse), None
    if lengths is None and layouts == (None, None):
        key, places = _glance((family, axis, reverse, dtype), g, a, b, h, h0, grad_state)
        if key in _shortcuts:
            return tuple(take_shortcut(_shortcuts[key], places))
    values, ends, work = take_views(family, (*names, "h0", "grad_state"), (g, a, b, h, h0, grad_state), lengths)
    *operands, h0, grad_state = values
    signatures = (*map(signature_of, operands), _state(h0), _state(grad_state))
    problem.check_kind(names, *signatures)
    told = checks.split(*map(signature_of, ends)), complex in map(type, values), dtype, layouts
    plan = _plan.vjp(family, names, signatures, axis, reverse, *told)
    ends = work.ends(ends, plan.plan.steps)
    results = list(plan.plan.gradients)
    if h0 is not None:
        results.append((h0.shape if is_view(h0) else (), plan.plan.h0_dtype, None))
    made = [work.empty(*result) for result in results]
    places = dict(zip(_plan.VJP, [*map(place_of, values), *(place for _, place in made)], strict=False))
    work.run(plan, places | ends)
    if key is not None:
        _remember(key, plan, work, [*results, None][:3])
    return (*(array for array, _ in made), None)[:3]
