"""The pose estimator: shapes, sparse heads, decoding and refinement."""

import pytest
import torch
from torch import Tensor

from mdnkernels.models import COCO_PERSON, PoseEstimator, Poses, Skeleton, build_model
from tests.models.networks import BOTH_ARCHITECTURES, assert_close, awake
from tests.models.reference import decode_pose, refined

JOINTS = 17


@pytest.mark.parametrize("components", [0, 2])
def test_outputs_have_the_shapes_of_the_contract(components: int, images: Tensor) -> None:
    model = awake("hourglass_small", "pose", components, torch.float32)
    points = {"offset": 2, "size": 2}
    points |= {"keypoints": 34} if components == 0 else {"logits": 2, "loc": 68, "scale": 4}
    (dense,) = model(images)
    (sparse,) = model(images, torch.zeros(3, 4, dtype=torch.int64), torch.zeros(3, 9, dtype=torch.int64))
    maps = {"heatmap": (3, 1, 16, 24), "keypoint_heatmap": (3, 17, 16, 24)}
    assert {name: tuple(v.shape) for name, v in dense.items()} == {
        **maps,
        **{name: (3, channels, 16, 24) for name, channels in points.items()},
        "keypoint_offset": (3, 2, 16, 24),
    }
    assert {name: tuple(v.shape) for name, v in sparse.items()} == {
        **maps,
        **{name: (3, channels, 4) for name, channels in points.items()},
        "keypoint_offset": (3, 2, 9),
    }


def test_each_set_of_cells_makes_its_own_heads_sparse(images: Tensor) -> None:
    model = awake("hourglass_small", "pose", 0, torch.float32)
    (outputs,) = model(images, keypoint_index=torch.zeros(3, 9, dtype=torch.int64))
    assert outputs["keypoint_offset"].shape == (3, 2, 9)
    assert outputs["keypoints"].shape == (3, 34, 16, 24)


def test_another_skeleton_gives_other_heads(images: Tensor) -> None:
    skeleton = Skeleton(("tip", "tail"), (0.1, 0.2))
    model = awake("hourglass_small", "pose", 3, torch.float32, skeleton=skeleton).eval()
    (outputs,) = model(images)
    assert (outputs["loc"].shape[1], outputs["keypoint_heatmap"].shape[1]) == (12, 2)
    assert model.predict(images, k=5).keypoints.shape == (3, 5, 2, 2)


@pytest.mark.parametrize(
    ("components", "choice"),
    [(0, {}), (3, {}), (3, {"select": "density"}), (3, {"select": "mean"}), (3, {"components": [1]})],
    ids=["base", "weight", "density", "mean", "restricted"],
)
@pytest.mark.parametrize("refine", [True, False])
def test_predict_is_the_decoding_of_the_dense_maps(components: int, choice: dict, refine: bool, images: Tensor) -> None:
    model = awake("hourglass_small", "pose", components).eval()
    images = images.double()
    sparse = model.predict(images, k=20, refine=refine, **choice)
    assert (sparse.keypoint_score > 0).any() == refine
    assert_close(sparse, model.decode(model(images)[-1], k=20, refine=refine, **choice))


@pytest.mark.parametrize("arch", BOTH_ARCHITECTURES)
@pytest.mark.parametrize(("components", "allowed"), [(0, None), (3, None), (3, [2, 0])])
def test_predict_is_what_loops_over_everything_find(
    arch: str, components: int, allowed: list[int] | None, images: Tensor
) -> None:
    model = awake(arch, "pose", components).eval()
    images = images.double()
    with torch.no_grad():
        (maps,) = model(images)
    found = model.predict(images, k=12, components=allowed)
    moved = found.keypoint_score > 0
    assert moved.any()
    assert not moved.all()
    expected = decode_pose(maps, skeleton=COCO_PERSON, k=12, allowed=allowed)
    assert_close(found, expected, 1e-4)


@pytest.mark.parametrize("select", ["density", "mean"])
def test_the_densest_or_the_mean_is_what_loops_find(select: str, images: Tensor) -> None:
    model = awake("hourglass_small", "pose", 3).eval()
    images = images.double()
    with torch.no_grad():
        (maps,) = model(images)
    found = model.predict(images, k=12, select=select)
    assert not torch.equal(found.sigma, model.predict(images, k=12).sigma)
    assert_close(found, decode_pose(maps, skeleton=COCO_PERSON, k=12, select=select), 1e-4)


