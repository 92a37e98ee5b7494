"""Human pose: CenterNet with a mixture over whole poses in place of one set of keypoint offsets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mdnkernels import Family, Peaks
from mdnkernels.models.decode import boxes, cell_corner, find_peaks_of_views, merge_views
from mdnkernels.models.heads import CENTRES, KEYPOINTS, HeadConfig, heatmap_head
from mdnkernels.models.network import Backbone, Network
from mdnkernels.models.reading import DenseReader, Reader
from mdnkernels.models.regression import MIN_SCALE, Flip, Mode, Regression, at_least_float32, make_regression
from mdnkernels.models.skeleton import COCO_PERSON, Skeleton

# CenterNet's rule for taking a heatmap's peak in place of the regressed keypoint.
MIN_KEYPOINT_SCORE = 0.1
MAX_DISTANCE = 0.3  # of the larger side of the person's box


class Poses(NamedTuple):
    """Holds people in order of descending score, with J keypoints each.

    Where there are fewer than k, the rest is padding.
    """

    box: Tensor  # (B, k, 4) x1 y1 x2 y2 in input pixels; 0 for padding
    score: Tensor  # (B, k) of the centre; 0 for padding
    label: Tensor  # (B, k) int64: 0, the one class; -1 for padding
    component: Tensor  # (B, k) int64 mixture component; -1 for padding and the single-mode base
    weight: Tensor  # (B, k) mixing weight of that component; 1 for the base, 0 for padding
    keypoints: Tensor  # (B, k, J, 2) x and y in input pixels; 0 for padding
    sigma: Tensor  # (B, k, J, 2) standard deviations of x and y in input pixels; 0 for padding and the base
    keypoint_score: Tensor  # (B, k, J) of the heatmap's peak that a keypoint was moved to; 0 where it is as regressed


def pose_regression(
    skeleton: Skeleton, components: int, *, family: str | Family = "gaussian", min_scale: float = MIN_SCALE
) -> Regression:
    """Return the regression of the skeleton's keypoints, x and y in turn, from a person's centre.

    The other arguments and the errors are those of `make_regression`.
    """
    return make_regression(
        "pose", 2 * len(skeleton.names), components, head="keypoints", family=family, min_scale=min_scale
    )


class PoseEstimator(Network):
    """Estimates poses: a backbone with heads for the centres, boxes and keypoints of people.

    regression: of `pose_regression`, for the same skeleton. Raises ValueError for another one.
    """

    num_classes = 1
    kappa: Tensor
    """(J,) each keypoint's constant of OKS."""
    mirrored: Tensor
    """(J,) int64: the keypoint that each one is in a mirror image."""

    def __init__(
        self, backbone: Backbone, head_width: int, regression: Regression, *, skeleton: Skeleton = COCO_PERSON
    ) -> None:
        joints = len(skeleton.names)
        if regression.dims != 2 * joints or regression.classes != 1:
            raise ValueError(
                f"a pose of {joints} keypoints has {2 * joints} dimensions and one class, not {regression}"
            )
        heads = [
            heatmap_head("heatmap", 1),
            HeadConfig("offset", 2),
            HeadConfig("size", 2),
            *regression.heads,
            heatmap_head("keypoint_heatmap", joints),
            HeadConfig("keypoint_offset", 2, positions=KEYPOINTS),
        ]
        super().__init__(backbone, heads, head_width, regression)
        self.skeleton = skeleton
        # On the device with the weights: a copy from the host for each batch would wait for the device.
        self.register_buffer("kappa", torch.tensor(skeleton.sigmas), persistent=False)
        self.register_buffer("mirrored", torch.tensor(skeleton.mirrored), persistent=False)

    def forward(
        self, images: Tensor, index: Tensor | None = None, keypoint_index: Tensor | None = None
    ) -> list[dict[str, Tensor]]:
        """Return the outputs of every stack, for training and for looking at maps.

        images: (B, 3, H, W), normalised, H and W multiples of `divisor`. With h = H / 4, w = W / 4 and J keypoints,
        each dict holds "heatmap" (B, 1, h, w) and "keypoint_heatmap" (B, J, h, w), logits; "offset", "size" and
        "keypoint_offset" (B, 2, h, w); and "keypoints" (B, 2J, h, w) for the base, or "logits" (B, M, h, w), "loc" (B,
        2JM, h, w), "scale" (B, 2M, h, w) for M components; x and y in turn, in output cells, keypoints as seen from the
        cell's own corner.
        index: (B, N) int64 flat cells of people's centres, -1 padding. All but the two heatmaps and "keypoint_offset"
        is then evaluated there alone, as (B, ., N). keypoint_index: (B, K) likewise, for "keypoint_offset". Values and
        gradients are those of the maps at these cells; what stands at padding must not be counted.
        """
        positions = {CENTRES: index, KEYPOINTS: keypoint_index}
        return self.evaluate(images, {name: cells for name, cells in positions.items() if cells is not None})

    @torch.no_grad()
    def predict(
        self,
        images: Tensor,
        *,
        k: int = 100,
        select: str = "weight",
        components: Sequence[int] | None = None,
        flip: Flip | None = None,
        refine: bool = True,
    ) -> Poses:
        """Return the k best people of each image, in pixels of the input, from the last stack with sparse heads.

        select, components, flip: as in `Detector.predict`. A mirror image's left and right keypoints change places.
        refine: move a regressed keypoint to the nearest peak of its heatmap that scores more than 0.1, where that lies
        inside the box and no farther than 0.3 of its larger side.
        """
        self.regression.check_flip(flip, select)
        (found,) = self._decode(self.read(images, flip), k, select, [components], flip, refine)
        return found

    @torch.no_grad()
    def predict_each(
        self,
        images: Tensor,
        *,
        k: int = 100,
        select: str = "weight",
        flip: Flip | None = None,
        refine: bool = True,
    ) -> list[Poses]:
        """Return what `predict` gives, and then what it gives with each of the M components alone: M + 1 results.

        The network runs once. All results have the same people, with the same scores, in the same order. The arguments
        are those of `predict`; of the base there is one result.
        """
        self.regression.check_flip(flip, select)
        return self._decode(self.read(images, flip), k, select, self.regression.choices(), flip, refine)

    def decode(
        self,
        outputs: Mapping[str, Tensor],
        *,
        k: int = 100,
        select: str = "weight",
        components: Sequence[int] | None = None,
        refine: bool = True,
    ) -> Poses:
        """Return what `predict` does from the dense maps of one stack, an entry of `forward` without index."""
        (found,) = self._decode(DenseReader(self.head_groups[-1], outputs), k, select, [components], None, refine)
        return found

    def _decode(
        self,
        reader: Reader,
        k: int,
        select: str,
        choices: Sequence[Sequence[int] | None],
        flip: Flip | None,
        refine: bool,
    ) -> list[Poses]:
        """Return a result for each choice of components."""
        heatmaps = reader.maps("heatmap")
        map_width = heatmaps[0].shape[3]
        peaks = find_peaks_of_views(heatmaps, k)
        views = reader.at(CENTRES, peaks.index)
        values = [self.regression.read(view) for view in views]
        size = torch.stack([at_least_float32(view["size"]) for view in views]).mean(0)
        box = boxes(peaks, views[0]["offset"], size, map_width=map_width, stride=self.stride)

        corner = cell_corner(peaks.index, map_width)
        near = self._keypoint_peaks(reader, k) if refine else None
        found = []
        for components in choices:
            modes = [self.regression.mode(of_view, select=select, components=components) for of_view in values]
            if flip is not None:
                modes[1] = modes[1]._replace(loc=self._turned_back(modes[1].loc))
            pose = merge_views(modes, flip)
            # (B, k, J, 2) from (B, 2J, k)
            keypoints = corner.transpose(1, 2)[:, :, None] + pose.loc.unflatten(1, (-1, 2)).permute(0, 3, 1, 2)
            score = torch.zeros_like(keypoints[..., 0])
            if near is not None:
                keypoints, score = move_to_peaks(keypoints, box / self.stride, *near)
            sigma = pose.scale.transpose(1, 2)[:, :, None] * self.kappa.to(pose.scale.dtype)[:, None]
            found.append(_poses(peaks, box, pose, keypoints * self.stride, sigma * self.stride, score))
        return found

    def _turned_back(self, loc: Tensor) -> Tensor:
        """Return the offsets (B, 2J, k) from cells' corners that a mirror image shows as they are in the image.

        The corner is a cell's left border, whose mirror image is the mirrored cell's right border, one cell further on.
        """
        x, y = loc[:, 0::2], loc[:, 1::2]
        return torch.stack((1 - x[:, self.mirrored], y[:, self.mirrored]), 2).flatten(1, 2)

    def _keypoint_peaks(self, reader: Reader, k: int) -> tuple[Tensor, Tensor]:
        """Return the places (B, J, K, 2), in cells, and the scores (B, J, K) of each keypoint's K best peaks."""
        views = reader.maps("keypoint_heatmap")
        batch, joints, height, width = views[0].shape
        # Each keypoint's k best peaks: its heatmap as an image of one class.
        peaks = find_peaks_of_joints(views, min(k, height * width), self.mirrored)
        (own,) = reader.at(KEYPOINTS, peaks.index.reshape(batch, -1), first_only=True)
        offset = own["keypoint_offset"]
        place = cell_corner(peaks.index, width) + at_least_float32(offset).unflatten(2, (joints, -1)).transpose(1, 2)
        return place.transpose(2, 3), peaks.score


