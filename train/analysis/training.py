"""How the losses of networks fall in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mdnkernels.train.analysis.subject import Section, Subject
from mdnkernels.train.drawing.colours import COMPONENT_COLOURS
from mdnkernels.train.drawing.plots import new_plot, tidy
from mdnkernels.train.errors import ConfigError
from mdnkernels.train.run.log import read_log

_LINE_STYLES = ("-", "--", ":", "-.")


def analyse(subjects: Sequence[Subject]) -> Section:
    """Show the losses that the runs have logged, a panel for each. Raises ConfigError where they have logged none."""
    name = f"{subjects[0].task.name}_training_curves.png"
    histories = {subject.title: read_log(subject.run / "log.jsonl") for subject in subjects}
    if not any(_named(key, "loss/") for records in histories.values() for record in records for key in record):
        raise ConfigError("no run has logged a loss; --log-every of fit is the steps between two records")
    lines = ["### Training", "", f"![training curves]({name})", ""]
    return Section(lines, {}, {name: training_curves(histories)})


def training_curves(
    histories: Mapping[str, Sequence[Mapping[str, float]]], *, prefix: str = "loss/", smoothing: float = 0.015
) -> Figure:
    """Draw a panel for each named loss, with every run that has it: a smoothed line over the faint recorded values.

    The smooth line at a record is the mean of the records around it under a Gaussian window, so it does not lag. A
    panel's height leaves out each run's first twentieth and rare outliers, so that they do not flatten the rest.

    Args:
        histories: name of a run to its records in any order, each with "step" and any of the losses, such as
            `{"step": 10, "loss/heatmap": 1.2}`. Values that are not finite are left out.
        prefix: start of the keys that are drawn; the rest of a key is its panel's title.
        smoothing: the window's standard deviation as a share of a run's records; 0 for no smoothing.

    Returns:
        The figure, to be saved with `figure.savefig(path)`.

    Raises:
        ValueError: no record has a key that starts with `prefix`, or one of those has no "step".
    """
    keys = sorted(
        {key for records in histories.values() for record in records for key in record if _named(key, prefix)}
    )
    if not keys:
        raise ValueError(f"histories holds no record with a key that starts with {prefix!r}: nothing to draw")
    columns = 2 if len(keys) == 4 else min(len(keys), 3)
    rows = -(-len(keys) // columns)
    figure = new_plot(4.0 * columns, 3.0 * rows + 0.4)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, key in zip(panels, keys, strict=False):
        _curves(panel, histories, key, smoothing)
        panel.set_title(key.removeprefix(prefix), fontsize=11)
        panel.set_xlabel("step")
        tidy(panel)
    for panel in panels[len(keys) :]:
        panel.set_visible(False)
    panels[0].set_ylabel("loss")
    handles = {
        handle.get_label(): handle for panel in panels for handle in panel.get_lines() if _named(handle.get_label())
    }
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=min(4, len(handles)), frameon=False
    )
    return figure


def _named(key: Any, prefix: str = "") -> bool:
    """Return whether a key is one to draw. matplotlib's own labels of unlabelled lines start with an underscore."""
    return isinstance(key, str) and key.startswith(prefix) and not key.startswith("_")


def _curves(panel: Axes, histories: Mapping[str, Sequence[Mapping[str, float]]], key: str, smoothing: float) -> None:
    """Draw one loss of every run that has it."""
    limits: list[float] = []
    for i, (run, records) in enumerate(histories.items()):
        having = [record for record in records if key in record]
        if any("step" not in record for record in having):
            raise ValueError(f"histories[{run!r}] has a record with {key!r} but without 'step'")
        points = sorted((float(record["step"]), float(record[key])) for record in having)
        points = [point for point in points if np.isfinite(point[1])]
        if not points:
            continue
        step, value = np.array(points).T
        smooth = _smooth(value, smoothing)
        colour = COMPONENT_COLOURS[i % len(COMPONENT_COLOURS)]
        panel.plot(step, value, color=colour, alpha=0.2, linewidth=0.7)
        # A style for each run as well as a colour: runs are told apart in print, and where two lines coincide.
        style = _LINE_STYLES[i % len(_LINE_STYLES)]
        marker = "o" if len(step) == 1 else ""
        panel.plot(step, smooth, color=colour, linewidth=1.8, linestyle=style, marker=marker, label=run)
        start = len(smooth) // 20
        limits += [*np.percentile(smooth[start:], [1, 99]).tolist(), *np.percentile(value[start:], [5, 95]).tolist()]
    if limits and min(limits) < max(limits):
        room = 0.06 * (max(limits) - min(limits))
        panel.set_ylim(min(limits) - room, max(limits) + room)


def _smooth(value: NDArray[np.float64], smoothing: float) -> NDArray[np.float64]:
    """Return the Gaussian mean over neighbouring records; at the ends, over those there are."""
    sigma = smoothing * len(value)
    reach = min(round(3 * sigma), (len(value) - 1) // 2)
    if reach < 1:
        return value
    window = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    smooth: NDArray[np.float64] = np.convolve(value, window, "same") / np.convolve(np.ones_like(value), window, "same")
    return smooth
