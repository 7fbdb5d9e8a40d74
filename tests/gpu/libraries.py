"""CuPy, PyTorch and Numba by the same few names."""

import functools
import statistics
import types

import numpy as np

SPIN_CYCLES = 4_000_000  # about 2 ms, in which the host queues a batch


class Library:
    """What is the same for all."""

    def microseconds(self, calls, repeats=7):
        """Return the median time of a call in a batch, which is queued while the GPU is busy with something else."""
        times = []
        for _ in range(repeats):
            start, stop = self.event(), self.event()
            self.spin()
            self.record(start)
            for call in calls:
                call()
            self.record(stop)
            times.append(1000 * self.elapsed(start, stop) / len(calls))
        return statistics.median(times)


class Cupy(Library):
    """CuPy."""

    name = "cupy"

    def __init__(self):
        import cupy

        self.cupy = cupy
        self.card = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()

    def put(self, array):
        return self.cupy.asarray(array)

    def get(self, array):
        return self.cupy.asnumpy(array)

    def poison(self, size):
        """Leave NaN in the memory that the next results are likely to be given."""
        for _ in range(3):
            self.cupy.full(size, np.nan, np.float32)

    def random(self, shape, dtype="float32"):
        return self.cupy.random.random(shape, dtype="float32").astype(dtype)

    def copy(self, target, source):
        target[...] = source

    def add(self, target, one, two):
        self.cupy.add(one, two, out=target)

    def synchronise(self):
        self.cupy.cuda.Device().synchronize()

    @functools.cached_property
    def _spin(self):
        code = 'extern "C" __global__ void spin(long long n) { long long t = clock64(); while (clock64() - t < n); }'
        return self.cupy.RawKernel(code, "spin")

    def spin(self):
        self._spin((1,), (1,), (np.int64(SPIN_CYCLES),))

    def event(self):
        return self.cupy.cuda.Event()

    def record(self, event):
        event.record()

    def elapsed(self, start, stop):
        stop.synchronize()
        return self.cupy.cuda.get_elapsed_time(start, stop)


class Torch(Library):
    """PyTorch."""

    name = "torch"

    def __init__(self):
        import torch

        if not torch.cuda.is_available():
            raise ImportError("torch sees no card")
        self.torch, self.card = torch, torch.cuda.get_device_name()

    def put(self, array):
        if array.dtype.name == "bfloat16":
            return self.torch.from_numpy(array.astype(np.float32)).cuda().bfloat16()
        return self.torch.from_numpy(np.ascontiguousarray(array)).cuda()

    def get(self, array):
        import ml_dtypes

        if array.dtype is self.torch.bfloat16:
            return array.float().cpu().numpy().astype(ml_dtypes.bfloat16)
        return array.cpu().numpy()

    def poison(self, size):
        for _ in range(3):
            self.torch.full((size,), float("nan"), device="cuda")

    def random(self, shape, dtype="float32"):
        return self.torch.rand(shape, device="cuda").to(getattr(self.torch, dtype))

    def copy(self, target, source):
        target.copy_(source)

    def add(self, target, one, two):
        self.torch.add(one, two, out=target)

    def synchronise(self):
        self.torch.cuda.synchronize()

    def spin(self):
        self.torch.cuda._sleep(SPIN_CYCLES)

    def event(self):
        return self.torch.cuda.Event(enable_timing=True)

    def record(self, event):
        event.record()

    def elapsed(self, start, stop):
        stop.synchronize()
        return start.elapsed_time(stop)


class Numba(Library):
    """Numba's device arrays."""

    name = "numba"

    def __init__(self):
        from numba import cuda

        self.cuda = cuda
        card = cuda.get_current_device().name
        self.card = card.decode() if isinstance(card, bytes) else card

    def put(self, array):
        return self.cuda.to_device(np.ascontiguousarray(array))

    def get(self, array):
        return array.copy_to_host()

    def poison(self, size):
        self.cuda.to_device(np.full(size, np.nan, np.float32))

    def random(self, shape, dtype="float32"):
        return self.put(np.random.default_rng(0).random(shape, np.float32).astype(dtype))

    def copy(self, target, source):
        target.copy_to_device(source)

    def synchronise(self):
        self.cuda.synchronize()

    @functools.cached_property
    def _spin(self):
        cuda = self.cuda

        @cuda.jit
        def spin(naps):
            for _ in range(naps):
                cuda.nanosleep(1000)

        return spin

    def spin(self):
        self._spin[256, 32](2000)  # so many that Numba does not warn

    def event(self):
        return self.cuda.event(timing=True)

    def record(self, event):
        event.record()

    def elapsed(self, start, stop):
        stop.synchronize()
        return start.elapsed_time(stop)


class Bare(Library):
    """Memory of the driver alone: it starts at once, and a sanitizer has no other kernels to look at."""

    name = "bare"

    def __init__(self):
        from cuda.bindings import driver as api

        from fastrecur._cuda import launch

        self.api, self.driver = api, launch.driver()
        self.card = self.driver.describe()[0]

    def put(self, array):
        with self.driver.on(0):
            pointer = int(self.driver.ask(self.api.cuMemAlloc(array.nbytes)))
            self.driver.ask(self.api.cuMemcpyHtoD(pointer, array.ctypes.data, array.nbytes))
        known = {"shape": array.shape, "typestr": array.dtype.str, "data": (pointer, False), "version": 3}
        return types.SimpleNamespace(__cuda_array_interface__=known)

    def get(self, array):
        known = array.__cuda_array_interface__
        host = np.empty(known["shape"], known["typestr"])
        with self.driver.on(0):  # the copy waits for the default stream
            self.driver.ask(self.api.cuMemcpyDtoH(host.ctypes.data, known["data"][0], host.nbytes))
        return host


KINDS = {"torch": Torch, "cupy": Cupy, "numba": Numba}


def installed(names=tuple(KINDS)):
    """The libraries that are there and see a card, the best for timing first."""
    found = []
    for name in names:
        try:
            found.append((KINDS | {"bare": Bare})[name]())
        except Exception as error:
            print(f"{name}: not used ({type(error).__name__}: {error})")
    return found
