"""The figures of the findings."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mdnkernels.train.contenders.jobs import contender_title
from mdnkernels.train.contenders.measures import SIZE_KINDS
from mdnkernels.train.drawing.colours import COMPONENT_COLOURS
from mdnkernels.train.drawing.plots import new_plot, tidy
from mdnkernels.train.reproduce.findings import KNOB_SCORES, SCORES, Results
from mdnkernels.train.reproduce.statistics import Estimate, estimate

KNOB_NAMES = {
    "detection": "spread of the sizes: 0 all alike, 1 of 4, 10 and 20 cells",
    "pose": "share of figures whose view cannot be told",
}


def contenders_figure(results: Results) -> Figure:
    """Draw how far each mixture's AP lies above the base's in the main world: each seed, the mean and its interval.

    What a seed does to all contenders alike is not in these differences.
    """
    plan = results.plan
    titles = SCORES[plan.kind]
    figure = new_plot(0.8 + 3.4 * len(titles), 3.2)
    panels = figure.subplots(1, len(titles), squeeze=False)[0]
    counts = [count for count in plan.components if count]
    for panel, (name, title) in zip(panels, titles.items(), strict=True):
        for place, count in enumerate(counts):
            gains = results.gains(name, count, 0, plan.main)
            panel.plot([place + 0.15] * len(gains), gains, "o", color="#999999", markersize=4, zorder=1)
            _mark(panel, place, estimate(gains), COMPONENT_COLOURS[0])
        panel.axhline(0, color=COMPONENT_COLOURS[5], linewidth=1.2)
        panel.set_xticks(range(len(counts)), [contender_title(count) for count in counts])
        panel.set_xlim(-0.5, len(counts) - 0.5)
        panel.set_title(title, fontsize=11)
        tidy(panel)
    panels[0].set_ylabel("points above the base")
    return figure


def kinds_figure(results: Results) -> Figure:
    """Draw AP and overlap of each kind of size for the contenders that are trained in every world."""
    counts = results.plan.followed
    figure = new_plot(9.5, 3.2)
    panels = figure.subplots(1, 2)
    width = 0.8 / len(counts)
    for panel, what in zip(panels, ("AP", "overlap"), strict=True):
        for number, count in enumerate(counts):
            found = [results.estimate(f"{what} {name}", count) for name in SIZE_KINDS]
            panel.bar(
                np.arange(len(SIZE_KINDS)) + (number - (len(counts) - 1) / 2) * width,
                [one.mean for one in found],
                0.92 * width,
                yerr=[0.0 if math.isinf(one.half) else one.half for one in found],
                color=COMPONENT_COLOURS[(5, 4, 0)[number]],
                ecolor="#333333",
                capsize=2,
                label=contender_title(count) if panel is panels[0] else None,
            )
        panel.set_xticks(range(len(SIZE_KINDS)), SIZE_KINDS)
        panel.set_title(f"{what}, percent", fontsize=11)
        panel.set_ylim(bottom=0)
        tidy(panel)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return figure


def knob_figure(results: Results) -> Figure:
    """Draw the gain of the mixture over one component and over the base against the world's knob."""
    plan = results.plan
    scores = KNOB_SCORES[plan.kind]
    figure = new_plot(1.0 + 4.5 * len(scores), 3.2)
    panels = figure.subplots(1, len(scores), squeeze=False)[0]
    for panel, score in zip(panels, scores, strict=True):
        _draw_gain(panel, results, score)
        panel.set_title(SCORES[plan.kind][score], fontsize=11)
    panels[0].legend(frameon=False, fontsize=9)
    panels[0].set_ylabel(f"{contender_title(plan.mixture)}'s gain, points")
    return figure


def _draw_gain(panel: Axes, results: Results, score: str) -> None:
    """Draw a score's gain over one component and over the base at every value of the knob."""
    plan = results.plan
    knobs = [world.knob for world in plan.knob]
    width = max(knobs) - min(knobs) or 1.0
    for number, (other, colour) in enumerate(((1, COMPONENT_COLOURS[0]), (0, COMPONENT_COLOURS[5]))):
        found = [estimate(results.gains(score, plan.mixture, other, world)) for world in plan.knob]
        places = [knob + (number - 0.5) * 0.02 * width for knob in knobs]
        panel.plot(places, [one.mean for one in found], color=colour, label=f"over {contender_title(other)}")
        for place, one in zip(places, found, strict=True):
            _mark(panel, place, one, colour)
    panel.axhline(0, color="#333333", linewidth=0.8)
    panel.set_xticks(knobs)
    panel.set_xlabel(KNOB_NAMES[plan.task])
    tidy(panel)


def _mark(panel: Axes, place: float, one: Estimate, colour: str) -> None:
    """Draw a mean and its interval, where there is one."""
    half = 0.0 if math.isinf(one.half) else one.half
    panel.errorbar([place], [one.mean], yerr=[half], color=colour, marker="s", markersize=5, capsize=3, zorder=2)
