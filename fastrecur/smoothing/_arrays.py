"""Which library the data belong to, and which way is taken: kernels for NumPy's arrays, formulas for all others."""

import functools
import sys

import numpy as np

from .. import _dispatch
from .._arguments import arrays as _arrays, checks, messages as say, shapes
from .._arguments.checks import is_number
from .._cpu.machine import threads as _threads
from ._arguments import RULES

_NAMES = "bool", "float32", "float64", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64))
_REAL = {*_NAMES, *map(np.dtype, _NAMES)}  # NumPy takes long to tell a name


class Data:
    """Operands of one library, their namespace, whether NumPy's kernels run, and what makes a result one of theirs.

    Tensors that kernels can read are NumPy's arrays here. Values ``at_hand`` can be looked at, and cost no wait for a
    device, no computation of what is lazy, and no part in what is traced.
    """

    def __init__(self, names, values, before=()):
        """Take operands; ``before`` is a state that they go on from, whose gradient may be wanted as well."""
        in_memory = _arrays.all_in_memory(*values)
        self.names, self.is_lazy = names, not in_memory and _arrays.any_lazy(*values)
        self.xp, self._team, self.give = np, None, lambda result: result
        self.by_kernel = self.at_hand = True
        if in_memory:
            self.values = [_plain(*pair) for pair in zip(names, values, strict=True)]
        elif self.is_lazy:
            self._take_lazy(names, values)
        elif _arrays.any_tensor(*values):
            self._take_tensors(names, values, before)
        elif any(_is_foreign(value) for value in values):
            self._take_foreign(names, values)
        else:
            self.values = [_plain(*pair) for pair in zip(names, values, strict=True)]
        if self.xp.__name__ != "torch":
            for name, value in zip(names, self.values, strict=True):
                check_real(name, value)

    def _take_tensors(self, names, values, before):
        import torch

        adapter = _dispatch.tensors()
        tensors = [value for value in (*values, *before) if isinstance(value, torch.Tensor)]
        # Numbers stand where the data stand, whatever torch's default device is.
        device = next((value.device for value in tensors if value.dim() or not value.is_cpu), torch.device("cpu"))
        wide = []
        for name, value in zip(names, values, strict=True):
            if isinstance(value, torch.Tensor):
                value = value if value.dim() else _moved(name, value, device)
            elif isinstance(value, (int, float)):
                value = torch.full((), value, dtype=torch.float64, device=device)
            else:
                raise TypeError(say.not_a_tensor(name, type(value)))
            if value.device != device:
                raise ValueError(say.devices(names[0], device, name, value.device))
            if value.dtype not in (torch.float32, torch.float64) and (value.is_floating_point() or value.is_complex()):
                raise TypeError(say.real_dtype(name, value.dtype))
            wide.append(value)
        self.xp = torch
        quiet = adapter.no_modes_active() and all(map(adapter.kernel_can_read, tensors))
        wanted = torch.is_grad_enabled() and any(value.requires_grad for value in tensors)
        if quiet and not wanted:
            default = torch.get_default_dtype()
            self.values = [(v if v.is_floating_point() else v.to(default)).detach().numpy() for v in wide]
            self.xp, self.give, self._team = np, torch.from_numpy, adapter.team
        else:
            self.values, self.by_kernel, self.at_hand = wide, False, quiet

    def _take_foreign(self, names, values):
        if _arrays.any_of_jax(*values):  # beside which NumPy's arrays are constants
            make, pairs = sys.modules["jax.numpy"].asarray, zip(names, values, strict=True)
            values = [v if is_number(v) or _is_foreign(v) else make(_plain(n, v)) for n, v in pairs]
        found = {n: _arrays.library_of(v) for n, v in zip(names, values, strict=True) if not is_number(v)}
        if len(set(found.values())) > 1:
            raise TypeError(say.mixed([pair for pair in found.items() if pair[1]]))
        name, one = next(pair for pair in zip(names, values, strict=True) if _is_foreign(pair[1]))
        if hasattr(one, "__array_namespace__"):
            self.xp = one.__array_namespace__()
        elif _arrays.library_of(one) == "cupy":
            self.xp = sys.modules["cupy"]
        else:
            raise TypeError(say.namespace(name, type(one)))
        self.values = [v if _is_foreign(v) else self.xp.asarray(v, dtype=self._widest()) for v in values]
        self.by_kernel = self.at_hand = False

    def _take_lazy(self, names, values):
        from .. import _dask

        self.xp, self.by_kernel, self.at_hand = sys.modules["dask.array"], False, False
        taken = [_dask.take(name, value) for name, value in zip(names, values, strict=True)]
        self.values = [value if hasattr(value, "shape") else np.asarray(value) for value in taken]

    def broadcast(self, *others):
        """Return the shape that the operands, and other arrays, broadcast to."""
        values = [*self.values, *others]
        if self.xp.__name__ == "torch" and not self.at_hand:  # sizes may be symbols, which NumPy makes numbers
            return tuple(self.xp.broadcast_shapes(*(value.shape for value in values)))
        return tuple(shapes.broadcast_shape(self.names, [tuple(value.shape) for value in values]))

    def threads(self):
        """Lend kernels the threads of the data's library, if it has some of its own."""
        return _threads.lent(self._team and self._team())

    def dtype(self, *arrays):
        """Return the dtype of a result: the promotion of the arrays', of integers alone the default."""
        xp = self.xp
        if self.by_kernel or self.is_lazy:
            found = np.result_type(*(a.dtype for a in arrays))
            return found if found.kind == "f" else np.dtype(np.float64)
        if xp.__name__ == "torch":
            promoted = functools.reduce(xp.promote_types, [a.dtype for a in arrays])
            return promoted if promoted.is_floating_point else xp.get_default_dtype()
        floats = [a.dtype for a in arrays if "float" in str(a.dtype)]
        return xp.result_type(*floats) if floats else self._widest()

    def wide(self, array):
        return self.narrow(array, self._widest())

    def _widest(self):
        """Return float64, or what the library has for it: JAX may have none."""
        return self.xp.result_type(float) if self.xp.__name__ == "jax.numpy" else self.xp.float64

    def beside(self, array, name="state"):
        """Return an array that may be NumPy's as one of the data's library, where the data are."""
        if self.by_kernel:
            return checks.with_numbers(name, array).detach().cpu().numpy() if hasattr(array, "detach") else array
        if self.xp.__name__ == "torch" and isinstance(array, self.xp.Tensor):
            return _moved(name, array, self.values[0].device)
        if not isinstance(array, (np.ndarray, np.generic)) and hasattr(array, "shape"):
            return array
        try:
            return self.xp.asarray(array, device=getattr(self.values[0], "device", None))
        except TypeError:  # a namespace whose `asarray` takes no device
            return self.xp.asarray(array)

    def narrow(self, array, dtype):
        xp = self.xp
        if xp.__name__ == "torch":
            return array.to(dtype)
        return array.astype(dtype, copy=False) if hasattr(array, "astype") else xp.astype(array, dtype, copy=False)


