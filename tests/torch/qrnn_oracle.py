"""The quasi-recurrent network as its paper writes it: one lane, one step, one direction at a time."""

import torch


def layer(x, parameters, c0=None, *, reverse=False, window=1, zoneout=0.0, previous=None, output_gate=True):
    """Return the outputs and the last state of one lane, (T, I), with a Linear's (weight, bias)."""
    weight, bias = parameters
    features = x.shape[1]
    inputs = list(x.unbind(0))
    before = [x.new_zeros(features)] * (window - 1) if previous is None else list(previous.unbind(0))
    if reverse:
        inputs, before = inputs[::-1], before[::-1]
    seen = before + inputs
    blocks = weight.shape[0] // (2 + output_gate)
    c = x.new_zeros(blocks) if c0 is None else c0
    outputs = []
    for t in range(len(inputs)):
        source = torch.cat([seen[t + window - 1 - k] for k in range(window)])
        row = weight @ source + (0 if bias is None else bias)
        z, f = torch.tanh(row[:blocks]), torch.sigmoid(row[blocks : 2 * blocks]) * (1 - zoneout)
        c = f * z + (1 - f) * c
        outputs.append(torch.sigmoid(row[2 * blocks :]) * c if output_gate else c)
    if reverse:
        outputs = outputs[::-1]
    return torch.stack(outputs), c


def network(sequences, weights, hidden=None, **options):
    """Return each lane's outputs, and the states of layers and directions as (L*D, B, H).

    `sequences` holds a (T, I) for each lane, `weights` for each layer a list of (weight, bias) for each direction.
    """
    states, outputs = [], list(sequences)
    for directions in weights:
        halves = []
        for k, parameters in enumerate(directions):
            lanes = [
                layer(x, parameters, None if hidden is None else hidden[len(states)][b], reverse=k == 1, **options)
                for b, x in enumerate(outputs)
            ]
            halves.append([h for h, _ in lanes])
            states.append(torch.stack([c for _, c in lanes]))
        outputs = [torch.cat(parts, -1) for parts in zip(*halves, strict=True)]
    return outputs, torch.stack(states)


def weights_of(state_dict, layers, bidirectional=False):
    """Return the weights that a state dict holds under torchqrnn's names."""
    names = ["linear", "linear_reverse"][: 1 + bidirectional]
    return [
        [(state_dict[f"layers.{k}.{name}.weight"], state_dict.get(f"layers.{k}.{name}.bias")) for name in names]
        for k in range(layers)
    ]
