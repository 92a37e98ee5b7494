"""Flip testing: one prediction of an image and of its mirror image."""

import pytest
import torch
from torch import Tensor

from mdnkernels.models import COCO_PERSON, PoseEstimator, Skeleton, build_model
from mdnkernels.models.heads import HeadGroup
from mdnkernels.models.reading import DenseReader
from tests.models.networks import BOTH_ARCHITECTURES, BOTH_TASKS, CLASSES, assert_close, awake
from tests.models.reference import decode_detection, decode_pose

FLIPS = [(0, "average", None), (3, "average", None), (3, "stronger", None), (3, "average", [1]), (3, "stronger", [1])]


@pytest.mark.parametrize("task", BOTH_TASKS)
@pytest.mark.parametrize(("components", "flip", "allowed"), FLIPS)
def test_it_is_what_loops_over_both_images_maps_find(
    task: str, components: int, flip: str, allowed: list[int] | None, images: Tensor
) -> None:
    _compare_with_loops("hourglass_small", task, components, flip, allowed, images)


@pytest.mark.parametrize("task", BOTH_TASKS)
def test_it_is_what_loops_find_with_dla(task: str, images: Tensor) -> None:
    _compare_with_loops("dla34", task, 3, "stronger", None, images)


@pytest.mark.parametrize("task", BOTH_TASKS)
@pytest.mark.parametrize(("flip", "select"), [("average", "density"), ("average", "mean"), ("stronger", "density")])
def test_it_is_what_loops_find_of_the_densest_or_the_mean(task: str, flip: str, select: str, images: Tensor) -> None:
    _compare_with_loops("hourglass_small", task, 3, flip, None, images, select)


def _compare_with_loops(
    arch: str,
    task: str,
    components: int,
    flip: str,
    allowed: list[int] | None,
    images: Tensor,
    select: str = "weight",
) -> None:
    model = awake(arch, task, components).eval()
    images = images[:2].double()
    with torch.no_grad():
        (maps,), (mirrored,) = model(images), model(images.flip(3))
    found = model.predict(images, k=10, flip=flip, select=select, components=allowed)
    arguments = {"k": 10, "flip": flip, "allowed": allowed, "select": select}
    if task == "pose":
        expected = decode_pose(maps, mirrored, skeleton=COCO_PERSON, **arguments)
    else:
        expected = decode_detection(maps, mirrored, **arguments)
    assert_close(found, expected, 1e-4)


@pytest.mark.parametrize(("components", "flip"), [(0, "average"), (3, "average"), (3, "stronger")])
def test_a_symmetric_image_has_symmetric_people(components: int, flip: str, images: Tensor) -> None:
    model = awake("hourglass_small", "pose", components).eval()
    left = images[:1, :, :, :48].double()
    found = model.predict(torch.cat((left, left.flip(3)), 3), k=200, flip=flip, refine=False)
    people = (found.label[0] == 0).nonzero().flatten()
    assert 10 < len(people) < 200
    size = found.box[0, :, 2:] - found.box[0, :, :2]
    keypoints, width = found.keypoints[0], 96
    for person in people:
        mirrored = torch.stack((width - keypoints[person, :, 0], keypoints[person, :, 1]), 1)
        away = (keypoints[people] - mirrored[list(COCO_PERSON.mirrored)]).abs().amax((1, 2))
        twin = people[away.argmin()]
        assert away.min() < 1e-8
        torch.testing.assert_close(found.score[0, person], found.score[0, twin], rtol=0, atol=1e-12)
        torch.testing.assert_close(size[person], size[twin], rtol=0, atol=1e-8)


@pytest.mark.parametrize(("components", "flip"), [(0, "average"), (3, "average"), (3, "stronger")])
def test_a_symmetric_image_has_symmetric_objects(components: int, flip: str, images: Tensor) -> None:
    model = awake("hourglass_small", "detection", components).eval()
    # The offset within the cell is the image's own: it must not disturb the comparison.
    torch.nn.init.zeros_(model.heads[0].heads["offset"].output.weight)
    torch.nn.init.constant_(model.heads[0].heads["offset"].output.bias, 0.5)
    left = images[:1, :, :, :48].double()
    found = model.predict(torch.cat((left, left.flip(3)), 3), k=500, flip=flip)
    objects = (found.label[0] >= 0).nonzero().flatten()
    assert 10 < len(objects) < 500
    rows = torch.cat((found.box[0], found.score.T, found.label.T, found.weight.T), 1)[objects]
    for x1, y1, x2, y2, *rest in rows.tolist():
        twin = torch.tensor([96 - x2, y1, 96 - x1, y2, *rest], dtype=torch.float64)
        assert (rows - twin).abs().amax(1).min() < 1e-8


SKELETON = Skeleton(("nose", "left", "right"), (0.1, 0.1, 0.1), flip_pairs=((1, 2),))
#         box in pixels of a 96 x 64 image    nose, left, right
PEOPLE = [
    ((20.0, 10.0, 41.0, 50.0), ((30.0, 12.0), (38.0, 40.0), (22.5, 44.0))),
    ((55.0, 8.0, 90.0, 61.0), ((66.0, 12.25), (81.0, 33.0), (58.0, 60.0))),
]


