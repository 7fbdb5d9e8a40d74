"""What the GPU floor knows about array libraries: their memory, their allocators and their streams.

A library is recognised by the arrays that are passed; none is imported that the caller has not.
"""

import contextlib
import functools
import sys
from typing import NamedTuple

import numpy as np

from .._arguments import adapters, messages as say
from .._arguments.arrays import BFLOAT16, ELEMENTS, element, is_on_device, root_of
from .._arguments.shapes import c_strides
from .._cpu.compiler import cache
from . import launch

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


class Library:
    """An array library: its memory, its allocator, its streams.

    ``view(name, array)`` returns an array's view, ``glance(array)`` its device, address and what plans depend on, None
    if it takes a closer look. ``stream(device)`` returns the handle of the stream that the library works in now.
    ``maker(shape, dtype, strides, device, stream)`` returns a function that returns fresh arrays with these (dense)
    strides, None for C order, and their addresses. ``upload(array, device, stream)`` returns a host array's copy on a
    device.
    """

    allocates_in_capture = True  # whether a call may be captured into a graph for which its library allocates
    kin = property(lambda self: self.name)  # arrays of whom may stand beside its own

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

    def stream(self, device):
        return LEGACY_STREAM

    def lender(self, size, device):
        driver = launch.driver()

        def lend(stream):
            address = driver.allocate(size, device, stream)
            return (address, address) if address else self.maker((size,), BYTE, None, device, stream)()

        return lend

    def give_back(self, lent, device, stream):
        """Give back what was lent, once the stream's work so far is done."""
        if type(lent) is int:
            launch.driver().free(lent, device, stream)


class Cupy(Library):
    """CuPy: its pool, its current stream."""

    name = "cupy"

    def __init__(self, _):
        self.library = sys.modules["cupy"]

    def view(self, name, array):
        return View(array.data.ptr, array.dtype, array.shape, array.strides, array.device.id, None, True, array)

    def glance(self, array):
        return array.device.id, array.data.ptr, (array.dtype, array.shape, array.strides)

    def stream(self, device):
        with self.library.cuda.Device(device):
            return self.library.cuda.get_current_stream().ptr

    def maker(self, shape, dtype, strides, device, stream):
        cupy, in_order = self.library, strides is None or strides == c_strides(shape, dtype.itemsize)
        size = int(np.prod(shape)) * dtype.itemsize

        def made():
            with cupy.cuda.Device(device):
                if in_order:
                    array = cupy.empty(shape, dtype)
                else:
                    array = cupy.ndarray(shape, dtype, cupy.empty(size, np.uint8).data, strides)
            return array, array.data.ptr

        return made

    def upload(self, array, device, stream):
        with self.library.cuda.Device(device):
            return self.library.asarray(array)


