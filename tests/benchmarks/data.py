"""The arrays of a case."""

import numpy as np


def find_dtype(name):
    """Return a dtype by name; None for bfloat16 where ml_dtypes is not installed."""
    if name != "bfloat16":
        return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError:
        return None
    return np.dtype(ml_dtypes.bfloat16)


class Data:
    """Gate `f` in [0, 1), candidate `x` and cotangent `g` in [-1, 1), and `out`, in a layout.

    Of each the memory is also kept as a plain two-dimensional array, ``blocks["x"] = (rows,
    first column)``, for yardsticks that walk the same memory without knowing its order.
    """

    def __init__(self, layout, dtype):
        self.layout = layout
        self.dtype = np.dtype(dtype)
        self.blocks = {}
        rng = np.random.default_rng(1)
        if layout.gates:
            width = layout.base[-1]
            product = _uniform(rng, (*layout.base[:-1], layout.gates * width), self.dtype)
            np.abs(product, out=product)  # gates lie in [0, 1); that x does too is no matter
            rows = product.reshape(-1, product.shape[-1])
            self.x, self.f = product[..., :width], product[..., width : 2 * width]
            self.blocks.update(x=(rows, 0), f=(rows, width))
        else:
            self.f = self._place("f", np.abs(_uniform(rng, layout.base, self.dtype)))
            self.x = self._place("x", _uniform(rng, layout.base, self.dtype))
        self.g = self._place("g", _uniform(rng, layout.base, self.dtype))
        self.out = self._place("out", np.zeros(layout.base, self.dtype))

    def _place(self, name, base):
        rows = base.reshape(-1, base.shape[-1]) if self.layout.gates else base.reshape(1, -1)
        self.blocks[name] = rows, 0
        return base.transpose(self.layout.order) if self.layout.order else base

    def narrowed(self, dtype):
        """Return this data rounded to a narrower dtype, and round the data itself alike."""
        narrow = Data.__new__(Data)
        narrow.layout, narrow.dtype, narrow.blocks = self.layout, np.dtype(dtype), {}
        for name in ("f", "x", "g", "out"):
            value = getattr(self, name)
            setattr(narrow, name, value.astype(dtype))
            value[...] = getattr(narrow, name)
        return narrow

    @property
    def elements(self):
        return self.x.size


def _uniform(rng, shape, dtype):
    values = rng.random(shape, dtype=dtype)
    values *= 2
    values -= 1
    return values
