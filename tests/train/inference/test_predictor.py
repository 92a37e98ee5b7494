"""A predictor gives what the network finds, whatever form the image comes in."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mdnkernels.models import COCO_PERSON, build_model, save_published
from mdnkernels.train import Prediction, Predictor, UserError, fit
from mdnkernels.train.config.commands import PredictConfig
from mdnkernels.train.config.options import InferenceConfig
from mdnkernels.train.data.coco import Category
from mdnkernels.train.data.coco_categories import COCO_CATEGORIES
from mdnkernels.train.data.colour import MEAN, STD
from mdnkernels.train.inference.prediction import predict
from mdnkernels.train.tasks import make_task
from tests.models.networks import awake
from tests.train.drawn_data import DataPaths, tiny_fit

CATEGORIES = (Category(3, "plate"), Category(7, "bar"), Category(9, "ring"))
COLOURS = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
ARRAYS = ("boxes", "scores", "labels", "components", "weights", "sigmas")


def detector(components: int = 3, **options: Any) -> Predictor:
    options = {"threshold": 0.0, "device": "cpu", "detections": 100, **options}
    model = awake("hourglass_small", "detection", components, torch.float32)
    return Predictor(model, make_task("detection", CATEGORIES), 64, **options)


def pose_estimator(components: int = 2, **options: Any) -> Predictor:
    options = {"threshold": 0.0, "device": "cpu", "detections": 5, **options}
    model = awake("hourglass_small", "pose", components, torch.float32)
    return Predictor(model, make_task("pose", [Category(1, "person")]), 64, **options)


def by_hand(model: Any, pixels: np.ndarray, k: int) -> Any:
    """Return what a network finds in one image, whose sides it takes as they are."""
    images = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].double() / 255
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (MEAN, STD))
    with torch.no_grad():
        found = model.eval().predict(((images - mean) / std).float(), k=k)
    return found._make(values[0] for values in found)


def same(ours: Prediction, theirs: Prediction, **tolerance: float) -> None:
    assert ours.size == theirs.size
    for name in ARRAYS:
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), err_msg=name, **tolerance)


def test_boxes_are_those_of_the_normalised_image_cut_off_at_its_borders() -> None:
    found = detector(resolution="original")(COLOURS)
    expected = by_hand(awake("hourglass_small", "detection", 3, torch.float32), COLOURS, 100)
    boxes = expected.box.clamp(min=0).minimum(torch.tensor([96.0, 64.0, 96.0, 64.0])).numpy()
    inside = (boxes[:, 2:] - boxes[:, :2]).min(1) > 5e-4
    assert inside.sum() > 5
    np.testing.assert_allclose(found.boxes, boxes[inside], rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(found.scores, expected.score[inside], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.sigmas, expected.sigma[inside], rtol=1e-3, atol=1e-2)
    np.testing.assert_array_equal(found.labels, expected.label[inside])
    np.testing.assert_array_equal(found.components, expected.component[inside])
    assert found.names == [CATEGORIES[label].name for label in expected.label[inside].tolist()]
    assert found.category_ids.tolist() == [CATEGORIES[label].id for label in expected.label[inside].tolist()]


def test_poses_have_a_covariance_for_each_keypoint() -> None:
    found = pose_estimator(resolution="original", refine=False)(COLOURS)
    expected = by_hand(awake("hourglass_small", "pose", 2, torch.float32), COLOURS, 5)
    assert found.keypoint_names == COCO_PERSON.names
    assert found.keypoints is not None
    assert found.covariances is not None
    assert found.keypoint_scores is not None
    assert found.keypoints.shape == (5, 17, 2)
    unmoved = expected.keypoint_score.numpy() == 0
    np.testing.assert_allclose(found.keypoints[unmoved], expected.keypoints.numpy()[unmoved], rtol=1e-3, atol=2e-2)
    assert not found.keypoint_scores.any()
    normal = torch.distributions.Normal(0.0, expected.sigma)
    variance = found.covariances.diagonal(axis1=2, axis2=3)
    np.testing.assert_allclose(variance, normal.variance.numpy(), rtol=2e-3, atol=1e-2)
    assert not found.covariances[..., 0, 1].any()
    assert not found.covariances[..., 1, 0].any()


def test_the_base_has_no_sigmas_and_no_component() -> None:
    found = detector(components=0)(COLOURS)
    assert found.sigmas is None
    assert set(found.components.tolist()) == {-1}
    pose = pose_estimator(components=0)(COLOURS)
    assert pose.sigmas is None
    assert pose.covariances is None


def forms(tmp_path: Path) -> dict[str, Any]:
    rgb = Image.fromarray(COLOURS)
    rgb.save(tmp_path / "image.png")
    alpha = np.concatenate((COLOURS, np.full((64, 96, 1), 7, np.uint8)), axis=2)
    turned = rgb.transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6
    return {
        "text": str(tmp_path / "image.png"),
        "path": tmp_path / "image.png",
        "pillow": rgb,
        "turned": turned,
        "tensor": torch.from_numpy(COLOURS.copy()),
        "alpha": alpha,
        "pillow alpha": Image.fromarray(alpha),
        "mirrored twice": COLOURS[:, ::-1].copy()[:, ::-1],
        "16 bits": COLOURS.astype(np.uint16) * 256 + 255,
    }


def test_every_form_of_an_image_gives_the_same(tmp_path: Path) -> None:
    predictor = detector()
    expected = predictor(COLOURS)
    assert len(expected) > 5
    for name, image in forms(tmp_path).items():
        same(predictor(image), expected, rtol=1e-4, atol=1e-3)
        assert predictor(image).size == (96, 64), name


def test_grey_is_the_same_in_three_channels(tmp_path: Path) -> None:
    predictor, grey = detector(), COLOURS[..., 0]
    expected = predictor(np.stack((grey, grey, grey), axis=2))
    Image.fromarray(grey).save(tmp_path / "grey.png")
    for image in (grey, grey[..., None], Image.fromarray(grey), tmp_path / "grey.png", grey.astype(np.uint16) << 8):
        same(predictor(image), expected, rtol=1e-4, atol=1e-3)


def test_exif_turns_an_image_unless_it_is_to_be_taken_as_stored(tmp_path: Path) -> None:
    turned = Image.fromarray(COLOURS).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    upright, stored = detector(), detector(orientation="stored")
    with Image.open(tmp_path / "turned.png") as opened:
        for image in (tmp_path / "turned.png", opened):
            same(upright(image), upright(COLOURS), rtol=1e-4, atol=1e-3)
            same(stored(image), stored(np.asarray(turned)), rtol=1e-4, atol=1e-3)
            assert upright(image).image.turn == 6


@pytest.mark.parametrize("options", [{}, {"resolution": "original"}, {"scales": (0.5, 1)}, {"flip": True}])
def test_a_list_gives_what_each_image_gives_alone(options: dict[str, Any]) -> None:
    images = [COLOURS, COLOURS[:48, :40], COLOURS[::-1].copy(), np.swapaxes(COLOURS, 0, 1).copy(), COLOURS[5:60]]
    predictor = detector(batch=4, **options)
    together = predictor(images)
    assert [one.size for one in together] == [(image.shape[1], image.shape[0]) for image in images]
    for one, image in zip(together, images, strict=True):
        same(one, predictor(image), rtol=1e-3, atol=1e-2)
    assert predictor([]) == []


def test_nothing_found_has_arrays_of_no_rows() -> None:
    for predictor in (detector(threshold=1.0), pose_estimator(threshold=1.0)):
        found = predictor(COLOURS)
        assert len(found) == 0
        assert found.boxes.shape == (0, 4)
        assert found.to_coco() == []
        assert found.names == []
        found.draw()


@pytest.mark.parametrize(
    ("image", "kind", "message"),
    [
        (COLOURS / 255, TypeError, r"an array of float64 cannot be taken; give the uint8 pixels.*255 \* image"),
        (torch.from_numpy(COLOURS / 255).bfloat16(), TypeError, "an array of float32 cannot be taken"),
        (COLOURS.astype(np.int64), TypeError, "an array of int64 .*convert it to uint8"),
        (COLOURS > 5, TypeError, "an array of bool"),
        (COLOURS.transpose(2, 0, 1), ValueError, r"\(3, 64, 96\); this one has its channels first.*permute\(1, 2, 0\)"),
        (COLOURS[None], ValueError, r"of a batch give a list of its images"),
        (COLOURS[..., :2], ValueError, r"not \(64, 96, 2\)"),
        (COLOURS[:0], ValueError, r"not \(0, 96, 3\)"),
        (7, TypeError, "cannot be a int; give a path"),
        (Image.new("F", (8, 8)), UserError, "the Pillow image: holds floating-point numbers"),
        ("absent.jpg", UserError, "^absent.jpg: there is no such file"),
        (["absent.jpg"], UserError, "^absent.jpg: there is no such file"),
    ],
)
def test_what_is_no_image_is_refused_with_what_to_give(image: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        detector()(image)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flips": True}, "Predictor: .*flips"),
        ({"flip": "yes"}, "Predictor: expected bool, got 'yes' @ .*flip"),
        ({"threshold": 1.5}, "threshold must be between 0 and 1, not 1.5"),
        ({"detections": 0}, "--detections: must be at least 1, not 0"),
        ({"component": 3}, "--component: 3 is not there"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"orientation": "up"}, "orientation must be 'exif' or 'stored'"),
        ({"device": "cuda:77"}, "--device"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises((UserError, ValueError), match=message):
        detector(**options)


@pytest.fixture(scope="module")
def run(drawn: DataPaths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tiny_fit(drawn, tmp_path_factory.mktemp("predictor") / "run", epochs=1))


def test_a_predictor_gives_what_the_command_writes(run: Path, drawn: DataPaths, tmp_path: Path) -> None:
    image, inference = drawn.images / "001.jpg", InferenceConfig(flip=True, scales=(0.5, 1.0), detections=7)
    config = PredictConfig(
        images=(image,), run=run, output=tmp_path / "out", device="cpu", threshold=0.05, inference=inference
    )
    (written,) = predict(config)["images"]
    options = dataclasses.asdict(inference)
    found = Predictor.from_run(run, device="cpu", threshold=0.05, **options)(image)
    assert len(found) > 0
    names = [{**entry, "category": name} for entry, name in zip(found.to_coco(), found.names, strict=True)]
    assert names == written["detections"]
    assert (written["width"], written["height"]) == found.size
    found.save(tmp_path / "mine.png")
    with Image.open(tmp_path / "mine.png") as mine, Image.open(tmp_path / "out" / written["picture"]) as theirs:
        assert mine.tobytes() == theirs.tobytes()
    with pytest.raises(ValueError, match="is the image itself"):
        found.save(image)


def test_cocos_entries_are_scored_by_pycocotools(run: Path, drawn: DataPaths) -> None:
    from pycocotools.coco import COCO

    found = Predictor.from_checkpoint(run / "checkpoints" / "last.pt", device="cpu", threshold=0)(
        drawn.images / "002.jpg"
    )
    entries = found.to_coco(image_id=2)
    loaded = COCO(str(drawn.annotations)).loadRes(entries)
    assert len(loaded.getAnnIds(imgIds=[2])) == len(found) > 0
    x, y, width, height = np.array([one["bbox"] for one in entries]).T
    np.testing.assert_allclose(np.stack((x, y, x + width, y + height), axis=1), found.boxes, atol=2e-3)


class Kept:
    """Stands for a class of supervision: keeps what it was made with."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


