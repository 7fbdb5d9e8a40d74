"""The same random tensors in every run, and no compiled graph of another test."""

import zlib

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded(request):
    torch.manual_seed(zlib.crc32(request.node.nodeid.encode()))
