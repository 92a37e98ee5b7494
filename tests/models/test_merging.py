"""Moving predictions into common coordinates, and joining several scales by soft-NMS."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mdnkernels.models import COCO_PERSON, Detections, Poses, merge_scales, placed
from mdnkernels.models.merging import soft_nms
from tests.models.networks import BOTH_TASKS, assert_close, awake
from tests.models.reference import decode_detection, decode_pose


def random_detections(count: int, padding: int, seed: int, batch: int = 2, classes: int = 3) -> Detections:
    generator = torch.Generator().manual_seed(seed)
    corner = 60 * torch.rand(batch, count, 2, generator=generator)
    box = torch.cat((corner, corner + 5 + 40 * torch.rand(batch, count, 2, generator=generator)), -1)
    score = torch.rand(batch, count, generator=generator).sort(1, descending=True).values
    label = torch.randint(classes, (batch, count), generator=generator)
    component = torch.randint(4, (batch, count), generator=generator)
    found = Detections(box, score, label, component, score / 2, box[..., 2:] / 10)
    values = [value.clone() for value in found]
    for value, empty in zip(values, (0, 0, -1, -1, 0, 0), strict=True):
        value[:, count - padding :] = empty
    return Detections(*values)


def iou(one: list[float], other: list[float]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    area = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(area) - width * height)


def soft_nms_by_class(found: Detections, image: int, sigma: float = 0.5) -> list[tuple[float, int]]:
    """Return score and row of each real box as Bodla et al. write it down: one list of boxes for each class."""
    result = []
    for label in set(found.label[image].tolist()) - {-1}:
        rows = [row for row in range(found.label.shape[1]) if found.label[image, row] == label]
        scores = {row: found.score[image, row].item() for row in rows}
        while scores:
            best = max(scores, key=scores.__getitem__)
            result.append((scores.pop(best), best))
            for row in scores:
                overlap = iou(found.box[image, best].tolist(), found.box[image, row].tolist())
                scores[row] *= math.exp(-(overlap**2) / sigma)
    return sorted(result, reverse=True)


@pytest.mark.parametrize("k", [1, 10, 37, 50])
def test_soft_nms_is_the_papers_loop_over_the_boxes_of_each_class(k: int) -> None:
    found = random_detections(37, padding=5, seed=1)
    chosen, score = soft_nms(found.box, found.score, found.label, k)
    assert chosen.shape == score.shape == (2, min(k, 37))
    for image in range(2):
        expected = soft_nms_by_class(found, image)[:k]
        assert len(expected) == min(k, 32)
        assert chosen[image, : len(expected)].tolist() == [row for _, row in expected]
        torch.testing.assert_close(score[image, : len(expected)], torch.tensor([value for value, _ in expected]))
        rest = chosen[image, len(expected) :]
        assert (found.label[image, rest] == -1).all()
        assert (score[image, len(expected) :] == 0).all()


def test_a_box_of_no_area_hides_nothing_and_makes_no_nan() -> None:
    box = torch.tensor([[[3.0, 3, 3, 3], [3, 3, 3, 3], [0, 0, 8, 8]]])
    chosen, score = soft_nms(box, torch.tensor([[0.9, 0.8, 0.7]]), torch.zeros(1, 3, dtype=torch.int64), 3)
    assert chosen.tolist() == [[0, 1, 2]]
    torch.testing.assert_close(score, torch.tensor([[0.9, 0.8, 0.7]]))


def test_merging_takes_everything_of_a_box_along() -> None:
    parts = [random_detections(9, padding=2, seed=seed) for seed in (1, 2, 3)]
    merged = merge_scales(parts, 12)
    assert merged.score.shape == (2, 12)
    assert (merged.score.diff(dim=1) <= 0).all()
    for image in range(2):
        everything = {
            tuple(part.box[image, row].tolist()): [value[image, row] for value in part]
            for part in parts
            for row in range(9)
        }
        for row in range(12):
            origin = everything[tuple(merged.box[image, row].tolist())]
            for name, value in zip(Detections._fields, origin, strict=True):
                if name != "score":
                    assert torch.equal(getattr(merged, name)[image, row], value), name
            assert merged.score[image, row] <= origin[1]


def test_one_scale_stays_as_it_is_and_none_is_an_error() -> None:
    found = random_detections(9, padding=2, seed=1)
    assert merge_scales([found], 3) is found
    with pytest.raises(ValueError, match="found is empty"):
        merge_scales([], 3)


def turning(angle: float, scale: float, shift: tuple[float, float], mirror: bool = False) -> list[list[float]]:
    c, s = scale * math.cos(angle), scale * math.sin(angle)
    return [[-c if mirror else c, -s, shift[0]], [-s if mirror else s, c, shift[1]]]


def test_a_box_is_placed_around_its_turned_corners() -> None:
    found = random_detections(6, padding=1, seed=3)
    transform = torch.tensor([turning(0, 2.5, (7, -3)), turning(0.4, 0.5, (1, 2), mirror=True)])
    moved = placed(found, transform.double())
    for image in range(2):
        for row in range(5):
            x1, y1, x2, y2 = found.box[image, row].tolist()
            corners = torch.tensor([[x, y, 1.0] for x in (x1, x2) for y in (y1, y2)]) @ transform[image].T
            expected = torch.cat((corners.min(0).values, corners.max(0).values))
            torch.testing.assert_close(moved.box[image, row], expected)
            torch.testing.assert_close(moved.sigma[image, row], transform[image, :, :2].abs() @ found.sigma[image, row])
    assert (moved.box[:, 5] == 0).all()
    assert (moved.sigma[:, 5] == 0).all()
    assert torch.equal(moved.score, found.score)
    assert torch.equal(moved.component, found.component)


def test_keypoints_are_placed_as_points() -> None:
    found = random_detections(4, padding=1, seed=4)
    keypoints = 50 * torch.rand(2, 4, 5, 2)
    keypoints[:, 3] = 0
    poses = Poses(*found[:5], keypoints, keypoints / 7, keypoints[..., 0] / 50)
    transform = torch.tensor([turning(0, 3, (7, -3), mirror=True), turning(1.2, 0.5, (1, 2))])
    moved = placed(poses, transform)
    for image in range(2):
        for row in range(3):
            for joint in range(5):
                point = torch.cat((keypoints[image, row, joint], torch.ones(1)))
                torch.testing.assert_close(moved.keypoints[image, row, joint], transform[image] @ point)
                spread = transform[image, :, :2].abs() @ poses.sigma[image, row, joint]
                torch.testing.assert_close(moved.sigma[image, row, joint], spread)
    assert (moved.keypoints[:, 3] == 0).all()
    assert torch.equal(moved.keypoint_score, poses.keypoint_score)


@pytest.mark.parametrize("task", BOTH_TASKS)
@pytest.mark.parametrize(("flip", "allowed"), [(None, None), (None, [1]), ("average", None), ("stronger", [1, 2])])
def test_scales_through_sparse_heads_are_what_loops_over_dense_maps_find(
    task: str, flip: str | None, allowed: list[int] | None, images: Tensor
) -> None:
    model = awake("hourglass_small", task, 3).eval()
    sparse, loops = [], []
    for height, width in ((64, 96), (96, 160)):
        view = F.interpolate(images[:2].double(), (height, width), mode="bilinear")
        to_image = torch.tensor([[96 / width, 0, 0], [0, 64 / height, 0]]).expand(2, 2, 3)
        sparse.append(placed(model.predict(view, k=10, flip=flip, components=allowed), to_image))
        with torch.no_grad():
            (maps,), (mirrored,) = model(view), model(view.flip(3))
        given = {"k": 10, "flip": flip, "allowed": allowed} | ({"skeleton": COCO_PERSON} if task == "pose" else {})
        decode = decode_pose if task == "pose" else decode_detection
        loops.append(placed(decode(maps, mirrored if flip else None, **given), to_image))
    merged = merge_scales(sparse, 15)
    assert (merged.label >= 0).all()
    assert (merged.score < torch.cat([one.score for one in sparse], 1)[:, :15]).any()
    assert_close(merged, merge_scales(loops, 15), 1e-4)
