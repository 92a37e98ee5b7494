"""Targets for people against a loop over people and keypoints, in plain Python floats."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdnkernels.train.tasks.pose import pose_targets
from tests.train.tasks.test_targets import published_radius

SIZE = (12, 16)  # cells
JOINTS = 3
MAPS = {"heatmap": 1, "keypoint_heatmap": JOINTS}


def gaussian(heatmap: np.ndarray, column: int, row: int, radius: int, top: float = 1.0) -> None:
    """Draw a Gaussian into the heatmap by maximum, of which nothing exceeds `top`."""
    sigma = (2 * radius + 1) / 6
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            y, x = row + dy, column + dx
            if 0 <= y < heatmap.shape[0] and 0 <= x < heatmap.shape[1]:
                value = math.exp(-(dx * dx + dy * dy) / (2 * sigma * sigma))
                heatmap[y, x] = max(heatmap[y, x], min(value, top))


def loop_targets(boxes: np.ndarray, labels: np.ndarray, keypoints: np.ndarray) -> dict[str, np.ndarray]:
    """Return the targets of one image, computed person by person."""
    height, width = SIZE
    people = len(labels)
    expected = {
        "heatmap": np.zeros((1, height, width)),
        "index": np.full(people, -1),
        "keypoints": np.zeros((2 * JOINTS, people)),
        "observed": np.zeros((JOINTS, people), dtype=bool),
        "keypoint_heatmap": np.zeros((JOINTS, height, width)),
        "keypoint_index": np.full(people * JOINTS, -1),
        "keypoint_offset": np.zeros((2, people * JOINTS)),
    }
    for person in range(people):
        if labels[person] < 0:
            continue
        x1, y1, x2, y2 = (boxes[person].astype(np.float64) / 4).tolist()
        column, row = min(int((x1 + x2) / 2), width - 1), min(int((y1 + y2) / 2), height - 1)
        radius = int(published_radius(math.ceil(y2 - y1), math.ceil(x2 - x1)))
        labelled = [joint for joint in range(JOINTS) if keypoints[person, joint, 2] > 0]
        gaussian(expected["heatmap"][0], column, row, radius, 1.0 if labelled else 1 - 2**-24)
        if labelled:
            expected["index"][person] = row * width + column
        for joint in labelled:
            x, y = (keypoints[person, joint, :2].astype(np.float64) / 4).tolist()
            if not (0 <= x < width and 0 <= y < height):
                continue
            expected["observed"][joint, person] = True
            expected["keypoints"][2 * joint : 2 * joint + 2, person] = x - column, y - row
            gaussian(expected["keypoint_heatmap"][joint], int(x), int(y), radius)
            expected["keypoint_index"][person * JOINTS + joint] = int(y) * width + int(x)
            expected["keypoint_offset"][:, person * JOINTS + joint] = x - int(x), y - int(y)
    return expected


people = st.lists(
    st.tuples(
        st.integers(0, 1),  # padding or not
        st.tuples(*[st.integers(0, 4 * 10)] * 2),
        st.tuples(*[st.integers(4, 4 * 6)] * 2),
        st.lists(st.tuples(st.integers(-9, 80), st.integers(-9, 60), st.integers(0, 2)), min_size=3, max_size=3),
    ),
    min_size=1,
    max_size=4,
)


@settings(deadline=None, max_examples=60)
@given(st.lists(people, min_size=1, max_size=2))
def test_every_target_is_what_a_loop_over_people_gives(images: list[list[tuple]]) -> None:
    most = max(map(len, images))
    boxes, labels = np.zeros((len(images), most, 4), np.float32), np.full((len(images), most), -1)
    keypoints = np.zeros((len(images), most, JOINTS, 3), np.float32)
    for image, row in enumerate(images):
        for person, (real, corner, extent, points) in enumerate(row):
            x1, y1 = corner
            boxes[image, person] = x1, y1, min(x1 + extent[0], 64), min(y1 + extent[1], 48)
            labels[image, person] = real - 1
            keypoints[image, person] = points
    targets = pose_targets(torch.from_numpy(boxes), torch.from_numpy(labels), torch.from_numpy(keypoints), SIZE)
    drawn = {name: targets.heatmaps[name].draw(maps, SIZE) for name, maps in MAPS.items()}
    for name, heatmap in drawn.items():
        assert targets.heatmaps[name].count_centres() == (heatmap == 1).sum()
    for image in range(len(images)):
        expected = loop_targets(boxes[image], labels[image], keypoints[image])
        for name, value in expected.items():
            actual = drawn[name] if name in drawn else getattr(targets, name)
            np.testing.assert_allclose(actual[image].numpy(), value, atol=1e-6, err_msg=name)


def test_a_person_without_keypoints_costs_nothing_wherever_the_network_looks() -> None:
    """There is neither a centre to find nor, in its cell, background: the focal loss has no gradient there."""
    boxes = torch.tensor([[[8.0, 8, 40, 40]]])
    targets = pose_targets(boxes, torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, JOINTS, 3), SIZE)
    assert (targets.index == -1).all()
    assert targets.heatmaps["heatmap"].count_centres() == 0
    logits = torch.zeros(1, 1, *SIZE, requires_grad=True)
    (gradient,) = torch.autograd.grad(targets.heatmaps["heatmap"].focal_loss(logits), logits)
    assert gradient[0, 0, 6, 6] < 1e-15
    assert gradient[0, 0, 0, 15] > 0.1


def test_someone_all_of_whose_keypoints_lie_outside_stays_a_centre() -> None:
    boxes, labels = torch.tensor([[[8.0, 8, 40, 40]]]), torch.zeros(1, 1, dtype=torch.int64)
    keypoints = torch.tensor([[[[-3.0, 5, 2], [70, 5, 1], [10, 48, 2]]]])
    targets = pose_targets(boxes, labels, keypoints, SIZE)
    assert targets.heatmaps["heatmap"].count_centres() == 1
    assert targets.index.tolist() == [[6 * 16 + 6]]
    assert not targets.observed.any()
    assert (targets.keypoint_index == -1).all()
