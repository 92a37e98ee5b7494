from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from mdnkernels import gather_patches


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_linear_layer_on_patches_is_the_convolution_at_those_cells(kernel_size, channels_last):
    feature = torch.randn(2, 4, 6, 5, dtype=torch.float64)
    if channels_last:
        feature = feature.contiguous(memory_format=torch.channels_last)
    conv = torch.nn.Conv2d(4, 3, kernel_size, padding=kernel_size // 2, dtype=torch.float64)
    index = torch.tensor([[0, 4, 29, 25, 12], [12, 12, 7, 29, 0]])  # corners, borders, a repetition
    patches = gather_patches(feature, index, kernel_size)
    assert patches.shape == (2, 5, 4 * kernel_size**2)
    sparse = functional.linear(patches, conv.weight.flatten(1), conv.bias)
    dense = conv(feature).flatten(2).gather(2, index.unsqueeze(1).expand(-1, 3, -1)).transpose(1, 2)
    torch.testing.assert_close(sparse, dense, rtol=1e-12, atol=1e-12)


def test_padding_gives_zeros_and_takes_no_gradient():
    feature = torch.randn(1, 2, 3, 3, requires_grad=True)
    patches = gather_patches(feature, torch.tensor([[-1, -1]]))
    assert (patches == 0).all()
    assert (torch.autograd.grad(patches.sum(), feature)[0] == 0).all()


def test_overlapping_windows_add_their_gradients():
    feature = torch.randn(1, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(gather_patches(feature, torch.tensor([[4, 4, 0]])).sum(), feature)
    assert gradient[0, 0].tolist() == [[3, 3, 2], [3, 3, 2], [2, 2, 2]]


@pytest.mark.parametrize("shape", [(0, 2, 3, 3), (1, 0, 3, 3), (2, 3, 1, 1)])
@pytest.mark.parametrize("points", [0, 2])
def test_empty_and_tiny_inputs(shape, points):
    index = torch.zeros(shape[0], points, dtype=torch.int64)
    assert gather_patches(torch.randn(*shape), index).shape == (shape[0], points, shape[1] * 9)


def test_gradcheck():
    feature = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([[0, 11, -1, 5], [5, 5, 6, 3]])
    assert torch.autograd.gradcheck(lambda value: gather_patches(value, index), feature)
    assert torch.autograd.gradgradcheck(lambda value: gather_patches(value, index), feature)


@pytest.mark.parametrize(
    ("feature", "index", "kernel_size", "error", "word"),
    [
        (torch.zeros(2, 3, 4), torch.zeros(2, 1, dtype=torch.int64), 3, ValueError, "feature"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(1, 1, dtype=torch.int64), 3, ValueError, "index"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, 1), 3, TypeError, "index"),
        (torch.zeros(2, 3, 4, 4), torch.full((2, 1), 16), 3, IndexError, "16"),
        (torch.zeros(2, 3, 4, 4), torch.full((2, 1), -2), 3, IndexError, "-2"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, dtype=torch.int64), 4, ValueError, "kernel_size"),
    ],
)
def test_bad_input_is_refused_by_name(feature, index, kernel_size, error, word):
    with pytest.raises(error, match=word):
        gather_patches(feature, index, kernel_size)
