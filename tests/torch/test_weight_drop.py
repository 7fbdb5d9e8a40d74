"""WeightDrop, as awd-lstm-lm has it."""

import copy
import pickle

import pytest
import torch
from torch import nn

from fastrecur.torch import WeightDrop

X = torch.randn(7, 20, generator=torch.Generator().manual_seed(1))


def test_what_is_computed():
    linear = nn.Linear(20, 30)
    weight, bias = linear.weight, linear.bias
    drop = WeightDrop(linear, ["weight"], dropout=0.25)
    torch.manual_seed(3)
    output = drop(X)
    torch.manual_seed(3)
    dropped = nn.functional.dropout(weight, 0.25)
    assert 0.15 < (dropped == 0).double().mean() < 0.35
    assert torch.equal(output, nn.functional.linear(X, dropped, bias))
    output.sum().backward()
    assert torch.equal(weight.grad == 0, dropped == 0)
    assert not torch.equal(drop(X), drop(X))
    assert torch.equal(drop.eval()(X), nn.functional.linear(X, weight, bias))


def test_parameters_and_names():
    linear = nn.Linear(20, 30)
    weight = linear.weight
    drop = WeightDrop(linear, ["weight"], 0.5)
    assert [name for name, _ in drop.named_parameters()] == ["module.bias", "module.weight_raw"]
    assert drop.module.weight_raw is weight
    drop(X)
    assert not hasattr(linear, "weight")  # nothing of a call is left
    other = WeightDrop(nn.Linear(20, 30), ["weight"], 0.5)
    other.load_state_dict(drop.state_dict(), strict=True)
    torch.testing.assert_close(other.eval()(X), drop.eval()(X))


def test_checkpoint_with_the_last_dropped_weights():
    """awd-lstm-lm made what it had dropped a parameter too."""
    drop = nn.Sequential(WeightDrop(nn.Linear(20, 30), ["weight"], 0.5))
    names = {name: torch.randn_like(value) for name, value in drop.state_dict().items()}
    given = {**names, "0.module.weight": torch.zeros(30, 20)}
    drop.load_state_dict(given, strict=True)
    assert len(given) == 3
    assert torch.equal(drop[0].module.weight_raw, names["0.module.weight_raw"])
    del given["0.module.weight_raw"]
    with pytest.raises(RuntimeError, match="Missing key.*weight_raw"):
        drop.load_state_dict(given)


def test_whole_rows():
    drop = WeightDrop(nn.Linear(20, 30, bias=False), ["weight"], 0.5, variational=True)
    for _ in range(2):
        output = drop(X)
        zeros = (output == 0).all(0)
        assert torch.equal(zeros, (output == 0).any(0))
        assert 0 < zeros.sum() < 30
        drop.eval()  # and, as in awd-lstm-lm, in evaluation too


def test_another_module():
    lstm = nn.LSTM(20, 8)
    raw = lstm.weight_hh_l0
    drop = WeightDrop(lstm, ["weight_hh_l0"], 0.5)
    output, _ = drop(X)
    assert not torch.equal(drop(X)[0], output)
    output.sum().backward()
    assert raw.grad.abs().sum() > 0
    plain = nn.LSTM(20, 8)
    names = {name.removesuffix("_raw"): value for name, value in lstm.state_dict().items()}
    plain.load_state_dict(names)
    torch.testing.assert_close(drop.eval()(X)[0], plain(X)[0])


def test_copies_in_the_middle_of_training():
    drop = WeightDrop(nn.Linear(20, 30), ["weight"], 0.5)
    drop(X).sum().backward()
    for other in [copy.deepcopy(drop), pickle.loads(pickle.dumps(drop))]:
        torch.testing.assert_close(other.eval()(X), drop.eval()(X))
        drop.train()


def test_one_graph():
    drop = WeightDrop(nn.Linear(20, 30), ["weight"], 0.5)
    torch.compile(drop, fullgraph=True, backend="aot_eager")(X).sum().backward()
    assert drop.module.weight_raw.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["weights", "forward", "bias"])
def test_bad_names(name):
    linear = nn.Linear(2, 3, bias=False)
    with pytest.raises(ValueError, match=f"`weights` must name parameters of the module, got '{name}'"):
        WeightDrop(linear, ["weight", name])
    assert list(dict(linear.named_parameters())) == ["weight"]  # nothing was renamed


@pytest.mark.parametrize(
    ("given", "words"),
    [((3, ["weight"]), "`module` must be"), ((nn.Linear(2, 2), "weight"), "`weights` must be a list")],
)
def test_bad_types(given, words):
    with pytest.raises(TypeError, match=words):
        WeightDrop(*given)


@pytest.mark.parametrize("p", [-0.1, 1.5, "x"])
def test_bad_dropout(p):
    with pytest.raises(ValueError, match="`dropout`"):
        WeightDrop(nn.Linear(2, 3), ["weight"], p)


def test_reset_parameters():
    drop = WeightDrop(nn.Linear(20, 30), ["weight"], 0.5)
    before = drop.module.weight_raw.clone()
    drop.reset_parameters()
    assert not torch.equal(drop.module.weight_raw, before)
    assert drop.module.weight_raw.requires_grad
    assert not hasattr(drop.module, "weight")


def test_a_name_given_twice_is_dropped_once():
    linear = nn.Linear(2, 2)
    drop = WeightDrop(linear, ["weight", "weight"], dropout=0.5)
    assert drop.weights == ["weight"]
    assert list(drop.state_dict()) == ["module.bias", "module.weight_raw"]
