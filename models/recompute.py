"""Activation checkpointing: parts of a backbone compute their intermediate results again in the backward pass.

Memory for time: of each part only the input is kept, and its forward pass runs twice; the samples of a deformable
convolution on a CPU, which are never kept, a third time. Under torch.compile nothing of this happens: the compiler
decides itself what to keep, and cannot trace what protects the running statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute_in_backward(function: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    """Call the function; the backward pass computes its intermediate results again, with the same gradients.

    The function draws no random numbers. options: of `torch.utils.checkpoint.checkpoint`.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False, **options)


class Part(nn.Module):
    """A part of a backbone that is called by `run`; with `recompute` set it keeps nothing but its input in training."""

    recompute = False

    def run(self, *inputs: Any) -> Any:
        """Call the part: with `recompute` too, gradients and running statistics are the same."""
        if not (self.recompute and self.training):
            return self(*inputs)
        return recompute_in_backward(self, *inputs, context_fn=lambda: _contexts(self))


class Layers(Part, nn.Sequential):
    """Layers one after another."""


def _contexts(part: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _statistics_kept(part)


@contextmanager
def _statistics_kept(part: nn.Module) -> Iterator[None]:
    """Let batch norm update copies of its running statistics, which one training step must move once.

    Without any (track_running_stats) it would save fewer tensors than the first time, which `checkpoint` refuses.
    """
    norms = [module for module in part.modules() if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm))]
    kept = [dict(norm.named_buffers()) for norm in norms]
    try:
        for norm, buffers in zip(norms, kept, strict=True):
            for name, values in buffers.items():
                setattr(norm, name, values.clone())
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            for name, values in buffers.items():
                setattr(norm, name, values)
