"""Draws of a mixture: their distribution, what they touch, and their pathwise derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mdnkernels import Family, Mixture
from tests.ops.mixtures import CORRELATED, DISCRETE, FAMILIES, C, M, by_hand, mixture, parameters

CONTINUOUS = [(family, tril) for family in FAMILIES for tril in (False, True)]


def kolmogorov_smirnov(uniform: Tensor) -> float:
    """Return sqrt(N) times the largest distance of the draws' distribution function to that of uniform numbers."""
    ordered = uniform.double().sort().values
    count = len(ordered)
    steps = torch.arange(count + 1, dtype=torch.float64) / count
    return math.sqrt(count) * max((steps[1:] - ordered).max().item(), (ordered - steps[:-1]).max().item())


def whitened(one: Mixture, x: Tensor) -> Tensor:
    """Return u (S, M, C) of draws (S, C): what has the family's standard distribution in the drawn component."""
    z = (x.unsqueeze(-2) - one.component_loc) / one.component_scale
    if one.tril is None:
        return z
    entries = one.tril.unflatten(-1, (M, -1))
    odd = z[..., 1::2] + entries * z[..., ::2]
    return torch.stack([z[..., ::2], odd], -1).flatten(-2)


def conditional_cdfs(one: Mixture, x: Tensor) -> Tensor:
    """Return F_d(x_d | x_1 .. x_{d-1}) of draws (S, C), by sums over components that nobody optimised."""
    u = whitened(one, x)
    log_alpha = torch.log_softmax(one.logits, -1)
    values = []
    for d in range(C):
        log_share = log_alpha + sum(
            one.family.density(u[..., k]).log() - one.component_scale[..., k].log() for k in range(d)
        )
        values.append((torch.softmax(log_share, -1) * one.family.cdf(u[..., d])).sum(-1))
    return torch.stack(values, -1)


@pytest.mark.parametrize(("family", "tril"), CONTINUOUS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_draws_follow_the_mixtures_distribution(family: Family, tril: bool, dtype: torch.dtype) -> None:
    """Given the dimensions before, each is uniform by its distribution function: 1.95 is passed once in a thousand."""
    torch.manual_seed(0)
    one = mixture(family, tril=tril, dtype=dtype)
    exact = mixture(family, tril=tril)
    uniform = conditional_cdfs(exact, one.sample((2500,)).double())
    for d in range(C):
        assert kolmogorov_smirnov(uniform[:, d]) < 1.95
    # Each dimension is independent of the one before.
    cells = torch.histogramdd(uniform[:, :2].contiguous(), bins=[5, 5], range=[0.0, 1.0, 0.0, 1.0]).hist
    assert ((cells - 100).square() / 100).sum() < 52.6  # chi-square of 24 degrees of freedom, once in 1500


def test_components_are_drawn_by_their_weights() -> None:
    """Components that lie apart: the draws of each mixture are counted. 13.8 is passed once in a thousand."""
    torch.manual_seed(0)
    given = parameters(5)
    given["loc"] = torch.arange(M).double().repeat_interleave(C).expand(5, -1) * 1e4
    one = Mixture(**given, dim=-1)
    drawn = (one.sample((3000,))[..., 0] / 1e4).round()
    for number, weights in enumerate(one.weights):
        counts = torch.bincount(drawn[:, number].long(), minlength=M)
        assert ((counts - 3000 * weights).square() / (3000 * weights)).sum() < 13.8


def test_a_component_without_weight_is_never_drawn() -> None:
    given = parameters(2)
    given["logits"][:, 1] = -math.inf
    given["loc"] = torch.arange(M).double().repeat_interleave(C).expand(2, -1) * 1e6
    drawn = Mixture(**given, dim=-1).sample((1000,)) / 1e6
    assert not ((drawn > 0.5) & (drawn < 1.5)).any()


def test_rounded_draws_of_a_discrete_target_have_its_masses() -> None:
    torch.manual_seed(0)
    one = mixture(DISCRETE, dims=1)
    bins = torch.arange(-8, 9, dtype=torch.float64) * DISCRETE.bin_width
    mass = one.log_prob(bins[:, None]).exp()
    drawn = (one.sample((20_000,))[:, 0] / DISCRETE.bin_width).round() * DISCRETE.bin_width
    counts = torch.stack([(drawn == each).sum() for each in bins])
    kept = 20_000 * mass > 5
    chi = ((counts - 20_000 * mass).square() / (20_000 * mass))[kept].sum()
    assert chi < kept.sum() + 3.1 * math.sqrt(2 * kept.sum()) + 4


class Largest(TorchDispatchMode):
    """Keeps the most elements that an operation's result has of its own."""

    elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.untyped_storage().nbytes() // result.element_size())
        return result


@pytest.mark.parametrize("tril", [False, True], ids=["independent", "pairs"])
def test_nothing_has_a_size_for_samples_components_and_dimensions(tril: bool) -> None:
    batch, samples, components = 3, 50, 40
    generator = torch.Generator().manual_seed(0)
    counts = [components, components * C, components * C, components * C // 2]
    given = [torch.randn(batch, count, generator=generator) for count in counts]
    one = Mixture(*given[:3], tril=given[3] if tril else None, block_size=2 if tril else None, dim=-1)
    limit = samples * batch * (components + C)
    assert limit < samples * batch * components * C / 2
    with Largest() as largest:
        value = one.sample((samples,))
        one.log_prob(value)
        one.posterior(value)
        one.crps(value)
        one.icdf(one.cdf(value))
    assert 0 < largest.elements <= limit


@pytest.mark.parametrize(("family", "tril"), CONTINUOUS, ids=str)
def test_a_draws_derivative_is_the_implicit_one(family: Family, tril: bool) -> None:
    """dx = -(dF/dx)^-1 dF, with both Jacobians by autograd from the sums over components."""
    torch.manual_seed(0)
    given = {name: value.requires_grad_() for name, value in parameters(tril=tril).items()}
    one = Mixture(**given, **(CORRELATED if tril else {}), family=family, dim=-1)
    samples = one.rsample((7,))
    for each in samples:
        x = each.detach()
        of_x = torch.autograd.functional.jacobian(lambda value: conditional_cdfs(one, value[None])[0], x)
        wanted = torch.randn(C, dtype=torch.float64)
        through = -torch.linalg.solve(of_x.T, wanted)
        expected = torch.autograd.grad(conditional_cdfs(one, x[None])[0] @ through, list(given.values()))
        made = torch.autograd.grad(each @ wanted, list(given.values()), retain_graph=True)
        torch.testing.assert_close(made, expected, rtol=1e-7, atol=1e-9)


EXPECTATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Mixture], Tensor]]] = {
    "first moment": (lambda x: x[..., 1], lambda one: one.mean[..., 1]),
    "square": (lambda x: x[..., 2].square(), lambda one: (one.variance + one.mean.square())[..., 2]),
    "product": (
        lambda x: x[..., 0] * x[..., 2],
        lambda one: (one.weights * one.component_loc[..., 0] * one.component_loc[..., 2]).sum(-1),
    ),
}


