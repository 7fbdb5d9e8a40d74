"""A trained model as a file: `torch.export` with a free length and a state, loaded and run without the model's code.

The model denoises a signal with a QRNN. It is trained for a moment, exported, loaded again, and run on sequences of
other lengths and in two parts with the state between them. Prints the differences, and saves a chart, in
about 4 s on two cores:

    python examples/export.py [--steps N] [--output FILE]
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # a picture in a file needs no display

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

from fastrecur.torch import QRNN

UNITS, LENGTH, BATCH = 32, 100, 16


class Denoiser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = QRNN(1, UNITS, 2)
        self.head = nn.Linear(UNITS, 1)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        output, state = self.rnn(x, state)
        return self.head(output), state


def signals(length: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return noisy and clean square waves, (T, B, 1)."""
    phase, period = torch.rand(2, 1, BATCH, 1, generator=draw)
    time = torch.arange(length)[:, None, None] / (20 + 30 * period)
    clean = torch.sign(torch.sin(2 * torch.pi * (time + phase)))
    return clean + 0.7 * torch.randn(clean.shape, generator=draw), clean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    options = parser.parse_args()

    torch.manual_seed(0)
    draw, model = torch.Generator().manual_seed(0), Denoiser()
    zero = torch.zeros(2, BATCH, UNITS)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(options.steps):
        noisy, clean = signals(LENGTH, draw)
        loss = nn.functional.mse_loss(model(noisy, zero)[0], clean)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    path = options.output.with_suffix(".pt2")
    length = torch.export.Dim("length", min=2, max=100_000)
    program = torch.export.export(model.eval(), (noisy, zero), dynamic_shapes=({0: length}, None))
    torch.export.save(program, path)
    loaded = torch.export.load(path).module()  # needs `import fastrecur.torch`, which registers the operator
    print(f"Exported {path.stat().st_size // 1024} KB; squared error in training {loss.item():.3f}")
    path.unlink()

    noisy, clean = signals(7 * LENGTH, draw)
    with torch.no_grad():
        here, _ = model(noisy, zero)
        there, _ = loaded(noisy, zero)
        first, state = loaded(noisy[:333], zero)
        second, _ = loaded(noisy[333:], state)
    differences = [(other - here).abs().max().item() for other in (there, torch.cat([first, second]))]
    print(
        f"   {7 * LENGTH} steps: at most {differences[0]:.0e} from the model, in two parts at most {differences[1]:.0e}"
    )
    plot(options.output, noisy[:300, 0, 0], clean[:300, 0, 0], there[:300, 0, 0])
    print(f"Saved {options.output}")
    if max(differences) > 1e-5:
        raise SystemExit("the exported program is not the model")


def plot(output: Path, noisy: Tensor, clean: Tensor, result: Tensor) -> None:
    figure, ax = plt.subplots(figsize=(9, 4), layout="constrained")
    ax.plot(noisy, ".", ms=3, color="#8A8A8A", label="input")
    ax.plot(clean, color="black", lw=1, ls=":", label="clean")
    ax.plot(result, color="#0072B2", lw=1.8, label="the exported program")
    ax.set(xlabel="step", title=f"Trained on {LENGTH} steps, exported with a free length")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.15))
    figure.savefig(output, dpi=120)


if __name__ == "__main__":
    main()
