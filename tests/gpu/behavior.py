"""Groups beyond results and times: order of work, graphs, threads, devices, what torch adds, peers, the sanitizer."""

import functools
import itertools
import pathlib
import shutil
import subprocess
import sys
import threading

import correctness
import needs
import numpy as np
from groups import CUT, GROUPS, cut_kernels, cut_time, group

import fastrecur
from fastrecur._cuda import plan

RUN = pathlib.Path(__file__).with_name("run.py")


def same(lib, got, wanted, bound=1e-4):
    """Return None if results are equal within a bound, else what is off."""
    got, wanted = (np.asarray(v if isinstance(v, np.ndarray) else lib.get(v), np.float64) for v in (got, wanted))
    if got.shape == wanted.shape and np.allclose(got, wanted, rtol=bound, atol=bound):
        return None
    return f"off by {np.nanmax(np.abs(got - wanted)) if got.shape == wanted.shape else (got.shape, wanted.shape)}"


def problem(shape, seed=0):
    """Return gates and values on the host."""
    rng = np.random.default_rng(seed)
    return rng.random(shape).astype(np.float32), rng.standard_normal(shape).astype(np.float32)


def attempt(function):
    """Return what is off: what a function returns, or the error that it raises."""
    try:
        return function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def each(pairs):
    """Yield names and what is off, for names and functions."""
    for name, function in pairs:
        yield name, attempt(function)


REPEATED = [((64, 100001), 1, 100), ((64, 1 << 20), 1, 20), ((65536, 512), 0, 20), ((512, 4096), 0, 100)]


@group("repeats", 40, kernels=lambda: needs.of_rows([needs.Row("", "", *its[:2]) for its in REPEATED]))
def repeats(bench):
    """The same bits, over and over: kernels that look back see others in another order each time."""
    lib = bench.lib
    for shape, axis, times in REPEATED:
        shape, times = bench.shape(shape), 3 if bench.tiny else times
        f, x = lib.random(shape), lib.random(shape)
        first = lib.get(fastrecur.forget_mult(f, x, axis=axis))

        def count(f=f, x=x, axis=axis, first=first, times=times):
            again = (lib.get(fastrecur.forget_mult(f, x, axis=axis)) for _ in range(times))
            return sum(bool((h == first).all()) for h in again)

        bench.report.row(f"repeats to the bit {shape}", str(times), count, "")


def alike(*shapes, gate=None, dtype=np.float32, axis=0):
    """Return what yields the kernels of averages of some shapes."""
    cases = [correctness.Case("forget_mult", s if gate is None else gate, s, dtype, axis, False) for s in shapes]
    return lambda: needs.of_cases(cases)


@group("operands", kernels=alike((70, 40), (2800,)))
def operands(bench):
    """`out`, strided, misaligned and offset operands, and threads that have not used the device."""
    lib = bench.lib
    f, x = problem((70, 40))
    wanted = fastrecur.forget_mult(f, x)

    def out():
        target = lib.put(np.zeros_like(x))
        h = fastrecur.forget_mult(lib.put(f), lib.put(x), out=target)
        return same(lib, target, wanted) if h is target else "another array came back"

    def in_place():
        target = lib.put(x)
        return same(lib, fastrecur.forget_mult(lib.put(f), target, out=target), wanted)

    def strided():
        wide = lib.put(np.repeat(x, 2, 1))[:, ::2]
        return same(lib, fastrecur.forget_mult(lib.put(f), wide), wanted)

    def four_bytes_off():
        flat = lib.put(np.concatenate([np.zeros(1, np.float32), x.ravel()]))[1:]
        return same(lib, fastrecur.forget_mult(lib.put(f.ravel()), flat), fastrecur.forget_mult(f.ravel(), x.ravel()))

    def side_thread():
        found = []
        arrays = lib.put(f), lib.put(x)
        thread = threading.Thread(
            target=lambda: found.append(attempt(lambda: same(lib, fastrecur.forget_mult(*arrays), wanted)))
        )
        thread.start()
        thread.join()
        return found[0]

    checks = [("out=", out), ("out= in place", in_place), ("strided", strided), ("4 bytes off", four_bytes_off)]
    bench.checks(each([*checks, ("a side thread", side_thread)]))


