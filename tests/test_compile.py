"""How kernels are compiled: what is left out must not be missed."""

import pytest

MACHINE_CODE = """
import hashlib, sys
from fastrecur._cpu import _target
if {everything}:
    _target.NEEDLESS, _target.TARGET = frozenset(), "cpu"
from fastrecur._cpu import _compile, {module}
make = _compile._machine_code
def told(*arguments):
    code, symbol = make(*arguments)
    print(hashlib.sha256(code).hexdigest(), "numba.np.linalg" in sys.modules, "scipy.linalg" in sys.modules)
    return code, symbol
_compile._machine_code = told
_compile.kernel({module}.forward, "forget_wide", "f8", a="f4", b="f4", h="f4")
"""


@pytest.mark.parametrize("module", ["_rows", "_octets", "_panels", "_series"])
def test_what_is_left_out_changes_nothing(run_python, tmp_path, module):
    (code, *loaded), (code_of_everything, *everything_loaded) = (
        run_python(
            MACHINE_CODE.format(everything=everything, module=module),
            FASTRECUR_CACHE_DIR=str(tmp_path / str(everything)),
        ).split()
        for everything in (False, True)
    )
    assert code == code_of_everything
    assert loaded == ["False", "False"]
    assert everything_loaded[0] == "True"
