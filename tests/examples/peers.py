"""Losses as people write them today, and mdnkernels on the same parameters.

| pair | the usual way |
| --- | --- |
| forecasting, winner | log standard deviations and rho, the mode that ends nearest to the truth, as MTR trains |
| forecasting, all modes | the likelihood of the same mixture of paths |
| keypoints | the Cholesky factor of each keypoint's precision, P = L L^T, filled into matrices |
| series | a mixture for each step of many series, MixtureSameFamily as libraries of time series have it |

`usual` and `fused` take the same parameters; `direct` takes mdnkernels' own, into which `own` translates the former, as
a head that is made for it gives them. test_peers.py shows that loss and gradients are the same;
benchmarks/bench_examples.py times and weighs all three.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, distributions
from torch.nn import functional

import mdnkernels

Tensors = dict[str, Tensor]


Loss = Callable[[Tensors, Tensors], Tensor]


@dataclass(frozen=True)
class Pair:
    """One loss in three ways: functions of the parameters, which are trained, and of the data."""

    size: dict[str, int]
    """Of the call that is timed."""
    draw: Callable[..., tuple[Tensors, Tensors]]
    """From a dtype and the sizes, the parameters of the usual way and the data."""
    usual: Loss
    fused: Loss
    own: Callable[[Tensors], Tensors]
    direct: Loss


def draw_forecasting(dtype: torch.dtype, batch: int, modes: int, steps: int) -> tuple[Tensors, Tensors]:
    """Draw scores (B, M), paths (B, M, T, 5) of x, y, two log standard deviations and rho; truth (B, T, 2), seen."""
    random = torch.Generator().manual_seed(0)
    paths = torch.randn(batch, modes, steps, 5, generator=random, dtype=dtype)
    paths[..., 4] = 0.9 * torch.tanh(paths[..., 4])
    seen = torch.rand(batch, steps, generator=random) < 0.8
    seen[:, 0] = True  # nobody trains on a track without a step
    scores = torch.randn(batch, modes, generator=random, dtype=dtype)
    return {"scores": scores, "paths": paths}, {
        "truth": torch.randn(batch, steps, 2, generator=random, dtype=dtype),
        "seen": seen,
    }


def winner_by_end_point(places: Tensor, data: Tensors) -> Tensor:
    """Return the mode (B,) of `places` (B, M, T, 2) that is nearest to the truth at the last step that was seen."""
    end = (data["seen"] * torch.arange(data["seen"].shape[1])).argmax(1)
    rows = torch.arange(len(end))
    return (places[rows, :, end] - data["truth"][rows, None, end]).norm(dim=-1).argmin(1)


def bivariate_nll(path: Tensor, truth: Tensor, seen: Tensor) -> Tensor:
    """Return the NLL (...) of `truth` (..., T, 2) under a path (..., T, 5), over the steps that were seen (..., T)."""
    dx, dy = (truth - path[..., :2]).unbind(-1)
    log_std_x, log_std_y, rho = path[..., 2:].unbind(-1)
    std_x, std_y = log_std_x.exp(), log_std_y.exp()
    log_normaliser = math.log(2 * math.pi) + log_std_x + log_std_y + 0.5 * torch.log(1 - rho**2)
    quadratic = dx**2 / std_x**2 + dy**2 / std_y**2 - 2 * rho * dx * dy / (std_x * std_y)
    return ((log_normaliser + 0.5 / (1 - rho**2) * quadratic) * seen).sum(-1)


def usual_winner(parameters: Tensors, data: Tensors) -> Tensor:
    scores, paths = parameters["scores"], parameters["paths"]
    winner = winner_by_end_point(paths[..., :2].detach(), data)
    regression = bivariate_nll(paths[torch.arange(len(winner)), winner], data["truth"], data["seen"])
    return (regression + functional.cross_entropy(scores, winner, reduction="none")).mean()


def usual_all_modes(parameters: Tensors, data: Tensors) -> Tensor:
    nll = bivariate_nll(parameters["paths"], data["truth"].unsqueeze(1), data["seen"].unsqueeze(1))
    return -torch.logsumexp(functional.log_softmax(parameters["scores"], 1) - nll, 1).mean()


def own_forecasting(parameters: Tensors) -> Tensors:
    """Return paths (B, M, T, 5) as loc, scale and tril, by the formula of `tril_from_correlation` in logarithms."""
    log_std_x, log_std_y, rho = parameters["paths"][..., 2:].unbind(-1)
    free = 1 - rho**2
    return {
        "logits": parameters["scores"],
        "loc": parameters["paths"][..., :2].flatten(1),
        "scale": torch.stack([log_std_x, log_std_y + 0.5 * free.log()], -1).flatten(1),
        "tril": (-rho * free.rsqrt()).flatten(1),
    }


def direct_all_modes(parameters: Tensors, data: Tensors, winner: Tensor | None = None) -> Tensor:
    return mdnkernels.mixture_nll(
        **parameters,
        target=data["truth"].flatten(1),
        mask=data["seen"],
        assign=winner,
        block_size=2,
        scale_activation="exp",
        min_scale=0.0,
    )


def direct_winner(parameters: Tensors, data: Tensors) -> Tensor:
    places = parameters["loc"].detach().unflatten(1, (-1, *data["truth"].shape[1:]))
    return direct_all_modes(parameters, data, winner_by_end_point(places, data))


def fused_winner(parameters: Tensors, data: Tensors) -> Tensor:
    """Take the winner's path alone, so that the others are not translated."""
    scores, paths = parameters["scores"], parameters["paths"]
    winner = winner_by_end_point(paths[..., :2].detach(), data)
    best = {"scores": torch.zeros_like(scores[:, :1]), "paths": paths[torch.arange(len(winner)), winner].unsqueeze(1)}
    return direct_all_modes(own_forecasting(best), data) + functional.cross_entropy(scores, winner)


