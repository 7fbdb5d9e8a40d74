"""torchqrnn's call sites, checkpoints and bugs: each of these failed, or gave wrong numbers, there."""

import copy
import io
import pickle

import oracle
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from fastrecur.torch import QRNN, ForgetMult, QRNNLayer, WeightDrop

X = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(1))


# Its checkpoints.


def checkpoint(sizes, window=1, output_gate=True):
    """A state dict as torchqrnn writes it: a product's weight and bias for each layer."""
    names = {}
    for k, (inputs, size) in enumerate(zip(sizes, sizes[1:], strict=False)):
        rows = (3 if output_gate else 2) * size
        names[f"layers.{k}.linear.weight"] = torch.randn(rows, window * inputs)
        names[f"layers.{k}.linear.bias"] = torch.randn(rows)
    return names


@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("output_gate", [True, False])
def test_checkpoint(window, output_gate):
    names = checkpoint([3, 4, 4], window, output_gate)
    model = QRNN(3, 4, 2, dropout=0.4, window=window, output_gate=output_gate, zoneout=0.1, save_prev_x=True)
    model.load_state_dict(names, strict=True)
    model(X)  # what is saved between calls is in no state dict
    assert list(model.state_dict()) == list(names)
    # What torchqrnn computes of it, in its own words; the present input's columns come first.
    model.eval()
    model.reset()
    h = X
    for layer in range(2):
        weight, bias = names[f"layers.{layer}.linear.weight"], names[f"layers.{layer}.linear.bias"]
        previous = torch.cat([torch.zeros(1, 2, h.shape[-1]), h[:-1]])
        y = nn.functional.linear(torch.cat([h, previous][:window], 2), weight, bias)
        z, f, *o = y.chunk(3 if output_gate else 2, dim=2)
        c = oracle.forget_mult(f.sigmoid() * (1 - 0.1), z.tanh()).float()
        h = o[0].sigmoid() * c if output_gate else c
    output, h_n = model(X)
    torch.testing.assert_close((output, h_n[1]), (h, c[-1]))


def test_checkpoint_of_one_layer():
    layer = QRNNLayer(3, 4, window=2)
    names = {"linear.weight": torch.randn(12, 6), "linear.bias": torch.randn(12)}
    layer.load_state_dict(names, strict=True)
    assert torch.equal(layer.linear.weight, names["linear.weight"])


def test_names_of_the_other_direction():
    assert list(QRNN(3, 4, 2, False, bidirectional=True).state_dict()) == [
        "layers.0.linear.weight",
        "layers.0.linear_reverse.weight",
        "layers.1.linear.weight",
        "layers.1.linear_reverse.weight",
    ]


# Its arguments.


def test_order_of_arguments():
    layer = QRNNLayer(3, 4, True, 0.5, 2, False, False)
    assert (layer.save_prev_x, layer.zoneout, layer.window, layer.output_gate) == (True, 0.5, 2, False)
    assert QRNNLayer(3).hidden_size == 3
    assert QRNN(3).hidden_size == 3
    model = QRNN(3, 4, 2, dropout=0.4, window=2, zoneout=0.1, save_prev_x=True, output_gate=False, use_cuda=False)
    assert all(layer.window == 2 and layer.save_prev_x and layer.zoneout == 0.1 for layer in model.layers)
    assert (
        repr(model.layers[0]).partition("\n")[2].split("\n")[0].strip()
        == "3, 4, window=2, zoneout=0.1, output_gate=False, save_prev_x=True"
    )


def test_states_of_a_layer():
    layer = QRNNLayer(3, 4)
    h, c = layer(X)
    assert c.shape == (1, 2, 4)
    z, f, o = layer.linear(X).chunk(3, -1)
    states = ForgetMult()(f.sigmoid(), z.tanh())
    torch.testing.assert_close((h, c[0]), (o.sigmoid() * states, states[-1]))  # before the output gate
    state = torch.randn(2, 4)
    torch.testing.assert_close(layer(X, state), layer(X, state[None]))
    torch.testing.assert_close(layer(X[:, 0], state[0]), layer(X[:, 0], state[:1]))


