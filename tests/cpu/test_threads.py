"""Many callers, many processes, and the number of threads."""

import concurrent.futures
import contextlib
import ctypes
import importlib.util
import inspect
import itertools
import os
import threading
import time

import numpy as np
import pytest
from compare import assert_same_bits
from numba import types
from thresholds import lower_thresholds

import fastrecur
from fastrecur._cpu.compiler import compile as _compile, native, python
from fastrecur._cpu.compiler.numba_internals import machine_code
from fastrecur._cpu.kernels import workers as _words
from fastrecur._cpu.machine import threads as _threads, workers as _workers

# Problems large enough for several threads, on every axis; and a small one.
PROBLEMS = [((300, 4097), 0), ((600, 2000), 1), ((5, 100, 2000), 1), ((1000000,), 0), ((5, 3), 0)]

# A problem that takes several threads, its result known beforehand; put before a script.
LARGE = """
import numpy as np
import fastrecur

x = np.ones((300, 4096), np.float32)

def check():
    h = fastrecur.forget_mult(0.5, x, 1.0)
    assert (h == 1).all()
    grads = fastrecur.forget_mult_vjp(np.zeros_like(h), 0.5, x, h)
    assert not grads[1].any()
    series = fastrecur.forget_mult(0.5, x.reshape(-1), 1.0)
    assert (series == 1).all()
"""


