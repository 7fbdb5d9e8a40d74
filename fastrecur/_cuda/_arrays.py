"""What the GPU floor knows about array libraries: their memory, their allocators and their streams.

A library is recognised by the arrays that are passed; none is imported that the caller has not.
"""

import ctypes
import functools
import sys
from typing import Any, NamedTuple

import numpy as np

from .. import _adapters
from .. import _messages as say
from .._arrays import BFLOAT16, element, is_on_device
from .._shapes import c_strides
from . import _launch

BYTE = np.dtype(np.uint8)
LEGACY_STREAM = 1  # the default stream's handle in the array interfaces; 0 means the same to the driver


class View(NamedTuple):
    """An array on a device, as kernels see it."""

    pointer: int
    dtype: np.dtype
    shape: tuple
    strides: tuple  # bytes
    device: int
    stream: int | None  # whose work must be waited for; None if that is the library's current stream
    is_writeable: bool
    array: object

    @property
    def signature(self):
        """What plans depend on."""
        return self.dtype, self.shape, self.strides


def odd(view):
    """Return the bits of an array's address that must be clear: at other loads a card ends all of a process's work.

    Complex numbers are loaded part by part.
    """
    return view.dtype.itemsize // (2 if view.dtype.kind == "c" else 1) - 1


def bfloat16(name):
    """Return bfloat16's dtype."""
    try:
        import ml_dtypes
    except ImportError:
        raise TypeError(say.bfloat16(name)) from None
    return np.dtype(ml_dtypes.bfloat16)


# ---- Libraries ------------------------------------------------------------------------------------------------------


class Library:
    """What is the same for all libraries."""

    allocates_in_capture = True  # whether a call may be captured into a graph for which its library allocates

    def takes(self, other):
        """Return whether another library's arrays may stand beside its own."""
        return other.name == self.name

    def maker(self, shape, dtype, strides, device, stream):
        """Return a function that does what `empty` does, for more of the kind."""
        return lambda: self.empty(shape, dtype, strides, device, stream)

    def lender(self, size, device):
        """Return a function that lends so many bytes for what is put into a stream until `give_back`.

        It takes the stream, and returns what is to be given back, and the address.
        """
        make = self.maker((size,), BYTE, None, device, LEGACY_STREAM)
        return lambda stream: make()

    def give_back(self, lent, device, stream):
        """Let others have what was lent: the library's pool knows the stream."""


class Unpooled(Library):
    """A library whose allocator does not know the stream: scratch memory is the driver's, ordered by the stream."""

    allocates_in_capture = False

    def lender(self, size, device):
        """Return a function that lends so many bytes for what is put into a stream until `give_back`."""
        driver = _launch.driver()

        def lend(stream):
            address = driver.allocate(size, device, stream)
            return self.empty((size,), BYTE, None, device, stream) if address is None else (address, address)

        return lend

    def give_back(self, lent, device, stream):
        """Give back what was lent, once the stream's work so far is done."""
        if type(lent) is int:
            _launch.driver().free(lent, device, stream)


class Cupy(Library):
    """CuPy: its pool, its current stream."""

    name = "cupy"

    def __init__(self, _):
        self.library = sys.modules["cupy"]

    def view(self, name, array):
        """Return an array's view."""
        return View(array.data.ptr, array.dtype, array.shape, array.strides, array.device.id, None, True, array)

    def glance(self, array):
        """Return the array's device, address, and what plans depend on; None if it takes a closer look."""
        return array.device.id, array.data.ptr, (array.dtype, array.shape, array.strides)

    def stream(self, device):
        """Return the handle of the stream that the library works in now."""
        with self.library.cuda.Device(device):
            return self.library.cuda.get_current_stream().ptr

    def empty(self, shape, dtype, strides, device, stream):
        """Return a fresh array with these (dense) strides, or in C order, and its address."""
        cupy = self.library
        with cupy.cuda.Device(device):
            if strides is None or strides == c_strides(shape, dtype.itemsize):
                array = cupy.empty(shape, dtype)
            else:
                memory = cupy.empty(int(np.prod(shape)) * dtype.itemsize, np.uint8)
                array = cupy.ndarray(shape, dtype, memory.data, strides)
        return array, array.data.ptr

    def upload(self, array, device, stream=LEGACY_STREAM):
        """Return a host array's copy on a device."""
        with self.library.cuda.Device(device):
            return self.library.asarray(array)


