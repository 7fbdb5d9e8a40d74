"""Filters that are made of cascades: of polynomials, of poles alone, and in both directions."""

import sys

import numpy as np

from .. import _dispatch
from .._arguments import arrays as _arrays, checks, messages as say, shapes
from .._arguments.arrays import at, join
from .._cpu import filters
from .._plan import problem
from .._plan.filters import FIELDS, MOST_VARYING, check_sections, lengths_of, take
from . import _call

_LEAST = 2  # the order of a section: lower ones are filled up with zeros


def _namespace(*values):
    return sys.modules["torch"] if _arrays.any_tensor(*values) else np


def _floats(xp, name, value, like):
    """Return coefficients or states as an array of numbers of the signal's library."""
    if xp is np:
        return take(name, value)[0]
    if not isinstance(value, xp.Tensor):
        value = xp.as_tensor(value, device=like.device)
    return value if value.dtype in (xp.float32, xp.float64, xp.complex64, xp.complex128) else value.double()


def _signal(xp, x):
    """Return a signal as something with a shape."""
    return x if hasattr(x, "shape") else xp.asarray(x) if xp is np else xp.as_tensor(x)


def _in_memory(xp, x):
    """Return a signal that is not lazy, and what makes results of its library of arrays."""
    if xp is not np:
        return _signal(xp, x), lambda result: result
    if _arrays.any_on_device(x):
        raise TypeError(say.filter_gpu("x", type(x)))
    if _arrays.any_lazy(x):
        raise TypeError(say.filter_in_memory())
    array, owner = take("x", x)
    return array, owner.give


def _polynomial(xp, name, value, x, axis):
    """Return a filter's polynomial, (coefficients,), or with the shape of x, or of its series, in front."""
    value = _floats(xp, name, value, x)
    shape, series = tuple(x.shape), tuple(x.shape[:axis]) + tuple(x.shape[axis + 1 :])
    lead = tuple(value.shape[:-1])
    ranks = {0: (), len(series): series, len(shape): shape}
    if not value.ndim or not value.shape[-1] or len(lead) not in ranks or not problem.fits(lead, ranks[len(lead)]):
        forms = [f"({', '.join(map(str, (*own, 'coefficients')))})" for own in ((), series, shape)]
        raise ValueError(say.filter_coefficients(name, tuple(value.shape), *forms))
    return value


def _filled(xp, array, count, axis):
    """Return an array with zeros behind it along an axis, up to so many."""
    missing = count - array.shape[axis]
    if missing <= 0:
        return array
    axis = axis % array.ndim
    zeros = xp.zeros((*array.shape[:axis], missing, *array.shape[axis + 1 :]), dtype=array.dtype)
    return join(xp, [array, zeros], axis)


def _rows(xp, polynomials, order, x):
    """Return polynomials of one order as sections of a cascade of one."""
    if max(p.ndim for p in polynomials) > x.ndim and order > MOST_VARYING:
        raise ValueError(say.filter_order(MOST_VARYING, order))
    aligned = [_filled(xp, p, order + 1, -1) for p in polynomials]
    full = xp.broadcast_shapes(*(tuple(p.shape[:-1]) for p in aligned))
    aligned = [xp.broadcast_to(p, (*full, order + 1)) for p in aligned]
    return join(xp, aligned, len(full))[..., None, :]


def lfilter(b, a, x, axis, zi, reverse, lengths, return_state, out):
    """Return the output of a filter of any order, and the states after it where they are wanted."""
    xp, wants_state = _namespace(b, a, x, zi), checks.flag("return_state", return_state) or zi is not None
    x = _signal(xp, x)
    axis = shapes.axis_of(axis, tuple(x.shape), ("x",))
    b, a = (_polynomial(xp, name, v, x, axis) for name, v in (("b", b), ("a", a)))
    if {b.ndim, a.ndim} == {x.ndim, x.ndim + 1} and x.ndim > 1:  # one for each series beside one for each step
        b, a = (p if p.ndim > x.ndim else p[(*(slice(None),) * axis, None)] for p in (b, a))
    if xp is np and not a[..., 0].all():
        raise ValueError(say.filter_lead())
    order = max(b.shape[-1], a.shape[-1]) - 1
    first, filled = a[..., :1], max(order, _LEAST)
    rows = _rows(xp, (b / first, join(xp, [xp.ones_like(first), a[..., 1:] / first], a.ndim - 1)), filled, x)
    state = None if zi is None else _state(xp, zi, x, axis, order, filled)
    found = _call.sosfilt(x, rows, state, axis, reverse, lengths, wants_state, out, rows.shape[-1])
    return (found[0], at(found[1][0], axis, slice(order))) if wants_state else found


