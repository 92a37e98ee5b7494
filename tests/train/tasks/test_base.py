"""The table of tasks: each name has its file, and each task its defaults."""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest

from mdnkernels import models
from mdnkernels.models.regression import MixtureRegression
from mdnkernels.train.config.options import ModelConfig, OptimizerConfig
from mdnkernels.train.data.coco import Category
from mdnkernels.train.errors import ConfigError
from mdnkernels.train.tasks import TaskName, make_task, task_class
from mdnkernels.train.tasks.weights import LossWeights

TASKS: tuple[TaskName, ...] = get_args(TaskName)
ONE = [Category(1, "one")]


def test_the_tasks_that_train_are_those_that_have_a_network() -> None:
    assert models.TASKS == TASKS


@pytest.mark.parametrize("name", TASKS)
def test_a_name_stands_for_the_task_of_its_file(name: TaskName) -> None:
    task = make_task(name, ONE)
    assert type(task) is task_class(name)
    assert task.name == name
    assert type(task).__module__ == f"mdnkernels.train.tasks.{name}"
    assert len(set(task.metrics)) == len(task.metrics)


@pytest.mark.parametrize(("name", "least"), [("detection", 1.0), ("pose", 9.0)])
def test_the_least_sigma_is_the_published_one_of_the_task(name: TaskName, least: float) -> None:
    for config, expected in ((ModelConfig(task=name), least), (ModelConfig(task=name, min_scale=0.25), 0.25)):
        model = make_task(name, ONE).build_model(config)
        assert isinstance(model.regression, MixtureRegression)
        assert model.regression.spec.min_scale == expected


def test_options_have_the_weights_of_the_losses() -> None:
    options = OptimizerConfig()
    weights = dataclasses.asdict(LossWeights())
    assert {name: getattr(options, name) for name in weights} == weights
    named = {field.name for field in dataclasses.fields(options) if field.name.endswith("_weight")}
    assert set(weights) == named | {"mixture_stacks"}


def test_poses_are_of_one_category() -> None:
    two = [*ONE, Category(2, "two")]
    assert len(make_task("detection", two).categories) == 2
    for categories in (two, []):
        with pytest.raises(
            ConfigError, match=rf"--task pose: needs data of one category, these have {len(categories)}"
        ):
            make_task("pose", categories)
