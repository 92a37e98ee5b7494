"""COCO's AP of the objects in ranges of size that are given, as COCO's own small, medium and large are."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np


def ap_of_sizes(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], edges: Sequence[float]
) -> tuple[float, ...]:
    """Return the AP of the boxes in each range of size, len(edges) + 1 of them, in [0, 1]; nan where no object is.

    As for COCO's small, medium and large, an object out of a range is neither asked for nor a mistake there. An
    object's size is the square root of its box's area here, of the truth as of the results, whatever its "area" says.

    truth: the content of a COCO-format file. results: image_id, category_id, bbox and score. edges: sizes in pixels, in
    ascending order, that part the ranges.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    indexed = []
    for entries in (truth["annotations"], results):
        coco = COCO()
        coco.dataset = {
            "images": truth["images"],
            "categories": truth["categories"],
            "annotations": [
                {
                    **{name: entry[name] for name in ("image_id", "category_id", "bbox", "score") if name in entry},
                    "iscrowd": entry.get("iscrowd", 0),
                    "area": entry["bbox"][2] * entry["bbox"][3],
                    "id": number,
                }
                for number, entry in enumerate(entries, start=1)
            ],
        }
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
        indexed.append(coco)
    limits = [0.0, *(edge**2 for edge in edges), 1e10]
    evaluator = COCOeval(*indexed, "bbox")
    evaluator.params.areaRng = [[low, high] for low, high in pairwise(limits)]
    evaluator.params.areaRngLbl = [str(number) for number in range(len(limits) - 1)]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.evaluate()
        evaluator.accumulate()
    precision = evaluator.eval["precision"][..., -1]  # (IoU, recall, category, range), -1 where no object is
    found = []
    for number in range(len(limits) - 1):
        values = precision[..., number]
        values = values[values > -1]
        found.append(float(np.mean(values)) if values.size else float("nan"))
    return tuple(found)
