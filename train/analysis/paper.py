"""What the paper found on COCO, for the reports of those who evaluate on the same pictures.

Source: Varamesh and Tuytelaars, "Mixture Dense Regression for Object Detection and Human Pose Estimation", CVPR 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The abstract's findings, by the analysis that looks for the same.
FINDINGS: dict[str, str] = {
    "scales": "the components focus on the objects' scale, and their distribution closely follows that of the truth's "
    "scale",
    "viewpoint": "the components divide people into front and back views, and the back view is the more uncertain",
}

_VAL2017_IMAGES = 5000
_VAL2017_IDS = (139, 581781)


def is_coco_val2017(truth: Mapping[str, Any]) -> bool:
    """Tell whether the truth is of all pictures of COCO's val2017, of boxes or of keypoints.

    truth: the content of an annotation file. A part of val2017 is not it. Pictures go by their ids and file names.
    """
    images = truth["images"]
    ids = [image["id"] for image in images]
    named = all(str(image["file_name"]).endswith(f"{image['id']:012d}.jpg") for image in images)
    return named and len(set(ids)) == _VAL2017_IMAGES and (min(ids), max(ids)) == _VAL2017_IDS


def paper_lines(truth: Mapping[str, Any], analysis: str) -> list[str]:
    """Return the lines that say what the paper found, where the truth is COCO's val2017; none elsewhere."""
    if analysis not in FINDINGS or not is_coco_val2017(truth):
        return []
    return [f"The paper's finding on these pictures: {FINDINGS[analysis]}.", ""]
