"""The text of docs/findings.md: what was done, what was measured, and what follows from it by the rules."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib import metadata

from mdnkernels.train.contenders.jobs import Trained, contender_title
from mdnkernels.train.contenders.worlds import World
from mdnkernels.train.reproduce.findings import KNOB_SCORES, NEGLIGIBLE, SCORES, Finding, Results
from mdnkernels.train.reproduce.plan import Plan
from mdnkernels.train.reproduce.statistics import CONFIDENCE
from mdnkernels.train.tasks import TaskName

PACKAGES = ("torch", "numpy", "pillow", "pycocotools")

HEADINGS: dict[str, str] = {
    "sizes": "Boxes, sizes whatever the category",
    "kinds": "Boxes, a category for each size",
    "views": "Poses",
}

ABOUT: dict[str, str] = {
    "sizes": "Textured shapes of four categories on textured backgrounds. {objects}. Each has one of three kinds "
    "of size, whatever its category: of those tried 86 % are middle, 7 % small and 7 % large. The knob is the spread "
    "of the kinds: at 1 they are of 4, 10 and 20 output cells of {cell} pixels, at 0 all are of 10. AP is COCO's of "
    "boxes. As the middle kind is nearly all of it, AP is given for each kind too, and as the mean of the three, in "
    "which a rare kind counts as much as a common one, as a rare category does in COCO's AP. This world shows what "
    "components stand for, scale or categories.",
    "kinds": "Plain ellipses and rectangles on grey. {objects}. The kinds of size and their shares are those of the "
    "other world, but each kind is a category of its own: the small objects are red, the middle ones green and the "
    "large ones blue. AP, the mean over the categories, is then for two thirds of rare sizes, as in photographs of "
    "three things of which two are rare; and as every object is easy to find and to name, it depends on the sizes that "
    "are regressed. This world shows what AP gains by a mixture, and nothing of scale against category. It was made "
    "for that, after the other had left it open, and is the second draft. The first, of wider kinds, with windows "
    "that cut large objects off and 14 epochs, left it open too (seeds 10 to 12: MDN_3 above the base +5.0 ± 9.5, "
    "above MDN_1 +3.0 ± 17.5): small objects gained 9 to 27 points of AP in every seed, large ones lost 5 to 22 in two "
    "of three, as a component of few and unlike objects hardly leaves its centre. The second was chosen without them, "
    "on seed 200.",
    "views": "One articulated figure that fills its picture, seen from the front or from the back. The view is told by "
    "a face or hair and by what is on the chest or the back; the knob is the share of figures of which nothing tells "
    "it, so that left and right are a toss-up. AP is COCO's of keypoints (OKS).",
}

_BOX_COLUMNS = (
    ("AP", "AP", 1),
    ("AP small", "AP small", 1),
    ("AP middle", "AP middle", 1),
    ("AP large", "AP large", 1),
    ("AP kinds", "AP, mean of kinds", 1),
    ("overlap small", "overlap small", 1),
    ("overlap middle", "overlap middle", 1),
    ("overlap large", "overlap large", 1),
    ("pearson", "r scale", 2),
    ("category pearson", "r category", 2),
    ("largest share", "largest share", 2),
)

COLUMNS: dict[str, tuple[tuple[str, str, int], ...]] = {
    "sizes": _BOX_COLUMNS,
    "kinds": tuple(column for column in _BOX_COLUMNS if column[0] != "AP kinds"),
    "views": (
        ("AP", "AP", 1),
        ("AP regressed", "AP, regression alone", 1),
        ("OKS told", "OKS, view told", 2),
        ("OKS hidden", "OKS, not told", 2),
        ("either hidden", "either, not told", 2),
        ("cramers v", "V of view", 2),
        ("classifier", "V, classifier", 2),
        ("weight told", "weight, told", 2),
        ("weight hidden", "weight, not told", 2),
        ("sigma back over front", "sigma back/front", 2),
        ("largest share", "largest share", 2),
    ),
}
"""The table of a kind of world: measure, heading, digits."""

LEGENDS: dict[TaskName, str] = {
    "detection": "Overlap: mean intersection over union, in percent, of the objects of a kind with the strongest box "
    "whose centre lies in the middle half of theirs, whatever its category, 0 where there is none: how good the sizes "
    "are, apart from categories and scores. r scale: Pearson correlation of log size with the component of a "
    "detection, ranked by median size; r category: with its category, ranked alike. Largest share: of the detections, "
    "that of the component that is taken most.",
    "pose": "AP is of poses whose keypoints have moved to the peaks of their heatmaps, as evaluations have it by "
    "default, the paper's too. All else is of the regression alone, before that. OKS is the mean similarity of a found "
    "figure to the truth; either: to the nearer of the truth and its left-right exchange. V of view: Cramer's V of "
    "component and view where it can be told, 1 where one says the other; classifier: of one of front and back, on the "
    "same backbone, pictures and steps, which no choice of a component can surpass but by chance. Weight: the mixing "
    "weight of the component that is taken. Largest share: of the figures, that of the component that is taken most.",
}


def introduction(command: str, date: str, seconds: float) -> list[str]:
    """Return what stands before the worlds: how the file came about, on what, and how to read it."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    return [
        "# Findings",
        "",
        "What of the paper's findings shows in synthetic worlds that are small enough for two cores. This file was "
        f"written by `{command}`; every sentence on a finding follows from the numbers by a rule in "
        "`train/reproduce/findings.py`.",
        "",
        f"- {date}, {os.cpu_count()} CPU threads ({platform.machine()}), one for each training; "
        f"{seconds / 3600:.1f} hours of training and evaluation in all.",
        f"- Python {platform.python_version()}, {versions}.",
        "- Contenders: the CenterNet base, one mode with an L1 loss, and MDN_M, a mixture of M Gaussian components. "
        "All start from the data: the base at the mean of the targets, a mixture at their clusters by k-means. Of one "
        "world and seed they get the same pictures, order, augmentation and number of steps.",
        f"- Numbers are means over seeds ± half of the {100 * CONFIDENCE:.0f} % interval (Student's t). A seed draws "
        "pictures, weights, order and augmentation anew. Differences are of networks with the same seeds. One is shown "
        "where its interval does not hold 0, and a claim of no gain where the interval ends below "
        f"{NEGLIGIBLE:g} points; with few seeds only large ones can be.",
        "- Claims on accuracy, scale, view, the back's uncertainty and collapse are the paper's; those on the knobs "
        "are what its reasoning leads to.",
        "- Worlds and settings were chosen on the seeds 0, 1, 2, 100, 101, 200 and 201.",
        "",
    ]


