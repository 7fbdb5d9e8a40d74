"""A call with arrays in memory, from its arguments to its result: take them, check, plan, run, hand back."""

import functools
from collections.abc import Callable

import numpy as np

from .._arguments import arrays as _arrays, checks, messages as say, shapes
from .._arguments.records import RECURRENCE
from .._plan import problem, segments
from .compiler import cache
from .machine import allocate
from .prepared import keep

_ndarray = np.ndarray
_supported = _arrays.element

# Calls of kinds seen before, by all that a kernel reads of them but numbers and addresses: what runs them, and the
# first one's cuts.
_shortcuts: dict[tuple, tuple[Callable | None, segments.Cuts | None]] = {}
_UNKNOWN = None, None
_LARGEST = 1 << 1023
_STATES = type(None), np.ndarray, float  # types of first states that a shortcut takes


@functools.cache
def _runner():
    """Return the module that runs plans; it and what defines kernels are imported when a call first needs them."""
    with cache.making:
        from . import run as _run

    return _run


def quick_forward(family, names, a, b, h0, axis, reverse, lengths, return_state, out):
    """Run a recurrence whose second operand is an ndarray, by a shortcut if there is one; None: look at the others."""
    borders = None if lengths is None else segments.key(lengths)
    if (
        (borders is None and lengths is not None) or (out is not None and type(out) is not _ndarray)
        or type(axis) is not int or type(reverse) is not bool or type(h0) not in _STATES
    ):  # fmt: skip
        return None
    to = None if out is None else (out.dtype, out.shape, out.strides)
    first = None if h0 is None else _first(h0, lengths)
    if type(a) is _ndarray:
        key = family, a.dtype, a.shape, a.strides, b.dtype, b.shape, b.strides, axis, reverse, to, borders, first
    elif type(a) is float:
        key = family, b.dtype, b.shape, b.strides, axis, reverse, to, borders, first
    else:
        return None
    run, cuts = _shortcuts.get(key, _UNKNOWN)
    if run is None:
        return forward(family, names, a, b, h0, axis, reverse, lengths, return_state, out, key)
    if return_state is not False and return_state is not True:
        return_state = checks.flag("return_state", return_state)
    if cuts is not None:
        cuts = cuts.of(lengths)
    if out is not None:
        _check_out(out, names, a, b, cuts=cuts)
    result, carry = run(a, b, h0, out, return_state, cuts)
    return (result, _runner().narrowed(carry, result.dtype)) if return_state else result


def forward(family, names, a, b, h0, axis, reverse, lengths, return_state, out, key=None):
    """Run a recurrence, and remember it by ``key``; ``names`` are what the caller calls the operands."""
    owner, given = _arrays.NUMPY, out
    if not (_is_plain(a) and _is_plain(b) and (h0 is None or _is_plain(h0)) and (out is None or type(out) is _ndarray)):
        a, b, h0, out, owner = _take((*names, "out"), a, b, h0, out)
        key = None
    reverse, axis = checks.flag("reverse", reverse), checks.axis(axis)
    return_state = checks.flag("return_state", return_state)
    asked, (cuts, borders, lengths) = lengths, _cut(names[:2], a, b, {"h0": h0}, axis, reverse, lengths)
    weak_complex = type(a) is complex or type(b) is complex or type(h0) is complex
    if (weak_complex or _is_complex(a) or _is_complex(b) or _is_complex(h0)) and _gate_is_real(family, names, a):
        out, last = _forward_pairs(family, names, a, b, h0, axis, reverse, asked if cuts else lengths, out)
        result = owner.give(out) if given is None else given
        return (result, owner.give(last)) if return_state else result
    plan = problem.forward(
        family, names, _signature(a), _signature(b), _state_signature(h0, cuts), _signature(out), axis, reverse,
        None if lengths is None else lengths.shape, weak_complex, borders=borders,
    )  # fmt: skip
    if lengths is not None:
        lengths = checks.lengths_in_range(lengths, plan.steps)
    if out is not None:
        if _arrays.overlaps_itself(out):
            raise ValueError(say.out_self_overlap())
        _check_out(out, names, a, b, cuts=cuts)
    if key is not None:
        keep(_shortcuts, key, (_runner().known_forward(plan), cuts))
    out, carry = _runner().forward(plan, a, b, h0, lengths, out, return_state, cuts)
    result = owner.give(out) if given is None else given
    return (result, owner.give(_runner().narrowed(carry, plan.dtype))) if return_state else result


