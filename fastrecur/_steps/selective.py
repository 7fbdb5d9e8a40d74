"""The arithmetic of the selective scan's step and of its adjoint; as `recurrence`, for any device.

A state decays by ``exp(step*A)``, which is 2 to the power of ``step*rate``: the rate, A times the logarithm of e to
base 2, is made once. The power is that of the nearest whole number times a polynomial of the rest, whose constant term
is 1: a step of 0 keeps the state to the bit.
"""

from .pooling import exponential, sigmoid
from .recurrence import constant, fma, is_single, magnitude, nearest, scaled, select

LOG2_E = 1.4426950408889634
LN_2 = 0.6931471805599453

# (2**x - 1) / x for |x| <= 1/2, the highest power first. float32: minimax, of relative error 2e-9; float64: the power
# series, whose rest is below 5e-18.
_SINGLE = (
    0.00015353361439721103, 0.001339887456990596, 0.009618437360793736, 0.05550332470633161, 0.24022647913583142,
    0.6931472028553769,
)  # fmt: skip
_DOUBLE = (
    1.3691488853904124e-12, 2.5678435993488196e-11, 4.44553827187081e-10, 7.054911620801121e-09,
    1.0178086009239696e-07, 1.3215486790144305e-06, 1.5252733804059838e-05, 0.00015403530393381606,
    0.0013333558146428441, 0.009618129107628477, 0.055504108664821576, 0.2402265069591007, 0.6931471805599453,
)  # fmt: skip
# atanh(x) / x as a series in x**2, which is at most 1/9.
_ATANH = tuple(1 / (2 * k + 1) for k in range(18))


def power(x):
    """Return 2 to the power of x, which is not infinite, within 2 units in the last place.

    Of what is no normal number it may be 0.
    """
    n = nearest(x)
    r = x - n
    if is_single(x):
        p = constant(_SINGLE[0], x)
        for c in _SINGLE[1:]:
            p = fma(p, r, constant(c, x))
    else:
        p = constant(_DOUBLE[0], x)
        for c in _DOUBLE[1:]:
            p = fma(p, r, constant(c, x))
    return scaled(fma(p, r, constant(1.0, x)), n)


def bounded(x):
    """Return a step or a rate as a factor of an exponent: the product of two is finite, if as good as infinite."""
    most = constant(1e18, x)
    x = select(most < x, most, x)
    return select(x < -most, -most, x)


def softplus(x):
    """Return ``log(1 + exp(x))`` and its slope, the sigmoid."""
    zero, one, two = constant(0.0, x), constant(1.0, x), constant(2.0, x)
    most = constant(87.0, x) if is_single(x) else constant(708.0, x)
    m = magnitude(x)
    q, s = exponential(select(most < m, -most, -m))
    e = select(most < m, zero, fma(s, q, s))
    # log(1 + e) = 2 * atanh(e / (2 + e))
    r = e / (e + two)
    w = r * r
    if is_single(x):
        p = constant(_ATANH[7], x)
        for c in _ATANH[6::-1]:
            p = fma(p, w, constant(c, x))
    else:
        p = constant(_ATANH[17], x)
        for c in _ATANH[16::-1]:
            p = fma(p, w, constant(c, x))
    inverse = one / (one + e)
    return fma(r + r, p, select(x < zero, zero, x)), select(x < zero, e * inverse, inverse)


def silu(z):
    """Return ``z * sigmoid(z)`` and its slope."""
    value, slope = sigmoid(z)
    return z * value, fma(z, slope, value)


def advance(h, decay, x, b):
    """Return the next state; ``x`` is the step times the input."""
    return fma(decay, h, x * b)


def retreat(g, decay, before):
    """Return the cotangents of the state before and of the exponent, given that of the state after."""
    onward = g * decay
    return onward, onward * before