@group("past 2**31", 40, ("torch", "cupy"), kernels=alike((16, (1 << 27) + 5), gate=(), dtype=np.float16))
def past(bench):
    """Elements whose offsets in bytes, and whose number, are more than 32 bits hold."""

    def check():
        lib, steps, lanes = bench.lib, 16, 5 if bench.tiny else (1 << 27) + 5
        x = lib.random((steps, lanes), "float16")
        h = fastrecur.forget_mult(0.25, x)
        some = slice(lanes - 5, None)
        return same(lib, h[:, some], fastrecur.forget_mult(0.25, lib.get(x[:, some])), 1e-2)

    bench.checks(each([("2**31 elements and more", check)]))


GRAPHS = [needs.Row("", "", (105, 20, 640), 0, gradient=True), needs.Row("", "", (64, 1 << 17), 1, gradient=True)]


@group("order", 40, ("torch",), kernels=lambda: needs.of_rows(GRAPHS))
def order(bench):
    """Streams, graphs, other devices, DLPack."""
    lib, torch = bench.lib, bench.lib.torch

    def side_stream():
        stream = torch.cuda.Stream()
        for _ in range(20):
            with torch.cuda.stream(stream):
                x = torch.zeros(4096, 4096, device="cuda")
                for _ in range(10):
                    x += 1
                if not (fastrecur.forget_mult(1.0, x) == 10).all():
                    return "read too early"

    def foreign_streams():
        class Foreign:
            def __init__(self, tensor, stream):
                self.tensor = tensor
                self.__cuda_array_interface__ = {**tensor.__cuda_array_interface__, "version": 3}
                self.__cuda_array_interface__["stream"] = stream.cuda_stream

        streams = torch.cuda.Stream(), torch.cuda.Stream()
        arrays = []
        for stream in streams:
            with torch.cuda.stream(stream):
                x = torch.zeros(4096, 4096, device="cuda")
                for _ in range(10):
                    x += 0.1
                arrays.append(Foreign(x, stream))
        h = fastrecur.forget_mult(*arrays)
        torch.cuda.synchronize()
        return same(lib, h.copy_to_host(), fastrecur.forget_mult(*(a.tensor.cpu().numpy() for a in arrays)))

    def graph(shape, axis, gradient):
        f, x = lib.random(shape), lib.random(shape)
        h = fastrecur.forget_mult(f, x, axis=axis)
        call = bench.call(f, x, h, axis, gradient)
        call()
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            results = call()
        for _ in range(100):
            x.copy_(lib.random(shape))
            captured.replay()
            for got, wanted in zip(results, call(), strict=True):
                if got is not None and not torch.equal(got, wanted):
                    return "a replay differs"

    def second_device():
        if torch.cuda.device_count() < 2:
            return None
        f, x = (torch.from_numpy(a).to("cuda:1") for a in problem((300, 200)))
        before, h = torch.cuda.current_device(), fastrecur.forget_mult(f, x)
        if h.device.index != 1 or torch.cuda.current_device() != before:
            return f"{h.device}, current device {torch.cuda.current_device()}"
        return same(lib, h, fastrecur.forget_mult(f.cpu().numpy(), x.cpu().numpy()))

    def dlpack():
        class Only:
            """A tensor known by DLPack and a namespace alone."""

            float32, uint8, int64 = torch.float32, torch.uint8, torch.int64

            def __init__(self, tensor):
                self.tensor, self.device = tensor, tensor.device
                self.__dlpack__, self.__dlpack_device__ = tensor.__dlpack__, tensor.__dlpack_device__

            def __array_namespace__(self, api_version=None):
                return Only

            @staticmethod
            def empty(shape, dtype, device):
                return Only(torch.empty(shape, dtype=dtype, device=device))

            @staticmethod
            def permute_dims(array, axes):
                return Only(array.tensor.permute(axes))

        f, x = problem((300, 200))
        h = fastrecur.forget_mult(Only(lib.put(f)), Only(lib.put(x)))
        return same(lib, h.tensor, fastrecur.forget_mult(f, x))

    checks = [
        ("a stream of its own", side_stream), ("foreign streams", foreign_streams), ("a second device", second_device),
        ("DLPack", dlpack),
    ]  # fmt: skip
    for _, _, shape, axis, *_ in GRAPHS:
        for gradient in (False, True):
            name = f"graph of {shape}{' gradient' * gradient}"
            checks.append((name, lambda s=shape, a=axis, g=gradient: graph(s, a, g)))
    bench.checks(each(checks))


