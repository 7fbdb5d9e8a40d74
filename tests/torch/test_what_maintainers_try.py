"""What a maintainer of torch, pandas or Dask tries first: each is right, or refused by name."""

import copy
import functools
import pickle

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import fastrecur
from fastrecur import forget_mult, forget_mult_vjp, linear_recurrence, selective_scan
from fastrecur.filters import allpole, follow, sosfilt
from fastrecur.smoothing import ewm_mean, ewm_var, holt
from fastrecur.torch import QRNN, QRNNLayer

F, X = torch.rand(5, 3), torch.randn(5, 3)


# ---- torch ----------------------------------------------------------------------------------------------------------


def test_results_are_no_views_and_may_be_changed_in_place():
    x = X.clone().requires_grad_()
    h = forget_mult(F, x)
    assert not h._is_view()
    h.mul_(2).sum().backward()
    assert torch.equal(x.grad, torch.autograd.grad(2 * forget_mult(F, x).sum(), x)[0])
    h = forget_mult(F.clone().requires_grad_(), x)
    h.mul_(2)  # the gradient of a gate reads the states
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        h.sum().backward()


@pytest.mark.parametrize("of", [lambda z: z.conj(), lambda z: z.imag, lambda z: z.real, lambda z: torch._neg_view(z)])
def test_lazy_conjugates_and_negatives(of):
    z = torch.randn(5, 3, dtype=torch.complex64)
    value = of(z)
    expected = linear_recurrence(0.5, value.clone().resolve_conj().resolve_neg())
    torch.testing.assert_close(linear_recurrence(0.5, value), expected)


def test_channels_last_stays_so():
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert forget_mult(0.5, x, axis=2).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.sample(options=[{}])
@pytest.mark.filterwarnings("ignore:Profiler clears events")
@pytest.mark.parametrize("wants", [False, True])
@pytest.mark.parametrize("options", [{}, {"return_state": True}, {"lengths": [1, 5, 0]}])
def test_a_profiler_shows_our_names(wants, options):
    f = F.clone().requires_grad_(wants)
    forget_mult(f, X, **options)  # the next call of its kind would take the shortest way
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        h = forget_mult(f, X, **options)
        h = h[0] if "return_state" in options else h
        if wants:
            h.sum().backward()
        fastrecur.linear_recurrence_vjp(X, F, X, X)
    names = [event.key for event in profiler.key_averages()]
    assert ("fastrecur::forget_mult_backward" in names) == wants
    assert {"fastrecur::forget_mult", "fastrecur::linear_recurrence_backward"} <= set(names)


def gradient(function, *operands):
    operands = [v.detach().clone().requires_grad_() for v in operands]
    return torch.autograd.grad(function(*operands).square().sum(), operands)


# Torch's compiler looks at the gradients of what stands between two graphs, and warns of it itself.
LOOKS = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


NETWORKS = [QRNN(5, 4, layers=[QRNNLayer(5, 4, reverse=reverse)]) for reverse in (False, True)]
SECTION = torch.tensor([[0.2, 0.3, 0.1, 1.0, -0.5, 0.2]], dtype=torch.float64)
# One for each operator and each function of autograd's; ``turns`` is whether the scan or the axis is the other one.
FAMILIES = {
    "short": lambda f, x, turns: forget_mult(f, x, reverse=turns),
    "state": lambda f, x, turns: sum(forget_mult(f, x, return_state=True, reverse=turns)),
    "offsets": lambda f, x, turns: forget_mult(f, x, torch.zeros(2, 5), offsets=[0, 2, 5], reverse=turns),
    "QRNN": lambda f, x, turns: NETWORKS[turns]((f * x).unsqueeze(1))[0],
    "scan": lambda f, x, turns: selective_scan(x[None], f[None], f - 2, f[None], x[None], layout="bld", reverse=turns),
    "sosfilt": lambda f, x, turns: sosfilt(SECTION, f * x, axis=int(turns)),
    "allpole": lambda f, x, turns: allpole(torch.stack([-f, f / 2], -1), x, axis=int(turns)),
    "follow": lambda f, x, turns: follow(f * x, 0.5, 0.2, axis=int(turns)),
    "holt": lambda f, x, turns: holt(f * x, alpha=0.5, beta=0.2, axis=int(turns))[1],
    "ewm": lambda f, x, turns: ewm_var(f * x, alpha=0.5, axis=int(turns), bias=True),
}


@pytest.mark.sample(family=["short", "QRNN"], compiles_forward=[False])
@LOOKS
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("compiles_forward", [False, True])
def test_compiled_autograd(family, compiles_forward):
    """The backward pass is one graph, another one for other options."""
    torch._dynamo.reset()
    operands = torch.rand(2, 5, 5)
    for turns in (False, True):
        function = functools.partial(FAMILIES[family], turns=turns)
        call = torch.compile(function, fullgraph=True, backend="aot_eager") if compiles_forward else function
        f, x = (v.clone().requires_grad_() for v in operands)
        loss = call(f, x).square().sum()
        one_graph = torch._dynamo.compiled_autograd._enable(
            lambda graph: torch.compile(graph, fullgraph=True, backend="aot_eager")
        )
        with one_graph:
            loss.backward()
        torch.testing.assert_close((f.grad, x.grad), tuple(gradient(function, *operands)))
    torch._dynamo.reset()


