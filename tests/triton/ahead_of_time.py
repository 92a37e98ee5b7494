"""What Triton's compiler makes of each kernel for a GPU that need not be there. Run as a module it prints a table.

The ops run on CPU tensors with every launch replaced by a compilation: signature, alignments and constants are then
those of real calls.
"""

from __future__ import annotations

import functools
import re
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import triton
from triton.backends.compiler import GPUTarget

import mdnkernels
from mdnkernels.mixture.families import family_of
from mdnkernels.ops.gather_patches import triton as patches
from mdnkernels.ops.heatmap_focal_loss import triton as focal
from mdnkernels.ops.mixture_mode import triton as mode
from mdnkernels.ops.mixture_nll import triton as mixture
from mdnkernels.ops.splat_gaussians import triton as splat
from mdnkernels.ops.topk_peaks import triton as peaks
from mdnkernels.triton import launch
from tests.native.cuobjdump import usage
from tests.ops.cases import FAMILIES

MODULES = (focal, launch, mixture, mode, patches, peaks, splat)
CAPABILITIES = (80, 90, 100)


@dataclass(frozen=True)
class Binary:
    """One kernel for one GPU."""

    name: str
    ptx: str
    registers: int
    local_bytes: int  # spills and what else is in local memory

    def accesses(self, kind: str) -> list[str]:
        """Each "ld" or "st" of global memory, as "v4.b32" or "b32"."""
        return re.findall(rf"\b{kind}\.global\.(?:L1::\w+\.|L2::\w+\.)*((?:v\d\.)?b\d+)", self.ptx)


class NoDevice:
    """In the place of Triton's driver: a GPU of some compute capability, on which nothing is launched."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability  # kernels are cached by device

    def get_current_stream(self, device: int) -> int:
        return 0


def resources(cubin: bytes) -> tuple[int, int]:
    """Registers a thread and bytes of local memory."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        (kernel,) = usage(Path(file.name))
    return kernel.registers, kernel.local_bytes


def compile_call(call: Callable[[], Any], capability: int) -> dict[str, Binary]:
    """The kernels that a call of an op would launch, by name."""
    binaries = {}

    class Compiling:
        def __init__(self, kernel: Any) -> None:
            self.kernel = kernel

        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            def compile_kernel(*arguments: Any, **options: Any) -> None:
                compiled = self.kernel.warmup(*arguments, grid=grid, **options)
                name = self.kernel.__name__
                binaries[name] = Binary(name, compiled.asm["ptx"], *resources(compiled.asm["cubin"]))

            return compile_kernel

    with ExitStack() as stack:
        stack.enter_context(patch.object(triton.runtime.driver, "_active", NoDevice(capability)))
        for module in MODULES:
            stack.enter_context(patch.object(module, "wrap_triton", Compiling))
        call()
    return binaries


def mixture_maps(channels_last: bool = False, dtype: torch.dtype = torch.float32, dims: int = 34) -> list[torch.Tensor]:
    """Pose on a small map: three components, two scales each; dims = 2 is detection."""
    maps = [torch.zeros(2, channels, 16, 16, dtype=dtype) for channels in (3, 3 * dims, 6, dims)]
    return [value.contiguous(memory_format=torch.channels_last) if channels_last else value for value in maps]


def nll(*maps: torch.Tensor, family: mdnkernels.Family | None = None, **options: Any) -> torch.Tensor:
    """With gradients, through the backend's function: the public one would look for a GPU."""
    points = [value.detach().flatten(2).requires_grad_(i < 3) for i, value in enumerate(maps)]
    given = {"mask": None, "weight": None, "index": None, "dim_scale": None, **options}
    return mixture.mixture_nll(*points, *given.values(), family or mdnkernels.Gaussian(), "elu", 1.0, "mean")


def mixture_mode(select: str) -> None:
    logits, loc, scale, _ = (value.flatten(2) for value in mixture_maps())
    mode.mixture_mode(logits, loc, scale, None, select, None, "elu", 1.0)


POINTS = torch.zeros(2, 32, dtype=torch.int64)
HEATMAP = torch.zeros(2, 80, 128, 128)
CALLS: dict[str, Callable[[], Any]] = {
    "nll pose": lambda: nll(*mixture_maps()),
    "nll pose, masked": lambda: nll(*mixture_maps(), mask=torch.ones(2, 17, 256, dtype=torch.bool)),
    "nll detection": lambda: nll(*mixture_maps(dims=2)),
    "nll detection, masked": lambda: nll(*mixture_maps(dims=2), mask=torch.ones(2, 1, 256, dtype=torch.bool)),
    "nll double": lambda: nll(*mixture_maps(dtype=torch.float64)),
    "nll bfloat16": lambda: nll(*mixture_maps(dtype=torch.bfloat16)),
    "nll 128 dimensions": lambda: nll(*mixture_maps(dims=128)),
    # Of the other families those calls that want most registers.
    **{
        f"nll {kind}, {family}": functools.partial(nll, *maps, family=family_of(family), mask=mask)
        for family in FAMILIES[1:]
        for kind, maps, mask in (
            ("pose", mixture_maps(), None),
            ("pose, masked", mixture_maps(), torch.ones(2, 17, 256, dtype=torch.bool)),
            ("double", mixture_maps(dtype=torch.float64), None),
        )
    },
    "nll channels_last": lambda: nll(*mixture_maps(channels_last=True)),
    "nll indexed": lambda: nll(*mixture_maps()[:3], mixture_maps()[3].flatten(2)[:, :, :32], index=POINTS),
    "mode weight": lambda: mixture_mode("weight"),
    "mode density": lambda: mixture_mode("density"),
    "mode mean": lambda: mixture_mode("mean"),
    "peaks": lambda: peaks.topk_peaks(HEATMAP, 100, 3, False),
    "peaks double": lambda: peaks.topk_peaks(HEATMAP[:, :4].double(), 100, 3, False),
    "patches": lambda: patches.gather_patches(HEATMAP, POINTS, 3),
    "patches backward": lambda: patches._gather_patches_backward(
        torch.zeros(2, 32, 720), POINTS, HEATMAP.shape, HEATMAP.stride(), 3
    ),
    "focal": lambda: focal.heatmap_focal_loss(HEATMAP.clone().requires_grad_(), HEATMAP, 2.0, 4.0),
    "focal bfloat16": lambda: focal.heatmap_focal_loss(
        HEATMAP.bfloat16().requires_grad_(), HEATMAP.bfloat16(), 2.0, 4.0
    ),
    "splat": lambda: splat.splat_gaussians(POINTS[..., None].expand(-1, -1, 2), POINTS, POINTS, 80, (128, 128)),
}


def main() -> None:
    print(f"{'call':22}{'kernel':26}{'cc':>4}{'registers':>11}{'local':>7}  loads; stores")
    for name, call in CALLS.items():
        for capability in map(int, sys.argv[1:] or CAPABILITIES):
            for binary in compile_call(call, capability).values():
                moved = "; ".join(", ".join(sorted(set(binary.accesses(kind)))) for kind in ("ld", "st"))
                print(f"{name:22}{binary.name:26}{capability:4}{binary.registers:11}{binary.local_bytes:7}  {moved}")


if __name__ == "__main__":
    main()
