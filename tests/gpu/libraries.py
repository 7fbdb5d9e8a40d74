"""CuPy, PyTorch and Numba by the same few names."""

import numpy as np


class Cupy:
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

    def microseconds(self, function, repeats=20):
        """The median of the times between two events around a call."""
        start, stop, times = self.cupy.cuda.Event(), self.cupy.cuda.Event(), []
        for _ in range(repeats):
            start.record()
            function()
            stop.record()
            stop.synchronize()
            times.append(1000 * self.cupy.cuda.get_elapsed_time(start, stop))
        return float(np.median(times))


class Torch:
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
        return self.torch.from_numpy(array).cuda()

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

    def microseconds(self, function, repeats=20):
        start, stop = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        times = []
        for _ in range(repeats):
            start.record()
            function()
            stop.record()
            stop.synchronize()
            times.append(1000 * start.elapsed_time(stop))
        return float(np.median(times))


class Numba:
    """Numba's device arrays, for correctness only."""

    name = "numba"

    def __init__(self):
        from numba import cuda

        self.cuda, self.card = cuda, cuda.get_current_device().name.decode()

    def put(self, array):
        return self.cuda.to_device(array)

    def get(self, array):
        return array.copy_to_host()

    def poison(self, size):
        self.cuda.to_device(np.full(size, np.nan, np.float32))


def installed():
    """The libraries that are there and see a card, the best for timing first."""
    found = []
    for kind in (Torch, Cupy, Numba):
        try:
            found.append(kind())
        except Exception as error:
            print(f"{kind.name}: not used ({type(error).__name__}: {error})")
    return found
