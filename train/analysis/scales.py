"""Which mixture component says the size of which objects: their scale by component, and by category."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from train.analysis.association import cramers_v, variance_explained
from train.analysis.subject import MIN_SCORE, Section, Subject, first_mixture
from train.drawing.pictures import component_colour
from train.drawing.plots import new_plot, set_log_pixels, tidy

_GREY = "#555555"


def analyse(subjects: Sequence[Subject]) -> Section:
    """Say how the scale of the first mixture's detections goes with their component and their category."""
    mixture = first_mixture(subjects)
    strong = mixture.strong_results()
    class_of = {category.id: number for number, category in enumerate(mixture.task.categories)}
    size = np.array([math.sqrt(entry["bbox"][2] * entry["bbox"][3]) for entry in strong])
    component = np.array([entry["component"] for entry in strong], dtype=np.int64)
    label = np.array([class_of[entry["category_id"]] for entry in strong], dtype=np.int64)
    split = scale_correlation(size, component, label)
    figure = scale_by_component(
        size,
        component,
        mixture.components,
        summary=split,
        title=f"{len(strong)} val detections with score >= {MIN_SCORE}",
    )
    return Section(_lines(split), {"scale_by_component": split}, {"scale_by_component.png": figure})


def _lines(split: dict[str, Any]) -> list[str]:
    shares = ", ".join(
        f"component {m}: {count} objects, median {split['component_median'][m]:.0f} px"
        for m, count in split["component_count"].items()
    )
    return [
        "### What the components stand for",
        "",
        f"Of the {split['n']} detections with a score of {MIN_SCORE} or more: {shares or 'none'}.",
        f"The component explains {100 * split['component_eta_squared']:.0f} % of the variance of log size "
        f"({100 * split['component_eta_squared_chance']:.1f} % by chance), the category "
        f"{100 * split['category_eta_squared']:.0f} %. Correlation of log size with the component (ranked by median "
        f"size): {split['component_pearson']:.2f}. Association of component and category (Cramer's V): "
        f"{split['cramers_v']:.2f}.",
        "",
        "![object scale by component](scale_by_component.png)",
        "",
    ]


def scale_by_component(
    size: ArrayLike,
    component: ArrayLike,
    num_components: int,
    *,
    weights: ArrayLike | None = None,
    summary: Mapping[str, Any] | None = None,
    title: str = "Object scale by mixture component",
) -> Figure:
    """Draw how object scale is distributed over the selected mixture components.

    Above, a histogram of the scale on a logarithmic axis for each component, all on one count axis; below, the share of
    each component in every bin, where fewer than five objects make the bar pale. The legend has each component's number
    of objects and median scale.

    Args:
        size: (N,) object scale in pixels, the square root of the box's area. Objects whose scale is not positive and
            finite, or whose component is not in [0, num_components), are left out.
        component: (N,) index of the selected component.
        num_components: M, at least 1.
        weights: (N,) what each object counts, such as its score; None for 1. The legend's numbers are unweighted.
        summary: what `scale_correlation` returned, to be quoted below the title.
        title: the figure's title.

    Returns:
        The figure, to be saved with `figure.savefig(path)`.

    Raises:
        ValueError: the shapes differ, or `num_components` is below 1.
    """
    if num_components < 1:
        raise ValueError(f"num_components is {num_components}: need at least 1")
    scale, chosen, weight = _aligned(size, component, weights, "weights", np.float64)
    keep = np.isfinite(scale) & (scale > 0) & (chosen >= 0) & (chosen < num_components)
    scale, chosen, weight = scale[keep], chosen[keep], weight[keep]
    low, high = (scale.min(), scale.max()) if len(scale) else (1.0, 100.0)
    # A little room, and a range that is not empty when all objects have one scale.
    edges = np.geomspace(low / 1.05, high * 1.05, 1 + int(np.clip(np.sqrt(len(scale)) * 1.2, 8, 36)))
    count = np.stack([np.histogram(scale[chosen == m], edges)[0] for m in range(num_components)])
    mass = np.stack(
        [np.histogram(scale[chosen == m], edges, weights=weight[chosen == m])[0] for m in range(num_components)]
    )

    figure = new_plot(8.0, 5.0)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
    for m in range(num_components):
        own = scale[chosen == m]
        name = f"component {m}\nn = {len(own)}" + (f"\nmedian {np.median(own):.3g} px" if len(own) else "")
        above.stairs(mass[m], edges, fill=True, color=component_colour(m), alpha=0.3)
        above.stairs(mass[m], edges, color=component_colour(m), linewidth=1.6, label=name)
    above.set_ylabel("objects" if weights is None else "objects, weighted")
    above.set_ylim(bottom=0)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9, labelspacing=1.0)

    total = mass.sum(0)
    share = np.divide(mass, total, out=np.zeros_like(mass), where=total > 0)
    base = np.zeros_like(total)
    for m in range(num_components):
        bars = below.bar(
            edges[:-1], share[m], np.diff(edges), bottom=base, align="edge", color=component_colour(m), linewidth=0
        )
        for bar, few in zip(bars, count.sum(0) < 5, strict=True):
            bar.set_alpha(0.35 if few else 0.9)
        base = base + share[m]
    below.set_ylim(0, 1)
    below.set_ylabel("share")
    below.set_xlabel("object scale: square root of box area (pixels, log axis)")
    set_log_pixels(below, edges[0], edges[-1])
    for panel in (above, below):
        tidy(panel)
    figure.suptitle(title, fontsize=12)
    if summary is not None:
        above.set_title(_quote(summary), fontsize=9, color=_GREY)
    return figure


