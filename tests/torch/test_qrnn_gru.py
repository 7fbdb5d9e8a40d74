"""What call sites of nn.GRU rely on, line by line, on nn.GRU and on QRNN."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

from fastrecur.torch import QRNN, QRNNLayer

X = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=[nn.GRU, QRNN], ids=["GRU", "QRNN"])
def kind(request):
    return request.param


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_shapes(kind, layers, bidirectional):
    directions = 1 + bidirectional
    for batch_first in [False, True]:
        model = kind(4, 6, layers, True, batch_first, 0.0, bidirectional)
        x = X.transpose(0, 1) if batch_first else X
        h0 = torch.randn(layers * directions, 3, 6)
        for arguments in [(x,), (x, None), (x, h0), (x.contiguous(), h0)]:
            output, h_n = model(*arguments)
            assert output.shape == (*x.shape[:2], directions * 6)
            assert h_n.shape == h0.shape
        # One sequence: no batch axis anywhere, batch_first or not.
        output, h_n = model(X[:, 0], h0[:, 0])
        assert output.shape == (5, directions * 6)
        assert h_n.shape == (layers * directions, 6)
        assert model(X[:, 0])[1].shape == h_n.shape


def test_one_sequence_is_a_batch_of_one(kind):
    model = kind(4, 6, 2, bidirectional=True)
    h0 = torch.randn(4, 3, 6)
    output, h_n = model(X, h0)
    torch.testing.assert_close(model(X[:, 1], h0[:, 1]), (output[:, 1], h_n[:, 1]))


def test_batch_first_is_a_transpose(kind):
    model = kind(4, 6, 2)
    output, h_n = model(X)
    model.batch_first = True
    torch.testing.assert_close(model(X.transpose(0, 1)), (output.transpose(0, 1), h_n))


def test_directions_stand_side_by_side(kind):
    """The second half of the output is what the other direction gives; its last state is that of the first step."""
    model = kind(4, 6, bidirectional=True)
    output, h_n = model(X)
    single = kind(4, 6)
    names = {name: value for name, value in model.state_dict().items() if "reverse" in name}
    single.load_state_dict({name.replace("_reverse", ""): value for name, value in names.items()})
    flipped, last = single(X.flip(0))
    torch.testing.assert_close((output[..., 6:], h_n[1:]), (flipped.flip(0), last))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((4, 0), {}, ValueError, "hidden_size.* must be greater than zero"),
        ((0, 4), {}, ValueError, "input_size.* must be greater than zero"),
        ((4, 4, 0), {}, ValueError, "num_layers.* must be greater than zero"),
        ((4, 4.0), {}, TypeError, "hidden_size.* of type int"),
        (("4", 4), {}, TypeError, "input_size.* of type int"),
        ((4, 4), {"bias": 1}, TypeError, "bias.* of type bool"),
        ((4, 4), {"batch_first": None}, TypeError, "batch_first.* of type bool"),
        ((4, 4, 2), {"dropout": 1.5}, ValueError, r"dropout.* should be a number in range \[0, 1\]"),
        ((4, 4, 2), {"dropout": True}, ValueError, r"dropout.* should be a number in range \[0, 1\]"),
        ((4, 4), {"proj_size": 2}, (ValueError, TypeError), "proj_size"),
        ((4, 4), {"dropout": 0.5}, UserWarning, "num_layers greater than 1"),
    ],
    ids=str,
)
def test_bad_arguments(kind, arguments, options, error, words):
    raises(kind, error, words, lambda: kind(*arguments, **options))


def raises(kind, error, words, call):
    """Assert that a call raises, in these words; the nn.GRU of the oldest supported torch has others for some of it."""
    try:
        with pytest.raises(error, match=words):
            call()
    except (Exception, pytest.fail.Exception):
        if kind is nn.GRU and torch.__version__.startswith("2.6"):
            pytest.skip("the nn.GRU of torch 2.6 lets it pass, or has other words")
        raise


PACKED = pack_sequence([X[:, 0], X[:2, 1]])


@pytest.mark.parametrize(
    ("x", "h0", "error", "words"),
    [
        (X[:0], None, RuntimeError, "Expected sequence length to be larger than 0"),
        (X[:0, 0], None, RuntimeError, "Expected sequence length to be larger than 0"),
        (X[0, 0], None, ValueError, "Expected input to be 2D or 3D, got 1D"),
        (X[None], None, ValueError, "Expected input to be 2D or 3D, got 4D"),
        (X[..., :3], None, RuntimeError, "must be equal to input_size. Expected 4, got 3"),
        (X.double(), None, ValueError, "does not match weight dtype"),
        (X, torch.zeros(2, 3, 6), RuntimeError, r"Expected hidden size \(4, 3, 6\), got \[2, 3, 6\]"),
        (X, torch.zeros(4, 2, 6), RuntimeError, r"Expected hidden size \(4, 3, 6\), got \[4, 2, 6\]"),
        (X, torch.zeros(4, 3, 5), RuntimeError, r"Expected hidden size \(4, 3, 6\), got \[4, 3, 5\]"),
        (X, torch.zeros(4, 6), RuntimeError, "also be 3-D but got 2-D"),
        (X[:, 0], torch.zeros(4, 1, 6), RuntimeError, "also be 2-D but got 3-D"),
        (X[:, 0], torch.zeros(2, 6), RuntimeError, "Expected hidden size"),
        (X, torch.zeros(4, 3, 6).double(), RuntimeError, "dtype"),
        (PACKED, torch.zeros(4, 3, 6), RuntimeError, r"Expected hidden size \(4, 2, 6\), got \[4, 3, 6\]"),
        (PACKED._replace(data=PACKED.data[:, :3]), None, RuntimeError, "Expected 4, got 3"),
        (PACKED._replace(data=PACKED.data[0]), None, RuntimeError, "must have 2 dimensions"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*outside of its functional API")
def test_bad_input(kind, x, h0, error, words):
    raises(kind, error, words, lambda: kind(4, 6, 2, bidirectional=True)(x, h0))


def test_empty_batch(kind):
    model = kind(4, 6, 2)
    output, h_n = model(X[:, :0])
    assert output.shape == (5, 0, 6)
    assert h_n.shape == (2, 0, 6)


@pytest.mark.parametrize("lengths", [[5, 5, 2], [2, 5, 4], [1, 1, 1], [3, 5, 1]], ids=str)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_packed(kind, bidirectional, lengths):
    model = kind(4, 6, 2, bidirectional=bidirectional)
    h0 = torch.randn(2 * (1 + bidirectional), 3, 6)
    packed = pack_padded_sequence(X, lengths, enforce_sorted=False)
    for state in [None, h0]:
        output, h_n = model(packed, state)
        assert type(output) is PackedSequence
        for name in ["batch_sizes", "sorted_indices", "unsorted_indices"]:
            assert getattr(output, name) is getattr(packed, name)
        padded, came = pad_packed_sequence(output)
        assert came.tolist() == lengths
        for b, n in enumerate(lengths):
            alone, last = model(X[:n, b], None if state is None else state[:, b])
            torch.testing.assert_close((padded[:n, b], h_n[:, b]), (alone, last))
            assert not padded[n:, b].any()
    if lengths == sorted(lengths, reverse=True):
        output, again = model(pack_padded_sequence(X, lengths), h0)
        assert output.sorted_indices is None
        torch.testing.assert_close(again, h_n)


def test_packed_is_batch_first_or_not(kind):
    model = kind(4, 6)
    packed = pack_padded_sequence(X, [2, 5, 4], enforce_sorted=False)
    expected = model(packed)
    model.batch_first = True
    torch.testing.assert_close(model(packed), expected)


def test_attributes(kind):
    model = kind(4, 6, 3, False, True, 0.25, True)
    names = ["input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional"]
    values = [4, 6, 3, False, True, 0.25, True]
    assert [getattr(model, name) for name in names] == values
    assert repr(model).replace("\n  ", "").partition("(layers)")[0].startswith(kind.__name__)
    text = "4, 6, num_layers=3, bias=False, batch_first=True, dropout=0.25, bidirectional=True"
    assert model.extra_repr() == text
    assert kind(4, 6).extra_repr() == "4, 6"
    assert len(model.all_weights) == 6
    assert [w is p for w, p in zip(sum(model.all_weights, []), model.parameters(), strict=True)]
    assert model.flatten_parameters() is None


def test_reset_parameters(kind):
    model = kind(4, 6, 2, bidirectional=True)
    before = copy.deepcopy(model.state_dict())
    model.reset_parameters()
    assert not any(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert max(p.abs().max() for p in model.parameters()) <= 1


def test_dropout_is_between_layers(kind):
    x = torch.randn(20, 8, 4)
    model = kind(4, 6, 3, dropout=0.5)
    assert not torch.equal(model(x)[0], model(x)[0])
    assert (model(x)[0] != 0).all()  # never after the last layer
    torch.testing.assert_close(model(x)[1][0], model.eval()(x)[1][0])  # nor before the first
    assert torch.equal(model(x)[0], model(x)[0])
    packed = pack_sequence([x[:, 0], x[:3, 1]])
    assert torch.equal(model(packed)[0].data, model(packed)[0].data)
    model.train()
    assert not torch.equal(model(packed)[0].data, model(packed)[0].data)
    torch.manual_seed(3)
    first = model(x)[0]
    torch.manual_seed(3)
    assert torch.equal(model(x)[0], first)


def test_all_dropped(kind):
    model = kind(4, 6, 2, dropout=1.0)
    output, _ = model(X)
    torch.testing.assert_close(output, model(torch.randn_like(X))[0])


def test_state_that_comes_out_is_ones_own(kind):
    model = kind(4, 6, 2)
    output, h_n = model(X)
    kept = h_n.clone()
    output.detach().zero_()
    assert torch.equal(h_n, kept)
    h0 = torch.randn(2, 3, 6)
    kept = h0.clone()
    model(X, h0)[1].detach().zero_()
    assert torch.equal(h0, kept)


def test_a_stream_in_pieces(kind):
    model = kind(4, 6, 2)
    output, h_n = model(X)
    first, state = model(X[:2])
    second, state = model(X[2:], state)
    torch.testing.assert_close((torch.cat([first, second]), state), (output, h_n))


def test_gradient_reaches_everything(kind):
    model = kind(4, 6, 2, bidirectional=True)
    x, h0 = X.clone().requires_grad_(), torch.randn(4, 3, 6, requires_grad=True)
    output, h_n = model(x, h0)
    (output.square().sum() + h_n.square().sum()).backward()
    assert all(v.grad is not None and v.grad.abs().sum() > 0 for v in [x, h0, *model.parameters()])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("how", ["to", "argument"])
def test_dtypes(kind, dtype, how):
    model = kind(4, 6, 2).to(dtype) if how == "to" else kind(4, 6, 2, dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {dtype}
    for state in [None, torch.randn(2, 3, 6, dtype=dtype)]:
        output, h_n = model(X.to(dtype), state)
        assert output.dtype == h_n.dtype == dtype
    output.float().square().sum().backward()
    assert all(p.grad.dtype == dtype for p in model.parameters())


def test_copies(kind):
    model = kind(4, 6, 2)
    expected = model(X)
    for other in [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.copy(model)]:
        torch.testing.assert_close(other(X), expected)
    fresh = kind(4, 6, 2)
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(fresh(X), expected)


def test_meta_device(kind):
    model = kind(4, 6, 2, device="meta")
    assert {p.device.type for p in model.parameters()} == {"meta"}
    output, h_n = model(X.to("meta"))
    assert output.shape == (5, 3, 6)
    assert h_n.shape == (2, 3, 6)
    with pytest.raises(ValueError, match=r"input dtype \(torch.float64\) does not match weight dtype"):
        model(X.double().to("meta"))
    if kind is QRNN:  # torch.nn.GRU takes it
        with pytest.raises(RuntimeError, match="`hidden` must have the input's dtype torch.float32"):
            model(X.to("meta"), h_n.double())


def test_positional_and_key_words(kind):
    one = kind(4, 6, 2, True, False, 0.5, True)
    two = kind(
        input_size=4, hidden_size=6, num_layers=2, bias=True, batch_first=False, dropout=0.5, bidirectional=True
    )  # fmt: skip
    assert one.extra_repr() == two.extra_repr()


def test_first_state_by_the_name_hx(kind):
    model, h0 = kind(4, 6, 2), torch.randn(2, 3, 6)
    torch.testing.assert_close(model(X, hx=h0), model(X, h0))
    torch.testing.assert_close(model(input=X, hx=None), model(X))


@pytest.mark.parametrize("make", [QRNN, QRNNLayer])
def test_first_state_by_two_names(make):
    model, h0 = make(4, 6), torch.randn(1, 3, 6)
    torch.testing.assert_close(model(X, hx=h0), model(X, hidden=h0))
    with pytest.raises(TypeError, match="`hidden` and `hx`"):
        model(X, h0, hx=h0)
