"""From a public function's arguments on a device to its result: as `fastrecur._call`, with streams to keep in order."""

import numpy as np

from .. import _arrays as host
from .. import _messages as say
from .. import _problem
from . import _arrays, _launch, _plan, _run


class Work:
    """One call's place: its library, device and stream, and what it has allocated."""

    def __init__(self, views, owner, device):
        self.owner, self.device, self.kept = owner, device, []
        self.views = [view for view in views if type(view) is _arrays.View]
        streams = [view.stream for view in self.views if view.stream]
        self.stream = streams[0] if streams else owner.stream(device)
        self.foreign = [stream for stream in dict.fromkeys(streams) if stream != self.stream]

    def empty(self, shape, dtype, strides=None):
        """Return a fresh array and its address."""
        return self.owner.empty(shape, dtype, strides, self.device)

    def scratch(self, size):
        """Return the address of so many bytes that are good until this call's work is done."""
        array, pointer = self.owner.empty((size,), np.dtype(np.uint8), None, self.device)
        self.kept.append(array)
        return pointer

    def upload(self, array):
        """Return a view of a host array's copy."""
        array = self.owner.upload(array, self.device)
        return _arrays.library(array).view("lengths", array)

    def run(self, plan, places):
        """Start a plan's kernels after the work of the arrays' own streams, and before what these do next."""
        for stream in self.foreign:
            _launch.driver().order(stream, self.stream, self.device)
        _run.run(plan, places, self.scratch, self.device, self.stream)
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
        source, strides, at = value.dtype, _problem.spread(value.shape, value.strides, shape), value.pointer
    else:
        source, strides, at = "number", (0,) * len(shape), 0.0 if value is None else value
    own = _problem.own_strides(shape if target_shape is None else target_shape, shape, target.itemsize)
    plan = _plan.added(dtype, source, shape, strides, target, own)
    work.run(plan, {"source": at, "source_sum": target_at})


def _check_complex(family, names, a, *others):
    """Raise for the complex averages that have no kernel here."""
    for name, value in zip(names, (a, *others), strict=False):
        kind = value.dtype.kind if type(value) is _arrays.View else ("c" if type(value) is complex else "f")
        if kind == "c" and family == _problem.FORGET:
            raise TypeError(say.complex_on_gpu(name))


def _lengths(lengths, names, owner, device):
    """Return lengths as a view; host ones are checked, and copied."""
    if lengths is None:
        return None
    if not (isinstance(lengths, (int, list, tuple, np.ndarray, np.generic)) or not host.is_on_device(lengths)):
        (view,), its, where = _arrays.take(("lengths",), (lengths,))
        if its.name != owner.name:
            raise TypeError(say.mixed([(names[0], owner.name), ("lengths", its.name)]))
        if where != device:
            raise ValueError(say.two_devices(names[0], device, "lengths", where))
        if view.dtype.kind not in "iu":
            raise TypeError(say.lengths_dtype(f"dtype {view.dtype}"))
        return view
    from .. import _call

    return _call._lengths(lengths)


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


# Calls of kinds seen before that take one launch: by everything that their plan depends on.
_shortcuts: dict = {}
_MOST_SHORTCUTS = 1024


def _glance(call, *values):
    """Return what a shortcut is remembered by, the library, and addresses or numbers; or no shortcut."""
    owners = {_arrays._libraries.get(type(value)) for value in values if type(value) is not float}
    if len(owners) != 1 or None in owners:  # before the driver is asked: a host array beside others needs none
        return None, None, None
    (owner,) = owners
    device, key, places = None, [call], []
    for value in values:
        if type(value) is float:
            key.append(float)
            places.append(value)
            continue
        seen = owner.glance(value)
        if seen is None or device not in (None, seen[0]):
            return None, None, None
        device = seen[0]
        key.append(seen[2])
        places.append(seen[1])
    return (device, owner, *key), owner, places


def _remember(key, plan, device, owner, operands, results):
    """Remember a plan that is one launch: where the operands' addresses go, and what is written."""
    if (
        key is not None
        and plan.carry in ("f4", "f8")
        and len(plan.launches) == len(plan.offsets) == 1
        and not plan.finish
        and not plan.scratch
    ):
        if len(_shortcuts) >= _MOST_SHORTCUTS:
            _shortcuts.clear()
        kernel, template, slots = plan.prepared[0]
        offsets = plan.offsets[0]
        named = {name: (at, number, offsets.get(name, 0)) for at, name, number in slots}
        makes = tuple(
            (named[name][0], named[name][2], owner.maker(shape, dtype, strides, device))
            for name, shape, dtype, strides in results
        )
        launch = plan.launches[0]
        takes = tuple(named[name] for name in operands)
        _shortcuts[key] = kernel, launch.grid, launch.threads, template, takes, makes, device


def remembered(family, axis, reverse, return_state, a, b):
    """Return a forward call's shortcut, the library, and what takes these and the operands' addresses; or None."""
    key, owner, _ = _glance((family, axis, reverse, return_state), a, b)
    shortcut = _shortcuts.get(key)
    return shortcut and (shortcut, owner, _take_shortcut)


def _take_shortcut(shortcut, owner, places):
    """Run a call that was remembered; return its results."""
    kernel, grid, threads, template, takes, makes, device = shortcut
    arguments, given = template.copy(), []
    for place, (at, number, offset) in zip(places, takes, strict=True):
        arguments[at] = place + offset if number is None else number(place)
    for at, offset, make in makes:
        array, pointer = make()
        arguments[at] = pointer + offset
        given.append(array)
    _launch.driver().launch(kernel, grid, threads, arguments, device, owner.stream(device))
    return given


