"""The mixture's negative log-likelihood as a loop over positions in extended precision, from the formula alone."""

from __future__ import annotations

from collections.abc import Callable

import mpmath
from torch import Tensor

import mdnkernels

# -log of each family's density at z, for its parameter.
FAMILIES: dict[str, Callable[[mpmath.mpf, mpmath.mpf], mpmath.mpf]] = {
    "gaussian": lambda z, _: z**2 / 2 + mpmath.log(2 * mpmath.pi) / 2,
    "laplace": lambda z, _: abs(z) + mpmath.log(2),
    "student_t": lambda z, df: (
        (df + 1) / 2 * mpmath.log1p(z**2 / df)
        + mpmath.log(df * mpmath.pi) / 2
        + mpmath.loggamma(df / 2)
        - mpmath.loggamma((df + 1) / 2)
    ),
}


def sigma_of(raw: float, activation: str, min_scale: float) -> mpmath.mpf:
    raw = mpmath.mpf(raw)
    if activation == "identity":
        return raw
    if activation == "elu":
        value = raw + 1 if raw > 0 else mpmath.exp(raw)
    else:
        value = mpmath.exp(raw) if activation == "exp" else mpmath.log1p(mpmath.exp(raw))
    return value + mpmath.mpf(min_scale)


def position_nll(
    logits: list[float],
    loc: list[list[float]],
    scale: list[list[float]],
    target: list[float],
    observed: list[bool],
    kappa: list[float],
    family: str | mdnkernels.Family,
    activation: str,
    min_scale: float,
) -> mpmath.mpf:
    """Return the loss of one position: logits [M], loc [M][C], scale [M][S], target, observed and kappa [C]."""
    if not any(observed):
        return mpmath.mpf(0)
    name, parameter = (family, 0.0) if isinstance(family, str) else (family.name, family.parameter)
    normaliser = mpmath.fsum(mpmath.exp(mpmath.mpf(logit)) for logit in logits)
    likelihood = mpmath.mpf(0)
    for logit, means, raws in zip(logits, loc, scale, strict=True):
        log_density = mpmath.mpf(0)
        for d, value in enumerate(target):
            if not observed[d]:
                continue
            sigma = sigma_of(raws[d % len(raws)], activation, min_scale) * mpmath.mpf(kappa[d])
            z = (mpmath.mpf(value) - mpmath.mpf(means[d])) / sigma
            log_density -= FAMILIES[name](z, mpmath.mpf(parameter)) + mpmath.log(sigma)
        likelihood += mpmath.exp(mpmath.mpf(logit)) / normaliser * mpmath.exp(log_density)
    return -mpmath.log(likelihood)


def mixture_nll(
    logits: Tensor,
    loc: Tensor,
    scale: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    dim_scale: Tensor | None = None,
    family: str | mdnkernels.Family = "gaussian",
    scale_activation: str = "elu",
    min_scale: float = 1.0,
) -> list[list[mpmath.mpf]]:
    """Return per-position losses [B][P] for tensors (B, K, P)."""
    batch, dims, points = target.shape
    components = logits.shape[1]
    kappa = [1.0] * dims if dim_scale is None else dim_scale.tolist()
    losses = []
    with mpmath.workdps(60):
        for b in range(batch):
            losses.append([])
            for p in range(points):
                seen = [True] * dims
                if mask is not None:
                    seen = [bool(mask[b, d // (dims // mask.shape[1]), p]) for d in range(dims)]
                losses[-1].append(
                    position_nll(
                        logits[b, :, p].tolist(),
                        loc[b, :, p].view(components, -1).tolist(),
                        scale[b, :, p].view(components, -1).tolist(),
                        target[b, :, p].tolist(),
                        seen,
                        kappa,
                        family,
                        scale_activation,
                        min_scale,
                    )
                )
    return losses
