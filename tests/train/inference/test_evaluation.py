"""From a model's boxes to COCO's numbers: the way back to the image, and the edge cases of pycocotools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mdnkernels.train.config.commands import EvaluateConfig
from mdnkernels.train.config.options import InferenceConfig
from mdnkernels.train.data.colour import normalise
from mdnkernels.train.errors import CheckpointError, ConfigError, DatasetError
from mdnkernels.train.inference.evaluation import evaluate
from mdnkernels.train.loop.engine import fit
from mdnkernels.train.loop.network import restore_network
from mdnkernels.train.run.checkpoint import load_checkpoint
from tests.train.drawn_data import DataPaths, edit_json, tiny_fit


@pytest.fixture(scope="module")
def run(drawn: DataPaths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("evaluation") / "run"
    return fit(tiny_fit(drawn, path, epochs=1, val_images=drawn.images, val_annotations=drawn.annotations))


@pytest.fixture(scope="module")
def two_sizes(run: Path) -> Path:
    """Write a checkpoint whose component 0 predicts about 3 x 3 cells everywhere and component 1 about 9 x 9."""
    content = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    (name,) = [name for name in content["model"] if name.endswith("loc.output.bias")]
    content["model"][name].copy_(torch.tensor([3.0, 3, 9, 9]))
    path = run / "two-sizes.pt"
    torch.save(content, path)
    return path


def config(run: Path | None = None, **options: object) -> EvaluateConfig:
    return EvaluateConfig(run=run, workers=0, device="cpu", **options)  # type: ignore[arg-type]


def test_run_is_scored_as_at_the_end_of_training(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = json.loads((run / "evaluation" / "metrics.json").read_text())
    detections = json.loads((run / "evaluation" / "detections.json").read_text())
    assert {"image_id", "category_id", "bbox", "score", "component", "weight", "sigma"} == detections[0].keys()
    assert {entry["category_id"] for entry in detections} <= {3, 7, 9}
    assert {entry["component"] for entry in detections} <= {0, 1}
    # Another batch size may round differently, as it takes another convolution kernel.
    metrics = evaluate(config(run, batch=4))
    assert before.pop("images_per_second") > 0
    assert metrics.pop("images_per_second") > 0
    shares = [one["share"] for one in metrics.pop("components")]
    assert [one["share"] for one in before.pop("components")] == shares
    for mine, theirs in zip(metrics.pop("categories"), before.pop("categories"), strict=True):
        assert mine.pop("name") == theirs.pop("name")
        assert mine == pytest.approx(theirs)
    assert {**metrics, "skipped_images": 0} == pytest.approx(before)
    printed = capsys.readouterr().out
    assert "Average Precision" in printed
    for name in ("plate", "bar", "ring"):
        assert f"\n{name:<8} " in printed


def test_broken_image_in_the_val_set_has_no_detections_and_is_counted(
    run: Path, drawn_copy: DataPaths, tmp_path: Path, warned: list[str]
) -> None:
    broken = drawn_copy.images / "002.jpg"
    broken.write_bytes(broken.read_bytes()[:500])
    out = tmp_path / "out"
    evaluate(config(run, images=drawn_copy.images, annotations=drawn_copy.annotations, output=out))
    assert json.loads((out / "metrics.json").read_text())["skipped_images"] == 1
    assert 2 not in {entry["image_id"] for entry in json.loads((out / "detections.json").read_text())}
    assert any("002.jpg" in message for message in warned)


def test_sizes_of_one_component_alone(run: Path, two_sizes: Path, tmp_path: Path) -> None:
    medians = []
    for component in (0, 1):
        inference = InferenceConfig(component=component)
        evaluate(config(checkpoint=two_sizes, inference=inference, output=tmp_path))
        detections = json.loads((tmp_path / "detections.json").read_text())
        assert {entry["component"] for entry in detections} == {component}
        medians.append(np.median([entry["bbox"][2] for entry in detections]))
    assert medians[1] > 1.5 * medians[0]
    with pytest.raises(ConfigError, match="--component: 2 is not there; the model has 2"):
        evaluate(config(run, inference=InferenceConfig(component=2)))


def inside(bbox: list[float]) -> bool:
    return min(bbox[:2]) > 0 and bbox[0] + bbox[2] < 80 and bbox[1] + bbox[3] < 64


@pytest.mark.parametrize("flip", [False, True])
def test_the_mean_lies_between_the_components_at_one_share_of_the_way(
    two_sizes: Path, tmp_path: Path, flip: bool
) -> None:
    found = []
    for name, choice in (("0", {"component": 0}), ("1", {"component": 1}), ("mean", {"select": "mean"})):
        inference = InferenceConfig(flip=flip, **choice)  # type: ignore[arg-type]
        evaluate(config(checkpoint=two_sizes, inference=inference, output=tmp_path / name))
        found.append({(one["image_id"], one["score"]): one for one in entries(tmp_path / name)})
    shares = []
    for peak in found[0].keys() & found[1].keys() & found[2].keys():
        small, large, mean = (results[peak] for results in found)
        if not all(inside(one["bbox"]) for one in (small, large, mean)):
            continue
        shares.append([(mean["bbox"][i] - small["bbox"][i]) / (large["bbox"][i] - small["bbox"][i]) for i in (2, 3)])
    found_shares = np.array(shares)
    assert len(shares) > 20
    assert ((found_shares > 0.02) & (found_shares < 0.98)).all()
    # With a flip each of the two views has weights of its own.
    np.testing.assert_allclose(found_shares[:, 0], found_shares[:, 1], atol=0.05 if flip else 0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"select": "density", "component": 1}, "--select density, --component: give one; --component 1 chooses"),
        ({"select": "mean", "flip_stronger": True}, "--select mean, --flip-stronger: the mean has no component"),
    ],
)
def test_choices_that_contradict_one_another_are_refused(run: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(config(run, inference=InferenceConfig(**options)))


def test_what_cannot_be_evaluated_is_named(run: Path, drawn_copy: DataPaths, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a run directory or --checkpoint"):
        evaluate(config())
    with pytest.raises(ConfigError, match="no such run directory"):
        evaluate(config(tmp_path / "absent"))
    with pytest.raises(ConfigError, match="--images and --annotations: both"):
        evaluate(config(run, images=drawn_copy.images))
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        evaluate(config(checkpoint=tmp_path / "absent.pt"))
    edit_json(drawn_copy.annotations, lambda root: root["categories"][0].update(name="wheel"))
    with pytest.raises(DatasetError, match=r"categories: id 9 \(wheel\) is unknown to the model"):
        evaluate(config(run, images=drawn_copy.images, annotations=drawn_copy.annotations))


def entries(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "detections.json").read_text())


def test_several_scales_are_those_alone_merged(run: Path, tmp_path: Path) -> None:
    """Without overlap no score is lowered: each scale's best box of each image is found again among the merged ones."""
    alone = []
    for number, scale in enumerate((1.0, 2.0)):
        evaluate(config(run, inference=InferenceConfig(scales=(scale,)), output=tmp_path / str(number)))
        alone.append(entries(tmp_path / str(number)))
    evaluate(config(run, inference=InferenceConfig(scales=(1.0, 2.0)), output=tmp_path / "both"))
    both = entries(tmp_path / "both")
    for image in range(1, 9):
        of_image = [[one for one in found if one["image_id"] == image] for found in (*alone, both)]
        best = max(of_image[0] + of_image[1], key=lambda one: one["score"])
        first = max(of_image[2], key=lambda one: one["score"])
        assert first["bbox"] == pytest.approx(best["bbox"], abs=0.01)
        assert len(of_image[2]) <= 100
        scores = sorted((one["score"] for one in of_image[0] + of_image[1]), reverse=True)
        merged = sorted((one["score"] for one in of_image[2]), reverse=True)
        assert all(low <= high + 1e-6 for low, high in zip(merged, scores, strict=False))


