"""What the demo shows of each task: one entry a task."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from PIL import Image

from mdnkernels.train.contenders.jobs import Trained
from mdnkernels.train.contenders.measures import SIZE_KINDS, Measures, measure_boxes, measure_poses
from mdnkernels.train.demo.hypotheses import draw_hypotheses
from mdnkernels.train.drawing.colours import COMPONENT_COLOURS
from mdnkernels.train.drawing.plots import tidy
from mdnkernels.train.tasks import TaskName

BASE_COLOUR, MIXTURE_COLOUR = COMPONENT_COLOURS[5], COMPONENT_COLOURS[0]


class Exhibit(NamedTuple):
    """A task's part of the demo."""

    heading: str
    scores: str
    """What COCO's numbers are of this task."""
    measure: Callable[[Trained], Measures]
    headline: Callable[[Measures, Measures], str]
    """Says in plain words what the mixture did that the base could not, from the measures of both, the base's first."""
    show: Callable[[Axes, Measures, Measures], None]
    """Draws it."""
    picture: Callable[[Trained, Trained], Image.Image] | None
    """Draws what the networks say of some pictures, the base's first, beside it."""
    analyses: tuple[str, ...]
    """The report's sections, by their names in `train.analysis.registry`."""


def say_boxes(base: Measures, mixture: Measures) -> str:
    """Compare how well boxes of the rare kinds fit, and say whether a component stands for each kind."""
    fitting = [name for name in ("small", "large") if mixture[f"overlap {name}"] > base[f"overlap {name}"]]
    first = (
        f"the mixture's boxes fit the rare {' and '.join(fitting)} objects better than the base's"
        if fitting
        else "the mixture's boxes fit the rare sizes no better than the base's in this run"
    )
    numbers = "; ".join(
        f"{what}, base to mixture: "
        + ", ".join(f"{name} {base[f'{what} {name}']:.1f} to {mixture[f'{what} {name}']:.1f}" for name in SIZE_KINDS)
        for what in ("overlap", "AP")
    )
    split = mixture["pearson"]
    used = (
        "one component takes all objects"
        if math.isnan(split)
        else f"{mixture['used']:.0f} components divide the objects by their size (correlation {split:.2f})"
    )
    return f"**Boxes**: {first} ({numbers}); {used}."


def show_boxes(panel: Axes, base: Measures, mixture: Measures) -> None:
    """Draw the overlap with objects of each kind of size, of the base's boxes and of the mixture's."""
    names = [f"overlap {name}" for name in SIZE_KINDS]
    _pairs(panel, SIZE_KINDS, [base[name] for name in names], [mixture[name] for name in names])
    panel.set_title("Boxes: overlap with objects of each size", fontsize=11)
    panel.set_ylabel("intersection over union, percent")


def say_poses(base: Measures, mixture: Measures) -> str:
    """Compare how near the poses are to one of the two that a figure can have whose view cannot be told."""
    gain = mixture["either hidden"] - base["either hidden"]
    first = (
        "where nothing tells front from back, the mixture answers with one of the two poses that are possible, and the "
        "base with something between"
        if gain > 0
        else "where nothing tells front from back, the mixture comes no nearer than the base to one of the two poses "
        "that are possible, in this run"
    )
    numbers = f"{base['either hidden']:.2f} to {mixture['either hidden']:.2f}"
    return (
        f"**Poses**: {first} (similarity to the nearer of the two, base to mixture: {numbers}; AP of the regression "
        f"alone: {base['AP regressed']:.1f} to {mixture['AP regressed']:.1f}; association of component and view where "
        f"it can be told: {mixture['cramers v']:.2f} of 1)."
    )


def show_poses(panel: Axes, base: Measures, mixture: Measures) -> None:
    """Draw the similarity to the nearer possible pose where the view can be told, and where it cannot."""
    names = ("either told", "either hidden")
    values = ([one[name] for name in names] for one in (base, mixture))
    _pairs(panel, ("view can be told", "view cannot be told"), *values)
    panel.set_title("Poses: similarity to the nearer possible pose", fontsize=11)
    panel.set_ylabel("OKS")


def _pairs(panel: Axes, names: Sequence[str], base: Sequence[float], mixture: Sequence[float]) -> None:
    for shift, values, colour, label in (
        (-0.2, base, BASE_COLOUR, "single-mode base"),
        (0.2, mixture, MIXTURE_COLOUR, "mixture"),
    ):
        bars = panel.bar([place + shift for place in range(len(names))], values, 0.38, color=colour, label=label)
        panel.bar_label(bars, fmt="%.1f" if max(values) > 1 else "%.2f", fontsize=9)
    panel.set_xticks(range(len(names)), names)
    panel.margins(y=0.25)
    panel.legend(loc="upper left", ncols=2, frameon=False, fontsize=9)
    tidy(panel)


EXHIBITS: dict[TaskName, Exhibit] = {
    "detection": Exhibit(
        "Boxes",
        "COCO box AP",
        measure=measure_boxes,
        headline=say_boxes,
        show=show_boxes,
        picture=None,
        analyses=("scales", "predictions", "training"),
    ),
    "pose": Exhibit(
        "Poses",
        "COCO keypoint AP (OKS)",
        measure=measure_poses,
        headline=say_poses,
        show=show_poses,
        picture=draw_hypotheses,
        analyses=("views", "predictions", "training"),
    ),
}
