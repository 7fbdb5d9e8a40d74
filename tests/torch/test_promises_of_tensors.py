"""Every public function and module keeps every promise that is made for tensors; docs/promises_not.csv says which not.

Each promise is one check of a case: a function of tensors that are differentiated, and such tensors.
"""

import functools

import pytest
import torch
from promised import FUNCTIONS, broken, call, draw, operands, promises
from records import function, record
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fastrecur.torch import PCEN, QRNN, Ewm, ForgetMult, QRNNLayer

ONE_GRAPH = {"fullgraph": True, "backend": "aot_eager"}


def values(*shapes):
    made = torch.Generator().manual_seed(0)
    return [torch.rand(shape, generator=made, dtype=torch.float64) for shape in shapes]


MODULES = {
    "torch.QRNN": (lambda: QRNN(3, 4, 2, window=2), (6, 2, 3), (2, 2, 4)),
    "torch.QRNNLayer": (lambda: QRNNLayer(3, 4), (6, 2, 3), (1, 2, 4)),
    "torch.ForgetMult": (ForgetMult, (6, 2, 4), (6, 2, 4), (2, 4)),
    "torch.Ewm": (lambda: Ewm(halflife=[1.0, 2.0, 3.0]), (6, 3)),
    "torch.PCEN": (lambda: PCEN(3), (3, 6)),
}


class Case:
    """A call: a function of tensors that returns a tuple of such, the tensors, and which of them are signals."""

    def __init__(self, name, dtype=torch.float64, device="cpu"):
        self.name, self.signals = name, [0]
        if name in MODULES:
            make, *shapes = MODULES[name]
            torch.manual_seed(0)
            module = make().to(device=device, dtype=dtype)
            self.tensors, self.run = [v.to(device, dtype) for v in values(*shapes)], module
            return
        given = draw(name, dtype="f8")
        names = [a for a, array in operands(name, given).items() if array.dtype != bool]
        told = record(name).arguments
        self.signals = [k for k, argument in enumerate(names) if told[argument].kind == "signal"]
        self.tensors = [torch.tensor(given[argument], dtype=dtype, device=device) for argument in names]
        flags = {a: torch.tensor(v, device=device) for a, v in operands(name, given).items() if v.dtype == bool}
        given |= flags
        target, is_a0 = function(name), torch.arange(6, device=device) == 3

        def run(*tensors):
            operands = {a: torch.where(is_a0, 1.0, v) if a == "sos" else v for a, v in zip(names, tensors, strict=True)}
            return target(**given | operands)

        self.run = run

    def __call__(self, *tensors):
        found = self.run(*tensors)
        found = found if isinstance(found, (tuple, list)) else (found,)
        return tuple(v for v in found if v.is_floating_point())

    def leaves(self):
        return [v.clone().requires_grad_() for v in self.tensors]

    def loss(self, *tensors):
        """Return a number in which every result counts, and no missing one."""
        return sum(v.nan_to_num().square().sum() for v in self(*tensors))

    def gradients(self, loss=None):
        leaves = self.leaves()
        return torch.autograd.grad((loss or self.loss)(*leaves), leaves, allow_unused=True, materialize_grads=True)

    def present(self, *tensors):
        """Return results without what is missing, of which there are no differences."""
        return tuple(v[~v.isnan()] for v in self(*tensors))


def agree(got, wanted):
    torch.testing.assert_close(tuple(got), tuple(wanted), equal_nan=True)


def check_tensors(name):
    if name in MODULES:
        raise TypeError("no arrays")
    case, given = Case(name), draw(name, dtype="f8")
    agree(case(*case.tensors), map(torch.as_tensor, call(name, given)))
    agree(case(*case.leaves()), map(torch.as_tensor, call(name, given)))


def check_gradients(name):
    case = Case(name)
    assert torch.autograd.gradcheck(case.present, case.leaves(), fast_mode=True)


def check_second_order(name):
    case = Case(name)
    assert torch.autograd.gradgradcheck(case.present, case.leaves(), fast_mode=True)


def check_func(name):
    case = Case(name)
    every = tuple(range(len(case.tensors)))
    agree(torch.func.grad(case.loss, every)(*case.tensors), case.gradients())


