"""Batch norms of a trained network as part of the convolutions before them: the same outputs, in less time."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_conv_bn_weights

from mdnkernels.models.dla import DeformableConv
from mdnkernels.models.layers import ConvolutionPair


def fold_batch_norms(network: nn.Module) -> None:
    """Fold each batch norm that follows a convolution into it; `nn.Identity` takes its place.

    In evaluation y = gamma (W x + b - mean) / sqrt(var + eps) + beta is a convolution with the weights W' = gamma W /
    sqrt(var + eps) and the bias b' = gamma (b - mean) / sqrt(var + eps) + beta. They are computed in float64.

    network: in eval mode, else ValueError. It is for inference alone from then on: checkpoints have other entries, and
    it has no batch norm to train. A batch norm elsewhere than in this package's layers stays as it is.
    """
    norms = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    training = [name for name, norm in norms if norm.training]
    if training:
        raise ValueError(f"{training[0]} is in training mode, where batch norm reads the batch: call eval() first")
    for module in list(network.modules()):
        if isinstance(module, ConvolutionPair):
            _fold(module, "conv1", "bn1")
            _fold(module, "conv2", "bn2")
        elif isinstance(module, DeformableConv):
            _fold_deformable(module)
        elif isinstance(module, nn.Sequential):
            names = list(module._modules)
            for name, following in pairwise(names):
                _fold(module, name, following)


def _fold(parent: nn.Module, convolution: str, norm: str) -> None:
    """Fold the second child into the first, whose output it alone reads; do nothing where they are of other kinds."""
    conv, bn = getattr(parent, convolution), getattr(parent, norm)
    if isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d):
        dtype = conv.weight.dtype
        setattr(parent, convolution, fuse_conv_bn_eval(conv.double(), bn.double()).to(dtype))
        setattr(parent, norm, nn.Identity())


def _fold_deformable(module: DeformableConv) -> None:
    bn = module.bn
    if not isinstance(bn, nn.BatchNorm2d) or bn.running_mean is None or bn.running_var is None:
        return
    dtype = module.weight.dtype
    with torch.no_grad():
        weight, bias = fuse_conv_bn_weights(
            module.weight.double(),
            module.bias.double(),
            bn.running_mean.double(),
            bn.running_var.double(),
            bn.eps,
            bn.weight.double(),
            bn.bias.double(),
        )
    module.weight, module.bias = nn.Parameter(weight.to(dtype)), nn.Parameter(bias.to(dtype))
    module.bn = nn.Identity()