def quick_vjp(family, names, g, a, b, h, h0, axis, reverse, lengths, grad_state):
    """Run an adjoint as `quick_forward` runs a recurrence."""
    borders = None if lengths is None else segments.key(lengths)
    if (
        (borders is None and lengths is not None) or grad_state is not None
        or type(axis) is not int or type(reverse) is not bool or type(h0) not in _STATES
        or type(a) not in (_ndarray, float) or type(g) is not _ndarray or type(h) is not _ndarray
    ):  # fmt: skip
        return None
    gate = (a.dtype, a.shape, a.strides) if type(a) is _ndarray else None
    key = (
        family, gate, b.dtype, b.shape, b.strides, g.dtype, g.shape, g.strides, h.dtype, h.shape, h.strides, axis,
        reverse, borders, None if h0 is None else _first(h0, lengths),
    )  # fmt: skip
    run, cuts = _shortcuts.get(key, _UNKNOWN)
    if run is not None:
        return run(g, a, b, h, h0, cuts and cuts.of(lengths))
    return vjp(family, names, g, a, b, h, h0, axis, reverse, lengths, grad_state, key)


def vjp(family, names, g, a, b, h, h0, axis, reverse, lengths, grad_state, key=None, results=None):
    """Run a recurrence's adjoint, and remember it by ``key``; ``names`` are what the caller calls ``g, a, b, h``.

    ``results`` are fresh arrays for the gradients of a and b, which are written if they stand as these would.
    """
    owner = _arrays.NUMPY
    if not (all(map(_is_plain, (g, a, b, h))) and all(v is None or _is_plain(v) for v in (h0, grad_state))):
        g, a, b, h, h0, grad_state, owner = _take((*names, "h0", "grad_state"), g, a, b, h, h0, grad_state)
        key = None
    reverse, axis = checks.flag("reverse", reverse), checks.axis(axis)
    states = {"h0": h0, "grad_state": grad_state}
    asked, (cuts, borders, lengths) = lengths, _cut(names[1:3], a, b, states, axis, reverse, lengths)
    values = (g, a, b, h, h0, grad_state)
    weak_complex = any(type(value) is complex for value in values)
    if weak_complex or any(map(_is_complex, values)):
        problem.check_kind(names, *map(_signature, values))
        if _gate_is_real(family, names[1:3], a):
            grads = _vjp_pairs(family, names, g, a, b, h, h0, axis, reverse, asked if cuts else lengths, grad_state)
            return tuple(map(owner.give, grads))
    plan = problem.vjp(
        family, names,
        (*map(_signature, (g, a, b, h)), _state_signature(h0, cuts), _state_signature(grad_state, cuts)), axis,
        reverse, None if lengths is None else lengths.shape, weak_complex,
        borders=borders,
    )  # fmt: skip
    if lengths is not None:
        lengths = checks.lengths_in_range(lengths, plan.steps)
    if key is not None:
        keep(_shortcuts, key, (_runner().known_vjp(plan), cuts))
    results = None if results is None else _fitting(results, plan.gradients)
    grad_a, grad_b, carry = _runner().vjp(plan, g, a, b, h, h0, grad_state, lengths, cuts, results)
    grad_h0 = None if h0 is None else _runner().grad_of(h0, carry, plan)
    return owner.give(grad_a), owner.give(grad_b), owner.give(grad_h0)


def _fitting(results, gradients):
    """Return results, None for those that are summed; None if one does not stand as a plan's would."""
    are_fit = [
        own[2] is None or (result.dtype, result.strides) == own[1:]
        for result, own in zip(results, gradients, strict=True)
    ]
    return (
        [result if own[2] else None for result, own in zip(results, gradients, strict=True)] if all(are_fit) else None
    )


def _first(h0, lengths):
    """Return what is remembered of first states: the number of segments, too, whose states they may be."""
    offsets = None if lengths is None else lengths.offsets
    kind = float if type(h0) is float else (h0.dtype, h0.shape)
    return kind, None if offsets is None else len(offsets)


def _cut(names, a, b, states, axis, reverse, lengths):
    """Return where series begin anew, what a plan is told of that, and lengths, of what a call takes as lengths."""
    if type(lengths) is not checks.Segments:
        return None, ("", None), None if lengths is None else checks.on_host("lengths", lengths)
    states = {k: _signature(v) for k, v in states.items()}
    cuts = segments.check(names, _signature(a), _signature(b), states, axis, reverse, lengths)
    return cuts, cuts.signature, cuts.lengths


# ---- Taking arguments -----------------------------------------------------------------------------------------------


