"""Every public function keeps every promise that is made for all of them; docs/promises_not.csv says which does not.

Each promise is one check of a name; tests/torch/test_promises_of_tensors.py has those of tensors.
"""

import inspect
import re

import layouts
import ml_dtypes
import numpy as np
import pytest
from promised import (
    CHANNELS,
    FUNCTIONS,
    SCANS,
    SEQUENCES,
    SERIES,
    STEPS,
    broken,
    call,
    close,
    draw,
    mapped,
    moved,
    operands,
    promises,
    series_of,
    steps_of,
    time_of,
    words,
)
from records import function, record

FULL, SCANNED = (STEPS, SERIES), (SEQUENCES, CHANNELS, STEPS)
FLIP = slice(None, None, -1)


def has(name, argument):
    """Say that a function does not take an argument, by the error that a user has."""
    if argument not in record(name).arguments:
        raise TypeError(f"no {argument}")


def sizes(name, steps=STEPS, series=None):
    """Return the shape of a call of so many steps and series."""
    if name in SCANS:
        return (SEQUENCES if series is None else series, CHANNELS, steps)
    return (steps, SERIES if series is None else series)


def changed(name, results, change):
    return [change(word, result) for word, result in zip(words(name, results), results, strict=True)]


def check_axis(name):
    has(name, "axis")
    given = draw(name, (STEPS, 2, SERIES))
    expected = call(name, given)
    for axis in (1, 2, -1, -2):
        place = axis % 3
        found = call(name, mapped(name, given, moved(place)) | {"axis": axis})
        close(name, found, changed(name, expected, moved(place)))


def check_reverse(name):
    has(name, "reverse")
    given = draw(name)
    flip = steps_of(name, FLIP)
    found = call(name, mapped(name, given, flip) | {"reverse": True})
    close(name, found, changed(name, call(name, given), flip), exact=not name.endswith("_vjp"))


def check_no_steps(name):
    given = draw(name, sizes(name, 0))
    for word, result in zip(words(name, results := call(name, given)), results, strict=True):
        assert time_of(name, word, result) is None or result.shape[time_of(name, word, result)] == 0
    for argument, result in zip(record(name).results.values(), results, strict=False):
        if argument in given and record(name).arguments[argument].kind == "state" and not name.endswith("_vjp"):
            close(name, [result], [given[argument]])
            assert not np.shares_memory(result, given[argument])


def check_no_series(name):
    given = draw(name, sizes(name, series=0))
    results = call(name, given)
    for word, result in zip(words(name, results), results, strict=True):
        assert result.size == 0 or word not in ("together", "full", "series")


def check_one_series(name):
    for steps in (1, STEPS):
        given = draw(name, sizes(name, steps))
        whole = call(name, given)
        for k in range(SEQUENCES if name in SCANS else SERIES):
            take = series_of(name, k)
            alone = mapped(name, given, take)
            wanted = changed(name, whole, take)
            for word, one, other in zip(words(name, whole), call(name, alone), wanted, strict=True):
                if word in ("together", "full", "series", "states", "one step", "B D N", "states of sections"):
                    close(name, [one], [other])  # others are sums of all series


def check_inputs(name):
    given = draw(name)
    expected, before = call(name, given), mapped(name, given, lambda _, array: array.copy())
    locked = mapped(name, given, lambda _, array: layouts.read_only(array))
    close(name, call(name, locked), expected, exact=True)
    for argument, array in operands(name, before).items():
        np.testing.assert_array_equal(given[argument], array)


NUMBERS = 0.5, 1, np.float64(0.5), np.int64(1), np.array(0.5)