@group("torch", 60, ("torch",), kernels=lambda: [*alike((50, 6, 40))(), *alike((50, 6, 40), gate=())()])
def torch_features(bench):
    """Gradients, transforms, the compiler, the QRNN, smoothing: each against the same on the CPU."""
    lib, torch = bench.lib, bench.lib.torch
    import fastrecur.smoothing
    import fastrecur.torch

    f, x = (torch.from_numpy(a) for a in problem((50, 6, 40)))

    def both(function):
        """What is off between the CPU's results and the GPU's."""
        here, there = function(f, x), function(f.cuda(), x.cuda())
        for one, two in zip(here, there, strict=True):
            off = same(lib, two.detach(), one.detach().numpy())
            if off is not None:
                return off

    def autograd(f, x):
        f, x = f.clone().requires_grad_(), x.clone().requires_grad_()
        h = fastrecur.forget_mult(f, x)
        grads = torch.autograd.grad(h.square().sum(), (f, x), create_graph=True)
        return h, *grads, *torch.autograd.grad(sum(grad.square().sum() for grad in grads), (f, x))

    def in_threads(f, x):
        """torch's autograd threads, one for each device, begin without a context."""
        f = f.clone().requires_grad_()
        fastrecur.forget_mult(f, x).sum().backward()
        return (f.grad,)

    def vmap(f, x):
        return (torch.func.vmap(fastrecur.forget_mult, in_dims=1, out_dims=1)(f, x),)

    def jvp(f, x):
        return torch.func.jvp(fastrecur.forget_mult, (f, x), (x, f))

    def compiled(f, x):
        return (torch.compile(lambda f, x: fastrecur.forget_mult(f.sigmoid(), x.tanh()))(f, x),)

    def qrnn(f, x):
        torch.manual_seed(0)
        layer = fastrecur.torch.QRNN(40, 33, num_layers=2, window=2).to(x.device)
        h, _ = layer(x)
        return h, *torch.autograd.grad(h.square().sum(), list(layer.parameters()))

    def smoothing(f, x):
        return (fastrecur.smoothing.ewm_mean(x, alpha=0.1, axis=0),)

    names = [autograd, in_threads, vmap, jvp, compiled, qrnn, smoothing]
    bench.checks(each((function.__name__, lambda function=function: both(function)) for function in names))


@group("cut time", 40, kernels=cut_kernels)
def cut(bench):
    """The single-pass scan has an uncut scan's bits, of numbers of which none is rounded, and of infinities."""
    pairs = itertools.product(CUT, [False, True])
    names = (f"{c.value}{' with an infinity' * i}" for c, i in itertools.product(CUT, [False, True]))
    checks = [lambda c=c, i=i: cut_time(bench, c.value, c.axis, i) for c, i in pairs]
    bench.checks(each(zip(names, checks, strict=True)))


PEERS = [needs.Row("", "", (8, 1536, 65536), 2, name="linear_recurrence")]


@group("peers", 60, ("torch", "cupy"), kernels=lambda: [*needs.of_rows(PEERS), *alike((4, 10**7), gate=(), axis=1)()])
def peers(bench):
    """The same on the same card by whatever else is installed."""
    lib, row = bench.lib, bench.report.row

    def timed(name, call, predicted="-"):
        def measure():
            call()
            return lib.microseconds([call] * 5)

        row(name, predicted, measure)

    def ours(lanes, steps, word):
        """Return what contiguous time should take."""
        choice, whole, scan = plan.estimate(lanes, steps, 1, True, word, 16)
        return f"{scan if choice.tiles > 1 else whole:.0f}"

    if lib.name == "cupy":
        signal = lib.random((4, 1 << 10 if bench.tiny else 10**7))
        from cupyx.scipy.signal import lfilter

        timed("cupyx lfilter (4, 1e7)", lambda: lfilter([0.1], [1.0, -0.9], signal))
        timed("forget_mult (4, 1e7)", lambda: fastrecur.forget_mult(0.1, signal, axis=1), ours(4, 10**7, 8))
        return
    torch = lib.torch
    x, f = lib.random((105, 20, 640)), lib.random((105, 20, 640))
    for name in ("GRU", "LSTM"):
        model = getattr(torch.nn, name)(640, 640).cuda()
        timed(f"cuDNN {name} (105,20,640), matrix products included", lambda model=model: model(x))

    def loop():
        h, states = torch.zeros(20, 640, device="cuda"), []
        for t in range(105):
            h = torch.lerp(h, x[t], f[t])
            states.append(h)
        return torch.stack(states)

    timed("a loop of torch.lerp (105,20,640)", loop)
    gates, tokens = lib.random((8, 1536, 65536)), lib.random((8, 1536, 65536))

    def accelerated_scan():
        from accelerated_scan.warp import scan

        return scan(gates, tokens)

    def fla():
        from fla.ops.hgrn import chunk_hgrn

        return chunk_hgrn(tokens.transpose(1, 2).contiguous(), gates.log().transpose(1, 2).contiguous())

    def associative():
        from torch._higher_order_ops.associative_scan import associative_scan

        def combine(one, two):
            return one[0] * two[0], one[1] * two[0] + two[1]

        return associative_scan(combine, (gates[:, :64], tokens[:, :64]), dim=2)

    own = functools.partial(fastrecur.linear_recurrence, gates, tokens, axis=2)
    timed("linear_recurrence (8,1536,65536)", own, ours(8 * 1536, 65536, 12))
    timed("accelerated-scan (8,1536,65536)", accelerated_scan)
    timed("fla chunk_hgrn (8,1536,65536), transposes included", fla)
    timed("torch associative_scan (8,64,65536)", torch.compile(associative))


