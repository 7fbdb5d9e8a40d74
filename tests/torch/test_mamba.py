"""The selective scan of tensors against `reference` and its own derivatives; transformers' models, patched and not."""

import sys
import types

import pytest
import torch
from torch.func import grad, vmap

from fastrecur import reference, selective_scan, selective_scan_vjp
from fastrecur._arguments.selective import Operands
from fastrecur.torch import mamba
from fastrecur.torch._operator import selective

BATCH, STEPS, CHANNELS, STATES = 2, 5, 4, 3
FORMS = {"steps": (), "groups": (2,), "constant": None}


def operands(form="steps", layout="bdl", dtype=torch.float64, rows=BATCH, batch=BATCH, full=True):
    """Return random operands, of all that there may be or of the first five, that want a gradient."""
    by_time = (batch, CHANNELS, STEPS) if layout == "bdl" else (batch, STEPS, CHANNELS)
    groups = FORMS[form]
    maps = (CHANNELS, STATES)
    if groups is not None:
        maps = (batch, *groups, STATES, STEPS) if layout == "bdl" else (batch, STEPS, *groups, STATES)
    shapes = [by_time, by_time, (CHANNELS, STATES), maps, maps]
    if full:
        shapes += [(CHANNELS,), by_time, (CHANNELS,), (rows, CHANNELS, STATES)]
    return [(0.5 * torch.randn(shape, dtype=dtype)).requires_grad_() for shape in shapes]


def check(given, rtol=1e-9, **options):
    """Check results and gradients against the definition."""
    y, state = selective_scan(*given, **options, return_state=True)
    grads = torch.randn_like(y), torch.randn_like(state)
    plain = [v.detach().double().numpy() for v in (*given, *grads)]
    given_plain, (grad_y, grad_state) = plain[:-2], plain[-2:]
    wanted = reference.selective_scan(*given_plain, **options, return_state=True)
    wanted += reference.selective_scan_vjp(grad_y, *given_plain, **options, grad_state=grad_state)[: len(given)]
    by_hand = selective_scan_vjp(grads[0], *given, **options, grad_state=grads[1])
    for gradients in (torch.autograd.grad((y, state), given, grads), by_hand[: len(given)]):
        for own, right in zip((y, state, *gradients), wanted, strict=True):
            torch.testing.assert_close(own.detach().double().numpy(), right, rtol=rtol, atol=rtol)
        assert [v.dtype for v in gradients] == [v.dtype for v in given]


OPTIONS = {
    "plain": {},
    "softplus": {"delta_softplus": True},
    "reverse": {"reverse": True, "delta_softplus": True},
    "lengths": {"lengths": [3, 0]},
    "resets": {"resets": [[False, False, True, False, False], [True, False, False, False, True]]},
}


@pytest.mark.sample(which=["softplus", "lengths"], layout=["bld"], form=["steps", "groups"])
@pytest.mark.parametrize("which", OPTIONS)
@pytest.mark.parametrize("layout", ["bdl", "bld"])
@pytest.mark.parametrize("form", FORMS)
def test_values_and_gradients(form, layout, which):
    check(operands(form, layout), layout=layout, **OPTIONS[which])


def test_segments_and_few_operands():
    check(operands(rows=3, batch=1), offsets=[0, 2, 2, 5], delta_softplus=True)
    check(operands(full=False))


@pytest.mark.exhaustive
def test_mixed_dtypes():
    halves, whole = [torch.bfloat16] * 2, [torch.float32] * 2
    dtypes = [*halves, *whole, torch.bfloat16, *whole, *whole]
    given = [v.detach().to(dtype).requires_grad_() for v, dtype in zip(operands(), dtypes, strict=True)]
    y, state = selective_scan(*given, return_state=True)
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    check(given, rtol=0.03)


def call(*given, **options):
    return selective_scan(*given, delta_softplus=True, return_state=True, **options)


def total(*given, **options):
    y, state = call(*given, **options)
    return y.square().sum() + state.square().sum()