@pytest.mark.parametrize("expectation", EXPECTATIONS)
@pytest.mark.parametrize(("family", "tril"), [each for each in CONTINUOUS if each[0].name != "student_t"], ids=str)
def test_gradients_of_expectations_are_those_of_their_closed_forms(
    family: Family, tril: bool, expectation: str
) -> None:
    """Within five standard errors of 20000 draws."""
    torch.manual_seed(0)
    of_draw, closed_form = EXPECTATIONS[expectation]
    count = 20_000
    given = parameters(tril=tril)
    many = {name: value.expand(count, -1).contiguous().requires_grad_() for name, value in given.items()}
    options = {**(CORRELATED if tril else {}), "family": family, "dim": -1}
    of_draw(Mixture(**many, **options).rsample()).sum().backward()
    leaves = {name: value.requires_grad_() for name, value in given.items()}
    expected = torch.autograd.grad(closed_form(Mixture(**leaves, **options)), list(leaves.values()), allow_unused=True)
    for value, exact in zip(many.values(), expected, strict=True):
        made = value.grad
        error = made.std(0) / math.sqrt(count)
        distance = made.mean(0) - (0 if exact is None else exact)
        assert (distance.abs() <= 5 * error + 1e-12).all()


def test_a_thousand_draws_differentiate_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    from mdnkernels.mixture import pathwise

    def gradients() -> list[Tensor]:
        torch.manual_seed(0)
        given = {name: value.requires_grad_() for name, value in parameters(2, tril=True).items()}
        Mixture(**given, **CORRELATED, dim=-1).rsample((5, 7)).square().sum().backward()
        return [value.grad for value in given.values()]

    whole = gradients()
    monkeypatch.setattr(pathwise, "_TOGETHER", 1)
    torch.testing.assert_close(gradients(), whole)


def test_draws_of_far_tails_have_finite_derivatives_in_float32() -> None:
    torch.manual_seed(0)
    given = {name: value.requires_grad_() for name, value in parameters(spread=30.0, dtype=torch.float32).items()}
    samples = Mixture(**given, dim=-1).rsample((20_000,))
    samples.abs().sum().backward()
    assert all(value.grad.isfinite().all() for value in given.values())


def test_rsample_needs_no_graph_where_nothing_is_learnt() -> None:
    one = mixture("gaussian", 2)
    assert one.has_rsample
    assert not mixture(DISCRETE, 2).has_rsample
    assert not one.rsample((3,)).requires_grad
    learnt = Mixture(**{name: value.requires_grad_() for name, value in parameters(2).items()}, dim=-1)
    assert learnt.rsample((3,)).requires_grad
    assert not learnt.sample((3,)).requires_grad
    assert learnt.rsample((0,)).shape == (0, 2, C)


def test_log_prob_of_draws_is_that_by_hand() -> None:
    one = mixture("gaussian", 2, tril=True)
    value = one.sample((9,))
    torch.testing.assert_close(one.log_prob(value), by_hand(one, value).logsumexp(-1))
