"""What detection and pose estimation do differently, from annotations to COCO's score, in one place each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from models import COCO_PERSON, Detections, Detector, Poses, Skeleton, build_model
from models.decode import Flip
from train.config.options import InferenceConfig, ModelConfig, OptimizerConfig, TaskName
from train.data.coco import Category, CocoAnnotations
from train.data.skeletons import SkeletonInFile
from train.data.transforms import clip_boxes
from train.drawing.pictures import draw_detections
from train.drawing.poses import draw_poses
from train.errors import ConfigError
from train.inference.score import Score, score_boxes, score_poses
from train.tasks.criterion import Criterion, DetectionCriterion, PoseCriterion
from train.tasks.targets import DetectionTargets, PoseTargets, detection_targets, pose_targets


class Task(ABC):
    """A task on data of given categories."""

    skeleton: Skeleton | None = None
    """What the annotations are to be read with."""

    def __init__(self, categories: Sequence[Category]) -> None:
        self.categories = tuple(categories)

    @abstractmethod
    def build_model(self, config: ModelConfig) -> Any:
        """The configured network with fresh weights. Raises ValueError where there is none."""

    @abstractmethod
    def criterion(self, model: ModelConfig, weights: OptimizerConfig) -> Criterion[Any]:
        """Its losses."""

    @abstractmethod
    def targets(self, batch: dict[str, Tensor], size: tuple[int, int], stride: int) -> Any:
        """What the network should say about a batch of `collate` on the device, in (h, w) cells of stride pixels."""

    @abstractmethod
    def outputs(self, model: torch.nn.Module, images: Tensor, targets: Any) -> list[dict[str, Tensor]]:
        """The network's outputs, its regression heads evaluated at the targets' cells alone."""

    @abstractmethod
    def predict(self, model: Any, images: Tensor, config: InferenceConfig) -> Any:
        """Detections or poses in the input's pixels."""

    @abstractmethod
    def results(self, found: Any, image_size: tuple[int, int]) -> list[dict[str, Any]]:
        """COCO's entries, without image_id, of one image of (width, height).

        found: (k, ...) tensors on the CPU in the image's pixels. Padding is left out.
        """

    @abstractmethod
    def picture(
        self, image: Image.Image, entries: Sequence[dict[str, Any]], *, truth: bool = False, **options: Any
    ) -> Image.Image:
        """The image with results drawn over it, coloured by component, or with annotations, all in a neutral colour.

        entries: the task's results, or with `truth` COCO's annotations. options: of `draw_detections`.
        """

    @abstractmethod
    def score(self, annotations: CocoAnnotations, results: Sequence[dict[str, Any]]) -> Score:
        """COCO's numbers for results with their image_id."""


class DetectionTask(Task):
    """Boxes of any categories."""

    def build_model(self, config: ModelConfig) -> Detector:
        return build_model(
            config.arch,
            num_classes=len(self.categories),
            components=config.components,
            class_specific=config.class_specific,
            min_scale=config.least_scale,
            activation_checkpointing=config.activation_checkpointing,
        )

    def criterion(self, model: ModelConfig, weights: OptimizerConfig) -> DetectionCriterion:
        return DetectionCriterion(model, weights)

    def targets(self, batch: dict[str, Tensor], size: tuple[int, int], stride: int) -> DetectionTargets:
        return detection_targets(batch["boxes"], batch["labels"], len(self.categories), size, stride)

    def outputs(self, model: torch.nn.Module, images: Tensor, targets: DetectionTargets) -> list[dict[str, Tensor]]:
        return model(images, targets.index)

    def predict(self, model: Detector, images: Tensor, config: InferenceConfig) -> Detections:
        return model.predict(images, **_options(config))

    def results(self, found: Detections, image_size: tuple[int, int]) -> list[dict[str, Any]]:
        """category_id, bbox (x, y, width, height), score; and component, sigma of width and height.

        A box of which nothing is inside the image is left out.
        """
        return [
            {
                "category_id": self.categories[int(found.label[row])].id,
                "bbox": box,
                "score": float(found.score[row]),
                "component": int(found.component[row]),
                "sigma": _rounded(found.sigma[row]),
            }
            for row, box in _clipped(found, image_size)
            if min(box[2:]) > 0
        ]

    def picture(
        self, image: Image.Image, entries: Sequence[dict[str, Any]], *, truth: bool = False, **options: Any
    ) -> Image.Image:
        class_of = {category.id: index for index, category in enumerate(self.categories)}
        return draw_detections(
            image,
            _corners(entries),
            [class_of[one["category_id"]] for one in entries],
            None if truth else [one["score"] for one in entries],
            None if truth else [one["component"] for one in entries],
            [category.name for category in self.categories],
            **options,
        )

    def score(self, annotations: CocoAnnotations, results: Sequence[dict[str, Any]]) -> Score:
        return score_boxes(annotations, results)


