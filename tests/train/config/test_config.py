"""Configurations: files hold them exactly, and errors name what is wrong in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from train.config.options import (
    DataConfig,
    EvaluateConfig,
    FitConfig,
    PredictConfig,
    check_config,
    read_config,
    to_json,
)
from train.errors import ConfigError


@pytest.fixture
def config() -> FitConfig:
    return FitConfig(run=Path("runs/x"), data=DataConfig(train_images=Path("images"), val_limit=7))


def test_file_holds_a_configuration_exactly(config: FitConfig, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(to_json(config))
    assert read_config(FitConfig, path) == config


def change(path: tuple[str, ...], value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(root: dict[str, Any]) -> None:
        for name in path[:-1]:
            root = root[name]
        root[path[-1]] = value

    return apply


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change(("model", "componentz"), 3), r"componentz.* config\.model"),
        (change(("model", "components"), "3"), r"expected int.* config\.model\.components"),
        (change(("model", "components"), 2.5), r"expected int.* config\.model\.components"),
        (change(("optimizer", "lr"), "fast"), r"expected float.* config\.optimizer\.lr"),
        (change(("augment", "augment"), 1), r"expected bool.* config\.augment\.augment"),
        (change(("data", "train_images"), 7), r"expected Path.* config\.data\.train_images"),
        (change(("mixed_precision",), "fp8"), r"fp8.* config\.mixed_precision"),
        (change(("optimizer", "drop_epochs"), [4, "b"]), r"config\.optimizer\.drop_epochs\[1\]"),
        (lambda root: root["model"].pop("arch") and root.pop("run"), r"missing.* config\.run"),
        (change(("optimizer", "lr"), -0.1), "--lr: must be positive"),
        (change(("optimizer", "epochs"), 0), "--epochs: must be at least 1, not 0"),
        (change(("augment", "crop_scales"), []), "--crop-scales: must be one or more"),
        (change(("augment", "flip"), 1.5), "--flip: must be between 0 and 1"),
        (change(("seed",), -1), "--seed: must be at least 0"),
        (change(("seed",), 10**400), "--seed: must fit 64 bits"),
        (change(("optimizer", "lr"), 10**400), r"int too large to convert to float .* config\.optimizer\.lr"),
        (change(("optimizer", "lr"), float("nan")), "--lr: must be positive and finite, not nan"),
        (change(("data", "orientation"), "up"), r"up not in .*'stored', 'exif'.* config\.data\.orientation"),
        (change(("optimizer", "accumulate"), 0), "--accumulate: must be at least 1"),
        (change(("optimizer", "clip_norm"), 0.0), "--clip-norm: must be positive"),
        (change(("optimizer", "ema"), 1.0), "--ema: must be between 0 and 1, both left out, not 1.0"),
    ],
)
def test_wrong_file_is_refused_by_name(config: FitConfig, tmp_path: Path, edit: Any, message: str) -> None:
    root = json.loads(to_json(config))
    edit(root)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(root))
    with pytest.raises(ConfigError, match=message) as caught:
        read_config(FitConfig, path)
    assert str(path) in str(caught.value)


def test_unreadable_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(ConfigError, match=r"config\.json: there is no such file"):
        read_config(FitConfig, path)
    for text in ("{", '{"run": ' + 200_000 * "["):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"config\.json: cannot be read as JSON"):
            read_config(FitConfig, path)


def test_configuration_of_an_older_run_takes_images_as_stored(config: FitConfig, tmp_path: Path) -> None:
    root = json.loads(to_json(config))
    del root["data"]["orientation"]
    (tmp_path / "config.json").write_text(json.dumps(root))
    assert read_config(FitConfig, tmp_path / "config.json").data.orientation == "stored"


def test_defaults_are_in_range(config: FitConfig) -> None:
    for each in (config, EvaluateConfig(), PredictConfig(images=(Path("a.jpg"),))):
        check_config(each)
    with pytest.raises(ConfigError, match="--ellipse-score: must be at least 0, not -1"):
        check_config(PredictConfig(images=(), ellipse_score=-1))
