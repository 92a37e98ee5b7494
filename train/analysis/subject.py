"""What analyses are made of and what they give: trained networks with their results, and sections of a report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from PIL import Image

from mdnkernels.command_line import program
from mdnkernels.train.analysis.evaluations import Evaluation, Machine, evaluation_of, plain_evaluation_of, val_set_of
from mdnkernels.train.config.commands import FitConfig
from mdnkernels.train.config.options import InferenceConfig
from mdnkernels.train.errors import ConfigError

# Results with a lower score are left out of analyses and of their pictures too.
from mdnkernels.train.inference.components import MIN_SCORE as MIN_SCORE
from mdnkernels.train.inference.record import name_of_device
from mdnkernels.train.loop.network import find_checkpoint, pick_device
from mdnkernels.train.run.checkpoint import load_checkpoint
from mdnkernels.train.run.directory import RunDirectory
from mdnkernels.train.tasks import make_task
from mdnkernels.train.tasks.base import Task


@dataclass(frozen=True)
class Subject:
    """A trained network, and what it found in a data set of which the truth is known."""

    title: str
    """What a report calls it."""
    run: Path
    """Its run directory: configuration, log and checkpoint."""
    task: Task
    components: int
    """Of its mixture; 0 for the single-mode base."""
    images: Path
    annotations: Path
    """COCO-format file of the data set."""
    results: list[dict[str, Any]]
    """The task's results in the data set, with their image_id."""
    metrics: dict[str, Any]
    """COCO's numbers for them by name, and what else metrics.json holds."""

    limit: int | None = None
    """How many of the data set's first images were looked at; None for all."""
    machine: Machine = field(default_factory=Machine)
    """Where further evaluations run."""

    @classmethod
    def of_run(cls, run: Path, title: str | None = None, machine: Machine | None = None) -> Subject:
        """Return the network of a run directory, with what it found in the run's val set.

        title: its name where None. machine: where to evaluate the last checkpoint if the run holds no such evaluation;
        without it, the last evaluation is taken as it stands. Raises ConfigError where the run has no val set, or, with
        no machine, no evaluation.
        """
        checkpoint = load_checkpoint(find_checkpoint(run, None))
        data, model = checkpoint.config.data, checkpoint.config.model
        images, annotations = val_set_of(run, data)
        evaluation = Evaluation(RunDirectory(run).evaluation)
        if machine is not None:
            evaluation = plain_evaluation_of(run, machine)
        elif not (evaluation.folder / "detections.json").is_file():
            raise ConfigError(f"{evaluation.folder}: holds no evaluation; make one with: {program()} evaluate {run}")
        return cls(
            title=run.name if title is None else title,
            run=run,
            task=make_task(model.task, checkpoint.categories, checkpoint.skeleton),
            components=model.components,
            images=images,
            annotations=annotations,
            results=evaluation.results,
            metrics=evaluation.metrics,
            limit=data.val_limit,
            machine=Machine() if machine is None else machine,
        )

    @cached_property
    def config(self) -> FitConfig:
        """How it was trained."""
        return RunDirectory(self.run).read_config()

    @cached_property
    def truth(self) -> dict[str, Any]:
        """The content of the annotation file, of the images that were looked at."""
        content: dict[str, Any] = json.loads(self.annotations.read_text())
        if self.limit is not None:
            images = content["images"][: self.limit]
            there = {image["id"] for image in images}
            annotations = [one for one in content["annotations"] if one["image_id"] in there]
            content |= {"images": images, "annotations": annotations}
        return content

    def device_name(self) -> str:
        """Return on what further evaluations run, as speed goes by it. Raises ConfigError where it is not there."""
        return name_of_device(pick_device(self.machine.device))

    def evaluate(self, inference: InferenceConfig, *, each_component: bool = False, timed: bool = False) -> Evaluation:
        """Return what the network finds when it looks at the images so; its run keeps it for the next time.

        The arguments and errors are those of `evaluation_of`.
        """
        return evaluation_of(self.run, inference, self.machine, each_component=each_component, timed=timed)

    def strong_results(self, min_score: float = MIN_SCORE) -> list[dict[str, Any]]:
        """Return the results with at least this score."""
        return [one for one in self.results if one["score"] >= min_score]


class Section(NamedTuple):
    """What an analysis gives to a report."""

    lines: list[str]
    """Of Markdown, which name the figures by their files."""
    numbers: dict[str, Any]
    """What the lines say and more, for JSON."""
    figures: dict[str, Figure | Image.Image]
    """Plots and pictures, by the names of their files."""

    def save_figures(self, folder: Path) -> None:
        """Write the figures to a folder."""
        for name, figure in self.figures.items():
            if isinstance(figure, Figure):
                figure.savefig(folder / name, dpi=120)
            else:
                figure.save(folder / name)


def mixtures_of(subjects: Sequence[Subject]) -> list[Subject]:
    """Return the networks that have a mixture. Raises ConfigError where all are single-mode bases."""
    mixtures = [subject for subject in subjects if subject.components]
    if not mixtures:
        raise ConfigError("an analysis of mixture components needs a run that has some; these are single-mode bases")
    return mixtures
