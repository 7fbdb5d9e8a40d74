"""Run the examples: pictures and reports of the gallery, or a short form of each that checks its claim.

    python docs/make_gallery.py [--only NAME ...]     # writes docs/_static/NAME.png and NAME.txt
    python docs/make_gallery.py --short FOLDER        # seconds each, into a folder; fails where a claim does not hold

conf.py writes a page for each example from its docstring, its picture and its report.
"""

import argparse
import ast
import io
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from matplotlib import image

import fastrecur

DOCS = Path(__file__).resolve().parent
sys.path.append(str(DOCS.parent / "tests" / "benchmarks"))
import report  # noqa: E402

EXAMPLES = DOCS.parent / "examples"
STORED = DOCS / "_static"
PAGES = DOCS / "gallery"
VERSIONS = ("numpy", "numba", "torch", "jax", "transformers", "pandas", "matplotlib")


class Example(NamedTuple):
    title: str
    shown: str  # what the picture shows
    short: str = ""  # options of the short form
    more: str = ""  # a page that says more
    measured: str = ""  # where and when, of a picture whose report does not say so
    panel: tuple = (0, 0, 1, 1)  # what the gallery shows of the picture: left, top, right and bottom, as parts of it


SECTIONS = {
    "Signals and tables": {
        "quickstart": Example("A gate from the data", "Glucose, smoothed by a constant and by a data-dependent gate",
                              panel=(0, 0, 1, 0.425)),
        "smoothing": Example("Irregular readings with gaps", "A mean in time, its spread, and a mean without a lag",
                             more="howto/smoothing", panel=(0, 0, 1, 0.497)),
        "pandas_groupby": Example("Groups of a pandas table", "Noisy readings of three sensors and their means",
                                  "--sensors 100", "howto/coming_from_pandas"),
        "covariances": Example("Covariances of a market", "Correlations of all pairs of assets in a crash",
                               more="howto/coming_from_pandas", panel=(0, 0, 0.706, 1)),
        "seasons": Example("A year's sales of many shops", "Sales of a shop, and its forecast with intervals",
                           more="howto/seasons", panel=(0, 0, 0.51, 1)),
        "learned_smoothing": Example("Learned smoothing factors", "Factors that converge to the Kalman filter's gains",
                                     "--steps 60", "howto/gradients", panel=(0, 0, 0.555, 1)),
        "pcen": Example("Speech in growing noise", "Spectrograms in decibels and normalized by PCEN",
                        panel=(0, 0.362, 1, 0.728)),
        "equalizer": Example("An equalizer and a compressor, learned", "Gain of an unknown equalizer and of the "
                             "learned one, errors, envelopes before and after a compressor", "--steps 20",
                             "howto/recipes", panel=(0, 0, 0.339, 1)),
        "out_of_core": Example("A series larger than memory", "A year of readings and a week of it, smoothed",
                               "--size 40", "howto/beyond_one_machine", panel=(0, 0, 0.665, 1)),
    },
    "Recurrent networks": {
        "mingru": Example("minGRU: a gate that selects", "Accuracy with a data-dependent gate, a constant one, none",
                          more="howto/torch"),
        "lru": Example("LRU: coefficients that oscillate", "Impulse responses of complex and of real coefficients",
                       panel=(0, 0, 1, 0.484)),
        "jax_lru": Example("An LRU in JAX", "Loss by seconds of training, by three ways to run the recurrence",
                           "--steps 12", "howto/jax"),
        "mamba": Example("Mamba on a laptop", "Loss by seconds of training, by fastrecur's scan and by a Python loop",
                         "--steps 8 --length 64", "howto/mamba"),
        "qrnn_against_lstm": Example("QRNN and LSTM on Shakespeare", "Test loss by steps and by time",
                                     "--steps 2", "howto/qrnn",
                                     "AMD EPYC, 2 cores, torch 2.13, 2026-11-25, with ``--steps 150``",
                                     panel=(0, 0, 0.524, 1)),
        "language_model": Example("A language model", "Perplexity during training",
                                  "--weights 20000 --batch 256 --epochs 1 --every 20", "howto/language_model",
                                  "AMD EPYC, 2 cores, torch 2.13, 2026-11-26"),
        "speakers": Example("Speakers in packed sequences", "Test errors by time of training, and lengths of sequences",
                            "--epochs 2 --seeds 1", "howto/classify_sequences",
                            "AMD EPYC, 2 cores, torch 2.13, 2026-11-25", panel=(0, 0, 0.589, 1)),
        "packed": Example("Packed recordings", "Losses packed and padded; answers with and without borders",
                          more="howto/segments", panel=(0.437, 0, 1, 1)),
        "figure4": Example("The QRNN paper's figure 4", "Parts of a training step, and speed by batch and length",
                           "--quick", "benchmarks_details",
                           "AMD EPYC, 2 cores, torch 2.13, 2026-11-25", panel=(0.523, 0.39, 1, 1)),
    },
    "Reinforcement learning": {
        "ppo": Example("PPO on CartPole", "Steps for which the pole stands, with and without later rewards",
                       "--seeds 1 --iterations 20", "howto/reinforcement_learning"),
    },
    "In production": {
        "streaming": Example("A live stream", "Time of one step by the samples so far", "--samples 500",
                             "howto/streaming"),
        "export": Example("A model as a file", "A noisy signal, and the output of the exported program", "--steps 20",
                          "howto/torch"),
        "ddp": Example("Several processes", "The same loss in one process and in two", "--steps 40", "howto/qrnn"),
        "multigpu_dataparallel": Example("nn.DataParallel, as in torchqrnn", "Training loss",
                                         "--steps 20 --size 32", "howto/coming_from_rnn"),
    },
}  # fmt: skip
ALL = {name: example for section in SECTIONS.values() for name, example in section.items()}