def test_supervision_gets_boxes_or_keypoints(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "supervision", None)
        with pytest.raises(ImportError, match="pip install supervision"):
            detector()(COLOURS).to_supervision()
    module: Any = ModuleType("supervision")
    module.Detections, module.KeyPoints = type("Detections", (Kept,), {}), type("KeyPoints", (Kept,), {})
    monkeypatch.setitem(sys.modules, "supervision", module)
    found = detector()(COLOURS)
    boxes = found.to_supervision()
    assert type(boxes).__name__ == "Detections"
    np.testing.assert_array_equal(boxes.xyxy, found.boxes)
    np.testing.assert_array_equal(boxes.class_id, found.labels)
    assert boxes.data["class_name"].tolist() == found.names
    pose = pose_estimator()(COLOURS)
    points = pose.to_supervision()
    assert type(points).__name__ == "KeyPoints"
    np.testing.assert_array_equal(points.xy, pose.keypoints)
    assert points.confidence.shape == (5, 17)
    np.testing.assert_array_equal(points.confidence[:, 3], pose.scores)

    class Newer(Kept):
        def __init__(self, *, keypoint_confidence: Any, **fields: Any) -> None:
            super().__init__(keypoint_confidence=keypoint_confidence, **fields)

    module.KeyPoints = Newer
    newer = pose.to_supervision()
    np.testing.assert_array_equal(newer.keypoint_confidence, points.confidence)
    np.testing.assert_array_equal(newer.detection_confidence, pose.scores)


