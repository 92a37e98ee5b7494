"""The evaluations that analyses are made of: found where they were made before, else made and kept in the run."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mdnkernels.train.config.commands import EvaluateConfig, FitConfig
from mdnkernels.train.config.options import DataConfig, Device, InferenceConfig, default_workers
from mdnkernels.train.errors import ConfigError
from mdnkernels.train.inference.evaluation import evaluate
from mdnkernels.train.inference.record import EvaluationRecord, name_of_device, read_record
from mdnkernels.train.loop.network import find_checkpoint, pick_device, pick_precision
from mdnkernels.train.run.checkpoint import load_checkpoint
from mdnkernels.train.run.directory import RunDirectory


@dataclass(frozen=True)
class Machine:
    """Where and how fast evaluations run."""

    device: Device = "auto"
    batch: int = 8
    workers: int = field(default_factory=default_workers)


@dataclass(frozen=True)
class Evaluation:
    """A folder with what a network found in its val set, read when it is asked for."""

    folder: Path

    @cached_property
    def results(self) -> list[dict[str, Any]]:
        """The task's results, with their image_id."""
        content: list[dict[str, Any]] = json.loads((self.folder / "detections.json").read_text())
        return content

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """COCO's numbers by name, "images_per_second", and of a mixture "components"."""
        content: dict[str, Any] = json.loads((self.folder / "metrics.json").read_text())
        return content


def evaluation_of(
    run: Path, inference: InferenceConfig, machine: Machine, *, each_component: bool = False, timed: bool = False
) -> Evaluation:
    """Return the evaluation of a run's last checkpoint on its val set; make it where the run does not hold it yet.

    each_component: with COCO's numbers of each component of a mixture alone. timed: for its speed, which must be of
    this machine. Raises ConfigError where the run has no val set, and what `evaluate` raises.
    """
    needed = _needed(run, inference, machine, each_component)
    kept = _find(run, needed, timed=timed)
    if kept is not None:
        return kept
    print(f"{run}: evaluating, {describe(inference)}", file=sys.stderr, flush=True)
    config = EvaluateConfig(
        run=run,
        output=RunDirectory(run).evaluations / needed.name,
        inference=inference,
        each_component=each_component,
        batch=machine.batch,
        workers=machine.workers,
        device=machine.device,
    )
    evaluate(config, say=lambda _: None)
    return Evaluation(RunDirectory(run).evaluations / needed.name)


def plain_evaluation_of(run: Path, machine: Machine) -> Evaluation:
    """Return the evaluation with the options' defaults; where it must be made, also of each component alone.

    An analysis of components then finds it. Arguments and errors are those of `evaluation_of`.
    """
    kept = _find(run, _needed(run, InferenceConfig(), machine, each_component=False), timed=False)
    return kept or evaluation_of(run, InferenceConfig(), machine, each_component=True)


def _needed(run: Path, inference: InferenceConfig, machine: Machine, each_component: bool) -> EvaluationRecord:
    file = find_checkpoint(run, None)
    step, fitted = _step_and_config(file, file.stat().st_mtime_ns if file.is_file() else 0)
    data = fitted.data
    images, annotations = val_set_of(run, data)
    device = pick_device(machine.device)
    return EvaluationRecord(
        step=step,
        checkpoint=None,
        images=images.resolve(),
        annotations=annotations.resolve(),
        orientation=data.orientation,
        limit=data.val_limit,
        inference=dataclasses.replace(inference, precision=pick_precision(inference.precision, device)),
        each_component=each_component and fitted.model.components > 0,
        command="evaluate",
        device=name_of_device(device),
        batch=machine.batch,
        processes=1,
    )


@functools.lru_cache
def _step_and_config(checkpoint: Path, written: int) -> tuple[int, FitConfig]:
    """Return what a checkpoint says of itself; a large one takes long to read. written: when, as it may be replaced."""
    content = load_checkpoint(checkpoint)
    return content.progress.step, content.config


def _find(run: Path, needed: EvaluationRecord, *, timed: bool) -> Evaluation | None:
    directory = RunDirectory(run)
    for folder in (directory.evaluation, *sorted(directory.evaluations.glob("*"))):
        record = read_record(folder)
        if record is not None and record.answers(needed, timed=timed):
            return Evaluation(folder)
    return None


def val_set_of(run: Path, data: DataConfig) -> tuple[Path, Path]:
    """Return the folder of a run's val images and their annotation file. Raises ConfigError where it has none."""
    if data.val_images is None or data.val_annotations is None:
        raise ConfigError(f"{run}: was trained without a val set, and nothing can be compared with a truth")
    return data.val_images, data.val_annotations


def describe(inference: InferenceConfig) -> str:
    """Return how images are looked at, in words."""
    words = [f"{inference.resolution} resolution"]
    if inference.scales != (1.0,):
        words.append(f"scales {', '.join(f'{scale:g}' for scale in inference.scales)}")
    if inference.select != "weight":
        words.append(f"select {inference.select}")
    if inference.component is not None:
        words.append(f"component {inference.component}")
    words += ["flip"] * (inference.flip or inference.flip_stronger) + ["no refinement"] * (not inference.refine)
    return ", ".join(words)
