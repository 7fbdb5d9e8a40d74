"""An envelope follower: what is checked of a call, and what it is given."""

import functools

import numpy as np

from .._arguments import checks, messages as say
from .._arguments.records import FOLLOW
from .._cpu import levels
from .._plan.filters import check_levels
from . import _levels


def follow(x, attack, release, axis, zi, return_state, out):
    """Return the envelope, and the last of it where it is wanted, with 1 in place of the axis."""
    axis, wants_state = checks.axis(axis), checks.flag("return_state", return_state) or zi is not None
    if type(x) is np.ndarray and zi is None and out is None and type(attack) is float and type(release) is float:
        known = levels.quick("follow", x, axis, attack, release, wants_state)
        if known is not None:
            return known if wants_state else known[0]
    given = {"attack": attack, "release": release} | ({} if zi is None else {"zi": zi})
    y, zf = _levels.call(_FOLLOW, x, given, axis, out)
    return (y, zf) if wants_state else y


_checked = functools.partial(check_levels, FOLLOW, wrong=say.follow_real)


def _prepare(xp, x, given, axis):
    axis, one, series = _checked(x, given, axis)
    if "zi" in given:
        first = xp.broadcast_to(_levels.wide(given["zi"]), one).reshape(series)
    else:
        first = x.new_zeros(series, dtype=xp.float64) if hasattr(x, "new_zeros") else xp.zeros(series)
    gates = given["attack"], given["release"]
    if xp is not np:
        gates = (v.reshape((1,) * (x.ndim - v.ndim) + tuple(v.shape)) for v in gates)
    return axis, (*gates, first)


def _operands(xp, x, axis, attack, release, first):
    every = tuple(range(x.ndim))
    return {"attack": (attack, every), "release": (release, every)}, (first, every[:axis] + every[axis + 1 :])


def _resume(state, attack, release):
    return attack, release, state


_FOLLOW = _levels.Levels("follow", 1, _checked, _prepare, _operands, _resume, levels.follow, _levels.as_step)
