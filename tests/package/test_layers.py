"""The architecture: a room imports only rooms that stand before it in the table of layers, in functions too.

A room is a folder, or a file of its own. No files import each other in a circle, in one room or in several.
"""

import ast
import csv
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "fastrecur"
TABLE = ROOT / "docs" / "layers.csv"
FILES = sorted(
    path.relative_to(PACKAGE).as_posix()
    for path in PACKAGE.rglob("*.py")
    if path.read_text() or path.name != "__init__.py"
)


def table():
    with TABLE.open() as file:
        return [(int(layer), name, duty) for layer, name, duty in csv.reader(file)]


def room_of(name):
    """Return the room of a file: the row that names it, or the innermost folder that a row names; None without one."""
    rows = [room for _, room, _ in table() if name == room or (room.endswith("/") and name.startswith(room))]
    return max(rows, key=len, default=None)


def file_of(path):
    """Return the file of a module, ``_cpu/run.py`` of ``["_cpu", "run"]``; None for what is none of ours, or empty."""
    names = "/".join(path) + ".py", "/".join([*path, "__init__.py"])
    return next((name for name in names if name in FILES), None)


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
    return found - {None}


def test_every_file_has_its_room():
    rows = table()
    names = [name for _, name, _ in rows]
    assert len(names) == len(set(names))
    assert not [name for name in FILES if room_of(name) is None], "a file without a room in docs/layers.csv"
    assert set(names) == {room_of(name) for name in FILES}, "a room without a file"
    layers = [layer for layer, _, _ in rows]
    assert layers == sorted(layers)
    assert all(duty.endswith(".") for _, _, duty in rows)


@pytest.mark.parametrize("room", [room for _, room, _ in table()])
def test_a_room_imports_only_what_stands_before_it(room):
    rooms = [room for _, room, _ in table()]
    allowed = rooms[: rooms.index(room) + 1]
    for name in FILES:
        if room_of(name) == room:
            above = sorted(file for file in imports(name) if room_of(file) not in allowed)
            assert not above, f"{name} imports {above}, whose rooms do not stand before {room} in docs/layers.csv"


def test_no_files_import_each_other_in_a_circle():
    graphlib.TopologicalSorter({name: imports(name) - {name} for name in FILES}).prepare()


@pytest.mark.parametrize("name", [name for name in FILES if name != "_arguments/messages.py"])
def test_what_an_error_says_stands_in_one_file(name):
    for node in ast.walk(ast.parse((PACKAGE / name).read_text())):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            is_python_s_own = isinstance(node.exc.func, ast.Name) and node.exc.func.id == "AttributeError"
            is_text = isinstance(node.exc.args[0], (ast.Constant, ast.JoinedStr, ast.BinOp))
            assert is_python_s_own or not is_text, f"{name}:{node.lineno}: its message belongs in messages.py"
