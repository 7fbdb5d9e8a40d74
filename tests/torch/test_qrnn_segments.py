"""A QRNN on many series in one axis of time is the same as on each of them by itself, in values and gradients."""

import numpy as np
import pytest
import torch
from compare import assert_close
from torch._dynamo.testing import CompileCounter

from fastrecur.torch import QRNN, QRNNLayer, QRNNState

pytestmark = pytest.mark.usefixtures("fresh_compiler")
INPUT, UNITS = 3, 4
LENGTHS = [5, 1, 0, 7, 2]
OFFSETS = [0, 5, 6, 6, 13, 15]


def network(**options):
    torch.manual_seed(0)
    return QRNN(INPUT, UNITS, **options).double()


def check(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        one, other = one.detach().numpy(), other.detach().numpy()
        assert_close(one, other, other.dtype, magnitude=8 * abs(other).max(initial=1.0))


def alone(rnn, x, states):
    """Return what a network gives for each series by itself: outputs one after another, and states side by side."""
    outputs, lasts = [], []
    for k, part in enumerate(x.split(LENGTHS)):
        own = states[:, k : k + 1]
        if len(part):
            output, own = rnn(part.unsqueeze(1), own)
            outputs.append(output.squeeze(1))
        lasts.append(own)
    return torch.cat(outputs), torch.cat(lasts, 1)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("window", [1, 3])
def test_offsets(window, bidirectional):
    rnn = network(num_layers=2, window=window, bidirectional=bidirectional)
    x = torch.randn(15, INPUT, dtype=torch.float64, requires_grad=True)
    states = torch.randn(2 * (1 + bidirectional), 5, UNITS, dtype=torch.float64, requires_grad=True)
    weights = [x, states, *rnn.parameters()]
    found, wanted = rnn(x, states, offsets=OFFSETS), alone(rnn, x, states)
    check(found, wanted)
    check(*(torch.autograd.grad(sum(part.square().sum() for part in pair), weights) for pair in (found, wanted)))
    zeros = torch.zeros_like(states)
    check(rnn(x, offsets=torch.tensor(OFFSETS)), alone(rnn, x, zeros))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("window", [1, 3])
def test_resets(window, bidirectional):
    rnn = network(window=window, bidirectional=bidirectional)
    x = torch.randn(9, 2, INPUT, dtype=torch.float64, requires_grad=True)
    states = torch.randn(1 + bidirectional, 2, UNITS, dtype=torch.float64, requires_grad=True)
    resets = torch.zeros(9, 2, dtype=torch.bool)
    resets[4, 0] = resets[0, 1] = resets[7, 1] = resets[8, 1] = True
    output, last = rnn(x, states, resets=resets)
    wanted, zeros = torch.empty_like(output), torch.zeros_like(states[:, :1])
    for lane, cuts in enumerate(([0, 4, 9], [0, 7, 8, 9])):
        for begin, end in zip(cuts, cuts[1:], strict=False):
            first = zeros.clone()
            if begin == 0 and lane == 0:
                first[0] = states[0, 0]
            if end == 9 and bidirectional:
                first[1] = states[1, lane]
            part, own = rnn(x[begin:end, lane : lane + 1], first)
            wanted[begin:end, lane] = part[:, 0]
            if end == 9:
                check([last[0, lane]], [own[0, 0]])
            if begin == 0 and bidirectional:
                check([last[1, lane]], [own[1, 0] if lane == 0 else zeros[0, 0]])
    check([output], [wanted])
    grads = [torch.autograd.grad(h.square().sum(), [x, states, *rnn.parameters()]) for h in (output, wanted)]
    check(*grads)


def test_batch_first_and_one_sequence():
    rnn, first = network(window=2), network(window=2, batch_first=True)
    x, resets = torch.randn(6, 2, INPUT, dtype=torch.float64), torch.rand(6, 2) < 0.4
    output, last = rnn(x, resets=resets)
    turned, same = first(x.transpose(0, 1), resets=resets.T)
    check([turned.transpose(0, 1), same], [output, last])
    one, state = rnn(x[:, 0], resets=resets[:, 0].numpy())
    check([one, state], [output[:, 0], last[:, 0]])
    check(rnn(x, resets=resets[:, 0]), rnn(x, resets=resets[:, :1].expand(6, 2)))
    # Both: segments with flags of their own.
    both = rnn(x[:, 0], offsets=[0, 4, 6], resets=resets[:, 0])
    cuts = resets[:, 0].clone()
    cuts[4] = True
    check([both[0]], [rnn(x[:, 0], resets=cuts)[0]])


def test_chunk_after_chunk_is_the_whole():
    rnn = network(num_layers=2, window=3)
    x, resets = torch.randn(12, 2, INPUT, dtype=torch.float64), torch.rand(12, 2) < 0.3
    whole, last = rnn(x, rnn.initial_state(2), resets=resets)
    state, parts = rnn.initial_state(2), []
    for begin, end in ((0, 1), (1, 2), (2, 7), (7, 12)):
        part, state = rnn(x[begin:end], state, resets=resets[begin:end])
        parts.append(part)
    assert isinstance(state, QRNNState)
    check([torch.cat(parts), state.hidden, *state.inputs], [whole, last.hidden, *last.inputs])
    # With offsets, one state for each; one without steps hands it on.
    packed = torch.cat([x[:, 0], x[:5, 1]])
    own = rnn.initial_state(3)
    _, after = rnn(packed, own, offsets=[0, 12, 12, 17])
    assert not after.hidden[:, 1].any() and not after.inputs[0][:, 1].any()
    check([after.hidden[:, 2]], [rnn(x[:5, 1:], rnn.initial_state(1))[1].hidden[:, 0]])


def test_a_layer_in_reverse():
    torch.manual_seed(0)
    layer = QRNNLayer(INPUT, UNITS, window=2, reverse=True).double()
    x, calls = torch.randn(15, INPUT, dtype=torch.float64), []
    layer.register_forward_hook(lambda *_: calls.append(1))
    states = torch.randn(5, UNITS, dtype=torch.float64)
    check(layer(x, states, offsets=OFFSETS), alone(layer, x, states.unsqueeze(0)))
    assert len(calls) == 1 + sum(n > 0 for n in LENGTHS)
    # Nor need a state with inputs have an axis for the one direction.
    inputs = (torch.randn(1, 5, INPUT, dtype=torch.float64),)
    output, last = layer(x, QRNNState(states, inputs), offsets=OFFSETS)
    wanted, same = layer(x, QRNNState(states.unsqueeze(0), inputs), offsets=OFFSETS)
    check([output, last.hidden], [wanted, same.hidden])


@pytest.mark.parametrize("where", [4, 5, 12])
def test_nothing_passes_a_border(where):
    rnn = network(num_layers=2, window=3, bidirectional=True)
    x = torch.randn(15, INPUT, dtype=torch.float64)
    other = x.clone()
    other[where] = torch.nan
    x.requires_grad_(), other.requires_grad_()
    segment = next(slice(a, b) for a, b in zip(OFFSETS, OFFSETS[1:], strict=False) if a <= where < b)
    found = []
    for rows in (x, other):
        output, _ = rnn(rows, offsets=OFFSETS)
        (grad,) = torch.autograd.grad(output.nan_to_num().square().sum(), rows)
        kept = torch.ones(15, dtype=torch.bool)
        kept[segment] = False
        found.append((output[kept], grad[kept]))
    for one, same in zip(*found, strict=True):
        assert torch.equal(one, same)


def test_what_is_refused():
    rnn, x = network(window=2), torch.randn(4, 2, INPUT, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"\(total, features\) with `offsets`, got \(4, 2, 3\)"):
        rnn(x, offsets=[0, 4])
    with pytest.raises(TypeError, match="PackedSequence"):
        rnn(torch.nn.utils.rnn.pack_sequence([x[:, 0]]), resets=[False] * 4)
    with pytest.raises(ValueError, match=r"`resets` must be shaped like .*got \(3, 2\)"):
        rnn(x, resets=torch.zeros(3, 2, dtype=torch.bool))
    with pytest.raises(TypeError, match="`resets` must hold bools"):
        rnn(x, resets=torch.zeros(4, 2))
    with pytest.raises(ValueError, match="`offsets` must begin with 0"):
        rnn(x[:, 0], offsets=[0, 3])
    with pytest.raises(TypeError, match="two names"):
        rnn(x, torch.zeros(1, 2, UNITS), hx=torch.zeros(1, 2, UNITS), resets=torch.zeros(4, 2, dtype=torch.bool))
    with pytest.raises(RuntimeError, match="`resets` must be given without `save_prev_x`"):
        network(window=2, save_prev_x=True)(x, resets=torch.zeros(4, 2, dtype=torch.bool))
    with pytest.raises(
        RuntimeError, match=r"^with `offsets` of 2 segments, `hidden` must .* \(1, 2, 4\), got \[1, 3, 4\]$"
    ):
        rnn(x[:, 0], torch.zeros(1, 3, UNITS, dtype=torch.float64), offsets=[0, 1, 4])


CUTS = {
    "offsets": lambda n: {"offsets": torch.tensor([0, 4, 4, 9, 12][:n] + [15])},
    "resets": lambda n: {"resets": torch.rand(15, n) < 0.3},
    "both": lambda n: {"offsets": torch.tensor([0, 4, 4, 9, 12][:n] + [15]), "resets": torch.rand(15) < 0.3},
}


@pytest.mark.parametrize("kind", CUTS)
@pytest.mark.parametrize("reverse", [False, True])
def test_the_same_as_step_by_step(kind, reverse):
    """Also in segments that are shorter than the window, or have no steps."""
    torch.manual_seed(0)
    layer, n, cuts = QRNNLayer(INPUT, UNITS, window=6, reverse=reverse).double(), 4, CUTS[kind](4)
    is_packed, flags = "offsets" in cuts, cuts.get("resets", torch.zeros(15, dtype=torch.bool))
    x = torch.randn(15, 1 if is_packed else n, INPUT, dtype=torch.float64, requires_grad=True)
    states = torch.randn(1, n, UNITS, dtype=torch.float64, requires_grad=True)
    inputs = torch.randn(5, n, INPUT, dtype=torch.float64, requires_grad=True)
    output, last = layer(x.squeeze(1), QRNNState(states, (inputs,)), **cuts)
    found = [output.view(15, -1, UNITS), last.hidden, *last.inputs]
    steps, lasts = torch.zeros_like(found[0]), []
    ends = cuts["offsets"].tolist() if is_packed else None
    for k in range(n):
        begin, end, lane = (ends[k], ends[k + 1], 0) if is_packed else (0, 15, k)
        state = QRNNState(states[:, k : k + 1], (inputs[:, k : k + 1],))
        for t in reversed(range(begin, end)) if reverse else range(begin, end):
            is_border = flags[t] if is_packed else flags[t, lane]
            state = layer.initial_state(1) if is_border and not reverse else state
            steps[t, lane], state = layer.step(x[t, lane : lane + 1], state)
            state = layer.initial_state(1) if is_border and reverse else state
        lasts.append(state)
    wanted = [steps, torch.cat([s.hidden for s in lasts], 1), torch.cat([s.inputs[0] for s in lasts], 1)]
    check(found, wanted)
    leaves = [x, states, inputs, *layer.parameters()]
    check(*(torch.autograd.grad(sum(v.square().sum() for v in each), leaves) for each in (found, wanted)))


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # torch's, traced
@pytest.mark.parametrize("kind", CUTS)
@pytest.mark.parametrize("options", [{}, {"window": 3, "bidirectional": True}, {"window": 3, "batch_first": True}])
def test_compiled_in_one_graph(kind, options):
    """And in no other where there are more series, up to one: that is a size of its own to torch."""
    rnn, graphs = network(num_layers=2, zoneout=0.2, **options).eval(), CompileCounter()
    compiled = torch.compile(rnn, fullgraph=True, dynamic=True, backend=graphs)
    for n in (5, 2, 4, 1):
        cuts, is_packed = CUTS[kind](n), "offsets" in CUTS[kind](n)
        x = torch.randn(*(15,) if is_packed else (15, n), INPUT, dtype=torch.float64, requires_grad=True)
        state = rnn.initial_state(n)
        if rnn.batch_first and not is_packed:
            x, cuts = x.detach().transpose(0, 1).requires_grad_(), {"resets": cuts["resets"].T}
        state = QRNNState(
            torch.randn_like(state.hidden), tuple(None if v is None else torch.randn_like(v) for v in state.inputs)
        )
        pairs = []
        for call in (compiled, rnn):
            output, last = call(x, state, **cuts)
            values = [output, last.hidden, *(v for v in last.inputs if v is not None)]
            loss = sum(v.square().sum() for v in values)
            pairs.append([*values, *torch.autograd.grad(loss, [x, *rnn.parameters()])])
        check(*pairs)
    assert graphs.frame_count == 2


@pytest.mark.exhaustive
def test_compiled_with_lists_and_refusals():
    rnn, x, flags = network(window=2), torch.randn(15, INPUT, dtype=torch.float64), [False] * 14 + [True]
    for offsets, backend in ((OFFSETS, "eager"), (np.array(OFFSETS), "aot_eager")):
        compiled = torch.compile(rnn, backend=backend, fullgraph=True)
        found, wanted = (call(x, offsets=offsets, resets=flags) for call in (compiled, rnn))
        check(found, wanted)
        check(*(torch.autograd.grad(output.square().sum(), list(rnn.parameters())) for output, _ in (found, wanted)))
    for wrong in ([0, 9], [1, 15], [0, 9, 4, 15]):
        with pytest.raises(ValueError, match="`offsets` must"):
            compiled(x, offsets=torch.tensor(wrong))
    with pytest.raises(TypeError, match="`resets` must hold bools"):
        torch.compile(rnn, backend="eager")(x, resets=torch.zeros(15))


@pytest.mark.sample(strict=[False])
@pytest.mark.parametrize("strict", [False, True])
def test_exported(strict):
    rnn, x = network(window=2, bidirectional=True), torch.randn(15, INPUT, dtype=torch.float64)
    sizes = {"input": {0: torch.export.Dim("steps", min=2)}, "offsets": {0: torch.export.Dim("ends", min=3)}}
    given = {"offsets": torch.tensor(OFFSETS)}
    program = torch.export.export(rnn, (x,), given, strict=strict, dynamic_shapes=sizes).module()
    check(program(x, **given), rnn(x, **given))
    # One segment is two, one of which is empty: a size of 1 is another program's.
    output, last = program(x[:9], offsets=torch.tensor([0, 9, 9]))
    check([output, last[:, :1]], rnn(x[:9], offsets=[0, 9]))


def test_nothing_is_read_back_from_the_device():
    """A tensor on meta has no numbers that a mask could be counted by."""
    rnn = QRNN(INPUT, UNITS, num_layers=2, window=2, bidirectional=True, device="meta")
    x, states = torch.empty(15, INPUT, device="meta"), torch.empty(4, 5, UNITS, device="meta")
    output, last = rnn(x, states, offsets=OFFSETS, resets=[True] + [False] * 14)
    assert output.shape == (15, 2 * UNITS)
    assert last.shape == states.shape


def test_within_transforms():
    """Borders made outside them hold for all samples; resets may be mapped, too, and offsets are refused by name."""
    rnn, other, x = network(window=2), network(), torch.randn(9, 2, INPUT, dtype=torch.float64)
    resets, parameters = torch.rand(9, 2) < 0.3, dict(rnn.named_parameters())

    def loss(own):
        return torch.func.functional_call(rnn, own, (x,), {"resets": resets})[0].square().sum()

    found = torch.func.grad(loss)(parameters)
    wanted = torch.autograd.grad(loss(parameters), list(parameters.values()))
    check(found.values(), wanted)
    many = torch.stack([x, 2 * x])
    check(torch.func.vmap(lambda own: rnn(own, resets=resets)[0])(many), [rnn(own, resets=resets)[0] for own in many])
    both = torch.stack([resets, ~resets])
    found = torch.func.vmap(lambda own, cuts: rnn(own, resets=cuts)[0])(many, both)
    check(found, [rnn(own, resets=cuts)[0] for own, cuts in zip(many, both, strict=True)])
    with pytest.raises(NotImplementedError, match="`offsets` must be the same for all samples"):
        torch.func.vmap(lambda cuts: other(x[:, 0], offsets=cuts)[0])(torch.tensor([[0, 4, 9], [0, 3, 9]]))


def test_no_series():
    rnn = network()
    output, last = rnn(torch.zeros(9, 0, INPUT, dtype=torch.float64), resets=torch.zeros(9, 0, dtype=torch.bool))
    assert output.shape == (9, 0, UNITS)
    assert last.shape == (1, 0, UNITS)
