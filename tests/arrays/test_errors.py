"""Every bad argument: the type of the error, the argument in backticks, and nothing written."""

import contextlib
import inspect
import sys

import ml_dtypes
import numpy as np
import pytest
import torch
from compare import assert_same_bits, check_both
from test_forward import RECURRENCES, operands
from test_segments import some_offsets

import fastrecur
import fastrecur.torch

X = np.arange(15, dtype=np.float32).reshape(5, 3)
F = np.full((5, 3), 0.5, np.float32)


class OnGpu:
    """An array that lives on a GPU, by the word of its interface."""

    __cuda_array_interface__ = {
        "shape": (5, 3),
        "typestr": "<f4",
        "data": (0xDEAD0000, False),
        "version": 3,
    }


class OnGpuByDlpack:
    """An array that lives on a GPU, by the word of DLPack."""

    def __dlpack__(self, **options):
        raise AssertionError("asked for memory of a device that was not checked")

    def __dlpack_device__(self):
        return (2, 0)


class WithUnits(np.ndarray):
    """An array whose arithmetic is not NumPy's."""

    def __array_ufunc__(self, *args, **kwargs):
        raise AssertionError("used as if it were a plain array")


class Opaque:
    """Nothing that NumPy knows."""


UNSUPPORTED = {
    "None": None,
    "an object": Opaque(),
    "objects": np.full((5, 3), None),
    "numbers as objects": X.astype(object),
    "a string": "0.5",
    "strings": np.full((5, 3), "0.5"),
    "bytes": np.full((5, 3), b"0.5"),
    "a list of strings": ["0.5", "0.25", "0"],
    "dates": np.zeros((5, 3), "M8[s]"),
    "time spans": np.zeros((5, 3), "m8[s]"),
    "records": np.zeros((5, 3), [("value", "f4")]),
    "a masked array": np.ma.masked_array(X, X > 3),
    "an array with units": X.view(WithUnits),
    "a GPU array": OnGpu(),
    "a GPU array by DLPack": OnGpuByDlpack(),
    "a dict": {"a": 1.0},
    "a set": {1.0},
    "raw bytes": np.zeros((5, 3), "V4"),
}
if np.dtype(np.longdouble).itemsize > 8:
    UNSUPPORTED["extended precision"] = X.astype(np.longdouble)


@contextlib.contextmanager
def raises(error, argument):
    """The error itself, not one of its kinds that NumPy raises, and its message."""
    with pytest.raises(error, match=f"`{argument}`") as info:
        yield info
    assert info.type is error


def names_of(name):
    return ("f", "x") if name == "forget_mult" else ("a", "b")


def call(name, arguments, out=None):
    """Call a recurrence with good arguments but for those given by generic names."""
    gate, value = names_of(name)
    arguments = {"gate": F, "value": X} | arguments
    arguments = {{"gate": gate, "value": value}.get(k, k): v for k, v in arguments.items()}
    return getattr(fastrecur, name)(**arguments, **({} if out is None else {"out": out}))


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("argument", ["gate", "value", "h0"])
@pytest.mark.parametrize("what", UNSUPPORTED)
def test_unsupported_operands(name, argument, what):
    operand = UNSUPPORTED[what]
    if operand is None and argument == "h0":
        pytest.skip("no first state is zeros")
    out = np.full((5, 3), np.nan, np.float32)
    named = dict(zip(("gate", "value"), names_of(name), strict=True)).get(argument, argument)
    with raises(TypeError, named):
        call(name, {argument: operand}, out)
    assert np.isnan(out).all()


@pytest.mark.parametrize("argument", ["grad_h", "h", "grad_state"])
@pytest.mark.parametrize("what", UNSUPPORTED)
def test_unsupported_operands_of_the_vjp(argument, what):
    operand = UNSUPPORTED[what]
    if operand is None and argument == "grad_state":
        pytest.skip("no cotangent is zeros")
    arguments = {"grad_h": X, "f": F, "x": X, "h": X} | {argument: operand}
    with raises(TypeError, argument):
        fastrecur.forget_mult_vjp(**arguments)


@pytest.mark.parametrize("name", RECURRENCES)
def test_ragged_lists(name):
    ragged = [[1, 2, 3], [4, 5]]
    gate, value = names_of(name)
    with raises(ValueError, gate):
        call(name, {"gate": ragged})
    with raises(ValueError, value):
        call(name, {"value": ragged})
    with raises(ValueError, "h0"):
        call(name, {"h0": ragged})


