"""The main job on an embedded default: a mixture detector and the single-mode base on a synthetic set, side by side.

Both get the same data, seed, order, augmentation and number of steps. The report says what came out; nothing is chosen
by its result.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from train.config import AugmentConfig, DataConfig, DemoConfig, FitConfig, ModelConfig, OptimizerConfig, check_config
from train.engine import fit
from train.errors import ConfigError
from train.files import write_json, write_text
from train.pictures import draw_detections, grid
from train.plots import scale_by_component, scale_correlation, training_curves
from train.run_log import read_log
from train.score import BOX_METRICS
from train.synthetic import CATEGORIES, SyntheticPaths, write_synthetic_detection

# Detections that the analysis of components and the sample pictures are made from.
MIN_SCORE = 0.3


class Contender(NamedTuple):
    """One of the two trained networks."""

    title: str
    run: Path
    metrics: dict[str, float]
    detections: list[dict[str, Any]]
    seconds: float


def run_demo(config: DemoConfig) -> Path:
    """Writes the data, trains and evaluates both networks, and returns the report folder.

    Raises ConfigError where something stands at `config.output` already.
    """
    check_config(config)
    if config.components < 1:
        raise ConfigError(f"--components: must be at least 1, not {config.components}; the base is trained beside it")
    if config.output.exists() and (not config.output.is_dir() or any(config.output.iterdir())):
        raise ConfigError(f"--output: {config.output} is there already; choose another name or remove it")
    began = time.monotonic()
    print(f"drawing {config.train_pictures} + {config.val_pictures} pictures in {config.output / 'data'}", flush=True)
    data = write_synthetic_detection(
        config.output / "data",
        train=config.train_pictures,
        val=config.val_pictures,
        image_size=config.image_size,
        seed=config.seed,
    )
    contenders = [
        _train(config, data, f"mixture, {config.components} components", config.components),
        _train(config, data, "single-mode base (L1)", 0),
    ]
    report = config.output / "report"
    report.mkdir()
    summary = _write_report(report, config, data, contenders)
    summary["seconds"] = round(time.monotonic() - began, 1)
    write_json(report / "summary.json", summary)
    print((report / "report.md").read_text())
    print(f"{report / 'report.md'}: the whole report, after {summary['seconds']:.0f} s", flush=True)
    return report


def _train(config: DemoConfig, data: SyntheticPaths, title: str, components: int) -> Contender:
    """Trains and evaluates one network; the two calls differ in `components` alone."""
    began = time.monotonic()
    print(f"\ntraining: {title}", flush=True)
    steps = math.ceil(config.train_pictures / config.batch) * config.epochs
    # The last fifth runs at a tenth of the learning rate, as the published schedules end.
    drop = max(config.epochs - max(config.epochs // 5, 1), 1)
    run = fit(
        FitConfig(
            run=config.output / ("base" if components == 0 else f"mixture{components}"),
            data=DataConfig(
                train_images=data.train_images,
                train_annotations=data.train_annotations,
                val_images=data.val_images,
                val_annotations=data.val_annotations,
                input_size=config.image_size,
                workers=config.workers,
            ),
            augment=AugmentConfig(crop_border=config.image_size // 4),
            model=ModelConfig(arch="hourglass_small", components=components),
            optimizer=OptimizerConfig(epochs=config.epochs, batch=config.batch, lr=config.lr, drop_epochs=(drop,)),
            seed=config.seed,
            device=config.device,
            log_every=max(1, min(20, steps // 20)),
        )
    )
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())
    detections = json.loads((run / "evaluation" / "detections.json").read_text())
    return Contender(title, run, metrics, detections, time.monotonic() - began)


def _write_report(
    report: Path, config: DemoConfig, data: SyntheticPaths, contenders: Sequence[Contender]
) -> dict[str, Any]:
    """report.md with its pictures; returns the numbers in it."""
    mixture = contenders[0]
    training_curves({one.title: read_log(one.run / "log.jsonl") for one in contenders}).savefig(
        report / "training_curves.png", dpi=120
    )
    strong = [entry for entry in mixture.detections if entry["score"] >= MIN_SCORE]
    size = np.array([math.sqrt(entry["bbox"][2] * entry["bbox"][3]) for entry in strong])
    component = np.array([entry["component"] for entry in strong], dtype=np.int64)
    classes = {identity: number for number, identity in enumerate(CATEGORIES)}
    label = np.array([classes[entry["category_id"]] for entry in strong], dtype=np.int64)
    split = scale_correlation(size, component, label)
    scale_by_component(
        size,
        component,
        config.components,
        summary=split,
        title=f"{len(strong)} val detections with score >= {MIN_SCORE}",
    ).savefig(report / "scale_by_component.png", dpi=120)
    _sample_predictions(data, contenders, config.components).save(report / "predictions.png")
    write_text(report / "report.md", _report_text(config, contenders, split))
    return {
        "metrics": {one.title: one.metrics for one in contenders},
        "training_and_evaluation_seconds": {one.title: round(one.seconds, 1) for one in contenders},
        "scale_by_component": _without_nan(split),
    }


def _sample_predictions(data: SyntheticPaths, contenders: Sequence[Contender], components: int) -> Image.Image:
    """The first val pictures: truth, mixture, base side by side."""
    dataset = json.loads(data.val_annotations.read_text())
    classes = {identity: number for number, identity in enumerate(CATEGORIES)}
    names = list(CATEGORIES.values())
    pictures: list[Image.Image] = []
    captions: list[str] = []
    columns: list[tuple[str, list[dict[str, Any]]]] = [("truth", dataset["annotations"])]
    columns += [(one.title, [entry for entry in one.detections if entry["score"] >= MIN_SCORE]) for one in contenders]
    for entry in dataset["images"][:6]:
        with Image.open(data.val_images / entry["file_name"]) as file:
            image = file.convert("RGB")
        for caption, found in columns:
            here = [one for one in found if one["image_id"] == entry["id"]]
            corners = [(x, y, x + w, y + h) for x, y, w, h in (one["bbox"] for one in here)]
            truth = caption == "truth"
            pictures.append(
                draw_detections(
                    image,
                    np.array(corners, dtype=np.float64).reshape(-1, 4),
                    np.array([classes[one["category_id"]] for one in here], dtype=np.int64),
                    None if truth else np.array([one["score"] for one in here]),
                    None if truth else np.array([one["component"] for one in here], dtype=np.int64),
                    names,
                    min_score=MIN_SCORE,
                    legend=False,
                    min_side=480,
                )
            )
            captions.append(caption)
    return grid(pictures, len(columns), captions=captions, num_components=components)


def _report_text(config: DemoConfig, contenders: Sequence[Contender], split: dict[str, Any]) -> str:
    mixture, base = contenders
    gap = 100 * (mixture.metrics["AP"] - base.metrics["AP"])
    rows = [
        f"| {one.title} | "
        + " | ".join("none" if one.metrics[name] < 0 else f"{100 * one.metrics[name]:.1f}" for name in BOX_METRICS)
        + f" | {one.seconds:.0f} |"
        for one in contenders
    ]
    share = split["component_eta_squared"]
    shares = ", ".join(
        f"component {m}: {count} objects, median {split['component_median'][m]:.0f} px"
        for m, count in split["component_count"].items()
    )
    lines = [
        "# Mixture against single mode on a synthetic set",
        "",
        f"{config.train_pictures} training and {config.val_pictures} val pictures of {config.image_size} x "
        f"{config.image_size} pixels, {config.epochs} epochs, batch {config.batch}, seed {config.seed}, "
        "the same for both.",
        "",
        "## COCO box AP on the val pictures (percent)",
        "",
        f"| model | {' | '.join(BOX_METRICS)} | seconds |",
        f"| --- |{' ---: |' * (len(BOX_METRICS) + 1)}",
        *rows,
        "",
        f"The mixture's AP is {abs(gap):.1f} points {'above' if gap >= 0 else 'below'} the base's in this one run; "
        "another seed may turn a difference of a point or two.",
        "Seconds are training and evaluation together. COCO calls a box small below 32 x 32 pixels and large above "
        '96 x 96; "none": no such box is there.',
        "",
        "## What the components stand for",
        "",
        f"Of the {split['n']} detections with a score of {MIN_SCORE} or more: {shares or 'none'}.",
        f"The component explains {100 * share:.0f} % of the variance of log size "
        f"({100 * split['component_eta_squared_chance']:.1f} % by chance), the category "
        f"{100 * split['category_eta_squared']:.0f} %. Correlation of log size with the component (ranked by median "
        f"size): {split['component_pearson']:.2f}. Association of component and category (Cramer's V): "
        f"{split['cramers_v']:.2f}.",
        "",
        "![object scale by component](scale_by_component.png)",
        "",
        f"## Predictions on the first val pictures (score >= {MIN_SCORE}), coloured by component",
        "",
        "![predictions](predictions.png)",
        "",
        "## Training",
        "",
        "![training curves](training_curves.png)",
        "",
    ]
    return "\n".join(lines)


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: what is not defined becomes null."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