def summary(found: Sequence[tuple[str, Sequence[Finding]]]) -> list[str]:
    """Return the table of all findings. found: those of each kind of world."""
    lines = ["## In short", "", "| | claim | here | measured |", "| --- | --- | --- | --- |"]
    for kind, some in found:
        lines += [f"| {HEADINGS[kind]} | {one.claim} | **{one.verdict}** | {one.measured} |" for one in some]
    return [*lines, ""]


def task_section(
    results: Results, found: Sequence[Finding], trained: Sequence[Trained], figures: Sequence[str]
) -> list[str]:
    """Return the part of a kind of world. figures: Markdown of the figures, in their order."""
    plan = results.plan
    lines = [f"## {HEADINGS[plan.kind]}", "", about(plan.main), "", setting(plan, trained), ""]
    lines += [f"### {world_title(plan.main)}: all contenders", "", *contender_table(results, plan.main), ""]
    lines += [LEGENDS[plan.task], "", *difference_table(results), ""]
    lines += [line for figure in figures for line in (figure, "")]
    if len(plan.knob) > 1:
        lines += ["### Gain against the knob", ""]
        for score in KNOB_SCORES[plan.kind]:
            name = SCORES[plan.kind][score]
            lines += [f"{name[0].upper()}{name[1:]}:", "", *knob_table(results, score), ""]
    lines += ["### What agrees, what does not, and why", ""]
    lines += [f"- {_sentence(one)}" for one in found]
    return [*lines, ""]


def about(world: World) -> str:
    """Return what a world shows."""
    scene, size = world.scene, world.setting.image_size
    objects = f"A picture of {size} x {size} pixels has {scene.min_objects} to {scene.max_objects} of them"
    return ABOUT[world.kind].format(objects=objects, cell=4)


def world_title(world: World) -> str:
    """Return what a heading calls a world."""
    return f"Spread {world.knob:g}" if world.task == "detection" else f"View hidden of {world.knob:.0%}"


def setting(plan: Plan, trained: Sequence[Trained]) -> str:
    """Return the sentences that say what every network got, and how long it took."""
    used = plan.main.setting
    times = [one.cpu_seconds for one in trained]
    return (
        f"Seeds {plan.seeds[0]} to {plan.seeds[-1]}; {used.train_pictures} training and {used.val_pictures} val "
        f"pictures of {used.image_size} x {used.image_size} pixels; {used.arch}, {used.epochs} epochs, batch "
        f"{used.batch}, learning rate {used.lr:g}, a tenth for the last fifth. {len(trained)} networks, "
        f"{min(times):.0f} to {max(times):.0f} seconds of CPU time each for training and evaluation."
    )


def contender_table(results: Results, world: World) -> list[str]:
    """Return the measures of every contender in the main world."""
    columns = COLUMNS[results.plan.kind]
    lines = [
        f"| | {' | '.join(heading for _, heading, _ in columns)} |",
        f"| --- |{' ---: |' * len(columns)}",
    ]
    for count in results.plan.components:
        cells = [results.estimate(name, count, world).text(digits) for name, _, digits in columns]
        lines.append(f"| {contender_title(count)} | {' | '.join(cells)} |")
    return lines


def difference_table(results: Results) -> list[str]:
    """Return how far each mixture lies above the base and above one component."""
    plan = results.plan
    scores = SCORES[plan.kind]
    headings = [f"{name} above {contender_title(other)}" for name in scores.values() for other in (0, 1)]
    lines = [f"| difference | {' | '.join(headings)} |", f"| --- |{' ---: |' * len(headings)}"]
    for count in plan.components:
        if count == 0:
            continue
        cells = [
            "" if other == count else results.difference(score, count, other).text(sign=True)
            for score in scores
            for other in (0, 1)
        ]
        lines.append(f"| {contender_title(count)} | {' | '.join(cells)} |")
    return lines


def knob_table(results: Results, score: str) -> list[str]:
    """Return a score of the followed contenders at every value of the knob, and the mixture's gain."""
    plan = results.plan
    titles = [contender_title(count) for count in plan.followed]
    mixture = contender_title(plan.mixture)
    lines = [
        f"| knob | {' | '.join(titles)} | {mixture} above base | {mixture} above MDN_1 |",
        f"| ---: |{' ---: |' * (len(titles) + 2)}",
    ]
    for world in plan.knob:
        cells = [results.estimate(score, count, world).text() for count in plan.followed]
        cells += [results.difference(score, plan.mixture, other, world).text(sign=True) for other in (0, 1)]
        lines.append(f"| {world.knob:g} | {' | '.join(cells)} |")
    return lines


def _sentence(one: Finding) -> str:
    text = f"**{one.verdict[0].upper()}{one.verdict[1:]}**: {one.claim}. Measured: {one.measured}."
    return f"{text} Beside it: {one.why}." if one.why else text
