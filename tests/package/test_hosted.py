"""What a host of code runs names files that exist, and what can run here runs; its versions are those of setup.cfg.

A new command in `.github/` either runs here, or a line of `NOT_RUN` says why not.
"""

import configparser
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import fastrecur

ROOT = Path(__file__).parents[2]
HOSTED = [path for path in sorted((ROOT / ".github").rglob("*")) if path.is_file()]
WORKFLOWS = {path.name: yaml.safe_load(path.read_text()) for path in sorted((ROOT / ".github/workflows").glob("*.yml"))}
RECIPE = yaml.safe_load((ROOT / ".github/conda/recipe.yaml").read_text())
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")

FOLDERS = r"\.ci|\.github|docs|examples|fastrecur|tests"
PATH = re.compile(rf"(?<![\w/.-])(?:\.\./|\./)*((?:{FOLDERS})/[\w./-]*\w|[\w-]+\.(?:cfg|cff|toml|md))")
MADE = "docs/_build", "fastrecur/_bundle"  # by a command before

# What commands begin with, and why they are not run here.
NOT_RUN = {
    "python -m pip install": "needs an index",
    "python -m build": "`tests/distribution.py` does it",
    "python tests/distribution.py": "needs an index; `.ci/run` runs it",
    "python -m sphinx": "takes minutes; `.ci/run` runs it",
    "python docs/": "reads what Sphinx made; `.ci/run` runs it",
    "python -m pytest": "these tests are run for themselves; `test_named_tests_are_found`",
    "python tests/gpu_tools/mutants.py": "takes an hour; for a person",
    ".ci/run": "runs this test",
}


def commands():
    """Return the commands of all workflows and of the recipe."""
    jobs = [job for workflow in WORKFLOWS.values() for job in workflow["jobs"].values()]
    hosted = [step["run"] for job in jobs for step in job.get("steps", []) if "run" in step]
    return sorted({*hosted, *itertools.chain.from_iterable(test.get("script", []) for test in RECIPE["tests"])})


def pythons():
    """Return the versions of Python that a job of the workflow of tests runs on."""
    found = set()
    for job in WORKFLOWS["tests.yml"]["jobs"].values():
        matrix = job.get("strategy", {}).get("matrix", {})
        found |= {*matrix.get("python", []), *(each["python"] for each in matrix.get("include", []))}
        given = [step["with"]["python-version"] for step in job["steps"] if "python-version" in step.get("with", {})]
        found |= {version for text in given if "$" not in text for version in text.split()}
    return found


def run(command, **environment):
    """Run a command as a host would, and return its exit status and what it printed."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    given = os.environ | {"PATH": path} | environment
    done = subprocess.run(["bash", "-ec", command], cwd=ROOT, env=given, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("path", HOSTED, ids=lambda path: path.relative_to(ROOT / ".github").as_posix())
def test_files_that_are_named_exist(path):
    for name in PATH.findall(path.read_text()):
        assert name.startswith(MADE) or any((place / name).exists() for place in (ROOT, path.parent)), name


@pytest.mark.parametrize("command", commands())
def test_commands_run_where_they_can(command):
    if command.startswith(tuple(NOT_RUN)):
        assert run(f": || {{ {re.sub(r'[$][{][{].*?[}][}]', 'given', command)}\n}}") == (0, "")  # the shell can read it
        return
    number = fastrecur.__version__
    assert run(command, GITHUB_REF_NAME=f"v{number}")[0] == 0
    if "GITHUB_REF_NAME" in command:
        assert run(command, GITHUB_REF_NAME=f"v{number}0")[0] != 0


def test_reasons_are_used():
    assert not [begin for begin in NOT_RUN if not any(command.startswith(begin) for command in commands())]


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "command", [each for each in commands() if each.startswith("python -m pytest") and "tests/" in each]
)
def test_named_tests_are_found(command):
    assert run(f"{command} --collect-only")[0] == 0


def test_extras_and_groups_exist():
    text = "\n".join(commands())
    assert set(re.findall(r"[\w]+", " ".join(re.findall(r"\.\[(.+?)\]", text)))) <= {*SETUP["options.extras_require"]}
    groups = re.findall(r"--group (\w+)", text)
    assert groups and all(f"\n{group} = [" in (ROOT / "pyproject.toml").read_text() for group in groups)


def bounds(requirements):
    """Return the bounds of requirements by name, without spaces."""
    return {
        name: bound for name, bound in (re.match(r"([\w-]+)[^\s<>=]* *(.*)", line).groups() for line in requirements)
    }


def test_recipe_has_our_version_and_bounds():
    required, extras = SETUP["options"]["install_requires"], SETUP["options.extras_require"]
    ours = bounds(
        [line for text in (required, *extras.values()) for line in text.split("\n") if re.search("[<>]", line)]
    )
    python = SETUP["options"]["python_requires"]
    names = {"pytorch": "torch", "dask-core": "dask"}
    theirs = bounds([*RECIPE["requirements"]["run"], *RECIPE["requirements"]["run_constraints"]])
    theirs = {names.get(name, name): bound for name, bound in theirs.items()}
    assert theirs.pop("python").replace("${{ python_min }}", RECIPE["context"]["python_min"]) == python
    assert {*bounds(required.split("\n")[1:])} <= {*theirs}
    assert theirs == {name: ours[name] for name in theirs}
    assert RECIPE["context"]["version"] == fastrecur.__version__
    (built_by,) = (line for line in RECIPE["requirements"]["host"] if line.startswith("setuptools"))
    assert f'requires = ["{built_by.replace(" ", "")}"]' in (ROOT / "pyproject.toml").read_text()


def test_classifiers_are_the_pythons_that_are_tested():
    """Also the oldest one is that which may be installed."""
    stated = re.findall(r"Python :: (3\.\d+)$", SETUP["metadata"]["classifiers"], re.MULTILINE)
    assert {*stated} == {version for version in pythons() if not version.endswith("t")}
    assert SETUP["options"]["python_requires"] == f">={stated[0]}"
