"""Memory of dropped results serves the next ones, and nothing else."""

import concurrent.futures
import ctypes
import gc
import os
import sys

import numpy as np
import pytest

import fastrecur
from fastrecur import _blocks
from fastrecur._arrays import address

pytestmark = [
    pytest.mark.skipif(not _blocks.keeps(), reason="nothing is kept on this system"),
    pytest.mark.usefixtures("nothing_kept"),
]


@pytest.fixture
def x(rng):
    return rng.random((3000, 100))  # 2.4 MB


def smooth(x):
    return fastrecur.forget_mult(0.5, x)


def kept_bytes():
    return sum(size for size, _ in _blocks._kept)


def test_a_dropped_result_serves_the_next(x):
    expected = smooth(x).copy()
    (key,) = _blocks._kept
    for _ in range(3):
        h = smooth(x)
        assert not _blocks._kept
        assert key[1] <= address(h) < key[1] + 64
        np.testing.assert_array_equal(h, expected)
        h.fill(np.nan)
        del h
        assert list(_blocks._kept) == [key]


def test_both_gradients(x):
    h = smooth(x)
    grads = fastrecur.forget_mult_vjp(x, x, x, h)[:2]
    places = sorted(map(address, grads))
    del grads
    grads = fastrecur.forget_mult_vjp(x, x, x, h)[:2]
    assert sorted(map(address, grads)) == places
    assert not _blocks._kept


@pytest.mark.parametrize(
    "refer", [lambda h: h[5:7], lambda h: h.T, memoryview, lambda h: np.from_dlpack(h), lambda h: h.view(np.int64)]
)
def test_what_refers_to_memory_keeps_it_from_others(x, refer):
    h = smooth(x)
    other = refer(h)
    before = np.array(other)
    del h
    assert not _blocks._kept
    assert not np.shares_memory(np.asarray(other), smooth(x + 1))
    np.testing.assert_array_equal(np.asarray(other), before)
    del other
    assert len(_blocks._kept) == 2


@pytest.mark.parametrize(("steps", "fits"), [(3000, True), (2401, True), (2390, False), (3001, False)])
def test_which_memory_fits(x, rng, steps, fits):
    smooth(x)
    h = smooth(rng.random((steps, 100)))
    assert (not _blocks._kept) is fits
    assert h.shape == (steps, 100)


def test_the_smallest_that_fits(rng):
    both = [smooth(rng.random((n, 100))) for n in (3500, 3100)]
    place = address(both[1])
    del both
    assert abs(address(smooth(rng.random((3000, 100)))) - place) < 64


