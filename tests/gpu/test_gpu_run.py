"""What is run on a real card first, `tests/gpu/run.py`, seen to run on a card that is not there."""

import contextlib
import functools
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import compare
import devices
import mutants
import numpy as np
import pytest
import stub_driver
import table

from fastrecur._cuda import launch, plan
from fastrecur._cuda.kernels import selective

GPU = pathlib.Path(__file__).parent
LARGEST = 3000  # elements that are run here


@pytest.fixture
def load(monkeypatch):
    """Return what loads one of the script's modules."""
    monkeypatch.setattr(sys, "path", [str(GPU), *sys.path])
    monkeypatch.setattr(compare, "carry_of", compare.carry_of)  # which a module sets

    def load(name):
        spec = importlib.util.spec_from_file_location(f"gpu_{name}", GPU / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


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


@pytest.mark.exhaustive
def test_problems_are_right(load, cupy):
    problems = load("correctness")
    small = [case for case in problems.cases(False) if np.prod(case.value) <= LARGEST]
    small += [case for case in problems.segment_cases(False) if np.prod(case.value) <= LARGEST][::5]
    kinds = {
        "sums": [case for case in small if case.gate != case.value and np.dtype(case.dtype).kind == "f"],
        "complex": [case for case in small if np.dtype(case.dtype).kind == "c"],
        "lengths": [case for case in small if case.lengths],
        "offsets": [case for case in small if "offsets" in case.cuts],
        "resets": [case for case in small if "resets" in case.cuts],
    }
    assert all(kinds.values())
    assert [off for _, off in problems.correctness(Library(cupy), small) if off] == []
    first = [small[0], *(cases[0] for cases in kinds.values())]
    assert all(off for _, off in problems.correctness(Library(cupy, off=0.01), first))


class OnGpu:
    """PyTorch's stand-in, on the CPU; ``off`` is added to every number that is read."""

    name, off = "torch", 0.0

    def __init__(self, put):
        self.put = put

    def get(self, tensor):
        found = tensor.detach().resolve_conj()
        return (found.float() if found.element_size() < 4 else found).numpy() + self.off

    def poison(self, size):
        """Nothing."""


@pytest.mark.exhaustive
def test_filters_and_selective_scans_are_right(load, monkeypatch):
    """The kernels that are compiled beforehand are those that run."""
    import tensors

    needs, problems = load("needs"), load("correctness")
    library, driver = OnGpu(needs.put_tensor), devices.Driver()
    few, mode = problems.FEW_FILTERS, tensors.OnGpu()
    known = [*needs.of_problems(problems.filter_problems, few), *needs.of_problems(problems.selective_problems, 1000)]
    every = [*problems.filter_problems(True, few), *problems.selective_problems(True, 1000)]

    def on_gpu(put, results):
        with mode if put else contextlib.nullcontext():
            return results(put)

    every = [(*rest, functools.partial(on_gpu, results=results)) for *rest, results in every]
    with monkeypatch.context() as patch:
        tensors.place(driver, patch.setattr)
        assert [off for _, off in problems.compared(library, every) if off] == []
        library.off = 0.1
        assert all(off for _, off in problems.compared(library, every))
    assert {kernel.name for kernel in known} == {entry[1] for entry in driver.log if entry[0] == "launch"}
    found = needs.of_problems(problems.filter_problems)
    assert {"cascade", "follow", "holt", "holt_vjp"} < {kernel.name for kernel in found}


class Predicted:
    """A report that remembers what is timed and predicted, and measures nothing."""

    def __init__(self):
        self.rows = {}

    def row(self, what, predicted, measure, unit="us", bytes_moved=None):
        self.rows[what] = predicted

    def write(self, kind, **fields):
        """Nothing."""


class Unmeasured(Library):
    """NumPy's arrays."""

    def __init__(self):
        self.put = self.get = self.copy = lambda array: array

    def random(self, shape, dtype="float32"):
        return np.ones(shape, np.float32)


CARD_ALONE = "order", "torch", "operands", "past 2**31", "sanitizer", "profiler", "peers"  # what times nothing of ours


@pytest.mark.exhaustive
def test_each_timed_row_has_a_prediction(load, monkeypatch):
    groups = load("groups")
    monkeypatch.setitem(sys.modules, "groups", groups)
    load("behavior")
    monkeypatch.setattr(groups.Bench, "checks", lambda bench, results: True)
    monkeypatch.setattr(groups.Bench, "compare", lambda *arguments: None)
    for name in ("forget_mult", "forget_mult_vjp", "linear_recurrence", "linear_recurrence_vjp"):
        monkeypatch.setattr(groups.fastrecur, name, lambda a, *rest, **options: a)
    report = Predicted()
    for name in set(groups.in_turn()) - set(CARD_ALONE):
        groups.GROUPS[name].function(groups.Bench(Unmeasured(), report, tiny=True))
    assert len(report.rows) > 40
    assert [what for what, predicted in report.rows.items() if not any(map(str.isdigit, predicted))] == [
        "(512,64,1024) float16", "(512,64,1024) float64"  # in words: of float32's
    ]  # fmt: skip


@pytest.mark.exhaustive
def test_what_is_counted_is_what_runs(load, cupy):
    """Of kernels that choose threads by how many series there are, those that a card is to time."""
    predictions, groups, cupy.driver.race = load("predictions"), load("groups"), False
    for name, found in table.counted(cupy).items():
        wanted = predictions.COUNTED[name]
        assert [round(number) for number in found] == list(wanted[:3])
    for threads, sizes in groups.SCANS.items():
        counted = predictions.COUNTED[f"selective scan, {threads} threads"]
        assert (counted.series, counted.steps) == (sizes["batch"] * sizes["channels"], sizes["steps"])
        assert (counted.threads, counted.waits) == (threads, 1 / min(32, 4 * threads))
        assert threads == selective.lanes_of(16, counted.series, plan.THREADS_WANTED)


@pytest.mark.parametrize("name", [name for name, its in mutants.ALL.items() if its])
def test_mutants_change_lines_that_are_there(name):
    path, text = mutants.changed(name)
    assert text != path.read_text()


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", [name for name, its in mutants.ALL.items() if not its])
def test_mutants_have_tests(name):
    done = subprocess.run(mutants.command(name, "--collect-only"), capture_output=True, text=True, cwd=GPU.parents[1])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.exhaustive
def test_kernels_are_compiled_without_a_card(load, monkeypatch, tmp_path):
    """Of some problems, as machine code for a card's capability; and travel."""
    command = [sys.executable, str(GPU / "run.py"), "--precompile", "sm_90", "--bundle", str(tmp_path / "bundle")]
    command += ["--only", "lanes"]
    environment = os.environ | {"FASTRECUR_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(GPU.parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "2 kernels for sm_90" in done.stdout
    kept = list(tmp_path.glob("lanes-90-*"))
    assert len(kept) == 2
    assert all(b"\x7fELF" in path.read_bytes() for path in kept)
    # They are in the bundle; where there are no compilers and nothing on the disk they are loaded from there.
    monkeypatch.setattr(launch, "compiler", lambda: pytest.fail("something is compiled"))
    monkeypatch.setenv("FASTRECUR_CACHE_DIR", str(tmp_path / "empty"))
    for name in ("cubin", "assemble"):
        monkeypatch.setattr(launch, name, getattr(launch, name))
    counts = load("bundle").Bundle(tmp_path / "bundle").use()
    kernels = load("needs").of_rows(load("groups").LANES)
    assert [launch.cubin(kernel, (9, 0))[0][:4] for kernel in kernels] == [b"\x7fELF"] * 2
    assert dict(counts) == {"bundle": 2, "cache": 0, "compiled": 0}


class Tensors:
    """PyTorch's stand-in by the script's few names, on the CPU."""

    name = "torch"

    def __init__(self, torch):
        self.torch = torch

    def put(self, array):
        return self.torch.tensor(array)

    def get(self, array):
        return array.detach().numpy()


class Notes:
    """A report that is only remembered."""

    def __init__(self):
        self.written = []

    def write(self, kind, **fields):
        self.written.append((kind, fields))


@pytest.mark.exhaustive
def test_what_torch_adds_is_rehearsed_on_the_cpu(load, monkeypatch):
    """Gradients, transforms, a QRNN and smoothing: the group's own code, to which a card would only add the device."""
    import torch

    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    monkeypatch.setattr(torch, "compile", lambda function: function)
    monkeypatch.setitem(sys.modules, "groups", load("groups"))
    notes = Notes()
    bench = sys.modules["groups"].Bench(Tensors(torch), notes, tiny=True)
    behavior = load("behavior")
    behavior.torch_features(bench)
    behavior.operands(bench)
    assert [kind for kind, _ in notes.written] == ["right", "right"], notes.written
    assert [fields["count"] for _, fields in notes.written] == [7, 5]


FAULTY = """
import os, sys, time
sys.path[:0] = {places!r}
import stub_driver
stub_driver.run_kernels()
import groups, run

@groups.group("crashes")
def crashes(bench):
    bench.report.row("before the crash", "1", lambda: 1.0, "")
    os.abort()

@groups.group("hangs", 2)
def hangs(bench):
    bench.report.row("before the hang", "1", lambda: 1.0, "")
    time.sleep(1000)

@groups.group("wrong")
def wrong(bench):
    get = bench.lib.get
    bench.lib.get = lambda array: get(array) + (array.shape[0] == 7)
    bench.timed("what is wrong", "0", (7, 40))
    bench.timed("what is right", "0", (8, 40), caches=("warm", "cold"))
    bench.timed("its gradient", "0", (8, 40), gradient=True)
    bench.report.row("what raises", "0", lambda: 1 / 0)

if __name__ == "__main__":
    sys.exit(run.main(script=(__file__,)))
"""


@pytest.mark.exhaustive
@pytest.mark.skipif(stub_driver.why_not() is not None, reason=str(stub_driver.why_not()))
def test_main_from_end_to_end(tmp_path):
    """A group that crashes, one that hangs and one that is wrong cost themselves alone; what was measured is kept."""
    script, output = tmp_path / "faulty.py", tmp_path / "gpu.jsonl"
    places = [str(GPU), str(GPU.parent / "gpu_tools"), str(GPU.parent), str(GPU.parents[1])]
    script.write_text(FAULTY.format(places=places))
    environment = os.environ | stub_driver.environment()
    environment |= {"FASTRECUR_CACHE_DIR": str(stub_driver.folder() / "ptx"), "MPLBACKEND": "Agg"}
    names = ["first", "segments", "correctness numba", "crashes", "hangs", "wrong", "order", "operands", "sanitized"]
    command = [sys.executable, str(script), "--tiny", "--output", str(output), "--library", "numba", "--only", *names]
    command += ["--every", "1000", "--minutes", "60"]

    def run(*more):
        return subprocess.run(
            [*command, *more], capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=1200
        )

    done = run()
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    outcomes = {row["group"]: row["outcome"] for row in rows if row["kind"] == "group"}
    shown = done.stdout + done.stderr
    assert outcomes.pop("hangs").startswith("hung: ended after"), shown
    assert outcomes.pop("crashes") == "crashed: SIGABRT", shown
    assert outcomes == dict.fromkeys([*names[:3], *names[5:]], "done"), shown
    assert done.returncode == 1
    (about,) = [row for row in rows if row["kind"] == "about"]
    assert about["card"] == "stub card 0"
    assert about["versions"]["numba-cuda"]
    assert [row["what"] for row in rows if row["kind"] == "wrong"] == ["what is wrong"], shown
    measured = {row["what"]: row["measured"] for row in rows if row["kind"] == "row"}
    kept = {"copy", "before the crash", "before the hang", "what is right, warm", "what is right, cold", "its gradient"}
    kept |= {"(2048,32,1024)"}
    assert kept | {"what raises"} == set(measured), shown
    assert all(measured[what] is not None for what in kept)
    assert sum(row["count"] for row in rows if row["kind"] == "right") >= 7
    # What is compiled before a group begins is there, and not compiled again; and the first times come first.
    compiled = {row["name"]: row["tasks"] for row in rows if row["kind"] == "compiled"}
    assert list(compiled)[:2] == ["first", "segments"]
    assert all(compiled[name] for name in list(compiled)[:2])
    used = {row["group"]: row for row in rows if row["kind"] == "kernels"}
    assert used["segments"]["cache"] > 0
    assert used["segments"]["bundle"] == 0
    # The text and the chart, once more from what is there, of which the last line was cut off.
    assert "1 WRONG" in output.with_suffix(".txt").read_text()
    assert output.with_suffix(".png").stat().st_size > 1000
    output.write_text(output.read_text()[:-20])
    for suffix in (".txt", ".png"):
        output.with_suffix(suffix).unlink()
    again = run("--report", str(output))
    assert again.returncode == 1, again.stdout + again.stderr
    assert "ZeroDivisionError" in output.with_suffix(".txt").read_text()
    assert output.with_suffix(".png").exists()