def _state(xp, zi, x, axis, order, filled):
    zi = zi if hasattr(zi, "chunks") else _floats(xp, "zi", zi, x)
    wanted = (*x.shape[:axis], order, *x.shape[axis + 1 :])
    if zi.ndim != len(wanted) or not problem.fits(tuple(zi.shape), wanted):
        raise ValueError(say.same_shape("zi", tuple(zi.shape), wanted))
    zi = xp.broadcast_to(zi, wanted)
    return _filled(xp, zi, filled, axis)[None]


# ---- Poles alone ----------------------------------------------------------------------------------------------------


def allpole(a, x, axis, zi, reverse, lengths, return_state, out):
    """Return the output of poles alone, and its last values where they are wanted, the newest first."""
    wants_state = checks.flag("return_state", return_state) or zi is not None
    p = _Poles(a, x, axis, zi, reverse, lengths)
    if not wants_state:
        return p.give(_call.sosfilt(p.x, p.rows(), None, p.axis, p.reverse, p.lengths, False, out, p.fields))
    y, _ = _call.sosfilt(p.wide(p.x), p.rows(), p.state(), p.axis, p.reverse, p.lengths, True, None, p.fields)
    full = p.extended(y)
    zf = at(full, p.axis, slice(p.order)) if p.reverse else p.taken(full, range(p.order - 1, -1, -1))
    y = p.narrow(y)
    if out is None:
        return p.give(y), p.give(zf)
    if p.xp is np:
        _call.check_out(out, p.x, y.dtype, (("x", p.x), ("a", p.a), ("zi", p.past)))[...] = y
    else:
        _dispatch.tensor_filters().check_out(out, y, (p.a, p.x, p.past)).copy_(y)
    return out, p.give(zf)


def allpole_vjp(g, a, x, y, zi, axis, reverse, lengths, grad_zf):
    """Return the gradients of the coefficients, the input and the values before all steps."""
    if _arrays.any_tensor(g, a, x, y, zi):
        return _vjp_of_tensors(g, a, x, zi, axis, reverse, lengths, grad_zf)
    p = _Poles(a, x, axis, zi, reverse, lengths)
    g, y, given = (np.asarray(take(*v)[0]) for v in (("grad_y", g), ("y", y), ("a", a)))
    for name, value in (("grad_y", g), ("y", y)):
        if value.shape != p.x.shape:
            raise ValueError(say.operand_shape(name, value.shape, p.x.shape))
    g, out = p.wide(g), p.wide(y)
    if p.lengths is not None:
        g = np.where(p.valid(), g, 0)
    to_past = np.zeros(p.past.shape, np.result_type(g, p.past))
    if grad_zf is not None:  # of the last outputs, and of values before all where there are fewer steps
        full = np.zeros_like(p.extended(out), dtype=to_past.dtype)
        grad_zf = np.broadcast_to(take("grad_zf", grad_zf)[0], p.past.shape)
        place = p.places(range(p.order) if p.reverse else range(p.order - 1, -1, -1), not p.reverse)
        np.put_along_axis(full, place, grad_zf, p.axis)
        more, to_past = p.taken_apart(full)
        g = g + more
    _, e, _ = _call.sosfilt_vjp(g, p.rows(), out, out, None, p.axis, p.reverse, p.lengths, None, p.fields)
    before, grads = p.extended(out), []
    for k in range(1, p.order + 1):
        product = -(e * np.conj(p.earlier(before, k)))
        grads.append(product.real)
        reach = -(p.coefficient(k) * e)  # to the value k steps before
        for n in range(k):
            step = p.step(reach, n)
            index = (*(slice(None),) * p.axis, slice(k - 1 - n, k - n))
            to_past[index] += step
    grad_a = np.stack(grads, -1)
    if given.ndim <= p.x.ndim:  # constant in time
        grad_a = grad_a.sum(p.axis)
    grad_a = filters.summed_to(grad_a, given.shape).astype(given.dtype)
    grad_x = (e if p.x.dtype.kind == "c" else e.real).astype(p.x.dtype)
    if zi is None:
        return p.give(grad_a), p.give(grad_x), None
    own = take("zi", zi)[0]
    to_past = to_past if own.dtype.kind == "c" else to_past.real
    return p.give(grad_a), p.give(grad_x), p.give(filters.summed_to(to_past, own.shape).astype(own.dtype))


def _vjp_of_tensors(g, a, x, zi, axis, reverse, lengths, grad_zf):
    torch = sys.modules["torch"]
    operands = [v if v is None else torch.as_tensor(v).detach().requires_grad_() for v in (a, x, zi)]
    with torch.enable_grad():
        y, zf = allpole(*operands[:2], axis, operands[2], reverse, lengths, True, None)
        results, cotangents = ((y,), (g,)) if grad_zf is None else ((y, zf), (g, grad_zf))
        found = iter(torch.autograd.grad(results, [v for v in operands if v is not None], cotangents))
    return tuple(None if v is None else next(found) for v in operands)


