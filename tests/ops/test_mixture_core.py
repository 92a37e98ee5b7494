"""The mixture's core: correlation, assignment, factors of gradients, posterior, order of scales; and what others get
wrong. Against torch.distributions, extended precision and loops in plain Python."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal, StudentT
from torch.nn import functional

import mdnkernels
from mdnkernels import DiscretisedLogistic, mixture_mode, mixture_nll, mixture_posterior
from mdnkernels.mixture import families
from tests.ops import reference
from tests.ops.backends import BACKENDS, on, skip_where_missing
from tests.ops.table.mixture import FAMILIES

M, C = 3, 4


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    skip_where_missing("mixture_nll", request.param)
    return request.param


def parameters(dims: int = C, components: int = M, scales: int | None = None, points: int = 6) -> dict[str, Tensor]:
    """Draw one row of float64 points: logits, loc, raw scales and target, (1, K, P)."""
    generator = torch.Generator().manual_seed(7)
    channels = {"logits": components, "loc": components * dims, "scale": components * (scales or dims), "target": dims}
    return {
        name: torch.randn(1, count, points, dtype=torch.float64, generator=generator)
        for name, count in channels.items()
    }


def gradients(loss: Tensor, call: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(zip(call, torch.autograd.grad(loss.sum(), list(call.values())), strict=True))


def leaves(call: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone().requires_grad_() for name, value in call.items()}


def each_evidence(call: dict[str, Tensor], min_scale: float = 1e-3) -> list[list[float]]:
    """Return e_m of each point by hand, of a diagonal Gaussian mixture."""
    rows = []
    for p in range(call["target"].shape[2]):
        logits = call["logits"][0, :, p].tolist()
        normaliser = math.log(math.fsum(math.exp(logit) for logit in logits))
        row = []
        for m, logit in enumerate(logits):
            total = logit - normaliser
            for d in range(C):
                sigma = math.log1p(math.exp(call["scale"][0, m * C + d, p].item())) + min_scale
                z = (call["target"][0, d, p].item() - call["loc"][0, m * C + d, p].item()) / sigma
                total -= z * z / 2 + math.log(sigma) + math.log(2 * math.pi) / 2
            row.append(total)
        rows.append(row)
    return rows


# Correlation.


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("block", [2, 4])
def test_correlated_blocks_are_torchs_multivariate_normal(backend: str, block: int, shared: bool) -> None:
    call = parameters()
    entries, blocks = block * (block - 1) // 2, C // block
    tril = torch.randn(1, M * entries * (1 if shared else blocks), 6, dtype=torch.float64)
    covariance = torch.zeros(M, 6, C, C, dtype=torch.float64)
    for m in range(M):
        for p in range(6):
            sigma = functional.softplus(call["scale"][0, m * C : (m + 1) * C, p]) + 1e-3
            own = tril[0, :, p].view(M, -1, entries)[m]
            for b in range(blocks):
                here = slice(b * block, (b + 1) * block)
                covariance[m, p, here, here] = mdnkernels.covariance_from_tril(
                    sigma[here], own[b if len(own) > 1 else 0]
                )
    density = MultivariateNormal(call["loc"][0].view(M, C, 6).permute(2, 0, 1), covariance.transpose(0, 1))
    expected = -MixtureSameFamily(Categorical(logits=call["logits"][0].T), density).log_prob(call["target"][0].T)
    with on(backend):
        loss = mixture_nll(**call, tril=tril, block_size=block, reduction="none")[0]
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)


def test_a_pair_is_the_bivariate_normal_that_motion_forecasting_writes(backend: str) -> None:
    generator = torch.Generator().manual_seed(1)
    deviation = torch.rand(20, 2, dtype=torch.float64, generator=generator) + 0.5
    rho = torch.rand(20, dtype=torch.float64, generator=generator) * 1.8 - 0.9
    target, mean = torch.randn(2, 20, 2, dtype=torch.float64, generator=generator)
    x, y = ((target - mean) / deviation).unbind(1)
    exponent = (x**2 - 2 * rho * x * y + y**2) / (2 * (1 - rho**2))
    expected = exponent + torch.log(2 * math.pi * deviation.prod(1) * torch.sqrt(1 - rho**2))
    sigma, tril = mdnkernels.tril_from_correlation(deviation, rho)
    with on(backend):
        loss = mixture_nll(
            torch.zeros(20, 1, dtype=torch.float64),
            *(mean, sigma, target),
            tril=tril,
            block_size=2,
            scale_activation="identity",
            reduction="none",
        )
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)


def test_the_three_forms_of_a_correlation_are_one_another() -> None:
    generator = torch.Generator().manual_seed(2)
    square = torch.randn(5, 4, 4, dtype=torch.float64, generator=generator)
    covariance = square @ square.mT + torch.eye(4, dtype=torch.float64)
    sigma, tril = mdnkernels.tril_from_covariance(covariance)
    torch.testing.assert_close(mdnkernels.covariance_from_tril(sigma, tril), covariance)
    whitening = torch.eye(4, dtype=torch.float64).repeat(5, 1, 1)
    for place, (row, column) in enumerate([(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]):
        whitening[:, row, column] = tril[:, place]
    factor = whitening / sigma.unsqueeze(1)
    torch.testing.assert_close(factor.mT @ factor, torch.linalg.inv(covariance))
    deviation, rho = mdnkernels.correlation_from_tril(sigma[:, :2], tril[:, :1])
    torch.testing.assert_close(deviation.square(), covariance[:, [0, 1], [0, 1]])
    torch.testing.assert_close(rho * deviation.prod(1), covariance[:, 0, 1])
    for given, back in zip(mdnkernels.tril_from_correlation(deviation, rho), (sigma[:, :2], tril[:, :1]), strict=True):
        torch.testing.assert_close(given, back)


@pytest.mark.parametrize("order", ["blocks", "interleaved"])
@pytest.mark.parametrize("scales", [2, 3])
def test_scales_mask_and_blocks_cover_the_dimensions_that_the_formula_says(
    backend: str, scales: int, order: str
) -> None:
    call = parameters(dims=6, scales=scales)
    mask = torch.tensor([[[1, 0, 1, 0, 1, 1], [1, 1, 0, 0, 1, 0], [1, 1, 1, 0, 0, 0]]]).bool()
    tril = torch.randn(1, M * 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    options: dict[str, Any] = {"mask": mask, "tril": tril, "block_size": 2, "scale_order": order, "min_scale": 0.1}
    kappa = torch.linspace(0.5, 2, 6, dtype=torch.float64)
    exact = reference.mixture_nll(**call, **options, dim_scale=kappa, scale_activation="softplus")[0]
    with on(backend):
        loss = mixture_nll(**call, **options, dim_scale=kappa, reduction="none")[0]
    torch.testing.assert_close(
        loss, torch.tensor([float(value) for value in exact], dtype=torch.float64), rtol=1e-9, atol=1e-9
    )


def test_an_order_of_scales_is_asked_for_only_where_there_are_two() -> None:
    for scales in (1, 4):
        call = parameters(scales=scales)
        both = [mixture_nll(**call, scale_order=order) for order in (None, "blocks", "interleaved")]
        assert both[0] == both[1] == both[2]
    with pytest.raises(
        ValueError, match=r"scale_order must say which share one: 'blocks'.*d // 2.*'interleaved' for d % 2"
    ):
        mixture_nll(**parameters(scales=2))


# Tails.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", ["logistic", *(DiscretisedLogistic(width) for width in (1e-3, 1.0, 40.0))], ids=str)
def test_logistic_values_and_slopes_are_exact_in_the_far_tails(
    backend: str, family: str | families.Family, dtype: torch.dtype
) -> None:
    size = torch.cat([torch.zeros(1), torch.logspace(-6, 6, 60, dtype=torch.float64)])
    z = torch.cat([-size, size]).to(dtype)
    one, row = torch.zeros(1, 1, len(z), dtype=dtype), z.view(1, 1, -1)
    call = leaves({"logits": one, "loc": one, "scale": one, "target": row})
    with on(backend):
        loss = mixture_nll(**call, family=family, scale_activation="exp", min_scale=0.0, reduction="none")
        given = gradients(loss, call)
    name, parameter = ("logistic", 0.0) if family == "logistic" else (family.name, family.parameter)

    def value(x: mpmath.mpf, sigma: mpmath.mpf) -> mpmath.mpf:
        return reference.FAMILIES[name](x / sigma, mpmath.mpf(parameter), sigma)

    tolerance = 4e-6 if dtype == torch.float32 else 1e-12
    with mpmath.workdps(50):
        for i, x in enumerate(z.double().tolist()):
            if abs(x) > 1e3 and name != "logistic":
                # In closed form: the bin's mass is e^-|z| (e^h - e^-h) up to e^-|z| of itself.
                h = mpmath.mpf(parameter) / 2
                exact = abs(x) - mpmath.log(mpmath.exp(h) - mpmath.exp(-h))
                slope = mpmath.sign(x)
            else:
                exact = value(mpmath.mpf(x), mpmath.mpf(1))
                slope = mpmath.diff(lambda t: value(t, mpmath.mpf(1)), mpmath.mpf(x), h=mpmath.mpf(10) ** -15)
            assert loss[0, i].item() == pytest.approx(float(exact), rel=tolerance, abs=tolerance)
            assert given["target"][0, 0, i].item() == pytest.approx(float(slope), rel=tolerance, abs=tolerance)
            if abs(x) <= 1e3:
                by_sigma = mpmath.diff(lambda s, x=x: value(mpmath.mpf(x), s), mpmath.mpf(1), h=mpmath.mpf(10) ** -15)
                assert given["scale"][0, 0, i].item() == pytest.approx(float(by_sigma), rel=tolerance, abs=tolerance)


# What is minimised.


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_a_tempered_loss_is_the_formulas(backend: str, temperature: float) -> None:
    call = parameters()
    expected = [
        -temperature * math.log(math.fsum(math.exp(e / temperature) for e in row)) for row in each_evidence(call)
    ]
    with on(backend):
        loss = mixture_nll(**call, temperature=temperature, reduction="none")[0]
    assert loss.tolist() == pytest.approx(expected, rel=1e-9)


def test_the_winner_takes_all_and_an_assigned_component_its_own(backend: str) -> None:
    call = parameters()
    evidence = each_evidence(call)
    assigned = torch.tensor([[0, 2, -1, 1, 1, -1]])
    with on(backend):
        best = mixture_nll(**call, assign="best", reduction="none")[0]
        given = mixture_nll(**call, assign=assigned, reduction="none")[0]
        mean = mixture_nll(**call, assign=assigned)
    assert best.tolist() == pytest.approx([-max(row) for row in evidence])
    expected = [0.0 if a < 0 else -evidence[p][a] for p, a in enumerate(assigned[0].tolist())]
    assert given.tolist() == pytest.approx(expected)
    assert mean.item() == pytest.approx(sum(expected) / 4)


@pytest.mark.parametrize(
    "options", [{"assign": "best"}, {"assign": torch.tensor([[0, 2, -1, 1, 1, -1]])}, {"temperature": 3.0}], ids=str
)
def test_what_is_minimised_has_true_gradients(backend: str, options: dict[str, Any]) -> None:
    call = leaves({**parameters(), "tril": torch.randn(1, M * 2, 6, dtype=torch.float64)})
    with on(backend):
        assert torch.autograd.gradcheck(
            lambda *values: mixture_nll(**dict(zip(call, values, strict=True)), block_size=2, **options),
            tuple(call.values()),
        )


def test_a_high_temperature_teaches_all_components_and_a_low_one_the_winner(backend: str) -> None:
    call = parameters()
    with on(backend):
        hot, cold = (mixture_posterior(**call, temperature=tau) for tau in (1e7, 1e-4))
    torch.testing.assert_close(hot, torch.full_like(hot, 1 / M), rtol=0, atol=1e-5)
    winner = torch.tensor([max(range(M), key=row.__getitem__) for row in each_evidence(call)])
    assert torch.equal(cold[0].argmax(0), winner)
    torch.testing.assert_close(cold[0].amax(0), torch.ones(6, dtype=torch.float64))


def test_the_posterior_is_the_formulas_and_0_where_nothing_is_observed(backend: str) -> None:
    call = parameters()
    mask = torch.tensor([[[True, True, False, True, True, True]]])
    with on(backend):
        posterior = mixture_posterior(**call, mask=mask)
        chosen = mixture_posterior(
            **{**call, "target": call["target"][:, :, :3]}, index=torch.tensor([[4, -1, 0]]), mask=mask[:, :, :3]
        )
    assert not posterior.requires_grad
    for p, row in enumerate(each_evidence(call)):
        total = math.fsum(map(math.exp, row))
        expected = [math.exp(e) / total for e in row] if p != 2 else [0.0] * M
        assert posterior[0, :, p].tolist() == pytest.approx(expected)
    assert chosen[0, :, 1:].tolist() == [[0.0, 0.0]] * M
    assert chosen[0, :, 0].sum().item() == pytest.approx(1)


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_beta_weighs_each_components_gradients_by_its_sigma(backend: str, beta: float) -> None:
    call = leaves(parameters())
    kappa = torch.linspace(0.5, 2, C, dtype=torch.float64)
    with on(backend):
        plain = mixture_nll(**call, dim_scale=kappa)
        weighed = mixture_nll(**call, dim_scale=kappa, beta=beta)
        before, after = gradients(plain, call), gradients(weighed, call)
    factor = (functional.softplus(call["scale"]) + 1e-3).detach() ** (2 * beta)
    assert weighed == plain
    torch.testing.assert_close(after["loc"], before["loc"] * factor)
    torch.testing.assert_close(after["scale"], before["scale"] * factor)
    for name in ("logits", "target"):
        torch.testing.assert_close(after[name], before[name])


def information(family: str | families.Family) -> tuple[float, float]:
    """Return Fisher's information of loc and sigma at sigma 1 as the variance of the score, by quadrature."""
    known = families.family_of(family)
    z = torch.linspace(-12, 12, 400_001, dtype=torch.float64).sinh().requires_grad_()
    value = known.value(z, torch.ones_like(z))
    (slope,) = torch.autograd.grad(value.sum(), z)
    density = torch.exp(-value - known.constant).detach()
    of_loc, of_sigma = slope.square(), (1 - z.detach() * slope).square()
    return tuple(torch.trapezoid(score * density, z.detach()).item() for score in (of_loc, of_sigma))