_TORCH_DTYPES = {
    "float16": "f2", "float32": "f4", "float64": "f8", "complex64": "c8", "complex128": "c16", "bool": "b1",
    "int8": "i1", "int16": "i2", "int32": "i4", "int64": "i8", "uint8": "u1", "uint16": "u2", "uint32": "u4",
    "uint64": "u8",
}  # fmt: skip


class Torch(Library):
    """PyTorch: its caching allocator, its current stream. Gradients are `fastrecur.torch`'s concern."""

    name = "torch"

    def __init__(self, _):
        self.library = sys.modules["torch"]
        self.dtypes = {
            getattr(self.library, n): np.dtype(e) for n, e in _TORCH_DTYPES.items() if hasattr(self.library, n)
        }
        self.own = {dtype: kind for kind, dtype in self.dtypes.items()}
        self.raw_stream = _adapters.raw_stream

    def view(self, name, array):
        """Return a tensor's view."""
        dtype = self.dtypes.get(array.dtype)
        if dtype is None:
            if array.dtype is not self.library.bfloat16:
                raise TypeError(say.dtype(name, array.dtype))
            dtype = BFLOAT16
        strides = tuple(dtype.itemsize * s for s in array.stride())
        return View(array.data_ptr(), dtype, tuple(array.shape), strides, array.get_device(), None, True, array)

    def glance(self, array):
        """Return the tensor's device, address, and what plans depend on; None if it takes a closer look."""
        return array.get_device(), array.data_ptr(), (array.dtype, array.shape, array.stride())

    def stream(self, device):
        """Return the handle of the stream that the library works in now."""
        if self.raw_stream is None:
            return self.library.cuda.current_stream(device).cuda_stream
        return self.raw_stream(device)

    def empty(self, shape, dtype, strides, device, stream):
        """Return a fresh tensor with these (dense) strides, or in C order, and its address."""
        return self.maker(shape, dtype, strides, device, stream)()

    def maker(self, shape, dtype, strides, device, stream):
        """Return a function that does what `empty` does, for more of the kind."""
        kind, place = self.own.get(dtype, self.library.bfloat16), self.library.device("cuda", device)
        strides = tuple(s // dtype.itemsize for s in strides or c_strides(shape, dtype.itemsize))
        make = functools.partial(self.library.empty_strided, shape, strides, dtype=kind, device=place)

        def made():
            array = make()
            return array, array.data_ptr()

        return made

    def upload(self, array, device, stream=LEGACY_STREAM):
        """Return a host array's copy on a device."""
        # From pinned memory the copy takes its place in the stream, and the host goes on.
        pinned = self.library.from_numpy(np.ascontiguousarray(array)).pin_memory()
        return pinned.to(self.library.device("cuda", device), non_blocking=True)


def numba_cuda():
    """Return the module that allocates for arrays without a library that could."""
    from numba import cuda

    return cuda


class Interface(Unpooled):
    """Whatever exports ``__cuda_array_interface__``; results are Numba device arrays.

    Its work is ordered by the streams that the arrays name; a call goes to the first of them, or else to the default
    stream. Results name the stream that they are computed in, but the default one, which Numba's own do not name.
    """

    def __init__(self, kind):
        self.name = (kind.__module__ or "").partition(".")[0]

    def takes(self, other):
        """Return whether another library's arrays may stand beside its own: a call's results are Numba's."""
        return type(other) is Interface

    def view(self, name, array):
        """Return an array's view."""
        known = array.__cuda_array_interface__
        if known.get("mask") is not None:
            raise TypeError(say.masked(name))
        dtype = np.dtype(known["typestr"])
        pointer, read_only = known["data"]
        shape = tuple(known["shape"])
        strides = known.get("strides")
        strides = c_strides(shape, dtype.itemsize) if strides is None else tuple(strides)
        device = _launch.driver().device_of(pointer) if pointer else None
        return View(pointer or 0, dtype, shape, strides, device, known.get("stream"), not read_only, array)

    def glance(self, array):
        """Return the array's device, address, and what plans depend on; None if it takes a closer look."""
        known = array.__cuda_array_interface__
        pointer = known["data"][0]
        if known.get("stream") not in (None, LEGACY_STREAM) or "mask" in known or not pointer:
            return None
        kind = known["typestr"], known["shape"], known.get("strides")
        return _launch.driver().device_of(pointer), pointer, kind

    def stream(self, device):
        """Return the handle of the default stream."""
        return LEGACY_STREAM

    def empty(self, shape, dtype, strides, device, stream):
        """Return a fresh Numba device array with these (dense) strides, or in C order, and its address."""
        return self.maker(shape, dtype, strides, device, stream)()

    def maker(self, shape, dtype, strides, device, stream):
        """Return a function that does what `empty` does, for more of the kind."""
        cuda = numba_cuda()

        def made():
            with _launch.driver().in_primary(device), cuda.gpus[device]:
                array = cuda.device_array(shape, dtype, strides=strides, stream=self._queue(cuda, stream))
            return array, array.__cuda_array_interface__["data"][0] or 0

        return made

    def _queue(self, cuda, stream):
        return 0 if stream in _launch.DEFAULT_STREAMS else cuda.external_stream(stream)

    def upload(self, array, device, stream=LEGACY_STREAM):
        """Return a host array's copy on a device; the copy takes its place in the stream."""
        cuda = numba_cuda()
        with _launch.driver().in_primary(device), cuda.gpus[device]:
            return cuda.to_device(array, stream=self._queue(cuda, stream))


class _Device(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_int32), ("number", ctypes.c_int32)]


