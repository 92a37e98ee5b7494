"""Training in float64, for tests that compare weights after several steps.

Adam divides a gradient by its own size. Where a gradient is nothing but rounding, the step is as large as any other,
and two ways to compute the same sum part there. In float64 they stay together to far more digits than a test asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import mdnkernels.train.inference.evaluation
import mdnkernels.train.loop.engine
import mdnkernels.train.loop.step
from mdnkernels.train.tasks.detection import DetectionTask


def use_float64(replace: Callable[[Any, str, Any], None] = setattr) -> None:
    """Switch the network, its input and its targets over to float64. `replace` is `setattr`, or what a test undoes."""
    engine, evaluation = mdnkernels.train.loop.engine, mdnkernels.train.inference.evaluation
    build, placed, targets = engine.build_network, evaluation.placed, DetectionTask.targets
    replace(engine, "build_network", lambda *arguments: build(*arguments).double())
    replace(evaluation, "placed", lambda found, transform: placed(found, transform.double()))
    for module in (mdnkernels.train.loop.step, evaluation):
        replace(module, "normalise", _one_by_one(module.normalise))

    def wide_targets(*arguments: Any) -> Any:
        found = targets(*arguments)
        return found._make(value.double() if value.is_floating_point() else value for value in found)

    replace(DetectionTask, "targets", wide_targets)


def _one_by_one(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a function that takes each image of a batch alone, so that it rounds the same in a batch of any size."""

    def normalise(*batch: Tensor) -> Tensor:
        images = zip(*(values.split(1) for values in batch), strict=True)
        return torch.cat([function(*image) for image in images]).double()

    return normalise
