"""Bundles of kernels: which one a process uses, and that it is checked and never trusted."""

import os
import shutil
import subprocess
import sys
import zipfile
import zlib

import pytest
from llvmlite import binding

import fastrecur
from fastrecur import __main__
from fastrecur._cpu import bundling
from fastrecur._cpu.compiler import bundle, cache, compile as _compile, object_file
from fastrecur._cpu.compiler.bundle import Kernel, Wanted
from fastrecur._cpu.vectors import processor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="bundles are for Linux")
HERE = next((n for n, p in bundle.PROCESSORS.items() if binding.get_process_triple().startswith(p.machine)), None)
A, B = (Wanted(f"rows.{name}", "forget_wide", "f8", (("a", "f4"), ("b", "f4"))) for name in ("forward", "vjp"))
CODES = {A: Kernel(b"first" * 20, "f", 16), B: Kernel(b"second" * 20, "g", 20)}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Return a folder where bundles are looked for, on a processor that has all that any of them asks for."""
    features = {name for processor in bundle.PROCESSORS.values() for name in processor.needs}
    monkeypatch.setattr(bundle, "host_features", lambda: dict.fromkeys(features, True))
    monkeypatch.setenv("FASTRECUR_BUNDLE", str(tmp_path))
    bundle._found.cache_clear()
    yield tmp_path
    bundle._found.cache_clear()


def write(place, name=HERE, codes=CODES):
    path = bundle.file_of(place, name)
    bundle.write(path, name, codes, numba="0")
    bundle._found.cache_clear()
    return path


def test_kernels_are_found(place):
    assert bundle.find(A) is None
    write(place)
    assert {wanted: bundle.find(wanted) for wanted in CODES} == CODES
    assert bundle.find(A._replace(rule="linear")) is None
    assert bundle.describe() == f"{HERE}, 2 kernels in {bundle.file_of(place, HERE)}"
    assert _compile.code_of(A) == CODES[A]


def test_a_torn_bundle_is_none(place):
    """Wherever it is cut, or a byte of it is another one, what is found is right or nothing."""
    path = write(place)
    whole = path.read_bytes()
    found = []
    for k in range(0, len(whole), 3):
        for torn in (whole[:k], whole[:k] + bytes([whole[k] ^ 65]) + whole[k + 1 :]):
            path.write_bytes(torn)
            bundle._found.cache_clear()
            kernels = [bundle.find(wanted) for wanted in CODES]
            assert all(one in (None, true) for one, true in zip(kernels, CODES.values(), strict=True))
            found.append(kernels.count(None))
    assert {1, 2} <= set(found) <= {0, 1, 2}  # 0: the end of what a byte's change does not reach
    path.unlink()
    path.mkdir()
    assert bundle.find(A) is None


def test_a_bundle_that_cannot_be_written(place):
    """Who made one is told so: an older one may stand there."""
    bundle.file_of(place, HERE).mkdir()
    with pytest.raises(OSError, match="director"):
        write(place)
    assert [path.suffix for path in place.iterdir()] == [".kernels"]


def test_a_head_that_is_whole_and_wrong_is_none(place):
    path = bundle.file_of(place, HERE)
    for text in (
        b"[]\n",
        b"{}\n",
        b'{"processor":1}\n',
        f'{{"processor":"{HERE}","kernels":[],"sources":1}}\n'.encode(),
    ):
        sum_ = bundle.hashlib.sha256(text).hexdigest()
        path.write_bytes(bundle.MAGIC + f"{len(text)} {sum_}\n".encode() + text)
        bundle._found.cache_clear()
        assert bundle.find(A) is None
        assert bundle.describe() == f"none for this processor in {place}"


def test_a_kernel_that_does_not_decompress_is_none(place, monkeypatch):
    monkeypatch.setattr(zlib, "compress", lambda code, level: code)
    write(place)
    assert bundle.find(A) is None


def test_kernels_of_other_sources_are_not_used(place, monkeypatch):
    """Each kernel's own sources count: a change of another one's does not."""
    write(place)
    digest = cache.digest
    monkeypatch.setattr(cache, "digest", lambda of, *packages: "another" if "rows" in of else digest(of, *packages))
    assert bundle.find(A) is None
    assert "0 kernels" in bundle.describe()
    assert "2 are of other sources" in bundle.describe()


def test_a_bundle_of_another_kind_of_processor_is_none(place):
    path = write(place)
    path.rename(place / "aside")
    bundle.write(path, "another", CODES)
    bundle._found.cache_clear()
    assert bundle.find(A) is None


@pytest.mark.skipif(not str(HERE).startswith("x86"), reason="of x86-64 there are two")
def test_the_best_processor_whose_features_are_usable(place, monkeypatch):
    """LLVM says which ones the system lets programs use: without the state of AVX-512 none of these."""
    for name in ("x86-64-v3", "x86-64-v4"):
        write(place, name, {A: Kernel(name.encode(), "f", 16)})
    assert bundle.find(A).code == b"x86-64-v4"
    features = dict.fromkeys(bundle.PROCESSORS["x86-64-v3"].needs, True)
    monkeypatch.setattr(bundle, "host_features", lambda: features | {"avx512f": False})
    bundle._found.cache_clear()
    assert bundle.find(A).code == b"x86-64-v3"
    monkeypatch.setattr(bundle, "host_features", lambda: features | {"fma": False})
    bundle._found.cache_clear()
    assert bundle.find(A) is None
    monkeypatch.setattr(bundle, "host_features", dict)
    bundle._found.cache_clear()
    assert bundle.find(A) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FASTRECUR_BUNDLE", "0"), ("NUMBA_CPU_NAME", "x86-64-v2"), ("NUMBA_CPU_FEATURES", ""), ("NUMBA_OPT", "0"),
        ("NUMBA_BOUNDSCHECK", "1"),
    ],
)  # fmt: skip
def test_where_no_bundle_is_wanted(place, monkeypatch, name, value):
    write(place)
    monkeypatch.setattr(processor, "_asked", lambda name: processor.os.environ.get(f"NUMBA_{name}"))
    assert bundle.find(A) is not None
    monkeypatch.setenv(name, value)
    assert bundle.find(A) is None
    assert bundle.describe().startswith("not wanted" if name.startswith("FAST") else "none")


def test_other_systems_have_none(place, monkeypatch):
    write(place)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert bundle.find(A) is None


def test_what_files_of_the_system_a_kernel_calls():
    """Nothing of libm or of a compiler's library, which a process may not have: the one name is the file's own."""
    code = object_file.of_nothing("nothing")
    assert object_file.undefined(code) == set()
    text = "declare double @exp(double) define double @f(double %x) { %y = call double @exp(double %x) ret double %y }"
    module = binding.parse_assembly(text)
    module.triple = binding.get_process_triple()
    target = binding.Target.from_triple(module.triple).create_target_machine()
    assert object_file.undefined(target.emit_object(module)) == {"exp"}
    assert "exp" not in bundling.KNOWN


# ---- Bundles that are made here -------------------------------------------------------------------------------------


MAKES = """
import functools, pathlib
import numpy as np
import fastrecur
from fastrecur._cpu import bundling
from fastrecur._cpu.compiler import bundle
x, y = np.ones((40, 5), np.float32), np.ones((600, 640), np.float32)
calls = [functools.partial(fastrecur.forget_mult, f, v) for f, v in ((x, x), (y, y))]
kernels = bundling.kernels_of(calls)
assert {k.name for k in kernels} == {"rows.forward", *(f"workers.{w}" for w in "hire lead prewake serve".split())}
bundling.make(NAMES, pathlib.Path(INTO), kernels, lambda done, label: None)
"""

USES = """
import pathlib, sys
import numpy as np
import fastrecur
fastrecur.set_num_threads(2)
rng = np.random.default_rng(0)
for shape in ((40, 5), (600, 640)):
    f, x = rng.random((2, *shape), np.float32)
    h = fastrecur.forget_mult(f, x)
    print(hash(h.tobytes()))
