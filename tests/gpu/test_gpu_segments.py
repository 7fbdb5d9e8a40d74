"""Offsets and resets in the GPU's kernels: their real PTX, run on the CPU, against the reference and the CPU's kernels.

`test_simulated` runs all tests of `test_segments` on the same kernels as the Python they are written in.
"""

import itertools
import sys

import layouts
import ml_dtypes
import numpy as np
import pytest
from compare import assert_same_bits, check_both, check_forward, check_vjp
from test_forward import RECURRENCES, operands
from test_gpu_kernels import launched
from test_segments import lanes_of, some_offsets, some_resets

import fastrecur
from fastrecur import reference
from fastrecur._cuda import plan

pytestmark = pytest.mark.usefixtures("gpu")
EACH = pytest.mark.parametrize("name", RECURRENCES)
BOTH_WAYS = pytest.mark.parametrize("reverse", [False, True])
FLOATS = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
KINDS = ["offsets", "resets", "resets of each series", "both"]
# Less than a batch of steps, and more; series that are neighbours, time that is contiguous, one series.
CASES = [((19, 40), 0), ((5, 35), 1), ((7, 4, 3), 0), ((4, 17, 3), 1), ((50,), 0)]
# The function itself: those that tests call place NumPy's arrays on the card that is not there.
PLAIN, PLAIN_VJP = fastrecur.forget_mult, fastrecur.forget_mult_vjp


def assert_near(got, right):
    np.testing.assert_allclose(got, right, rtol=1e-5, atol=1e-5)


def place(array):
    return sys.modules["cupy"].place(array)


def borders(rng, kind, shape, axis, count=4):
    """What says where series begin anew, and the shape of all states."""
    lanes, options = lanes_of(shape, axis), {}
    if kind in ("offsets", "both"):
        options["offsets"], lanes = some_offsets(rng, shape[axis], count), (count, *lanes)
    if kind != "offsets":
        *_, each, one = some_resets(rng, shape, axis)
        options["resets"] = one if kind == "resets" else each
    return options, lanes


@pytest.mark.sample(name=["forget_mult"], kind=["both"])
@EACH
@BOTH_WAYS
@pytest.mark.parametrize(("shape", "axis"), CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients(gpu, cut, rng, name, reverse, shape, axis, kind):
    """In one launch each; with offsets a thread takes each segment, whatever the layout."""
    cut(False)
    gate, value = operands(rng, shape, np.float32)
    options, states = borders(rng, kind, shape, axis)
    h0 = rng.standard_normal(states).astype(np.float32)
    for state in (h0, None, 0.5)[: 3 if kind == "both" else 2]:
        check_forward(name, gate, value, state, axis=axis, reverse=reverse, **options)
        gpu.forget()
        check_vjp(name, gate, value, state, rng=rng, axis=axis, reverse=reverse, **options)
        (kernel,) = set(launched(gpu)) - {"sums"}
        assert kernel == "lanes_vjp" or kind.startswith("resets")


SCANNED = [
    *((name, np.float32, reverse) for name in RECURRENCES for reverse in (False, True)),
    *zip(2 * RECURRENCES[:2], FLOATS[1:], [True, False, True], strict=False),
]


@pytest.mark.exhaustive
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("name", "dtype", "reverse"), SCANNED)
def test_resets_in_tiles(gpu, cut, rng, name, dtype, reverse, axis):
    """Of all series and of each, rare and not, some at the ends of tiles."""
    cut(True)
    for shape, share in [((2, 4100), 0.2), ((1, 4200), 0.001)] if axis else [((129, 40), 0.2), ((300, 20, 3), 0.01)]:
        gate, value = operands(rng, shape, dtype)
        np.moveaxis(gate, axis, 0)[40:90] = 0  # closed gates repeat the state, up to a border
        lanes = lanes_of(shape, axis)
        h0, lengths = rng.standard_normal(lanes).astype(dtype), rng.integers(0, shape[axis] + 1, lanes[0])
        *_, each, one = some_resets(rng, shape, axis, share)
        for resets, given in ((one, None), (each, lengths)):
            along = np.moveaxis(resets, axis, 0)
            along[::512], along[7::1024] = True, True
            options = {"axis": axis, "reverse": reverse, "resets": resets, "lengths": given}
            check_forward(name, gate, value, h0, **options)
            assert set(launched(gpu)) == {"clear", "scan", "series"}
            gpu.forget()
            check_vjp(name, gate, value, h0, rng=rng, **options)
            assert set(launched(gpu)) == {"clear", "scan_vjp", "series_vjp"}
            gpu.forget()


