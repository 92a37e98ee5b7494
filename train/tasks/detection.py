"""Object detection: boxes of any categories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mdnkernels.models import Detections, Detector, Network, build_model
from mdnkernels.models.regression import Regression, mean_absolute_error
from mdnkernels.models.start import ObjectSample
from mdnkernels.train.data.coco import CocoAnnotations
from mdnkernels.train.drawing.pictures import draw_detections
from mdnkernels.train.tasks.base import Task, predict_each_options, predict_options
from mdnkernels.train.tasks.criterion import Criterion, Truth, read_points
from mdnkernels.train.tasks.entries import clipped_boxes, corners_of, rounded
from mdnkernels.train.tasks.score import Score, score_results
from mdnkernels.train.tasks.targets import HeatmapObjects, centres_of, flat_cells
from mdnkernels.train.tasks.weights import LossWeights

if TYPE_CHECKING:  # what a network is trained with needs no library of the command line
    from mdnkernels.train.config.options import InferenceConfig, ModelConfig, OptimizerConfig
    from mdnkernels.train.tasks.start import SeenObjects


class DetectionTargets(NamedTuple):
    """Targets in output cells, for B images and N boxes at most in each."""

    cell: Tensor
    """(B, N, 2) int64: x and y of the cell of each box's centre."""
    radius: Tensor
    """(B, N) int64: how far the Gaussian at each box's centre reaches, in cells."""
    index: Tensor  # type: ignore[assignment]  # the field's name, though tuple has a method of that name
    """(B, N) int64: flat cell y * w + x of each box's centre, -1 for padding."""
    label: Tensor
    """(B, N) int64: class index, -1 for padding."""
    size: Tensor
    """(B, 2, N) float32: width and height, 0 for padding."""
    offset: Tensor
    """(B, 2, N) float32: x and y of the centre within its cell, in [0, 1], 0 for padding."""

    @property
    def heatmaps(self) -> dict[str, HeatmapObjects]:
        """Return what should be found in each heatmap of the network."""
        return {"heatmap": HeatmapObjects(self.cell, self.radius, self.label)}


def detection_targets(boxes: Tensor, labels: Tensor, size: tuple[int, int], stride: int = 4) -> DetectionTargets:
    """Return CenterNet's targets of boxes.

    boxes: (B, N, 4) float32, x1, y1, x2, y2 in input pixels, inside the input and of positive size. labels: (B, N)
    int64 class index, -1 for padding. size: (h, w) of the output. stride: input pixels per cell.
    Source: Zhou et al., "Objects as Points", 2019, section 3.
    """
    real = labels >= 0
    centres = centres_of(torch.where(real[..., None], boxes, 0) / stride, size)
    return DetectionTargets(
        cell=centres.cell,
        radius=centres.radius,
        index=flat_cells(centres.cell, real, size),
        label=labels,
        size=centres.extent.transpose(1, 2),
        offset=centres.offset.transpose(1, 2),
    )


class DetectionCriterion(Criterion[DetectionTargets]):
    """Focal loss of the heatmap, L1 of the offset, and the size's mixture NLL (or L1 for the base)."""

    def __init__(self, regression: Regression, weights: OptimizerConfig | LossWeights) -> None:
        """regression: the network's, of box sizes. weights: of the losses."""
        super().__init__(
            regression,
            {
                "heatmap": weights.heatmap_weight,
                "offset": weights.offset_weight,
                regression.loss_name: weights.size_weight,
            },
            weights.mixture_stacks,
            weights.choice_weight,
        )

    def regression_at(self, output: Mapping[str, Tensor], targets: DetectionTargets) -> tuple[Tensor, ...]:
        points = {name: read_points(output[name], targets.index) for name in self.regression.channels}
        return self.regression.read(points, targets.label)

    def truth(self, targets: DetectionTargets) -> Truth:
        return Truth(targets.size, (targets.index >= 0)[:, None], None)

    def _one_stack(self, output: Mapping[str, Tensor], targets: DetectionTargets) -> dict[str, Tensor]:
        observed = (targets.index >= 0)[:, None]
        return {
            "heatmap": targets.heatmaps["heatmap"].focal_loss(output["heatmap"]),
            "offset": mean_absolute_error(read_points(output["offset"], targets.index), targets.offset, observed),
        }

    def _counts(self, targets: DetectionTargets) -> dict[str, Tensor]:
        observed = (targets.index >= 0)[:, None]
        return {
            "heatmap": targets.heatmaps["heatmap"].count_centres(),
            "offset": observed.sum(),
            self.regression.loss_name: self.regression.count(observed),
        }


