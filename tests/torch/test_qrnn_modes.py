"""The modules in the rest of torch: compiler, export, transforms, autocast, hooks, and what stands in for a Linear."""

import io

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import functional_call, grad, vmap
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils.rnn import pack_sequence

import fastrecur.torch
from fastrecur.torch import QRNN, QRNNLayer, WeightDrop
from fastrecur.torch._rnn import pooling, products
from fastrecur.torch._rnn.pooling import is_unhooked_linear

pytestmark = pytest.mark.usefixtures("fresh_compiler")
X = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(1))
EVERYTHING = {"num_layers": 2, "bidirectional": True, "window": 3, "zoneout": 0.2}


def test_names():
    assert fastrecur.torch.__all__ == ["PCEN", "QRNN", "Ewm", "ForgetMult", "QRNNLayer", "QRNNState", "WeightDrop"]


# The compiler.


@pytest.mark.exhaustive
def test_one_graph():
    model = QRNN(3, 4, **EVERYTHING).eval()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    h0 = torch.randn(4, 2, 4, requires_grad=True)
    for steps in [6, 9]:
        x = torch.randn(steps, 2, 3, requires_grad=True)
        actual, expected = compiled(x, h0), model(x, h0)
        torch.testing.assert_close(actual, expected)
        tensors = [x, h0, *model.parameters()]
        gradients = [torch.autograd.grad(o.square().sum() + h.sum(), tensors) for o, h in (actual, expected)]
        torch.testing.assert_close(*gradients)
    with torch.no_grad():
        torch.testing.assert_close(compiled(X), model(X))


@pytest.mark.exhaustive
def test_inductor(tmp_path):
    model = QRNN(3, 4, zoneout=0.2)
    compiled = torch.compile(model, fullgraph=True)
    compiled(X)[0].sum().backward()  # a mask is drawn in the graph
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())
    exported = torch.export.export(model.eval(), (X,))
    package = torch._inductor.aoti_compile_and_package(exported, package_path=str(tmp_path / "rnn.pt2"))
    torch.testing.assert_close(torch._inductor.aoti_load_package(package)(X), model(X))


@pytest.mark.sample(cut=[None, "resets"])
@pytest.mark.parametrize("cut", [None, "offsets", "resets"])
def test_pooling_is_one_operator(cut):
    """In training, in its gradient, and in inference, where it is one with its product."""
    model, graphs = QRNN(3, 4, window=2), []
    x = X[:, 0] if cut == "offsets" else X
    given = {"offsets": torch.tensor([0, 2, 6])} if cut == "offsets" else {"resets": torch.ones(6, 2) > 0}
    given = given if cut else {}

    def keep(graph, _):
        ours = {str(node.target) for node in graph.graph.nodes if "fastrecur" in str(node.target)}
        graphs.append({name for name in ours if "onednn" not in name})  # products: this machine's choice
        return make_boxed_func(graph.forward)

    compiled = torch.compile(model, fullgraph=True, backend=aot_autograd(fw_compiler=keep, bw_compiler=keep))
    results = []
    for function in (model, compiled):
        output, last = function(x, **given)
        grads = torch.autograd.grad(output.square().sum() + last.sum(), list(model.parameters()))
        with torch.no_grad():
            results.append([output, last, *grads, *function(x, **given)])
    torch.testing.assert_close(*results)
    names = "qrnn_pool", "qrnn_pool_backward", "qrnn_layer"
    assert graphs == [{f"fastrecur.{name}.default"} for name in names]


@pytest.mark.sample(told=["nothing"], fullgraph=[False])
@pytest.mark.parametrize("fullgraph", [False, True])
@pytest.mark.parametrize("told", ["nothing", "order", "state"])
def test_packed_sequences_are_one_graph(told, fullgraph):
    """Whether a shape tells the compiler how many they are, that of their order or of a state, or none does."""
    model, counter = QRNN(3, 4, 2, window=2), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=fullgraph, backend=counter)
    for lengths in [(6, 4), (5, 3, 2)]:
        packed = pack_sequence([torch.randn(n, 3) for n in lengths], enforce_sorted=told != "order")
        state = model.initial_state(len(lengths)) if told == "state" else None
        results = []
        for function in (model, compiled):
            output, last = function(packed, state)
            tensors = output.data, last if state is None else last.hidden
            grads = torch.autograd.grad(sum(v.square().sum() for v in tensors), list(model.parameters()))
            results.append([*tensors, *grads, *(() if state is None else last.inputs)])
        torch.testing.assert_close(*results)
    assert counter.frame_count == 2  # one for the first sizes, and one for any


