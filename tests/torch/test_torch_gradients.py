"""Gradients: of every operand, of any order, saved and freed as torch's own."""

import itertools
import weakref

import oracle
import pytest
import torch
from oracle import double, same
from torch.autograd import gradcheck, gradgradcheck

import fastrecur
from fastrecur import forget_mult, forget_mult_vjp, linear_recurrence, linear_recurrence_vjp

RECURRENCES = ["forget_mult", "linear_recurrence"]
BOTH = pytest.mark.parametrize("name", RECURRENCES)
REVERSE = pytest.mark.parametrize("reverse", [False, True])


@BOTH
@REVERSE
@pytest.mark.parametrize("lengths", [None, torch.tensor([2, 0])])
@pytest.mark.parametrize(("axis", "shape"), [(0, (4, 2, 3)), (1, (2, 4, 3)), (2, (2, 3, 4))])
def test_first_and_second_order(name, axis, shape, lengths, reverse):
    def function(a, b, h0):
        return getattr(fastrecur, name)(a, b, h0, axis=axis, reverse=reverse, lengths=lengths, return_state=True)

    operands = double(*shape), double(*shape), double(2, 3)
    same(lambda f: f(*operands, axis=axis, reverse=reverse, lengths=lengths), *ours_and_loop(name))
    assert gradcheck(function, operands, fast_mode=True, check_forward_ad=True)
    assert gradgradcheck(function, operands, fast_mode=True)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("forget_mult", torch.float32), ("forget_mult", torch.bfloat16), ("linear_recurrence", torch.float64)],
)
@pytest.mark.parametrize("gate", [0.25, (), (1,), (4,), (5, 4), (6, 1, 1), (6, 5, 1), (6, 5, 4)])
@pytest.mark.parametrize("value", [(6, 5, 4), (5, 4), (1,)])
def test_short_problems_after_the_first(name, dtype, gate, value):
    """How they are run is remembered by their operands' forms; the next are of other numbers."""
    shape = torch.broadcast_shapes(*(v for v in (gate, value) if isinstance(v, tuple)))
    for axis, wants in itertools.product(range(len(shape)), [(True, True), (True, False), (False, True)]):
        for _ in range(3):
            b = torch.randn(value).to(dtype).requires_grad_(wants[1])
            a = gate if isinstance(gate, float) else torch.rand(gate).to(dtype).requires_grad_(wants[0])
            wanted = [v for v in (a, b) if isinstance(v, torch.Tensor) and v.requires_grad]
            if not wanted:
                continue
            g = torch.randn(shape).to(dtype)
            grads, expected = (
                torch.autograd.grad(function(a, b, axis=axis), wanted, g.to(own))
                for function, own in zip(ours_and_loop(name), (dtype, torch.float64), strict=True)
            )
            for grad, right, operand in zip(grads, expected, wanted, strict=True):
                assert grad.dtype is dtype
                assert grad.shape == operand.shape
                near = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.1}[dtype]
                torch.testing.assert_close(grad, right, rtol=near, atol=near)


@BOTH
def test_second_order_of_short_problems_with_a_number(name):
    for turn in range(3):
        gate = 0.2 + turn / 10
        x = double(6, 3)
        assert gradcheck(lambda x, gate=gate: getattr(fastrecur, name)(gate, x), (x,), fast_mode=True)
        assert gradgradcheck(lambda x, gate=gate: getattr(fastrecur, name)(gate, x) ** 2, (x,), fast_mode=True)


def ours_and_loop(name):
    return getattr(fastrecur, name), getattr(oracle, name)


@BOTH
@pytest.mark.parametrize("wants", list(itertools.product([False, True], repeat=3)))
def test_every_subset_of_operands(name, wants):
    for shape, h_only in [((6, 5), True), ((6, 5), False), ((5, 40), False)]:
        values = torch.rand(shape).double(), torch.randn(shape).double(), torch.randn(shape[1]).double()
        operands = [v.requires_grad_(w) for v, w in zip(values, wants, strict=True)]

        def gradients(function, operands=operands, h_only=h_only):
            h, last = function(*operands, return_state=True)
            loss = (h**2).sum() + (0 if h_only else (3 * last).sum())
            assert h.requires_grad == any(wants)
            wanted = [v for v in operands if v.requires_grad]
            return torch.autograd.grad(loss, wanted) if wanted else ()

        same(gradients, *ours_and_loop(name))


