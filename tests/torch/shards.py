"""Ranks of gloo hold shards of one series: run by test_sequence_parallel.py, as a script of its own."""

import functools
import itertools
import sys
import tempfile
import time
import warnings
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

import fastrecur
from fastrecur import reference
from fastrecur.torch import QRNN, QRNNLayer, WeightDrop, distributed
from fastrecur.torch._operator import exchange
from fastrecur.torch.distributed import SequenceParallel

# Torch's compiler and its forward mode use what torch itself has deprecated.
warnings.filterwarnings("ignore", "<class 'torch.autograd.function.Function'> should not be instantiated")
warnings.filterwarnings("ignore", "`torch.jit.[a-z_]*` is deprecated")

NAMES = "forget_mult", "linear_recurrence"
CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


class Ranks:
    """This process among the others, and random numbers that are the same for all."""

    def __init__(self, rank, size, seed):
        self.rank, self.size = rank, size
        self.random = torch.Generator().manual_seed(seed)

    def draw(self, *shape, dtype=torch.float64):
        return torch.randn(shape, dtype=dtype, generator=self.random)

    def gate(self, *shape, dtype=torch.float64):
        return torch.rand(shape, dtype=torch.float64, generator=self.random).to(dtype)

    def cuts(self, steps):
        """Cut some steps for the ranks, often so that some have one or none."""
        cuts = torch.randint(0, steps + 1, (self.size - 1,), generator=self.random)
        if int(cuts.sum()) % 3 == 0:
            cuts[:] = cuts[:1]
        edges = [0, *cuts.sort().values.tolist(), steps]
        return [b - a for a, b in zip(edges, edges[1:], strict=False)]

    def own(self, tensor, cuts, axis=0):
        return tensor.split(cuts, axis)[self.rank]