@pytest.mark.exhaustive
def test_compiled_stream():
    model = QRNN(3, 4, window=2, save_prev_x=True).eval()
    expected = model(X)
    model.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    first, state = compiled(X[:3])
    second, state = compiled(X[3:], state.detach())
    torch.testing.assert_close((torch.cat([first, second]), state), expected)


@pytest.mark.sample(strict=[False])
@pytest.mark.parametrize("strict", [False, True])
def test_export(strict):
    model = QRNN(3, 4, **EVERYTHING).eval()
    steps = torch.export.Dim("steps", min=2, max=1000)
    exported = torch.export.export(model, (X,), strict=strict, dynamic_shapes=({0: steps},))
    names = [str(node.target) for node in exported.graph.nodes]
    assert (names.count("aten.linear.default"), names.count("fastrecur.qrnn_pool.default")) == (4, 4)
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    x = torch.randn(9, 2, 3)
    torch.testing.assert_close(torch.export.load(file).module()(x), model(x))


# Transforms.


def test_gradient_of_each_sample():
    model = QRNN(3, 4, **EVERYTHING).eval()
    parameters = dict(model.named_parameters())

    def loss(parameters, x):
        return functional_call(model, parameters, (x,))[0].square().sum()

    actual = vmap(grad(loss), in_dims=(None, 1))(parameters, X)
    for b in range(2):
        alone = torch.autograd.grad(loss(parameters, X[:, b]), list(parameters.values()))
        torch.testing.assert_close([actual[name][b] for name in parameters], list(alone))
    # Several models at once, and no gradient: the parameters have the batch.
    stacked = {name: torch.stack([value, 2 * value]).detach() for name, value in parameters.items()}
    with torch.no_grad():
        outputs = vmap(lambda p: functional_call(model, p, (X,))[0])(stacked)
        torch.testing.assert_close(outputs[0], model(X)[0])


def test_zoneout_in_vmap():
    model = QRNN(3, 4, zoneout=0.5)
    x = X[:, :1].expand(6, 2, 3)
    different = vmap(lambda x: model(x)[0], in_dims=1, randomness="different")(x)
    assert not torch.equal(different[0], different[1])
    with pytest.raises(RuntimeError, match="randomness"):
        vmap(lambda x: model(x)[0], in_dims=1)(x)


def test_forward_mode():
    model = QRNN(3, 4, window=2).double().eval()
    x, tangent = X.double(), torch.randn(6, 2, 3).double()
    _, actual = torch.func.jvp(lambda x: model(x)[0], (x,), (tangent,))
    step = 1e-6
    difference = (model(x + step * tangent)[0] - model(x - step * tangent)[0]) / (2 * step)
    torch.testing.assert_close(actual, difference, rtol=1e-6, atol=1e-8)


# Precision.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast(dtype):
    model = QRNN(3, 4, 2, window=2, zoneout=0.1, bidirectional=True).eval()
    expected = model(X, torch.ones(4, 2, 4))
    for gradients in [True, False]:
        with torch.set_grad_enabled(gradients), torch.autocast("cpu", torch.bfloat16):
            output, h_n = model(X.to(dtype), torch.ones(4, 2, 4))
            packed, last = model(pack_sequence([X[:, 0].to(dtype), X[:, 1].to(dtype)]), torch.ones(4, 2, 4))
        assert {output.dtype, h_n.dtype, packed.data.dtype, last.dtype} == {torch.bfloat16}
        for actual in [(output, h_n), (packed.data.reshape(6, 2, 8), last)]:
            torch.testing.assert_close([v.float() for v in actual], list(expected), rtol=0.05, atol=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        model(X, torch.ones(4, 2, 4))[0].float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


def test_deterministic_algorithms():
    model = QRNN(3, 4, **EVERYTHING)
    packed = pack_sequence([X[:4, 0], X[:, 1]], enforce_sorted=False)
    torch.use_deterministic_algorithms(True)
    try:
        results = []
        for _ in range(2):
            torch.manual_seed(2)
            output, padded = model(packed)[0].data, model(X)[0]
            gradients = torch.autograd.grad(output.sum() + padded.square().sum(), list(model.parameters()))
            results.append([output, padded, *gradients])
        assert all(map(torch.equal, *results))
    finally:
        torch.use_deterministic_algorithms(False)


def test_checkpointing():
    model = QRNN(3, 4, 2, zoneout=0.3, dropout=0.3)
    gradients = []
    for run in [model, lambda x: torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False)]:
        torch.manual_seed(2)
        gradients.append(torch.autograd.grad(run(X)[0].sum(), list(model.parameters())))
    torch.testing.assert_close(*gradients)


