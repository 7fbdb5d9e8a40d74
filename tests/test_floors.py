"""The house: a file imports only what stands before it in the table of floors."""

import ast
import csv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fastrecur"
TABLE = ROOT / "docs" / "floors.csv"

# What is imported in the middle of a call, against the order: a door to what the caller brought along, or to the
# package itself.
UPWARD = {
    ("_call.py", "_cuda/_call.py"): "arrays on a GPU came",
    ("_call.py", "torch/_call.py"): "tensors came",
    ("_call.py", "_dask.py"): "Dask arrays came",
    ("smoothing/_run.py", "smoothing/_lazy.py"): "Dask arrays came",
    ("torch/_call.py", "__init__.py"): "what a subclass or a mode of torch is told was called",
    ("_config.py", "__init__.py"): "the report names the package's version and tries its functions",
}


def table():
    with TABLE.open() as file:
        return [(int(floor), name, duty) for floor, name, duty in csv.reader(file)]


def file_of(path):
    """Return the file of a module of ours, ``_cpu/_rows.py`` of ``["_cpu", "_rows"]``; None for what is none."""
    for name in ("/".join(path) + ".py", "/".join([*path, "__init__.py"])):
        if (PACKAGE / name).is_file():
            return name
    return None


def imports(name):
    """Yield ``(file, whether at import)`` for what a file of the package imports from it."""
    here = name.removesuffix(".py").split("/")[:-1]
    tree = ast.parse((PACKAGE / name).read_text())
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            paths = [a.name.split(".") for a in node.names if a.name.split(".")[0] == "fastrecur"]
            found = [file_of(path[1:]) for path in paths]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = here[: len(here) - node.level + 1] + (node.module.split(".") if node.module else [])
            elif node.module.split(".")[0] == "fastrecur":
                base = node.module.split(".")[1:]
            else:
                continue
            found = [file_of([*base, alias.name]) or file_of(base) for alias in node.names]
        else:
            continue
        for file in found:
            yield file, id(node) not in inside


def test_every_file_has_its_floor():
    rows = table()
    names = [name for _, name, _ in rows]
    there = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if path.read_text() or path.name != "__init__.py"
    }
    assert len(names) == len(set(names))
    assert set(names) == there, "a file without a row in docs/floors.csv, or a row without a file"
    floors = [floor for floor, _, _ in rows]
    assert floors == sorted(floors)
    assert all(duty.endswith(".") for _, _, duty in rows)


@pytest.mark.parametrize("name", [name for _, name, _ in table()])
def test_a_file_imports_only_what_stands_before_it(name):
    place = {name: k for k, (_, name, _) in enumerate(table())}
    for file, at_import in imports(name):
        if file in ("_cpu/__init__.py", "_cuda/__init__.py"):  # empty
            continue
        assert file in place, f"{file} has no row in docs/floors.csv"
        if place[file] < place[name]:
            continue
        assert not at_import and (name, file) in UPWARD, f"{name} imports {file}, which does not stand before it"


@pytest.mark.parametrize("name", [name for _, name, _ in table() if name != "_messages.py"])
def test_what_an_error_says_stands_in_one_file(name):
    for node in ast.walk(ast.parse((PACKAGE / name).read_text())):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            is_python_s_own = isinstance(node.exc.func, ast.Name) and node.exc.func.id == "AttributeError"
            is_text = isinstance(node.exc.args[0], (ast.Constant, ast.JoinedStr, ast.BinOp))
            assert is_python_s_own or not is_text, f"{name}:{node.lineno}: its message belongs in _messages.py"


def test_exceptions_are_used():
    used = {(name, file) for _, name, _ in table() for file, at_import in imports(name) if not at_import}
    assert UPWARD.keys() <= used
