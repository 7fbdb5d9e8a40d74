"""QRNNs: inputs of every form, with states, segments and flags; outputs, states and all gradients."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from . import device, oracles
from .draw import chance, pick
from .families import Family
from .ways import TOLERANCE, Mismatch, compare, cotangents, direction, numbers


@dataclass
class Network:
    """A network's arguments, and one input of several sequences: their lengths, states, and where each begins anew."""

    name: str
    options: dict[str, Any]
    sizes: tuple[int, int]
    form: str  # batch, one, packed or offsets
    lengths: list[int]
    dtype: str
    numbers: dict[str, Any]
    resets: Any
    is_training: bool

    def __repr__(self):
        flags = None if self.resets is None else [np.flatnonzero(v).tolist() for v in self.resets]
        return (
            f"{self.name}{self.sizes} of {self.options}, {self.dtype}, {self.form} of {self.lengths} steps, "
            f"state {'states' in self.numbers}, resets {flags}, {'training' if self.is_training else 'evaluation'}"
        )


class Networks(Family):
    functions = ("torch.QRNN", "torch.QRNN", "torch.QRNNLayer")

    def __init__(self):
        self.ways = [as_it_is] * 8 + [elsewhere] * 4 + [compiled]

    def draw(self, name, traits, rng):
        form = pick(traits, ["batch", "batch", "one", "packed", "offsets"])
        sizes = pick(rng, [1, 2, 3, 5, 8]), pick(rng, [1, 2, 3, 5, 8, 17])
        options = {"window": pick(traits, [1, 1, 2, 3])}
        options |= {"output_gate": chance(traits, 0.7), "bias": chance(traits, 0.7)}
        options["batch_first"] = chance(traits, 0.3) and form == "batch"
        if name == "torch.QRNN":
            options |= {"num_layers": pick(traits, [1, 1, 2]), "bidirectional": chance(traits, 0.3)}
        else:
            options["reverse"] = chance(traits, 0.4)
        is_training = chance(traits, 0.6)
        if not is_training and chance(traits, 0.5):  # in training it is drawn
            options["zoneout"] = 0.25
        count = 1 if form == "one" else pick(rng, [1, 2, 3, 5])
        steps = pick(rng, [1, 2, 3, 7, 16, 33])
        lengths = [steps] * count
        if form in ("packed", "offsets"):
            lengths = [int(rng.integers(form == "packed", steps + 1)) for _ in range(count)]
            lengths[0] += not sum(lengths)
        resets = [rng.random(n) < 0.2 for n in lengths] if form in ("batch", "one") and chance(traits, 0.4) else None
        found = Network(name, options, sizes, form, lengths, pick(traits, ["f8", "f8", "f4"]), {}, resets, is_training)
        if chance(traits, 0.5):
            found.numbers["states"] = True
        return with_numbers(found, rng)


def with_numbers(network, rng):
    """Return a network's call with other numbers."""
    options, (features, hidden) = network.options, network.sizes
    directions, layers = 1 + options.get("bidirectional", False), options.get("num_layers", 1)
    found = {"input": rng.uniform(-1, 1, (sum(network.lengths), features))}
    if "states" in network.numbers:
        found["states"] = rng.uniform(-1, 1, (layers * directions, len(network.lengths), hidden))
    for k in range(layers):
        for d in range(directions):
            columns = options["window"] * (features if k == 0 else hidden * directions)
            rows, name = (2 + options["output_gate"]) * hidden, f"layers.{k}.linear" + "_reverse" * d
            found[name + ".weight"] = rng.uniform(-1, 1, (rows, columns))
            if options["bias"]:
                found[name + ".bias"] = rng.uniform(-1, 1, rows)
    found = {name: v.astype(network.dtype) for name, v in found.items()}
    return replace(network, numbers=found)


def expect(network, given):
    """Return the outputs of all sequences one after another, and the last states."""
    options, ends = network.options, np.cumsum(network.lengths)[:-1]
    weights = [
        [
            (given[f"layers.{k}.linear{end}.weight"], given.get(f"layers.{k}.linear{end}.bias"))
            for end in ("", "_reverse")[: 1 + options.get("bidirectional", False)]
        ]
        for k in range(options.get("num_layers", 1))
    ]
    states = given.get("states")
    if states is None:
        states = np.zeros((sum(map(len, weights)), len(network.lengths), network.sizes[1]), np.longdouble)
    outputs, last = oracles.qrnn(
        np.split(given["input"], ends), weights, states, options["window"], 1 - options.get("zoneout", 0.0),
        options["output_gate"], network.resets, options.get("reverse", False),
    )  # fmt: skip
    return [np.concatenate(outputs), last]


