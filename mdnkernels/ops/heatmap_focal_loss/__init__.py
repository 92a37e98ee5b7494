"""Penalty-reduced focal loss on heatmap logits: public function and checks."""

from __future__ import annotations

from torch import Tensor

from mdnkernels import backends, checks

backends.add("heatmap_focal_loss")


def heatmap_focal_loss(logits: Tensor, target: Tensor, *, alpha: float = 2.0, beta: float = 4.0) -> Tensor:
    """Return the penalty-reduced focal loss of centre heatmaps, from logits, with exact log-sigmoids and no clamp.

    With p = sigmoid(logit), it is the sum over all elements, over the number of positives (1 if there are none)::

        -(1 - p)^alpha log(p)                   where target == 1
        -(1 - target)^beta p^alpha log(1 - p)   elsewhere

    Args:
        logits: (B, Y, H, W), or any other shape.
        target: the same shape, in [0, 1]: 1 at centres, a Gaussian around them (`splat_gaussians`). Its values are not
            checked, which would cost as much as the loss.
        alpha: focus on hard examples, at least 0.
        beta: how much less a cell near a centre counts, at least 0.

    Returns:
        A scalar; float32 for half-precision logits, else of their dtype. Gradients flow to logits.

    Raises:
        TypeError: a tensor is of the wrong dtype; target has that of logits, or float32 beside half precision.
        ValueError: shapes or devices differ, alpha or beta is negative, or target requires a gradient.

    Source: Law and Deng, "CornerNet", 2018, Eq. 1; Zhou et al., "Objects as Points", 2019, Eq. 1.
    """
    checks.tensor("logits", logits, checks.FLOATS)
    checks.companion("target", target, logits)
    checks.shape("target", target, logits.shape, "that of logits")
    if target.requires_grad:
        raise ValueError("target requires a gradient, but heatmap_focal_loss has none for it: pass target.detach()")
    checks.number("alpha", alpha, 0.0)
    checks.number("beta", beta, 0.0)
    return backends.select("heatmap_focal_loss", logits, target)(logits, target, float(alpha), float(beta))
