"""Fused ops for mixture density networks in dense regression."""

from importlib.metadata import PackageNotFoundError, version

from mdnkernels.backends import use_backend
from mdnkernels.mixture.families import Family, Gaussian, Laplace, StudentT
from mdnkernels.mixture.spec import MixtureSpec
from mdnkernels.mixture.start import MixtureStart, init_from_targets, start_from_targets
from mdnkernels.native import empty_cache
from mdnkernels.ops.center_focal_loss import center_focal_loss
from mdnkernels.ops.gather_patches import gather_patches
from mdnkernels.ops.heatmap_focal_loss import heatmap_focal_loss
from mdnkernels.ops.mixture_mode import MixtureMode, mixture_mode
from mdnkernels.ops.mixture_nll import MixtureNLLLoss, mixture_nll
from mdnkernels.ops.splat_gaussians import splat_gaussians
from mdnkernels.ops.topk_peaks import Peaks, topk_peaks

try:
    __version__ = version("mdnkernels")
except PackageNotFoundError:  # imported from a checkout that was never installed
    __version__ = "unknown"

__all__ = [
    "Family",
    "Gaussian",
    "Laplace",
    "MixtureMode",
    "MixtureNLLLoss",
    "MixtureSpec",
    "MixtureStart",
    "Peaks",
    "StudentT",
    "center_focal_loss",
    "empty_cache",
    "gather_patches",
    "heatmap_focal_loss",
    "init_from_targets",
    "mixture_mode",
    "mixture_nll",
    "splat_gaussians",
    "start_from_targets",
    "topk_peaks",
    "use_backend",
]
