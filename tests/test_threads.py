"""Many callers, many processes, and the number of threads."""

import concurrent.futures
import itertools
import os
import threading
import time
import types

import numpy as np
import pytest
from compare import assert_same_bits
from thresholds import lower_thresholds

import fastrecur
from fastrecur import _run, _threads
from fastrecur._cpu import _native

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


def until_asleep():
    """Wait until all workers sleep: a moment, or longer beside processes that keep the processors busy."""
    until = time.monotonic() + 300
    while any(not worker.is_asleep() for worker in _threads._idle):
        assert time.monotonic() < until
        time.sleep(0.01)


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


@pytest.mark.parametrize("where", ["_native.lock_mail", "_native.functions", "threading.Thread._set_ident"])
def test_a_call_from_where_a_worker_is_made(run_python, where):
    """A signal's handler makes it, or a finalizer, here or on the new thread, for which who starts it waits."""
    run_python(
        LARGE
        + f"""
import faulthandler, threading
from fastrecur._cpu import _native
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


@pytest.mark.parametrize("where", ["before a worker is woken", "after", "before the caller's own share"])
@pytest.mark.parametrize("rest", [lambda: None, until_asleep], ids=["awake", "asleep"])
def test_interrupts(monkeypatch, set_threads, where, rest):
    """An interrupted call ends when its workers are done with its arrays; the next calls work."""
    set_threads(2)
    f, x = np.full((512, 2048), 0.5), np.ones((512, 2048))
    expected = fastrecur.forget_mult(f, x)
    rest()
    native, asked = _native.functions(), []

    def post(*arguments):
        answer = native.post(*arguments)
        asked.append(arguments[0])
        if where == "after" and answer & native.SLEEPS:
            next(worker for worker in workers if worker.mail == arguments[0]).rouse()
        if where != "before the caller's own share":
            raise KeyboardInterrupt
        return answer

    def lead(*arguments):
        raise KeyboardInterrupt

    workers = list(_threads._idle)
    with monkeypatch.context() as patches:
        functions = types.SimpleNamespace(post=post, lead=lead, SLEEPS=native.SLEEPS, MEETS=native.MEETS)
        patches.setattr(_native, "functions", lambda: functions)
        patches.setattr(_threads, "share", lambda *arguments: False)  # of which no part can be interrupted
        patches.setattr(_threads, "stir", lambda n: None)
        with pytest.raises(KeyboardInterrupt):
            fastrecur.forget_mult(f, x)
    assert asked
    assert all(worker.is_done() for worker in _threads._idle)
    assert_same_bits(fastrecur.forget_mult(f, x), expected)
    rest()
    assert_same_bits(fastrecur.forget_mult(f, x), expected)


@pytest.fixture
def processors():
    """Return two processors that this process may run on, and let this thread run on all afterwards."""
    if not hasattr(os, "sched_setaffinity") or len(all_ := os.sched_getaffinity(0)) < 2:
        pytest.skip("threads cannot be kept apart: one processor, or a system that does not place threads")
    place = os.sched_setaffinity
    yield sorted(all_)[:2]
    place(0, all_)


@pytest.mark.parametrize("rest", [lambda: None, until_asleep], ids=["awake", "asleep"])
def test_workers_are_put_off_the_callers_processor(monkeypatch, set_threads, processors, rest):
    """A worker is woken on another processor than its caller's, or sent to one; then it may run on all again."""
    set_threads(2)
    f, x = np.full((512, 2048), 0.5), np.ones((512, 2048))
    expected = fastrecur.forget_mult(f, x)
    (worker,) = _threads._idle[-1:]
    thread, place, places, asked = worker._thread.native_id, os.sched_setaffinity, os.sched_getaffinity, []
    monkeypatch.setattr(os, "sched_setaffinity", lambda *arguments: asked.append(arguments))
    for here, there in (processors, processors[::-1]) * 2:
        place(0, {here})
        place(thread, {here})
        until = time.monotonic() + 20
        while worker._words[_native.Functions.SEEN] != here and time.monotonic() < until:
            assert_same_bits(fastrecur.forget_mult(f, x), expected)
        assert not asked  # it may be nowhere else
        with monkeypatch.context() as patches:  # it may, and happens to be there
            patches.setattr(os, "sched_getaffinity", lambda k: set(processors) if k == thread else places(k))
            rest()
            assert_same_bits(fastrecur.forget_mult(f, x), expected)
        # When it is stirred and when it is given work, as it does not really go.
        assert asked[:2] == [(thread, {there}), (thread, set(processors))]
        assert asked[2:] in ([], asked[:2])
        asked.clear()
    place(thread, processors)


def test_interrupts_while_a_worker_is_placed(monkeypatch, set_threads, processors):
    """They leave it where it may run; what it was given comes back."""
    set_threads(2)
    f, x = np.full((512, 2048), 0.5), np.ones((512, 2048))
    expected = fastrecur.forget_mult(f, x)
    (worker,) = _threads._idle[-1:]
    thread, real = worker._thread.native_id, os.sched_setaffinity
    os.sched_setaffinity(thread, processors)

    def interrupted(*arguments):
        real(*arguments)
        raise KeyboardInterrupt

    until_asleep()
    with monkeypatch.context() as patches:
        patches.setattr(os, "sched_setaffinity", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fastrecur.forget_mult(f, x)
    for _ in range(2):
        until_asleep()
        assert_same_bits(fastrecur.forget_mult(f, x), expected)
    assert os.sched_getaffinity(thread) == set(processors)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_worker_that_does_not_come(monkeypatch, set_threads, workers):
    """Its share is done by the caller, whatever holds it; it comes for the next call."""
    set_threads(1 + workers)
    f, x = np.full((512, 4096), 0.5), np.ones((512, 4096))
    expected = fastrecur.forget_mult(f, x)
    until_asleep()
    late = _threads._idle[-workers:]
    with monkeypatch.context() as patches:
        for worker in late[:2]:
            patches.setattr(worker, "rouse", lambda: None)
        with concurrent.futures.ThreadPoolExecutor(1) as caller:
            came = caller.submit(fastrecur.forget_mult, f, x)
            try:
                assert_same_bits(came.result(timeout=20), expected)
            finally:
                patches.undo()
                for worker in late:
                    worker.rouse()
    assert all(worker.is_done() for worker in late)
    for rests in (False, False, True, False):
        if rests:
            until_asleep()
        assert_same_bits(fastrecur.forget_mult(f, x), expected)


@pytest.mark.parametrize("missing", ["sched_setaffinity", "sched_getaffinity", ""])
def test_where_workers_cannot_be_placed(monkeypatch, set_threads, processors, missing):
    """A system that refuses to place a thread, or does not know how to, only costs the placing."""
    set_threads(2)
    f, x = np.full((512, 2048), 0.5), np.ones((512, 2048))
    expected = fastrecur.forget_mult(f, x)
    (worker,) = _threads._idle[-1:]
    thread, asked = worker._thread.native_id, []
    os.sched_setaffinity(thread, processors)

    def refuse(*arguments):
        asked.append(arguments)
        raise PermissionError

    with monkeypatch.context() as patches:
        if missing:
            patches.delattr(os, missing)
        else:
            patches.setattr(os, "sched_setaffinity", refuse)
        until_asleep()
        assert_same_bits(fastrecur.forget_mult(f, x), expected)
    assert os.sched_getaffinity(thread) == set(processors)
    assert bool(asked) == (not missing)


def test_workers_roused_in_vain(set_threads):
    """While they work, wait or sleep: they wake, and wait for work for a while."""
    set_threads(2)
    f, x = np.full((512, 2048), 0.5), np.ones((512, 2048))
    expected = fastrecur.forget_mult(f, x)
    with concurrent.futures.ThreadPoolExecutor(1) as caller:
        for _ in range(20):
            came = caller.submit(fastrecur.forget_mult, f, x)
            for worker in list(_threads._idle):
                worker.rouse()
            assert_same_bits(came.result(), expected)
    for _ in range(3):
        until_asleep()
        for worker in _threads._idle:
            worker.rouse()
            until = time.monotonic() + 20
            while worker.is_asleep() and time.monotonic() < until:
                time.sleep(0)
        assert_same_bits(fastrecur.forget_mult(f, x), expected)
    until_asleep()
    assert_same_bits(fastrecur.forget_mult(f, x), expected)


@pytest.mark.usefixtures("processors")
@pytest.mark.parametrize("shape", [(512, 2048), (600_000,)], ids=["rows", "series"])
def test_workers_that_are_awake_are_given_work_at_once(monkeypatch, set_threads, forget_plans, shape):
    """Not those that sleep, which Python has to wake: so it does when a call begins. Results are the same."""
    set_threads(2)
    forget_plans()  # of which one may remember that such series were not told where to start
    f, x = np.full(shape, 0.5), np.ones(shape)
    expected = fastrecur.forget_mult(f, x)
    came, real = [], _threads.share
    monkeypatch.setattr(_threads, "share", lambda *arguments: came.append(real(*arguments)) or came[-1])
    with monkeypatch.context() as patches:
        patches.setattr(_threads, "stir", lambda n: None)
        until_asleep()
        assert_same_bits(fastrecur.forget_mult(f, x), expected)
    assert came == [False]
    for rest in (lambda: None, until_asleep):
        came.append(False)
        until = time.perf_counter() + 20
        while not came[-1] and time.perf_counter() < until:  # a busy machine may put all on one processor for a while
            rest()
            assert_same_bits(fastrecur.forget_mult(f, x), expected)
        assert came[-1]


def test_short_calls_wake_nobody(set_threads):
    set_threads(2)
    fastrecur.forget_mult(0.5, np.ones((512, 2048)))
    until_asleep()
    x = np.ones((100, 100))
    fastrecur.forget_mult_vjp(x, x, x, fastrecur.forget_mult(x, x))
    fastrecur.forget_mult(x, x, 1.0)
    assert all(worker.is_asleep() for worker in _threads._idle)


def test_a_long_table_goes_its_own_way(monkeypatch, set_threads):
    """A native call has room for a table of so many rows; longer ones are given to workers by Python."""
    set_threads(2)
    f, x = np.full((512, 2048), 0.5), np.ones((512, 2048))
    expected = fastrecur.forget_mult(f, x)
    monkeypatch.setattr(_native, "MOST_ROWS", 1)
    _run._sharing.cache_clear()
    try:
        assert_same_bits(fastrecur.forget_mult(f, x), expected)
    finally:
        _run._sharing.cache_clear()


def one_by_one(calls, threads=None):
    """Run calls as a team does whose workers do not come."""
    for call, *arguments in calls:
        call(*arguments)


def test_two_threads_meet():
    """Each waits for the other so many times; one that is left alone gives up, and so does who comes then."""
    meet = _native.functions().meet
    for times in (0, 1, 1000):
        word = np.zeros(1, np.int64)
        with concurrent.futures.ThreadPoolExecutor(1) as other:
            there = other.submit(meet, word.ctypes.data, times, 1, 1 << 40)
            meet(word.ctypes.data, times, 0, 1 << 40)
            there.result(timeout=60)
        assert word[0] == 2 * times
    word = np.zeros(1, np.int64)
    meet(word.ctypes.data, 1000, 0, 100)
    assert word[0] < 0
    meet(word.ctypes.data, 1000, 1, 1 << 60)
    assert word[0] < 0


def test_a_common_cache_is_told_by_time(monkeypatch, set_threads):
    """By the shortest of some tries; the answer holds for a while, for all teams."""
    set_threads(2)
    assert _threads._seconds_apart(_threads.Team(2, one_by_one)) == np.inf
    assert any(0 < _threads._seconds_apart(_threads.team()) < np.inf for _ in range(1000))
    now, took = [0.0], []
    monkeypatch.setattr(_threads, "_near", (False, -1.0))
    monkeypatch.setattr(_threads.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(_threads, "_seconds_apart", lambda team: took.pop(0))
    team, alone, near, far = _threads.team(), _threads.Team(1, _threads.run), _threads.NEAR, 2 * _threads.NEAR
    took[:] = [far, near]
    assert _threads.share_a_cache(team)
    assert _threads.share_a_cache(team)
    now[0] += 1.01 * _threads.VALID
    took[:] = [far] * _threads.TRIES
    assert not _threads.share_a_cache(team)
    assert not _threads.share_a_cache(team)
    now[0] += 1.01 * _threads.VALID
    assert not _threads.share_a_cache(alone)  # nobody to meet
    took[:] = [near]
    assert _threads.share_a_cache(team)
    assert not _threads.share_a_cache(alone)
    assert _threads.share_a_cache(team._replace(size=3))  # two are asked of any team
    now[0] += 1.01 * _threads.VALID
    took[:] = [np.inf]
    assert _threads.share_a_cache(team)  # nobody came: what was seen last
    assert not took
    now[0] += 1.01 * _threads.VALID

    def others_ask(team):
        assert _threads.share_a_cache(team)  # and do not measure too
        return far

    monkeypatch.setattr(_threads, "_seconds_apart", others_ask)
    assert not _threads.share_a_cache(team)


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
            rows = calls[_native._HEAD :].reshape(-1, _native._ROW)
            given = [row[1 : 2 + row[1]].tolist() for row in rows]
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
        assert len(calls) == 3
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