class AllKnowing(PoseEstimator):
    """A pose estimator whose outputs are the truth about `PEOPLE`, in the image and in its mirror image."""

    def read(self, images: Tensor, flip: str | None = None) -> "BothViews":
        return BothViews(self.heads[-1], images, flip is not None)


class BothViews(DenseReader):
    def __init__(self, heads: HeadGroup, images: Tensor, both: bool) -> None:
        size = (images.shape[2] // 4, images.shape[3] // 4)
        width = images.shape[3]
        mirrored = [
            ((width - x2, y1, width - x1, y2), tuple((width - points[i][0], points[i][1]) for i in (0, 2, 1)))
            for (x1, y1, x2, y2), points in PEOPLE
        ]
        self.views = [DenseReader(heads, truth(people, size)) for people in ([PEOPLE, mirrored] if both else [PEOPLE])]

    def maps(self, name: str) -> list[Tensor]:
        return [view.maps(name)[0] for view in self.views]

    def at(self, positions: str, index: Tensor, *, first_only: bool = False) -> list[dict[str, Tensor]]:
        width = self.views[0].outputs["heatmap"].shape[3]
        turned = [index, torch.where(index < 0, index, index + width - 1 - 2 * (index % width))]
        views = self.views[:1] if first_only else self.views
        return [view.at(positions, at)[0] for view, at in zip(views, turned, strict=False)]


def truth(people: list, size: tuple[int, int]) -> dict[str, Tensor]:
    channels = {"heatmap": 1, "offset": 2, "size": 2, "keypoints": 6, "keypoint_heatmap": 3, "keypoint_offset": 2}
    maps = {name: torch.zeros(1, count, *size, dtype=torch.float64) for name, count in channels.items()}
    maps["heatmap"] -= 9
    maps["keypoint_heatmap"] -= 9
    for number, ((x1, y1, x2, y2), points) in enumerate(people):
        centre = torch.tensor([(x1 + x2) / 8, (y1 + y2) / 8], dtype=torch.float64)
        x, y = centre.long().tolist()
        maps["heatmap"][0, 0, y, x] = 5 - number
        maps["offset"][0, :, y, x] = centre - centre.floor()
        maps["size"][0, :, y, x] = torch.tensor([x2 - x1, y2 - y1]) / 4
        for joint, point in enumerate(points):
            place = torch.tensor(point, dtype=torch.float64) / 4
            maps["keypoints"][0, 2 * joint : 2 * joint + 2, y, x] = place - centre.floor()
            column, row = place.long().tolist()
            maps["keypoint_heatmap"][0, joint, row, column] = 3
            maps["keypoint_offset"][0, :, row, column] = place - place.floor()
    return maps


@pytest.mark.parametrize("flip", [None, "average"])
@pytest.mark.parametrize("refine", [True, False])
def test_a_network_that_makes_no_error_makes_none_with_a_flip(flip: str | None, refine: bool) -> None:
    small = build_model("hourglass_small", task="pose", components=0, skeleton=SKELETON)
    model = AllKnowing(small.backbone, 64, small.regression, skeleton=SKELETON)
    found = model.predict(torch.zeros(1, 3, 64, 96), k=2, flip=flip, refine=refine)
    boxes, keypoints = zip(*PEOPLE, strict=True)
    torch.testing.assert_close(found.box, torch.tensor([boxes], dtype=torch.float64))
    torch.testing.assert_close(found.keypoints, torch.tensor([keypoints], dtype=torch.float64))
    assert (found.keypoint_score > 0).all() == refine


@pytest.mark.parametrize("task", BOTH_TASKS)
def test_stronger_is_refused_on_the_base(task: str, images: Tensor) -> None:
    with pytest.raises(ValueError, match="flip='stronger' compares mixing weights"):
        awake("hourglass_small", task, 0, torch.float32).eval().predict(images, flip="stronger")


@pytest.mark.parametrize("task", BOTH_TASKS)
def test_the_mean_has_no_stronger_view(task: str, images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"flip='stronger' compares the weights .* select='mean' chooses none"):
        awake("hourglass_small", task, 3, torch.float32).eval().predict(images, flip="stronger", select="mean")


@pytest.mark.parametrize("task", BOTH_TASKS)
def test_another_word_is_refused(task: str, images: Tensor) -> None:
    with pytest.raises(ValueError, match="flip must be None, 'average' or 'stronger', not 'mean'"):
        awake("hourglass_small", task, 3, torch.float32).eval().predict(images, flip="mean")


def test_a_class_specific_size_flips_too(images: Tensor) -> None:
    model = awake("hourglass_small", "detection", 2, class_specific=True).eval()
    images = images[:2].double()
    with torch.no_grad():
        (maps,), (mirrored,) = model(images), model(images.flip(3))
    found = model.predict(images, k=10, flip="stronger")
    expected = decode_detection(maps, mirrored, k=10, flip="stronger", num_classes=CLASSES)
    assert_close(found, expected, 1e-4)


@pytest.mark.parametrize("arch", BOTH_ARCHITECTURES)
def test_the_mirror_images_go_through_the_backbone_in_one_batch(arch: str, images: Tensor) -> None:
    model = awake(arch, "detection", 3, torch.float32).eval()
    sizes = []
    model.backbone.register_forward_hook(lambda _, inputs, __: sizes.append(inputs[0].shape[0]))
    model.predict(images[:1], k=3)
    model.predict(images[:1], k=3, flip="average")
    assert sizes == [1, 2]
