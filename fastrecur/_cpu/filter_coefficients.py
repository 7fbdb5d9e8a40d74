"""Coefficients of filters as kernels read them: difference forms, 8 steps at once, and when a state is forgotten."""

import functools

import numpy as np

from .._plan.widths import OCTET, WIDTH
from .._steps import sections as _steps

CHUNKS = 2 * WIDTH  # series, with those that are cut, that keep two threads busy
FORGOTTEN = 2.0**-80  # of a state, before a chunk that is warmed up
LONGEST = 1 << 24  # steps, of a warm-up that is looked for
LOOKED_AT = 64  # steps, for the sign of a section that varies in time
_WIDE = np.dtype(np.float64)


class Coefficients:
    """A cascade's coefficients as kernels read them, and the signs of its difference form, (sections, *series or 1).

    ``kind`` is "" for one filter of all series, "own" for one a series, "varying" for one a step.
    """

    def __init__(self, sos, kind, axis=None, poles=False):
        """Take SciPy's array with its sections and fields last, and before them each series', or nothing.

        Where they vary in time, ``axis`` is that of time. Of ``poles`` alone there are as many fields, from a1 on.
        """
        self.kind, self.poles, varies = kind, poles, kind == "varying"
        if poles and not varies:
            sos = _as_section(sos)
        self.sections, self.given = sos.shape[-2], sos
        self.order = sos.shape[-1] if poles and varies else sos.shape[-1] // 2 - 1
        if self.order != 2:
            self.signs = np.zeros((self.sections, *(1,) * (sos.ndim - 2 - varies)))
        elif varies:  # the sign stays, so that a state means the same at all steps
            some = sos[(*(slice(None),) * axis, slice(None, None, max(1, sos.shape[axis] // LOOKED_AT)))]
            a1, a2 = np.moveaxis(some[..., -2:], (-1, -2), (0, 1)).astype(_WIDE)
            self.signs = _signs(a1.sum(axis + 1), (a2 - abs(a1)).min(axis + 1, initial=np.inf))
        if varies:
            self.given, self.table = sos if poles else np.ascontiguousarray(sos), self.signs
            return
        if self.order != 2:
            self.table = np.moveaxis(sos, (-2, -1), (0, 1)).astype(_WIDE, order="C")
            return
        b0, b1, b2, _, a1, a2 = np.moveaxis(sos, (-1, -2), (0, 1)).astype(np.longdouble)
        self._a2, self._least = a2, a2 - abs(a1)
        self.signs = _signs(a1, self._least)
        self._formed = np.stack(np.broadcast_arrays(*_steps.form(b0, b1, b2, a1, a2, self.signs)), 1)
        self.table = self._formed.astype(_WIDE)  # (sections, fields, *series)

    def form(self):
        """Return how many sections there are, their order, how many coefficients each has and bytes to the next one.

        And words of a kernel's rule, and whether there are `blocks`.
        """
        words = *[self.kind] * bool(self.kind), *["any_order"] * (self.order != 2), *["poles"] * self.poles
        return self.sections, self.order, self.given.shape[-1], self.given.strides[-1], words, self.blocks is not None

    def places(self, x):
        """Return an operand whose series and steps are where coefficients are that vary in time."""
        return {"coefficients": np.broadcast_to(self.given[..., 0, 0], x.shape)} if self.kind == "varying" else {}

    def tables(self, run):
        """Return coefficients and signs as the kernel of a run takes them."""
        if self.kind == "":
            return self.table if self.blocks is None else self.blocks, self.signs
        return (self.given if self.kind == "varying" else run.lanes(self.table)), run.lanes(self.signs)

    @functools.cached_property
    def divides(self):
        """Whether a0 of all sections is as it should be."""
        return bool((self.given[..., self.order + 1] == 1).all())

    @functools.cached_property
    def blocks(self):
        """Fields and what 8 steps at once come to, where one stable filter is that of all series; else None."""
        if (
            self.kind
            or self.poles
            or self.order != 2
            or not (1 + self._least >= 0).all()
            or not (abs(self._a2) <= 1).all()
        ):
            return None
        each = [_blocks(_steps.Section(*fields)) for fields in self._formed]
        return np.concatenate([self.table.reshape(-1), *each]).astype(_WIDE)

    @functools.cached_property
    def warm_up(self):
        """How many steps leave nothing of any state; more than there are, where that is not known."""
        if self.kind == "varying" or self.table[0, 0].size > CHUNKS:
            return LONGEST
        each = self.table.reshape(self.sections, 2 * (self.order + 1), -1)
        return max(_forgotten_after(each[..., k]) for k in range(each.shape[-1]))


def _signs(a1, least):
    """Return the signs of difference forms; ``least`` is ``a2 - abs(a1)``."""
    with np.errstate(invalid="ignore"):
        return np.where(1 + least < _steps.NEAR, np.where(a1 <= 0, 1.0, -1.0), 0.0)


def _blocks(k):
    """Return what makes the outputs and the state after 8 steps of a section: see `sections.run_block`.

    Rows of the outputs, by their step, from both numbers of the state; the same of these from the inputs; each input's
    outputs; and the powers of the section's matrix.
    """
    zero, one = np.zeros(1, np.longdouble), np.ones(1, np.longdouble)
    found = []
    for n in range(2 + OCTET):  # the responses to each number of the state, and to each input
        p, q, outputs = one * (n == 0), one * (n == 1), []
        for step in range(OCTET):
            y, p, q = _steps.section(one if step == n - 2 else zero, p, q, k)
            outputs.append(y)
        found.append((np.concatenate(outputs), p, q))
    (first, *after), (second, *also), *inputs = found
    from_inputs = [np.concatenate([v[n] for v in inputs]) for n in (1, 2)]
    kept = one * k.sign * k.sign  # of the second number, which near 1 and -1 changes little: the rest keeps its digits
    powers = after[0], also[0], after[1], also[1] - kept, kept
    return np.concatenate([first, second, *from_inputs, *(v[0] for v in inputs), *powers])


def _as_section(a):
    """Return poles, of the fields from a1 on, as a section."""
    one, zeros = np.ones_like(a[..., :1]), np.zeros_like(a)
    return np.concatenate([one, zeros, one, a], -1)


@functools.lru_cache(256)
def shared(data, count, poles=False):
    return Coefficients(np.frombuffer(data).reshape(count, -1), "", None, poles)


def coefficients(sos, x, axis, poles=False):
    """Return the `Coefficients` of an array for a signal, which are remembered where all series have one filter."""
    if sos.ndim == 2:
        return shared(sos.astype(_WIDE, copy=False).tobytes(), len(sos), poles)
    return Coefficients(sos, "varying" if sos.ndim == x.ndim + 2 else "own", axis, poles)


def _forgotten_after(table):
    """Return after how many steps nothing is left of a state, by powers of a cascade's matrix."""
    count, order = len(table), table.shape[1] // 2 - 1
    states = np.eye(order * count).reshape(count, order, -1)
    v, after = np.zeros(order * count), []
    for fields, state in zip(table, states, strict=True):
        if order == 2:
            v, *state = _steps.section(v, *state, _steps.Section(*fields))
        else:
            b, a = fields[: order + 1, None], fields[order + 1 :, None]
            y = b[0] * v + state[0]
            v, state = y, b[1:] * v - a[1:] * y + np.concatenate([state[1:], 0 * state[:1]])
        after += [*state]
    powers, steps = [np.array(after)], 1
    with np.errstate(all="ignore"):
        while not abs(powers[-1]).max() <= FORGOTTEN:
            if 2 * steps > LONGEST:
                return LONGEST
            powers, steps = [*powers, powers[-1] @ powers[-1]], 2 * steps
        if steps == 1:
            return 1
        power, steps = powers[-2], steps // 2
        for k in range(len(powers) - 3, max(-1, len(powers) - 7), -1):  # as near as a thirty-second
            longer = power @ powers[k]
            if not abs(longer).max() <= FORGOTTEN:
                power, steps = longer, steps + (1 << k)
            last = 1 << k
    return steps + (last if len(powers) > 2 else 1)