class _Poles:
    """A call of `allpole`: its arguments, and the same as a cascade's, whose form is the transposed one.

    There a coefficient of k steps back is that of the step that it was formed at: a coefficient that varies in time
    stands k steps earlier.
    """

    def __init__(self, a, x, axis, zi, reverse, lengths):
        self.xp = xp = _namespace(a, x, zi)
        self.x, self.give = _in_memory(xp, x)
        self.reverse = checks.flag("reverse", reverse)
        self.shape = tuple(self.x.shape)
        self.axis = axis = shapes.axis_of(checks.axis(axis), self.shape, ("x",))
        a = _polynomial(xp, "a", a, self.x, axis)
        if a.ndim == self.x.ndim + 1 and a.shape[axis] == 1 != self.shape[axis]:
            a = a[(*(slice(None),) * axis, 0)]  # constant, after all
        self.a, self.order, self.varies = a, a.shape[-1], a.ndim == self.x.ndim + 1
        self.filled = max(self.order, _LEAST)
        self.fields = 2 * (self.filled + 1)
        if self.varies and self.order > MOST_VARYING:
            raise ValueError(say.filter_order(MOST_VARYING, self.order))
        wanted = (*self.shape[:axis], self.order, *self.shape[axis + 1 :])
        past = xp.zeros(wanted, dtype=xp.float64) if zi is None else _floats(xp, "zi", zi, self.x)
        if past.ndim != len(wanted) or not problem.fits(tuple(past.shape), wanted):
            raise ValueError(say.same_shape("zi", tuple(past.shape), wanted))
        self.past = xp.broadcast_to(self.wide(past), wanted)
        self.lengths = None
        if lengths is not None:
            own = np.array(lengths_of(lengths, self.shape, axis))
            self.lengths = own if xp is np else xp.from_numpy(own)

    def wide(self, array):
        """Return a signal in double precision."""
        xp = self.xp
        if xp is np:
            return array.astype(np.result_type(array.dtype, np.float64), copy=False)
        return array.to(xp.promote_types(array.dtype, xp.float64))

    def narrow(self, y):
        """Return an output in the signal's precision."""
        xp, dtype = self.xp, self.x.dtype
        if xp is np:
            return y.astype(np.result_type(dtype, np.complex64) if y.dtype.kind == "c" else dtype, copy=False)
        dtype = dtype if dtype.is_floating_point or dtype.is_complex else xp.get_default_dtype()
        return y.to(xp.promote_types(dtype, xp.complex64) if y.is_complex() else dtype)

    def count(self):
        """Return how many steps each series has, with an axis for time."""
        xp, one = self.xp, (*self.shape[: self.axis], 1, *self.shape[self.axis + 1 :])
        if self.lengths is not None:
            return self.lengths.reshape(one)
        return xp.full(one, self.shape[self.axis], dtype=xp.int64)

    def valid(self):
        steps = np.arange(self.shape[self.axis]).reshape(-1, *(1,) * (len(self.shape) - 1 - self.axis))
        return steps < self.count()

    def extended(self, y):
        """Return an output with the values before it, where the scan begins: behind the last step in reverse."""
        xp, axis = self.xp, self.axis
        if not self.reverse:
            return join(xp, [xp.flip(self.past, (axis,)), y], axis)
        full = join(xp, [y, xp.zeros_like(self.past)], axis)
        place = self.places(range(self.order), True)
        if xp is np:
            np.put_along_axis(full, place, self.past, axis)
            return full
        return full.scatter(axis, place, self.past.to(full.dtype))

    def taken_apart(self, full):
        """Return the steps of what `extended` returns, and the values before them, the newest first."""
        axis = self.axis
        if not self.reverse:
            return at(full, axis, slice(self.order, None)), np.flip(at(full, axis, slice(self.order)), axis)
        past = np.take_along_axis(full, self.places(range(self.order), True), axis)
        return np.where(self.valid(), at(full, axis, slice(self.shape[axis])), 0), past

    def places(self, numbers, behind):
        """Return places in `extended`, counted from the first or from the number of steps."""
        xp = self.xp
        number = xp.asarray([*numbers], dtype=xp.int64).reshape(-1, *(1,) * (len(self.shape) - 1 - self.axis))
        return number + (self.count() if behind else 0 * self.count())

    def taken(self, full, numbers):
        place = self.places(numbers, True)
        return (np.take_along_axis if self.xp is np else self.xp.take_along_dim)(full, place, self.axis)

    def earlier(self, full, k):
        """Return the output k steps before each."""
        return at(full, self.axis, slice(k, k + self.shape[self.axis]) if self.reverse else slice(self.order - k, -k))

    def coefficient(self, k):
        """Return the factor of the output k steps back, with an axis for time."""
        own = self.a[..., k - 1]
        return own if self.varies or not own.ndim else own[(*(slice(None),) * self.axis, None)]

    def step(self, array, n):
        """Return the n-th step in scan order of each series, 0 where there is none."""
        xp, axis, shape, count = self.xp, self.axis, self.shape, self.count()
        array = xp.broadcast_to(array, shape)
        if not shape[axis]:
            return xp.zeros(tuple(count.shape), dtype=array.dtype)
        place = count - 1 - n if self.reverse else 0 * count + n
        found = (np.take_along_axis if xp is np else xp.take_along_dim)(array, place.clip(0, shape[axis] - 1), axis)
        return xp.where(n < count, found, xp.zeros_like(found))

    def rows(self):
        """Return the coefficients of the cascade."""
        xp, axis, poles = self.xp, self.axis, []
        for k in range(1, self.order + 1):
            own = self.a[..., k - 1]
            if self.varies:
                steps = own.shape[axis]
                kept = at(own, axis, slice(0, max(steps - k, 0)) if self.reverse else slice(min(k, steps), None))
                none = xp.zeros_like(at(own, axis, slice(0, min(k, steps))))
                own = join(xp, [none, kept] if self.reverse else [kept, none], axis)
            poles.append(own)
        zero = xp.zeros_like(self.a[..., 0])
        rest = [zero] * (self.filled - self.order)
        return xp.stack([zero + 1, *[zero] * self.filled, zero + 1, *poles, *rest], -1)[..., None, :]

    def state(self):
        """Return the state of the transposed form that stands for the values before all steps."""
        xp, axis, states = self.xp, self.axis, []
        for n in range(self.order):
            total = 0
            for k in range(n + 1, self.order + 1):
                own = self.coefficient(k)
                total = total - (self.step(own, n) if self.varies else own) * at(
                    self.past, axis, slice(k - 1 - n, k - n)
                )
            states.append(total)
        states += [xp.zeros_like(states[0])] * (self.filled - self.order)
        return join(xp, states, axis)[None]


