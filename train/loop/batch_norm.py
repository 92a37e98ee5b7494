"""Batch norm over the images of all processes: the statistics of the whole batch, as one process would have them."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mdnkernels.models.regression import at_least_float32


def synchronise_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Synchronise every batch norm in training; names and values of the model's tensors stay as they are."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            # The two differ in what `forward` does and in nothing that they hold.
            module.__class__ = SharedBatchNorm
    return model


class _Sum(torch.autograd.Function):
    """The sum of all processes' tensors; every process's result depends on every process's input."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient.contiguous())


class SharedBatchNorm(nn.BatchNorm2d):
    """`nn.SyncBatchNorm` for devices that have none, the CPU above all; needs a running process group to train.

    Mean and variance are those of all processes' images, biased in the output and unbiased in the running statistics.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise `input` (B, C, H, W), with any B at least 1 in each process."""
        if not self.training:
            return super().forward(input)
        wide = at_least_float32(input)
        count = wide.new_full((1,), wide.numel() // wide.shape[1])
        dist.all_reduce(count)
        mean = _Sum.apply(wide.sum((0, 2, 3))) / count
        centred = wide - mean[:, None, None]
        variance = _Sum.apply(centred.square().sum((0, 2, 3))) / count
        self._follow(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        normal = centred * (variance + self.eps).rsqrt()[:, None, None]
        return (normal * self.weight[:, None, None] + self.bias[:, None, None]).to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)