def test_hidden_as_a_list():
    model = QRNN(3, 4, 2)
    states = torch.randn(2, 2, 4)
    expected = model(X, states)
    for hidden in [list(states.split(1)), tuple(states.split(1)), [*states]]:
        torch.testing.assert_close(model(X, hidden), expected)
    torch.testing.assert_close(model(X, [states[:1], None]), model(X, torch.stack([states[0], states[1] * 0])))
    both = QRNN(3, 4, 2, bidirectional=True)
    states = torch.randn(4, 2, 4)
    expected = both(X, states)
    torch.testing.assert_close(both(X, list(states.split(1))), expected)
    states[1] = 0
    torch.testing.assert_close(both(X, [states[:1], None, states[2:3], states[3:]]), both(X, states))
    torch.testing.assert_close(both(X[:, 0], list(states[:, 0].split(1))), both(X[:, 0], states[:, 0]))
    packed = pack_sequence([X[:3, 0], X[:5, 1]], enforce_sorted=False)
    torch.testing.assert_close(both(packed, list(states.split(1))), both(packed, states))


@pytest.mark.parametrize(
    ("hidden", "error", "words"),
    [
        ([torch.zeros(1, 2, 4)], RuntimeError, "list of 2, got 1"),
        ([torch.zeros(2, 2, 4)] * 2, RuntimeError, r"size \(1, 2, 4\), got \[2, 2, 4\].* pass `c0` alone"),
        ([torch.zeros(1, 2, 4), 1.0], TypeError, "`hidden` must be a tensor, or a list"),
        (1.0, TypeError, "`hidden` must be a tensor, or a list"),
    ],
    ids=str,
)
def test_bad_hidden(hidden, error, words):
    with pytest.raises(error, match=words):
        QRNN(3, 4, 2)(X, hidden)


@pytest.mark.parametrize(
    "hidden", [torch.zeros(2, 2, 4), torch.zeros(3, 4), torch.zeros(4)], ids=lambda h: str(h.shape)
)
def test_bad_hidden_of_a_layer(hidden):
    with pytest.raises(RuntimeError, match=r"Expected hidden size \(1, 2, 4\)"):
        QRNNLayer(3, 4)(X, hidden)


def test_bad_hidden_kind_of_a_layer():
    with pytest.raises(TypeError, match="`hidden` must be a tensor, .* got list$"):
        QRNNLayer(3, 4)(X, [torch.zeros(1, 2, 4)])


def test_the_two_states_of_an_lstm():
    for layers in (1, 3):
        with pytest.raises(RuntimeError, match=f"list of {layers}, got 2: a QRNN has one state.* `c0` alone"):
            QRNN(3, 4, layers)(X, (torch.zeros(layers, 2, 4), torch.zeros(layers, 2, 4)))
    with pytest.raises(TypeError, match="got tuple: a QRNN has one state"):
        QRNNLayer(3, 4)(X, (torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)))


def test_layers_of_differing_sizes():
    """torchqrnn raised here, as it joined the states in one tensor."""
    layers = [QRNNLayer(3, 5), QRNNLayer(5, 2, window=2), QRNNLayer(2, 7, reverse=True)]
    model = QRNN(3, 7, layers=layers, num_layers=9)
    assert model.num_layers == 3
    assert model.hidden_size == 7
    output, h_n = model(X)
    assert output.shape == (6, 2, 7)
    assert [tuple(h.shape) for h in h_n] == [(1, 2, 5), (1, 2, 2), (1, 2, 7)]
    h, c = X, []
    for layer in layers:
        h, last = layer(h)
        c.append(last)
    torch.testing.assert_close((output, h_n), (h, c))
    again, _ = model(X, h_n)  # can be fed back in
    assert not torch.equal(again, output)
    one, states = model(X[:, 0], [h[:, 0] for h in h_n])
    torch.testing.assert_close(one, again[:, 0])
    assert [tuple(h.shape) for h in states] == [(1, 5), (1, 2), (1, 7)]
    with pytest.raises(RuntimeError, match="list of one state for each layer"):
        model(X, torch.zeros(3, 2, 5))
    same = QRNN(3, layers=[QRNNLayer(3, 4), QRNNLayer(4, 4)])
    assert same(X)[1].shape == (2, 2, 4)