def test_lists_that_numpy_cannot_take():
    tensor = torch.ones(3, requires_grad=True)
    with raises(TypeError, "x"):
        fastrecur.forget_mult(0.5, [tensor, tensor])
    with raises(TypeError, "lengths"):
        fastrecur.forget_mult(0.5, X, lengths=[*tensor])
    deep = []
    deep.append(deep)
    for masked in (False, True):
        with pytest.MonkeyPatch.context() as patches:
            if not masked:
                patches.delitem(sys.modules, "numpy.ma", raising=False)
            with pytest.raises((TypeError, ValueError), match="`x`"):
                fastrecur.forget_mult(0.5, deep)


@pytest.mark.parametrize("argument", ["f", "x", "h0", "out"])
def test_an_interface_that_is_none(argument):
    class Broken:
        def __array_interface__(self):
            pass

    with raises(TypeError, argument):
        fastrecur.forget_mult(**{"f": F, "x": X} | {argument: Broken()})


def test_what_the_messages_say():
    for array in [OnGpu(), OnGpuByDlpack()]:
        with pytest.raises(TypeError, match="GPU"):
            fastrecur.forget_mult(F, array)
    with pytest.raises(ValueError, match=r"\(5, 4\)"):
        fastrecur.forget_mult(F, np.ones((5, 4), np.float32))
    with pytest.raises(ValueError, match=r"(?s)(2.*3|3.*2)"):
        fastrecur.forget_mult(F, X, axis=3)


# What is given, the error, and which argument it names.
BAD = {
    "no axis at all": ({"gate": 0.5, "value": 2.0}, ValueError, None),
    "no axis in arrays": ({"gate": np.array(0.5), "value": np.array(2.0)}, ValueError, None),
    "shapes": ({"value": np.ones((5, 4), np.float32)}, ValueError, "value"),
    "numbers of steps": ({"value": np.ones((4, 3), np.float32)}, ValueError, "value"),
    "too many axes in h0": ({"h0": X}, ValueError, "h0"),
    "h0's shape": ({"h0": np.ones(2, np.float32)}, ValueError, "h0"),
    "h0 with time": ({"h0": np.ones((1, 3), np.float32)}, ValueError, "h0"),
    "axis too large": ({"axis": 2}, ValueError, "axis"),
    "axis too small": ({"axis": -3}, ValueError, "axis"),
    "axis fractional": ({"axis": 0.0}, TypeError, "axis"),
    "axis a string": ({"axis": "0"}, TypeError, "axis"),
    "axis None": ({"axis": None}, TypeError, "axis"),
    "axis a tuple": ({"axis": (0,)}, TypeError, "axis"),
    "reverse a string": ({"reverse": "no"}, TypeError, "reverse"),
    "reverse an array": ({"reverse": np.zeros(3, bool)}, TypeError, "reverse"),
    "lengths negative": ({"lengths": [5, -1, 5]}, ValueError, "lengths"),
    "lengths too long": ({"lengths": [5, 6, 5]}, ValueError, "lengths"),
    "one length for several lanes": ({"lengths": 3}, ValueError, "lengths"),
    "lengths beyond any integer": (
        {"lengths": np.full(3, 2**64 - 1, np.uint64)},
        ValueError,
        "lengths",
    ),
    "lengths fractional": ({"lengths": [1.5, 2, 3]}, TypeError, "lengths"),
    "lengths float": ({"lengths": [1.0, 2.0, 3.0]}, TypeError, "lengths"),
    "lengths NaN": ({"lengths": [np.nan, 2.0, 3.0]}, TypeError, "lengths"),
    "lengths of strings": ({"lengths": ["1", "2", "3"]}, TypeError, "lengths"),
    "lengths of objects": ({"lengths": np.array([1, 2, None])}, TypeError, "lengths"),
    "lengths masked": ({"lengths": np.ma.masked_array([1, 2, 3])}, TypeError, "lengths"),
    "lengths' shape": ({"lengths": [1, 2]}, ValueError, "lengths"),
    "lengths' axes": ({"lengths": [[1, 2, 3]]}, ValueError, "lengths"),
    "lengths on a GPU": ({"lengths": OnGpu()}, TypeError, "lengths"),
    "lengths ragged": ({"lengths": [[1], [1, 2]]}, ValueError, "lengths"),
}


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("what", BAD)
def test_bad_arguments(name, what):
    arguments, error, argument = BAD[what]
    gate, value = names_of(name)
    argument = {"value": value, None: value}.get(argument, argument)
    out = np.full((5, 3), np.nan, np.float32)
    for given_out in (None, out):
        with raises(error, argument):
            call(name, arguments, given_out)
    assert np.isnan(out).all()
    # The gradients check the same arguments in the same way.
    vjp = {"grad_h": X, "h": X, gate: F, value: X}
    vjp |= {{"gate": gate, "value": value}.get(k, k): v for k, v in arguments.items()}
    with raises(error, argument) as wrong:
        getattr(fastrecur, name + "_vjp")(**vjp)
    if isinstance(vjp[value], np.ndarray) and vjp[value].dtype.kind == "f" and argument != value:
        # Complex values are no problem of other shapes.
        with raises(error, argument) as also_wrong:
            getattr(fastrecur, name + "_vjp")(**vjp | {value: vjp[value] * np.complex64(1)})
        assert str(also_wrong.value) == str(wrong.value)