def test_original_resolution_gives_what_the_image_gives_alone(run: Path, drawn: DataPaths, tmp_path: Path) -> None:
    evaluate(config(run, inference=InferenceConfig(resolution="original"), output=tmp_path))
    model, _ = restore_network(load_checkpoint(run / "checkpoints" / "last.pt"))
    with Image.open(drawn.images / "002.jpg") as image:
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    height, width = pixels.shape[1:]
    tall, wide = (-(-side // model.divisor) * model.divisor for side in (height, width))
    top, left = (tall - height) // 2, (wide - width) // 2
    padded = torch.zeros(3, tall, wide, dtype=torch.uint8)
    padded[:, top : top + height, left : left + width] = pixels
    found = model.predict(normalise(padded[None]))
    expected = [row for row in range(100) if found.label[0, row] >= 0]
    own = [one for one in entries(tmp_path) if one["image_id"] == 2]
    assert own
    best = found.box[0, expected[0]] - torch.tensor([left, top, left, top])
    x, y, w, h = own[0]["bbox"]
    clipped = torch.minimum(best.clamp(min=0), torch.tensor([width, height, width, height]))
    np.testing.assert_allclose([x, y, x + w, y + h], clipped, atol=0.05)
    assert own[0]["score"] == pytest.approx(found.score[0, expected[0]].item(), abs=1e-4)


def test_flip_looks_at_the_mirror_image(run: Path, tmp_path: Path) -> None:
    for name, inference in (
        ("plain", InferenceConfig()),
        ("average", InferenceConfig(flip=True)),
        ("stronger", InferenceConfig(flip=True, flip_stronger=True)),
    ):
        evaluate(config(run, inference=inference, output=tmp_path / name))
    plain, average, stronger = (entries(tmp_path / name) for name in ("plain", "average", "stronger"))
    assert plain[0]["score"] != average[0]["score"]
    assert average[0]["score"] == stronger[0]["score"]
    assert [one["bbox"] for one in average] != [one["bbox"] for one in stronger]


def test_a_test_set_without_annotations_gets_the_servers_file_and_no_score(
    run: Path, drawn_copy: DataPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_json(drawn_copy.annotations, lambda root: root.pop("annotations"))
    given = {"images": drawn_copy.images, "annotations": drawn_copy.annotations, "output": tmp_path}
    with pytest.raises(DatasetError, match='"annotations" is missing'):
        evaluate(config(run, **given))
    metrics = evaluate(config(run, split="test-dev", **given))
    assert metrics.keys() == {"images_per_second"}
    found = entries(tmp_path)
    assert {one["image_id"] for one in found} == set(range(1, 9))
    assert all(one.keys() == {"image_id", "category_id", "bbox", "score"} for one in found)
    assert "Average" not in capsys.readouterr().out
    with pytest.raises(ConfigError, match="--split test-dev: needs --images and --annotations"):
        evaluate(config(run, split="test-dev"))


def test_the_base_has_no_stronger_view_and_nothing_to_select(drawn: DataPaths, tmp_path: Path) -> None:
    base = fit(tiny_fit(drawn, tmp_path / "run", epochs=1, components=0))
    given = {"images": drawn.images, "annotations": drawn.annotations}
    with pytest.raises(ConfigError, match="--flip-stronger: compares mixing weights"):
        evaluate(config(base, inference=InferenceConfig(flip_stronger=True), **given))
    with pytest.raises(ConfigError, match="--select mean: chooses in a mixture, and this is the single-mode base"):
        evaluate(config(base, inference=InferenceConfig(select="mean"), **given))