@pytest.mark.exhaustive
@EACH
@BOTH_WAYS
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", ["offsets", "both"])
def test_dtypes(rng, name, reverse, dtype, kind):
    gate, value = operands(rng, (37, 40), dtype)
    options, states = borders(rng, kind, (37, 40), 0)
    h0 = rng.standard_normal(states).astype(dtype)
    check_both(name, gate, value, h0, rng=rng, reverse=reverse, **options)


@pytest.mark.exhaustive
@BOTH_WAYS
@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
@pytest.mark.parametrize("kind", ["offsets", "both"])
def test_complex(rng, reverse, dtype, kind):
    a, b = (rng.standard_normal((2, 20, 17)) + 1j * rng.standard_normal((2, 20, 17))).astype(dtype)
    a = (a / np.abs(a).max()).astype(dtype)
    options, states = borders(rng, kind, (20, 17), 0)
    h0 = (rng.standard_normal(states) * 1j).astype(dtype)
    check_both("linear_recurrence", a, b, h0, rng=rng, reverse=reverse, **options)


@pytest.mark.exhaustive
@EACH
@BOTH_WAYS
@pytest.mark.parametrize("axis", [0, 1])
def test_every_shape_of_resets_and_lengths(rng, name, reverse, axis):
    shape = (20, 5) if axis == 0 else (5, 20)
    gate, value = operands(rng, shape, np.float32)
    gate[rng.random(shape) < 0.5] = 0  # an average's closed gates repeat the state, up to a border
    h0, lengths = rng.standard_normal(5).astype(np.float32), np.array([20, 0, 1, 17, 8])
    for resets, given in itertools.product([*some_resets(rng, shape, axis), np.ones((1, 1), bool)], [None, lengths]):
        options = {"axis": axis, "reverse": reverse, "resets": resets, "lengths": given}
        check_both(name, gate, value, h0, rng=rng, **options)


@pytest.mark.exhaustive
@BOTH_WAYS
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("offsets", "forget_mult"),
        ("resets", "linear_recurrence"),
        ("resets of each series", "linear_recurrence"),
        ("both", "forget_mult"),
        ("both", "linear_recurrence"),
    ],
)
def test_gradients_that_are_sums(gpu, rng, name, reverse, kind):
    """Over time there is a partial sum for each segment; over series, over both, and over first states."""
    value = rng.standard_normal((33, 4, 5)).astype(np.float32)
    options, states = borders(rng, kind, (33, 4, 5), 0)
    for gate, state in [((), (1,)), ((1, 4, 5), states), ((33, 1, 1), (5,)), ((5,), (*states[:-2], 1, 5))]:
        gate = rng.random(gate).astype(np.float32) if gate else 0.25
        h0 = rng.standard_normal(state).astype(np.float32)
        check_both(name, gate, value, h0, rng=rng, reverse=reverse, **options)
        check_vjp(name, value * np.float32(0.3), gate, h0, rng=rng, reverse=reverse, **options)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", layouts.WRITEABLE)
def test_layouts(rng, kind, layout):
    shapes = [((5, 6, 7), 0), ((3, 2, 40), 1)]
    for name, reverse, (shape, axis) in itertools.product(RECURRENCES, [False, True], shapes):
        gate, value = (layout(a) for a in operands(rng, shape, np.float32))
        options, states = borders(rng, kind, shape, axis, 3)
        options = {key: layout(a) if key == "resets" and a.ndim > 2 else a for key, a in options.items()}
        h0 = layout(rng.standard_normal(states).astype(np.float32))
        check_forward(name, gate, value, h0, axis=axis, reverse=reverse, **options)
        check_vjp(name, gate, value, h0, rng=rng, arrange=layout, axis=axis, reverse=reverse, **options)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", KINDS)
