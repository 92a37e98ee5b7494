"""The demo's boxes: which mixture component says the size of which objects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from train.config.commands import DemoConfig
from train.data.coco import Category
from train.demo.report import MIN_SCORE, Contender, prediction_sheet, score_table, setting
from train.drawing.plots import scale_by_component, scale_correlation
from train.inference.score import BOX_METRICS
from train.synthetic.detection import CATEGORIES, write_synthetic_detection
from train.synthetic.sets import SyntheticPaths
from train.tasks.tasks import DetectionTask

CLASS_OF = {identity: number for number, identity in enumerate(CATEGORIES)}
TASK = DetectionTask([Category(identity, name) for identity, name in CATEGORIES.items()])


class DetectionDemo:
    """Shapes of very different sizes; see `train.synthetic.detection`."""

    def write_data(self, root: Path, *, train: int, val: int, image_size: int, seed: int) -> SyntheticPaths:
        return write_synthetic_detection(root, train=train, val=val, image_size=image_size, seed=seed)

    def exhibit(
        self, report: Path, config: DemoConfig, data: SyntheticPaths, contenders: Sequence[Contender]
    ) -> tuple[list[str], dict[str, Any]]:
        strong = [entry for entry in contenders[0].results if entry["score"] >= MIN_SCORE]
        size = np.array([math.sqrt(entry["bbox"][2] * entry["bbox"][3]) for entry in strong])
        component = np.array([entry["component"] for entry in strong], dtype=np.int64)
        label = np.array([CLASS_OF[entry["category_id"]] for entry in strong], dtype=np.int64)
        split = scale_correlation(size, component, label)
        scale_by_component(
            size,
            component,
            config.components,
            summary=split,
            title=f"{len(strong)} val detections with score >= {MIN_SCORE}",
        ).savefig(report / "scale_by_component.png", dpi=120)
        prediction_sheet(data, contenders, config.components, TASK).save(report / "detection_predictions.png")
        lines = [
            "## Boxes",
            "",
            setting(config),
            "",
            "COCO box AP on the val pictures, in percent:",
            "",
            *score_table(contenders, BOX_METRICS),
            *_component_lines(split),
            f"### Predictions on the first val pictures (score >= {MIN_SCORE}), coloured by component",
            "",
            "![predictions](detection_predictions.png)",
            "",
        ]
        return lines, {"scale_by_component": split}


def _component_lines(split: dict[str, Any]) -> list[str]:
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
