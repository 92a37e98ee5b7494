"""The main job on embedded defaults: mixtures beside single-mode bases on synthetic sets, for boxes and for poses.

Both networks of a task get the same data, seed, order, augmentation and number of steps. The report says what came out;
nothing is chosen by its result.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from train.config import AugmentConfig, DataConfig, DemoConfig, FitConfig, ModelConfig, OptimizerConfig, check_config
from train.demo_detection import DetectionDemo
from train.demo_pose import PoseDemo
from train.demo_report import Contender, Exhibit
from train.engine import fit
from train.errors import ConfigError
from train.files import write_json, write_text
from train.plots import training_curves
from train.run_log import read_log
from train.synthetic_set import SyntheticPaths

DEMOS: dict[str, Exhibit] = {"detection": DetectionDemo(), "pose": PoseDemo()}


def run_demo(config: DemoConfig) -> Path:
    """Writes the data, trains and evaluates two networks for each task, and returns the report folder.

    Raises ConfigError where something stands at `config.output` already.
    """
    check_config(config)
    if config.components < 1:
        raise ConfigError(f"--components: must be at least 1, not {config.components}; the base is trained beside it")
    if config.output.exists() and (not config.output.is_dir() or any(config.output.iterdir())):
        raise ConfigError(f"--output: {config.output} is there already; choose another name or remove it")
    began = time.monotonic()
    report = config.output / "report"
    sections: list[str] = []
    summary: dict[str, Any] = {}
    for task in config.tasks:
        lines, numbers = _run_task(config, task, report)
        sections += lines
        summary[task] = numbers
    summary["seconds"] = round(time.monotonic() - began, 1)
    write_text(report / "report.md", "\n".join(["# Mixture against single mode on synthetic sets", "", *sections]))
    write_json(report / "summary.json", _without_nan(summary))
    print((report / "report.md").read_text())
    print(f"{report / 'report.md'}: the whole report, after {summary['seconds']:.0f} s", flush=True)
    return report


def _run_task(config: DemoConfig, task: str, report: Path) -> tuple[list[str], dict[str, Any]]:
    """The task's section of the report, and its numbers."""
    demo = DEMOS[task]
    folder = config.output / task
    print(f"drawing {config.train_pictures} + {config.val_pictures} pictures in {folder / 'data'}", flush=True)
    data = demo.write_data(
        folder / "data",
        train=config.train_pictures,
        val=config.val_pictures,
        image_size=config.image_size,
        seed=config.seed,
    )
    contenders = [
        _train(config, task, data, f"mixture, {config.components} components", config.components),
        _train(config, task, data, "single-mode base (L1)", 0),
    ]
    report.mkdir(exist_ok=True)
    curves = f"{task}_training_curves.png"
    training_curves({one.title: read_log(one.run / "log.jsonl") for one in contenders}).savefig(
        report / curves, dpi=120
    )
    lines, analysis = demo.exhibit(report, config, data, contenders)
    numbers = {
        "metrics": {one.title: one.metrics for one in contenders},
        "training_and_evaluation_seconds": {one.title: round(one.seconds, 1) for one in contenders},
        **analysis,
    }
    return [*lines, "### Training", "", f"![training curves]({curves})", ""], numbers


def _train(config: DemoConfig, task: str, data: SyntheticPaths, title: str, components: int) -> Contender:
    """Trains and evaluates one network; the two calls for a task differ in `components` and the loss's weight alone."""
    began = time.monotonic()
    print(f"\ntraining for {task}: {title}", flush=True)
    steps = math.ceil(config.train_pictures / config.batch) * config.epochs
    # The last fifth runs at a tenth of the learning rate, as the published schedules end.
    drop = max(config.epochs - max(config.epochs // 5, 1), 1)
    run = fit(
        FitConfig(
            run=config.output / task / ("base" if components == 0 else f"mixture{components}"),
            data=DataConfig(
                train_images=data.train_images,
                train_annotations=data.train_annotations,
                val_images=data.val_images,
                val_annotations=data.val_annotations,
                input_size=config.image_size,
                workers=config.workers,
            ),
            augment=AugmentConfig(crop_border=config.image_size // 4),
            model=ModelConfig(task=task, arch="hourglass_small", components=components),  # type: ignore[arg-type]
            optimizer=OptimizerConfig(
                epochs=config.epochs,
                batch=config.batch,
                lr=config.lr,
                drop_epochs=(drop,),
                # As in the recipes: the published base weighs the pose's L1 loss by 1.
                pose_weight=1.0 if components == 0 else 0.1,
            ),
            seed=config.seed,
            device=config.device,
            log_every=max(1, min(20, steps // 20)),
        )
    )
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())
    results = json.loads((run / "evaluation" / "detections.json").read_text())
    return Contender(title, run, metrics, results, time.monotonic() - began)


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: what is not defined becomes null."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
