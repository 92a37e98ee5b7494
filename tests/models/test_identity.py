"""A file that is of another network says by which arguments of build_model it was made."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mdnkernels.models import Network, Skeleton, build_model, load_published, save_published
from mdnkernels.models.identity import arch_of, options_of
from mdnkernels.models.published_names import published_names

ANIMAL = Skeleton(("nose", "left", "right", "tail"), (0.1, 0.2, 0.2, 0.3), flip_pairs=((1, 2),))
MADE = {
    "detection": {"task": "detection", "num_classes": 5, "components": 3},
    "base": {"task": "detection", "num_classes": 5, "components": 0},
    "pose": {"task": "pose", "components": 2},
}


def make(arch: str = "hourglass_tiny", **options: object) -> Network:
    return build_model(arch, **options)


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("arch", ["hourglass_tiny", "hourglass_small", "dla34"])
@pytest.mark.parametrize("kind", MADE)
def test_a_state_dict_tells_its_network(kind: str, arch: str, published: bool) -> None:
    with torch.device("meta"):
        model = make(arch, **MADE[kind])
    state = model.state_dict()
    if published:
        names = published_names(model)
        state = {names[name]: value for name, value in state.items()}
    told = options_of(state, published=published)
    assert {name: told[name] for name in MADE[kind]} == MADE[kind]
    assert told.get("keypoints", 17) == 17
    assert arch_of(state, published=published) == arch


def test_a_class_specific_mixture_is_told_where_it_is_said_to_be_one() -> None:
    state = make(num_classes=5, components=3, class_specific=True).state_dict()
    assert options_of(state, published=False, class_specific=True)["components"] == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 4}, "makes the file's network with num_classes=5; this model has num_classes=4: "),
        ({"components": 2}, "makes the file's network with components=3; this model has components=2: "),
        (
            {"num_classes": 1, "components": 0},
            "with num_classes=5, components=3; this model has num_classes=1, components=0: ",
        ),
        (
            {"task": "pose", "num_classes": 1},
            "with task='detection', num_classes=5; this model has task='pose': ",
        ),
        ({"arch": "hourglass_small"}, "with arch='hourglass_tiny'; this model has arch='hourglass_small': "),
    ],
)
def test_the_message_names_what_differs(change: dict, message: str, tmp_path: Path) -> None:
    file = tmp_path / "published.pth"
    save_published(make(**MADE["detection"]), file)
    model = make(**{**MADE["detection"], **change})
    with pytest.raises(ValueError, match="does not hold this model") as caught:
        load_published(model, file)
    assert message in str(caught.value)


def test_the_message_names_other_keypoints(tmp_path: Path) -> None:
    file = tmp_path / "published.pth"
    save_published(make(**MADE["pose"]), file)
    with pytest.raises(ValueError, match="with keypoints=17; this model has keypoints=4: "):
        load_published(make(task="pose", components=2, skeleton=ANIMAL), file)


def test_a_missing_entry_alone_is_of_the_same_network(tmp_path: Path) -> None:
    file, model = tmp_path / "published.pth", make(**MADE["detection"])
    save_published(model, file)
    content = torch.load(file)
    del content["state_dict"]["hm.0.1.bias"]
    torch.save(content, file)
    with pytest.raises(ValueError, match=r"does not hold this model: hm\.0\.1\.bias is missing"):
        load_published(model, file)
