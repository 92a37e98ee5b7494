"""The hourglass family."""

import pytest
import torch

from mdnkernels.models import Hourglass, HourglassConfig

TINY = HourglassConfig(stacks=1, dims=(8, 12), blocks=(1, 1), stem_width=4, feature_dim=6)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", [(64, 64), (32, 96)])
def test_every_stack_gives_a_feature_at_stride_4(batch: int, size: tuple[int, int]) -> None:
    net = Hourglass(HourglassConfig(stacks=3, dims=(8, 12, 16), blocks=(2, 1, 3), stem_width=4, feature_dim=10))
    features = net(torch.randn(batch, 3, *size))
    assert [feature.shape for feature in features] == [(batch, 10, size[0] // 4, size[1] // 4)] * 3
    assert (net.stacks, net.feature_dim, net.stride, net.divisor) == (3, 10, 4, 16)


def test_a_later_stack_depends_on_an_earlier_ones_feature_and_on_its_input() -> None:
    net = Hourglass(HourglassConfig(stacks=2, dims=(8, 12), blocks=(1, 1), stem_width=4, feature_dim=6))
    net(torch.randn(2, 3, 16, 16))[1].square().mean().backward()
    merge = net.merges[0]
    for part in (net.stem, net.hourglasses[0], net.outputs[0], merge.from_input, merge.from_feature, merge.residual):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())


def test_the_first_stack_does_not_depend_on_the_second() -> None:
    net = Hourglass(HourglassConfig(stacks=2, dims=(8, 12), blocks=(1, 1), stem_width=4, feature_dim=6))
    net(torch.randn(2, 3, 16, 16))[0].square().mean().backward()
    assert all(p.grad is None for p in [*net.merges.parameters(), *net.hourglasses[1].parameters()])


def test_widths_change_first_going_down_and_last_going_up() -> None:
    level = Hourglass(HourglassConfig(1, (8, 12), (3, 1), 4, 6)).hourglasses[0]
    shapes = {
        name: [(b.conv1.in_channels, b.conv1.out_channels, b.conv1.stride[0]) for b in getattr(level, name)]
        for name in ("stay", "down", "inner", "up")
    }
    assert shapes == {
        "stay": [(8, 8, 1)] * 3,
        "down": [(8, 12, 2), (12, 12, 1), (12, 12, 1)],
        "inner": [(12, 12, 1)],
        "up": [(12, 12, 1), (12, 12, 1), (12, 8, 1)],
    }


def test_channels_last_changes_nothing_but_the_layout() -> None:
    torch.manual_seed(0)
    net = Hourglass(TINY).double().eval()
    images = torch.randn(2, 3, 32, 16, dtype=torch.float64)
    planar = net(images)[0]
    net.to(memory_format=torch.channels_last)
    blocked = net(images.contiguous(memory_format=torch.channels_last))[0]
    assert blocked.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(blocked, planar, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "change",
    [{"dims": (8,), "blocks": (1,)}, {"blocks": (1, 1, 1)}, {"stacks": 0}, {"dims": (8, 0)}, {"stem_width": 0}],
)
def test_an_impossible_configuration_is_refused(change: dict) -> None:
    fields = {"stacks": 1, "dims": (8, 12), "blocks": (1, 1), "stem_width": 4, "feature_dim": 6, **change}
    with pytest.raises(ValueError, match=r"at least 1|resolutions"):
        HourglassConfig(**fields)
