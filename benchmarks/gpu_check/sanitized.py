"""The checks that run under compute-sanitizer: each op's kernels once, on small shapes, in two dtypes.

Torch then allocates each tensor by itself (PYTORCH_NO_CUDA_MEMORY_CACHING), so that an access beyond one is seen.
"""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.gpu_check.agreement import check
from benchmarks.gpu_check.items import Items, Options, name_of
from tests.ops.table import CASES

DTYPES = (torch.float32, torch.bfloat16)


def items(options: Options) -> Items:
    return {f"{case}, {name_of(dtype)}": partial(check, case, dtype, options) for dtype in DTYPES for case in CASES}
