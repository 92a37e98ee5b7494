"""What the demos of both tasks share: the two networks of a comparison, their table, and a sheet of predictions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from PIL import Image

from train.config.commands import DemoConfig
from train.drawing.pictures import grid
from train.synthetic.sets import SyntheticPaths
from train.tasks.tasks import Task

# Results that the analysis of components and the sample pictures are made from.
MIN_SCORE = 0.3
SAMPLES = 6


class Contender(NamedTuple):
    """One of the two trained networks."""

    title: str
    run: Path
    metrics: dict[str, float]
    results: list[dict[str, Any]]
    seconds: float


class Exhibit(Protocol):
    """A task's part of the demo."""

    def write_data(self, root: Path, *, train: int, val: int, image_size: int, seed: int) -> SyntheticPaths:
        """Draws the data set."""

    def exhibit(
        self, report: Path, config: DemoConfig, data: SyntheticPaths, contenders: Sequence[Contender]
    ) -> tuple[list[str], dict[str, Any]]:
        """Lines for report.md, whose pictures it writes to the folder `report`, and numbers for summary.json."""


def score_table(contenders: Sequence[Contender], names: Sequence[str]) -> list[str]:
    """COCO's numbers in percent, and what they mean together."""
    mixture, base = contenders
    gap = 100 * (mixture.metrics["AP"] - base.metrics["AP"])
    rows = [
        f"| {one.title} | "
        + " | ".join("none" if one.metrics[name] < 0 else f"{100 * one.metrics[name]:.1f}" for name in names)
        + f" | {one.seconds:.0f} |"
        for one in contenders
    ]
    return [
        f"| model | {' | '.join(names)} | seconds |",
        f"| --- |{' ---: |' * (len(names) + 1)}",
        *rows,
        "",
        f"The mixture's AP is {abs(gap):.1f} points {'above' if gap >= 0 else 'below'} the base's in this one run; "
        "another seed may turn a difference of a point or two.",
        "Seconds are training and evaluation together. COCO calls an object small below 32 x 32 pixels and large above "
        '96 x 96; "none": no such one is there.',
        "",
    ]


def setting(config: DemoConfig) -> str:
    """The sentence that says what both networks got."""
    return (
        f"{config.train_pictures} training and {config.val_pictures} val pictures of {config.image_size} x "
        f"{config.image_size} pixels, {config.epochs} epochs, batch {config.batch}, seed {config.seed}, "
        "the same for both."
    )


def prediction_sheet(
    data: SyntheticPaths,
    contenders: Sequence[Contender],
    components: int,
    task: Task,
) -> Image.Image:
    """The first val pictures: truth, mixture, base side by side."""
    dataset = json.loads(data.val_annotations.read_text())
    columns: list[tuple[str, list[dict[str, Any]]]] = [("truth", dataset["annotations"])]
    columns += [(one.title, [entry for entry in one.results if entry["score"] >= MIN_SCORE]) for one in contenders]
    pictures: list[Image.Image] = []
    captions: list[str] = []
    for entry in dataset["images"][:SAMPLES]:
        with Image.open(data.val_images / entry["file_name"]) as file:
            image = file.convert("RGB")
        for number, (caption, found) in enumerate(columns):
            here = [one for one in found if one["image_id"] == entry["id"]]
            pictures.append(
                task.picture(image, here, truth=number == 0, min_score=MIN_SCORE, legend=False, min_side=480)
            )
            captions.append(caption)
    return grid(pictures, len(columns), captions=captions, num_components=components)
