"""What people use today for ``h[t] = a*x[t] + (1 - a)*h[t-1]``, each called as suits it best.

Each function takes ``(x, axis)`` and returns a call to be timed and a function that brings the
call's result into the shape of `x` for the check, or raises ImportError. What the library would ask
its user to do once, such as making a frame of columns, is done before.
"""

import numpy as np
from cases import ALPHA


def _scipy(x, axis):
    from scipy.signal import lfilter

    # Coefficients of the data's dtype, or float32 would become float64.
    numerator, denominator = np.array([ALPHA], x.dtype), np.array([1, ALPHA - 1], x.dtype)
    return lambda: lfilter(numerator, denominator, x, axis=axis), lambda result: result


def columns(x, axis):
    """Lanes as columns, each contiguous or not as the array is."""
    return x.reshape(len(x), 1) if x.ndim == 1 else np.moveaxis(x, axis, 0)


def _pandas(x, axis):
    import pandas

    frame = pandas.Series(x) if x.ndim == 1 else pandas.DataFrame(columns(x, axis))

    def arrange(result):
        values = result.to_numpy()
        return values if x.ndim == 1 else np.moveaxis(values, 0, axis)

    return lambda: frame.ewm(alpha=ALPHA, adjust=False).mean(), arrange


def _polars(x, axis):
    import polars

    frame = polars.DataFrame(columns(x, axis))
    smoothed = polars.all().ewm_mean(alpha=ALPHA, adjust=False)  # columns run in parallel

    def arrange(result):
        values = result.to_numpy()
        return values[:, 0] if x.ndim == 1 else np.moveaxis(values, 0, axis)

    return lambda: frame.select(smoothed), arrange


def _numbagg(x, axis):
    import numbagg

    # Its mean divides two sums, as pandas does with adjust=True; the one sum is this recurrence
    # without the factor alpha, and the faster of the two.
    return lambda: numbagg.move_exp_nansum(x, alpha=ALPHA, axis=axis), lambda sums: ALPHA * sums


PEERS = {"scipy lfilter": _scipy, "pandas": _pandas, "polars": _polars, "numbagg": _numbagg}
PACKAGES = {"scipy lfilter": "scipy"}

# pandas and polars take the first value for the state before it; the others start from 0.
FROM_FIRST = {"pandas", "polars"}