def _moved(name, tensor, device):
    return (tensor if device.type == "meta" else checks.with_numbers(name, tensor)).to(device)


def _is_foreign(value):
    return not isinstance(value, (np.ndarray, np.generic)) and (
        hasattr(value, "__array_namespace__") or _arrays.is_on_device(value)
    )


def check_real(name, array):
    """Raise for an array, of any library, that does not hold real numbers."""
    dtype = array.dtype
    if (dtype if isinstance(array, np.ndarray) else str(dtype).rpartition(".")[2]) not in _REAL:
        raise TypeError(say.real_dtype(name, dtype))


def _plain(name, value):
    if value is None:
        raise TypeError(say.not_an_array(name, type(None)))
    array = np.asarray(_arrays.take(name, value)[0])
    if array.dtype.kind == "f" and array.dtype.isnative:
        return array
    return array.astype(np.float64 if array.dtype.kind in "biu" else array.dtype.newbyteorder("="), copy=False)


def check_constant(data, name, value, rules=RULES):
    """Raise for values of an array out of range or not finite; not where asking would have to wait for a device."""
    if not data.at_hand:
        return
    rule, holds, *_ = rules[name]
    good = holds(value) & data.xp.isfinite(value)
    if not bool(good.all()):
        raise ValueError(say.constant_domain(name, rule, value[~good].reshape(-1).tolist()[0]))
