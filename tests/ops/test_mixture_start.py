"""The start of a mixture at clusters of the targets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mdnkernels import MixtureSpec, StudentT, init_from_targets, start_from_targets

SHARES = (0.07, 0.86, 0.07)
MEANS = torch.tensor([[4.0, 5.0], [10.0, 8.0], [20.0, 24.0]])


def three_kinds(count: int = 2000, spread: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw targets (N, 2) of three kinds in unequal shares, and the kind of each."""
    random = np.random.default_rng(0)
    kind = torch.tensor(random.choice(3, count, p=SHARES))
    return MEANS[kind] + spread * torch.tensor(random.normal(size=(count, 2)), dtype=torch.float32), kind


@pytest.mark.parametrize("scale_activation", ["elu", "softplus", "exp", "identity"])
@pytest.mark.parametrize("scales", [1, 2])
def test_components_begin_with_mean_and_deviation_of_the_clusters(scale_activation, scales):
    targets, kind = three_kinds()
    spec = MixtureSpec(3, 2, scales=scales, scale_activation=scale_activation, min_scale=0.1)
    start = start_from_targets(spec, targets)
    sigma = spec.sigma(start.scale[None]).view(3, scales)
    for k in range(3):
        rows = targets[kind == k].double()
        torch.testing.assert_close(start.loc.view(3, 2)[k].double(), rows.mean(0), rtol=1e-5, atol=0)
        squares = (rows - rows.mean(0)).square().mean(0)
        expected = squares.sqrt() if scales == 2 else squares.mean().sqrt()[None]
        torch.testing.assert_close(sigma[k].double(), expected, rtol=1e-4, atol=0)
        assert start.share[k].item() == pytest.approx((kind == k).double().mean().item())
    assert (start.logits == 0).all()


def test_dim_scale_divides_sigma():
    targets, _ = three_kinds()
    kappa = torch.tensor([2.0, 0.5])
    spec = MixtureSpec(3, 2, scales=2, scale_activation="exp", min_scale=0.0)
    plain, divided = (start_from_targets(spec, targets, dim_scale=value) for value in (None, kappa))
    torch.testing.assert_close(
        spec.sigma(divided.scale[None]).view(3, 2) * kappa, spec.sigma(plain.scale[None]).view(3, 2)
    )
    torch.testing.assert_close(divided.loc, plain.loc)


def test_what_is_not_observed_is_not_read():
    targets, _ = three_kinds()
    mask = torch.rand(targets.shape, generator=torch.Generator().manual_seed(0)) < 0.7
    start = start_from_targets(MixtureSpec(3, 2, scales=2), torch.where(mask, targets, torch.nan), mask=mask)
    torch.testing.assert_close(start.loc.view(3, 2), MEANS, rtol=0, atol=0.3)


def test_features_decide_the_clusters_and_targets_the_start():
    """Sizes whose logarithms have three kinds alike in number and spread, which the sizes themselves have not."""
    random = np.random.default_rng(1)
    kind = random.integers(0, 3, 3000)
    size = torch.tensor(np.exp(np.log([[1.0], [10.0], [100.0]])[kind] + random.normal(0, 0.3, (3000, 1))))
    start = start_from_targets(MixtureSpec(3, 1, scales=1, min_scale=0.0), size, features=size.log())
    for k in range(3):
        assert start.loc[k].item() == pytest.approx(size[kind == k].mean().item(), rel=1e-4)


