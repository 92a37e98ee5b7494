"""The models of the paper's tables as configurations: `python -m train fit RECIPE --run DIR --coco DIR`.

Schedules are the published code's: Adam, the learning rate dropped tenfold, for the hourglass ten epochs before the
end, which is the default of --drop-epochs. The paper does not say when it drops on the sample; it does so here at the
same shares of the run as in DLA-34's 1x. ImageNet weights for DLA-34 are a file that the user has (--imagenet).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import tyro

from mdnkernels.train.config.commands import FitConfig
from mdnkernels.train.config.options import DataConfig, ModelConfig, OptimizerConfig
from mdnkernels.train.tasks import TaskName

MODELS = {"base": 0, "mdn1": 1, "mdn2": 2, "mdn3": 3, "mdn5": 5}

_HOURGLASS = OptimizerConfig(batch=12, lr=2.5e-4)
_DLA = OptimizerConfig(batch=32, lr=2e-4)

# Name -> backbone, schedule, data.
SCHEDULES: dict[str, tuple[str, OptimizerConfig, DataConfig]] = {
    "hourglass104-1x": ("hourglass104", replace(_HOURGLASS, epochs=50), DataConfig()),
    "hourglass104-2x": ("hourglass104", replace(_HOURGLASS, epochs=100), DataConfig()),
    "hourglass104-3x": ("hourglass104", replace(_HOURGLASS, epochs=150), DataConfig()),
    "dla34-1x": ("dla34", replace(_DLA, epochs=140, drop_epochs=(90, 120)), DataConfig()),
    "dla34-768-sample": (
        "dla34",
        replace(_DLA, epochs=100, drop_epochs=(64, 86)),
        DataConfig(input_size=768, train_share=0.1),
    ),
}


def recipe_names() -> list[str]:
    """Return the names of all recipes: TASK-BACKBONE-SCHEDULE-MODEL."""
    return [f"{task}-{schedule}-{model}" for task in get_args(TaskName) for schedule in SCHEDULES for model in MODELS]


def recipe(name: str) -> FitConfig:
    """Return a recipe's configuration, without the run directory. Raises KeyError for an unknown name."""
    task, _, rest = name.partition("-")
    schedule, _, model = rest.rpartition("-")
    arch, optimizer, data = SCHEDULES[schedule]
    components = MODELS[model]
    if task not in get_args(TaskName):
        raise KeyError(name)
    missing: Any = tyro.MISSING
    return FitConfig(
        run=missing,
        recipe=name,
        data=data,
        model=ModelConfig(task=task, arch=arch, components=components),  # type: ignore[arg-type]
        optimizer=optimizer,
    )


def recipe_help() -> str:
    """Return what --help says of the recipes."""
    lines = [
        f"{name}: {arch}, {data.input_size} px, batch {optimizer.batch}, lr {optimizer.lr:g}, {optimizer.epochs} epochs"
        + (f" on {data.train_share:.0%} of the images" if data.train_share < 1 else "")
        for name, (arch, optimizer, data) in SCHEDULES.items()
    ]
    tasks, models = ("|".join(names) for names in (get_args(TaskName), MODELS))
    return (
        f"Recipes: ({tasks})-BACKBONE-SCHEDULE-({models}), as pose-dla34-1x-mdn3. Of the middle there are\n\n"
        + "\n\n".join(lines)
    )
