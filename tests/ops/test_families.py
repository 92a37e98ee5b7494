"""Every family of the table alone: what is true of a density whatever its formula, and Student's t against others."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch

import mdnkernels
from mdnkernels import MixtureNLLLoss, StudentT, mixture_nll
from mdnkernels.mixture import families
from tests.ops import reference
from tests.ops.backends import BACKENDS, on, skip_where_missing
from tests.ops.mixture_cases import MixtureCase
from tests.ops.table.mixture import FAMILIES

DFS = (0.1, 1.0, 3.5, 30.0, 1e6)


@pytest.fixture(params=BACKENDS)
def backend(request):
    skip_where_missing("mixture_nll", request.param)
    return request.param


def one_dimension(z, family, dtype=torch.float64):
    """Return -log density of residuals with sigma 1, and its derivatives by logits, loc, raw scale and target."""
    nothing = torch.zeros(1, 1, len(z), dtype=dtype)
    target = z.to(dtype).view(1, 1, -1)
    arguments = [value.clone().requires_grad_() for value in (nothing, nothing, nothing, target)]
    loss = mixture_nll(*arguments, family=family, scale_activation="exp", min_scale=0.0, reduction="none")[0]
    return [loss, *(gradient[0, 0] for gradient in torch.autograd.grad(loss.sum(), arguments))]


def test_the_reference_knows_every_family():
    assert reference.FAMILIES.keys() == families.FAMILIES.keys()


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_the_density_integrates_to_one_and_a_mass_to_the_width_of_its_bins(backend, family):
    t = torch.linspace(-60, 60, 4801, dtype=torch.float64)
    with on(backend):
        loss = one_dimension(t.sinh(), family)[0]
    total = torch.trapezoid((-loss.detach() + t.cosh().log()).exp(), t).item()
    corner = family == "laplace"
    expected = 1 if families.family_of(family).log_sigma else family.bin_width
    assert total == pytest.approx(expected, abs=2e-3 if corner else 1e-9)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_the_gradient_is_the_derivative(backend, family):
    case = MixtureCase(batch=1, positions=(3,), dims=2, family=family, min_scale=0.1)
    arguments, others = case.make()
    # Slightly larger steps would cross the Laplace density's corner.
    with on(backend):
        assert torch.autograd.gradcheck(lambda *values: mixture_nll(*values, **others), arguments, eps=1e-7, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("df", DFS)
def test_student_t_is_that_of_extended_precision_at_every_size_of_residual(backend, df, dtype):
    z = torch.cat([torch.zeros(1), torch.logspace(-9, 18, 109, dtype=torch.float64)]).to(dtype)
    with on(backend):
        loss, _, by_loc, by_scale, by_target = one_dimension(z, StudentT(df), dtype)
    with mpmath.workdps(40):
        exact = [reference.FAMILIES["student_t"](mpmath.mpf(x), mpmath.mpf(df), mpmath.mpf(1)) for x in z.tolist()]
        slopes = [(df + 1) * mpmath.mpf(x) / (df + mpmath.mpf(x) ** 2) for x in z.tolist()]
        pulls = [1 - mpmath.mpf(x) * slope for x, slope in zip(z.tolist(), slopes, strict=True)]
    tolerance = 2e-6 if dtype == torch.float32 else 1e-12
    for actual, expected in ((loss, exact), (by_target, slopes), (-by_loc, slopes), (by_scale, pulls)):
        wanted = torch.tensor([float(value) for value in expected], dtype=torch.float64)
        floor = 1e-30 if expected is slopes else tolerance * max(1.0, wanted.abs().min().item())
        assert ((actual.double() - wanted).abs() <= tolerance * wanted.abs() + floor).all()


@pytest.mark.parametrize("df", DFS)
def test_student_t_is_torchs(backend, df):
    generator = torch.Generator().manual_seed(0)
    logits, loc, scale, target = (torch.randn(50, k, generator=generator, dtype=torch.float64) for k in (3, 6, 6, 2))
    with on(backend):
        options = {"family": StudentT(df), "scale_activation": "elu", "min_scale": 0.2, "reduction": "none"}
        loss = mixture_nll(logits, loc, scale, target, **options)
    sigma = torch.nn.functional.elu(scale) + 1.2
    each = torch.distributions.StudentT(df, loc.view(50, 3, 2), sigma.view(50, 3, 2)).log_prob(target.unsqueeze(1))
    expected = -torch.logsumexp(torch.log_softmax(logits, 1) + each.sum(2), 1)
    # torch takes the difference of two large lgammas.
    torch.testing.assert_close(loss, expected, rtol=1e-12 if df < 100 else 1e-8, atol=1e-12 if df < 100 else 1e-8)


def test_student_t_of_one_is_cauchys_and_of_many_the_gaussian(backend):
    z = torch.linspace(-5, 5, 101, dtype=torch.float64)
    with on(backend):
        cauchy, many = one_dimension(z, StudentT(1))[0], one_dimension(z, StudentT(1e9))[0]
    torch.testing.assert_close(cauchy, torch.log(math.pi * (1 + z.square())))
    gaussian = -torch.distributions.Normal(0.0, 1.0).log_prob(z)
    torch.testing.assert_close(many, gaussian, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: MixtureNLLLoss("student_t"), ValueError, ["student_t", "df", "mdnkernels.StudentT(df=4.0)"]),
        (lambda: MixtureNLLLoss("cauchy"), ValueError, ["family", "cauchy", *map(repr, families.FAMILIES)]),
        (lambda: MixtureNLLLoss(StudentT), TypeError, ["family", "StudentT"]),
        (lambda: MixtureNLLLoss(4), TypeError, ["family", "4"]),
        *((lambda df=df: StudentT(df), ValueError, ["df", str(df)]) for df in (0, -1.0, math.inf, math.nan, 1e31)),
        (lambda: StudentT("4"), TypeError, ["df", "str"]),
        (lambda: StudentT(True), TypeError, ["df", "bool"]),
    ],
)
def test_a_wrong_family_says_what_to_write(make, error, words):
    with pytest.raises(error) as raised:
        make()
    assert all(word in str(raised.value) for word in words)


def test_a_module_takes_a_family_and_shows_it():
    arguments, others = MixtureCase(family=StudentT(3)).make()
    options = {
        name: others.pop(name) for name in ("family", "scale_activation", "min_scale", "scale_order", "reduction")
    }
    module = MixtureNLLLoss(**options)
    assert torch.equal(module(*arguments, **others), mixture_nll(*arguments, **others, **options))
    assert "StudentT(df=3)" in repr(module)


@pytest.mark.parametrize("backend", ["native", "eager"])
def test_a_family_is_compiled_in_and_another_of_its_kind_compiled_anew(backend):
    skip_where_missing("mixture_nll", backend)
    torch.compiler.reset()
    arguments, others = MixtureCase().make()
    loss = torch.compile(lambda family: mixture_nll(*arguments, **{**others, "family": family}), fullgraph=True)
    with mdnkernels.use_backend(backend):
        for family in (StudentT(4.0), StudentT(0.5), "laplace"):
            torch.testing.assert_close(loss(family), mixture_nll(*arguments, **{**others, "family": family}))
