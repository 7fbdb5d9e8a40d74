"""Every bad tensor: the type of the error and the argument's name."""

import numpy as np
import pytest
import torch

import fastrecur
from fastrecur import forget_mult, forget_mult_vjp, linear_recurrence

F, X = torch.full((5, 3), 0.5), torch.ones(5, 3)


BAD = {
    "an array": ({"x": np.ones((5, 3))}, TypeError, "`x` from numpy"),
    "an array for the gate": ({"f": np.ones((5, 3))}, TypeError, "`f` from numpy"),
    "an array as a state": ({"h0": np.ones(3)}, TypeError, "`h0` from numpy"),
    "a list": ({"x": [[1.0] * 3] * 5}, TypeError, "`x` must be a tensor"),
    "a string": ({"f": "0.5"}, TypeError, "`f`"),
    "nothing": ({"x": None}, TypeError, "`x`"),
    "sparse": ({"x": X.to_sparse()}, TypeError, "`x`.*sparse"),
    "a dtype": ({"x": X.to(torch.float8_e4m3fn)}, TypeError, "`x`.*float8"),
    "complex gate": ({"f": F.to(torch.complex64)}, TypeError, "`f` must be real"),
    "shapes": ({"x": X[:4]}, ValueError, "`f` and `x` must broadcast"),
    "h0's shape": ({"h0": torch.ones(2)}, ValueError, "`h0`"),
    "h0 with time": ({"h0": X}, ValueError, "`h0`"),
    "axis": ({"axis": 2}, ValueError, "`axis`"),
    "axis of a float": ({"axis": 0.0}, TypeError, "`axis`"),
    "axis of a bool": ({"axis": True}, TypeError, "`axis`"),
    "reverse": ({"reverse": 1}, TypeError, "`reverse`"),
    "lengths too long": ({"lengths": torch.tensor([1, 6, 2])}, ValueError, "`lengths` must be in 0..5"),
    "lengths negative": ({"lengths": [1, -1, 2]}, ValueError, "`lengths` must be in 0..5"),
    "lengths of floats": ({"lengths": torch.ones(3)}, TypeError, "`lengths`"),
    "lengths in a list of floats": ({"lengths": [1.0, 2.0, 3.0]}, TypeError, "`lengths`"),
    "lengths of bools": ({"lengths": torch.ones(3, dtype=torch.bool)}, TypeError, "`lengths`"),
    "lengths' shape": ({"lengths": torch.ones(2, dtype=torch.int64)}, ValueError, "`lengths`"),
    "one length": ({"lengths": 3}, ValueError, "`lengths`"),
    "lengths in an array of floats": ({"lengths": np.ones(3)}, TypeError, "`lengths` must"),
    "lengths in an array, too long": ({"lengths": np.full(3, 2**64 - 1, np.uint64)}, ValueError, "`lengths` must be"),
    "lengths of words": ({"lengths": ["one"]}, TypeError, "`lengths`"),
    "another device": ({"x": X.to("meta")}, ValueError, "one device.*`x` on meta"),
    "a huge integer": ({"f": 10**400}, ValueError, "`f`"),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("wants", [False, True])
def test_bad_arguments(what, wants):
    arguments, error, match = BAD[what]
    operands = {"f": F.clone().requires_grad_(wants), "x": X} | arguments
    with pytest.raises(error, match=match):
        forget_mult(operands.pop("f"), operands.pop("x"), **operands)
    operands = {"f": F.clone().requires_grad_(wants), "x": X} | arguments
    if what != "shapes":
        with pytest.raises(error, match=match):
            forget_mult_vjp(X, operands.pop("f"), operands.pop("x"), X, operands.pop("h0", None), **operands)


@pytest.mark.parametrize("argument", ["grad_h", "h", "grad_state"])
def test_no_imaginary_part_is_dropped_of_what_belongs_to_a_real_result(argument):
    given = {"grad_h": X, "f": F, "x": X, "h": X}
    for value in (1j, torch.tensor(1j), 1j * (X[0] if argument == "grad_state" else X)):
        with pytest.raises(TypeError, match=f"^`{argument}` must be real.*complex"):
            forget_mult_vjp(**given | {argument: value})
        assert forget_mult_vjp(**given | {argument: value}, h0=1j)[2].is_complex()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor is deprecated")
@pytest.mark.filterwarnings("ignore:.*[qQ]uantiz.*deprecated")
def test_kinds_of_tensors():
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    jagged = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
    quantised = torch.quantize_per_tensor(X, 0.1, 0, torch.qint8)
    for x in [nested, jagged, quantised]:
        with pytest.raises(TypeError, match="`x` must"):
            forget_mult(0.5, x)


BAD_OUT = {
    "an array": (np.ones((5, 3), np.float32), TypeError),
    "a number": (0.0, TypeError),
    "a dtype": (torch.ones(5, 3).double(), TypeError),
    "a shape": (torch.ones(5, 1), ValueError),
    "sparse": (X.to_sparse(), TypeError),
    "another device": (X.to("meta"), ValueError),
}


@pytest.mark.parametrize("what", BAD_OUT)
def test_bad_out(what):
    out, error = BAD_OUT[what]
    with pytest.raises(error, match="`out`"):
        forget_mult(F, X, out=out)


def test_arrays_with_one_tensor_among_them():
    for arguments in [{"out": torch.ones(3)}, {"h0": torch.tensor(1.0)}]:
        with pytest.raises(TypeError, match="library"):
            forget_mult(0.5, np.ones(3), **arguments)


def test_gradients_name_their_arguments():
    with pytest.raises(ValueError, match="`grad_h`"):
        forget_mult_vjp(X[:, :2], F, X, X)
    with pytest.raises(ValueError, match="`h`"):
        forget_mult_vjp(X, F, X, X[:4])
    with pytest.raises(ValueError, match="`grad_state`"):
        forget_mult_vjp(X, F, X, X, grad_state=torch.ones(2))
    with pytest.raises(TypeError, match="`h` from numpy"):
        forget_mult_vjp(X, F, X, X.numpy())


def test_errors_of_the_other_recurrence_name_its_arguments():
    with pytest.raises(ValueError, match="`a` and `b`"):
        linear_recurrence(F, X[:4])
    with pytest.raises(ValueError, match="`a`, `b`"):
        fastrecur.linear_recurrence(torch.tensor(0.5), 1.0)
