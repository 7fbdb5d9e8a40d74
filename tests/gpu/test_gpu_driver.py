"""Calls by the real cuda.core and numba-cuda on a driver that is strict about contexts, streams, events and capture.

Each test is a process of its own, which finds `gpu_tools/stub_driver.c` as its libcuda.so.1.
"""

import textwrap

import pytest
import stub_driver

pytestmark = pytest.mark.skipif(stub_driver.why_not() is not None, reason=str(stub_driver.why_not()))

# Arrays on devices as libraries' would be; a call, and what it must be equal to.
START = """
import threading
import numpy as np
import stub_driver
from cuda.bindings import driver as api
from numba import cuda
import fastrecur
from fastrecur._cuda import launch as _launch, call as _recurrence

F = np.random.default_rng(0).random((20, 40)).astype(np.float32)
X = np.random.default_rng(1).standard_normal((20, 40)).astype(np.float32)
H = fastrecur.forget_mult(F, X)


def ask(answer):
    error, *given = answer
    assert not error, error
    return given[0] if given else None


def put(array, device=0, stream=None, **changes):
    '''A copy on a device, known by its interface alone, as of a stream.'''
    context = ask(api.cuDevicePrimaryCtxRetain(device))
    ask(api.cuCtxPushCurrent(context))
    pointer = int(ask(api.cuMemAlloc(max(array.nbytes, 1))))
    ask(api.cuMemcpyHtoD(pointer, array.ctypes.data, array.nbytes))
    ask(api.cuCtxPopCurrent())
    return Array(pointer, array, stream, changes)


def new_stream(device=0):
    ask(api.cuCtxPushCurrent(ask(api.cuDevicePrimaryCtxRetain(device))))
    stream = int(ask(api.cuStreamCreate(1)))
    ask(api.cuCtxPopCurrent())
    return stream


class Array:
    def __init__(self, pointer, array, stream, changes):
        self.__cuda_array_interface__ = {
            "shape": array.shape, "typestr": array.dtype.str, "strides": None, "version": 3,
            "data": (pointer, False), "stream": stream,
        } | changes


def get(array):
    known = array.__cuda_array_interface__
    host = np.empty(known["shape"], known["typestr"])
    ask(api.cuCtxPushCurrent(ask(api.cuDevicePrimaryCtxRetain(device_of(known["data"][0])))))
    ask(api.cuMemcpyDtoH(host.ctypes.data, known["data"][0], host.nbytes))
    ask(api.cuCtxPopCurrent())
    return host


def device_of(pointer):
    return int(ask(api.cuPointerGetAttribute(api.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, pointer)))


def in_thread(function):
    '''Run in a fresh thread; raise what it raises.'''
    result = []
    def run():
        try:
            result.append((function(), None))
        except BaseException as error:
            result.append((None, error))
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    value, error = result[0]
    if error is not None:
        raise error
    return value

api.cuInit(0)
"""


@pytest.fixture
def on_driver(run_python, tmp_path):
    """Run a script on the driver; its kernels run unless it says otherwise, and are compiled once unless ``cold``."""

    def run(script, runs=True, cold=False, **settings):
        head = START + ("stub_driver.run_kernels()\n" if runs else "")
        kernels = tmp_path if cold else stub_driver.folder() / ("ptx" if runs else "cubin")
        environment = stub_driver.environment(**settings) | {"FASTRECUR_CACHE_DIR": str(kernels)}
        return run_python(head + textwrap.dedent(script), **environment)

    return run


def test_a_call(on_driver):
    """cuda.core, numba-cuda's arrays and the kernels' PTX together."""
    on_driver(
        """
        h, last = fastrecur.forget_mult(cuda.to_device(F), cuda.to_device(X), return_state=True)
        np.testing.assert_allclose(h.copy_to_host(), H, atol=1e-6)
        np.testing.assert_allclose(last.copy_to_host(), H[-1], atol=1e-6)
        """
    )