class _Tensor(ctypes.Structure):
    """DLPack's DLTensor."""

    _fields_ = [
        ("data", ctypes.c_void_p), ("device", _Device), ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)), ("offset", ctypes.c_uint64),
    ]  # fmt: skip


_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype, _capsule_pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
_DLPACK_KINDS = {0: "i", 1: "u", 2: "f", 5: "c", 6: "b"}


class Dlpack(Unpooled):
    """Whatever exports DLPack from a device, with the namespace of the array API for results."""

    def __init__(self, kind):
        self.name = (kind.__module__ or "").partition(".")[0]
        self.space: Any = None
        self.places = {}  # a device's number -> what the library calls it

    def view(self, name, array):
        """Return an array's view; the exporter orders its work before the default stream's."""
        if not hasattr(array, "__array_namespace__"):
            raise TypeError(say.dlpack_alone(name, type(array)))
        self.space = array.__array_namespace__()
        capsule = array.__dlpack__(stream=LEGACY_STREAM)
        tensor = _Tensor.from_address(_capsule_pointer(capsule, b"dltensor"))
        shape = tuple(tensor.shape[k] for k in range(tensor.ndim))
        size = tensor.bits // 8
        if tensor.code != 4 and tensor.code not in _DLPACK_KINDS:
            raise TypeError(say.dtype(name, f"number {tensor.code} of DLPack"))
        dtype = bfloat16(name) if tensor.code == 4 else np.dtype(f"{_DLPACK_KINDS[tensor.code]}{size}")
        strides = tuple(size * tensor.strides[k] for k in range(tensor.ndim)) if tensor.strides else None
        pointer = (tensor.data or 0) + tensor.offset
        self.places[tensor.device.number] = getattr(array, "device", None)
        # The capsule is not consumed: the exporter takes it back when it is let go, and the array is held meanwhile.
        return View(
            pointer, dtype, shape, c_strides(shape, size) if strides is None else strides, tensor.device.number, None,
            True, (array, capsule),
        )  # fmt: skip

    def glance(self, array):
        """Return nothing: the exporter is told the stream at every call."""

    def stream(self, device):
        """Return the handle of the default stream."""
        return LEGACY_STREAM

    def empty(self, shape, dtype, strides, device, stream):
        """Return a fresh array with these (dense) strides, or in C order, and its address."""
        strides = strides or c_strides(shape, dtype.itemsize)
        # The array API knows no strides: axes are made in the order of theirs, and put where they belong.
        order = sorted(range(len(shape)), key=lambda k: -strides[k])
        made = tuple(shape[k] for k in order)
        array = self.space.empty(made, dtype=getattr(self.space, dtype.name), device=self.places[device])
        if order != sorted(order):
            array = self.space.permute_dims(array, tuple(order.index(k) for k in range(len(shape))))
        return array, self._checked(array, shape, strides, device).pointer

    def upload(self, array, device, stream=LEGACY_STREAM):
        """Return a host array's copy on a device."""
        copy = self.space.asarray(array, device=self.places[device])
        self._checked(copy, array.shape, c_strides(array.shape, array.itemsize), device)
        return copy

    def _checked(self, array, shape, strides, device):
        """Return an array's view; raise unless the library has made what it was asked for."""
        view = self.view("result", array)
        is_so = view.shape == shape and all(
            n < 2 or s == t for n, s, t in zip(shape, view.strides, strides, strict=True)
        )
        if view.device != device or not (is_so or 0 in shape):
            raise RuntimeError(say.made_otherwise(self.name, strides, device, view.strides, view.device))
        return view


