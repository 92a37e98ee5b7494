"""Modulated deformable convolution (Zhu et al. 2019, "Deformable ConvNets v2"): torchvision's, and faster on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torchvision.ops import deform_conv2d

from mdnkernels import native
from mdnkernels.models.recompute import recompute_in_backward

# For each thread: 1 MiB, which stays in its second-level cache.
SAMPLES_IN_BLOCK = 2**18


def deformable_convolution(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve (B, C, h, w) to (B, O, h, w) with taps at predicted offsets, times predicted weights.

    out[o, y, x] = bias[o] + sum over taps t and channels c of weight[o, c, t] * mask[t, y, x] * x[c] at the point
    (y + t // 3 - 1 + offset[2t, y, x], x + t % 3 - 1 + offset[2t + 1, y, x]), bilinearly interpolated and 0 outside.

    offset: (B, 18, h, w), dy and dx of each tap in cells. mask: (B, 9, h, w). weight: (O, C, 3, 3). bias: (O,). All of
    one dtype, float32 or float64. Raises ValueError for any other shape, TypeError for
    different dtypes.

    `torchvision.ops.deform_conv2d` computes it, except on a CPU: there it runs on one thread, channel by channel, and
    is most of a network's time. On a CPU the sample of a tap is a weighted sum of four rows of channels, which is what
    `embedding_bag` adds up, and the rest one matrix product. For inference in float32 the native library takes the
    samples, of as many cells at a time as the product then finds in the cache; under autocast that product is in half
    precision. A cell outside has a weight of 0 there, so that an x that
    is not finite at the border shows in outputs whose taps lie beyond it. An exported graph has torchvision's operator,
    which serves any device and has a counterpart in ONNX.
    """
    _check(x, offset, mask, weight, bias)
    if x.device.type != "cpu" or torch.compiler.is_exporting():
        return deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)
    if _has_native_samples(x):
        return _by_blocks(x, offset, mask, weight, bias)
    # The samples, nine times the input, are computed again in the backward pass: 8 % of DLA-34's training step.
    return recompute_in_backward(_by_rows, x, offset, mask, weight, bias)


def _check(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> None:
    if x.dim() != 4:
        raise ValueError(f"x must have the shape (B, C, h, w), not {tuple(x.shape)}")
    batch, channels, *size = x.shape
    expected = {
        "offset": (offset, (batch, 18, *size)),
        "mask": (mask, (batch, 9, *size)),
        "weight": (weight, (*weight.shape[:1], channels, 3, 3)),
        "bias": (bias, tuple(weight.shape[:1])),
    }
    for name, (value, shape) in expected.items():
        if value.shape != shape:
            raise ValueError(f"{name} must have the shape {shape} with x of {tuple(x.shape)}, not {tuple(value.shape)}")
        if value.dtype != x.dtype:
            raise TypeError(f"{name} must be {x.dtype}, as x is, not {value.dtype}")


def _has_native_samples(x: Tensor) -> bool:
    """Tell whether the native library, which knows no gradients and no transforms, can take the samples."""
    return (
        native.problem is None
        and type(x) is Tensor
        and x.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
    )


def _by_blocks(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    cells = batch * height * width
    x, offset, mask = (value.permute(0, 2, 3, 1).contiguous() for value in (x, offset, mask))
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    factors = weight.permute(0, 2, 3, 1).flatten(1).to(dtype)
    out = x.new_empty(cells, len(weight), dtype=dtype)
    block = max(1, SAMPLES_IN_BLOCK * torch.get_num_threads() // (9 * max(channels, 1)))
    for first in range(0, cells, block):
        samples = native.sample_taps(x, offset, mask, first, min(cells, first + block))
        torch.mm(samples.to(dtype), factors.T, out=out[first : first + block])
    out += bias
    return out.view(batch, height, width, len(weight)).permute(0, 3, 1, 2).to(x.dtype)


def _by_rows(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    batch, channels, height, width = x.shape

    def count(to: int) -> Tensor:
        return torch.arange(to, device=x.device)

    tap = count(9)
    dy, dx = offset.permute(0, 2, 3, 1).unflatten(3, (9, 2)).unbind(4)
    mask = mask.permute(0, 2, 3, 1)
    rows, at_row = _neighbours(dy + (count(height)[:, None, None] + tap // 3 - 1), height)
    columns, at_column = _neighbours(dx + (count(width)[:, None] + tap % 3 - 1), width)
    first = count(batch)[:, None, None, None] * height
    rows = [(first + row) * width for row in rows]
    at_row = [at * mask for at in at_row]
    # Stacked last: arithmetic on four numbers at a time would take longer than the sums.
    cells = torch.stack([row + column for row in rows for column in columns], -1)
    weights = torch.stack([y * x for y in at_row for x in at_column], -1)
    samples = F.embedding_bag(
        cells.view(-1, 4), x.permute(0, 2, 3, 1).flatten(0, 2), per_sample_weights=weights.view(-1, 4), mode="sum"
    )
    # As with torchvision's operator, autocast changes nothing here.
    with torch.autocast("cpu", enabled=False):
        out = F.linear(samples.view(-1, 9 * channels), weight.permute(0, 2, 3, 1).flatten(1), bias)
    return out.view(batch, height, width, len(weight)).permute(0, 3, 1, 2)


def _neighbours(position: Tensor, size: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return the two cells beside positions along an axis of `size` cells, and the weights that interpolate.

    A cell outside weighs 0, and one inside stands for it. Not a number stays that in the weights.
    """
    # Nothing beyond -1 and size is read; at -1 itself, where taps start, the gradient leads inwards.
    position = position.clamp(-2, size + 1)
    low = position.floor()
    beyond = position - low
    sides = [(low, 1 - beyond), (low + 1, beyond)]
    cells = [cell.long().clamp(0, size - 1) for cell, _ in sides]
    return cells, [weight * ((cell >= 0) & (cell < size)) for cell, weight in sides]