def check_numbers(name):
    told = record(name).arguments
    free = [argument for argument in operands(name, draw(name)) if told[argument].number]
    if not free:
        raise TypeError("none may be a number")
    for argument in free:
        for number in (False, True) if told[argument].kind == "mask" else NUMBERS:
            given = draw(name, dtype="f8")
            full = np.full(given[argument].shape, number if told[argument].kind == "mask" else float(number))
            if argument in ("b", "a") and told[argument].kind == "polynomial":
                full = np.full(1, number, float)
                given.pop("zi", None), given.pop("grad_zf", None), given.pop("y", None)
            expected = call(name, with_result(name, given | {argument: full}))
            found = call(name, with_result(name, given | {argument: number}))
            for one, other in zip(found, expected, strict=True):
                if np.shape(one) == np.shape(other):
                    close(name, [one], [other])
                else:  # the gradient of a number
                    np.testing.assert_allclose(one, np.sum(other), rtol=1e-12)


def with_result(name, given):
    """Return arguments of a gradient with the result for these arguments."""
    [result] = [a for a, form in record(name).arguments.items() if form.kind == "result"] or [None]
    if result is None:
        return given
    forward = name.removesuffix("_vjp")
    taken = inspect.signature(function(forward)).parameters
    return given | {result: call(forward, {a: v for a, v in given.items() if a in taken})[0]}


BROADCAST = "together", "to full", "series", "one step", "states", "states of sections"


def check_broadcast(name):
    told, some = record(name).arguments, False
    drawn = operands(name, draw(name, dtype="f8"))
    for argument, array in drawn.items():
        if told[argument].shape not in BROADCAST or told[argument].kind == "result" or array.ndim == 0:
            continue
        for axis in range(array.ndim):
            beside = [v for a, v in drawn.items() if a != argument and told[a].shape == "together"]
            alone = told[argument].shape == "together" and not any(v.shape[axis] > 1 for v in beside)
            if array.shape[axis] == 1 or alone:  # the result would be as narrow
                continue
            given, some = draw(name, dtype="f8"), True
            narrow = np.take(given[argument], [0], axis)
            wide = np.ascontiguousarray(np.broadcast_to(narrow, array.shape))
            expected = call(name, with_result(name, given | {argument: wide}))
            forms = [narrow, np.broadcast_to(narrow, array.shape)]
            if axis == 0 and told[argument].shape in ("together", "to full"):
                forms.append(narrow[0])
            for given_narrow in forms:
                found = call(name, with_result(name, given | {argument: given_narrow}))
                for one, other in zip(found, expected, strict=True):
                    if one.shape != other.shape:
                        other = other.sum(axis, keepdims=True).reshape(one.shape)
                    close(name, [one], [other])
    if not some:
        raise TypeError("no operand broadcasts")


WAYS = [layouts.fortran, layouts.negative_strides, *layouts.FIXED[5:]]


def check_layouts(name):
    given = draw(name)
    expected = call(name, given)
    for k, way in enumerate(WAYS):
        each = iter(range(len(WAYS)))

        def other(_, array, way=way, each=each, k=k):
            way = WAYS[(k + next(each, 0)) % len(WAYS)]
            return way(array) if array.ndim else array

        close(name, call(name, mapped(name, given, other)), expected)


def check_integers(name):
    given = draw(name, dtype="f8")
    told = record(name).arguments

    def whole(argument, array):
        if told[argument].kind not in ("signal", "result", "cotangent", "state", "cotangent of the state"):
            return array
        return np.round(array * 9)

    given = given | {argument: whole(argument, array) for argument, array in operands(name, given).items()}
    signals = [argument for argument, array in operands(name, given).items() if told[argument].kind == "signal"]
    given = with_result(name, given)
    expected = call(name, given)
    for dtype in (np.int32, np.uint8, np.int64):
        if dtype == np.uint8:
            given = with_result(name, given | {argument: abs(given[argument]) for argument in signals})
            expected = call(name, given)
        found = call(name, given | {argument: given[argument].astype(dtype) for argument in signals})
        close(name, found, expected)
        assert {result.dtype for result in found} == {np.dtype(np.float64)}


