"""Accuracy and images a second with and without flip, and of poses refinement: the paper's Tables 2 and 7."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mdnkernels.train.analysis.published import SOURCE, published_of
from mdnkernels.train.analysis.subject import Section, Subject
from mdnkernels.train.analysis.tables import coco_cell, images_a_second, markdown_table
from mdnkernels.train.config.options import InferenceConfig
from mdnkernels.train.data.skeletons import check_mirroring
from mdnkernels.train.errors import ConfigError


def analyse(subjects: Sequence[Subject]) -> Section:
    """Evaluate each network with and without flip, and where it finds poses with and without refinement.

    Keypoints of which nothing tells left from right have no flip, as `evaluate` refuses it.
    """
    poses = subjects[0].task.skeleton is not None
    rows: list[list[str]] = []
    numbers: dict[str, Any] = {}
    names = subjects[0].task.metrics
    for subject in subjects:
        numbers[subject.title] = []
        for refine in (True, False) if poses else (True,):
            for flip in (False, True) if _can_flip(subject) else (False,):
                metrics = subject.evaluate(InferenceConfig(flip=flip, refine=refine), timed=True).metrics
                entry = {"flip": flip, **({"refine": refine} if poses else {})}
                kept = {name: metrics[name] for name in (*names, "images_per_second")}
                numbers[subject.title].append({**entry, **kept})
                options = [_yes(value) for value in entry.values()]
                rows.append([subject.title, *options, *_cells(metrics, names)])
        for published in published_of(subject):
            options = [_yes(published.flip), *["yes"] * poses]
            nothing = [""] * (len(names) - 1)
            rows.append(
                ["published", *options, coco_cell(published.AP), *nothing, images_a_second(published.images_per_second)]
            )
    head = ["", "flip", *["refined"] * poses]
    machine = subjects[0].machine
    lines = [
        "### Accuracy and speed",
        "",
        "COCO's numbers in percent; images a second of the network and its decoding, without reading and warping the "
        f"images, {machine.batch} a step, on {subjects[0].device_name()}.",
        "",
        *markdown_table([*head, *names, "images/s"], rows, words=len(head)),
    ]
    if any(map(published_of, subjects)):
        lines += [f"Published: {SOURCE}, one image a step.", ""]
    return Section(lines, numbers, {})


def _can_flip(subject: Subject) -> bool:
    skeleton = subject.task.skeleton
    if skeleton is None:
        return True
    try:
        check_mirroring(skeleton, "--flip", "leave it out")
    except ConfigError:
        return False
    return True


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _cells(metrics: dict[str, Any], names: Sequence[str]) -> list[str]:
    return [*(coco_cell(metrics[name]) for name in names), images_a_second(metrics["images_per_second"])]
