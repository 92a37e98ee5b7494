"""center_focal_loss: the CUDA kernels on the CPU over many blocks; tests/ops/test_matrix.py has the small maps."""

from __future__ import annotations

import pytest
import torch

import mdnkernels
from tests import cuda_on_cpu
from tests.ops.table import OPS, Draw

SECTOR = 32
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def drawn(batch, count, labels, size, dtype=torch.float32, layout="contiguous", **options):
    draw = Draw(batch, size, dtype)
    call = OPS["center_focal_loss"].arguments(draw, points=count, labels=labels, **options)
    if layout == "channels_last":
        call["logits"] = call["logits"].contiguous(memory_format=torch.channels_last)
    return call


def loss_and_gradient(call, **options):
    logits = call["logits"].detach().requires_grad_()
    loss = mdnkernels.center_focal_loss(**{**call, **options, "logits": logits})
    (gradient,) = torch.autograd.grad(loss, logits)
    return loss.detach(), gradient


def on_cuda(call, seed=0, count=False, **options):
    with cuda_on_cpu.running(seed=seed, count=count) as report, mdnkernels.use_backend("native"):
        results = loss_and_gradient(call, **options)
    return results, report


def assert_agrees(call, **options):
    (loss, gradient), report = on_cuda(call, **options)
    assert len(report.launches) == 2
    with mdnkernels.use_backend("eager"):
        expected, slope = loss_and_gradient({**call, "logits": call["logits"].double()}, **options)
    dtype = call["logits"].dtype
    arithmetic = torch.promote_types(dtype, torch.float32)
    assert loss.dtype == arithmetic
    assert gradient.stride() == call["logits"].stride()
    # Float32 draws the targets of float64 logits too, to the last bit in its own way.
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    eps = max(torch.finfo(dtype).eps, 2**-23)
    smallest = torch.finfo(dtype).smallest_normal * eps  # of half precision's subnormal gradients
    torch.testing.assert_close(gradient.double(), slope, rtol=16 * eps, atol=max(1e-6 * slope.abs().max(), smallest))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("options", [{}, {"alpha": 1.5, "beta": 2.5}], ids=str)
def test_many_blocks_agree_with_eager_in_float64(options, layout, dtype):
    assert_agrees(drawn(3, 20, 5, (61, 67), dtype, layout, largest=12, ignored=0.3), **options)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("size", [(128, 64), (1, 9001), (9000, 1), (3, 3), (1, 1)])
def test_every_size_of_map(size, layout):
    assert_agrees(drawn(3, 9, 3, size, layout=layout, largest=9))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_more_objects_than_a_block_has_threads(layout):
    """A quarter of them share their centres with others."""
    assert_agrees(drawn(2, 700, 2, (40, 50), layout=layout, largest=3, ignored=0.1))


def test_one_object_covers_everything():
    call = drawn(1, 1, 2, (96, 80))
    call |= {"center": torch.tensor([[[60, 70]]]), "radius": torch.tensor([[2**31 - 1]]), "label": torch.tensor([[1]])}
    assert_agrees(call)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_logits_that_begin_anywhere(count):
    """A view's first element lies at any multiple of its size, not of 16 bytes."""
    call = drawn(2, count, 3, (50, 41), largest=9)
    call["logits"] = call["logits"][1:]
    call |= {name: call[name][1:] for name in ("center", "radius", "label")}
    assert_agrees(call)


def test_an_empty_batch_has_no_loss():
    (loss, gradient), _ = on_cuda(drawn(0, 3, 2, (4, 5)))
    assert loss == 0
    assert gradient.shape == (0, 2, 4, 5)


def test_without_a_gradient_the_loss_is_the_same():
    call = drawn(2, 9, 3, (64, 64), largest=9)
    with cuda_on_cpu.running() as report, mdnkernels.use_backend("native"):
        loss = mdnkernels.center_focal_loss(**call)
    assert torch.equal(loss, on_cuda(call)[0][0])
    assert report.sectors_written <= 64


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_the_same_bits_in_every_order(layout):
    call = drawn(2, 60, 3, (64, 50), layout=layout, largest=9)
    (loss, gradient), _ = on_cuda(call)
    for seed in range(1, 12):
        (other_loss, other), _ = on_cuda(call, seed=seed)
        assert torch.equal(other_loss, loss)
        assert torch.equal(other, gradient)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_read_once_and_gradients_written_once(dtype, layout):
    """Beside them every block reads 16 bytes of each of its image's objects."""
    call = drawn(2, 32, 8, (64, 64), dtype, layout, largest=9, padded=False)
    _, report = on_cuda(call, count=True)
    counting, terms = report.launches
    size = call["logits"].nbytes / SECTOR
    assert terms.written.sectors <= 1.02 * size
    assert terms.read.distinct_sectors <= 1.05 * size
    assert terms.read.sectors <= 1.02 * size + 16 * (32 / 2 + 2 * 8 + 8)
    assert counting.read.sectors + counting.written.sectors <= 1.05 * 2 * (32 * (2 * 32 + 16) / SECTOR + 4 * 32)
