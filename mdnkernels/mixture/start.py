"""Where a mixture's components begin: at clusters of the targets, and not all at one place."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mdnkernels import checks
from mdnkernels.mixture.arguments import is_interleaved
from mdnkernels.mixture.clusters import k_means
from mdnkernels.mixture.spec import MixtureSpec


class MixtureStart(NamedTuple):
    """The values that a mixture's parameters have at the first step, in the order of `MixtureSpec.channels`."""

    logits: Tensor
    """(M,), float32: 0, equal weights."""
    loc: Tensor
    """(M*C,), float32: the means of the clusters, in the target's units."""
    scale: Tensor
    """(M*S,), float32: the raw scales whose sigmas are the clusters' spreads."""
    share: Tensor
    """(M,), float32: the share of the targets in each component's cluster; 0 where there are fewer clusters."""
    tril: Tensor
    """(M*Q,), float32: 0, no correlation; without elements where the mixture has no tril."""


def start_from_targets(
    spec: MixtureSpec,
    targets: Tensor,
    *,
    mask: Tensor | None = None,
    dim_scale: Tensor | None = None,
    features: Tensor | None = None,
    features_mask: Tensor | None = None,
    seed: int = 0,
) -> MixtureStart:
    """Return a start of the mixture at the M clusters that k-means finds among the targets.

    A mixture whose components all start alike is decided in its first steps, and often by one of them. A component's
    loc is the mean of its cluster. Its sigma, of any family, is the cluster's standard deviation about loc, over
    `dim_scale`; one that spec.min_scale does not allow begins a tenth of itself above min_scale, where its gradient
    lives. Logits are 0. Where there are fewer different targets than components, those left over start beside the
    largest cluster: one sigma to either side of it, then two, and so on. Components are in ascending order of the sum
    of what k-means compared, at their clusters' centres.

    Args:
        spec: the mixture.
        targets: (N, C), or (B, C, *P) with the channels where spec.dim says, what is regressed, in the target's units.
            What is no number there must not be observed.
        mask: bool, True where observed, as targets, or (., G, *P) with G a divisor of C, as in `mixture_nll`; None:
            everything is.
        dim_scale: (C,), as in `mixture_nll`.
        features: (N, F), or (B, F, *P), what k-means compares in the place of the targets: logarithms of sizes, for
            instance. Finite where observed.
        features_mask: as features, bool, True where a feature is observed, at least one of each row; None: everything
            is.
        seed: of k-means. The same arguments give the same bits for any number of threads.

    Raises:
        TypeError: targets, features or dim_scale that are no float tensor, a mask that is not bool.
        ValueError: a wrong shape, nothing observed, a value that is not finite, a dim_scale that is not positive, a
            features_mask without features.

    Source: k-means++ of Arthur and Vassilvitskii, 2007, with Dixon's distance for missing values, 1979.
    """
    checks.tensor("targets", targets, checks.FLOATS)
    shape = targets.shape
    targets = _as_rows("targets", targets, spec.dims, spec)
    if mask is not None:
        checks.tensor("mask", mask, (torch.bool,))
        mask = _mask_as_rows(mask, shape, spec)
    kappa = np.ones(spec.dims)
    if dim_scale is not None:
        checks.tensor("dim_scale", dim_scale, checks.FLOATS)
        checks.shape("dim_scale", dim_scale, (spec.dims,), "(C,)")
        checks.positive("dim_scale", dim_scale)
        kappa = dim_scale.detach().cpu().double().numpy()
    values = targets.detach().cpu().double().numpy()
    seen = np.ones(values.shape, bool) if mask is None else mask.cpu().numpy()
    if not seen.any():
        raise ValueError("targets must have at least one value that is observed, got none")
    if not np.isfinite(values[seen]).all():
        raise ValueError("targets must be finite where they are observed")
    if features is None:
        if features_mask is not None:
            raise ValueError("features_mask says which features are observed, and there are no features")
        clusters = k_means(values / kappa, seen, clusters=spec.components, seed=seed)
    else:
        checks.tensor("features", features, checks.FLOATS)
        if features_mask is not None:
            checks.tensor("features_mask", features_mask, (torch.bool,))
            checks.shape("features_mask", features_mask, features.shape, "that of features")
            features_mask = _as_rows("features_mask", features_mask, None, spec)
        features = _as_rows("features", features, None, spec)
        if len(features) != len(targets):
            raise ValueError(f"features must be (N, F) with N = {len(targets)}, got shape {tuple(features.shape)}")
        known = None
        if features_mask is not None:
            known = features_mask.cpu().numpy()
            if not known.any(1).all():
                raise ValueError("features_mask must have something observed in each row of features")
        clusters = k_means(features.detach().cpu().double().numpy(), known, clusters=spec.components, seed=seed)
    found = len(clusters.centres)
    scale_of = np.arange(spec.dims)  # the scale of each dimension
    interleaved = is_interleaved(spec.scale_order, spec.scales, spec.dims)
    scale_of = scale_of % spec.scales if interleaved else scale_of // (spec.dims // spec.scales)
    everything = _mean(values, seen, np.zeros(spec.dims))
    loc = np.empty((spec.components, spec.dims))
    sigma = np.empty((spec.components, spec.scales))
    counts = np.zeros(spec.components)
    for k in range(found):
        rows = clusters.labels == k
        counts[k] = rows.sum()
        loc[k] = _mean(values[rows], seen[rows], everything)
        sigma[k] = _spread((values[rows] - loc[k]) / kappa, seen[rows], scale_of)
    sigma = np.maximum(sigma, 0.1 * _typical(sigma[:found], spec.min_scale))
    largest = int(counts.argmax())
    for k in range(found, spec.components):
        step = (k - found) // 2 + 1
        sigma[k] = sigma[largest]
        loc[k] = loc[largest] + (step if (k - found) % 2 == 0 else -step) * sigma[k][scale_of] * kappa
    raw = _raw(sigma, spec.scale_activation, spec.min_scale)
    logits = np.zeros(spec.components)
    tril = np.zeros(spec.channels.get("tril", 0))
    values_of = (logits, loc, raw, counts / counts.sum(), tril)
    return MixtureStart(*(torch.tensor(value, dtype=torch.float32).flatten() for value in values_of))