def check_jvp(name):
    case = Case(name)
    tangents = tuple(torch.cos(v) for v in case.tensors)
    _, slope = torch.func.jvp(lambda *v: sum(p.square().sum() for p in case.present(*v)), tuple(case.tensors), tangents)
    expected = sum((g * v).sum() for g, v in zip(case.gradients(), tangents, strict=True))
    torch.testing.assert_close(slope, expected)


def check_vmap(name):
    case = Case(name)
    batched = [torch.stack([v, v / 2]) if k in case.signals else v for k, v in enumerate(case.tensors)]
    dims = tuple(0 if k in case.signals else None for k in range(len(case.tensors)))
    alone = [case(*(v[i] if k in case.signals else v for k, v in enumerate(batched))) for i in range(2)]
    agree(torch.func.vmap(case, dims)(*batched), [torch.stack(pair) for pair in zip(*alone, strict=True)])


def check_compile(name):
    case = Case(name)
    compiled = torch.compile(lambda *tensors: case(*tensors), **ONE_GRAPH)
    agree(compiled(*case.tensors), case(*case.tensors))
    agree(case.gradients(torch.compile(lambda *tensors: case.loss(*tensors), **ONE_GRAPH)), case.gradients())


def check_compiled_autograd(name):
    case = Case(name)
    leaves = case.leaves()
    loss = case.loss(*leaves)
    with torch._dynamo.compiled_autograd._enable(lambda graph: torch.compile(graph, **ONE_GRAPH)):
        loss.backward()
    agree([torch.zeros_like(v) if v.grad is None else v.grad for v in leaves], case.gradients())


class Program(torch.nn.Module):
    def __init__(self, case):
        super().__init__()
        self.case = case

    def forward(self, *tensors):
        return self.case(*tensors)


def check_export(name):
    case = Case(name)
    exported = torch.export.export(Program(case), tuple(case.tensors), strict=False)
    agree(exported.module()(*case.tensors), case(*case.tensors))


def check_autocast(name):
    case = Case(name, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = case(*case.tensors)
    torch.testing.assert_close(found, case(*case.tensors), rtol=0, atol=0, equal_nan=True)


def check_meta(name):
    case, there = Case(name), Case(name, device="meta")
    for tensors in (there.tensors, there.leaves()):
        for found, one in zip(there(*tensors), case(*case.tensors), strict=True):
            assert (found.device.type, found.shape, found.dtype) == ("meta", one.shape, one.dtype)
    for found, one in zip(there.gradients(), there.tensors, strict=True):
        assert (found.device.type, found.shape, found.dtype) == ("meta", one.shape, one.dtype)


def check_fake(name):
    case = Case(name)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        found = case(*map(mode.from_tensor, case.tensors))
    for one, other in zip(found, case(*case.tensors), strict=True):
        assert (one.shape, one.dtype, one.stride()) == (other.shape, other.dtype, other.stride())


class Elsewhere(TorchDispatchMode):
    """A mode in which our operators are run as on a device without kernels."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        keys = torch._C.DispatchKeySet(torch._C.DispatchKey.PrivateUse1)
        run = functools.partial(function.redispatch, keys) if function.namespace == "fastrecur" else function
        return run(*arguments, **(options or {}))


def check_any_device(name):
    case = Case(name)
    results, grads = case(*case.tensors), case.gradients()
    with Elsewhere():
        agree(case(*case.tensors), results)
        if name != "selective_scan":  # which keeps as many states as it does for what says that it is on a CPU
            agree(case.gradients(), grads)


CHECKS = {name[6:].replace("_", " "): check for name, check in globals().items() if name[:6] == "check_"}
PROMISES, BROKEN = promises("tensors"), broken()


def test_the_table_is_of_checks():
    assert list(PROMISES) == list(CHECKS)


# Torch's compiler looks at the gradients of what stands between two graphs, and warns of it itself.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("promise", CHECKS)
@pytest.mark.parametrize("name", [*FUNCTIONS, *MODULES])
def test_promise(name, promise):
    torch._dynamo.reset()
    why = BROKEN.get((promise, name))
    if why is None:
        CHECKS[promise](name)
    else:
        with pytest.raises((AssertionError, TypeError, RuntimeError)):
            CHECKS[promise](name)
