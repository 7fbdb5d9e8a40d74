"""What every public function is given and returns: of each argument its kind, its shape and what else it may be.

Data: names, positions and defaults are the signature's. `KINDS` and `SHAPES` say what the words mean; `ARGUMENTS` has
what is the same everywhere, `FAMILIES` what is a family's own.
"""

import inspect
import pydoc
from typing import NamedTuple

from fastrecur._arguments.records import FILTER, FOLLOW, HOLT, HOLT_WINTERS, OUT, RECURRENCE, SCAN, Argument, named

KINDS = {
    "signal": "what time runs along",
    "gate": "a weight of the new value, from 0 to 1",
    "coefficients": "factors of the state, or of what enters it",
    "polynomial": "coefficients of a filter, several along the last axis",
    "constant": "a number with a domain of its own, or an array of such",
    "state": "what the first step goes on from",
    "result": "what was returned by the function of which this is the gradient",
    "cotangent": "the gradient of a loss with respect to the result",
    "cotangent of the state": "the same, of the last state",
    "flags": "bools, or weights from 0 to 1",
    "mask": "bools: which steps are read",
    "lengths": "integers: how many steps each series has",
    "offsets": "integers: where segments begin, and the end",
    "resets": "bools: before which steps states end",
    "times": "numbers or dates that do not decrease",
    "groups": "keys",
    "out": "memory of the result's shape and dtype",
    "axis": "an integer",
    "switch": "a bool",
    "count": "an integer, from 0 or 1 on",
    "choice": "one of some words",
    "other": "what a module is made of, and torch's own",
}
# `full` is the shape that all operands have together, and `axis` that of time in it.
SHAPES = {
    "one": "a number",
    "together": "broadcasts against others; their common shape is `full`",
    "full": "`full`",
    "to full": "broadcasts to `full`",
    "series": "broadcasts to `full` without the axis, behind the number of segments if there are `offsets`",
    "one step": "broadcasts to `full` with 1 in the place of the axis",
    "a step more": "`full` with a step more, but `full` if there are `next_values`",
    "sections": "(n, 6), (*series, n, 6) or (*full, n, 6); 1 broadcasts",
    "polynomial": "(n,), (*series, n) or (*full, n); 1 broadcasts",
    "states of sections": "(sections, *full) with 2 in the place of the axis; 1 broadcasts",
    "period": "`full` with the period in the place of the axis; 1 broadcasts",
    "states": "`full` with the order in the place of the axis; 1 broadcasts",
    "maps": "(B, N, T), (B, G, N, T) or (D, N); in the layout bld (B, T, N), (B, T, G, N) or (D, N)",
    "leading series": "some leading axes of `full` without the axis",
    "leading": "some leading axes of `full`, the axis among them; 1 broadcasts",
    "ends": "(segments + 1,)",
    "steps": "(T,)",
    "steps or full": "(T,) or `full`",
    "B T": "(B, T); 1 broadcasts", "D N": "(D, N)", "D": "(D,)", "B": "(B,)",
    "B D N": "(B, D, N), or (segments, D, N)",
    "layers B D": "(layers*directions, B, D), or without B; one layer (1, B, D) or (B, D)",
    "B D": "(B, D) or (1, B, D)",
}  # fmt: skip


class Record(NamedTuple):
    """What a function is given, the shapes of its results (or whose gradients they are), and what its gradient is."""

    arguments: dict[str, Argument]
    results: dict[str, str]
    vjp: str | None


ARGUMENTS = {
    **named("axis max_axis", "axis"),
    **named("reverse return_state return_zf adjust ignore_na bias batch_first bidirectional use_cuda", "switch"),
    **named("pairwise output_gate save_prev_x delta_softplus", "switch"),
    **named("min_periods period fast slow max_size padlen", "count"),
    **named("input_size hidden_size num_layers window num_bands", "count"),
    **named("sr hop_length rho_clip c_clip pg_rho_clip dropout zoneout", "constant"),
    **named("padtype layout seasonal", "choice"),
    **named("device dtype layers at", "other"),
    **named("lengths", "lengths", "leading series", host=True),
    **named("offsets", "offsets", "ends", host=True),
    **named("resets", "resets", "leading", host=True),
    **named("times", "times", "steps or full", host=True),
    **named("groups", "groups", "steps", host=True),
    **OUT,
}
_PAST = "h0", "h", "grad_h", "grad_state"
_FREE = {"number": True, "host": True}
_HEARD = "x", "y", "grad_y"
_WEIGHTED = named("com span halflife alpha", "constant", "together", number=True)


def _states(shape):
    """Return the records of states of a shape, as filters have them."""
    return {name: FILTER[name]._replace(shape=shape) for name in ("zi", "grad_zf")}


