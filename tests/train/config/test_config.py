"""Configurations: files hold them exactly, and errors name what is wrong in them."""

from __future__ import annotations

import dataclasses
import json
import os
import pkgutil
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest

import mdnkernels.train.__main__
from mdnkernels.train.config.commands import (
    CheckDataConfig,
    DemoConfig,
    EvaluateConfig,
    ExportConfig,
    FitConfig,
    PredictConfig,
)
from mdnkernels.train.config.options import DataConfig, ModelConfig, OptimizerConfig, default_workers
from mdnkernels.train.config.rules import CheckedBy, at_least, check_config, rules_of
from mdnkernels.train.config.serialisation import read_config, to_json
from mdnkernels.train.errors import ConfigError


@pytest.fixture
def config() -> FitConfig:
    return FitConfig(
        run=Path("runs/x"),
        data=DataConfig(train_images=Path("images"), train_annotations=Path("list.json"), val_limit=7),
    )


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 2), (64, 4)])
def test_no_more_workers_are_started_than_there_are_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, workers: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    assert default_workers() == workers
    assert DataConfig().workers == EvaluateConfig(run=Path("r")).workers == workers


def test_file_holds_a_configuration_exactly(config: FitConfig, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(to_json(config))
    assert read_config(FitConfig, path) == config


@pytest.mark.parametrize(("old", "new"), [("no", "float32"), ("bf16", "bfloat16"), ("fp16", "float16")])
def test_precision_of_an_earlier_version_is_read_by_its_old_name(
    config: FitConfig, tmp_path: Path, old: str, new: str
) -> None:
    path, root = tmp_path / "config.json", json.loads(to_json(config))
    del root["precision"]
    path.write_text(json.dumps({**root, "mixed_precision": old}))
    assert read_config(FitConfig, path) == dataclasses.replace(config, precision=new)


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
        (change(("precision",), "fp8"), r"fp8.* config\.precision"),
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


def groups_of(kind: type) -> Iterator[type]:
    """Return a configuration's class and those of the configurations in its fields."""
    yield kind
    for hint in get_type_hints(kind).values():
        if dataclasses.is_dataclass(hint):
            yield from groups_of(hint)


def plain_types_of(hint: Any) -> set[type]:
    """Return the numbers, texts and paths that a field can hold: what its type alone does not keep from being wrong."""
    return {hint} & {int, float, str, Path} | set().union(
        *(plain_types_of(part) for part in get_args(hint) if get_origin(hint) is not Literal)
    )


GROUPS = list(dict.fromkeys(group for kind in mdnkernels.train.__main__.COMMANDS.values() for group in groups_of(kind)))
HINTS = {(group, name): hint for group in GROUPS for name, hint in get_type_hints(group, include_extras=True).items()}
FIELDS = [(group.__name__, name) for group, name in HINTS]


def test_every_group_of_options_is_looked_at() -> None:
    assert {group for group, _ in FIELDS} >= {"FitConfig", "DataConfig", "OptimizerConfig", "InferenceConfig"}


@pytest.mark.parametrize("hint", HINTS.values(), ids=[".".join(field) for field in FIELDS])
def test_every_option_of_numbers_texts_or_paths_has_a_rule(hint: Any) -> None:
    rules = rules_of(hint)
    assert rules or not plain_types_of(hint), "say at the field what its value must be, or by CheckedBy who checks it"
    for rule in rules:
        if isinstance(rule, CheckedBy):
            assert callable(pkgutil.resolve_name(rule.place))


@dataclass(frozen=True)
class Unruled:
    free: int = 3
    ruled: Annotated[int, at_least(2, "one alone is lonely")] | None = None


def test_an_option_without_a_rule_would_be_noticed() -> None:
    free, ruled = get_type_hints(Unruled, include_extras=True).values()
    assert plain_types_of(free) == plain_types_of(ruled) == {int}
    assert (len(rules_of(free)), len(rules_of(ruled))) == (0, 1)


def test_a_rule_is_that_of_its_field_and_not_of_its_name() -> None:
    check_config(Unruled(ruled=2))
    with pytest.raises(ConfigError, match=r"^--ruled: must be at least 2, not 1; one alone is lonely$"):
        check_config(Unruled(ruled=1))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DemoConfig(components=0), "--components: must be at least 1, not 0; the base is trained beside it"),
        (DemoConfig(image_size=72), "--image-size: 72 is no multiple of 16"),
        (CheckDataConfig(Path("i"), Path("a"), input_size=66), "--input-size: 66 is no multiple of 4"),
        (ExportConfig(Path("a.pt2"), size=(64, 0)), "--size: must be two sides of at least 1, not (64, 0)"),
        (EvaluateConfig(images=Path("i")), "--images and --annotations: both are needed, or neither"),
        (EvaluateConfig(split="test-dev"), "--split test-dev: needs --images and --annotations"),
        (FitConfig(Path("r")), "--train-images and --train-annotations: are needed, or --coco"),
        (
            FitConfig(
                Path("r"),
                data=DataConfig(Path("coco")),
                model=ModelConfig(components=0),
                optimizer=OptimizerConfig(mixture_stacks="last"),
            ),
            "--mixture-stacks last: needs a mixture, and --components 0 is the single-mode base",
        ),
    ],
)
def test_wrong_options_are_refused_by_name(config: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_config(config)
