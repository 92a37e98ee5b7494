"""Scale by component: the figure counts every object, and the numbers are those worked out by hand."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdnkernels.train.analysis.scales import analyse, scale_by_component, scale_correlation
from mdnkernels.train.analysis.subject import Subject
from mdnkernels.train.data.coco import Category
from mdnkernels.train.tasks.detection import DetectionTask
from tests.train.analysis.saving import saved_pixels


def test_scale_figure_counts_every_object_and_names_medians(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    size = np.exp(rng.uniform(math.log(8), math.log(130), 500))
    component = np.digitize(size, [20, 60])
    summary = scale_correlation(size, component, rng.integers(0, 4, 500))
    figure = scale_by_component(size, component, 4, summary=summary)
    above, below = figure.axes
    outlines = above.patches[1::2]
    assert sum(patch.get_data().values.sum() for patch in outlines) == 500
    assert [int(patch.get_data().values.sum()) for patch in outlines] == np.bincount(component, minlength=4).tolist()
    text = [entry.get_text() for entry in figure.legends[0].get_texts()]
    assert f"median {np.median(size[component == 0]):.3g} px" in text[0]
    assert text[3] == "component 3\nn = 0"
    assert f"component {summary['component_pearson']:.2f}" in above.get_title()
    heights = np.array([bar.get_height() for bar in below.patches]).reshape(4, -1).sum(0)
    assert set(heights.round(9)) <= {0.0, 1.0}
    saved_pixels(figure, tmp_path)


def test_the_truth_is_an_outline_of_every_object() -> None:
    figure = scale_by_component([10, 20, 40], [0, 0, 1], 2, truth=[5.0, 20, 20, 300, math.nan])
    (outline,) = (patch for patch in figure.axes[0].patches if patch.get_label().startswith("truth"))
    values, edges, _ = outline.get_data()
    assert values.sum() == 4
    assert edges[0] < 5
    assert edges[-1] > 300
    assert figure.legends[0].get_texts()[2].get_text() == "truth\nn = 4\nmedian 20 px"


def box(image: int, category: int, side: float, component: int = -1, score: float = 0.9) -> dict[str, Any]:
    shape = {"bbox": [0.0, 0.0, side, side], "area": side * side}
    return {"image_id": image, "category_id": category, "component": component, "score": score, **shape}


def test_a_report_has_the_truth_and_every_mixture(tmp_path: Path) -> None:
    truth = [box(1, 3, side) for side in (8.0, 16, 32, 96, 128)] + [box(1, 3, 999) | {"iscrowd": 1}]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": truth}))
    task = DetectionTask([Category(3, "plate"), Category(9, "ring")])
    results = {
        "base": (0, [box(1, 3, 10)]),
        "MDN_2": (2, [box(1, 3, 10, 0), box(1, 9, 14, 0), box(1, 3, 100, 1), box(1, 9, 140, 1), box(1, 9, 5, 1, 0.1)]),
        "MDN_3": (3, []),
    }
    section = analyse(
        [Subject(title, tmp_path, task, count, tmp_path, path, found, {}) for title, (count, found) in results.items()]
    )
    assert list(section.figures) == ["scale_by_component.png", "scale_by_component_2.png"]
    true = section.numbers["scale_of_truth"]
    assert (true["objects"], true["median"], true["small"], true["medium"], true["large"]) == pytest.approx(
        (5, 32, 0.4, 0.4, 0.2)
    )
    split = section.numbers["scale_by_component"]["MDN_2"]
    assert (split["n"], split["components"][0]["median"], split["components"][1]["large"]) == (4, 12, 1)
    log_scale, component, category = np.log([10, 14, 100, 140]), [0, 0, 1, 1], [0, 1, 0, 1]
    assert split["component_pearson"] == pytest.approx(np.corrcoef(log_scale, component)[0, 1])
    assert split["category_pearson"] == pytest.approx(np.corrcoef(log_scale, category)[0, 1])
    assert split["component_category_pearson"] == pytest.approx(0, abs=1e-12)
    assert "| MDN_2 | 1 | 2 | 50.0 % | 110 | 120 | 130 | 0 % | 0 % | 100 % |" in section.lines
    assert "| MDN_3 | 2 | 0 |  | none | none | none | none | none | none |" in section.lines
    assert not any("base" in line for line in section.lines)


def test_weights_count_in_the_histogram() -> None:
    figure = scale_by_component([10, 20, 40], [0, 0, 1], 2, weights=[0.5, 0.25, 1.0])
    assert [patch.get_data().values.sum() for patch in figure.axes[0].patches[1::2]] == [0.75, 1.0]


@pytest.mark.parametrize("size", [[], [30.0], [30.0, 30.0, 30.0], [-1.0, math.nan, 0.0], [25.0, 31.0, 44.0]])
def test_scale_figure_of_few_or_equal_or_impossible_objects(size: list[float], tmp_path: Path) -> None:
    summary = scale_correlation(size, [0] * len(size), [0] * len(size))
    saved_pixels(scale_by_component(size, [0] * len(size), 1, summary=summary), tmp_path)


def test_scale_functions_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"component has shape \(1,\)"):
        scale_by_component([1, 2], [0], 1)
    with pytest.raises(ValueError, match="num_components is 0"):
        scale_by_component([1, 2], [0, 0], 0)
    with pytest.raises(ValueError, match=r"label has shape \(3,\)"):
        scale_correlation([1, 2], [0, 0], [0, 0, 0])


def test_correlation_matches_values_worked_out_by_hand() -> None:
    # log sizes 0, 2, 4, 6 with mean 3: total 9 + 1 + 1 + 9 = 20. Component 1 holds {0, 2}, mean 1; component 0 {4, 6},
    # mean 5: between 4 * 2^2 = 16. Ordered by median, component 1 comes first: the ranks less their mean are -.5, -.5,
    # .5, .5, their product with -3, -1, 1, 3 is 4, and their squares sum to 1. Labels 0, 1, 0, 1: means 2 and 4,
    # between 4, product 2. Component and label are independent.
    result = scale_correlation(np.exp([0.0, 2.0, 4.0, 6.0]), [1, 1, 0, 0], [0, 1, 0, 1])
    assert result["component_eta_squared"] == pytest.approx(16 / 20)
    assert result["component_pearson"] == pytest.approx(4 / math.sqrt(20))
    assert result["category_eta_squared"] == pytest.approx(4 / 20)
    assert result["category_pearson"] == pytest.approx(2 / math.sqrt(20))
    assert result["component_eta_squared_chance"] == pytest.approx(1 / 3)
    assert result["cramers_v"] == pytest.approx(0, abs=1e-12)
    assert result["component_count"] == {0: 2, 1: 2}
    assert result["component_median"][1] == pytest.approx((1 + math.exp(2)) / 2)
    assert (result["n"], result["left_out"]) == (4, 0)


def test_cramers_v_matches_a_table_worked_out_by_hand() -> None:
    # Counts [[3, 1], [1, 3]], all expected 2: chi^2 = 4 / 2 = 2, V = sqrt(2 / (8 * 1)) = 0.5. A copy gives 1.
    component, label = [0] * 4 + [1] * 4, [0, 0, 0, 1, 0, 1, 1, 1]
    size = np.arange(1.0, 9.0)
    assert scale_correlation(size, component, label)["cramers_v"] == pytest.approx(0.5)
    assert scale_correlation(size, component, component)["cramers_v"] == pytest.approx(1)


def test_order_of_components_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    size, label = np.exp(rng.normal(3, 1, 200)), rng.integers(0, 3, 200)
    component = np.digitize(size, [10, 40])
    first = scale_correlation(size, component, label)
    second = scale_correlation(size, np.array([5, 0, 3])[component], label)
    for name in ("component_eta_squared", "component_pearson", "cramers_v"):
        assert first[name] == pytest.approx(second[name])
    assert first["component_pearson"] > 0.85


def test_chance_level_is_what_unrelated_components_reach() -> None:
    rng = np.random.default_rng(3)
    size = np.exp(rng.normal(3, 1, 60))
    drawn = [scale_correlation(size, rng.integers(0, 5, 60), np.zeros(60, int)) for _ in range(200)]
    mean = np.mean([result["component_eta_squared"] for result in drawn])
    assert mean == pytest.approx(4 / 59, rel=0.15)
    assert drawn[0]["component_eta_squared_chance"] == pytest.approx(4 / 59)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("size", "component", "label", "eta_squared"),
    [
        ([], [], [], math.nan),
        ([5.0], [0], [0], math.nan),
        ([5.0, 5.0, 5.0], [0, 1, 2], [0, 1, 2], math.nan),
        ([5.0, 7.0, 9.0], [1, 1, 1], [0, 1, 2], 0.0),
        ([0.0, -3.0, math.inf, 5.0], [0, 1, 1, 1], [0, 0, 0, 0], math.nan),
    ],
)
def test_what_is_not_defined_is_nan(
    size: list[float], component: list[int], label: list[int], eta_squared: float
) -> None:
    result = scale_correlation(size, component, label)
    assert result["component_eta_squared"] == pytest.approx(eta_squared, nan_ok=True)
    assert math.isnan(result["component_pearson"])
    assert result["n"] + result["left_out"] == len(size)


def test_padding_is_left_out_and_counted() -> None:
    result = scale_correlation([4.0, 9.0, 16.0, 25.0], [0, 1, -1, 1], [0, 1, 1, -1])
    assert (result["n"], result["left_out"]) == (2, 2)
