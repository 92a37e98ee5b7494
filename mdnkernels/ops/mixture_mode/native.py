"""mixture_mode of the native library."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from mdnkernels.native import library
from mdnkernels.ops.mixture_mode import autograd

if library.problem is None:
    autograd.register_mixture_mode("mdnkernels", "native")

mixture_mode: Callable[..., tuple[Tensor, Tensor | None, Tensor, Tensor]] = partial(autograd.mixture_mode, "mdnkernels")
