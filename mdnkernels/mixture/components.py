"""What a mixture is made of, as a distribution: its components' parameters and its moments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from mdnkernels.mixture.arguments import check_dim_scale, check_parameters, check_tril, is_interleaved
from mdnkernels.mixture.blocks import factors
from mdnkernels.mixture.eager import activate_scale
from mdnkernels.mixture.families import Family, family_of
from mdnkernels.mixture.layout import FIRST, Layout, Parameters, check_dim, common_sizes, shapes_of_op, spread
from mdnkernels.ops.mixture_mode import mixture_mode

Self = TypeVar("Self", bound="Components")


class Components(Distribution):
    """The half of `mdnkernels.Mixture` that looks at no value: its arguments and errors are those of that."""

    support = constraints.real_vector
    has_enumerate_support = False

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        scale: Tensor,
        *,
        tril: Tensor | None = None,
        block_size: int | None = None,
        dim_scale: Tensor | None = None,
        family: str | Family = "gaussian",
        scale_activation: str = "softplus",
        min_scale: float = 1e-3,
        scale_order: str | None = None,
        dim: int = 1,
        validate_args: bool | None = None,
    ) -> None:
        self.family = family_of(family)
        self.scale_activation, self.min_scale, self.scale_order = scale_activation, min_scale, scale_order
        self.block_size = block_size
        self.dim_scale = dim_scale
        given = _channels_last(dim, logits, loc, scale, tril)
        self.logits, self.loc, self.tril = given.logits, given.loc, given.tril
        self.scale: Tensor = given.scale  # type: ignore[assignment]
        with shapes_of_op(FIRST if dim == 1 else Layout(dim)):
            dims = self._check()
        self.components = self.logits.shape[-1]
        super().__init__(self.logits.shape[:-1], torch.Size((dims,)), validate_args)

    def _check(self) -> int:
        """Check the parameters as an op does and return C."""
        logits, loc, scale = (_to_op(value) for value in (self.logits, self.loc, self.scale))
        tril = None if self.tril is None else _to_op(self.tril)
        dims = check_parameters(logits, loc, scale, self.scale_activation, self.min_scale)
        self._interleaved = is_interleaved(self.scale_order, scale.shape[1] // logits.shape[1], dims)
        self._block = check_tril(tril, self.block_size, logits, dims, None, self.family)
        check_dim_scale(self.dim_scale, loc, dims)
        return dims

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        real = constraints.real_vector
        return {name: real for name in ("logits", "loc", "scale", "tril") if getattr(self, name) is not None}

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws have pathwise derivatives."""
        return self.family.log_sigma

    @property
    def _parameters(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        return self.logits, self.loc, self.scale, self.tril

    @property
    def _options(self) -> dict[str, Any]:
        names = ("family", "scale_activation", "min_scale", "scale_order", "block_size", "dim_scale")
        return {name: getattr(self, name) for name in names}

    def __repr__(self) -> str:
        parts = [f"batch_shape={tuple(self.batch_shape)}", f"event_shape={tuple(self.event_shape)}"]
        parts += [f"components={self.components}", f"family={self.family}"]
        parts += [] if self.tril is None else [f"block_size={self._block}"]
        return f"Mixture({', '.join(parts)})"

    def expand(self: Self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        """Return this mixture with the dimensions of its batch expanded to `batch_shape`, all views."""
        logits, loc, scale, tril = (
            None if value is None else value.expand(*batch_shape, value.shape[-1]) for value in self._parameters
        )
        assert logits is not None
        assert loc is not None
        assert scale is not None
        return type(self)(logits, loc, scale, tril=tril, **self._options, dim=-1, validate_args=False)

    # The parameters of the components.

    @property
    def weights(self) -> Tensor:
        """alpha (*batch_shape, M), the mixing weights."""
        return torch.softmax(wide(self.logits), -1)

    @property
    def component_loc(self) -> Tensor:
        """mu (*batch_shape, M, C)."""
        return wide(self.loc).unflatten(-1, (self.components, -1))

    @property
    def component_scale(self) -> Tensor:
        """sigma kappa (*batch_shape, M, C), of z where dimensions are correlated."""
        return self._sigma(self.scale.unflatten(-1, (self.components, -1)))

    @property
    def component_tril(self) -> Tensor | None:
        """The entries of L (*batch_shape, M, Q), None where no dimensions are correlated."""
        return None if self.tril is None else wide(self.tril).unflatten(-1, (self.components, -1))

    @property
    def component_variance(self) -> Tensor:
        """The variance of each component's dimensions (*batch_shape, M, C), that of the family and of correlation."""
        if self.family.variance is None:
            raise self.family.refusal("variance in closed form")
        return self.family.variance * self._marginal_scale().square()

    def _sigma(self, raw: Tensor) -> Tensor:
        """Return sigma kappa (..., C) of raw scales (..., S)."""
        sigma = activate_scale(wide(raw), self.scale_activation, self.min_scale)
        scales, dims = sigma.shape[-1], self.event_shape[0]
        if self._interleaved:
            sigma = sigma.unsqueeze(-2).expand(*sigma.shape[:-1], dims // scales, scales).flatten(-2)
        else:
            sigma = sigma.unsqueeze(-1).expand(*sigma.shape, dims // scales).flatten(-2)
        return sigma if self.dim_scale is None else sigma * self.dim_scale.to(sigma.dtype)

    def _marginal_scale(self) -> Tensor:
        """Return the sigma (*batch_shape, M, C) of each dimension by itself, but for the family's factor."""
        sigma, tril = self.component_scale, self.component_tril
        if tril is None:
            return sigma
        return torch.linalg.vector_norm(factors(sigma, tril, self._block), dim=-1).flatten(-2)

    # Moments.

    @property
    def mean(self) -> Tensor:
        """sum_m alpha_m mu_m (*batch_shape, C); NaN for StudentT of df <= 1, which has none."""
        mean = (self.weights.unsqueeze(-1) * self.component_loc).sum(-2)
        return mean if self.family.has_mean else mean * math.nan

    @property
    def aleatoric_variance(self) -> Tensor:
        """sum_m alpha_m v_m (*batch_shape, C), the variance within components: what no better choice could remove.

        Infinite for StudentT of df <= 2. Raises NotImplementedError for the discretised logistic.
        """
        return (self.weights.unsqueeze(-1) * self.component_variance).sum(-2)

    @property
    def epistemic_variance(self) -> Tensor:
        """sum_m alpha_m (mu_m - mean)^2 (*batch_shape, C), the variance between components."""
        return (self.weights.unsqueeze(-1) * (self.component_loc - self.mean.unsqueeze(-2)).square()).sum(-2)

    @property
    def variance(self) -> Tensor:
        """The variance (*batch_shape, C) of each dimension, aleatoric and epistemic."""
        return self.aleatoric_variance + self.epistemic_variance

    @property
    def mode(self) -> Tensor:
        """mu (*batch_shape, C) of the component that has the largest density at it, as `mixture_mode` chooses by
        select="density": the mixture's mode where components lie apart."""
        logits, loc, scale = (_to_op(value) for value in self._parameters[:3])
        options = {name: value for name, value in self._options.items() if name != "block_size"}
        mode = mixture_mode(logits, loc, scale, select="density", **options)
        return wide(mode.loc.movedim(1, -1).reshape(*self.batch_shape, *self.event_shape))


def wide(value: Tensor) -> Tensor:
    """Return `value` in float32 at least."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def _channels_last(dim: int, *given: Tensor | None) -> Parameters:
    """Return a mixture's parameters with their channels last and one batch shape, views; what is none as it is."""
    check_dim(dim, batch=False)
    logits = given[0]
    if not isinstance(logits, Tensor) or not all(
        each is None or (isinstance(each, Tensor) and each.ndim == logits.ndim) for each in given
    ):
        return Parameters(*given)  # type: ignore[arg-type]
    if not -logits.ndim <= dim < logits.ndim:
        raise ValueError(f"dim must be the channels' among the {logits.ndim} dimensions of logits, got {dim}")
    moved = [None if each is None else each.movedim(dim, -1) for each in given]
    sizes = common_sizes(moved, logits.ndim - 1)
    return Parameters(*(None if each is None else spread(each, sizes, logits.ndim - 1) for each in moved))  # type: ignore[arg-type]


def _to_op(value: Tensor) -> Tensor:
    """Return parameters (*batch_shape, K) as (B, K, *P); what is no tensor is left for the op's checks to refuse."""
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    return value.unsqueeze(0) if value.ndim == 1 else value.movedim(-1, 1)