"""
ALONE = """
assert "numba" not in sys.modules
import os
assert not os.path.exists(os.environ["FASTRECUR_CACHE_DIR"])
"""


def usable():
    """Return the processors of bundles that this one is."""
    mine = [(n, p) for n, p in bundle.PROCESSORS.items() if binding.get_process_triple().startswith(p.machine)]
    return [n for n, p in mine if all(processor.host_features().get(f) for f in p.needs)]


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Return a folder with bundles of few kernels, for each processor that this one is, and for one of ARM."""
    place = tmp_path_factory.mktemp("bundles")
    names = [*usable(), *({"aarch64"} - set(usable()))]
    script = MAKES.replace("INTO", repr(str(place))).replace("NAMES", repr(names))
    environment = os.environ | {"PYTHONPATH": str(cache.PACKAGE.parent)}
    subprocess.run([sys.executable, "-W", "error", "-c", script], env=environment, check=True, timeout=300)
    return place


def test_what_numba_is_asked_for_here_says_nothing_of_a_bundle(monkeypatch):
    """Who uses it asks for nothing, and is to have what Numba compiles then."""
    given = {}
    monkeypatch.setattr(subprocess, "Popen", lambda *arguments, env, **options: given.update(env))
    for name in ("NUMBA_OPT", "NUMBA_BOUNDSCHECK"):
        monkeypatch.setenv(name, "1")
    bundling._Compiler(bundle.PROCESSORS["aarch64"])
    assert given["PATH"] == os.environ["PATH"]
    assert not any(name.startswith("NUMBA_") for name in given)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", bundle.PROCESSORS)
