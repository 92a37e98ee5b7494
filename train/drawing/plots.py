"""Figures of a training run, and the numbers behind the question of what the mixture's components have specialised in.

Figures are made with matplotlib's object interface alone: no pyplot, no global state, no display.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike, NDArray

from train.drawing.pictures import COMPONENT_COLOURS, component_colour

_GREY = "#555555"
_LINE_STYLES = ("-", "--", ":", "-.")


def training_curves(
    histories: Mapping[str, Sequence[Mapping[str, float]]], *, prefix: str = "loss/", smoothing: float = 0.015
) -> Figure:
    """One panel for each named loss, with every run that has it: a smoothed line over the faint recorded values.

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
    figure = _figure(4.0 * columns, 3.0 * rows + 0.4)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, key in zip(panels, keys, strict=False):
        _curves(panel, histories, key, smoothing)
        panel.set_title(key.removeprefix(prefix), fontsize=11)
        panel.set_xlabel("step")
        _plain(panel)
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


def scale_by_component(
    size: ArrayLike,
    component: ArrayLike,
    num_components: int,
    *,
    weights: ArrayLike | None = None,
    summary: Mapping[str, Any] | None = None,
    title: str = "Object scale by mixture component",
) -> Figure:
    """How object scale is distributed over the selected mixture components.

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

    figure = _figure(8.0, 5.0)
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
    _log_axis(below, edges[0], edges[-1])
    for panel in (above, below):
        _plain(panel)
    figure.suptitle(title, fontsize=12)
    if summary is not None:
        above.set_title(_quote(summary), fontsize=9, color=_GREY)
    return figure


def scale_correlation(size: ArrayLike, component: ArrayLike, label: ArrayLike) -> dict[str, Any]:
    """How much the selected component says about an object's scale, and how much the category does.

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
        eta_squared, chance, pearson = _explained(scale, group)
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
    """Three arrays of one length; the third is all ones where it is None."""
    scale = np.asarray(size, dtype=np.float64)
    chosen = np.asarray(component, dtype=np.int64)
    other: NDArray[Any] = np.ones(scale.shape, dtype=dtype) if third is None else np.asarray(third, dtype=dtype)
    for what, array in (("size", scale), ("component", chosen), (name, other)):
        if array.ndim != 1 or array.shape != scale.shape:
            raise ValueError(
                f"{what} has shape {array.shape}: need (N,) with the N of size, whose shape is {scale.shape}"
            )
    return scale, chosen, other


def _explained(scale: NDArray[np.float64], group: NDArray[np.int64]) -> tuple[float, float, float]:
    """The squared correlation ratio of log scale, its mean under chance, and Pearson with the group's rank."""
    nan = float("nan")
    if len(scale) < 2:
        return nan, nan, nan
    names, member = np.unique(group, return_inverse=True)
    chance = (len(names) - 1) / (len(scale) - 1)
    y = np.log(scale)
    y = y - y.mean()
    variance = float(y @ y)
    # Rounding in the mean leaves a trace of variance in equal values.
    if scale.min() == scale.max() or variance == 0:
        return nan, chance, nan
    number = np.bincount(member)
    mean = np.bincount(member, weights=y) / number
    eta_squared = min(1.0, float(number @ mean**2) / variance)
    if len(names) == 1:
        return 0.0, chance, nan
    median = [np.median(scale[member == k]) for k in range(len(names))]
    rank = np.argsort(np.argsort(median, kind="stable"))[member]
    x = rank - rank.mean()
    return eta_squared, chance, float(x @ y / np.sqrt((x @ x) * variance))


def cramers_v(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """The association of two groupings (N,), as `scale_correlation` defines it; nan where one has a single group."""
    if len(first) < 2:
        return float("nan")
    rows, row = np.unique(first, return_inverse=True)
    columns, column = np.unique(second, return_inverse=True)
    smaller = min(len(rows), len(columns))
    if smaller < 2:
        return float("nan")
    observed = np.bincount(row * len(columns) + column, minlength=len(rows) * len(columns))
    observed = observed.reshape(len(rows), len(columns)).astype(np.float64)
    expected = observed.sum(1, keepdims=True) * observed.sum(0, keepdims=True) / len(first)
    chi_squared = float(((observed - expected) ** 2 / expected).sum())
    return float(np.sqrt(chi_squared / (len(first) * (smaller - 1))))


def _quote(summary: Mapping[str, Any]) -> str:
    """The sentence below a figure's title."""
    return (
        f"correlation with log scale: component {summary['component_pearson']:.2f}, "
        f"category {summary['category_pearson']:.2f}\nshare of its variance explained: "
        f"component {summary['component_eta_squared']:.0%}, category {summary['category_eta_squared']:.0%}"
    )


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _named(key: Any, prefix: str = "") -> bool:
    """Whether a key is one to draw. matplotlib's own labels of unlabelled lines start with an underscore."""
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
    """Gaussian mean over neighbouring records; at the ends, over those there are."""
    sigma = smoothing * len(value)
    reach = min(round(3 * sigma), (len(value) - 1) // 2)
    if reach < 1:
        return value
    window = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.convolve(value, window, "same") / np.convolve(np.ones_like(value), window, "same")


def _plain(panel: Axes) -> None:
    """The look that all panels share."""
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.tick_params(labelsize=9)


def _log_axis(panel: Axes, low: float, high: float) -> None:
    """A logarithmic x axis whose ticks are plain numbers of pixels: 1, 2, 5, 10, ..., or evenly spaced if too few."""
    panel.set_xscale("log")
    panel.set_xlim(low, high)
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    ticks = [k * 10.0**e for e in range(first, last + 1) for k in (1, 2, 5) if low <= k * 10.0**e <= high]
    panel.xaxis.set_major_locator(FixedLocator(ticks if len(ticks) > 2 else MaxNLocator(5).tick_values(low, high)))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.xaxis.set_minor_formatter(NullFormatter())