@pytest.mark.parametrize(
    ("layers", "options", "words"),
    [
        ([QRNNLayer(4, 5)], {}, "layer 0 must have input_size 3, got 4"),
        ([QRNNLayer(3, 5), QRNNLayer(4, 5)], {}, "layer 1 must have input_size 5, got 4"),
        ([QRNNLayer(3, 5, batch_first=True)], {}, "batch_first=True in layer 0"),
        ([QRNNLayer(3, 5)], {"window": 2, "zoneout": 0.5}, "`window`, `zoneout` must be left out"),
        ([QRNNLayer(3, 5)], {"bidirectional": True}, "`bidirectional` must be left out"),
    ],
    ids=str,
)
def test_bad_layers(layers, options, words):
    with pytest.raises(ValueError, match=words):
        QRNN(3, 5, layers=layers, **options)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"window": 0}, ValueError, "`window` must be greater than zero, got 0"),
        ({"window": 1.5}, TypeError, "`window` must be of type int"),
        ({"zoneout": 1.1}, ValueError, r"`zoneout` must be a number in \[0, 1\], got 1.1"),
        ({"zoneout": "x"}, ValueError, "`zoneout` must be a number"),
        ({"output_gate": 1}, TypeError, "`output_gate` must be of type bool"),
        ({"save_prev_x": 1}, TypeError, "`save_prev_x` must be of type bool"),
    ],
    ids=str,
)
def test_bad_options(options, error, words):
    for kind in [QRNN, QRNNLayer]:
        with pytest.raises(error, match=words):
            kind(3, 4, **options)


@pytest.mark.parametrize("x", [X.numpy(), [X], None], ids=["array", "list", "None"])
def test_bad_kind_of_input(x):
    for model in [QRNN(3, 4), QRNNLayer(3, 4)]:
        with pytest.raises(TypeError, match="`input` must be a tensor or a PackedSequence"):
            model(x)


def test_bad_kind_of_layer():
    with pytest.raises(TypeError, match="`layers` must hold modules with an input_size.*got torch.nn.*Linear as 1"):
        QRNN(3, layers=[QRNNLayer(3, 4), nn.Linear(4, 4)])


@pytest.mark.parametrize("gradients", [False, True])
def test_a_product_that_does_not_fit(gradients):
    layer = QRNNLayer(3, 4)
    layer.linear = nn.Linear(3, 24)  # three blocks, but of 8
    with pytest.raises(RuntimeError, match="`linear` must give 12 features.*got 24"), torch.set_grad_enabled(gradients):
        layer(X)


# Its bugs.


@pytest.mark.parametrize("training", [True, False])
def test_gradient_with_zoneout(training):
    """In evaluation it changed the sigmoid in place, and backward raised."""
    model = QRNN(3, 4, 2, zoneout=0.5).train(training)
    output, _ = model(X)
    output.sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())


def test_float64():
    """Its kernels read every tensor as float32."""
    model = QRNN(3, 4).double()
    output, _ = model(X.double())
    torch.testing.assert_close(output.float(), model.float()(X)[0])
    with pytest.raises(ValueError, match="does not match weight dtype"):
        model(X.double())