def test_a_process_that_finds_its_kernels_compiles_nothing(run_python, made, tmp_path, name):
    """And has the bits of what is compiled here."""
    if name not in usable():
        pytest.skip("this machine is none of these")
    shutil.copy(bundle.file_of(made, name), tmp_path)
    given = {"FASTRECUR_CACHE_DIR": str(tmp_path / "kernels"), "PYTHONHASHSEED": "0"}
    found = run_python(USES + ALONE, FASTRECUR_BUNDLE=str(tmp_path), **given)
    assert found == run_python(USES, FASTRECUR_BUNDLE="0", PYTHONHASHSEED="0")


@pytest.mark.exhaustive
def test_what_code_of_bundles_asks_of_a_process(made):
    """A few functions by name, and nothing that is out of range wherever in memory it stands."""
    for path in made.iterdir():
        name = path.stem.removeprefix("linux-")
        kernels, machine = bundle.read(path, name), bundle.PROCESSORS[name].machine
        assert kernels is not None
        for key in kernels.head["kernels"]:
            code = kernels.find(key).code
            assert object_file.undefined(code) <= bundling.KNOWN
            assert object_file.relocations(code) <= object_file.ANYWHERE[machine]


@pytest.mark.exhaustive
def test_code_names_no_address_of_the_process_that_made_it(made, run_python, tmp_path):
    """Another process, whose memory is elsewhere, makes the same."""
    name = (usable() or ["aarch64"])[0]
    script = MAKES.replace("INTO", repr(str(tmp_path / "again"))).replace("NAMES", repr([name]))
    run_python(script, FASTRECUR_CACHE_DIR=str(tmp_path / "kernels"))
    one, other = (bundle.read(bundle.file_of(place, name), name) for place in (made, tmp_path / "again"))
    assert one.head["kernels"].keys() == other.head["kernels"].keys()
    for key in one.head["kernels"]:
        assert loaded(one.find(key).code) == loaded(other.find(key).code)


def loaded(code):
    """Return what stands in memory of machine code and constants."""
    kept = b".text", b".ltext", b".rodata", b".lrodata"
    return [s.data() for s in binding.ObjectFileRef.from_data(code).sections() if (s.name() or b"").startswith(kept)]


