"""Heads: a mixture's last layer, of any layer, and where it begins."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mdnkernels import MixtureConv2d, MixtureHead, MixtureLinear, MixtureSpec, StudentT, mixture_nll, start_from_targets


def test_ten_lines_make_a_mixture_density_network() -> None:
    """Two branches of an inverse problem: the mixture is on both, where the mean is between them."""
    torch.manual_seed(0)
    x = torch.rand(400, 1)
    y = (x + 0.2) * torch.randint(0, 2, x.shape).mul(2).sub(1)
    body = nn.Sequential(nn.Linear(1, 16), nn.Tanh())
    head = MixtureLinear(16, components=2, dims=1)
    head.init_from_targets(y)
    optimiser = torch.optim.Adam([*body.parameters(), *head.parameters()], lr=0.02)
    for _ in range(150):
        loss = head.loss(body(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < -0.5  # of one Gaussian about the mean it is above 0.6
    one = head.distribution(body(torch.tensor([[0.5]])))
    assert one.mean.abs() < 0.2
    torch.testing.assert_close(one.component_loc.flatten().sort().values, torch.tensor([-0.7, 0.7]), atol=0.1, rtol=0)


@pytest.mark.parametrize(
    ("head", "features", "target"),
    [
        (MixtureLinear(5, 3, 2, block_size=2), torch.randn(4, 7, 5), torch.randn(4, 7, 2)),
        (MixtureLinear(5, 3, 2, scales=1, family=StudentT(df=4.0)), torch.randn(4, 5), torch.randn(4, 2)),
        (MixtureLinear(5, 3, 1), torch.randn(4, 7, 5), torch.randn(4, 7)),
        (MixtureConv2d(5, 3, 2, kernel_size=3, padding=1), torch.randn(2, 5, 6, 7), torch.randn(2, 2, 6, 7)),
        (MixtureConv2d(5, 3, 1, family="laplace"), torch.randn(2, 5, 6, 7), torch.randn(2, 6, 7)),
        (
            MixtureHead(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 10)), MixtureSpec(2, 2, scales=2)),
            torch.randn(4, 5),
            torch.randn(4, 2),
        ),
    ],
    ids=["speech", "isotropic", "depth of steps", "convolution", "depth", "network"],
)
def test_parameters_are_the_layers_output_and_loss_and_distribution_theirs(head, features, target) -> None:
    given = head(features)
    output = head.layer(features)
    assert list(given) == list(head.spec.channels)
    assert torch.equal(torch.cat(list(given.values()), head.spec.dim), output)
    loss = head.loss(features, target, reduction="sum")
    assert torch.equal(loss, head.spec.nll(**given, target=target, reduction="sum"))
    value = target if target.ndim < features.ndim else target.movedim(head.spec.dim, -1)
    value = value.unsqueeze(-1) if target.ndim < features.ndim else value
    torch.testing.assert_close(-head.distribution(features).log_prob(value).sum(), loss)
    assert head.distribution(features).sample((3,)).shape == (3, *value.shape)


@pytest.mark.parametrize("dim", [1, -1])
def test_heads_begin_at_the_clusters_of_maps_and_masks(dim: int) -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(4, 2, 5, 6, generator=generator)
    mask = torch.rand(4, 1, 5, 6, generator=generator) < 0.5
    rows, seen = targets.movedim(1, -1).reshape(-1, 2), mask.movedim(1, -1).reshape(-1, 1).expand(-1, 2)
    expected = start_from_targets(MixtureSpec(3, 2, scales=2), rows, mask=seen, seed=1)
    head = MixtureConv2d(5, 3, 2) if dim == 1 else MixtureLinear(5, 3, 2)
    before = head.layer.weight.clone()
    start = head.init_from_targets(targets.movedim(1, dim), mask=mask.movedim(1, dim), seed=1)
    assert all(torch.equal(a, b) for a, b in zip(start, expected, strict=True))
    assert torch.equal(head.layer.bias, torch.cat([*expected[:3]]))
    torch.testing.assert_close(head.layer.weight, 0.1 * before)
    again = head.init_from_targets(targets.movedim(1, dim), mask=mask.squeeze(1), seed=1)
    assert all(torch.equal(a, b) for a, b in zip(again, expected, strict=True))


def test_targets_of_one_dimension_may_leave_their_channel_out() -> None:
    targets = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))
    seen = targets > -1
    expected = start_from_targets(MixtureSpec(2, 1, scales=1), targets.reshape(-1, 1), mask=seen.reshape(-1, 1))
    start = MixtureConv2d(5, 2, 1).init_from_targets(targets, mask=seen)
    assert all(torch.equal(a, b) for a, b in zip(start, expected, strict=True))


def test_a_heads_last_biased_layer_is_found() -> None:
    network = nn.Sequential(nn.Linear(5, 10), nn.ReLU(), nn.Linear(10, 10), nn.Identity())
    head = MixtureHead(network, MixtureSpec(2, 2, scales=2))
    first = network[0].bias.clone()
    start = head.init_from_targets(torch.randn(50, 2))
    assert torch.equal(network[2].bias, torch.cat([*start[:3]]))
    assert torch.equal(network[0].bias, first)


def test_what_is_no_head_is_refused_by_name() -> None:
    spec = MixtureSpec(2, 2, scales=2)
    with pytest.raises(TypeError, match=r"layer must be a torch\.nn\.Module, got int"):
        MixtureHead(3, spec)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"layer must give 10 channels in dimension 1 for MixtureSpec.*got \(4, 9\)"):
        MixtureHead(nn.Linear(5, 9), spec)(torch.zeros(4, 5))
    with pytest.raises(TypeError, match="layer must hold a module with a weight and a bias of 10 channels"):
        MixtureHead(nn.Linear(5, 10, bias=False), spec).init_from_targets(torch.randn(9, 2))
    with pytest.raises(ValueError, match=r"targets must be .* C = 2, or .* in dimension 1"):
        MixtureConv2d(5, 2, 2).init_from_targets(torch.randn(9, 3))
    with pytest.raises(ValueError, match="mask must be of the targets' shape"):
        MixtureConv2d(5, 2, 2).init_from_targets(torch.randn(9, 2), mask=torch.ones(8, 2).bool())


def test_a_head_compiles_and_keeps_its_state() -> None:
    head = MixtureLinear(5, 2, 2, block_size=2)
    features, target = torch.randn(4, 5), torch.randn(4, 2)
    compiled = torch.compile(head.loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(features, target), head.loss(features, target))
    other = MixtureLinear(5, 2, 2, block_size=2)
    other.load_state_dict(head.state_dict())
    given = other(features)
    torch.testing.assert_close(
        mixture_nll(given["logits"], given["loc"], given["scale"], target, tril=given["tril"], block_size=2, dim=-1),
        head.loss(features, target),
    )
