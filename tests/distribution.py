"""What is distributed: build both archives, look at what is in them, and run the wheel where nothing else is.

    python tests/distribution.py [--python OTHER_PYTHON ...] [--tests] [--bundle FOLDER]

needs the packages ``build`` and ``setuptools>=77``. The wheel is built from the sdist and once more from the checkout;
the two must be the same. It is then installed in a fresh environment, alone, for this Python and each of the others.
With ``--tests``, tests of arrays and of the documentation are run from the unpacked sdist, as a packager would. With
``--bundle``, both archives have the compiled kernels of a folder, and common calls are made with nothing else.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST_BYTES = 12 << 20  # of a wheel

# Run from a folder that knows nothing of the checkout.
USE = """
import importlib.metadata, os, pathlib, sys
import numpy as np
import fastrecur
from fastrecur import reference
from fastrecur.returns import gae
from fastrecur.smoothing import Ewm, ewm_mean

home = pathlib.Path(fastrecur.__file__).resolve()
assert home.is_relative_to(pathlib.Path(sys.prefix).resolve()), home
assert (home.parent / "py.typed").exists()
assert importlib.metadata.version("fastrecur") == fastrecur.__version__
with_extras = importlib.metadata.requires("fastrecur")
assert {r for r in with_extras if "extra ==" not in r} == {"numpy<3,>=2.0", "numba<0.70,>=0.61"}, with_extras
rng = np.random.default_rng(0)
f, x = rng.random((2, 50, 3))
h, last = fastrecur.forget_mult(f, x, return_state=True)
np.testing.assert_allclose(h, reference.forget_mult(f, x), rtol=1e-12)
for mine, true in zip(fastrecur.forget_mult_vjp(h, f, x, h), reference.forget_mult_vjp(h, f, x, h)):
    assert (mine is None) == (true is None)
    if mine is not None:
        np.testing.assert_allclose(mine, true, rtol=1e-12)
np.testing.assert_allclose(
    fastrecur.linear_recurrence(f, x, axis=1, reverse=True),
    reference.linear_recurrence(f, x, axis=1, reverse=True), rtol=1e-12)
whole = ewm_mean(x, halflife=3)
stream = Ewm(halflife=3)
np.testing.assert_allclose(np.concatenate([stream.update(x[:20]), stream.update(x[20:])]), whole, rtol=1e-12)
assert gae(x[:-1], x, 0.9, 0.9, x[:-1] < 0.1).shape == (49, 3)
fastrecur.show_config()
foreign = {"torch", "pandas", "polars", "xarray", "scipy", "numba_cuda"} & sys.modules.keys()
assert not foreign, foreign
"""

# Of what a bundle is for, there: whatever else is needed would be compiled.
USE_BUNDLE = """
import sys
sys.modules["numba"] = None
import numpy as np
import fastrecur
from fastrecur import __main__, reference
from fastrecur._cpu.compiler import bundle
from fastrecur._cpu.machine import threads

assert "kernels in" in bundle.describe() and "other sources" not in bundle.describe(), bundle.describe()
fastrecur.set_num_threads(2)
for dtype in "float32", "float64":
    for name, call in __main__.calls_of_bundle(dtype):
        call()
        with threads.alone():
            call()
f, x = np.random.default_rng(0).random((2, 600, 640))
np.testing.assert_allclose(fastrecur.forget_mult(f, x), reference.forget_mult(f, x), rtol=1e-12)
print(bundle.describe())
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", nargs="*", default=[], help="other interpreters to run the wheel on")
    parser.add_argument("--tests", action="store_true", help="run tests from the unpacked sdist")
    parser.add_argument("--bundle", type=Path, help="a folder that `python -m fastrecur --bundle --into` has written")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        sdist, wheel = build(folder, options.bundle)
        for python in [sys.executable, *options.python]:
            run_alone(python, wheel, folder)
        if options.bundle:
            run_bundle(wheel, folder)
        if options.tests:
            run_tests(sdist, wheel, folder)


