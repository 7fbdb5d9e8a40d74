"""What is asked of a filter: its arguments, checked, and shapes of states."""

import numpy as np

from .._arguments import arrays, checks, messages as say, shapes
from .._arguments.records import FILTER, FOLLOW, HOLT, HOLT_WINTERS
from . import problem

FIELDS = 6  # of a section: b0, b1, b2, a0, a1, a2
_RECORD = HOLT_WINTERS | HOLT | FOLLOW | FILTER
SIGNALS = "signal", "result", "cotangent"
MOST_VARYING = 94  # the order of a filter whose coefficients vary in time, at most, on every device


def take(name, value, halves=SIGNALS):
    """Return an argument as an array of floats, or complex numbers, and its library; None as it is if it may be None.

    ``halves`` are kinds of arguments that may stay in half precision: signals are read as they are.
    """
    array, owner = arrays.take(name, value)
    if array is None and not _RECORD[name].optional:
        raise TypeError(say.not_an_array(name, type(None)))
    return array if array is None else floats(name, array, halves), owner


def floats(name, array, halves=SIGNALS):
    """Return an array, perhaps a lazy one, of floats or complex numbers as `take` does."""
    array, kind = arrays.floats(name, array), _RECORD[name].kind
    if kind == "polynomial" and array.dtype.kind == "c":
        raise TypeError(say.filter_real(name, array.dtype))
    return array.astype(np.float64) if array.dtype.itemsize == 2 and kind not in halves else array


def check_levels(record, x, given, axis, wrong=say.real_dtype, period=1):
    """Return the axis, counted from the first, and the shapes of states with 1 there and without it.

    Raise unless a signal and others, by name, have shapes of their ``record``; ``wrong`` is said of a complex one, and
    seasons are of ``period`` steps.
    """
    shape = tuple(x.shape)
    axis = shapes.axis_of(axis, shape, ("x",))
    one, series = (*shape[:axis], 1, *shape[axis + 1 :]), shape[:axis] + shape[axis + 1 :]
    for name, value in {"x": x, **given}.items():
        if checks.is_complex(value.dtype):
            raise TypeError(wrong(name, value.dtype))
        word = record[name].shape
        into = {"one step": one, "series": series, "period": (*shape[:axis], period, *shape[axis + 1 :])}.get(
            word, shape
        )
        problem.check_fits(name, value.shape, into, say.state_shape if word == "series" else say.same_shape)
    return axis, one, series


def check_a0(sos):
    if not (sos[..., sos.shape[-1] // 2] == 1).all():
        raise ValueError(say.filter_a0())


def check_settles(sos):
    """Raise for sections that no signal of ones leads to a steady state."""
    if (1 + sos[..., 4].astype(np.float64) + sos[..., 5] == 0).any():
        raise ValueError(say.filter_settles())


def check_order(order, varies):
    """Raise for an order at which kernels in memory could not keep the coefficients of a step, if these vary."""
    if varies and order > MOST_VARYING:
        raise ValueError(say.filter_order(MOST_VARYING, order))


def check_sections(came, shape, axis, fields=FIELDS):
    """Raise unless coefficients have a shape that says whether they are one filter, one a series or one a step."""
    series = shape[:axis] + shape[axis + 1 :]
    fits = len(came) >= 2 and came[-1] == fields and came[-2] > 0
    if fits and len(came) > 2:
        lead = came[:-2]
        fits = problem.fits(lead, series if len(lead) < len(shape) else shape) and len(lead) >= len(series)
    if not fits:
        raise ValueError(say.filter_coefficients("sos", tuple(came), _forms(series, shape, "sections", FIELDS)))


def check_polynomial(name, came, shape, axis):
    """Raise unless a polynomial is one for all series, one for each, or one for each step of a signal of a shape."""
    series, lead = shape[:axis] + shape[axis + 1 :], tuple(came[:-1])
    ranks = {0: (), len(series): series, len(shape): tuple(shape)}
    if not came or not came[-1] or len(lead) not in ranks or not problem.fits(lead, ranks[len(lead)]):
        raise ValueError(say.filter_coefficients(name, tuple(came), _forms(series, shape, "coefficients")))


def _forms(series, shape, *own):
    """Return the shapes that coefficients may have, in words; a single series has one filter in any case."""
    whose = {(): "one filter"} | ({series: "one for each series"} if series else {}) | {shape: "one for each step"}
    first, *others, last = (f"({', '.join(map(str, (*lead, *own)))}) ({words})" for lead, words in whose.items())
    return " or ".join([", ".join([first, *others]), last])


def state_shape(sos, shape, axis, poles=False):
    """Return the shape of SciPy's states of a cascade, given that of its coefficients; or of the last outputs."""
    return (sos[-2], *shape[:axis], sos[-1] if poles else sos[-1] // 2 - 1, *shape[axis + 1 :])


def check_states(states, sos, shape, axis, poles=False):
    wanted = state_shape(sos, shape, axis, poles)
    for name, value in states.items():
        if value is not None and not (len(value.shape) == len(wanted) and problem.fits(tuple(value.shape), wanted)):
            raise ValueError(say.same_shape(name, tuple(value.shape), wanted))


def check_cascade(sos, states, shape, axis, fields, poles):
    """Raise unless coefficients, if they are not those of `check_polynomial`, and states are a signal's of a shape."""
    if not poles:
        check_sections(sos.shape, shape, axis, fields)
        if isinstance(sos, np.ndarray):
            check_a0(sos)
    check_states(states, sos.shape, shape, axis, poles)


def lengths_of(lengths, shape, axis):
    """Return a length for each series, or None."""
    if lengths is None:
        return None
    series = shape[:axis] + shape[axis + 1 :]
    lengths = checks.on_host("lengths", lengths)
    problem.check_lengths_shape(lengths.shape, series)
    lengths = checks.lengths_in_range(lengths, shape[axis])
    return np.broadcast_to(lengths.reshape(lengths.shape + (1,) * (len(series) - lengths.ndim)), series)
