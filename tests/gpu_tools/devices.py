"""A card that is not there: arrays "on devices" in host memory, a driver that runs real PTX, and a record of its work.

`Driver` takes the place of `fastrecur._cuda.launch.driver`: it compiles each kernel to PTX, as for a real card, and
runs it by `ptx_emulator`, in which only memory that some array owns may be touched. Everything that reaches the driver
is noted in `log`, so that tests see the order of launches, waits and allocations.

`Cupy` stands in for CuPy's module, `ndarray` for its arrays; `Cai` and `DlpackArray` are arrays known by a protocol
alone.
"""

import contextlib
import ctypes
import functools
import gc
import hashlib
import importlib.metadata
import os
import pathlib
import sys
import tempfile
import types

import compare
import numpy as np
import ptx_emulator

import fastrecur
from fastrecur._cpu.compiler import cache as _cache
from fastrecur._cuda import plan
from fastrecur._cuda.kernels import look_back

CAPABILITY = (8, 0)


def last_byte(array):
    """The address of an array's last byte."""
    return array.ctypes.data + max(array.nbytes, 1) - 1


def root(array):
    """The array that owns an array's memory."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


@functools.cache
def cache():
    """Where this run, and other processes of it, keep PTX."""
    folder = pathlib.Path(tempfile.gettempdir()) / f"fastrecur-ptx-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    return folder


_programs = {}
SOURCES = "_steps", "_cuda/kernels", "_cuda/compiler"  # what PTX is made of


@functools.cache
def digest():
    """A name for what PTX is made of."""
    package = pathlib.Path(fastrecur.__file__).parent
    paths = sorted(path for folder in SOURCES for path in (package / folder).glob("*.py"))
    versions = [importlib.metadata.version(name) for name in ("numba", "numba-cuda")]
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest(), *versions


def ptx(kernel, capability=CAPABILITY):
    """A kernel's PTX for a card, compiled once for all tests."""
    target = kernel.target(capability)
    name = hashlib.sha256(repr((digest(), kernel.key, kernel.threads, target)).encode()).hexdigest()[:32]
    path = cache() / f"{name}.ptx"
    try:
        return path.read_text()
    except OSError:
        made = _compiled(kernel, capability)
        _cache.write(path, made.encode())
        return made


def _compiled(kernel, capability):
    """A kernel's PTX. Coverage, with which numba takes twice the time, measures what is compiled first of its kind."""
    name, rule, carry, options, elements, _ = kernel.key
    packs, target = dict(dict(options).get("packs", ())), kernel.target(capability)[0]
    kinds = {name, f"{rule} of {carry[0]}, back: {name.endswith('vjp')}"}
    for operand, element in elements:
        other = operand if element == "number" or operand == "lengths" else carry
        kinds.add(f"{element} as {other}, wide: {bool(packs.get(operand))}, for {target}")
    tracer = sys.gettrace() if _were_seen(kinds) else None
    if tracer:
        sys.settrace(None)
    gc.disable()  # there are many cycles of references, which can wait
    try:
        return kernel.ptx(capability)
    finally:
        gc.enable()
        if tracer:
            sys.settrace(tracer)
            _resumed()


def _were_seen(kinds):
    """Whether this run, in any of its processes, has compiled such kinds before; from now on it has."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    with open(cache() / f"seen-{run}", "a+") as file:
        file.seek(0)
        new = kinds - set(file.read().splitlines())
        file.writelines(f"{kind}\n" for kind in new)
    return not new


def _resumed():
    """A call, at which coverage's tracer takes up its work."""


def program(kernel):
    """The emulator's program of a kernel."""
    if kernel.key not in _programs:
        _programs[kernel.key] = ptx_emulator.PTXKernel(ptx(kernel))
    return _programs[kernel.key]


