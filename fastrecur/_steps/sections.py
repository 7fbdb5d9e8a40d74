"""The arithmetic of a filter's section of second order and of its adjoint, in difference form.

SciPy's state of a section is that of the transposed direct form II, ``z1, z2``::

    y = b0*v + z1,    z1 = b1*v - a1*y + z2,    z2 = b2*v - a2*y

At a low cut-off, both poles are near 1, ``z1`` and ``-z2`` are large and nearly the same, and each rounding of them
counts by the inverse of ``1 + a1 + a2``. With ``p = z1`` and ``q = z1 + z2`` that small sum is a coefficient, formed
once, and no digit is lost. Near -1 the difference becomes the sum: ``q = sign*z1 + z2``, with a sign of 1, -1, or 0 for
poles that are near neither.
"""

from collections import namedtuple

from .recurrence import fma

# What is 1 + a1 + a2, or 1 - a1 + a2, of a section whose poles are near neither 1 nor -1: at least that.
NEAR = 0.5
# What a step multiplies by: see `form`.
Section = namedtuple("Section", "b0 e d f c sign")


def form(b0, b1, b2, a1, a2, sign):
    """Return the coefficients of a section in difference form; sums that are small are exact, or as exact as b is."""
    e, f = b1 + sign * b0, a1 + sign
    return Section(b0, e, b2 + sign * e, -f, -(a2 + sign * f), sign)


def section(v, p, q, k):
    """Return a section's output for an input, and the state after it."""
    y = fma(k.b0, v, p)
    return y, fma(k.f, y, fma(k.e, v, q)), fma(k.c, y, fma(k.sign, q, k.d * v))  # q's way through a step is short


def section_adjoint(g, p, q, k):
    """Return the cotangents of `section`'s output with all that comes of it, of its input, and of the state before.

    ``g, p, q`` are the cotangents of the output and of the state after it.
    """
    g = fma(k.f, p, fma(k.c, q, g))
    return g, fma(k.b0, g, fma(k.e, p, k.d * q)), g, fma(k.sign, q, p)


def two_poles(v, p, q, k):
    """Return ``y = v - a1*y1 - a2*y2``, of past outputs by ``p = y1 - sign*y2`` and ``q = y2``, and these after it.

    The section has no zeros (b is 1, 0, 0): this is its adjoint, of which `section` is the adjoint, then.
    """
    q, p = fma(k.sign, q, p), fma(k.f, p, fma(k.c, q, v))
    return fma(k.sign, q, p), p, q
