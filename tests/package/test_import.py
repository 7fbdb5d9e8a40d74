"""What `import fastrecur` brings, costs and leaves behind; where compiled kernels are kept."""

import concurrent.futures
import contextlib
import importlib.metadata
import inspect
import io
import logging
import os
import pathlib
import re
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest

import fastrecur
from fastrecur import __main__, _config, reference
from fastrecur._arguments import notices
from fastrecur._cpu.compiler import cache as _cache, compile as _compile, native


def test_names():
    functions = {*reference.__all__, "get_num_threads", "set_num_threads"}
    assert functions | {"__version__"} <= set(fastrecur.__all__)
    assert len(fastrecur.__all__) == len(set(fastrecur.__all__))
    for name in fastrecur.__all__:
        assert hasattr(fastrecur, name)
    # Nothing else is found by completion, but modules that are documented.
    public = {name for name in vars(fastrecur) if not name.startswith("_")}
    assert public <= {*fastrecur.__all__, "recurrence", *"filters reference returns selective smoothing torch".split()}


def test_every_public_function_has_a_page_and_types():
    for name in reference.__all__:
        function, definition = getattr(fastrecur, name), getattr(reference, name)
        for heading in ["Parameters", "Returns", "Raises", "Examples"]:
            assert f"\n    {heading}\n" in function.__doc__ or f"\n{heading}\n" in function.__doc__
        given, defined = (inspect.signature(f).parameters for f in (function, definition))
        assert [n for n in given if n != "out"] == list(defined)
        for parameter in defined.values():
            assert given[parameter.name].default == parameter.default
            assert given[parameter.name].kind == parameter.kind
            assert given[parameter.name].annotation is not parameter.empty
            assert parameter.annotation is not parameter.empty
        assert inspect.signature(definition).return_annotation is not inspect.Signature.empty


def test_modules_that_are_imported_when_they_are_needed(run_python):
    assert "smoothing" in dir(fastrecur)
    out = run_python(
        "import fastrecur\n"
        "for name in 'torch', 'smooth', 'ewm_mean', 'QRNN':\n"
        "    try:\n"
        "        getattr(fastrecur, name)\n"
        "    except AttributeError as error:\n"
        "        print(error)\n"
        "print(fastrecur.smoothing.__name__)\n"
    )
    assert out.splitlines() == [
        "module 'fastrecur' has no attribute 'torch': import fastrecur.torch first",
        "module 'fastrecur' has no attribute 'smooth'",
        "module 'fastrecur' has no attribute 'ewm_mean': it is in fastrecur.smoothing",
        "module 'fastrecur' has no attribute 'QRNN': it is in fastrecur.torch",
        "fastrecur.smoothing",
    ]


