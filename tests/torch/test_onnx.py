"""Models that `torch.onnx.export` makes of the recurrence: onnxruntime repeats the numbers."""

import pytest
import torch

import fastrecur
from fastrecur.torch import PCEN, QRNN, Ewm

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason="what exports to ONNX, and runs such models")

import onnxruntime  # noqa: E402

from fastrecur.torch.onnx import translations  # noqa: E402

# The exporter's own, of its own pytree and type checks.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*axis name.*will not be used:UserWarning"),
]


class Call(torch.nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *operands):
        return self.function(*operands)


def check(model, operands, *others, dynamic=None):
    """Export a model; compare its results, and those of other operands."""
    program = torch.onnx.export(
        model.eval(), operands, dynamo=True, verbose=False, dynamic_shapes=dynamic,
        custom_translation_table=translations(),
    )  # fmt: skip
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    for given in (operands, *others):
        feeds = {put.name: value.numpy() for put, value in zip(session.get_inputs(), given, strict=True)}
        with torch.no_grad():
            expected = model(*given)
        expected = expected if isinstance(expected, tuple) else (expected,)
        for actual, wanted in zip(session.run(None, feeds), expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(actual), wanted, rtol=1e-5, atol=1e-6)
    return program


@pytest.mark.exhaustive
@pytest.mark.parametrize("output_gate", [True, False])
def test_qrnn(output_gate, capfd):
    """Of any length and batch size, both directions; onnxscript finds no fault."""
    from fastrecur.torch import onnx

    onnx._scan.cache_clear()
    model = QRNN(3, 4, num_layers=2, bidirectional=True, window=2, zoneout=0.2, output_gate=output_gate)
    operands = [(torch.randn(steps, lanes, 3), torch.randn(4, lanes, 4)) for steps, lanes in ((5, 2), (9, 4))]
    check(model, *operands, dynamic=({0: "steps", 1: "batch"}, {1: "batch"}))
    assert "ERROR" not in "".join(capfd.readouterr())


@pytest.mark.exhaustive
def test_cut_qrnns_are_refused_by_name():
    model = QRNN(3, 4).eval()
    with pytest.raises(torch.onnx.OnnxExporterError, match="failed|Failed") as error:
        torch.onnx.export(
            model, (torch.randn(5, 2, 3),), kwargs={"resets": torch.rand(5, 2) > 0.5}, dynamo=True, verbose=False,
            custom_translation_table=translations(),
        )  # fmt: skip
    assert "`resets` has no kernels yet for ONNX" in str(error.getrepr(chain=True))


@pytest.mark.exhaustive
def test_smoothing():
    check(Smoothing(), (torch.rand(3, 20),), (torch.rand(3, 7),), dynamic=({1: "steps"},))


class Smoothing(torch.nn.Module):
    """A frontend: normalized energies, and their mean."""

    def __init__(self):
        super().__init__()
        self.pcen, self.mean = PCEN(3), Ewm(halflife=[[1.0], [2.0], [3.0]], axis=-1)

    def forward(self, S):
        return self.mean(self.pcen(S))


F, X = torch.rand(5, 2, 3), torch.randn(5, 2, 3)
CALLS = {
    "plain": (lambda f, x: fastrecur.forget_mult(f, x), F, X),
    "state": (
        lambda f, x, h: fastrecur.forget_mult(f, x, h, axis=1, reverse=True, return_state=True), F, X, X[:, 0],
    ),
    "broadcast": (lambda a, x: fastrecur.linear_recurrence(a, x, axis=-1), F[:, :1], X),
    "one series": (lambda x: fastrecur.forget_mult(0.3, x), X[:, 0, 0].clone()),
    "float64": (lambda a, x: fastrecur.linear_recurrence(a, x), F.double(), X.double()),
    "lengths": (
        lambda f, x, n: fastrecur.forget_mult(f, x, lengths=n, return_state=True), F, X, torch.tensor([2, 5]),
    ),
    "lengths of two axes": (
        lambda f, x, n: fastrecur.linear_recurrence(f, x, axis=1, lengths=n, reverse=True, return_state=True), F, X,
        torch.arange(15).reshape(5, 3) % 3,
    ),
}  # fmt: skip


@pytest.mark.sample(name=["plain"])
@pytest.mark.parametrize("name", CALLS)
def test_recurrences(name):
    function, *operands = CALLS[name]
    program = check(Call(function), tuple(operands))
    names = [node.op_type for node in program.model.graph]
    assert names.count("Scan") == 1


@pytest.mark.parametrize("name", ["forget_mult", "qrnn_pool"])
@pytest.mark.parametrize("given", [("offsets",), ("resets",), ("offsets", "resets")])
def test_segments_are_refused_by_name(given, name):
    write = translations()[getattr(torch.ops.fastrecur, name).default]
    with pytest.raises(TypeError, match=f"`{given[0]}` has no kernels yet for ONNX"):
        write(None, None, **dict.fromkeys(given, "a value of the graph"))
