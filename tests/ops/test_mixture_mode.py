from __future__ import annotations

import functools
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mdnkernels
from mdnkernels.mixture.eager import activate_scale
from tests.example_count import examples
from tests.native.simd import LEVELS, run_at_level
from tests.ops.agreement import outputs_of
from tests.ops.table.mixture import ACTIVATIONS

mixture_mode = functools.partial(mdnkernels.mixture_mode, scale_order="interleaved")
M, C, S = 4, 6, 2
SELECTIONS = ["weight", "density", "mean"]


@pytest.fixture(params=["native", "eager"])
def backend(request):
    """Run every test that asks for it on both backends."""
    with mdnkernels.use_backend(request.param):
        yield request.param


@pytest.fixture
def mixture():
    generator = torch.Generator().manual_seed(3)
    shapes = [(2, M, 5, 7), (2, M * C, 5, 7), (2, M * S, 5, 7)]
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]


def by_hand(mixture, b, y, x, select, components):
    """Return one position's mode by a loop over components."""
    logits, loc, scale = (value[b, :, y, x] for value in mixture)
    alpha = torch.softmax(logits, 0)
    means, sigmas = loc.view(M, C), activate_scale(scale, "softplus", 1e-3).view(M, S)
    density = [alpha[m] / torch.stack([sigmas[m, d % S] for d in range(C)]).prod() for m in range(M)]
    score = density if select == "density" else alpha
    best = max(components, key=lambda m: score[m])
    if select == "mean":
        share = torch.stack([alpha[m] if m in components else torch.zeros(()).double() for m in range(M)])
        share = share / share.sum()
        return (share[:, None] * means).sum(0), (share[:, None] * sigmas).sum(0), best, alpha[best]
    return means[best], sigmas[best], best, alpha[best]


@pytest.mark.parametrize("select", SELECTIONS)
@pytest.mark.parametrize("components", [None, [2], [3, 1]])
def test_mode_is_that_of_a_loop_over_components(backend, mixture, select, components):
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


@pytest.mark.parametrize("select", SELECTIONS)
def test_indexed_equals_dense_then_gather_and_padding_is_empty(backend, mixture, select):
    index = torch.tensor([[0, 34, -1, 7], [7, 7, 8, -1]])
    dense, sparse = mixture_mode(*mixture, select=select), mixture_mode(*mixture, select=select, index=index)
    real = index >= 0
    for whole, chosen in zip(outputs_of(dense), outputs_of(sparse), strict=True):
        flat = whole.flatten(2) if whole.ndim == 4 else whole.flatten(1).unsqueeze(1)
        expected = flat.gather(2, index.clamp(min=0).unsqueeze(1).expand(-1, flat.shape[1], -1))
        chosen = chosen if chosen.ndim == 3 else chosen.unsqueeze(1)
        torch.testing.assert_close(chosen.transpose(1, 2)[real], expected.transpose(1, 2)[real])
    assert (sparse.component[~real] == -1).all()
    assert (sparse.weight[~real] == 0).all()
    assert (sparse.loc.transpose(1, 2)[~real] == 0).all()


def test_rows_and_points_give_what_maps_give(backend, mixture):
    dense = mixture_mode(*mixture)
    points = mixture_mode(*(value.flatten(2) for value in mixture))
    rows = mixture_mode(*(value[:, :, 2, 3] for value in mixture))
    torch.testing.assert_close(points.loc, dense.loc.flatten(2))
    torch.testing.assert_close(rows.loc, dense.loc[:, :, 2, 3])
    assert torch.equal(rows.component, dense.component[:, 2, 3])


def test_without_scale_there_is_no_sigma(backend, mixture):
    mode = mixture_mode(*mixture[:2])
    assert mode.scale is None
    torch.testing.assert_close(mode.loc, mixture_mode(*mixture).loc)


def test_equal_components_give_the_lowest(backend):
    mode = mixture_mode(torch.zeros(1, 3, 2), torch.arange(3.0).view(1, 3, 1).expand(1, 3, 2))
    assert (mode.component == 0).all()


