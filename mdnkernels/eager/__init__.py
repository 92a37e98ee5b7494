"""Every op in plain PyTorch: the readable specification, the oracle of the tests, and the fallback on any device.

The functions trust their inputs: `mdnkernels.mixture_nll` and its siblings check them and bring them to one form first.
"""

from mdnkernels.eager.focal import heatmap_focal_loss
from mdnkernels.eager.mixture import mixture_mode, mixture_nll
from mdnkernels.eager.patches import gather_patches
from mdnkernels.eager.peaks import topk_peaks
from mdnkernels.eager.splat import splat_gaussians

__all__ = ["gather_patches", "heatmap_focal_loss", "mixture_mode", "mixture_nll", "splat_gaussians", "topk_peaks"]
