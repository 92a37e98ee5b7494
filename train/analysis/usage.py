"""How the components of a mixture came to share the objects in training, and how wide they became."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mdnkernels.train.analysis.subject import Section, Subject, mixtures_of
from mdnkernels.train.drawing.colours import component_colour
from mdnkernels.train.drawing.plots import new_plot, tidy
from mdnkernels.train.run.log import read_log

# The names of the log's values in the two kinds of its records.
_PREFIXES = {"step": "mixture/", "epoch": "mixture_epoch/"}


def analyse(subjects: Sequence[Subject]) -> Section:
    """Show each component's share of the training objects and its sigma, as the runs of mixtures have logged them.

    Raises ConfigError where no network has a mixture.
    """
    mixtures = mixtures_of(subjects)
    histories = {subject.title: read_log(subject.run / "log.jsonl") for subject in mixtures}
    name = f"{subjects[0].task.name}_component_usage.png"
    lines = ["### How the components share the training objects", ""]
    numbers: dict[str, Any] = {}
    for subject in mixtures:
        last = last_epoch(histories[subject.title], subject.components)
        lines += [f"{subject.title}: {describe_epoch(last)}", ""]
        numbers[subject.title] = last
    constant = "" if subjects[0].task.skeleton is None else ", before each keypoint's constant"
    lines += [
        "A component has an object by posterior, and is chosen where its weight is the largest. Sigma is in output "
        f"cells{constant}. Thin lines are means between two records, thick ones over an epoch.",
        "",
    ]
    lines += [f"![share and sigma of each component]({name})", ""]
    figure = usage_curves(histories, {subject.title: subject.components for subject in mixtures})
    return Section(lines, {"component_usage": numbers}, {name: figure})


def last_epoch(records: Sequence[Mapping[str, Any]], components: int) -> dict[str, Any] | None:
    """Return what the log says of the last epoch that has objects; None where no record does.

    {"epoch", "objects", "choice_entropy", and "share", "chosen", "sigma" with a number for each component}
    """
    prefix = _PREFIXES["epoch"]
    epochs = [one for one in records if one["kind"] == "epoch" and one.get(f"{prefix}objects", 0) > 0]
    if not epochs:
        return None
    last = epochs[-1]
    of_all = {"epoch": last["epoch"]} | {name: last[f"{prefix}{name}"] for name in ("objects", "choice_entropy")}
    return of_all | {
        name: [last[f"{prefix}{name}_{m}"] for m in range(components)] for name in ("share", "chosen", "sigma")
    }


def describe_epoch(usage: Mapping[str, Any] | None) -> str:
    """Return a sentence of what `last_epoch` gives."""
    if usage is None:
        return "the log has no epoch with each component's share; runs of earlier versions have none."
    each = "; ".join(
        f"component {m} has {100 * share:.1f} % (chosen at {100 * chosen:.1f} %), sigma {sigma:.3g}"
        for m, (share, chosen, sigma) in enumerate(zip(usage["share"], usage["chosen"], usage["sigma"], strict=True))
    )
    return (
        f"in epoch {usage['epoch']}, of {usage['objects']:.0f} objects, {each}. The choice's entropy is "
        f"{usage['choice_entropy']:.2f} of the largest possible."
    )


def usage_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]], components: Mapping[str, int]) -> Figure:
    """Draw a column for each run: above, each component's share of the objects, below, its sigma in cells.

    Thin lines are the records of steps, thick ones those of epochs.

    Args:
        histories: name of a run to the records of its log.
        components: name of a run to the components of its mixture.

    Returns:
        The figure, to be saved with `figure.savefig(path)`.
    """
    figure = new_plot(max(6.0, 4.0 * len(histories)), 5.0)
    panels = figure.subplots(2, len(histories), squeeze=False, sharex="col", sharey="row")
    for column, (run, records) in enumerate(histories.items()):
        above, below = panels[:, column]
        for m in range(components[run]):
            _curves(above, records, f"share_{m}", m)
            _curves(below, records, f"sigma_{m}", m)
        above.set_title(run, fontsize=11)
        above.set_ylim(-0.02, 1.02)
        below.set_ylim(bottom=0)
        below.set_xlabel("step")
        tidy(above)
        tidy(below)
    panels[0, 0].set_ylabel("share of the objects")
    panels[1, 0].set_ylabel("sigma (cells)")
    handles = {handle.get_label(): handle for panel in panels[0] for handle in panel.get_lines()}
    named = {label: handle for label, handle in handles.items() if not str(label).startswith("_")}
    if named:
        figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=5, frameon=False)
    return figure


def _curves(panel: Axes, records: Sequence[Mapping[str, Any]], name: str, component: int) -> None:
    """Draw one value of both kinds of records, in the component's colour."""
    colour = component_colour(component)
    for kind, prefix in _PREFIXES.items():
        points = [(one["step"], one[prefix + name]) for one in records if one["kind"] == kind and prefix + name in one]
        if not points:
            continue
        step, value = np.array(sorted(points), dtype=np.float64).T
        if kind == "step":
            panel.plot(step, value, color=colour, alpha=0.35, linewidth=0.8)
        else:
            panel.plot(
                step, value, color=colour, linewidth=1.8, marker="o", markersize=3, label=f"component {component}"
            )