@pytest.mark.exhaustive
def test_series_that_begin_anew(on_driver):
    """One launch, of offsets and flags on the device; the host waits for nothing and copies nothing to itself."""
    on_driver(
        """
        offsets, resets = np.array([0, 7, 7, 20]), np.random.default_rng(2).random((20, 40)) < 0.2
        f, x = put(F), put(X)
        given = {"offsets": put(offsets), "resets": put(resets)}
        wanted = fastrecur.forget_mult(F, X, offsets=offsets, resets=resets, return_state=True)
        fastrecur.forget_mult(f, x, **given)  # kernels are loaded
        stub_driver.clear()
        h, last = fastrecur.forget_mult(f, x, **given, return_state=True)
        kinds = [line[0] for line in stub_driver.log()]
        assert kinds.count("launch") == 1, kinds
        assert not {"synchronise", "record", "wait"} & {*kinds}, kinds
        for got, right in zip((h, last), wanted):
            np.testing.assert_allclose(get(got), right, atol=1e-6)
        h = fastrecur.forget_mult(f, x, offsets=offsets.tolist(), resets=resets)  # copied to the device
        np.testing.assert_allclose(get(h), wanted[0], atol=1e-6)
        """
    )


# ---- Contexts -------------------------------------------------------------------------------------------------------


@pytest.mark.exhaustive
def test_a_thread_without_a_context(on_driver):
    """torch's autograd has such threads, and so does every pool of workers."""
    on_driver(
        """
        arrays = {device: (put(F, device), put(X, device)) for device in (0, 1)}
        out = {device: put(np.zeros_like(X), device) for device in (0, 1)}
        for device in (0, 1, 1, 0):
            def call():
                assert stub_driver.contexts() == []
                fastrecur.forget_mult(*arrays[device], out=out[device])
                h = fastrecur.forget_mult(*arrays[device])
                assert stub_driver.contexts() == []
                return h
            h = in_thread(call)
            np.testing.assert_allclose(get(h), H, atol=1e-6)
            np.testing.assert_array_equal(get(out[device]), get(h))
            assert device_of(h.__cuda_array_interface__["data"][0]) == device
        assert {line[1] for line in stub_driver.log("launch")} == {"0", "1"}
        """,
        devices=2,
    )


@pytest.mark.exhaustive
def test_every_kind_of_stream(on_driver):
    """The default stream by its two handles, a thread's own, and others, from threads that have no context."""
    on_driver(
        """
        from fastrecur._cuda import arrays as _arrays
        for device in (0, 1):
            f, x = put(F, device), put(X, device)
            for stream in (0, 1, 2, new_stream(device)):
                _arrays.Interface.stream = lambda self, device: stream
                out = put(np.zeros_like(X), device)
                stub_driver.clear()
                in_thread(lambda: fastrecur.forget_mult(f, x, out=out))
                np.testing.assert_allclose(get(out), H, atol=1e-6)
                assert [line[:3] for line in stub_driver.log("launch")] == [["launch", str(device), str(stream)]]
        """,
        devices=2,
    )


@pytest.mark.exhaustive
@pytest.mark.parametrize("first", [0, 1])
def test_contexts_are_left_as_they_were(on_driver, first):
    """numba-cuda pops the caller's context when it uses a device for the first time."""
    on_driver(
        f"""
        arrays = {{device: (put(F, device), put(X, device)) for device in (0, 1)}}
        lengths = list(range(20)) * 2
        for k in ({first}, {1 - first}):
            context = ask(api.cuDevicePrimaryCtxRetain(k))
            ask(api.cuCtxPushCurrent(context))
        before = stub_driver.contexts()
        assert before == [{1 - first}, {first}]
        for device in ({first}, {1 - first}):
            h, last = fastrecur.forget_mult(*arrays[device], return_state=True)
            assert stub_driver.contexts() == before
            np.testing.assert_allclose(get(h), H, atol=1e-6)
            fastrecur.forget_mult_vjp(h, *arrays[device], h, last)
            fastrecur.forget_mult(*arrays[device], lengths=lengths)
            assert stub_driver.contexts() == before
        """,
        devices=2,
    )


@pytest.mark.exhaustive
def test_an_error_leaves_contexts_too(on_driver):
    on_driver(
        """
        arrays = put(F, 1), put(X, 1)
        try:
            fastrecur.forget_mult(*arrays)
        except RuntimeError as error:
            assert "compute capability 7.5 or later, got 7.0 on device 1" in str(error), error
        else:
            raise AssertionError
        assert stub_driver.contexts() == []
        """,
        devices=2,
        capabilities="90,70",
    )