def test_many_axes(gpu, rng, kind):
    """No launch more than without."""
    gate, value = (a[:, ::2, ::2, ::2, ::2] for a in operands(rng, (6, 6, 4, 4, 4), np.float32))
    most = 0
    for axis in range(5):
        options, states = borders(rng, kind, value.shape, axis, 2)
        h0 = rng.standard_normal(states).astype(np.float32)
        counts = []
        for own, state in ((options, h0), ({}, h0[0] if len(states) > 4 else h0)):
            gpu.forget()
            fastrecur.forget_mult(gate, value, state, axis=axis, **own)
            counts.append(len(launched(gpu)))
        assert counts[0] == counts[1]
        most = max(most, counts[0])
        check_forward("forget_mult", gate, value, h0, axis=axis, **options)
        check_vjp("linear_recurrence", gate, value, h0, rng=rng, axis=axis, **options)
        check_vjp("forget_mult", 0.5, value, h0, rng=rng, axis=axis, **options)
    assert most > 1


@pytest.mark.exhaustive
@EACH
@BOTH_WAYS
@pytest.mark.parametrize(("kind", "is_cut"), [*((kind, False) for kind in KINDS), (KINDS[1], True), (KINDS[2], True)])
@pytest.mark.parametrize("axis", [0, 1])
def test_nan_stops_at_borders(cut, rng, name, reverse, kind, axis, is_cut):
    """NaN and infinities at the last step before each border change no bit behind it, in values and gradients.

    Where several threads scan a series an infinite coefficient may have it scanned once more, in another order.
    """
    recurrence, vjp = getattr(fastrecur, name), getattr(fastrecur, name + "_vjp")
    cut(is_cut)
    offsets = np.array([0, 3, 4, 20, 21, 38, 45])  # with two borders in a batch of steps, and none
    if is_cut:  # and at the ends of tiles
        offsets = np.array([0, 3, 64, 120, 128, 129, 299] if axis == 0 else [0, 8, 2048, 2050, 4095, 4096, 5000])
    steps, lanes = offsets[-1], 5
    gate, value, grad_h = (rng.random((steps, lanes)).astype(np.float32) for _ in range(3))
    flags = np.isin(np.arange(steps), offsets[:-1])
    options = {"offsets": offsets} if kind in ("offsets", "both") else {}
    if kind != "offsets":
        flags = np.broadcast_to(flags[:, np.newaxis], (steps, lanes)).copy() if kind == "both" else flags[:, np.newaxis]
        options["resets"] = flags if axis == 0 else flags.T.copy()
    options |= {"axis": axis, "reverse": reverse}
    number = np.searchsorted(offsets, np.arange(steps), side="right") - 1  # of each step's segment
    own = np.arange(1, 6, 2)
    last = offsets[own] if reverse else offsets[own + 1] - 1
    first = offsets[own + 1] - 1 if reverse else offsets[own]

    def results(*arrays):
        given = [a if axis == 0 else a.T.copy() for a in arrays]
        h = recurrence(*given[:2], **options)
        return [a if axis == 0 else a.T for a in (h, *vjp(given[2], *given[:2], h, **options)[:2])]

    whole = results(gate, value, grad_h)
    others = np.flatnonzero(number % 2 == 0)
    for bad, k in itertools.product((np.nan, np.inf), range(3)):
        spoilt = [a.copy() for a in (gate, value, grad_h)]
        spoilt[k][first if k == 2 else last] = bad
        same = assert_same_bits if np.isnan(bad) or k or kind in ("offsets", "both") else assert_near
        for one, right in zip(results(*spoilt), whole, strict=True):
            same(one[others].copy(), right[others].copy())


@pytest.mark.exhaustive
@BOTH_WAYS
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_coefficient_at_a_border_is_not_used(rng, reverse, bad):
    a, b = operands(rng, (19, 5), np.float32)
    resets = np.zeros((19, 5), bool)
    resets[4], resets[17, 2], resets[0] = True, True, not reverse
    own = np.roll(resets, -1, 0) if reverse else resets
    a[own] = bad
    h = fastrecur.linear_recurrence(a, b, b[3].copy(), resets=resets, reverse=reverse)
    assert_same_bits(h[own], b[own])
    grads = fastrecur.linear_recurrence_vjp(b, a, b, h, b[3].copy(), resets=resets, reverse=reverse)
    assert (grads[0][own] == 0).all()
    assert all(np.isfinite(grad).all() for grad in grads)
    assert reverse or (grads[2] == 0).all()
    infinite = fastrecur.linear_recurrence_vjp(np.full_like(b, bad), a, b, h, resets=resets, reverse=reverse)
    assert (infinite[0][own] == 0).all()
    f = np.full((19, 5), 0.5, np.float32)
    assert_same_bits(fastrecur.forget_mult(f, b, resets=resets, reverse=reverse)[own], (f * b)[own])


