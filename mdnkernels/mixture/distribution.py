"""A mixture as a torch.distributions.Distribution."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
)

from mdnkernels import checks
from mdnkernels.mixture import conditioning, marginals, pathwise
from mdnkernels.mixture.blocks import correlated, factors
from mdnkernels.mixture.components import Components, wide
from mdnkernels.mixture.families import Family
from mdnkernels.mixture.objective import check_temperature
from mdnkernels.ops.mixture_nll import mixture_nll, mixture_posterior


class Mixture(Components):
    """The mixture of M components over C dimensions that `mixture_nll` is the loss of.

    The batch shape is (B, *P), or that of whatever dimensions the parameters have beside their channels, none included;
    the event shape is (C,). Values are (*sample_shape, B, *P, C), with the dimensions last, wherever the parameters
    have their channels. They are kept as views, never copied; their dtype is float32 at least in every result.

    `log_prob`, `sample`, `cdf`, `icdf` and their like do not hold (samples, M, C): a draw chooses its component and
    reads the parameters of that one alone.

    Args:
        logits: (B, M, *P), mixing logits.
        loc: (B, M*C, *P), means, channel m*C + d.
        scale: (B, M*S, *P), raw scales, channel m*S + s.
        tril, block_size: (B, M*Q, *P) and D, correlation within blocks of D dimensions, as in `mixture_nll`.
        dim_scale: (C,), kappa, which multiplies sigma.
        family, scale_activation, min_scale, scale_order: as in `mixture_nll`. A DiscretisedLogistic gives masses of
            bins: its draws are those of its logistic, a bin's share of them being its mass, and what needs a density
            in between (`rsample`, `cdf`, moments, CRPS) is refused.
        dim: of the channels of logits, loc, scale and tril: 1, or -1 for (B, T, K) features. Parameters of size 1 along
            other dimensions serve as many as the others have there.
        validate_args: whether to look for NaN in parameters and values, as in torch.distributions.

    Raises:
        TypeError, ValueError: as `mixture_nll`; ValueError for NaN where arguments are validated.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density (*sample_shape, *batch_shape) of `value` (*sample_shape, *batch_shape, C).

        It is -mixture_nll, in one call or, where there are more mixtures than samples of each, a call for each sample.
        `value` broadcasts as in torch.distributions. Differentiable as `mixture_nll` is.
        """
        return -self._of_values(value, lambda *tensors, **given: mixture_nll(*tensors, **given, reduction="none"))

    def posterior(self, value: Tensor) -> Tensor:
        """Return the share (*sample_shape, *batch_shape, M) that each component has in explaining `value`.

        value: (*sample_shape, *batch_shape, C). Without a gradient, as `mixture_posterior`.
        """
        return self._of_values(value, mixture_posterior, channels=1)

    def _of_values(self, value: Tensor, op: Callable[..., Tensor], channels: int = 0) -> Tensor:
        """Return what `op` gives of each value, (*sample_shape, *batch_shape) and so many dimensions of channels."""
        value = self._broadcast(value)
        samples = value.shape[: value.ndim - self.loc.ndim]
        options = {name: each for name, each in self._options.items() if name != "dim_scale"}
        options |= {"dim_scale": self.dim_scale, "dim": -1}
        if not samples:
            tensors = (_with_batch(each) for each in (*self._parameters, value))
            logits, loc, scale, tril, target = tensors
            result = op(logits, loc, scale, target, tril=tril, **options)
            return result if self.batch_shape else result.squeeze(0)
        value = value.reshape(-1, *value.shape[len(samples) :])
        mixtures = self.batch_shape.numel()
        if len(value) == 0 or mixtures == 0:
            return value.new_zeros(*samples, *self.batch_shape, *[self.components] * channels)
        if mixtures > len(value):
            each = [self._of_values(one, op, channels) for one in value]
            return torch.stack(each).unflatten(0, samples)
        # Few mixtures of many values: the values are positions, along which the parameters have a stride of 0.
        rows = (None if each is None else each.reshape(mixtures, 1, -1) for each in self._parameters)
        logits, loc, scale, tril = rows
        target = value.reshape(len(value), mixtures, -1).transpose(0, 1)
        result = op(logits, loc, scale, target, tril=tril, **options).transpose(0, 1)
        return result.reshape(*samples, *self.batch_shape, *result.shape[2:])

    # Draws.

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw (*sample_shape, *batch_shape, C), without a gradient.

        Those of a DiscretisedLogistic are continuous: a value rounded to the target's grid is a draw of its masses.
        """
        return self._draw(sample_shape)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw (*sample_shape, *batch_shape, C) with exact pathwise derivatives in logits, loc, scale and tril.

        They are those of implicit reparameterisation: the draw moves as the conditional distribution functions of its
        dimensions, one after the other, do, so that the mixing weights have a part in them. Once differentiable. The
        backward pass looks at as many samples together as fit in a few megabytes.

        Raises:
            NotImplementedError: the family has no continuous distribution function.

        Source: Figurnov, Mohamed and Mnih, "Implicit Reparameterization Gradients", 2018; Graves, 2016.
        """
        if not self.has_rsample:
            raise self.family.refusal("pathwise derivatives: sample() draws without them")
        samples = self.sample(sample_shape)
        if not torch.is_grad_enabled() or not any(each is not None and each.requires_grad for each in self._parameters):
            return samples
        shape, event = samples.shape, self.loc.ndim
        moved = pathwise.attach(
            samples.reshape(-1, *shape[len(shape) - event :]),
            wide(self.logits),
            self.component_loc,
            self.component_scale,
            self.component_tril,
            self.family,
            self._block,
        )
        return moved.reshape(shape)

    def _draw(self, sample_shape: Sequence[int]) -> Tensor:
        """Draw a component for each sample, gather its parameters, and draw from it."""
        count, mixtures = math.prod(sample_shape), self.batch_shape.numel()
        if count == 0 or mixtures == 0:
            return wide(self.loc).new_zeros(*sample_shape, *self.batch_shape, *self.event_shape)
        weights = self.weights.reshape(mixtures, self.components)
        component = torch.multinomial(weights, count, replacement=True).t().reshape(*sample_shape, *self.batch_shape)
        # Each mixture's place, so that an index reads the chosen component's channels where they are.
        dims = len(self.batch_shape)
        places = (
            torch.arange(size, device=component.device).view(-1, *[1] * (dims - 1 - d))
            for d, size in enumerate(self.batch_shape)
        )
        where = (*places, component)

        def of_component(value: Tensor) -> Tensor:
            return wide(value.unflatten(-1, (self.components, -1))[where])

        loc = of_component(self.loc)
        tril = None if self.tril is None else of_component(self.tril)
        z = correlated(self.family.draw(loc), tril, self._block)
        return loc + self._sigma(of_component(self.scale)) * z

    # Each dimension by itself.

    def cdf(self, value: Tensor) -> Tensor:
        """Return the distribution function of each dimension by itself at `value`.

        Both are (*sample_shape, *batch_shape, C).

        Exact to rounding of its value near 0; differentiable in the value and the parameters.

        Raises:
            NotImplementedError: of masses, and of correlated dimensions that are not Gaussian.
        """
        return marginals.cdf(self._broadcast(value), *self._marginals())

    def icdf(self, value: Tensor) -> Tensor:
        """Return the quantiles of each dimension by itself at the probabilities `value`.

        Both are (*sample_shape, *batch_shape, C).

        By Newton's method within a bracket, to rounding: -inf at 0, inf at 1, NaN for what is no probability.
        Implicitly differentiable, once, in the value and the parameters. Raises as `cdf`.
        """
        return marginals.icdf(self._broadcast(value, "value"), *self._marginals())

    def crps(self, value: Tensor) -> Tensor:
        """Return the continuous ranked probability score of each dimension by itself, of `value`'s shape.

        value: (*sample_shape, *batch_shape, C). The integral over x of (F(x) - [value <= x])^2, in the target's units;
        the smaller, the better. E |X - value| - E |X - X'| / 2, in closed form for Gaussians and Laplace's
        distributions. Differentiable.

        Raises:
            NotImplementedError: of other families, and of correlated dimensions that are not Gaussian.

        Source: Gneiting and Raftery, 2007; Grimit et al., "The continuous ranked probability score for circular
        variables and its application to mesoscale forecast ensemble verification", 2006 (mixtures of Gaussians).
        """
        return marginals.crps(self._broadcast(value), *self._marginals())

    def _marginals(self) -> tuple[Tensor, Tensor, Tensor, Family]:
        """Return the weights (*batch_shape, M), and loc and sigma (*batch_shape, M, C) of each dimension by itself."""
        if self.tril is not None and not self.family.spherical:
            raise self.family.refusal("distribution function of one of several correlated dimensions")
        return self.weights, self.component_loc, self._marginal_scale(), self.family

    def _broadcast(self, value: Tensor, name: str = "value") -> Tensor:
        """Check a value and return it as (*sample_shape, *batch_shape, C), a view."""
        checks.companion(name, value, self.loc)
        shape = (*self.batch_shape, *self.event_shape)
        if value.ndim == 0 or value.shape[-1] != shape[-1]:
            raise ValueError(
                f"{name} must be (*sample_shape, *batch_shape, C) with C = {shape[-1]} last, got {tuple(value.shape)}"
            )
        try:
            return value.expand(torch.broadcast_shapes(value.shape, shape))
        except RuntimeError:
            raise ValueError(
                f"{name} must be (*sample_shape, *batch_shape, C) for the batch shape {tuple(self.batch_shape)} and "
                f"C = {shape[-1]}, got {tuple(value.shape)}"
            ) from None

    # Other mixtures.

    def tempered(self, temperature: float) -> Mixture:
        """Return the mixture whose logits are divided by t and whose sigmas are multiplied by sqrt(t), for sampling.

        Below 1 the draws keep to the likely components and near their means, as handwriting synthesis does it; above 1
        they spread. It is not the density to the power 1 / t, normalised, but in its limits.

        Raises TypeError and ValueError for a temperature that is not above 0.
        """
        check_temperature(temperature)
        parts = self._parts
        return self._with(self.logits / temperature, parts._replace(sigma=parts.sigma * math.sqrt(temperature)))

    def marginal(self, dims: int | Sequence[int]) -> Mixture:
        """Return the mixture of some dimensions, in the order of `dims`, whatever the others are.

        dims: one or more of 0 .. C - 1, each once; those of one correlated block stand side by side. Of correlated
        dimensions of a family that is no Gaussian, the first ones of a block can be had, in their order.

        Raises:
            TypeError, ValueError: dims are not such numbers.
            NotImplementedError: dimensions that the family has no closed form for.
        """
        some = self._dims(dims)
        return self._with(self.logits, conditioning.marginal(self._parts, some, self.family))

    def condition(self, dims: int | Sequence[int], values: Tensor) -> Mixture:
        """Return the mixture of all other dimensions, in ascending order, given what those of `dims` are.

        Each component's weight is multiplied by its density there. Of independent dimensions nothing else changes;
        within a correlated block the others' means and spreads are the conditional ones.

        Args:
            dims: as in `marginal`, but in any order, and not all. Of correlated dimensions of a family that is no
                Gaussian, the first ones of a block, in their order.
            values: (*batch_shape, k), for the k dimensions in the order of `dims`, or more dimensions before, which the
                result has too.

        Raises: as `marginal`; ValueError for values of another shape.
        """
        some = sorted(self._dims(dims))
        checks.companion("values", values, self.loc)
        if values.ndim == 0 or values.shape[-1] != len(some):
            raise ValueError(
                f"values must be (*batch_shape, k) for k = {len(some)} dims, got shape {tuple(values.shape)}"
            )
        if len(some) == self.event_shape[0]:
            raise ValueError(f"dims must leave a dimension of C = {len(some)}, got all of them")
        order = [self._dims(dims).index(d) for d in some]
        values = wide(values)[..., order]
        observed = conditioning.marginal(self._parts, some, self.family)
        logits = torch.log_softmax(wide(self.logits), -1)
        logits = logits + conditioning.log_density(values, observed, self.family)
        rest = conditioning.conditional(self._parts, some, values, self.family)
        batch = logits.shape
        loc, sigma = (each.expand(*batch, each.shape[-1]) for each in rest[:2])
        tril = None if rest.tril is None else rest.tril.expand(*batch, rest.tril.shape[-1])
        return self._with(logits, conditioning.Components(loc, sigma, tril, rest.block_size))

    def _dims(self, dims: int | Sequence[int]) -> list[int]:
        """Check dimensions and return them."""
        some = [dims] if isinstance(dims, int) else list(dims)
        for d in some:
            checks.integer("dims", d, 0)
        if not some or len(set(some)) < len(some) or max(some) >= self.event_shape[0]:
            raise ValueError(f"dims must be distinct numbers below C = {self.event_shape[0]}, at least one, got {dims}")
        return some

    @property
    def _parts(self) -> conditioning.Components:
        return conditioning.Components(self.component_loc, self.component_scale, self.component_tril, self._block)

    def _with(self, logits: Tensor, parts: conditioning.Components) -> Mixture:
        """Return a mixture of this family of logits (*batch, M) and of components whose sigma has kappa in it."""
        loc, sigma, tril, block_size = parts
        return Mixture(
            wide(logits),
            loc.flatten(-2),
            sigma.flatten(-2),
            tril=None if tril is None else tril.flatten(-2),
            block_size=None if tril is None else block_size,
            family=self.family,
            scale_activation="identity",
            dim=-1,
            validate_args=False,
        )

    def to_torch(self) -> MixtureSameFamily:
        """Return the same mixture of torch's distributions: MixtureSameFamily of Independent or MultivariateNormal.

        Its log_prob holds (samples, M, C). Raises NotImplementedError for families that torch does not have, and for
        correlated dimensions that are not Gaussian.
        """
        choice = Categorical(logits=wide(self.logits), validate_args=False)
        loc, sigma, tril = self.component_loc, self.component_scale, self.component_tril
        if tril is None:
            of_components: Distribution = Independent(self.family.to_torch(loc, sigma), 1)
        elif self.family.spherical:
            blocks = factors(sigma, tril, self._block)
            scale_tril = sigma.new_zeros(*loc.shape, loc.shape[-1])
            for first in range(0, loc.shape[-1], self._block):
                within = slice(first, first + self._block)
                scale_tril[..., within, within] = blocks[..., first // self._block, :, :]
            of_components = MultivariateNormal(loc, scale_tril=scale_tril)
        else:
            raise self.family.refusal("correlation in torch.distributions")
        return MixtureSameFamily(choice, of_components)


def _with_batch(value: Tensor | None) -> Tensor | None:
    """Return parameters with a dimension for the batch, which a mixture of no batch shape does not have."""
    return value.unsqueeze(0) if value is not None and value.ndim == 1 else value
