"""The only file that knows array libraries: recognise an argument, look at its memory, hand back a result alike."""

import contextlib
import ctypes
import math
import sys
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from . import messages as say

SCALARS = (bool, int, float, complex)
HEADER = object.__basicsize__  # bytes of what every object begins with
_read_pointer = ctypes.c_void_p.from_address

# NumPy dtype -> the element's name in kernels. bfloat16 is found by its name: it comes from ml_dtypes.
ELEMENTS = {
    np.dtype(name): name
    for name in ("f2", "f4", "f8", "c8", "c16", "b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
}


class _BFloat16:
    """What a plan asks of a dtype, for tensors: NumPy has no bfloat16 of its own, and ml_dtypes may be absent."""

    name, itemsize, kind = "bfloat16", 2, "V"


BFLOAT16 = _BFloat16()


def element(dtype):
    """Return the kernels' name for a native dtype, or None."""
    name = ELEMENTS.get(dtype)
    if name is None and dtype.name == "bfloat16":
        return "bf2"
    return name


def address(array):
    """Return where an array's first number is, at an eighth of the time that its interface takes."""
    # An array begins with what every object begins with and then this pointer: NumPy's C interface says so.
    return _read_pointer(id(array) + HEADER).value


def array_at(place, shape, dtype):
    """Return the array in C order that stands at an address, whose owner has to stay."""
    memory = (ctypes.c_char * (math.prod(shape) * dtype.itemsize)).from_address(place)
    return np.frombuffer(memory, dtype).reshape(shape)


def are_same(one, other):
    """Return whether two arrays are the same to the bit."""
    return one.tobytes() == other.tobytes()


class Owner(NamedTuple):
    """A library to which operands belong and the result goes; without a namespace, it is NumPy."""

    library: str
    namespace: Any

    def give(self, result: np.ndarray | None) -> Any:
        return result if self.namespace is None or result is None else self.namespace.from_dlpack(result)


NUMPY = Owner("numpy", None)


def take(name, value, smooths=False):
    """Return an argument as ``(ndarray or Python scalar, Owner)``; None as it is.

    Raises TypeError for what is not an array of numbers on the CPU; ``smooths`` is as for `say.not_an_array`.
    """
    kind = type(value)
    if kind is np.ndarray or value is None or kind in SCALARS:
        return value, NUMPY
    if isinstance(value, np.ndarray):
        return _take_subclass(name, value), NUMPY
    if isinstance(value, np.generic):
        return np.asarray(value), NUMPY
    if isinstance(value, (list, tuple)):
        return _take_list(name, value), NUMPY
    for number in SCALARS:
        if isinstance(value, number):
            return number(value), NUMPY
    return _take_foreign(name, value, smooths)


def refuse_masked(name, value):
    """Raise TypeError for a masked array, whose mask nobody would read."""
    masked = sys.modules.get("numpy.ma")
    if masked is not None and isinstance(value, masked.MaskedArray):
        raise TypeError(say.masked(name))


def _take_subclass(name, value):
    refuse_masked(name, value)
    overrides = type(value).__array_ufunc__ is not np.ndarray.__array_ufunc__
    if overrides or type(value).__array_function__ is not np.ndarray.__array_function__:
        raise TypeError(say.subclass(name, type(value)))
    return value.view(np.ndarray)


def _holds_masked(value, masked):
    return any(
        isinstance(item, masked.MaskedArray) or (type(item) in (list, tuple) and _holds_masked(item, masked))
        for item in value
    )


def _take_list(name, value):
    masked = sys.modules.get("numpy.ma")
    try:
        if masked is None or not _holds_masked(value, masked):
            return np.asarray(value)
    except ValueError as error:
        raise ValueError(say.ragged(name, error)) from None
    except (TypeError, RuntimeError) as error:  # of what is in it, as a tensor that wants a gradient; too deep
        raise TypeError(say.ragged(name, error)) from None
    raise TypeError(say.masked(name))


_ON_HOST = frozenset((np.ndarray, float, int, bool, complex, list, tuple, type(None)))
_CUDA_DEVICES = (2, 13)  # DLPack's numbers for CUDA memory, plain and managed


def all_in_memory(*values):
    """Return whether all arguments are NumPy's arrays, numbers, lists or None, told by their types."""
    return all(type(value) in _ON_HOST for value in values)


def any_on_device(*values):
    """Return whether any of some arguments stands on a GPU."""
    return any(type(value) not in _ON_HOST and is_on_device(value) for value in values)


def is_on_device(value):
    if isinstance(value, (np.ndarray, np.generic)):
        return False
    root = root_of(value)
    if root == "torch":
        return bool(getattr(value, "is_cuda", False))
    if root == "cupy" or hasattr(value, "__cuda_array_interface__"):  # which takes CuPy longer than all the rest
        return True
    device = getattr(value, "__dlpack_device__", None)
    return device is not None and int(device()[0]) in _CUDA_DEVICES


def root_of(value):
    return (type(value).__module__ or "").partition(".")[0]


def any_tensor(*values):
    """Return whether a value is a PyTorch tensor; PyTorch is not imported for it."""
    torch = sys.modules.get("torch")
    tensor = getattr(torch, "Tensor", None)  # None while torch is being imported
    return tensor is not None and any(isinstance(value, tensor) for value in values)


def any_lazy(*values):
    """Return whether a value is a Dask array; Dask is not imported for it."""
    lazy = getattr(sys.modules.get("dask.array"), "Array", None)
    return lazy is not None and any(isinstance(value, lazy) for value in values)


def any_of_jax(*values):
    """Return whether a value is an array of JAX's, traced or not; JAX is not imported for it."""
    array = getattr(sys.modules.get("jax"), "Array", None)
    return array is not None and any(isinstance(value, array) for value in values)


def library_of(value):
    """Return the name of an array's library; None for what is no array."""
    if any_of_jax(value):
        return "jax"  # some of whose arrays are jaxlib's
    protocols = "__array_interface__", "__dlpack__", "__cuda_array_interface__"
    return root_of(value) if any(hasattr(value, protocol) for protocol in protocols) else None


def _take_foreign(name, value, smooths):
    library = root_of(value)
    if any_tensor(value):
        raise TypeError(say.mixed([(name, "torch"), (None, "numpy")]))
    if hasattr(value, "__cuda_array_interface__"):
        raise TypeError(say.gpu(name, type(value)))
    if getattr(value, "__cuda_ndarray__", False):
        raise TypeError(say.simulated(name))
    if hasattr(value, "__dlpack__"):
        array = _take_dlpack(name, value)
    elif hasattr(value, "__array_interface__"):
        try:
            array = np.asarray(value)
        except (TypeError, ValueError) as error:
            raise TypeError(say.unreadable(name, "__array_interface__", type(value), error)) from None
    else:
        raise TypeError(say.not_an_array(name, type(value), smooths))
    if not hasattr(value, "__array_namespace__"):
        return array, NUMPY
    return array, Owner(library, value.__array_namespace__())


def _take_dlpack(name, value):
    device = getattr(value, "__dlpack_device__", lambda: (1, 0))()
    if int(device[0]) != 1:
        raise TypeError(say.gpu(name, type(value)))
    if any_of_jax(value) and isinstance(value, sys.modules["jax"].core.Tracer):
        raise TypeError(say.jax_traced(name))
    try:
        return np.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise TypeError(say.unreadable(name, "DLPack", type(value), error)) from error


def numbers(name, array):
    """Return an array of supported numbers, in the machine's byte order; raise TypeError for any other dtype."""
    dtype = array.dtype
    if not dtype.isnative:
        array = array.astype(dtype.newbyteorder("="))
        dtype = array.dtype
    if element(dtype) is None:
        raise TypeError(say.dtype(name, dtype))
    return array


def common_owner(found):
    """Return the one library that arguments belong to; raise TypeError if they are mixed.

    ``found`` holds ``(name, value, owner)`` of each argument; Python scalars and None belong to all.
    """
    arrays = [(name, owner) for name, value, owner in found if not (value is None or type(value) in SCALARS)]
    if len({owner.library for _, owner in arrays}) > 1:
        raise TypeError(say.mixed([(name, owner.library) for name, owner in arrays]))
    return arrays[0][1] if arrays else NUMPY


def floats(name, value):
    """Return an array of floats, or of complex numbers, in the machine's byte order: integers become float64."""
    array = numbers(name, value if hasattr(value, "astype") else np.asarray(value))  # a lazy one stays lazy
    return array.astype(np.float64) if array.dtype.kind in "biu" else array


def take_all(record, named, convert=floats):
    """Return arguments by name, as ``convert`` makes them of what `take` returns, and the one library of them all.

    Those that are optional in their ``record`` may be None; ``out`` must be an array that needs no conversion.
    """
    values, found = {}, []
    for name, value in named.items():
        if name == "out" and value is not None and not hasattr(value, "__dlpack__"):
            raise TypeError(say.out_type(type(value)))
        array, owner = take(name, value, name in ("x", "b"))
        if array is None and not record[name].optional:
            raise TypeError(say.not_an_array(name, type(None)))
        values[name] = array if array is None else convert(name, array)
        if name == "out" and values[name] is not array:
            raise TypeError(say.dtype(name, array.dtype))
        found.append((name, array, owner))
    return values, common_owner(found)


def overlap(first, second):
    """Return whether two arrays share an element; where that is too hard to tell, whether they may."""
    if not np.may_share_memory(first, second):
        return False
    try:
        return np.shares_memory(first, second, max_work=100_000)
    except np.exceptions.TooHardError:
        return True


def overlaps_itself(array):
    """Return whether two indices of an array name one place."""
    if array.size == 0:
        return False
    axes = sorted((abs(stride), size) for stride, size in zip(array.strides, array.shape, strict=True) if size > 1)
    span = array.itemsize + sum(stride * (size - 1) for stride, size in axes)
    if axes and (axes[0][0] == 0 or array.nbytes > span):  # there are not that many places
        return True
    places, reach = np.zeros(1, np.int64), array.itemsize
    for stride, size in axes:
        if stride < reach:
            break
        reach += stride * (size - 1)
    else:
        return False
    for stride, size in axes:  # which are interleaved: all places tell
        places = np.add.outer(places, stride * np.arange(size)).ravel()
    places.sort()
    return bool((np.diff(places) < array.itemsize).any())


def is_same_view(first, second):
    """Return whether two arrays name the same places in the same order."""
    steps = zip(first.shape, first.strides, second.strides, strict=True) if first.ndim == second.ndim else ()
    return (
        address(first) == address(second)
        and first.shape == second.shape
        and first.itemsize == second.itemsize
        and all(one == other for n, one, other in steps if n > 1)
    )


def pairs(value, dtype):
    """Return a view with a last axis (real, imaginary); real numbers are made complex first; None as it is."""
    if value is None:
        return None
    with np.errstate(all="ignore"):
        array = value if isinstance(value, np.ndarray) and value.dtype.kind == "c" else np.array(value, dtype)
    part = array.real
    return as_strided(part, (*array.shape, 2), (*array.strides, part.itemsize), writeable=array.flags.writeable)


def summed_to(array, shape):
    """Return an array, added up over what was broadcast from a shape."""
    extra = array.ndim - len(shape)
    over = *range(extra), *(extra + k for k, n in enumerate(shape) if n == 1 != array.shape[extra + k])
    with np.errstate(all="ignore"):
        return array.sum(axis=over).reshape(shape) if over else array


def quiet(xp):
    """Return a context in which NumPy says nothing of what is not finite."""
    return np.errstate(all="ignore") if xp is np else contextlib.nullcontext()  # torch's compiler knows no errstate


def at(values, axis, index):
    if isinstance(values, np.ndarray) and isinstance(index, np.ndarray):  # NumPy's quickest way
        return values.take(index, axis)
    return values[(*(slice(None),) * axis, index, ...)]


def join(xp, parts, axis):
    return (xp.concat if hasattr(xp, "concat") else xp.concatenate)(parts, axis=axis)