def build(folder, bundle):
    """Build the sdist and the wheel, check what they hold, and return their paths."""
    # From a copy, as what was built before in the checkout would get in.
    made = "build", "dist", "_build", "*.egg-info", "__pycache__", "*.pyc", "generated", "*.pt", "*.pt2"
    leave = shutil.ignore_patterns("_bundle", ".git", ".venv", ".*_cache", ".hypothesis", ".coverage*", *made)
    checkout = shutil.copytree(ROOT, folder / "checkout", ignore=leave)
    kernels = sorted(bundle.glob("*.kernels")) if bundle else []
    if bundle:
        shutil.copytree(bundle, checkout / "fastrecur" / "_bundle")
        assert kernels, f"{bundle} has no kernels"
    for target, *kinds in [("both",), ("direct", "--wheel")]:
        run(sys.executable, "-m", "build", "--no-isolation", *kinds, "--outdir", folder / target, checkout)
    (sdist,), (wheel,) = (folder / "both").glob("*.tar.gz"), (folder / "both").glob("*.whl")
    (direct,) = (folder / "direct").glob("*.whl")
    name = sdist.name.removesuffix(".tar.gz")
    assert wheel.name == f"{name}-py3-none-any.whl", wheel.name

    package = {p.relative_to(ROOT).as_posix() for p in (ROOT / "fastrecur").rglob("*.py*") if p.suffix != ".pyc"}
    package |= {"fastrecur/py.typed", *(f"fastrecur/_bundle/{path.name}" for path in kernels)}
    assert wheel.stat().st_size < MOST_BYTES, f"{wheel.stat().st_size} bytes"
    about = {"METADATA", "WHEEL", "RECORD", "top_level.txt", "licenses/LICENSE"}
    contents = read_wheel(wheel)
    expect("wheel", set(contents), package | {f"{name}.dist-info/{file}" for file in about})
    assert contents == read_wheel(direct), "the sdist builds another wheel than the checkout"

    with tarfile.open(sdist) as archive:
        files = {m.name.removeprefix(f"{name}/") for m in archive.getmembers() if m.isfile()}
    top = {"LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "MANIFEST.in", "PKG-INFO", "pyproject.toml"}
    files = {file for file in files if not file.startswith("fastrecur.egg-info/")}
    beside = {file for file in files if file.startswith((".ci/", ".github/", "docs/", "examples/", "tests/"))}
    expect("sdist", files - beside, package | top | {"setup.cfg"})
    expect("sdist beside the package", beside, tracked())
    print(f"{sdist.name}: {sdist.stat().st_size // 1024} KB; {wheel.name}: {wheel.stat().st_size // 1024} KB")
    return sdist, wheel


def tracked():
    """Return the files beside the package that the sdist must have: those that git tracks or would track."""
    folders = ".ci", ".github", "docs", "examples", "tests"
    names = run("git", "ls-files", "-co", "--exclude-standard", *folders, cwd=ROOT).splitlines()
    return {name for name in names if (ROOT / name).exists()}


def run(*command, **options):
    """Run a command and return what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def read_wheel(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def expect(what, files, wanted):
    assert files == wanted, f"{what}: too much {sorted(files - wanted)}, missing {sorted(wanted - files)}"


def run_alone(python, wheel, folder):
    """Install the wheel in an environment of its own, and use it from another folder."""
    version = run(python, "-V").strip()
    place = folder / version.replace(" ", "-")
    run(python, "-m", "venv", place)
    own = place / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    run(own, "-m", "pip", "install", "--quiet", wheel)
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    printed = run(own, "-W", "error", "-c", USE, cwd=elsewhere)
    numbers = [" ".join(line.split()) for line in printed.splitlines() if line.startswith(("numpy", "numba  "))]
    print(f"{version}: works alone, with {', '.join(numbers)}")


def run_bundle(wheel, folder):
    """Install the wheel where no kernel is kept and none can be compiled, and make the calls that a bundle is for."""
    place = folder / "bundled"
    run(sys.executable, "-m", "venv", place)
    own = place / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    run(own, "-m", "pip", "install", "--quiet", wheel)
    environment = os.environ | {"FASTRECUR_CACHE_DIR": str(folder / "no-kernels")}
    environment.pop("FASTRECUR_BUNDLE", None)
    printed = run(own, "-W", "error", "-c", USE_BUNDLE, cwd=folder / "elsewhere", env=environment)
    assert not (folder / "no-kernels").exists(), "kernels were compiled"
    print(f"works without the compiler: {printed.strip()}")


def run_tests(sdist, wheel, folder):
    """Run tests from the unpacked sdist on the wheel, in an environment with what a packager would install."""
    place = folder / "packager"
    run(sys.executable, "-m", "venv", place)
    own = place / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    run(own, "-m", "pip", "install", "--quiet", wheel, "pytest", "hypothesis", "ml_dtypes")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (source,) = (folder / "unpacked").iterdir()
    shutil.rmtree(source / "fastrecur")  # the wheel is tested, not this copy
    tests = [
        "tests/arrays/test_forward.py::test_sizes_around_a_vector",
        "tests/arrays/test_reference.py",
        "tests/typing",
    ]
    options = ["-o", "addopts=", "--strict-markers", "-q", "-k", "not float32"]
    printed = run(own, "-m", "pytest", *options, *tests, cwd=source)
    print(f"from the sdist: {printed.splitlines()[-1].strip('= ')}")


if __name__ == "__main__":
    main()
