"""The kernel of decays from times: what is left of a weight after the time between two samples."""

from ..._plan.fields.decays import HALFLIFE, POWER, SOUND
from ..._plan.widths import WIDTH
from ..._steps import pooling
from ..._steps.recurrence import constant
from ..compiler.numba_internals import helper
from ..vectors.scalars import load, load_int, minimum, stack, store, width
from ..vectors.vectors import broadcast, load_vector, store_vector
from .rules import trait
from .series import lower

is_whole = trait("integers")  # which are subtracted as such: nanoseconds since 1970 have more digits than a float64


def plain(times, decays, halflife, power):
    """Compute what `walk` does; the first decay stays as it is."""
    for t in range(1, len(times)):
        decays[t] = 2.0 ** ((times[t] - times[t - 1]) / halflife * power)


@helper
def integers_between(times, first, steps, unit):
    """Write how far each of a vector of integers is from the one before it; -1 if it is less."""
    before = load_int(times, first - 1)
    for k in range(width(steps)):
        now = load_int(times, first + k)
        store(steps, k, unit * (now - before) if before <= now else -unit)
        before = now


def walk(rule, times, decays, carry, first, last):
    """Write the decays of times ``first`` to ``last``, at least a vector of them; ``first`` is at least 1."""
    halflife, power = broadcast(load(carry, HALFLIFE, carry)), broadcast(load(carry, POWER, carry))
    least, broken, unit = halflife - halflife, halflife - halflife, constant(1.0, load(carry, HALFLIFE, carry))
    steps, lanes = stack(carry, WIDTH), width(carry)
    for t in range(first, last, lanes):
        k = minimum(t, last - lanes)  # the last vector overlaps the one before it
        if is_whole(rule):
            integers_between(times, k, steps, unit)
            step = load_vector(steps, 0, carry)
        else:
            step = load_vector(times, k, carry) - load_vector(times, k - 1, carry)
        store_vector(decays, k, pooling.exponential2(step / halflife * power))
        least, broken = lower(least, step), broken + (step - step)
    store_vector(carry, SOUND, least + broken)