def test_predict_gives_k_rows_and_no_graph(images: Tensor) -> None:
    found = awake("hourglass_small", "pose", 3, torch.float32).eval().predict(images, k=7)
    shapes = [(3, 7, 4), (3, 7), (3, 7), (3, 7), (3, 7), (3, 7, 17, 2), (3, 7, 17, 2), (3, 7, 17)]
    assert [tuple(values.shape) for values in found] == shapes
    assert not any(values.requires_grad for values in found)


def test_predict_runs_regression_heads_on_peaks_alone(images: Tensor) -> None:
    model = awake("hourglass_small", "pose", 3, torch.float32).eval()
    ran = []
    for name, head in model.heads[0].heads.items():
        head.hidden.register_forward_hook(lambda *_, name=name: ran.append(name))
    model.predict(images, k=7)
    assert ran == ["heatmap", "keypoint_heatmap"]


# One person, in cells of a 32 x 24 map: box from (6, 4) to (14, 24), 8 wide and 20 high, so that 0.3 of the larger side
# is 6 cells; both keypoints are regressed at (9, 10).
MAP_HEIGHT, MAP_WIDTH = 32, 24
BOX = (6.0, 4.0, 14.0, 24.0)
REGRESSED = (9.0, 10.0)
Place = tuple[float, float, float]  # score, x, y


def maps_of_one_person(places: list[Place]) -> dict[str, Tensor]:
    """Return dense maps of a base with two keypoints: the first has no peaks, the second has peaks at `places`."""
    logit = lambda score: torch.logit(torch.tensor(score, dtype=torch.float64))  # noqa: E731
    maps = {
        name: torch.zeros(1, channels, MAP_HEIGHT, MAP_WIDTH, dtype=torch.float64)
        for name, channels in {"offset": 2, "size": 2, "keypoints": 4, "keypoint_offset": 2}.items()
    }
    maps["heatmap"] = torch.full((1, 1, MAP_HEIGHT, MAP_WIDTH), -30.0, dtype=torch.float64)
    maps["keypoint_heatmap"] = torch.full((1, 2, MAP_HEIGHT, MAP_WIDTH), -30.0, dtype=torch.float64)
    centre_x, centre_y = (BOX[0] + BOX[2]) / 2, (BOX[1] + BOX[3]) / 2
    x, y = int(centre_x), int(centre_y)
    maps["heatmap"][0, 0, y, x] = logit(0.9)
    maps["size"][0, :, y, x] = torch.tensor([BOX[2] - BOX[0], BOX[3] - BOX[1]])
    maps["keypoints"][0, :, y, x] = torch.tensor([REGRESSED[0] - x, REGRESSED[1] - y] * 2)
    for score, place_x, place_y in places:
        column, row = int(place_x), int(place_y)
        maps["keypoint_heatmap"][0, 1, row, column] = logit(score)
        maps["keypoint_offset"][0, :, row, column] = torch.tensor([place_x - column, place_y - row])
    return maps


@pytest.fixture(scope="module")
def two_keypoints() -> PoseEstimator:
    skeleton = Skeleton(("head", "foot"), (0.1, 0.1))
    return build_model("hourglass_small", task="pose", components=0, skeleton=skeleton).double().eval()


REFINEMENTS = {
    "a peak near by": ([(0.8, 10.5, 12.25)], 0),
    "the nearest peak, not the best": ([(0.9, 12.0, 13.0), (0.2, 9.0, 12.0)], 1),
    "a peak that scores too little": ([(0.0999, 10.0, 12.0)], None),
    "just enough": ([(0.1001, 10.0, 12.0)], 0),
    "the nearest of those that score enough": ([(0.05, 9.0, 11.0), (0.4, 11.5, 12.0)], 1),
    "left of the box": ([(0.8, 5.9, 10.0)], None),
    "right of the box": ([(0.8, 14.1, 10.0)], None),
    "on the box's border": ([(0.8, 6.0, 10.0)], 0),
    "the nearest is outside, the next is not looked at": ([(0.8, 5.5, 10.0), (0.9, 13.5, 10.0)], None),
    "0.3 of the larger side away": ([(0.8, 9.0, 16.0)], 0),
    "farther than that": ([(0.8, 9.0, 16.25)], None),
    "nothing": ([], None),
}


