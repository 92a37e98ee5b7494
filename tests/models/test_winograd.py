"""Winograd's convolution is the convolution, to a rounding error near float32's."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mdnkernels.models.winograd import WinogradConv, transform_weights, use_winograd, winograd_convolution


@pytest.mark.parametrize("size", [(32, 32), (33, 38), (5, 70), (1, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_convolution(size: tuple[int, int], bias: bool):
    torch.manual_seed(0)
    x, weight = torch.randn(2, 5, *size, dtype=torch.float64), torch.randn(7, 5, 3, 3, dtype=torch.float64)
    offset = torch.randn(7, dtype=torch.float64) if bias else None
    expected = F.conv2d(x, weight, offset, padding=1)
    for layout in (torch.contiguous_format, torch.channels_last):
        actual = winograd_convolution(x.contiguous(memory_format=layout), transform_weights(weight), offset)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-11)


def test_its_error_is_a_hundredth_of_bfloat16s_and_less():
    torch.manual_seed(0)
    x, weight = torch.randn(1, 256, 32, 32).relu(), torch.randn(64, 256, 3, 3) / 48
    exact = F.conv2d(x.double(), weight.double(), padding=1)

    def error(result: torch.Tensor) -> float:
        return float((result.double() - exact).square().mean().sqrt() / exact.std())

    direct, half = (F.conv2d(x.to(dtype), weight.to(dtype), padding=1) for dtype in (torch.float32, torch.bfloat16))
    winograd = error(winograd_convolution(x, transform_weights(weight), None))
    assert winograd < 20 * error(direct)
    assert winograd < error(half) / 500


def test_layers_that_gain_by_it_are_chosen_and_keep_their_weights():
    network = nn.Sequential(
        nn.Conv2d(128, 160, 3, padding=1),
        nn.Conv2d(160, 128, 3, padding=1, stride=2),
        nn.Conv2d(128, 128, 1),
        nn.Conv2d(128, 64, 3, padding=1),
        nn.Conv2d(64, 256, 3, padding=1),
        nn.Conv2d(256, 128, 3, padding=1),
        nn.Conv2d(128, 128, 3, padding=1, groups=2),
        nn.Conv2d(128, 128, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(128, 128, 3, padding=1, dtype=torch.float32),
    ).eval()
    weights = network.state_dict()
    large, small = torch.randn(1, 128, 32, 32), torch.randn(1, 128, 8, 8)
    with torch.no_grad():
        expected = [network(large), network[0](small), network[0](large.bfloat16().float())]
        use_winograd(network)
        actual = [network(large), network[0](small), network[0](large.bfloat16().float())]
    chosen = [number for number, layer in enumerate(network) if type(layer) is WinogradConv]
    assert chosen == [0, 4, 5, 8]
    assert torch.equal(actual[1], expected[1])  # a small map takes the usual way
    assert not torch.equal(actual[2], expected[2])
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
