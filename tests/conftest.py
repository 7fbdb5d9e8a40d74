"""What every test may ask for."""

import collections
import contextlib
import gc
import importlib.util
import os
import subprocess
import sys
import zlib
from pathlib import Path

import hypothesis
import numpy as np
import pytest

pytest.register_assert_rewrite("compare")
HERE = Path(__file__).parent
# What several rooms use: operands of tests of arrays among them.
SHARED = [str(HERE / name) for name in ("gpu_tools", "arrays", "cpu", "docs", "smoothing", "filters")]
sys.path += SHARED

from thresholds import lower_thresholds  # noqa: E402

os.environ.setdefault("FASTRECUR_BUNDLE", "0")  # tests are of kernels that are made here

import fastrecur  # noqa: E402 - after the line above, which must precede the import of compare
from fastrecur._arguments.arrays import address  # noqa: E402
from fastrecur._cpu import host  # noqa: E402
from fastrecur._cpu.machine import allocate, memory_pool, threads as _threads  # noqa: E402
from fastrecur._plan import problem  # noqa: E402

# Compilation makes the first example of a kind slow, and a failure must be the same everywhere.
hypothesis.settings.register_profile(
    "fastrecur",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=40,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("fastrecur")


if importlib.util.find_spec("numba_cuda") is None:
    # They compile kernels, for which no card is needed: pip install '.[test,cuda13]'.
    collect_ignore_glob = ["gpu/test_gpu_*.py", "torch/*_cuda.py"]


def pytest_ignore_collect(collection_path, config):
    """Look for doctests in tests alone: a script may change the process that imports it."""
    is_other = collection_path.suffix == ".py" and not collection_path.name.startswith("test_")
    return True if is_other else None


def pytest_report_header(config):
    """Say why tests are left out."""
    if "collect_ignore_glob" in globals():
        return "no tests of GPU kernels: numba-cuda is missing, pip install '.[test,cuda13]'"
    return None


@pytest.hookimpl(tryfirst=True)  # before `-m` selects by marks
def pytest_collection_modifyitems(config, items):
    """Mark cases of a test `exhaustive`, except as many as it takes for each value of each parameter to occur once.

    What the mark `sample` says of a parameter are the only values of it for which that holds.
    """
    tests, left_out = collections.defaultdict(dict), []
    for item in items:
        if hasattr(item, "callspec") and not item.get_closest_marker("exhaustive"):
            cases, given = tests[item.parent, item.originalname], item.callspec.params
            sample = item.get_closest_marker("sample")
            if sample and not all(given[name] in values for name, values in sample.kwargs.items()):
                left_out.append(item)
            else:
                cases[item] = {(name, repr(given[name])) for name in given}
    for (_, name), cases in tests.items():
        if not cases and not any("[" in argument for argument in config.args):
            raise pytest.UsageError(f"no case of {name} is of those that its mark `sample` allows")
        missing = set().union(*cases.values())
        while missing:
            missing -= cases.pop(max(cases, key=lambda case: len(cases[case] & missing)))
        left_out += cases
    for item in left_out:
        item.add_marker("exhaustive")


def pytest_collection_finish(session):
    """Look for garbage less often, and only in what tests make: compiling makes many cycles, which can wait."""
    gc.freeze()
    gc.set_threshold(20_000, 5, 5)


@pytest.fixture
def rng(request):
    """Random numbers that are a test's own, the same in every run, in whatever folder it stands."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.rpartition("/")[2].encode()))


@pytest.fixture
def cupy(monkeypatch):
    """CuPy, on a card that is not there."""
    import devices

    from fastrecur._cuda import call, launch

    driver = devices.Driver()
    module = devices.Cupy(driver)
    monkeypatch.setattr(launch, "driver", lambda: driver)
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr("fastrecur._cuda.arrays.libraries", {})
    monkeypatch.setattr(call, "_shortcuts", {})
    return module


@pytest.fixture
def gpu(cupy, monkeypatch):
    """That card; `fastrecur`'s functions run NumPy's arrays on it, as if they were CuPy's."""
    import devices

    devices.run_on(cupy, monkeypatch.setattr)
    yield cupy.driver
    cupy.driver.forget()


@pytest.fixture
def both(monkeypatch):
    """Twice: with results that stay in the cache, then with such as go past it, as where all of them are larger."""

    def ways():
        yield "in the cache"
        lower_thresholds(monkeypatch.setattr)
        yield "past it"

    return ways


@pytest.fixture
def forget_plans(monkeypatch):
    """Return what makes all plans anew: they remember what became of the last of their kind, and thresholds."""

    def forget():
        monkeypatch.setattr(host, "_shortcuts", {})
        problem.forward.cache_clear()
        problem.vjp.cache_clear()

    yield forget
    forget()


@pytest.fixture
def rows_of_any_length(monkeypatch, forget_plans):
    """Rows of few series are not narrow: of those a kernel is compiled for each length, which test_narrow has."""
    monkeypatch.setattr(problem, "NARROW_LEAST", sys.maxsize)
    forget_plans()


@pytest.fixture(autouse=True)
def poisoned_results(monkeypatch):
    """Memory that results are written to holds NaN: what is not written is seen, however large they are."""
    empty = allocate.empty

    def poisoned(*arguments, **options):
        array = empty(*arguments, **options)
        array.fill(np.nan if array.dtype.kind != "u" else np.iinfo(array.dtype).max)  # bfloat16's NaN
        return array

    monkeypatch.setattr(allocate, "empty", poisoned)


@pytest.fixture(autouse=True)
def zeros_to_start_from():
    """No kernel writes to the zeros that all plans start from, which also stand for results that are not wanted."""
    yield
    assert not allocate.ZEROS.any()


@pytest.fixture
def nothing_kept():
    """No memory of another test's results is there to be used again."""
    gc.collect()
    gc.freeze()  # what the compiler keeps is millions of objects, which this test does not look through again
    memory_pool._buffers.clear()


@pytest.fixture
def free_memory():
    """Return what tells where the pool has memory that nobody uses, and how many bytes."""

    def free():
        return {
            address(buffer.memory): buffer.nbytes
            for buffer in memory_pool._buffers
            if memory_pool._references(buffer) == memory_pool._FREE
        }

    return free


@pytest.fixture
def busy_collector():
    """Garbage is collected at any moment."""
    before = gc.get_threshold()
    gc.set_threshold(5)
    yield
    gc.set_threshold(*before)


@pytest.fixture(scope="session", autouse=True)
def workers_that_come():
    """Let calls count on workers whatever else the machine does: tests ask which way a call goes."""
    real = _threads.prewake
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(_threads, "prewake", lambda threads: real(threads) and threads)
        yield


@pytest.fixture
def set_threads():
    """Return `fastrecur.set_num_threads`, and restore the number of threads afterwards."""
    before = fastrecur.get_num_threads()
    yield fastrecur.set_num_threads
    fastrecur.set_num_threads(before)


@pytest.fixture
def torch_teams(monkeypatch, set_threads):
    """Return how many of torch's threads each call took, in order; restore the numbers of threads afterwards."""
    import torch

    from fastrecur.torch._operator import team

    used, run, before = [], team._run, torch.get_num_threads()

    def spy(calls, threads=None):
        used.append(threads or len(calls))
        run(calls, threads)

    monkeypatch.setattr(team, "_run", spy)
    yield used
    torch.set_num_threads(before)


@pytest.fixture
def fake_device(monkeypatch):
    """Return a context in which tensors of a device that is not there are fake; those of meta need none."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    def sliced(tensor, index):
        """Return a tensor's items: torch without CUDA does not take slices of fake tensors of such a device."""
        index = index if isinstance(index, tuple) else (index,)
        at = 0
        for item in index:
            if item is Ellipsis:
                break
            if isinstance(item, slice):
                tensor = torch.ops.aten.slice.Tensor(tensor, at, item.start, item.stop, item.step or 1)
                at += 1
            else:
                tensor = tensor.select(at, item)
        return tensor

    def context(device):
        if device == "meta":
            return contextlib.nullcontext()
        monkeypatch.setattr(torch.Tensor, "__getitem__", sliced)
        return FakeTensorMode()

    return context


@pytest.fixture
def run_python(tmp_path):
    """Run a script in a fresh interpreter that finds the package under test; return its output."""

    def run(script, **environment):
        path = tmp_path / "script.py"
        path.write_text(script)
        places = [str(Path(fastrecur.__file__).parents[1]), str(HERE), *SHARED]
        inherited = {k: v for k, v in os.environ.items() if k != "NUMBA_NUM_THREADS"}
        done = subprocess.run(
            [sys.executable, "-W", "error", str(path)],
            env=inherited | {"PYTHONPATH": os.pathsep.join(places)} | environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=int(os.environ.get("FASTRECUR_TEST_SECONDS", 300)),  # longer where a processor is emulated
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture
def cut(monkeypatch):
    """Let short time be cut into tiles on a GPU as long time is, or not at all."""
    import devices

    from fastrecur._cuda import call, plan

    def forget_plans():
        call._shortcuts.clear()
        plan.forward.cache_clear()
        plan.vjp.cache_clear()

    def choose_by(is_cut):
        uncut = lambda *arguments: choose(*arguments)._replace(tiles=1)  # noqa: E731
        monkeypatch.setattr(plan, "choose", devices.looking_back(choose) if is_cut else uncut)
        forget_plans()

    choose = plan.choose
    yield choose_by
    forget_plans()