def run(network, given, rng, wrap=lambda module: module, move=lambda v: v):
    """Call a module with tensors; return what `expect` does, as tensors."""
    import torch

    from fastrecur import torch as ours

    lengths, form = network.lengths, network.form
    module = getattr(ours, network.name[6:])(*network.sizes, **network.options, dtype=given["input"].dtype)
    module.train(network.is_training)
    within = "" if network.name == "torch.QRNN" else "layers.0."
    parameters = {name: given[within + name] for name, _ in module.named_parameters()}
    rows, states, options = given["input"].split(lengths), given.get("states"), {}
    x = given["input"]
    if form == "batch":
        axis = int(not network.options["batch_first"])  # of the sequences
        x = torch.stack(rows, axis)
    elif form == "packed":
        x = torch.nn.utils.rnn.pack_sequence(rows, enforce_sorted=False)
    elif form == "offsets":
        options["offsets"] = np.concatenate([[0], np.cumsum(lengths)]).tolist()
    elif states is not None:
        states = states[:, 0]
    if network.resets is not None:
        flags = np.stack(network.resets, axis) if form == "batch" else network.resets[0]
        options["resets"] = flags if chance(rng, 0.5) else move(torch.from_numpy(flags))
    call = wrap(lambda parameters, x, states: torch.func.functional_call(module, parameters, (x, states), options))
    output, last = call(parameters, x, states)
    if form == "batch":
        output = torch.cat(output.unbind(axis))
    elif form == "packed":
        padded, found = torch.nn.utils.rnn.pad_packed_sequence(output)
        output = torch.cat([padded[:n, k] for k, n in enumerate(found.tolist())])
    return [output, last.unsqueeze(1) if form == "one" else last]


def check(network, rng, move=lambda v: v, **how):
    """Compare outputs and states, and gradients of some operands or none."""
    import torch

    given = {name: torch.from_numpy(v.copy()) for name, v in network.numbers.items()}
    names = [name for name in given if chance(rng, 0.8)] if chance(rng, 0.75) else []
    given = {name: move(v.requires_grad_(name in names)) for name, v in given.items()}
    with torch.set_grad_enabled(bool(names)):
        found = run(network, given, rng, move=move, **how)
    wide, tolerance = {n: oracles.wide(v) for n, v in network.numbers.items()}, TOLERANCE[given["input"].itemsize]
    wanted = expect(network, wide)
    for what, got, want in zip(("output", "state"), found, wanted, strict=True):
        compare(what, numbers(got)[0], want, tolerance)
    if not names:
        return
    gs = [move(torch.from_numpy(g).to(v.dtype)) for g, v in zip(cotangents(wanted, rng), found, strict=True)]
    grads = torch.autograd.grad(found, [given[n] for n in names], gs, allow_unused=True)
    gs, step = [oracles.wide(numbers(g)[0]) for g in gs], np.longdouble(1e-6)
    for name, grad in zip(names, grads, strict=True):
        grad = np.zeros(wide[name].shape) if grad is None else numbers(grad)[0]
        way = direction(wide[name], rng)
        ends = [expect(network, wide | {name: wide[name] + sign * step * way}) for sign in (1, -1)]
        right = sum((g * (one - other)).sum() for g, one, other in zip(gs, *ends, strict=True)) / (2 * step)
        got, size = float((grad * way).sum()), np.abs(grad * way).sum() + sum((g**2).sum() for g in gs) ** 0.5
        if not abs(got - right) <= tolerance * (size + 1e-3):
            raise Mismatch(f"gradient of {name}: {got} in place of {right} along a direction")


def as_it_is(family, network, traits, rng):
    """Call; again with other numbers; with the state there or not; and as at first."""
    other = with_numbers(network, rng)
    turned = dict(network.numbers)
    if turned.pop("states", None) is None:
        turned["states"] = True
    for one in (network, other, with_numbers(replace(network, numbers=turned), rng), network):
        check(one, rng)


def elsewhere(family, network, traits, rng):
    if device.place() is None or network.form == "packed":  # torch keeps batch sizes in CPU memory
        return as_it_is(family, network, traits, rng)
    with device.plain(chance(rng, 0.6)):
        check(network, rng, move=device.moved)


def compiled(family, network, traits, rng):
    import torch

    torch._dynamo.reset()
    backend = pick(rng, ["eager", "aot_eager"])
    if network.form == "packed":  # torch's packing breaks graphs
        return as_it_is(family, network, traits, rng)
    check(network, rng, wrap=lambda function: torch.compile(function, backend=backend))
