"""What tests of Dask may ask for."""

import dask
import pytest


@pytest.fixture
def one_thread():
    """Graphs are computed in order, by the thread that asks."""
    with dask.config.set(scheduler="sync"):
        yield
