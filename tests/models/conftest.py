"""What the tests of the models share."""

import pytest
import torch
from torch import Tensor


@pytest.fixture
def images() -> Tensor:
    """Return three images, wider than high."""
    return torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(1))
