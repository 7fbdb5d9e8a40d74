"""The pooling kernels against the same composed of torch's operators, and their activations against exact ones."""

import functools
import itertools

import numpy as np
import pytest
import torch

from fastrecur import forget_mult
from fastrecur.torch._rnn import ops, pool, pooling, products
from fastrecur.torch._rnn.segments import Cut

ULP = 2  # what the activations promise
POISON = 7.5
DTYPES = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 3e-2, torch.float16: 3e-3}
# Lanes: less than a vector, vectors and a rest, and one vector alone.
WIDTHS = [1, 37, 16]

by_operators = functools.partial(pooling.pool, recurrence=forget_mult)


def problem(dtype, width, gated, keep, first, steps=7, batch=3, packed_rows=None):
    rows = (steps, batch) if packed_rows is None else (packed_rows,)
    product = (2 * torch.randn(*rows, (2 + gated) * width)).to(dtype)
    c0 = torch.randn(batch, width).to(dtype) if first else None
    if keep == "mask":
        keep = torch.randint(2, (*rows, width)).to(dtype)
    return product, c0, keep


def wide(value):
    return value.double() if isinstance(value, torch.Tensor) else value


def gradients(function, product, c0, keep, grad_h, grad_last, **options):
    leaves = [v.clone().requires_grad_() for v in (product, c0) if v is not None]
    h, last = function(leaves[0], c0=leaves[1] if c0 is not None else None, keep=keep, **options)
    return [h, last, *torch.autograd.grad((h, last), leaves, (grad_h, grad_last))]


def assert_alike(fused, composed, dtype):
    for one, other in zip(fused, composed, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one.double(), other, rtol=10 * DTYPES[dtype], atol=DTYPES[dtype])


