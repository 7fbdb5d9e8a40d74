"""A stream whose state is an argument: chunks are the whole, wherever torch runs them; what is refused."""

import copy
import io
import pickle
import threading

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

from fastrecur.torch import QRNN, QRNNLayer, QRNNState, WeightDrop

pytestmark = pytest.mark.usefixtures("fresh_compiler")
X = torch.randn(9, 2, 3, generator=torch.Generator().manual_seed(1))
CUTS = [4, 1, 1, 3]
KINDS = {
    "one layer": {},
    "two layers": {"num_layers": 2},
    "no output gate": {"num_layers": 2, "output_gate": False},
    "zoneout": {"zoneout": 0.3},
}


def close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-5)


def in_chunks(call, x, state, cuts=CUTS):
    outputs = []
    for part in x.split(cuts):
        output, state = call(part, state)
        outputs.append(output)
    return torch.cat(outputs), state


def in_steps(call, x, state):
    outputs = []
    for row in x:
        output, state = call(row, state)
        outputs.append(output)
    return torch.stack(outputs), state


# Chunks and steps are the whole.


@pytest.mark.parametrize("window", [1, 2, 4])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("batch_size", [2, None])
def test_chunks_and_steps(window, kind, gradients, batch_size):
    model = QRNN(3, 4, window=window, **KINDS[kind]).eval()
    x = X if batch_size else X[:, 0]
    with torch.set_grad_enabled(gradients):
        whole, hidden = model(x)
        for run, call in [(in_chunks, model), (in_steps, model.step)]:
            output, state = run(call, x, model.initial_state(batch_size))
            close((output, state.hidden), (whole, hidden))
            assert [v is None for v in state.inputs] == [window == 1] * len(model.layers)
            if window > 1:
                assert torch.equal(state.inputs[0], x[-window + 1 :])


@pytest.mark.parametrize("reverse", [False, True])
def test_a_layer(reverse):
    layer = QRNNLayer(3, 4, window=3, reverse=reverse)
    whole, last = layer(X)
    parts, steps = (X.split(CUTS), X) if not reverse else (X.split(CUTS)[::-1], X.flip(0))
    state, outputs = layer.initial_state(2), []
    for part in parts:
        output, state = layer(part, hx=state)
        outputs.append(output)
    close((torch.cat(outputs[::-1] if reverse else outputs), state.hidden), (whole, last))
    assert torch.equal(state.inputs[0], X[:2] if reverse else X[-2:])
    output, state = in_steps(layer.step, steps, layer.initial_state(2))
    close((output.flip(0) if reverse else output, state.hidden), (whole, last))


def test_sizes_that_differ_and_batch_first():
    model = QRNN(3, batch_first=True, layers=[QRNNLayer(3, 5, window=2), QRNNLayer(5, 4)])
    x = X.transpose(0, 1)
    whole, hidden = model(x)
    state, outputs = model.initial_state(2), []
    assert [tuple(h.shape) for h in state.hidden] == [(1, 2, 5), (1, 2, 4)]
    for part in x.split(CUTS, 1):
        output, state = model(part, state)
        outputs.append(output)
    close((torch.cat(outputs, 1), state.hidden), (whole, hidden))
    _, state = in_steps(model.step, X, model.initial_state(2))
    close(state.hidden, hidden)
    assert not any(h.requires_grad for h in state.detach().hidden)


def test_packed():
    """The batch's own order, and each sequence's own last inputs."""
    model = QRNN(3, 4, 2, window=3)
    lanes, cuts = [X[:5, 0], X[:7, 1]], [(1, 4), (4, 3)]
    parts = [[lane.split(cut)[k] for lane, cut in zip(lanes, cuts, strict=True)] for k in range(2)]
    state, outputs = model.initial_state(2), []
    for part in parts:
        output, state = model(pack_sequence(part, enforce_sorted=False), state)
        padded, lengths = pad_packed_sequence(output)
        outputs.append([padded[:n, b] for b, n in enumerate(lengths)])
    for b, lane in enumerate(lanes):
        whole, hidden = model(lane)
        close((torch.cat([part[b] for part in outputs]), state.hidden[:, b]), (whole, hidden))