# Of each family its own arguments, and the results of its functions by their names in `fastrecur`.
FAMILIES = {
    "forget": (
        {name: RECURRENCE[name] for name in ("f", "x", *_PAST)},
        {"forget_mult": "h=full h_last=h0", "forget_mult_vjp": "grad_f=f grad_x=x grad_h0=h0"},
    ),
    "linear": (
        {name: RECURRENCE[name] for name in ("a", "b", *_PAST)},
        {"linear_recurrence": "h=full h_last=h0", "linear_recurrence_vjp": "grad_a=a grad_b=b grad_h0=h0"},
    ),
    "scan": (
        SCAN | named("lengths", "lengths", "B", host=True) | named("resets", "resets", "B T", host=True),
        {"selective_scan": "y=full state=h0",
         "selective_scan_vjp": "u=u delta=delta A=A B=B C=C D=D z=z delta_bias=delta_bias h0=h0"},
    ),
    "sections": (
        {name: FILTER[name] for name in ("sos", *_HEARD)} | _states("states of sections"),
        {"filters.sosfilt": "y=full zf=zi", "filters.sosfilt_vjp": "grad_sos=sos grad_x=x grad_zi=zi",
         "filters.sosfiltfilt": "y=full"},
    ),
    "polynomials": (
        {name: FILTER[name] for name in ("a", "b", *_HEARD)} | _states("states"),
        {"filters.lfilter": "y=full zf=zi", "filters.allpole": "y=full zf=zi",
         "filters.allpole_vjp": "grad_a=a grad_x=x grad_zi=zi"},
    ),
    "follow": (
        FOLLOW,
        {"filters.follow": "y=full zf=zi"},
    ),
    "statistics": (
        named("x", "signal", "together") | named("y", "signal", "together", number=True) | _WEIGHTED,
        {f"smoothing.ewm_{name}": "y=full" for name in ("mean", "sum", "var", "std", "cov", "corr", "filtfilt")},
    ),
    "kama": (named("x", "signal", "full"), {"smoothing.kama": "y=full"}),
    "pcen": (
        named("S", "signal", "together") | named("ref", "signal", "together", number=True)
        | named("zi", "state", "one step", host=True, optional=True)
        | named("gain bias power time_constant eps b", "constant", "together", number=True),
        {"smoothing.pcen": "P=full zf=zi"},
    ),
    "holt": (
        HOLT,
        {"smoothing.holt": "level=full trend=full"},
    ),
    "holt winters": (
        HOLT_WINTERS,
        {"smoothing.holt_winters": "forecast=full level=full trend=full season=full"},
    ),
    "returns": (
        named("rewards", "signal", "full") | named("values", "signal", "a step more")
        | named("log_rhos next_values", "signal", "to full", number=True)
        | named("gamma lam", "gate", "to full", number=True) | named("bootstrap", "state", "series", number=True)
        | named("done terminated truncated", "flags", "to full", **_FREE) | named("mask", "mask", "to full", **_FREE),
        {"returns.discounted_returns": "returns=full", "returns.gae": "advantages=full",
         "returns.lambda_returns": "returns=full", "returns.vtrace": "targets=full advantages=full"},
    ),
    # Modules and streams: what they are made of, and what their methods are given.
    "streams": (
        named("chunk x", "signal", "together") | _WEIGHTED,
        {"smoothing.Ewm": "", "smoothing.Ewm.update": "y=full", "torch.Ewm": "", "torch.Ewm.forward": "y=full",
         "smoothing.EwmCov": "", "smoothing.EwmCov.update": "y=full"},
    ),
    "bands": (
        named("S", "signal", "full") | named("zi", "state", "one step", host=True, optional=True)
        | named("gain bias power b eps", "constant"),
        {"torch.PCEN": "", "torch.PCEN.forward": "P=full zf=zi"},
    ),
    "pooling": (
        named("f x", "signal", "full") | named("hidden_init", "state", "B D"),
        {"torch.ForgetMult.forward": "h=full"},
    ),
    "networks": (
        named("input", "signal", "full") | named("hidden hx state", "state", "layers B D"),
        {name: results for kind in ("QRNN", "QRNNLayer")
         for name, results in ((f"torch.{kind}", ""), (f"torch.{kind}.forward", "h=full h_last=hidden"),
                               (f"torch.{kind}.step", "h=full state=state"))},
    ),
}  # fmt: skip
NAMES = [name for _, functions in FAMILIES.values() for name in functions]


def function(name):
    """Return a public function, a class or a method by its name in `fastrecur`."""
    return pydoc.locate("fastrecur." + name)


def record(name):
    """Return the record of a function of that name, with its arguments in their order."""
    [(own, functions)] = [family for family in FAMILIES.values() if name in family[1]]
    parameters = [given for given in inspect.signature(function(name)).parameters if given != "self"]
    results = dict(pair.split("=") for pair in functions[name].split())
    vjp = name + "_vjp" if name + "_vjp" in functions else None
    return Record({given: own[given] if given in own else ARGUMENTS[given] for given in parameters}, results, vjp)
