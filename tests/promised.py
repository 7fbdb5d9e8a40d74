"""A small call of every public function, drawn from its record, and what may be done to all of its operands at once.

Time is on axis 0 of (STEPS, SERIES), but in the selective scan, whose sequences are (SEQUENCES, CHANNELS, STEPS).
"""

import csv
import inspect
import zlib
from pathlib import Path

import numpy as np
from records import NAMES, function, record

STEPS, SERIES = 7, 5
SEQUENCES, CHANNELS, STATES = 2, 3, 2
FUNCTIONS = [name for name in NAMES if not inspect.isclass(function(name)) and name.count(".") < 2]
SCANS = "selective_scan", "selective_scan_vjp"
# Operands that have a default and are drawn all the same, as those are that are optional in their record.
DRAWN = {"alpha", "b", "ref", "gain", "eps", "phi", "mask", "truncated", "done", "bootstrap", "y"}
RANGES = {
    "signal": (-1, 1), "gate": (0.1, 0.9), "coefficients": (-0.5, 0.5), "polynomial": (-0.4, 0.4),
    "constant": (0.2, 0.8), "state": (0.1, 1), "result": (-1, 1), "cotangent": (-1, 1),
    "cotangent of the state": (-1, 1),
}  # fmt: skip
OWN_RANGES = {"S": (0.5, 2), "ref": (0.5, 2), "delta": (0.1, 1), "A": (-1.5, -0.5)}
# Where time is in an operand of a shape, of time on an axis of `full`; others have no time.
TIME = {
    **dict.fromkeys(("together", "full", "to full", "one step", "a step more", "leading", "states", "period"), 0),
    "states of sections": 1, "steps": 0, "steps or full": 0,
}  # fmt: skip
OPTIONS = {
    "filters.sosfiltfilt": {"padtype": None},
    "smoothing.kama": {"period": 2},
    "smoothing.holt_winters": {"period": 2, "return_state": False},
}  # as short as the series are
FLOAT = {"forget_mult": "f4", "forget_mult_vjp": "f4"}  # of others float64: kernels that other tests have
DOCS = Path(__file__).parents[1] / "docs"


def promises(kind):
    """Return what is promised of all functions, by name: of arrays, or of tensors."""
    with (DOCS / "promises.csv").open() as file:
        return {name: text for of, name, text in csv.reader(file) if of == kind}


def broken():
    """Return why a promise does not hold for a function, by both names."""
    with (DOCS / "promises_not.csv").open() as file:
        rows = list(csv.reader(file))
    return {(promise, name): why for promise, names, why in rows for name in names.split()}


def seed(name):
    return np.random.default_rng(zlib.crc32(name.encode()))


def shape_of(word, full, name):
    """Return the shape of an operand in a call with time on axis 0."""
    rest, sections = full[1:], 2
    if name in SCANS:
        batch, channels, steps = full
        shapes = {"full": full, "D N": (channels, STATES), "D": (channels,), "maps": (batch, STATES, steps)}
        return (shapes | {"B D N": (batch, channels, STATES)})[word]
    return {
        "together": full, "full": full, "to full": full, "series": rest, "one step": (1, *rest),
        "a step more": (full[0] + 1, *rest), "sections": (sections, 6), "polynomial": (3 - ("allpole" in name),),
        "states of sections": (sections, 2, *rest), "states": (2, *rest), "period": (2, *rest),
    }[word]  # fmt: skip


