"""What torch does not document may go: calls then take the dispatcher's path, and are right."""

import pathlib
import re

import pytest

import fastrecur

PACKAGE = pathlib.Path(fastrecur.__file__).parent
MISSING = {  # what the names are to be found behind, for torch not to have them
    "modes": ['_find("torch._C._len_torch_dispatch_stack'],
    "small things": ['hasattr(_profiler, "', '(*_HOOKS, "_compiled', '_find("torch._C._current_graph_task_id'],
    "kernels": ['_find("torch.autograd.function._SingleLevelFunction', '_find("torch._VF._unpack_dual'],
    "all": ['_find("torch'],
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("what", MISSING)
def test_without(run_python, what):
    """Run a training step, and one of a network, with a module whose names torch does not have."""
    text = (PACKAGE / "torch" / "_operator" / "internals.py").read_text()
    for start in MISSING[what]:
        assert start in text
        text = text.replace(start, start.replace('("', '("absent.').replace(', "', ', "absent'))
    run_python(
        f"""
import sys, types, warnings
import torch
import fastrecur
sys.modules["fastrecur.torch._operator.internals"] = module = types.ModuleType("internals")
exec({text!r}, vars(module))
from fastrecur.torch import QRNN; from fastrecur.torch._operator import modes as _modes
from fastrecur import forget_mult, linear_recurrence, reference
assert _modes.no_modes_active() == module.TELLS_MODES == ({what!r} not in ("modes", "all"))
assert module.HAS_KERNELS == ({what!r} not in ("modes", "all", "kernels"))
f, x, h0 = (torch.rand(s, dtype=torch.float64) for s in ((5, 3), (5, 3), (3,)))
for name, recurrence in (("forget_mult", forget_mult), ("linear_recurrence", linear_recurrence)):
    h, last = recurrence(f, x, h0, return_state=True)
    expected, _ = getattr(reference, name)(f.numpy(), x.numpy(), h0.numpy(), return_state=True)
    assert abs(h.numpy() - expected).max() < 1e-14
    leaves = [v.clone().requires_grad_() for v in (f, x, h0)]
    for _ in range(2):
        grads = torch.autograd.grad(recurrence(*leaves).sum(), leaves)
    right = getattr(reference, name + "_vjp")(h.new_ones(5, 3).numpy(), f.numpy(), x.numpy(), expected, h0.numpy())
    for grad, wanted in zip(grads, right):
        assert abs(grad.numpy() - wanted).max() < 1e-13
    assert torch.autograd.gradgradcheck(recurrence, leaves)
rnn = QRNN(3, 4, 2, window=2)
output, h_n = rnn(torch.rand(5, 2, 3))
output.sum().backward()
assert all(p.grad is not None for p in rnn.parameters())
with torch.no_grad():
    torch.testing.assert_close(rnn(torch.rand(5, 2, 3))[0].isfinite().all(), torch.tensor(True))
"""
    )


def test_one_file_names_private_things():
    """No other file reaches into torch."""
    private = re.compile(
        r"(?<!\.)torch(\.\w+)*\._[a-zA-Z]|from torch\S* import .*\b_\w"
        r"|\._C\b|\._(global_)?(forward|backward)_(pre_)?hooks"
    )
    for path in sorted(PACKAGE.rglob("*.py")):
        code = re.sub(r"``[^`]*``|`[^`]*`", "", path.read_text())
        if path.name != "internals.py":
            assert not [m.group() for m in private.finditer(code) if "fastrecur" not in m.group()], path.name
