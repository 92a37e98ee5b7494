"""Where a network's regression starts: at the objects of its training data, and not at zero for all of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class ObjectSample(NamedTuple):
    """What is regressed at N objects, such as those of a training set: C dimensions, in output cells."""

    target: Tensor
    """(N, C) float."""
    observed: Tensor
    """(N, C) bool: whether a value is known."""
    label: Tensor
    """(N,) int64: class index."""
    feature: Tensor
    """(N, F) float: by what objects are alike, such as the logarithms of their sizes."""
    feature_observed: Tensor
    """(N, F) bool: whether a feature is known."""
    dim_scale: Tensor | None = None
    """(C,) float: the factors of a mixture's sigmas; None for 1."""

    def of_class(self, label: int) -> ObjectSample:
        """Return the objects of a class; all of them where it has none with anything observed."""
        rows = (self.label == label) & self.observed.any(1)
        return self.at(rows) if rows.any() else self

    def at(self, rows: Tensor) -> ObjectSample:
        """Return some of the objects. rows: (N,) bool."""
        return self._replace(
            target=self.target[rows],
            observed=self.observed[rows],
            label=self.label[rows],
            feature=self.feature[rows],
            feature_observed=self.feature_observed[rows],
        )


class RegressionStart(NamedTuple):
    """The values of a regression at the first step, for Y classes (1 where one serves all) and M components.

    The single-mode base counts as one component, without a sigma.
    """

    biases: dict[str, Tensor]
    """Of the last layers of the heads, by the heads' names: float32, one for each channel."""
    share: Tensor
    """(Y, M) float32: the share of the objects in each component's cluster."""
    loc: Tensor
    """(Y, M, C) float32: the means of the clusters."""
    sigma: Tensor | None
    """(Y, M, S) float32; None for the base."""

    @classmethod
    def joined(cls, starts: list[RegressionStart]) -> RegressionStart:
        """Return the start of a regression with heads for each class, from one start for each.

        A head's channel k * classes + y is channel k of class y.
        """
        first = starts[0]
        return cls(
            {name: torch.stack([one.biases[name] for one in starts], 1).flatten() for name in first.biases},
            torch.cat([one.share for one in starts]),
            torch.cat([one.loc for one in starts]),
            None if first.sigma is None else torch.cat([one.sigma for one in starts if one.sigma is not None]),
        )
