"""Is a result right? Float64 loops that compare as they go, so that nothing is held in memory.

`fastrecur.reference` is the definition, but on the largest arrays it would need several times their
memory. These loops share no code with the kernels, and `check_the_checks` first holds them to the
reference; then each result is compared with them, every element.
"""

import numpy as np
from cases import ALPHA
from numba import njit

from fastrecur import reference

# Accumulated in float64, rounded once: float32 and narrower may be off by that rounding. Float64
# results, and the loops below, carry rounding errors from step to step.
ULPS = {"float64": 16}


def _signatures(returned, *letters):
    # Compiled for any strides, not anew for each layout.
    return [returned + "(" + ", ".join(f"{kind}[:,:,:]" for kind in kinds.split()) + ", i8, i8)" for kinds in letters]


@njit(_signatures("f8[:]", "f4 f4 f4", "f8 f4 f4", "f8 f8 f8"), nogil=True, cache=True)
def _compare_forward(f, x, h, from_first, block):
    """Return the largest difference of `h`, infinite for NaN, and the largest true value."""
    steps, rows, lanes = x.shape
    states = np.empty(block)
    difference = 0.0
    largest = 0.0
    for row in range(rows):
        for low in range(0, lanes, block):
            high = min(lanes, low + block)
            for j in range(low, high):
                states[j - low] = x[0, row, j] if from_first else 0.0
            for t in range(steps):
                for j in range(low, high):
                    gate = np.float64(f[t, row, j])
                    state = gate * x[t, row, j] + (1.0 - gate) * states[j - low]
                    states[j - low] = state
                    off = abs(h[t, row, j] - state)
                    if not off <= difference:
                        difference = off if off == off else np.inf
                    largest = max(largest, abs(state))
    return np.array([difference, largest])


@njit(
    _signatures("f8[:]", "f4 f4 f4 f4 f4 f4", "f4 f8 f4 f4 f4 f4", "f8 f8 f8 f8 f8 f8"),
    nogil=True,
    cache=True,
)
def _compare_gradients(g, f, x, h, grad_f, grad_x, summed, block):
    """Return difference and largest value of `grad_f` and of `grad_x`; the sum of the true `grad_f`
    and of its absolute values. With `summed`, `grad_f` is not looked at.
    """
    steps, rows, lanes = x.shape
    carries = np.empty(block)
    found = np.zeros(6)
    for row in range(rows):
        for low in range(0, lanes, block):
            high = min(lanes, low + block)
            carries[:] = 0.0
            for t in range(steps - 1, -1, -1):
                for j in range(low, high):
                    gate = np.float64(f[t, row, j])
                    before = np.float64(h[t - 1, row, j]) if t else 0.0
                    carry = g[t, row, j] + carries[j - low]
                    true_f = (x[t, row, j] - before) * carry
                    true_x = gate * carry
                    carries[j - low] = (1.0 - gate) * carry
                    off = 0.0 if summed else abs(grad_f[t, row, j] - true_f)
                    if not off <= found[0]:
                        found[0] = off if off == off else np.inf
                    off = abs(grad_x[t, row, j] - true_x)
                    if not off <= found[2]:
                        found[2] = off if off == off else np.inf
                    found[1] = max(found[1], abs(true_f))
                    found[3] = max(found[3], abs(true_x))
                    found[4] += true_f
                    found[5] += abs(true_f)
    return found


def _compare(team, loop, axis, arrays, flag):
    """Run a loop over shares of the lanes; return one row of findings for each share."""
    views = [_steps_first(array, axis) for array in arrays]
    if views[-1].shape[1] > 1 and views[-1].strides[1] < views[-1].strides[2]:
        views = [view.swapaxes(1, 2) for view in views]
    wide = int(np.argmax(views[0].shape[1:])) + 1
    # Lanes side by side in memory are walked in long rows; others so few at a time that the cache
    # lines they touch stay in the cache until all their steps are used.
    block = 1024 if views[-1].strides[2] == views[-1].itemsize else 16
    found = []

    def part(low, high):
        share = [view[:, low:high] if wide == 1 else view[:, :, low:high] for view in views]
        found.append(loop(*share, flag, block))

    team.run(part, team.ranges(views[0].shape[wide]))
    return np.array(found)


