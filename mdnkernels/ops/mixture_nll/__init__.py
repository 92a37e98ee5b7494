"""The mixture's negative log-likelihood: public function and checks.

Source: Varamesh and Tuytelaars, "Mixture Dense Regression for Object Detection and Human Pose Estimation", CVPR 2020;
Bishop, "Mixture Density Networks", 1994.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mdnkernels import backends, checks
from mdnkernels.mixture.arguments import as_points, check_index, check_parameters, check_scale_options, unflatten
from mdnkernels.mixture.families import Family, family_of

REDUCTIONS = ("mean", "sum", "none")

backends.add("mixture_nll")


def mixture_nll(
    logits: Tensor,
    loc: Tensor,
    scale: Tensor,
    target: Tensor,
    *,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    index: Tensor | None = None,
    dim_scale: Tensor | None = None,
    family: str | Family = "gaussian",
    scale_activation: str = "elu",
    min_scale: float = 1.0,
    reduction: str = "mean",
) -> Tensor:
    r"""Return the negative log-likelihood of `target` under a mixture of M components at every position.

    With sigma = act(scale), z_d = (t_d - mu_md) / (sigma_md kappa_d) and the sums over the observed dimensions d::

        gaussian   log phi_m = sum_d [ -z_d^2 / 2 - log(sigma_md kappa_d) - log(2 pi) / 2 ]
        laplace    log phi_m = sum_d [ -|z_d| - log(2 sigma_md kappa_d) ]
        student_t  log phi_m = sum_d [ -(df + 1) / 2 log(1 + z_d^2 / df) - log(sigma_md kappa_d) - c ],
                   c = log(df pi) / 2 + lgamma(df / 2) - lgamma((df + 1) / 2)
        nll = -logsumexp_m [ log_softmax(logits)_m + log phi_m ]

    Everything stays in the log domain; neither alpha nor sigma is clamped. A position with nothing observed gives
    exactly 0 loss and 0 gradient, whatever its inputs hold. `*P` is any number of position dimensions, none included:
    (B, C, H, W) maps, (B, C, N) points, (B, C) rows; contiguous and channels_last maps are read in place.

    Args:
        logits: (B, M, *P), mixing logits; alpha = softmax over M.
        loc: (B, M*C, *P), component means in the target's units, channel m*C + d.
        scale: (B, M*S, *P), raw scales, S any divisor of C; dimension d uses channel m*S + d % S. S = 1 is isotropic,
            S = C diagonal.
        target: (B, C, *P), what was observed.
        mask: (B, G, *P), bool, True where observed, G any divisor of C; dimension d uses mask d // (C // G). An
            unobserved dimension is marginalised: it leaves every component's density.
        weight: (B, *P), factor on a position's loss.
        index: (B, N), int64, evaluate only at these flat positions of logits, loc and scale; target, mask and weight
            are then (B, ., N), the per-position result (B, N). -1 is padding; a repeated position adds its gradients.
        dim_scale: (C,), fixed kappa_d > 0 that multiplies sigma (COCO's per-keypoint constants).
        family: "gaussian", "laplace", or `mdnkernels.StudentT(df=4.0)`, which has a parameter.
        scale_activation: "elu" is ELU(x) + 1 + min_scale, the paper's; "softplus" and "exp" add min_scale; "identity"
            takes `scale` as sigma > 0 and does not use min_scale.
        min_scale: least sigma, in the target's units, at least 0.
        reduction: "mean" divides the sum by the number of positions with something observed (by the sum of their
            weights where `weight` is given), and is 0 where there are none; "sum"; "none" gives (B, *P) or (B, N).

    Returns:
        The loss, a scalar or per position; float32 for half-precision inputs, else of their dtype. Gradients flow to
        logits, loc, scale and target. A NaN input gives a NaN loss. For finite inputs loss and gradients are finite
        with residuals z of up to 1e6 sigma, as long as sigma kappa and its reciprocal are normal numbers (in float32
        from 1e-37 to 1e37), and so is z^2 / sigma, the size of the gradients; others can give inf or NaN. Natively
        differentiable once; any number of times, and in forward mode, in eager.

    Raises:
        TypeError: an argument of the wrong type or dtype. logits, loc and scale share one of float32, float64,
            bfloat16 and float16; target, weight and dim_scale have it too, or float32 beside half precision.
        ValueError: a wrong shape, device or option, a dim_scale that is not positive, or weight or dim_scale that
            require a gradient.
        IndexError: an index outside [-1, positions); on a GPU or in a compiled graph the assertion of the device, a
            RuntimeError that names the argument too.

    Source: Varamesh and Tuytelaars, CVPR 2020, Eq. 1 to 6.
    """
    channels = check_parameters(logits, loc, scale, scale_activation, min_scale)
    family = family_of(family)
    checks.choice("reduction", reduction, REDUCTIONS)
    checks.companion("target", target, loc)
    positions = logits.shape[2:]
    check_index(index, logits)
    points = tuple(positions) if index is None else (index.shape[1],)
    letters = "*P" if index is None else "N"
    batch = logits.shape[0]
    checks.shape("target", target, (batch, channels, *points), f"(B, C, {letters}) for loc's C")
    if channels % (scale.shape[1] // logits.shape[1]):
        raise ValueError(
            f"scale has {scale.shape[1]} channels, S = {scale.shape[1] // logits.shape[1]} a component, "
            f"but S must divide C = {channels}"
        )
    if mask is not None:
        checks.tensor("mask", mask, (torch.bool,), loc)
        if mask.ndim < 2 or mask.shape[1] == 0 or channels % mask.shape[1]:
            raise ValueError(
                f"mask must be (B, G, {letters}) with G a divisor of C = {channels}, got {tuple(mask.shape)}"
            )
        checks.shape("mask", mask, (batch, mask.shape[1], *points), f"(B, G, {letters})")
    if weight is not None:
        checks.companion("weight", weight, loc)
        checks.shape("weight", weight, (batch, *points), f"(B, {letters})")
    if dim_scale is not None:
        checks.companion("dim_scale", dim_scale, loc)
        checks.shape("dim_scale", dim_scale, (channels,), "(C,)")
        checks.positive("dim_scale", dim_scale)
    for name, value in (("weight", weight), ("dim_scale", dim_scale)):
        if value is not None and value.requires_grad:
            raise ValueError(f"{name} requires a gradient, but mixture_nll has none for it: pass {name}.detach()")

    result = backends.select("mixture_nll", logits, loc, scale, target, weight, dim_scale)(
        as_points(logits, index),
        as_points(loc, index),
        as_points(scale, index),
        as_points(target, index),
        None if mask is None else as_points(mask, index),
        None if weight is None else as_points(weight.unsqueeze(1), index).squeeze(1),
        index,
        dim_scale,
        family,
        scale_activation,
        float(min_scale),
        reduction,
    )
    return result if reduction != "none" else unflatten(result.unsqueeze(1), batch, positions, index).squeeze(1)


class MixtureNLLLoss(nn.Module):
    """`mixture_nll` as a module, its options fixed at construction; called with the tensors and the masks.

    Args: see `mixture_nll`.
    """

    def __init__(
        self,
        family: str | Family = "gaussian",
        scale_activation: str = "elu",
        min_scale: float = 1.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        family_of(family)
        check_scale_options(scale_activation, min_scale)
        checks.choice("reduction", reduction, REDUCTIONS)
        self.family, self.scale_activation, self.min_scale, self.reduction = (
            family,
            scale_activation,
            min_scale,
            reduction,
        )

    def forward(
        self,
        logits: Tensor,
        loc: Tensor,
        scale: Tensor,
        target: Tensor,
        *,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
        index: Tensor | None = None,
        dim_scale: Tensor | None = None,
    ) -> Tensor:
        """See `mixture_nll`."""
        return mixture_nll(
            logits,
            loc,
            scale,
            target,
            mask=mask,
            weight=weight,
            index=index,
            dim_scale=dim_scale,
            family=self.family,
            scale_activation=self.scale_activation,
            min_scale=self.min_scale,
            reduction=self.reduction,
        )

    def extra_repr(self) -> str:
        options = ("family", "scale_activation", "min_scale", "reduction")
        return ", ".join(f"{option}={getattr(self, option)!r}" for option in options)
