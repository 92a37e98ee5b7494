"""Recipes: each of the paper's models by a name, overridable, and recorded by the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mdnkernels.train.__main__ import main, parse
from mdnkernels.train.config.commands import FitConfig
from mdnkernels.train.config.data_paths import with_data_paths
from mdnkernels.train.config.options import DataConfig
from mdnkernels.train.config.recipes import recipe_names
from mdnkernels.train.config.rules import check_config
from mdnkernels.train.config.serialisation import from_plain, to_plain
from mdnkernels.train.data.coco import Category
from mdnkernels.train.errors import ConfigError
from mdnkernels.train.loop.engine import open_training_set
from mdnkernels.train.loop.network import build_network
from mdnkernels.train.tasks import make_task
from tests.train.drawn_data import DataPaths, edit_json
from tests.train.figures import draw_figures

# Parameters of the published graphs, 80 classes or 17 keypoints.
PUBLISHED = {
    "detection-hourglass104-1x-base": 191_284_008,
    "detection-hourglass104-3x-mdn3": 193_651_010,
    "pose-hourglass104-1x-mdn3": 197_211_022,
    "detection-dla34-1x-base": 19_675_892,
    "detection-dla34-768-sample-mdn3": 19_974_657,
    "pose-dla34-1x-mdn3": 20_427_559,
}


def fit(*arguments: str) -> FitConfig:
    config = parse(["fit", *arguments])
    assert isinstance(config, FitConfig)
    return config


def test_there_is_one_for_every_model_of_the_tables() -> None:
    names = recipe_names()
    assert len(names) == len(set(names)) == 2 * 5 * 5
    configs = [fit(name, "--run", "r", "--coco", "c") for name in names]
    assert [config.recipe for config in configs] == names
    assert len({(c.model, c.optimizer, c.data) for c in configs}) == len(names)


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED.items())
def test_a_recipe_builds_the_published_network(name: str, parameters: int) -> None:
    config = fit(name, "--run", "r", "--coco", "c")
    categories = [Category(number, str(number)) for number in range(80 if name.startswith("detection") else 1)]
    with torch.device("meta"):
        model = build_network(config, make_task(config.model.task, categories))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_schedules_are_the_published_ones() -> None:
    def schedule(name: str) -> tuple:
        config = fit(name, "--run", "r")
        optimizer = config.optimizer
        data = (config.data.input_size, config.data.train_share)
        return optimizer.batch, optimizer.lr, optimizer.epochs, optimizer.drops, *data

    assert schedule("detection-hourglass104-1x-mdn3") == (12, 2.5e-4, 50, (40,), 512, 1.0)
    assert schedule("pose-hourglass104-2x-base") == (12, 2.5e-4, 100, (90,), 512, 1.0)
    assert schedule("detection-hourglass104-3x-mdn5") == (12, 2.5e-4, 150, (140,), 512, 1.0)
    assert schedule("pose-dla34-1x-mdn1") == (32, 2e-4, 140, (90, 120), 512, 1.0)
    assert schedule("detection-dla34-768-sample-mdn2")[:3] == (32, 2e-4, 100)
    assert schedule("detection-dla34-768-sample-mdn2")[4:] == (768, 0.1)


def test_options_replace_parts_of_a_recipe_and_the_run_records_the_result(drawn: DataPaths, tmp_path: Path) -> None:
    run = tmp_path / "run"
    data = ["--train-images", str(drawn.images), "--train-annotations", str(drawn.annotations)]
    small = ["--arch", "hourglass_small", "--input-size", "64", "--batch", "2", "--workers", "0", "--device", "cpu"]
    name = "detection-dla34-1x-mdn2"
    assert main(["fit", name, "--run", str(run), *data, *small, "--stop-after", "1"]) == 0
    stored = json.loads((run / "config.json").read_text())
    assert stored["recipe"] == name
    assert (stored["model"]["arch"], stored["model"]["components"]) == ("hourglass_small", 2)
    assert (stored["optimizer"]["batch"], stored["optimizer"]["lr"], stored["optimizer"]["epochs"]) == (2, 2e-4, 140)
    assert main(["fit", "--resume", str(run), "--stop-after", "1"]) == 0


def test_an_unknown_recipe_and_one_beside_resume_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "pose-dla34-1x-mdn4", "--run", "r"]) == 2
    assert "there is no 'pose-dla34-1x-mdn4'; near ones are pose-dla34-1x-mdn" in capsys.readouterr().err
    assert main(["fit", "segmentation-dla34-1x-mdn3", "--run", "r"]) == 2
    assert "RECIPE: there is no" in capsys.readouterr().err
    assert main(["fit", "pose-dla34-1x-mdn3", "--resume", "r"]) == 2
    assert "a recipe, --resume: give one" in capsys.readouterr().err


def test_a_recipe_behind_the_options_is_refused_and_not_only_noted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--run", "r", "--coco", "c", "pose-dla34-1x-mdn3"]) == 2
    assert "RECIPE: 'pose-dla34-1x-mdn3' must stand before the options" in capsys.readouterr().err


def test_help_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["fit", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    names = "(detection|pose)-BACKBONE-SCHEDULE-(base|mdn1|mdn2|mdn3|mdn5)"
    for part in (names, "hourglass104-3x", "dla34-768-sample"):
        assert part in text


def test_cocos_folder_stands_for_its_four_paths() -> None:
    data = with_data_paths(fit("pose-dla34-1x-base", "--run", "r", "--coco", "c", "--val-images", "mine")).data
    assert data == DataConfig(
        train_images=Path("c/train2017"),
        train_annotations=Path("c/annotations/person_keypoints_train2017.json"),
        val_images=Path("mine"),
        val_annotations=Path("c/annotations/person_keypoints_val2017.json"),
    )
    data = with_data_paths(fit("--run", "r", "--coco", "c")).data
    assert data.train_annotations == Path("c/annotations/instances_train2017.json")
    for given, message in (
        (["--train-images", "i"], "--train-images and --train-annotations: are needed, or --coco"),
        (
            ["--train-images", "i", "--train-annotations", "a", "--val-images", "v"],
            "--val-images and --val-annotations",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            check_config(fit("--run", "r", *given))


def test_a_share_of_the_images_is_drawn_by_the_seed(drawn: DataPaths, tmp_path: Path) -> None:
    data = ["--train-images", str(drawn.images), "--train-annotations", str(drawn.annotations)]

    def ids(*more: str) -> list[int]:
        return open_training_set(fit("--run", "r", *data, *more)).annotations.image_ids.tolist()

    assert ids() == list(range(1, 9))
    half = ids("--train-share", "0.5")
    assert len(half) == 4
    assert half == sorted(half) == ids("--train-share", "0.5")
    assert len({tuple(ids("--train-share", "0.5", "--seed", str(seed))) for seed in range(9)}) > 3
    assert ids("--train-share", "0.5", "--train-limit", "2") == half[:2]


def test_images_without_people_are_left_out_of_pose_training(tmp_path: Path) -> None:
    data = draw_figures(tmp_path)
    edit_json(
        data.annotations,
        lambda root: root.update(annotations=[one for one in root["annotations"] if one["image_id"] not in (1, 3)]),
    )
    paths = ["--train-images", str(data.images), "--train-annotations", str(data.annotations)]
    chosen = open_training_set(fit("--task", "pose", "--run", "r", *paths, "--train-limit", "2"))
    assert chosen.annotations.image_ids.tolist() == [2, 4]


@pytest.mark.parametrize(
    ("arguments", "loss", "weight"),
    [
        (["--task", "pose"], "mixture", 0.1),
        (["--task", "pose", "--components", "0"], "pose", 1.0),
        (["--task", "pose", "--components", "0", "--pose-weight", "0.1"], "pose", 0.1),
        (["pose-dla34-1x-base"], "pose", 1.0),
        (["pose-dla34-1x-mdn3"], "mixture", 0.1),
        # An option beside a recipe makes another model, whose default is its own.
        (["pose-dla34-1x-mdn3", "--components", "0"], "pose", 1.0),
        (["pose-dla34-1x-base", "--components", "1"], "mixture", 0.1),
        (["detection-dla34-1x-base"], "size", 0.1),
        (["detection-dla34-1x-mdn3"], "mixture", 0.1),
    ],
)
def test_the_regressions_weight_is_the_published_one_of_its_model(
    arguments: list[str], loss: str, weight: float
) -> None:
    config = fit(*arguments, "--run", "r", "--coco", "c")
    weights = weights_of(config)
    others = {"heatmap": 1.0, "offset": 1.0}
    if config.model.task == "pose":
        others |= {"size": 0.1, "keypoint_heatmap": 1.0, "keypoint_offset": 1.0}
    assert weights == {**others, loss: weight}


def test_a_recorded_weight_stays_what_it_was() -> None:
    plain = to_plain(fit("--task", "pose", "--components", "0", "--run", "r", "--coco", "c"))
    plain["optimizer"]["pose_weight"] = 0.1
    config = from_plain(FitConfig, plain, "config.json")
    assert weights_of(config)["pose"] == 0.1


def weights_of(config: FitConfig) -> dict[str, float]:
    """Return the weight of each loss that the configured network is trained with."""
    task = make_task(config.model.task, [Category(1, "one")])
    with torch.device("meta"):
        return task.criterion(task.build_model(config.model), config.optimizer).weights
