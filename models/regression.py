"""What a network regresses at each object, in two forms: one value for each dimension, or a mixture over all of them.

A form names the heads that it needs, reads them, predicts from them, and says how they are trained. The network owns
its form; decoding, the criterion and the log ask it. Shapes: B images, N points to an image, C dimensions, in
output cells.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from mdnkernels import Family, MixtureSpec, start_from_targets
from mdnkernels.mixture.families import family_of
from mdnkernels.models.heads import HeadConfig
from mdnkernels.models.start import ObjectSample, RegressionStart

# Of a component's sigma, in cells, where a caller of `build_model` says nothing.
MIN_SCALE = 1.0

# How the predictions of an image and of its mirror image become one: the mean of both, or that of the view whose
# component has the larger weight.
Flip = Literal["average", "stronger"]


class Mode(NamedTuple):
    """Holds what a regression predicts at points (B, ., N), in at least float32.

    Half-precision arithmetic would round a box of 400 pixels to whole pixels and worse.
    """

    loc: Tensor  # (B, C, N)
    scale: Tensor  # (B, 2, N) sigma of x and y, of a pose before each keypoint's constant; 0 for the base
    component: Tensor  # (B, N) int64; -1 for the base
    weight: Tensor  # (B, N) mixing weight of that component; 1 for the base


@dataclass(frozen=True)
class Regression(ABC):
    """Says what a network regresses at each object; its two forms, `SingleMode` and `MixtureRegression`, say how.

    quantity: what is regressed, such as "size". dims: C. classes: how many classes have a regression of their own, 1
    where one serves all. A head has `classes` channels for each channel of one class, k * classes + class.
    """

    quantity: str
    dims: int
    _: KW_ONLY
    classes: int = 1

    @property
    @abstractmethod
    def channels(self) -> dict[str, int]:
        """The heads by name, each with its channels for one class, in the order in which `read` gives their values."""

    @property
    @abstractmethod
    def components(self) -> int:
        """The components of its mixture; 0 for the base."""

    @property
    @abstractmethod
    def title(self) -> str:
        """What a log calls it."""

    @property
    @abstractmethod
    def loss_name(self) -> str:
        """What its loss is called."""

    @property
    @abstractmethod
    def flips(self) -> tuple[Flip, ...]:
        """The ways in which it can join the views of an image and of its mirror image."""

    @abstractmethod
    def mode(
        self, values: Sequence[Tensor], *, select: str = "weight", components: Sequence[int] | None = None
    ) -> Mode:
        """Predict from what `read` gives.

        select, components: which component of a mixture, as in `mdnkernels.mixture_mode`. With "mean", loc and scale
        are the mixture's means and no component's own; component and weight are those of the strongest. Raises
        ValueError for a choice without a mixture.
        """

    @abstractmethod
    def loss(
        self,
        values: Sequence[Tensor],
        target: Tensor,
        observed: Tensor,
        dim_scale: Tensor | None = None,
        choice_weight: float = 1.0,
    ) -> Tensor:
        """Return the mean loss of what `read` gives, a scalar; 0 where nothing is observed.

        target: (B, C, N). observed: (B, G, N) bool, G a divisor of C. dim_scale: (C,) factors of a mixture's sigmas.
        choice_weight: what the gradient into a mixture's logits, alpha - r with the posterior r, is multiplied by; the
        value stays. That is the gradient of the loss plus choice_weight - 1 times the cross-entropy of alpha to r, with
        r held fixed: it has the same optimum, and as many times the say in what the features before it tell.
        """

    @abstractmethod
    def count(self, observed: Tensor) -> Tensor:
        """Count what `loss` is the mean of, up to a factor that is the same for every `observed` (B, G, N)."""

    @abstractmethod
    def usage(
        self, values: Sequence[Tensor], target: Tensor, observed: Tensor, dim_scale: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Add up over the objects how the components share them, by name and on the device; nothing for the base.

        The arguments are those of `loss`, and so are the objects: the points of which something is observed.
        """

    @abstractmethod
    def _start(self, sample: ObjectSample, seed: int) -> RegressionStart:
        """Return `start` for one class, from its objects."""

    def start(self, sample: ObjectSample, seed: int = 0) -> RegressionStart:
        """Return where its heads' biases should stand at the first step, from the objects that it will be trained on.

        The base starts at the mean of what is observed. A mixture starts at the clusters that k-means finds among the
        objects' features, as `mdnkernels.start_from_targets` says. A class with a regression of its own starts from its
        own objects, or from all of them where it has none. seed: of k-means. The same arguments give the same bits.

        Raises ValueError where nothing is observed, or a value that is observed is not finite.
        """
        if self.classes == 1:
            return self._start(sample, seed)
        return RegressionStart.joined([self._start(sample.of_class(y), seed) for y in range(self.classes)])

    @property
    def heads(self) -> list[HeadConfig]:
        """The heads that a network needs for it."""
        return [HeadConfig(name, count * self.classes) for name, count in self.channels.items()]

    def read(self, outputs: Mapping[str, Tensor], label: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return its own outputs (B, ., N) among those of one stack, each point's for the point's class.

        label: (B, N) int64, each point's class, -1 for padding; not read where one regression serves all classes.
        Raises ValueError where it is needed and missing.
        """
        values = tuple(outputs[name] for name in self.channels)
        if self.classes == 1:
            return values
        if label is None:
            raise ValueError(f"a {self.quantity} for each of {self.classes} classes needs the points' label, got None")
        return tuple(of_class(value, label, self.classes) for value in values)

    def choices(self) -> list[list[int] | None]:
        """Return what `components` of `mode` can be to see the prediction, None, and each component alone."""
        return [None, *([component] for component in range(self.components))]

    def check_flip(self, flip: str | None, select: str = "weight") -> None:
        """Raise ValueError for an unknown way to join two views, and for one that this form or choice cannot take.

        select: how `mode` chooses.
        """
        if flip not in (None, *get_args(Flip)):
            raise ValueError(f"flip must be None, 'average' or 'stronger', not {flip!r}")
        if flip not in (None, *self.flips):
            raise ValueError(f"flip={flip!r} compares mixing weights, and this is the single-mode base")
        if flip == "stronger" and select == "mean":
            raise ValueError("flip='stronger' compares the weights of two components, and select='mean' chooses none")


@dataclass(frozen=True)
class SingleMode(Regression):
    """Predicts one value for each dimension and trains it with L1: the CenterNet base.

    head: the name of the head that gives these values.
    """

    _: KW_ONLY
    head: str

    components = 0
    title = "single-mode base"
    flips = ("average",)

    @property
    def channels(self) -> dict[str, int]:
        return {self.head: self.dims}

    @property
    def loss_name(self) -> str:
        return self.quantity

    def mode(
        self, values: Sequence[Tensor], *, select: str = "weight", components: Sequence[int] | None = None
    ) -> Mode:
        for name, given in (("components", components), ("select", None if select == "weight" else select)):
            if given is not None:
                raise ValueError(f"{name}={given!r} needs a mixture, and this is the single-mode base")
        loc = at_least_float32(values[0])
        weight = torch.ones_like(loc[:, 0])
        return Mode(loc, torch.zeros_like(loc[:, :2]), torch.full_like(weight, -1, dtype=torch.int64), weight)

    def loss(
        self,
        values: Sequence[Tensor],
        target: Tensor,
        observed: Tensor,
        dim_scale: Tensor | None = None,
        choice_weight: float = 1.0,
    ) -> Tensor:
        return mean_absolute_error(values[0], target, observed)

    def count(self, observed: Tensor) -> Tensor:
        return observed.sum()

    def _start(self, sample: ObjectSample, seed: int) -> RegressionStart:
        counted = sample.observed.sum(0)
        if not counted.any():
            raise ValueError(f"a {self.quantity} starts at the mean of the objects, and nothing of them is observed")
        total = torch.where(sample.observed, sample.target.double(), 0).sum(0)
        # A dimension that is never observed starts where PyTorch would: near zero.
        mean = (total / counted.clamp(min=1)).float()
        if not mean.isfinite().all():
            raise ValueError("targets must be finite where they are observed")
        return RegressionStart({self.head: mean}, torch.ones(1, 1), mean[None, None], None)

    def usage(
        self, values: Sequence[Tensor], target: Tensor, observed: Tensor, dim_scale: Tensor | None = None
    ) -> dict[str, Tensor]:
        return {}


@dataclass(frozen=True)
class MixtureRegression(Regression):
    """Predicts a mixture over all dimensions and trains it with its negative log-likelihood.

    spec: the mixture's sizes, its family and how raw scales become sigmas.
    """

    _: KW_ONLY
    spec: MixtureSpec

    loss_name = "mixture"
    flips = ("average", "stronger")

    @property
    def channels(self) -> dict[str, int]:
        return self.spec.channels

    @property
    def components(self) -> int:
        return self.spec.components

    @property
    def title(self) -> str:
        family = family_of(self.spec.family)
        parameter = "".join(f":{getattr(family, field.name):g}" for field in fields(family))
        return f"{self.components} components ({family.name}{parameter})"

    def mode(
        self, values: Sequence[Tensor], *, select: str = "weight", components: Sequence[int] | None = None
    ) -> Mode:
        logits, loc, scale = (at_least_float32(value) for value in values)
        mode = self.spec.mode(logits, loc, scale, select=select, components=components)
        assert mode.scale is not None  # as there is a scale
        return Mode(mode.loc, mode.scale, mode.component, mode.weight)

    def loss(
        self,
        values: Sequence[Tensor],
        target: Tensor,
        observed: Tensor,
        dim_scale: Tensor | None = None,
        choice_weight: float = 1.0,
    ) -> Tensor:
        logits, loc, scale = values
        if choice_weight != 1:
            fixed = logits.detach()
            logits = fixed + choice_weight * (logits - fixed)  # the same values to the bit
        return self.spec.nll(logits, loc, scale, target, mask=observed, dim_scale=dim_scale)

    def count(self, observed: Tensor) -> Tensor:
        return observed.any(1).sum()

    def _start(self, sample: ObjectSample, seed: int) -> RegressionStart:
        start = start_from_targets(
            self.spec,
            sample.target,
            mask=sample.observed,
            dim_scale=sample.dim_scale,
            features=sample.feature,
            features_mask=sample.feature_observed,
            seed=seed,
        )
        sigma = self.spec.sigma(start.scale[None])
        return RegressionStart(
            dict(zip(self.channels, start[:3], strict=True)),
            start.share[None],
            start.loc.view(1, self.components, -1),
            sigma.view(1, self.components, -1),
        )

    def posterior(
        self, values: Sequence[Tensor], target: Tensor, observed: Tensor, dim_scale: Tensor | None = None
    ) -> Tensor:
        """Return r_m = softmax_m(log alpha_m + log phi_m), each component's part in each object: (B, M, N).

        The arguments are those of `loss`. Where nothing is observed, r is 0.
        """
        logits, loc, scale = (at_least_float32(value) for value in values)
        return self.spec.posterior(logits, loc, scale, target, mask=observed, dim_scale=dim_scale)

    @torch.no_grad()
    def usage(
        self, values: Sequence[Tensor], target: Tensor, observed: Tensor, dim_scale: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Add up over the objects how the components share them.

        Returns "objects", their number, and sums over them: "share" (M,) of each component's posterior; "chosen" (M,)
        of 1 where it has the largest mixing weight, which predicts; "choice_entropy" of the mixing weights' entropy
        over its largest possible value, in [0, 1] (0 for one component); "sigma" (M,) of each component's mean standard
        deviation, in cells (of a pose: before each keypoint's constant). What stands at other points is not read.
        """
        logits, _, scale = (at_least_float32(value) for value in values)
        components = torch.arange(self.components, device=logits.device)[:, None]
        chosen = logits.argmax(1, keepdim=True) == components
        entropy = torch.special.entr(logits.softmax(1)).sum(1, keepdim=True) / math.log(max(self.components, 2))
        sigma = self.spec.sigma(scale).unflatten(1, (self.components, -1)).mean(2)
        each = {
            "objects": torch.ones_like(entropy),
            "share": self.posterior(values, target, observed, dim_scale),
            "chosen": chosen.to(entropy.dtype),
            "choice_entropy": entropy,
            "sigma": sigma,
        }
        counted = observed.any(1, keepdim=True)
        return {name: torch.where(counted, value, 0).sum((0, 2)) for name, value in each.items()}


def make_regression(
    quantity: str,
    dims: int,
    components: int,
    *,
    head: str,
    classes: int = 1,
    family: str | Family = "gaussian",
    min_scale: float = MIN_SCALE,
) -> Regression:
    """Return a mixture of so many components with a raw scale each for x and y, or for 0 components the base.

    quantity, dims, classes: as in `Regression`. head: of the base. family, min_scale: as in `mdnkernels.mixture_nll`;
    a mixture's sigma is ELU(raw) + 1 + min_scale. Raises ValueError for components, a family or a min_scale that there
    cannot be, and for a base with another family than the default, which it would not have.
    """
    if components < 0:
        raise ValueError(f"components must be 0 (the single-mode base) or more, not {components}")
    if not min_scale >= 0:
        raise ValueError(f"min_scale must be at least 0, not {min_scale}")
    if components == 0:
        if family_of(family) != family_of(MixtureSpec.family):
            raise ValueError(f"family {family!r} needs a mixture: the single-mode base (0 components) has an L1 loss")
        return SingleMode(quantity, dims, classes=classes, head=head)
    # x and y in turn: dimension d uses scale d % 2.
    spec = MixtureSpec(
        components,
        dims,
        scales=2,
        family=family,
        scale_activation="elu",
        min_scale=min_scale,
        scale_order="interleaved",
    )
    return MixtureRegression(quantity, dims, classes=classes, spec=spec)


def mean_absolute_error(values: Tensor, target: Tensor, observed: Tensor) -> Tensor:
    """Return the mean absolute difference over the observed dimensions; 0 where there are none.

    values, target: (B, C, N). observed: (B, G, N) bool, G a divisor of C.
    """
    counted = observed.repeat_interleave(target.shape[1] // observed.shape[1], dim=1)
    difference = torch.where(counted, (at_least_float32(values) - target).abs(), 0)
    return difference.sum() / counted.sum().clamp(min=1)


def of_class(values: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Return class-specific values (B, K * num_classes, N), channel k * num_classes + y, at each point's class.

    label: (B, N) int64; padding, -1, reads class 0. The result is (B, K, N).
    """
    per_class = values.unflatten(1, (-1, num_classes))
    chosen = label.clamp(min=0)[:, None, None].expand(-1, per_class.shape[1], 1, -1)
    return per_class.gather(2, chosen).squeeze(2)


def at_least_float32(values: Tensor) -> Tensor:
    """Return half-precision values as float32, others as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