def draw(name, full=None, dtype=None, changes=()):
    """Return the arguments of a call, by name: operands, time on axis 0, and that states are returned."""
    rng, given, told = seed(name), {}, record(name)
    dtype = np.dtype(dtype or FLOAT.get(name, "f8"))
    full = full or ((SEQUENCES, CHANNELS, STEPS) if name in SCANS else (STEPS, SERIES))
    for argument, parameter in inspect.signature(function(name)).parameters.items():
        kind, word, *_, optional = told.arguments[argument]
        if argument == "axis":
            given["axis"] = 0
        elif argument in ("return_state", "return_zf"):
            given[argument] = True
        elif parameter.default is inspect.Parameter.empty or argument in DRAWN or (optional and kind != "out"):
            word = "one step" if kind == "constant" else word  # one for each series
            shape = shape_of(word, full, name)
            low, high = OWN_RANGES.get(argument, RANGES.get(kind, (0, 1)))
            drawn = rng.uniform(low, high, shape)
            given[argument] = {"flags": drawn < 0.2, "mask": drawn > 0.2}.get(kind, drawn.astype(dtype))
    if "sos" in given:
        given["sos"][..., 3] = 1
    if name == "filters.lfilter":
        given["a"][..., 0] = 1.5
    given |= OPTIONS.get(name, {}) | dict(changes)
    if name.endswith("_vjp"):
        [result] = [argument for argument, form in told.arguments.items() if form.kind == "result"] or [None]
        if result:
            forward = name.removesuffix("_vjp")
            taken = inspect.signature(function(forward)).parameters
            own = {argument: value for argument, value in given.items() if argument in taken}
            given[result] = call(forward, own)[0]
    return given


def call(name, given):
    """Return all results of a call, in order."""
    results = function(name)(**given)
    results = results if isinstance(results, tuple) else (results,)
    return [result for result in results if result is not None]


def words(name, results):
    """Return the shape of each result, as records have it."""
    told = record(name)
    found = [told.arguments[word].shape if word in told.arguments else word for word in told.results.values()]
    if name == "selective_scan_vjp":
        found = [told.arguments[word].shape for word in told.results.values()]
    return found[: len(results)]


def operands(name, given):
    """Return those arguments that are arrays."""
    return {argument: value for argument, value in given.items() if hasattr(value, "shape")}


def mapped(name, given, change):
    """Return arguments with ``change(word, array)`` in the place of each array."""
    told = record(name).arguments
    return given | {a: change(told[a].shape, value) for a, value in operands(name, given).items()}


def moved(axis):
    """Return what moves time of an operand from the first axis to another."""

    def move(word, array):
        place = TIME.get(word)
        if place is None or not array.ndim:
            return array
        return np.moveaxis(array, place, axis if axis < 0 else axis + place)

    return move


def time_of(name, word, array):
    """Return the axis of time in an operand or result; None where there is none."""
    if name in SCANS:
        return {"full": 2, "maps": 2}.get(word) if array.ndim > 2 else None
    place = TIME.get(word)
    return None if place is None or word.startswith("states") or not array.ndim or array.shape[place] == 1 else place


def steps_of(name, steps):
    """Return what takes steps of an operand or a result: a slice, or an order."""

    def take(word, array):
        place = time_of(name, word, array)
        if place is None:
            return array
        if word == "a step more" and isinstance(steps, slice):
            return array[slice(steps.start, STEPS + 1 if steps.stop is None else steps.stop + 1)]
        return array[(slice(None),) * place + (steps,)]

    return take


def series_of(name, k):
    """Return what takes one series alone of an operand or a result: without its axis, but in a scan."""

    def take(word, array):
        if name in SCANS:
            return array[k : k + 1] if word in ("full", "maps", "B D N") and array.ndim > 2 else array
        has_series = word in TIME or word == "series"
        return array[..., k] if has_series and array.ndim and array.shape[-1] == SERIES else array

    return take


def close(name, got, wanted, exact=False):
    """Compare results with others: to rounding, or to the bit."""
    assert len(got) == len(wanted)
    for one, other in zip(got, wanted, strict=True):
        one, other = np.asarray(one), np.asarray(other)
        assert one.shape == other.shape
        if exact:
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
        else:
            tolerance = 1e-5 if "float32" in {str(one.dtype), str(other.dtype)} else 1e-11
            np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)