def _is_plain(value):
    """Return whether a value needs no look at all beyond its dtype."""
    kind = type(value)
    if kind is _ndarray:
        return _supported(value.dtype) is not None and value.dtype.isnative
    return kind is float or (kind is int and -_LARGEST < value < _LARGEST)


def _take(names, *values):
    arrays, owner = _arrays.take_all(RECURRENCE, dict(zip(names, values, strict=True)), _number)
    return (*arrays.values(), owner)


def _number(name, value):
    """Return an array of supported numbers, or a number."""
    if type(value) is int and not -_LARGEST < value < _LARGEST:
        raise ValueError(say.too_large(name, "float64", 1023))
    return _arrays.numbers(name, value) if type(value) is _ndarray else value


def _signature(value):
    if type(value) is _ndarray:
        return value.dtype, value.shape, value.strides
    return complex if type(value) is complex else None


def _state_signature(value, cuts=None):
    if type(value) is _ndarray:
        return value.dtype, value.shape if cuts is None else ()  # whose states were looked at
    return problem.state_number(value)


def _check_out(out, names, *operands, cuts=None):
    """Raise unless ``out`` may be written to, given its layout."""
    if not out.flags.writeable:
        raise ValueError(say.out_read_only())
    ends = () if cuts is None else (("offsets", cuts.borders), ("resets", cuts.flags))
    checks.out_memory(out, zip(names, operands, strict=False), ends)


# ---- A complex series whose gate is real is two real series ---------------------------------------------------------


def _is_complex(value):
    return type(value) is _ndarray and value.dtype.kind == "c"


def _gate_is_real(family, names, a):
    if not (type(a) is complex or _is_complex(a)):
        return True
    if family == problem.FORGET:
        raise TypeError(say.complex_gate(names[0], a.dtype if type(a) is _ndarray else "complex"))
    return False


def _pair_problem(names, a, b, others, axis, lengths):
    """Return the complex dtype and shape, and what does not change in kind: gate, axis and lengths for pairs."""
    signatures, is_segmented = {k: _signature(value) for k, value in others.items()}, type(lengths) is checks.Segments
    dtypes = shapes.own_dtypes(_signature(a), _signature(b), *signatures.values())
    dtype = shapes.result_dtype((*names, *others), dtypes, True)
    given = None if lengths is None or is_segmented else lengths.shape  # segments have been checked, as have states
    shape, axis = problem.checked_shape(
        names, _signature(a), _signature(b), {} if is_segmented else signatures, axis, given
    )
    if len(shape) == 1:
        if is_segmented and lengths.lengths is not None:
            lengths = lengths._replace(lengths=np.full(2, lengths.lengths))
        elif given is not None:
            lengths = np.full(2, lengths)
    return dtype, shape, a[..., np.newaxis] if type(a) is _ndarray else a, axis, lengths


def _unpair(pairs, like):
    """Return a gradient on pairs as one in an operand's own shape and kind."""
    joined = np.ascontiguousarray(pairs)
    if type(like) is complex or _is_complex(like):
        return joined.view(np.result_type(joined.dtype, np.complex64))[..., 0]
    return joined[..., 0].astype(shapes.gradient_dtype(_signature(like), joined.dtype))


def _forward_pairs(family, names, a, b, h0, axis, reverse, lengths, out):
    dtype, shape, gate, axis, lengths = _pair_problem(names[:2], a, b, {"h0": h0}, axis, lengths)
    if out is None:
        strides = shapes.like(shape, dtype, *((v.shape, v.strides) for v in (b, a) if type(v) is _ndarray))
        out = allocate.empty(shape, dtype, strides)
    else:
        checks.out_form(out.shape, out.dtype, shape, dtype)
    b, h0, pair = (_arrays.pairs(value, dtype) for value in (b, h0, out))
    _, last = forward(family, names, gate, b, h0, axis, reverse, lengths, True, pair)
    return out, np.ascontiguousarray(last).view(dtype)[..., 0]


def _vjp_pairs(family, names, g, a, b, h, h0, axis, reverse, lengths, grad_state):
    others = {names[0]: g, names[3]: h, "h0": h0, "grad_state": grad_state}
    dtype, _, gate, axis, lengths = _pair_problem(names[1:3], a, b, others, axis, lengths)
    g, pair_b, h, pair_h0, grad_state = (_arrays.pairs(value, dtype) for value in (g, b, h, h0, grad_state))
    grad_a, grad_b, grad_h0 = vjp(family, names, g, gate, pair_b, h, pair_h0, axis, reverse, lengths, grad_state)
    grad_a = grad_a.reshape(np.shape(a))
    return grad_a, _unpair(grad_b, b), None if h0 is None else _unpair(grad_h0, h0)
