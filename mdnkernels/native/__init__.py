"""The native library's ops, with their fake kernels and their autograd.

The functions trust their inputs, as those of `mdnkernels.eager` do, and can be called where `problem` is None.
"""

from mdnkernels.native.library import problem, simd_level
from mdnkernels.native.mixture import mixture_nll
from mdnkernels.native.mode import mixture_mode
from mdnkernels.native.patches import gather_patches
from mdnkernels.native.peaks import topk_peaks

__all__ = ["gather_patches", "mixture_mode", "mixture_nll", "problem", "simd_level", "topk_peaks"]