@pytest.mark.exhaustive
@BOTH_WAYS
def test_what_a_border_at_an_end_hands_on(rng, reverse):
    """In reverse the first step's flag clears the last state, and the cotangent of it."""
    f, x = operands(rng, (20, 3), np.float32)
    resets = np.zeros((20, 3), bool)
    resets[0, :2] = True
    h, last = fastrecur.forget_mult(f, x, resets=resets, reverse=reverse, return_state=True)
    assert (last[:2] == 0).all() == reverse
    assert last[2] == h[0 if reverse else -1, 2]
    zeros, state = np.zeros_like(x), np.full(3, np.nan, np.float32)
    grads = fastrecur.forget_mult_vjp(zeros, f, x, h, resets=resets, reverse=reverse, grad_state=state)
    assert all((grad[:, :2] == 0).all() == reverse for grad in grads[:2])
    assert all(np.isnan(grad[:, 2]).any() for grad in grads[:2])


@pytest.mark.exhaustive
@EACH
@BOTH_WAYS
@pytest.mark.parametrize(("shape", "axis"), CASES[:2])
def test_each_segment_is_the_call_on_it_alone(rng, monkeypatch, name, reverse, shape, axis):
    """To the bit, of the same kernel."""
    monkeypatch.setattr(plan, "choose", lambda *arguments: plan.Choice(plan.LANES, 1))
    plan.forward.cache_clear()
    gate, value = operands(rng, shape, np.float32)
    options, states = borders(rng, "offsets", shape, axis)
    h0, ways = rng.standard_normal(states).astype(np.float32), {"axis": axis, "reverse": reverse, "return_state": True}
    h, last = getattr(fastrecur, name)(gate, value, h0, **ways, **options)
    for n, (start, stop) in enumerate(itertools.pairwise(options["offsets"])):
        own = [np.take(a, range(start, stop), axis) for a in (gate, value, h)]
        alone, alone_last = getattr(fastrecur, name)(*own[:2], h0[n], **ways)
        assert_same_bits(own[2], alone)
        assert_same_bits(last[n : n + 1].copy(), alone_last[np.newaxis].copy())
    plan.forward.cache_clear()


@BOTH_WAYS
@pytest.mark.parametrize("offsets", [[0], [0, 0, 0]])
def test_no_steps(rng, reverse, offsets):
    count, x = len(offsets) - 1, np.ones((0, 3), np.float32)
    h0 = rng.standard_normal((count, 3)).astype(np.float32)
    for gate in (x, 0.5, np.ones((1, 3), np.float32)):
        h, last = fastrecur.forget_mult(gate, x, h0, offsets=offsets, reverse=reverse, return_state=True)
        assert_same_bits(last, h0)
        grads = fastrecur.forget_mult_vjp(x, gate, x, h, h0, offsets=offsets, reverse=reverse, grad_state=h0)
        assert_same_bits(grads[2], h0)
        assert (np.asarray(grads[0]) == 0).all()


@pytest.mark.parametrize("kind", ["offsets", "resets", "both"])
def test_no_series(rng, kind):
    options, states = borders(rng, kind, (5, 0), 0)
    check_both("forget_mult", 0.5, np.ones((5, 0), np.float32), np.ones(states, np.float32), rng=rng, **options)


@BOTH_WAYS
@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.uint64])
def test_offsets_on_the_device(rng, reverse, dtype):
    """Of any integer, strided, and of the host."""
    f, x = operands(rng, (40, 3), np.float32)
    offsets = some_offsets(rng, 40, 5)
    right = fastrecur.forget_mult(f, x, offsets=offsets.tolist(), reverse=reverse)
    check_forward("forget_mult", f, x, offsets=offsets, reverse=reverse)
    twice = np.repeat(offsets, 2).astype(dtype)
    for given in (twice[::2].copy(), twice[::2], twice[::-1][::2][::-1]):
        assert_same_bits(fastrecur.forget_mult(f, x, offsets=given, reverse=reverse), right)


