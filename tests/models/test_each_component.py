"""Each component of a mixture alone, from one look of the network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mdnkernels.models import COCO_PERSON
from tests.models.networks import BOTH_TASKS, assert_close, awake
from tests.models.reference import decode_detection, decode_pose


@pytest.mark.parametrize("task", BOTH_TASKS)
@pytest.mark.parametrize("flip", [None, "average", "stronger"])
def test_they_are_what_loops_find_with_one_component_allowed(task: str, flip: Any, images: Tensor) -> None:
    model = awake("hourglass_small", task, 3).eval()
    images = images[:1].double()
    looks: list[int] = []
    model.backbone.register_forward_hook(lambda *_: looks.append(1))
    found = model.predict_each(images, k=10, flip=flip)
    assert len(looks) == 1
    with torch.no_grad():
        (maps,), (mirrored,) = model(images), model(images.flip(3))
    for result, allowed in zip(found, (None, [0], [1], [2]), strict=True):
        arguments: dict[str, Any] = {"k": 10, "allowed": allowed}
        if flip is not None:
            arguments |= {"flip": flip}
        views = (maps,) if flip is None else (maps, mirrored)
        if task == "pose":
            expected = decode_pose(*views, skeleton=COCO_PERSON, **arguments)
        else:
            expected = decode_detection(*views, **arguments)
        assert_close(result, expected, 1e-4)
    assert [set(one.component.flatten().tolist()) for one in found[1:]] == [{0}, {1}, {2}]


@pytest.mark.parametrize("task", BOTH_TASKS)
def test_the_base_has_one_result(task: str, images: Tensor) -> None:
    model = awake("hourglass_small", task, 0, torch.float32).eval()
    (found,) = model.predict_each(images[:1], k=5)
    assert_close(found, model.predict(images[:1], k=5), 0)