@pytest.mark.parametrize("window", [1, 3])
def test_both_directions(window):
    """The forward direction goes on; the reverse one begins anew at each chunk's end, with the state it is given."""
    model = QRNN(3, 4, window=window, bidirectional=True)
    zeros = model.initial_state(2)
    assert zeros.hidden.shape == (2, 2, 4)
    close(model(X, zeros)[0], model(X)[0])
    output, state = in_chunks(model, X, zeros)
    close((output[..., :4], state.hidden[0]), (model(X)[0][..., :4], model(X)[1][0]))
    close(model(X[:4], zeros)[0], model(X[:4])[0])
    for module in (model, model.layers[0]):
        with pytest.raises(RuntimeError, match="`step` must be asked of a module with one direction: bidirectional"):
            module.step(X[0], zeros)


def test_where_and_what_the_first_state_is():
    model = QRNN(3, 4, 2, window=2, dtype=torch.float64)
    state = model.initial_state(5)
    assert [v.dtype for v in (state.hidden, *state.inputs)] == [torch.float64] * 3
    assert not state.hidden.any()
    state = model.initial_state(5, device="meta", dtype=torch.float32)
    assert [(v.dtype, v.device.type) for v in (state.hidden, *state.inputs)] == [(torch.float32, "meta")] * 3
    assert QRNN(3, 4, device="meta").initial_state().hidden.shape == (1, 4)


# Gradients.


def test_gradients_flow_through_the_state():
    model, x = QRNN(3, 4, 2, window=3, dtype=torch.float64), X.double().requires_grad_()
    tensors = [x, *model.parameters()]
    expected = torch.autograd.grad(model(x)[0].square().sum(), tensors)
    for run, call in [(in_chunks, model), (in_steps, model.step)]:
        output, _ = run(call, x, model.initial_state(2))
        close(torch.autograd.grad(output.square().sum(), tensors), expected)
    _, state = model(x[:4], model.initial_state(2))
    assert all(v.requires_grad for v in (state.hidden, *state.inputs))
    assert not any(v.requires_grad for v in (state.detach().hidden, *state.detach().inputs))
    output, _ = model(x[4:], state.detach())
    assert not torch.autograd.grad(output.sum(), x)[0][:4].any()


def test_gradients_of_a_state():
    model = QRNN(3, 4, 2, window=2, dtype=torch.float64)
    state = pytree.tree_map(torch.randn_like, model.initial_state(2))
    leaves, shape = pytree.tree_flatten(state)
    leaves = [leaf.requires_grad_() for leaf in leaves]
    for call in (lambda s: model(X[:2].double(), s)[0], lambda s: model.step(X[0].double(), s)[0]):
        assert torch.autograd.gradcheck(lambda *v, call=call: call(pytree.tree_unflatten(v, shape)), leaves)


def test_checkpointing():
    """With inputs kept on the module, the first weight's gradient was 9.5 % off."""
    model, x = QRNN(3, 4, 2, window=3, dtype=torch.float64), X.double()
    expected = torch.autograd.grad(model(x)[0].square().sum(), list(model.parameters()))
    output, _ = in_chunks(lambda *v: checkpoint(model, *v, use_reentrant=False), x, model.initial_state(2))
    close(torch.autograd.grad(output.square().sum(), list(model.parameters())), expected)


# The rest of torch.