@pytest.mark.parametrize("how", ["transposed", "expanded", "sliced"])
def test_gradient_that_is_not_contiguous(how):
    """Its kernel read grad_h with strides that it did not have."""
    f, x = torch.rand(6, 2, 4, requires_grad=True), torch.randn(6, 2, 4, requires_grad=True)
    gradient = {
        "transposed": torch.randn(4, 2, 6).permute(2, 1, 0),
        "expanded": torch.randn(4).expand(6, 2, 4),
        "sliced": torch.randn(6, 2, 9)[..., ::2][..., :4],
    }[how]
    actual, plain = (torch.autograd.grad(ForgetMult()(f, x), (f, x), g) for g in (gradient, gradient.contiguous()))
    torch.testing.assert_close(actual, plain)
    model = QRNN(3, 4)
    actual, plain = (
        torch.autograd.grad(model(X)[0], list(model.parameters()), g) for g in (gradient, gradient.contiguous())
    )
    torch.testing.assert_close(actual, plain)


@pytest.mark.parametrize("use_cuda", [True, False])
def test_tensors_on_the_cpu_whatever_the_machine_has(use_cuda):
    """With use_cuda, the default, tensors in CPU memory failed an assertion."""
    f, x = torch.rand(6, 2, 4), torch.randn(6, 2, 4)
    assert ForgetMult()(f, x, use_cuda=use_cuda).device.type == "cpu"
    assert QRNNLayer(3, 4, use_cuda=use_cuda)(X)[0].device.type == "cpu"
    assert QRNN(3, 4, use_cuda=use_cuda)(X)[0].device.type == "cpu"


def test_another_batch_size():
    """With save_prev_x it failed in torch.cat, and said nothing of reset."""
    model = QRNN(3, 4, 2, window=2, save_prev_x=True)
    model(X)
    with pytest.raises(RuntimeError, match=r"reset\(\)"):
        model(X[:, :1])
    with pytest.raises(RuntimeError, match=r"reset\(\)"):
        model(pack_sequence([X[:, 0]]))
    model.reset()
    expected = model(X[:, :1])
    model.reset()
    torch.testing.assert_close(model(X[:, :1]), expected)
    model.double()  # what is saved follows the weights
    model(X[:, :1].double())


def test_a_failed_call_saves_nothing():
    layer = QRNNLayer(3, 4, window=2, save_prev_x=True)
    layer(X)
    saved = layer.prevX.clone()
    with pytest.raises(RuntimeError):
        layer(2 * X, torch.zeros(3, 2, 4))
    assert torch.equal(layer.prevX, saved)


def test_zoneout_does_not_rescale():
    """fastai's gates went up to 1.97."""
    layer = QRNNLayer(3, 4, zoneout=0.5, output_gate=False)
    with torch.no_grad():
        layer.linear.weight.zero_()
        layer.linear.bias.copy_(torch.tensor([100.0] * 8))  # candidates and gates of 1
    states, _ = layer(torch.zeros(500, 2, 3))
    assert set(states.unique().tolist()) == {0.0, 1.0}


# Pieces of a stream.


@pytest.mark.parametrize("pieces", [[3, 3], [1, 1, 4], [1, 1, 1, 1, 1, 1], [6]], ids=str)
@pytest.mark.parametrize("window", [1, 2, 4])
def test_pieces_are_the_whole(window, pieces):
    model = QRNN(3, 4, 2, window=window, save_prev_x=True)
    expected = model(X)
    model.reset()
    state, outputs = None, []
    for piece in X.split(pieces):
        output, state = model(piece, state)
        outputs.append(output)
    torch.testing.assert_close((torch.cat(outputs), state), expected)
    model.reset()
    torch.testing.assert_close(model(X), expected)


def test_pieces_in_reverse():
    layer = QRNNLayer(3, 4, True, window=3, reverse=True)
    expected = layer(X)
    layer.reset()
    state, outputs = None, []
    for piece in X.split([1, 3, 2])[::-1]:
        output, state = layer(piece, state)
        outputs.insert(0, output)
    torch.testing.assert_close((torch.cat(outputs), state), expected)