def test_saved_in_inference_mode_and_trained_on():
    model = QRNN(3, 4, window=2, save_prev_x=True)
    with torch.inference_mode():
        output, _ = model(X)
        assert output.is_inference()
    model(X)[0].sum().backward()


# What stands in for a Linear: it is called as a module, and the way without the call steps aside.


def hooked(linear):
    linear.register_forward_hook(lambda module, inputs, output: 2 * output)
    return linear


def hooked_before(linear):
    linear.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))
    return linear


def patched(linear):
    plain = linear.forward
    linear.forward = lambda x: 2 * plain(x)
    return linear


class Doubled(nn.Linear):
    def forward(self, input):
        return 2 * super().forward(input)


def subclass(linear):
    other = Doubled(linear.in_features, linear.out_features)
    other.load_state_dict(linear.state_dict())
    return other


class Twice(nn.Module):
    def forward(self, weight):
        return 2 * weight


def parametrized(linear):
    parametrize.register_parametrization(linear, "weight", Twice())
    return linear


def pruned(linear):
    prune.l1_unstructured(linear, "weight", amount=0.5)
    return linear


class Tagged(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        result = super().__torch_function__(func, types, args, kwargs or {})
        return 2 * result if func is nn.functional.linear else result


def tagged(linear):
    linear.weight = nn.Parameter(linear.weight.detach().as_subclass(Tagged), requires_grad=False)
    return linear


def compiled(linear):
    linear.compile(backend="eager")
    return linear


STAND_INS = {
    "compiled": compiled,
    "forward hook": hooked,
    "forward pre-hook": hooked_before,
    "forward of its own": patched,
    "subclass": subclass,
    "parametrization": parametrized,
    "weight norm": parametrizations.weight_norm,
    "pruned": pruned,
    "sequential": nn.Sequential,
    "WeightDrop": lambda linear: WeightDrop(linear, ["weight"], 0.5),
}


@pytest.mark.sample(direction=["linear"])
@pytest.mark.parametrize("direction", ["linear", "linear_reverse"])
@pytest.mark.parametrize("name", STAND_INS)
def test_stand_ins(name, direction):
    model = QRNN(3, 4, bidirectional=True).eval()
    layer = model.layers[0]
    linear = getattr(layer, direction)
    assert is_unhooked_linear(linear)
    plain = model(X)[0]
    setattr(layer, direction, STAND_INS[name](linear))
    model.eval()
    assert not is_unhooked_linear(getattr(layer, direction))
    expected, _ = model(X)  # a gradient is wanted: the module is called
    if name not in ("compiled", "sequential", "weight norm", "WeightDrop"):
        assert not torch.allclose(expected, plain)
    packed = pack_sequence([X[:, 0], X[:, 1]])
    with torch.no_grad():
        torch.testing.assert_close(model(X)[0], expected.detach())
        torch.testing.assert_close(model(packed)[0].data.reshape(6, 2, 8), expected.detach())


def test_weights_of_a_subclass():
    layer = QRNNLayer(3, 4)
    plain = layer(X)[0]
    tagged(layer.linear)
    with torch.no_grad():
        assert not torch.allclose(layer(X)[0].as_subclass(torch.Tensor), plain)


def test_hooks_of_all_modules():
    layer, seen = QRNNLayer(3, 4), []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *rest: seen.append(type(module)))
    try:
        with torch.no_grad():
            layer(X)
    finally:
        handle.remove()
    assert seen == [nn.Linear, QRNNLayer]


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_hooks_see_the_input_in_time_order(reverse, gradients):
    layer, seen = QRNNLayer(3, 4, window=2, reverse=reverse), []
    layer.linear.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].reshape(-1, 6)))
    with torch.set_grad_enabled(gradients):
        layer(X)
    assert torch.equal(seen[0][:, :3].reshape(6, 2, 3), X)
    other = torch.cat([X[1:], 0 * X[:1]]) if reverse else torch.cat([0 * X[:1], X[:-1]])
    assert torch.equal(seen[0][:, 3:].reshape(6, 2, 3), other)
    assert len(seen) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_quantised():
    model = QRNN(16, 32, 2).eval()
    x = torch.randn(6, 2, 16)
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8)
    assert type(quantised.layers[0].linear) is not nn.Linear
    for gradients in [True, False]:
        with torch.set_grad_enabled(gradients):
            actual, expected = quantised(x)[0], model(x)[0]
        assert not torch.equal(actual, expected)
        torch.testing.assert_close(actual, expected, rtol=0.1, atol=0.05)


