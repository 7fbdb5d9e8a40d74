"""The four functions, and the loops, called by name for a record: a dictionary of arguments."""

import numpy as np
from loops import expected

from fastrecur import returns

CLIPS = {"rho_clip": 1.5, "c_clip": 0.9, "pg_rho_clip": np.inf}
LIMITS = tuple(CLIPS.values())
KINDS = "returns", "gae", "targets", "vtrace"


def call(kind, r, convert=lambda array: array, **changes):
    """Call a function for a record, a dictionary by names of arguments; return a tuple of results."""
    r = {name: convert(value) if hasattr(value, "shape") else value for name, value in {**r, **changes}.items()}
    options = {name: r.get(name) for name in ("mask", "axis") if r.get(name) is not None}
    if kind == "returns":
        return (returns.discounted_returns(
            r["rewards"], r["gamma"], r["ends"], bootstrap=r.get("bootstrap"), **options
        ),)  # fmt: skip
    options["next_values"] = r.get("next_values")
    if kind == "vtrace":
        return returns.vtrace(
            r["log_rhos"], r["rewards"], r["values"], r["gamma"], r["ends"], r.get("cuts"), lam=r["lam"], **CLIPS,
            **options,
        )  # fmt: skip
    function = {"gae": returns.gae, "targets": returns.lambda_returns}[kind]
    return (function(r["rewards"], r["values"], r["gamma"], r["lam"], r["ends"], r.get("cuts"), **options),)


def expect(kind, r, **changes):
    """Return what the loops give for a record, of which they take what the function does."""
    r = {**r, **changes}
    names = {"mask", "axis", "gamma", "rewards"} & {name for name, value in r.items() if value is not None}
    given = {name: r[name] for name in names}
    if kind == "returns":
        more = {"bootstrap": r["bootstrap"]} if r.get("bootstrap") is not None else {}
        return expected(kind, ends=r["ends"], **given, **more)[:1]
    cuts = 0.0 if r.get("cuts") is None else r["cuts"]
    more = {name: r.get(name) for name in ("values", "lam", "next_values")}
    more |= {"log_rhos": r["log_rhos"], "limits": LIMITS} if kind == "vtrace" else {}
    return expected(kind, ends=r["ends"], cuts=cuts, **given, **more)[: 1 + (kind == "vtrace")]


def with_next(r, rng):
    """Return a record that has values of the states after each step."""
    steps = r["rewards"].shape[r["axis"]]
    own = np.take(r["values"], range(steps), r["axis"])
    after = rng.standard_normal(own.shape).astype(own.dtype)
    return {**r, "values": own, "next_values": after if r["mask"] is None else np.where(r["mask"], after, np.nan)}
