"""Calls of mixture_nll by their sizes, for the tests of what is special to it; the numbers are the table's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

import mdnkernels
from tests.ops.table import OPS, Draw
from tests.ops.table.mixture import ACTIVATIONS, FAMILIES, divisors


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
    observed: float = 0.6  # share of the mask

    def make(self) -> tuple[list[Tensor], dict[str, Any]]:
        """Return the differentiable arguments (logits, loc, scale, target), and all others."""
        layout = "channels_last" if self.channels_last else "contiguous"
        others = OPS["mixture_nll"].arguments(
            Draw(self.batch, self.positions, self.dtype, layout, seed=self.seed),
            components=self.components,
            dims=self.dims,
            scales=self.scales,
            groups=self.groups,
            points=self.points,
            observed=self.observed,
            weighted=self.weighted,
            kappa=self.kappa,
            family=self.family,
            scale_activation=self.scale_activation,
            min_scale=self.min_scale,
            reduction=self.reduction,
        )
        arguments = [others.pop(name).requires_grad_() for name in ("logits", "loc", "scale", "target")]
        return arguments, others


@st.composite
def mixture_cases(draw: st.DrawFn) -> MixtureCase:
    dims = draw(st.integers(1, 6))
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
        scales=draw(st.sampled_from(divisors(dims))),
        groups=draw(st.sampled_from([None, *divisors(dims)])),
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
    """Return the loss and its gradients in `dtype`; per-position losses are summed with unequal factors."""
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
