from __future__ import annotations

import itertools
import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mdnkernels
from tests.example_count import examples
from tests.native.simd import LEVELS, run_at_level

BACKENDS = ["native", "eager"]
LAYOUTS = {
    "contiguous": lambda value: value.contiguous(),
    "channels_last": lambda value: value.contiguous(memory_format=torch.channels_last),
    "transposed": lambda value: value.transpose(2, 3).contiguous().transpose(2, 3),
    "sliced": lambda value: torch.cat([value, value], 3)[..., : value.shape[3]],
}


def heatmap_focal_loss(*arguments, backend, **options):
    with mdnkernels.use_backend(backend):
        return mdnkernels.heatmap_focal_loss(*arguments, **options)


def loss_and_gradient(logits, target, backend, **options):
    logits = logits.detach().requires_grad_()
    loss = heatmap_focal_loss(logits, target, backend=backend, **options)
    return loss.detach(), torch.autograd.grad(loss, logits)[0]


def random_maps(shape, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(shape, generator=generator, dtype=torch.float64)
    target[target > 0.95] = 1.0
    target[target < 0.1] = 0.0
    logits = torch.randn(shape, generator=generator, dtype=torch.float64) * 4
    return logits.to(dtype), target.to(dtype)


def by_hand(logits, target, alpha=2, beta=4):
    """Compute the formula, an element at a time, in extended precision."""
    with mpmath.workdps(50):
        total, positives = mpmath.mpf(0), 0
        for logit, wanted in zip(logits.flatten().tolist(), target.flatten().tolist(), strict=True):
            p = 1 / (1 + mpmath.exp(-mpmath.mpf(logit)))
            if wanted == 1:
                positives += 1
                total -= (1 - p) ** alpha * mpmath.log(p)
            else:
                total -= (1 - mpmath.mpf(wanted)) ** beta * p**alpha * mpmath.log(1 - p)
        return float(total / max(positives, 1))


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    target[target > 0.85] = 1.0
    return torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64) * 3, target


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("alpha", "beta"), [(2.0, 4.0), (1.0, 0.0), (0.0, 2.0), (0.0, 0.0), (2.5, 3.5), (2.0, 3.0)])
def test_loss_is_the_formula(maps, alpha, beta, backend):
    loss = heatmap_focal_loss(*maps, alpha=alpha, beta=beta, backend=backend)
    assert loss.item() == pytest.approx(by_hand(*maps, alpha, beta), rel=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_positives_the_sum_is_not_divided(maps, backend):
    logits, target = maps
    target = target.clamp(max=0.9)
    expected = by_hand(logits, target)
    assert heatmap_focal_loss(logits, target, backend=backend).item() == pytest.approx(expected, rel=1e-12)
    assert loss_and_gradient(logits, target, backend)[0].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("alpha", "beta"), [(2.0, 4.0), (1.5, 4.0)])
def test_saturated_logits_keep_exact_losses_and_finite_gradients(backend, alpha, beta):
    logits = torch.tensor([-1e4, -200.0, -40.0, 40.0, 200.0, 1e4] * 2)
    target = torch.tensor([1.0] * 6 + [0.25] * 6)
    loss, gradient = loss_and_gradient(logits, target, backend, alpha=alpha, beta=beta)
    weight = 0.75**beta
    assert loss.item() == pytest.approx((1e4 + 200 + 40 + weight * (40 + 200 + 1e4)) / 6, rel=1e-6)
    expected = torch.tensor([-1.0, -1, -1, 0, 0, 0, 0, 0, 0, weight, weight, weight]) / 6
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("alpha", "beta"), [(2.0, 4.0), (0.0, 2.0), (1.5, 3.5), (2.0, 0.0)])
def test_gradcheck(maps, alpha, beta, backend):
    logits, target = maps

    def function(value):
        return heatmap_focal_loss(value, target, alpha=alpha, beta=beta, backend=backend)

    assert torch.autograd.gradcheck(function, logits.requires_grad_())


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=examples(80), deadline=None)
@given(
    shape=st.one_of(
        st.tuples(*[st.integers(0, 3)] * 2, *[st.integers(0, 19)] * 2), st.tuples(st.just(1), *[st.integers(1, 70)] * 3)
    ),
    layouts=st.tuples(*[st.sampled_from(sorted(LAYOUTS))] * 2),
    dtypes=st.sampled_from(
        [
            (torch.float32, torch.float32),
            (torch.float64, torch.float64),
            *((half, target) for half in (torch.bfloat16, torch.float16) for target in (half, torch.float32)),
        ]
    ),
    powers=st.sampled_from([(2.0, 4.0), (0.0, 2.0), (1.5, 3.5), (2.0, 0.0)]),
    seed=st.integers(0, 9),
)
def test_every_shape_layout_and_dtype_agrees_with_float64(backend, shape, layouts, dtypes, powers, seed):
    logits, target = random_maps(shape, seed, torch.float64)
    logits = LAYOUTS[layouts[0]](logits.to(dtypes[0]))
    target = LAYOUTS[layouts[1]](target.to(dtypes[1]))
    options = {"alpha": powers[0], "beta": powers[1]}
    loss, gradient = loss_and_gradient(logits, target, backend, **options)
    expected, expected_gradient = loss_and_gradient(logits.double(), target.double(), "eager", **options)
    assert loss.dtype == torch.promote_types(dtypes[0], torch.float32)
    assert gradient.dtype == dtypes[0]
    tolerance = 1e-12 if dtypes[0] == torch.float64 else 1e-5
    torch.testing.assert_close(loss.double(), expected, rtol=tolerance, atol=1e-30)
    rounding = max(tolerance, torch.finfo(dtypes[0]).eps)
    size = max(1e-3, expected_gradient.abs().max().item() if expected_gradient.numel() else 0)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=rounding, atol=rounding * size)
    if backend == "native":
        alone = heatmap_focal_loss(logits, target, backend=backend, **options)  # the pass without a gradient
        assert torch.equal(alone, loss)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("powers", [(2.0, 4.0), (1.5, 3.5)])
