"""Random inputs of mixture_nll, shared by its tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

import mdnkernels
from tests.ops.table.mixture import FAMILIES

ACTIVATIONS = ("elu", "softplus", "exp", "identity")


@dataclass(frozen=True)
class MixtureCase:
    """Shapes and options of one call; the numbers follow from `seed`."""

    batch: int = 2
    components: int = 3
    dims: int = 4
    scales: int = 2
    groups: int | None = 2  # None: no mask
    positions: tuple[int, ...] = (7, 9)
    points: int | None = None  # number of indexed points; None: dense
    weighted: bool = True
    kappa: bool = True
    channels_last: bool = False
    family: str | mdnkernels.Family = "gaussian"
    scale_activation: str = "elu"
    min_scale: float = 1.0
    reduction: str = "mean"
    seed: int = 0
    dtype: torch.dtype = torch.float64
    spread: float = 3.0
    observed: float = 0.6  # share of the mask

    def make(self) -> tuple[list[Tensor], dict[str, Any]]:
        """The differentiable arguments (logits, loc, scale, target), and all others."""
        generator = torch.Generator().manual_seed(self.seed)

        def normal(channels: int, positions: tuple[int, ...]) -> Tensor:
            value = torch.randn(self.batch, channels, *positions, generator=generator, dtype=torch.float64)
            if self.channels_last and len(positions) == 2:
                value = value.contiguous(memory_format=torch.channels_last)
            return value

        where = self.positions if self.points is None else (self.points,)
        logits = normal(self.components, self.positions)
        loc = normal(self.components * self.dims, self.positions) * self.spread
        scale = normal(self.components * self.scales, self.positions)
        if self.scale_activation == "identity":
            scale = scale.abs() + 0.2
        target = normal(self.dims, where) * self.spread
        others: dict[str, Any] = {
            "family": self.family,
            "scale_activation": self.scale_activation,
            "min_scale": self.min_scale,
            "reduction": self.reduction,
        }
        if self.groups is not None:
            others["mask"] = torch.rand(self.batch, self.groups, *where, generator=generator) < self.observed
        if self.weighted:
            others["weight"] = torch.rand(self.batch, *where, generator=generator, dtype=torch.float64).to(self.dtype)
        if self.kappa:
            others["dim_scale"] = torch.rand(self.dims, generator=generator, dtype=torch.float64).to(self.dtype) + 0.5
        if self.points is not None:
            count = torch.Size(self.positions).numel()
            others["index"] = torch.randint(-1, count, (self.batch, self.points), generator=generator)
        arguments = [value.to(self.dtype).requires_grad_() for value in (logits, loc, scale, target)]
        return arguments, others


@st.composite
def mixture_cases(draw: st.DrawFn) -> MixtureCase:
    dims = draw(st.integers(1, 6))
    divisors = [d for d in range(1, dims + 1) if dims % d == 0]
    positions = draw(
        st.one_of(
            st.just(()),
            st.tuples(st.integers(0, 70)),
            st.tuples(st.integers(1, 20), st.integers(1, 20)),
            st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6)),
        )
    )
    count = torch.Size(positions).numel()
    return MixtureCase(
        batch=draw(st.integers(0, 4) if count else st.integers(1, 2)),
        components=draw(st.integers(1, 5)),
        dims=dims,
        scales=draw(st.sampled_from(divisors)),
        groups=draw(st.sampled_from([None, *divisors])),
        positions=positions,
        points=draw(st.one_of(st.none(), st.integers(0, 40))) if count else None,
        weighted=draw(st.booleans()),
        kappa=draw(st.booleans()),
        channels_last=draw(st.booleans()),
        family=draw(st.sampled_from(FAMILIES)),
        scale_activation=draw(st.sampled_from(ACTIVATIONS)),
        min_scale=draw(st.sampled_from([0.0, 0.01, 1.0])),
        reduction=draw(st.sampled_from(["mean", "sum", "none"])),
        seed=draw(st.integers(0, 2**31)),
        observed=draw(st.sampled_from([0.05, 0.6])),
    )


def loss_and_gradients(
    backend: str, arguments: list[Tensor], others: dict[str, Any], dtype: torch.dtype
) -> list[Tensor]:
    """The loss and its gradients in `dtype`; per-position losses are summed with unequal factors."""
    arguments = [value.detach().to(dtype).requires_grad_() for value in arguments]
    others = {
        name: value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in others.items()
    }
    with mdnkernels.use_backend(backend):
        loss = mdnkernels.mixture_nll(*arguments, **others)
    factors = torch.linspace(0.5, 1.5, max(loss.numel(), 1), dtype=loss.dtype)[: loss.numel()].view(loss.shape)
    gradients = torch.autograd.grad((loss * factors).sum(), arguments)
    return [loss, *gradients]