@BOTH_WAYS
@pytest.mark.parametrize(
    "offsets",
    [[0, 30, 10, 40], [-5, 3, 90], [9, 3, 2], [50, 60], [0, 1 << 40, -(1 << 40), 40], [1 << 62, -(1 << 63), 1 << 33]],
)
def test_offsets_that_are_none(gpu, rng, reverse, offsets):
    """On a device nobody looks at them; kernels touch no memory but the operands' (the emulator looks at that)."""
    gpu.race = False  # the same step may be two segments'
    f, x = operands(rng, (40, 3), np.float32)
    given = np.array(offsets)
    h0 = np.ones((len(offsets) - 1, 3), np.float32)
    h, last = fastrecur.forget_mult(f, x, h0, offsets=given, reverse=reverse, return_state=True)
    fastrecur.forget_mult_vjp(x, f, x, h, h0, offsets=given, reverse=reverse, grad_state=last)
    fastrecur.forget_mult_vjp(x, 0.5, x, h, h0, offsets=given, reverse=reverse)
    assert set(launched(gpu)) == {"lanes", "lanes_vjp", "sums"}


@pytest.mark.exhaustive
@pytest.mark.parametrize("axis", [0, 1])
def test_each_operand_is_read_once_and_a_byte_for_each_flag(gpu, rng, axis):
    shape = (60, 64) if axis == 0 else (64, 60)
    f, x = operands(rng, shape, np.float32)
    offsets, resets = np.arange(0, 61, 10), rng.random(shape) < 0.2
    for options, more in (({"resets": resets}, x.size), ({"offsets": offsets}, 16 * 6 * 64)):
        gpu.forget()
        h = fastrecur.forget_mult(f, x, axis=axis, **options)
        (kernel,) = launched(gpu)
        assert gpu.counts == {(kernel, "loaded"): 8 * x.size + more, (kernel, "stored"): 4 * x.size}
        gpu.forget()
        fastrecur.forget_mult_vjp(x, f, x, h, axis=axis, **options)
        assert gpu.counts[kernel + "_vjp", "stored"] == 8 * x.size
        assert 15 * x.size + more <= gpu.counts[kernel + "_vjp", "loaded"] <= 16 * x.size + more


@pytest.mark.exhaustive
@BOTH_WAYS
@pytest.mark.parametrize("kind", KINDS)
def test_in_place(rng, reverse, kind):
    for axis, shape in [(0, (40, 5)), (1, (5, 40))]:
        f, x = operands(rng, shape, np.float32)
        options, states = borders(rng, kind, shape, axis)
        h0 = rng.standard_normal(states).astype(np.float32)
        expected = fastrecur.forget_mult(f, x, h0, axis=axis, reverse=reverse, **options)
        options = {key: place(np.array(value)) for key, value in options.items()}
        for k in range(2):
            given = [place(a.copy()) for a in (f, x)]
            out = given[k]
            PLAIN(*given, place(h0), axis=axis, reverse=reverse, out=out, **options)
            assert_same_bits(out.host, expected)


@pytest.mark.exhaustive
def test_first_states_in_the_place_of_results(rng):
    """All segments' are read before anything is written there."""
    f, x = operands(rng, (40, 3), np.float32)
    out = x.copy()
    expected = fastrecur.forget_mult(f, x, x[7:10].copy(), offsets=[0, 9, 9, 40])
    PLAIN(place(f), place(x), place(out[7:10]), offsets=[0, 9, 9, 40], out=place(out))
    assert_same_bits(out, expected)