class Driver:
    """What launches kernels, in the place of a card."""

    def __init__(self, seed=1, race=True):
        self.memory, self.log, self.seed, self.race = [], [], seed, race
        self.counts, self.accesses, self.executed = {}, {}, {}

    def own(self, array, device=0):
        """Let kernels touch an array's memory; forgotten by `forget`."""
        self.memory.append((root(array), device))
        return array

    def forget(self):
        """Forget all memory and what was noted."""
        self.memory, self.log, self.counts, self.accesses, self.executed = [], [], {}, {}, {}

    def start(self, launches, places, device, stream):
        """Run what `run` has prepared."""
        for kernel, grid, threads, template, slots in launches:
            if kernel is None:
                self.clear(places[slots], threads, device, stream)
                continue
            arguments = template.copy()
            for at, k in slots:
                arguments[at] = places[k]
            self.launch(kernel, grid, threads, arguments, device, stream)

    def launch(self, kernel, grid, threads, arguments, device, stream):
        """Run a kernel."""
        self.log.append(("launch", kernel.name, device, stream))
        flat = [a if isinstance(a, int) else a.value for a in arguments]
        run = self.run(kernel, grid, threads, flat, [array for array, where in self.memory if where == device])
        self.accesses[kernel.name] = self.accesses.get(kernel.name, 0) + run.accesses
        self.executed[kernel.name] = self.executed.get(kernel.name, 0) + getattr(run, "executed", 0)
        for name, count in (("loaded", run.loaded), ("stored", run.stored)):
            self.counts[kernel.name, name] = self.counts.get((kernel.name, name), 0) + count

    def run(self, kernel, grid, threads, arguments, memory):
        """Run a kernel's PTX; return what counts its accesses."""
        run = program(kernel)
        run.launch(grid, threads, arguments, buffers=memory, seed=self.seed, race=self.race)
        return run

    def clear(self, address, words, device, stream):
        """Set words to zero, which counts as a launch."""
        self.log.append(("launch", "clear", device, stream))
        ctypes.memset(address, 0, 4 * words)

    def allocate(self, size, device, stream):
        """Return the address of memory that is ordered by a stream."""
        array = self.own(poisoned(size, np.uint8), device)
        self.log.append(("allocate", size, device, stream))
        return array.ctypes.data

    def free(self, address, device, stream):
        """Forget memory that `allocate` gave."""
        self.log.append(("free", device, stream))
        self.memory = [each for each in self.memory if each[0].ctypes.data > address or last_byte(each[0]) < address]

    def is_capturing(self, device, stream):
        """Return whether a stream is captured: none is."""
        return False

    def on(self, device, primary=False):
        """Enter a device's context."""
        return contextlib.nullcontext()

    def device_of(self, pointer):
        """Return the device that an address is on."""
        for array, device in self.memory:
            start = array.__array_interface__["data"][0]
            if start <= pointer < start + max(array.nbytes, 1):
                return device
        raise AssertionError("an address that no device knows")

    def order(self, before, after, device):
        """Note that what is next in one stream waits for the work of another."""
        self.log.append(("wait", before, after, device))


def poisoned(shape, dtype, strides=None):
    """A fresh array full of NaN, or of ones where there is none, on a boundary that a card's allocator keeps to."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    memory = np.full(size + 256, 0xFF, np.uint8)
    start = -memory.ctypes.data % 256
    memory = memory[start : start + size]
    if strides is None:
        return memory.view(dtype).reshape(shape)
    return np.lib.stride_tricks.as_strided(memory.view(dtype), shape, strides)


class Stream:
    """A stream of the fake CuPy."""

    def __init__(self, ptr):
        self.ptr = ptr


class Device:
    """A device of the fake CuPy; entered, it is the current one."""

    def __init__(self, cupy, number):
        self.cupy, self.id = cupy, number

    def __enter__(self):
        self.before, self.cupy.current = self.cupy.current, self.id

    def __exit__(self, *_):
        self.cupy.current = self.before


class Pointer:
    """Where an array's memory begins."""

    def __init__(self, array):
        self.array, self.ptr = array, array.__array_interface__["data"][0]


class ndarray:  # noqa: N801 - CuPy's name
    """The fake CuPy's array: NumPy's memory, on a device by its word."""

    def __init__(self, array, device):
        self.host, self.device = array, device
        self.data = Pointer(array)

    dtype = property(lambda self: self.host.dtype)
    shape = property(lambda self: self.host.shape)
    strides = property(lambda self: self.host.strides)
    ndim = property(lambda self: self.host.ndim)

    @property
    def __cuda_array_interface__(self):
        raise AssertionError("CuPy's arrays are asked directly: it takes a third of the time")


ndarray.__module__ = "cupy"


class Cupy(types.ModuleType):
    """The module: allocates on the current device, in the driver's memory."""

    def __init__(self, driver):
        super().__init__("cupy")
        self.driver, self.current, self.streams = driver, 0, {}
        self.cuda = types.SimpleNamespace(
            Device=lambda number: Device(self, number),
            get_current_stream=lambda: Stream(self.streams.get(self.current, 0)),
        )

    def place(self, array, device=0):
        """Return a host array's memory as an array of a device, where it stands."""
        self.driver.own(array, device)
        return ndarray(array, Device(self, device))

    def empty(self, shape, dtype):
        """Allocate."""
        array = poisoned(shape, dtype)
        self.driver.log.append(("empty", array.nbytes, self.current))
        return self.place(array, self.current)

    def asarray(self, array):
        """Copy a host array."""
        self.driver.log.append(("upload", array.nbytes, self.current))
        return self.place(np.array(array), self.current)

    def ndarray(self, shape, dtype, memory, strides):
        """Lay an array out in memory that was allocated."""
        array = np.lib.stride_tricks.as_strided(memory.array.view(dtype), shape, strides)
        return ndarray(array, Device(self, self.current))