@torch.no_grad()
def init_from_targets(
    layer: nn.Module,
    spec: MixtureSpec,
    targets: Tensor,
    *,
    mask: Tensor | None = None,
    dim_scale: Tensor | None = None,
    features: Tensor | None = None,
    features_mask: Tensor | None = None,
    seed: int = 0,
    weight_factor: float = 0.1,
) -> MixtureStart:
    """Let a mixture's last layer begin at the clusters of the targets: set its bias, and make its weights small.

    Args:
        layer: gives the mixture's parameters, logits, loc, scale and tril in this order, as its M + M*C + M*S + M*Q
            outputs: an nn.Linear, a convolution, or any module with such a `bias` and a `weight`.
        spec, targets, mask, dim_scale, features, features_mask, seed: as in `start_from_targets`.
        weight_factor: of the layer's weights, at least 0: with small ones each input begins near the clusters.

    Returns:
        The start that the bias now holds.

    Raises:
        TypeError: the layer has no bias or no weight.
        ValueError: its bias is not of the mixture's outputs; and as `start_from_targets`. Nothing is changed then.
    """
    checks.number("weight_factor", weight_factor, 0.0)
    bias, weight = getattr(layer, "bias", None), getattr(layer, "weight", None)
    if not isinstance(bias, Tensor) or not isinstance(weight, Tensor):
        raise TypeError(f"layer must have a weight and a bias, got {layer}")
    outputs = sum(spec.channels.values())
    if tuple(bias.shape) != (outputs,):
        sizes = " + ".join(f"{count} {name}" for name, count in spec.channels.items())
        raise ValueError(f"layer must have {sizes} = {outputs} outputs for {spec}, its bias is {tuple(bias.shape)}")
    start = start_from_targets(
        spec, targets, mask=mask, dim_scale=dim_scale, features=features, features_mask=features_mask, seed=seed
    )
    bias.copy_(torch.cat([start.logits, start.loc, start.scale, start.tril]))
    weight.mul_(weight_factor)
    return start


