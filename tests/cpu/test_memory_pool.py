"""Memory of dropped results serves the next ones, and nothing else."""

import concurrent.futures
import gc
import os
import sys

import numpy as np
import pytest

import fastrecur
from fastrecur._arguments.arrays import address
from fastrecur._cpu.machine import memory_pool

pytestmark = [
    pytest.mark.skipif(not memory_pool.limit(), reason="nothing is kept by this interpreter"),
    pytest.mark.usefixtures("nothing_kept"),
]


@pytest.fixture
def x(rng):
    return rng.random((3000, 100))  # 2.4 MB


def smooth(x):
    return fastrecur.forget_mult(0.5, x)


def test_a_dropped_result_serves_the_next(x, free_memory):
    expected = smooth(x).copy()
    (memory,) = free_memory()
    for _ in range(3):
        h = smooth(x)
        assert not free_memory()
        assert memory <= address(h) < memory + 64
        np.testing.assert_array_equal(h, expected)
        h.fill(np.nan)
        del h
        assert list(free_memory()) == [memory]


def test_both_gradients(x, free_memory):
    h = smooth(x)
    grads = fastrecur.forget_mult_vjp(x, x, x, h)[:2]
    places = sorted(map(address, grads))
    del grads
    grads = fastrecur.forget_mult_vjp(x, x, x, h)[:2]
    assert sorted(map(address, grads)) == places
    assert not free_memory()


@pytest.mark.parametrize(
    "refer", [lambda h: h[5:7], lambda h: h.T, memoryview, lambda h: np.from_dlpack(h), lambda h: h.view(np.int64)]
)
def test_what_refers_to_memory_keeps_it_from_others(x, refer, free_memory):
    h = smooth(x)
    other = refer(h)
    before = np.array(other)
    del h
    assert not free_memory()
    assert not np.shares_memory(np.asarray(other), smooth(x + 1))
    np.testing.assert_array_equal(np.asarray(other), before)
    del other
    assert len(free_memory()) == 2


@pytest.mark.parametrize(("steps", "fits"), [(3000, True), (2401, True), (2390, False), (3001, False)])
def test_which_memory_fits(x, rng, steps, fits, free_memory):
    smooth(x)
    h = smooth(rng.random((steps, 100)))
    assert (not free_memory()) is fits
    assert h.shape == (steps, 100)


def test_the_smallest_that_fits(rng):
    both = [smooth(rng.random((n, 100))) for n in (3500, 3100)]
    place = address(both[1])
    del both
    assert abs(address(smooth(rng.random((3000, 100)))) - place) < 64


