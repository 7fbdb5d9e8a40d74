"""The one way to a kernel: compile it, or find it compiled, load it, launch it.

A kernel is compiled to PTX by numba.cuda, assembled by nvJitLink through cuda.core, and kept on disk as a cubin under a
name made of everything that it depends on. So a process that finds its kernels there imports cuda.core alone. `driver`
is the seam: tests put an emulator or a recorder in its place.
"""

import contextlib
import functools
import importlib.metadata
import os

from .._arguments import messages as say
from .._cpu.compiler import cache
from .kernels import catalog

OLDEST = 7, 5  # compute capability
# What a driver's error means, but when it is asked for the first time.
WORDS = {"CUDA_ERROR_OUT_OF_MEMORY": say.gpu_memory, "CUDA_ERROR_NOT_INITIALIZED": say.gpu_forked}
DEFAULT_STREAMS = 0, 1  # handles of a device's default stream, which nobody can capture


class Kernel:
    """A kernel made for certain types: its name, what it is made for, and its parameters."""

    def __init__(self, name, rule, carry, options, elements, time):
        self.key = name, rule, carry, options, elements, time
        self.name = name
        self.threads = catalog.THREADS.get(name, catalog.MOST_THREADS)
        self.parameters = catalog.parameters(self.function(None), options)
        self.signature = catalog.signature(self.parameters, carry, dict(elements), time)
        self.loaded = {}  # device -> what the driver launches

    def function(self, cuda):
        """Return the kernel as a function in the words of ``cuda``."""
        name, rule, carry, options, elements, _ = self.key
        return catalog.make(cuda, name, rule, carry, options, elements)

    def target(self, capability):
        """Return whose PTX a card gets, and how many blocks its multiprocessors are to hold.

        Few texts, which tests run and look at, serve all cards; they differ in the number of blocks at most.
        """
        # For 10.0 and beyond the compiler goes another way, on which arrays end in local memory and the batches of
        # loads come apart. PTX serves later cards too; 8.0 can do one thing more, which is to round to bfloat16.
        text = min(capability, (8, 0) if "bf2*" in self.signature else (7, 5))
        return text, catalog.blocks(*self.key[:5], capability)

    def ptx(self, capability):
        target, blocks = self.target(capability)
        given = dict(zip(self.parameters, self.signature, strict=True))
        return compiler().ptx(self.function(compiler().cuda), given, self.threads, blocks, target)


# Made and loaded once for all problems that take it: batches of another length need not load it again.
kernel = functools.cache(Kernel)


@functools.cache
def compiler():
    """Return the module that compiles kernels; raise where numba-cuda is missing, or does not go with this numba."""
    try:
        versions = [f"{name} {importlib.metadata.version(name)}" for name in ("numba-cuda", "numba")]
    except importlib.metadata.PackageNotFoundError:
        raise RuntimeError(say.gpu_packages("numba-cuda")) from None
    try:
        from .compiler import compile as _compile
    except Exception as error:  # whatever it raises where names are gone that it needs, or that are needed of it
        raise RuntimeError(say.gpu_compiler(*versions, error)) from error
    return _compile


