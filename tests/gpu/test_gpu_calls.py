"""Calls on a GPU: which stream, whose memory, what waits for what, and what is said where something is missing."""

import concurrent.futures
import ctypes
import functools
import importlib.metadata
import itertools
import os
import subprocess
import sys
import types

import devices
import machine_code
import ml_dtypes
import numpy as np
import pytest
import simulator
import torch
from compare import assert_same_bits
from predictions import predicted
from problems import FORGET, LINEAR

import fastrecur
from fastrecur import _config
from fastrecur._arguments import checks
from fastrecur._cpu.compiler import cache
from fastrecur._cuda import arrays, call as _call, launch as _launch, plan as _plan, run
from fastrecur._cuda.compiler import compile as _compile, numba_cuda_internals
from fastrecur._cuda.kernels import catalog, device as _device
from fastrecur._cuda.plan import LANES, SERIES

F = np.random.default_rng(0).random((20, 40)).astype(np.float32)
X = np.random.default_rng(1).standard_normal((20, 40)).astype(np.float32)


@pytest.fixture
def driver(monkeypatch):
    """A driver without a card."""
    driver = devices.Driver()
    monkeypatch.setattr(_launch, "driver", lambda: driver)
    monkeypatch.setattr("fastrecur._cuda.arrays.libraries", {})
    return driver


@pytest.fixture
def cupy(driver, monkeypatch):
    """CuPy's stand-in."""
    module = devices.Cupy(driver)
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


@pytest.fixture
def numba_cuda(driver, monkeypatch):
    """numba.cuda's stand-in, as an allocator."""
    module = devices.NumbaCuda(driver)
    monkeypatch.setattr(arrays, "numba_cuda", lambda: module)
    return module


@pytest.fixture
def expected():
    """What comes out, computed one step after another in float32."""
    h = np.zeros(40, np.float32)
    states = []
    for f, x in zip(F, X, strict=True):
        h = (h + f * (x - h)).astype(np.float32)
        states.append(h)
    return np.array(states)


def kinds(driver):
    return [entry[0] for entry in driver.log]


def test_cupy_on_its_current_stream_and_device(driver, cupy, expected):
    cupy.streams = {0: 111, 1: 222}
    for device, stream in [(0, 111), (1, 222)]:
        driver.log.clear()
        f, x = cupy.place(F.copy(), device), cupy.place(X.copy(), device)
        h, last = fastrecur.forget_mult(f, x, return_state=True)
        assert type(h) is devices.ndarray
        assert h.device.id == last.device.id == device
        assert cupy.current == 0
        np.testing.assert_allclose(h.host, expected, atol=1e-6)
        assert_same_bits(last.host, h.host[-1])
        assert {entry[2] for entry in driver.log if entry[0] == "empty"} == {device}
        assert [entry for entry in driver.log if entry[0] == "launch"] == [("launch", "lanes", device, stream)]
        assert "wait" not in kinds(driver)


def test_the_stream_is_asked_for_at_every_call(driver, cupy):
    f, x = cupy.place(F), cupy.place(X)
    for stream in [5, 6, 5]:
        cupy.streams = {0: stream}
        driver.log.clear()
        fastrecur.forget_mult(f, x)
        assert driver.log[-1] == ("launch", "lanes", 0, stream)


def test_interface_with_streams(driver, numba_cuda, expected):
    f, x = devices.Cai(F, driver, stream=7), devices.Cai(X, driver, stream=9)
    h = fastrecur.forget_mult(f, x)
    np.testing.assert_allclose(h.host, expected, atol=1e-6)
    # In the first array's stream, after what the other's has in hand, and before what that does next.
    assert driver.log[-3:] == [("wait", 9, 7, 0), ("launch", "lanes", 0, 7), ("wait", 7, 9, 0)]


@pytest.mark.parametrize("stream", [None, 1])
def test_interface_on_the_default_stream(driver, numba_cuda, stream):
    fastrecur.forget_mult(devices.Cai(F, driver, stream=stream), devices.Cai(X, driver, stream=stream))
    assert driver.log[-1] == ("launch", "lanes", 0, 1)
    assert "wait" not in kinds(driver)


def test_interface_on_streams_is_asked_again(driver, numba_cuda, expected):
    f, x = devices.Cai(F, driver, stream=7), devices.Cai(X, driver, stream=7)
    for stream in [7, 8]:
        for array in (f, x):
            array.__cuda_array_interface__["stream"] = stream
        driver.log.clear()
        np.testing.assert_allclose(fastrecur.forget_mult(f, x).host, expected, atol=1e-6)
        assert driver.log[-1] == ("launch", "lanes", 0, stream)


def test_interface_lengths_from_the_host(driver, numba_cuda):
    lengths = np.arange(40) % 21
    h = fastrecur.forget_mult(devices.Cai(F, driver), devices.Cai(X, driver), lengths=lengths)
    np.testing.assert_allclose(h.host, fastrecur.forget_mult(F, X, lengths=lengths), atol=1e-6)


def test_what_numba_is_asked_for():
    from numba import cuda

    assert all(callable(getattr(cuda, name)) for name in ("device_array", "to_device"))
    assert hasattr(type(cuda.gpus), "__getitem__")


def test_scalars_beside_arrays(driver, cupy):
    """NumPy's, and what is a number by inheritance, are passed by value."""
    wanted = fastrecur.forget_mult(0.25, X)
    for f in [np.float64(0.25), type("Number", (float,), {})(0.25)]:
        np.testing.assert_allclose(fastrecur.forget_mult(f, cupy.place(X)).host, wanted, atol=1e-6)
    a = np.complex64(0.5j)
    h = fastrecur.linear_recurrence(a, cupy.place(X.astype(np.complex64)))
    np.testing.assert_allclose(h.host, fastrecur.linear_recurrence(0.5j, X.astype(np.complex64)), atol=1e-5)


