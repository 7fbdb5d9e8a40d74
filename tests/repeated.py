"""Calls of one kind, again and again: what is remembered of the first must hold for those that come after it.

Each of some ways of calling a function is first run with nothing remembered, then with everything before it that may
lie between two calls.
"""

import itertools
import sys
import threading

import numpy as np

from fastrecur._cpu import filter_run, filters, host, levels, weighted_run
from fastrecur._plan import problem
from fastrecur.returns import _estimate as returns
from fastrecur.smoothing import _arguments as constants


def forget():
    """Forget all calls, as in a new process; kernels stay."""
    host._shortcuts.clear()
    returns._prepared.clear()
    problem.forward.cache_clear()
    problem.vjp.cache_clear()
    for remembered in (filter_run._known, filters.shared, filters._prepared):
        remembered.cache_clear()
    for remembered in (weighted_run._layout, levels._prepared):
        remembered.cache_clear()
    constants._of_numbers.cache_clear()
    if "fastrecur.torch" in sys.modules:
        from fastrecur.torch._operator import short_calls, tensors

        short_calls._known.clear()
        tensors._plan_forward.cache_clear()
        tensors._plan_vjp.cache_clear()


def check_again(ways, make, fill):
    """Check that every way gives what it gave with nothing remembered, in any order, whatever came in between.

    ``ways`` are functions of operands, by name; ``make`` is a function from a number to fresh operands, in one layout;
    ``fill(operands, others)`` writes the values of others into operands.
    """
    wanted = {}
    for name, call in ways.items():
        for number in range(3):
            forget()
            wanted[name, number] = numbers(call(*make(number)))

    def check(name, number, operands):
        results = numbers(ways[name](*operands))
        assert len(results) == len(wanted[name, number]), name
        for k, (result, right) in enumerate(zip(results, wanted[name, number], strict=True)):
            assert same(result, right), f"{name}, values {number}, result {k}: {result} in place of {right}"
        return [result.size for result in results]

    for name in ways:
        forget()
        operands = make(0)
        for _ in range(4):  # the same arrays
            sizes = check(name, 0, operands)
        fill(operands, make(1))  # other values in their place
        check(name, 1, operands)
        check(name, 2, make(2))  # other arrays
        del operands
        litter = [np.full(size, np.nan) for size in sizes for _ in range(4)]  # where results and operands were
        check(name, 0, make(0))
        del litter
        failed = []

        def elsewhere(name=name, failed=failed):
            try:
                check(name, 1, make(1))
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
    for one, other in itertools.permutations(ways, 2):
        forget()
        for name in (one, one, other, other, one, other, one):
            check(name, 0, make(0))


def numbers(results):
    """Return copies of all arrays and tensors of a result, in order."""
    if results is None:
        return []
    if isinstance(results, (tuple, list)):
        return [array for result in results for array in numbers(result)]
    if hasattr(results, "detach"):
        results = results.detach().resolve_conj().resolve_neg()
        results = (results.float() if results.dtype.itemsize == 2 else results).numpy()
    return [np.array(results)]


def same(one, other):
    """Return whether two arrays agree to the bit; a NaN may be any NaN."""
    is_nan = (one != one) & (other != other)  # of bfloat16 NumPy does not know which are NaN
    return one.dtype == other.dtype and one.shape == other.shape and bool(((one == other) | is_nan).all())
