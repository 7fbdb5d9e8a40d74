"""The arithmetic of one time step and of its adjoint. Written once; a kernel only scans.

A step is a plain function of scalars ``(h, a, b) -> h``; an adjoint is ``(g, a, b, h) -> (grad_a, grad_b, r)``,
where ``g`` is the cotangent that has reached the state after the step, ``h`` the state before it and ``r`` what flows
on to that state. ``a, b`` are the two operands in the caller's order: ``f, x`` or ``a, b``. The same function objects
are compiled for every device, and for vectors of lanes as well as for one.

Why the forget-mult has two forms
---------------------------------
`forget_wide` is for a carry one precision wider than the data (float16 -> float32, float32 -> float64). There
``f * x`` is exact and so is ``1 - f``, hence the definition itself, fused, is the exact step rounded once: it keeps
a constant series constant, gives ``x`` for ``f == 1`` and keeps ``h`` for ``f == 0``.

`forget_same` is for float64 data, where nothing wider is at hand and ``1 - f`` is rounded: for small gates the
weights would no longer sum to one. It moves from the nearer end (``h`` for ``f < 1/2``, else ``x``) by a multiple of
the difference, so a constant series stays constant and both ends are exact. Where the outcome is not finite (an
infinity came in, or ``x - h`` overflowed), the definition decides.

A bare literal would widen a float32 carry to float64 in compiled code, so constants are typed: ``constant(1.0, f)``
is one in the type of ``f``.
"""

import numpy as np


# Primitives that each device's layer overloads for compiled code; these bodies serve the interpreter.
def constant(value, like):
    """Return ``value`` in the type of ``like``."""
    return like.dtype.type(value)


def fma(a, b, c):
    """Return ``a * b + c``, rounded once in compiled code, if the processor can."""
    return a * b + c


def select(condition, yes, no):
    """Return ``yes`` where the condition holds, else ``no``; a choice without a branch."""
    return np.where(condition, yes, no)[()]


def everywhere(condition):
    """Return whether a condition holds in all lanes."""
    return np.all(condition)


def all_finite(value):
    """Return whether what is in all lanes is finite; in compiled code perhaps not where their sum is not."""
    return np.all(np.isfinite(value))


def magnitude(value):
    """Return the absolute value."""
    return abs(value)


def conj(value):
    """Return the complex conjugate; a real value is its own."""
    return value.conjugate()


def is_single(value):
    """Return whether a value is a float32, which is known when a kernel is compiled."""
    return value.dtype == np.float32


def nearest(value):
    """Return the nearest whole number, still as a floating-point number."""
    return np.rint(value)


def power_of_two(n):
    """Return 2 to a whole power, for normal results; 0 one power below them, infinity one above."""
    limits = np.finfo(n.dtype)
    return np.ldexp(limits.dtype.type(n >= limits.minexp), np.nan_to_num(n).astype(np.int64))


def scaled(value, n):
    """Return a number of about 1 times 2 to a whole power; of what is no normal number perhaps 0."""
    return np.ldexp(value, np.nan_to_num(n).astype(np.int64))[()]


def forget_wide(h, f, x):
    """Step ``f*x + (1-f)*h`` with a carry wider than the data."""
    return fma(constant(1.0, f) - f, h, f * x)


def is_finite(value):
    """Return whether a value is neither infinite nor NaN."""
    return value - value == constant(0.0, value)


def forget_same(h, f, x):
    """Step ``f*x + (1-f)*h`` with a carry as wide as the data."""
    from_h = f < constant(0.5, f)
    factor = select(from_h, f, f - constant(1.0, f))
    new = fma(factor, x - h, select(from_h, h, x))
    if all_finite(new):
        return new
    return select(is_finite(new), new, fma(constant(1.0, f) - f, h, f * x))


def forget_adjoint(g, f, x, h):
    """Adjoint of the forget-mult step; ``(1-f)*g`` as it stands, ``g - f*g`` would cancel for gates near one."""
    return g * (x - h), f * g, (constant(1.0, f) - f) * g


def forget_decay(f):
    """Return what the step multiplies the state by."""
    return constant(1.0, f) - f


def forget_input(f, x):
    """Return what the step adds to the decayed state."""
    return f * x


