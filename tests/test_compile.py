"""How kernels are compiled: what is left out must not be missed."""

import pytest

MACHINE_CODE = """
import hashlib
from fastrecur._cpu import _passes
if {everything}:
    _passes.NEEDLESS = frozenset()
from fastrecur._cpu import _compile, {module}
make = _compile._machine_code
def told(*arguments):
    code, symbol = make(*arguments)
    print(hashlib.sha256(code).hexdigest())
    return code, symbol
_compile._machine_code = told
_compile.kernel({module}.forward, "forget_wide", "f8", a="f4", b="f4", h="f4")
"""


@pytest.mark.parametrize("module", ["_rows", "_octets", "_panels", "_series"])
def test_passes_that_are_left_out_change_nothing(run_python, tmp_path, module):
    codes = {
        run_python(
            MACHINE_CODE.format(everything=everything, module=module),
            FASTRECUR_CACHE_DIR=str(tmp_path / str(everything)),
        )
        for everything in (False, True)
    }
    assert len(codes) == 1
    assert len(codes.pop().strip()) == 64
