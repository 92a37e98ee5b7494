"""mixture_nll of the native library: one call gives the loss and, where they will be wanted, its gradients."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from mdnkernels.native import library
from mdnkernels.ops.mixture_nll import autograd

if library.problem is None:
    autograd.register_mixture_nll("mdnkernels", "native")

mixture_nll: Callable[..., Tensor] = partial(autograd.mixture_nll, "mdnkernels")