@pytest.mark.parametrize("family", [family for family in FAMILIES if families.family_of(family).log_sigma], ids=str)
def test_the_natural_gradient_is_over_the_components_own_information(
    backend: str, family: str | families.Family
) -> None:
    call = leaves(parameters(dims=C, scales=2))
    kappa = torch.linspace(0.5, 2, C, dtype=torch.float64)
    mask = torch.tensor([[[1, 1, 0, 1, 1, 1], [1, 0, 0, 1, 0, 1]]]).bool()
    options: dict[str, Any] = {"dim_scale": kappa, "family": family, "scale_order": "interleaved", "mask": mask}
    with on(backend):
        plain = mixture_nll(**call, **options)
        natural = mixture_nll(**call, **options, gradient="natural")
        before, after = gradients(plain, call), gradients(natural, call)
    of_loc, of_sigma = information(family)
    sigma = (functional.softplus(call["scale"]) + 1e-3).detach().view(M, 2, 6)
    observed = mask[0].sum(0).clamp(min=1)  # dimensions of each scale: one in each group
    by_loc = (sigma.repeat(1, 2, 1) * kappa.view(C, 1)).square() / of_loc
    by_scale = sigma.square() / (of_sigma * observed)
    assert natural == plain
    torch.testing.assert_close(after["loc"], before["loc"] * by_loc.flatten(0, 1), rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(after["scale"], before["scale"] * by_scale.flatten(0, 1), rtol=1e-5, atol=1e-9)
    for name in ("logits", "target"):
        torch.testing.assert_close(after[name], before[name])


# What others get wrong.


def test_a_loss_below_0_trains_on(backend: str) -> None:
    """A density above 1 is right; a clamp of the loss at 0 stops training where it begins to be good."""
    call = leaves({"logits": torch.zeros(8, 1), "loc": torch.full((8, 2), 0.01), "scale": torch.full((8, 1), 0.02)})
    target = torch.zeros(8, 2)
    with on(backend):
        loss = mixture_nll(**call, target=target, scale_activation="identity")
        given = gradients(loss, call)
    assert loss.item() < -5
    assert (given["loc"] > 0).all()
    assert (given["scale"] > 0).all()  # residuals of half a sigma want a smaller one


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_logit_of_minus_infinity_leaves_its_component_out(backend: str, reduction: str, dtype: torch.dtype) -> None:
    drawn = {name: value.to(dtype) for name, value in parameters().items()}
    drawn["logits"][:, 1] = -math.inf
    call = leaves(drawn)
    others = {
        name: value if name == "target" else value.unflatten(1, (M, -1))[:, [0, 2]].flatten(1, 2)
        for name, value in drawn.items()
    }
    with on(backend):
        loss = mixture_nll(**call, reduction=reduction)
        given = gradients(loss, call)
        best = mixture_nll(**call, assign="best", reduction=reduction)
        assert all(value.isfinite().all() for value in gradients(best, call).values())
        torch.testing.assert_close(loss, mixture_nll(**others, reduction=reduction))
    for name in ("logits", "loc", "scale"):
        assert given[name].isfinite().all()
        assert (given[name].unflatten(1, (M, -1))[:, 1] == 0).all()


@pytest.mark.parametrize(("dims", "components"), [(512, 2), (2, 64), (512, 64)])
def test_many_dimensions_and_many_components(backend: str, dims: int, components: int) -> None:
    points = 2 if backend not in ("native", "eager") else 40
    call = parameters(dims, components, points=points)
    sigma = functional.softplus(call["scale"]) + 1e-3
    density = Independent(
        Normal(*(value.view(components, dims, points).permute(2, 0, 1) for value in (call["loc"], sigma))), 1
    )
    expected = -MixtureSameFamily(Categorical(logits=call["logits"][0].T), density).log_prob(call["target"][0].T)
    single = leaves({name: value.float() for name, value in call.items()})
    with on(backend):
        torch.testing.assert_close(mixture_nll(**call, reduction="none")[0], expected, rtol=1e-9, atol=1e-9)
        loss = mixture_nll(**single, reduction="none")
        torch.testing.assert_close(loss[0].double(), expected, rtol=1e-4, atol=1e-4)
        assert all(value.isfinite().all() for value in gradients(loss, single).values())


@pytest.mark.parametrize("family", FAMILIES, ids=str)
@pytest.mark.parametrize("min_scale", [0.0, 1e-3])
@pytest.mark.parametrize("raw", [-80.0, 89.0, 100.0, 300.0])
def test_exp_of_any_raw_scale_has_finite_gradients(
    backend: str, raw: float, min_scale: float, family: str | families.Family
) -> None:
    if raw < 0 and min_scale == 0 and family != "gaussian":
        pytest.skip("residuals of e^80 sigma")
    call = leaves(
        {
            "logits": torch.tensor([[0.0, 1.0]]),
            "loc": torch.zeros(1, 2) if raw < 0 else torch.tensor([[0.0, 2.0]]),
            "scale": torch.tensor([[0.5, raw]]),
            "target": torch.zeros(1, 1) if raw < 0 else torch.tensor([[0.3]]),
        }
    )
    double = leaves({name: value.detach().double() for name, value in call.items()})
    options: dict[str, Any] = {"scale_activation": "exp", "min_scale": min_scale, "family": family}
    with on(backend):
        loss = mixture_nll(**call, **options)
        given = gradients(loss, call)
    with mdnkernels.use_backend("eager"):
        exact = mixture_nll(**double, **options)
        expected = gradients(exact, double)
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=1e-5)
    for name, value in given.items():
        assert value.isfinite().all(), name
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["gaussian", "laplace", "logistic", mdnkernels.StudentT(3.0)], ids=str)
def test_a_collapsed_component_beside_another_gets_no_gradient_and_gives_no_nan(
    backend: str, family: str | families.Family
) -> None:
    """Its density is 0 at the target: z^2 overflows, and 0 times infinity would be NaN."""
    call = leaves(
        {
            "logits": torch.zeros(1, 2),
            "loc": torch.tensor([[0.0, 1e4]]),
            "scale": torch.tensor([[1.0, 1e-20]]),
            "target": torch.zeros(1, 1),
        }
    )
    with on(backend):
        loss = mixture_nll(**call, scale_activation="identity", family=family)
        given = gradients(loss, call)
    assert loss.isfinite()
    assert all(value.isfinite().all() for value in given.values())
    if family != mdnkernels.StudentT(3.0):  # whose tails reach so far
        assert given["loc"][0, 1] == given["scale"][0, 1] == 0