def _as_rows(name: str, value: Tensor, channels: int | None, spec: MixtureSpec) -> Tensor:
    """Return (N, K), or (B, K, *P) with the channels where spec.dim says, as rows (N, K).

    channels: K; None for any number. Where it is 1 every element is a row, however they are arranged.
    """
    if channels == 1:
        return value.reshape(-1, 1)
    rows = value.movedim(spec.dim, -1) if value.ndim > 1 and -value.ndim <= spec.dim < value.ndim else None
    if rows is None or (channels is not None and rows.shape[-1] != channels):
        letter, wanted = ("F", "any F") if channels is None else ("C", f"C = {channels}")
        raise ValueError(
            f"{name} must be (N, {letter}) with {wanted}, or (B, {letter}, *P) with these in dimension {spec.dim}, of "
            f"{spec}, got shape {tuple(value.shape)}"
        )
    return rows.reshape(-1, rows.shape[-1])


def _mask_as_rows(mask: Tensor, shape: torch.Size, spec: MixtureSpec) -> Tensor:
    """Return a mask (B, G, *P), or (B, *P), of targets of this shape as rows (N, C)."""
    if spec.dims == 1:
        if mask.numel() != shape.numel():
            raise ValueError(f"mask must be of the targets' shape {tuple(shape)}, got {tuple(mask.shape)}")
        return mask.reshape(-1, 1)
    mask = mask.unsqueeze(spec.dim) if mask.ndim == len(shape) - 1 else mask
    groups = mask.shape[spec.dim] if mask.ndim == len(shape) else 0
    expected = list(shape)
    expected[spec.dim] = groups
    if groups == 0 or spec.dims % groups or list(mask.shape) != expected:
        raise ValueError(
            f"mask must be of the targets' shape {tuple(shape)}, or have a divisor of {spec.dims} channels, "
            f"got {tuple(mask.shape)}"
        )
    return _as_rows("mask", mask, groups, spec).repeat_interleave(spec.dims // groups, 1)


def _mean(values: np.ndarray, seen: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Return the mean (C,) of what is observed of each dimension, `otherwise` where nothing is."""
    count = seen.sum(0)
    return np.where(count > 0, np.where(seen, values, 0.0).sum(0) / np.maximum(count, 1), otherwise)


def _spread(residual: np.ndarray, seen: np.ndarray, scale_of: np.ndarray) -> np.ndarray:
    """Return the root mean square (S,) of what is observed of each scale's dimensions; 0 where nothing is.

    scale_of: (C,), the scale of each dimension.
    """
    squares = np.where(seen, residual, 0.0) ** 2
    total, count = (np.bincount(scale_of, value.sum(0)) for value in (squares, seen.astype(float)))
    return np.sqrt(total / np.maximum(count, 1))


def _typical(sigma: np.ndarray, min_scale: float) -> float:
    """Return a spread that stands for those that are 0: the mean of the others, else min_scale, else 1."""
    positive = sigma[sigma > 0]
    return float(positive.mean()) if len(positive) else (min_scale or 1.0)


def _raw(sigma: np.ndarray, activation: str, min_scale: float) -> np.ndarray:
    """Return the raw scales of these sigmas, of sigmas below min_scale those a tenth of sigma above it."""
    if activation == "identity":
        return sigma
    above = np.maximum(sigma - min_scale, 0.1 * sigma)
    if activation == "exp":
        return np.log(above)
    if activation == "softplus":
        return above + np.log(-np.expm1(-above))
    return np.where(above > 1, above - 1, np.log(np.minimum(above, 1)))