@pytest.mark.exhaustive
def test_two_versions_beside_each_other(made, run_python, tmp_path):
    """Each has a bundle in its package; one of other sources is not used. The packages may be read-only."""
    name = (usable() or [None])[0]
    if name is None:
        pytest.skip("no bundle is for this machine")
    for version in ("one", "other"):
        package = tmp_path / version / "fastrecur"
        shutil.copytree(cache.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__", "_bundle"))
        (package / "_bundle").mkdir()
        shutil.copy(bundle.file_of(made, name), package / "_bundle")
    changed = tmp_path / "other" / "fastrecur" / "_cpu" / "kernels" / "wide.py"
    changed.write_text(changed.read_text() + "\n# of another version\n")
    for path in tmp_path.rglob("*"):
        path.chmod(path.stat().st_mode & ~0o222)
    describe = "from fastrecur._cpu.compiler import bundle\nprint(bundle.describe())\n"
    given = {"FASTRECUR_BUNDLE": "", "FASTRECUR_CACHE_DIR": str(tmp_path / "kernels")}
    out = run_python(USES + ALONE + describe, PYTHONPATH=str(tmp_path / "one"), **given)
    assert "other sources" not in out
    out = run_python(describe, PYTHONPATH=str(tmp_path / "other"), **given)
    assert ", 5 kernels in " in out  # trampolines and workers
    assert "1 are of other sources" in out


@pytest.mark.exhaustive
def test_a_bundle_in_an_archive_is_none(made, run_python, tmp_path):
    archive = tmp_path / "package.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in cache.PACKAGE.rglob("*.py"):
            file.write(path, path.relative_to(cache.PACKAGE.parent))
        for path in made.iterdir():
            file.write(path, f"fastrecur/_bundle/{path.name}")
    script = f"import sys; sys.path.insert(0, {str(archive)!r})\n" + USES
    run_python(
        script + "from fastrecur._cpu.compiler import bundle\nassert bundle.describe().startswith('none')\n",
        FASTRECUR_BUNDLE="", FASTRECUR_CACHE_DIR=str(tmp_path / "kernels"),
    )  # fmt: skip


FORKS = """
import os, threading, time, warnings
from fastrecur._cpu.compiler import bundle
find, begun = bundle.Bundle.find, threading.Event()

def slow(self, name):
    begun.set()
    time.sleep(0.3)
    return find(self, name)

bundle.Bundle.find = slow
x = np.ones((40, 5), np.float32)
thread = threading.Thread(target=fastrecur.forget_mult, args=(x, x))
thread.start()
begun.wait()
warnings.simplefilter("ignore")  # of a fork beside threads
child = os.fork()
if child == 0:
    os._exit(17 if (fastrecur.forget_mult(x, x) == 1).all() else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17
thread.join()
"""


@pytest.mark.exhaustive
def test_a_process_forks_while_a_kernel_is_loaded(made, run_python, tmp_path):
    if not usable():
        pytest.skip("no bundle is for this machine")
    head = USES.partition("fastrecur.set_num")[0]
    given = {"FASTRECUR_BUNDLE": str(made), "FASTRECUR_CACHE_DIR": str(tmp_path / "kernels")}
    run_python(head + FORKS + ALONE, **given)


def test_the_command(monkeypatch, tmp_path, capsys):
    """It notes kernels, has them compiled, and says where they are."""
    monkeypatch.setattr(bundling, "kernels_of", lambda calls: [A, B])
    monkeypatch.setattr(bundling, "_compiled", lambda wanted, processor: ((w, Kernel(b"code", "f", 1)) for w in wanted))
    __main__.main(["--bundle", "--cpu", "aarch64", "--into", str(tmp_path / "new")])
    printed = capsys.readouterr()
    assert "3 of 4 aarch64: rows.vjp\n" in printed.err
    assert f"{tmp_path}/new/linux-aarch64.kernels: 0.0 MB" in printed.out
    found = bundle.read(tmp_path / "new" / "linux-aarch64.kernels", "aarch64")
    assert len(found.head["kernels"]) == 4


def test_report(monkeypatch):
    monkeypatch.setenv("FASTRECUR_BUNDLE", "0")
    assert dict(fastrecur._config._lines())["bundle"] == "not wanted: FASTRECUR_BUNDLE=0"


def test_calls_of_a_bundle_are_right_ones():
    """Each is of another name; a dtype's are as many as another's."""
    names = [[name for name, _ in __main__.calls_of_bundle(dtype)] for dtype in __main__.DTYPES_OF_BUNDLE]
    assert names[0] == names[1]
    assert len(names[0]) == len(set(names[0]))


# ---- What a kernel is made of ---------------------------------------------------------------------------------------


def imported(name):
    """Return the files that a file imports, as Python's parser reads it."""
    from test_layers import imports

    return {file for file in imports(name) if not file.startswith(cache.BESIDE)}


@pytest.mark.parametrize("name", sorted(p.name for p in (cache.PACKAGE / "_cpu" / "kernels").glob("[!_]*.py")))
def test_sources_of_kernels(name):
    found, left = set(), {f"_cpu/kernels/{name}", *cache.COMPILES}
    while left:
        found |= left
        left = {file for source in left for file in imported(source)} - found
    assert cache.sources_of(f"_cpu/kernels/{name}") == found
    assert "_steps/recurrence.py" in found
    assert "_cpu/vectors/arithmetic.py" in found


def test_sources_that_changed_under_a_process_have_names_of_their_own(monkeypatch):
    """What it compiles is of what it imported before: nobody may find that under the name of what is written now."""
    name = "_cpu/kernels/rows.py"
    newest = max((cache.PACKAGE / source).stat().st_ctime for source in cache.sources_of(name))

    def digests(began):
        monkeypatch.setattr(cache, "_BEGAN", began)
        return {cache.digest.__wrapped__(name) for _ in range(2)}

    assert len(digests(newest)) == 1
    changed = digests(newest - 1)
    assert len(changed) == 2
    assert not changed & digests(newest)


def test_a_kernel_depends_on_its_own_sources():
    """So a change of one leaves others as they are."""
    rows, scan = (cache.sources_of(f"_cpu/kernels/{name}.py") for name in ("rows", "scan"))
    assert "_cpu/kernels/wide.py" in rows - scan
    assert "_cpu/kernels/blocks.py" in scan - rows