@pytest.mark.exhaustive
def test_what_is_copied(gpu, rng):
    """Nothing from the device; to it what of offsets and resets the host has, and no operand."""
    f, x = (place(a) for a in operands(rng, (40, 3), np.float32))
    offsets, resets = np.array([0, 9, 40]), rng.random((40, 1)) < 0.2
    for given, uploads in (((place(offsets), place(resets)), []), ((offsets, resets), [24, 40])):
        gpu.log = []
        for options in ({"offsets": given[0]}, {"resets": given[1]}):
            PLAIN(f, x, **options)
        assert [entry[1] for entry in gpu.log if entry[0] == "upload"] == uploads
        assert [entry[1] for entry in gpu.log if entry[0] == "empty"] == [480, 480]
        assert len(launched(gpu)) == 2


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("name", "value"), [("lengths", np.array([7, 9, 40])), ("offsets", [0, 9, 40]), ("resets", np.arange(40) == 7)]
)
def test_a_captured_call_copies_nothing_from_the_host(gpu, rng, name, value):
    """A replay would copy what stands there then, also where the library could allocate for the graph."""
    f, x, out = (place(a) for a in (*operands(rng, (40, 3), np.float32), np.zeros((40, 3), np.float32)))
    gpu.is_capturing, gpu.log = lambda device, stream: True, []
    message = f"must have `{name}` on the device, got it on the host"
    for call in (lambda **ends: PLAIN(f, x, out=out, **ends), lambda **ends: PLAIN_VJP(x, f, x, x, **ends)):
        with pytest.raises(RuntimeError, match=message):
            call(**{name: value})
        assert not gpu.log
    PLAIN(f, x, out=out, **{name: place(np.asarray(value))})
    assert len(launched(gpu)) == 1


ERRORS = [
    ({"offsets": [0, 5.0]}, TypeError, "`offsets` must be integers"),
    ({"offsets": np.zeros(3, np.float32)}, TypeError, "`offsets` must be integers"),
    ({"offsets": np.zeros((1, 2), np.int64)}, ValueError, "`offsets` must be integers in one dimension"),
    ({"offsets": np.zeros(0, np.int64)}, ValueError, "`offsets` must be integers in one dimension"),
    ({"offsets": [1, 7]}, ValueError, "`offsets` must begin with 0 and end with 7"),
    ({"offsets": [0, 5, 3, 7]}, ValueError, "`offsets` must never descend, got 5 and then 3"),
    ({"offsets": [0, 7], "lengths": [7] * 4}, ValueError, "`lengths` must be left out with `offsets`"),
    ({"offsets": [0, 3, 7], "h0": np.zeros((3, 4))}, ValueError, r"`h0` must have the shape .*\(2, 4\)"),
    ({"resets": np.zeros(7)}, TypeError, "`resets` must hold bools"),
    ({"resets": np.zeros((7, 3), bool)}, ValueError, "`resets` must be shaped like one or more leading axes"),
    ({"resets": True}, ValueError, "`resets` must be shaped like"),
    ({"resets": np.zeros(7, bool), "h0": np.zeros((1, 1, 4))}, ValueError, "`h0` must have the shape"),
]


@pytest.mark.parametrize(("options", "error", "match"), ERRORS)
def test_errors(gpu, options, error, match):
    """Before anything is written; what stands on the device is looked at as far as the host knows it."""
    x, out, options = np.ones((7, 4)), np.full((7, 4), 5.0), options.copy()
    h0 = options.pop("h0", None)
    with pytest.raises(error, match=match):
        fastrecur.forget_mult(0.5, x, h0, out=out, **options)
    with pytest.raises(error, match=match):
        fastrecur.forget_mult_vjp(x, 0.5, x, x, h0, **options)
    assert not launched(gpu)


@pytest.mark.exhaustive
def test_the_cotangents_of_all_segments_states(rng):
    x = np.ones((7, 4))
    with pytest.raises(ValueError, match=r"`grad_state` must have the shape .*\(2, 4\)"):
        fastrecur.forget_mult_vjp(x, 0.5, x, x, offsets=[0, 3, 7], grad_state=np.zeros((3, 4)))


@pytest.mark.exhaustive
def test_on_the_device_or_the_host_alone(rng):
    x = place(np.ones((7, 4)))
    with pytest.raises(ValueError, match="on one device, got `f` on device 0 and `offsets` on device 1"):
        PLAIN(x, x, offsets=sys.modules["cupy"].place(np.array([0, 7]), 1))
    wanted = reference.forget_mult(0.5, x.host, offsets=[0, 3, 7], resets=[False] * 7)
    given = {"offsets": place(np.array([0, 3, 7])), "resets": [False] * 7}
    np.testing.assert_allclose(PLAIN(0.5, x, **given).host, wanted, rtol=1e-6)