def test_the_loss_has_the_same_bits_with_and_without_its_gradient(powers, dtype):
    """A fused multiply-add in one of the two passes alone would change the last bit of one loss in six."""
    options = {"alpha": powers[0], "beta": powers[1]}
    for seed in range(50):
        logits, target = (value.to(dtype) for value in random_maps((1, 2, 8, 13), seed, torch.float64))
        loss, _ = loss_and_gradient(logits, target, "native", **options)
        assert torch.equal(loss, heatmap_focal_loss(logits, target, backend="native", **options))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_gradient_has_the_layout_of_logits(backend):
    logits, target = (LAYOUTS["channels_last"](value) for value in random_maps((2, 3, 8, 9), 0))
    assert loss_and_gradient(logits, target, backend)[1].stride() == logits.stride()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("cell", [0, 100, 256, 300])  # in a whole vector, at a row's edge, in the last vector
@pytest.mark.parametrize(("alpha", "beta"), [(2.0, 4.0), (1.5, 3.5), (0.0, 0.0)])
def test_a_nan_gives_a_nan_loss(backend, which, cell, alpha, beta):
    maps = random_maps((301,), 0)
    maps[which][cell] = math.nan
    assert heatmap_focal_loss(*maps, alpha=alpha, beta=beta, backend=backend).isnan()


def test_same_bits_for_any_number_of_threads():
    maps = random_maps((3, 5, 61, 67), 0)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(loss_and_gradient(*maps, "native"))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_large_gradients_written_past_the_caches_are_complete():
    maps = random_maps((1, 3, 701, 997), 0)  # 8 MB, and a last row that fills no vector
    loss, gradient = loss_and_gradient(*maps, "native")
    expected, expected_gradient = loss_and_gradient(*(value.double() for value in maps), "eager")
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    size = expected_gradient.abs().max().item()
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-5, atol=1e-6 * size)


@pytest.mark.parametrize("level", LEVELS)
def test_every_simd_level_of_this_machine_agrees_with_float64(level):
    script = """
import torch
from mdnkernels import native
from tests.ops.test_heatmap_focal_loss import loss_and_gradient, random_maps
print("level", native.simd_level())
for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
    for powers in ({}, {"alpha": 1.5, "beta": 3.5}):
        maps = random_maps((2, 3, 31, 37), 0, dtype)
        actual = loss_and_gradient(*maps, "native", **powers)
        expected = loss_and_gradient(*(value.double() for value in maps), "eager", **powers)
        for a, e in zip(actual, expected, strict=True):
            tolerance = 1e-5 if a.dtype == torch.float32 else torch.finfo(a.dtype).eps * 100
            assert (a.double() - e).abs().max() <= min(tolerance, 1e-2) * e.abs().max(), (a, e)
"""
    assert f"level {level}" in run_at_level(script, level)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_native_op_passes_opcheck(dtype, gradient, layout):
    logits, target = (LAYOUTS[layout](value) for value in random_maps((2, 3, 4, 5), 0, dtype))
    arguments = (logits.requires_grad_(gradient), target, 2.0, 4.0, gradient)
    torch.library.opcheck(torch.ops.mdnkernels.heatmap_focal_loss.default, arguments)


@pytest.mark.parametrize(
    ("backend", "dynamic"),
    [
        pytest.param(*case, marks=() if case == ("native", False) else pytest.mark.slow)
        for case in itertools.product(BACKENDS, (False, True))
    ],
)
def test_compiles_as_one_graph_with_its_gradient(backend, dynamic):
    torch.compiler.reset()
    compiled = torch.compile(
        lambda *maps: heatmap_focal_loss(*maps, backend=backend) * 3, fullgraph=True, dynamic=dynamic
    )
    for shape in ((2, 3, 4, 5), (2, 3, 6, 7)):
        logits, target = random_maps(shape, 0)
        loss = compiled(logits.requires_grad_(), target)
        expected, gradient = loss_and_gradient(logits, target, backend)
        torch.testing.assert_close(loss, expected * 3)
        torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], gradient * 3)


def test_second_derivative_of_native_is_refused_and_eager_has_it():
    logits, target = random_maps((5,), 0, torch.float64)
    logits.requires_grad_()
    with pytest.raises(NotImplementedError, match="differentiable once"):
        torch.autograd.grad(heatmap_focal_loss(logits, target, backend="native"), logits, create_graph=True)
    assert torch.autograd.gradgradcheck(lambda value: heatmap_focal_loss(value, target, backend="eager"), logits)


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        ({"target": torch.zeros(2, 3, 4, 4, dtype=torch.float64)}, ValueError, "target"),
        ({"target": torch.zeros(2, 3, 4, 5)}, TypeError, "target"),
        ({"target": torch.zeros(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)}, ValueError, "detach"),
        ({"logits": torch.zeros(2, 3, 4, 5, dtype=torch.int64)}, TypeError, "logits"),
        ({"alpha": -1.0}, ValueError, "alpha"),
        ({"beta": "4"}, TypeError, "beta"),
    ],
)
def test_bad_input_is_refused_by_name(maps, change, error, word):
    with pytest.raises(error, match=word):
        mdnkernels.heatmap_focal_loss(**{"logits": maps[0], "target": maps[1], **change})
