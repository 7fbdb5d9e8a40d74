"""The arithmetic of a QRNN's pooling step and of its adjoint, with the activations in it; as `_steps`, for any device.

The sigmoid and tanh come from one exponential: the argument less a multiple n of log 2 goes through a polynomial
for ``exp(r) - 1``, and the power of two joins again by multiplication. Multiplied sums, not libm's calls: a vector of
lanes takes the same few instructions as one. In float32 and float64 the sigmoid and tanh are within 2 units in
the last place of the exact value; a sigmoid below 6e-39 (in float64 below 1e-308) is 0. A slope is not formed as
``1 - value**2``, which would cancel where the value is near one.

The step is the definition itself, ``f*z + (1 - f)*c``: a QRNN's candidates are within -1 and 1 and its states follow
them, so neither the overflow nor the drift that `forget_same` avoids can harm, and both ends are exact here too.
"""

from .recurrence import constant, fma, forget_adjoint, forget_wide, is_single, magnitude, nearest, power_of_two, select

# exp(r) - 1 = r + r**2 * P(r) for |r| <= log(2) / 2; the highest power first. float32: minimax (Cephes' expf);
# float64: the power series, whose rest is below 4e-18.
_SINGLE = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
_DOUBLE = (
    1 / 6227020800, 1 / 479001600, 1 / 39916800, 1 / 3628800, 1 / 362880, 1 / 40320, 1 / 5040, 1 / 720, 1 / 120,
    1 / 24, 1 / 6, 1 / 2,
)  # fmt: skip
_LOG2_E = 1.4426950408889634
_LN2_SINGLE = 0.693147182464599609375, -1.904654323148236017e-9  # log 2 as a sum of two float32, then of two float64
_LN2_DOUBLE = 0.6931471805599453, 2.3190468138462996e-17


def exponential(x):
    """Return ``(q, s)``: ``exp(x)`` is ``s*q + s``, and ``exp(x) - 1`` is ``s*q + (s - 1)``."""
    n = nearest(x * constant(_LOG2_E, x))
    if is_single(x):
        r = fma(-n, constant(_LN2_SINGLE[1], x), fma(-n, constant(_LN2_SINGLE[0], x), x))
        p = constant(_SINGLE[0], x)
        for c in _SINGLE[1:]:
            p = fma(p, r, constant(c, x))
    else:
        r = fma(-n, constant(_LN2_DOUBLE[1], x), fma(-n, constant(_LN2_DOUBLE[0], x), x))
        p = constant(_DOUBLE[0], x)
        for c in _DOUBLE[1:]:
            p = fma(p, r, constant(c, x))
    return fma(r * r, p, r), power_of_two(n)


def exponential2(x):
    """Return 2 to the power of a float64, exactly if that is whole; 0 below the normal numbers."""
    least = constant(-1023.0, x)
    x = select(x < least, least, x)
    n = nearest(x)
    r, s = (x - n) * constant(_LN2_DOUBLE[0], x), power_of_two(n)
    p = constant(_DOUBLE[0], x)
    for c in _DOUBLE[1:]:
        p = fma(p, r, constant(c, x))
    return fma(s, fma(r * r, p, r), s)


def sigmoid(x):
    """Return ``1 / (1 + exp(-x))`` and its slope."""
    one, zero = constant(1.0, x), constant(0.0, x)
    # As far as powers of two are normal numbers: beyond, the sigmoid is one, or zero.
    most = constant(88.0, x) if is_single(x) else constant(709.0, x)
    is_shut = most < -x
    y = select(is_shut, most, -x)
    q, s = exponential(select(y < -most, -most, y))
    value = select(is_shut, zero, one / (fma(s, q, one) + s))
    return value, value * (value * fma(s, q, s))


def tanh(x):
    """Return the hyperbolic tangent and its slope."""
    two, half, zero = constant(2.0, x), constant(0.5, x), constant(0.0, x)
    y = magnitude(x) + magnitude(x)
    most = constant(40.0, x)  # from where on tanh is one
    q, s = exponential(select(most < y, most, y))
    e = fma(s, q, s - constant(1.0, x))
    t = e / (e + two)
    # e / (e + 2) = e/2 - t * e/2, where the quotient's roundings count less.
    halved = half * e
    t = select(t < half, fma(-halved, t, halved), t)
    from_one = two / (e + two)
    return select(x < zero, -t, t), from_one * (two - from_one)


def pool(c, z, f, keep):
    """Return the next state, of a row's candidate and forget gate before their activations."""
    return forget_wide(c, keep * sigmoid(f)[0], tanh(z)[0])


def pool_adjoint(g, z, f, keep, before):
    """Return the cotangents of z, of f and of the state before, given that of the state after."""
    (candidate, z_slope), (gate, f_slope) = tanh(z), sigmoid(f)
    grad_f, grad_z, onward = forget_adjoint(g, keep * gate, candidate, before)
    return grad_z * z_slope, grad_f * keep * f_slope, onward


def put_out(c, o):
    """Return what an output gate, before its activation, lets through of a state."""
    return sigmoid(o)[0] * c


def put_out_adjoint(g, c, o):
    """Return the cotangents of the state and of the output gate before its activation."""
    gate, slope = sigmoid(o)
    return g * gate, g * c * slope
