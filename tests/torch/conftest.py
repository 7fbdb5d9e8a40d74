"""The same random tensors in every run; what a test may ask for of torch's compiler and threads."""

import zlib

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded(request):
    torch.manual_seed(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture
def fresh_compiler():
    """No compiled graph of another test is there, nor left for one."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def set_torch_threads():
    """Return `torch.set_num_threads`, and restore the number of threads afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