class DetectionTask(Task):
    """Boxes of any categories."""

    name = "detection"
    min_scale = 1.0
    coco_annotations = "instances"
    metrics = (
        *("AP", "AP50", "AP75", "APsmall", "APmedium", "APlarge"),
        *("AR1", "AR10", "AR100", "ARsmall", "ARmedium", "ARlarge"),
    )

    def build_model(self, config: ModelConfig) -> Network:
        return build_model(
            config.arch,
            num_classes=len(self.categories),
            **self.model_options(config),
        )

    def criterion(self, model: Network, weights: OptimizerConfig | LossWeights) -> DetectionCriterion:
        return DetectionCriterion(model.regression, weights)

    def sample(self, objects: SeenObjects) -> ObjectSample:
        """Return the boxes' sizes; they are alike by the logarithms of their sides."""
        extent = (objects.boxes[:, 2:] - objects.boxes[:, :2]) * objects.cells[:, None]
        known = torch.ones(extent.shape, dtype=torch.bool)
        return ObjectSample(
            target=torch.from_numpy(extent),
            observed=known,
            label=torch.from_numpy(objects.labels),
            feature=torch.from_numpy(np.log(extent)),
            feature_observed=known,
        )

    def targets(self, batch: dict[str, Tensor], size: tuple[int, int], stride: int) -> DetectionTargets:
        return detection_targets(batch["boxes"], batch["labels"], size, stride)

    def outputs(self, model: nn.Module, images: Tensor, targets: DetectionTargets) -> list[dict[str, Tensor]]:
        outputs: list[dict[str, Tensor]] = model(images, targets.index)
        return outputs

    def predict(self, model: Detector, images: Tensor, config: InferenceConfig) -> Detections:
        return model.predict(images, **predict_options(config))

    def predict_each(self, model: Detector, images: Tensor, config: InferenceConfig) -> list[Detections]:
        return model.predict_each(images, **predict_each_options(config))

    def rows(self, found: Detections, image_size: tuple[int, int]) -> list[int]:
        return [row for row, _ in _boxes_inside(found, image_size)]

    def results(self, found: Detections, image_size: tuple[int, int]) -> list[dict[str, Any]]:
        """Return category_id, bbox (x, y, width, height), score, component, its weight, and sigma of width and height.

        A box of which nothing is inside the image is left out.
        """
        return [
            {
                "category_id": self.categories[int(found.label[row])].id,
                "bbox": box,
                "score": float(found.score[row]),
                "component": int(found.component[row]),
                "weight": round(float(found.weight[row]), 3),
                "sigma": rounded(found.sigma[row]),
            }
            for row, box in _boxes_inside(found, image_size)
        ]

    def picture(
        self,
        image: Image.Image,
        entries: Sequence[dict[str, Any]],
        *,
        truth: bool = False,
        ellipse_score: float = 0.5,
        **options: Any,
    ) -> Image.Image:
        class_of = {category.id: index for index, category in enumerate(self.categories)}
        return draw_detections(
            image,
            corners_of(entries),
            [class_of[one["category_id"]] for one in entries],
            None if truth else [one["score"] for one in entries],
            None if truth else [one["component"] for one in entries],
            [category.name for category in self.categories],
            **options,
        )

    def score(self, annotations: CocoAnnotations, results: Sequence[dict[str, Any]]) -> Score:
        areas = [entry["bbox"][2] * entry["bbox"][3] for entry in results]
        return score_results(annotations, results, areas, kind="bbox", metrics=self.metrics)


def _boxes_inside(found: Detections, image_size: tuple[int, int]) -> list[tuple[int, list[float]]]:
    """Return the row and what is inside the image of each box that is not wholly outside."""
    return [(row, box) for row, box in clipped_boxes(found, image_size) if min(box[2:]) > 0]


TASK = DetectionTask
