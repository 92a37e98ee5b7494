"""Pictures of what networks find, beside the truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from train.analysis.subject import MIN_SCORE, Section, Subject
from train.drawing.pictures import grid

SAMPLES = 6


def analyse(subjects: Sequence[Subject]) -> Section:
    """Show the first pictures of the data set with the truth and each network's results, coloured by component."""
    name = f"{subjects[0].task.name}_predictions.png"
    lines = [
        f"### Predictions on the first val pictures (score >= {MIN_SCORE}), coloured by component",
        "",
        f"![predictions]({name})",
        "",
    ]
    return Section(lines, {}, {name: draw_side_by_side(subjects)})


def draw_side_by_side(subjects: Sequence[Subject]) -> Image.Image:
    """Draw a row for each of the first pictures: the truth, then what each network found."""
    one = subjects[0]
    columns: list[tuple[str, list[dict[str, Any]]]] = [("truth", one.truth["annotations"])]
    columns += [(subject.title, subject.strong_results()) for subject in subjects]
    pictures: list[Image.Image] = []
    captions: list[str] = []
    for entry in one.truth["images"][:SAMPLES]:
        with Image.open(one.images / entry["file_name"]) as file:
            image = file.convert("RGB")
        for number, (caption, found) in enumerate(columns):
            here = [result for result in found if result["image_id"] == entry["id"]]
            pictures.append(
                one.task.picture(image, here, truth=number == 0, min_score=MIN_SCORE, legend=False, min_side=480)
            )
            captions.append(caption)
    components = max(subject.components for subject in subjects)
    return grid(pictures, len(columns), captions=captions, num_components=components)
