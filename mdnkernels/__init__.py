"""Fused ops for mixture density networks in dense regression."""

from importlib.metadata import PackageNotFoundError, version

from mdnkernels.backends import use_backend
from mdnkernels.focal import heatmap_focal_loss
from mdnkernels.mixture import MixtureMode, MixtureNLLLoss, mixture_mode, mixture_nll
from mdnkernels.native import empty_cache
from mdnkernels.patches import gather_patches
from mdnkernels.peaks import Peaks, topk_peaks
from mdnkernels.splat import splat_gaussians

try:
    __version__ = version("mdnkernels")
except PackageNotFoundError:  # imported from a checkout that was never installed
    __version__ = "unknown"

__all__ = [
    "MixtureMode",
    "MixtureNLLLoss",
    "Peaks",
    "empty_cache",
    "gather_patches",
    "heatmap_focal_loss",
    "mixture_mode",
    "mixture_nll",
    "splat_gaussians",
    "topk_peaks",
    "use_backend",
]
