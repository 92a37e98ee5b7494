"""What mixture_nll on Triton does beside the op matrix: each way through its kernel, and the ends of its range."""

from __future__ import annotations

import math

import pytest
import torch

import mdnkernels
from tests.ops.agreement import assert_agree, expected_results, results
from tests.ops.table import OPS, Call, Draw
from tests.ops.table.mixture import FAMILIES, is_discrete

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of what overflows
PAIRS = {"block": 2, "groups": 1}


def drawn(positions: tuple[int, ...] = (5, 3), dtype: torch.dtype = torch.float32, **options) -> Call:
    entry = OPS["mixture_nll"]
    return entry.draw(Draw(2, positions, dtype, seed=1), **options)


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({**PAIRS, "dims": 6, "scales": 3, "scale_order": "interleaved"}, torch.float32),  # a scale has no whole pairs
        ({**PAIRS, "dims": 6, "scales": 2, "scale_order": "blocks", "shared": True}, torch.float64),
        ({**PAIRS, "dims": 6, "scales": 1, "components": 5}, torch.float32),
        ({**PAIRS, "dims": 6, "scales": 6, "family": "logistic"}, torch.float32),
        ({**PAIRS, "dims": 132, "scales": 2, "observed": 0.9, "kappa": True}, torch.float32),  # too many for registers
        ({**PAIRS, "dims": 8, "scales": 2, "scale_order": "blocks", "observed": 0.7, "beta": 0.5}, torch.float32),
        ({"block": 4, "dims": 8, "scales": 4, "groups": 2, "shared": True, "kappa": True, "beta": 0.3}, torch.float64),
        ({"block": 3, "dims": 6, "scales": 3, "groups": 2, "points": 5, "family": "laplace"}, torch.float32),
        ({"dims": 80, "scales": 2, "groups": 4, "family": FAMILIES[4], "scale_order": "blocks"}, torch.float32),
        ({"dims": 68, "scales": 1, "groups": 4, "gradient": "natural", "kappa": True}, torch.float32),
        ({"temperature": 0.3}, torch.float64),
    ],
    ids=str,
)
def test_every_way_through_the_kernel_agrees_with_eager(options, dtype):
    call = drawn((3,) if options.get("dims", 0) > 60 else (5, 3), dtype, **{"min_scale": 0.1, **options})
    with mdnkernels.use_backend("triton"):
        actual = results(call)
    assert_agree(actual, expected_results(call), dtype)


@pytest.mark.parametrize("block", [1, 2, 4])
def test_the_targets_gradient_comes_without_those_of_the_parameters(block):
    call = drawn(block=block, groups=1)
    target = call.arguments["target"].requires_grad_()
    with mdnkernels.use_backend("triton"):
        actual = torch.autograd.grad(call.function(**call.arguments), target)[0]
    with mdnkernels.use_backend("eager"):
        expected = torch.autograd.grad(call.function(**call.arguments), target)[0]
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("min_scale", [0.0, 1e-3])
@pytest.mark.parametrize("family", FAMILIES)
def test_scales_beyond_the_range_of_exp_have_finite_losses_and_gradients(family, min_scale):
    """One component, so that none is left out: sigma overflows in float32, or is 1e-35."""
    raw = torch.tensor([-80.0, -20.0, 0.0, 80.0, 88.0, 89.0, 200.0, 1e4])
    if is_discrete(family):
        raw = raw[:4]  # a bin of 0 sigma holds nothing
    sigma = torch.exp(raw.clamp(max=20))
    arguments = {
        "logits": torch.zeros(1, 1, len(raw)),
        "loc": torch.zeros(1, 2, len(raw)),
        "scale": raw.view(1, 1, -1),
        "target": torch.stack([0.5 * sigma, -1.5 * sigma]).unsqueeze(0),
    }
    options = {"family": family, "scale_activation": "exp", "min_scale": min_scale, "reduction": "none"}
    call = Call(OPS["mixture_nll"], {**arguments, **options})
    with mdnkernels.use_backend("triton"):
        outputs, gradients = results(call)
    assert all(value.isfinite().all() for value in (*outputs, *gradients))
    (expected,), wanted = expected_results(call)
    torch.testing.assert_close(outputs[0].double(), expected, rtol=1e-5, atol=1e-5)
    for actual, exact in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(actual.double(), exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("block", [1, 2, 4])
@pytest.mark.parametrize("family", [family for family in FAMILIES if not is_discrete(family)])
def test_a_component_without_density_or_weight_has_gradients_of_exactly_zero(family, block):
    """The second is so narrow that its residuals overflow; the third has a logit of -inf."""
    call = drawn(block=block, groups=1, scales=1, family=family, scale_activation="exp", min_scale=0.0, observed=1.0)
    logits, loc, scale = (call.arguments[name] for name in ("logits", "loc", "scale"))
    scale[:, 1] = -87.0
    loc[:, 4:8] = 1e3
    logits[:, 2] = -math.inf
    with mdnkernels.use_backend("triton"):
        outputs, gradients = results(call)
    alone = {
        name: value[:, : value.shape[1] // 3] if name in ("logits", "loc", "scale", "tril") else value
        for name, value in call.arguments.items()
    }
    (expected,), wanted = expected_results(Call(call.entry, alone))
    of_logits, of_loc, of_scale, of_target, *of_tril = gradients
    assert (of_logits[:, 2] == 0).all()
    for gradient, channels in zip((of_loc, of_scale), (4, 1), strict=True):
        assert (gradient[:, channels:] == 0).all()
        assert gradient[:, :channels].isfinite().all()
    for gradient in of_tril:
        assert (gradient[:, gradient.shape[1] // 3 :] == 0).all()
    # alpha of the first is not 1: its loss is more by -log alpha.
    alpha = torch.softmax(logits.double(), 1)[:, :1]
    more = -torch.log(alpha).mean()
    torch.testing.assert_close(outputs[0].double(), expected + more, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(of_loc[:, :4].double(), wanted[1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(of_target.double(), wanted[3], rtol=1e-4, atol=1e-6)


def test_the_best_of_equals_is_the_first_and_a_nan_is_not_passed_over():
    zeros = torch.zeros(1, 3, 2)
    loc = torch.tensor([[[1.0, 1.0], [1.0, math.nan], [5.0, 5.0]]]).requires_grad_()
    with mdnkernels.use_backend("triton"):
        loss = mdnkernels.mixture_nll(zeros, loc, zeros, torch.zeros(1, 1, 2), assign="best", reduction="none")
        gradient = torch.autograd.grad(loss[0, 0], loc)[0]
    assert loss[0, 1].isnan()
    assert (gradient[0, :, 0] != 0).tolist() == [True, False, False]
