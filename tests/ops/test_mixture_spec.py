"""One mixture, its loss, its predictions and its sigmas: by the same options, on the channels that it says."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, Laplace, MixtureSameFamily, Normal, StudentT

import mdnkernels
from mdnkernels import DiscretisedLogistic, Family, MixtureSpec, mixture_mode, mixture_nll, mixture_posterior

SPEC = MixtureSpec(
    3, 4, scales=2, family="laplace", scale_activation="softplus", min_scale=0.25, scale_order="interleaved"
)


def parameters(spec: MixtureSpec, points: int = 7) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, count, points, dtype=torch.float64, generator=generator) for count in spec.channels.values()]


def sigma_by_hand(raw: float, spec: MixtureSpec) -> float:
    positive = math.log1p(math.exp(raw)) if spec.scale_activation == "softplus" else math.exp(raw)
    return spec.min_scale + (raw + 1 if spec.scale_activation == "elu" and raw > 0 else positive)


@pytest.mark.parametrize("family", ["gaussian", "laplace", mdnkernels.StudentT(df=4.0)], ids=str)
@pytest.mark.parametrize("scale_activation", ["elu", "softplus"])
def test_nll_is_that_of_torchs_distribution_with_the_specs_options(family: str | Family, scale_activation: str) -> None:
    spec = MixtureSpec(
        3, 4, scales=2, family=family, scale_activation=scale_activation, min_scale=0.25, scale_order="interleaved"
    )
    logits, loc, scale = parameters(spec)
    target = torch.randn(2, 4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = torch.empty(2, 7, dtype=torch.float64)
    for image in range(2):
        for point in range(7):
            sigma = torch.tensor(
                [[sigma_by_hand(scale[image, 2 * m + d % 2, point].item(), spec) for d in range(4)] for m in range(3)]
            ).double()
            mean = loc[image, :, point].view(3, 4)
            density = Independent(
                {"gaussian": Normal, "laplace": Laplace}[family](mean, sigma)
                if isinstance(family, str)
                else StudentT(family.parameter, mean, sigma),
                1,
            )
            mixture = MixtureSameFamily(Categorical(logits=logits[image, :, point]), density)
            expected[image, point] = -mixture.log_prob(target[image, :, point])
    given = spec.nll(logits, loc, scale, target, reduction="none")
    torch.testing.assert_close(given, expected, rtol=1e-6, atol=1e-6)


def test_a_predictions_sigma_is_the_chosen_components() -> None:
    logits, loc, scale = parameters(SPEC)
    mode = SPEC.mode(logits, loc, scale)
    assert mode.scale is not None
    for image in range(2):
        for point in range(7):
            best = int(logits[image, :, point].argmax())
            assert mode.component[image, point] == best
            expected = [sigma_by_hand(scale[image, 2 * best + s, point].item(), SPEC) for s in range(2)]
            assert mode.scale[image, :, point].tolist() == pytest.approx(expected)
            sigma = SPEC.sigma(scale)[image, 2 * best : 2 * best + 2, point]
            assert sigma.tolist() == pytest.approx(expected)


def test_sigmas_of_half_precision_are_float32() -> None:
    assert SPEC.sigma(torch.zeros(1, 6, dtype=torch.bfloat16)).dtype == torch.float32
    assert SPEC.sigma(torch.zeros(1, 6, dtype=torch.float64)).dtype == torch.float64


def test_channels_are_what_a_last_layer_must_give() -> None:
    assert SPEC.channels == {"logits": 3, "loc": 12, "scale": 6}
    assert MixtureSpec(5, 34, scales=1).channels == {"logits": 5, "loc": 170, "scale": 5}


@pytest.mark.parametrize("name", ["logits", "loc", "scale"])
def test_parameters_of_another_mixture_are_refused(name: str) -> None:
    other = dict(zip(SPEC.channels, parameters(SPEC), strict=True))
    other[name] = torch.cat((other[name], other[name]), 1)
    needed = rf"{name} must be .* = {SPEC.channels[name]} channels for MixtureSpec\(components=3.*got shape \(2, "
    with pytest.raises(ValueError, match=needed):
        SPEC.nll(**other, target=torch.zeros(2, 4, 7, dtype=torch.float64))
    with pytest.raises(ValueError, match=needed):
        SPEC.mode(**other)
    if name == "scale":
        with pytest.raises(ValueError, match=needed):
            SPEC.sigma(other["scale"])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"components": 0}, ValueError, "components must be at least 1, got 0"),
        ({"components": 2.0}, TypeError, "components must be an int, got float"),
        ({"dims": 0}, ValueError, "dims must be at least 1, got 0"),
        ({"scales": 0}, ValueError, "scales must be at least 1, got 0"),
        ({"scales": 3}, ValueError, "scales must divide dims = 4, got 3"),
        ({"family": "cauchy"}, ValueError, "family must be .*got 'cauchy'"),
        ({"scale_activation": "relu"}, ValueError, "scale_activation must be one of .*got 'relu'"),
        ({"min_scale": -1.0}, ValueError, "min_scale must be finite and at least 0.0, got -1.0"),
        ({"min_scale": math.nan}, ValueError, "min_scale must be finite"),
        ({"min_scale": "1"}, TypeError, "min_scale must be a number, got str"),
        ({"scale_order": None}, ValueError, "scale has S = 2 of C = 4 dimensions, so scale_order must say"),
        ({"scale_order": "rows"}, ValueError, "scale_order must be one of 'blocks', 'interleaved', got 'rows'"),
        ({"block_size": 3}, ValueError, "block_size must divide C = 4, got 3"),
        (
            {"block_size": 2, "family": DiscretisedLogistic(1.0)},
            ValueError,
            "correlated dimensions need a density, and DiscretisedLogistic.* gives a mass: leave tril out",
        ),
    ],
)
def test_what_is_no_mixture_is_refused_at_once(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        MixtureSpec(**{"components": 2, "dims": 4, "scales": 2, "scale_order": "blocks", **change})


def test_what_is_no_tensor_gets_the_ops_own_message() -> None:
    with pytest.raises(TypeError, match=r"logits must be a torch\.Tensor, got list"):
        SPEC.mode([1.0], *parameters(SPEC)[1:])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"scale must be a torch\.Tensor, got float"):
        SPEC.sigma(1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("op", [mixture_nll, mixture_mode])
def test_defaults_are_the_ops_own(op: Any) -> None:
    """Or a mixture that was made without options would not be what the bare op takes it for."""
    defaults = inspect.signature(op).parameters
    for name in ("family", "scale_activation", "min_scale", "scale_order", "dim"):
        if name in defaults:
            assert getattr(MixtureSpec(1, 1, scales=1), name) == defaults[name].default


@pytest.mark.parametrize(
    ("method", "op"), [("nll", mixture_nll), ("mode", mixture_mode), ("posterior", mixture_posterior)]
)
def test_every_option_of_an_op_is_the_specs_or_the_calls(method: str, op: Any) -> None:
    """An option that an op gains must not be lost on the way."""
    here = inspect.signature(getattr(MixtureSpec, method)).parameters
    own = {"family", "scale_activation", "min_scale", "scale_order", "block_size", "dim"}
    assert here.keys() - {"self"} == inspect.signature(op).parameters.keys() - own
    for name, parameter in inspect.signature(op).parameters.items():
        assert name in own or here[name].default == parameter.default, name


def test_a_compiled_graph_holds_a_spec_without_a_break() -> None:
    logits, loc, scale = parameters(SPEC)
    target = torch.zeros(2, 4, 7, dtype=torch.float64)
    compiled = torch.compile(SPEC.nll, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits, loc, scale, target), SPEC.nll(logits, loc, scale, target))