def _steps_first(array, axis):
    """Return the array as (steps, rows, lanes) and writable, as the loops' signatures want it."""
    array = np.moveaxis(array, axis, 0)
    array = array.reshape(len(array), 1, -1) if array.ndim < 3 else array
    if array.flags.writeable:
        return array
    if any(array.strides):
        return array.copy()
    # A constant gate, one number with all strides 0. The loops only read it.
    return np.lib.stride_tricks.as_strided(array.flat[:1].copy(), array.shape, array.strides)


def forward_is_right(team, data, gate, h, *, from_first=False, ulps=None):
    """Return whether `h` is the recurrence on the data's `x`, from 0 or from the first `x`."""
    if h.shape != data.x.shape:
        return False
    f = data.f if gate == "full" else np.broadcast_to(np.float64(ALPHA), data.x.shape)
    arrays = _as_loops_take_them(f, data.x, h)
    found = _compare(team, _compare_forward, data.layout.axis, arrays, from_first)
    return _close(found[:, 0], found[:, 1], data.dtype, ulps)


def gradients_are_right(team, data, gate, h, result):
    """Return whether `result` is ``(grad_f, grad_x, None)`` of the data, given `h`."""
    grad_f, grad_x, grad_h0 = result
    full = gate == "full"
    f = data.f if full else np.broadcast_to(np.float64(ALPHA), data.x.shape)
    if grad_h0 is not None or grad_x.shape != data.x.shape:
        return False
    if np.shape(grad_f) != (data.x.shape if full else ()):
        return False
    arrays = _as_loops_take_them(data.g, f, data.x, h, grad_f if full else grad_x, grad_x)
    found = _compare(team, _compare_gradients, data.layout.axis, arrays, not full)
    right = _close(found[:, 2], found[:, 3], data.dtype)
    if full:
        return right and _close(found[:, 0], found[:, 1], data.dtype)
    # A sum of so many numbers, of both signs, is as precise as their absolute sum lets it be; and
    # it is rounded once to the data's precision.
    total, absolute = found[:, 4].sum(), found[:, 5].sum()
    carried = np.float32 if data.dtype.itemsize == 2 else np.float64
    allowed = 64 * np.finfo(carried).eps * absolute + 2 * _eps(data.dtype) * abs(total)
    return right and bool(abs(np.float64(grad_f) - total) <= allowed)


def _as_loops_take_them(*arrays):
    """Widen half precision, exactly: numba has no loops for it."""
    return [a.astype(np.float32) if a.dtype.itemsize == 2 else a for a in arrays]


def _eps(dtype):
    return {"float16": 2.0**-10, "bfloat16": 2.0**-7}.get(dtype.name) or np.finfo(dtype).eps


def _close(difference, largest, dtype, ulps=None):
    allowed = (ulps or ULPS.get(dtype.name, 1)) * _eps(dtype) * largest.max()
    return bool(difference.max() <= allowed)


def check_the_checks(team, make):
    """Hold the loops above to the reference, on small data of ``make(axis, dtype)``."""
    for dtype in ("float32", "float64"):
        for axis in (0, 1, 2):
            data = make(axis, dtype)
            for gate in ("full", "constant"):
                f = data.f if gate == "full" else ALPHA
                h = reference.forget_mult(f, data.x, axis=axis).astype(dtype)
                grads = reference.forget_mult_vjp(data.g, f, data.x, h, axis=axis)
                grads = [None if grad is None else grad.astype(dtype) for grad in grads]
                right = (
                    forward_is_right(team, data, gate, h)
                    and gradients_are_right(team, data, gate, h, (*grads[:2], None))
                )  # fmt: skip
                h[(1,) * h.ndim] += 0.01
                grads[1][(1,) * h.ndim] = np.nan
                wrong = (
                    forward_is_right(team, data, gate, h)
                    or gradients_are_right(team, data, gate, h, (*grads[:2], None))
                )  # fmt: skip
                if wrong or not right:
                    raise AssertionError("the benchmark's own check disagrees with the reference")
