from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

import mdnkernels
from mdnkernels import gather_patches
from tests.example_count import examples
from tests.native.simd import LEVELS, run_at_level
from tests.ops.table import LAYOUTS, laid_out

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.fixture(params=["native", "eager"])
def backend(request):
    """Run every test that asks for it on both backends."""
    with mdnkernels.use_backend(request.param):
        yield request.param


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_linear_layer_on_patches_is_the_convolution_at_those_cells(backend, kernel_size, channels_last):
    feature = torch.randn(2, 4, 6, 5, dtype=torch.float64)
    if channels_last:
        feature = feature.contiguous(memory_format=torch.channels_last)
    conv = torch.nn.Conv2d(4, 3, kernel_size, padding=kernel_size // 2, dtype=torch.float64)
    index = torch.tensor([[0, 4, 29, 25, 12], [12, 12, 7, 29, 0]])  # corners, borders, a repetition
    patches = gather_patches(feature, index, kernel_size)
    assert patches.shape == (2, 5, 4 * kernel_size**2)
    sparse = functional.linear(patches, conv.weight.flatten(1), conv.bias)
    dense = conv(feature).flatten(2).gather(2, index.unsqueeze(1).expand(-1, 3, -1)).transpose(1, 2)
    torch.testing.assert_close(sparse, dense, rtol=1e-12, atol=1e-12)


def test_padding_gives_zeros_and_takes_no_gradient(backend):
    feature = torch.randn(1, 2, 3, 3, requires_grad=True)
    patches = gather_patches(feature, torch.tensor([[-1, -1]]))
    assert (patches == 0).all()
    assert (torch.autograd.grad(patches.sum(), feature)[0] == 0).all()


def test_overlapping_windows_add_their_gradients(backend):
    feature = torch.randn(1, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(gather_patches(feature, torch.tensor([[4, 4, 0]])).sum(), feature)
    assert gradient[0, 0].tolist() == [[3, 3, 2], [3, 3, 2], [2, 2, 2]]


@pytest.mark.parametrize("shape", [(0, 2, 3, 3), (1, 0, 3, 3), (2, 3, 1, 1)])
@pytest.mark.parametrize("points", [0, 2])
def test_empty_and_tiny_inputs(backend, shape, points):
    index = torch.zeros(shape[0], points, dtype=torch.int64)
    assert gather_patches(torch.randn(*shape), index).shape == (shape[0], points, shape[1] * 9)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_gradcheck(backend, layout):
    feature = laid_out(torch.randn(2, 2, 3, 4, dtype=torch.float64), layout).requires_grad_()
    index = torch.tensor([[0, 11, -1, 5], [5, 5, 6, 3]])
    assert torch.autograd.gradcheck(lambda value: gather_patches(value, index), feature)
    assert torch.autograd.gradgradcheck(lambda value: gather_patches(value, index), feature)


def patches_and_gradient(backend, feature, index, kernel_size, grad):
    feature = feature.detach().requires_grad_()
    with mdnkernels.use_backend(backend):
        patches = gather_patches(feature, index, kernel_size)
    return patches, torch.autograd.grad(patches, feature, grad)[0]


@settings(max_examples=examples(250), deadline=None)
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(0, 150), st.integers(1, 9), st.integers(1, 9)),
    points=st.integers(0, 40),
    kernel_size=st.sampled_from([1, 3, 5, 7, 11]),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(LAYOUTS),
    seed=st.integers(0, 2**31),
)
def test_native_moves_the_very_bits_and_sums_gradients_in_at_least_float32(
    shape, points, kernel_size, dtype, layout, seed
):
    generator = torch.Generator().manual_seed(seed)
    feature = laid_out(torch.randn(shape, generator=generator).to(dtype), layout)
    index = torch.randint(-1, shape[2] * shape[3], (shape[0], points), generator=generator)
    grad = torch.randn(shape[0], points, shape[1] * kernel_size**2, generator=generator).to(dtype)
    patches, gradient = patches_and_gradient("native", feature, index, kernel_size, grad)
    exact, sums = patches_and_gradient("eager", feature.double(), index, kernel_size, grad.double())
    assert patches.dtype == gradient.dtype == dtype
    assert torch.equal(patches.double(), exact)
    # One rounding to half precision at the end, however many windows overlap; terms are of size 1, up to 40 of them.
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(gradient.double(), sums, rtol=step, atol=40 * min(step, 2e-6))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed"])
def test_the_gradient_has_the_strides_of_the_feature(layout):
    feature = laid_out(torch.randn(2, 3, 4, 5), layout)
    index = torch.tensor([[0, 3], [19, -1]])
    _, gradient = patches_and_gradient("native", feature, index, 3, torch.ones(2, 2, 27))
    assert gradient.stride() == feature.stride()