def test_derivatives_of_every_order():
    given = [v.detach().clone().requires_grad_() for v in operands("groups")]
    given = [v[:1] if v.dim() > 2 else v for v in given]
    given = [v.detach().requires_grad_() for v in given]
    assert torch.autograd.gradcheck(call, given, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, given, fast_mode=True)
    third = torch.func.hessian(lambda u: grad(total, 1)(u, *given[1:]).square().sum())(given[0])
    again = torch.func.jacrev(torch.func.jacrev(lambda u: grad(total, 1)(u, *given[1:]).square().sum()))(given[0])
    torch.testing.assert_close(third, again)


@pytest.mark.parametrize("name", Operands._fields)
def test_a_gradient_alone(name):
    given, at = [v.detach() for v in operands()], Operands._fields.index(name)
    whole = grad(total, tuple(range(9)))(*given)
    given[at].requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(total(*given), given[at])[0], whole[at])


SHARED = 0, 0, None, 0, 0, None, 0, None, None  # the axes of samples: parameters have none


@pytest.mark.sample(layout=["bdl"], form=["steps", "groups"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", ["bdl", "bld"])
@pytest.mark.parametrize("dims", [SHARED, (-1,) * 9], ids=["activations", "all"])
def test_samples_of_vmap(form, layout, dims):
    dims = tuple(None if name in ("B", "C") and form == "constant" and dims is SHARED else dim
                 for name, dim in zip(Operands._fields, dims, strict=True))  # fmt: skip
    samples = [operands(form, layout) for _ in range(3)]
    given = [
        samples[0][k].detach() if dim is None else torch.stack([v[k].detach() for v in samples], dim)
        for k, dim in enumerate(dims)
    ]
    lengths = torch.tensor([5, 3])
    for f in (call, grad(total, tuple(range(9)))):
        rows = vmap(lambda *v, f=f: f(*v, layout=layout, lengths=lengths), dims)(*given)
        for k in range(3):
            own = [v if dim is None else v.select(dim, k) for v, dim in zip(given, dims, strict=True)]
            torch.testing.assert_close(tuple(v[k] for v in rows), tuple(f(*own, layout=layout, lengths=lengths)))


@pytest.mark.sample(layout=["bld"])
@pytest.mark.parametrize("layout", ["bdl", "bld"])
@pytest.mark.parametrize("keeps_axis", [False, True])
@pytest.mark.parametrize("name", ["B", "C"])
def test_maps_of_one_group_beside_several(layout, keeps_axis, name):
    """In gradients, and as samples of vmap, of which each has as many groups as the other map's."""
    dim, options = 1 if layout == "bdl" else 2, {"layout": layout}
    samples = [operands("groups", layout) for _ in range(2)]
    for k, given in enumerate(samples):
        one = getattr(Operands(*given), name).detach()
        one = (one.narrow(dim, 0, 1) if keeps_axis else one.select(dim, 0)).clone().requires_grad_()
        samples[k] = Operands(*given)._replace(**{name: one})
    check(samples[0], delta_softplus=True, **options)
    given = [torch.stack([v.detach() for v in both]) for both in zip(*samples, strict=True)]
    for f in (call, grad(total, tuple(range(9)))):
        rows = vmap(lambda *v, f=f: f(*v, **options))(*given)
        for k, sample in enumerate(samples):
            own = [v.detach() for v in sample]
            torch.testing.assert_close(tuple(v[k] for v in rows), tuple(f(*own, **options)))


def test_vmap_over_lengths_is_refused():
    given = [v.detach() for v in operands()]
    with pytest.raises(NotImplementedError, match="`lengths`"):
        vmap(lambda lengths: call(*given, lengths=lengths))(torch.tensor([[5, 3], [1, 2]]))


def test_opcheck():
    given, ends = operands("groups"), (None, None, torch.zeros(BATCH, STEPS, dtype=torch.bool))
    rest = *ends, True, "bdl", False
    torch.library.opcheck(selective.SCAN, (*given, *rest, False))
    plain, cotangents = [v.detach() for v in given], (torch.randn_like(given[0]), given[-1].detach())
    wanted = [True] * 6 + [False] * 3
    torch.library.opcheck(selective.VJP, (*cotangents, *plain, *rest, None, wanted))
    rest = None, None, None, *rest[3:]
    torch.library.opcheck(selective.SCAN, (*given, *rest, True))
    kept = selective.SCAN(*plain, *rest, True)[2]
    assert kept.numel()
    with_them, without, with_others = (
        selective.VJP(*cotangents, *plain, *rest, v, wanted) for v in (kept, None, kept[1:])
    )
    for grads in zip(with_them, without, with_others, strict=True):
        assert torch.equal(grads[0], grads[1])
        assert torch.equal(grads[0], grads[2])


@pytest.mark.exhaustive
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_in_one_graph(backend):
    torch._dynamo.reset()
    for lengths in (None, torch.tensor([5, 2])):
        compiled = torch.compile(
            lambda *v, lengths=lengths: total(*v, lengths=lengths), fullgraph=True, backend=backend
        )
        given = operands(dtype=torch.float32)
        actual, expected = compiled(*given), total(*given, lengths=lengths)
        torch.testing.assert_close(actual, expected)
        torch.testing.assert_close(torch.autograd.grad(actual, given), torch.autograd.grad(expected, given))
    torch._dynamo.reset()


@pytest.mark.exhaustive
def test_exported_with_any_length():
    class Model(torch.nn.Module):
        def forward(self, u, delta, A, B, C):
            return selective_scan(u, delta, A, B, C, layout="bld", return_state=True)

    given = [v.detach() for v in operands(layout="bld", full=False)]
    steps = {1: torch.export.Dim("steps", min=2, max=1000)}
    program = torch.export.export(Model(), tuple(given), dynamic_shapes=(steps, steps, None, steps, steps))
    longer = [v.repeat(1, 3, 1) if v.dim() == 3 else v for v in given]
    torch.testing.assert_close(program.module()(*longer), Model()(*longer))


def test_autocast_and_checkpoint():
    given = operands(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = selective_scan((given[0] @ torch.eye(STEPS)), *given[1:])
    assert y.dtype == torch.bfloat16
    again = torch.utils.checkpoint.checkpoint(total, *given, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(again, given), torch.autograd.grad(total(*given), given))


def test_no_kernel_and_no_values():
    composite = selective.SCAN(*[v.to("meta") for v in operands()], None, None, None, True, "bdl", False, True)
    assert [v.shape for v in composite] == [(BATCH, CHANNELS, STEPS), (BATCH, CHANNELS, STATES), (0,)]


def test_out_and_mode():
    given, out = [v.detach() for v in operands()], torch.empty(BATCH, CHANNELS, STEPS, dtype=torch.float64)
    assert selective_scan(*given, out=out) is out
    torch.testing.assert_close(out, selective_scan(*given))
    with pytest.raises(RuntimeError, match="`out`"):
        selective_scan(*operands(), out=out)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"u": None}, TypeError, "`u` must be a tensor"),
        ({"D": 1.0}, TypeError, "`D` must be a tensor"),
        ({"B": torch.ones(2, 3, 5).numpy()}, TypeError, "one library"),
        ({"A": torch.ones(4, 3, dtype=torch.complex64)}, ValueError, "`A` must be real"),
        ({"z": torch.ones(2, 4, 5, dtype=torch.int64)}, TypeError, "`z` must hold float16"),
        ({"h0": torch.ones(1, 4, 3)}, ValueError, "`h0` must have the shape"),
        ({"C": torch.ones(2, 3, 3, 5)}, ValueError, "`C` must have a number of groups"),
        ({"D": torch.ones(4, device="meta")}, ValueError, "`D` on meta"),
        ({"offsets": [0, 5]}, ValueError, "batch of 1"),
        ({"lengths": 5}, ValueError, "`lengths` must have the shape"),
        ({"resets": torch.zeros(5, dtype=torch.bool)}, ValueError, "`resets` must have the shape"),
        ({"layout": "ldb"}, ValueError, "`layout`"),
    ],
)
def test_errors(change, error, message):
    given = dict(zip(Operands._fields, operands(dtype=torch.float32), strict=True))
    with pytest.raises(error, match=message):
        selective_scan(**given | change)


