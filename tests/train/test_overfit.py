"""A few real photographs can be learnt by heart: data, targets, losses, optimizer and decoding fit together."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import torch

from train.__main__ import main


@pytest.mark.slow
def test_sixteen_photographs_are_learnt_within_a_quarter_of_an_hour(coco_mini: Path, tmp_path: Path) -> None:
    images, annotations = coco_mini / "train2017", coco_mini / "annotations" / "instances_train2017.json"
    torch.set_num_threads(os.cpu_count() or 1)
    began = time.monotonic()
    # As a command, with these options: python -m train fit --run overfit --train-images ...
    status = main(
        [
            "fit",
            *("--run", str(tmp_path / "run")),
            *("--train-images", str(images), "--train-annotations", str(annotations), "--train-limit", "16"),
            *("--val-images", str(images), "--val-annotations", str(annotations), "--val-limit", "16"),
            *("--arch", "hourglass_small", "--components", "3", "--input-size", "256", "--no-augment"),
            *("--batch", "4", "--epochs", "120", "--lr", "1e-3", "--drop-epochs", "100", "--workers", "1"),
        ]
    )
    assert status == 0
    assert time.monotonic() - began < 15 * 60
    assert json.loads((tmp_path / "run" / "evaluation" / "metrics.json").read_text())["AP50"] >= 0.6
