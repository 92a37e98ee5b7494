"""What a mixture is, as one object that its head, its loss and its predictions share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor

from mdnkernels import checks
from mdnkernels.mixture.arguments import check_block_size, check_scale_options, entries_of, is_interleaved
from mdnkernels.mixture.distribution import Mixture
from mdnkernels.mixture.eager import activate_scale
from mdnkernels.mixture.families import Family, family_of
from mdnkernels.mixture.layout import check_dim
from mdnkernels.ops.mixture_mode import MixtureMode, mixture_mode
from mdnkernels.ops.mixture_nll import mixture_nll, mixture_posterior

_OPTIONS = ("family", "scale_activation", "min_scale", "scale_order", "dim")


@dataclass(frozen=True)
class MixtureSpec:
    """A mixture of M components over C dimensions: all that whoever makes, trains and reads it must agree on.

    Build it once, size the network's last layer by `channels`, and call `nll`, `mode` and `sigma` on what that layer
    gives. They are `mixture_nll`, `mixture_mode` and the scale's activation with the options of this mixture, so that
    no prediction can read other sigmas than the loss has trained.

    Args:
        components: M, at least 1.
        dims: C, the target's dimensions, at least 1.
        scales: S, raw scales of a component, a divisor of C. 1 is isotropic, C diagonal.
        family, scale_activation, min_scale, scale_order: as in `mixture_nll`.
        block_size: D, how many neighbouring dimensions are correlated; 1 for none, and no tril.
        shared_tril: whether all blocks share the entries of one L.
        dim: of the channels in all tensors, as in `mixture_nll`: 1, or -1 for (B, T, K) features. The methods' shapes
            are those of dim 1.

    Raises:
        TypeError: components, dims, scales, block_size or dim that are no int, min_scale that is no number, family that
            is none.
        ValueError: one of them out of its range, scales or a block_size that do not divide dims, an unknown family,
            scale_activation or scale_order.
    """

    components: int
    dims: int
    _: KW_ONLY
    scales: int
    family: str | Family = "gaussian"
    scale_activation: str = "softplus"
    min_scale: float = 1e-3
    scale_order: str | None = None
    block_size: int = 1
    shared_tril: bool = False
    dim: int = 1

    def __post_init__(self) -> None:
        for name in ("components", "dims", "scales"):
            checks.integer(name, getattr(self, name), 1)
        if self.dims % self.scales:
            raise ValueError(f"scales must divide dims = {self.dims}, got {self.scales}")
        is_interleaved(self.scale_order, self.scales, self.dims)
        check_block_size(self.block_size, self.dims, family_of(self.family))
        check_scale_options(self.scale_activation, self.min_scale)
        check_dim(self.dim)

    @property
    def channels(self) -> dict[str, int]:
        """The channels of each parameter, by name and in their order: logits M, loc M*C, scale M*S, and tril M*Q where
        dimensions are correlated."""
        channels = {
            "logits": self.components,
            "loc": self.components * self.dims,
            "scale": self.components * self.scales,
        }
        if self.block_size > 1:
            channels["tril"] = self.components * entries_of(self.dims, self.block_size, self.shared_tril)
        return channels

    @property
    def _options(self) -> dict[str, Any]:
        """Those of every op."""
        return {name: getattr(self, name) for name in _OPTIONS}

    @property
    def _where(self) -> str:
        return "" if self.dim == 1 else f" in dimension {self.dim}"

    @property
    def _correlation(self) -> int | None:
        return self.block_size if self.block_size > 1 else None

    def nll(
        self,
        logits: Tensor,
        loc: Tensor,
        scale: Tensor,
        target: Tensor,
        *,
        tril: Tensor | None = None,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
        index: Tensor | None = None,
        dim_scale: Tensor | None = None,
        assign: str | Tensor | None = None,
        temperature: float = 1.0,
        beta: float = 0.0,
        gradient: str = "likelihood",
        reduction: str = "mean",
    ) -> Tensor:
        """Return the negative log-likelihood of `target` (B, C, *P) as `mixture_nll` does.

        logits: (B, M, *P). loc: (B, M*C, *P). scale: (B, M*S, *P), raw. tril: (B, M*Q, *P) where the mixture has it.
        The rest, and the errors, as in `mixture_nll`; ValueError too for parameters of another number of channels than
        this mixture has.
        """
        self._check_channels(logits=logits, loc=loc, scale=scale, tril=tril)
        return mixture_nll(
            logits,
            loc,
            scale,
            target,
            tril=tril,
            block_size=self._correlation,
            mask=mask,
            weight=weight,
            index=index,
            dim_scale=dim_scale,
            **self._options,
            assign=assign,
            temperature=temperature,
            beta=beta,
            gradient=gradient,
            reduction=reduction,
        )

    def posterior(
        self,
        logits: Tensor,
        loc: Tensor,
        scale: Tensor,
        target: Tensor,
        *,
        tril: Tensor | None = None,
        mask: Tensor | None = None,
        index: Tensor | None = None,
        dim_scale: Tensor | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """Return the share (B, M, *P) that each component has in explaining `target`, as `mixture_posterior` does.

        The arguments are those of `nll`. Raises as `mixture_posterior`, and ValueError for another mixture's channels.
        """
        self._check_channels(logits=logits, loc=loc, scale=scale, tril=tril)
        return mixture_posterior(
            *(logits, loc, scale, target),
            tril=tril,
            block_size=self._correlation,
            mask=mask,
            index=index,
            dim_scale=dim_scale,
            **self._options,
            temperature=temperature,
        )

    def mode(
        self,
        logits: Tensor,
        loc: Tensor,
        scale: Tensor | None = None,
        *,
        tril: Tensor | None = None,
        index: Tensor | None = None,
        dim_scale: Tensor | None = None,
        select: str = "weight",
        components: Sequence[int] | None = None,
    ) -> MixtureMode:
        """Return one component's prediction, or the mean, at each position as `mixture_mode` does.

        logits: (B, M, *P). loc: (B, M*C, *P). scale: (B, M*S, *P), raw. tril: (B, M*Q, *P), or None where neither its
        entries nor a variance are wanted. The rest, and the errors, as in `mixture_mode`; ValueError too for parameters
        of another number of channels than this mixture has.
        """
        self._check_channels(logits=logits, loc=loc, scale=scale, **({} if tril is None else {"tril": tril}))
        return mixture_mode(
            logits,
            loc,
            scale,
            tril=tril,
            block_size=None if tril is None else self._correlation,
            index=index,
            dim_scale=dim_scale,
            select=select,
            components=components,
            **self._options,
        )

    def distribution(
        self,
        logits: Tensor,
        loc: Tensor,
        scale: Tensor,
        *,
        tril: Tensor | None = None,
        dim_scale: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> Mixture:
        """Return the mixture of these parameters as a distribution, of batch shape (B, *P) and event shape (C,).

        The arguments are those of `nll`; validate_args is that of `mdnkernels.Mixture`. Raises as that does, and
        ValueError for parameters of another number of channels than this mixture has.
        """
        self._check_channels(logits=logits, loc=loc, scale=scale, tril=tril)
        return Mixture(
            logits,
            loc,
            scale,
            tril=tril,
            block_size=self._correlation,
            dim_scale=dim_scale,
            **self._options,
            validate_args=validate_args,
        )

    def sigma(self, scale: Tensor) -> Tensor:
        """Return each component's sigma (B, M*S, *P), in the target's units, from raw scales of that shape.

        Computes in float32 at least. Raises TypeError for what is no floating-point tensor, ValueError for another
        number of channels.
        """
        checks.tensor("scale", scale, checks.FLOATS)
        self._check_channels(scale=scale)
        raw = scale.to(torch.promote_types(scale.dtype, torch.float32))
        return activate_scale(raw, self.scale_activation, self.min_scale)

    def _check_channels(self, **parameters: Tensor | None) -> None:
        """Raise ValueError for another mixture's channels; leave what is no tensor to the ops' own checks."""
        letters = {"logits": "M", "loc": "M*C", "scale": "M*S", "tril": "M*Q"}
        for name, value in parameters.items():
            if name == "tril" and (value is None) != (name not in self.channels):
                raise ValueError(f"tril must be {'given' if value is None else 'None'} for {self}")
            if not isinstance(value, Tensor):
                continue
            if not -value.ndim <= self.dim < value.ndim or value.shape[self.dim] != self.channels[name]:
                raise ValueError(
                    f"{name} must be (B, {letters[name]}, *P) with {letters[name]} = {self.channels[name]} channels "
                    f"for {self}{self._where}, got shape {tuple(value.shape)}"
                )
