from __future__ import annotations

import pytest
import torch

from mdnkernels import mixture_mode
from mdnkernels.eager.mixture import activate_scale

M, C, S = 4, 6, 2


@pytest.fixture
def mixture():
    generator = torch.Generator().manual_seed(3)
    shapes = [(2, M, 5, 7), (2, M * C, 5, 7), (2, M * S, 5, 7)]
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]


def by_hand(mixture, b, y, x, select, components):
    """One position's mode by a loop over components."""
    logits, loc, scale = (value[b, :, y, x] for value in mixture)
    alpha = torch.softmax(logits, 0)
    means, sigmas = loc.view(M, C), activate_scale(scale, "elu", 1.0).view(M, S)
    density = [alpha[m] / torch.stack([sigmas[m, d % S] for d in range(C)]).prod() for m in range(M)]
    score = density if select == "density" else alpha
    best = max(components, key=lambda m: score[m])
    if select == "mean":
        share = torch.stack([alpha[m] if m in components else torch.zeros(()).double() for m in range(M)])
        share = share / share.sum()
        return (share[:, None] * means).sum(0), (share[:, None] * sigmas).sum(0), best, alpha[best]
    return means[best], sigmas[best], best, alpha[best]


@pytest.mark.parametrize("select", ["weight", "density", "mean"])
@pytest.mark.parametrize("components", [None, [2], [3, 1]])
def test_mode_is_that_of_a_loop_over_components(mixture, select, components):
    mode = mixture_mode(*mixture, select=select, components=components)
    assert mode.loc.shape == (2, C, 5, 7)
    assert mode.scale.shape == (2, S, 5, 7)
    assert mode.component.shape == mode.weight.shape == (2, 5, 7)
    for b in range(2):
        for y in range(5):
            for x in range(7):
                expected = by_hand(mixture, b, y, x, select, components or range(M))
                torch.testing.assert_close(mode.loc[b, :, y, x], expected[0])
                torch.testing.assert_close(mode.scale[b, :, y, x], expected[1])
                assert mode.component[b, y, x] == expected[2]
                torch.testing.assert_close(mode.weight[b, y, x], expected[3])


@pytest.mark.parametrize("select", ["weight", "density", "mean"])
def test_indexed_equals_dense_then_gather_and_padding_is_empty(mixture, select):
    index = torch.tensor([[0, 34, -1, 7], [7, 7, 8, -1]])
    dense, sparse = mixture_mode(*mixture, select=select), mixture_mode(*mixture, select=select, index=index)
    real = index >= 0
    for whole, chosen in zip(dense, sparse, strict=True):
        flat = whole.flatten(2) if whole.ndim == 4 else whole.flatten(1).unsqueeze(1)
        expected = flat.gather(2, index.clamp(min=0).unsqueeze(1).expand(-1, flat.shape[1], -1))
        chosen = chosen if chosen.ndim == 3 else chosen.unsqueeze(1)
        torch.testing.assert_close(chosen.transpose(1, 2)[real], expected.transpose(1, 2)[real])
    assert (sparse.component[~real] == -1).all()
    assert (sparse.weight[~real] == 0).all()
    assert (sparse.loc.transpose(1, 2)[~real] == 0).all()


def test_rows_and_points_give_what_maps_give(mixture):
    dense = mixture_mode(*mixture)
    points = mixture_mode(*(value.flatten(2) for value in mixture))
    rows = mixture_mode(*(value[:, :, 2, 3] for value in mixture))
    torch.testing.assert_close(points.loc, dense.loc.flatten(2))
    torch.testing.assert_close(rows.loc, dense.loc[:, :, 2, 3])
    assert torch.equal(rows.component, dense.component[:, 2, 3])


def test_without_scale_there_is_no_sigma(mixture):
    mode = mixture_mode(*mixture[:2])
    assert mode.scale is None
    torch.testing.assert_close(mode.loc, mixture_mode(*mixture).loc)


def test_equal_components_give_the_lowest():
    mode = mixture_mode(torch.zeros(1, 3, 2), torch.arange(3.0).view(1, 3, 1).expand(1, 3, 2))
    assert (mode.component == 0).all()


@pytest.mark.parametrize("select", ["weight", "density", "mean"])
def test_gradcheck(mixture, select):
    arguments = [value[:, :, :2, :2].clone().requires_grad_() for value in mixture]
    assert torch.autograd.gradcheck(
        lambda *values: [t for t in mixture_mode(*values, select=select) if t.is_floating_point()], arguments
    )


@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        ({"select": "best"}, ValueError, "select"),
        ({"components": []}, ValueError, "components"),
        ({"components": [1, 1]}, ValueError, "components"),
        ({"components": [M]}, ValueError, "components"),
        ({"components": [-1]}, ValueError, "components"),
        ({"components": [0.5]}, TypeError, "components"),
        ({"scale": None, "select": "density"}, ValueError, "scale"),
        ({"loc": torch.zeros(2, M * C + 1, 5, 7, dtype=torch.float64)}, ValueError, "loc"),
        ({"index": torch.full((2, 1), 35)}, IndexError, "index"),
    ],
)
def test_bad_input_is_refused_by_name(mixture, options, error, word):
    with pytest.raises(error, match=word):
        mixture_mode(**{**dict(zip(("logits", "loc", "scale"), mixture, strict=True)), **options})
