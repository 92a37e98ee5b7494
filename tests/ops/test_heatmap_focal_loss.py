from __future__ import annotations

import mpmath
import pytest
import torch

from mdnkernels import heatmap_focal_loss


def by_hand(logits, target, alpha=2, beta=4):
    """The formula, an element at a time, in extended precision."""
    with mpmath.workdps(50):
        total, positives = mpmath.mpf(0), 0
        for logit, wanted in zip(logits.flatten().tolist(), target.flatten().tolist(), strict=True):
            p = 1 / (1 + mpmath.exp(-mpmath.mpf(logit)))
            if wanted == 1:
                positives += 1
                total -= (1 - p) ** alpha * mpmath.log(p)
            else:
                total -= (1 - mpmath.mpf(wanted)) ** beta * p**alpha * mpmath.log(1 - p)
        return float(total / max(positives, 1))


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    target[target > 0.85] = 1.0
    return torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64) * 3, target


@pytest.mark.parametrize(("alpha", "beta"), [(2.0, 4.0), (1.0, 0.0), (0.0, 2.0), (2.5, 3.5)])
def test_loss_is_the_formula(maps, alpha, beta):
    assert heatmap_focal_loss(*maps, alpha=alpha, beta=beta).item() == pytest.approx(
        by_hand(*maps, alpha, beta), rel=1e-12
    )


def test_without_positives_the_sum_is_not_divided(maps):
    logits, target = maps
    target = target.clamp(max=0.9)
    assert heatmap_focal_loss(logits, target).item() == pytest.approx(by_hand(logits, target), rel=1e-12)


def test_saturated_logits_keep_exact_losses_and_finite_gradients():
    logits = torch.tensor([-1e4, -200.0, -40.0, 40.0, 200.0, 1e4] * 2, requires_grad=True)
    target = torch.tensor([1.0] * 6 + [0.25] * 6)
    loss = heatmap_focal_loss(logits, target)
    expected = (1e4 + 200 + 40 + (0.75**4) * (40 + 200 + 1e4)) / 6
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.isfinite().all()


def test_gradcheck(maps):
    logits, target = maps
    assert torch.autograd.gradcheck(lambda value: heatmap_focal_loss(value, target), logits.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(maps, dtype):
    logits = maps[0].to(dtype)
    loss = heatmap_focal_loss(logits, maps[1].float())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(by_hand(logits, maps[1].float()), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        ({"target": torch.zeros(2, 3, 4, 4, dtype=torch.float64)}, ValueError, "target"),
        ({"target": torch.zeros(2, 3, 4, 5)}, TypeError, "target"),
        ({"target": torch.zeros(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)}, ValueError, "detach"),
        ({"logits": torch.zeros(2, 3, 4, 5, dtype=torch.int64)}, TypeError, "logits"),
        ({"alpha": -1.0}, ValueError, "alpha"),
        ({"beta": "4"}, TypeError, "beta"),
    ],
)
def test_bad_input_is_refused_by_name(maps, change, error, word):
    with pytest.raises(error, match=word):
        heatmap_focal_loss(**{"logits": maps[0], "target": maps[1], **change})