@pytest.mark.sample(strict=[False])
@pytest.mark.parametrize("strict", [False, True])
def test_export_of_chunks_of_any_length(strict):
    model = QRNN(3, 4, 2, window=3)
    first = model.initial_state(2)
    dynamic = {0: torch.export.Dim("steps", min=1, max=1000)}, pytree.tree_map(lambda _: None, first)
    exported = torch.export.export(model, (X[:4], first), strict=strict, dynamic_shapes=dynamic)
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    output, state = in_chunks(torch.export.load(file).module(), X, first)
    close((output, state.hidden), model(X))
    assert type(state) is QRNNState


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # which the compiler hides from logs alone
@pytest.mark.parametrize("window", [1, 3])
def test_compiled(window):
    model = QRNN(3, 4, 2, window=window)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    output, state = in_chunks(compiled, X, model.initial_state(2), [4, 2, 3])
    close((output, state.hidden), model(X))
    assert type(state) is QRNNState
    step = torch.compile(lambda x, s: model.step(x, s.detach()), fullgraph=True, backend="aot_eager")
    close(in_steps(step, X, model.initial_state(2))[0], model(X)[0])


def test_vmap():
    model = QRNN(3, 4, 2, window=2)
    run = torch.func.vmap(model, in_dims=(1, 1), out_dims=1)
    step = torch.func.vmap(model.step, in_dims=(0, 1), out_dims=(0, 1))
    whole, _ = model(X)
    close(in_chunks(run, X, model.initial_state(2))[0], whole)
    close(in_steps(step, X, model.initial_state(2))[0], whole)
    close(model(X)[0], whole)


