"""What is run on a real card first, `tests/gpu/run.py`, seen to run: its problems, on a card that is not there."""

import importlib.util
import pathlib
import sys

import compare
import devices
import numpy as np
import pytest

from fastrecur._cuda import _launch, _recurrence

RUN = pathlib.Path(__file__).parent / "gpu" / "run.py"
LARGEST = 3000  # elements that are run here


@pytest.fixture
def run(monkeypatch):
    """The script as a module."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(compare, "carry_of", compare.carry_of)  # which the script sets
    spec = importlib.util.spec_from_file_location("gpu_run", RUN)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Library:
    """CuPy's stand-in by the script's few names; ``off`` is added to every number that is read."""

    name = "cupy"

    def __init__(self, cupy, off=0.0):
        self.cupy, self.off = cupy, off

    def put(self, array):
        return self.cupy.place(array.copy())

    def get(self, array):
        return np.asarray(array.host + array.dtype.type(self.off))

    def poison(self, size):
        """Nothing: all fresh memory is full of NaN."""


@pytest.fixture
def cupy(monkeypatch):
    """A card that is not there."""
    driver = devices.Driver()
    module = devices.Cupy(driver)
    monkeypatch.setattr(_launch, "driver", lambda: driver)
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr("fastrecur._cuda._arrays._libraries", {})
    monkeypatch.setattr(_recurrence, "_shortcuts", {})
    return module


def test_problems_are_right(run, cupy):
    small = [case for case in run.cases(False) if np.prod(case.value) <= LARGEST]
    kinds = {
        "sums": [case for case in small if case.gate != case.value and np.dtype(case.dtype).kind == "f"],
        "complex": [case for case in small if np.dtype(case.dtype).kind == "c"],
        "lengths": [case for case in small if case.lengths],
    }
    assert all(kinds.values())
    assert run.correctness(Library(cupy), small) == []
    first = [small[0], *(cases[0] for cases in kinds.values())]
    assert len(run.correctness(Library(cupy, off=0.01), first)) == len(first)