@pytest.mark.exhaustive
def test_devices_of_different_kinds(on_driver):
    """Each gets machine code of its own capability: the driver refuses another's."""
    on_driver(
        """
        for device in (0, 1):
            fastrecur.forget_mult(put(F, device), put(X, device))
        assert [line[1] for line in stub_driver.log("launch")] == ["0", "1"]
        """,
        runs=False,
        devices=2,
        capabilities="90,86",
    )


# ---- Streams --------------------------------------------------------------------------------------------------------


@pytest.mark.exhaustive
@pytest.mark.parametrize("device", [0, 1])
def test_streams_are_ordered_by_events_of_their_own_device(on_driver, device):
    on_driver(
        f"""
        one, two = new_stream({device}), new_stream({device})
        f, x = put(F, {device}, one), put(X, {device}, two)
        stub_driver.clear()
        h = fastrecur.forget_mult(f, x)
        np.testing.assert_allclose(get(h), H, atol=1e-6)
        order = [line[:3] for line in stub_driver.log("record", "wait", "launch")]
        one, two = str(one), str(two)
        device = "{device}"
        assert order == [
            ["record", device, two], ["wait", device, one], ["launch", device, one],
            ["record", device, one], ["wait", device, two],
        ], order
        assert not stub_driver.log("synchronise")
        """,
        devices=2,
    )


@pytest.mark.exhaustive
def test_results_name_the_stream_that_they_are_computed_in(on_driver):
    """Or whoever takes them next reads them too early."""
    on_driver(
        """
        stream = new_stream()
        for named, handles in ((stream, (stream,)), (1, (None, 1)), (2, (2,)), (None, (None, 1))):
            f, x = put(F, stream=named), put(X, stream=named)
            results = fastrecur.forget_mult(f, x, return_state=True)
            assert {r.__cuda_array_interface__["stream"] for r in results} <= set(handles)
            results += fastrecur.forget_mult_vjp(x, f, x, x, results[1], grad_state=results[1])
            results += (fastrecur.forget_mult(f, x, lengths=[20] * 40),)
            for result in results:
                assert result.__cuda_array_interface__["stream"] in handles, result.__cuda_array_interface__
        """
    )


@pytest.mark.exhaustive
@pytest.mark.parametrize("pools", [1, 0])
def test_scratch_memory_is_ordered_by_the_stream(on_driver, pools):
    """It goes back when the work that uses it is done, not when Python forgets it."""
    on_driver(
        f"""
        x = np.random.default_rng(2).standard_normal((3, 70001)).astype(np.float32)
        stream = new_stream()
        for named in (stream, None, None, None):
            stub_driver.clear()
            h = fastrecur.forget_mult(0.25, put(x, stream=named), axis=1)
            np.testing.assert_allclose(get(h), fastrecur.forget_mult(0.25, x, axis=1), atol=1e-5)
            asked = [line[0] + " " + line[1] for line in stub_driver.log("allocate", "free", "launch", "fill")]
            asked = [line for line in asked if line != "allocate 0"]
            launches = [line for line in asked if line.startswith(("launch", "fill"))]
            assert len(launches) > 1
            assert asked == (["allocate in", *launches, "free in"] if {pools} else launches), asked
        """,
        pools=pools,
    )


@pytest.mark.exhaustive
def test_a_selective_scan_and_its_gradient(on_driver):
    """States before chunks, and shares of sums, are in one lent piece of memory, in order with eight launches."""
    on_driver(
        """
        rng = np.random.default_rng(2)
        maps, skip = rng.standard_normal((2, 1, 3, 9)), rng.random(5)
        given = *rng.standard_normal((2, 1, 5, 9)), -rng.random((5, 3)), *maps, skip
        given = [v.astype(np.float32) for v in given]
        placed = list(map(put, given))
        y = fastrecur.selective_scan(*placed)
        np.testing.assert_allclose(get(y), fastrecur.selective_scan(*given), atol=1e-5)
        stub_driver.clear()
        grads = fastrecur.selective_scan_vjp(placed[0], *placed)
        asked = [line[0] for line in stub_driver.log("allocate", "free", "launch") if line[:2] != ["allocate", "0"]]
        assert asked[-8:] == ["allocate", *["launch"] * 6, "free"], asked
        for got, right in zip(grads[:6], fastrecur.selective_scan_vjp(given[0], *given)):
            np.testing.assert_allclose(get(got), right, atol=1e-4)
        """
    )