def test_torch_is_asked_for_memory_and_streams(driver, monkeypatch):
    """On its device, in its way: a copy of host memory takes its place in the stream."""
    host = torch.device("cpu")
    asked = []

    class Host:
        def pin_memory(self):
            asked.append("pinned")
            return self

        def to(self, device, non_blocking):
            asked.append((device, non_blocking))
            return "copy"

    library = arrays.Torch(torch.Tensor)
    library.library = types.SimpleNamespace(**vars(torch))
    library.library.device = lambda kind, number: (asked.append((kind, number)), host)[1]
    library.library.from_numpy = lambda array: Host()
    for dtype, strides in [(np.float32, (4, 12)), (ml_dtypes.bfloat16, None)]:
        made, pointer = library.maker((3, 5), np.dtype(dtype), strides, 2, 7)()
        assert (made.shape, made.data_ptr()) == ((3, 5), pointer)
        assert made.stride() == ((5, 1) if strides is None else (1, 3))
        assert asked.pop() == ("cuda", 2)
    assert library.upload(np.ones(3), 2, 7) == "copy"
    assert asked == ["pinned", ("cuda", 2), (host, True)]
    library.raw_stream = None
    library.library.cuda = types.SimpleNamespace(
        current_stream=lambda device: types.SimpleNamespace(cuda_stream=device)
    )
    assert library.stream(5) == 5
    with pytest.raises(TypeError, match="`x` must hold.*float8"):
        library.view("x", torch.zeros(3, dtype=torch.float8_e5m2))


def test_interface_strides_numbers_and_gradients(driver, numba_cuda):
    x = devices.Cai(np.repeat(X.T, 2, 1)[:, ::2], driver)
    h = fastrecur.forget_mult(0.25, x, 1, axis=1, reverse=True)
    grads = fastrecur.forget_mult_vjp(h, 0.25, x, h, 1, axis=1, reverse=True)
    wanted = fastrecur.reference.forget_mult_vjp(h.host, 0.25, X.T, h.host, 1, axis=1, reverse=True)
    for grad, right in zip(grads, wanted, strict=True):
        np.testing.assert_allclose(grad.host, right, rtol=1e-5, atol=1e-5)


def test_dlpack(driver, expected):
    f, x = devices.DlpackArray(F, driver), devices.DlpackArray(X, driver)
    h = fastrecur.forget_mult(f, x)
    assert type(h) is devices.DlpackArray
    np.testing.assert_allclose(h.host, expected, atol=1e-6)
    # The exporter is told the stream, so that it can order its own work before; at the next call again.
    for _ in range(2):
        assert ("dlpack", 1) in driver.log
        driver.log.clear()
        assert_same_bits(fastrecur.forget_mult(f, x).host, h.host)


def test_dlpack_lengths_from_the_host(driver):
    f, x = devices.DlpackArray(F, driver), devices.DlpackArray(X, driver)
    lengths = np.arange(40) % 21
    h = fastrecur.forget_mult(f, x, lengths=lengths)
    np.testing.assert_allclose(h.host, fastrecur.forget_mult(F, X, lengths=lengths), atol=1e-6)


@pytest.mark.parametrize("is_there", [False, True])
def test_dlpack_offsets_and_resets(driver, is_there):
    """From the host they are copied to the operands' device."""
    f, x = devices.DlpackArray(F, driver, 1), devices.DlpackArray(X, driver, 1)
    given = {"offsets": np.array([0, 7, 7, 20]), "resets": X < -1}
    wanted = fastrecur.forget_mult(F, X, return_state=True, **given)
    if is_there:
        given = {name: devices.DlpackArray(array, driver, 1) for name, array in given.items()}
    for got, right in zip(fastrecur.forget_mult(f, x, return_state=True, **given), wanted, strict=True):
        assert got.number == 1
        np.testing.assert_allclose(got.host, right, atol=1e-6)


def test_out_where_lengths_offsets_and_resets_stand(driver, numba_cuda):
    """It is refused before anything is launched: kernels read them while they write results."""
    memory = np.zeros(20 * 40, np.float32)
    x = devices.Cai(X, driver)
    ends = {"offsets": memory.view(np.int64)[3:6], "resets": memory.view(bool)[40 : 40 + X.size].reshape(X.shape)}
    ends["lengths"] = memory.view(np.int64)[10:50]
    ends["offsets"][:] = 0, 7, 20
    out = devices.Cai(memory.reshape(20, 40), driver)
    for name, value in ends.items():
        driver.log.clear()
        for _ in range(3):
            with pytest.raises(ValueError, match=f"`out` must share no memory with `{name}`"):
                fastrecur.forget_mult(0.25, x, out=out, **{name: devices.Cai(value, driver)})
        assert not [entry for entry in driver.log if entry[0] == "launch"]


@pytest.mark.parametrize("is_there", [False, True])
def test_interface_offsets_and_resets(driver, numba_cuda, is_there):
    """A call waits for the work of their streams, too."""
    f, x = devices.Cai(F, driver, stream=7), devices.Cai(X, driver, stream=7)
    given = {"offsets": np.array([0, 7, 7, 20]), "resets": X < -1}
    wanted = fastrecur.forget_mult(F, X, **given)
    if is_there:
        given = {name: devices.Cai(array, driver, stream=9) for name, array in given.items()}
    driver.log.clear()
    np.testing.assert_allclose(fastrecur.forget_mult(f, x, **given).host, wanted, atol=1e-6)
    assert [entry[:3] for entry in driver.log if entry[0] == "wait"] == [("wait", 9, 7), ("wait", 7, 9)] * is_there


