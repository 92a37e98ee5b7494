"""One table of calls of every public function, for what must hold of them all: tests run down it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import mdnkernels

M, C, S = 3, 4, 2


@dataclass(frozen=True)
class Call:
    """One way to call one op. `make(random, size)` draws its tensors, by the names of the op's arguments."""

    name: str
    function: Callable[..., Any]
    make: Callable[[Random], dict[str, Any]]
    differentiable: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name

    def arguments(
        self, size: tuple[int, int] = (7, 9), batch: int = 2, dtype: torch.dtype = torch.float32, seed: int = 0
    ) -> dict[str, Any]:
        """Arguments for maps of this size; those that have a gradient require it."""
        arguments = self.make(Random(size, batch, dtype, seed))
        for name in self.differentiable:
            arguments[name].requires_grad_()
        return arguments


class Random:
    """Draws the tensors of one call."""

    def __init__(self, size: tuple[int, int], batch: int, dtype: torch.dtype, seed: int) -> None:
        self.size, self.batch, self.dtype = size, batch, dtype
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(self.batch, *shape, generator=self.generator, dtype=torch.float64).to(self.dtype)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator, dtype=torch.float64).to(self.dtype)

    def whole(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, (self.batch, *shape), generator=self.generator)

    def index(self, count: int) -> Tensor:
        return self.whole(-1, self.size[0] * self.size[1], count)

    def mixture(self) -> dict[str, Any]:
        channels = {"logits": M, "loc": M * C, "scale": M * S}
        return {name: self.normal(count, *self.size) for name, count in channels.items()}


def _dense(random: Random) -> dict[str, Any]:
    mask = random.uniform(random.batch, 2, *random.size) < 0.6
    options = {"mask": mask, "weight": random.uniform(random.batch, *random.size), "dim_scale": random.uniform(C) + 0.5}
    return {**random.mixture(), "target": random.normal(C, *random.size), **options}


def _sparse(random: Random) -> dict[str, Any]:
    mask = random.uniform(random.batch, 1, *random.size) < 0.05
    return {**random.mixture(), "target": random.normal(C, *random.size), "mask": mask}


def _per_position(random: Random) -> dict[str, Any]:
    target = random.normal(C, *random.size)
    return {**random.mixture(), "target": target, "family": "laplace", "reduction": "none"}


def _indexed(random: Random) -> dict[str, Any]:
    count = sum(random.size)
    return {**random.mixture(), "target": random.normal(C, count), "index": random.index(count)}


def _mode(select: str, indexed: bool = False, **options: Any) -> Callable[[Random], dict[str, Any]]:
    def make(random: Random) -> dict[str, Any]:
        where = {"index": random.index(sum(random.size))} if indexed else {}
        return {**random.mixture(), **options, **where, "select": select}

    return make


def _patches(random: Random) -> dict[str, Any]:
    return {"feature": random.normal(5, *random.size), "index": random.index(sum(random.size)), "kernel_size": 3}


def _focal(random: Random) -> dict[str, Any]:
    target = random.uniform(random.batch, 3, *random.size)
    return {"logits": random.normal(3, *random.size), "target": torch.where(target > 0.9, 1.0, target).to(random.dtype)}


def _peaks(random: Random) -> dict[str, Any]:
    return {"heatmap": random.normal(3, *random.size), "k": 10, "logits": True}


def _splat(random: Random) -> dict[str, Any]:
    count = sum(random.size)
    center = torch.stack([random.whole(0, length, count) for length in reversed(random.size)], -1)
    radius, label = random.whole(0, 5, count), random.whole(-1, 3, count)
    return {"center": center, "radius": radius, "label": label, "num_labels": 3, "size": random.size}


_PARAMETERS = ("logits", "loc", "scale")
CALLS = (
    Call("mixture_nll dense", mdnkernels.mixture_nll, _dense, (*_PARAMETERS, "target")),
    Call("mixture_nll sparse", mdnkernels.mixture_nll, _sparse, (*_PARAMETERS, "target")),
    Call("mixture_nll per position", mdnkernels.mixture_nll, _per_position, (*_PARAMETERS, "target")),
    Call("mixture_nll indexed", mdnkernels.mixture_nll, _indexed, (*_PARAMETERS, "target")),
    Call("mixture_mode weight", mdnkernels.mixture_mode, _mode("weight"), _PARAMETERS),
    Call("mixture_mode density indexed", mdnkernels.mixture_mode, _mode("density", indexed=True), _PARAMETERS),
    Call("mixture_mode mean", mdnkernels.mixture_mode, _mode("mean"), _PARAMETERS),
    Call("mixture_mode mean of some", mdnkernels.mixture_mode, _mode("mean", components=(2, 0)), _PARAMETERS),
    Call("topk_peaks", mdnkernels.topk_peaks, _peaks),
    Call("gather_patches", mdnkernels.gather_patches, _patches, ("feature",)),
    Call("heatmap_focal_loss", mdnkernels.heatmap_focal_loss, _focal, ("logits",)),
    Call("splat_gaussians", mdnkernels.splat_gaussians, _splat),
)
DIFFERENTIABLE = tuple(call for call in CALLS if call.differentiable)


def outputs_of(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [value for value in result if value is not None]


def weighted_sum(outputs: list[Tensor]) -> Tensor:
    """A scalar that depends on every element of every differentiable output, on each differently."""
    sums = [
        (value * torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).view(value.shape)).double().sum()
        for value in outputs
        if value.requires_grad
    ]
    return torch.stack(sums).sum()


def outputs_and_gradients(
    call: Call, arguments: dict[str, Any], function: Callable[..., Any] | None = None
) -> list[Tensor]:
    """All that `function`, the call's own where none is given, gives for these arguments, and their gradients."""
    outputs = outputs_of((function or call.function)(**arguments))
    leaves = [arguments[name] for name in call.differentiable]
    if not leaves:
        return outputs
    gradients = torch.autograd.grad(weighted_sum(outputs), leaves, allow_unused=True)
    return [*outputs, *(torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, gradients, strict=True))]