# ---- Graphs ---------------------------------------------------------------------------------------------------------

CAPTURE = """
stream = new_stream()
context = ask(api.cuDevicePrimaryCtxRetain(0))


def captured(call, *, fails=None):
    ask(api.cuCtxPushCurrent(context))
    ask(api.cuStreamBeginCapture(stream, api.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL))
    stub_driver.clear()
    try:
        call()
    except RuntimeError as error:
        assert fails and fails in str(error), error
    else:
        assert not fails
    asked = stub_driver.log()
    ask(api.cuStreamEndCapture(stream))  # an error where something ended the graph
    ask(api.cuCtxPopCurrent())
    return [line[0] for line in asked]

"""


@pytest.mark.exhaustive
def test_a_captured_call_with_out_allocates_nothing(on_driver):
    on_driver(
        CAPTURE
        + """
f, x, out = (put(a, stream=stream) for a in (F, X, np.zeros_like(X)))
fastrecur.forget_mult(f, x, out=out)
assert captured(lambda: fastrecur.forget_mult(f, x, out=out)) == ["launch"]
"""
    )


@pytest.mark.exhaustive
def test_a_captured_call_has_scratch_memory_of_the_graph(on_driver):
    on_driver(
        CAPTURE
        + """
x = np.ones((3, 70001), np.float32)
placed, out = put(x, stream=stream), put(np.zeros_like(x), stream=stream)
call = lambda: fastrecur.forget_mult(0.25, placed, axis=1, out=out)
call()
asked = captured(call)
assert (asked[0], asked[-1]) == ("allocate", "free"), asked
assert not {"refused", "synchronise", "record", "wait"} & set(asked), asked
""",
        runs=False,
    )


@pytest.mark.exhaustive
def test_a_captured_call_that_would_allocate_is_an_error_by_name(on_driver):
    """Before the driver refuses, which would end the graph."""
    on_driver(
        CAPTURE
        + """
f, x, out = (put(a, stream=stream) for a in (F, X, np.zeros_like(X)))
fastrecur.forget_mult(f, x, out=out)
captured(lambda: fastrecur.forget_mult(f, x), fails="must not allocate its results, for arrays of __main__: pass `out`")
captured(lambda: fastrecur.forget_mult(f, x), fails="keep `lengths`, `offsets` and `resets` on the device")
captured(lambda: fastrecur.forget_mult(f, x, out=out, return_state=True), fails="must not allocate")
captured(lambda: fastrecur.forget_mult(f, x, out=out, lengths=[20] * 40), fails="must have `lengths` on the device")
captured(lambda: fastrecur.forget_mult(f, x, out=out, reverse=True, axis=1), fails="must have its kernels loaded")
""",
        runs=False,
    )


# ---- Drivers and toolkits -------------------------------------------------------------------------------------------


@pytest.mark.exhaustive
def test_what_show_config_says_of_devices(on_driver):
    """A small call runs on each of the driver's: NVML counts those that `CUDA_VISIBLE_DEVICES` hides, too."""
    printed = on_driver("fastrecur.show_config()", devices=3, capabilities="90,120,70")
    (line,) = [line for line in printed.splitlines() if line.startswith("GPU kernels")]
    assert "device 0: stub card 0, compute capability 9.0, driver for CUDA 13.0: work; device 1: " in line
    assert ": do not work: arrays on a GPU need compute capability 7.5 or later, got 7.0 on device 2" in line
    assert "device 3" not in line
    printed = on_driver("fastrecur.show_config()", runs=False)
    assert ": give a wrong result: [" in printed