@pytest.mark.sample(
    dtype=[torch.float32], name=["forget_mult"], wants=[(True, True), (True, False)], shape=[(70, 40), (40, 70)]
)
@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("shape", "axis"), [((70, 40), 0), ((40, 70), 1), ((5000, 2), 0)])
@pytest.mark.parametrize("wants", [(True, True), (False, True), (True, False)])
def test_every_kernel_leaves_out_what_is_not_wanted(name, dtype, shape, axis, wants):
    a, b = torch.rand(shape).to(dtype), torch.randn(shape).to(dtype)
    g = torch.randn(shape).to(dtype)
    a, b = (v.requires_grad_(w) for v, w in zip((a, b), wants, strict=True))
    wanted = [v for v in (a, b) if v.requires_grad]
    grads = torch.autograd.grad(getattr(fastrecur, name)(a, b, axis=axis), wanted, g)
    h = getattr(fastrecur, name)(a.detach(), b.detach(), axis=axis)
    full = getattr(fastrecur, name + "_vjp")(g, a.detach(), b.detach(), h, axis=axis)
    for grad, want in zip(grads, [v for v, w in zip(full, wants, strict=False) if w], strict=True):
        assert grad.dtype is dtype
        tolerance = torch.finfo(dtype).eps
        torch.testing.assert_close(grad, want, rtol=2 * tolerance, atol=2 * tolerance)


@pytest.mark.sample(name=["forget_mult"], reverse=[False])
@BOTH
@REVERSE
def test_broadcast_operands_get_gradients_of_their_own_shape(name, reverse):
    function = getattr(fastrecur, name)
    for shapes in [((4, 1, 3), (2, 1), (3,)), ((1,), (4, 2, 3), ()), ((4, 2, 3), (1, 3), (2, 1))]:
        operands = [double(*shape) for shape in shapes]
        assert gradcheck(lambda *v: function(*v, reverse=reverse), operands, fast_mode=True)
        assert gradgradcheck(lambda *v: function(*v, reverse=reverse), operands, fast_mode=True)


@pytest.mark.sample(real=[""], reverse=[True])
@pytest.mark.parametrize("real", ["", "bh", "a", "ab"])
@REVERSE
def test_complex_operands(reverse, real):
    shapes = {"a": (4, 3), "b": (4, 3), "h": (3,)}
    a, b, h0 = (double(*shape, complex=name not in real) for name, shape in shapes.items())

    def function(*operands):
        return linear_recurrence(*operands, reverse=reverse, return_state=True)

    assert gradcheck(function, (a, b, h0), fast_mode=True)
    assert gradgradcheck(function, (a, b, h0), fast_mode=True)
    assert gradcheck(lambda *v: forget_mult(*v, reverse=reverse), (double(4, 3), b, h0), fast_mode=True)
    same(lambda f: f(a, b, h0, reverse=reverse), *ours_and_loop("linear_recurrence"))


@BOTH
def test_third_order(name):
    a, b, h0 = double(4, 2), double(4, 2), double(2)

    def third(function):
        value = (function(a, b, h0) ** 2).sum()
        for _ in range(3):
            grads = torch.autograd.grad(value, (a, b, h0), create_graph=True)
            value = sum((grad**2).sum() for grad in grads)
        return value

    same(third, *ours_and_loop(name))


@BOTH
def test_second_order_after_first(name):
    # What is remembered of a short gradient is not for one that must be recorded.
    a, b = double(4, 3), double(4, 3)

    def second(function):
        torch.autograd.grad(function(a, b), (a, b), torch.ones(4, 3).double())
        torch.autograd.grad(function(a, b), (a, b), torch.ones(4, 3).double())
        grads = torch.autograd.grad(function(a, b), (a, b), torch.ones(4, 3).double(), create_graph=True)
        return torch.autograd.grad(sum((grad**2).sum() for grad in grads), (a, b))

    same(second, *ours_and_loop(name))


@pytest.mark.parametrize("vjp", [forget_mult_vjp, linear_recurrence_vjp])
@REVERSE
@pytest.mark.parametrize("lengths", [None, torch.tensor([2, 4, 0])])
def test_gradients_by_hand_are_differentiable(vjp, reverse, lengths):
    g, a, b, h = (double(4, 3) for _ in range(4))
    h0, grad_state = double(3), double(3)

    def function(g, a, b, h, h0, grad_state):
        return vjp(g, a, b, h, h0, grad_state=grad_state, reverse=reverse, lengths=lengths)

    operands = g, a, b, h, h0, grad_state
    assert gradcheck(function, operands, fast_mode=True, check_forward_ad=True)
    assert gradgradcheck(function, operands, fast_mode=True)