def move_to_peaks(keypoints: Tensor, box: Tensor, place: Tensor, peak_score: Tensor) -> tuple[Tensor, Tensor]:
    """Return moved keypoints (B, N, J, 2) and the scores (B, N, J) of the peaks that they moved to, 0 where they stay.

    keypoints: (B, N, J, 2) as regressed. box: (B, N, 4). place, peak_score: (B, J, K, 2) and (B, J, K), each keypoint's
    peaks. All places are in cells.
    """
    usable = peak_score > MIN_KEYPOINT_SCORE
    regressed = keypoints.transpose(1, 2)  # (B, J, N, 2)
    x, y = (regressed[:, :, :, None] - place[:, :, None]).unbind(4)
    distance = (x * x + y * y).sqrt()  # ONNX has no hypot
    distance = torch.where(usable[:, :, None], distance, torch.inf)
    nearest, chosen = distance.min(dim=3)  # (B, J, N)
    target = place.gather(2, chosen[..., None].expand(-1, -1, -1, 2))
    low, high = box[:, None, :, :2], box[:, None, :, 2:]
    inside = ((target >= low) & (target <= high)).all(3)
    moved = inside & (nearest <= MAX_DISTANCE * (high - low).amax(3))
    score = torch.where(moved, peak_score.gather(2, chosen), 0)
    return torch.where(moved[..., None], target, regressed).transpose(1, 2), score.transpose(1, 2)


