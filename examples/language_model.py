"""A language model by the recipe of AWD-LSTM and AWD-QRNN, on words or characters: LSTM, GRU or QRNN.

Trains on Shakespeare's plays or on a folder with the texts of PTB or WikiText, prints the perplexity and a text sample,
and saves a chart of the training:

    python examples/language_model.py [--model qrnn|lstm|gru] [--level char|word] [--data FOLDER] [--output FILE]

The script may be killed at any moment: the same command with `--resume` continues from the last checkpoint, with the
same losses. It uses a GPU if there is one, and several processes if torchrun starts them:

    torchrun --nproc-per-node 2 examples/language_model.py

The recipe [1]: the embedding is tied to the output; dropout of words, of the recurrent weights, and of features, with
the same mask at all steps; a state that is carried between segments of random length; penalties on large and on quickly
changing outputs (AR, TAR); clipped gradients; and averaged weights, from where the validation no longer improves.
`--optimiser sgd` is the paper's; Adam is faster for short trainings.

[1] S. Merity, N. S. Keskar, R. Socher, "Regularizing and Optimizing LSTM Language Models", ICLR 2018, arXiv:1708.02182
"""

from __future__ import annotations

import argparse
import array
import bisect
import collections
import copy
import gzip
import math
import os
import re
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")  # a picture in a file needs no display

import matplotlib.pyplot as plt
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_swa_multi_avg_fn
from tqdm import tqdm

from fastrecur.torch import QRNNLayer, WeightDrop

HERE = Path(__file__).resolve().parent
BLUE, ORANGE = "#0072B2", "#D55E00"
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left", "legend.frameon": False}
SHIPPED = HERE / "data" / "tinyshakespeare.txt.gz"
UNKNOWN, END = "<unk>", "<eos>"
RATES = {"adam": 5e-3, "sgd": 10.0}


# ---- Text ------------------------------------------------------------------------------------------------------------


class Corpus(NamedTuple):
    """Three texts as indices of words or characters, and the vocabulary."""

    train: Tensor
    valid: Tensor
    test: Tensor
    words: list[str]


def read(folder: Path | None, level: str) -> Corpus:
    """Read a folder's `*train*`, `*valid*` and `*test*` (PTB's and WikiText's names), or the text that is shipped."""
    if folder is None:
        lines = gzip.open(SHIPPED, "rt").read().splitlines(keepends=True)
        if level == "word":
            lines = [" ".join(re.findall(r"\w+|[^\w\s]", line)) + "\n" for line in lines]
        cuts = 0, len(lines) * 18 // 20, len(lines) * 19 // 20, len(lines)
        texts = [lines[a:b] for a, b in pairwise(cuts)]
        fewest = 3  # rarer words are unknown, as in PTB
    else:
        files = [only_file(folder, part) for part in ("train", "valid", "test")]
        texts = [file.read_text(encoding="utf-8").splitlines(keepends=True) for file in files]
        fewest = 1
    split = list if level == "char" else lambda line: [*line.split(), END]
    counts = collections.Counter(word for line in texts[0] for word in split(line))
    words = [UNKNOWN, *(word for word, count in counts.items() if count >= fewest and word != UNKNOWN)]
    number = {word: k for k, word in enumerate(words)}
    return Corpus(*(numbers(number.get(word, 0) for line in text for word in split(line)) for text in texts), words)


def only_file(folder: Path, part: str) -> Path:
    found = sorted(path for path in folder.iterdir() if part in path.name)
    if len(found) != 1:
        raise SystemExit(f"`--data`: {folder} must have one file with {part!r} in its name, and has {len(found)}")
    return found[0]


def numbers(values: Iterable[int]) -> Tensor:
    return torch.frombuffer(array.array("i", values), dtype=torch.int32).long()