def test_version():
    # The one home of the number is the package; what is installed, cited and written in the changelog follows it.
    root = pathlib.Path(__file__).parents[2]
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", fastrecur.__version__)
    assert f"\nversion: {fastrecur.__version__}\n" in (root / "CITATION.cff").read_text()
    assert f"version = {{{fastrecur.__version__}}}" in (root / "docs" / "citing.rst").read_text()
    newest = re.search(r"^## (\S+)", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest[1] in (fastrecur.__version__, "Unreleased")
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        assert importlib.metadata.version("fastrecur") == fastrecur.__version__


def test_import_loads_numpy_and_llvmlite_alone(run_python):
    fastrecur.forget_mult(0.5, np.ones(3))  # what compiles it imports Numba, and that SciPy
    run_python(
        """
import sys
import numpy
before = set(sys.modules)
import fastrecur
assert "numba" not in sys.modules
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
foreign = loaded - set(sys.stdlib_module_names) - {"fastrecur", "numpy", "llvmlite"}
assert not foreign, foreign
heavy = {"scipy", "torch", "pandas", "cupy", "ml_dtypes", "jax", "asyncio", "multiprocessing"}
heavy -= {name.partition(".")[0] for name in before}
assert not loaded & heavy, loaded & heavy
fastrecur.forget_mult(0.5, numpy.ones(3))
assert not (heavy | {"numba"}) & set(sys.modules)
"""
    )


@pytest.mark.exhaustive
def test_import_compiles_nothing(run_python, tmp_path):
    run_python(
        """
import numba.core.event as event
compiled = []
class Listener(event.Listener):
    def on_start(self, event):
        compiled.append(event)
    def on_end(self, event):
        pass
event.register("numba:compile", Listener())
import fastrecur
assert not compiled, compiled
import numpy
fastrecur.forget_mult(0.5, numpy.ones(3))
assert compiled
""",
        FASTRECUR_CACHE_DIR=str(tmp_path / "cache"),
    )


def test_import_starts_no_thread_and_changes_no_setting(run_python):
    run_python(
        """
import threading, warnings, numpy
import numba
before = threading.active_count(), list(warnings.filters), numpy.geterr(), numba.get_num_threads()
import fastrecur
assert before == (
    threading.active_count(), list(warnings.filters), numpy.geterr(), numba.get_num_threads()
)
"""
    )


FAMILIES = {
    "states": "fastrecur.forget_mult_vjp(fastrecur.forget_mult(x, x), x, x, x)",
    "statistics": "fastrecur.smoothing.ewm_mean(x, alpha=0.5)",
    "filters": "fastrecur.filters.sosfilt([[1, 0.5, 0.2, 1, -0.5, 0.1]], x, axis=0)",
    "levels": "fastrecur.smoothing.holt(x, alpha=0.5, beta=0.1)",
    "returns": "fastrecur.returns.gae(x[:-1], x, 0.9, 0.9, x[:-1] < 0)",
    "selective": "fastrecur.selective_scan(x[None], x[None], -x[:1].T, x[None, :, :1], x[None, :, :1], layout='bld')",
    "tensors": "import torch; x = torch.ones(9, 5, requires_grad=True); fastrecur.forget_mult(x, x).sum().backward()",
}


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=pytest.mark.exhaustive if name != "states" else ()) for name in FAMILIES]
)
def test_a_process_that_has_its_kernels_does_without_numba(run_python, family):
    before = "import sys\nimport numpy as np\nimport fastrecur\nx = np.ones((9, 5), np.float32)\n" + FAMILIES[family]
    run_python(before)  # compiles what is missing
    run_python(before + "\nassert 'numba' not in sys.modules or family == 'tensors'".replace("family", repr(family)))


WORKS = """
import numpy as np
import fastrecur
x = np.ones((5, 3), np.float32)
h = fastrecur.forget_mult(0.5, x, 1.0)
assert (h == 1).all()
fastrecur.forget_mult_vjp(h, 0.5, x, h)
"""


@pytest.mark.exhaustive
def test_compiled_kernels_are_kept_and_used_again(run_python, tmp_path):
    cache = tmp_path / "cache"
    run_python(WORKS, FASTRECUR_CACHE_DIR=str(cache))
    kept = {path for path in cache.iterdir()}
    assert kept
    run_python(
        """
import numba.core.event as event
compiled = []
class Listener(event.Listener):
    def on_start(self, event):
        compiled.append(event.data["dispatcher"])
    def on_end(self, event):
        pass
import fastrecur
event.register("numba:compile", Listener())
"""
        + WORKS
        + """
import sys
from fastrecur._cpu.kernels import operands
assert not compiled, compiled
assert "dispatcher" not in vars(operands.valid_range)
# The compiler knows nothing yet, which takes it half a second to learn.
assert not {"numba.core.typing.arraydecl", "numba.np.linalg"} & set(sys.modules)
""",
        FASTRECUR_CACHE_DIR=str(cache),
    )
    assert {path for path in cache.iterdir()} == kept


@pytest.mark.exhaustive
@pytest.mark.skipif(os.name == "nt", reason="files have no locks of single bytes there")
def test_of_several_processes_one_makes_a_kernel(tmp_path):
    script = """
from fastrecur._cpu.compiler import build as _build
real = _build.machine_code
def told(function, signature):
    print(function.__module__, function.__name__, signature)
    return real(function, signature)
_build.machine_code = told
"""
    command = [sys.executable, "-W", "error", "-c", script + WORKS]
    environment = os.environ | {"FASTRECUR_CACHE_DIR": str(tmp_path)}
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    made = [line for process in running for line in process.communicate(timeout=300)[0].splitlines()]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert made
    assert len(made) == len(set(made)), made


