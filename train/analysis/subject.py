"""What analyses are made of and what they give: trained networks with their results, and sections of a report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from PIL import Image

from train.errors import ConfigError
from train.loop.network import find_checkpoint
from train.run.checkpoint import load_checkpoint
from train.tasks import make_task
from train.tasks.base import Task

# Results with a lower score are left out of analyses and of their pictures.
MIN_SCORE = 0.3


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
    metrics: dict[str, float]
    """COCO's numbers for them, by name."""

    @classmethod
    def of_run(cls, run: Path, title: str | None = None) -> Subject:
        """Return the network of a run directory, with what its last evaluation found in the run's val set.

        title: its name where None. Raises ConfigError where the run has no val set or no evaluation.
        """
        checkpoint = load_checkpoint(find_checkpoint(run, None))
        data, model = checkpoint.config.data, checkpoint.config.model
        if data.val_images is None or data.val_annotations is None:
            raise ConfigError(f"{run}: was trained without a val set, and nothing can be compared with a truth")
        folder = run / "evaluation"
        if not (folder / "detections.json").is_file():
            raise ConfigError(f"{folder}: holds no evaluation; make one with: python -m train evaluate {run}")
        return cls(
            title=run.name if title is None else title,
            run=run,
            task=make_task(model.task, checkpoint.categories, checkpoint.skeleton),
            components=model.components,
            images=data.val_images,
            annotations=data.val_annotations,
            results=json.loads((folder / "detections.json").read_text()),
            metrics=json.loads((folder / "metrics.json").read_text()),
        )

    @cached_property
    def truth(self) -> dict[str, Any]:
        """The content of the annotation file."""
        content: dict[str, Any] = json.loads(self.annotations.read_text())
        return content

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
