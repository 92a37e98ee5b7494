"""Which mixture component says the size of which objects: their scale by component, and by category."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from mdnkernels.train.analysis.association import cramers_v, pearson, rank_by_median, variance_explained
from mdnkernels.train.analysis.matching import single_objects
from mdnkernels.train.analysis.paper import paper_lines
from mdnkernels.train.analysis.subject import MIN_SCORE, Section, Subject, mixtures_of
from mdnkernels.train.analysis.tables import markdown_table, percent, shown
from mdnkernels.train.drawing.colours import component_colour
from mdnkernels.train.drawing.plots import new_plot, set_log_pixels, tidy

_GREY = "#555555"
_QUARTILES = ("25 %", "median", "75 %")
_SIZES = ("small", "medium", "large")


def analyse(subjects: Sequence[Subject]) -> Section:
    """Say how the scale of each mixture's detections goes with their component and category, beside the truth's scale.

    Raises ConfigError where no network has a mixture.
    """
    mixtures = mixtures_of(subjects)
    class_of = {category.id: number for number, category in enumerate(mixtures[0].task.categories)}
    true_scale = _scales(single_objects(mixtures[0].truth))
    rows = [_row("truth", "", spread(true_scale), None)]
    splits: dict[str, dict[str, Any]] = {}
    figures: dict[str, Figure] = {}
    for number, mixture in enumerate(mixtures, start=1):
        strong = mixture.strong_results()
        size = _scales(strong)
        component = np.array([entry["component"] for entry in strong], dtype=np.int64)
        label = np.array([class_of[entry["category_id"]] for entry in strong], dtype=np.int64)
        split = scale_correlation(size, component, label)
        own = {m: spread(size[component == m]) for m in range(mixture.components)}
        splits[mixture.title] = split | {"components": own}
        rows.append(_row(mixture.title, "all", spread(size), None))
        rows += [_row(mixture.title, str(m), one, len(strong)) for m, one in own.items()]
        name = "scale_by_component.png" if number == 1 else f"scale_by_component_{number}.png"
        figures[name] = scale_by_component(
            size,
            component,
            mixture.components,
            truth=true_scale,
            summary=split,
            title=f"{mixture.title}: {len(strong)} val detections with score >= {MIN_SCORE}",
        )
    lines = [*_lines(rows, splits), *paper_lines(mixtures[0].truth, "scales")]
    for name, title in zip(figures, splits, strict=True):
        lines += [f"![object scale by component of {title}]({name})", ""]
    return Section(lines, {"scale_of_truth": spread(true_scale), "scale_by_component": splits}, dict(figures))


def spread(scale: NDArray[np.float64]) -> dict[str, Any]:
    """Return the number of objects of these scales (N,), their quartiles, and the shares of COCO's three sizes.

    "objects"; "25 %", "median", "75 %" in pixels; "small", scales below 32, "medium", and "large", above 96, in [0, 1].
    A number of nothing is nan.
    """
    if not len(scale):
        return {"objects": 0} | dict.fromkeys((*_QUARTILES, *_SIZES), math.nan)
    small, large = float((scale < 32).mean()), float((scale > 96).mean())
    values = [*np.percentile(scale, [25, 50, 75]).tolist(), small, 1 - small - large, large]
    return {"objects": len(scale)} | dict(zip((*_QUARTILES, *_SIZES), values, strict=True))


def _scales(entries: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """Return the square root of each entry's box area, (N,) in pixels."""
    boxes = np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4)
    return np.sqrt(boxes[:, 2] * boxes[:, 3])


def _row(title: str, component: str, one: Mapping[str, Any], total: int | None) -> list[str]:
    """Return a line of the table of scales. total: objects of all components; None for a line of all."""
    share = percent(one["objects"] / total, 1) if total else ""
    pixels = [shown(one[name], 0) for name in _QUARTILES]
    return [title, component, str(one["objects"]), share, *pixels, *(percent(one[size]) for size in _SIZES)]


def _lines(rows: Sequence[Sequence[str]], splits: Mapping[str, Mapping[str, Any]]) -> list[str]:
    correlations = []
    for title, split in splits.items():
        names = ("component_pearson", "category_pearson", "component_category_pearson", "cramers_v")
        explained = [
            f"{percent(split[f'{name}_eta_squared'], 1)} ({percent(split[f'{name}_eta_squared_chance'], 1)})"
            for name in ("component", "category")
        ]
        correlations.append([title, *(shown(split[name], 2) for name in names), *explained])
    return [
        "### What the components stand for",
        "",
        "Scale is the square root of the box's area in pixels: of the truth, and of the detections with a score of "
        f"{MIN_SCORE} or more, by the component that was taken. Its quartiles, and the shares of COCO's sizes: small "
        "below 32, large above 96.",
        "",
        *markdown_table(["boxes", "component", "objects", "share", *_QUARTILES, *_SIZES], rows, words=2),
        "Pearson's correlations with log scale are those of the component's or the category's rank by median scale; "
        "that of component and category is with the category's number. Cramer's V is of component and category and "
        "knows no order. Explained is the share of the variance of log scale, in brackets what chance reaches.",
        "",
        *markdown_table(
            [
                *("network", "component, log scale", "category, log scale", "component, category", "Cramer's V"),
                *("explained by component", "by category"),
            ],
            correlations,
        ),
    ]


