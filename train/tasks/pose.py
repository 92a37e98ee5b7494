"""Pose estimation: objects of one category, with the keypoints of a skeleton."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mdnkernels.models import COCO_PERSON, Network, PoseEstimator, Poses, Skeleton, build_model
from mdnkernels.models.regression import Regression, mean_absolute_error
from mdnkernels.models.start import ObjectSample
from mdnkernels.train.data.coco import CocoAnnotations
from mdnkernels.train.data.skeletons import SkeletonInFile
from mdnkernels.train.drawing.poses import draw_poses
from mdnkernels.train.tasks.base import Task, predict_each_options, predict_options
from mdnkernels.train.tasks.criterion import Criterion, Truth, read_points
from mdnkernels.train.tasks.entries import clipped_boxes, corners_of, rounded
from mdnkernels.train.tasks.score import Score, score_results
from mdnkernels.train.tasks.targets import HeatmapObjects, centres_of, flat_cells
from mdnkernels.train.tasks.weights import LossWeights

if TYPE_CHECKING:  # what a network is trained with needs no library of the command line
    from mdnkernels.train.config.options import InferenceConfig, ModelConfig, OptimizerConfig
    from mdnkernels.train.tasks.start import SeenObjects


class PoseTargets(NamedTuple):
    """Targets in output cells, for B images, N people at most in each and J keypoints."""

    cell: Tensor
    """(B, N, 2) int64: x and y of the cell of each person's centre."""
    radius: Tensor
    """(B, N) int64: how far the Gaussians at the person's centre and keypoints reach, in cells."""
    label: Tensor
    """(B, N) int64: 0, -1 for padding."""
    index: Tensor  # type: ignore[assignment]  # the field's name, though tuple has a method of that name
    """(B, N) int64: flat cell of each person's centre, -1 for padding and for people without keypoints."""
    size: Tensor
    """(B, 2, N) float32: width and height of the box, 0 for padding."""
    offset: Tensor
    """(B, 2, N) float32: x and y of the centre within its cell, 0 for padding."""
    keypoints: Tensor
    """(B, 2J, N) float32: x and y in turn, from the centre's cell's corner; 0 where not observed."""
    observed: Tensor
    """(B, J, N) bool: labelled, hidden or not, and inside the input."""
    keypoint_cell: Tensor
    """(B, N * J, 2) int64: x and y of the cell of each keypoint, 0 where not observed."""
    keypoint_index: Tensor
    """(B, N * J) int64: flat cell of each keypoint, -1 where not observed."""
    keypoint_offset: Tensor
    """(B, 2, N * J) float32: x and y within that cell, 0 where not observed."""

    @property
    def heatmaps(self) -> dict[str, HeatmapObjects]:
        """Return what should be found in each heatmap of the network, one of people and J of keypoints."""
        joints = self.observed.shape[1]
        joint = torch.arange(joints, device=self.observed.device)
        observed = self.observed.transpose(1, 2)
        return {
            "heatmap": HeatmapObjects(self.cell, self.radius, self.label, ignore=(self.label >= 0) & (self.index < 0)),
            "keypoint_heatmap": HeatmapObjects(
                self.keypoint_cell,
                self.radius[:, :, None].expand_as(observed).flatten(1),
                torch.where(observed, joint, -1).flatten(1),
            ),
        }


def pose_targets(
    boxes: Tensor, labels: Tensor, keypoints: Tensor, size: tuple[int, int], stride: int = 4
) -> PoseTargets:
    """Return CenterNet's targets of people.

    boxes, labels, size, stride: as in `detection_targets`, with the one class 0. keypoints: (B, N, J, 3) float32, x and
    y in input pixels, and 0 where not labelled. Someone of whom nothing is labelled is neither a centre to find nor
    background: the centre's cell is taken out of the focal loss and the Gaussian around it lowers its neighbours'
    weight, as CenterNet means to (its code then draws a whole Gaussian over it). A keypoint outside the input is not
    observed, and stays out of everything.
    Source: Zhou et al., "Objects as Points", 2019, section 4.2, and its code.
    """
    height, width = size
    real = labels >= 0
    centres = centres_of(torch.where(real[..., None], boxes, 0) / stride, size)
    labelled = (keypoints[..., 2] > 0) & real[..., None]  # (B, N, J)
    known = labelled.any(2)

    points = keypoints[..., :2] / stride
    observed = labelled & (points >= 0).all(3) & (points[..., 0] < width) & (points[..., 1] < height)
    points = torch.where(observed[..., None], points, 0)
    cell = points.long()
    from_centre = torch.where(observed[..., None], points - centres.cell[:, :, None], 0)
    return PoseTargets(
        cell=centres.cell,
        radius=centres.radius,
        label=labels,
        index=flat_cells(centres.cell, known, size),
        size=centres.extent.transpose(1, 2),
        offset=centres.offset.transpose(1, 2),
        keypoints=from_centre.flatten(2).transpose(1, 2),
        observed=observed.transpose(1, 2),
        keypoint_cell=cell.flatten(1, 2),
        keypoint_index=flat_cells(cell, observed, size).flatten(1),
        keypoint_offset=(points - cell).flatten(1, 2).transpose(1, 2),
    )


