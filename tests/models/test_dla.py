"""DLA-34 and its deformable convolution."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mdnkernels.models import DLA34, build_model
from mdnkernels.models.dla import Aggregation, DeformableConv, PairOfPairs
from tests.models.networks import IMAGES, awake, training_loss


@pytest.mark.parametrize("size", [(64, 64), (32, 96)])
def test_there_is_one_feature_at_stride_4(size: tuple[int, int]) -> None:
    with torch.device("meta"):
        net = DLA34()
        features = net(torch.empty(2, 3, *size))
    assert [feature.shape for feature in features] == [(2, 64, size[0] // 4, size[1] // 4)]
    assert (net.stacks, net.feature_dim, net.stride, net.divisor) == (1, 64, 4, 32)


def test_a_size_that_is_no_multiple_of_the_divisor_is_refused() -> None:
    with torch.device("meta"):
        model = build_model("dla34", components=0)
        with pytest.raises(ValueError, match="multiples of 32"):
            model(torch.empty(1, 3, 64, 80))


def test_levels_have_the_published_widths_and_resolutions() -> None:
    with torch.device("meta"):
        net = DLA34()
        x, shapes = torch.empty(1, 3, 64, 64), []
        for level in net.levels:
            x = level(x)
            shapes.append(tuple(x.shape[1:]))
    assert shapes == [(16, 64, 64), (32, 32, 32), (64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)]


def test_a_fresh_deformable_convolution_is_half_a_plain_one() -> None:
    torch.manual_seed(0)
    layer = DeformableConv(5, 4).double().eval()
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 5, 7, 6, dtype=torch.float64)
    plain = F.conv2d(x, layer.weight / 2, layer.bias, padding=1)
    torch.testing.assert_close(layer(x), F.relu(layer.bn(plain)), rtol=0, atol=1e-12)


def sampled(plane: Tensor, y: float, x: float) -> float:
    """Interpolate bilinearly in a plane (h, w) that is 0 all around."""
    value = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
                value += (1 - abs(y - row)) * (1 - abs(x - column)) * plane[row, column].item()
    return value


def test_taps_are_read_at_their_offsets_and_weighed() -> None:
    torch.manual_seed(0)
    layer = DeformableConv(3, 2).double().eval()
    torch.nn.init.normal_(layer.bias)
    # Offsets of several cells: taps leave the map too.
    torch.nn.init.normal_(layer.taps.weight, std=0.4)
    torch.nn.init.normal_(layer.taps.bias)
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    taps = layer.taps(x)
    assert taps[:, :18].abs().max() > 2
    expected = torch.empty(2, 2, 4, 5, dtype=torch.float64)
    for b, o, y, column in torch.cartesian_prod(*map(torch.arange, expected.shape)).tolist():
        total = layer.bias[o].item()
        for tap in range(9):
            dy, dx, raw = (taps[b, c, y, column].item() for c in (2 * tap, 2 * tap + 1, 18 + tap))
            at = (y - 1 + tap // 3 + dy, column - 1 + tap % 3 + dx)
            values = [sampled(plane, *at) / (1 + math.exp(-raw)) for plane in x[b]]
            total += sum(w * v for w, v in zip(layer.weight[o, :, tap // 3, tap % 3].tolist(), values, strict=True))
        expected[b, o, y, column] = total
    torch.testing.assert_close(layer(x), F.relu(layer.bn(expected)), rtol=0, atol=1e-10)


@pytest.mark.parametrize("factor", [2, 4])
def test_upsampling_starts_as_bilinear_interpolation(factor: int) -> None:
    (layer,) = Aggregation(3, (3, 3), (1, factor)).double().upsample
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    theirs = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    ours = layer(x)
    assert ours.shape == theirs.shape
    inner = (..., slice(factor, -factor), slice(factor, -factor))
    torch.testing.assert_close(ours[inner], theirs[inner], rtol=0, atol=1e-12)


def test_only_the_projection_that_nothing_reads_is_frozen() -> None:
    model = awake("dla34", "detection", 3)
    unread = {id(p) for m in model.modules() if isinstance(m, PairOfPairs) for p in m.unread.parameters()}
    buffers = {name: b.clone() for name, b in model.named_buffers() if "unread" in name}
    training_loss(model, IMAGES.double(), sparse=True).backward()
    assert len(unread) == 2 * 3
    for name, parameter in model.named_parameters():
        if id(parameter) in unread:
            assert not parameter.requires_grad, name
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name
    assert all(torch.equal(model.get_buffer(name), before) for name, before in buffers.items())
