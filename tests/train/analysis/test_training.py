"""The curves of training: a panel for each loss, and lines that neither lag nor droop."""

import math
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from mdnkernels.train.analysis.training import training_curves
from tests.train.analysis.saving import saved_pixels


def _history(names: list[str], count: int = 50) -> list[dict[str, float]]:
    noise = np.random.default_rng(0).normal(0, 0.1, (count, len(names)))
    return [
        {"step": 10 * i, "lr": 1e-3} | {f"loss/{name}": 3 / (1 + i) + noise[i, k] for k, name in enumerate(names)}
        for i in range(count)
    ]


def test_training_curves_have_a_panel_for_each_loss_and_all_runs_in_it(tmp_path: Path) -> None:
    figure = training_curves({"mixture": _history(["heatmap", "mixture"]), "base": _history(["heatmap", "size"])})
    panels = {panel.get_title(): panel for panel in figure.axes if panel.get_visible()}
    assert sorted(panels) == ["heatmap", "mixture", "size"]
    assert [len(panels[name].get_lines()) for name in sorted(panels)] == [4, 2, 2]  # raw and smooth of each run
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["mixture", "base"]
    saved_pixels(figure, tmp_path)
    figure.savefig(tmp_path / "figure.pdf")


def test_training_curve_passes_through_the_records_and_a_smooth_mean() -> None:
    history = [{"step": step, "loss/size": value} for step, value in ((20, 1.0), (0, 3.0), (10, 2.0))]
    raw, smooth = training_curves({"run": history}, smoothing=0).axes[0].get_lines()
    assert raw.get_xdata().tolist() == [0, 10, 20]
    assert raw.get_ydata().tolist() == smooth.get_ydata().tolist() == [3, 2, 1]
    constant = [{"step": i, "loss/size": 4.0} for i in range(100)]
    _, smooth = training_curves({"run": constant}, smoothing=0.1).axes[0].get_lines()
    np.testing.assert_allclose(smooth.get_ydata(), 4.0)  # no droop at the ends
    line = [{"step": i, "loss/size": float(i)} for i in range(100)]
    _, smooth = training_curves({"run": line}, smoothing=0.05).axes[0].get_lines()
    np.testing.assert_allclose(smooth.get_ydata()[20:80], np.arange(20, 80))  # no lag


def test_a_steep_start_does_not_flatten_the_rest() -> None:
    history = _history(["heatmap"], 200)
    history[0]["loss/heatmap"] = 1e4
    assert training_curves({"run": history}).axes[0].get_ylim()[1] < 10


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_short_runs_and_values_that_are_not_finite_can_be_drawn(count: int, tmp_path: Path) -> None:
    history = [*_history(["heatmap"], count), {"step": 1e4, "loss/heatmap": math.nan}]
    saved_pixels(training_curves({"run": history, "empty": []}), tmp_path)


def test_training_curves_refuse_nothing_to_draw_and_missing_steps() -> None:
    with pytest.raises(ValueError, match="'loss/'"):
        training_curves({"run": [{"step": 1, "AP": 0.2}]})
    with pytest.raises(ValueError, match=r"histories\['run'\].*'loss/size'.*'step'"):
        training_curves({"run": [{"loss/size": 1.0}]})


def test_no_global_state_of_matplotlib_changes(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    saved_pixels(training_curves({"run": _history(["heatmap"])}), tmp_path)
    assert dict(matplotlib.rcParams) == before
