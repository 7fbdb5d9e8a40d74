"""The one way to a kernel: compile it, or find it compiled, load it, launch it.

A kernel is compiled to PTX by numba.cuda, assembled by nvJitLink through cuda.core, and kept on disk as a cubin under a
name made of everything that it depends on. So a process that finds its kernels there imports cuda.core alone. `launch`
is the seam: tests put an emulator or a recorder in the place of `driver`.
"""

import functools
import pathlib

from .. import _cache
from .. import _messages as say
from . import _kernels


class Kernel:
    """A kernel made for certain types: its name, what it is made for, and its parameters."""

    def __init__(self, name, rule, carry, options, elements, time):
        self.key = name, rule, carry, options, elements, time
        self.name = name
        self.threads = _kernels.THREADS.get(name, _kernels.MOST_THREADS)
        self.parameters = _kernels.parameters(self.function(None))
        self.signature = _kernels.signature(self.parameters, carry, dict(elements), time)
        self.loaded = {}  # device -> what the driver launches

    def function(self, cuda):
        """Return the kernel as a function in the words of ``cuda``."""
        name, rule, carry, options, elements, _ = self.key
        return _kernels.make(cuda, name, rule, carry, options, elements)

    def target(self, capability):
        """Return whose PTX a card gets, and how many blocks its multiprocessors are to hold.

        Few texts, which tests run and look at, serve all cards; they differ in the number of blocks at most.
        """
        # For 10.0 and beyond the compiler goes another way, on which arrays end in local memory and the batches of
        # loads come apart. PTX serves later cards too; 8.0 can do one thing more, which is to round to bfloat16.
        text = min(capability, (8, 0) if "bf2*" in self.signature else (7, 5))
        return text, _kernels.blocks(*self.key[:5], capability)

    def ptx(self, capability):
        """Return the kernel's PTX."""
        from . import _compiler

        target, blocks = self.target(capability)
        return _compiler.ptx(self.function(_compiler.cuda), self.signature, self.threads, blocks, target)


@functools.cache
def kernel(*key):
    """Return a kernel, loaded once for all problems that take it: batches of another length need not load it again."""
    return Kernel(*key)


def launch(kernel, grid, threads, arguments, device, stream):
    """Start a kernel: addresses are ints, numbers ctypes'."""
    driver().launch(kernel, grid, threads, arguments, device, stream)


@functools.cache
def driver():
    """Return what launches kernels; raise where there is none."""
    return CudaCore()


class CudaCore:
    """The way to a real card."""

    def __init__(self):
        try:
            import cuda.core as core
        except ImportError:
            raise RuntimeError(say.gpu_packages("cuda-core")) from None
        self.core = core
        try:
            core.Device().set_current()
        except Exception as error:
            raise RuntimeError(say.gpu_driver(error)) from error
        self.streams, self.configs = {}, {}

    def launch(self, kernel, grid, threads, arguments, device, stream):
        """Start a kernel in a stream of a device."""
        core = self.core
        current = core.Device()
        if current.device_id != device:
            core.Device(device).set_current()
        try:
            handle = kernel.loaded.get(device)
            if handle is None:
                handle = kernel.loaded[device] = self.load(kernel, device)
            queue = self.streams.get(stream)
            if queue is None:
                queue = self.streams[stream] = core.Stream.from_handle(stream)
            config = self.configs.get((grid, threads))
            if config is None:
                config = self.configs[grid, threads] = core.LaunchConfig(grid=grid, block=threads)
            core.launch(queue, config, handle, *arguments)
        finally:
            if current.device_id != device:
                current.set_current()

    def device_of(self, pointer):
        """Return the device that an address is on."""
        from cuda.bindings import driver as bindings

        attribute = bindings.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
        error, device = bindings.cuPointerGetAttribute(attribute, pointer)
        if error:
            raise RuntimeError(say.gpu_driver(error))
        return int(device)

    def order(self, before, after, device):
        """Let what is next in one stream wait for the work of another; the host goes on."""
        first, second = (self.core.Stream.from_handle(stream) for stream in (before, after))
        second.wait(first)

    def describe(self):
        """Return a line for each device."""
        lines = []
        for device in self.core.Device.get_all_devices():
            major, minor = device.compute_capability
            verdict = "" if (major, minor) >= (7, 5) else ", too old"
            lines.append(f"device {device.device_id}: {device.name}, compute capability {major}.{minor}{verdict}")
        return lines or ["no device"]

    def load(self, kernel, device):
        """Return a kernel that is ready on a device."""
        capability = tuple(self.core.Device(device).compute_capability)
        if capability < (7, 5):
            raise RuntimeError(say.gpu_too_old(device, capability))
        code, name = cubin(kernel, capability)
        return self.core.ObjectCode.from_cubin(code).get_kernel(name)


# ---- Kernels on disk ------------------------------------------------------------------------------------------------


def digest():
    """Return a name for the sources that kernels are made of, and for what compiles them."""
    packages = "numba", "numba-cuda", "cuda-core", "nvidia-nvvm", "nvidia-nvjitlink"
    return _cache.digest(pathlib.Path(__file__).parent, *packages)


def cubin(kernel, capability):
    """Return a kernel's code for a capability and its name in it, from the disk or compiled."""
    kind = f"{kernel.name}-{capability[0]}{capability[1]}"
    name = _cache.name_of(kind, digest(), kernel.key, kernel.signature, capability)
    found = _cache.find(name)
    if found is None:
        found = assemble(kernel.ptx(capability), capability)
        _cache.keep(name, *found)
    return found


def assemble(ptx, capability):
    """Return machine code and the kernel's name."""
    from cuda.core import Linker, LinkerOptions, ObjectCode

    name = entry(ptx)
    options = LinkerOptions(arch=f"sm_{capability[0]}{capability[1]}")
    return bytes(Linker(ObjectCode.from_ptx(ptx.encode()), options=options).link("cubin").code), name


def entry(ptx):
    """Return the name of the kernel in some PTX."""
    return ptx.partition(".entry")[2].partition("(")[0].strip()