def find_peaks_of_joints(views: Sequence[Tensor], k: int, mirrored: Tensor) -> Peaks:
    """Return the k best peaks (B, J, k) of each keypoint's heatmap logits in its views (B, J, h, w).

    mirrored: (J,) int64, the keypoint that each one is in the second view.
    """
    batch, joints = views[0].shape[:2]
    alone = [views[0].reshape(batch * joints, 1, *views[0].shape[2:])]
    if len(views) == 2:
        alone.append(views[1][:, mirrored].reshape_as(alone[0]))
    peaks = find_peaks_of_views(alone, k)
    return Peaks(*(values.view(batch, joints, -1) for values in peaks))


def _poses(peaks: Peaks, box: Tensor, pose: Mode, keypoints: Tensor, sigma: Tensor, keypoint_score: Tensor) -> Poses:
    """Return the poses; padding gets its values here."""
    found = peaks.label >= 0
    return Poses(
        box=box,
        score=torch.where(found, peaks.score, 0),
        label=peaks.label,
        component=torch.where(found, pose.component, -1),
        weight=torch.where(found, pose.weight, 0),
        keypoints=torch.where(found[..., None, None], keypoints, 0),
        sigma=torch.where(found[..., None, None], sigma, 0),
        keypoint_score=torch.where(found[..., None], keypoint_score, 0),
    )
