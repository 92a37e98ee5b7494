"""The demo's poses: what a mixture makes of figures that face the viewer, turn their back, or might do either."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models import COCO_PERSON
from train.analysis.poses import GROUPS, match_figures, summarise
from train.config.commands import DemoConfig
from train.data.coco import Category
from train.demo.report import MIN_SCORE, Contender, prediction_sheet, score_table, setting
from train.inference.score import POSE_METRICS
from train.synthetic.poses import CATEGORY_ID, PoseSceneConfig, write_synthetic_pose
from train.synthetic.sets import SyntheticPaths
from train.tasks.tasks import PoseTask

TASK = PoseTask([Category(CATEGORY_ID, "person")])

# One large figure a picture, whose limbs hang rather than wave: what a small network learns on a CPU in minutes.
SCENE = PoseSceneConfig(max_objects=1, smallest=0.6, spread=0.35, occluded=0.2)


class PoseDemo:
    """Articulated figures; see `train.synthetic.poses`."""

    def write_data(self, root: Path, *, train: int, val: int, image_size: int, seed: int) -> SyntheticPaths:
        return write_synthetic_pose(root, train=train, val=val, image_size=image_size, seed=seed, scene=SCENE)

    def exhibit(
        self, report: Path, config: DemoConfig, data: SyntheticPaths, contenders: Sequence[Contender]
    ) -> tuple[list[str], dict[str, Any]]:
        truth = json.loads(data.val_annotations.read_text())["annotations"]
        summaries = [
            summarise(match_figures(one.results, truth, COCO_PERSON, MIN_SCORE), config.components)
            for one in contenders
        ]
        prediction_sheet(data, contenders, config.components, TASK).save(report / "pose_predictions.png")
        lines = [
            "## Poses",
            "",
            setting(config),
            "",
            "COCO keypoint AP (OKS) on the val pictures, in percent:",
            "",
            *score_table(contenders, POSE_METRICS),
            *_view_lines(contenders, summaries, config.components),
            f"### Predictions on the first val pictures (score >= {MIN_SCORE}), coloured by component",
            "",
            "![predictions](pose_predictions.png)",
            "",
        ]
        return lines, {"views": dict(zip((one.title for one in contenders), summaries, strict=True))}


def _view_lines(contenders: Sequence[Contender], summaries: Sequence[dict[str, Any]], components: int) -> list[str]:
    mixture, base = summaries
    names = [f"c{m}" for m in range(components)]
    rows = []
    for name in GROUPS:
        one, other = mixture["groups"][name], base["groups"][name]
        values = [*one["components"], *(f"{group[kind]:.2f}" for kind in ("oks", "either") for group in (one, other))]
        rows.append(f"| {name} | {one['figures']} | {' | '.join(map(str, values))} | {one['sigma']:.2f} |")
    return [
        "### What the components stand for",
        "",
        "Figures with keypoints for which the mixture found a person, by the view, and how often each component was "
        "taken. OKS is the mean similarity to the truth; either: to the nearer of the truth and its left-right "
        "exchange, of which nothing in the picture tells where the view cannot be told. sigma is the median standard "
        "deviation over the figure's size, before a keypoint's own constant.",
        "",
        f"| view | figures | {' | '.join(names)} | OKS, mixture | base | either, mixture | base | sigma |",
        f"| --- |{' ---: |' * (6 + components)}",
        *rows,
        "",
        f"Association of component and view, where it can be told (Cramer's V): {mixture['cramers_v']:.2f}. "
        f"Not found: {mixture['missed']} figures by the mixture, {base['missed']} by the base.",
        "",
    ]