# Predictions.


@pytest.mark.parametrize("select_some", [False, True])
@pytest.mark.parametrize(
    ("family", "density"),
    [("gaussian", Normal), (mdnkernels.StudentT(5.0), lambda loc, scale: StudentT(5.0, loc, scale))],
)
def test_the_means_variance_is_torchs(family: Any, density: Any, select_some: bool) -> None:
    call = parameters()
    sigma = functional.softplus(call["scale"]) + 1e-3
    kept = [0, 2] if select_some else [0, 1, 2]
    loc, sigma = (value.view(M, C, 6).permute(2, 0, 1)[:, kept] for value in (call["loc"], sigma))
    mixture = MixtureSameFamily(Categorical(logits=call["logits"][0, kept].T), Independent(density(loc, sigma), 1))
    mode = mixture_mode(
        call["logits"],
        call["loc"],
        call["scale"],
        select="mean",
        family=family,
        components=kept if select_some else None,
    )
    assert mode.variance is not None
    torch.testing.assert_close(mode.loc[0].T, mixture.mean)
    torch.testing.assert_close(mode.variance[0].T, mixture.variance)


def test_correlation_reaches_the_variance_and_the_prediction() -> None:
    call = parameters()
    tril = torch.randn(1, M * 2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    options = {"tril": tril, "block_size": 2}
    mode = mixture_mode(call["logits"], call["loc"], call["scale"], **options)
    mean = mixture_mode(call["logits"], call["loc"], call["scale"], select="mean", **options)
    assert mean.tril is None
    assert mode.variance is None
    assert mode.tril is not None
    assert mean.variance is not None
    for p in range(6):
        best = int(call["logits"][0, :, p].argmax())
        assert torch.equal(mode.tril[0, :, p], tril[0, 2 * best : 2 * best + 2, p])
        alpha = call["logits"][0, :, p].softmax(0)
        loc = call["loc"][0, :, p].view(M, C)
        second = torch.zeros(C, dtype=torch.float64)
        for m in range(M):
            sigma = functional.softplus(call["scale"][0, m * C : (m + 1) * C, p]) + 1e-3
            for b in range(2):
                here = slice(2 * b, 2 * b + 2)
                own = mdnkernels.covariance_from_tril(sigma[here], tril[0, 2 * m + b : 2 * m + b + 1, p]).diagonal()
                second[here] += alpha[m] * (own + loc[m, here] ** 2)
        expected = second - (alpha @ loc) ** 2
        torch.testing.assert_close(mean.variance[0, :, p], expected)


def test_a_discrete_target_is_predicted_by_the_fullest_bin() -> None:
    # The second component's density is larger at its mean; with bins of 4 the first's bin holds as good as all.
    logits, loc = torch.tensor([[0.1, 0.0]]), torch.tensor([[0.0, 5.0]])
    scale = torch.tensor([[0.2, 0.15]])
    options: dict[str, Any] = {"select": "density", "scale_activation": "identity"}
    assert mixture_mode(logits, loc, scale, **options).component == 1
    assert mixture_mode(logits, loc, scale, **options, family=DiscretisedLogistic(4.0)).component == 0
    wide = mixture_mode(logits, loc, scale, family=DiscretisedLogistic(4.0), select="mean", scale_activation="identity")
    assert wide.variance is None
    assert mixture_mode(logits, loc, scale, select="mean", family=mdnkernels.StudentT(2.0)).variance.isinf().all()


# Refusals.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tril": torch.zeros(1, 6, 6).double()}, "tril needs block_size"),
        ({"block_size": 2}, "block_size=2 says what tril correlates, and tril is None"),
        ({"tril": torch.zeros(1, 6, 6).double(), "block_size": 3}, "block_size must divide C = 4, got 3"),
        ({"tril": torch.zeros(1, 6, 6).double(), "block_size": 1}, "block_size must be at least 2 beside tril"),
        ({"tril": torch.zeros(1, 5, 6).double(), "block_size": 2}, "M\\*Q = 6 channels, or 3 that serve all blocks"),
        (
            {"tril": torch.zeros(1, 6, 6).double(), "block_size": 2, "mask": torch.ones(1, 4, 6).bool()},
            "mask must observe a block of 2 dimensions wholly or not at all: its G must divide 2 blocks, got 4",
        ),
        (
            {"tril": torch.zeros(1, 6, 6).double(), "block_size": 2, "family": DiscretisedLogistic(1.0)},
            "correlated dimensions need a density",
        ),
        ({"temperature": 0}, "temperature must be above 0"),
        ({"temperature": 2.0, "assign": "best"}, "temperature=2.0 tempers the likelihood, and assign='best' has none"),
        ({"beta": 1.5}, "beta must lie in"),
        ({"beta": 0.5, "gradient": "natural"}, "gradient='natural' and beta=0.5 both weigh by sigma"),
        ({"gradient": "fisher"}, "gradient must be one of 'likelihood', 'natural', got 'fisher'"),
        ({"gradient": "natural", "family": DiscretisedLogistic(1.0)}, "needs a family whose information falls"),
        (
            {"tril": torch.zeros(1, 6, 6).double(), "block_size": 2, "gradient": "natural"},
            "gradient='natural' is that of independent dimensions",
        ),
        ({"assign": "worst"}, "assign must be None, 'best' or a tensor of components, got 'worst'"),
        ({"assign": torch.zeros(1, 5, dtype=torch.int64)}, "assign must have shape"),
        ({"scale_order": "rows"}, "scale_order must be one of 'blocks', 'interleaved', got 'rows'"),
    ],
    ids=str,
)
def test_options_that_cannot_be_are_refused_by_name(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        mixture_nll(**parameters(), **options)


def test_an_assigned_component_that_is_not_there_is_refused() -> None:
    with pytest.raises(
        IndexError, match=r"assign must lie in \[-1, 3\) \(the components of logits; -1 leaves a position out\), got 3"
    ):
        mixture_nll(**parameters(), assign=torch.full((1, 6), 3))
    with pytest.raises(TypeError, match=r"assign must be int64, got torch\.int32"):
        mixture_nll(**parameters(), assign=torch.zeros(1, 6, dtype=torch.int32))