@pytest.mark.parametrize(("places", "chosen"), REFINEMENTS.values(), ids=REFINEMENTS)
def test_a_keypoint_moves_to(two_keypoints: PoseEstimator, places: list[Place], chosen: int | None) -> None:
    score, *target = (0.0, *REGRESSED) if chosen is None else places[chosen]
    # The loops of reference.py, which compare whole predictions, follow the same rule.
    assert refined(REGRESSED, BOX, places) == (tuple(target), score)
    found = two_keypoints.decode(maps_of_one_person(places), k=3)
    keypoints, scores = found.keypoints[0, 0].tolist(), found.keypoint_score[0, 0].tolist()
    assert found.box[0, 0].tolist() == [v * 4 for v in BOX]
    assert keypoints[0] == [v * 4 for v in REGRESSED]
    assert keypoints[1] == pytest.approx([v * 4 for v in target])
    assert scores == pytest.approx([0.0, score])


@pytest.mark.parametrize("y", [3.9, 24.1])
def test_a_keypoint_does_not_leave_the_box_upwards_or_downwards(two_keypoints: PoseEstimator, y: float) -> None:
    maps = maps_of_one_person([(0.8, 9.0, y)])
    maps["keypoints"][0, 1::2, 14, 10] = y + (1 if y < 14 else -1) - 14  # regressed close to the peak
    assert refined((9.0, y + 1 if y < 14 else y - 1), BOX, [(0.8, 9.0, y)])[1] == 0
    assert not two_keypoints.decode(maps, k=1).keypoint_score.any()


def test_without_refinement_keypoints_are_as_regressed(two_keypoints: PoseEstimator) -> None:
    found = two_keypoints.decode(maps_of_one_person([(0.8, 10.5, 12.25)]), k=3, refine=False)
    assert found.keypoints[0, 0].tolist() == [[v * 4 for v in REGRESSED]] * 2
    assert not found.keypoint_score.any()


@pytest.mark.parametrize("refine", [True, False])
def test_padding_holds_nothing(two_keypoints: PoseEstimator, refine: bool) -> None:
    maps = maps_of_one_person([(0.8, 10.5, 12.25)])
    # Plateaus of background are peaks; a slope has one, in its corner.
    maps["heatmap"] = torch.arange(MAP_HEIGHT * MAP_WIDTH, dtype=torch.float64).view(1, 1, MAP_HEIGHT, MAP_WIDTH)
    # The first cell, which an unguarded padding index would read, is poisoned.
    for name in ("offset", "size", "keypoints"):
        maps[name][..., 0, 0] = float("nan")
    found = two_keypoints.decode(maps, k=4, refine=refine)
    assert_is_padding(found, slice(1, None))
    assert found.label[0, 0] == 0


def assert_is_padding(found: Poses, rows: slice) -> None:
    for name, values in found._asdict().items():
        empty = -1 if name in ("label", "component") else 0
        assert (values[:, rows] == empty).all(), name


def test_padding_of_a_mixture_that_was_flipped_holds_nothing(images: Tensor) -> None:
    model = awake("hourglass_small", "pose", 3).eval()
    found = model.predict(images.double(), k=300, flip="average")
    least = (found.label >= 0).sum(1).max()
    assert 0 < least < 300
    assert_is_padding(found, slice(int(least), None))


def test_sigma_is_the_components_times_each_keypoints_constant(images: Tensor) -> None:
    found = awake("hourglass_small", "pose", 3).eval().predict(images.double(), k=4)
    kappa = torch.tensor(COCO_PERSON.sigmas, dtype=torch.float64)
    ratio = found.sigma / kappa[:, None]
    torch.testing.assert_close(ratio, ratio[:, :, :1].expand_as(ratio))
    assert (ratio >= 4).all()


def test_a_pose_has_one_class_and_no_components_in_the_base(images: Tensor) -> None:
    with pytest.raises(ValueError, match="one class"):
        build_model("hourglass_small", task="pose", num_classes=2, components=0)
    with pytest.raises(ValueError, match="one class"):
        build_model("hourglass_small", task="pose", class_specific=True, components=0)
    with pytest.raises(ValueError, match="single-mode base"):
        awake("hourglass_small", "pose", 0, torch.float32).eval().predict(images, components=[0])
    with pytest.raises(ValueError, match="select='mean' needs a mixture, and this is the single-mode base"):
        awake("hourglass_small", "pose", 0, torch.float32).eval().predict(images, select="mean")