def test_threads_that_share_a_module():
    model, results = QRNN(3, 4, 2, window=3), [None] * 4
    inputs = [torch.randn(40, 2, 3) for _ in results]

    def run(k):
        with torch.no_grad():
            results[k] = in_chunks(model, inputs[k], model.initial_state(2), 2)[0]

    threads = [threading.Thread(target=run, args=(k,)) for k in range(len(results))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with torch.no_grad():
        for x, result in zip(inputs, results, strict=True):
            close(result, model(x)[0])


def test_autocast():
    model = QRNN(3, 4, 2, window=2)
    with torch.autocast("cpu", torch.bfloat16):
        for run, call in [(in_chunks, model), (in_steps, model.step)]:
            output, state = run(call, X, model.initial_state(2))
            assert (output.dtype, state.hidden.dtype) == (torch.bfloat16, torch.float32)  # as it was given
            torch.testing.assert_close(output.float(), model(X)[0].float(), rtol=0.05, atol=0.05)
            hidden = model.initial_state(2).hidden
            assert model(X, hidden)[1].dtype == torch.bfloat16  # as of torch.nn.GRU


# Half precision: the state may be float32.

HALF = [torch.bfloat16, torch.float16]


def half_and_double(dtype, **options):
    """A network in half precision, and the same numbers in float64."""
    half = QRNN(3, 4, 2, dtype=dtype, **options)
    return half, copy.deepcopy(half).double()


@pytest.mark.sample(dtype=[HALF[0]], output_gate=[False])
@pytest.mark.parametrize(("dtype", "output_gate"), [(HALF[0], True), (HALF[0], False), (HALF[1], True)])
def test_a_state_in_float32_goes_on_where_gates_are_small(dtype, output_gate):
    """Rounded at each step, a state stands still: at half of the whole here."""
    layer = QRNNLayer(1, 1, output_gate=output_gate, dtype=dtype)
    with torch.no_grad():
        layer.linear.weight.zero_()
        layer.linear.bias.copy_(torch.tensor([0.3618, -6.0, 20.0])[: len(layer.linear.bias)])
        x = torch.zeros(500, 1, dtype=dtype)
        whole = copy.deepcopy(layer).double()(x.double())[0]
        for run, call in [(in_steps, layer.step), (lambda *v: in_chunks(*v, [5] * 100), layer)]:
            output, state = run(call, x, layer.initial_state(dtype=torch.float32))
            assert (output.dtype, state.hidden.dtype) == (dtype, torch.float32)
            torch.testing.assert_close(output.double(), whole, rtol=0.005, atol=1e-4)
        rounded, state = in_steps(layer.step, x, layer.initial_state())
        assert state.hidden.dtype == dtype
        assert dtype == torch.float16 or rounded[-1] < 0.7 * whole[-1]


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("gradients", [False, True])
def test_a_state_in_float32(dtype, gradients):
    """In chunks, in steps, packed and cut, with a gradient and without."""
    model, exact = half_and_double(dtype, window=3)
    x, first = X.to(dtype), model.initial_state(2, dtype=torch.float32)
    assert [v.dtype for v in first.inputs] == [dtype] * 2
    wanted = exact(x.double())
    packed = pack_sequence([x[:, 0], x[:, 1]])
    resets = torch.zeros(9, 2, dtype=torch.bool)
    runs = {
        "chunks": lambda: in_chunks(model, x, first),
        "steps": lambda: in_steps(model.step, x, first),
        "packed": lambda: [pad_packed_sequence(v)[0] if k == 0 else v for k, v in enumerate(model(packed, first))],
        "resets": lambda: model(x, first, resets=resets),
    }
    with torch.set_grad_enabled(gradients):
        for run in runs.values():
            output, state = run()
            assert (output.dtype, state.hidden.dtype) == (dtype, torch.float32)
            torch.testing.assert_close((output.double(), state.hidden.double()), wanted, rtol=0.05, atol=0.03)


@pytest.mark.parametrize("dtype", HALF)
def test_gradients_of_a_state_in_float32(dtype):
    model, exact = half_and_double(dtype)
    x, hidden = X.to(dtype), torch.randn(2, 2, 4)
    for call, exactly, part in [(model, exact, x), (model.step, exact.step, x[0])]:
        results = []
        for run, kind, wide in [(call, dtype, torch.float32), (exactly, torch.float64, torch.float64)]:
            first = hidden.to(wide, copy=True).requires_grad_()
            output, state = run(part.to(kind), QRNNState(first, (None, None)))
            total = output.double().square().sum() + state.hidden.double().square().sum()
            grads = torch.autograd.grad(total, [first, *run.__self__.parameters()] if part is x[0] else [first])
            assert [grad.dtype for grad in grads] == [wide, *[kind] * (len(grads) - 1)]
            results.append([grad.double() for grad in grads])
        torch.testing.assert_close(*results, rtol=0.1, atol=0.1)


def test_a_state_in_float32_where_torch_sees_each_step():
    dtype = torch.bfloat16
    model, _ = half_and_double(dtype, window=2)
    x, first = X.to(dtype), model.initial_state(2, dtype=torch.float32)
    wanted = model(x, first)
    run = torch.func.vmap(model, in_dims=(1, 1), out_dims=1)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for output, state in (run(x, first), compiled(x, first)):
            assert (output.dtype, state.hidden.dtype) == (dtype, torch.float32)
            torch.testing.assert_close((output, state.hidden), (wanted[0], wanted[1].hidden), rtol=0.02, atol=0.02)


def test_other_mixtures_are_refused():
    model = QRNN(3, 4, dtype=torch.bfloat16)
    x, zeros = X.bfloat16(), torch.zeros(1, 2, 4)
    for hidden in (zeros, QRNNState(zeros.double(), (None,)), QRNNState(zeros.half(), (None,))):
        with pytest.raises(RuntimeError, match="`hidden` must have the input's dtype torch.bfloat16"):
            model(x, hidden)
    with pytest.raises(RuntimeError, match="`hidden` must have the input's dtype torch.float32"):
        QRNN(3, 4)(X, QRNNState(zeros.bfloat16(), (None,)))
    windowed = QRNN(3, 4, window=2, dtype=torch.bfloat16)
    state = windowed.initial_state(2, dtype=torch.float32)
    with pytest.raises(RuntimeError, match="`inputs` holds the inputs before"):
        windowed(x, state._replace(inputs=(state.inputs[0].float(),)))


# A state is a value.


def test_a_state_owns_its_memory():
    for options in [{}, {"output_gate": False}]:
        model = QRNN(3, 4, window=2, **options)
        with torch.no_grad():
            for call, x in [(model, X.clone()), (model.step, X[0].clone())]:
                output, state = call(x, model.initial_state(2))
                kept = copy.deepcopy(state)
                x.zero_()
                output.zero_()
                call(X[:3] if x.dim() == 3 else X[1], state)
                assert all(map(torch.equal, pytree.tree_leaves(state), pytree.tree_leaves(kept)))
                tensors = pytree.tree_leaves(state)
                assert all(v.untyped_storage().nbytes() == v.nbytes for v in tensors)  # nothing else is kept


def test_copies():
    model = QRNN(3, 4, window=2)
    with torch.no_grad():
        _, state = model(X[:4], model.initial_state(2))
        expected = model(X[4:], state)[0]
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        same = copy.copy(state), copy.deepcopy(state), pickle.loads(pickle.dumps(state)), torch.load(file)
        for other in same:
            assert type(other) is QRNNState
            assert torch.equal(model(X[4:], other)[0], expected)
    moved = pytree.tree_map_only(torch.Tensor, lambda v: v.double(), QRNN(3, 4).initial_state(2))
    assert type(moved) is QRNNState
    assert moved.hidden.dtype == torch.float64
    assert moved.inputs == (None,)


@pytest.mark.parametrize("call", ["forward", "step"])
def test_hooks_and_stand_ins(call):
    model = QRNN(3, 4, window=2)
    seen = []
    model.layers[0].linear.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]) or 2 * output)
    x = X[0] if call == "step" else X[:1]
    state = pytree.tree_map(torch.randn_like, model.initial_state(2))
    with torch.no_grad():
        output, _ = getattr(model, call)(x, state)
    assert torch.equal(seen[0].reshape(2, 6), torch.cat([X[0], state.inputs[0][0]], -1))
    close(output.reshape(2, 4), model(X[:1], state)[0][0])
    dropped = QRNNLayer(3, 4, window=2)
    dropped.linear = WeightDrop(dropped.linear, ["weight"], 1.0)
    dropped.linear.module.bias = nn.Parameter(torch.zeros(12))
    assert not getattr(dropped, call)(x, dropped.initial_state(2))[0].any()
    dropped.eval()
    assert getattr(dropped, call)(x, dropped.initial_state(2))[0].any()


