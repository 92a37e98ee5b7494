"""A head at chosen cells is the head everywhere, read at these cells."""

import pytest
import torch
from torch import Tensor

from mdnkernels.models.heads import CENTRES, EVERYWHERE, Head, HeadConfig, HeadGroup

HEIGHT, WIDTH = 5, 7
CORNERS = [0, WIDTH - 1, (HEIGHT - 1) * WIDTH, HEIGHT * WIDTH - 1]


def read(maps: Tensor, index: Tensor) -> Tensor:
    """Read maps (B, C, h, w) at cells (B, N), one cell at a time; return (B, C, N)."""
    batch, width = maps.shape[0], maps.shape[3]
    rows = [torch.stack([maps[b, :, i // width, i % width] for i in index[b].tolist()], dim=1) for b in range(batch)]
    return torch.stack(rows)


def gradients(output: Tensor, head: Head, feature: Tensor) -> list[Tensor]:
    factor = torch.randn(output.shape, dtype=output.dtype, generator=torch.Generator().manual_seed(2))
    return list(torch.autograd.grad((output.square() * factor).sum(), [feature, *head.parameters()]))


@pytest.mark.parametrize(
    "index",
    [
        [[17, 9, 30], [3, 20, 11]],
        [CORNERS, [1, WIDTH, 2 * WIDTH - 1, 33]],
        [[12, 12, 12, 13], [0, 0, 34, 34]],
        [[8], [8]],
    ],
    ids=["inner", "borders", "repeated", "single"],
)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_sparse_head_has_the_values_and_gradients_of_the_dense_one(
    index: list[list[int]], memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    head = Head(HeadConfig("loc", 6), feature_dim=4, width=9).double()
    feature = torch.randn(2, 4, HEIGHT, WIDTH, dtype=torch.float64).contiguous(memory_format=memory_format)
    feature.requires_grad_()
    cells = torch.tensor(index)
    dense, sparse = read(head(feature), cells), head(feature, cells)
    assert sparse.shape == (2, 6, len(index[0]))
    torch.testing.assert_close(sparse, dense, rtol=0, atol=1e-10)
    for ours, theirs in zip(gradients(sparse, head, feature), gradients(dense, head, feature), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_padding_gives_the_answer_to_a_zero_patch_and_touches_no_cell() -> None:
    torch.manual_seed(0)
    head = Head(HeadConfig("offset", 2), feature_dim=4, width=9).double()
    feature = torch.randn(2, 4, HEIGHT, WIDTH, dtype=torch.float64, requires_grad=True)
    output = head(feature, torch.tensor([[-1, 5], [-1, -1]]))
    zero = head(torch.zeros(1, 4, 1, 1, dtype=torch.float64))[0, :, 0, 0]
    for b, n in [(0, 0), (1, 0), (1, 1)]:
        torch.testing.assert_close(output[b, :, n], zero, rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad(output[:, :, 0].sum() + output[1].sum(), feature)
    assert not gradient.any()


def test_padding_that_is_not_counted_changes_no_gradient() -> None:
    torch.manual_seed(0)
    head = Head(HeadConfig("offset", 2), feature_dim=4, width=9).double()
    feature = torch.randn(1, 4, HEIGHT, WIDTH, dtype=torch.float64, requires_grad=True)
    padded, bare = head(feature, torch.tensor([[6, -1, 21, -1]])), head(feature, torch.tensor([[6, 21]]))
    pairs = zip(gradients(padded[:, :, [0, 2]], head, feature), gradients(bare, head, feature), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_a_group_evaluates_each_head_where_it_is_needed() -> None:
    configs = [
        HeadConfig("map", 3, positions=EVERYWHERE),
        HeadConfig("point", 2),
        HeadConfig("joint", 5, positions="joints"),
    ]
    group = HeadGroup(configs, feature_dim=4, width=8)
    feature = torch.randn(2, 4, HEIGHT, WIDTH)
    centres, joints = torch.randint(35, (2, 3)), torch.randint(35, (2, 11))
    shapes = {name: tuple(v.shape) for name, v in group(feature, {CENTRES: centres, "joints": joints}).items()}
    assert shapes == {"map": (2, 3, HEIGHT, WIDTH), "point": (2, 2, 3), "joint": (2, 5, 11)}
    assert group(feature, {CENTRES: centres})["joint"].shape == (2, 5, HEIGHT, WIDTH)
    assert list(group(feature, only=["point"])) == ["point"]


def test_a_bias_starts_where_it_is_told() -> None:
    assert Head(HeadConfig("map", 3, last_bias=-2.19), 4, 8).output.bias.tolist() == pytest.approx([-2.19] * 3)


def test_two_heads_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="different names"):
        HeadGroup([HeadConfig("size", 2), HeadConfig("size", 4)], 4, 8)


@pytest.mark.parametrize("sparse", [False, True])
def test_last_layer_stays_in_float32_under_autocast(sparse: bool):
    """A box of 100 cells is not rounded to half a cell."""
    torch.manual_seed(0)
    head = Head(HeadConfig("size", 2), 8, 16)
    feature, index = torch.randn(1, 8, 6, 7), torch.arange(42)[None]
    with torch.no_grad():
        head.output.weight.mul_(0.01)
        head.output.bias.copy_(torch.tensor([100.3, 61.7]))
        exact = head(feature, index if sparse else None)
        with torch.autocast("cpu", torch.bfloat16):
            near = head(feature, index if sparse else None)
    assert near.dtype == torch.float32
    torch.testing.assert_close(near, exact, rtol=0, atol=1e-3)
    assert not torch.equal(near, exact)  # the layer before is in bfloat16
