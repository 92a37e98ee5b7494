"""Fake kernels and autograd of the fused ops, for every backend that registers them with torch.

Such a backend has a namespace of torch.ops whose ops have the schemas of csrc/ops.cpp: mixture_nll and
heatmap_focal_loss give their gradients along with the loss, so that backward only multiplies them by what comes from
above. Each `register_*` gives one op of one namespace its shapes and its gradient; `mixture_nll`, `mixture_mode` and
`heatmap_focal_loss` call a namespace's op as a backend is called.
"""

from mdnkernels.autograd.focal import heatmap_focal_loss, heatmap_focal_loss_outputs, register_heatmap_focal_loss
from mdnkernels.autograd.mixture import Loss, mixture_nll, mixture_nll_outputs, register_mixture_nll
from mdnkernels.autograd.mode import Mode, mixture_mode, mixture_mode_outputs, register_mixture_mode
from mdnkernels.autograd.patches import patches_output, register_gather_patches
from mdnkernels.autograd.peaks import register_topk_peaks, topk_peaks_outputs
from mdnkernels.autograd.splat import register_splat_gaussians, splat_gaussians_output

__all__ = [
    "Loss",
    "Mode",
    "heatmap_focal_loss",
    "heatmap_focal_loss_outputs",
    "mixture_mode",
    "mixture_mode_outputs",
    "mixture_nll",
    "mixture_nll_outputs",
    "patches_output",
    "register_gather_patches",
    "register_heatmap_focal_loss",
    "register_mixture_mode",
    "register_mixture_nll",
    "register_splat_gaussians",
    "register_topk_peaks",
    "splat_gaussians_output",
    "topk_peaks_outputs",
]
