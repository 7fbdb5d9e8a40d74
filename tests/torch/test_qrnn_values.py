"""The modules against the network written out, values and gradients."""

import pytest
import qrnn_oracle
import torch
from qrnn_oracle import weights_of
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from fastrecur.torch import QRNN, QRNNLayer

LENGTHS = [4, 6, 1, 4]
CASES = {
    "plain": {},
    "layers": {"num_layers": 3},
    "no bias": {"bias": False},
    "no output gate": {"output_gate": False},
    "window 2": {"window": 2},
    "window 5": {"window": 5},
    "zoneout": {"zoneout": 0.3},
    "both directions": {"bidirectional": True},
    "all": {"bidirectional": True, "num_layers": 2, "window": 3, "zoneout": 0.2, "output_gate": False, "bias": False},
}


def network(**options):
    return QRNN(3, 4, **options, dtype=torch.float64).eval()  # as evaluation is not random


def expected(model, sequences, hidden=None):
    options = {"window": model.layers[0].window, "zoneout": model.layers[0].zoneout}
    options["output_gate"] = model.layers[0].output_gate
    weights = weights_of(dict(model.named_parameters()), model.num_layers, model.bidirectional)
    return qrnn_oracle.network(sequences, weights, hidden, **options)


def same(model, actual, wide, inputs):
    """Assert that outputs and states are the same, and so are the gradients of a function of them."""
    tensors = [*inputs, *model.parameters()]
    torch.testing.assert_close(actual, wide, rtol=1e-12, atol=1e-12)
    gradients = [
        torch.autograd.grad(sum((v.square() * v.cos()).sum() for v in values), tensors) for values in (actual, wide)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("has_state", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("case", CASES)
def test_padded(case, steps, has_state):
    model = network(**CASES[case])
    x = torch.randn(steps, 2, 3, dtype=torch.float64, requires_grad=True)
    h0 = torch.randn(model.num_layers * (1 + model.bidirectional), 2, 4, dtype=torch.float64, requires_grad=True)
    outputs, states = expected(model, x.unbind(1), h0 if has_state else None)
    wide = torch.stack(outputs, 1), states
    inputs = [x, h0] if has_state else [x]
    same(model, model(x, h0 if has_state else None), wide, inputs)
    with torch.no_grad():
        torch.testing.assert_close(model(x, h0 if has_state else None), wide, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("lengths", [LENGTHS, [1], [3, 3, 3]], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_packed(case, lengths):
    model = network(**CASES[case])
    sequences = [torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in lengths]
    lanes = model.num_layers * (1 + model.bidirectional), len(lengths)
    h0 = torch.randn(*lanes, 4, dtype=torch.float64, requires_grad=True)
    outputs, states = expected(model, sequences, h0)

    def lanes_of(output):
        padded, came = pad_packed_sequence(output)
        assert came.tolist() == lengths
        return [padded[:n, b] for b, n in enumerate(lengths)]

    packed = pack_sequence(sequences, enforce_sorted=False)
    output, h_n = model(packed, h0)
    same(model, [*lanes_of(output), h_n], [*outputs, states], [*sequences, h0])
    with torch.no_grad():
        output, h_n = model(packed, h0)
        torch.testing.assert_close([*lanes_of(output), h_n], [*outputs, states], rtol=1e-12, atol=1e-12)
        output, h_n = model(packed)
        outputs, states = expected(model, sequences)
        torch.testing.assert_close([*lanes_of(output), h_n], [*outputs, states], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("window", [1, 3])
def test_one_layer_in_reverse(window):
    layer = QRNNLayer(3, 4, window=window, reverse=True, dtype=torch.float64)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    h, c = layer(x)
    for b in range(2):
        parameters = layer.linear.weight, layer.linear.bias
        wide = qrnn_oracle.layer(x[:, b], parameters, reverse=True, window=window)
        torch.testing.assert_close((h[:, b], c[0, b]), wide, rtol=1e-12, atol=1e-12)


def test_zoneout_in_training():
    layer = QRNNLayer(3, 4, zoneout=0.4, dtype=torch.float64)
    x = torch.randn(50, 8, 3, dtype=torch.float64)
    torch.manual_seed(1)
    h, _ = layer(x)
    torch.manual_seed(1)
    mask = torch.empty(50, 8, 4, dtype=torch.float64).bernoulli_(0.6)
    z, f, o = layer.linear(x).chunk(3, -1)
    f = f.sigmoid() * mask
    c, states = torch.zeros(8, 4, dtype=torch.float64), []
    for t in range(50):
        c = f[t] * z[t].tanh() + (1 - f[t]) * c
        states.append(o[t].sigmoid() * c)
    torch.testing.assert_close(h, torch.stack(states), rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(v.square().sum(), list(layer.parameters())) for v in (h, torch.stack(states))]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("p", [0, 1])
def test_zoneout_at_its_ends(p):
    layer = QRNNLayer(3, 4, zoneout=p)
    x, c0 = torch.randn(5, 2, 3), torch.randn(2, 4)
    before = torch.get_rng_state()
    _, c = layer(x, c0)
    if p == 0:
        assert torch.equal(torch.get_rng_state(), before)
    else:
        assert torch.equal(c[0], c0)
        assert torch.equal(layer.eval()(x, c0)[1][0], c0)


def test_zoneout_of_packed_rows():
    layer = QRNNLayer(3, 4, zoneout=0.5, output_gate=False)
    x = torch.randn(6, 3)
    alone, _ = layer.eval()(x)
    layer.train()
    h, _ = layer(pack_sequence([x] * 400))
    padded, _ = pad_packed_sequence(h)
    # A state that is kept from the start is 0 in the first step, and so it is for half of all elements.
    zeros = (padded[0] == 0).double().mean()
    assert 0.45 < zeros < 0.55
    assert not torch.equal(padded[:, 0], alone)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("options", [{}, {"window": 2, "zoneout": 0.3}, {"bidirectional": True}], ids=str)
def test_gradcheck(options, packed):
    model = QRNN(2, 3, **options, dtype=torch.float64).eval()
    names, parameters = zip(*model.named_parameters(), strict=True)
    sequences = [torch.randn(n, 2, dtype=torch.float64, requires_grad=True) for n in ((3, 2) if packed else (3, 3))]
    h0 = torch.randn(1 + model.bidirectional, 2, 3, dtype=torch.float64, requires_grad=True)

    def function(first, second, h0, *parameters):
        x = pack_sequence([first, second]) if packed else torch.stack([first, second], 1)
        output, h_n = torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), (x, h0))
        return (output.data if packed else output), h_n

    assert torch.autograd.gradcheck(function, (*sequences, h0, *parameters))
    assert torch.autograd.gradgradcheck(function, (*sequences, h0, *parameters), fast_mode=True)


def test_second_gate_is_that_of_the_candidate():
    layer = QRNNLayer(1, 1, bias=False)
    with torch.no_grad():
        layer.linear.weight.copy_(torch.tensor([[2.0], [100.0], [0.0]]))
    h, c = layer(torch.ones(1, 1, 1))
    torch.testing.assert_close(c.item(), torch.tensor(2.0).tanh().item())
    torch.testing.assert_close(h.item(), c.item() / 2)


def test_no_work_in_the_padding():
    """The product sees the valid steps, once each."""
    seen = []
    model = QRNN(3, 4, 2, window=2, bidirectional=True)
    for layer in model.layers:
        for linear in layer.children():
            linear.register_forward_hook(lambda module, inputs, output: seen.append(tuple(inputs[0].shape)))
    model(pack_sequence([torch.randn(n, 3) for n in (9, 1, 1, 1)]))
    assert seen == [(12, 6)] * 2 + [(12, 16)] * 2