def read_only():
    out = np.full((5, 3), np.nan, np.float32)
    out.flags.writeable = False
    return out


BAD_OUT = {
    "a list": ([[0.0] * 3] * 5, TypeError),
    "a number": (0.0, TypeError),
    "a GPU array": (OnGpu(), TypeError),
    "a masked array": (np.ma.masked_array(X.copy()), TypeError),
    "an array with units": (X.copy().view(WithUnits), TypeError),
    "a wider dtype": (np.full((5, 3), np.nan), TypeError),
    "a narrower dtype": (np.full((5, 3), np.nan, np.float16), TypeError),
    "integers": (np.zeros((5, 3), int), TypeError),
    "too few steps": (np.full((4, 3), np.nan, np.float32), ValueError),
    "too many axes": (np.full((1, 5, 3), np.nan, np.float32), ValueError),
    "too few axes": (np.full(15, np.nan, np.float32), ValueError),
    "transposed": (np.full((3, 5), np.nan, np.float32), ValueError),
    "read-only": (read_only(), ValueError),
}


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("what", BAD_OUT)
def test_bad_out(name, what):
    out, error = BAD_OUT[what]
    before = out.copy() if isinstance(out, np.ndarray) else None
    with raises(error, "out"):
        call(name, {}, out)
    if type(out) is np.ndarray:
        assert_same_bits(out, before)


BAD_VJP = {
    "grad_h's shape": {"grad_h": X[:, :2]},
    "grad_h's axes": {"grad_h": X[np.newaxis]},
    "h's shape": {"h": X[:4]},
    "h's axes": {"h": X[np.newaxis]},
    "grad_state's shape": {"grad_state": np.ones(2, np.float32)},
    "grad_state's axes": {"grad_state": X},
}


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("what", BAD_VJP)
def test_bad_arguments_of_the_vjp(name, what):
    gate, value = names_of(name)
    arguments = {"grad_h": X, gate: F, value: X, "h": X} | BAD_VJP[what]
    (argument,) = BAD_VJP[what]
    for kind in (np.float32, np.complex64):
        with raises(ValueError, argument) as wrong:
            getattr(fastrecur, name + "_vjp")(**arguments | {value: X.astype(kind)})
        assert str(wrong.value).endswith(f"got {BAD_VJP[what][argument].shape}")


def test_a_self_overlap_is_seen_without_looking_at_all_places():
    """Of so many there would be no room for them."""
    out = np.lib.stride_tricks.as_strided(np.zeros(1 << 16), (1 << 40, 1 << 10), (8, 8))
    with pytest.raises(ValueError, match="`out` must not overlap itself"):
        fastrecur.forget_mult(0.5, np.broadcast_to(np.float64(1), out.shape), out=out)
    out = np.lib.stride_tricks.as_strided(np.zeros(1 << 16), (1 << 40, 1 << 10), (0, 8))
    with pytest.raises(ValueError, match="`out` must not overlap itself"):
        fastrecur.forget_mult(0.5, np.broadcast_to(np.float64(1), out.shape), out=out)


def test_axes_that_are_interleaved_name_no_place_twice(rng):
    out = np.lib.stride_tricks.as_strided(np.zeros(8, np.float32), (2, 3), (12, 8))  # 0, 2, 4 and 3, 5, 7
    value = rng.standard_normal(out.shape).astype(np.float32)
    for axis in (0, 1):
        assert fastrecur.forget_mult(0.5, value, axis=axis, out=out) is out
        assert_same_bits(out.copy(), fastrecur.forget_mult(0.5, value, axis=axis))


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("argument", ["grad_h", "h", "grad_state"])
def test_no_imaginary_part_is_dropped_of_what_belongs_to_a_real_result(name, argument):
    gate, value = names_of(name)
    vjp = getattr(fastrecur, name + "_vjp")
    given = {"grad_h": X, gate: F, value: X, "h": X}
    for bad in (1j, np.complex64(1j), 1j * (X[0] if argument == "grad_state" else X)):
        with raises(TypeError, argument):
            vjp(**given | {argument: bad})
        assert vjp(**given | {argument: bad}, h0=1j)[2].dtype.kind == "c"