def test_small_results_are_not_kept(rng, free_memory):
    smooth(rng.random(memory_pool.SMALLEST // 8 - 64))
    assert not free_memory()


def test_what_nobody_can_use_is_given_back(x, rng, free_memory):
    smooth(x)
    other = rng.random((1500, 100))
    for _ in range(memory_pool.PATIENCE + 1):
        smooth(other)
        assert sum(free_memory().values()) > x.nbytes
    smooth(other)
    assert sum(free_memory().values()) < 2 * other.nbytes


def test_no_more_is_kept_than_agreed(monkeypatch, x, free_memory):
    """Neither of what is in use, of which the oldest become ordinary arrays, nor of what is free."""
    monkeypatch.setattr(memory_pool, "limit", lambda: 3 * x.nbytes)
    results = [smooth(x + k) for k in range(5)]
    assert 0 < memory_pool.kept_bytes() <= 3 * x.nbytes
    for k, h in enumerate(results):
        np.testing.assert_array_equal(h, smooth(x + k))
        assert memory_pool.kept_bytes() <= 3 * x.nbytes
    newest = address(results[-1])
    del results, h
    assert len(free_memory()) == 2
    assert any(memory <= newest < memory + 64 for memory in free_memory())
    monkeypatch.setattr(memory_pool, "limit", lambda: x.nbytes)
    smooth(x[:2000])
    assert len(free_memory()) == 1
    smooth(x)  # larger than all that may be kept
    assert len(free_memory()) == 1


def test_free_memory_goes_before_what_is_in_use(monkeypatch, x):
    monkeypatch.setattr(memory_pool, "limit", lambda: 3 * x.nbytes)
    held, place = smooth(x), address(smooth(x[:2000]))
    results = [smooth(x), smooth(x[:1000])]
    kept = [address(buffer.memory) for buffer in memory_pool._buffers]
    assert all(any(memory <= address(h) < memory + 64 for memory in kept) for h in (held, *results))
    assert not any(memory <= place < memory + 64 for memory in kept)


def test_each_request_looks_at_a_few(x):
    results = [smooth(x[:1000]) for _ in range(2 * memory_pool.MOST_BUFFERS)]
    assert len(memory_pool._buffers) == memory_pool.MOST_BUFFERS
    assert len({address(h) for h in results}) == len(results)


def test_kept_memory_goes_before_none_is_left(x, free_memory):
    held, _ = smooth(x), smooth(x)

    def scarce(*arguments):
        if free_memory():
            raise MemoryError
        return np.empty(*arguments)

    del _
    memory, _ = memory_pool.fresh(2 * x.nbytes, scarce)
    assert memory.nbytes == 2 * x.nbytes
    assert not free_memory()
    assert memory_pool.kept_bytes() == held.base.nbytes


@pytest.mark.parametrize("given", ["-1", "1e6", "all", "64 MB"])
def test_a_wrong_limit_is_told(monkeypatch, given):
    monkeypatch.setenv(memory_pool.VARIABLE, given)
    with pytest.raises(ValueError, match=f"FASTRECUR_KEEP_MEMORY must be a number of bytes.* got '{given}'"):
        memory_pool.limit.__wrapped__()


@pytest.mark.parametrize(("given", "limit"), [("0", 0), ("1000000", 1000000)])
def test_the_limit_that_is_given(monkeypatch, given, limit):
    monkeypatch.setenv(memory_pool.VARIABLE, given)
    assert memory_pool.limit.__wrapped__() == limit


def test_the_limit_by_default(monkeypatch):
    """Of a small machine, of a large one, and where the system does not tell."""
    monkeypatch.delenv(memory_pool.VARIABLE, raising=False)
    for pages, limit in (1 << 18, 64 << 20), (1 << 24, (256 << 20) + 64):
        sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": pages}
        monkeypatch.setattr(os, "sysconf", sizes.get, raising=False)
        assert memory_pool.limit.__wrapped__() == limit
    monkeypatch.delattr(os, "sysconf")
    assert memory_pool.limit.__wrapped__() == 64_000_000


def test_a_report_says_what_is_kept(monkeypatch, x, capsys):
    monkeypatch.setattr(memory_pool, "limit", lambda: 123_456_789)
    h = smooth(x)
    fastrecur.show_config()
    assert f"{h.nbytes / 1e6:.0f} MB for results, of 123 MB at most (FASTRECUR_KEEP_MEMORY)" in capsys.readouterr().out


def test_where_references_are_not_counted_nothing_is_kept(monkeypatch):
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    assert memory_pool._references_if_free() == 0
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: True, raising=False)
    assert memory_pool._references_if_free() == memory_pool._FREE > 0
    monkeypatch.setattr(sys, "getrefcount", lambda _: 1 << 30)  # of what never goes
    assert memory_pool._references_if_free() == 0
    monkeypatch.setattr(memory_pool, "_FREE", 0)
    assert memory_pool.limit.__wrapped__() == 0


def test_what_goes_while_memory_is_chosen():
    """The collector may run at any allocation, and drop results that are in cycles."""

    class Cycle:
        def __init__(self, k):
            self.itself, self.memory = self, memory_pool.borrow(5_000_000 + 10_000 * k)

    before = gc.get_threshold()
    gc.freeze()  # what is there already takes time to look through
    try:
        for k in range(200):
            gc.disable()
            blocks = [memory_pool.borrow(200_000 + 100_000 * n) for n in range(20)]
            del blocks
            gc.collect()
            Cycle(k)
            gc.set_threshold(1 + k % 30 + gc.get_count()[0], 10, 10)
            gc.enable()
            memory_pool.borrow(50_000_000)
    finally:
        gc.set_threshold(*before)
        gc.enable()


@pytest.mark.exhaustive
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is protected by Linux's own call")
def test_nothing_below_results_is_touched(run_python):
    """Scans up and down memory, with rows as large as huge pages: below a result stands what nobody may touch."""
    script = """
import ctypes, mmap
import numpy as np
import fastrecur
from fastrecur._cpu.machine import allocate as _allocate
guard, kept = 4 << 20, []
def borrow(nbytes):
    room = mmap.mmap(-1, guard + nbytes)
    block = (ctypes.c_char * nbytes).from_buffer(room, guard)
    place = ctypes.addressof(block)
    below = ctypes.c_void_p(place - guard), ctypes.c_size_t(guard)
    assert ctypes.CDLL(None).mprotect(*below, 0) == 0
    kept.append(room)
    return block, place
_allocate.aligned.__defaults__ = borrow, None
fastrecur.set_num_threads(2)
for lanes in (786432, 600000):
    f = np.full((8, lanes), 0.5, np.float32)
    x = np.ones_like(f)
    for reverse in (False, True):
        h = fastrecur.forget_mult(f, x, reverse=reverse)
        grads = fastrecur.forget_mult_vjp(x, f, x, h, reverse=reverse)
        assert h[0 if reverse else -1, -1] == 1 - 0.5**8 and np.isfinite(grads[0]).all()
import os
print("done", flush=True)
os._exit(0)  # what is protected cannot be given back in order
"""
    assert run_python(script).strip() == "done"


@pytest.mark.usefixtures("busy_collector")
def test_threads_and_the_garbage_collector(rng):
    """Results that go at any moment, cycles among them, are never two calls' at once."""
    operands = [rng.random((n, 100)) for n in (1500, 1600, 2000, 2400)]
    expected = [smooth(x).copy() for x in operands]

    class Cycle:
        def __init__(self, h):
            self.h, self.itself = h, self

    def work(seed):
        for k in np.random.default_rng(seed).integers(0, 4, 100):
            result = Cycle(smooth(operands[k]))
            np.testing.assert_array_equal(result.h, expected[k])

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_children_have_their_own(run_python):
    script = """
import os, warnings
import numpy as np
import fastrecur
warnings.simplefilter("ignore", DeprecationWarning)
x = np.arange(300000.0).reshape(3000, 100)
expected = fastrecur.forget_mult(0.5, x).copy()
child = os.fork()
h = fastrecur.forget_mult(0.5, x if child else -x)
assert np.array_equal(h, expected if child else -expected)
if child:
    assert os.waitpid(child, 0)[1] == 0
    assert np.array_equal(h, expected)
"""
    run_python(script)


@pytest.mark.exhaustive
def test_the_interpreter_ends_in_silence(run_python):
    script = """
import os, sys
import numpy as np
import fastrecur
os.dup2(1, 2)  # what is ignored at exit is told on stderr
x = np.ones((3000, 100))
kept = fastrecur.forget_mult(0.5, x)
sys.modules["fastrecur"].kept = fastrecur.forget_mult(0.5, x)
class Cycle: pass
cycle = Cycle()
cycle.itself, cycle.h = cycle, fastrecur.forget_mult(0.5, x)
def late(h=fastrecur.forget_mult(0.5, x)): pass
"""
    assert run_python(script) == ""


@pytest.mark.exhaustive
@pytest.mark.skipif(not hasattr(os, "fork"), reason="interrupts by an alarm")
def test_no_interrupt_is_lost(run_python):
    """Whenever it comes; and what is in use stays what it is, and what is dropped still serves the next."""
    script = """
import random, signal
import numpy as np
import fastrecur
fastrecur.set_num_threads(1)
raised = arrived = 0
def interrupt(*_):
    global raised
    raised += 1
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
random.seed(0)
for steps in (1000, 3000):  # 0.8 and 2.4 MB
    x = np.ones((steps, 100))
    held = {}
    for k in range(300):
        before = raised
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-4, 2e-3))
            while raised == before:
                h = fastrecur.forget_mult(1.0, x)
                h.fill(k)
                held[k % 3] = k, h
        except KeyboardInterrupt:
            arrived += 1
        for number, h in held.values():
            assert (h == number).all()
    held.clear()
    h = None
    places = []
    for _ in range(9):
        h = fastrecur.forget_mult(1.0, x)
        places.append(h.ctypes.data)
    assert len(set(places)) <= 2, places
print(raised, arrived)
"""
    raised, arrived = map(int, run_python(script).split())
    assert raised == arrived == 600


def resident(script):
    """Return a script that prints by how many MB its process grew, but for what it imports and its operands."""
    return f"""
import gc, os
import numpy as np
import fastrecur
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
fastrecur.set_num_threads(1)
{script}
gc.collect()
print((resident() - before) / 1e6)
"""


@pytest.mark.exhaustive
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("steps", [3000, 64000])
@pytest.mark.parametrize(("limit", "most"), [({}, 256 << 20), ({"FASTRECUR_KEEP_MEMORY": "0"}, 16e6)])
def test_memory_of_results_that_are_gone(run_python, steps, limit, most):
    script = f"""
x = np.ones(({steps}, 100))
fastrecur.forget_mult(0.5, x[:100])
before = resident()
results = [fastrecur.forget_mult(0.5, x) for _ in range(10**9 // x.nbytes)]
assert resident() - before > 0.9e9
results.clear()
"""
    assert float(run_python(resident(script), **limit)) * 1e6 <= most


@pytest.mark.exhaustive
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_a_shape_takes_for_ever(run_python):
    """More shapes than there are plans; each starts from zeros of half a megabyte."""
    script = """
lanes = 65536
flat = np.ones(2 * (lanes + 2000), np.float32)
def gradients(k):
    x = flat[: 2 * (lanes + k)].reshape(2, -1)
    fastrecur.forget_mult_vjp(x, x, x, x)
gradients(0)
before = resident()
for k in range(2000):
    gradients(37 * k % 2000)
"""
    assert float(run_python(resident(script))) <= 40  # 1,000 to 1,044 where each plan kept zeros


@pytest.mark.exhaustive
def test_sizes_need_no_classes(run_python):
    script = """
import gc
import numpy as np
import fastrecur
def classes():
    gc.collect()
    return sum(issubclass(type(value), type) for value in gc.get_objects())  # a proxy's object may be gone
x = np.ones(21000)
fastrecur.forget_mult(0.5, x)
before = classes()
for k in range(1000):
    fastrecur.forget_mult(0.5, x[k:])
print(classes() - before)
"""
    assert int(run_python(script)) <= 0