def forward(family, names, a, b, h0, axis, reverse, lengths, return_state, out, dtype=None, is_fresh=False):
    """Run a recurrence on a device; ``dtype`` is the result's where the library's own promotion has found it.

    ``is_fresh``: nobody else knows of ``out``, which then needs no check.
    """
    key = None
    if h0 is None and lengths is None and out is None and dtype is None:
        key, owner, places = _glance((family, axis, reverse, return_state), a, b)
        shortcut = _shortcuts.get(key)
        if shortcut is not None:
            given = _take_shortcut(shortcut, owner, places)
            return tuple(given) if return_state else given[0]
    given = out
    (a, b, h0, out), owner, device = _arrays.take((*names, "out"), (a, b, h0, out))
    _check_complex(family, names, a, b, h0)
    lengths = _lengths(lengths, names, owner, device)
    plan = _plan.forward(
        family, names, _signature(a), _signature(b), _state(h0), _signature(out), axis, reverse,
        _known_lengths(lengths), complex in (type(a), type(b), type(h0)), dtype,
    )  # fmt: skip
    in_place = out is not None and not is_fresh and _check_out(out, ((names[0], a), (names[1], b)))
    work = Work((a, b, h0, out, lengths), owner, device)
    if isinstance(lengths, np.ndarray):
        lengths = work.upload(_checked(lengths, plan.plan.steps))
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
        if in_place and plan.choice.pieces > 1:
            # Pieces that are mended read their operands again, so these must still be there.
            places["h"] = work.scratch(plan.plan.dtype.itemsize * int(np.prod(plan.plan.shape)))
            fresh = _plan.forward(
                family, names, _signature(a), _signature(b), _state(h0), None, axis, reverse, _known_lengths(lengths),
                complex in (type(a), type(b), type(h0)), dtype,
            )  # fmt: skip
            work.run(fresh, places)
            dtype, strides = plan.plan.dtype, fresh.plan.h_strides
            copy = _plan.added(dtype, dtype, plan.plan.shape, strides, dtype, out.strides)
            work.run(copy, {"source": places["h"], "source_sum": h_at})
        else:
            work.run(plan, places)
        if key is not None:
            written = [("h", plan.plan.shape, plan.plan.dtype, plan.plan.h_strides)]
            written += [("last", plan.lane_shape, plan.plan.dtype, None)] if return_state else []
            _remember(key, plan, device, owner, "ab", written)
    return (given, last) if return_state else given


def vjp(family, names, g, a, b, h, h0, axis, reverse, lengths, grad_state, dtype=None, layouts=(None, None)):
    """Run a recurrence's adjoint on a device; ``layouts`` are the strides of fresh gradients, None to choose them."""
    key = None
    if h0 is None and lengths is None and grad_state is None and dtype is None:
        key, owner, places = _glance((family, axis, reverse), g, a, b, h)
        shortcut = _shortcuts.get(key)
        if shortcut is not None:
            return (*_take_shortcut(shortcut, owner, places), None)
    (g, a, b, h, h0, grad_state), owner, device = _arrays.take(
        (*names, "h0", "grad_state"), (g, a, b, h, h0, grad_state)
    )
    _check_complex(family, names[1:3], a, g, b, h, h0, grad_state)
    lengths = _lengths(lengths, names, owner, device)
    plan = _plan.vjp(
        family, names, _signature(g), _signature(a), _signature(b), _signature(h), _state(h0), _state(grad_state),
        axis, reverse, _known_lengths(lengths), complex in map(type, (g, a, b, h, h0, grad_state)), dtype, layouts,
    )  # fmt: skip
    work = Work((g, a, b, h, h0, grad_state, lengths), owner, device)
    if isinstance(lengths, np.ndarray):
        lengths = work.upload(_checked(lengths, plan.plan.steps))
    places = dict(
        g=_place(g), a=_place(a), b=_place(b), h=_place(h), h0=_place(h0), last=_place(grad_state),
        lengths=_place(lengths),
    )  # fmt: skip
    results = []
    for name, (shape, dtype, strides) in zip(("to_a", "to_b"), plan.plan.gradients, strict=True):
        array, at = work.empty(shape, dtype, strides)
        results.append(array)
        places[name if strides is not None else name + "_sum"] = at
    grad_h0 = None
    if h0 is not None:
        shape = shape_of(h0)
        grad_h0, at = work.empty(shape, plan.plan.h0_dtype)
        places["first" if shape == plan.lane_shape else "first_sum"] = at
    if plan.plan.traversal == "empty":
        dtype = plan.carry_dtype
        for name, (shape, kind, _) in zip(("to_a", "to_b"), plan.plan.gradients, strict=True):
            if 0 not in shape:
                _bring(work, dtype, None, shape, kind, places[name + "_sum"])
        if h0 is not None and 0 not in plan.lane_shape:
            place = places["first" if shape_of(h0) == plan.lane_shape else "first_sum"]
            _bring(work, dtype, grad_state, plan.lane_shape, plan.plan.h0_dtype, place, shape_of(h0))
    else:
        work.run(plan, places)
        if key is not None:
            written = [(n, *g) for n, g in zip(("to_a", "to_b"), plan.plan.gradients, strict=True)]
            _remember(key, plan, device, owner, "gabh", written)
    return (*results, grad_h0)


def _known_lengths(lengths):
    if lengths is None:
        return None
    if isinstance(lengths, np.ndarray):
        return np.dtype(np.int64), lengths.shape, _problem.c_strides(lengths.shape, 8)
    return lengths.signature


def _checked(lengths, steps):
    from .. import _call

    return _call._check_range(lengths, steps)