def scale_correlation(size: ArrayLike, component: ArrayLike, label: ArrayLike) -> dict[str, Any]:
    """Return how much the selected component says about an object's scale, and how much the category does.

    With y = log(size) and g the group of an object (its component, or its category):

    - eta_squared, the correlation ratio: sum_g n_g (mean_g(y) - mean(y))^2 / sum_i (y_i - mean(y))^2, the share of the
      variance of y that the group explains, in [0, 1]. Groups that have nothing to do with scale reach
      (groups - 1) / (n - 1) on average, which is given as eta_squared_chance.
    - pearson: the correlation of y with the group's rank 0, 1, ... when groups are ordered by their median size (equal
      medians by index). As the order is taken from the same data, it is seldom below 0: read it beside eta_squared.
    - cramers_v between component and category: sqrt(chi^2 / (n (min(groups, categories) - 1))), with chi^2 the sum of
      (observed - expected)^2 / expected over their table of counts, in [0, 1]; not corrected for chance.

    A number is nan where it is not defined: fewer than two objects, one scale throughout, or, for pearson and Cramer's
    V, one group only (whose eta_squared is 0).

    Args:
        size: (N,) object scale in pixels. Objects whose scale is not positive and finite, or whose component or label
            is negative, are left out.
        component: (N,) index of the selected component.
        label: (N,) class index.

    Returns:
        "n" and "left_out", numbers of objects; "component_eta_squared", "component_eta_squared_chance",
        "component_pearson", the same three for "category_", and "cramers_v", floats; "component_count" and
        "component_median", dicts from component to its number of objects and its median size.

    Raises:
        ValueError: the shapes differ.
    """
    scale, chosen, category = _aligned(size, component, label, "label", np.int64)
    keep = np.isfinite(scale) & (scale > 0) & (chosen >= 0) & (category >= 0)
    scale, chosen, category = scale[keep], chosen[keep], category[keep]
    result: dict[str, Any] = {"n": len(scale), "left_out": int(np.count_nonzero(~keep))}
    for name, group in (("component", chosen), ("category", category)):
        eta_squared, chance, pearson = variance_explained(scale, group)
        result[f"{name}_eta_squared"] = eta_squared
        result[f"{name}_eta_squared_chance"] = chance
        result[f"{name}_pearson"] = pearson
    result["cramers_v"] = cramers_v(chosen, category)
    used = [int(m) for m in np.unique(chosen)]
    result["component_count"] = {m: int(np.count_nonzero(chosen == m)) for m in used}
    result["component_median"] = {m: float(np.median(scale[chosen == m])) for m in used}
    return result


def _aligned(
    size: ArrayLike, component: ArrayLike, third: ArrayLike | None, name: str, dtype: type
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[Any]]:
    """Return three arrays of one length; the third is all ones where it is None."""
    scale = np.asarray(size, dtype=np.float64)
    chosen = np.asarray(component, dtype=np.int64)
    other: NDArray[Any] = np.ones(scale.shape, dtype=dtype) if third is None else np.asarray(third, dtype=dtype)
    for what, array in (("size", scale), ("component", chosen), (name, other)):
        if array.ndim != 1 or array.shape != scale.shape:
            raise ValueError(
                f"{what} has shape {array.shape}: need (N,) with the N of size, whose shape is {scale.shape}"
            )
    return scale, chosen, other


def _quote(summary: Mapping[str, Any]) -> str:
    """Return the sentence below a figure's title."""
    return (
        f"correlation with log scale: component {summary['component_pearson']:.2f}, "
        f"category {summary['category_pearson']:.2f}\nshare of its variance explained: "
        f"component {summary['component_eta_squared']:.0%}, category {summary['category_eta_squared']:.0%}"
    )