def test_dtypes_without_a_common_type_are_named_with_what_has_them(monkeypatch):
    half, brain, real = np.ones(3, np.float16), np.ones(3, ml_dtypes.bfloat16), np.result_type

    def result_type(*dtypes):
        if {half.dtype, brain.dtype} <= set(dtypes):  # which have a common type since ml_dtypes 0.7
            raise TypeError
        return real(*dtypes)

    monkeypatch.setattr(np, "result_type", result_type)
    with pytest.raises(TypeError, match="^`f`, `x` must have dtypes with a common type, got bfloat16, float16$"):
        fastrecur.forget_mult(brain, half)
    with pytest.raises(TypeError, match="^`x`, `h0` must have .*, got float16, bfloat16$"):
        fastrecur.forget_mult(0.5, half, brain[0])
    with pytest.raises(TypeError, match="^`grad_h`, `x`, `h` must have .*, got bfloat16, float16, float16$"):
        fastrecur.forget_mult_vjp(brain, 0.5, half, half)


@pytest.mark.parametrize("axis", [0, 1])
def test_lengths_where_the_lanes_are_several(axis):
    x = np.ones((5, 5, 3), np.float32)
    for lengths in [np.ones((5, 3, 1), int), np.ones((3, 5), int), np.ones(3, int)]:
        with raises(ValueError, "lengths"):
            fastrecur.forget_mult(0.5, x, axis=axis, lengths=lengths)


def test_h0_does_not_stretch_the_result():
    with raises(ValueError, "h0"):
        fastrecur.forget_mult(0.5, X[:, :1], np.ones(3, np.float32))
    with raises(ValueError, "h0"):
        fastrecur.forget_mult_vjp(X[:, :1], 0.5, X[:, :1], X[:, :1], np.ones(3, np.float32))


@pytest.mark.parametrize("length", [-1, 6, 1.5, [5]])
def test_length_of_one_series(length):
    with raises(TypeError if length == 1.5 else ValueError, "lengths"):
        fastrecur.forget_mult(0.5, X[:, 0], lengths=length)


def test_integers_that_numpy_takes_for_an_axis():
    expected = fastrecur.forget_mult(F, X, axis=1)
    for axis in [np.int64(1), np.int8(-1), np.array(1)]:
        assert_same_bits(fastrecur.forget_mult(F, X, axis=axis), expected)


@pytest.mark.parametrize(
    ("n", "error"),
    [(0, ValueError), (-1, ValueError), (1.0, TypeError), ("2", TypeError), (None, TypeError)],
)
def test_number_of_threads(n, error):
    before = fastrecur.get_num_threads()
    with raises(error, "n"):
        fastrecur.set_num_threads(n)
    assert fastrecur.get_num_threads() == before


def test_an_error_changes_nothing_for_the_next_call():
    for arguments, error, _ in BAD.values():
        with pytest.raises(error):
            call("forget_mult", arguments)
    assert_same_bits(fastrecur.forget_mult(1, X), X)


def test_numbers_that_nothing_can_hold():
    with raises(ValueError, "x"):
        fastrecur.forget_mult(np.ones(4), 10**400)
    with raises(ValueError, "h0"):
        fastrecur.forget_mult(0.5, np.ones(4), 10**400)
    for lengths in [2**70, np.uint64(2**63 + 2)]:
        with raises(ValueError, "lengths"):
            fastrecur.forget_mult(0.5, np.ones(4), lengths=lengths)
    with raises(TypeError, "x"):
        fastrecur.forget_mult(0.5, [np.ma.array([1, 2], mask=[0, 1])])


def test_an_output_that_has_become_read_only():
    out = np.zeros((3, 4))
    fastrecur.forget_mult(0.5, np.ones((3, 4)), out=out)
    before = out.copy()
    out.flags.writeable = False
    with pytest.raises(ValueError, match="`out`"):
        fastrecur.forget_mult(0.5, np.zeros((3, 4)), out=out)
    assert (out == before).all()


@pytest.mark.parametrize("axis", [1, -2])
@pytest.mark.parametrize("gradient", [False, True])
def test_who_means_a_gate_for_each_step_is_told_its_shape(axis, gradient):
    x, f = np.ones((2, 5, 3)), np.ones(5)
    with pytest.raises(ValueError, match=r"`f` and `x` .* `f` is shaped \(1, 5, 1\)"):
        fastrecur.forget_mult_vjp(x, f, x, x, axis=axis) if gradient else fastrecur.forget_mult(f, x, axis=axis)
    with pytest.raises(ValueError, match=r"got shapes \(4,\) and \(2, 5, 3\)$"):
        fastrecur.forget_mult(f[:4], x, axis=axis)