def same(actual, expected, tolerance=1e-12):
    size = max(1.0, float(expected.detach().abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * size)


def leaf(tensor):
    return tensor.detach().clone().requires_grad_()


def summed(tensor):
    tensor = tensor.detach().clone()
    dist.all_reduce(tensor)
    return tensor


def own_ends(ranks, cuts, axis, lengths=None, offsets=None, resets=None):
    """Return what says of a rank's shard where its series begin anew and end."""
    if lengths is not None:
        lengths = (lengths - sum(cuts[: ranks.rank])).clamp(0, cuts[ranks.rank])
    return {
        "lengths": lengths,
        "offsets": offsets,
        "resets": resets if resets is None else ranks.own(resets, cuts, axis),
    }


def compare(ranks, name, whole, axis, cuts, ends=None, tolerance=1e-12, **options):
    """Compare results and first and second derivatives with those of one process that holds the whole."""
    gate, value, h0 = whole
    is_full = [v.dim() > axis and v.shape[axis] == sum(cuts) for v in (gate, value)]
    theirs = [leaf(v) for v in whole]
    mine = [leaf(ranks.own(v, cuts, axis) if full else v) for v, full in zip(whole[:2], is_full, strict=True)]
    mine.append(leaf(h0))
    ends = ends or {}
    mine_alone = options | own_ends(ranks, cuts, axis, **ends)
    h, last = getattr(fastrecur, name)(*theirs, axis=axis, return_state=True, **options, **ends)
    own_h, own_last = getattr(distributed, name)(*mine, axis=axis, return_state=True, **mine_alone)
    same(own_h, ranks.own(h, cuts, axis), tolerance)
    same(own_last, last, tolerance)
    if ends:
        arrays = [v.detach().numpy() for v in whole]
        plain = {key: np.asarray(v) for key, v in ends.items()} | options
        expected = getattr(reference, name)(*arrays, axis=axis, return_state=True, **plain)
        for actual, wanted in zip((own_h, own_last), expected, strict=True):
            wanted = torch.as_tensor(wanted)
            same(actual, wanted if actual is own_last else ranks.own(wanted, cuts, axis), tolerance)
    alone = getattr(distributed, name)(*mine, axis=axis, **mine_alone)
    assert torch.equal(alone, own_h)

    # The loss of a rank knows the last state, too, each with a weight of its own.
    weight, to_last = ranks.draw(*h.shape).to(h.dtype), ranks.draw(*last.shape).to(h.dtype)
    of_all = sum(1.0 + k for k in range(ranks.size))
    loss = ((h * weight).abs().square().sum() + (last * to_last).abs().square().sum() * of_all).real
    own_loss = (own_h * ranks.own(weight, cuts, axis)).abs().square().sum()
    own_loss = (own_loss + (own_last * to_last).abs().square().sum() * (1.0 + ranks.rank)).real
    grads = torch.autograd.grad(loss, theirs, create_graph=True)
    own_grads = torch.autograd.grad(own_loss, mine, create_graph=True)
    check_gradients(ranks, own_grads, grads, is_full, cuts, axis, 10 * tolerance)

    again = [ranks.draw(*g.shape).to(g.dtype) for g in grads]
    cotangents = [ranks.own(v, cuts, axis) if full else v for v, full in zip(again, is_full, strict=False)]
    second = torch.autograd.grad(grads, theirs, again, allow_unused=True)
    own_second = torch.autograd.grad(own_grads, mine, [*cotangents, again[2]])
    check_gradients(ranks, own_second, second, is_full, cuts, axis, 100 * tolerance)


def check_gradients(ranks, own, whole, is_full, cuts, axis, tolerance):
    for mine, theirs, full in zip(own, whole, [*is_full, False], strict=True):
        if full:
            same(mine, ranks.own(theirs, cuts, axis), tolerance)
        else:
            same(summed(mine), theirs, tolerance)


@case
def values_and_derivatives(ranks):
    """Any cut, axis, direction and operand."""
    for name in NAMES:
        for reverse in (False, True):
            for shape, axis in [((13, 3), 0), ((2, 11, 8), 1), ((9,), 0), ((3, 10), -1)]:
                axis %= len(shape)
                lanes = shape[:axis] + shape[axis + 1 :]
                cuts = ranks.cuts(shape[axis])
                whole = ranks.gate(*shape), ranks.draw(*shape), ranks.draw(*lanes)
                compare(ranks, name, whole, axis, cuts, reverse=reverse)


@case
def broadcast_operands(ranks):
    for name in NAMES:
        for gate, value in [((), (7, 3)), ((3,), (7, 3)), ((7, 1), (7, 3)), ((7, 3), (3,)), ((7, 3), ())]:
            whole = ranks.gate(*gate), ranks.draw(*value), ranks.draw(1)
            compare(ranks, name, whole, 0, ranks.cuts(7))
    f, x = 0.25, ranks.draw(8, 2)
    cuts = ranks.cuts(8)
    same(distributed.forget_mult(f, ranks.own(x, cuts), 1.5), ranks.own(fastrecur.forget_mult(f, x, 1.5), cuts))


@case
def ragged_lanes(ranks):
    for name in NAMES:
        for reverse in (False, True):
            whole = ranks.gate(4, 9, 8), ranks.draw(4, 9, 8), ranks.draw(4, 8)
            lengths = torch.tensor([9, 0, 4, 1])
            compare(ranks, name, whole, 1, ranks.cuts(9), {"lengths": lengths}, reverse=reverse)
            whole = ranks.gate(9, 3), ranks.draw(9, 3), ranks.draw(3)
            compare(ranks, name, whole, 0, ranks.cuts(9), {"lengths": torch.tensor([5, 9, 0])}, reverse=reverse)


@case
def segments(ranks):
    """Borders at and between the ranks' edges, ranks without any, segments of many ranks and of no steps."""
    steps, lanes = 12, 3
    even = [steps // ranks.size] * ranks.size
    places = [[0, 12], [0, 0, 3, 3, 6, 6, 12, 12], [0, 5, 7, 8, 12], [0, 1, 1, 11, 12], list(range(13))]
    cases = itertools.product(places, (False, True), (even, ranks.cuts(steps)))
    for k, (offsets, reverse, cuts) in enumerate(cases):
        name, other = NAMES[(k + k // 2 + k // 4) % 2], NAMES[(k // 2 + k // 4) % 2]
        whole = ranks.gate(steps, lanes), ranks.draw(steps, lanes), ranks.draw(len(offsets) - 1, lanes)
        compare(ranks, name, whole, 0, cuts, {"offsets": offsets}, reverse=reverse)
        flags = ranks.gate(steps, lanes) < 0.15
        if k % 3 == 0:
            compare(ranks, other, whole, 0, cuts, {"offsets": torch.tensor(offsets), "resets": flags}, reverse=reverse)
        *operands, states = whole
        if k % 3 == 1:
            ends = {"resets": flags if k % 2 else flags[:, 0], "lengths": torch.tensor([12, 0, 7])}
            compare(ranks, other, (*operands, states[0]), 0, cuts, ends, reverse=reverse)
        else:
            operands = [v.T.contiguous() for v in operands]
            ends = {"resets": flags.T if k % 4 else flags.T[:1]}
            compare(ranks, other, (*operands, states[0]), 1, cuts, ends, reverse=reverse)


@case
def offsets_of_other_kinds(ranks):
    """A list on one rank, int32 on another, every second of a tensor's numbers on all."""
    f, x, cuts = ranks.gate(12, 3), ranks.draw(12, 3), ranks.cuts(12)
    mine = ranks.own(f, cuts), ranks.own(x, cuts)
    expected = ranks.own(fastrecur.forget_mult(f, x, offsets=[0, 4, 12]), cuts)
    strided, short = torch.tensor([0, 9, 4, 9, 12])[::2], torch.tensor([0, 4, 12], dtype=torch.int32)
    for offsets in (strided, [[0, 4, 12], short][ranks.rank % 2]):
        same(distributed.forget_mult(*mine, offsets=offsets), expected)


@case
def numbers_that_are_not_finite_stop_at_a_border(ranks):
    """They change no bit of another series, whichever ranks hold the two."""
    steps, lanes, border = 4 * ranks.size, 2, 2 * ranks.size
    flags = torch.zeros(steps, lanes, dtype=torch.bool)
    flags[border] = flags[1, 1] = True
    borders = {"offsets": [0, border, steps]}, {"resets": flags}
    for cuts in ([4] * ranks.size, [4] * (ranks.size - 2) + [0, 8], [1] * (ranks.size - 1) + [3 * ranks.size + 1]):
        steps_here = ranks.own(torch.arange(steps), cuts)
        for name, ends, reverse in itertools.product(NAMES, borders, (False, True)):
            is_first = (steps_here >= border) if reverse else (steps_here < border)  # of the two series, in scan order
            clean = ranks.gate(steps, lanes), ranks.draw(steps, lanes), ranks.draw(steps, lanes)
            h0 = ranks.draw(2, lanes) if "offsets" in ends else ranks.draw(lanes)

            def run(gate, value, weight, ends=ends, name=name, reverse=reverse, cuts=cuts, h0=h0):
                mine = [leaf(ranks.own(v, cuts)) for v in (gate, value)]
                options = own_ends(ranks, cuts, 0, **ends) | {"reverse": reverse, "return_state": True}
                h, last = getattr(distributed, name)(*mine, h0, **options)
                return h.detach(), *torch.autograd.grad(h, mine, ranks.own(weight, cuts)), last[-1 - reverse]

            expected = run(*clean)
            for bad in (torch.nan, torch.inf):
                gate, value, weight = (v.clone() for v in clean)
                of_first = slice(border, None) if reverse else slice(border)
                gate[of_first] = value[of_first] = bad
                if name == "linear_recurrence" and "resets" in ends:  # nor is the factor used at the border
                    gate[border - reverse] = bad
                found = run(gate, value, weight)
                for actual, wanted in zip(found[:3], expected[:3], strict=True):
                    assert torch.equal(actual[~is_first], wanted[~is_first]), (cuts, name, ends, reverse, bad)
                if "resets" in ends:
                    assert torch.equal(found[3], expected[3])
                weight[border - 1 if reverse else border] = bad  # cotangents go the other way
                found = run(*clean[:2], weight)
                for actual, wanted in zip(found[1:3], expected[1:3], strict=True):
                    assert torch.equal(actual[is_first], wanted[is_first]), (cuts, name, ends, reverse, bad)


@case
def complex_numbers(ranks):
    for reverse in (False, True):
        shape, cuts = (9, 3), ranks.cuts(9)
        value, h0 = (torch.complex(ranks.draw(*s), ranks.draw(*s)) for s in (shape, shape[1:]))
        gate = torch.complex(ranks.gate(*shape), ranks.gate(*shape)) - 0.5
        compare(ranks, "linear_recurrence", (gate, value, h0), 0, cuts, reverse=reverse)
        compare(ranks, "linear_recurrence", (gate.real.clone(), value, h0), 0, cuts, reverse=reverse)
    ends = {"offsets": torch.tensor([0, 4, 4, 9]), "resets": ranks.gate(9, 3) < 0.3}
    states, own = torch.complex(ranks.draw(3, 3), ranks.draw(3, 3)), own_ends(ranks, cuts, 0, **ends)
    expected = fastrecur.forget_mult(gate.real, value, states, return_state=True, **ends)
    found = distributed.forget_mult(*(ranks.own(v, cuts) for v in (gate.real, value)), states, return_state=True, **own)
    same(found[0], ranks.own(expected[0], cuts))
    same(found[1], expected[1])


@case
def short_dtypes(ranks):
    """A carry is wider than float32 and halves, so a cut leaves no trace but where rounding just turns."""
    for dtype, tolerance in [(torch.float32, 2e-7), (torch.bfloat16, 1e-2)]:
        f, x, g = ranks.gate(40, 8, dtype=dtype), ranks.draw(40, 8).to(dtype), ranks.draw(40, 8).to(dtype)
        cuts = ranks.cuts(40)
        theirs, mine = [leaf(f), leaf(x)], [leaf(ranks.own(v, cuts)) for v in (f, x)]
        h, own = fastrecur.forget_mult(*theirs), distributed.forget_mult(*mine)
        assert own.dtype == dtype
        same(own, ranks.own(h, cuts), tolerance)
        grads = torch.autograd.grad(h, theirs, g)
        for actual, expected in zip(torch.autograd.grad(own, mine, ranks.own(g, cuts)), grads, strict=True):
            same(actual, ranks.own(expected, cuts), tolerance)
        for reverse in (False, True):
            options = {"offsets": [0, 13, 40], "reverse": reverse, "return_state": True}
            _, last = fastrecur.forget_mult(f, x, **options)
            _, own_last = distributed.forget_mult(ranks.own(f, cuts), ranks.own(x, cuts), **options)
            assert own_last.dtype == dtype
            same(own_last, last, tolerance)


@case
def one_long_series(ranks):
    """Few lanes are summarised in pieces side by side."""
    for shape, axis in [((20000,), 0), ((3, 9000), 1)]:
        for reverse in (False, True):
            cuts = [shape[axis] // ranks.size] * (ranks.size - 1)
            cuts.append(shape[axis] - sum(cuts))
            whole = 0.01 * ranks.gate(*shape), ranks.draw(*shape), ranks.draw(*shape[:axis])
            compare(ranks, "forget_mult", whole, axis, cuts, reverse=reverse, tolerance=1e-11)


@case
def shards_that_forget(ranks):
    """Where gates are large a shard is walked before it is known what reaches it: the same bits, NaN included."""
    for name, scale in [("forget_mult", 1.0), ("forget_mult", 0.02), ("linear_recurrence", 0.9)]:
        for dtype in (torch.float64, torch.float32):
            for reverse in (False, True):
                steps = 9000
                cuts = [steps, steps] if ranks.size == 2 else [steps, steps + 1, 5, steps]
                gate = scale * ranks.gate(sum(cuts), 8, dtype=dtype)
                value = ranks.draw(sum(cuts), 8).to(dtype)
                h0 = ranks.draw(8).to(dtype)
                value[3, 2] = torch.nan
                weight = ranks.draw(*value.shape).to(dtype)
                h, last = getattr(fastrecur, name)(gate, value, h0, reverse=reverse, return_state=True)
                own, own_last = getattr(distributed, name)(
                    ranks.own(gate, cuts), ranks.own(value, cuts), h0, reverse=reverse, return_state=True
                )
                tolerance = {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 2e-7, "atol": 1e-7}
                torch.testing.assert_close(own, ranks.own(h, cuts), equal_nan=True, **tolerance)
                torch.testing.assert_close(own_last, last, equal_nan=True, **tolerance)
                value[3, 2] = 0.5
                theirs = leaf(gate), leaf(value), leaf(h0)
                mine = leaf(ranks.own(gate, cuts)), leaf(ranks.own(value, cuts)), leaf(h0)
                for state in (False, True):
                    given = getattr(fastrecur, name)(*theirs, reverse=reverse, return_state=state)
                    own = getattr(distributed, name)(*mine, reverse=reverse, return_state=state)
                    (given, last), (own, own_last) = (v if state else (v, 0 * v[:0].sum()) for v in (given, own))
                    grads = torch.autograd.grad((given * weight).sum() + ranks.size * last.sum(), theirs)
                    own_loss = (own * ranks.own(weight, cuts)).sum() + own_last.sum()
                    own_grads = torch.autograd.grad(own_loss, mine)
                    for actual, expected in zip(own_grads[:2], grads[:2], strict=True):
                        torch.testing.assert_close(actual, ranks.own(expected, cuts), **tolerance)
                    torch.testing.assert_close(summed(own_grads[2]), grads[2], **tolerance)


@case
def exact_at_the_ends(ranks):
    """A gate of 0 keeps the state, one of 1 takes the sample, and a constant series stays so in float32."""
    x = ranks.draw(12, 3)
    cuts = ranks.cuts(12)
    own = ranks.own(x, cuts)
    assert torch.equal(distributed.forget_mult(torch.zeros_like(own), own, x[0]), x[:1].expand_as(own))
    assert torch.equal(distributed.forget_mult(torch.ones_like(own), own, 1e308), own)
    constant = torch.full((len(own), 3), 0.1, dtype=torch.float32)
    gates = ranks.own(ranks.gate(12, 3, dtype=torch.float32), cuts)
    assert torch.equal(distributed.forget_mult(gates, constant, 0.1), constant)


@case
def what_cannot_be_composed(ranks):
    """The ranks then take turns: overflow, cancellation and NaN go as they would on one process."""
    steps = 2 * ranks.size
    cuts = [2] * ranks.size
    huge = torch.full((steps, 3), 1e200, dtype=torch.float64)
    zeros = torch.zeros_like(huge)
    h = distributed.linear_recurrence(ranks.own(huge, cuts), ranks.own(zeros, cuts), return_state=True)
    assert not h[0].any()
    assert not h[1].any()
    # 2*1 - 1 stays 1, while what a shard makes of a state is 2**n*h - (2**n - 1)
    n = 80
    cuts = [n] * ranks.size
    a, b = torch.full((n * ranks.size, 8), 2.0, dtype=torch.float64), torch.full((n * ranks.size, 8), -1.0)
    for reverse in (False, True):
        h, last = distributed.linear_recurrence(
            ranks.own(a, cuts), ranks.own(b, cuts), 1.0, return_state=True, reverse=reverse
        )
        assert bool((h == 1).all())
        assert bool((last == 1).all())
    x = ranks.draw(steps, 3)
    x[0, 1], x[-1, 2] = torch.nan, torch.inf
    f = ranks.gate(steps, 3)
    cuts = ranks.cuts(steps)
    for reverse in (False, True):
        h = ranks.own(fastrecur.forget_mult(f, x, reverse=reverse), cuts)
        own = distributed.forget_mult(ranks.own(f, cuts), ranks.own(x, cuts), reverse=reverse)
        torch.testing.assert_close(own, h, rtol=1e-12, atol=1e-12, equal_nan=True)


@case
def some_gradients_wanted(ranks):
    """Every subset; and a rank takes part in what others ask for."""
    cuts = ranks.cuts(8)
    whole = ranks.gate(8, 3), ranks.draw(8, 3), ranks.draw(3)
    for name in NAMES:
        for k in range(1, 8):
            wanted = [bool(k >> j & 1) for j in range(3)]
            theirs = [v.clone().requires_grad_(w) for v, w in zip(whole, wanted, strict=True)]
            mine = [ranks.own(v, cuts).clone().requires_grad_(w) for v, w in zip(whole[:2], wanted, strict=False)]
            mine.append(whole[2].clone().requires_grad_(wanted[2]))
            h, _ = getattr(fastrecur, name)(*theirs, return_state=True)
            own, own_last = getattr(distributed, name)(*mine, return_state=True)
            h[-1].sum().backward()
            # One rank asks for the last state, the others for nothing.
            (own_last.sum() if ranks.rank == ranks.size - 1 else 0 * own.sum()).backward()
            for actual, expected, is_lane in zip(mine, theirs, [False, False, True], strict=True):
                if expected.requires_grad and is_lane:
                    same(summed(actual.grad), expected.grad)
                elif expected.requires_grad:
                    same(actual.grad, ranks.own(expected.grad, cuts))


@case
def cotangents_of_other_strides(ranks):
    """What ranks add up are elements, however each rank's cotangents lie in its memory."""
    whole, weight = [ranks.gate(8, 2, 3), ranks.draw(8, 2, 3)], ranks.draw(3, 2)
    cuts = [8 // ranks.size] * ranks.size
    theirs, mine = [leaf(v) for v in whole], [leaf(ranks.own(v, cuts)) for v in whole]
    for options, create_graph in itertools.product(({}, {"offsets": [0, 3, 8]}), (False, True)):
        _, last = fastrecur.forget_mult(*theirs, return_state=True, **options)
        h, own_last = distributed.forget_mult(*mine, return_state=True, **options)
        own_loss = 0 * h.sum() if ranks.rank else (own_last.mT * weight).sum()
        expected = torch.autograd.grad((last.mT * weight).sum(), theirs)
        actual = torch.autograd.grad(own_loss, mine, create_graph=create_graph)
        for one, other in zip(actual, expected, strict=True):
            same(one, ranks.own(other, cuts))


@case
def traffic(ranks):
    """One all-gather each way, of two numbers a lane and a header; a third back where a last state was asked for."""
    sent, gather = [], dist.all_gather

    def counted(outputs, tensor, **options):
        sent.append(tensor.nbytes - exchange.HEADER)
        return gather(outputs, tensor, **options)

    dist.all_gather = counted
    try:
        for dtype, wide in [(torch.float32, 8), (torch.float64, 8), (torch.bfloat16, 4)]:
            for reverse in (False, True):
                f, x = leaf(ranks.gate(30, 5, 8, dtype=dtype)), leaf(ranks.draw(30, 5, 8).to(dtype))
                distributed.forget_mult(f, x, reverse=reverse).sum().backward()
                assert sent == [2 * 40 * wide] * 2, sent
                sent.clear()
                h, last = distributed.forget_mult(f, x, reverse=reverse, return_state=True)
                (h.sum() + last.sum()).backward()
                assert sent == [2 * 40 * wide, 3 * 40 * wide], sent
                sent.clear()
                infinite, flags = torch.full_like(x, torch.inf), torch.ones(30, dtype=torch.bool)
                distributed.forget_mult(f, infinite, reverse=reverse, resets=flags, return_state=True)
                assert sent == [2 * 40 * wide + 48], sent  # no turns: what is not finite goes no further
                sent.clear()
    finally:
        dist.all_gather = gather


@case
def compiled(ranks):
    torch._dynamo.reset()
    cuts = ranks.cuts(10)
    f, x = leaf(ranks.own(ranks.gate(10, 3), cuts)), leaf(ranks.own(ranks.draw(10, 3), cuts))

    def network(f, x, offsets=None, resets=None):
        options = {"offsets": offsets, "resets": resets, "return_state": True}
        h, last = distributed.forget_mult(f.sigmoid(), 2 * x, **options)
        backwards, _ = distributed.linear_recurrence(f, x, reverse=True, **options)
        return h.square().sum() + last.square().sum() + backwards.sum()

    quick = torch.compile(network, fullgraph=True, backend="aot_eager")
    flags = ranks.own(ranks.gate(10, 3) < 0.3, cuts)
    for ends in ((), (torch.tensor([0, 2, 7, 10]), flags)):
        expected, actual = network(f, x, *ends), quick(f, x, *ends)
        same(actual, expected)
        for one, other in zip(torch.autograd.grad(actual, (f, x)), torch.autograd.grad(expected, (f, x)), strict=True):
            same(one, other)


@case
def transforms_raise(ranks):
    f, x = ranks.gate(4, 2), ranks.draw(4, 2)
    for transform in (torch.func.grad, torch.func.vmap):
        try:
            transform(lambda x: distributed.forget_mult(f, x).sum())(x)
        except RuntimeError as error:
            assert "setup_context" in str(error), error
        else:
            raise AssertionError(transform)
    dual = torch.autograd.forward_ad
    with dual.dual_level():
        try:
            distributed.forget_mult(f, dual.make_dual(x, x))
        except (RuntimeError, NotImplementedError) as error:
            assert "forward" in str(error) or "jvp" in str(error), error
        else:
            raise AssertionError("forward mode")


@case
def placed_tensors(ranks):
    """DTensors sharded along time, in a mesh of one dimension and of two."""
    meshes = [(init_device_mesh("cpu", (ranks.size,)), [Shard(0)], [Replicate()])]
    if ranks.size == 4:
        mesh = init_device_mesh("cpu", (2, 2))
        meshes.append((mesh, [Shard(1), Shard(0)], [Shard(0), Replicate()]))
    for mesh, placements, lanes in meshes:
        for reverse in (False, True):
            check_along_time(ranks, mesh, placements, lanes, {}, reverse)
            flags = ranks.gate(7, 4) < 0.3
            for resets in (flags, flags[:, 0]):
                check_along_time(ranks, mesh, placements, lanes, {"resets": resets}, reverse)
            states = [Shard(1 + p.dim) if isinstance(p, Shard) else p for p in lanes]
            check_along_time(ranks, mesh, placements, states, {"offsets": torch.tensor([0, 3, 3, 7])}, reverse)
        placed = place(ranks.draw(7, 4), mesh, placements)
        everywhere = DTensor.from_local(torch.zeros(7, dtype=torch.bool), mesh, [Replicate()] * mesh.ndim)
        for options in (
            {"axis": 1 if mesh.ndim == 1 else 0, "group": dist.group.WORLD},
            {"resets": everywhere},
        ):
            try:
                distributed.forget_mult(0.5, placed, **options)
            except ValueError as error:
                assert "DTensor" in str(error), error
            else:
                raise AssertionError("a DTensor that is not sharded along time")


def place(whole, mesh, placements):
    return DTensor.from_local(whole.detach(), mesh, [Replicate()] * mesh.ndim).redistribute(placements=placements)


def check_along_time(ranks, mesh, placements, lanes, ends, reverse):
    """Compare DTensors that are sharded along time with whole tensors; flags stand beside those."""
    states = ranks.draw(3, 4) if "offsets" in ends else ranks.draw(4)
    whole = [leaf(v) for v in (ranks.gate(7, 4), ranks.draw(7, 4), states)]
    h, last = fastrecur.forget_mult(*whole, reverse=reverse, return_state=True, **ends)
    weight = ranks.draw(7, 4)
    ((h * weight).sum() + last.square().sum()).backward()
    placed = [leaf(place(v, mesh, p)) for v, p in zip(whole, [placements, placements, lanes], strict=True)]
    if "resets" in ends:
        flags = ends["resets"]
        beside = [p if p.dim < flags.dim() else Replicate() for p in placements]
        ends = {"resets": place(flags, mesh, beside)}
    own, own_last = distributed.forget_mult(*placed, reverse=reverse, return_state=True, **ends)
    assert own.placements == tuple(placements)
    assert own_last.placements == tuple(lanes)
    same(own.full_tensor(), h)
    same(own_last.full_tensor(), last)
    ((own * place(weight, mesh, placements)).sum() + own_last.square().sum()).backward()
    for actual, expected in zip(placed, whole, strict=True):
        same(actual.grad.full_tensor(), expected.grad)


def check_placed(ranks, mesh, placements, name, operands, ends):
    """Compare DTensors, each sharded along those of the result's axes that it has, with whole tensors."""

    def place(v, front):
        if not isinstance(v, torch.Tensor):
            return v
        dims = [p.dim - front - (3 - front - v.dim()) if isinstance(p, Shard) else -1 for p in placements]
        placed = [Shard(k) if k >= 0 and v.shape[k] > 1 else Replicate() for k in dims]
        return leaf(DTensor.from_local(v.detach(), mesh, [Replicate()] * mesh.ndim).redistribute(placements=placed))

    whole = [leaf(v) if isinstance(v, torch.Tensor) else v for v in operands]
    fronts = 0, 0, int("offsets" not in ends)
    placed = [place(v, front) for v, front in zip(operands, fronts, strict=True)]
    pairs = []
    weight = ranks.draw(7, 4, 6)
    for given, w in ((whole, weight), (placed, place(weight, 0))):
        h, last = getattr(fastrecur, name)(*given, **ends, return_state=True)
        wanted = [v for v in given if isinstance(v, torch.Tensor)]
        grads = torch.autograd.grad((h * w.detach()).sum() + last.square().sum(), wanted)
        pairs.append((h, last, *grads))
    assert pairs[1][0].placements == tuple(placements)
    for actual, expected in zip(pairs[1], pairs[0], strict=True):
        same(actual.full_tensor(), expected)


@case
def tensors_placed_along_other_axes(ranks):
    """Channels and a batch are series of their own: nobody need know that they are sharded."""
    meshes = [(init_device_mesh("cpu", (ranks.size,)), [Shard(k)]) for k in (1, 2)]
    if ranks.size == 4:
        meshes.append((init_device_mesh("cpu", (2, 2)), [Shard(2), Shard(1)]))
    gate, value, h0 = ranks.gate(7, 4, 6), ranks.draw(7, 4, 6), ranks.draw(4, 6)
    states, resets = ranks.draw(3, 4, 6), ranks.draw(7, 4) > 0.5
    for mesh, placements in meshes:
        for name, ends in zip(NAMES, ({}, {"lengths": [3, 0, 7, 2]}), strict=True):
            for operands in ((gate, value, h0), (gate[0, 0], value, h0[0]), (0.5, value, None)):
                check_placed(ranks, mesh, placements, name, operands, ends)
        for ends in ({"resets": resets}, {"resets": resets[:, :1], "lengths": [3, 0, 7, 2]}):
            check_placed(ranks, mesh, placements, "forget_mult", (gate, value, h0), ends)
        for ends in ({"offsets": [0, 3, 3, 7]}, {"offsets": [0, 3, 3, 7], "resets": resets}):
            check_placed(ranks, mesh, placements, "forget_mult", (gate, value, states), ends)
    try:
        fastrecur.forget_mult(0.5, DTensor.from_local(value, meshes[0][0], [Shard(0)]))
    except ValueError as error:
        assert "must not be sharded along `axis`" in str(error), error
    else:
        raise AssertionError("a DTensor that is sharded along time")


def networks():
    torch.manual_seed(0)
    options = {"dtype": torch.float64}
    drop = QRNN(3, 4, 1, window=2, **options)
    drop.layers[0].linear = WeightDrop(drop.layers[0].linear, ["weight"], 0.5)
    return {
        "bidirectional": QRNN(3, 4, 2, bidirectional=True, window=3, zoneout=0.3, **options).eval(),
        "no gate": QRNN(3, 4, 2, window=2, output_gate=False, batch_first=True, bias=False, **options),
        "layer": QRNNLayer(3, 4, window=4, reverse=True, **options),
        "window of 1": QRNN(3, 4, 3, **options),
        "sizes": QRNN(3, layers=[QRNNLayer(3, 5, **options), QRNNLayer(5, 2, window=2, **options)]),
        "WeightDrop": drop.eval(),
    }


def train(network, inputs, hidden, weight, keep):
    output, h_n = network(inputs, hidden)
    states = h_n if isinstance(h_n, list) else [h_n]
    loss = (output * keep(weight)).square().sum()
    return (
        output,
        states,
        loss + sum(s.square().sum() for s in states) / (1 if keep(weight) is weight else dist.get_world_size()),
    )


@case
def quasi_recurrent_networks(ranks):
    """Outputs, states and all gradients are the one process's, whatever the cut."""
    for network in networks().values():
        time_axis = int(getattr(network, "batch_first", False))
        layers = getattr(network, "layers", [network])
        directions = 1 + getattr(network, "bidirectional", False)
        sizes = [layer.hidden_size for layer in layers for _ in range(directions)]
        out = sizes[-1] * directions
        wrapped = SequenceParallel(network)
        for steps in (9, 2):
            x = ranks.draw(*((4, steps, 3) if time_axis else (steps, 4, 3)))
            weight = ranks.draw(*x.shape[:2], out)
            cuts = ranks.cuts(steps)
            hidden = [ranks.draw(1, 4, size) for size in sizes]
            hidden = torch.cat(hidden) if len(set(sizes)) == 1 else hidden
            pair = []
            own_part = functools.partial(ranks.own, cuts=cuts, axis=time_axis)
            for module, keep in ((network, lambda v: v), (wrapped, own_part)):
                network.zero_grad()
                inputs = leaf(keep(x))
                first = [leaf(h) for h in hidden] if isinstance(hidden, list) else leaf(hidden)
                output, states, loss = train(module, inputs, first, weight, keep)
                loss.backward()
                to_first = first if isinstance(first, list) else [first]
                pair.append((
                    output, states, inputs.grad, [h.grad for h in to_first], [p.grad for p in network.parameters()]
                ))  # fmt: skip
            (h, states, to_x, to_first, grads), (own, own_states, own_to_x, own_to_first, own_grads) = pair
            same(own, ranks.own(h, cuts, time_axis))
            same(own_to_x, ranks.own(to_x, cuts, time_axis), 1e-11)
            for actual, expected in zip([*own_states, *own_grads], [*states, *grads], strict=True):
                same(actual, expected, 1e-11)
            for actual, expected in zip(own_to_first, to_first, strict=True):
                same(summed(actual), expected, 1e-11)


@case
def networks_in_float32(ranks):
    torch.manual_seed(0)
    network = QRNN(3, 5, 2, window=2)
    x = ranks.draw(7, 3, 3, dtype=torch.float32)
    cuts = ranks.cuts(7)
    own, own_last = SequenceParallel(network)(ranks.own(x, cuts))
    h, last = network(x)
    same(own, ranks.own(h, cuts), 1e-5)
    same(own_last, last, 1e-5)
    (own.square().sum() + 0 * own_last.sum()).backward()
    own_grads = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    h.square().sum().backward()
    for actual, expected in zip(own_grads, network.parameters(), strict=True):
        same(actual, expected.grad, 1e-4)


@case
def streams_of_networks(ranks):
    """A sequence in pieces, each piece in shards; one sequence without a batch."""
    torch.manual_seed(0)
    network = QRNN(3, 4, 2, window=3, save_prev_x=True, dtype=torch.float64)
    wrapped = SequenceParallel(network)
    x = ranks.draw(12, 2, 3)
    h, h_n = network(x)
    wrapped.reset()
    pieces, state = [], None
    with torch.no_grad():
        for piece in (x[:5], x[5:6], x[6:]):
            cuts = ranks.cuts(len(piece))
            own, state = wrapped(ranks.own(piece, cuts), state)
            gathered = [None] * ranks.size
            dist.all_gather_object(gathered, own)
            pieces += gathered
    same(torch.cat(pieces), h)
    same(state, h_n)
    wrapped.reset()
    one, last = wrapped(ranks.own(x[:, 0], cuts := ranks.cuts(12)))
    same(one, ranks.own(h[:, 0], cuts))
    same(last, h_n[:, 0])


@case
def second_derivatives_of_networks(ranks):
    torch.manual_seed(0)
    network = QRNN(3, 4, 2, window=3, dtype=torch.float64)
    x, cuts = ranks.draw(7, 2, 3), ranks.cuts(7)
    results = []
    for module, inputs in ((network, x), (SequenceParallel(network), ranks.own(x, cuts))):
        inputs = leaf(inputs)
        (grad,) = torch.autograd.grad(module(inputs)[0].square().sum(), inputs, create_graph=True)
        results.append((grad, *torch.autograd.grad(grad.square().sum(), [inputs, *network.parameters()])))
    (grad, second, *to_weights), (own_grad, own_second, *own_to_weights) = results
    same(own_grad, ranks.own(grad, cuts), 1e-11)
    same(own_second, ranks.own(second, cuts), 1e-11)
    for actual, expected in zip(own_to_weights, to_weights, strict=True):
        same(actual, expected, 1e-11)


@case
def data_and_sequence_parallel(ranks):
    """Two pairs: within a pair time is cut, across pairs the batch."""
    if ranks.size != 4:
        return
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "time"))
    torch.manual_seed(ranks.rank)  # the same weights are the wrapper's business
    network = QRNN(3, 4, 2, window=2, bidirectional=True, dtype=torch.float64)
    pair = SequenceParallel(network, mesh.get_group("time"))
    parallel = DistributedDataParallel(pair, process_group=mesh.get_group("data"))
    whole = QRNN(3, 4, 2, window=2, bidirectional=True, dtype=torch.float64)
    whole.load_state_dict(network.state_dict())
    optimisers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (parallel, whole)]
    for _ in range(2):
        x = ranks.draw(9, 4, 3)
        batch, time_ = mesh.get_local_rank("data"), mesh.get_local_rank("time")
        cut = [4, 5]
        own = x[:, 2 * batch : 2 * batch + 2].split(cut)[time_]
        for optimiser, loss in zip(
            optimisers, (parallel(own)[0].square().sum(), whole(x)[0].square().sum() / 2), strict=True
        ):
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    for actual, expected in zip(parallel.parameters(), whole.parameters(), strict=True):
        same(actual, expected, 1e-11)


@case
def ranks_that_differ(ranks):
    """What does not fit is found by what is exchanged, on every rank."""
    x = ranks.draw(4, 3)
    odd = ranks.rank == ranks.size - 1
    calls = {
        "reverse": lambda: distributed.forget_mult(0.5, x, reverse=odd),
        "torch.float32": lambda: distributed.forget_mult(0.5, x.to(torch.float32) if odd else x),
        "a linear_recurrence": lambda: (distributed.linear_recurrence if odd else distributed.forget_mult)(0.5, x),
        "return_state": lambda: distributed.forget_mult(0.5, x, return_state=odd),
        "a gradient wanted": lambda: distributed.forget_mult(0.5, leaf(x) if odd else x),
        "of lanes (1, 3)": lambda: distributed.forget_mult(0.5, x.unsqueeze(1) if odd else x),
        "at 3 offsets, checksum": lambda: distributed.forget_mult(0.5, x, offsets=[0, 3 + odd, 4 * ranks.size]),
    }
    for told, call in calls.items():
        try:
            call()
        except RuntimeError as error:
            assert "all ranks of `group` must make the same call" in str(error), error
            assert told in str(error), error
        else:
            raise AssertionError(f"nothing was said of {told}")
        dist.barrier()
    try:
        distributed.forget_mult(0.5, x, offsets=[0, 4])
    except ValueError as error:
        assert f"`offsets` must begin with 0 and end with {4 * ranks.size}" in str(error), error
    else:
        raise AssertionError("nothing was said of offsets that end before the last rank's steps")


@case
def ranks_that_differ_later(ranks):
    """Where to look at what was received would be to wait, numbers of ranks that have come to differ are NaN."""
    x, odd = ranks.draw(4, 3), ranks.rank == ranks.size - 1
    waits, exchange._is_waited_for = exchange._is_waited_for, lambda tensor: True
    try:
        for _ in range(2):
            assert distributed.forget_mult(0.5, x).isfinite().all()
        for function in (distributed.linear_recurrence, distributed.forget_mult):
            exchange._agreed.add(("", header_of(function, x)))  # seen before, each
        h, last = (distributed.linear_recurrence if odd else distributed.forget_mult)(0.5, x, return_state=True)
        assert last.isnan().all() and (ranks.rank == 0 or h.isnan().all())
        assert distributed.forget_mult(0.5, x).isfinite().all()

        # Offsets are read, and wait, anyway: of those that differ all ranks hear, and none are kept.
        ends, kinds = 4 * ranks.size, set()
        for begin in (3, 4):
            distributed.forget_mult(0.5, x, offsets=[0, begin, ends])
            kinds = kinds or set(exchange._agreed)
        assert kinds == exchange._agreed
        try:
            distributed.forget_mult(0.5, x, offsets=[0, 3 + odd, ends])
        except RuntimeError as error:
            assert "at 3 offsets, checksum" in str(error), error
        else:
            raise AssertionError("nothing was said of other offsets")

        # Flags cannot be NaN, but what is made of them is.
        flags = torch.zeros(4, dtype=torch.bool)
        for _ in range(2):
            assert distributed.linear_recurrence(x, x, reverse=True, resets=flags).isfinite().all()
        if odd:
            exchange._agreed.add(("", "another call"))
            exchange.gather("", "another call", 4, flags[0].expand(3))
            options = None, None, flags, 0, True, x.dtype, False, False, ""
            torch.ops.fastrecur.shard.default("linear", x, x, None, None, *options)
        else:
            assert distributed.linear_recurrence(x, x, reverse=True, resets=flags).isnan().all()
    finally:
        exchange._is_waited_for = waits


def header_of(function, x):
    family = "forget" if function is distributed.forget_mult else "linear"
    return exchange.describe(family, x.dtype, x.shape[1:], False, reverse=False, return_state=True, lengths=False)


def work(rank, size, place):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{place}/store", rank=rank, world_size=size, timeout=timedelta(seconds=120)
    )
    for k, (name, function) in enumerate(CASES.items()):
        if sys.argv[3:] and name not in sys.argv[3:]:
            continue
        began = time.perf_counter()
        function(Ranks(rank, size, 100 * size + k))
        dist.barrier()
        if rank == 0:
            print(name, flush=True)
            if sys.argv[2:3] == ["timed"]:
                print(f"{time.perf_counter() - began:.1f} s", file=sys.stderr)
    dist.destroy_process_group()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        spawn(work, (int(sys.argv[1]), place), nprocs=int(sys.argv[1]))