def test_a_gradient_of_any_strides_is_taken(backend):
    feature, index = torch.randn(2, 3, 4, 5), torch.tensor([[0, 3], [19, 7]])
    grad = torch.randn(27, 2, 2).permute(2, 1, 0)
    (_, given), (_, copied) = (
        patches_and_gradient(backend, feature, index, 3, value) for value in (grad, grad.contiguous())
    )
    assert torch.equal(given, copied)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_same_bits_for_any_number_of_threads(layout):
    feature = laid_out(torch.randn(3, 100, 9, 9), layout)
    index, grad = torch.randint(-1, 81, (3, 70)), torch.randn(3, 70, 900)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(patches_and_gradient("native", feature, index, 3, grad))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_native_ops_pass_opcheck(layout, dtype):
    feature = laid_out(torch.randn(2, 3, 4, 5, dtype=dtype), layout).detach()
    index, grad = torch.tensor([[0, 3, -1], [19, 7, 7]]), torch.randn(2, 3, 27, dtype=dtype, requires_grad=True)
    torch.library.opcheck(torch.ops.mdnkernels.gather_patches.default, (feature.requires_grad_(), index, 3))
    stride = torch.empty_like(feature).stride()
    torch.library.opcheck(torch.ops.mdnkernels.gather_patches_backward.default, (grad, index, feature.shape, stride, 3))


@pytest.mark.parametrize(
    ("backend", "dynamic"),
    [
        pytest.param(*case, marks=() if case == ("native", False) else pytest.mark.slow)
        for case in itertools.product(("native", "eager"), (False, True))
    ],
    indirect=["backend"],
)
def test_compiles_as_one_graph_with_its_gradient(backend, dynamic):
    torch.compiler.reset()
    feature, index = torch.randn(2, 3, 4, 5, requires_grad=True), torch.tensor([[0, 3, -1], [19, 7, 7]])
    compiled = torch.compile(gather_patches, fullgraph=True, dynamic=dynamic)
    results = []
    for function in (compiled, gather_patches):
        patches = function(feature, index)
        results.append([patches, *torch.autograd.grad(patches.square().sum(), feature)])
    for a, e in zip(*results, strict=True):
        torch.testing.assert_close(a, e)


@pytest.mark.parametrize("level", LEVELS)
def test_every_simd_level_of_this_machine_agrees_with_eager(level):
    script = """
import torch
from mdnkernels import native
from tests.ops.table import laid_out
from tests.ops.test_gather_patches import patches_and_gradient
print("level", native.simd_level())
for layout in ("contiguous", "channels_last"):
    feature = laid_out(torch.randn(2, 70, 9, 9), layout)
    index, grad = torch.randint(-1, 81, (2, 30)), torch.randn(2, 30, 630)
    native_results, eager_results = (patches_and_gradient(b, feature, index, 3, grad) for b in ("native", "eager"))
    for a, e in zip(native_results, eager_results, strict=True):
        torch.testing.assert_close(a, e)
"""
    assert f"level {level}" in run_at_level(script, level)


@pytest.mark.parametrize(
    ("feature", "index", "kernel_size", "error", "word"),
    [
        (torch.zeros(2, 3, 4), torch.zeros(2, 1, dtype=torch.int64), 3, ValueError, "feature"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(1, 1, dtype=torch.int64), 3, ValueError, "index"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, 1), 3, TypeError, "index"),
        (torch.zeros(2, 3, 4, 4), torch.full((2, 1), 16), 3, IndexError, "16"),
        (torch.zeros(2, 3, 4, 4), torch.full((2, 1), -2), 3, IndexError, "-2"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, dtype=torch.int64), 4, ValueError, "kernel_size"),
    ],
)
def test_bad_input_is_refused_by_name(feature, index, kernel_size, error, word):
    with pytest.raises(error, match=word):
        gather_patches(feature, index, kernel_size)
