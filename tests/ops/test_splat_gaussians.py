from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mdnkernels
from tests.example_count import examples
from tests.ops.table import OPS, Draw

BACKENDS = ["native", "eager"]


def splat_gaussians(*arguments, backend):
    with mdnkernels.use_backend(backend):
        return mdnkernels.splat_gaussians(*arguments)


def random_objects(batch, count, labels, size, largest_radius, seed):
    draw = Draw(batch, tuple(size), seed=seed)
    made = OPS["splat_gaussians"].arguments(draw, points=count, labels=labels, largest=largest_radius)
    return made["center"], made["radius"], made["label"]


def by_hand(center, radius, label, num_labels, size):
    """Draw an object, a row, a cell at a time."""
    heatmap = torch.zeros(center.shape[0], num_labels, *size)
    for b in range(center.shape[0]):
        for n in range(center.shape[1]):
            if label[b, n] < 0:
                continue
            (x, y), r = center[b, n].tolist(), int(radius[b, n])
            sigma = (2 * r + 1) / 6
            for v in range(max(y - r, 0), min(y + r + 1, size[0])):
                for u in range(max(x - r, 0), min(x + r + 1, size[1])):
                    value = math.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * sigma**2))
                    heatmap[b, label[b, n], v, u] = max(heatmap[b, label[b, n], v, u].item(), value)
    return heatmap


@pytest.mark.parametrize("backend", BACKENDS)
def test_targets_are_those_of_a_loop_over_cells(backend):
    size = (11, 17)
    center, radius, label = random_objects(3, 9, 4, size, 6, 0)
    actual = splat_gaussians(center, radius, label, 4, size, backend=backend)
    torch.testing.assert_close(actual, by_hand(center, radius, label, 4, size), rtol=1e-6, atol=1e-7)
    for b in range(3):
        for n in range(9):
            if label[b, n] >= 0:
                assert actual[b, label[b, n], center[b, n, 1], center[b, n, 0]] == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_radius_zero_is_one_cell(backend):
    heatmap = splat_gaussians(
        torch.tensor([[[2, 1]]]), torch.tensor([[0]]), torch.tensor([[0]]), 1, (3, 4), backend=backend
    )
    assert heatmap.sum() == heatmap[0, 0, 1, 2] == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_padding_may_hold_anything(backend):
    heatmap = splat_gaussians(
        torch.tensor([[[-7, 99]]]), torch.tensor([[-3]]), torch.tensor([[-1]]), 2, (3, 4), backend=backend
    )
    assert (heatmap == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("batch", "count"), [(0, 3), (2, 0)])
def test_no_objects_give_an_empty_map(batch, count, backend):
    empty = torch.zeros(batch, count, dtype=torch.int64)
    heatmap = splat_gaussians(empty.unsqueeze(-1).expand(-1, -1, 2), empty, empty, 2, (3, 4), backend=backend)
    assert heatmap.shape == (batch, 2, 3, 4)
    assert (heatmap == 0).all()


@settings(max_examples=examples(100), deadline=None)
@given(
    batch=st.integers(0, 3),
    count=st.integers(0, 12),
    labels=st.integers(1, 4),
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    largest_radius=st.sampled_from([0, 3, 20, 100]),
    seed=st.integers(0, 9),
)
def test_native_agrees_with_eager_to_rounding(batch, count, labels, size, largest_radius, seed):
    """Each profile is within 1 ulp of the exact one in both, and so is the product of two: 2 ulp either way at most."""
    objects = random_objects(batch, count, labels, size, largest_radius, seed)
    actual, expected = (splat_gaussians(*objects, labels, size, backend=backend) for backend in BACKENDS)
    assert torch.equal(actual == 0, expected == 0)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)  # exponents reach 9 and are rounded first
    for center, label, heatmap in zip(objects[0], objects[2], actual, strict=True):
        real = label >= 0
        assert (heatmap[label[real], center[real, 1], center[real, 0]] == 1).all()


def test_views_of_any_strides_are_read_right():
    center, radius, label = random_objects(4, 6, 3, (20, 30), 5, 0)
    expected = splat_gaussians(center, radius, label, 3, (20, 30), backend="native")
    views = (center.permute(2, 1, 0).contiguous().permute(2, 1, 0), radius.T.contiguous().T, label.T.contiguous().T)
    assert torch.equal(splat_gaussians(*views, 3, (20, 30), backend="native"), expected)


def test_same_bits_for_any_number_of_threads_and_any_order_of_objects():
    objects = random_objects(3, 50, 7, (61, 67), 9, 0)
    expected = splat_gaussians(*objects, 7, (61, 67), backend="native")
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            assert torch.equal(splat_gaussians(*objects, 7, (61, 67), backend="native"), expected)
            turned = [value.flip(1) for value in objects]
            assert torch.equal(splat_gaussians(*turned, 7, (61, 67), backend="native"), expected)
    finally:
        torch.set_num_threads(before)


def test_large_maps_written_past_the_caches_are_zero_where_no_object_reaches():
    objects = random_objects(1, 4, 9, (501, 503), 9, 0)
    used = torch.full((1, 9, 501, 503), torch.nan)
    del used  # its memory may be given out again
    actual, expected = (splat_gaussians(*objects, 9, (501, 503), backend=backend) for backend in BACKENDS)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)


def test_native_op_passes_opcheck():
    arguments = (*random_objects(2, 5, 3, (6, 7), 3, 0), 3, 6, 7)
    torch.library.opcheck(torch.ops.mdnkernels.splat_gaussians.default, arguments)


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        ({"center": torch.tensor([[[4, 0]]])}, IndexError, "width"),
        ({"center": torch.tensor([[[0, 3]]])}, IndexError, "height"),
        ({"center": torch.tensor([[[0.0, 0.0]]])}, TypeError, "center"),
        ({"center": torch.tensor([[0, 0]])}, ValueError, "center"),
        ({"radius": torch.tensor([[-1]])}, IndexError, "radius"),
        ({"radius": torch.tensor([[1, 2]])}, ValueError, "radius"),
        ({"label": torch.tensor([[2]])}, IndexError, "label"),
        ({"label": torch.tensor([[-2]])}, IndexError, "label"),
        ({"num_labels": 0}, ValueError, "num_labels"),
        ({"size": (3,)}, ValueError, "size"),
        ({"size": (3, 0)}, ValueError, "size"),
    ],
)
def test_bad_input_is_refused_by_name(change, error, word):
    good = {
        "center": torch.tensor([[[1, 1]]]),
        "radius": torch.tensor([[1]]),
        "label": torch.tensor([[0]]),
        "num_labels": 2,
        "size": (3, 4),
    }
    with pytest.raises(error, match=word):
        mdnkernels.splat_gaussians(**{**good, **change})