def test_zoneout_and_dropout_in_training():
    model = QRNN(3, 4, 2, zoneout=1.0)
    state = pytree.tree_map_only(torch.Tensor, torch.randn_like, model.initial_state(2))
    assert torch.equal(model.step(X[0], state)[1].hidden, state.hidden)
    model = QRNN(3, 4, 2, dropout=1.0)
    model.layers[1].linear.bias.data.zero_()
    assert not model.step(X[0], model.initial_state(2))[0].any()


# What is refused.

MODEL = QRNN(3, 4, 2, window=2)
STATE = MODEL.initial_state(2)
ALONE = QRNN(3, 4)
DIRECTIONS = QRNN(3, layers=[QRNNLayer(3, 4), QRNNLayer(4, 4, reverse=True)])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: MODEL.step(X[0], None), TypeError, "`state` must be a QRNNState, .*got NoneType"),
        (lambda: MODEL.step(X[0], STATE.hidden), TypeError, "`state` must be a QRNNState"),
        (lambda: MODEL.step(X, STATE), ValueError, "`input` of a step must be 1-D .*got 3-D"),
        (lambda: MODEL.step([1.0], STATE), TypeError, "`input` of a step must be a tensor, got list"),
        (lambda: MODEL.step(X[0, :, :2], STATE), RuntimeError, "Expected 3, got 2"),
        (lambda: MODEL.step(X[0].double(), STATE), ValueError, "must have the weights' dtype"),
        (lambda: MODEL.step(X[0, :1], STATE), RuntimeError, "`state.hidden` must fit the layers"),
        (lambda: MODEL(X[:, :1], STATE), RuntimeError, r"Expected hidden size \(2, 1, 4\)"),
        (lambda: MODEL(X, STATE._replace(inputs=STATE.inputs[:1])), RuntimeError, "one entry for each layer, 2, got 1"),
        (lambda: MODEL(X, STATE._replace(inputs=(None, None))), RuntimeError, "got None for 2"),
        (lambda: QRNN(3, 4, 2)(X, STATE), RuntimeError, "got a tensor for 1"),
        (lambda: MODEL(X, STATE._replace(inputs=STATE.inputs[::-1])), RuntimeError, "`inputs` holds the inputs before"),
        (lambda: MODEL(X, STATE._replace(hidden=STATE)), TypeError, "`hidden` must be a tensor, or a list"),
        (lambda: MODEL(X, STATE, hx=STATE), TypeError, "`hidden` and `hx`"),
        (lambda: DIRECTIONS.step(X[0], DIRECTIONS.initial_state(2)), RuntimeError, "`step` must be asked of a module"),
        # One layer is asked at once, if it is sure to check the same.
        (lambda: ALONE.step(X[0], ALONE.initial_state()), RuntimeError, "For batched 3-D input, hidden .* got 2-D"),
        (lambda: ALONE.step(X[0, 0], ALONE.initial_state(2)), RuntimeError, "For unbatched 2-D input, .* got 3-D"),
        (lambda: ALONE.step([1.0], ALONE.initial_state(2)), TypeError, "`input` of a step must be a tensor, got list"),
        (lambda: ALONE.step(X[0], ALONE.initial_state(2).hidden), TypeError, "`state` must be a QRNNState"),
        (lambda: ALONE.step(X[0], ALONE.initial_state(2, dtype=torch.float16)), RuntimeError, "`state.hidden`"),
        (lambda: ALONE(X, QRNNState(STATE.hidden[:1], None)), RuntimeError, "`inputs` of a QRNNState .*, 1, got None"),
        (lambda: ALONE(X, STATE.hidden[:1].to("meta")), RuntimeError, "`hidden` must be on the input's device, cpu"),
        (lambda: ALONE.initial_state(-2), ValueError, "`batch_size` must be at least 0, got -2"),
        (lambda: ALONE.initial_state(1.5), TypeError, "`batch_size` must be of type int"),
    ],
)
def test_bad_state(call, error, words):
    with pytest.raises(error, match=words):
        call()


