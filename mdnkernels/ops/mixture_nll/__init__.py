"""The mixture's negative log-likelihood and its posterior: public functions and checks.

Source: Varamesh and Tuytelaars, "Mixture Dense Regression for Object Detection and Human Pose Estimation", CVPR 2020;
Bishop, "Mixture Density Networks", 1994.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mdnkernels import backends, checks
from mdnkernels.mixture.arguments import SCALE_ORDERS, check_scale_options
from mdnkernels.mixture.families import Family, family_of
from mdnkernels.mixture.layout import FIRST, check_dim, shapes_of_op
from mdnkernels.mixture.objective import check_temperature, objective_of
from mdnkernels.ops.mixture_nll.arguments import Arranged, Observation, arranged, check_observation

REDUCTIONS = ("mean", "sum", "none")

backends.add("mixture_nll", "mixture_posterior")


def mixture_nll(
    logits: Tensor,
    loc: Tensor,
    scale: Tensor,
    target: Tensor,
    *,
    tril: Tensor | None = None,
    block_size: int | None = None,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    index: Tensor | None = None,
    dim_scale: Tensor | None = None,
    family: str | Family = "gaussian",
    scale_activation: str = "softplus",
    min_scale: float = 1e-3,
    scale_order: str | None = None,
    assign: str | Tensor | None = None,
    temperature: float = 1.0,
    beta: float = 0.0,
    gradient: str = "likelihood",
    reduction: str = "mean",
    dim: int = 1,
) -> Tensor:
    r"""Return the negative log-likelihood of `target` under a mixture of M components at every position.

    With sigma = act(scale), z_d = (t_d - mu_md) / (sigma_md kappa_d) and the sums over the observed dimensions d::

        gaussian   log phi_m = sum_d [ -z_d^2 / 2 - log(sigma_md kappa_d) - log(2 pi) / 2 ]
        laplace    log phi_m = sum_d [ -|z_d| - log(2 sigma_md kappa_d) ]
        student_t  log phi_m = sum_d [ -(df + 1) / 2 log(1 + z_d^2 / df) - log(sigma_md kappa_d) - c ],
                   c = log(df pi) / 2 + lgamma(df / 2) - lgamma((df + 1) / 2)
        logistic   log phi_m = sum_d [ -|z_d| - 2 log(1 + exp(-|z_d|)) - log(sigma_md kappa_d) ]
        discretised_logistic
                   log phi_m = sum_d log(F(z_d + h_d) - F(z_d - h_d)), h_d = bin_width / (2 sigma_md kappa_d), with F
                   the logistic distribution function: the mass of the target's bin
        nll = -logsumexp_m e_m,   e_m = log_softmax(logits)_m + log phi_m

    Everything stays in the log domain; neither alpha nor sigma is clamped, and a loss below 0 is a density above 1 and
    right. A position with nothing observed gives exactly 0 loss and 0 gradient, whatever its inputs hold. A component
    whose logit is -inf is left out. `*P` is any number of position dimensions, none included: (B, C, H, W) maps,
    (B, C, N) points, (B, C) rows; contiguous and channels_last maps are read in place. With `dim` the channels may be
    elsewhere, and (B, K, *P) below then stands for tensors that have them there.

    logits, loc, scale and tril of size 1 in the batch or along a position serve all that `target` has there: one
    mixture for many points. Beside an index they may have size 1 where others of them, or the index's batch, have more.

    Args:
        logits: (B, M, *P), mixing logits; alpha = softmax over M.
        loc: (B, M*C, *P), component means in the target's units, channel m*C + d.
        scale: (B, M*S, *P), raw scales, channel m*S + s, S any divisor of C: 1 is isotropic, C diagonal. Which scale a
            dimension has in between is `scale_order`'s to say.
        target: (B, C, *P), what was observed; of C = 1 also (B, *P).
        tril: (B, M*Q, *P), correlation: dimensions come in blocks of D = `block_size` neighbours, and within a block
            w = z + L z takes the place of z in the formulas above. Channel m*Q + q holds the strictly lower entries of
            L row by row, block after block, Q = (C / D) D (D - 1) / 2; or Q = D (D - 1) / 2 entries that all blocks
            share. I + L is the Cholesky factor of the precision of z: any real entries are valid. For D = 2, rho =
            -l / sqrt(1 + l^2); see `tril_from_correlation`.
        block_size: D, at least 2 and a divisor of C; C is full covariance. Beside `tril` alone.
        mask: (B, G, *P), bool, True where observed, G any divisor of C; dimension d uses mask d // (C // G). An
            unobserved dimension is marginalised: it leaves every component's density. With `tril` a block is observed
            wholly or not at all: G divides C / D. Also (B, *P), G = 1.
        weight: (B, *P), factor on a position's loss.
        index: (B, N), int64, evaluate only at these flat positions of logits, loc, scale and tril; target, mask, weight
            and an `assign` are then (B, ., N), the per-position result (B, N). -1 is padding; a repeated position adds
            its gradients.
        dim_scale: (C,), fixed kappa_d > 0 that multiplies sigma (COCO's per-keypoint constants).
        family: "gaussian", "laplace", "logistic", or one with a parameter: `mdnkernels.StudentT(df=4.0)`,
            `mdnkernels.DiscretisedLogistic(bin_width=1.0)`.
        scale_activation: "softplus", "exp", and the paper's "elu", ELU(x) + 1, each plus min_scale; "identity" takes
            `scale` as sigma > 0 and does not use min_scale.
        min_scale: least sigma, in the target's units, at least 0. It should lie below the spread of the best known
            target: the default suits targets of about unit size; a detector's boxes in cells take 1.
        scale_order: "blocks" gives dimension d the scale d // (C // S), as a mask of as many groups covers it;
            "interleaved" gives it d % S, one scale each for x and y of every point. Needed where 1 < S < C.
        assign: None for the likelihood. "best" minimises -max_m e_m, the winner's alone (winner takes all, hard EM). A
            tensor (B, *P) of int64 minimises -e_a of the component a that it names, -1 for a position left out.
        temperature: tau > 0; the loss is -tau logsumexp_m(e_m / tau), and component m learns by its share of
            softmax(e / tau). 1 is the likelihood, a large one teaches all components, a small one the winner.
        beta: in [0, 1]. The gradients of loc and scale are multiplied by sigma^(2 beta), held fixed, so that a large
            sigma does not quiet them (Seitzer et al. 2022). They are no longer the gradient of the value.
        gradient: "likelihood", or "natural": see the notes.
        reduction: "mean" divides the sum by the number of positions with something observed (by the sum of their
            weights where `weight` is given), and is 0 where there are none; "sum"; "none" gives (B, *P) or (B, N).
        dim: of the channels of logits, loc, scale, tril, target and mask: 1, or -1 for (B, T, K) features; any but the
            batch's, 0. *P are all others but the batch. They are read in place, without a copy, wherever the positions
            of a tensor are evenly spaced in memory. Beside an index, target and mask are (B, N, .) unless dim is 1.

    Returns:
        The loss, a scalar or per position; float32 for half-precision inputs, else of their dtype. Gradients flow to
        logits, loc, scale, target and tril. A NaN input gives a NaN loss. For finite inputs loss and gradients are
        finite with residuals z of up to 1e6 sigma, as long as sigma kappa and its reciprocal are normal numbers (in
        float32 from 1e-37 to 1e37; with "exp", whose logarithm is taken before its exponential, raw scales may go
        beyond), and so is z^2 / sigma, the size of the gradients. A component whose density is 0 beside another's gets
        no gradient. Natively differentiable once; any number of times, and in forward mode, in eager.

    Raises:
        TypeError: an argument of the wrong type or dtype. logits, loc, scale and tril share one of float32, float64,
            bfloat16 and float16; target, weight and dim_scale have it too, or float32 beside half precision.
        ValueError: a wrong shape, device or option, options that exclude each other, a dim_scale that is not positive,
            or weight or dim_scale that require a gradient.
        IndexError: an index outside [-1, positions), an assigned component outside [-1, M); on a GPU or in a compiled
            graph the assertion of the device, a RuntimeError that names the argument too.

    Notes:
        gradient="natural" multiplies each component's gradients by the inverse of its own Fisher information, taken
        of loc and of sigma: for the Gaussian, loc's by (sigma kappa)^2 and a scale's by sigma^2 / (2 n) with n observed
        dimensions; other families by theirs. What remains for loc is posterior times residual. It follows the natural
        gradient EM of arXiv 2602.10602, whose complete-data Fisher information has a block for each component, and
        differs in two things. That block has the factor alpha, so its step is divided by alpha, which has no bound
        where alpha is small; here it is not. And the logits keep alpha - posterior. It is not a gradient of the value.

    Source: Varamesh and Tuytelaars, CVPR 2020, Eq. 1 to 6.
    """
    family = family_of(family)
    checks.choice("reduction", reduction, REDUCTIONS)
    given = arranged(dim, logits, loc, scale, target, tril, mask, weight, assign, index)
    if given.layout is FIRST:
        call = _check(given, block_size, index, dim_scale, family, scale_activation, min_scale, scale_order)
    else:
        with shapes_of_op(given.layout):
            call = _check(given, block_size, index, dim_scale, family, scale_activation, min_scale, scale_order)
    objective = objective_of(
        family,
        assign="given" if isinstance(assign, Tensor) else assign or "likelihood",
        temperature=temperature,
        beta=beta,
        gradient=gradient,
        correlated=tril is not None,
    )

    logits, loc, scale, target, tril, mask, weight, assign = given[1:]
    loss = backends.select("mixture_nll", logits, loc, scale, target, tril, weight, dim_scale)(
        *(logits, loc, scale, target, tril, mask, weight, index, dim_scale),
        *(assign if isinstance(assign, Tensor) else None, call.density, objective, reduction),
    )
    return loss if reduction != "none" else given.layout.each_from_op(loss)


def _check(
    given: Arranged,
    block_size: int | None,
    index: Tensor | None,
    dim_scale: Tensor | None,
    family: Family,
    scale_activation: str,
    min_scale: float,
    scale_order: str | None,
) -> Observation:
    """Check a loss's tensors. Raises what `mixture_nll` says."""
    weight, assign = given.weight, given.assign
    call = check_observation(
        *(given.logits, given.loc, given.scale, given.target, given.tril, block_size, given.mask, index, dim_scale),
        *(family, scale_activation, min_scale, scale_order),
    )
    batch, components = given.logits.shape[:2]
    for name, value in (("weight", weight), ("assign", assign if isinstance(assign, Tensor) else None)):
        if value is None:
            continue
        if name == "weight":
            checks.companion(name, value, given.loc)
        else:
            checks.tensor(name, value, (torch.int64,), given.loc)
        checks.shape(name, value, (batch, *call.points), f"(B, {call.letters})")
    if weight is not None and weight.requires_grad:
        raise ValueError("weight requires a gradient, but mixture_nll has none for it: pass weight.detach()")
    if isinstance(assign, Tensor):
        checks.bounds("assign", assign, -1, components, "the components of logits; -1 leaves a position out")
    elif assign not in (None, "best"):
        raise ValueError(f"assign must be None, 'best' or a tensor of components, got {assign!r}")
    return call


def mixture_posterior(
    logits: Tensor,
    loc: Tensor,
    scale: Tensor,
    target: Tensor,
    *,
    tril: Tensor | None = None,
    block_size: int | None = None,
    mask: Tensor | None = None,
    index: Tensor | None = None,
    dim_scale: Tensor | None = None,
    family: str | Family = "gaussian",
    scale_activation: str = "softplus",
    min_scale: float = 1e-3,
    scale_order: str | None = None,
    temperature: float = 1.0,
    dim: int = 1,
) -> Tensor:
    """Return the share r_m = softmax(e / temperature)_m that each component has in explaining `target`.

    e_m = log alpha_m + log phi_m, and all arguments, are those of `mixture_nll`: with no loss and no gradient, for
    statistics of which component takes which targets, and for soft labels.

    Returns:
        (B, M, *P), or (B, M, N) beside an index, with M where target has its channels, without a gradient; float32 for
        half-precision inputs, else of their dtype. Sums to 1 over M where something is observed; 0 elsewhere, padding
        of the index included.

    Raises: as `mixture_nll`.
    """
    family = family_of(family)
    check_temperature(temperature)
    given = arranged(dim, logits, loc, scale, target, tril, mask, None, None, index)
    with shapes_of_op(given.layout):
        call = check_observation(
            *(given.logits, given.loc, given.scale, given.target, given.tril, block_size, given.mask, index, dim_scale),
            *(family, scale_activation, min_scale, scale_order),
        )
    logits, loc, scale, target, tril, mask = given[1:7]
    posterior = backends.select("mixture_posterior", logits, loc, scale, target, tril, dim_scale)(
        *(logits, loc, scale, target, tril, mask, index, dim_scale, call.density, float(temperature)),
    )
    return given.layout.from_op(posterior, index is not None)


class MixtureNLLLoss(nn.Module):
    """`mixture_nll` as a module, its options fixed at construction; called with the tensors and the masks.

    Args: see `mixture_nll`.
    """

    def __init__(
        self,
        family: str | Family = "gaussian",
        scale_activation: str = "softplus",
        min_scale: float = 1e-3,
        scale_order: str | None = None,
        block_size: int | None = None,
        temperature: float = 1.0,
        beta: float = 0.0,
        gradient: str = "likelihood",
        reduction: str = "mean",
        dim: int = 1,
    ) -> None:
        super().__init__()
        check_scale_options(scale_activation, min_scale)
        checks.choice("reduction", reduction, REDUCTIONS)
        check_dim(dim)
        if scale_order is not None:
            checks.choice("scale_order", scale_order, SCALE_ORDERS)
        objective_of(
            family_of(family),
            assign="likelihood",
            temperature=temperature,
            beta=beta,
            gradient=gradient,
            correlated=block_size is not None,
        )
        self.options: dict[str, Any] = {
            "family": family,
            "scale_activation": scale_activation,
            "min_scale": min_scale,
            "scale_order": scale_order,
            "block_size": block_size,
            "temperature": temperature,
            "beta": beta,
            "gradient": gradient,
            "reduction": reduction,
            "dim": dim,
        }

    def forward(
        self,
        logits: Tensor,
        loc: Tensor,
        scale: Tensor,
        target: Tensor,
        *,
        tril: Tensor | None = None,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
        index: Tensor | None = None,
        dim_scale: Tensor | None = None,
        assign: str | Tensor | None = None,
    ) -> Tensor:
        """See `mixture_nll`."""
        return mixture_nll(
            logits,
            loc,
            scale,
            target,
            tril=tril,
            mask=mask,
            weight=weight,
            index=index,
            dim_scale=dim_scale,
            assign=assign,
            **self.options,
        )

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())
