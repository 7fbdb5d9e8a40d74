"""A QRNN on several processes by DistributedDataParallel: the same weights as one process with the whole batch.

The network learns to repeat a word after a delay. Two processes each take half of the batch; without GPUs they run on
the CPU. The same steps in one process with the whole batch must give the same losses. Prints the difference, and saves
a chart, in about 20 s on two cores:

    python examples/ddp.py [--steps N] [--processes N] [--output FILE]
"""

import argparse
import os
import socket
import tempfile
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # a picture in a file needs no display

import matplotlib.pyplot as plt
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fastrecur.torch import QRNN

WORDS, DELAY, LENGTH, BATCH, UNITS = 20, 3, 40, 32, 64


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, UNITS)
        self.rnn = QRNN(UNITS, UNITS, 2, window=2)
        self.head = nn.Linear(UNITS, WORDS)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(self.embedding(words))[0])


def train(model: nn.Module, steps: int, rank: int, processes: int, device: torch.device) -> torch.Tensor:
    """Return the losses of a process on its part of each batch."""
    draw = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        words = torch.randint(WORDS, (LENGTH, BATCH), generator=draw).chunk(processes, 1)[rank].to(device)
        logits = model(words)[DELAY:]
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), words[:-DELAY].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach().cpu())
    return torch.stack(losses)


def worker(rank: int, processes: int, port: int, steps: int, path: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    gpus = torch.cuda.device_count() >= processes
    torch.set_num_threads(1)
    dist.init_process_group("nccl" if gpus else "gloo", rank=rank, world_size=processes)
    device = torch.device("cuda", rank) if gpus else torch.device("cpu")
    torch.manual_seed(0)
    model = DistributedDataParallel(Model().to(device), device_ids=[rank] if gpus else None)
    losses = train(model, steps, rank, processes, device).to(device)
    dist.all_reduce(losses)
    if rank == 0:
        torch.save(losses.cpu() / processes, path)
    dist.barrier()  # no process ends while another one still talks to it
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    options = parser.parse_args()

    torch.manual_seed(0)
    alone = train(Model(), options.steps, 0, 1, torch.device("cpu"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "losses.pt")
        mp.spawn(worker, (options.processes, port, options.steps, path), nprocs=options.processes)
        together = torch.load(path, weights_only=True)

    difference = ((alone - together).abs() / alone)[:20].max().item()
    print(
        f"loss after {options.steps} steps: {alone[-1]:.4f} in one process, {together[-1]:.4f} in {options.processes}"
    )
    apart = f"differ by at most {difference:.0e} of the loss" if difference else "do not differ"
    print(f"   in the first 20 steps they {apart}")
    plot(options.output, alone, together, options.processes)
    print(f"Saved {options.output}")
    if difference > 1e-3:
        raise SystemExit("the processes do not train the same network")


def plot(output: Path, alone: torch.Tensor, together: torch.Tensor, processes: int) -> None:
    figure, ax = plt.subplots(figsize=(8, 4.2), layout="constrained")
    ax.plot(alone, color="#8A8A8A", lw=5, alpha=0.6, label=f"one process, batches of {BATCH}")
    ax.plot(together, color="#0072B2", lw=1.5, label=f"{processes} processes, {BATCH // processes} each")
    ax.set(xlabel="step of the optimizer", ylabel="loss", ylim=(0, None))
    ax.set_title(f"Repeat the word of {DELAY} steps ago, of {WORDS} words")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    figure.savefig(output, dpi=120)


if __name__ == "__main__":
    main()
