"""Boxes from peaks and regression maps."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mdnkernels.models import Detections, decode_detections, size_regression

HEIGHT, WIDTH, CLASSES = 16, 24, 3
#         x1     y1     x2     y2    label score
OBJECTS = [
    (3.0, 5.0, 40.5, 31.0, 0, 0.9),
    (60.0, 2.25, 64.0, 60.0, 2, 0.7),
    (70.0, 40.0, 95.0, 63.0, 0, 0.4),
    (0.0, 0.0, 4.0, 3.0, 1, 0.2),
]


def perfect_maps() -> tuple[Tensor, Tensor, Tensor]:
    """Return what a network without error would predict for the objects: score heatmap, offset and size, batch 1."""
    heatmap, offset, size = (
        torch.zeros(1, CLASSES, HEIGHT, WIDTH),
        torch.zeros(1, 2, HEIGHT, WIDTH),
        torch.zeros(1, 2, HEIGHT, WIDTH),
    )
    for x1, y1, x2, y2, label, score in OBJECTS:
        centre_x, centre_y = (x1 + x2) / 8, (y1 + y2) / 8
        x, y = int(centre_x), int(centre_y)
        heatmap[0, label, y, x] = score
        offset[0, :, y, x] = torch.tensor([centre_x - x, centre_y - y])
        size[0, :, y, x] = torch.tensor([x2 - x1, y2 - y1]) / 4
    return heatmap, offset, size


def decode(heatmap: Tensor, offset: Tensor, size: Tensor | tuple[Tensor, ...], **options: Any) -> Detections:
    """Decode with the base's regression where size is one map, else with the mixture's."""
    maps = size if isinstance(size, tuple) else (size,)
    components = maps[0].shape[1] if isinstance(size, tuple) else 0
    return decode_detections(heatmap, offset, maps, regression=size_regression(components), **options)


def assert_are_the_objects(found: Detections) -> None:
    torch.testing.assert_close(found.box[0, :4], torch.tensor([row[:4] for row in OBJECTS]))
    assert found.label[0, :4].tolist() == [row[4] for row in OBJECTS]
    torch.testing.assert_close(found.score[0, :4], torch.tensor([row[5] for row in OBJECTS]))


def two_component_maps(size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return a mixture with the right size in component 1 on the left half and in component 0 on the right half.

    The other component of each half holds nonsense.
    """
    left = (torch.arange(WIDTH) < WIDTH // 2).expand(1, 1, HEIGHT, WIDTH)
    wrong = torch.full_like(size, 99.0)
    loc = torch.cat((torch.where(left, wrong, size), torch.where(left, size, wrong)), dim=1)
    logit = torch.where(left, -2.0, 2.0)
    scale = torch.tensor([0.0, 1.0, 2.0, 3.0]).view(1, 4, 1, 1).expand(1, 4, HEIGHT, WIDTH)
    return torch.cat((logit, -logit), dim=1), loc, scale


def test_perfect_maps_give_back_the_boxes() -> None:
    heatmap, offset, size = perfect_maps()
    found = decode(heatmap, offset, size, k=4, logits=False)
    assert_are_the_objects(found)
    assert found.component.tolist() == [[-1] * 4]
    assert found.weight.tolist() == [[1.0] * 4]
    assert not found.sigma.any()


def test_heatmap_logits_give_the_same_boxes() -> None:
    heatmap, offset, size = perfect_maps()
    assert_are_the_objects(decode(torch.logit(heatmap, eps=1e-6), offset, size, k=4))


def test_the_chosen_component_gives_size_weight_and_sigma() -> None:
    heatmap, offset, size = perfect_maps()
    found = decode(heatmap, offset, two_component_maps(size), k=4, logits=False)
    assert_are_the_objects(found)
    assert found.component.tolist() == [[1, 0, 0, 1]]
    torch.testing.assert_close(found.weight, torch.full((1, 4), 1 / (1 + torch.exp(torch.tensor(-4.0)).item())))
    # ELU(raw) + 1 + 1 cells of 4 pixels
    torch.testing.assert_close(found.sigma[0, :2], torch.tensor([[16.0, 20.0], [8.0, 12.0]]))


def test_components_restrict_the_choice() -> None:
    heatmap, offset, size = perfect_maps()
    found = decode(heatmap, offset, two_component_maps(size), k=4, logits=False, components=[0])
    assert found.component.tolist() == [[0] * 4]
    torch.testing.assert_close(found.box[0, 1:3], torch.tensor([row[:4] for row in OBJECTS[1:3]]))


def test_the_mean_weighs_all_components_and_names_the_strongest() -> None:
    heatmap, offset, size = perfect_maps()
    found = decode(heatmap, offset, two_component_maps(size), k=4, logits=False, select="mean")
    assert found.component.tolist() == [[1, 0, 0, 1]]
    large = 1 / (1 + math.exp(-4))
    torch.testing.assert_close(found.weight, torch.full((1, 4), large))
    extent = found.box[0, :, 2:] - found.box[0, :, :2]
    own = torch.tensor([[x2 - x1, y2 - y1] for x1, y1, x2, y2, *_ in OBJECTS])
    torch.testing.assert_close(extent, large * own + (1 - large) * 4 * 99)
    left = [large * 16 + (1 - large) * 8, large * 20 + (1 - large) * 12]
    torch.testing.assert_close(found.sigma[0, 0], torch.tensor(left))


def test_the_densest_component_is_not_the_heaviest_where_its_sigmas_are_smaller() -> None:
    """Component 0 has 2 x 3 cells of sigma, component 1 has 4 x 5: 20 / 6 times as many; the weights are e^4 apart."""
    heatmap, offset, size = perfect_maps()
    logits, loc, scale = two_component_maps(size)
    found = decode(heatmap, offset, (logits, loc, scale), k=4, logits=False, select="density")
    assert found.component.tolist() == [[1, 0, 0, 1]]
    # e^(2 * 0.5) is less than 20 / 6.
    found = decode(heatmap, offset, (logits / 4, loc, scale), k=4, logits=False, select="density")
    assert found.component.tolist() == [[0] * 4]


@pytest.mark.parametrize(
    ("choice", "named"), [({"components": [0]}, r"components=\[0\]"), ({"select": "mean"}, "select")]
)
def test_a_choice_in_the_base_is_refused(choice: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"{named}.* needs a mixture"):
        decode(*perfect_maps(), **choice)


@pytest.mark.parametrize("mixture", [False, True])
def test_missing_peaks_are_padding_and_are_not_read(mixture: bool) -> None:
    # No zero plateau: the background falls to one side, so that only the corner is a peak.
    slope = torch.arange(HEIGHT * WIDTH, dtype=torch.float32).view(1, 1, HEIGHT, WIDTH)
    _, offset, size = perfect_maps()
    # The first cell, which an unguarded padding index would read, is poisoned.
    size[0, :, 0, 0] = float("nan")
    found = decode(slope, offset, two_component_maps(size) if mixture else size, k=5)
    assert found.label.tolist() == [[0, -1, -1, -1, -1]]
    assert found.component.tolist()[0][1:] == [-1] * 4
    for values in (found.box, found.score, found.weight, found.sigma):
        assert torch.equal(values[0, 1:], torch.zeros_like(values[0, 1:]))


def test_a_negative_size_becomes_an_empty_box_at_its_centre() -> None:
    heatmap, offset, size = perfect_maps()
    found = decode(heatmap, offset, -size, k=4, logits=False)
    assert torch.equal(found.box[..., :2], found.box[..., 2:])


def test_half_precision_maps_give_float32_boxes() -> None:
    heatmap, offset, size = (values.bfloat16() for values in perfect_maps())
    for extent in (size, two_component_maps(size)):
        extent = tuple(v.bfloat16() for v in extent) if isinstance(extent, tuple) else extent
        found = decode(heatmap, offset, extent, k=4, logits=False)
        assert {v.dtype for v in found if v.is_floating_point()} == {torch.float32}
        torch.testing.assert_close(found.box[0], torch.tensor([row[:4] for row in OBJECTS]), rtol=1e-2, atol=0.1)


def test_maps_of_different_sizes_are_refused() -> None:
    heatmap, offset, size = perfect_maps()
    with pytest.raises(ValueError, match="does not go with"):
        decode(heatmap, offset, size[..., :-1])


def test_images_of_a_batch_do_not_mix() -> None:
    heatmap, offset, size = perfect_maps()
    empty = torch.zeros_like(heatmap)
    found = decode(
        torch.cat((empty, heatmap)), offset.expand(2, -1, -1, -1), size.expand(2, -1, -1, -1), k=4, logits=False
    )
    assert_are_the_objects(Detections(*(values[1:] for values in found)))
    assert not found.score[0].any()
