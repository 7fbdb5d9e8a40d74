"""A linear recurrent unit trained in JAX, its recurrence by fastrecur, and by JAX's own two ways.

A structure with three resonances is shaken by noise; a unit of complex states [1] learns its response (see ``lru.py``).
Three programs train the same unit and differ in one function: `fastrecur.linear_recurrence`, ``lax.associative_scan``,
or ``lax.scan``. Prints how long a step of training and the first one, which is compiled, take, and the part of the
test signal's variance that each model explains; saves a chart of losses by seconds, in about a minute on two cores:

    python examples/jax_lru.py [--steps N] [--output FILE]

[1] A. Orvieto et al., "Resurrecting Recurrent Neural Networks for Long Sequences", ICML 2023, arXiv:2303.06349, section
3
"""

import argparse
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")  # a picture in a file needs no display

import matplotlib.pyplot as plt
from jax import lax
from tqdm import tqdm

from fastrecur import linear_recurrence

DECAY = jnp.array([0.01, 0.02, 0.015])  # per step
FREQUENCY = jnp.array([0.11, 0.35, 0.9])  # radians per step
WEIGHT = jnp.array([1.0, 0.7, 0.5])
STATES, LENGTH = 32, 16_384
COLORS = {"fastrecur": "#0072B2", "associative_scan": "#D55E00", "scan": "#8A8A8A"}


def associative_scan(a, b):
    """Compose pairs of steps, pairs of pairs, and so on."""
    a = jnp.broadcast_to(a, b.shape)
    return lax.associative_scan(lambda one, two: (one[0] * two[0], two[0] * one[1] + two[1]), (a, b))[1]


def scan(a, b):
    """Take one step after the other."""
    return lax.scan(lambda h, row: (a * h + row,) * 2, jnp.zeros_like(b[0]), b)[1]


WAYS = {"fastrecur": linear_recurrence, "associative_scan": associative_scan, "scan": scan}


def system(u):
    """The response of the structure to a shaking force."""
    return (linear_recurrence(jnp.exp(1j * FREQUENCY - DECAY), u[:, None] + 0j) * WEIGHT).sum(-1).imag


def unit(parameters, u, recurrence):
    decay = jnp.exp(-jnp.exp(parameters["log_decay"]))
    scale = jnp.sqrt(1 - decay**2)  # states of equal size, as in the paper
    states = recurrence(decay * jnp.exp(1j * parameters["frequency"]), scale * u[:, None] + 0j)
    return (states.real * parameters["real"] - states.imag * parameters["imaginary"]).sum(-1)


def start():
    real, imaginary = 0.1 * jax.random.normal(jax.random.key(0), (2, STATES))
    own = {"log_decay": jnp.linspace(-5.0, -2.0, STATES), "frequency": jnp.linspace(0.05, 1.2, STATES)}
    return own | {"real": real, "imaginary": imaginary}


def adam(parameters, grads, moments, step, rate):
    """One step of Adam, with the usual constants."""
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, moments[0], grads)
    second = jax.tree.map(lambda m, g: 0.999 * m + 0.001 * g * g, moments[1], grads)

    def moved(p, m, v):
        return p - rate * (m / (1 - 0.9**step)) / (jnp.sqrt(v / (1 - 0.999**step)) + 1e-8)

    return jax.tree.map(moved, parameters, first, second), (first, second)


def train(name, u, y, steps):
    """Return the losses, the seconds at which each was known, and the parameters."""

    @jax.jit
    def step(parameters, moments, k):
        loss, grads = jax.value_and_grad(lambda p: ((unit(p, u, WAYS[name]) - y) ** 2).mean() / y.var())(parameters)
        rate = 1e-2 * (1 + jnp.cos(jnp.pi * k / steps))
        return loss, *adam(parameters, grads, moments, k + 1, rate)

    parameters = start()
    moments = (jax.tree.map(jnp.zeros_like, parameters),) * 2
    losses, seconds, began = [], [], time.perf_counter()
    for k in tqdm(range(steps), desc=name):
        loss, parameters, moments = step(parameters, moments, k)
        losses.append(float(loss))
        seconds.append(time.perf_counter() - began)
    return losses, seconds, parameters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    options = parser.parse_args()

    u, test = jax.random.normal(jax.random.key(1), (2, LENGTH))
    y, wanted = jax.jit(system)(u), jax.jit(system)(test)  # which compiles fastrecur's kernels, if they are not kept
    train("fastrecur", u, y, 1)
    runs, scores = {}, {}
    for name in WAYS:
        losses, seconds, parameters = train(name, u, y, options.steps)
        found = jax.jit(partial(unit, recurrence=WAYS[name]))(parameters, test)
        runs[name], scores[name] = (losses, seconds), float(1 - (found - wanted).var() / wanted.var())

    print(f"A unit of {STATES} complex states on {LENGTH} steps, {options.steps} steps of training")
    for name, (_, seconds) in runs.items():
        each = (seconds[-1] - seconds[0]) / (len(seconds) - 1) * 1e3
        print(f"   {name:16} {each:6.1f} ms a step, the first {seconds[0]:5.2f} s: {scores[name]:6.1%} of the variance")
    plot(options.output, runs)
    print(f"Saved {options.output}")
    if max(scores.values()) - min(scores.values()) > 0.05:
        raise SystemExit("the three ways do not learn the same")


def plot(output, runs):
    figure, ax = plt.subplots(figsize=(9, 4), layout="constrained")
    for name, (losses, seconds) in runs.items():
        ax.plot(seconds, losses, color=COLORS[name], lw=2, label=name)
        ax.plot(seconds[-1], losses[-1], "o", color=COLORS[name])
    ax.set(yscale="log", xlabel="seconds, with compiling", ylabel="part of the variance missed")
    ax.set_title("One unit, trained in JAX with three ways to run its recurrence")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    figure.savefig(output, dpi=120)


if __name__ == "__main__":
    main()
