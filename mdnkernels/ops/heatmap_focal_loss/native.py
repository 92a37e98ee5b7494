"""heatmap_focal_loss of the native library: one call gives the loss and, where it will be wanted, its gradient."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from mdnkernels.native import library
from mdnkernels.ops.heatmap_focal_loss import autograd

if library.problem is None:
    autograd.register_heatmap_focal_loss("mdnkernels", "native")

heatmap_focal_loss: Callable[..., Tensor] = partial(autograd.heatmap_focal_loss, "mdnkernels")
