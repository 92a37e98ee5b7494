"""Calls of mixture_nll by their sizes, for the tests of what is special to it; the numbers are the table's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

import mdnkernels
from mdnkernels.mixture.arguments import SCALE_ORDERS
from tests.ops.table import OPS, Draw
from tests.ops.table.mixture import ACTIVATIONS, FAMILIES, divisors, is_discrete

# What is differentiable, in the order of MixtureCase.make; the last only where dimensions are correlated.
NAMES = ("logits", "loc", "scale", "target", "tril")
OBJECTIVES: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 3.0},
    {"temperature": 0.5, "beta": 1.0},
    {"assign": "best"},
    {"assigned": True, "beta": 0.5},
    {"gradient": "natural"},
)


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
    scale_order: str = "interleaved"
    block: int = 1  # correlated neighbours
    shared: bool = False  # by all blocks: the entries of one L
    objective: Mapping[str, Any] = field(default_factory=dict)  # options of the table's draw
    reduction: str = "mean"
    seed: int = 0
    dtype: torch.dtype = torch.float64
    observed: float = 0.6  # share of the mask

    def make(self) -> tuple[list[Tensor], dict[str, Any]]:
        """Return the differentiable arguments (logits, loc, scale, target, tril where there is one), and all others."""
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
            scale_order=self.scale_order,
            block=self.block,
            shared=self.shared,
            reduction=self.reduction,
            **self.objective,
        )
        arguments = [others.pop(name).requires_grad_() for name in NAMES if name in others]
        return arguments, others

    def has_clear_winners(self) -> bool:
        """Tell whether no component that takes all is so by as little as rounding."""
        if self.objective.get("assign") != "best":
            return True
        arguments, others = self.make()
        others = {name: value for name, value in others.items() if name not in ("weight", "reduction", "assign")}
        with mdnkernels.use_backend("eager"):
            posterior = mdnkernels.mixture_posterior(**dict(zip(NAMES, arguments, strict=False)), **others)
        best = posterior.topk(min(self.components, 2), 1).values
        return bool((best[:, 1:] <= 0.99 * best[:, :1]).all())


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
    family = draw(st.sampled_from(FAMILIES))
    block = 1 if is_discrete(family) else draw(st.sampled_from([1, 1, *divisors(dims)]))
    objective = draw(st.sampled_from(OBJECTIVES))
    if "gradient" in objective and (is_discrete(family) or block > 1):
        objective = {}
    return MixtureCase(
        batch=draw(st.integers(0, 4) if count else st.integers(1, 2)),
        components=draw(st.integers(1, 5)),
        dims=dims,
        scales=draw(st.sampled_from(divisors(dims))),
        groups=draw(st.sampled_from([None, *divisors(dims // block)])),
        positions=positions,
        points=draw(st.one_of(st.none(), st.integers(0, 40))) if count else None,
        weighted=draw(st.booleans()),
        kappa=draw(st.booleans()),
        channels_last=draw(st.booleans()),
        family=family,
        scale_activation=draw(st.sampled_from(ACTIVATIONS)),
        min_scale=draw(st.sampled_from([0.0, 0.01, 1.0])),
        scale_order=draw(st.sampled_from(SCALE_ORDERS)),
        block=block,
        shared=draw(st.booleans()),
        objective=objective,
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
        loss = mdnkernels.mixture_nll(**dict(zip(NAMES, arguments, strict=False)), **others)
    factors = torch.linspace(0.5, 1.5, max(loss.numel(), 1), dtype=loss.dtype)[: loss.numel()].view(loss.shape)
    gradients = torch.autograd.grad((loss * factors).sum(), arguments)
    return [loss, *gradients]
