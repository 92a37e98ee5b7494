"""Fused ops for mixture density networks in dense regression."""

from importlib.metadata import PackageNotFoundError, version

from mdnkernels import backends
from mdnkernels.backends import use_backend
from mdnkernels.mixture.correlation import (
    correlation_from_tril,
    covariance_from_tril,
    tril_from_correlation,
    tril_from_covariance,
)
from mdnkernels.mixture.distribution import Mixture
from mdnkernels.mixture.families import DiscretisedLogistic, Family, Gaussian, Laplace, Logistic, StudentT
from mdnkernels.mixture.heads import MixtureConv2d, MixtureHead, MixtureLinear
from mdnkernels.mixture.spec import MixtureSpec
from mdnkernels.mixture.start import MixtureStart, init_from_targets, start_from_targets
from mdnkernels.native import empty_cache
from mdnkernels.ops.center_focal_loss import center_focal_loss
from mdnkernels.ops.gather_patches import gather_patches
from mdnkernels.ops.heatmap_focal_loss import heatmap_focal_loss
from mdnkernels.ops.mixture_mode import MixtureMode, mixture_mode
from mdnkernels.ops.mixture_nll import MixtureNLLLoss, mixture_nll, mixture_posterior
from mdnkernels.ops.splat_gaussians import splat_gaussians
from mdnkernels.ops.topk_peaks import Peaks, topk_peaks

backends.load_at_import()

try:
    __version__ = version("mdnkernels")
except PackageNotFoundError:  # imported from a checkout that was never installed
    __version__ = "unknown"

__all__ = [
    "DiscretisedLogistic",
    "Family",
    "Gaussian",
    "Laplace",
    "Logistic",
    "Mixture",
    "MixtureConv2d",
    "MixtureHead",
    "MixtureLinear",
    "MixtureMode",
    "MixtureNLLLoss",
    "MixtureSpec",
    "MixtureStart",
    "Peaks",
    "StudentT",
    "center_focal_loss",
    "correlation_from_tril",
    "covariance_from_tril",
    "empty_cache",
    "gather_patches",
    "heatmap_focal_loss",
    "init_from_targets",
    "mixture_mode",
    "mixture_nll",
    "mixture_posterior",
    "splat_gaussians",
    "start_from_targets",
    "topk_peaks",
    "tril_from_correlation",
    "tril_from_covariance",
    "use_backend",
]
