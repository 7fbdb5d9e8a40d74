"""What torch does not document may go: there is another way for each name, and without many all calls are right."""

import pathlib
import re
import types

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.overrides import BaseTorchFunctionMode

import fastrecur
from fastrecur.torch._operator import internals, modes

PACKAGE = pathlib.Path(fastrecur.__file__).parent
SOURCE = (PACKAGE / "torch" / "_operator" / "internals.py").read_text()
NAMES = [*dict.fromkeys(re.findall(r'"(torch\.[\w.]+)"', SOURCE)), "_current_level", "_is_profiler_enabled"]


@pytest.mark.sample(name=["torch._C._after_autograd_keyset"])
@pytest.mark.parametrize("name", NAMES)
def test_another_way_for_each_name(name, monkeypatch):
    """A torch without it: plain calls are as short as ever, modes are seen, and all derivatives are right."""
    module = types.ModuleType("internals")
    exec(SOURCE.replace(f'"{name}"', '"torch.absent"' if "." in name else '"absent"'), vars(module))
    assert module.HAS_KERNELS and module.KernelFunction is internals.KernelFunction
    f, x = torch.rand(2, 4, 3, dtype=torch.float64).unbind()

    def loss(f):
        assert f.requires_grad or not modes.no_modes_active()
        return fastrecur.forget_mult(f, x).square().sum()

    def derivatives():
        grad, both = torch.func.grad(loss), torch.stack([f, x.sigmoid()])
        penalty = torch.func.grad(lambda f: grad(f).square().sum())
        yield from (grad(f), torch.vmap(grad)(both), torch.func.jvp(grad, (f,), (x,)), torch.func.hessian(loss)(f))
        yield from (penalty(f), torch.func.jacfwd(lambda f: fastrecur.forget_mult(f, x))(f))

    expected = list(derivatives())
    for where in (internals, modes):
        for key in vars(where).keys() & vars(module).keys() - {"__name__"}:
            monkeypatch.setattr(where, key, getattr(module, key))
    torch.testing.assert_close(list(derivatives()), expected)
    assert torch.autograd.gradgradcheck(lambda f: fastrecur.forget_mult(f, x), f.requires_grad_())
    assert modes.no_modes_active()
    for mode in (FakeTensorMode(), forward_ad.dual_level(), BaseTorchFunctionMode()):
        with mode:
            assert not modes.no_modes_active()


MISSING = {  # what the names are to be found behind, for torch not to have them
    "modes": ['"torch._C._len_torch_dispatch_stack', '"torch.utils._python_dispatch'],
    "small things": ['hasattr(_profiler, "', '(*_HOOKS, "_compiled', '"torch._C._current_graph_task_id'],
    "kernels": ['"torch._C._after_autograd_keyset', "torch._C._dispatch_"],
    "all": ['"torch.', "torch._C."],
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("what", MISSING)
def test_without(run_python, what):
    """Run a training step, and one of a network, with a module whose names torch does not have."""
    text = SOURCE
    for start in MISSING[what]:
        assert start in text
        text = text.replace(start, start.replace('"', '"absent.') if '"' in start else "torch.absent.")
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
