"""Convolutions of 3x3 for inference on a CPU in float32, by Winograd's minimal filtering: a quarter of the products.

A tile of 4 x 4 outputs is A^T [(G g G^T) * (B^T d B)] A of the weights g and the 6 x 6 inputs d: 36 products in the
place of 144. The sum over input channels is a matrix product for each of the 36. Rounding errors are some ten times
those of the usual sum, and a thousandth of bfloat16's.
Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, with the matrices of Toom and
Cook.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

TILE = 4
TAPS = 3
SPAN = TILE + TAPS - 1
# Where the polynomials of Toom and Cook are evaluated, beside infinity; these round less than 0, +-1, +-2.
POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)
# Below these the transforms cost more than the products that they save, or the transformed weights too much memory.
LEAST_CHANNELS = 64
LEAST_PAIRS = 128 * 128  # of an input and an output channel
LEAST_TILES = 64
# At once, so that they stay in the second-level cache.
TILES_IN_BLOCK = 128


def use_winograd(network: nn.Module) -> None:
    """Let the 3x3 convolutions of a network for inference compute so where that is faster: on maps of 32 x 32 and more.

    The network is changed in place, and trains no more. Each such layer that meets a large map keeps its weights
    transformed beside its own: four times their memory.
    """
    for module in network.modules():
        if type(module) is nn.Conv2d and _fits(module):
            # The two differ in what `forward` does and in nothing that they hold.
            module.__class__ = WinogradConv
            module.requires_grad_(False)


def _fits(layer: nn.Conv2d) -> bool:
    shape = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)
    plain = shape == ((TAPS, TAPS), (1, 1), (1, 1), (1, 1), 1) and layer.padding_mode == "zeros"
    inputs, outputs = layer.in_channels, layer.out_channels
    return plain and min(inputs, outputs) >= LEAST_CHANNELS and inputs * outputs >= LEAST_PAIRS


class WinogradConv(nn.Conv2d):
    """A 3x3 convolution of stride and padding 1, without gradients; in float32 on a CPU, on large maps, as above."""

    def forward(self, input: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, O, h, w), in channels_last order."""
        tiles = _tiles(input.shape[2]) * _tiles(input.shape[3])
        if input.device.type != "cpu" or input.dtype != torch.float32 or tiles < LEAST_TILES:
            return super().forward(input)
        return winograd_convolution(input, self._transformed, self.bias)

    @functools.cached_property
    def _transformed(self) -> Tensor:
        return transform_weights(self.weight.detach())


def transform_weights(weight: Tensor) -> Tensor:
    """Return the weights (O, C, 3, 3) as (36, C, O): G g G^T, computed in float64."""
    matrix = torch.from_numpy(_matrices()[1])
    turned = torch.einsum("ik,jl,ockl->ijco", matrix, matrix, weight.double())
    return turned.flatten(0, 1).to(weight.dtype).contiguous()


@torch.no_grad()
def winograd_convolution(x: Tensor, transformed: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve (B, C, h, w) to (B, O, h, w), of padding 1. transformed: of `transform_weights`. bias: (O,)."""
    batch, channels, height, width = x.shape
    rows, columns, outputs = _tiles(height), _tiles(width), transformed.shape[2]
    to_tiles, from_tiles = (torch.from_numpy(np.kron(one, one)).to(x) for one in _matrices()[::2])
    below, right = rows * TILE + 1 - height, columns * TILE + 1 - width
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, right, 1, below))
    out = x.new_empty(batch, rows, TILE, columns, TILE, outputs)
    step = max(1, TILES_IN_BLOCK * torch.get_num_threads() // columns)
    down, along = padded.stride(1), padded.stride(2)
    for image in range(batch):
        for first in range(0, rows, step):
            count = min(step, rows - first)
            windows = padded[image, first * TILE :].as_strided(
                (SPAN, SPAN, count, columns, channels), (down, along, TILE * down, TILE * along, 1)
            )
            inputs = to_tiles @ windows.reshape(SPAN**2, -1)
            products = torch.bmm(inputs.view(SPAN**2, -1, channels), transformed)
            block = (from_tiles @ products.view(SPAN**2, -1)).view(TILE, TILE, count, columns, outputs)
            place = out[image, first : first + count].permute(1, 3, 0, 2, 4)
            if bias is None:
                place.copy_(block)
            else:
                torch.add(block, bias, out=place)
    whole = out.view(batch, rows * TILE, columns * TILE, outputs)
    return whole[:, :height, :width].permute(0, 3, 1, 2)


def _tiles(side: int) -> int:
    """Return how many tiles cover a side of so many cells."""
    return -(-side // TILE)


@functools.cache
def _matrices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return B^T (6, 6), G (6, 3) and A^T (4, 6), float64: row or column i belongs to the i-th point, then infinity."""
    inputs, weights, outputs = np.zeros((SPAN, SPAN)), np.zeros((SPAN, TAPS)), np.zeros((TILE, SPAN))
    for i, point in enumerate(POINTS):
        others = np.delete(np.array(POINTS), i)
        inputs[i, : SPAN - 1] = np.poly(others)[::-1]
        weights[i] = point ** np.arange(TAPS) / np.prod(point - others)
        outputs[:, i] = point ** np.arange(TILE)
    inputs[-1] = np.poly(POINTS)[::-1]
    weights[-1, -1] = outputs[-1, -1] = 1
    return inputs, weights, outputs
