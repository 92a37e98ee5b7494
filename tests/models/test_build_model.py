"""The networks that `build_model` makes, and the arguments that it refuses."""

import pytest
import torch
from torch import Tensor

from mdnkernels.models import ARCHITECTURES, build_model
from mdnkernels.models.heads import HEATMAP_BIAS

PUBLISHED_PARAMETERS = [
    ("hourglass104", "detection", 0, 191_284_008),
    ("hourglass104", "detection", 3, 193_651_010),
    ("hourglass104", "pose", 3, 197_211_022),
    ("dla34", "detection", 0, 19_675_892),
    ("dla34", "detection", 3, 19_974_657),
    ("dla34", "pose", 3, 20_427_559),
]


@pytest.mark.parametrize(("arch", "task", "components", "parameters"), PUBLISHED_PARAMETERS)
def test_a_network_has_the_published_number_of_parameters(
    arch: str, task: str, components: int, parameters: int
) -> None:
    with torch.device("meta"):
        model = build_model(arch, task=task, num_classes=80 if task == "detection" else 1, components=components)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_hourglass104_gives_both_stacks_at_stride_4() -> None:
    with torch.device("meta"):
        model = build_model("hourglass104", num_classes=80, components=3)
        outputs = model(torch.empty(1, 3, 256, 384), torch.empty(1, 7, dtype=torch.int64))
    assert (model.stride, model.divisor) == (4, 128)
    assert [set(stack) for stack in outputs] == [{"heatmap", "offset", "logits", "loc", "scale"}] * 2
    assert all(stack["heatmap"].shape == (1, 80, 64, 96) and stack["loc"].shape == (1, 6, 7) for stack in outputs)


@pytest.mark.parametrize(("arch", "most", "divisor"), [("hourglass_small", 3e6, 32), ("hourglass_tiny", 7e5, 16)])
def test_small_hourglasses_are_small(arch: str, most: float, divisor: int) -> None:
    with torch.device("meta"):
        model = build_model(arch, num_classes=80, components=3)
    assert most / 3 < sum(p.numel() for p in model.parameters()) < most
    assert model.divisor == divisor


@pytest.mark.parametrize("components", [1, 2, 3, 5, 10])
def test_a_mixture_of_any_size_builds(components: int) -> None:
    model = build_model("hourglass_small", num_classes=1, components=components)
    assert (model.num_classes, model.components) == (1, components)
    channels = {name: head.config.channels for name, head in model.heads[0].heads.items()}
    assert channels == {
        "heatmap": 1,
        "offset": 2,
        "logits": components,
        "loc": 2 * components,
        "scale": 2 * components,
    }


def test_a_fresh_heatmap_calls_a_tenth_of_everything_an_object() -> None:
    model = build_model("hourglass_small", num_classes=4, components=0)
    bias = model.heads[0].heads["heatmap"].output.bias
    assert bias.tolist() == pytest.approx([HEATMAP_BIAS] * 4)
    assert torch.sigmoid(bias).tolist() == pytest.approx([0.1] * 4, abs=1e-3)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"arch": "resnet"}, "unknown arch 'resnet'; there are hourglass104, dla34, hourglass_small, hourglass_tiny"),
        ({"task": "depth"}, "unknown task 'depth'; there are detection, pose"),
        ({"num_classes": 0}, "num_classes must be at least 1, not 0"),
        ({"components": -1}, "components must be 0 .* or more, not -1"),
        ({"min_scale": -0.5}, "min_scale must be at least 0, not -0.5"),
        ({"min_scale": float("nan")}, "min_scale must be at least 0, not nan"),
    ],
)
def test_a_wrong_argument_is_named(change: dict, named: str) -> None:
    arguments = {"arch": "hourglass_small", "task": "detection", "num_classes": 4, "components": 3, **change}
    with pytest.raises(ValueError, match=named):
        build_model(arguments.pop("arch"), **arguments)


@pytest.mark.parametrize("components", [0, 3])
def test_the_state_dict_carries_the_whole_model(components: int, images: Tensor) -> None:
    torch.manual_seed(0)
    first = build_model("hourglass_small", num_classes=4, components=components)
    first(images)  # moves the batch norms' statistics away from where every fresh model has them
    second = build_model("hourglass_small", num_classes=4, components=components)
    second.load_state_dict(first.state_dict())
    for name, values in first.eval()(images)[0].items():
        assert torch.equal(values, second.eval()(images)[0][name]), name


def test_the_table_of_architectures_holds_what_the_design_names() -> None:
    assert set(ARCHITECTURES) == {"hourglass104", "dla34", "hourglass_small", "hourglass_tiny"}