@pytest.mark.sample(dtype=[torch.float32, torch.float64])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_padded_rows_and_their_gradients(dtype, width):
    for gated, reverse, keep in itertools.product((True, False), (False, True), (None, 0.7, "mask")):
        product, c0, keep = problem(dtype, width, gated, keep, first=keep != 0.7)
        options = {"output_gate": gated, "reverse": reverse}
        cotangents = torch.randn(7, 3, width).to(dtype), torch.randn(3, width).to(dtype)
        fused = gradients(pooling.pool, product, c0, keep, *cotangents, **options)
        assert type(fused[0].grad_fn).__name__ == "PoolBackward"
        composed = gradients(by_operators, *map(wide, (product, c0, keep, *cotangents)), **options)
        assert_alike(fused, composed, dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_packed_rows_and_their_gradients(dtype):
    batch_sizes = torch.tensor([3, 3, 2, 1, 1])
    for gated, reverse, keep in itertools.product((True, False), (False, True), (None, 0.7, "mask")):
        product, c0, keep = problem(dtype, 37, gated, keep, first=keep != 0.7, packed_rows=10)
        options = {"output_gate": gated, "reverse": reverse, "batch_sizes": batch_sizes}
        cotangents = torch.randn(10, 37).to(dtype), torch.randn(3, 37).to(dtype)
        fused = gradients(pooling.pool, product, c0, keep, *cotangents, **options)
        composed = gradients(by_operators, *map(wide, (product, c0, keep, *cotangents)), **options)
        assert_alike(fused, composed, dtype)


def cuts(steps, batch):
    """Return borders in each form: segments of no, one and more steps; flags at ends of series and side by side."""
    offsets = torch.tensor([0, 0, 3, 4, 4, steps])
    flags = torch.rand(steps, batch) < 0.3
    flags[0, 0] = flags[steps - 1, -1] = flags[2:4, 0] = True
    return {
        "offsets": Cut(offsets, None), "both": Cut(offsets.int(), flags[:, :1]),
        "resets": Cut(None, flags), "one flag for all": Cut(None, flags[:, :1].expand(steps, batch)),
    }  # fmt: skip


def cut_problem(cut, dtype, width, gated, keep, first, steps=11, batch=3):
    """Return a problem whose series are those of a cut, and cotangents."""
    series = batch if cut.offsets is None else len(cut.offsets) - 1
    lanes = batch if cut.offsets is None else 1
    product, _, keep = problem(dtype, width, gated, keep, False, steps, lanes)
    c0 = torch.randn(series, width).to(dtype) if first else None
    return product, c0, keep, torch.randn(steps, lanes, width).to(dtype), torch.randn(series, width).to(dtype)


@pytest.mark.sample(kind=["offsets", "resets", "one flag for all"])
@pytest.mark.parametrize("kind", ["offsets", "both", "resets", "one flag for all"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_cut_rows_and_their_gradients(dtype, kind):
    for gated, reverse, keep in itertools.product((True, False), (False, True), (None, 0.7, "mask")):
        cut = cuts(11, 3)[kind]
        values = cut_problem(cut, dtype, 37, gated, keep, first=keep != 0.7)
        options = {"output_gate": gated, "reverse": reverse, "cut": cut}
        fused = gradients(pooling.pool, *values, **options)
        assert type(fused[0].grad_fn).__name__ == "PoolBackward"
        composed = gradients(by_operators, *map(wide, values), **options)
        assert_alike(fused, composed, dtype)


@pytest.mark.parametrize("kind", ["offsets", "resets"])
def test_threads_share_the_channels_of_cut_rows(set_torch_threads, kind):
    """A product large enough for several threads: the same bits as on one."""
    cut, results = cuts(300, 2)[kind], []
    values = cut_problem(cut, torch.float32, 200, True, None, True, 300, 2)
    for threads in (1, 2):
        set_torch_threads(threads)
        results.append(gradients(pooling.pool, *values, cut=cut))
    assert all(torch.equal(one, same) for one, same in zip(*results, strict=True))


def check_nan_at_a_border(run, kind, reverse):
    """Next to the border, in what is scanned first: values do not pass it, nor do cotangents on their way back."""
    cut = Cut(torch.tensor([0, 5, 11]), None) if kind == "offsets" else Cut(None, torch.arange(11)[:, None] == 5)
    product, c0, keep, grad_h, grad_last = cut_problem(cut, torch.float32, 37, True, None, True, 11, 1)
    options = {"reverse": reverse, "cut": cut}
    beyond, before = (slice(0, 5), slice(5, 11)) if reverse else (slice(5, 11), slice(0, 5))
    series = int(kind == "offsets" and not reverse)
    results = []
    for poison in (0.5, torch.nan, torch.inf):
        poisoned, cotangent = product.clone(), grad_h.clone()
        poisoned[5 if reverse else 4] = cotangent[4 if reverse else 5] = poison
        h, last, grad, _ = run(pooling.pool, poisoned, c0, keep, grad_h, grad_last, **options)
        back = run(pooling.pool, product, c0, keep, cotangent, grad_last, **options)[2]
        results.append((h[beyond], last[series], grad[beyond], back[before]))
    for others in results[1:]:
        assert all(torch.equal(one, same) for one, same in zip(results[0], others, strict=True))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", ["offsets", "resets"])
def test_nan_at_a_border_changes_no_bit_beyond_it(kind, reverse):
    check_nan_at_a_border(gradients, kind, reverse)


def test_borders_that_were_changed_in_place_are_noticed():
    for kind in ("offsets", "resets"):
        cut = cuts(11, 3)[kind]
        product, c0, _, _, _ = cut_problem(cut, torch.float32, 5, True, None, True)
        h, _ = pooling.pool(product.requires_grad_(), c0, cut=cut)
        cut[kind == "resets"].zero_()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            h.sum().backward()


def test_offsets_are_checked_before_anything_is_written():
    cut = Cut(torch.tensor([0, 7, 5, 11]), None)
    with pytest.raises(ValueError, match="`offsets`"):
        pooling.pool(torch.randn(11, 1, 15), cut=cut)


needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")


@pytest.mark.parametrize("by_onednn", [False, pytest.param(True, marks=needs_onednn)])
@pytest.mark.parametrize("packed", [False, True])
def test_blocks_of_time_give_the_whole(packed, by_onednn, monkeypatch):
    monkeypatch.setattr(pool, "BLOCK", 5)
    monkeypatch.setattr(pool, "padded", pool.padded.__wrapped__)
    monkeypatch.setattr(products, "FEW_ROWS", 1)
    monkeypatch.setattr(products, "prefers_onednn", lambda: by_onednn)
    pooled, forward = [], pool.forward
    monkeypatch.setattr(pool, "forward", lambda *arguments: pooled.append(arguments) or forward(*arguments))
    batch_sizes = torch.tensor([3, 3, 2, 1, 1]) if packed else None
    source = torch.randn(10, 11) if packed else torch.randn(7, 3, 11)
    for gated, reverse, keep, has_bias in itertools.product((True, False), (False, True), (None, 0.7), (True, False)):
        weight, c0 = torch.randn(11, (2 + gated) * 20).t(), torch.randn(3, 20)
        bias = torch.randn(len(weight)) if has_bias else None
        options = {"output_gate": gated, "reverse": reverse, "keep": keep}
        pooled.clear()
        blocks = pooling.layer_inference(source, weight, bias, c0, batch_sizes=batch_sizes, **options)
        assert len(pooled) == (3 if packed else 7)
        product = torch.nn.functional.linear(*(None if v is None else v.double() for v in (source, weight, bias)))
        whole = by_operators(product, c0.double(), batch_sizes=batch_sizes, **options)
        assert_alike(blocks, whole, torch.float32)


@needs_onednn
@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # from `flags` itself
def test_products_are_by_onednn_where_that_is_quicker(monkeypatch):
    weight, rows = torch.randn(30, 20), torch.randn(100, 20)
    taken = []
    monkeypatch.setattr(torch, "mm", lambda *args, mm=torch.mm, **kwargs: taken.append(args) or mm(*args, **kwargs))

    def by_onednn(weight, rows=rows):
        taken.clear()
        product = products.product_with(weight, len(rows), len(rows))(rows)
        torch.testing.assert_close(product, rows @ weight.t())
        assert product.layout == torch.strided and product.is_contiguous()
        return not taken

    for quicker in (True, False):
        monkeypatch.setattr(products, "prefers_onednn", lambda quicker=quicker: quicker)
        assert by_onednn(weight) is quicker
    monkeypatch.setattr(products, "prefers_onednn", lambda: True)
    assert by_onednn(torch.randn(20, 30).t())
    assert by_onednn(weight, torch.randn(100, 40)[:, ::2])
    with torch.no_grad():
        assert by_onednn(torch.nn.Parameter(weight))
    assert not by_onednn(weight, rows[:63])
    assert not by_onednn(weight.double(), rows.double())
    with torch.backends.mkldnn.flags(enabled=False):
        assert not by_onednn(weight)


@pytest.mark.parametrize(
    ("processor", "capability", "expected"),
    [("znver5", "AVX512", True), ("znver6", "AVX512", True), ("znver5", "AVX2", False), ("znver4", "AVX512", False),
     ("sapphirerapids", "AVX512", False), ("generic", "DEFAULT", False), ("apple-m1", "DEFAULT", False)],
)  # fmt: skip
def test_which_processors_prefer_onednn(processor, capability, expected, monkeypatch):
    monkeypatch.setattr(products.binding, "get_host_cpu_name", lambda: processor)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    for library in (torch.backends.mkl, torch.backends.mkldnn):
        monkeypatch.setattr(library, "is_available", lambda: True)
    assert products.prefers_onednn.__wrapped__() is expected


@pytest.mark.sample(kind=["offsets", "resets"])
@pytest.mark.parametrize("kind", ["offsets", "both", "resets"])
def test_blocks_of_time_give_the_whole_of_cut_rows(kind, monkeypatch):
    monkeypatch.setattr(pool, "BLOCK", 5)
    for gated, reverse in itertools.product((True, False), (False, True)):
        cut = cuts(11, 3)[kind]
        lanes = 3 if cut.offsets is None else 1
        weight, bias, source = (
            torch.randn((2 + gated) * 20, 13),
            torch.randn((2 + gated) * 20),
            torch.randn(11, lanes, 13),
        )
        c0, options = torch.randn(3 if lanes == 3 else 5, 20), {"output_gate": gated, "reverse": reverse, "cut": cut}
        blocks = pooling.layer_inference(source, weight, bias, c0, **options)
        product = torch.nn.functional.linear(*map(wide, (source, weight, bias)))
        assert_alike(blocks, by_operators(product, c0.double(), **options), torch.float32)


@pytest.mark.parametrize(("name", "shape"), [("c0", (3, 6)), ("mask", (3, 2, 5)), ("c0", (2,))])
def test_an_operator_s_tensors_have_the_shapes_that_kernels_read(name, shape):
    given = {"c0": None, "mask": None} | {name: torch.zeros(shape)}
    with pytest.raises(ValueError, match=f"`{name}` must have the shape .* got .*{shape[-1]},?"):
        torch.ops.fastrecur.qrnn_pool(
            torch.zeros(4, 2, 18), given["c0"], given["mask"], 1.0, None, None, None, 2, True, False
        )


def test_gradients_of_gradients():
    product, c0, keep = problem(torch.float64, 3, True, "mask", first=True, steps=4, batch=2)
    product.requires_grad_()
    c0.requires_grad_()
    for reverse in (False, True):
        call = functools.partial(pooling.pool, keep=keep, reverse=reverse)
        assert torch.autograd.gradgradcheck(lambda p, c, call=call: call(p, c), (product, c0), fast_mode=True)
    rows = product.detach().flatten(0, 1)[:5].clone().requires_grad_()
    packed = lambda p, c: pooling.pool(p, c, batch_sizes=torch.tensor([2, 1, 1, 1]))  # noqa: E731
    assert torch.autograd.gradgradcheck(packed, (rows, c0), fast_mode=True)


@pytest.mark.exhaustive
def test_gradients_of_gradients_of_cut_rows():
    for cut in cuts(5, 2).values():
        values = cut_problem(cut, torch.float64, 2, True, None, True, 5, 2)[:2]
        leaves = [v.requires_grad_() for v in values]
        assert torch.autograd.gradgradcheck(lambda p, c, cut=cut: pooling.pool(p, c, cut=cut), leaves, fast_mode=True)


@pytest.mark.parametrize("wanted", ["product", "c0"])
@pytest.mark.parametrize("through", ["h", "last"])
def test_one_gradient_through_one_result(wanted, through):
    product, c0, _ = problem(torch.float64, 5, True, None, first=True)
    leaf = (product if wanted == "product" else c0).requires_grad_()
    grads = []
    for function in (pooling.pool, by_operators):
        h, last = function(product, c0)
        grads += torch.autograd.grad((h if through == "h" else last).sum(), leaf)
    torch.testing.assert_close(*grads)


def test_product_and_cotangent_in_any_layout():
    product, c0, _ = problem(torch.float32, 16, True, None, first=True)
    expected = gradients(by_operators, product, c0, None, torch.ones(7, 3, 16), torch.ones(3, 16))
    batch_first = product.transpose(0, 1).contiguous().transpose(0, 1)
    wider = torch.full((7, 3, 60), POISON)
    wider[..., 5:53] = product
    for layout in (batch_first, wider[..., 5:53]):
        h, last = pooling.pool(leaf := layout.detach().requires_grad_(), c0)
        grad = torch.autograd.grad((h.sum() + last.sum()), leaf)[0]  # a cotangent that is one number, expanded
        torch.testing.assert_close((h, last, grad), tuple(expected[:3]), rtol=1e-5, atol=1e-6)
    assert (wider[..., :5] == POISON).all() and (wider[..., 53:] == POISON).all()


def test_threads_change_no_bit(set_torch_threads):
    product, c0, _ = problem(torch.float32, 200, True, None, first=True, steps=50, batch=5)
    cotangents = torch.randn(50, 5, 200), torch.randn(5, 200)
    results = []
    for threads in (1, 2, 3):
        set_torch_threads(threads)
        results.append(gradients(pooling.pool, product, c0, None, *cotangents))
    for other in results[1:]:
        assert all(torch.equal(one, same) for one, same in zip(results[0], other, strict=True))


def test_what_was_changed_in_place_is_noticed():
    product, c0, _ = problem(torch.float32, 5, True, None, first=True)
    product.requires_grad_()
    h, _ = pooling.pool(scaled := product * 2, c0)
    scaled.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        h.sum().backward()


def test_a_nan_stays_in_its_lane():
    product, c0, _ = problem(torch.float32, 20, True, None, first=True)
    product[3, 1, 4] = np.nan
    h, last = pooling.pool(product, c0)
    assert torch.isnan(h[3:, 1, 4]).all() and torch.isnan(last[1, 4])
    assert torch.isnan(h).sum() == 4 and torch.isnan(last).sum() == 1


def errors(values, exact):
    spacing = np.maximum(np.spacing(np.abs(exact.astype(values.dtype))), np.finfo(values.dtype).smallest_normal)
    return np.abs(values - exact) / spacing


def arguments(dtype):
    limit = 88 if dtype == np.float32 else 708
    random = np.random.default_rng(0)
    magnitudes = np.concatenate(
        [np.geomspace(1e-30, 1, 40_000), np.linspace(0, 20, 400_000), np.linspace(0, limit, 50_000)]
    )
    magnitudes *= 1 + 1e-3 * random.random(len(magnitudes))
    return np.concatenate([magnitudes, -magnitudes])[: 16 * (2 * len(magnitudes) // 16)].astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_activations_are_exact_to_two_units_in_the_last_place(dtype):
    x = arguments(dtype)
    row, wide_x = torch.from_numpy(x), x.astype(np.longdouble)
    shut, one = torch.full_like(row, -torch.inf), torch.ones(1, len(x), dtype=row.dtype)
    # A state of one that nothing changes comes out of the output gate; an open gate lets the candidate in.
    h, _ = pooling.pool(torch.cat([shut, shut, row]).expand(1, 1, -1), one)
    assert errors(h.numpy().ravel(), 1 / (1 + np.exp(-wide_x))).max() <= ULP
    h, _ = pooling.pool(torch.cat([row, -shut]).expand(1, 1, -1), output_gate=False)
    assert errors(h.numpy().ravel(), np.tanh(wide_x)).max() <= ULP


def test_the_activations_at_their_ends():
    ends = [torch.inf, -torch.inf, 1e30, -1e30, 0.0]
    x = torch.tensor(ends).repeat_interleave(20)  # vectors, and lanes beside them
    shut = torch.full_like(x, -torch.inf)
    h, _ = pooling.pool(torch.cat([shut, shut, x]).view(1, 1, -1), torch.ones(1, 100))
    assert h.ravel().tolist() == torch.tensor([1, 0, 1, 0, 0.5]).repeat_interleave(20).tolist()
    h, _ = pooling.pool(torch.cat([x, -shut]).view(1, 1, -1), output_gate=False)
    assert h.ravel().tolist() == torch.tensor([1.0, -1, 1, -1, 0]).repeat_interleave(20).tolist()


def test_layouts_know_where_rows_stand():
    layout = pool.Layout(2, False, [2, 2, 1], True)
    assert layout.starts.tolist() == [0, 2, 4]
    part = layout.part(1, 3)
    assert (part.steps, part.starts.tolist(), part.counts.tolist()) == (2, [0, 2], [2, 1])


def operands(kind, dtype=torch.float64, steps=5, width=2):
    """Return a product, first states and an operator's options, of each kind of rows."""
    cut, sizes, lanes = None, None, (steps, 2)
    if kind == "packed":
        sizes, lanes = torch.tensor([2, 1, 1]), (4,)
    elif kind in ("offsets", "both"):
        cut, lanes = cuts(steps, 1)[kind], (steps, 1)
    elif kind == "resets":
        cut = cuts(steps, 2)[kind]
    product = torch.randn(*lanes, 3 * width, dtype=dtype)
    options = ops.options_of(product, sizes, cut, True, torch.rand(*lanes, width, dtype=dtype), kind == "resets")
    return product, torch.randn(options[-3], width, dtype=dtype), *options


@pytest.mark.sample(kind=["plain"])
@pytest.mark.parametrize("kind", ["plain", "packed", "both"])
def test_operators_are_what_they_claim(kind):
    product, c0, *options = operands(kind)
    leaves = [v.requires_grad_() for v in (product, c0)]
    opcheck = torch.library.opcheck
    opcheck(ops.FORWARD, (*leaves, *options))
    h, last, states = (v.detach().requires_grad_() for v in ops.FORWARD(*leaves, *options))
    opcheck(ops.VJP, (h, last, product, states, c0, *options))
    assert torch.autograd.gradgradcheck(lambda *v: ops.FORWARD(*v, *options)[:2], leaves, fast_mode=True)
    tangents = [torch.randn_like(v) for v in leaves]
    for function in (ops.FORWARD, ops.composed):
        tangents.append(torch.func.jvp(lambda *v, f=function: f(*v, *options)[:2], tuple(leaves), tuple(tangents[:2])))
    torch.testing.assert_close(*tangents[2:])


@pytest.mark.exhaustive
def test_a_layer_as_an_operator():
    tensors = [torch.randn(*shape, dtype=torch.float64) for shape in ((5, 2, 4), (12, 4), (12,), (2, 4))]
    options = ops.options_of(tensors[0], None, None, True, 0.7, False)
    leaves = [v.requires_grad_() for v in tensors]
    torch.library.opcheck(ops.LAYER, (*leaves, *options))
    torch.library.opcheck(ops.FORWARD, (*leaves[:1], None, *options[:-2], False, True))  # states are h
    assert torch.autograd.gradgradcheck(lambda *v: ops.LAYER(*v, *options), leaves, fast_mode=True)
    for dims in itertools.product((None, 1), repeat=2):
        dims = (*dims, 0, None)
        given = [v if dim is None else torch.stack([v, -v], dim) for v, dim in zip(tensors, dims, strict=True)]
        actual = torch.vmap(lambda *v: ops.LAYER(*v, *options), dims)(*given)
        each = [[v if d is None else v.select(d, k) for v, d in zip(given, dims, strict=True)] for k in range(2)]
        torch.testing.assert_close(actual[0], torch.stack([ops.LAYER(*v, *options)[0] for v in each]))


@pytest.mark.sample(kind=["packed", "both"])
@pytest.mark.parametrize("kind", ["plain", "packed", "offsets", "both", "resets"])
def test_gradients_of_each_sample(kind):
    """Of a batch that stands anywhere, beside operands without one."""
    product, c0, *options = operands(kind)
    products, firsts = torch.stack([product, -product, 2 * product], 1), torch.stack([c0, 3 * c0, c0], -1)
    gradient = torch.func.grad(lambda p, c: ops.FORWARD(p, c, *options)[0].square().sum(), (0, 1))
    for dims, each in (((1, -1), zip(products.unbind(1), firsts.unbind(-1), strict=True)),
                       ((1, None), [(p, c0) for p in products.unbind(1)])):  # fmt: skip
        actual = torch.vmap(gradient, dims)(products, firsts if dims[1] else c0)
        torch.testing.assert_close(actual, tuple(map(torch.stack, zip(*(gradient(*v) for v in each), strict=True))))