def test_dlpack_on_another_device(driver):
    """Results, scratch memory and lengths stand where the operands do, whatever the library's own device is."""
    f, x = devices.DlpackArray(F.copy(), driver, 1), devices.DlpackArray(X.copy(), driver, 1)
    lengths = np.arange(40) % 21
    h, last = fastrecur.forget_mult(f, x, lengths=lengths, return_state=True)
    assert h.number == last.number == 1
    assert {device for _, device in driver.memory} == {1}
    wanted = fastrecur.forget_mult(F, X, lengths=lengths, return_state=True)
    for got, right in zip((h, last), wanted, strict=True):
        np.testing.assert_allclose(got.host, right, atol=1e-6)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_dlpack_layouts(driver, axes):
    """A result has its operand's layout, which the array API has no word for."""
    x = X.reshape(20, 8, 5).transpose(axes)
    placed = devices.DlpackArray(x, driver)
    h = fastrecur.forget_mult(0.25, placed)
    assert h.host.strides == x.strides
    np.testing.assert_allclose(h.host, fastrecur.forget_mult(0.25, x), atol=1e-6)
    grads = fastrecur.forget_mult_vjp(placed, 0.25, placed, h, 1.0)
    wanted = fastrecur.reference.forget_mult_vjp(x, 0.25, x, h.host, 1.0)
    for grad, right in zip(grads, wanted, strict=True):
        np.testing.assert_allclose(grad.host, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("what", ["device", "strides"])
def test_dlpack_from_a_library_that_makes_something_else(driver, monkeypatch, what):
    plain = devices.DlpackArray.__array_namespace__

    def namespace(self, api_version=None):
        space = plain(self)
        if what == "device":
            space.empty = lambda shape, dtype, device: devices.DlpackArray(np.empty(shape, dtype), driver)
        else:
            space.permute_dims = lambda array, axes: devices.DlpackArray(array.host.transpose(axes).copy(), driver, 1)
        return space

    monkeypatch.setattr(devices.DlpackArray, "__array_namespace__", namespace)
    x = devices.DlpackArray(X.T, driver, 1)
    with pytest.raises(RuntimeError, match=r"otherlibrary was asked for an array on device 1 with strides"):
        fastrecur.forget_mult(0.5, x)
    assert "launch" not in kinds(driver)


def export_as(code, monkeypatch):
    """Let arrays say by DLPack that their elements are of another kind."""
    monkeypatch.setattr(devices.DlpackArray, "code", code)


def test_dlpack_of_elements_that_nothing_is_known_of(driver, monkeypatch):
    export_as(10, monkeypatch)  # eight bits of a float
    with pytest.raises(TypeError, match="`x` must hold .*, got dtype of DLPack: .*code: 10"):
        fastrecur.forget_mult(0.5, devices.DlpackArray(X.view(np.uint8), driver))


def test_dlpack_bfloat16(driver, monkeypatch):
    x = devices.DlpackArray(X.view(np.uint16), driver)
    export_as(4, monkeypatch)
    assert arrays.library(x).view("x", x).dtype == ml_dtypes.bfloat16

    def without_ml_dtypes(array, stream_ptr):
        raise NotImplementedError

    view = types.SimpleNamespace(StridedMemoryView=types.SimpleNamespace(from_dlpack=without_ml_dtypes))
    monkeypatch.setitem(sys.modules, "cuda.core.utils", view)
    with pytest.raises(TypeError, match="`x` holds bfloat16.*ml_dtypes"):
        fastrecur.forget_mult(0.5, x)


def test_dlpack_of_a_read_only_array(driver):
    """Who writes there all the same has changed an array that its library takes for constant."""

    class ReadOnly(devices.DlpackArray):
        def __dlpack__(self, stream=None, max_version=None):
            capsule = self.host.__dlpack__(max_version=(1, 0))
            address = ctypes.pythonapi.PyCapsule_GetPointer
            address.restype, address.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
            ctypes.c_int32.from_address(address(capsule, b"dltensor_versioned") + 40).value = 2  # a GPU's memory
            return capsule

    ReadOnly.__module__ = devices.DlpackArray.__module__
    out = np.zeros_like(X)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="`out`.*read-only"):
        fastrecur.forget_mult(0.5, devices.DlpackArray(X, driver), out=ReadOnly(out, driver))
    assert "launch" not in kinds(driver)


def test_lengths(driver, cupy):
    lengths = np.arange(40) % 21
    wanted = fastrecur.forget_mult(F, X, lengths=lengths)
    for given in [lengths, lengths.tolist(), cupy.place(lengths), cupy.place(lengths.astype(np.int16))]:
        h = fastrecur.forget_mult(cupy.place(F), cupy.place(X), lengths=given)
        np.testing.assert_allclose(h.host, wanted, atol=1e-6)
    # On a device nobody looks at them, for that would stall the host: they are taken as within 0..T.
    h = fastrecur.forget_mult(cupy.place(F), cupy.place(X), lengths=cupy.place(lengths * 100 - 5))
    wanted = fastrecur.forget_mult(F, X, lengths=np.clip(lengths * 100 - 5, 0, 20))
    np.testing.assert_allclose(h.host, wanted, atol=1e-6)
    with pytest.raises(ValueError, match="`lengths`"):
        fastrecur.forget_mult(cupy.place(F), cupy.place(X), lengths=lengths + 1)
    with pytest.raises(TypeError, match="`lengths`"):
        fastrecur.forget_mult(cupy.place(F), cupy.place(X), lengths=cupy.place(F[0].copy()))


