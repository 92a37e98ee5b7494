"""Parts of the demo's report that are of the comparison itself: the setting, and the table of scores."""

from __future__ import annotations

from collections.abc import Sequence

from mdnkernels.train.contenders.jobs import Trained


def score_table(contenders: Sequence[Trained]) -> list[str]:
    """Return the lines with COCO's numbers of the mixture and the base in percent, and what they mean together."""
    mixture, base = (one.subject for one in contenders)
    names = mixture.task.metrics
    gap = 100 * (mixture.metrics["AP"] - base.metrics["AP"])
    moved = "Keypoints have moved to the peaks of their heatmaps here, as evaluations have it; the first lines are of "
    moved += "poses before that."
    rows = [
        f"| {one.subject.title} | "
        + " | ".join(
            "none" if one.subject.metrics[name] < 0 else f"{100 * one.subject.metrics[name]:.1f}" for name in names
        )
        + f" | {one.seconds:.0f} |"
        for one in contenders
    ]
    return [
        f"| model | {' | '.join(names)} | seconds |",
        f"| --- |{' ---: |' * (len(names) + 1)}",
        *rows,
        "",
        f"The mixture's AP is {abs(gap):.1f} points {'above' if gap >= 0 else 'below'} the base's in this one run; "
        "another seed may turn a difference of a point or two. `make reproduce` compares several.",
        "Seconds are training and evaluation together. COCO calls an object small below 32 x 32 pixels and large above "
        '96 x 96; "none": no such one is there.',
        *([] if mixture.task.skeleton is None else [moved]),
        "",
    ]


def setting(one: Trained) -> str:
    """Return the sentence that says what both networks got."""
    used = one.job.world.setting
    return (
        f"{used.train_pictures} training and {used.val_pictures} val pictures of {used.image_size} x {used.image_size} "
        f"pixels, {used.epochs} epochs, batch {used.batch}, seed {one.job.seed}, started from the data, the same for "
        "both."
    )
