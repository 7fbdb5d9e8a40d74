"""Every public function keeps every promise that is made for JAX arrays; docs/promises_not.csv says which does not."""

import functools

import numpy as np
import pytest
import torch
from promised import FUNCTIONS, broken, call, close, draw, operands, promises
from records import function, record

jax = pytest.importorskip("jax")
jnp = jax.numpy


def drawn(name):
    """Return a call's arguments in float64, and which of them are arrays of numbers."""
    given = draw(name, dtype="f8")
    return given, [a for a, array in operands(name, given).items() if array.dtype != bool]


def of(name, given, names, make=jnp.asarray):
    """Return a function of a call's arrays of numbers, its results those that are floats, and the arrays."""
    flags = {a: make(v) for a, v in operands(name, given).items() if v.dtype == bool}

    def run(*values):
        found = function(name)(**given | flags | dict(zip(names, values, strict=True)))
        found = found if isinstance(found, (tuple, list)) else (found,)
        return tuple(v for v in found if v is not None)

    return run, [make(given[a]) for a in names]


def check_jax(name):
    given, names = drawn(name)
    run, values = of(name, given, names)
    found = run(*values)
    assert all(isinstance(v, jax.Array) for v in found)
    close(name, found, call(name, given))


def check_traced(name):
    given, names = drawn(name)
    run, values = of(name, given, names)
    for compiled in [jax.jit(run)] * 2:
        close(name, compiled(*values), call(name, given))


def loss(run, square):
    return lambda *values: sum(square(v).sum() for v in run(*values))


def check_jax_gradients(name):
    given, names = drawn(name)
    run, values = of(name, given, names)
    own, tensors = of(name, given, names, torch.tensor)
    places = tuple(range(len(names)))
    gradient = jax.jit(jax.grad(loss(run, lambda v: jnp.nan_to_num(v) ** 2), places))
    value = loss(own, lambda v: v.nan_to_num() ** 2)
    close(name, gradient(*values), torch.func.grad(value, places)(*tensors))
    found = jax.grad(loss(gradient, jnp.sin), places)(*values)
    close(name, found, torch.func.grad(loss(torch.func.grad(value, places), torch.sin), places)(*tensors))


def check_jax_vmap(name):
    given, names = drawn(name)
    run, values = of(name, given, names)
    signals = [k for k, a in enumerate(names) if record(name).arguments[a].kind == "signal"]
    both = [jnp.stack([v, v / 2], -1) if k in signals else v for k, v in enumerate(values)]
    found = jax.vmap(run, [-1 if k in signals else None for k in range(len(values))])(*both)
    for k in range(2):
        own = [v / (k + 1) if i in signals else v for i, v in enumerate(values)]
        close(name, [v[k] for v in found], [np.asarray(v) for v in run(*own)])


CHECKS = {
    "jax": check_jax, "traced": check_traced, "jax gradients": check_jax_gradients, "jax vmap": check_jax_vmap,
}  # fmt: skip


def test_each_promise_is_checked():
    assert CHECKS.keys() == promises("JAX arrays").keys()


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("promise", CHECKS)
def test_promise(promise, name):
    check = functools.partial(CHECKS[promise], name)
    if (promise, name) not in broken():
        check()
        return
    with pytest.raises((TypeError, NotImplementedError, AssertionError)):
        check()