def check_halves(name):
    for dtype, tolerance in ((np.float16, 2e-2), (ml_dtypes.bfloat16, 1e-1)):
        half = draw(name, dtype=dtype)
        wide = mapped(name, half, lambda _, array: array.astype("f4") if array.dtype != bool else array)
        for one, other in zip(call(name, half), call(name, wide), strict=True):
            np.testing.assert_allclose(one.astype("f8"), other, rtol=tolerance, atol=tolerance)
        assert call(name, half)[0].dtype == dtype


def check_lists(name):
    given = draw(name, dtype="f8")
    close(name, call(name, mapped(name, given, lambda _, array: array.tolist())), call(name, given))


def check_later_calls(name):
    given, others = draw(name), draw(name)
    others = mapped(name, others, lambda _, array: array[FLIP] if array.ndim == 2 and array.shape[0] > 2 else array)
    first, between = call(name, given), call(name, others)
    for _ in range(3):
        close(name, call(name, mapped(name, given, lambda _, array: array.copy())), first, exact=True)
        close(name, call(name, others), between, exact=True)


def check_out(name):
    has(name, "out")
    given = draw(name)
    expected = call(name, given)
    out = np.full_like(expected[0], np.nan)
    assert call(name, given | {"out": out})[0] is out
    close(name, [out], expected[:1], exact=True)
    for argument, array in operands(name, given).items():
        if record(name).arguments[argument].kind == "signal":
            own = array.copy()
            assert call(name, given | {argument: own, "out": own})[0] is own
            close(name, [own], expected[:1], exact=True)


def check_split(name):
    told = record(name)
    if "return_state" not in told.arguments and "return_zf" not in told.arguments:
        raise TypeError("no return_state")
    state = next(argument for argument, form in told.arguments.items() if form.kind == "state")
    given = draw(name)
    whole, last = call(name, given)
    chunks = []
    for part in (slice(0, 3), slice(3, 3), slice(3, 4), slice(4, STEPS)):
        chunk, given[state] = call(name, mapped(name, given, steps_of(name, part)))
        chunks.append(chunk)
    close(name, [np.concatenate(chunks, 2 if name in SCANS else 0), given[state]], [whole, last])


def pieces(name, given, parts, states=None):
    """Return results of parts of the steps, each of which has states of its own or those that are given."""
    told, found = record(name).arguments, []
    for k, part in enumerate(parts):
        own = mapped(name, given, steps_of(name, part))
        for argument, form in told.items():
            if argument in own and form.kind in ("state", "cotangent of the state") and states is not None:
                own[argument] = states[argument][k]
        found.append(call(name, own))
    return found


def check_lengths(name):
    has(name, "lengths")
    given = draw(name)
    full, count = sizes(name), SEQUENCES if name in SCANS else SERIES
    lengths = np.array([4, 7, 0, 1, 6])[:count]
    found = call(name, given | {"lengths": lengths})
    for k, length in enumerate(lengths):
        one = mapped(name, given, series_of(name, k))
        [wanted] = pieces(name, one, [slice(0, int(length))])
        for word, result, other in zip(words(name, found), found, wanted, strict=True):
            own = series_of(name, k)(word, result)
            if time_of(name, word, own) is None:
                if word in ("series", "states", "states of sections", "one step", "B D N"):
                    close(name, [own], [other])
                continue
            close(name, [steps_of(name, slice(0, int(length)))(word, own)], [other])
            assert not steps_of(name, slice(int(length), STEPS))(word, own).any()
    assert found[0].shape == full or name.endswith("_vjp")