def lanes(text: Tensor, count: int) -> Tensor:
    """Split a text into a batch of `count` sequences, (steps, count)."""
    if len(text) < 2 * count:
        raise SystemExit(f"a text of {len(text)} words or characters is too short for a batch of {count}")
    return text[: len(text) // count * count].view(count, -1).T.contiguous()


# ---- Network ---------------------------------------------------------------------------------------------------------


class LanguageModel(nn.Module):
    """Words in, the logarithms of the next word's probabilities (to a constant) out."""

    def __init__(self, words: int, hidden: int, options: argparse.Namespace, device: Any = None) -> None:
        super().__init__()
        self.options = options
        sizes = [options.embedding, *[hidden] * (options.layers - 1), options.embedding]
        self.embedding = nn.Embedding(words, options.embedding, device=device)
        self.rnns = nn.ModuleList()
        for k, (inputs, outputs) in enumerate(pairwise(sizes)):
            if options.model == "qrnn":
                # The first layer also reads the previous input; it keeps the last one of a segment for the next.
                rnn = QRNNLayer(inputs, outputs, window=2 if k == 0 else 1, save_prev_x=k == 0, device=device)
                rnn.linear = WeightDrop(rnn.linear, ["weight"], options.weight_drop)
            else:
                kind = {"lstm": nn.LSTM, "gru": nn.GRU}[options.model]
                rnn = WeightDrop(kind(inputs, outputs, device=device), ["weight_hh_l0"], options.weight_drop)
            self.rnns.append(rnn)
        self.head = nn.Linear(options.embedding, words, device=device)
        self.head.weight = self.embedding.weight
        nn.init.normal_(self.embedding.weight, std=0.5)
        nn.init.zeros_(self.head.bias)

    def forward(self, words: Tensor, states: list[Any]) -> tuple[Tensor, list[Any], Tensor, Tensor]:
        """Return logits, states, and the last layer's output with and without dropout; (T, B) and (T, B, features)."""
        o = self.options
        kept = F.dropout(self.embedding.weight.new_ones(self.embedding.num_embeddings, 1), o.word_drop, self.training)
        x = locked_dropout(self.embedding(words) * F.embedding(words, kept), o.input_drop, self.training)
        after = []
        for rnn, state in zip(self.rnns, states, strict=True):
            raw, state = rnn(x, state)
            after.append(state)
            x = locked_dropout(raw, o.output_drop if rnn is self.rnns[-1] else o.hidden_drop, self.training)
        return self.head(x), after, x, raw

    def begin(self) -> list[None]:
        """Forget the text before; return the states to begin with."""
        for rnn in self.rnns:
            if isinstance(rnn, QRNNLayer):
                rnn.reset()
        return [None] * len(self.rnns)


def locked_dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Drop the same features at all steps of (T, B, features)."""
    return F.dropout1d(x.permute(1, 2, 0), p, training).permute(2, 0, 1)


def each(function: Callable[[Tensor], Tensor], state: Any) -> Any:
    """Call a function on a layer's state: a tensor, nn.LSTM's two, or None."""
    if isinstance(state, tuple):
        return tuple(map(function, state))
    return None if state is None else function(state)


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def build(words: int, options: argparse.Namespace) -> LanguageModel:
    """Return the network with `--hidden` units, or with about `--weights` weights."""

    def weights(hidden: int) -> int:
        return size(LanguageModel(words, hidden, options, "meta"))

    hidden = options.hidden
    if hidden is None:
        more = bisect.bisect_left(range(1, 10_000), options.weights, key=weights) + 1
        hidden = min((max(1, more - 1), more), key=lambda units: abs(weights(units) - options.weights))
    return LanguageModel(words, hidden, options)


# ---- Training --------------------------------------------------------------------------------------------------------


class Training:
    """The whole state of a training, which a checkpoint holds."""

    def __init__(self, corpus: Corpus, options: argparse.Namespace) -> None:
        self.options = options
        self.rank, self.processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        if options.batch % self.processes:
            raise SystemExit(f"`--batch` must be a multiple of the {self.processes} processes, and is {options.batch}")
        own_gpu = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        self.device = torch.device(own_gpu if torch.cuda.is_available() else "cpu")
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)

        torch.manual_seed(options.seed)
        self.model = build(len(corpus.words), options).to(self.device)
        # Evaluated is a copy, which has the averaged weights once averaging has begun.
        self.average = copy.deepcopy(self.model).eval()
        self.parallel = self.model
        if self.processes > 1:
            self.parallel = DistributedDataParallel(self.model)
        self.rate = options.rate or RATES[options.optimiser]
        kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[options.optimiser]
        self.optimiser = kind(self.model.parameters(), self.rate, weight_decay=options.weight_decay)
        torch.manual_seed(options.seed * 10_000 + self.rank)  # each process has its own masks
        self.lengths = torch.Generator().manual_seed(options.seed)  # and all have the same lengths

        self.text, self.valid, self.test = (self.share(text) for text in corpus[:3])
        self.states = self.model.begin()
        self.step, self.epoch, self.place, self.seconds = 0, 0, 0, 0.0
        self.add_to_average, self.averaged = get_swa_multi_avg_fn(), 0  # how many steps' weights
        self.averaged_from: float | None = None  # seconds
        self.curve: list[tuple[int, float, float, float]] = []  # step, seconds, loss in training, loss in validation

    def share(self, text: Tensor) -> Tensor:
        """Return this process's part of the batch of a text."""
        return lanes(text, self.options.batch)[:, self.rank :: self.processes].to(self.device)

    def learn(self) -> tuple[float, int]:
        """Train on the next segment of text; return the loss per word and the number of steps."""
        o, began = self.options, time.perf_counter()
        mean = o.bptt if torch.rand((), generator=self.lengths) < 0.95 else o.bptt / 2
        length = max(5, int(torch.normal(mean, 5.0, (), generator=self.lengths)))
        length = min(length, len(self.text) - 1 - self.place)
        words, following = self.text[self.place :][:length], self.text[self.place + 1 :][:length]

        self.model.train()
        logits, states, dropped, raw = self.parallel(words, self.states)
        loss = F.cross_entropy(logits.flatten(0, 1), following.flatten())
        penalty = o.alpha * dropped.square().mean()
        if length > 1:
            penalty = penalty + o.beta * raw.diff(dim=0).square().mean()
        self.optimiser.zero_grad()
        (loss + penalty).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), o.clip)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * length / o.bptt  # a short segment has less information
        self.optimiser.step()
        if self.averaged_from is not None:
            self.add_to_average(list(self.average.parameters()), list(self.model.parameters()), self.averaged)
            self.averaged += 1

        self.states = [each(Tensor.detach, state) for state in states]
        self.step, self.place = self.step + 1, self.place + length
        if self.place == len(self.text) - 1:
            self.epoch, self.place, self.states = self.epoch + 1, 0, self.model.begin()
        loss = loss.item()
        self.seconds += time.perf_counter() - began
        return loss, length

    def validate(self, loss: float) -> float:
        """Note the losses, return the validation's, and begin to average where it was better some time ago."""
        if self.averaged_from is None:
            self.average.load_state_dict(self.model.state_dict())
        valid = self.evaluate(self.valid)
        before = [row[3] for row in self.curve[: -self.options.patience]]
        if self.averaged_from is None and before and valid > min(before):
            self.averaged_from = self.seconds
        self.curve.append((self.step, self.seconds, loss, valid))
        return valid

    @torch.no_grad()
    def evaluate(self, text: Tensor) -> float:
        """Return the loss per word over all processes."""
        states, total = self.average.begin(), torch.zeros(2, device=self.device, dtype=torch.float64)
        for words, following in zip(*(part.split(self.options.bptt) for part in (text[:-1], text[1:])), strict=True):
            logits, states, _, _ = self.average(words, states)
            loss = F.cross_entropy(logits.flatten(0, 1), following.flatten(), reduction="sum")
            total += torch.stack([loss.double(), total.new_tensor(words.numel())])
        if self.processes > 1:
            dist.all_reduce(total)
        return (total[0] / total[1]).item()

    def windows(self) -> list[QRNNLayer]:
        """Return the layers that keep the last inputs of a segment for the next one."""
        return [layer for layer in self.model.modules() if isinstance(layer, QRNNLayer) and layer.save_prev_x]

    def save(self, path: Path) -> None:
        """Write a checkpoint atomically: it is complete whenever the process or the machine stops."""
        own = {
            "states": [each(Tensor.cpu, state) for state in self.states], "random": torch.get_rng_state(),
            "inputs": [layer.prevX.cpu() for layer in self.windows() if layer.prevX is not None],
            "random_cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }  # fmt: skip
        all_own = [own]
        if self.processes > 1:
            all_own = [None] * self.processes
            dist.all_gather_object(all_own, own)
        if self.rank:
            return
        whole = {name: getattr(self, name).state_dict() for name in self.MODULES}
        whole |= {name: getattr(self, name) for name in self.NUMBERS}
        whole |= {"lengths": self.lengths.get_state(), "processes": all_own, "options": fixed(self.options)}
        beside = path.with_name(path.name + ".part")
        with open(beside, "wb") as file:
            torch.save(whole, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)

    def load(self, whole: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        before, now = whole["options"], fixed(self.options)
        if differ := [f"--{name} {before.get(name)}" for name in now if now[name] != before.get(name)]:
            raise SystemExit(f"the checkpoint was made with {', '.join(differ)}".replace("_", "-"))
        if len(whole["processes"]) != self.processes:
            raise SystemExit(f"the checkpoint is of {len(whole['processes'])} processes, here are {self.processes}")
        own = whole["processes"][self.rank]
        for name in self.MODULES:
            getattr(self, name).load_state_dict(whole[name])
        for name in self.NUMBERS:
            setattr(self, name, whole[name])
        self.lengths.set_state(whole["lengths"])
        self.states = [each(lambda v: v.to(self.device), state) for state in own["states"]]
        for layer, inputs in zip(self.windows(), own["inputs"], strict=False):
            layer.prevX = inputs.to(self.device)
        torch.set_rng_state(own["random"])
        if own["random_cuda"] is not None:
            torch.cuda.set_rng_state(own["random_cuda"], self.device)

    MODULES = "model", "average", "optimiser"
    NUMBERS = "step", "epoch", "place", "seconds", "averaged", "averaged_from", "curve"


def fixed(options: argparse.Namespace) -> dict[str, str]:
    """Return the options that must not change in a training."""
    free = "epochs", "checkpoint", "resume", "output", "sample"
    return {name: str(value) for name, value in vars(options).items() if name not in free}


def train(corpus: Corpus, options: argparse.Namespace) -> Training:
    """Train, with a checkpoint after each validation; begin with the last one if so wished."""
    training = Training(corpus, options)
    if options.resume and options.checkpoint.exists():
        training.load(torch.load(options.checkpoint, map_location="cpu"))
    steps = len(training.text) - 1
    bar = tqdm(
        desc=f"{options.model}, {size(training.model)} weights", total=options.epochs * steps * options.batch,
        initial=(training.epoch * steps + training.place) * options.batch, unit=options.level, unit_scale=True,
        disable=training.rank > 0,
    )  # fmt: skip
    lost, seen, valid = 0.0, 0, math.nan
    while training.epoch < options.epochs:
        loss, length = training.learn()
        lost, seen = lost + loss * length, seen + length
        if training.step % options.every == 0 or training.epoch == options.epochs:
            valid = training.validate(lost / seen)
            training.save(options.checkpoint)
            lost, seen = 0.0, 0
        bar.update(length * options.batch)
        bar.set_postfix(loss=f"{loss:.3f}", perplexity=f"{math.exp(loss):.2f}", valid=f"{math.exp(valid):.2f}")
    bar.close()
    return training


# ---- Report ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def write(training: Training, corpus: Corpus, count: int) -> str:
    """Return what the network writes."""
    network = training.average
    draw = torch.Generator(training.device).manual_seed(training.options.seed)
    word, states, written = torch.zeros(1, 1, dtype=torch.long, device=training.device), network.begin(), []
    for _ in range(count):
        logits, states, _, _ = network(word, states)
        logits[..., 0] = -math.inf  # never the unknown word
        word = torch.multinomial(logits[0].softmax(-1), 1, generator=draw)
        written.append(corpus.words[word.item()])
    return "".join(written) if training.options.level == "char" else " ".join(written).replace(f" {END} ", "\n")


def plot(training: Training) -> None:
    o, (_, seconds, losses, valid) = training.options, zip(*training.curve, strict=True)
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(8, 4.5), layout="constrained")
        ax.plot(seconds, [math.exp(v) for v in losses], color=ORANGE, lw=1, label="training, with dropout")
        ax.plot(seconds, [math.exp(v) for v in valid], color=BLUE, lw=2, label="validation")
        if training.averaged_from is not None:
            ax.axvline(training.averaged_from, color="black", lw=0.8, ls=":")
            ax.text(training.averaged_from, 0.6, "weights averaged from here ", rotation=90, ha="right", va="center",
                    transform=ax.get_xaxis_transform())  # fmt: skip
        best, unit = math.exp(min(valid)), {"char": "character", "word": "word"}[o.level]
        ax.set(xlabel="seconds of training", ylabel=f"perplexity per {unit}", ylim=(0.9 * best, 2 * best))
        about = f"{o.model.upper()}, {size(training.model):,} weights"
        ax.set_title(f"A language model of {o.data or 'Shakespeare'}: {about}")
        ax.legend(loc="upper center")
        figure.savefig(o.output, dpi=130)
        plt.close(figure)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--model", choices=("qrnn", "lstm", "gru"), default="qrnn")
    add("--level", choices=("char", "word"), default="char")
    add("--data", type=Path, metavar="FOLDER", help="with one file each for train, valid and test; else Shakespeare")
    add("--output", type=Path, default=Path(__file__).with_suffix(".png"), help="the picture")
    add("--sample", type=int, default=400, help="how many words or characters to write at the end")
    add("--checkpoint", type=Path, default=Path("language_model.pt"))
    add("--resume", action="store_true", help="go on from the checkpoint, if it exists")
    add("--seed", type=int, default=0)
    # The network
    add("--weights", type=int, default=200_000, help="about so many, by the number of units")
    add("--hidden", type=int, help="units of the inner layers, in place of --weights")
    add("--layers", type=int, default=3)
    add("--embedding", type=int, default=64, help="features of the embedding, and units of the last layer")
    # How it learns
    add("--epochs", type=int, default=4)
    add("--batch", type=int, default=16, help="batch size")
    add("--bptt", type=int, default=100, help="mean number of steps of a segment")
    add("--every", type=int, default=100, help="steps between checkpoints, each after a validation")
    add("--optimiser", choices=RATES, default="adam")
    add("--rate", type=float, help=f"by default {RATES}")
    add("--clip", type=float, default=1.0, help="the longest gradient")
    add("--patience", type=int, default=6, help="average once a validation was better so many validations ago")
    # How it is kept from learning by heart
    add("--word-drop", type=float, default=0.0, help="dropout of words")
    add("--input-drop", type=float, default=0.0, help="dropout of the first layer's input")
    add("--hidden-drop", type=float, default=0.02, help="dropout between layers")
    add("--output-drop", type=float, default=0.02, help="dropout of the last layer's output")
    add("--weight-drop", type=float, default=0.02, help="dropout of the recurrent weights; of all of a QRNN's")
    add("--alpha", type=float, default=0.02, help="penalty on large outputs")
    add("--beta", type=float, default=0.02, help="penalty on changes of the output")
    add("--weight-decay", type=float, default=1.2e-6)
    return parser.parse_args(arguments)


def main() -> None:
    options = parse()
    if "RANK" in os.environ:  # torchrun's
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    corpus = read(options.data, options.level)
    training = train(corpus, options)
    test = training.evaluate(training.test)
    if training.rank == 0:
        print(f"{training.step} steps, {training.epoch} epochs, {training.seconds:.1f} s of training")
        valid = training.curve[-1][3]
        for name, loss in (("validation", valid), ("test", test)):
            print(f"   {name:10} perplexity {math.exp(loss):.3f}, {loss / math.log(2):.3f} bits a {options.level}")
        print(write(training, corpus, options.sample))
        plot(training)
        print(f"Saved {options.output}")
    if dist.is_initialized():
        # A thread of gloo that lets go of a tensor while its process ends would abort it: all processes end when the
        # first has written and drawn.
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