@pytest.mark.sample(name=["forget_mult"])
@BOTH
def test_gradients_by_hand_are_autograd_s(name):
    a, b, h0 = torch.rand(6, 5, requires_grad=True), torch.randn(6, 1, requires_grad=True), torch.randn(5)
    function, vjp = getattr(fastrecur, name), getattr(fastrecur, name + "_vjp")
    g = torch.randn(6, 5)
    h0.requires_grad_()
    h = function(a, b, h0)
    expected = torch.autograd.grad(h, (a, b, h0), g)
    with torch.no_grad():
        for grad, want in zip(vjp(g, a, b, h, h0), expected, strict=True):
            assert torch.equal(grad, want)


COTANGENTS = {
    "expanded": lambda h: torch.ones((), dtype=h.dtype).expand_as(h),
    "expanded along time": lambda h: torch.randn(h.shape[1:], dtype=h.dtype).expand_as(h),
    "expanded along lanes": lambda h: torch.randn(len(h), 1, dtype=h.dtype).expand_as(h),
    "transposed": lambda h: torch.randn(h.shape[::-1], dtype=h.dtype).T,
    "sliced": lambda h: torch.randn(2 * len(h), 3 * h.shape[1], dtype=h.dtype)[::2, ::3],
}


@pytest.mark.parametrize("which", COTANGENTS)
@pytest.mark.parametrize("shape", [(6, 5), (300, 200)])  # the latter is laid out anew where it is constant in time
@pytest.mark.parametrize("time_last", [False, True])
def test_cotangents_of_any_layout(which, shape, time_last):
    f, x = torch.rand(shape).double(), torch.randn(shape).double()
    if time_last:
        f, x = f.T.contiguous().T, x.T.contiguous().T
    f, x = f.requires_grad_(), x.requires_grad_()
    g = COTANGENTS[which](f)
    same(lambda function: torch.autograd.grad(function(f, x), (f, x), g), *ours_and_loop("forget_mult"))


def test_only_the_last_state_is_used():
    f, x, h0 = double(4, 3), double(4, 3), double(3)
    for wanted in [(f, x, h0), (x,), (h0,)]:
        same(
            lambda function, wanted=wanted: torch.autograd.grad(
                function(f, x, h0, return_state=True)[1].sum(), wanted, create_graph=True
            ),
            *ours_and_loop("forget_mult"),
        )


@REVERSE
def test_padding_reaches_nothing(reverse):
    lengths = torch.tensor([3, 0])
    f, x = torch.rand(4, 2).double(), torch.randn(4, 2).double()
    is_padding = torch.arange(4)[:, None] >= lengths
    operands = [torch.where(is_padding, float("nan"), v).requires_grad_() for v in (f, x)]
    g = torch.where(is_padding, float("nan"), torch.randn(4, 2).double())
    h = forget_mult(*operands, reverse=reverse, lengths=lengths)
    first = torch.autograd.grad(h, operands, g, create_graph=True)
    second = torch.autograd.grad(first, operands, [g, g])
    for grad in (h, *first, *second):
        assert torch.equal(grad == 0, is_padding)


@pytest.mark.exhaustive
def test_small_gates_forget_in_every_order():
    # 1 - f in float32 would be off by up to 6e-8 at each of 1e5 steps.
    f = torch.full((100_000, 1), 1.00001e-5, requires_grad=True)
    x = 100 + torch.randn(100_000, 1)
    f64 = f.detach().double().requires_grad_()

    def second(f, x):
        (grad,) = torch.autograd.grad(forget_mult(f, x)[-1].sum(), f, create_graph=True)
        return torch.autograd.grad(grad[::1000].sum(), f)[0]

    torch.testing.assert_close(second(f, x).double(), second(f64, x.double()), rtol=2e-5, atol=1e-3)
    torch.testing.assert_close(
        torch.func.jvp(lambda f: forget_mult(f, x), (f.detach(),), (x,))[1].double(),
        torch.func.jvp(lambda f: forget_mult(f, x.double()), (f64.detach(),), (x.double(),))[1],
        rtol=1e-5,
        atol=1e-3,
    )


