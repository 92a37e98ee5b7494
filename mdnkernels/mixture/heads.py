"""A mixture's last layer: features in, the mixture's parameters out."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mdnkernels.mixture.distribution import Mixture
from mdnkernels.mixture.families import Family
from mdnkernels.mixture.spec import MixtureSpec
from mdnkernels.mixture.start import MixtureStart, init_from_targets


class MixtureHead(nn.Module):
    """Any module whose outputs are a mixture's parameters, and what is done with them.

    Args:
        layer: gives M + M*C + M*S + M*Q channels, logits, loc, scale and tril in the order of `spec.channels`, in
            dimension `spec.dim`: a linear layer, a convolution, or a network that ends in one.
        spec: the mixture.

    Raises:
        TypeError: layer is no module.
    """

    def __init__(self, layer: nn.Module, spec: MixtureSpec) -> None:
        super().__init__()
        if not isinstance(layer, nn.Module):
            raise TypeError(f"layer must be a torch.nn.Module, got {type(layer).__name__}")
        self.layer = layer
        self.spec = spec

    def forward(self, *features: Any) -> dict[str, Tensor]:
        """Return the mixture's parameters by name: logits, loc, scale and, where there is correlation, tril.

        features: what the layer takes. The parameters are views of its output, as the methods of `spec` and the ops
        take them: `spec.mode(**head(features))`.

        Raises ValueError where the layer's output has another number of channels.
        """
        output = self.layer(*features)
        channels, dim = self.spec.channels, self.spec.dim
        total = sum(channels.values())
        if not -output.ndim <= dim < output.ndim or output.shape[dim] != total:
            raise ValueError(
                f"layer must give {total} channels in dimension {dim} for {self.spec}, got {tuple(output.shape)}"
            )
        return dict(zip(channels, output.split(list(channels.values()), dim), strict=True))

    def loss(self, features: Any, target: Tensor, **options: Any) -> Tensor:
        """Return the negative log-likelihood of `target`: `spec.nll`, whose other options and errors it has."""
        return self.spec.nll(**self(features), target=target, **options)

    def distribution(self, features: Any, **options: Any) -> Mixture:
        """Return the mixture that is predicted: `spec.distribution`, whose other options it has."""
        return self.spec.distribution(**self(features), **options)

    def init_from_targets(
        self,
        targets: Tensor,
        *,
        mask: Tensor | None = None,
        dim_scale: Tensor | None = None,
        features: Tensor | None = None,
        features_mask: Tensor | None = None,
        seed: int = 0,
        weight_factor: float = 0.1,
    ) -> MixtureStart:
        """Let the components begin at clusters of the training targets, once, before the first step.

        Without it all components start alike, and one of them often takes everything. The arguments, what is returned
        and the errors are those of `mdnkernels.init_from_targets`, for the last module of the layer whose bias has the
        mixture's channels. TypeError too where there is none.
        """
        outputs = (sum(self.spec.channels.values()),)
        biased = [each for each in self.layer.modules() if _shape_of_bias(each) == outputs]
        if not biased:
            raise TypeError(f"layer must hold a module with a weight and a bias of {outputs[0]} channels: {self.layer}")
        return init_from_targets(
            biased[-1],
            self.spec,
            targets,
            mask=mask,
            dim_scale=dim_scale,
            features=features,
            features_mask=features_mask,
            seed=seed,
            weight_factor=weight_factor,
        )

    def extra_repr(self) -> str:
        return f"spec={self.spec}"


def _shape_of_bias(module: nn.Module) -> tuple[int, ...] | None:
    """Return the shape of a module's bias where it has a weight too."""
    bias, weight = getattr(module, "bias", None), getattr(module, "weight", None)
    return tuple(bias.shape) if isinstance(bias, Tensor) and isinstance(weight, Tensor) else None


class MixtureLinear(MixtureHead):
    """A linear layer to a mixture: features (..., in_features), parameters (..., M), (..., M*C) and so on.

    Args:
        in_features: of the features' last dimension.
        components: M.
        dims: C, of the target (..., C); where it is 1 also (...).
        scales: S; None is C, a sigma for each dimension. 1 is one for all.
        family, scale_activation, min_scale, scale_order, block_size, shared_tril: as in `MixtureSpec`.

    Raises:
        TypeError, ValueError: as `MixtureSpec`.
    """

    def __init__(
        self,
        in_features: int,
        components: int,
        dims: int,
        *,
        scales: int | None = None,
        family: str | Family = "gaussian",
        scale_activation: str = "softplus",
        min_scale: float = 1e-3,
        scale_order: str | None = None,
        block_size: int = 1,
        shared_tril: bool = False,
    ) -> None:
        spec = MixtureSpec(
            components,
            dims,
            scales=dims if scales is None else scales,
            family=family,
            scale_activation=scale_activation,
            min_scale=min_scale,
            scale_order=scale_order,
            block_size=block_size,
            shared_tril=shared_tril,
            dim=-1,
        )
        super().__init__(nn.Linear(in_features, sum(spec.channels.values())), spec)


class MixtureConv2d(MixtureHead):
    """A convolution to a mixture at every cell: features (B, K, H, W), parameters (B, M, H, W) and so on.

    Args:
        in_channels: K.
        components, dims, scales, family, scale_activation, min_scale, scale_order, block_size, shared_tril: as in
            `MixtureLinear`.
        kernel_size, stride, padding: of the convolution; padding "same" keeps the size of a map where stride is 1.

    Raises:
        TypeError, ValueError: as `MixtureSpec`.
    """

    def __init__(
        self,
        in_channels: int,
        components: int,
        dims: int,
        *,
        kernel_size: int = 1,
        stride: int = 1,
        padding: int | str = 0,
        scales: int | None = None,
        family: str | Family = "gaussian",
        scale_activation: str = "softplus",
        min_scale: float = 1e-3,
        scale_order: str | None = None,
        block_size: int = 1,
        shared_tril: bool = False,
    ) -> None:
        spec = MixtureSpec(
            components,
            dims,
            scales=dims if scales is None else scales,
            family=family,
            scale_activation=scale_activation,
            min_scale=min_scale,
            scale_order=scale_order,
            block_size=block_size,
            shared_tril=shared_tril,
        )
        super().__init__(nn.Conv2d(in_channels, sum(spec.channels.values()), kernel_size, stride, padding), spec)
