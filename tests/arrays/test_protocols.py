"""Arrays of other libraries: what they export is read, and the result is theirs."""

import array_api_strict as xp
import numpy as np
import pytest
from compare import assert_same_bits

import fastrecur
from fastrecur import reference

F = np.linspace(0, 1, 15, dtype=np.float32).reshape(5, 3)
X = np.arange(15, dtype=np.float32).reshape(5, 3)
H = reference.forget_mult(F, X).astype(np.float32)


class ArrayInterface:
    """An array known by `__array_interface__` alone."""

    def __init__(self, array):
        self._array = array
        self.__array_interface__ = array.__array_interface__


class Dlpack:
    """An array known by DLPack alone."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


class OldDlpack(Dlpack):
    """As before the protocol had versions."""

    def __dlpack__(self, stream=None):
        return self._array.__dlpack__(stream=stream)


class Namespaced(Dlpack):
    """An array of a library that takes its results by DLPack."""

    def __array_namespace__(self, api_version=None):
        return Library


class Library:
    """That library."""

    @staticmethod
    def from_dlpack(x):
        return Namespaced(np.from_dlpack(x))


EXPORTERS = [ArrayInterface, Dlpack, OldDlpack, Namespaced]


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("axis", [0, 1])
def test_exporters(exporter, axis):
    f, x = exporter(F.copy()), exporter(X.copy())
    h0 = exporter(np.ones(X.shape[1 - axis], np.float32))
    expected = fastrecur.forget_mult(F, X, 1.0, axis=axis, return_state=True)
    results = fastrecur.forget_mult(f, x, h0, axis=axis, return_state=True)
    grads = fastrecur.forget_mult_vjp(x, f, x, results[0], h0, axis=axis)
    expected += fastrecur.forget_mult_vjp(X, F, X, expected[0], np.ones_like(expected[1]), axis=axis)
    for result, right in zip((*results, *grads), expected, strict=True):
        if exporter is Namespaced:
            assert type(result) is Namespaced
            result = result._array
        assert_same_bits(result, right)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_exporters_with_strides(exporter):
    f, x = F.T[::-1], np.repeat(X.T, 2, 1)[:, ::2]
    result = fastrecur.forget_mult(exporter(f), exporter(x), axis=1)
    result = result._array if exporter is Namespaced else result
    np.testing.assert_allclose(result, fastrecur.forget_mult(f, x, axis=1), rtol=1e-6)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_exporters_with_numbers(exporter):
    result = fastrecur.forget_mult(0.5, exporter(X.copy()), 1)
    result = result._array if exporter is Namespaced else result
    assert_same_bits(result, fastrecur.forget_mult(0.5, X, 1))


def test_read_only_array_interface():
    x = X.copy()
    x.flags.writeable = False
    assert_same_bits(fastrecur.forget_mult(F, ArrayInterface(x)), H)


@pytest.mark.sample(dtype=["float32"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "complex128"])
def test_array_api(dtype):
    def given(array):
        return xp.asarray(array.astype(dtype))

    name = "linear_recurrence"
    recurrence, vjp = (getattr(fastrecur, n) for n in (name, name + "_vjp"))
    plain = [array.astype(dtype) for array in (F, X)]
    expected = recurrence(*plain, return_state=True, lengths=[1, 2, 5])
    results = recurrence(given(F), given(X), return_state=True, lengths=xp.asarray([1, 2, 5]))
    assert type(results) is tuple
    for result, right in zip(results, expected, strict=True):
        assert type(result) is type(xp.asarray(0.0))
        assert_same_bits(np.asarray(result), right)
    h = results[0]
    for grads in [vjp(h, given(F), given(X), h), vjp(h, 0.5, given(X), h, 1.0)]:
        assert all(grad is None or type(grad) is type(h) for grad in grads)


def test_array_api_out():
    # Whether it can be written to is the library's to say: a result there, or an error, never less.
    out = xp.asarray(np.full((5, 3), np.nan, np.float32))
    try:
        result = fastrecur.forget_mult(xp.asarray(F), xp.asarray(X), out=out)
    except (TypeError, ValueError) as error:
        assert "`out`" in str(error)
        assert np.isnan(np.asarray(out)).all()
    else:
        assert result is out
        assert_same_bits(np.asarray(out), H)


def test_mixed_libraries():
    strict, plain = xp.asarray(X), X
    for arguments in [
        {"f": strict, "x": plain},
        {"f": plain, "x": strict},
        {"f": strict, "x": strict, "h0": np.ones(3, np.float32)},
        {"f": plain, "x": Namespaced(X)},
        {"f": strict, "x": Namespaced(X)},
        {"f": strict, "x": strict, "out": np.empty_like(X)},
        {"f": plain, "x": plain, "out": xp.asarray(X)},
    ]:
        with pytest.raises(TypeError, match="`(f|x|h0|out)`"):
            fastrecur.forget_mult(**arguments)
    with pytest.raises(TypeError, match="`(grad_h|f|x|h)`"):
        fastrecur.forget_mult_vjp(plain, strict, strict, strict)


def test_lists_and_tuples_are_numpy_arrays():
    h = fastrecur.forget_mult(F.tolist(), tuple(map(tuple, X.tolist())))
    assert type(h) is np.ndarray
    assert h.dtype == np.float64
    np.testing.assert_allclose(h, H, rtol=1e-6)
    arrays = [np.array([1.0, 2.0]), np.array([3.0, 4.0])]
    assert fastrecur.forget_mult(0.5, arrays).tolist() == [[0.5, 1], [1.75, 2.5]]


def test_subclasses_that_are_plain_arrays():
    class Plain(np.ndarray):
        pass

    for array in [X.view(Plain), X.view(np.recarray)]:
        assert type(fastrecur.forget_mult(F, array)) is np.ndarray
        assert_same_bits(fastrecur.forget_mult(F, array), H)


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_lengths_of_any_library_beside_operands_of_any(dtype):
    torch = pytest.importorskip("torch")
    f, x, lengths = np.full((4, 3), 0.5), np.arange(12.0).reshape(4, 3), [4, 0, 2]
    expected = fastrecur.forget_mult(f, x, lengths=lengths)
    lazy = pytest.importorskip("dask.array").from_array(x, chunks=(2, 3))
    for given in (lengths, np.array(lengths, dtype), torch.tensor(lengths, dtype=getattr(torch, dtype))):
        np.testing.assert_array_equal(fastrecur.forget_mult(f, x, lengths=given), expected)
        result = fastrecur.forget_mult(torch.tensor(f), torch.tensor(x), lengths=given)
        np.testing.assert_array_equal(result.numpy(), expected)
        np.testing.assert_array_equal(fastrecur.forget_mult(f, lazy, lengths=given).compute(), expected)
        wanted = torch.tensor(x, requires_grad=True)
        fastrecur.forget_mult(torch.tensor(f), wanted, lengths=given).sum().backward()
        grads = fastrecur.forget_mult_vjp(np.ones((4, 3)), f, x, expected, lengths=given)
        np.testing.assert_allclose(wanted.grad.numpy(), grads[1])
    for bad in (torch.tensor([1, 5, 2]), np.array([1, -1, 2])):
        for pair in ((f, x), (torch.tensor(f), torch.tensor(x))):
            with pytest.raises(ValueError, match=r"`lengths` must be in 0\.\.4"):
                fastrecur.forget_mult(*pair, lengths=bad)
    with pytest.raises(TypeError, match="`lengths` must hold integers"):
        fastrecur.forget_mult(f, x, lengths=torch.ones(3))