# Of the pose loss: the mixture's negative log-likelihood, or the base's L1.
PUBLISHED_WEIGHTS = {"mixture": 0.1, "pose": 1.0}


class PoseCriterion(Criterion[PoseTargets]):
    """Focal losses of centres and keypoints, L1 of their offsets and of the box, and the pose's mixture NLL or L1."""

    dim_scale: Tensor

    def __init__(self, regression: Regression, weights: OptimizerConfig | LossWeights, skeleton: Skeleton) -> None:
        """regression: the network's, of poses. weights: of the losses. skeleton: the network's."""
        own = weights.pose_weight
        super().__init__(
            regression,
            {
                "heatmap": weights.heatmap_weight,
                "offset": weights.offset_weight,
                "size": weights.size_weight,
                regression.loss_name: PUBLISHED_WEIGHTS[regression.loss_name] if own is None else own,
                "keypoint_heatmap": weights.keypoint_weight,
                "keypoint_offset": weights.keypoint_weight,
            },
            weights.mixture_stacks,
            weights.choice_weight,
        )
        kappa = torch.tensor(skeleton.sigmas).repeat_interleave(2)
        self.register_buffer("dim_scale", kappa, persistent=False)

    def regression_at(self, output: Mapping[str, Tensor], targets: PoseTargets) -> tuple[Tensor, ...]:
        return self.regression.read(
            {name: read_points(output[name], targets.index) for name in self.regression.channels}
        )

    def truth(self, targets: PoseTargets) -> Truth:
        return Truth(targets.keypoints, targets.observed, self.dim_scale)

    def _one_stack(self, output: Mapping[str, Tensor], targets: PoseTargets) -> dict[str, Tensor]:
        person = (targets.index >= 0)[:, None]
        keypoint = (targets.keypoint_index >= 0)[:, None]
        heatmaps = targets.heatmaps
        return {
            "heatmap": heatmaps["heatmap"].focal_loss(output["heatmap"]),
            "offset": mean_absolute_error(read_points(output["offset"], targets.index), targets.offset, person),
            "size": mean_absolute_error(read_points(output["size"], targets.index), targets.size, person),
            "keypoint_heatmap": heatmaps["keypoint_heatmap"].focal_loss(output["keypoint_heatmap"]),
            "keypoint_offset": mean_absolute_error(
                read_points(output["keypoint_offset"], targets.keypoint_index), targets.keypoint_offset, keypoint
            ),
        }

    def _counts(self, targets: PoseTargets) -> dict[str, Tensor]:
        people = (targets.index >= 0).sum()
        heatmaps = targets.heatmaps
        return {
            "heatmap": heatmaps["heatmap"].count_centres(),
            "offset": people,
            "size": people,
            self.regression.loss_name: self.regression.count(targets.observed),
            "keypoint_heatmap": heatmaps["keypoint_heatmap"].count_centres(),
            "keypoint_offset": (targets.keypoint_index >= 0).sum(),
        }