def linear(h, a, b):
    """Step ``a*h + b``."""
    return fma(a, h, b)


def linear_adjoint(g, a, b, h):
    """Adjoint of the linear step, in PyTorch's conjugate convention for complex values."""
    return g * conj(h), g, conj(a) * g


def linear_decay(a):
    """Return what the step multiplies the state by."""
    return a


def linear_input(a, b):
    """Return what the step adds to the decayed state."""
    return b


# ---- Weighted statistics --------------------------------------------------------------------------------------------
#
# `weight` is what the samples so far weigh against a new one, whose weight is 1 where weights add up (``adjust``).
# Where they do not, it is the gate, or what the samples so far have lost in the time that passed (``timed``), and these
# weigh 1 again after each. A gate is a decay, but where it is itself the weight: ``1 - decay`` would have lost digits.


def weigh(weight, gate, seen, adjust, timed, ignore_na):
    """Return the share of a sample in the new average, that of the old one, the weight after it and the decay."""
    one = constant(1.0, gate)
    decay = gate if adjust or timed else one - gate
    if ignore_na:
        decay = select(seen, decay, one)
    before = decay * weight
    if adjust:
        after = before + one
        share = one / after
        kept = before * share
    elif timed:
        after, share, kept = one, one - before, before
    else:
        inverse = one / (before + gate)
        after, share, kept = one, gate * inverse, before * inverse
    return share, kept, select(seen, after, before), decay


def approach(mean, share, kept, x):
    """Return the mean after a sample, from the nearer end: a constant series stays constant.

    The difference is halved and its factor doubled: it cannot overflow.
    """
    half = constant(0.5, share)
    half_difference = fma(-half, mean, half * x)
    is_small = share < half
    factor = select(is_small, share + share, constant(-2.0, kept) * kept)  # which does not wait for the mean
    return fma(factor, half_difference, select(is_small, mean, x))


def covary(covariance, headroom, share, kept, x, y):
    """Return the covariance and the headroom after a sample that stands ``x, y`` from the means before it.

    ``headroom`` is 1 less the sum of the squared normalised weights, carried without a subtraction: what the covariance
    is divided by to be unbiased.
    """
    return kept * fma(share, x * y, covariance), kept * fma(kept, headroom, share + share)


# ---- Advantages -----------------------------------------------------------------------------------------------------


def advantage(x, successor, later):
    """Return the sum at a step, of its error and the ``later`` one; a weight of 0 keeps out NaN and infinities.

    ``x`` holds rewards, values, gamma, lam, and as numbers from 0 to 1 whether an episode ``ends`` or is cut
    (``cuts``); ``successor`` is the value after the step.
    """
    decay = x.gamma * x.lam * (constant(1.0, x.ends) - end_of(x))
    return fma(decay, guarded(later, decay), error_of(x, successor))


def vtrace(x, successor, later, target, rho, c, pg_rho):
    """Return `advantage` with V-trace's weights, and the advantage of its policy.

    ``x.rhos`` are ratios of probabilities, of which the last arguments are the greatest that count, and ``target`` is
    that of the next step in the same record.
    """
    one, done = constant(1.0, x.ends), end_of(x)
    decay = x.gamma * x.lam * (one - done) * at_most(x.rhos, c)
    now = fma(decay, guarded(later, decay), at_most(x.rhos, rho) * error_of(x, successor))
    target = guarded(target, one - done) * (one - done) + guarded(successor, done) * done
    return now, at_most(x.rhos, pg_rho) * error_of(x, target)


def at_most(value, limit):
    """Return the lesser of two, NaN if the first one is."""
    return select(limit < value, limit, value)


def end_of(x):
    """Return by how much an episode ends or is cut with a step."""
    return select(x.ends < x.cuts, x.cuts, x.ends)


def error_of(x, successor):
    """Return the error of temporal differences, given the value after a step."""
    weight = x.gamma * (constant(1.0, x.ends) - x.ends)
    return fma(weight, guarded(successor, weight), x.rewards - x.values)


def guarded(value, weight):
    """Return what a weight is multiplied by: 0 where it is 0."""
    zero = constant(0.0, value)
    return select(weight == zero, zero, value)