class Torch(Library):
    """PyTorch: its caching allocator, its current stream. Gradients are `fastrecur.torch`'s concern."""

    name = "torch"

    def __init__(self, _):
        self.library = sys.modules["torch"]
        known = {dtype.name: dtype for dtype in ELEMENTS} | {"bfloat16": BFLOAT16}
        self.dtypes = {getattr(self.library, n): dtype for n, dtype in known.items() if hasattr(self.library, n)}
        self.own = {dtype: kind for kind, dtype in self.dtypes.items()}
        self.raw_stream = adapters.raw_stream

    def view(self, name, array):
        dtype = self.dtypes.get(array.dtype)
        if dtype is None:
            raise TypeError(say.dtype(name, array.dtype))
        strides = tuple(dtype.itemsize * s for s in array.stride())
        return View(array.data_ptr(), dtype, tuple(array.shape), strides, array.get_device(), None, True, array)

    def glance(self, array):
        return array.get_device(), array.data_ptr(), (array.dtype, array.shape, array.stride())

    def stream(self, device):
        if self.raw_stream is None:
            return self.library.cuda.current_stream(device).cuda_stream
        return self.raw_stream(device)

    def maker(self, shape, dtype, strides, device, stream):
        kind, place = self.own.get(dtype, self.library.bfloat16), self.library.device("cuda", device)
        strides = tuple(s // dtype.itemsize for s in strides or c_strides(shape, dtype.itemsize))
        make = functools.partial(self.library.empty_strided, shape, strides, dtype=kind, device=place)

        def made():
            array = make()
            return array, array.data_ptr()

        return made

    def upload(self, array, device, stream):
        # From pinned memory the copy takes its place in the stream, and the host goes on.
        pinned = self.library.from_numpy(np.ascontiguousarray(array)).pin_memory()
        return pinned.to(self.library.device("cuda", device), non_blocking=True)


@functools.cache
def numba_cuda():
    """Return the module that allocates for arrays without a library that could.

    It lists the devices when they are first asked for, without a lock, and fails where two threads ask at once.
    """
    from numba import cuda

    with cache.making:
        len(cuda.gpus)
    return cuda


class Interface(Unpooled):
    """Whatever exports ``__cuda_array_interface__``; results are Numba device arrays.

    Its work is ordered by the streams that the arrays name; a call goes to the first of them, or else to the default
    stream. Results name the stream that they are computed in, but the default one, which Numba's own do not name.
    """

    kin = "interfaces"  # any: a call's results are Numba's

    def __init__(self, array):
        self.name = root_of(array)

    def view(self, name, array):
        known = array.__cuda_array_interface__
        if known.get("mask") is not None:
            raise TypeError(say.masked(name))
        pointer, read_only = known["data"]
        dtype, shape = np.dtype(known["typestr"]), tuple(known["shape"])
        strides = tuple(known.get("strides") or c_strides(shape, dtype.itemsize))
        device = launch.driver().device_of(pointer) if pointer else None
        return View(pointer or 0, dtype, shape, strides, device, known.get("stream"), not read_only, array)

    def glance(self, array):
        known = array.__cuda_array_interface__
        pointer = known["data"][0]
        if known.get("stream") not in (None, LEGACY_STREAM) or "mask" in known or not pointer:
            return None
        return launch.driver().device_of(pointer), pointer, (known["typestr"], known["shape"], known.get("strides"))

    @contextlib.contextmanager
    def _on(self, device, stream):
        """Give numba.cuda, a device being its current one, and its name for a stream."""
        cuda = numba_cuda()
        with launch.driver().on(device, primary=True), cuda.gpus[device]:
            yield cuda, 0 if stream in launch.DEFAULT_STREAMS else cuda.external_stream(stream)

    def maker(self, shape, dtype, strides, device, stream):
        def made():
            with self._on(device, stream) as (cuda, queue):
                array = cuda.device_array(shape, dtype, strides=strides, stream=queue)
            return array, array.__cuda_array_interface__["data"][0] or 0

        return made

    def upload(self, array, device, stream):
        with self._on(device, stream) as (cuda, queue):
            return cuda.to_device(array, stream=queue)


class Dlpack(Unpooled):
    """Whatever exports DLPack from a device, with the namespace of the array API for results."""

    def __init__(self, array):
        self.name, self.space = root_of(array), None
        self.places = {}  # a device's number -> what the library calls it

    def view(self, name, array):
        """Return an array's view; the exporter orders its work before the default stream's."""
        if not hasattr(array, "__array_namespace__"):
            raise TypeError(say.dlpack_alone(name, type(array)))
        self.space = array.__array_namespace__()
        launch.driver()  # or it is said what is missing, cuda.core first of all
        from cuda.core.utils import StridedMemoryView

        try:
            found = StridedMemoryView.from_dlpack(array, stream_ptr=LEGACY_STREAM)
            dtype = found.dtype
        except NotImplementedError:
            raise TypeError(say.bfloat16(name)) from None
        except TypeError as error:
            raise TypeError(say.dtype(name, f"of DLPack: {error}")) from None
        self.places[found.device_id] = getattr(array, "device", None)
        strides = tuple(dtype.itemsize * stride for stride in found.strides or c_strides(found.shape, 1))
        return View(found.ptr, dtype, found.shape, strides, found.device_id, None, not found.readonly, found)

    def glance(self, array):
        """Return nothing: the exporter is told the stream at every call."""

    def maker(self, shape, dtype, strides, device, stream):
        strides = strides or c_strides(shape, dtype.itemsize)
        # The array API knows no strides: axes are made in the order of theirs, and put where they belong.
        order = sorted(range(len(shape)), key=lambda k: -strides[k])
        back = tuple(order.index(k) for k in range(len(shape)))

        def made():
            kind = getattr(self.space, dtype.name)
            array = self.space.empty(tuple(shape[k] for k in order), dtype=kind, device=self.places[device])
            if order != sorted(order):
                array = self.space.permute_dims(array, back)
            return array, self._checked(array, shape, strides, device).pointer

        return made

    def upload(self, array, device, stream):
        copy = self.space.asarray(array, device=self.places[device])
        self._checked(copy, array.shape, c_strides(array.shape, array.itemsize), device)
        return copy

    def _checked(self, array, shape, strides, device):
        """Return an array's view; raise unless the library has made what it was asked for."""
        view = self.view("result", array)
        fit = view.shape == shape and all(n < 2 or s == t for n, s, t in zip(shape, view.strides, strides, strict=True))
        if view.device != device or not (fit or 0 in shape):
            raise RuntimeError(say.made_otherwise(self.name, strides, device, view.strides, view.device))
        return view


libraries: dict = {}


def library(value):
    if (found := libraries.get(type(value))) is None:
        make = {"cupy": Cupy, "torch": Torch}.get(root_of(value))
        make = make or (Interface if hasattr(value, "__cuda_array_interface__") else Dlpack)
        found = libraries[type(value)] = make(value)
    return found


def take(names, values):
    """Return ``(views or numbers, library, device)`` of arguments of which one is on a device.

    Raises TypeError for arrays that stand elsewhere or belong to another library, ValueError for two devices.
    """
    arrays, taken = [], []
    for name, value in zip(names, values, strict=True):
        if value is None or type(value) is float:
            taken.append(value)
        elif isinstance(value, (bool, int, float, complex, np.generic)):
            taken.append(complex(value) if np.iscomplexobj(value) else float(value))
        else:
            arrays.append((len(taken), name, value, library(value) if is_on_device(value) else None))
            taken.append(value)
    first, owner = next((name, its) for _, name, _, its in arrays if its is not None)
    for _, name, value, its in arrays:
        if its is None:
            raise TypeError(say.host_and_device(name, type(value), first))
        if its.kin != owner.kin:
            raise TypeError(say.mixed([(first, owner.name), (name, its.name)]))
    device = of = None
    for k, name, value, its in arrays:
        view = taken[k] = its.view(name, value)
        if element(view.dtype) is None:
            raise TypeError(say.dtype(name, view.dtype))
        # At other loads a card ends all of a process's work. Complex numbers are loaded part by part.
        align = view.dtype.itemsize // (2 if view.dtype.kind == "c" else 1)
        if view.pointer % align:
            raise ValueError(say.misplaced(name, view.pointer, align))
        if view.device not in (None, device):
            if of is not None:
                raise ValueError(say.two_devices(of, device, name, view.device))
            device, of = view.device, name
    return taken, owner, device or 0