@pytest.mark.parametrize("few", [0, mamba.FEW])
def test_mamba_ssm_s_functions(few, monkeypatch):
    monkeypatch.setattr(mamba, "FEW", few)
    u, delta, A, B, C, D, z, bias, _ = (v.detach() for v in operands())
    y, last = mamba.selective_scan_fn(u, delta, A, B, C, D, z, bias, True, True)
    state = torch.zeros_like(last)
    steps = []
    for t in range(STEPS):
        now = [v[..., t] for v in (u, delta, B, C, z)]
        steps.append(mamba.selective_state_update(state, *now[:2], A, *now[2:4], D, now[4], bias, True))
    torch.testing.assert_close((torch.stack(steps, -1), state), (y, last))
    with pytest.raises(ValueError, match="`state` must have the shape"):
        mamba.selective_state_update(state[:, None], u[..., 0], delta[..., 0], A, B[..., 0], C[..., 0])
    states, now = [torch.ones_like(state, dtype=dtype) for dtype in (torch.float64, torch.float32)], (u, delta, A, B, C)
    for own in states:  # states and A may be wider than what a step brings
        mamba.selective_state_update(own, *(v if v is A else v[..., 0].float() for v in now))
    torch.testing.assert_close(states[0].float(), states[1])


def models():
    """Return small models of each family, with random weights, by the names of their configurations."""
    common = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2}
    attention = common | {"intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}
    attention |= {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1}
    return {
        "Mamba": common | {"state_size": 4},
        "FalconMamba": common | {"state_size": 4},
        "Jamba": attention | {"num_experts": 2, "mamba_d_state": 4, "mamba_dt_rank": 2},
        "Zamba": attention | {"num_hidden_layers": 6, "mamba_d_state": 4, "mamba_dt_rank": 2, "n_mamba_heads": 2},
    }


@pytest.mark.sample(family=["Mamba", "Jamba"], dtype=[torch.float32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", models())
def test_transformers(family, dtype):
    transformers = pytest.importorskip("transformers", reason="transformers is missing: pip install transformers")
    config = getattr(transformers, f"{family}Config")(**models()[family])
    model = getattr(transformers, f"{family}ForCausalLM")(config).to(dtype)
    tokens = torch.randint(0, 50, (2, 11))

    def run():
        model.zero_grad()
        result = model.train()(tokens, labels=tokens)
        result.loss.backward()
        made = model.eval().generate(tokens[:, :5], max_new_tokens=6, do_sample=False)
        return result.logits.detach(), [v.grad for v in model.parameters() if v.grad is not None], made

    *plain, generated = run()
    with mamba.patch_transformers() as patched:
        assert isinstance(patched, mamba.Patched)
        assert "mamba.mamba_selective_scan" in repr(patched)
        assert mamba.patch_transformers().names == ()
        *ours, again = run()
    once_more = mamba.patch_transformers()
    once_more.undo()
    assert once_more.names == patched.names
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(ours, plain, rtol=tolerance, atol=tolerance)
    assert torch.equal(again, generated) or dtype != torch.float32


def test_transformers_that_are_absent_or_have_moved(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match="pip install transformers"):
        mamba.patch_transformers()
    monkeypatch.setitem(sys.modules, "transformers", types.SimpleNamespace(__version__="9.0"))
    module = types.SimpleNamespace(mamba_selective_scan=lambda x, y: None)
    monkeypatch.setitem(sys.modules, "transformers.models.mamba.modeling_mamba", module)
    with pytest.raises(ImportError, match="9.0 has no .*mamba_selective_scan"):
        mamba.patch_transformers()
