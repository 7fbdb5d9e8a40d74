"""Records for the functions of returns."""

import numpy as np
import pytest


@pytest.fixture
def record(rng):
    """Return a function that makes a record of a shape."""

    def make(shape, axis=0, dtype=np.float64, masked=False, fractions=False):
        def normal(shape):
            return rng.standard_normal(shape).astype(dtype)

        longer = [n + (k == axis) for k, n in enumerate(shape)]
        r = {"rewards": normal(shape), "values": normal(longer), "next_values": None, "log_rhos": normal(shape)}
        r |= {name: rng.uniform(0.7, 1, shape).astype(dtype) for name in ("gamma", "lam")}
        r |= {name: rng.random(shape) < 0.15 for name in ("ends", "cuts")}
        if fractions:
            r["ends"] = np.where(rng.random(shape) < 0.3, rng.random(shape), r["ends"])
        r |= {"mask": None, "axis": axis, "bootstrap": normal(shape[:axis] + shape[axis + 1 :])}
        if masked:
            r["mask"] = rng.random(shape) < 0.7
            at = (slice(None),) * axis + (slice(0, shape[axis]),)
            for name in ("rewards", "log_rhos"):
                r[name][~r["mask"]] = np.nan
            r["values"][at][~r["mask"]] = np.nan
        return r

    return make
