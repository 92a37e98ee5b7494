"""Triton's compiler for GPUs that need not be there: every kernel, with the arguments of real calls."""

from __future__ import annotations

import pytest

from tests.triton.ahead_of_time import CALLS, CAPABILITIES, compile_call

# What each thread moves of the large tensors of a planar call: 16 bytes, or 8 where that keeps all residuals on chip.
# A masked pose at 16 bytes would need some ten registers more than the 255 a thread can have.
WIDE = {
    "mixture_nll, pose": ("v2.b32", "v2.b32"),
    "mixture_nll, pose, no mask": ("v4.b32", "v4.b32"),
    "mixture_nll, detection, no mask": ("v4.b32", "v4.b32"),
    "mixture_nll, detection": ("v4.b32", "v4.b32"),
    "mixture_nll, 128 dimensions": ("v4.b32", "v4.b32"),
    "mixture_nll, pose, bfloat16": ("v2.b32", "v4.b32"),
    "mixture_mode, pose": ("v4.b32", "v4.b32"),
    "mixture_mode, pose, density": ("v4.b32", "v4.b32"),
    "mixture_mode, pose, mean": ("v4.b32", "v4.b32"),
    "topk_peaks, k = 100": ("v4.b32", None),
    "gather_patches, planar": (None, "v4.b32"),
    "heatmap_focal_loss": ("v4.b32", "v4.b32"),
    "heatmap_focal_loss, bfloat16": ("v4.b32", "v4.b32"),
    "splat_gaussians": (None, "v4.b32"),
    "center_focal_loss": ("v4.b32", "v4.b32"),
}


def test_widths_are_of_calls_that_are_compiled():
    assert WIDE.keys() <= CALLS.keys()


# Each call for one GPU, and each GPU for some calls; all others take minutes.
COMPILED = [
    pytest.param(call, capability, marks=[pytest.mark.slow] * (number % len(CAPABILITIES) != place))
    for number, call in enumerate(CALLS)
    for place, capability in enumerate(CAPABILITIES)
]


@pytest.mark.parametrize(("call", "capability"), COMPILED)
def test_every_kernel_compiles_without_local_memory_and_with_wide_accesses(call, capability):
    binaries = compile_call(CALLS[call](), capability)
    assert binaries
    for binary in binaries.values():
        assert ".local" not in binary.ptx, binary.name
        assert binary.local_bytes == 0, (
            f"{binary.name}: {binary.registers} registers, {binary.local_bytes} bytes spilled"
        )
    main = next(binary for name, binary in binaries.items() if not name.startswith(("observed_", "count_", "total_")))
    for kind, width in zip(("ld", "st"), WIDE.get(call, (None, None)), strict=True):
        assert width is None or width in main.accesses(kind), (main.name, kind, main.accesses(kind))