@pytest.mark.parametrize("below", [10.0, 95.0, 104.0, 1e4])
def test_the_mean_of_some_components_is_a_softmax_over_their_logits_however_small(backend, below):
    logits = torch.tensor([0.0, -below, 3.0, -below - 0.7])
    loc, raw = torch.tensor([1.0, -2.0, 5.0, 4.0]), torch.tensor([0.5, 0.25, 2.0, 0.75])
    shares = [1 / (1 + math.exp(logits[3] - logits[1])), 1 / (1 + math.exp(logits[1] - logits[3]))]
    between = shares[0] * shares[1] * (-2.0 - 4.0)  # d mean / d logit of the first, and minus that of the other
    leaves = [value.view(1, -1, 1).requires_grad_() for value in (logits, loc, raw)]
    mode = mixture_mode(*leaves, select="mean", components=[3, 1], scale_activation="identity")
    gradients = [gradient.flatten() for gradient in torch.autograd.grad(mode.loc.sum(), leaves[:2])]
    torch.testing.assert_close(mode.loc.item(), shares[0] * -2.0 + shares[1] * 4.0, rtol=1e-5, atol=0)
    torch.testing.assert_close(mode.scale.item(), shares[0] * 0.25 + shares[1] * 0.75, rtol=1e-5, atol=0)
    assert mode.component.item() == 1
    torch.testing.assert_close(gradients[0], torch.tensor([0.0, between, 0.0, -between]), rtol=1e-4, atol=0)
    torch.testing.assert_close(gradients[1], torch.tensor([0.0, shares[0], 0.0, shares[1]]), rtol=1e-5, atol=0)


@pytest.mark.parametrize("select", ["weight", "mean"])
def test_a_component_left_out_reaches_nothing_whatever_it_holds(backend, select):
    """Nor one whose alpha is 0 by a logit of -inf, where all that may be chosen are such."""
    logits = torch.tensor([math.nan, -300.0, -301.0, math.inf]).view(1, 4, 1)
    loc = torch.tensor([math.nan, 2.0, 3.0, math.inf]).view(1, 4, 1).requires_grad_()
    mode = mixture_mode(logits, loc, select=select, components=[2, 1])
    mode.loc.backward(torch.ones(1, 1, 1))
    share = 1.0 if select == "weight" else 1 / (1 + math.exp(-1))
    torch.testing.assert_close(mode.loc.item(), share * 2 + (1 - share) * 3, rtol=1e-6, atol=0)
    assert mode.component.item() == 1
    torch.testing.assert_close(loc.grad.flatten(), torch.tensor([0.0, share, 1 - share, 0.0]))
    impossible = torch.tensor([0.0, -math.inf, -math.inf]).view(1, 3, 1)
    assert mixture_mode(impossible, loc[:, :3], components=[2, 1]).component.item() == 1


@pytest.mark.parametrize("select", SELECTIONS)
@pytest.mark.parametrize("index", [None, torch.tensor([[0, 3, 3, -1], [1, 1, -1, 2]])])
@pytest.mark.parametrize("components", [None, [3, 1]])
def test_gradcheck(backend, mixture, select, index, components):
    arguments = [value[:, :, :2, :2].clone().requires_grad_() for value in mixture]
    options = {"select": select, "index": index, "components": components}
    assert torch.autograd.gradcheck(
        lambda *values: [t for t in outputs_of(mixture_mode(*values, **options)) if t.is_floating_point()], arguments
    )


@pytest.mark.parametrize("select", SELECTIONS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("index", [None, torch.tensor([[0, 34, -1, 7], [7, 7, 8, -1]])])
@pytest.mark.parametrize("result", ["loc", "scale", "weight"])
def test_native_gradients_of_each_result_are_those_of_eager(mixture, select, activation, index, result):
    arguments = [mixture[0], mixture[1], mixture[2].abs() + 0.1]
    gradients = []
    for backend in ("native", "eager"):
        leaves = [value.clone().requires_grad_() for value in arguments]
        with mdnkernels.use_backend(backend):
            mode = mixture_mode(*leaves, select=select, scale_activation=activation, index=index)
        value = getattr(mode, result)
        (value * torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).view_as(value)).sum().backward()
        gradients.append([leaf.grad if leaf.grad is not None else torch.zeros_like(leaf) for leaf in leaves])
    for native, eager in zip(*gradients, strict=True):
        torch.testing.assert_close(native, eager, rtol=1e-11, atol=1e-13)


