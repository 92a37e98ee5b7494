"""What a mixture is, as one object that its head, its loss and its predictions share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from mdnkernels import checks
from mdnkernels.mixture.arguments import check_scale_options
from mdnkernels.mixture.eager import activate_scale
from mdnkernels.mixture.families import Family, family_of
from mdnkernels.ops.mixture_mode import MixtureMode, mixture_mode
from mdnkernels.ops.mixture_nll import mixture_nll


@dataclass(frozen=True)
class MixtureSpec:
    """A mixture of M components over C dimensions: all that whoever makes, trains and reads it must agree on.

    Build it once, size the network's last layer by `channels`, and call `nll`, `mode` and `sigma` on what that layer
    gives. They are `mixture_nll`, `mixture_mode` and the scale's activation with the options of this mixture, so that
    no prediction can read other sigmas than the loss has trained.

    Args:
        components: M, at least 1.
        dims: C, the target's dimensions, at least 1.
        scales: S, raw scales of a component, a divisor of C; dimension d uses scale d % S. 1 is isotropic, C diagonal.
        family, scale_activation, min_scale: as in `mixture_nll`.

    Raises:
        TypeError: components, dims or scales that are no int, min_scale that is no number, family that is none.
        ValueError: one of them out of its range, scales that do not divide dims, an unknown family or scale_activation.
    """

    components: int
    dims: int
    _: KW_ONLY
    scales: int
    family: str | Family = "gaussian"
    scale_activation: str = "elu"
    min_scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("components", "dims", "scales"):
            checks.integer(name, getattr(self, name), 1)
        if self.dims % self.scales:
            raise ValueError(f"scales must divide dims = {self.dims}, got {self.scales}")
        family_of(self.family)
        check_scale_options(self.scale_activation, self.min_scale)

    @property
    def channels(self) -> dict[str, int]:
        """The channels of each parameter, by name and in the order of `nll`: logits M, loc M*C, scale M*S."""
        return {
            "logits": self.components,
            "loc": self.components * self.dims,
            "scale": self.components * self.scales,
        }

    def nll(
        self,
        logits: Tensor,
        loc: Tensor,
        scale: Tensor,
        target: Tensor,
        *,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
        index: Tensor | None = None,
        dim_scale: Tensor | None = None,
        reduction: str = "mean",
    ) -> Tensor:
        """Return the negative log-likelihood of `target` (B, C, *P) as `mixture_nll` does.

        logits: (B, M, *P). loc: (B, M*C, *P). scale: (B, M*S, *P), raw. The rest, and the errors, as in `mixture_nll`;
        ValueError too for parameters of another number of channels than this mixture has.
        """
        self._check_channels(logits=logits, loc=loc, scale=scale)
        return mixture_nll(
            logits,
            loc,
            scale,
            target,
            mask=mask,
            weight=weight,
            index=index,
            dim_scale=dim_scale,
            family=self.family,
            scale_activation=self.scale_activation,
            min_scale=self.min_scale,
            reduction=reduction,
        )

    def mode(
        self,
        logits: Tensor,
        loc: Tensor,
        scale: Tensor | None = None,
        *,
        index: Tensor | None = None,
        select: str = "weight",
        components: Sequence[int] | None = None,
    ) -> MixtureMode:
        """Return one component's prediction, or the mean, at each position as `mixture_mode` does.

        logits: (B, M, *P). loc: (B, M*C, *P). scale: (B, M*S, *P), raw. The rest, and the errors, as in `mixture_mode`;
        ValueError too for parameters of another number of channels than this mixture has.
        """
        self._check_channels(logits=logits, loc=loc, scale=scale)
        return mixture_mode(
            logits,
            loc,
            scale,
            index=index,
            select=select,
            components=components,
            scale_activation=self.scale_activation,
            min_scale=self.min_scale,
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
        letters = {"logits": "M", "loc": "M*C", "scale": "M*S"}
        for name, value in parameters.items():
            if isinstance(value, Tensor) and (value.ndim < 2 or value.shape[1] != self.channels[name]):
                raise ValueError(
                    f"{name} must be (B, {letters[name]}, *P) with {letters[name]} = {self.channels[name]} channels "
                    f"for {self}, got shape {tuple(value.shape)}"
                )