# ---- In both directions- --------------------------------------------------------------------------------------------


def _settled(xp, sos):
    """Return SciPy's ``sosfilt_zi`` for each series: (sections, ..., 2), the states that 1 for ever leads to."""
    states, scale = [], 1.0
    with _arrays.quiet(xp):
        for s in range(sos.shape[-2]):
            b0, b1, b2, _, a1, a2 = (sos[..., s, k] for k in range(FIELDS))
            gain = (b0 + b1 + b2) / (1 + a1 + a2)
            second = b2 - a2 * gain
            states.append(xp.stack([scale * (b1 - a1 * gain + second), scale * second], -1))
            scale = scale * gain
    return xp.stack(states)


def sosfiltfilt(sos, x, axis, padtype, padlen):
    """Return what a cascade makes of a signal forward and then in reverse."""
    xp = _namespace(sos, x)
    x, give = _in_memory(xp, x)
    sos = _floats(xp, "sos", sos, x)
    axis = shapes.axis_of(axis, tuple(x.shape), ("x",))
    check_sections(tuple(sos.shape), tuple(x.shape), axis)
    if sos.ndim == x.ndim + 2:
        raise ValueError(say.filter_constant())
    if padtype not in ("odd", "even", "constant", None):
        raise ValueError(say.filter_padtype(padtype))
    if padlen is None:
        are_zero = (sos == 0).reshape(-1, sos.shape[-2], FIELDS).all(0)  # in all series
        padlen = 3 * (2 * sos.shape[-2] + 1 - min(int(are_zero[:, k].sum()) for k in (2, 5)))
    padlen = 0 if padtype is None else checks.axis(padlen, "padlen")
    steps = x.shape[axis]
    if not 0 <= padlen < max(steps, 1):
        raise ValueError(say.filter_padlen(steps, padlen))
    if padlen:
        head, tail = at(x, axis, slice(1, padlen + 1)), at(x, axis, slice(-padlen - 1, -1))
        first, last = at(x, axis, slice(0, 1)), at(x, axis, slice(-1, None))
        head, tail = (xp.flip(v, (axis,)) for v in (head, tail))
        if padtype == "odd":
            head, tail = 2 * first - head, 2 * last - tail
        elif padtype == "constant":
            head, tail = first + 0 * head, last + 0 * tail
        x = join(xp, [head, x, tail], axis)
    zi = _settled(xp, sos)
    if zi.ndim == 2:  # one filter for all series
        zi = zi.reshape(len(zi), *(1,) * (x.ndim - 1), 2)
    zi = xp.moveaxis(zi, -1, axis + 1)
    for reverse in (False, True):
        start = at(x, axis, slice(-1, None) if reverse else slice(0, 1))
        x, _ = _call.sosfilt(x, sos, zi * start, axis, reverse, None, True, None)
    return give(at(x, axis, slice(padlen, padlen + steps)) if padlen else x)