def stored(name):
    """Return the path of an example's picture; a benchmark has a chart of the language model's name."""
    return STORED / f"{name.replace('language_model', 'language_model_training')}.png"


def report_of(name):
    """Return the path of an example's report; other pages show some of them, too."""
    return DOCS / f"{name}.txt" if name in ("figure4", "speakers") else stored(name).with_suffix(".txt")


def run(name, picture, options=""):
    """Run an example, and return what it prints and how long it took."""
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *options.split(), "--output", str(picture)]
    if name == "language_model":
        command += ["--checkpoint", str(picture.with_suffix(".checkpoint"))]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"MPLBACKEND": "Agg"})
    if done.returncode:
        raise SystemExit(f"{name}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    if not picture.exists():
        raise SystemExit(f"{name}: no picture")
    return done.stdout, time.perf_counter() - began


def store(name):
    """Write the picture and the report of an example, which begins as those of benchmarks do."""
    picture = stored(name)
    printed, seconds = run(name, picture)
    picture.with_suffix(".checkpoint").unlink(missing_ok=True)
    facts = report.about(EXAMPLES / f"{name}.py", [], fastrecur.get_num_threads(), seconds, VERSIONS)
    told = [line for line in printed.splitlines() if str(picture) not in line]  # a path of this machine
    report_of(name).write_text("\n".join([report.title(facts), "", *told]).rstrip() + "\n")


def write_pages():
    """Write the gallery's pages; a file that would not change stays, so that it is not built again."""
    PAGES.mkdir(exist_ok=True)
    index = [
        "Gallery",
        "=======",
        "",
        "Each example is one file that needs no other.",
        "",
    ]
    for section, examples in SECTIONS.items():
        index += [section, "-" * len(section), "", ".. container:: gallery", ""]
        for name, example in examples.items():
            index += [
                f"   .. figure:: {thumbnail(name, example.panel)}", f"      :target: {name}.html",
                f"      :alt: {example.shown}.", "",
                f"      :doc:`{name}`", "",
            ]  # fmt: skip
    for name, example in ALL.items():
        write(PAGES / f"{name}.rst", page(name, example))
    index += [".. toctree::", "   :hidden:", "", *(f"   {name}" for name in ALL)]
    write(PAGES / "index.rst", "\n".join(index) + "\n")


def picture_of(name):
    """Return the picture's name for Sphinx; fail where there is none."""
    if not stored(name).exists():
        raise SystemExit(f"{stored(name)} is missing: run python docs/make_gallery.py --only {name}")
    return f"/_static/{stored(name).name}"


def panel_of(name, panel):
    """Return the pixels of a panel of an example's picture."""
    pixels = image.imread(stored(name))
    (height, width), (left, top, right, bottom) = pixels.shape[:2], panel
    return pixels[round(top * height) : round(bottom * height), round(left * width) : round(right * width)]


def thumbnail(name, panel):
    """Write one panel of a picture, which is legible when it is small, and return its name for Sphinx."""
    picture, path, content = picture_of(name), PAGES / f"{name}.png", io.BytesIO()
    if panel == (0, 0, 1, 1):
        return picture
    image.imsave(content, panel_of(name, panel), format="png")
    if not path.exists() or path.read_bytes() != content.getvalue():
        path.write_bytes(content.getvalue())
    return path.name


def page(name, example):
    """Return the page of an example."""
    source = (EXAMPLES / f"{name}.py").read_text()
    parts = [example.title, "=" * len(example.title), "", describe(source), ""]
    if example.more:
        parts += [f"More: :doc:`/{example.more}`.", ""]
    parts += [f".. image:: {picture_of(name)}", f"   :alt: {example.shown}.", ""]
    if example.measured:
        parts += [f"Measured on: {example.measured}.", ""]
    if report_of(name).exists():
        path = report_of(name).relative_to(DOCS).as_posix()
        parts += ["It printed:", "", f".. literalinclude:: /{path}", "   :language: none", ""]
    first = ast.parse(source).body[0].end_lineno + 2
    parts += [f"``examples/{name}.py``:", "", f".. literalinclude:: /../examples/{name}.py", f"   :lines: {first}-"]
    parts += ["   :class: example", ""]
    return "\n".join(parts)


def describe(source):
    """Return the text of an example, in which its commands are code."""
    return ast.get_docstring(ast.parse(source)).replace(":\n\n    ", "::\n\n    ")


def write(path, text):
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", default=list(ALL), choices=list(ALL), metavar="NAME")
    parser.add_argument("--short", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    for name in options.only:
        if options.short:
            _, seconds = run(name, options.short / f"{name}.png", ALL[name].short)
            print(f"{name}: {seconds:.0f} s", flush=True)
        else:
            print(name, flush=True)
            store(name)


if __name__ == "__main__":
    main()