class PoseTask(Task):
    """People, or whatever the one category is, with the keypoints of a skeleton."""

    name = "pose"
    # A keypoint's sigma is multiplied by its constant of OKS, 0.025 to 0.107, so that it spreads over cells too.
    min_scale = 9.0
    coco_annotations = "person_keypoints"
    metrics = (
        *("AP", "AP50", "AP75", "APmedium", "APlarge"),
        *("AR", "AR50", "AR75", "ARmedium", "ARlarge"),
    )
    one_category = True
    skeleton: Skeleton = COCO_PERSON

    @classmethod
    def skeleton_to_read(cls, sigmas: tuple[float, ...] | None) -> SkeletonInFile:
        return SkeletonInFile(sigmas)

    def build_model(self, config: ModelConfig) -> Network:
        return build_model(
            config.arch,
            task="pose",
            skeleton=self.skeleton,
            **self.model_options(config),
        )

    def criterion(self, model: Network, weights: OptimizerConfig | LossWeights) -> PoseCriterion:
        return PoseCriterion(model.regression, weights, self.skeleton)

    def sample(self, objects: SeenObjects) -> ObjectSample:
        """Return the poses as seen from the corner of the centre's cell, which is half a cell away on average.

        Poses are alike by their shapes, whatever their sizes: by the keypoints' places in units of the box's size, the
        square root of its area.
        """
        centre = (objects.boxes[:, :2] + objects.boxes[:, 2:]) / 2
        away = objects.keypoints[..., :2] - centre[:, None]
        low, high = objects.boxes[:, None, :2], objects.boxes[:, None, 2:]
        known = objects.keypoints[..., 2] > 0
        ways = []
        for mirrored in objects.mirrored:
            columns = list(self.skeleton.mirrored) if mirrored else slice(None)
            ways.append((away[:, columns] * ((-1, 1) if mirrored else (1, 1)), known[:, columns]))
        place = np.concatenate([one for one, _ in ways])
        observed = np.concatenate([one for _, one in ways]).repeat(2, axis=1)
        cells = np.tile(objects.cells, len(ways))[:, None, None]
        size = np.sqrt(np.prod(high - low, axis=2))
        size = np.tile(size, (len(ways), 1))[:, :, None]
        return ObjectSample(
            target=torch.from_numpy(np.where(observed, (place * cells + 0.5).reshape(len(place), -1), 0)),
            observed=torch.from_numpy(observed),
            label=torch.zeros(len(place), dtype=torch.int64),
            feature=torch.from_numpy(np.where(observed, (place / size).reshape(len(place), -1), 0)),
            feature_observed=torch.from_numpy(observed),
            dim_scale=torch.tensor(self.skeleton.sigmas, dtype=torch.float64).repeat_interleave(2),
        )

    def targets(self, batch: dict[str, Tensor], size: tuple[int, int], stride: int) -> PoseTargets:
        return pose_targets(batch["boxes"], batch["labels"], batch["keypoints"], size, stride)

    def outputs(self, model: nn.Module, images: Tensor, targets: PoseTargets) -> list[dict[str, Tensor]]:
        outputs: list[dict[str, Tensor]] = model(images, targets.index, targets.keypoint_index)
        return outputs

    def predict(self, model: PoseEstimator, images: Tensor, config: InferenceConfig) -> Poses:
        return model.predict(images, **predict_options(config), refine=config.refine)

    def predict_each(self, model: PoseEstimator, images: Tensor, config: InferenceConfig) -> list[Poses]:
        return model.predict_each(images, **predict_each_options(config), refine=config.refine)

    def rows(self, found: Poses, image_size: tuple[int, int]) -> list[int]:
        return [row for row, _ in clipped_boxes(found, image_size)]

    def results(self, found: Poses, image_size: tuple[int, int]) -> list[dict[str, Any]]:
        """Return category_id, bbox (x, y, width, height), keypoints (x, y, 1 in turn), score, component, weight, sigma.

        weight is the component's. sigma is of x and y, before a keypoint's own constant. Keypoints may lie outside the
        image; a box of which nothing is inside has no width or height.
        """
        entries = []
        for row, box in clipped_boxes(found, image_size):
            points = torch.cat((found.keypoints[row], torch.ones_like(found.keypoints[row, :, :1])), 1)
            entries.append(
                {
                    "category_id": self.categories[0].id,
                    "bbox": box,
                    "keypoints": rounded(points.flatten()),
                    "score": float(found.score[row]),
                    "component": int(found.component[row]),
                    "weight": round(float(found.weight[row]), 3),
                    "sigma": rounded(found.sigma[row, 0] / self.skeleton.sigmas[0]),
                }
            )
        return entries

    def picture(
        self,
        image: Image.Image,
        entries: Sequence[dict[str, Any]],
        *,
        truth: bool = False,
        ellipse_score: float = 0.5,
        **options: Any,
    ) -> Image.Image:
        joints = len(self.skeleton.names)
        keypoints = np.array([one["keypoints"] for one in entries], dtype=np.float64).reshape(-1, joints, 3)
        if truth:
            return draw_poses(image, corners_of(entries), keypoints, None, None, None, self.skeleton, **options)
        sigmas = np.array([one["sigma"] for one in entries], dtype=np.float64).reshape(-1, 1, 2)
        return draw_poses(
            image,
            corners_of(entries),
            keypoints[..., :2],
            sigmas * np.array(self.skeleton.sigmas)[:, None],
            [one["score"] for one in entries],
            [one["component"] for one in entries],
            self.skeleton,
            ellipse_score=ellipse_score,
            **options,
        )

    def score(self, annotations: CocoAnnotations, results: Sequence[dict[str, Any]]) -> Score:
        areas = [_area(entry) for entry in results]
        return score_results(
            annotations, results, areas, kind="keypoints", metrics=self.metrics, skeleton=self.skeleton
        )


def _area(entry: dict[str, Any]) -> float:
    """Return the area of the box around all keypoints of a result, by which COCO sorts it into medium and large.

    One keypoint has none around it, and would take each wrong result out of both: it has the area of the result's box.
    """
    x, y = entry["keypoints"][0::3], entry["keypoints"][1::3]
    if len(x) == 1:
        return float(entry["bbox"][2] * entry["bbox"][3])
    return float((max(x) - min(x)) * (max(y) - min(y)))


TASK = PoseTask
