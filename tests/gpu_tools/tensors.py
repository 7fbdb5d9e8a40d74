"""Tensors that count as a device's: they stand in CPU memory, and a driver that is no card runs kernels on them."""

import ctypes

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastrecur._cuda import arrays, launch
from fastrecur.torch._rnn import pool

STREAM = 7


def is_elsewhere(array, start, end):
    """Return whether an array has no byte from ``start`` to ``end``."""
    first = array.__array_interface__["data"][0]
    return first >= end or first + array.nbytes <= start


def place(driver, setattr):
    """Let CPU tensors stand on device 0 of a driver without a card; `setattr` is Python's own or monkeypatch's.

    Return what lets kernels touch a tensor: calls that are remembered do not look at those they are given.
    """

    def own(tensor):
        start, size = tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()
        if size:
            # Tensors that stood there before are gone.
            driver.memory = [each for each in driver.memory if is_elsewhere(each[0], start, start + size)]
            driver.own(np.frombuffer((ctypes.c_char * size).from_address(start), np.uint8))
        return tensor

    class Torch(arrays.Torch):
        def view(self, name, array):
            own(array)
            return super().view(name, array)._replace(device=0)

        def glance(self, array):
            own(array)
            return 0, *super().glance(array)[1:]

        def stream(self, device):
            return STREAM

        def maker(self, shape, dtype, strides, device, stream):
            kind = self.own.get(dtype, torch.bfloat16)
            strides = strides and tuple(s // dtype.itemsize for s in strides)

            def made():
                make = (
                    torch.empty(shape, dtype=kind)
                    if strides is None
                    else torch.empty_strided(shape, strides, dtype=kind)
                )
                driver.log.append(("empty", make.nbytes, device))
                return own(make), make.data_ptr()

            return made

        def upload(self, array, device, stream):
            driver.log.append(("upload", array.nbytes, device))
            return own(torch.from_numpy(np.array(array)))

    setattr(launch, "driver", lambda: driver)
    setattr(arrays, "Torch", Torch)
    setattr(arrays, "libraries", {})
    setattr(arrays, "is_on_device", lambda value: isinstance(value, torch.Tensor))
    setattr(pool, "_is_on_gpu", lambda tensor: True)
    return own


class OnGpu(TorchDispatchMode):
    """Within it fastrecur's operators do with CPU tensors what they do with a GPU's."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if function.namespace != "fastrecur":
            return function(*arguments, **(options or {}))
        with self:  # what an operator's kernel calls, too
            return function.redispatch(
                torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA), *arguments, **(options or {})
            )