def slots():
    """Return what the block says of each worker that has been started, as words."""
    block = _workers._block()
    size = _workers.SLOT // 8
    return list(block.words[_workers.SLOTS // 8 :][: size * block.words[_workers.COUNT // 8]].reshape(-1, size))


def states():
    """Return what all workers do."""
    return [int(slot[_workers.STATE // 8]) for slot in slots()]


def until_asleep():
    """Wait until all workers sleep: a moment, or longer beside processes that keep the processors busy."""
    until = time.monotonic() + 300
    while any(state != _workers.ASLEEP for state in states()):
        assert time.monotonic() < until
        time.sleep(0.01)


@contextlib.contextmanager
def instead(word, function, result=ctypes.c_int, arguments=3):
    """Have workers and those who lead them call a function of ours instead of one of C."""
    words = _workers._block().words
    real, own = int(words[word // 8]), ctypes.CFUNCTYPE(result, *[ctypes.c_int64] * arguments)
    ours = own(lambda *given: function(own(real), *given))
    words[word // 8] = ctypes.cast(ours, ctypes.c_void_p).value
    try:
        yield
    finally:
        words[word // 8] = real


def run_all(problems):
    results = []
    for f, x, axis in problems:
        h = fastrecur.forget_mult(f, x, axis=axis)
        results += [h, *fastrecur.forget_mult_vjp(h, f, x, h, 0.5, axis=axis)]
    return results


@pytest.fixture
def problems(rng):
    return [(rng.random(shape, np.float32), rng.standard_normal(shape, np.float32), axis) for shape, axis in PROBLEMS]


def test_set_and_get(set_threads):
    for n in [1, 2, np.int64(1)]:
        assert set_threads(n) is None
        assert fastrecur.get_num_threads() == n
        assert type(fastrecur.get_num_threads()) is int


def test_eight_callers_at_once(problems):
    expected = run_all(problems)
    barrier = threading.Barrier(8)
    outcomes = [None] * 8

    def caller(i):
        barrier.wait()
        outcomes[i] = run_all(problems)

    threads = [threading.Thread(target=caller, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for results in outcomes:
        assert results is not None
        for result, right in zip(results, expected, strict=True):
            assert_same_bits(result, right)


def test_callers_that_change_the_number_of_threads(problems, set_threads):
    expected = run_all(problems)

    def caller(i):
        set_threads(1 + i % 2)
        return run_all(problems)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for results in pool.map(caller, range(8)):
            for result, right in zip(results, expected, strict=True):
                assert_same_bits(result, right)


def test_callers_within_a_full_pool(problems):
    # As many callers as a pool has workers, each wanting workers of its own: none may wait forever.
    expected = run_all(problems)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = [pool.submit(run_all, problems) for _ in range(2 * os.cpu_count())]
        for future in concurrent.futures.as_completed(futures, timeout=120):
            for result, right in zip(future.result(), expected, strict=True):
                assert_same_bits(result, right)


@pytest.mark.exhaustive
def test_first_call_from_many_threads_at_once(run_python):
    run_python(
        LARGE
        + """
import threading
failures = []
def caller():
    try:
        check()
    except BaseException as error:
        failures.append(error)
threads = [threading.Thread(target=caller) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert not failures, failures
"""
    )


@pytest.mark.exhaustive
@pytest.mark.parametrize("where", ["_workers._new_block", "_workers._entry", "_native.table"])
def test_a_call_from_where_a_worker_is_made(run_python, where):
    """A signal's handler makes it, or a finalizer."""
    run_python(
        LARGE
        + f"""
import faulthandler
from fastrecur._cpu.compiler import native as _native; from fastrecur._cpu.machine import workers as _workers
faulthandler.dump_traceback_later(60, exit=True)
fastrecur.set_num_threads(1)
check()  # compiled
fastrecur.set_num_threads(2)
real, calls = {where}, []
def handler(*arguments):
    calls.append(None)
    if len(calls) == 1:
        check()
    return real(*arguments)
{where} = handler
check()
assert calls
check()
"""
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_fork(run_python):
    # With a pool that has run already, whose threads the child does not have; and its grandchild.
    output = run_python(
        LARGE
        + """
import os, warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)

def fork_and_check(depth):
    if depth == 0:
        return
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            check()
            fork_and_check(depth - 1)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0

check()
fork_and_check(2)
check()
fork_and_check(1)
print("done")
"""
    )
    assert output == "done\n"


@pytest.mark.exhaustive
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_fork_while_another_thread_makes_its_first_call(run_python):
    output = run_python(
        """
import os, threading, time, warnings
import numpy as np
import fastrecur
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
x = np.ones((3, 4))
first = threading.Thread(target=fastrecur.forget_mult, args=(0.5, x))
first.start()
time.sleep(0.002)
pid = os.fork()
if pid == 0:
    os._exit(0 if fastrecur.forget_mult(0.5, x).shape == x.shape else 1)
for _ in range(600):
    done, status = os.waitpid(pid, os.WNOHANG)
    if done:
        break
    time.sleep(0.1)
else:
    os.kill(pid, 9)
assert done and status == 0
first.join()
print("done")
"""
    )
    assert output == "done\n"


@pytest.mark.exhaustive
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_fork_while_others_compute(run_python):
    run_python(
        LARGE
        + """
import os, threading, warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
check()
stop = threading.Event()
def compute():
    while not stop.is_set():
        fastrecur.forget_mult(0.5, x, 1.0)
threads = [threading.Thread(target=compute) for _ in range(3)]
[thread.start() for thread in threads]
try:
    for _ in range(10):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = int(not (fastrecur.forget_mult(0.5, x, 1.0) == 1).all())
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
finally:
    stop.set()
    [thread.join() for thread in threads]
"""
    )


@pytest.mark.exhaustive
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_worker_processes(run_python, method):
    run_python(
        LARGE
        + f"""
import multiprocessing

def work(_):
    check()
    return fastrecur.get_num_threads()

if __name__ == "__main__":
    check()
    context = multiprocessing.get_context({method!r})
    with context.Pool(2) as pool:
        assert len(pool.map(work, range(2))) == 2
"""
    )


@pytest.mark.parametrize("pool_before", [True, False])
def test_at_exit(run_python, pool_before):
    output = run_python(
        "import atexit\n"
        "atexit.register(lambda: (check(), print('first')))\n"
        + LARGE
        + "atexit.register(lambda: (check(), print('last')))\n"
        + "check()\n" * pool_before
        + "print('end')\n"
    )
    assert output.split() == ["end", "last", "first"]


@pytest.mark.exhaustive
def test_in_a_thread_that_outlives_the_main_one(run_python):
    output = run_python(
        LARGE
        + """
import threading, time
def late():
    threading.main_thread().join()
    time.sleep(0.2)
    check()
    print("late")
threading.Thread(target=late).start()
check()
"""
    )
    assert output == "late\n"


def test_default_honours_numba_num_threads(run_python):
    script = "import fastrecur; print(fastrecur.get_num_threads())"
    assert run_python(script, NUMBA_NUM_THREADS="1") == "1\n"


@pytest.mark.exhaustive
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity on this system")
def test_default_honours_affinity(run_python):
    script = """
import os
os.sched_setaffinity(0, {cpus})
import fastrecur
print(fastrecur.get_num_threads())
"""
    cpus = os.sched_getaffinity(0)
    assert run_python(script.format(cpus=cpus)) == f"{len(cpus)}\n"
    assert run_python(script.format(cpus={min(cpus)})) == "1\n"


def test_a_bad_call_leaves_the_pool_working(problems):
    expected = run_all(problems)
    with pytest.raises(ValueError, match="`axis`"):
        fastrecur.forget_mult(*problems[0][:2], axis=9)
    for result, right in zip(run_all(problems), expected, strict=True):
        assert_same_bits(result, right)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_worker_that_does_not_come(set_threads, workers):
    """Its items are done by the caller, whatever holds it; it comes for the next call."""
    set_threads(1 + workers)
    f, x = np.full((512, 4096), 0.5), np.ones((512, 4096))
    expected = fastrecur.forget_mult(f, x)
    until_asleep()
    kept = []
    with (
        instead(_workers.RELEASE, lambda real, lock, *_: kept.append(lock) or 0),
        concurrent.futures.ThreadPoolExecutor(1) as caller,
    ):
        for _ in range(3):
            assert_same_bits(caller.submit(fastrecur.forget_mult, f, x).result(timeout=20), expected)
    assert len(kept) == len(set(kept)) >= workers
    for lock in kept:
        ctypes.pythonapi.PyThread_release_lock(ctypes.c_void_p(lock))
    for rests in (False, False, True, False):
        if rests:
            until_asleep()
        assert_same_bits(fastrecur.forget_mult(f, x), expected)


def test_who_comes_late_never_looks_at_a_table(set_threads):
    """A worker that was given work, and gets its processor when all is done and the table is gone."""
    set_threads(2)
    f, x = np.full((512, 2048), 0.5), np.ones((512, 2048))
    expected = fastrecur.forget_mult(f, x)
    slot = slots()[0]
    for left in (0, 1, 5):
        for ticket in (_workers.TICKET, 7 * _workers.TICKET):
            until_asleep()
            # As of a call that is over: whatever is left is of a later one, or of an earlier that is still there.
            slot[_workers.COUNTER // 8] = 3 * _workers.TICKET + left
            slot[_workers.TABLE // 8] = 8  # nobody's memory
            slot[_workers.COUNTER_AT // 8] = slot.ctypes.data + _workers.COUNTER
            slot[_workers.STATE // 8] = ticket
            ctypes.pythonapi.PyThread_release_lock(ctypes.c_void_p(int(slot[_workers.LOCK // 8])))
            until_asleep()
            assert slot[_workers.COUNTER // 8] == 3 * _workers.TICKET + left
            assert_same_bits(fastrecur.forget_mult(f, x), expected)


def note(order, place):
    """Be a kernel that notes when it is called."""
    _words.store(place, _words.add(order, 1))


@pytest.mark.parametrize("team", ["workers", "OpenMP", "alone"])
@pytest.mark.parametrize(("calls", "chain"), [(1, 1), (2, 1), (64, 1), (64, 2), (60, 3), (61, 3), (2, 3)])
def test_every_call_is_done_once_and_a_chain_in_order(set_threads, team, calls, chain):
    """By whoever takes it; as often as the table is run."""
    set_threads(3)
    order, places = np.zeros(1, np.int64), np.full(calls, -1)
    kernel = native.callable_of(*machine_code(note, types.none(types.int64, types.int64)), 2)
    table = native.table([(kernel, order.ctypes.data, places[k:].ctypes.data) for k in range(calls)], chain)
    for turn in range(20):
        if team == "workers":
            _threads.run(table, 3)
        elif team == "alone":
            _threads.run(table, 1)
        else:
            enter, row = _workers.team_entry(table)
            call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(enter)
            threads = [threading.Thread(target=call, args=(row.ctypes.data,)) for _ in range(3)]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
        assert sorted(places) == list(range(turn * calls, (turn + 1) * calls))
        for first in range(0, calls, chain):
            assert np.all(np.diff(places[first : first + chain]) > 0)


def test_a_call_counts_on_workers_that_have_a_processor(set_threads):
    """Not on one that looked for work some time ago: others have its processor, and parts for two take one longer."""
    set_threads(2)
    fastrecur.forget_mult(np.full((512, 2048), 0.5), np.ones((512, 2048)))
    until_asleep()
    assert _workers.wake(2) == 2  # it will come
    assert _workers.wake(2) in (1, 2)
    until_asleep()
    for slot in slots():
        slot[_workers.LOOKED // 8] = 0
    for state in (_workers.AWAKE, _workers.TAKEN, _workers.TICKET):
        for slot in slots():
            slot[_workers.STATE // 8] = state
        try:
            assert _workers.wake(2) == 1
        finally:
            for slot in slots():
                slot[_workers.STATE // 8] = _workers.ASLEEP
    assert _workers.wake(2) == 2


def test_workers_woken_in_vain(set_threads):
    """While they work, wait or sleep: they wake, and wait for work for a while."""
    set_threads(2)
    f, x = np.full((512, 2048), 0.5), np.ones((512, 2048))
    expected = fastrecur.forget_mult(f, x)
    with concurrent.futures.ThreadPoolExecutor(1) as caller:
        for _ in range(20):
            came = caller.submit(fastrecur.forget_mult, f, x)
            while not came.done():
                _threads.prewake(2)
            assert_same_bits(came.result(), expected)
    for _ in range(3):
        until_asleep()
        _threads.prewake(2)
        assert states()[0] == _workers.AWAKE
        assert_same_bits(fastrecur.forget_mult(f, x), expected)
    until_asleep()
    assert_same_bits(fastrecur.forget_mult(f, x), expected)


def test_short_calls_wake_nobody(set_threads):
    set_threads(2)
    fastrecur.forget_mult(0.5, np.ones((512, 2048)))
    until_asleep()
    x = np.ones((100, 100))
    fastrecur.forget_mult_vjp(x, x, x, fastrecur.forget_mult(x, x))
    fastrecur.forget_mult(x, x, 1.0)
    assert set(states()) == {_workers.ASLEEP}


@pytest.mark.exhaustive
def test_threads_of_half_a_megabyte(run_python):
    """A stack of that size is enough for any kernel, as the documentation says."""
    script = """
import threading
import numpy as np
import fastrecur

fastrecur.set_num_threads(1)
wide = np.full((600, 1400), 0.5)
forms = [wide, wide[:, ::2], wide[:, ::-1], wide[:, ::5], wide.T, wide[:, ::2].T, wide[:, :3], wide[::2, :3]]

def run():
    for x in forms:
        for kind in (float, complex):
            b = x if kind is float else x + 0j if x.flags.c_contiguous else (wide + 0j)[:, ::2]
            h = fastrecur.linear_recurrence(b, b)
            fastrecur.linear_recurrence_vjp(b, b, b, h)
        h = fastrecur.forget_mult(x, x)
        fastrecur.forget_mult_vjp(h, x, x, h)
    done.append(True)

done = []
run()  # compiled, which may take more
threading.stack_size(512 << 10)
thread = threading.Thread(target=run)
thread.start()
thread.join()
print(done)
"""
    assert run_python(script).split() == ["[True,", "True]"]


@pytest.mark.parametrize("shape", [(50, 640), (50, 3, 256)])
@pytest.mark.parametrize("has_state", [False, True])
def test_states_of_threads_stand_apart(monkeypatch, rng, shape, has_state):
    """A processor fetches the lines behind those that it walks; another thread would wait for its own at every step."""
    lower_thresholds(monkeypatch.setattr)
    places = []

    def run(calls, threads=None):
        if isinstance(calls, np.ndarray):  # a table, of calls of which no more than addresses differ from time to time
            given = [row[1 : 2 + row[1]].tolist() for row in native.rows_of(calls)]
        else:
            calls = given = list(calls)
        # The address of the states, and which of the rows and of their lanes are this thread's.
        places.append([(call[7 if len(call) > 17 else 5], *call[-4:]) for call in given])
        _threads.run(calls, threads)

    f, x, h0 = rng.random(shape), rng.standard_normal(shape), rng.standard_normal(shape[1:]) if has_state else None
    with _threads.lent(_threads.Team(3, run)):
        h, last = fastrecur.forget_mult(f, x, h0, return_state=True)
        assert_same_bits(fastrecur.forget_mult(f, x, h0), h)
        grads = fastrecur.forget_mult_vjp(x, f, x, h, h0, grad_state=last)
        fastrecur.forget_mult_vjp(x, f, x, h, h0)
    assert len(places) == 4
    for calls in places:
        assert 3 <= len(calls) <= 6  # a gradient has two for each thread
        spans = [
            (at + 8 * (first * shape[-1] + low), at + 8 * ((until - 1) * shape[-1] + high))
            for at, first, until, low, high in calls
        ]
        assert all(after[0] - before[1] >= 256 for before, after in itertools.pairwise(spans))
    with _threads.lent(_threads.Team(1, _threads.run)):
        alone = fastrecur.forget_mult(f, x, h0, return_state=True)
        for one, right in zip((h, last), alone, strict=True):
            assert_same_bits(one, right)
        for one, right in zip(grads, fastrecur.forget_mult_vjp(x, f, x, h, h0, grad_state=last), strict=True):
            assert (one is None) == (right is None)
            if one is not None:
                assert_same_bits(one, right)


# ---- What must not go wrong -----------------------------------------------------------------------------------------


@pytest.mark.exhaustive
def test_interrupts(run_python):
    """They lose no worker, and no worker writes where it should not; the next calls work."""
    output = run_python(
        LARGE
        + inspect.getsource(slots)
        + """
import signal, time
from fastrecur._cpu.machine import workers as _workers
fastrecur.set_num_threads(4)
check()
def interrupt(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
came, until = 0, time.monotonic() + 5
while time.monotonic() < until or came <= 20:  # under emulation few come in that time
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-5 + 1e-3 * np.random.random())
        for _ in range(10):
            fastrecur.forget_mult(0.5, x, 1.0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        came += 1
    assert not np.zeros(32).any()
signal.signal(signal.SIGALRM, signal.SIG_IGN)
for _ in range(10):
    check()
assert len(slots()) == 3
while any(slot[_workers.STATE // 8] != _workers.ASLEEP for slot in slots()):
    time.sleep(0.01)
print("done")
"""
    )
    assert output == "done\n"


@pytest.mark.exhaustive
@pytest.mark.parametrize("threads", ["2", "32"])
def test_exits_beside_workers_that_are_awake(run_python, threads):
    """A worker's slot outlives it, whatever is freed at exit and used for something else."""
    script = (
        LARGE
        + """
class Last:
    def __del__(self):
        zeros = [np.zeros(24 * k) for k in range(1, 200)]
        assert not any(z.any() for z in zeros)
        h = fastrecur.forget_mult(0.5, x, 1.0)
        print(bool((h == 1).all()))
check()
import builtins
builtins.last = Last()
"""
    )
    for _ in range(3):
        assert run_python(script, NUMBA_NUM_THREADS=threads) == "True\n"


@pytest.mark.exhaustive
@pytest.mark.skipif(importlib.util.find_spec("gevent") is None, reason="gevent is not installed")
@pytest.mark.parametrize("order", ["gevent first", "fastrecur first"])
def test_workers_are_threads_where_gevent_replaces_them(run_python, order):
    patch, ours = "from gevent import monkey\nmonkey.patch_all()\n", LARGE
    output = run_python(
        "import warnings\nwarnings.simplefilter('ignore')\n"
        + (patch + ours if order == "gevent first" else ours + patch)
        + inspect.getsource(slots)
        + """
import faulthandler, gevent
from fastrecur._cpu.machine import workers as _workers
faulthandler.dump_traceback_later(100, exit=True)
fastrecur.set_num_threads(2)
jobs = [gevent.spawn(check) for _ in range(4)]
gevent.joinall(jobs, raise_error=True)
assert len(slots()) == 1
print("done")
"""
    )
    assert output == "done\n"


def test_a_kernel_is_given_as_many_arguments_as_it_takes():
    kernel = _compile.kernel("rows.forward", "forget_same", "f8", a="f8", b="f8", h="f8", flags="b1")
    for count in (0, 15, 17, 33, 500):
        with pytest.raises(TypeError, match=f"takes 16 arguments here, and {count} came"):
            kernel(*[0] * count)
        with pytest.raises(TypeError, match=f"takes 16 arguments here, and {count} came"):
            native.table([(kernel, *[0] * count)])
        with pytest.raises(TypeError, match=f"takes 16 arguments here, and {count} came"):
            native.prepared(kernel, [0] * count, (1, 2), 4, 1, releases=False, owners=())
    with pytest.raises(ValueError, match="256 words .* 257"):
        native.prepared(kernel, [0] * 16, (1, 2), 4, 257, releases=False, owners=())
    prepared = native.prepared(kernel, [0] * 16, (1, 2), 4, 1, releases=False, owners=())
    with pytest.raises(TypeError, match="takes 2 arguments here, and 3 came"):
        prepared(0, 0, 0)


@pytest.mark.exhaustive
@pytest.mark.parametrize("missing", ["sched_yield", "PyThread_start_new_thread"])
def test_where_the_system_lacks_a_function_for_workers(run_python, missing):
    """Calls run on one thread: slower, and right."""
    assert missing in python.WORKERS
    output = run_python(
        f"""
from fastrecur._cpu.compiler import python as _python; from fastrecur._cpu.machine import workers as _workers
real = _python.addresses
_python.addresses = lambda names: {{}} if {missing!r} in names else real(names)
"""
        + LARGE
        + """
fastrecur.set_num_threads(2)
for _ in range(3):
    check()
fastrecur.forget_mult(0.5, x[:3, :3])
assert not _workers.can_hire()
print("done")
"""
    )
    assert output == "done\n"
