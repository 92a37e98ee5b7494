"""The native library's ops, with their fake kernels and their autograd.

The functions trust their inputs, as those of `mdnkernels.eager` do, and can be called where `problem` is None, on a GPU
where `cuda_problem` is.
"""

from mdnkernels.native.focal import heatmap_focal_loss
from mdnkernels.native.images import channel_sums, mix_channels, resample_window
from mdnkernels.native.library import cuda_problem, empty_cache, kept_bytes, problem, simd_level
from mdnkernels.native.mixture import mixture_nll
from mdnkernels.native.mode import mixture_mode
from mdnkernels.native.patches import gather_patches
from mdnkernels.native.peaks import topk_peaks
from mdnkernels.native.splat import splat_gaussians

__all__ = [
    "channel_sums",
    "cuda_problem",
    "empty_cache",
    "gather_patches",
    "heatmap_focal_loss",
    "kept_bytes",
    "mix_channels",
    "mixture_mode",
    "mixture_nll",
    "problem",
    "resample_window",
    "simd_level",
    "splat_gaussians",
    "topk_peaks",
]