def test_a_feature_that_is_not_observed_is_not_compared():
    """Each of four features tells the kinds apart; two fifths of them are missing, and NaN."""
    targets, kind = three_kinds()
    known = torch.from_numpy(np.random.default_rng(2).random((len(kind), 4)) < 0.6)
    known[:, 0] |= ~known.any(1)
    features = torch.where(known, 10.0 * kind[:, None] + torch.arange(4), torch.nan)
    start = start_from_targets(MixtureSpec(3, 2, scales=2), targets, features=features, features_mask=known)
    expected = torch.stack([targets[kind == k].mean(0) for k in range(3)])
    torch.testing.assert_close(start.loc.view(3, 2), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("family", ["gaussian", "laplace", StudentT(2.0)])
def test_fewer_different_targets_than_components_start_apart(family):
    """All targets equal, and two different ones, for five components: every start is finite, no two are the same."""
    for rows in ([[3.0, 4.0]], [[3.0, 4.0], [5.0, 9.0]]):
        targets = torch.tensor(rows).repeat_interleave(4, 0)
        spec = MixtureSpec(5, 2, scales=2, family=family)
        start = start_from_targets(spec, targets)
        loc = start.loc.view(5, 2)
        assert len({tuple(row) for row in loc.tolist()}) == 5
        assert start.scale.isfinite().all()
        assert start.share.sum().item() == pytest.approx(1)
        parameters = [value.expand(len(targets), -1).clone().requires_grad_() for value in start[:3]]
        loss = spec.nll(*parameters, targets)
        assert all(g.isfinite().all() for g in torch.autograd.grad(loss, parameters))


def test_sigma_below_the_floor_begins_just_above_it():
    targets, _ = three_kinds(spread=0.01)
    for scale_activation in ("elu", "softplus", "exp"):
        spec = MixtureSpec(3, 2, scales=1, scale_activation=scale_activation, min_scale=1.0)
        sigma = spec.sigma(start_from_targets(spec, targets).scale[None])
        assert ((sigma > 1.0) & (sigma < 1.01)).all()


def train(start: torch.Tensor, spec: MixtureSpec, targets: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Train parameters that depend on no input by Adam; return the loss and the weights."""
    parameters = [value.clone().requires_grad_() for value in start.split(list(spec.channels.values()))]
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    for _ in range(300):
        loss = spec.nll(*(value.expand(len(targets), -1) for value in parameters), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item(), parameters[0].softmax(0)


def test_started_components_take_their_kinds_where_equal_ones_collapse():
    targets, _ = three_kinds(500)
    spec = MixtureSpec(3, 2, scales=2)
    zero = torch.zeros(sum(spec.channels.values())) + 1e-3 * torch.arange(sum(spec.channels.values()))
    collapsed, _ = train(zero, spec, targets)
    started, weights = train(torch.cat(start_from_targets(spec, targets)[:3]), spec, targets)
    assert started < collapsed - 0.5
    torch.testing.assert_close(weights, torch.tensor(SHARES), rtol=0, atol=0.03)


@pytest.mark.parametrize(
    ("targets", "options", "error", "said"),
    [
        (torch.zeros(4, 3), {}, ValueError, r"targets must be \(N, C\) with C = 2"),
        (torch.zeros(4, 2, dtype=torch.int64), {}, TypeError, "targets must be float32"),
        (torch.full((4, 2), torch.inf), {}, ValueError, "targets must be finite where they are observed"),
        (torch.zeros(0, 2), {}, ValueError, "got none"),
        (torch.zeros(4, 2), {"mask": torch.ones(4, 2)}, TypeError, "mask must be bool"),
        (
            torch.zeros(4, 2),
            {"mask": torch.ones(4, 3, dtype=torch.bool)},
            ValueError,
            "mask must be of the targets' shape",
        ),
        (torch.zeros(4, 2), {"dim_scale": torch.tensor([1.0, 0.0])}, ValueError, "dim_scale must be positive"),
        (torch.zeros(4, 2), {"mask": torch.zeros(4, 2, dtype=torch.bool)}, ValueError, "observed, got none"),
        (torch.zeros(4, 2), {"features": torch.zeros(3, 1)}, ValueError, r"features must be \(N, F\) with N = 4"),
        (torch.zeros(4, 2), {"features_mask": torch.ones(4, 1).bool()}, ValueError, "there are no features"),
        (
            torch.zeros(4, 2),
            {"features": torch.zeros(4, 3), "features_mask": torch.ones(4, 2).bool()},
            ValueError,
            "features_mask must have shape",
        ),
        (
            torch.zeros(4, 2),
            {"features": torch.zeros(4, 1), "features_mask": torch.tensor([[True], [False], [True], [True]])},
            ValueError,
            "observed in each row",
        ),
    ],
)
def test_bad_arguments_are_named(targets, options, error, said):
    with pytest.raises(error, match=said):
        start_from_targets(MixtureSpec(3, 2, scales=2), targets, **options)


@pytest.mark.parametrize("layer", [torch.nn.Linear(5, 15), torch.nn.Conv2d(5, 15, 1)], ids=["linear", "convolution"])
def test_a_layer_begins_at_the_start(layer):
    targets, _ = three_kinds()
    spec = MixtureSpec(3, 2, scales=2)
    weight = layer.weight.detach().clone()
    start = init_from_targets(layer, spec, targets)
    nothing = torch.zeros(1, 5, *(() if isinstance(layer, torch.nn.Linear) else (2, 2)))
    outputs = layer(nothing).flatten(2)[0] if nothing.ndim > 2 else layer(nothing)[0, :, None]
    for name, value in zip(spec.channels, outputs.split(list(spec.channels.values())), strict=True):
        torch.testing.assert_close(value, getattr(start, name)[:, None].expand_as(value))
    torch.testing.assert_close(layer.weight, 0.1 * weight)
    assert layer.weight.requires_grad
    assert layer.bias.requires_grad


def test_a_layer_of_other_outputs_is_refused_and_unchanged():
    targets, _ = three_kinds()
    spec = MixtureSpec(3, 2, scales=2)
    layer = torch.nn.Linear(5, 14)
    before = layer.bias.detach().clone()
    with pytest.raises(ValueError, match=r"3 logits \+ 6 loc \+ 6 scale = 15 outputs"):
        init_from_targets(layer, spec, targets)
    with pytest.raises(TypeError, match="must have a weight and a bias"):
        init_from_targets(torch.nn.Linear(5, 15, bias=False), spec, targets)
    with pytest.raises(ValueError, match="finite"):
        init_from_targets(torch.nn.Linear(5, 15), spec, torch.full((3, 2), torch.nan))
    assert (layer.bias == before).all()
