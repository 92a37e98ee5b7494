"""The ways to run an op: the backends, torch.compile of eager, and what people write in its place today."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, distributions
from torch.nn import functional

import mdnkernels
from benchmarks.steps import Step, step
from tests.ops.table import Call, Entry

COMPILED = "torch.compile(eager)"
POOL_AND_TOPK, TWO_OPS = "max_pool2d, topk", "splat_gaussians, heatmap_focal_loss"


@dataclass(frozen=True)
class Way:
    """A function of an op's arguments by name, and the backend that it runs on."""

    function: Callable[..., Any]
    backend: str
    compiled: bool = False
    suits: Callable[[Mapping[str, Any]], bool] = field(default=lambda arguments: True)
    """Whether it knows what these arguments ask for."""

    def step(self, trained: bool) -> Step:
        """Return a training step, or the forward pass, on the backend."""
        function = torch.compile(self.function, fullgraph=True, dynamic=False) if self.compiled else self.function
        run = step(function, trained)

        def on_backend(call: Call) -> object:
            with mdnkernels.use_backend(self.backend):
                return run(call)

        return on_backend


def mixture_same_family(
    logits: Tensor, loc: Tensor, scale: Tensor, target: Tensor, *, min_scale: float = 1e-3, **_: Any
) -> Tensor:
    """Return the mean negative log-likelihood by torch.distributions, all observed; parameters as in mixture_nll."""
    components, dims = logits.shape[1], target.shape[1]

    def last(value: Tensor) -> Tensor:  # (B, M*K, *P) -> (B, *P, M, K)
        return value.unflatten(1, (components, -1)).movedim((1, 2), (-2, -1))

    sigma = functional.softplus(last(scale)) + min_scale
    sigma = sigma.repeat(*(1,) * (sigma.ndim - 1), dims // sigma.shape[-1])
    mixture = distributions.MixtureSameFamily(
        distributions.Categorical(logits=logits.movedim(1, -1)),
        distributions.Independent(distributions.Normal(last(loc), sigma), 1),
    )
    return -mixture.log_prob(target.movedim(1, -1)).mean()


def _is_plain(arguments: Mapping[str, Any]) -> bool:
    """Tell whether MixtureSameFamily, which knows neither mask nor index, gives the same loss."""
    mask = arguments.get("mask")
    return "index" not in arguments and (mask is None or bool(mask.all()))


def max_pool_and_topk(heatmap: Tensor, k: int, *, logits: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores, labels and cells of the k best peaks as CenterNet decodes them, (B, k) each."""
    scores = heatmap.sigmoid() if logits else heatmap
    kept = scores * (functional.max_pool2d(scores, 3, stride=1, padding=1) == scores)
    score, cell = kept.flatten(1).topk(k)
    cells = heatmap.shape[-2] * heatmap.shape[-1]
    return score, cell // cells, cell % cells


def splat_and_focal_loss(logits: Tensor, center: Tensor, radius: Tensor, label: Tensor) -> Tensor:
    """Return center_focal_loss by way of the heatmap."""
    labels, *size = logits.shape[1:]
    return mdnkernels.heatmap_focal_loss(logits, mdnkernels.splat_gaussians(center, radius, label, labels, size))


OTHERS: dict[str, dict[str, Way]] = {
    "mixture_nll": {"MixtureSameFamily": Way(mixture_same_family, "eager", suits=_is_plain)},
    "topk_peaks": {POOL_AND_TOPK: Way(max_pool_and_topk, "eager")},
    "center_focal_loss": {TWO_OPS: Way(splat_and_focal_loss, "native")},
}


def ways(entry: Entry, device: str = "cpu") -> dict[str, Way]:
    """Return the ways to run an op on a device, the fused ones first."""
    fused = ("native",) if device == "cpu" else ("native", "triton")
    return {
        **{backend: Way(entry.function, backend) for backend in fused},
        COMPILED: Way(entry.function, "eager", compiled=True),
        "eager": Way(entry.function, "eager"),
        **OTHERS.get(entry.op, {}),
    }
