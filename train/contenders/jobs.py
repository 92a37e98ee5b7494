"""One network of a comparison: its pictures, training and evaluation, each made once however often it is asked for."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mdnkernels.train.analysis.evaluations import Machine, evaluation_of
from mdnkernels.train.analysis.subject import Subject
from mdnkernels.train.config.commands import FitConfig
from mdnkernels.train.config.options import DataConfig, InferenceConfig
from mdnkernels.train.contenders.worlds import World
from mdnkernels.train.errors import ConfigError, TrainingError
from mdnkernels.train.loop.engine import fit
from mdnkernels.train.loop.trainer import stored_config
from mdnkernels.train.run.directory import RunDirectory
from mdnkernels.train.run.files import write_json


@dataclass(frozen=True)
class Job:
    """A network to train in a world. Of the same world and seed, networks differ in their components alone."""

    world: World
    components: int
    """Of the mixture; 0 for the single-mode base."""
    seed: int
    """Fixes the pictures, the initial weights, their order and augmentation."""

    @property
    def title(self) -> str:
        """What a report calls the network, as the paper does."""
        return contender_title(self.components)

    def data(self, folder: Path) -> Path:
        """Return the folder of its pictures, which it shares with the others of its world and seed."""
        return folder / self.world.name / f"seed{self.seed}" / "data"

    def run(self, folder: Path) -> Path:
        """Return its run directory."""
        return self.data(folder).with_name(self.title.replace("_", "").lower())

    def config(self, folder: Path, device: str) -> FitConfig:
        """Return how it is trained."""
        data, setting = self.world.data(self.data(folder)), self.world.setting
        steps = math.ceil(setting.train_pictures / setting.batch) * setting.epochs
        return FitConfig(
            run=self.run(folder),
            data=DataConfig(**data._asdict(), input_size=setting.image_size, workers=0),
            augment=self.world.augment(),
            model=self.world.model(self.components),
            optimizer=self.world.optimizer(),
            seed=self.seed,
            device=device,
            log_every=max(1, min(20, steps // 20)),
        )


# How poses are evaluated too: as they are regressed, before keypoints move to the peaks of their heatmaps.
REGRESSED = InferenceConfig(refine=False)


class Trained:
    """A network that was trained and evaluated."""

    def __init__(self, job: Job, folder: Path, device: str = "auto") -> None:
        self.job = job
        machine = Machine(device, workers=0)
        self.subject = dataclasses.replace(Subject.of_run(job.run(folder), job.title), machine=machine)
        times = json.loads(_times(job.run(folder)).read_text())
        self.seconds = float(times["seconds"])
        """How long its training and evaluation took, over all sessions."""
        self.cpu_seconds = float(times["cpu_seconds"])


def contender_title(components: int) -> str:
    """Return the paper's name of a network with so many components."""
    return f"MDN_{components}" if components else "base"


def draw_data(job: Job, folder: Path) -> None:
    """Draw the pictures of a job, where they are not there yet. Raises ConfigError where others are."""
    world, root = job.world, job.data(folder)
    paths = world.data(root)
    for file, pictures in (
        (paths.train_annotations, world.setting.train_pictures),
        (paths.val_annotations, world.setting.val_pictures),
    ):
        if not file.is_file():
            world.write(root, job.seed)
            return
        content = json.loads(file.read_text())
        scene = json.loads(json.dumps(dataclasses.asdict(world.scene)))
        sizes = {image["width"] for image in content["images"]}
        if (
            content["info"]["scene"] != scene
            or len(content["images"]) != pictures
            or sizes != {world.setting.image_size}
        ):
            raise _made_otherwise(root)


def train(job: Job, folder: Path, device: str) -> None:
    """Train and evaluate a network whose pictures are there, on one thread; go on where an earlier session stopped.

    Does nothing where it is finished. Raises ConfigError where its run was made with other settings, and TrainingError
    where it was ended by a signal.
    """
    torch.set_num_threads(1)
    config = job.config(folder, device)
    run = RunDirectory(config.run)
    if run.config.is_file():
        if run.read_config() != stored_config(config):
            raise _made_otherwise(run.path)
        if _is_finished(run):
            return
        config = dataclasses.replace(config, resume=run.path)
    began, began_cpu = time.monotonic(), time.process_time()
    try:
        fit(config)
    finally:
        if run.path.is_dir():
            _add_times(run.path, time.monotonic() - began, time.process_time() - began_cpu)
    if not _is_finished(run):
        raise TrainingError(f"{run.path}: was interrupted; the same command goes on with it")
    if job.world.task == "pose":
        evaluation_of(run.path, REGRESSED, Machine(device, workers=0))


def _is_finished(run: RunDirectory) -> bool:
    return bool(json.loads(run.status.read_text())["state"] == "finished") and _times(run.path).is_file()


def _times(run: Path) -> Path:
    return run / "times.json"


def _add_times(run: Path, seconds: float, cpu_seconds: float) -> None:
    """Add the times of a session to those of a run."""
    file = _times(run)
    before: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {"seconds": 0.0, "cpu_seconds": 0.0}
    write_json(
        file,
        {"seconds": before["seconds"] + seconds, "cpu_seconds": before["cpu_seconds"] + cpu_seconds},
    )


def _made_otherwise(path: Path) -> ConfigError:
    return ConfigError(f"--output: {path}: was made with other settings; choose another name or remove it")