@pytest.mark.exhaustive
def test_integers_get_no_gradient():
    x = torch.tensor([1, 2, 3])
    f = torch.rand(3, requires_grad=True)
    (grad,) = torch.autograd.grad(forget_mult(f, x).sum(), f)
    assert grad.dtype is torch.float32
    with torch.no_grad():
        grads = forget_mult_vjp(torch.ones(3), f, x, forget_mult(f, x))
    assert grads[1].dtype is torch.float32


# ---- What is saved --------------------------------------------------------------------------------------------------


def saved(function, *operands, **options):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        function(*operands, **options)
    return {t.data_ptr() for t in kept}


@pytest.mark.parametrize("length", [4, 4000])
def test_saves_only_what_the_gradient_reads(length):
    def pointers(*tensors):
        return {t.data_ptr() for t in tensors}

    def make(wants):
        return [torch.rand(length, 3).requires_grad_(w) for w in wants]

    for _ in range(2):
        f, x = make((False, True))
        assert saved(forget_mult, f, x) == pointers(f)
        assert saved(linear_recurrence, f, x) == pointers(f)
        f, x = make((True, True))
        h = forget_mult(f, x)
        assert len(saved(forget_mult, f, x) - pointers(f, x)) == 1  # the states
        assert pointers(f) < saved(linear_recurrence, f, x)
        assert not saved(linear_recurrence, f, x) & pointers(x)
        assert h.grad_fn is not None


def test_what_is_saved_is_freed():
    f, x = torch.rand(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    h = forget_mult(f, x)
    h.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        h.sum().backward()
    dead = weakref.ref(h)
    del h
    assert dead() is None


@pytest.mark.parametrize("return_state", [False, True])
@pytest.mark.parametrize("length", [4, 4000])
def test_a_change_of_what_was_saved_is_detected(length, return_state):
    f, x = torch.rand(length, 100, requires_grad=True), torch.randn(length, 100)
    for what in 2 * ["x", "h"]:  # the later calls of a kind are short ones
        h = forget_mult(f, x, return_state=return_state)
        h = h[0] if isinstance(h, tuple) else h
        (x if what == "x" else h.detach()).add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            h.sum().backward()


def test_hooks_may_move_what_is_saved():
    f, x = torch.rand(6, 5).double().requires_grad_(), torch.randn(6, 5).double().requires_grad_()
    expected = torch.autograd.grad(forget_mult(f, x).sum(), (f, x))
    for unpack in [lambda t: t.T.contiguous().T, lambda t: t.clone(), lambda t: t.to_sparse().to_dense()]:
        for _ in range(2):
            with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack):
                h = forget_mult(f, x)
            for grad, want in zip(torch.autograd.grad(h.sum(), (f, x)), expected, strict=True):
                torch.testing.assert_close(grad, want)
    with torch.autograd.graph.save_on_cpu():
        torch.testing.assert_close(torch.autograd.grad(forget_mult(f, x).sum(), (f, x)), expected, rtol=0, atol=0)


def test_checkpointing():
    from torch.utils.checkpoint import checkpoint

    f, x = double(6, 5), double(6, 5)

    def gradients(function, use_reentrant=False):
        loss = checkpoint(lambda f, x: function(f.sigmoid(), x), f, x, use_reentrant=use_reentrant).sum()
        return torch.autograd.grad(loss, (f, x)) if not use_reentrant else loss.backward() or (f.grad, x.grad)

    same(gradients, *ours_and_loop("forget_mult"))
    expected = gradients(forget_mult)
    torch.testing.assert_close(gradients(forget_mult, True), expected)


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
def test_anomaly_mode_names_the_call():
    f, x = double(4, 3), double(4, 3)
    with pytest.warns(UserWarning, match="forget_mult"), torch.autograd.detect_anomaly(check_nan=True):
        h = forget_mult(f, x)
        with pytest.raises(RuntimeError, match="returned nan values"):
            h.backward(torch.full_like(h, float("nan")))


def test_gradients_accumulate_and_repeat():
    f, x = double(4, 3), double(4, 3)
    loss = forget_mult(f, x).sum()
    loss.backward(retain_graph=True)
    once = f.grad.clone()
    loss.backward()
    torch.testing.assert_close(f.grad, 2 * once)


def test_batched_cotangents():
    f, x, h0 = double(4, 3), double(4, 3), double(3)
    g = torch.randn(5, 4, 3).double()
    same(
        lambda function: torch.autograd.grad(function(f, x, h0), (f, x, h0), g, is_grads_batched=True),
        *ours_and_loop("forget_mult"),
    )