def test_frozen_weights_and_a_gradient_of_the_input():
    model = QRNN(3, 4).requires_grad_(False)
    x = X.clone().requires_grad_()
    assert model(x)[0].sum().backward() is None
    assert x.grad.abs().sum() > 0
    assert not model(X)[0].requires_grad


def test_inference_is_what_training_computes():
    """The way without a gradient gives the same numbers, to the rounding of the product."""
    for options in [{}, {"window": 2, "bidirectional": True}, {"output_gate": False, "bias": False, "zoneout": 0.5}]:
        model = QRNN(20, 30, **options).eval()
        x = torch.randn(70, 5, 20)
        expected = model(x)
        with torch.no_grad():
            torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bias", [torch.arange(24.0)[::2], torch.tensor([0.5]).expand(12)], ids=["strided", "expanded"])
def test_inference_reads_a_bias_where_it_stands(bias):
    layer = QRNNLayer(3, 4)
    layer.linear.bias = nn.Parameter(bias)
    with torch.no_grad():
        actual = layer(X)
    torch.testing.assert_close(actual, tuple(v.detach() for v in layer(X)))


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
@pytest.mark.sample(bias=[True])
@pytest.mark.parametrize("bias", [True, False])
def test_products_of_training_by_onednn(bias, monkeypatch):
    """Gradients are those of torch's own product, also their gradients and those of a batch."""
    monkeypatch.setattr(products, "prefers_onednn", lambda: True)
    monkeypatch.setattr(products, "BLOCK", 50)
    linear, results = nn.Linear(5, 12, bias), []
    source = torch.randn(products.FEW_ROWS, 2, 5).transpose(0, 1).requires_grad_()
    for product_of in (pooling.product_of, nn.Linear.__call__):
        product = product_of(linear, source)
        tensors = [source, *linear.parameters()]
        grads = torch.autograd.grad(product, tensors, product.detach().cos(), retain_graph=True)
        each = torch.autograd.grad(
            product, tensors, torch.stack([product, -product]).detach(), True, is_grads_batched=True
        )
        slope = torch.autograd.grad(product.square().sum(), source, create_graph=True)[0]
        results.append([product, *grads, *each, *torch.autograd.grad(slope.square().sum(), tensors[:2])])
        assert (type(product.grad_fn).__name__ == "ProductBackward") == (product_of is pooling.product_of)
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert pooling.product_of(linear, source).dtype == torch.bfloat16
    compiled = torch.compile(lambda v: pooling.product_of(linear, v), fullgraph=True, backend="aot_eager")(source)
    actual = torch.autograd.grad(compiled, tensors, compiled.detach().cos())
    torch.testing.assert_close([compiled, *actual], results[1][: 2 + len(tensors[1:])], rtol=1e-4, atol=1e-4)
    torch.library.opcheck(products.OPERATOR, (*tensors[:2], linear.bias))
    torch.library.opcheck(products.WEIGHTS, (torch.randn(9, 4, requires_grad=True), torch.randn(9, 5)))
    assert not products.WEIGHTS(torch.ones(0, 4), torch.ones(0, 5)).any()


def test_inference_refuses_what_training_refuses():
    layer = QRNNLayer(3, 4)
    layer.linear.bias = nn.Parameter(torch.ones(5))  # neither one for each row nor one for all
    with torch.no_grad(), pytest.raises(RuntimeError):
        layer(X)
    layer = QRNNLayer(3, 4, dtype=torch.complex64)
    with torch.no_grad(), pytest.raises(TypeError, match="`f` must be real"):
        layer(X.to(torch.complex64))