def test_second_derivative_of_native_is_refused(mixture):
    loc = mixture[1].requires_grad_()
    with mdnkernels.use_backend("native"):
        mode = mixture_mode(mixture[0], loc)
    with pytest.raises(NotImplementedError, match="differentiable once"):
        torch.autograd.grad(mode.loc.sum(), loc, create_graph=True)


def laid_out(value, layout):
    """Return `value` in other memory: the same numbers."""
    if layout == "channels_last":
        return value.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":
        return torch.nn.functional.pad(value, (1, 2, 3, 0))[:, :, 3:, 1:-2]
    if layout == "transposed":
        return value.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "expanded":
        return value[:, :, :1].expand_as(value)
    return value


@settings(max_examples=examples(250), deadline=None)
@given(
    batch=st.integers(0, 3),
    count=st.integers(1, 5),
    scales=st.integers(1, 3),
    repeats=st.integers(1, 3),
    size=st.tuples(st.integers(1, 9), st.integers(1, 300)),
    select=st.sampled_from(SELECTIONS),
    activation=st.sampled_from(ACTIVATIONS),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    layout=st.sampled_from(["contiguous", "channels_last", "sliced", "transposed", "expanded"]),
    points=st.one_of(st.none(), st.integers(0, 150)),
    restricted=st.booleans(),
    levels=st.sampled_from([2, 1000]),
    special=st.sampled_from([None, math.nan, math.inf, -math.inf]),
    seed=st.integers(0, 2**31),
)
def test_native_gives_what_eager_gives(
    batch, count, scales, repeats, size, select, activation, dtype, layout, points, restricted, levels, special, seed
):
    """Few levels make equal scores, of which the first wins; special values are in the logits."""
    generator = torch.Generator().manual_seed(seed)
    if select == "density" and levels == 2:
        scales = min(scales, 2)  # rounding parts sums of the same three logarithms in another order

    def values(channels):
        return torch.randint(1, levels + 1, (batch, channels, *size), generator=generator) / levels

    logits = 3 * values(count)
    if special is not None:
        logits[torch.rand(logits.shape, generator=generator) < 0.1] = special
    tensors = [logits, values(count * scales * repeats) - 0.5, values(count * scales)]
    tensors = [laid_out(value.to(dtype), layout) for value in tensors]
    options = {"select": select, "scale_activation": activation, "min_scale": 1.0}
    if points is not None:
        options["index"] = torch.randint(-1, size[0] * size[1], (batch, points), generator=generator)
    if restricted:
        options["components"] = torch.randperm(count, generator=generator)[: (count + 1) // 2].tolist()
    modes = []
    for backend in ("native", "eager"):
        with mdnkernels.use_backend(backend):
            modes.append(mixture_mode(*tensors, **options))
    native, eager = modes
    # Rounding may part scores that are equal to within it; where it did, both chose one of the best.
    same = native.component == eager.component
    if select == "weight" or levels == 2:
        assert same.all()
    assert (~same).sum() <= 0.01 * same.numel() + 1
    step = torch.finfo(dtype).eps if dtype.itemsize == 2 else 0
    tolerance = {"rtol": max(2e-6 if dtype != torch.float64 else 1e-13, step), "atol": max(1e-6, step)}
    for a, e in zip(outputs_of(native), outputs_of(eager), strict=True):
        assert a.shape == e.shape
        assert a.dtype == e.dtype
        where = same if a.ndim == same.ndim else same.unsqueeze(1).expand_as(a)
        torch.testing.assert_close(a[where], e[where], equal_nan=True, **tolerance)


@pytest.mark.parametrize("components", [None, [1, 2]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_nan_score_is_the_largest(backend, components, dtype):
    logits = torch.randn(1, 3, 64).to(dtype)
    loc = torch.arange(3.0, dtype=dtype).view(1, 3, 1).expand(1, 3, 64)
    scale = torch.ones(1, 3, 64, dtype=dtype)
    scale[:, 1] = math.nan
    mode = mixture_mode(logits, loc, scale, select="density", components=components)
    assert (mode.component == 1).all()
    logits[:, 2] = math.nan  # then every alpha is NaN
    mode = mixture_mode(logits, loc, components=components)
    assert (mode.component == 2).all()
    assert mode.weight.isnan().all()


def test_an_index_of_padding_alone_needs_no_positions_at_all():
    maps = [torch.zeros(2, channels, 0) for channels in (3, 6, 6)]
    recycled = torch.full((2, 2, 4), math.nan)  # what uninitialised memory may hold
    del recycled
    with mdnkernels.use_backend("native"):
        mode = mixture_mode(*maps, index=torch.full((2, 4), -1))
    assert (mode.component == -1).all()
    assert (mode.loc == 0).all()
    assert (mode.scale == 0).all()


def test_modes_of_channels_last_maps_are_channels_last():
    maps = [torch.randn(2, k * 3, 5, 7).contiguous(memory_format=torch.channels_last) for k in (1, 4, 2)]
    with mdnkernels.use_backend("native"):
        mode = mixture_mode(*maps)
    assert mode.loc.is_contiguous(memory_format=torch.channels_last)


def test_same_bits_for_any_number_of_threads():
    maps = [torch.randn(3, k * 3, 61, 67) for k in (1, 4, 2)]
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            with mdnkernels.use_backend("native"):
                modes = [mixture_mode(*maps, select=select) for select in SELECTIONS]
            results.append([value for mode in modes for value in outputs_of(mode)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("level", LEVELS)
def test_every_simd_level_of_this_machine_agrees_with_eager(level):
    script = """
import torch
import mdnkernels
from mdnkernels import native
from tests.ops.agreement import outputs_of
from tests.ops.test_mixture_mode import mixture_mode
print("level", native.simd_level())
for dtype in (torch.float32, torch.float64, torch.bfloat16):
    maps = [torch.randn(2, k * 3, 37, 41).to(dtype) for k in (1, 4, 2)]
    for select in ("weight", "density", "mean"):
        with mdnkernels.use_backend("eager"):
            expected = mixture_mode(*maps, select=select)
        for a, e in zip(outputs_of(mixture_mode(*maps, select=select)), outputs_of(expected), strict=True):
            torch.testing.assert_close(a, e)
"""
    assert f"level {level}" in run_at_level(script, level)


@pytest.mark.parametrize(
    ("select", "index", "channels_last", "with_scale"),
    [
        ("weight", None, False, False),
        ("density", None, True, True),
        ("mean", torch.tensor([[0, 34, -1], [7, 7, 8]]), False, True),
    ],
)
def test_native_op_passes_opcheck(mixture, select, index, channels_last, with_scale):
    points = [value.flatten(2) for value in mixture]
    if channels_last:
        points = [value.transpose(1, 2).contiguous().transpose(1, 2) for value in points]
    logits, loc, scale = (value.requires_grad_() for value in points)
    torch.library.opcheck(
        torch.ops.mdnkernels.mixture_mode.default,
        (logits, loc, scale if with_scale else None, index, select, [3, 1], "elu", 1.0),
    )


# Through inductor, which takes seconds each; test_torch_integration.py has every size in one graph without it.
@pytest.mark.parametrize(
    ("backend", "select", "dynamic"),
    [
        pytest.param(*case, marks=() if case == ("native", "mean", False) else pytest.mark.slow)
        for case in itertools.product(("native", "eager"), ("weight", "mean"), (False, True))
    ],
    indirect=["backend"],
)
def test_compiles_as_one_graph_with_its_gradient(backend, mixture, select, dynamic):
    torch.compiler.reset()
    arguments = [value.requires_grad_() for value in mixture]
    compiled = torch.compile(lambda *values: mixture_mode(*values, select=select), fullgraph=True, dynamic=dynamic)
    results = []
    for function in (compiled, lambda *values: mixture_mode(*values, select=select)):
        mode = function(*arguments)
        gradients = torch.autograd.grad(mode.loc.sum() + mode.scale.sum() + mode.weight.sum(), arguments)
        results.append([*outputs_of(mode), *gradients])
    for a, e in zip(*results, strict=True):
        torch.testing.assert_close(a, e)


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
