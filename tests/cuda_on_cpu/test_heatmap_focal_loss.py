"""heatmap_focal_loss: the CUDA kernels on the CPU over many blocks; tests/ops/test_matrix.py has the small maps."""

from __future__ import annotations

import pytest
import torch

import mdnkernels
from tests import cuda_on_cpu
from tests.ops.table import OPS, Draw

SECTOR = 32
DTYPES = [(torch.float32, torch.float32), (torch.float64, torch.float64)]
DTYPES += [(half, target) for half in (torch.bfloat16, torch.float16) for target in (half, torch.float32)]


def logits_and_target(batch, *shape, dtypes=(torch.float32, torch.float32), spread=3.0, positives=0.01):
    labels, *positions = shape or (1,)
    arguments = OPS["heatmap_focal_loss"].arguments(
        Draw(batch, tuple(positions), dtypes[0]), labels=labels, spread=spread, positives=positives, slopes=0.5
    )
    logits, target = (value if shape else value[:, 0] for value in arguments.values())
    return logits, target.to(dtypes[1])


def loss_and_gradient(logits, target, **options):
    logits = logits.detach().requires_grad_()
    loss = mdnkernels.heatmap_focal_loss(logits, target, **options)
    (gradient,) = torch.autograd.grad(loss, logits)
    return loss.detach(), gradient


def on_cuda(logits, target, seed=0, count=False, **options):
    with cuda_on_cpu.running(seed=seed, count=count) as report, mdnkernels.use_backend("native"):
        results = loss_and_gradient(logits, target, **options)
    return results, report


def assert_agrees(logits, target, **options):
    (loss, gradient), _ = on_cuda(logits, target, **options)
    with mdnkernels.use_backend("eager"):
        expected, slope = loss_and_gradient(logits.double(), target.double(), **options)
    arithmetic = torch.promote_types(logits.dtype, torch.float32)
    assert loss.dtype == arithmetic
    torch.testing.assert_close(loss.double(), expected, rtol=8 * torch.finfo(arithmetic).eps, atol=0)
    eps = torch.finfo(logits.dtype).eps
    smallest = torch.finfo(logits.dtype).smallest_normal * eps  # of half precision's subnormal gradients
    torch.testing.assert_close(gradient.double(), slope, rtol=16 * eps, atol=max(1e-6 * slope.abs().max(), smallest))


@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
@pytest.mark.parametrize("options", [{}, {"alpha": 1.5, "beta": 2.5}], ids=str)
def test_many_blocks_agree_with_eager_in_float64(options, dtypes):
    assert_agrees(*logits_and_target(3, 2, 61, 67, dtypes=dtypes), **options)


@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
@pytest.mark.parametrize("which", ["logits", "target", "both"])
def test_tensors_that_begin_anywhere(which, dtypes):
    """A view's first element lies at any multiple of its size, not of 16 bytes."""
    logits, target = logits_and_target(5001, dtypes=dtypes)
    logits = logits[1:] if which != "target" else logits[:-1].clone()
    target = target[1:] if which != "logits" else target[:-1].clone()
    assert_agrees(logits, target)


@pytest.mark.parametrize("count", [0, 1, 3, 4095, 4096, 4097])
def test_every_length(count):
    logits, target = logits_and_target(count, positives=0.2)
    if count == 0:
        (loss, gradient), _ = on_cuda(logits, target)
        assert loss == 0
        assert gradient.shape == (0,)
    else:
        assert_agrees(logits, target)


@pytest.mark.parametrize("positives", [0.0, 0.01])
def test_without_a_gradient_there_is_one_pass(positives):
    logits, target = logits_and_target(2, 3, 64, 64, positives=positives)
    with cuda_on_cpu.running() as report, mdnkernels.use_backend("native"):
        loss = mdnkernels.heatmap_focal_loss(logits, target)
    (expected, _), _ = on_cuda(logits, target)
    assert torch.equal(loss, expected)
    assert report.sectors_read <= 1.05 * (logits.nbytes + target.nbytes) / SECTOR
    assert report.sectors_written <= 16


def test_logits_far_out_stay_finite():
    logits, target = logits_and_target(2, 2, 50, 50, spread=1e4)
    (loss, gradient), _ = on_cuda(logits, target)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert_agrees(logits, target)


def test_a_nan_gives_a_nan_loss():
    logits, target = logits_and_target(1, 2, 50, 50)
    logits[0, 1, 7, 7] = torch.nan
    (loss, gradient), _ = on_cuda(logits, target)
    assert loss.isnan()
    assert gradient.isnan().sum() == 1


def test_the_same_bits_in_every_order():
    logits, target = logits_and_target(2, 3, 80, 80)
    (loss, gradient), _ = on_cuda(logits, target)
    for seed in range(1, 20):
        (other_loss, other), _ = on_cuda(logits, target, seed=seed)
        assert torch.equal(other_loss, loss)
        assert torch.equal(other, gradient)


@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
def test_every_sector_is_moved_once_a_pass(dtypes):
    """The target is read a second time, to count the positives before gradients are divided by them."""
    logits, target = logits_and_target(2, 4, 64, 64, dtypes=dtypes)
    _, report = on_cuda(logits, target, count=True)
    counting, _, terms, _ = report.launches
    assert counting.read.sectors == target.nbytes / SECTOR
    assert terms.read.sectors <= 1.02 * (logits.nbytes + target.nbytes) / SECTOR
    assert terms.written.sectors <= 1.02 * logits.nbytes / SECTOR
    assert report.sectors_read + report.sectors_written <= 1.05 * (2 * logits.nbytes + 2 * target.nbytes) / SECTOR