def test_small_results_are_not_kept(rng):
    smooth(rng.random(_blocks.SMALLEST // 8 - 64))
    assert not _blocks._kept


def test_what_nobody_can_use_is_given_back(x, rng):
    smooth(x)
    other = rng.random((1500, 100))
    for _ in range(_blocks.PATIENCE):
        smooth(other)
        assert kept_bytes() > x.nbytes
    smooth(other)
    assert kept_bytes() < 2 * other.nbytes


def test_no_more_is_kept_than_agreed(monkeypatch, x):
    monkeypatch.setattr(_blocks, "MOST", 3 * x.nbytes)
    results = [smooth(x) for _ in range(5)]
    while results:
        results.pop(0)
        assert kept_bytes() <= _blocks.MOST
    assert len(_blocks._kept) == 2
    monkeypatch.setattr(_blocks, "MOST", x.nbytes)
    smooth(x)
    assert not _blocks._kept


def test_kept_memory_goes_before_none_is_left(monkeypatch, x, rng):
    smooth(x)
    empty = np.empty

    def scarce(*arguments, **options):
        if _blocks._kept:
            raise MemoryError
        return empty(*arguments, **options)

    monkeypatch.setattr(np, "empty", scarce)
    memory, _ = _blocks.borrow(2 * x.nbytes)
    assert ctypes.sizeof(memory) == 2 * x.nbytes
    assert not _blocks._kept


def test_systems_that_take_no_advice(monkeypatch, x):
    monkeypatch.setattr(_blocks, "_advice", lambda: None)
    h = smooth(x)
    expected = h.copy()
    del h
    assert not _blocks._kept
    np.testing.assert_array_equal(smooth(x), expected)


def test_which_pages_the_system_may_have(monkeypatch, rng):
    """Whole large ones, all but the ends, of what the process does not keep to itself."""
    x = rng.random((4000, 1000))
    expected = smooth(x).copy()
    ((_, start),) = _blocks._kept
    asked = []
    monkeypatch.setattr(_blocks, "_madvise", lambda: lambda *arguments: asked.append(arguments))
    monkeypatch.setattr(_blocks, "OWN", 4 * x.nbytes)
    smooth(x)
    assert not asked
    monkeypatch.setattr(_blocks, "OWN", 0)
    h = smooth(x)
    assert start <= address(h) < start + 64
    np.testing.assert_array_equal(h, expected)
    del h
    ((first, nbytes, _),) = asked
    assert start <= first < first + nbytes <= start + x.nbytes + 64
    assert first % _blocks.LARGE_PAGE == nbytes % _blocks.LARGE_PAGE == 0
    assert nbytes > x.nbytes - 2 * _blocks.LARGE_PAGE
    smooth(x[:100])
    assert len(asked) == 1  # the older ones' pages are offered already


def test_the_newest_are_not_offered(monkeypatch, rng):
    """Results whose memory serves the next at once are spared the system's bookkeeping."""
    x = rng.random((4000, 1000))
    results = [smooth(x) for _ in range(4)]
    places = [address(h) for h in results]
    asked = []
    monkeypatch.setattr(_blocks, "_madvise", lambda: lambda first, *_: asked.append(first))
    monkeypatch.setattr(_blocks, "OWN", int(2.5 * x.nbytes))
    for k in range(4):
        results[k] = None
        assert len(asked) == max(0, k - 1)
    assert all(place <= first < place + _blocks.LARGE_PAGE for place, first in zip(places, asked, strict=False))


def test_what_goes_while_memory_is_chosen():
    """The collector may run at any allocation, and drop results that are in cycles."""

    class Cycle:
        def __init__(self, k):
            self.itself, self.memory = self, _blocks.borrow(5_000_000 + 10_000 * k)

    before = gc.get_threshold()
    gc.freeze()  # what is there already takes time to look through
    try:
        for k in range(200):
            gc.disable()
            blocks = [_blocks.borrow(200_000 + 100_000 * n) for n in range(20)]
            del blocks
            gc.collect()
            Cycle(k)
            gc.set_threshold(1 + k % 30 + gc.get_count()[0], 10, 10)
            gc.enable()
            _blocks.borrow(50_000_000)
    finally:
        gc.set_threshold(*before)
        gc.enable()
        gc.unfreeze()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is protected by Linux's own call")
def test_pages_are_asked_for_within_results(run_python):
    """Walks up and down memory, with rows as large as the pages: below a result stands what nobody may touch."""
    script = """
import ctypes, mmap
import numpy as np
import fastrecur
from fastrecur import _problem
guard, kept = 4 << 20, []
def borrow(nbytes):
    room = mmap.mmap(-1, guard + nbytes)
    block = (ctypes.c_char * nbytes).from_buffer(room, guard)
    place = ctypes.addressof(block)
    below = ctypes.c_void_p(place - guard), ctypes.c_size_t(guard)
    assert ctypes.CDLL(None).mprotect(*below, 0) == 0
    kept.append(room)
    return block, place
_problem.aligned.__defaults__ = borrow, 0
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


def test_used_memory_has_its_pages():
    """So that nobody has to see to them on the way."""
    first = fastrecur.forget_mult(0.5, np.ones((1000, 640)))
    assert not _blocks.has_pages(address(first))
    place = address(first)
    del first
    second = fastrecur.forget_mult(0.5, np.ones((1000, 640)))
    assert address(second) == place
    assert _blocks.has_pages(place)
    del second
    assert not _blocks.has_pages(place)