class Cai:
    """An array known by ``__cuda_array_interface__`` alone."""

    def __init__(self, array, driver, device=0, stream=None, read_only=False):
        self.host = driver.own(array, device)
        self.__cuda_array_interface__ = {
            "shape": array.shape, "typestr": array.dtype.str, "strides": array.strides, "version": 3,
            "data": (array.__array_interface__["data"][0], read_only), "stream": stream,
        }  # fmt: skip
        if array.flags.c_contiguous:
            self.__cuda_array_interface__["strides"] = None


Cai.__module__ = "mylibrary"


def run_on(cupy, setattr):
    """Let `fastrecur`'s functions run NumPy's arrays on a card, as if they were CuPy's, and compare as is due there."""

    def place(value):
        return cupy.place(value) if isinstance(value, np.ndarray) else value

    def on_device(function):
        def call(*arguments, **options):
            out = options.get("out")
            placed = [place(a) for a in arguments]
            options = {name: place(option) for name, option in options.items()}
            result = function(*placed, **options)
            cupy.driver.memory = []  # of this call; what the next one is given is placed anew
            results = result if type(result) is tuple else (result,)
            hosts = tuple(getattr(r, "host", r) for r in results)
            if out is not None:
                assert results[0] is options["out"]
                hosts = out, *hosts[1:]
            return hosts if type(result) is tuple else hosts[0]

        return call

    for name in ["forget_mult", "forget_mult_vjp", "linear_recurrence", "linear_recurrence_vjp"]:
        setattr(fastrecur, name, on_device(getattr(fastrecur, name)))
    # float32 is carried in float32 here, so it is as exact as float64 is on the CPU.
    setattr(compare, "carry_of", lambda dtype: np.promote_types(compare.real_of(dtype), np.float32))


class NumbaCuda:
    """What `Interface` asks of numba.cuda."""

    def __init__(self, driver):
        self.driver, self.gpus = driver, [Device(self, k) for k in range(4)]
        self.current = 0

    def external_stream(self, handle):
        """What Numba makes of a stream's handle."""
        return handle

    def device_array(self, shape, dtype, strides=None, stream=0):
        """Allocate."""
        self.driver.log.append(("empty", int(np.prod(shape)) * np.dtype(dtype).itemsize, self.current))
        return Cai(poisoned(shape, dtype, strides), self.driver, self.current, stream or None)

    def to_device(self, array, stream=0):
        """Copy a host array."""
        return Cai(np.array(array), self.driver, self.current, stream or None)


class DlpackArray:
    """An array known by DLPack and the array API's namespace alone."""

    code = None  # DLPack's number for the kind of its elements, if they are to be said to be of another than they are

    def __init__(self, array, driver, device=0):
        self.host, self.driver, self.number = driver.own(array, device), driver, device

    @property
    def device(self):
        """What its library calls its device."""
        return f"gpu {self.number}"

    def __dlpack_device__(self):
        return 2, self.number

    def __dlpack__(self, stream=None):
        self.driver.log.append(("dlpack", stream))
        capsule = self.host.__dlpack__()
        # NumPy says that its memory is the host's; here it plays a device's.
        address = ctypes.pythonapi.PyCapsule_GetPointer
        address.restype, address.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
        tensor = address(capsule, b"dltensor")
        ctypes.c_int32.from_address(tensor + 8).value = 2
        ctypes.c_int32.from_address(tensor + 12).value = self.number
        if self.code is not None:
            ctypes.c_uint8.from_address(tensor + 20).value = self.code
        return capsule

    def __array_namespace__(self, api_version=None):
        driver = self.driver

        class Namespace:
            float32, float64, float16, int64, uint8 = np.float32, np.float64, np.float16, np.int64, np.uint8

            @staticmethod
            def empty(shape, *, dtype=None, device=None):
                return DlpackArray(poisoned(shape, dtype), driver, int((device or "gpu 0")[4:]))

            @staticmethod
            def asarray(array, *, device=None):
                return DlpackArray(np.array(array), driver, int((device or "gpu 0")[4:]))

            @staticmethod
            def permute_dims(array, axes):
                return DlpackArray(array.host.transpose(axes), driver, array.number)

        return Namespace


DlpackArray.__module__ = "otherlibrary"


def looking_back(choose):
    """Return a choice of kernels by which time of more than one tile is cut, however few series there are."""

    def chosen(lanes, steps, neighbours, contiguous, word, ahead, by_lanes=False, *executed):
        found = choose(lanes, steps, neighbours, contiguous, word, ahead, by_lanes, *executed)
        across = 1 if found.traversal == plan.SERIES else plan.ACROSS
        is_cut = steps > look_back.THREADS // across * ahead and not by_lanes
        return found._replace(tiles=2 if is_cut else 1)

    return chosen
