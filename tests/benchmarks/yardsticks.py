"""What memory and a plain loop give: numba kernels that stand beside fastrecur in the same run."""

import ctypes
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from cases import ALPHA
from numba import njit

_kernel = njit(nogil=True, cache=True)


# Operands come as blocks: C-contiguous rows and the column at which the operand starts. Rows are
# sliced before the loop over elements, or it would not be vectorised.


@_kernel
def triad(f, f_at, x, x_at, h):
    for row in range(h.shape[0]):
        to = h[row]
        gate = f[row, f_at : f_at + to.size]
        value = x[row, x_at : x_at + to.size]
        for i in range(to.size):
            to[i] = value[i] + gate[i] * value[i]


@_kernel
def scalar_triad(f, x, x_at, h):
    for row in range(h.shape[0]):
        to = h[row]
        value = x[row, x_at : x_at + to.size]
        for i in range(to.size):
            to[i] = value[i] + f * value[i]


@_kernel
def copy(x, x_at, h):
    for row in range(h.shape[0]):
        to = h[row]
        value = x[row, x_at : x_at + to.size]
        for i in range(to.size):
            to[i] = value[i]


@_kernel
def loop(f, x, out):
    h = x.dtype.type(0)
    one = x.dtype.type(1)
    for t in range(x.size):
        h = f[t] * x[t] + (one - f[t]) * h
        out[t] = h


@_kernel
def scalar_loop(f, x, out):
    h = x.dtype.type(0)
    keep = x.dtype.type(1) - f
    for t in range(x.size):
        h = f * x[t] + keep * h
        out[t] = h


@_kernel
def vjp_loop(g, f, x, h, grad_f, grad_x):
    carry = x.dtype.type(0)
    one = x.dtype.type(1)
    for t in range(x.size - 1, -1, -1):
        carry = g[t] + carry
        before = h[t - 1] if t else x.dtype.type(0)
        grad_f[t] = (x[t] - before) * carry
        grad_x[t] = f[t] * carry
        carry = (one - f[t]) * carry


@_kernel
def scalar_vjp_loop(g, f, x, h, grad_x):
    carry = x.dtype.type(0)
    keep = x.dtype.type(1) - f
    total = 0.0
    for t in range(x.size - 1, -1, -1):
        carry = g[t] + carry
        before = h[t - 1] if t else x.dtype.type(0)
        total += (x[t] - before) * carry
        grad_x[t] = f * carry
        carry = keep * carry
    return total


class Team:
    """So many threads, of which the caller is one, as fastrecur's own."""

    def __init__(self, threads):
        self.threads = threads
        self._ids = []
        self._pool = ThreadPoolExecutor(
            max(1, threads - 1), initializer=lambda: self._ids.append(threading.get_native_id())
        )
        places = hasattr(os, "sched_setaffinity")
        self._all = os.sched_getaffinity(0) if places else set()
        self._processor = ctypes.CDLL(None).sched_getcpu if places else lambda: -1
        self._placed = None

    def run(self, function, arguments):
        """Call ``function(*each)`` for each of the arguments, one on every thread."""
        first, *others = arguments
        self._place()
        futures = [self._pool.submit(function, *each) for each in others]
        function(*first)
        for future in futures:
            future.result()

    def _place(self):
        """Keep threads off the caller's processor, which the system may have one share; fastrecur's wake off it."""
        here, others = self._processor(), list(self._ids)
        if self._placed != (here, others) and self._all - {here}:
            for thread in others:
                os.sched_setaffinity(thread, self._all - {here})
            self._placed = here, others

    def ranges(self, n, step=1):
        """Cut range(n) into one contiguous range a thread, at multiples of `step`."""
        threads = max(1, min(self.threads, n // step))
        cuts = [n * k // threads // step * step for k in range(threads)] + [n]
        return list(zip(cuts[:-1], cuts[1:], strict=True))


def streaming(team, case, data):
    """Return a call that streams the case's arrays, and the words it moves for an element."""
    shape = data.blocks["out"][0].shape
    if shape[0] > 1:
        cuts = [np.s_[low:high] for low, high in team.ranges(shape[0])]
    else:
        cuts = [np.s_[:, low:high] for low, high in team.ranges(shape[1], step=64)]
    parts = {name: [rows[cut] for cut in cuts] for name, (rows, _) in data.blocks.items()}
    x_at, f_at = data.blocks["x"][1], data.blocks["f"][1]
    if case.group.against == "copy":
        words, kernel = 2, copy
        heads = [(x, x_at) for x in parts["x"]]
    elif case.variant.direction == "forward" and case.variant.gate == "constant":
        words, kernel = 2, scalar_triad
        heads = [(data.dtype.type(ALPHA), x, x_at) for x in parts["x"]]
    else:
        words, kernel = 3, triad
        heads = [(f, f_at, x, x_at) for f, x in zip(parts["f"], parts["x"], strict=True)]

    def call():
        if case.variant.output == "fresh":
            out = np.empty(shape, data.dtype)
            tails = [out[cut] for cut in cuts]
        else:
            tails = parts["out"]
        team.run(kernel, [(*head, tail) for head, tail in zip(heads, tails, strict=True)])

    return call, words


def plain_loop(case, data):
    """Return a call of the loop that everyone would write, on one thread."""
    f, x, out = data.f, data.x, data.out
    gate = f if case.variant.gate == "full" else data.dtype.type(ALPHA)
    full = case.variant.gate == "full"

    def forward():
        to = np.empty_like(x) if case.variant.output == "fresh" else out
        (loop if full else scalar_loop)(gate, x, to)

    def vjp():
        if full:
            vjp_loop(data.g, gate, x, out, np.empty_like(x), np.empty_like(x))
        else:
            scalar_vjp_loop(data.g, gate, x, out, np.empty_like(x))

    return forward if case.variant.direction == "forward" else vjp
