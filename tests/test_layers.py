"""The architecture: a file imports only what stands before it in the table of layers, in functions too.

So there is no circle of imports, and no call that climbs back up.
"""

import ast
import csv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fastrecur"
TABLE = ROOT / "docs" / "layers.csv"


def table():
    with TABLE.open() as file:
        return [(int(layer), name, duty) for layer, name, duty in csv.reader(file)]


def file_of(path):
    """Return the file of a module of ours, ``_cpu/_rows.py`` of ``["_cpu", "_rows"]``; None for what is none."""
    for name in ("/".join(path) + ".py", "/".join([*path, "__init__.py"])):
        if (PACKAGE / name).is_file():
            return name
    return None


def imports(name):
    """Return the files of the package that a file imports, wherever in it that is written."""
    here, found = name.removesuffix(".py").split("/")[:-1], set()
    for node in ast.walk(ast.parse((PACKAGE / name).read_text())):
        if isinstance(node, ast.Import):
            paths = [alias.name.split(".") for alias in node.names]
            found |= {file_of(path[1:]) for path in paths if path[0] == "fastrecur"}
        elif isinstance(node, ast.ImportFrom):
            path = node.module.split(".") if node.module else []
            if node.level:
                base = here[: len(here) - node.level + 1] + path
            elif path[0] == "fastrecur":
                base = path[1:]
            else:
                continue
            found |= {file_of([*base, alias.name]) or file_of(base) for alias in node.names}
    return found - {"_cpu/__init__.py", "_cuda/__init__.py"}  # empty


def test_every_file_has_its_layer():
    rows = table()
    names = [name for _, name, _ in rows]
    there = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if path.read_text() or path.name != "__init__.py"
    }
    assert len(names) == len(set(names))
    assert set(names) == there, "a file without a row in docs/layers.csv, or a row without a file"
    layers = [layer for layer, _, _ in rows]
    assert layers == sorted(layers)
    assert all(duty.endswith(".") for _, _, duty in rows)


@pytest.mark.parametrize("name", [name for _, name, _ in table()])
def test_a_file_imports_only_what_stands_before_it(name):
    rows = [name for _, name, _ in table()]
    above = imports(name) - set(rows[: rows.index(name)])
    assert not above, f"{name} imports {sorted(above)}, which do not stand before it in docs/layers.csv"


@pytest.mark.parametrize("name", [name for _, name, _ in table() if name != "_messages.py"])
def test_what_an_error_says_stands_in_one_file(name):
    for node in ast.walk(ast.parse((PACKAGE / name).read_text())):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            is_python_s_own = isinstance(node.exc.func, ast.Name) and node.exc.func.id == "AttributeError"
            is_text = isinstance(node.exc.args[0], (ast.Constant, ast.JoinedStr, ast.BinOp))
            assert is_python_s_own or not is_text, f"{name}:{node.lineno}: its message belongs in _messages.py"