@pytest.mark.parametrize("network", [QRNN(3, 4, 2, bidirectional=True), QRNNLayer(3, 4, window=3)])
def test_copies_of_a_network(network):
    x = torch.randn(5, 2, 3)
    expected = network(x)[0]
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(other(x)[0], expected)


def test_a_pruned_and_a_parametrized_weight():
    layer, x = QRNNLayer(3, 4), torch.randn(5, 2, 3)
    prune.random_unstructured(layer.linear, "weight", 0.5)
    expected, _ = layer(x)
    prune.remove(layer.linear, "weight")
    torch.testing.assert_close(layer(x)[0], expected)
    nn.utils.parametrizations.spectral_norm(layer.linear)
    layer(x)[0].sum().backward()
    assert layer.linear.parametrizations.weight.original.grad is not None


def test_a_script_is_refused():
    def smooth(x):
        return forget_mult(0.5, x)

    with pytest.raises(Exception, match="Compiled functions.*keyword-only"), pytest.warns(DeprecationWarning):
        torch.jit.script(smooth)


# ---- pandas ---------------------------------------------------------------------------------------------------------

TABLE = pd.DataFrame(
    {"x": [1.0, np.nan, 3.0, 4.0], "y": [2.0, 1.0, 0.0, 5.0]}, index=pd.Index(list("abcd"), name="row")
)


def test_labels_of_every_kind_are_kept():
    for table in (
        TABLE,
        TABLE.set_axis(pd.MultiIndex.from_product([[1, 2], ["u", "v"]]), axis=0),
        TABLE.set_axis(pd.date_range("2024-03-30", periods=4, tz="Europe/Berlin"), axis=0),
        TABLE.set_axis(["z", "z"], axis=1),
        TABLE.iloc[:0],
        TABLE[[]],
    ):
        pd.testing.assert_frame_equal(ewm_mean(table, alpha=0.5), table.ewm(alpha=0.5).mean())
    pd.testing.assert_series_equal(ewm_mean(TABLE["x"], alpha=0.5), TABLE["x"].ewm(alpha=0.5).mean())


def test_dtypes_of_pandas():
    whole = pd.DataFrame({"x": [1, 2, 3], "y": [True, False, True]})
    expected = whole.astype(float).ewm(alpha=0.5).mean()
    pd.testing.assert_frame_equal(ewm_mean(whole.astype(float), alpha=0.5), expected)
    for bad in (whole.assign(z="word"), pd.Series(["a", "b"]), pd.Series(["a", "b"], dtype="category")):
        with pytest.raises(TypeError, match=r"`x(\['z'\])?` must"):
            ewm_mean(bad, alpha=0.5)


def test_groups():
    series = pd.Series(np.arange(6.0))
    keys = [0, 1, 0, 1, 0, 1]
    ours = series.groupby(keys).transform(lambda v: ewm_mean(v, alpha=0.5))
    pd.testing.assert_series_equal(ours, series.groupby(keys).transform(lambda v: v.ewm(alpha=0.5).mean()))


# ---- Dask -----------------------------------------------------------------------------------------------------------


def chunked(chunks=(4, 2)):
    rng = np.random.default_rng(0)
    return da.from_array(rng.standard_normal((11, 3)), chunks)


def test_assert_eq():
    x = chunked()
    for lazy, right in (
        (forget_mult(0.5, x), forget_mult(0.5, x.compute())),
        (ewm_var(x, alpha=0.5), ewm_var(x.compute(), alpha=0.5)),
    ):
        da.assert_eq(lazy, right)
        assert lazy.chunks == x.chunks
        assert lazy.dtype == right.dtype


def test_nothing_is_computed_before_it_is_asked_for():
    def fail(block):
        raise AssertionError("computed")

    x = chunked().map_blocks(fail, dtype=float, meta=np.empty((0, 0)))
    forget_mult_vjp(x, x, x, forget_mult(x, x, x[0], return_state=True)[0])
    ewm_mean(x, alpha=0.5)


def test_names_are_of_what_is_computed():
    x = chunked()
    assert forget_mult(0.5, x).name == forget_mult(0.5, x).name
    others = [
        forget_mult(0.25, x),
        forget_mult(0.5, x, reverse=True),
        forget_mult(0.5, x, axis=1),
        linear_recurrence(0.5, x),
    ]
    assert len({h.name for h in [forget_mult(0.5, x), *others]}) == 5


def test_the_beginning_needs_nothing_of_the_end():
    h = forget_mult(0.5, chunked((2, 3)))
    (first,) = dask.optimize(h[:2])
    assert len(first.dask) < len(h.dask) / 2


def test_graphs_are_pickled():
    x = chunked()
    lazy = pickle.loads(pickle.dumps(forget_mult(0.5, x)))
    np.testing.assert_array_equal(lazy.compute(scheduler="sync"), forget_mult(0.5, x).compute(scheduler="sync"))


@pytest.mark.parametrize("chunks", [(11, 3), (1, 1), ((0, 11), (3, 0)), ((5, 0, 6), (1, 2))])
def test_any_chunks(chunks):
    x = chunked()
    np.testing.assert_allclose(
        forget_mult(0.5, x.rechunk(chunks)).compute(scheduler="sync"),
        forget_mult(0.5, x.compute()),
        rtol=1e-12,
        atol=1e-13,
    )


def test_persisted_and_stored():
    x = chunked()
    h, last = dask.persist(*forget_mult(0.5, x, return_state=True), scheduler="sync")
    np.testing.assert_array_equal(last.compute(), h[-1].compute())