def draw_keypoints(dtype: torch.dtype, batch: int, keypoints: int) -> tuple[Tensors, Tensors]:
    """Draw loc (B, K, 2), the factor's log diagonal (B, K, 2) and entry below it (B, K); target (B, K, 2), visible."""
    random = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(batch, keypoints, *shape, generator=random, dtype=dtype)

    parameters = {"loc": draw(2), "log_diagonal": 0.5 * draw(2), "below": draw()}
    return parameters, {"target": draw(2), "visible": torch.rand(batch, keypoints, generator=random) < 0.7}


def usual_keypoints(parameters: Tensors, data: Tensors) -> Tensor:
    log_diagonal = parameters["log_diagonal"]
    factor = torch.diag_embed(log_diagonal.exp())
    factor[..., 1, 0] = parameters["below"]
    residual = (data["target"] - parameters["loc"]).unsqueeze(-1)
    white = (factor.mT @ residual).squeeze(-1)
    nll = 0.5 * white.square().sum(-1) - log_diagonal.sum(-1) + math.log(2 * math.pi)
    visible = data["visible"]
    return (nll * visible).sum() / visible.any(1).sum()


def own_keypoints(parameters: Tensors) -> Tensors:
    """Return the factor in mdnkernels' form, y before x: L^T gives y first, and x from both."""
    loc, log_diagonal = parameters["loc"], parameters["log_diagonal"]
    return {
        "logits": torch.zeros_like(loc[:, 0, :1]),
        "loc": loc.flip(-1).flatten(1),
        "scale": -log_diagonal.flip(-1).flatten(1),
        "tril": parameters["below"] * torch.exp(-log_diagonal[..., 1]),
    }


def direct_keypoints(parameters: Tensors, data: Tensors) -> Tensor:
    return mdnkernels.mixture_nll(
        **parameters,
        target=data["target"].flip(-1).flatten(1),
        mask=data["visible"],
        block_size=2,
        scale_activation="exp",
        min_scale=0.0,
    )


def draw_series(dtype: torch.dtype, batch: int, steps: int, components: int) -> tuple[Tensors, Tensors]:
    """Draw weights, means and raw scales (B, T, M); target (B, T) and which of it is known."""
    random = torch.Generator().manual_seed(0)
    shape = (batch, steps, components)
    parameters = {
        name: torch.randn(shape, generator=random, dtype=dtype) for name in ("weights", "means", "raw_scales")
    }
    target = torch.randn(batch, steps, generator=random, dtype=dtype)
    return parameters, {"target": target, "known": torch.rand(batch, steps, generator=random) < 0.9}


def usual_series(parameters: Tensors, data: Tensors) -> Tensor:
    mixture = distributions.MixtureSameFamily(
        distributions.Categorical(logits=parameters["weights"]),
        distributions.Normal(parameters["means"], functional.softplus(parameters["raw_scales"]) + 1e-3),
    )
    known = data["known"]
    return -(mixture.log_prob(data["target"]) * known).sum() / known.sum()


def own_series(parameters: Tensors) -> Tensors:
    return dict(zip(("logits", "loc", "scale"), (value.flatten(0, 1) for value in parameters.values()), strict=True))


def direct_series(parameters: Tensors, data: Tensors) -> Tensor:
    target, known = (data[name].reshape(-1, 1) for name in ("target", "known"))
    return mdnkernels.mixture_nll(**parameters, target=target, mask=known)


def translated(own: Callable[[Tensors], Tensors], direct: Loss) -> Loss:
    return lambda parameters, data: direct(own(parameters), data)


FORECASTING = {"batch": 128, "modes": 64, "steps": 80}
PAIRS = {
    "forecasting, winner": Pair(
        FORECASTING, draw_forecasting, usual_winner, fused_winner, own_forecasting, direct_winner
    ),
    "forecasting, all modes": Pair(
        FORECASTING,
        draw_forecasting,
        usual_all_modes,
        translated(own_forecasting, direct_all_modes),
        own_forecasting,
        direct_all_modes,
    ),
    "keypoints": Pair(
        {"batch": 16384, "keypoints": 17},
        draw_keypoints,
        usual_keypoints,
        translated(own_keypoints, direct_keypoints),
        own_keypoints,
        direct_keypoints,
    ),
    "series": Pair(
        {"batch": 1024, "steps": 96, "components": 10},
        draw_series,
        usual_series,
        translated(own_series, direct_series),
        own_series,
        direct_series,
    ),
}
