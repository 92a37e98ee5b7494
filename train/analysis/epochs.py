"""Accuracy over the epochs of training: the paper's Fig. 4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mdnkernels.train.analysis.subject import Section, Subject
from mdnkernels.train.analysis.tables import coco_cell, markdown_table
from mdnkernels.train.drawing.colours import COMPONENT_COLOURS
from mdnkernels.train.drawing.plots import new_plot, tidy
from mdnkernels.train.errors import ConfigError
from mdnkernels.train.run.log import read_log

_STYLES = ("-", "--", ":", "-.")


def analyse(subjects: Sequence[Subject]) -> Section:
    """Show AP after the epochs at which the runs were evaluated in training.

    Raises ConfigError where none was evaluated at two epochs or more.
    """
    name = f"{subjects[0].task.name}_epochs.png"
    histories = {subject.title: accuracy_by_epoch(subject) for subject in subjects}
    if all(len(history) < 2 for history in histories.values()):
        raise ConfigError("no run was evaluated at several epochs; fit --evaluate-every 1 does it after each one")
    epochs = sorted({epoch for history in histories.values() for epoch in history})
    rows = [
        [str(epoch), *(coco_cell(history[epoch]) if epoch in history else "" for history in histories.values())]
        for epoch in epochs
    ]
    lines = [
        "### Accuracy over the epochs",
        "",
        f"![AP over the epochs]({name})",
        "",
        "AP in percent after so many epochs:",
        "",
        *markdown_table(["epoch", *histories], rows, words=0),
    ]
    return Section(lines, dict(histories), {name: draw_epochs(histories)})


def accuracy_by_epoch(subject: Subject) -> dict[int, float]:
    """Return AP by epoch, counted from 1, as the run's log has it; of an epoch that was evaluated twice the last."""
    records = read_log(subject.run / "log.jsonl")
    found = [one for one in records if one["kind"] == "evaluation" and "metrics/AP" in one]
    return {int(one["epoch"]): float(one["metrics/AP"]) for one in found}


def draw_epochs(histories: Mapping[str, Mapping[int, float]]) -> Figure:
    """Draw AP (percent) over epochs, a line for each network. histories: title to AP by epoch."""
    figure = new_plot(6.5, 4.0)
    panel = figure.subplots()
    for number, (title, history) in enumerate(histories.items()):
        epochs = sorted(history)
        panel.plot(
            epochs,
            [100 * max(history[epoch], 0) for epoch in epochs],
            color=COMPONENT_COLOURS[number % len(COMPONENT_COLOURS)],
            linestyle=_STYLES[number % len(_STYLES)],
            marker="o",
            markersize=3.5,
            linewidth=1.6,
            label=title,
        )
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_xlabel("epoch")
    panel.set_ylabel("AP (%)")
    tidy(panel)
    figure.legend(loc="outside lower center", ncols=min(4, len(histories)), frameon=False)
    return figure