def test_errors(driver, cupy, numba_cuda):
    f, x = cupy.place(F), cupy.place(X)
    with pytest.raises(TypeError, match="`x`.*`f`.*CPU"):
        fastrecur.forget_mult(f, X)
    with pytest.raises(TypeError, match="`f`.*cupy.*`x`.*mylibrary"):
        fastrecur.forget_mult(f, devices.Cai(X, driver))
    with pytest.raises(ValueError, match="`f` on device 0 and `x` on device 1"):
        fastrecur.forget_mult(f, cupy.place(X.copy(), 1))
    with pytest.raises(ValueError, match="`lengths` on device 1"):
        fastrecur.forget_mult(f, x, lengths=cupy.place(np.zeros(40, int), 1))
    with pytest.raises(TypeError, match="`lengths`"):
        fastrecur.forget_mult(f, x, lengths=devices.Cai(np.zeros(40, int), driver))
    with pytest.raises(TypeError, match="`out`"):
        fastrecur.forget_mult(f, x, out=np.empty_like(X))
    with pytest.raises(ValueError, match="`out`.*`x`"):
        fastrecur.forget_mult(cupy.place(F[1:]), cupy.place(X[1:]), out=cupy.place(X[:-1]))
    with pytest.raises(ValueError, match="`out`"):
        fastrecur.forget_mult(f, x, out=cupy.place(np.broadcast_to(X[:1], X.shape)))
    with pytest.raises(ValueError, match="`out`.*read-only"):
        cai = devices.Cai(X.copy(), driver)
        fastrecur.forget_mult(cai, cai, out=devices.Cai(X.copy(), driver, read_only=True))
    with pytest.raises(TypeError, match="`x`"):
        fastrecur.forget_mult(f, cupy.place(X.astype("M8[s]")))
    with pytest.raises(TypeError, match="`x` must not be a masked array"):
        masked = devices.Cai(X, driver)
        masked.__cuda_array_interface__["mask"] = masked
        fastrecur.forget_mult(0.5, masked)
    with pytest.raises(TypeError, match="`x` must be real"):
        fastrecur.forget_mult(f, cupy.place(X.astype(complex)))
    with pytest.raises(ValueError, match="`x` must be aligned"):
        unaligned = np.zeros((20, 40), "u1,f4")["f1"]
        fastrecur.forget_mult(f, cupy.place(unaligned))
    with pytest.raises(TypeError, match="`x`.*namespace"):
        alone = devices.DlpackArray(X, driver)
        alone.__class__ = type("Alone", (), dict(__dlpack__=None, __dlpack_device__=lambda self: (2, 0)))
        fastrecur.forget_mult(0.5, alone)
    assert "launch" not in kinds(driver)


def off_by(array, bytes_):
    """A copy that stands so many bytes past where it should."""
    memory = np.zeros(array.nbytes + 32, np.uint8)
    start = -memory.ctypes.data % 16 + bytes_
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


PLACES = {
    "cupy": lambda array, driver, cupy: cupy.place(array),
    "interface": lambda array, driver, cupy: devices.Cai(array, driver),
    "dlpack": lambda array, driver, cupy: devices.DlpackArray(array, driver),
}


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize("is_warm", [False, True])
def test_addresses_that_are_no_multiples_of_the_size(driver, cupy, numba_cuda, monkeypatch, kind, is_warm):
    """A card ends the whole process's work at such a load: nothing may be launched, not even in a call seen before."""
    monkeypatch.setattr(_call, "_shortcuts", {})
    h = fastrecur.forget_mult(F, X)
    operands = {"grad_h": X, "f": F, "x": X, "h": h, "h0": h[0], "grad_state": h[1]}
    place = functools.partial(PLACES[kind], driver=driver, cupy=cupy)

    def call(wrong=None, by=0, gradient=False):
        g, f, x, h, h0, last = (place(off_by(a, by if name == wrong else 0)) for name, a in operands.items())
        if gradient:
            return fastrecur.forget_mult_vjp(g, f, x, h, h0, grad_state=last)
        return fastrecur.forget_mult(f, x, h0)

    for gradient, names in [(False, ("f", "x", "h0")), (True, operands)]:
        if is_warm:
            for _ in range(2):  # the first meets the arrays' type, the next is remembered
                call(gradient=gradient)
            assert len(_call._shortcuts) == (kind != "dlpack")
        driver.log.clear()
        for name in names:
            for by in (1, 2):
                with pytest.raises(ValueError, match=f"`{name}` must be aligned on a GPU: .*multiple of 4, got 0x"):
                    call(name, by, gradient)
        assert not {"launch", "empty"} & set(kinds(driver))
        call("f", 4, gradient)
        _call._shortcuts.clear()


