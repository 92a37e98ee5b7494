"""The mixture as a distribution: its densities, moments and parts, against torch.distributions and sums by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import mdnkernels
from mdnkernels import Family, Mixture, MixtureSpec
from tests.ops.mixtures import CORRELATED, DISCRETE, FAMILIES, C, M, by_hand, mixture, parameters


@pytest.mark.parametrize("tril", [False, True], ids=["independent", "pairs"])
@pytest.mark.parametrize("family", FAMILIES, ids=str)
@pytest.mark.parametrize("samples", [(), (2,), (3, 5)], ids=str)
def test_log_prob_is_the_mixtures_density(family: Family, tril: bool, samples: tuple[int, ...]) -> None:
    """Few samples of each mixture, more samples than mixtures, and none."""
    one = mixture(family, 2, 3, tril=tril)
    value = torch.randn(*samples, 2, 3, C, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(one.log_prob(value), by_hand(one, value).logsumexp(-1))
    torch.testing.assert_close(one.posterior(value), by_hand(one, value).softmax(-1))


def test_log_prob_differentiates_through_every_sample() -> None:
    given = {name: value.requires_grad_() for name, value in parameters(2, 3).items()}
    for count in (2, 20):
        value = torch.randn(count, 2, 3, C, dtype=torch.float64)
        one = Mixture(**given, dim=-1)
        made = torch.autograd.grad(one.log_prob(value).square().sum(), list(given.values()))
        expected = torch.autograd.grad(by_hand(one, value).logsumexp(-1).square().sum(), list(given.values()))
        torch.testing.assert_close(made, expected)


@pytest.mark.parametrize("samples", [(2,), (3, 5)], ids=str)
def test_mass_is_that_of_the_loss(samples: tuple[int, ...]) -> None:
    one = mixture(DISCRETE, 2, 3)
    value = torch.randn(*samples, 2, 3, C, dtype=torch.float64)
    half = DISCRETE.bin_width / 2
    bins = [
        torch.sigmoid((value.unsqueeze(-2) + side - one.component_loc) / one.component_scale) for side in (-half, half)
    ]
    mass = (one.weights * (bins[1] - bins[0]).prod(-1)).sum(-1)
    torch.testing.assert_close(one.log_prob(value), mass.log())


@pytest.mark.parametrize("tril", [False, True], ids=["independent", "pairs"])
def test_torchs_mixture_is_the_same(tril: bool) -> None:
    one = mixture("gaussian", 2, 3, tril=tril)
    torchs = one.to_torch()
    value = torch.randn(5, 2, 3, C, dtype=torch.float64)
    assert (one.batch_shape, one.event_shape) == (torchs.batch_shape, torchs.event_shape) == ((2, 3), (C,))
    torch.testing.assert_close(one.log_prob(value), torchs.log_prob(value))
    torch.testing.assert_close(one.mean, torchs.mean)
    torch.testing.assert_close(one.variance, torchs.variance)
    torch.testing.assert_close(one.stddev, torchs.variance.sqrt())


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_torchs_mixture_has_every_family(family: Family) -> None:
    one = mixture(family, 2)
    value = torch.randn(5, 2, C, dtype=torch.float64)
    torch.testing.assert_close(one.log_prob(value), one.to_torch().log_prob(value))
    if family.name != "logistic":  # whose moments torch does not have
        torch.testing.assert_close(one.mean, one.to_torch().mean)
        torch.testing.assert_close(one.variance, one.to_torch().variance)


def test_variance_of_a_logistic_is_that_of_its_density() -> None:
    one = mixture("logistic", dims=1)
    x = torch.linspace(-80, 80, 400_001, dtype=torch.float64)
    density = one.log_prob(x[:, None]).exp()
    mean = torch.trapezoid(x * density, x)
    torch.testing.assert_close(one.mean, mean[None])
    torch.testing.assert_close(one.variance, torch.trapezoid((x - mean).square() * density, x)[None])


def test_variance_is_that_within_components_and_that_between_them() -> None:
    one = mixture("laplace", 2)
    alpha = torch.softmax(one.logits, -1)
    within = sum(alpha[:, m, None] * 2 * one.component_scale[:, m].square() for m in range(M))
    between = sum(alpha[:, m, None] * (one.component_loc[:, m] - one.mean).square() for m in range(M))
    torch.testing.assert_close(one.aleatoric_variance, within)
    torch.testing.assert_close(one.epistemic_variance, between)
    torch.testing.assert_close(one.variance, within + between)


def test_heavy_tails_have_the_moments_that_they_have() -> None:
    assert mixture(mdnkernels.StudentT(df=2.0), 2).variance.isinf().all()
    assert mixture(mdnkernels.StudentT(df=2.0), 2).mean.isfinite().all()
    assert mixture(mdnkernels.StudentT(df=1.0), 2).mean.isnan().all()
    with pytest.raises(NotImplementedError, match=r"DiscretisedLogistic.* has no variance"):
        _ = mixture(DISCRETE, 2).variance


def test_mode_is_the_component_that_is_highest_at_its_own_mean() -> None:
    one = mixture("gaussian", 2, 3, spread=20.0)
    heights = torch.stack([one.log_prob(one.component_loc[..., m, :]) for m in range(M)], -1)
    best = heights.argmax(-1)[..., None, None].expand(-1, -1, 1, C)
    torch.testing.assert_close(one.mode, one.component_loc.gather(-2, best).squeeze(-2))


@pytest.mark.parametrize("dim", [1, 2, -1])
def test_shapes_and_values_do_not_depend_on_where_the_channels_are(dim: int) -> None:
    given = parameters(2, 3, tril=True)
    one = Mixture(**{name: value.movedim(-1, dim) for name, value in given.items()}, **CORRELATED, dim=dim)
    other = Mixture(**given, **CORRELATED, dim=-1)
    value = other.sample((4,))
    assert one.batch_shape == other.batch_shape
    torch.testing.assert_close(one.log_prob(value), other.log_prob(value))


def test_parameters_are_views() -> None:
    given = parameters(2, 3)
    one = Mixture(**{name: value.movedim(-1, 1) for name, value in given.items()})
    for name, value in given.items():
        assert getattr(one, name).data_ptr() == value.data_ptr()
    wide = one.expand((5, 2, 3))
    assert wide.batch_shape == (5, 2, 3)
    assert wide.loc.data_ptr() == given["loc"].data_ptr()
    assert wide.sample((2,)).shape == (2, 5, 2, 3, C)


def test_one_mixture_has_no_batch() -> None:
    one = mixture("gaussian")
    assert one.batch_shape == ()
    value = one.sample((6,))
    assert value.shape == (6, C)
    torch.testing.assert_close(one.log_prob(value), one.to_torch().log_prob(value))
    torch.testing.assert_close(one.log_prob(value[0]), one.to_torch().log_prob(value[0]))
    assert one.posterior(value).shape == (6, M)
    assert one.mode.shape == (C,)
    assert one.icdf(torch.full((C,), 0.5, dtype=torch.float64)).shape == (C,)


def test_spec_makes_the_mixture_of_its_own_options() -> None:
    spec = MixtureSpec(M, C, scales=1, family="laplace", scale_activation="exp", min_scale=0.2, block_size=2)
    generator = torch.Generator().manual_seed(0)
    given = {name: torch.randn(2, count, 3, generator=generator) for name, count in spec.channels.items()}
    kappa = torch.tensor([0.5, 1.0, 2.0, 3.0])
    value = torch.randn(2, 3, C, generator=generator)
    log_prob = spec.distribution(**given, dim_scale=kappa).log_prob(value)
    loss = spec.nll(**given, target=value.movedim(-1, 1), dim_scale=kappa, reduction="none")
    torch.testing.assert_close(log_prob, -loss)
    with pytest.raises(ValueError, match="tril must be given for MixtureSpec"):
        spec.distribution(given["logits"], given["loc"], given["scale"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_gives_float32(dtype: torch.dtype) -> None:
    one = mixture("gaussian", 2, dtype=dtype)
    exact = Mixture(**{name: value.to(dtype).double() for name, value in parameters(2).items()}, dim=-1)
    value = one.sample((5,))
    probability = torch.tensor([0.1, 0.4, 0.5, 0.99])
    for name, given in (("log_prob", value), ("cdf", value), ("crps", value), ("icdf", probability)):
        result = getattr(one, name)(given)
        assert result.dtype == torch.float32
        torch.testing.assert_close(result.double(), getattr(exact, name)(given.double()), rtol=2e-5, atol=2e-5)
    for name in ("mean", "variance", "mode"):
        assert getattr(one, name).dtype == torch.float32


def test_tempered_divides_logits_and_multiplies_variances() -> None:
    one = mixture("gaussian", 2, tril=True)
    cold = one.tempered(0.25)
    torch.testing.assert_close(cold.weights, torch.softmax(4 * one.logits, -1))
    torch.testing.assert_close(cold.component_variance, one.component_variance / 4)
    torch.testing.assert_close(cold.component_loc, one.component_loc)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        one.tempered(0.0)


@pytest.mark.parametrize("tril", [False, True], ids=["independent", "pairs"])
@pytest.mark.parametrize("dims", [[0], [3], [2, 3], [1, 0], [0, 2, 3], [1, 2], [3, 2, 0]], ids=str)
def test_marginal_is_torchs_normal_of_those_dimensions(dims: list[int], tril: bool) -> None:
    one = mixture("gaussian", 2, tril=tril)
    torchs = one.to_torch()
    components = torchs.component_distribution
    covariance = components.covariance_matrix if tril else torch.diag_embed(components.base_dist.scale.square())
    expected = torch.distributions.MixtureSameFamily(
        torchs.mixture_distribution,
        torch.distributions.MultivariateNormal(one.component_loc[..., dims], covariance[..., dims, :][..., dims]),
    )
    value = torch.randn(7, 2, len(dims), dtype=torch.float64)
    torch.testing.assert_close(one.marginal(dims).log_prob(value), expected.log_prob(value))


@pytest.mark.parametrize(
    ("family", "dims", "tril"),
    [
        (family, dims, tril)
        for family in (*FAMILIES, DISCRETE)
        for dims in ([0], [2, 3], [2], [0, 1, 2], [0, 2], [3, 1])
        for tril in (False, True)
        if not tril or family.spherical or (family is not DISCRETE and dims != [3, 1])
    ],
    ids=str,
)
def test_joint_density_is_that_of_some_dimensions_and_of_the_others_given_them(
    family: Family, dims: list[int], tril: bool
) -> None:
    one = mixture(family, 2, 3, tril=tril)
    value = torch.randn(2, 3, C, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rest = [d for d in range(C) if d not in dims]
    given = one.condition(dims, value[..., dims])
    assert given.event_shape == (len(rest),)
    if tril:
        dims = sorted(dims)
    total = one.marginal(dims).log_prob(value[..., dims]) + given.log_prob(value[..., rest])
    torch.testing.assert_close(total, one.log_prob(value))


def test_many_values_condition_one_mixture() -> None:
    one = mixture("gaussian", tril=True)
    values = torch.randn(6, 1, dtype=torch.float64)
    given = one.condition(1, values)
    assert given.batch_shape == (6,)
    for each, value in enumerate(values):
        torch.testing.assert_close(given.mean[each], one.condition([1], value).mean)


def test_conditioning_is_differentiable() -> None:
    given = {name: value.requires_grad_() for name, value in parameters(tril=True).items()}
    value = torch.randn(1, dtype=torch.float64, requires_grad=True)

    def mean(value: Tensor, *tensors: Tensor) -> Tensor:
        return Mixture(*tensors[:3], tril=tensors[3], **CORRELATED, dim=-1).condition([1], value).mean

    assert torch.autograd.gradcheck(mean, (value, *given.values()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mixture("laplace", 2, tril=True).marginal([1]), r"Laplace\(\) has no closed form of dimensions \[1\]"),
        (lambda: mixture("laplace", 2, tril=True).to_torch(), r"Laplace\(\) has no correlation in torch"),
        (
            lambda: mixture("laplace", 2, tril=True).cdf(torch.zeros(2, C).double()),
            r"Laplace\(\) has no distribution f",
        ),
        (lambda: mixture(DISCRETE, 2).rsample(), r"DiscretisedLogistic.* has no pathwise derivatives"),
        (lambda: mixture(DISCRETE, 2).cdf(torch.zeros(2, C).double()), "DiscretisedLogistic.* has no continuous dist"),
        (
            lambda: mixture("logistic", 2).crps(torch.zeros(2, C).double()),
            r"Logistic\(\) has no closed form of the CRPS",
        ),
        (lambda: mixture(DISCRETE, 2).to_torch(), "DiscretisedLogistic.* has no like in torch.distributions"),
        (lambda: mixture("laplace", 2, tril=True).condition(1, torch.zeros(2, 1).double()), r"no closed form of dim"),
    ],
)
def test_what_has_no_closed_form_is_refused_by_name(make: Any, message: str) -> None:
    with pytest.raises(NotImplementedError, match=message):
        make()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda one: one.log_prob(torch.zeros(2, 3).double()),
            ValueError,
            r"value must be .* C = 4 last, got \(2, 3\)",
        ),
        (lambda one: one.log_prob(torch.zeros(3, 4).double()), ValueError, r"value must be .*batch shape \(2,\)"),
        (lambda one: one.log_prob(torch.zeros(2, 4)), TypeError, "value must be float64, got torch.float32"),
        (lambda one: one.marginal([]), ValueError, "dims must be distinct numbers below C = 4, at least one"),
        (lambda one: one.marginal([4]), ValueError, "dims must be distinct"),
        (lambda one: one.marginal([1.0]), TypeError, "dims must be an int, got float"),
        (lambda one: one.condition([0], torch.zeros(2, 2).double()), ValueError, r"values must be .* k = 1 dims"),
        (lambda one: one.condition(range(4), torch.zeros(2, 4).double()), ValueError, "dims must leave a dimension"),
        (
            lambda one: mixture("gaussian", 2, tril=True).marginal([0, 2, 1]),
            ValueError,
            "dims must have .* side by side",
        ),
    ],
)
def test_bad_arguments_are_refused_by_name(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(mixture("gaussian", 2))


def test_parameters_are_checked_as_the_ops_check_them() -> None:
    given = parameters(2, 3)
    with pytest.raises(
        ValueError, match=r"loc must be .*positive multiple of logits' M = 3 channels, got shape \(2, 13"
    ):
        Mixture(**{**given, "loc": torch.zeros(2, 3, 13).double()}, dim=-1)
    with pytest.raises(TypeError, match=r"loc must be a torch\.Tensor, got list"):
        Mixture(**{**given, "loc": [1.0]}, dim=-1)
    with pytest.raises(ValueError, match="dim must be the channels' among the 3 dimensions of logits, got 3"):
        Mixture(**given, dim=3)
    with pytest.raises(ValueError, match="Expected parameter loc"):  # torch.compile turns the default off
        Mixture(**{**given, "loc": math.nan * given["loc"]}, dim=-1, validate_args=True)
    assert repr(mixture("laplace", 2, 3, tril=True)) == (
        "Mixture(batch_shape=(2, 3), event_shape=(4,), components=3, family=Laplace(), block_size=2)"
    )