def test_messages_say_where_to_go_on():
    for objects in ([1.0, None], X.astype(object)):
        with pytest.raises(TypeError, match="object: .*asarray.*smoothing"):
            fastrecur.forget_mult(0.5, objects)
    for nothing in (None, "0.5"):
        with pytest.raises(TypeError, match="`x` .*got (NoneType|str)$"):
            fastrecur.forget_mult(0.5, nothing)
    with pytest.raises(ValueError, match=r"`h0` must be a number .*got shape \(1,\)"):
        fastrecur.forget_mult(0.5, np.ones(4), [1.0])
    with pytest.raises(ValueError, match=r"`lengths` must be in 0\.\.4, .*got 9$"):
        fastrecur.forget_mult(0.5, np.ones(4), lengths=9)


@pytest.mark.sample(shape=[(7, 4)])
@pytest.mark.parametrize("shape", [(7, 4), (40, 700), (700, 40), (5000,)])
def test_calls_of_a_kind_that_was_seen_before(rng, shape):
    """They take a shorter way: they read their own flags or offsets, and refuse what others of the kind would."""
    gate, value = operands(rng, shape, np.float32)
    for _ in range(3):
        resets, offsets = rng.random(shape) < 0.3, np.repeat(some_offsets(rng, shape[0], 5), 2)[::2]
        for options in {"resets": resets}, {"offsets": offsets}, {"offsets": offsets, "reverse": True}:
            check_both("forget_mult", gate, value, None, rng=rng, **options)
        h, last = fastrecur.forget_mult(gate, value, resets=resets, return_state=True)
        assert_same_bits(last, np.asarray(h[-1]))
        wrong = [("resets", resets[:-1], ValueError), ("resets", resets.astype(int), TypeError)]
        wrong += [("resets", np.stack([resets] * 2), ValueError), ("offsets", offsets + 1, ValueError)]
        wrong += [("offsets", no, ValueError) for no in (offsets[::-1], offsets[:0], offsets[:1], offsets[None])]
        for name, given, error in wrong:
            with pytest.raises(error, match=f"`{name}` must"):
                fastrecur.forget_mult(gate, value, **{name: given})
            with pytest.raises(error, match=f"`{name}` must"):
                fastrecur.forget_mult_vjp(value, gate, value, h, **{name: given})
        for options in {"resets": resets}, {"offsets": offsets}:
            with pytest.raises(TypeError, match="`reverse` must"):
                fastrecur.forget_mult(gate, value, reverse=0, **options)
        with pytest.raises(ValueError, match="share no memory"):
            fastrecur.forget_mult(gate[:-1], value[:-1], resets=resets[:-1], out=value[1:])


@pytest.mark.parametrize(
    ("call", "near"),
    [
        (lambda: fastrecur.forget_mult(F, X, dim=1), r"forget_mult\(\) .*'dim': did you mean `axis`"),
        (lambda: fastrecur.linear_recurrence(F, X, cu_seqlens=[0, 5]), "did you mean `offsets`"),
        (lambda: fastrecur.forget_mult_vjp(X, F, X, X, revers=True), "did you mean `reverse`"),
        (lambda: fastrecur.linear_recurrence_vjp(X, F, X, X, nothing=0), "it has `grad_h`, `a`"),
        (lambda: fastrecur.selective_scan(X, X, X, X, X, dim=1), "it has `u`, `delta`"),
        (lambda: fastrecur.returns.gae(X, X, 0.9, gae_lambda=0.8), "did you mean `lam`"),
        (lambda: fastrecur.filters.sosfilt(X, X, dim=1), "did you mean `axis`"),
        (lambda: fastrecur.torch.QRNN(3, 4)(torch.ones(5, 1, 3), lengths=[5]), r"QRNN.forward\(\) .*`offsets`"),
        (lambda: fastrecur.torch.QRNN(3, num_layer=2), r"QRNN\(\) .*did you mean `num_layers`"),
    ],
)
def test_keywords_that_a_function_does_not_have(call, near):
    with pytest.raises(TypeError, match=near):
        call()


def test_signatures_show_no_room_for_unknown_keywords():
    functions = [getattr(fastrecur, name) for name in RECURRENCES] + [fastrecur.torch.QRNN.forward]
    for function in functions:
        assert "unknown" not in inspect.signature(function).parameters, function