_libraries: dict = {}


def library(value):
    """Return the library that an array on a device belongs to."""
    kind = type(value)
    found = _libraries.get(kind)
    if found is None:
        root = (kind.__module__ or "").partition(".")[0]
        if root in ("cupy", "torch"):
            found = {"cupy": Cupy, "torch": Torch}[root](kind)
        else:
            found = (Interface if hasattr(value, "__cuda_array_interface__") else Dlpack)(kind)
        _libraries[kind] = found
    return found


def take(names, values):
    """Return ``(views or numbers, library, device)`` of arguments of which one is on a device.

    Raises TypeError for arrays that stand elsewhere or belong to another library, ValueError for two devices.
    """
    arrays, taken = [], []
    for name, value in zip(names, values, strict=True):
        kind = type(value)
        if value is None or kind is float or kind is int or kind is bool or kind is complex:
            taken.append(value)
        elif isinstance(value, (bool, int, float, complex)) or (isinstance(value, np.generic) and value.ndim == 0):
            taken.append(complex(value) if np.iscomplexobj(value) else float(value))
        else:
            arrays.append((name, value, library(value) if is_on_device(value) else None))
            taken.append(arrays[-1])
    first, _, owner = next(found for found in arrays if found[2] is not None)
    for name, value, its in arrays:
        if its is None:
            raise TypeError(say.host_and_device(name, type(value), first))
        if not owner.takes(its):
            raise TypeError(say.mixed([(first, owner.name), (name, its.name)]))
    device = of = None
    for k, found in enumerate(taken):
        if type(found) is not tuple:
            continue
        name, value, its = found
        view = taken[k] = its.view(name, value)
        if element(view.dtype) is None:
            raise TypeError(say.dtype(name, view.dtype))
        if view.pointer & odd(view):
            raise ValueError(say.misplaced(name, view.pointer, odd(view) + 1))
        if view.device is not None:
            if device is None:
                device, of = view.device, name
            elif view.device != device:
                raise ValueError(say.two_devices(of, device, name, view.device))
    return taken, owner, device or 0