@pytest.mark.exhaustive
def test_other_addresses_that_are_no_multiples_of_the_size(driver, cupy):
    lengths = np.arange(40) % 21
    for wrong, by in [("out", 2), ("lengths", 4)]:
        out, given = (
            cupy.place(off_by(a, by if name == wrong else 0)) for name, a in (("out", X), ("lengths", lengths))
        )
        with pytest.raises(ValueError, match=f"`{wrong}` must be aligned.*multiple of {2 * by}"):
            fastrecur.forget_mult(cupy.place(F), cupy.place(X), lengths=given, out=out)
    with pytest.raises(ValueError, match="`lengths` must be aligned"):
        unaligned = np.zeros(40, "u1,i8")["f1"]
        fastrecur.forget_mult(cupy.place(F), cupy.place(X), lengths=cupy.place(unaligned))
    with pytest.raises(ValueError, match="`x` must be aligned on a GPU: its strides"):
        fastrecur.forget_mult(cupy.place(F), cupy.place(np.zeros(X.shape, "f4,u1")["f0"]))
    with pytest.raises(ValueError, match="`grad_state` must be aligned on a GPU: its strides"):
        state = cupy.place(np.zeros(40, "f4,u1")["f0"])
        fastrecur.forget_mult_vjp(*map(cupy.place, (X, F, X, X)), grad_state=state)
    assert "launch" not in kinds(driver)
    # Halves, and parts of complex numbers, are loaded by themselves.
    for dtype, by in [(np.float16, 2), (np.complex64, 4), (np.complex128, 8)]:
        a = off_by(X.astype(dtype), by)
        got = fastrecur.linear_recurrence(0.5, cupy.place(a)).host
        np.testing.assert_allclose(got, fastrecur.linear_recurrence(0.5, a), rtol=1e-3, atol=1e-3)
        with pytest.raises(ValueError, match=f"`b` must be aligned.*multiple of {by}"):
            fastrecur.linear_recurrence(0.5, cupy.place(off_by(a, by // 2)))


# ---- Which kernel ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lanes", "steps", "neighbours", "contiguous", "kernel", "tiles"),
    [
        (12800, 105, 12800, False, LANES, 1),  # the PTB language model's
        (65536, 512, 65536, False, LANES, 1),
        (32768, 2048, 1024, False, LANES, 16),  # fewer threads than keep memory busy
        (512, 65536, 512, False, LANES, 512),
        (4096, 4096, 4096, False, LANES, 32),
        (32, 1 << 20, 32, False, LANES, 8192),
        (40, 3000, 40, False, LANES, 24),
        (40, 100, 40, False, LANES, 1),
        (40, 100, 1, False, LANES, 1),
        (1000000, 1, 1000000, False, LANES, 1),
        (4096, 4096, 1, True, SERIES, 1),
        (1000000, 16, 1, True, SERIES, 1),
        (1, 10**7, 1, True, SERIES, 2442),
        (64, 1 << 17, 1, True, SERIES, 32),
        (256, 30000, 1, True, SERIES, 8),
        (2, 1000, 1, True, SERIES, 1),
        (1, 10, 1, True, SERIES, 1),
        (3, 1 << 20, 3, False, SERIES, 256),  # few lanes side by side
    ],
)
def test_choice(lanes, steps, neighbours, contiguous, kernel, tiles):
    assert _plan.choose(lanes, steps, neighbours, contiguous, 12, 16) == (kernel, tiles)


@pytest.mark.parametrize(
    ("lanes", "steps", "neighbours", "contiguous", "least", "most"),
    [(1, 10**7, 1, True, 48, 60), (64 * 320, 512, 64 * 320, False, 48, 55), (32768, 2048, 1024, False, 269, 300)],
)
def test_predictions(lanes, steps, neighbours, contiguous, least, most):
    """In microseconds, for a forward pass in float32."""
    assert least <= _plan.estimate(lanes, steps, neighbours, contiguous, 12, 16).scan <= most


def test_16_bits_want_more_threads_and_are_bound_by_instructions():
    tiles, times = [], []
    for word in (12, 6):
        executed = _plan.EXECUTED[word // 3, 0]
        tiles.append(_plan.choose(65536, 512, 65536, False, word, 16, executed=executed).tiles)
        times.append(_plan.estimate(64, 1 << 20, 1, True, word, 16, executed).scan)
    assert tiles == [1, 4]
    assert times[1] > times[0] / 2


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_long_series_are_scanned_in_a_single_pass(dtype):
    full = np.dtype(dtype), (64, 1 << 20), ((1 << 20) * int(dtype[1]), int(dtype[1]))
    plan = _plan.forward("forget", ("f", "x", "h0"), full, full, None, None, 1, False, None)
    assert [launch.kernel for launch in plan.launches] == ["clear", "scan", "series"]
    assert set(plan.scratch) == {"descriptors"}


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("family", [FORGET, LINEAR])
def test_all_descriptors_are_cleared(dtype, family):
    """By the driver, which sets as many words of 32 bits as there are."""
    name, names = family
    full = np.dtype(dtype), (64, 1 << 20), ((1 << 20) * int(dtype[1]), int(dtype[1]))
    forward = _plan.forward(name, (*names, "h0"), full, full, None, None, 1, False, None)
    backward = _plan.vjp(name, ("g", *names, "h"), (*[full] * 4, None, None), 1, False, None)
    for plan, words in ((forward, 4 if name == "forget" else 3), (backward, 3)):
        program = run.program(plan)
        kernel, _, cleared, _, place = program.launches[0]
        assert (kernel, place) == (None, len(plan.names))  # that of the only region
        assert (
            program.scratch
            >= 4 * cleared
            == 16 + 64 * (1 + words * plan.launches[1].values["tiles"]) * 2 * max(4, int(dtype[1]))
        )


def test_complex_states_are_not_cut():
    assert _plan.choose(1, 1 << 20, 1, True, 24, 8, by_lanes=True) == (LANES, 1)


def test_predictions_are_of_what_is_chosen():
    for gradient, bytes_moved in ((False, 12), (True, 24)):
        estimate, least = predicted((64, 1 << 20), 1, "f4", gradient)
        assert estimate.choice[0] == SERIES and estimate.choice[1] > 1  # of several tiles: the scan
        assert least == (bytes_moved << 26) / _plan.BYTES_PER_US


@pytest.mark.parametrize("segments", [1, 1000])
def test_series_that_begin_anew(segments):
    """With offsets each segment is a thread's, in one launch; with resets time is cut as ever. Totals are sums."""
    full = np.dtype("f4"), (64, 1 << 20), (1 << 22, 4)
    offsets, resets = (np.dtype("i8"), (segments + 1,), (8,)), (np.dtype(bool), full[1], (1 << 20, 1))
    for ends in ((offsets, None), (offsets, resets), (None, resets)):
        count = segments if ends[0] else 1
        told = 1, False, checks.Segments(None, *ends)
        states = (count, 64) if ends[0] else (64,)
        state = np.dtype("f4"), states, (0,) * len(states)
        forward = _plan.forward("forget", ("f", "x", "h0"), None, full, state, None, *told)
        backward = _plan.vjp("forget", ("g", "f", "x", "h"), (full, None, full, full, state, state), *told)
        assert forward.state_shape == states
        for plan, back in ((forward, ""), (backward, "_vjp")):
            kernels = [launch.kernel for launch in plan.launches]
            if ends[0] is None:
                assert kernels == ["clear", "scan" + back, "series" + back]
                continue
            assert (kernels, plan.choice) == (["lanes" + back], (LANES, 1))
            assert plan.launches[0].grid == (-(-64 * count // plan.launches[0].threads), 1, 1)
        assert backward.scratch["to_a"] == 64 * (count if ends[0] else backward.launches[1].values["tiles"])
    with pytest.raises(ValueError, match=r"fewer than 2\*\*31 series.*got 4294967296 series"):
        many = np.dtype("i8"), ((1 << 26) + 1,), (8,)
        ends = checks.Segments(None, many, None)
        _plan.forward("forget", ("f", "x", "h0"), None, full, None, None, 1, False, ends)


def test_offsets_that_are_not_aligned():
    """Every other byte of a record may be theirs."""
    full, ends = (np.dtype("f4"), (9,), (4,)), checks.Segments(None, (np.dtype("i8"), (3,), (12,)), None)
    with pytest.raises(ValueError, match="`offsets` must be aligned"):
        _plan.forward("forget", ("f", "x", "h0"), None, full, None, None, 0, False, ends)


def test_a_plain_call_s_shortcut_is_not_taken_for_segments(driver, cupy):
    f, x = cupy.place(F), cupy.place(X)
    plain, _ = fastrecur.forget_mult(f, x).host, fastrecur.forget_mult(f, x)
    count = len(_call._shortcuts)
    for _ in range(2):
        h = fastrecur.forget_mult(f, x, offsets=[0, 7, 20])
        assert_same_bits(h.host[:7], plain[:7])
        assert (h.host[7:] != plain[7:]).any()
    assert_same_bits(fastrecur.forget_mult(f, x).host, plain)
    assert len(_call._shortcuts) == count


def test_more_series_than_can_be_counted():
    signature = np.dtype(np.float32), (2, 1 << 31), (0, 0)
    with pytest.raises(ValueError, match=r"fewer than 2\*\*31 series.*got 2147483648 series of 2 steps"):
        _plan.forward("forget", ("f", "x", "h0"), None, signature, None, None, 0, False, None)


MOST = (1 << 31) - 1


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((2, MOST), 0), ((MOST, 2), 1), ((1, MOST), 1), ((MOST,), 0), ((1 << 20, 1 << 14), 0), ((1 << 14, 1 << 20), 1)],
)
def test_launches_are_within_a_driver_s_limits(shape, axis):
    """Of the largest problems too: blocks along both axes of a grid, threads, and what kernels take as int32."""

    def signature(shape, dtype):
        strides = tuple(dtype.itemsize * int(np.prod(shape[k + 1 :], dtype=np.int64)) for k in range(len(shape)))
        return dtype, shape, strides

    for dtype, is_shared in itertools.product(map(np.dtype, ("f2", "f4", "f8")), (False, True)):
        full, state = signature(shape, dtype), signature(shape[:axis] + shape[axis + 1 :], dtype)
        gate = None if is_shared else full
        plans = [
            _plan.forward("forget", ("f", "x", "h0"), gate, full, state, None, axis, False, None),
            _plan.vjp("forget", ("g", "f", "x", "h"), (full, gate, full, full, state, None), axis, False, None),
        ]
        for plan in plans:
            for launch in (*plan.launches, *plan.finish):
                if launch.kernel == _plan.CLEAR:
                    continue
                assert 1 <= launch.threads <= 1024
                assert all(1 <= n <= most for n, most in zip(launch.grid, (MOST, 65535, 65535), strict=True))
                assert all(launch.values[name] <= MOST for name in catalog._INT32 & launch.values.keys())


def test_more_axes_than_can_be_summed_over(driver, cupy):
    gate, value = np.ones((1, 2) * 4, np.float32), np.ones((2,) * 8, np.float32)
    with pytest.raises(NotImplementedError, match="fewer separate axes"):
        fastrecur.forget_mult_vjp(*map(cupy.place, (value, gate, value, value.copy())))


# ---- Compiled kernels on disk ---------------------------------------------------------------------------------------


@pytest.fixture
def a_kernel():
    launch = _plan.forward("forget", ("f", "x", "h0"), *[(F.dtype, F.shape, F.strides)] * 2, None, None, 0, False, None)
    launch = launch.launches[0]
    return _launch.Kernel(launch.kernel, launch.rule, launch.carry, launch.options, launch.elements, launch.time)


@pytest.mark.exhaustive
def test_kernels_are_kept_and_used_again(a_kernel, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTRECUR_CACHE_DIR", str(tmp_path / "cache"))
    code, name = _launch.cubin(a_kernel, (9, 0))
    assert code[:4] == b"\x7fELF"
    assert name.encode() in code
    (kept,) = (tmp_path / "cache").glob("*-*")
    monkeypatch.setattr(_launch.Kernel, "ptx", None)  # it must not be asked for again
    assert _launch.cubin(a_kernel, (9, 0)) == (code, name)
    # A file that was torn, or is another's, is compiled anew and replaced.
    monkeypatch.undo()
    monkeypatch.setenv("FASTRECUR_CACHE_DIR", str(tmp_path / "cache"))
    whole = kept.read_bytes()
    for damaged in [b"", b"x", whole[:-1], whole[:200], whole[:-9] + b"corrupted", b"\0" * len(whole)]:
        kept.write_bytes(damaged)
        monkeypatch.setattr(_launch, "assemble", lambda ptx, capability: (b"anew", "name"))
        assert _launch.cubin(a_kernel, (9, 0)) == (b"anew", "name")
        assert cache.unpack(kept.read_bytes()) == (b"anew", "name")
    assert {path.name for path in kept.parent.iterdir()} <= {kept.name, "lock"}


def test_what_a_kept_kernel_depends_on(a_kernel, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTRECUR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(_launch.Kernel, "ptx", lambda self, capability: ".entry k(")
    monkeypatch.setattr(_launch, "assemble", lambda ptx, capability: (b"code", "k"))
    _launch.cubin(a_kernel, (9, 0))
    _launch.cubin(a_kernel, (8, 0))
    assert len(list(tmp_path.glob("*-*"))) == 2
    monkeypatch.setattr(_launch, "digest", lambda: "another version")
    _launch.cubin(a_kernel, (9, 0))
    assert len(list(tmp_path.glob("*-*"))) == 3


@pytest.mark.parametrize("package", ["nvidia-nvjitlink", "nvidia-cuda-nvcc-cu12", "nvidia-nvjitlink-cu12"])
def test_kernels_of_other_compilers_are_others(monkeypatch, package):
    """CUDA 12's packages have names of their own."""
    version = importlib.metadata.version

    def other(name):
        return "another" if name == package else version(name)

    before = _launch.digest()
    cache.digest.cache_clear()
    monkeypatch.setattr(importlib.metadata, "version", other)
    assert _launch.digest() != before
    cache.digest.cache_clear()
    monkeypatch.undo()
    assert _launch.digest() == before
    monkeypatch.setenv("CUDA_HOME", "/another/toolkit")
    assert _launch.digest() != before


def test_no_place_for_kernels(a_kernel, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FASTRECUR_CACHE_DIR", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(_launch, "assemble", lambda ptx, capability: (b"code", "k"))
    assert _launch.cubin(a_kernel, (9, 0)) == (b"code", "k")


@pytest.mark.exhaustive
def test_two_processes_keep_the_same_kernel(tmp_path, monkeypatch):
    codes = [bytes([k]) * 100000 for k in range(8)]
    monkeypatch.setenv("FASTRECUR_CACHE_DIR", str(tmp_path))
    path = tmp_path / "kept"
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        writes = [pool.submit(cache.keep, "kept", codes[k % 8], "k") for k in range(200)]
        while not all(write.done() for write in writes):
            assert not path.exists() or cache.find("kept") is not None
    code, symbol = cache.find("kept")
    assert code in codes
    assert symbol == "k"
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "HOME", "LOCALAPPDATA"])
def test_cache_folder(monkeypatch, tmp_path, variable):
    for name in ["FASTRECUR_CACHE_DIR", "XDG_CACHE_HOME"]:
        monkeypatch.delenv(name, raising=False)
    if variable == "LOCALAPPDATA":
        monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv(variable, str(tmp_path))
    assert str(cache.folder()).startswith(str(tmp_path))


MUL_ADD = """
.version 6.4
.target sm_75
.address_size 64
.visible .entry kernel_0(.param .u64 at)
{
    .reg .f32 %f<5>;
    .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [at];
    cvta.to.global.u64 %rd2, %rd1;
    ld.global.f32 %f1, [%rd2];
    ld.global.f32 %f2, [%rd2+4];
    mul.f32 %f3, %f1, %f2;
    add.f32 %f4, %f3, %f1;
    st.global.f32 [%rd2], %f4;
    ret;
}
"""


def test_the_assembler_fuses_nothing(monkeypatch):
    """Else bits are the assembler's choice: not those of the PTX, which runs in tests, nor the same on every card."""
    from cuda.core import LinkerOptions

    opcodes = machine_code.assembled(MUL_ADD, "sm_90").opcodes
    assert opcodes["FMUL"] and opcodes["FADD"] and not opcodes["FFMA"]
    # What it does unless it is told.
    monkeypatch.setattr(_launch, "linker_options", lambda arch, *more: LinkerOptions(arch=arch, ptxas_options=[*more]))
    assert machine_code.together.__wrapped__((MUL_ADD,), "sm_90")[0].opcodes["FFMA"]


def test_the_size_of_a_block_and_the_parameters(a_kernel):
    assert a_kernel.threads == 128
    assert a_kernel.parameters[:4] == ("a", "a_time", "a_lane", "b")


# ---- What is missing ------------------------------------------------------------------------------------------------


def test_without_a_driver(run_python):
    run_python(
        """
import numpy as np, sys
import fastrecur
assert not {"cuda", "numba.cuda", "numba_cuda"} & set(sys.modules)
class Array:
    __cuda_array_interface__ = {"shape": (3,), "typestr": "<f4", "data": (4096, False), "version": 3}
import os
if os.path.exists("/dev/nvidiactl"):
    sys.exit()  # there is a driver
try:
    fastrecur.forget_mult(0.5, Array())
except RuntimeError as error:
    assert "driver" in str(error), error
else:
    raise AssertionError
""",
    )


def test_a_process_that_has_its_kernels_does_without_numba(run_python):
    run_python(
        """
import sys
import devices, numpy as np
import fastrecur
from fastrecur._cpu.compiler import cache
from fastrecur._cuda import launch
names = set()
class Driver(devices.Driver):
    def launch(self, kernel, grid, threads, arguments, device, stream):
        launch.cubin(kernel, (9, 0))
        names.add(kernel.name)
cache.find_or_make = lambda name, make: (b"", "kernel")  # each kernel is on the disk
driver = Driver()
launch.driver = lambda: driver
cupy = sys.modules["cupy"] = devices.Cupy(driver)
x = cupy.place(np.ones((9, 5), np.float32))
fastrecur.forget_mult(x, x)
fastrecur.forget_mult_vjp(x, x, x, x)
fastrecur.smoothing.holt(x, alpha=0.5, beta=0.1)
fastrecur.filters.sosfilt([[1, 0.5, 0.2, 1, -0.5, 0.1]], x, axis=0)
b, c = (cupy.place(np.ones((1, 9, 1), np.float32)) for _ in range(2))
u, a = cupy.place(np.ones((1, 9, 5), np.float32)), cupy.place(-np.ones((5, 1), np.float32))
fastrecur.selective_scan(u, u, a, b, c, layout="bld")
assert {"holt", "cascade", "selective"} < names, names
assert "numba" not in sys.modules
"""
    )


def test_without_the_packages(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    with pytest.raises(RuntimeError, match=r"numba-cuda.*\.\[cuda13\]"):
        _launch.CudaCore()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("CUDA_ERROR_OUT_OF_MEMORY", "need free memory there"), ("CUDA_ERROR_NOT_INITIALIZED", "before it forked"),
        ("CUDA_ERROR_ILLEGAL_ADDRESS", "perhaps of earlier work"),
    ],
)  # fmt: skip
def test_an_error_of_the_driver_is_said_in_words(name, words):
    api = pytest.importorskip("cuda.bindings.driver")
    with pytest.raises(RuntimeError) as caught:
        _launch.CudaCore.ask(None, (getattr(api.CUresult, name),))
    assert words in str(caught.value)
    assert name in str(caught.value)


def test_what_is_needed_of_numba_cuda():
    """Names that it does not document: there, and what they were."""
    from numba.cuda import decorators, dispatcher
    from numba.cuda.typing import templates

    asks = dispatcher.CUDADispatcher.compile_device
    assert "get_current_device" in asks.__code__.co_names
    assert "CUDADispatcher" in decorators.jit.__code__.co_names
    for name in ("make_overload_template", "infer", "infer_global"):
        assert callable(getattr(templates, name))
    assert callable(templates._OverloadFunctionTemplate._get_jit_decorator)
    # Copies of them ask for something else; they do as before.
    assert asks.__globals__ is vars(dispatcher)
    assert decorators.jit.__globals__["CUDADispatcher"] is dispatcher.CUDADispatcher
    assert issubclass(numba_cuda_internals._Helper, dispatcher.CUDADispatcher)


@pytest.mark.exhaustive
def test_arrays_of_the_simulator(run_python):
    """No GPU holds them: today's result would be an array of the host, which their owner does not expect."""
    run_python(
        """
import numpy as np
import fastrecur
from numba import cuda
x = cuda.to_device(np.ones(5))
for call in (lambda: fastrecur.forget_mult(0.5, x), lambda: fastrecur.linear_recurrence(x, np.ones(5))):
    try:
        call()
    except TypeError as error:
        assert "must not be an array of Numba's simulator" in str(error), error
    else:
        raise AssertionError
assert fastrecur.forget_mult(0.5, x.copy_to_host())[0] == 0.5
""",
        NUMBA_ENABLE_CUDASIM="1",
    )


def test_every_word_of_a_kernel_has_a_meaning():
    """In compiled code and in the interpreter: by itself it does nothing."""
    words = {name for name, value in vars(_device).items() if callable(value)} - {"helper"}
    assert words == set(simulator.MEANINGS)
    assert {getattr(_device, word) for word in words} <= _compile.KNOWN


def test_show_config(capsys, driver, monkeypatch):
    driver.describe = lambda: ["device 0: a card"]
    monkeypatch.setattr(_config, "_on_device", lambda number: "work")
    fastrecur.show_config()
    printed = capsys.readouterr().out
    for what in [
        "fastrecur",
        "numba",
        "threads",
        "CPU kernels    work",
        "device 0: a card: work",
        "cache          /",
    ]:
        assert what in printed
    driver.describe = None
    fastrecur.show_config()
    assert "do not work" in capsys.readouterr().out
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "SECRET": "hidden"}
    done = subprocess.run([sys.executable, "-m", "fastrecur"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    for what in ["numba-cuda", "NUMBA_DISABLE_JIT=1"]:
        assert what in done.stdout
    assert "hidden" not in done.stdout


@pytest.mark.exhaustive
def test_a_warm_process_does_not_import_numba_cuda(run_python, a_kernel, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTRECUR_CACHE_DIR", str(tmp_path))
    _launch.cubin(a_kernel, (9, 0))
    run_python(
        f"""
import sys
from fastrecur._cuda import launch as _launch, call as _recurrence
kernel = _launch.Kernel(*{a_kernel.key!r})
code, name = _launch.cubin(kernel, (9, 0))
assert not any(m.startswith(("numba.cuda", "numba_cuda")) for m in sys.modules)
""",
        FASTRECUR_CACHE_DIR=str(tmp_path),
    )
