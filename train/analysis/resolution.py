"""Accuracy against speed over input sizes and numbers of scales: the paper's Fig. 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from mdnkernels.train.analysis.subject import Section, Subject
from mdnkernels.train.analysis.tables import coco_cell, images_a_second, markdown_table
from mdnkernels.train.config.options import InferenceConfig
from mdnkernels.train.drawing.colours import COMPONENT_COLOURS
from mdnkernels.train.drawing.plots import new_plot, set_log_pixels, tidy
from mdnkernels.train.inference.evaluation import views_of
from mdnkernels.train.loop.network import build_network

# Of the side that the network was trained with: 512, 768 and 1024 for the paper's 512.
SIDES = (1.0, 1.5, 2.0)

# The factors of CenterNet's test at several scales, and three and one among them.
SCALES: tuple[tuple[float, ...], ...] = ((1.0,), (0.5, 1.0, 1.5), (0.5, 0.75, 1.0, 1.25, 1.5))

ORIGINAL = "original"

_STYLES = ("-", "--", ":")
_MARKERS = "osDv"


def analyse(subjects: Sequence[Subject]) -> Section:
    """Evaluate each network at each size and number of scales; show AP against images a second."""
    name = f"{subjects[0].task.name}_resolution.png"
    points = {subject.title: measure_grid(subject) for subject in subjects}
    rows = [
        [
            title,
            point["input"],
            str(point["scales"]),
            coco_cell(point["AP"]),
            images_a_second(point["images_per_second"]),
        ]
        for title, grid in points.items()
        for point in grid
    ]
    factors = "; ".join(", ".join(f"{factor:g}" for factor in scales) for scales in SCALES)
    lines = [
        "### Accuracy against speed, over input sizes and scales",
        "",
        "Images are fitted into squares of so many pixels, or keep their size (original, one image a step). Several "
        f"scales are merged by soft-NMS; the factors are {factors}. Images a second: the network and its decoding "
        f"on {subjects[0].device_name()}.",
        "",
        f"![AP against images a second]({name})",
        "",
        *markdown_table(["", "input", "scales", "AP", "images/s"], rows, words=2),
    ]
    return Section(lines, points, {name: draw_trade_off(points)})


def measure_grid(subject: Subject) -> list[dict[str, Any]]:
    """Return AP and images a second at each size and number of scales: {"input", "scales", "AP", ...}."""
    grid = []
    for side, config in resolutions(subject).items():
        for scales in SCALES:
            # The factor on the side and the scale are one number to the network.
            look = InferenceConfig(
                resolution=config.resolution, scales=tuple(factor * config.scales[0] for factor in scales)
            )
            metrics = subject.evaluate(look, timed=True).metrics
            own = {name: metrics[name] for name in ("AP", "images_per_second")}
            grid.append({"input": side, "scales": len(scales), **own})
    return grid


def resolutions(subject: Subject) -> dict[str, InferenceConfig]:
    """Return how to look at images at each size, by the side in pixels that the network then sees, or ORIGINAL."""
    trained, divisor = subject.config.data.input_size, build_network(subject.config, subject.task).divisor
    found = {}
    for factor in SIDES:
        config = InferenceConfig(scales=(factor,))
        ((side, _),) = (place.size for place in views_of(config, trained, divisor).of((trained, trained)))
        found[str(side)] = config
    return {**found, ORIGINAL: InferenceConfig(resolution="original")}


def draw_trade_off(points: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Draw AP (percent) over images a second: a colour for each network, a line for each number of scales.

    points: title of a network to what `measure_grid` gives.
    """
    figure = new_plot(7.5, 5.0)
    panel = figure.subplots()
    for number, (title, grid) in enumerate(points.items()):
        colour = COMPONENT_COLOURS[number % len(COMPONENT_COLOURS)]
        for style, count in zip(_STYLES, sorted({point["scales"] for point in grid}), strict=False):
            own = [point for point in grid if point["scales"] == count]
            speed, accuracy = zip(*((one["images_per_second"], 100 * max(one["AP"], 0)) for one in own), strict=True)
            label = f"{title}, {count} scale{'s' * (count > 1)}"
            # The images' own sizes are no step on the way of the squares' sides.
            squares = [place for place, one in enumerate(own) if one["input"] != ORIGINAL]
            panel.plot(
                [speed[place] for place in squares],
                [accuracy[place] for place in squares],
                color=colour,
                linestyle=style,
                linewidth=1.5,
                label=label,
            )
            for marker, x, y in zip(_MARKERS, speed, accuracy, strict=False):
                panel.plot([x], [y], color=colour, marker=marker, markersize=5)
    sides = list(dict.fromkeys(point["input"] for grid in points.values() for point in grid))
    for marker, side in zip(_MARKERS, sides, strict=False):
        panel.plot([], [], color="#555555", marker=marker, linestyle="", label=side)
    speeds = [point["images_per_second"] for grid in points.values() for point in grid]
    set_log_pixels(panel, min(speeds) / 1.2, max(speeds) * 1.2)
    panel.set_xlabel("images a second (log axis)")
    panel.set_ylabel("AP (%)")
    tidy(panel)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return figure