def scale_by_component(
    size: ArrayLike,
    component: ArrayLike,
    num_components: int,
    *,
    weights: ArrayLike | None = None,
    truth: ArrayLike | None = None,
    summary: Mapping[str, Any] | None = None,
    title: str = "Object scale by mixture component",
) -> Figure:
    """Draw how object scale is distributed over the selected mixture components.

    Above, a histogram of the scale on a logarithmic axis for each component, all on one count axis; below, the share of
    each component in every bin, where fewer than five objects make the bar pale. The legend has each component's number
    of objects and median scale, and the truth's.

    Args:
        size: (N,) object scale in pixels, the square root of the box's area. Objects whose scale is not positive and
            finite, or whose component is not in [0, num_components), are left out.
        component: (N,) index of the selected component.
        num_components: M, at least 1.
        weights: (N,) what each object counts, such as its score; None for 1. The legend's numbers are unweighted.
        truth: (K,) scale of the objects that there are, whose histogram is an outline above; None for none. Those whose
            scale is not positive and finite are left out.
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
    true_scale = np.asarray(() if truth is None else truth, dtype=np.float64)
    true_scale = true_scale[np.isfinite(true_scale) & (true_scale > 0)]
    both = np.concatenate((scale, true_scale))
    low, high = (both.min(), both.max()) if len(both) else (1.0, 100.0)
    # A little room, and a range that is not empty when all objects have one scale.
    bins = int(np.clip(np.sqrt(max(len(scale), len(true_scale))) * 1.2, 8, 36))
    edges = np.geomspace(low / 1.05, high * 1.05, 1 + bins)
    count = np.stack([np.histogram(scale[chosen == m], edges)[0] for m in range(num_components)])
    mass = np.stack(
        [np.histogram(scale[chosen == m], edges, weights=weight[chosen == m])[0] for m in range(num_components)]
    )

    figure = new_plot(8.0, 5.0)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
    for m in range(num_components):
        name = _legend(f"component {m}", scale[chosen == m])
        above.stairs(mass[m], edges, fill=True, color=component_colour(m), alpha=0.3)
        above.stairs(mass[m], edges, color=component_colour(m), linewidth=1.6, label=name)
    if truth is not None:
        counts = np.histogram(true_scale, edges)[0]
        above.stairs(counts, edges, color="black", linewidth=1.2, linestyle="--", label=_legend("truth", true_scale))
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
    - component_category_pearson: the correlation of the component's rank, as above, with the category's index. It
      depends on the order of the categories; Cramer's V does not.

    A number is nan where it is not defined: fewer than two objects, one scale throughout, or, for pearson and Cramer's
    V, one group only (whose eta_squared is 0).

    Args:
        size: (N,) object scale in pixels. Objects whose scale is not positive and finite, or whose component or label
            is negative, are left out.
        component: (N,) index of the selected component.
        label: (N,) class index.

    Returns:
        "n" and "left_out", numbers of objects; "component_eta_squared", "component_eta_squared_chance",
        "component_pearson", the same three for "category_", "cramers_v" and "component_category_pearson", floats;
        "component_count" and "component_median", dicts from component to its number of objects and its median size.

    Raises:
        ValueError: the shapes differ.
    """
    scale, chosen, category = _aligned(size, component, label, "label", np.int64)
    keep = np.isfinite(scale) & (scale > 0) & (chosen >= 0) & (category >= 0)
    scale, chosen, category = scale[keep], chosen[keep], category[keep]
    result: dict[str, Any] = {"n": len(scale), "left_out": int(np.count_nonzero(~keep))}
    for name, group in (("component", chosen), ("category", category)):
        eta_squared, chance, correlation = variance_explained(scale, group)
        result[f"{name}_eta_squared"] = eta_squared
        result[f"{name}_eta_squared_chance"] = chance
        result[f"{name}_pearson"] = correlation
    result["cramers_v"] = cramers_v(chosen, category)
    result["component_category_pearson"] = pearson(rank_by_median(scale, chosen), category)
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


def _legend(name: str, scale: NDArray[np.float64]) -> str:
    """Return a name with the number of its objects and their median scale."""
    return f"{name}\nn = {len(scale)}" + (f"\nmedian {np.median(scale):.3g} px" if len(scale) else "")


def _quote(summary: Mapping[str, Any]) -> str:
    """Return the sentence below a figure's title."""
    return (
        f"correlation with log scale: component {summary['component_pearson']:.2f}, "
        f"category {summary['category_pearson']:.2f}\nshare of its variance explained: "
        f"component {summary['component_eta_squared']:.0%}, category {summary['category_eta_squared']:.0%}"
    )
