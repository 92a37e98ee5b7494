"""A drawn data set of animals with five keypoints, each a disc of its own colour."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from mdnkernels.models import Skeleton
from mdnkernels.train.data.coco import CocoAnnotations
from mdnkernels.train.data.coco_file import read_annotations
from mdnkernels.train.data.skeletons import SkeletonInFile
from tests.train.drawn_data import DataPaths

NAMES = ("nose", "left_ear", "right_ear", "back", "tail")
COLOURS = ((255, 255, 255), (255, 0, 0), (0, 0, 255), (255, 255, 0), (0, 255, 0))
LINKS = ((0, 1), (0, 2), (0, 3), (3, 4))
SIGMAS = (0.03, 0.05, 0.05, 0.1, 0.08)
SKELETON = Skeleton(NAMES, SIGMAS, ((1, 2),), LINKS)
# x and y of an animal that looks up, its length 1.
PATTERN = np.array([(0.0, -0.5), (-0.22, -0.3), (0.22, -0.3), (0.0, 0.1), (0.08, 0.5)])
CATEGORY: dict[str, Any] = {
    "id": 4,
    "name": "mouse",
    "keypoints": list(NAMES),
    "skeleton": [[a + 1, b + 1] for a, b in LINKS],
}


def draw_animals(folder: Path, count: int = 8, *, hidden: bool = True, seed: int = 0) -> DataPaths:
    """Write `count` pictures of 96 x 80 pixels with an animal in each half, in any direction.

    With `hidden`, some keypoints of each animal but the first are not visible (v = 1) or not labelled (v = 0).
    """
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        image = Image.fromarray(rng.integers(0, 60, (80, 96, 3), dtype=np.uint8))
        for half in range(2):
            angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(28, 36)
            turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
            points = length * PATTERN @ turn + rng.uniform((22, 22), (26, 58)) + (48 * half, 0)
            _draw_animal(ImageDraw.Draw(image), points)
            low, high = points.min(0) - 5, points.max(0) + 5
            visible = [(2, 1, 0)[(joint + len(annotations)) % 3] if hidden and annotations else 2 for joint in range(5)]
            triples = [
                [*point.round(3).tolist(), v] if v else [0, 0, 0] for point, v in zip(points, visible, strict=True)
            ]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": CATEGORY["id"],
                    "bbox": [*low.round(3).tolist(), *(high - low).round(3).tolist()],
                    "area": round(0.6 * float(np.prod(high - low)), 3),
                    "iscrowd": 0,
                    "keypoints": [value for triple in triples for value in triple],
                    "num_keypoints": sum(v > 0 for v in visible),
                }
            )
        image.save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 96, "height": 80})
    path = folder / "annotations.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [CATEGORY]}))
    return DataPaths(folder / "images", path)


def _draw_animal(draw: ImageDraw.ImageDraw, points: np.ndarray) -> None:
    for a, b in LINKS:
        draw.line([tuple(points[a]), tuple(points[b])], fill=(120, 120, 120), width=7)
    for (x, y), colour in zip(points, COLOURS, strict=True):
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)


def read_animals(path: Path, sigmas: tuple[float, ...] = SIGMAS) -> CocoAnnotations:
    """Read the annotations with these constants of OKS."""
    return read_annotations(path, SkeletonInFile(sigmas))
