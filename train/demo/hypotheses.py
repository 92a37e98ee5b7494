"""The poses that each component of a mixture holds possible, where nothing tells which of them is true."""

from __future__ import annotations

import dataclasses

from PIL import Image

from mdnkernels.train.analysis.subject import MIN_SCORE
from mdnkernels.train.contenders.jobs import REGRESSED, Trained
from mdnkernels.train.drawing.pictures import grid

FIGURES = 2


def draw_hypotheses(base: Trained, mixture: Trained) -> Image.Image:
    """Draw figures whose view cannot be told: the truth, the base's pose, and the pose of each component.

    As they are regressed: peaks of the heatmaps would draw the poses to where some keypoint surely is.
    The first val pictures with such a figure in which the mixture finds one; fewer than FIGURES where there are fewer.
    """
    subject = mixture.subject
    hidden = {entry["image_id"]: entry for entry in subject.truth["annotations"] if entry["cue_hidden"]}
    found = {entry["image_id"] for entry in subject.strong_results()}
    columns = [("truth", list(hidden.values()))]
    columns.append((base.job.title, base.subject.evaluate(REGRESSED).results))
    for number in range(subject.components):
        inference = dataclasses.replace(REGRESSED, component=number)
        results = subject.evaluate(inference).results
        columns.append((f"component {number}", results))
    pictures: list[Image.Image] = []
    captions: list[str] = []
    shown = [entry for entry in subject.truth["images"] if entry["id"] in hidden.keys() & found]
    # Without one, pictures without poses still say which columns there are.
    for entry in (shown or subject.truth["images"])[:FIGURES]:
        with Image.open(subject.images / entry["file_name"]) as file:
            image = file.convert("RGB")
        for number, (caption, everything) in enumerate(columns):
            here = [one for one in everything if one["image_id"] == entry["id"]]
            if number:
                here = sorted(here, key=lambda one: -float(one["score"]))[:1]
            pictures.append(
                subject.task.picture(
                    image,
                    here,
                    truth=number == 0,
                    min_score=MIN_SCORE,
                    legend=False,
                    min_side=240,
                    ellipse_score=1.1,
                )
            )
            captions.append(caption)
    return grid(pictures, len(columns), captions=captions)