CANNOT_WORK = {
    "no numba-cuda": (
        """
        import importlib.metadata
        found = importlib.metadata.version
        def version(name):
            if name == "numba-cuda":
                raise importlib.metadata.PackageNotFoundError(name)
            return found(name)
        importlib.metadata.version = version
        """,
        "arrays on a GPU need numba-cuda, and numba-cuda is missing",
    ),
    "another numba-cuda": (
        """
        from numba.cuda import dispatcher
        del dispatcher.CUDADispatcher
        """,
        "a numba-cuda that goes with numba, as 0.30.4 does with 0.61 to 0.68: numba-cuda 0.",
    ),
    "no device": ("_launch.driver.cache_clear()", "CUDA_ERROR_NO_DEVICE"),
    "an old driver": ("", "arrays on a GPU need a driver for CUDA 1"),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("what", CANNOT_WORK)
def test_what_show_config_says_of_kernels_that_cannot_work(on_driver, what):
    """Also where they are on the disk: the next one is not."""
    script, words = CANNOT_WORK[what]
    version, devices = 11080 if what == "an old driver" else 13000, int(what != "no device")
    script = textwrap.dedent(script) + "\nfastrecur.show_config()"
    printed = on_driver(script, version=version, devices=devices)
    (line,) = [line for line in printed.splitlines() if line.startswith("GPU kernels")]
    assert "do not work" in line
    assert words in line


@pytest.mark.exhaustive
@pytest.mark.parametrize("version", [12040, 11080])
def test_a_driver_older_than_the_packages(on_driver, version):
    on_driver(
        f"""
        from importlib.metadata import version
        try:
            _launch.driver()
        except RuntimeError as error:
            assert "got one for CUDA {version // 1000}.{version % 1000 // 10}: update the driver" in str(error), error
        else:
            assert api.CUDA_VERSION // 1000 == 12
        """,
        runs=False,
        version=version,
    )


@pytest.mark.exhaustive
def test_no_device(on_driver):
    on_driver(
        """
        try:
            _launch.CudaCore()
        except RuntimeError as error:
            assert "CUDA_ERROR_NO_DEVICE" in str(error), error
        else:
            raise AssertionError
        """,
        runs=False,
        devices=0,
    )


# ---- Threads --------------------------------------------------------------------------------------------------------


@pytest.mark.exhaustive
def test_several_threads_come_first(on_driver):
    """They compile the same kernel and others; numba-cuda's own dispatcher sees the real device all the while."""
    on_driver(
        """
        import time
        from numba.cuda import dispatcher
        from numba.cuda.cudadrv import driver as numba_driver
        begin = numba_driver.Device.__init__
        def begin_slowly(*arguments):  # two threads would both find that a device is not known yet
            time.sleep(0.1)
            begin(*arguments)
        numba_driver.Device.__init__ = begin_slowly
        asks = dispatcher.get_current_device
        seen, done = set(), threading.Event()
        def watch():
            while not done.is_set():
                seen.add(dispatcher.get_current_device)
        watcher = threading.Thread(target=watch)
        watcher.start()
        arrays = {dtype: (put(F.astype(dtype)), put(X.astype(dtype))) for dtype in (np.float32, np.float16)}
        results, errors = [], []
        start = threading.Barrier(4)
        def call(dtype):
            start.wait()
            try:
                results.append(get(fastrecur.forget_mult(*arrays[dtype])))
            except BaseException as error:
                errors.append(error)
        threads = [threading.Thread(target=call, args=(dtype,)) for dtype in (np.float32, np.float16) * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        done.set()
        watcher.join()
        assert seen == {asks}
        assert not errors, errors
        for h in results:
            np.testing.assert_allclose(h, H, atol=1e-6 if h.dtype == np.float32 else 1e-2)
        assert len(stub_driver.log("load")) == 2
        """,
        cold=True,
    )


# ---- Limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.exhaustive
def test_the_driver_checks_what_is_launched(on_driver):
    """That the stub would refuse what a card refuses: else the tests of this file show nothing."""
    on_driver(
        """
        f, x = put(F), put(X)
        for _ in range(2):  # the second call is remembered
            fastrecur.forget_mult(f, x)
        (shortcut,) = _recurrence._shortcuts.values()
        program = shortcut.program
        kernel, grid, threads, template, slots = program.launches[0]
        for grid, threads in [((1, 1 << 16, 1), 32), ((1, 1, 1), 256), ((1, 1, 1), 2048)]:
            try:
                _launch.driver().start([(kernel, grid, threads, template, slots[:0])], [], 0, 1)
            except Exception as error:
                assert "INVALID_VALUE" in str(error), error
            else:
                raise AssertionError((grid, threads))
        """
    )
