"""What all plots share: size, look and axes.

Plots are made with matplotlib's object interface alone: no pyplot, no global state, no display.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter


def new_plot(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches, which lays out its panels itself."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tidy(panel: Axes) -> None:
    """Give a panel the look that all share."""
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.tick_params(labelsize=9)


def set_log_pixels(panel: Axes, low: float, high: float) -> None:
    """Make a panel's x axis logarithmic, with ticks at 1, 2, 5, 10, ...; evenly spaced where few of these are in it."""
    panel.set_xscale("log")
    panel.set_xlim(low, high)
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    ticks = [k * 10.0**e for e in range(first, last + 1) for k in (1, 2, 5) if low <= k * 10.0**e <= high]
    panel.xaxis.set_major_locator(FixedLocator(ticks if len(ticks) > 2 else MaxNLocator(5).tick_values(low, high)))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.xaxis.set_minor_formatter(NullFormatter())
