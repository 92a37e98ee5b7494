"""The mixture's negative log-likelihood as a loop over positions in extended precision, from the formula alone."""

from __future__ import annotations

from collections.abc import Callable

import mpmath
from torch import Tensor

import mdnkernels


def distribution_of_logistic(z: mpmath.mpf) -> mpmath.mpf:
    return 1 / (1 + mpmath.exp(-z))


# -log of each family's density at z, or of its mass, for its parameter and the dimension's sigma.
FAMILIES: dict[str, Callable[[mpmath.mpf, mpmath.mpf, mpmath.mpf], mpmath.mpf]] = {
    "gaussian": lambda z, _, sigma: z**2 / 2 + mpmath.log(2 * mpmath.pi) / 2 + mpmath.log(sigma),
    "laplace": lambda z, _, sigma: abs(z) + mpmath.log(2) + mpmath.log(sigma),
    "student_t": lambda z, df, sigma: (
        (df + 1) / 2 * mpmath.log1p(z**2 / df)
        + mpmath.log(df * mpmath.pi) / 2
        + mpmath.loggamma(df / 2)
        - mpmath.loggamma((df + 1) / 2)
        + mpmath.log(sigma)
    ),
    "logistic": lambda z, _, sigma: abs(z) + 2 * mpmath.log1p(mpmath.exp(-abs(z))) + mpmath.log(sigma),
    # In the tail where both values are near 0, where their difference keeps its digits.
    "discretised_logistic": lambda z, delta, sigma: (
        -mpmath.log(
            distribution_of_logistic(-abs(z) + delta / (2 * sigma))
            - distribution_of_logistic(-abs(z) - delta / (2 * sigma))
        )
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


def scale_of(dim: int, dims: int, scales: int, order: str | None) -> int:
    return dim % scales if order == "interleaved" else dim // (dims // scales)


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
    order: str | None = None,
    tril: list[list[float]] | None = None,
    block_size: int = 1,
) -> mpmath.mpf:
    """Return the loss of one position: logits [M], loc [M][C], scale [M][S], target to kappa [C], tril [M][Q]."""
    if not any(observed):
        return mpmath.mpf(0)
    name, parameter = (family, 0.0) if isinstance(family, str) else (family.name, family.parameter)
    normaliser = mpmath.fsum(mpmath.exp(mpmath.mpf(logit)) for logit in logits)
    likelihood = mpmath.mpf(0)
    entries = block_size * (block_size - 1) // 2
    for m, (logit, means, raws) in enumerate(zip(logits, loc, scale, strict=True)):
        sigma = [
            sigma_of(raws[scale_of(d, len(target), len(raws), order)], activation, min_scale) * mpmath.mpf(kappa[d])
            for d in range(len(target))
        ]
        z = [(mpmath.mpf(target[d]) - mpmath.mpf(means[d])) / sigma[d] for d in range(len(target))]
        log_density = mpmath.mpf(0)
        for d in range(len(target)):
            if not observed[d]:
                continue
            block, row = divmod(d, block_size)
            w = z[d]
            for column in range(row):
                entry = row * (row - 1) // 2 + column
                own = tril[m][entry if len(tril[m]) == entries else block * entries + entry]
                w += mpmath.mpf(own) * z[block * block_size + column]
            log_density -= FAMILIES[name](w, mpmath.mpf(parameter), sigma[d])
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
    scale_order: str | None = None,
    tril: Tensor | None = None,
    block_size: int = 1,
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
                        scale_order,
                        None if tril is None else tril[b, :, p].view(components, -1).tolist(),
                        block_size,
                    )
                )
    return losses