@pytest.mark.parametrize("reverse", [False, True])
def test_packed_pieces(reverse):
    """Lanes may come in another order, and end at their own times: each keeps its own last inputs."""
    layer = QRNNLayer(3, 4, True, window=3, reverse=reverse)
    cuts = [(1, 4), (4, 1), (2, 3)]  # of three lanes: first and second piece
    lanes = [torch.randn(sum(cut), 3) for cut in cuts]
    pieces = [[lane.split(cut)[k] for lane, cut in zip(lanes, cuts, strict=True)] for k in range(2)]
    state, outputs = None, []
    for piece in pieces[::-1] if reverse else pieces:
        output, state = layer(pack_sequence(piece, enforce_sorted=False), state)
        padded, lengths = pad_packed_sequence(output)
        outputs.append([padded[:n, b] for b, n in enumerate(lengths)])
    layer.reset()
    for b, lane in enumerate(lanes):
        layer.reset()
        alone, last = layer(lane)
        halves = outputs[::-1] if reverse else outputs
        torch.testing.assert_close((torch.cat([half[b] for half in halves]), state[:, b]), (alone, last))


def test_saved_inputs_are_a_copy_without_a_gradient():
    layer = QRNNLayer(3, 4, True, window=2)
    x = X.clone().requires_grad_()
    layer(x)
    assert not layer.prevX.requires_grad
    assert layer.prevX.untyped_storage().nbytes() == layer.prevX.nbytes  # nothing else is kept
    with torch.no_grad():
        x.zero_()
    assert torch.equal(layer.prevX, X[-1:])
    layer(X)[0].sum().backward()
    assert QRNNLayer(3, 4, True)(X) and QRNNLayer(3, 4, True).prevX is None  # a window of 1 needs none


def test_saved_inputs_are_no_part_of_the_model():
    """Averaging failed on them, and DistributedDataParallel would have sent them round."""
    model = QRNN(3, 4, window=2, save_prev_x=True)
    average = torch.optim.swa_utils.AveragedModel(model)
    model(X[:4])
    average.update_parameters(model)
    average.update_parameters(model)
    assert not list(model.buffers())
    assert average.module.layers[0].prevX is None


def test_saved_inputs_are_pickled_and_copied():
    model = QRNN(3, 4, window=2, save_prev_x=True)
    model(X[:4])
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    others = [pickle.loads(pickle.dumps(model)), copy.deepcopy(model), torch.load(file, weights_only=False)]
    expected = model(X[4:])
    for other in others:
        torch.testing.assert_close(other(X[4:]), expected)


# awd-lstm-lm.


def test_awd_lstm_lm():
    """Its model: layers of its own, WeightDrop on their products, lists of states, pickled whole."""
    layers = [QRNNLayer(3, 5, save_prev_x=True, zoneout=0, window=2, output_gate=True), QRNNLayer(5, 3, window=1)]
    for layer in layers:
        layer.linear = WeightDrop(layer.linear, ["weight"], dropout=0.5)
    model = nn.ModuleList(layers)
    hidden = [torch.zeros(1, 2, 5), torch.zeros(1, 2, 3)]
    for _ in range(2):
        raw = X
        for k, layer in enumerate(model):
            raw, hidden[k] = layer(raw, hidden[k].detach())
        raw.sum().backward()
        assert all(p.grad is not None for p in model.parameters())
        model = pickle.loads(pickle.dumps(model))
    for layer in model:
        layer.reset()
    names = ["0.linear.module.bias", "0.linear.module.weight_raw", "1.linear.module.bias", "1.linear.module.weight_raw"]
    assert list(model.state_dict()) == names
    together = QRNN(3, layers=model)
    assert [tuple(h.shape) for h in together(X, hidden)[1]] == [(1, 2, 5), (1, 2, 3)]
