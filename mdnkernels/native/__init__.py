"""The native libraries, and what train/ and models/ need of them beside the ops.

The functions that call their ops are in mdnkernels.ops.OP.autograd. They can be called where `problem` is None, on a
GPU where `cuda_problem` is.
"""

from mdnkernels.native.deformable import sample_taps
from mdnkernels.native.images import channel_sums, mix_channels, resample_window
from mdnkernels.native.library import NAMESPACE, cuda_problem, empty_cache, kept_bytes, problem, simd_level

__all__ = [
    "NAMESPACE",
    "channel_sums",
    "cuda_problem",
    "empty_cache",
    "kept_bytes",
    "mix_channels",
    "problem",
    "resample_window",
    "sample_taps",
    "simd_level",
]