def repackage_hidden(h):
    """awd-lstm-lm's function, which makes a plain tuple of any other."""
    return h.detach() if isinstance(h, torch.Tensor) else tuple(repackage_hidden(v) for v in h)


def test_a_state_that_a_detach_took_apart():
    apart = repackage_hidden(STATE)
    sizes = QRNN(3, layers=[QRNNLayer(3, 4, window=2), QRNNLayer(4, 5, window=2)]).initial_state(2)
    alone = QRNNLayer(3, 4, window=2)
    for call, state in [
        (MODEL, apart), (MODEL, list(apart)), (MODEL, repackage_hidden(sizes)), (ALONE, apart), (alone, apart),
    ]:  # fmt: skip
        with pytest.raises(TypeError, match="`hidden` must be a tensor, .*taken apart: `state.detach\\(\\)`"):
            call(X, state)
    for model in (MODEL, alone):
        with pytest.raises(TypeError, match="`state` must be a QRNNState, .*taken apart: `state.detach\\(\\)`"):
            model.step(X[0], apart)


def test_a_layer_of_its_own_sees_a_batch():
    class Own(QRNNLayer):
        def step(self, input, state):
            assert input.dim() == 2
            assert state.hidden.dim() == 3
            return super().step(input, state)

    model = QRNN(3, layers=[Own(3, 4)])
    output, state = model.step(X[0, 0], model.initial_state())
    assert output.shape == (4,)
    assert state.hidden.shape == (1, 4)


