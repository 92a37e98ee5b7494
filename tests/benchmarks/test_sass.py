"""The listing of compiled kernels, and the machine that runs them, on a toy kernel and on this library's."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import mdnkernels
from benchmarks.sass import __main__ as command
from benchmarks.sass.launches import watching
from benchmarks.sass.listing import Kernel, find, kernel
from benchmarks.sass.machine import Machine
from tests import cuda_on_cpu
from tests.native import ptxas
from tests.native.cuobjdump import tool
from tests.ops.agreement import outputs_of
from tests.ops.mixture_cases import MixtureCase, loss_and_gradients

compiled = pytest.mark.skipif(
    ptxas.nvcc() is None or tool("nvdisasm") is None, reason="no nvcc here, or no nvdisasm, which triton and CUDA bring"
)

LISTING = """
\t.section\t.nv.constant2.toy,"a",@progbits
        /*0000*/ \t.byte\t0x10, 0x00
        /*0002*/ \t.short\t0x0102
\t.section\t.text.toy,"ax",@progbits
.text.toy:
        /*0000*/                   IMAD.MOV.U32 R1, RZ, RZ, c[0x0][0x28] ;
.L_x_1:
        /*0010*/                   FFMA R2, -R3.reuse, |R4|, 1.5 ;
        /*0020*/              @!P0 BRA P1, `(.L_x_1) ;
        /*0030*/                   BRX R4 -0x40 (*"BRANCH_TARGETS .L_x_1"*) ;
\t.section\t.text.other,"ax",@progbits
        /*0000*/                   EXIT ;
"""


def test_a_listing_is_read():
    toy = kernel(LISTING, "toy")
    assert toy.constants == bytes([0x10, 0, 2, 1])
    move, multiply, branch, jump = toy.instructions
    assert (move.name, move.unit, move.modifiers) == ("IMAD", "imad", {"MOV", "U32"})
    assert (multiply.unit, multiply.operands) == ("fp32", ("R2", "-R3", "|R4|", "1.5"))
    assert (branch.guard, branch.operands, branch.target) == ("!P0", ("P1",), 0x10)
    assert jump.operands == ("R4 -0x40",)


def test_a_text_that_is_in_no_rows_name_is_refused_with_the_names(capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["--only", "mixture_mean"])
    assert stopped.value.code == 2
    errors = capsys.readouterr().err
    assert "--only 'mixture_mean': no row's name holds it" in errors
    assert "`mixture_mode`" in errors


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [("nvcc", [], "needs nvcc"), ("nvcc", ["--registers"], "needs nvcc"), ("nvdisasm", [], "needs nvdisasm")],
)
def test_what_the_machine_lacks_is_named(program, arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(command.ptxas, "nvcc", lambda: None if program == "nvcc" else "nvcc")
    monkeypatch.setattr(command.cuobjdump, "tool", lambda _: None)
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
@compiled
@pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason=cuda_on_cpu.NO_COMPILER)
def test_the_rows_that_are_asked_for_are_printed(capsys):
    assert command.main(["--only", "splat_gaussians"]) == 0
    _, _, row = capsys.readouterr().out.splitlines()
    assert row.startswith("| `splat_gaussians`, 8 x 80 x 128 x 128, 32 objects | 0.0 | 41.9 | cell |")


TOY = """
extern "C" __global__ void toy(const float* from, float* to, int count) {
  __shared__ float sums[256];
  const int thread = threadIdx.x;
  float sum = 0;
#pragma unroll 1
  for (int i = 0; i < count; ++i) sum = fmaf(sum, 0.5f, __ldg(from + i * 256 + thread));
  sums[thread] = sum;
  __syncthreads();
  if (thread % 32 < 8) sum += __frcp_rn(sums[255 - thread]);
  to[blockIdx.x * 256 + thread] = sum;
}
"""


def build_toy(folder: Path, architecture: str) -> Kernel:
    source = folder / "toy.cu"
    source.write_text(TOY)
    cubin = folder / f"toy.{architecture}.cubin"
    subprocess.run([str(ptxas.nvcc()), f"-arch={architecture}", "--cubin", source, "-o", cubin], check=True)
    return find(folder, architecture, "toy")


def aligned(rows: int) -> np.ndarray:
    """Return zeros, 256 a row, from a multiple of 128 bytes on: a line of a GPU's caches."""
    data = np.zeros(rows * 256 + 32, dtype=np.float32)
    first = -data.ctypes.data % 128 // 4
    return data[first : first + rows * 256].reshape(rows, 256)


@compiled
@pytest.mark.parametrize("architecture", [pytest.param("sm_80", marks=pytest.mark.slow), "sm_90"])
def test_a_toy_kernel_does_what_it_says_and_is_counted(architecture, tmp_path):
    count, blocks = 7, 3
    source, result = aligned(count), aligned(blocks)
    source[:] = np.random.default_rng(0).uniform(1, 2, source.shape)
    buffers = [(array.ctypes.data, array.ctypes.data + array.nbytes, array is result) for array in (source, result)]
    parameters = np.array([source.ctypes.data, result.ctypes.data, count], dtype=np.uint64).tobytes()
    toy = build_toy(tmp_path, architecture)
    execution = Machine(toy, architecture, (blocks, 1, 1), (256, 1, 1), parameters, buffers).run()

    expected = np.zeros(256, dtype=np.float32)
    for row in source:
        expected = expected * np.float32(0.5) + row
    inverse = np.where(np.arange(256) % 32 < 8, 1 / expected[::-1], 0)
    np.testing.assert_allclose(result, np.tile(expected + inverse, (blocks, 1)), rtol=1e-6)

    warps = 8 * blocks
    executed = {"LDG": 0, "STG": 0, "STS": 0, "LDS": 0, "BAR": 0, "MUFU": 0}
    for instruction, times in execution.counts.items():
        if instruction.name in executed:
            executed[instruction.name] += times
    assert executed == {"LDG": count * warps, "STG": warps, "STS": warps, "LDS": warps, "BAR": warps, "MUFU": warps}
    assert count * warps <= execution.of_unit("fp32") <= (count + 8) * warps
    assert execution.wavefronts["global"] == (count + 1) * warps
    assert execution.wavefronts["shared"] == 2 * warps


@pytest.mark.slow
@compiled
def test_an_access_outside_every_buffer_is_an_error(tmp_path):
    source = aligned(1)
    buffers = [(source.ctypes.data, source.ctypes.data + source.nbytes, False)]
    parameters = np.array([source.ctypes.data, source.ctypes.data, 2], dtype=np.uint64).tobytes()
    machine = Machine(build_toy(tmp_path, "sm_80"), "sm_80", (1, 1, 1), (256, 1, 1), parameters, buffers)
    with pytest.raises(IndexError, match="outside all buffers"):
        machine.run()


def _mixture_nll(dtype):
    arguments, others = MixtureCase(dims=34, groups=17, positions=(8, 9), dtype=dtype).make()
    return loss_and_gradients("native", arguments, others, dtype)


def _heatmap_focal_loss(dtype):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 2, 64, 70, generator=generator).to(dtype).requires_grad_()
    target = (torch.rand(1, 2, 64, 70, generator=generator) * 0.9).to(dtype)
    target[0, 0, 3, 4] = 1
    loss = mdnkernels.heatmap_focal_loss(logits, target)
    return loss.detach(), *torch.autograd.grad(loss, logits)


def _center_focal_loss(dtype):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 2, 64, 70, generator=generator).to(dtype).requires_grad_()
    center, radius = (
        torch.randint(0, 60, (1, 9, 2), generator=generator),
        torch.randint(0, 9, (1, 9), generator=generator),
    )
    loss = mdnkernels.center_focal_loss(logits, center, radius, torch.randint(-1, 2, (1, 9), generator=generator))
    return loss.detach(), *torch.autograd.grad(loss, logits)


def _topk_peaks(dtype):
    generator = torch.Generator().manual_seed(0)
    return mdnkernels.topk_peaks(torch.rand(1, 3, 40, 128, generator=generator).to(dtype), 40)


def _gather_patches(dtype):
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(2, 40, 16, 20, generator=generator).to(dtype).contiguous(memory_format=torch.channels_last)
    index = torch.randint(-1, 320, (2, 12), generator=generator)
    patches = mdnkernels.gather_patches(feature.requires_grad_(), index)
    return patches.detach(), *torch.autograd.grad(patches, feature, torch.ones_like(patches))


def _mixture_mode(dtype):
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(2, channels, 8, 16, generator=generator).to(dtype) for channels in (3, 102, 6)]
    modes = [
        mdnkernels.mixture_mode(*values, select=select, scale_order="interleaved")
        for select in ("weight", "density", "mean")
    ]
    return [tensor for mode in modes for tensor in outputs_of(mode)]


def _splat_gaussians(dtype):
    generator = torch.Generator().manual_seed(0)
    center = torch.randint(0, 60, (2, 9, 2), generator=generator)
    radius = torch.randint(0, 9, (2, 9), generator=generator)
    label = torch.randint(-1, 3, (2, 9), generator=generator)
    return [mdnkernels.splat_gaussians(center, radius, label, 3, (64, 70))]


@pytest.mark.slow
@compiled
@pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason=cuda_on_cpu.NO_COMPILER)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize(
    "call",
    [
        *(_mixture_nll, _heatmap_focal_loss, _center_focal_loss, _topk_peaks, _gather_patches, _mixture_mode),
        _splat_gaussians,
    ],
)
def test_compiled_kernels_give_what_their_sources_give(call, architecture, dtype):
    """The instructions that nvcc made, against the same source on the CPU."""
    with mdnkernels.use_backend("native"), cuda_on_cpu.running(count=False):
        expected = call(dtype)
        with watching(architecture) as launches:
            actual = call(dtype)
    assert launches
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=2e-6 if a.dtype == torch.float32 else 2**-7, atol=2e-6, equal_nan=True)


@pytest.mark.slow
@compiled
@pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason=cuda_on_cpu.NO_COMPILER)
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("exponents", [{}, {"alpha": 1.5, "beta": 3}], ids=["usual", "unusual"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_focal_loss_has_the_same_bits_with_and_without_its_gradient(dtype, exponents, architecture):
    """nvcc may make two loops of one, and fuse multiplications and additions of one in another way than of the other.

    Each loss is one element's: beside it stand three whose loss is 0, so that the four are read at once.
    """
    values = torch.linspace(-5, 5, 9, dtype=dtype) + 0.123
    losses = {True: [], False: []}
    with mdnkernels.use_backend("native"), cuda_on_cpu.running(count=False), watching(architecture):
        for value, wanted in itertools.product(values.tolist(), (0.37, 1.0)):
            logits = torch.tensor([value, -300, -300, -300], dtype=dtype).reshape(1, 1, 2, 2)
            target = torch.tensor([wanted, 0, 0, 0], dtype=dtype).reshape(1, 1, 2, 2)
            for gradient, of in losses.items():
                of.append(mdnkernels.heatmap_focal_loss(logits.clone().requires_grad_(gradient), target, **exponents))
    assert torch.stack(losses[True]).gt(0).all()
    assert torch.equal(torch.stack(losses[True]), torch.stack(losses[False]))
