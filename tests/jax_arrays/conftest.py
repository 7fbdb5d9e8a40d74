"""JAX computes in float64 here, and as it does by itself where a test asks for that."""

import contextlib

import pytest


@contextlib.contextmanager
def widths(is_wide):
    """Have JAX know float64, or not; its own context has other names in other versions."""
    config = pytest.importorskip("jax").config
    before = config.jax_enable_x64
    config.update("jax_enable_x64", is_wide)
    try:
        yield
    finally:
        config.update("jax_enable_x64", before)


@pytest.fixture(autouse=True)
def _wide():
    with widths(True):
        yield


@pytest.fixture
def narrow():
    """Return a context in which JAX knows no float64."""
    return lambda: widths(False)
