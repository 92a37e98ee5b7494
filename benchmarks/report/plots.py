"""The plots of the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report.page import AXES, by_row, in_order
from benchmarks.report.results import FLOOR, Result
from benchmarks.report.rows import OPS_TABLE
from benchmarks.ways import COMPILED

# Colours that readers with any sight tell apart (Okabe and Ito), and a marker for each.
STYLES = {
    "native": ("#0072B2", "o"),
    "triton": ("#56B4E9", "s"),
    COMPILED: ("#E69F00", "^"),
    "eager": ("#D55E00", "v"),
    FLOOR: ("#000000", "|"),
}
OTHER = ("#009E73", "D")


def draw(results: Sequence[Result], folder: Path) -> dict[str, str]:
    """Write the plots and return their file names by what they show."""
    mpl.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    tables = in_order(result for result in results if result.part == OPS_TABLE)
    growth = [result for result in results if result.part != OPS_TABLE]
    figures = {
        "floors": over_the_floor(tables),
        "growth": panels(growth, "milliseconds", lambda result: result.milliseconds),
        "memory": panels(
            [result for result in growth if result.peak_bytes],
            "MiB at the peak, above the inputs",
            lambda result: (result.peak_bytes or 0) / 2**20,
        ),
    }
    names = {}
    for name, figure in figures.items():
        names[name] = f"{name}.png"
        figure.savefig(folder / names[name], dpi=130)
    return names


def over_the_floor(results: Sequence[Result]) -> Figure:
    """Draw how many floors each way takes: one line for each workload in its first dtype."""
    rows = [row for row in by_row(results).values() if len(row) > 2]
    figure = Figure(figsize=(9, 1.1 + 0.36 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for height, row in enumerate(rows):
        axes.axhline(height, color="0.9", linewidth=0.8, zorder=0)
        for way, result in row.items():
            if way != FLOOR:
                colour, marker = STYLES.get(way, OTHER)
                label = way if way in STYLES else "in its place today"
                over = result.milliseconds / row[FLOOR].milliseconds
                axes.plot(over, height, marker, color=colour, label=label, markersize=7)
    axes.axvline(1, color="black", linewidth=1)
    axes.set(xscale="log", xlabel="times the floor (1: only the bytes are moved)")
    axes.set_yticks(range(len(rows)), [next(iter(row.values())).row for row in rows])
    axes.invert_yaxis()
    _legend(figure, axes)
    return figure


def panels(results: Sequence[Result], label: str, value: Callable[[Result], float]) -> Figure:
    """Draw a panel for each size that grows, with a line for each way."""
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    grid = figure.subplots(2, 2, sharey=True)
    for axes, (part, name) in zip(grid.flat, AXES.items(), strict=True):
        mine = [result for result in results if result.part == part]
        for way in dict.fromkeys(result.way for result in mine):
            colour, marker = STYLES.get(way, OTHER)
            line = [(result.size, value(result)) for result in mine if result.way == way]
            axes.plot(*zip(*line, strict=True), color=colour, marker=marker, label=way, linewidth=1.4)
        axes.set(xscale="log", yscale="log", xlabel=name)
        sizes = sorted({result.size for result in mine if result.size is not None})
        axes.set_xticks(sizes, map(str, sizes))
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    for axes in grid[:, 0]:
        axes.set_ylabel(label)
    _legend(figure, grid[0, 0])
    return figure


def _legend(figure: Figure, axes: Axes) -> None:
    """Draw one legend above all, each name once."""
    named = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(named.values(), named.keys(), loc="outside upper center", ncols=min(len(named), 6), frameon=False)