SCAN = 64, 100_001


@group("sanitized", 40, ("bare",), cases=lambda: [correctness.Case("forget_mult", SCAN, SCAN, np.float32, 1, False)])
def sanitized(bench):
    """What the sanitizer and the profiler look at: the scan that looks back, of gates that are 0 or 1, to the bit."""
    lib, shape, rng = bench.lib, bench.shape(SCAN), np.random.default_rng(0)
    f, x = (rng.integers(low, high, shape).astype(np.float32) for low, high in ((0, 2), (1, 9)))
    out = lib.put(np.full(shape, np.nan, np.float32))
    fastrecur.forget_mult(lib.put(f), lib.put(x), axis=1, out=out)
    last = np.maximum.accumulate(np.where(f == 1, np.arange(shape[1]), -1), axis=1)  # the last step with an open gate
    wanted = np.where(last < 0, 0, np.take_along_axis(x, np.maximum(last, 0), 1))
    bench.checks([(f"scan of {shape}", None if np.array_equal(lib.get(out), wanted) else "other bits")])


def tool_of(bench, name):
    """Return where a tool is; note that it is needed where it is not installed."""
    tool = shutil.which(name)
    if tool is None:
        bench.report.write("note", note=f"needs {name}")
    return tool


def under(bench, *command, seconds):
    """Run `sanitized` under a tool, in a process of its own, for some seconds at most."""
    command = [*command, sys.executable, str(RUN), "--group", "sanitized", *["--tiny"] * bench.tiny]
    command += ["--output", str(bench.report.path), *bench.more]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return None


@group("sanitizer", 75, kernels=lambda: GROUPS["sanitized"].kernels())
def sanitizer(bench):
    """The look-back under compute-sanitizer, where it is installed; each of its tools within a time of its own."""
    tool = tool_of(bench, "compute-sanitizer")
    if tool is None:
        return
    for check in ("memcheck", "racecheck", "synccheck"):
        done = under(bench, tool, "--tool", check, "--error-exitcode", "9", seconds=25)
        if done is None:
            bench.report.write("note", note=f"compute-sanitizer {check} took too long")
            continue
        off = None if done.returncode == 0 else f"status {done.returncode}: {done.stdout[-1500:]}"
        bench.checks([(f"compute-sanitizer {check} of {SCAN}", off)])


PERCENT = "avg.pct_of_peak_sustained_"
COUNTERS = "smsp__inst_executed.sum", f"smsp__issue_active.{PERCENT}active"
COUNTERS += f"sm__inst_executed_pipe_alu.{PERCENT}active", f"dram__throughput.{PERCENT}elapsed"


@group("profiler", 60, kernels=lambda: GROUPS["sanitized"].kernels())
def profiler(bench):
    """What binds the scan, instructions or memory, as Nsight Compute counts it where it is installed and allowed."""
    tool = tool_of(bench, "ncu")
    if tool is None:
        return
    done = under(bench, tool, "--kernel-name", "regex:scan", "--metrics", ",".join(COUNTERS), "--csv", seconds=50)
    bench.report.write("note", note="ncu took too long" if done is None else (done.stdout + done.stderr)[-4000:])