class CudaCore:
    """The way to a real card: cuda.core, and the driver's own functions.

    Every call works in the context of the device that it is given, and leaves the thread's contexts as it found them:
    none, another device's, or one that is not the device's primary context.
    """

    def __init__(self):
        try:
            import cuda.core as core
            from cuda.bindings import driver as api
        except ImportError:
            raise RuntimeError(say.gpu_packages("cuda-core")) from None
        self.core, self.api = core, api
        try:
            version = self.ask(api.cuDriverGetVersion())
        except Exception as error:
            raise RuntimeError(say.gpu_driver(error)) from error
        self.version = f"{version // 1000}.{version % 1000 // 10}"  # as people write it
        if version // 1000 < api.CUDA_VERSION // 1000:
            raise RuntimeError(say.gpu_old_driver(api.CUDA_VERSION // 1000, self.version))
        (status,) = api.cuInit(0)
        if status:
            raise RuntimeError(say.gpu_driver(status.name))
        self.contexts = {}  # by device
        self.queue = functools.lru_cache(1024)(core.Stream.from_handle)
        self.config = functools.lru_cache(1024)(lambda grid, threads: core.LaunchConfig(grid=grid, block=threads))

    def ask(self, answer):
        """Return what a function of the driver gave; raise where that is an error."""
        error, *given = answer
        if error:
            raise RuntimeError(WORDS.get(error.name, say.gpu_failed)(error.name))
        return given[0] if given else None

    def enter(self, device, primary=False):
        """Let a device's context be the thread's, unless it is; return whether `leave` must be called.

        If asked for, push its primary one in any case: Numba pops what it finds, when it first uses a device.
        """
        if not primary:
            _, current = self.api.cuCtxGetCurrent()
            if int(current) == self.contexts.get(device):
                return False
            error, number = self.api.cuCtxGetDevice()  # an error where there is no context
            if not error and int(number) == device:
                self.primary(device)  # by whose handle it is known next time, if it is this
                return False
        self.ask(self.api.cuCtxPushCurrent(self.primary(device)))
        return True

    def leave(self):
        """Give the thread the context back that it had."""
        self.ask(self.api.cuCtxPopCurrent())

    @contextlib.contextmanager
    def on(self, device, primary=False):
        """Work in a device's context."""
        entered = self.enter(device, primary)
        try:
            yield
        finally:
            if entered:
                self.leave()

    def primary(self, device):
        """Return a device's primary context, which is kept for as long as the process lives, as by CUDA's runtime."""
        if device not in self.contexts:
            self.contexts[device] = int(self.ask(self.api.cuDevicePrimaryCtxRetain(device)))
        return self.contexts[device]

    def start(self, launches, places, device, stream):
        """Put launches, which `run` has prepared, into a stream of a device."""
        entered = self.enter(device)
        try:
            queue = self.queue(stream)
            for kernel, grid, threads, template, slots in launches:
                if kernel is None:
                    self.ask(self.api.cuMemsetD32Async(places[slots], 0, threads, stream))
                    continue
                handle = kernel.loaded.get(device) or self.load(kernel, device, stream)
                arguments = template.copy()
                for at, k in slots:
                    arguments[at] = places[k]
                self.core.launch(queue, self.config(grid, threads), handle, *arguments)
        finally:
            if entered:
                self.leave()

    def allocate(self, size, device, stream):
        """Return the address of memory that is there for what is put into a stream from now until `free`.

        None if the device has no such memory. In a stream that is captured, both become part of the graph.
        """
        with self.on(device):
            error, address = self.api.cuMemAllocAsync(size, stream)
        if error == self.api.CUresult.CUDA_ERROR_NOT_SUPPORTED:
            return None
        return int(self.ask((error, address)))

    def free(self, address, device, stream):
        with self.on(device):
            self.ask(self.api.cuMemFreeAsync(address, stream))

    def is_capturing(self, device, stream):
        """Return whether a stream's work is recorded for a graph instead of done."""
        if stream in DEFAULT_STREAMS:
            return False
        with self.on(device):
            return int(self.ask(self.api.cuStreamIsCapturing(stream))) != 0

    def device_of(self, pointer):
        attribute = self.api.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
        return int(self.ask(self.api.cuPointerGetAttribute(attribute, pointer)))

    def order(self, before, after, device):
        """Let what is next in one stream wait for the work of another; the host goes on."""
        with self.on(device):
            self.queue(after).wait(self.queue(before))

    def describe(self):
        """Return a line for each device that this process may use."""
        lines = []
        for number in range(self.ask(self.api.cuDeviceGetCount())):
            device = self.core.Device(number)
            capability = "{}.{}".format(*device.compute_capability)
            known = f"compute capability {capability}, driver for CUDA {self.version}"
            lines.append(f"device {number}: {device.name}, {known}")
        return lines

    def load(self, kernel, device, stream=0):
        """Load a kernel for a device; return what launches it there."""
        if self.is_capturing(device, stream):
            raise RuntimeError(say.gpu_capture_unloaded())
        capability = tuple(self.core.Device(device).compute_capability)
        if capability < OLDEST:
            raise RuntimeError(say.gpu_too_old(device, *capability))
        with cache.making:  # of several threads that come first, one compiles
            if device not in kernel.loaded:
                code, name = cubin(kernel, capability)
                kernel.loaded[device] = self.core.ObjectCode.from_cubin(code).get_kernel(name)
        return kernel.loaded[device]


driver = functools.cache(CudaCore)  # what launches kernels; raises where there is none


# ---- Kernels on disk ------------------------------------------------------------------------------------------------


def digest():
    """Return a name for the sources that kernels are made of, and for what compiles them."""
    compilers = "nvidia-nvvm", "nvidia-nvjitlink", "nvidia-cuda-nvcc-cu12", "nvidia-nvjitlink-cu12"
    installed = cache.digest("cuda", "numba", "numba-cuda", "cuda-core", *compilers)
    return installed, *(os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH"))  # a toolkit without a package


def cubin(kernel, capability):
    """Return a kernel's code for a capability and its name in it, from the disk or compiled."""
    kind = f"{kernel.name}-{capability[0]}{capability[1]}"
    name = cache.name_of(kind, digest(), kernel.key, kernel.signature, capability)
    return cache.find_or_make(name, lambda: assemble(kernel.ptx(capability), capability))


def assemble(ptx, capability):
    """Return machine code and the kernel's name."""
    from cuda.core import Linker, ObjectCode

    options = linker_options(f"sm_{capability[0]}{capability[1]}")
    return bytes(Linker(ObjectCode.from_ptx(ptx.encode()), options=options).link("cubin").code), entry(ptx)


def linker_options(architecture, *more):
    """Return how PTX becomes machine code: a product and a sum stay two roundings unless PTX fuses them.

    The assembler would fuse them where it likes, which may change with its version and with a card: results would no
    longer have the bits that the kernel's PTX says, which are those that tests see. cuda.core's own option ``fma`` is
    one of the linker, and does not reach the assembler. ``more`` are the assembler's options.
    """
    from cuda.core import LinkerOptions

    return LinkerOptions(arch=architecture, ptxas_options=["--fmad=false", *more])


def entry(ptx):
    """Return the name of the kernel in some PTX."""
    return ptx.partition(".entry")[2].partition("(")[0].strip()
