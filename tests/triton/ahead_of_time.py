"""What Triton's compiler makes of each kernel for a GPU that need not be there. Run as a module it prints a table.

The ops run on CPU tensors with every launch replaced by a compilation: signature, alignments and constants are then
those of real calls.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import triton
from triton.backends.compiler import GPUTarget

from mdnkernels import backends
from mdnkernels.triton import launch
from tests.native.cuobjdump import usage
from tests.ops.agreement import outputs_of
from tests.ops.table import CASES, OPS, Call, Case
from tests.ops.table.mixture import FAMILIES

backends.load_triton()
LAUNCHING = [
    module
    for name, module in sys.modules.items()
    if name.startswith("mdnkernels.ops.") and hasattr(module, "wrap_triton")
]
CAPABILITIES = (80, 90, 100)


@dataclass(frozen=True)
class Binary:
    """One kernel for one GPU."""

    name: str
    ptx: str
    registers: int
    local_bytes: int  # spills and what else is in local memory

    def accesses(self, kind: str) -> list[str]:
        """Return each "ld" or "st" of global memory, as "v4.b32" or "b32"."""
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
    """Return registers a thread and bytes of local memory."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        (kernel,) = usage(Path(file.name))
    return kernel.registers, kernel.local_bytes


def compile_call(call: Call, capability: int) -> dict[str, Binary]:
    """Return the kernels that a call of an op would launch, by name."""
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
        for module in (launch, *LAUNCHING):
            stack.enter_context(patch.object(module, "wrap_triton", Compiling))
        step(call)
    return binaries


def on_triton() -> AbstractContextManager[Any]:
    """Let public functions run on Triton within the block, wherever their tensors are."""
    return patch.object(backends, "select", lambda op, *_: backends.TABLE[op]["triton"])


def step(call: Call) -> None:
    """Run a call as training does, with its gradients."""
    leaves = {name: call.arguments[name].detach().requires_grad_() for name in call.entry.trained}
    with on_triton():
        outputs = outputs_of(call.function(**{**call.arguments, **leaves}))
    if leaves:
        torch.autograd.grad([value.sum() for value in outputs], list(leaves.values()))


def at(op: str, workload: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Callable[[], Call]:
    """Return what draws a workload, of two images, with changes of its options."""
    return lambda: Case(OPS[op], workload).call("cpu", dtype, batch=2, **changes)


# Every workload of the table; then what takes other ways through the kernels, or more registers.
CALLS: dict[str, Callable[[], Call]] = {str(case): at(case.entry.op, case.workload) for case in CASES}
CALLS |= {
    "mixture_nll, pose, no mask": at("mixture_nll", "pose", groups=None),
    "mixture_nll, detection, no mask": at("mixture_nll", "detection", groups=None),
    "mixture_nll, pose, float64": at("mixture_nll", "pose", torch.float64, groups=None),
    "mixture_nll, pose, bfloat16": at("mixture_nll", "pose", torch.bfloat16, groups=None),
    "mixture_nll, 128 dimensions": at("mixture_nll", "pose", groups=None, dims=128),
    # Of the other families those calls that want most registers.
    **{
        f"mixture_nll, {name}, {family}": at("mixture_nll", "pose", dtype, groups=groups, family=family)
        for family in FAMILIES[1:]
        for name, groups, dtype in (
            ("pose", 17, torch.float32),
            ("pose, no mask", None, torch.float32),
            ("pose, float64", None, torch.float64),
        )
    },
    "mixture_nll, pose, pairs": at("mixture_nll", "pose", block=2),
    "mixture_nll, pose, pairs that share, no mask": at("mixture_nll", "pose", groups=None, block=2, shared=True),
    "mixture_nll, detection, pairs": at("mixture_nll", "detection", block=2),
    "mixture_nll, triples, no mask": at("mixture_nll", "detection", groups=None, dims=6, scales=2, block=3),
    "mixture_nll, pose, best, beta": at("mixture_nll", "pose", assign="best", beta=0.5),
    "mixture_nll, pose, tempered, natural": at("mixture_nll", "pose", temperature=2.0, gradient="natural"),
    "mixture_nll, detection, assigned": at("mixture_nll", "detection", assigned=True),
    "mixture_mode, pose, density": at("mixture_mode", "pose", select="density"),
    "mixture_mode, pose, mean": at("mixture_mode", "pose", select="mean"),
    "topk_peaks, float64": at("topk_peaks", "k = 100", torch.float64, labels=4),
    "heatmap_focal_loss, bfloat16": at("heatmap_focal_loss", "", torch.bfloat16, float32_target=False),
}


def main() -> None:
    print(f"{'call':36}{'kernel':26}{'cc':>4}{'registers':>11}{'local':>7}  loads; stores")
    for name, call in CALLS.items():
        for capability in map(int, sys.argv[1:] or CAPABILITIES):
            for binary in compile_call(call(), capability).values():
                moved = "; ".join(", ".join(sorted(set(binary.accesses(kind)))) for kind in ("ld", "st"))
                print(f"{name:36}{binary.name:26}{capability:4}{binary.registers:11}{binary.local_bytes:7}  {moved}")


if __name__ == "__main__":
    main()