@pytest.mark.skipif(os.name == "nt", reason="files have no locks of single bytes there")
def test_who_makes_a_kernel_may_have_been_stopped(monkeypatch, tmp_path):
    """Then others make it too; of another kernel nobody waits for it."""
    monkeypatch.setenv("FASTRECUR_CACHE_DIR", str(tmp_path))
    holds = (
        "import sys, fastrecur._cpu.compiler.cache as cache\n"
        "with cache._alone('kept-00000000000a'):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", holds], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    began = time.monotonic()
    assert _cache.find_or_make("kept-00000000000b", lambda: (b"code", "symbol")) == (b"code", "symbol")
    monkeypatch.setattr(_cache, "LONGEST_WAIT", 0.2)
    assert _cache.find_or_make("kept-00000000000a", lambda: (b"code", "symbol")) == (b"code", "symbol")
    assert 0.2 < time.monotonic() - began < 20
    assert {path.name for path in tmp_path.iterdir()} == {"lock", "kept-00000000000a", "kept-00000000000b"}
    holder.communicate(timeout=60)


def test_compiling_is_logged_where_it_is_long(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("FASTRECUR_CACHE_DIR", str(tmp_path))
    caplog.set_level("INFO", "fastrecur")
    for silence, name in ((60.0, "kept-00000000000a"), (-1.0, "kept-00000000000b"), (-1.0, "kept-00000000000b")):
        monkeypatch.setattr(_cache, "SILENCE", silence)
        _cache.find_or_make(name, lambda: (b"code", "symbol"), lambda: "rows.forward of float32")
    assert caplog.messages == [f"compiled rows.forward of float32 in 0.0 s, kept in {tmp_path}"]


@pytest.fixture
def terminal(monkeypatch):
    """Return what makes stderr a terminal in a process that has not set up logging, and returns what reads from it."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)

    def shown():
        with contextlib.suppress(BlockingIOError):
            return os.read(ours, 1 << 16).decode()
        return ""

    with open(theirs, "w") as stderr:

        def begin():  # in the test itself, as pytest sets stderr anew for it
            monkeypatch.setattr(sys, "stderr", stderr)
            monkeypatch.setattr(notices, "_left", [True])
            monkeypatch.setattr(notices.LOG, "propagate", False)  # pytest shows logs
            monkeypatch.setattr(_cache, "SILENCE", -1.0)
            return shown

        yield begin
    os.close(ours)


def _make(folder, monkeypatch):
    """Make two kernels, each in a thread."""
    monkeypatch.setenv("FASTRECUR_CACHE_DIR", str(folder))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        names = [f"kept-{number:012x}" for number in range(2)]
        made = (b"code", "symbol"), "scan of float32"
        list(pool.map(lambda name: _cache.find_or_make(name, *(lambda v=v: v for v in made)), names))


def test_a_person_at_a_terminal_is_told_once_what_a_pause_was(monkeypatch, tmp_path, terminal):
    shown = terminal()
    _make(tmp_path, monkeypatch)
    line = f"fastrecur: compiled scan of float32 in 0.0 s, kept in {tmp_path}: the first call of each dtype, layout and"
    assert shown() == line + " size waits. FASTRECUR_NOTICES=0 hides this line.\r\n"
    _make(tmp_path / "another", monkeypatch)
    assert shown() == ""


@pytest.mark.parametrize("how", ["environment", "level", "disabled", "handler", "no terminal", "no stderr", "closed"])
def test_who_hears_nothing_of_a_pause(monkeypatch, tmp_path, terminal, how):
    shown, other, handlers = terminal(), io.StringIO(), notices.LOG.handlers
    with monkeypatch.context() as patch:
        if how == "environment":
            patch.setenv("FASTRECUR_NOTICES", "0")
        elif how == "level":
            patch.setattr(notices.LOG, "level", logging.WARNING)
        elif how == "disabled":
            patch.setattr(notices.LOG.manager, "disable", logging.INFO)
        elif how == "handler":
            patch.setattr(notices.LOG, "handlers", [*handlers, logging.NullHandler()])
        else:
            patch.setattr(sys, "stderr", None if how == "no stderr" else other)
            if how == "closed":
                other.close()
        _make(tmp_path, patch)
    assert shown() == "" and (other.closed or other.getvalue() == "")
    _make(tmp_path / "another", monkeypatch)  # which shows that it was for that reason
    assert shown() != ""


def test_common_kernels_are_made_beforehand(monkeypatch, capsys):
    """The command's calls are right ones, and it shows how far they are: by a line each in the log of an image."""
    few = {"one short series": ((100,), 0)}
    monkeypatch.setattr(__main__, "LAYOUTS", few)
    monkeypatch.setattr(notices, "_left", [])
    __main__.main(["--compile", "float64"])
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert "\r" not in printed.err and len(lines) == 7
    assert lines[0].startswith("  0 of 6 float64: forget_mult, ") and lines[-1] == "  6 of 6 done"
    assert "  5 of 6 float64: ewm_std, one short series" in lines
    kept = rf"[1-9]\d* kernels are kept in {re.escape(str(_cache.folder()))}, \d+ of them new"
    assert re.fullmatch(rf"\d+ s for 6 calls, some of which share a kernel\n{kept}\n", printed.out)
    with pytest.raises(SystemExit):
        __main__.main(["--compile", "int8"])
    assert "invalid choice: 'int8'" in capsys.readouterr().err


def test_making_kernels_is_interrupted(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(__main__, "calls", lambda _: [("a call", interrupted)])
    with pytest.raises(SystemExit, match="^130$"):
        __main__.main(["--compile", "float64"])
    assert capsys.readouterr() == ("", "  0 of 1 float64: a call\n")


def test_progress_at_a_terminal(terminal):
    shown = terminal()
    __main__._progress(6)(3, "float64")
    assert shown() == f"\r  3 of 6 [{'#' * 15}{' ' * 15}] float64\x1b[K"


FORKS = """
import os, subprocess, sys, threading, warnings
from fastrecur._cpu.compiler import cache as _cache
holds = (
    "import sys, fastrecur._cpu.compiler.cache as cache\\n"
    "with cache._alone('kept-00000000000a'):\\n"
    "    print('held', flush=True); sys.stdin.read()"
)
pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
holder = subprocess.Popen([sys.executable, "-c", holds], **pipes)
assert holder.stdout.readline() == b"held\\n"
made, waits = [], threading.Event()

def work():
    with _cache.making, _cache.making:
        waits.set()
        _cache.find_or_make("kept-00000000000a", lambda: made.append(1) or (b"code", "symbol"))

_cache.LONGEST_WAIT = 20
thread = threading.Thread(target=work)
thread.start()
waits.wait()
warnings.simplefilter("ignore")  # of a fork beside threads
child = os.fork()
if child == 0:
    with _cache.making:
        os._exit(17)
assert not made, "the fork waited"
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17
holder.communicate()
thread.join()
assert made
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_process_forks_while_it_waits_for_another_to_make_a_kernel(run_python, tmp_path):
    """The wait is for up to a minute. Who forks waits only for what this process makes itself."""
    run_python(FORKS, FASTRECUR_CACHE_DIR=str(tmp_path / "kernels"))


@pytest.mark.exhaustive
def test_no_place_for_the_cache(run_python, tmp_path):
    # Below a regular file no directory can be made, not even by root.
    blocker = tmp_path / "file"
    blocker.write_text("")
    run_python(WORKS, FASTRECUR_CACHE_DIR=str(blocker / "cache"))


@pytest.mark.exhaustive
def test_package_and_home_that_cannot_be_written_to(run_python, tmp_path):
    # The sources are in an archive, and there is no place for what is made of them.
    package = pathlib.Path(fastrecur.__file__).parent
    archive = tmp_path / "package.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in package.rglob("*.py"):
            file.write(path, path.relative_to(package.parent))
    blocker = tmp_path / "file"
    blocker.write_text("")
    run_python(
        f"import sys; sys.path.insert(0, {str(archive)!r})\n" + WORKS + "assert 'package.zip' in fastrecur.__file__\n",
        HOME=str(blocker / "home"),
        XDG_CACHE_HOME=str(blocker / "cache"),
    )


@pytest.mark.exhaustive
def test_what_machine_code_is_kept_for(run_python, tmp_path):
    """A torn file is made anew; code for another processor or of other sources is not taken."""
    kept = tmp_path / "cache"
    run_python(WORKS, FASTRECUR_CACHE_DIR=str(kept))
    before = {path: path.read_bytes() for path in kept.iterdir()}
    for path, content in before.items():
        path.write_bytes(content[:-1])
    run_python(WORKS, FASTRECUR_CACHE_DIR=str(kept))
    assert {path: len(path.read_bytes()) for path in kept.iterdir()} == {p: len(c) for p, c in before.items()}
    run_python(WORKS, FASTRECUR_CACHE_DIR=str(kept), NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="")
    assert len(list(kept.iterdir())) > len(before)


def test_wrong_arguments_of_native_code():
    """What Python cannot take for a number ends in its own error, and nothing runs."""
    call = _compile.kernel("rows.forward", "forget_same", "f8", a="f8", b="f8", h="f8", flags="b1")
    prepared = native.prepared(call, [0] * 16, (1, 2), 4, 1, releases=False, owners=())
    for value in ("1.5", np.float64(1.5), [0], np.ma.zeros(3), np.zeros(3).view(np.recarray)):
        with pytest.raises(TypeError, match="int"):
            call(None, value, *[0] * 14)
        with pytest.raises(TypeError, match="int"):
            prepared(0, value)


def test_who_may_read_what_is_kept(tmp_path):
    """As the user's files: an image's cache is made by one user and read by another."""
    before = os.umask(0o022)
    try:
        _cache.write(tmp_path / "folder" / "kept", b"code")
    finally:
        os.umask(before)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["kept"]
    if os.name == "posix":
        assert (tmp_path / "folder" / "kept").stat().st_mode & 0o777 == 0o644


def test_a_folder_that_goes_away(tmp_path, monkeypatch):
    """Whoever removes it while another writes disturbs nobody; what is half written does not stay."""

    def replace(source, target):
        os.unlink(source)
        raise FileNotFoundError(source)

    monkeypatch.setattr(os, "replace", replace)
    _cache.write(tmp_path / "kept", b"code")

    def interrupted(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _cache.write(tmp_path / "kept", b"code")
    assert list(tmp_path.iterdir()) == []


def test_tests_use_kernels_that_are_kept():
    """In a process that has imported `kernel_hashes.py`, all would be compiled anew."""
    assert "kernel_hashes" not in sys.modules


def test_no_home(monkeypatch):
    """Without one nothing is kept, least of all in a folder named "~"."""
    for name in ("FASTRECUR_CACHE_DIR", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert _cache.folder() is None
    assert _cache.find("kept") is None
    _cache.keep("kept", b"code", "symbol")
    assert "nowhere" in _cache.describe()


def test_what_is_said_of_the_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTRECUR_CACHE_DIR", str(tmp_path / "a" / "b"))
    assert _cache.describe() == str(tmp_path / "a" / "b")
    (tmp_path / "a").write_text("")
    assert _cache.describe().endswith("which cannot be written")
    monkeypatch.setenv("FASTRECUR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.R_OK)
    assert _cache.describe().endswith("of which 1 files cannot be read")


def test_cupy_is_found_under_the_name_of_its_wheels(monkeypatch):
    def version(name):
        if name != "cupy-cuda12x":
            raise importlib.metadata.PackageNotFoundError(name)
        return "13.6.0"

    monkeypatch.setattr(importlib.metadata, "version", version)
    lines = dict(_config._lines())
    assert lines["cupy"] == "13.6.0"
    assert lines["numpy"] == "not installed"


def test_a_report_says_that_there_can_be_no_workers(monkeypatch):
    assert "take one" not in _config._threads()
    monkeypatch.setattr("fastrecur._cpu.machine.workers.can_hire", lambda: False)
    assert "arrays take one" in _config._threads()


def test_a_kernel_is_made_once_for_all_threads(monkeypatch):
    made = []

    def make(wanted):
        made.append(wanted.rule)
        time.sleep(0.05)
        return made

    monkeypatch.setattr(_compile, "code_of", make)
    monkeypatch.setattr(_compile.native, "callable_of", lambda *made: made)
    monkeypatch.setattr(_compile, "is_interpreted", lambda: False)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: _compile.kernel("rows.forward", "of this test", "f8", a="f8"), range(8)))
    assert made == ["of this test"]


def test_torch_that_is_missing(run_python):
    run_python(
        """
import sys
sys.modules["torch"] = None
try:
    import fastrecur.torch
except ImportError as error:
    assert "[torch]" in str(error), error
else:
    raise SystemExit("imported")
"""
    )