def test_layers_without_a_state():
    class Other(nn.Module):
        input_size = hidden_size = 3

    model = QRNN(3, layers=[Other()])
    with pytest.raises(TypeError, match="`layers` must hold QRNNLayers where a QRNNState is passed, got .*Other as 0"):
        model.initial_state(2)
    with pytest.raises(TypeError, match="`layers` must hold QRNNLayers where a QRNNState is passed, got .*Other as 0"):
        model.step(X[0], QRNNState(torch.zeros(1, 2, 3), (None,)))


def test_weights_on_meta():
    for model in (QRNN(3, 4, device="meta"), QRNNLayer(3, 4, device="meta")):
        for gradients in (True, False):
            with torch.set_grad_enabled(gradients), pytest.raises(RuntimeError, match="on meta, which has no numbers"):
                model(X)


# `save_prev_x`: the same code, with the inputs on the module; it refuses what it cannot do.


def test_saved_inputs_of_both_directions():
    for window in (1, 2):
        with pytest.raises(ValueError, match="`save_prev_x` must be off with bidirectional=True"):
            QRNN(3, 4, window=window, bidirectional=True, save_prev_x=True)


SAVING = {
    "vmap": lambda model: torch.func.vmap(lambda x: model(x)[0], in_dims=1)(X),
    "grad": lambda model: torch.func.grad(lambda x: model(x)[0].sum())(X),
    "export": lambda model: torch.export.export(model, (X,), strict=False),
    "strict export": lambda model: torch.export.export(model, (X,), strict=True),
    "trace": lambda model: torch.jit.trace(model, (X,)),
    "checkpoint": lambda model: checkpoint(model, X, use_reentrant=False)[0].sum().backward(),
    "old checkpoint": lambda model: (
        checkpoint(model, X.clone().requires_grad_(), use_reentrant=True)[0].sum().backward()
    ),
}


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("how", SAVING)
@pytest.mark.parametrize("make", [QRNN, QRNNLayer])
def test_saved_inputs_that_would_be_lost(how, make):
    model = make(3, 4, window=2, save_prev_x=True)
    with pytest.raises(RuntimeError, match="QRNNState"):
        SAVING[how](model)
    if "checkpoint" not in how:
        assert torch.is_tensor(model(X)[1])  # and nothing was left in the module
    SAVING[how](make(3, 4, save_prev_x=True))  # a window of 1 saves nothing


def test_saved_inputs_and_a_state():
    for model in (QRNN(3, 4, window=2, save_prev_x=True), QRNNLayer(3, 4, True, window=2)):
        state = model.initial_state(2)
        for call, x in [(model, X), (model.step, X[0])]:
            with pytest.raises(RuntimeError, match="`hidden` must be no QRNNState where the module saves"):
                call(x, state)
    model = QRNN(3, 4, save_prev_x=True)  # a window of 1
    close(in_chunks(model, X, model.initial_state(2))[0], model(X)[0])


# A default device is for new tensors, not for those of a call.


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("kind", ["plain", "window", "both directions"])
def test_default_device(kind, gradients):
    model = QRNN(3, 4, 2, window=1 + (kind == "window"), bidirectional=kind == "both directions")
    packed, parameters = pack_sequence([X[:5, 0], X[:9, 1]], enforce_sorted=False), list(model.parameters())
    results = []
    for device in (None, "meta"):
        torch.set_default_device(device)
        try:
            with torch.set_grad_enabled(gradients):
                output, rows = model(X), model(packed, model.initial_state(2))
                tensors = [*output, rows[0].data, rows[1].hidden]
                if kind != "both directions":
                    tensors.append(model.step(X[0], rows[1])[0])
                if gradients:
                    tensors += torch.autograd.grad(sum(v.square().sum() for v in tensors), parameters)
                results.append(tensors)
        finally:
            torch.set_default_device(None)
    torch.testing.assert_close(*results, rtol=0, atol=0)