def test_a_published_file_gives_what_its_network_does_to_bgr_images(tmp_path: Path) -> None:
    """The published network takes BGR, normalised by the same constants in that order."""
    file, model = tmp_path / "published.pth", awake("hourglass_small", "detection", 3, torch.float32)
    save_published(model, file)
    names = [category.name for category in CATEGORIES]
    options = {"resolution": "original", "threshold": 0, "device": "cpu", "min_scale": 1.0}
    found = Predictor.from_published(file, arch="hourglass_small", task="detection", names=names, **options)(COLOURS)
    weight = model.backbone.stem[0][0].weight
    with torch.no_grad():
        weight.copy_(weight.flip(1))
    expected = Predictor(model, make_task("detection", CATEGORIES), 512, **_without(options, "min_scale"))(COLOURS)
    same(found, expected, rtol=1e-4, atol=1e-3)
    assert found.names == expected.names


def _without(options: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key != name}


def test_a_published_file_of_other_classes_needs_their_names(tmp_path: Path) -> None:
    file = tmp_path / "published.pth"
    save_published(build_model("hourglass_tiny", num_classes=3, components=2), file)
    for names, message in ((None, "num_classes=3, which are not COCO's"), (["a"], "num_classes=3, and 1 names")):
        with pytest.raises(ValueError, match=message):
            Predictor.from_published(file, arch="hourglass_tiny", task="detection", names=names)
    with pytest.raises(ValueError, match="with arch='hourglass_tiny'; this model has arch='hourglass_small'"):
        Predictor.from_published(file, arch="hourglass_small", task="detection", names=["a", "b", "c"])
    with pytest.raises(ValueError, match="is of a network for task='detection', not 'pose'"):
        Predictor.from_published(file, arch="hourglass_tiny", task="pose")


def test_cocos_categories_are_those_of_its_annotations(coco_mini: Path) -> None:
    root = json.loads((coco_mini / "annotations" / "instances_val2017.json").read_text())
    assert sorted((one["id"], one["name"]) for one in root["categories"]) == list(COCO_CATEGORIES)