class PoseTask(Task):
    """People, or whatever the one category is, with the keypoints of a skeleton."""

    def __init__(self, categories: Sequence[Category], skeleton: Skeleton = COCO_PERSON) -> None:
        """Raises ConfigError for more categories than one."""
        super().__init__(categories)
        if len(self.categories) != 1:
            raise ConfigError(f"--task pose: needs data of one category, these have {len(self.categories)}")
        self.skeleton: Skeleton = skeleton

    def build_model(self, config: ModelConfig) -> Any:
        return build_model(
            config.arch,
            task="pose",
            components=config.components,
            class_specific=config.class_specific,
            skeleton=self.skeleton,
            min_scale=config.least_scale,
            activation_checkpointing=config.activation_checkpointing,
        )

    def criterion(self, model: ModelConfig, weights: OptimizerConfig) -> PoseCriterion:
        return PoseCriterion(model, weights, self.skeleton)

    def targets(self, batch: dict[str, Tensor], size: tuple[int, int], stride: int) -> PoseTargets:
        return pose_targets(batch["boxes"], batch["labels"], batch["keypoints"], size, stride)

    def outputs(self, model: torch.nn.Module, images: Tensor, targets: PoseTargets) -> list[dict[str, Tensor]]:
        return model(images, targets.index, targets.keypoint_index)

    def predict(self, model: Any, images: Tensor, config: InferenceConfig) -> Poses:
        return model.predict(images, **_options(config), refine=config.refine)

    def results(self, found: Poses, image_size: tuple[int, int]) -> list[dict[str, Any]]:
        """As for detection, and keypoints (x, y, 1 in turn); sigma is of x and y before a keypoint's own constant.

        Keypoints may lie outside the image; a box of which nothing is inside has no width or height.
        """
        entries = []
        for row, box in _clipped(found, image_size):
            points = torch.cat((found.keypoints[row], torch.ones_like(found.keypoints[row, :, :1])), 1)
            entries.append(
                {
                    "category_id": self.categories[0].id,
                    "bbox": box,
                    "keypoints": _rounded(points.flatten()),
                    "score": float(found.score[row]),
                    "component": int(found.component[row]),
                    "sigma": _rounded(found.sigma[row, 0] / self.skeleton.sigmas[0]),
                }
            )
        return entries

    def picture(
        self, image: Image.Image, entries: Sequence[dict[str, Any]], *, truth: bool = False, **options: Any
    ) -> Image.Image:
        joints = len(self.skeleton.names)
        keypoints = np.array([one["keypoints"] for one in entries], dtype=np.float64).reshape(-1, joints, 3)
        if truth:
            return draw_poses(image, _corners(entries), keypoints, None, None, None, self.skeleton, **options)
        sigmas = np.array([one["sigma"] for one in entries], dtype=np.float64).reshape(-1, 1, 2)
        return draw_poses(
            image,
            _corners(entries),
            keypoints[..., :2],
            sigmas * np.array(self.skeleton.sigmas)[:, None],
            [one["score"] for one in entries],
            [one["component"] for one in entries],
            self.skeleton,
            **options,
        )

    def score(self, annotations: CocoAnnotations, results: Sequence[dict[str, Any]]) -> Score:
        return score_poses(annotations, results, self.skeleton)


def make_task(name: TaskName, categories: Sequence[Category], skeleton: Skeleton | None = None) -> Task:
    """The named task; poses without a skeleton are of COCO's persons. Raises ConfigError where the data cannot be."""
    return PoseTask(categories, skeleton or COCO_PERSON) if name == "pose" else DetectionTask(categories)


def skeleton_to_read(name: TaskName, sigmas: tuple[float, ...] | None) -> SkeletonInFile | None:
    """What a task's annotations are to be read with, where they say the skeleton. sigmas: --keypoint-sigmas.

    Raises ConfigError for sigmas of a task without keypoints.
    """
    if name == "pose":
        return SkeletonInFile(sigmas)
    if sigmas is not None:
        raise ConfigError(f"--keypoint-sigmas: --task {name} has no keypoints; leave it out, or take --task pose")
    return None


def _options(config: InferenceConfig) -> dict[str, Any]:
    flip: Flip | None = "stronger" if config.flip_stronger else "average" if config.flip else None
    components = None if config.component is None else [config.component]
    return {"k": config.detections, "flip": flip, "components": components}


def _clipped(found: Detections | Poses, image_size: tuple[int, int]) -> list[tuple[int, list[float]]]:
    """Row and x, y, width, height of what the image's borders leave of each box; nothing of padding."""
    boxes = clip_boxes(found.box.double().numpy(), *image_size)
    sides = boxes[:, 2:] - boxes[:, :2]
    real = (found.label >= 0).nonzero().flatten().tolist()
    return [(row, _rounded(np.concatenate((boxes[row, :2], sides[row])))) for row in real]


def _corners(entries: Sequence[dict[str, Any]]) -> np.ndarray:
    """(N, 4) x1 y1 x2 y2 of COCO entries' boxes."""
    boxes = np.array([one["bbox"] for one in entries], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _rounded(values: Tensor | np.ndarray) -> list[float]:
    return [round(float(value), 3) for value in values]