def check_offsets(name):
    has(name, "offsets")
    borders = [0, 3, 3, STEPS]
    parts = [slice(low, high) for low, high in zip(borders, borders[1:], strict=False)]
    given = draw(name, (1, CHANNELS, STEPS) if name in SCANS else None)
    told, rng = record(name).arguments, np.random.default_rng(1)
    states = {
        argument: rng.random((3, *array.shape)).astype(array.dtype)
        for argument, array in operands(name, given).items()
        if told[argument].kind in ("state", "cotangent of the state")
    }
    joined = {argument: array[:, 0] if name in SCANS else array for argument, array in states.items()}
    forward = given | joined | {"offsets": borders}
    if name.endswith("_vjp"):
        forward = with_result(name, forward)
    found = call(name, forward)
    for k, wanted in enumerate(pieces(name, forward | {"offsets": None}, parts, states)):
        for word, result, other in zip(words(name, found), found, wanted, strict=True):
            if time_of(name, word, result) is not None:
                close(name, [steps_of(name, parts[k])(word, result)], [other])
            elif word in ("series", "B D N"):
                close(name, [result[k : k + 1] if name in SCANS else result[k]], [other])


def check_resets(name):
    has(name, "resets")
    given = draw(name)
    resets = np.isin(np.arange(STEPS), [3, 4])
    flags = np.broadcast_to(resets, (SEQUENCES, STEPS)) if name in SCANS else resets
    given = with_result(name, given | {"resets": flags})
    found = call(name, given)
    parts, nothing = [slice(0, 3), slice(3, 4), slice(4, STEPS)], given | {"resets": None}
    none = {a: np.zeros_like(v) for a, v in given.items() if record(name).arguments[a].kind == "state"}
    last = {a: np.zeros_like(v) for a, v in given.items() if record(name).arguments[a].kind == "cotangent of the state"}
    for k, part in enumerate(parts):
        own = nothing | (none if k else {}) | (last if k < 2 else {})
        [wanted] = pieces(name, own, [part])
        for word, result, other in zip(words(name, found), found, wanted, strict=True):
            if time_of(name, word, result) is not None:
                close(name, [steps_of(name, part)(word, result)], [other])


def check_nan(name):
    told, given = record(name).arguments, draw(name)
    expected = call(name, given)
    for number in (np.nan, np.inf):
        for argument, array in operands(name, given).items():
            if told[argument].kind not in ("signal", "cotangent", "state") or array.ndim < 2:
                continue
            dirty = array.copy()
            (dirty[0] if name in SCANS else dirty[..., 0])[...] = number
            found = call(name, given | {argument: dirty})
            for word, one, other in zip(words(name, found), found, expected, strict=True):
                for k in range(1, SEQUENCES if name in SCANS else SERIES):
                    if word in ("full", "together", "series", "states", "B D N"):
                        take = series_of(name, k)
                        close(name, [take(word, one)], [take(word, other)], exact=True)


def check_keywords(name):
    arguments = [argument for argument in record(name).arguments if len(argument) > 4]
    for argument in arguments:
        with pytest.raises(TypeError, match=re.escape(f"did you mean `{argument}`?")):
            function(name)(**draw(name), **{argument + "z": 1})


def check_dask(name):
    da = pytest.importorskip("dask.array")
    given = draw(name)
    lazy = dict(given)
    for argument, array in operands(name, given).items():
        if record(name).arguments[argument].kind == "signal":
            lazy[argument] = da.from_array(array, chunks=tuple(max(1, n // 2) for n in array.shape))
    found = call(name, lazy)
    assert all(hasattr(result, "dask") for result in found[:1])
    close(name, [np.asarray(result) for result in found], call(name, given))


CHECKS = {
    name.removeprefix("check_").replace("_", " "): check for name, check in globals().items() if name[:6] == "check_"
}
PROMISES, BROKEN = promises("arrays"), broken()


def test_the_table_is_of_checks():
    assert list(PROMISES) == list(CHECKS)


@pytest.mark.parametrize("promise", CHECKS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_promise(name, promise):
    why = BROKEN.get((promise, name))
    if why is None:
        CHECKS[promise](name)
    else:
        with pytest.raises((AssertionError, TypeError, ValueError)):
            CHECKS[promise](name)
