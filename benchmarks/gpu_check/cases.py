"""The calls that are checked and timed: the shapes of training and inference at 512 x 512, with the bytes of each.

One list for every stage. A call's bytes are the least that any implementation must move through device memory: every
input element that the result depends on read once, every output and gradient written once. An element on its own in
memory costs its whole sector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

import mdnkernels

SECTOR = 32  # bytes, the least that device memory moves


@dataclass
class Call:
    """A public function with its arguments."""

    function: Callable[..., Any]
    arguments: list[Any]
    options: dict[str, Any] = field(default_factory=dict)
    leaves: int = 0
    """How many of the arguments, from the first on, take a gradient in training."""

    def tensors(self) -> list[Tensor]:
        return [value for value in (*self.arguments, *self.options.values()) if isinstance(value, Tensor)]

    def input_bytes(self) -> int:
        return size_of(*self.tensors())


class Moved(NamedTuple):
    """Bytes through device memory."""

    forward: int
    both: int
    """Of forward and backward together."""


@dataclass(frozen=True)
class Case:
    """One row of the tables, in one or several dtypes."""

    name: str
    make: Callable[[Draw], Call]
    moved: Callable[[Call], Moved]
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
    trains: bool = True

    @property
    def op(self) -> str:
        return self.name.split(",")[0]


class Draw:
    """Random tensors of one call, drawn on the device."""

    def __init__(self, device: str, dtype: torch.dtype = torch.float32, small: bool = False, seed: int = 0) -> None:
        """small: two images at most, maps of 24 x 24 at most, and a fifth of a mask not observed."""
        self.device, self.dtype, self.small = device, dtype, small
        self.generator = torch.Generator(device).manual_seed(seed)

    def batch(self, count: int) -> int:
        return min(count, 2) if self.small else count

    def side(self, count: int) -> int:
        return min(count, 24) if self.small else count

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.device).to(self.dtype)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.device)

    def whole(self, end: int, *shape: int) -> Tensor:
        return torch.randint(end, shape, generator=self.generator, device=self.device)

    def observed(self, *shape: int) -> Tensor:
        return self.uniform(*shape) < (0.8 if self.small else 2.0)


def size_of(*tensors: Tensor) -> int:
    """Bytes of the tensors' elements."""
    return sum(value.numel() * value.element_size() for value in tensors)


# mixture_nll


def mixture_loss(
    dims: int, groups: int, *, batch: int = 8, objects: int | None = None, channels_last: bool = False
) -> Callable[[Draw], Call]:
    """Maps of 128 x 128 of 3 components, with 2 scales each; at all positions, or at the objects' alone."""

    def make(draw: Draw) -> Call:
        images, side = draw.batch(batch), draw.side(128)
        form = torch.channels_last if channels_last else torch.contiguous_format
        maps = [draw.normal(images, 3 * size, side, side).contiguous(memory_format=form) for size in (1, dims, 2)]
        where = (side, side) if objects is None else (objects,)
        target = draw.normal(images, dims, *where) * 3
        if objects is None:
            target = target.contiguous(memory_format=form)
            options = {"mask": draw.observed(images, groups, side, side).contiguous(memory_format=form)}
        else:
            options = {"index": draw.whole(side * side, images, objects)}
        return Call(mdnkernels.mixture_nll, [*maps, target], options, leaves=3)

    return make


def mixture_rows(draw: Draw) -> Call:
    """1,000,000 observations of one dimension under 5 components."""
    rows = 500 if draw.small else 1_000_000
    return Call(
        mdnkernels.mixture_nll, [draw.normal(rows, 5 * size) for size in (1, 1, 1)] + [draw.normal(rows, 1)], leaves=3
    )


def mixture_loss_bytes(call: Call) -> Moved:
    """Reads logits, loc, scale, target and mask; writes the gradients of logits, loc and scale.

    e P (M + M C + M S + C) + P G read and e P (M + M C + M S) written for P positions of element size e.
    """
    read = call.input_bytes()
    return Moved(read, read + size_of(*call.arguments[:3]))


def indexed_loss_bytes(call: Call) -> Moved:
    """Reads index, target, and a sector for each element of logits, loc and scale at an object (in a planar map its
    neighbours in memory are other positions); writes the gradients' whole maps.

    8 B N + e C B N + 32 B N (M + M C + M S) read and e P (M + M C + M S) written.
    """
    *maps, target = call.arguments
    index = call.options["index"]
    read = size_of(index, target) + SECTOR * index.numel() * sum(values.shape[1] for values in maps)
    return Moved(read, read + size_of(*maps))


# mixture_mode


def mixture_mode(draw: Draw) -> Call:
    """The strongest component of poses; which one it is changes over some sixteen cells, as in a network's maps."""
    images, side = draw.batch(8), draw.side(128)
    coarse = draw.normal(images, 3, max(side // 16, 1), max(side // 16, 1)).float()
    logits = functional.interpolate(coarse, (side, side), mode="bicubic", align_corners=False).to(draw.dtype)
    return Call(mdnkernels.mixture_mode, [logits, *(draw.normal(images, 3 * size, side, side) for size in (34, 2))])


def mixture_mode_bytes(call: Call) -> Moved:
    """Reads logits and the chosen component's loc and scale; writes these, the component (8 bytes) and its weight.

    e P (M + C + S) read and e P (C + S + 1) + 8 P written.
    """
    logits, loc, scale = call.arguments
    chosen = size_of(loc, scale) // logits.shape[1]
    positions = logits[:, 0]
    moved = size_of(logits) + chosen + chosen + size_of(positions) + 8 * positions.numel()
    return Moved(moved, moved)


# The heatmap and patch ops


def topk_peaks(batch: int) -> Callable[[Draw], Call]:
    """100 peaks of 80 classes."""

    def make(draw: Draw) -> Call:
        side = draw.side(128)
        return Call(mdnkernels.topk_peaks, [draw.normal(draw.batch(batch), 80, side, side), 100], {"logits": True})

    return make


def topk_peaks_bytes(call: Call) -> Moved:
    """Reads the heatmap; writes k scores, labels and indices: e B Y H W read and B k (e + 16) written."""
    heatmap, k = call.arguments
    moved = size_of(heatmap) + heatmap.shape[0] * k * (heatmap.element_size() + 16)
    return Moved(moved, moved)


def gather_patches(channels_last: bool) -> Callable[[Draw], Call]:
    """3 x 3 windows of 256 channels around 32 objects of each of 8 images."""

    def make(draw: Draw) -> Call:
        images, side = draw.batch(8), draw.side(128)
        form = torch.channels_last if channels_last else torch.contiguous_format
        feature = draw.normal(images, 256, side, side).contiguous(memory_format=form)
        return Call(mdnkernels.gather_patches, [feature, draw.whole(side * side, images, 32)], leaves=1)

    return make


def gather_patches_bytes(call: Call) -> Moved:
    """Reads index and windows, writes patches; backward reads the patches' gradients and writes the feature's.

    With n = B N C k^2 elements in the patches: 8 B N + e n read, a sector for every row of k elements where the map is
    planar, and e n written; then e n read and e B C H W written.
    """
    feature, index = call.arguments
    elements = index.numel() * feature.shape[1] * 9
    patches = elements * feature.element_size()
    planar = feature.is_contiguous()
    windows = SECTOR * elements // 3 if planar else patches
    forward = size_of(index) + windows + patches
    return Moved(forward, forward + size_of(index) + patches + size_of(feature))


def heatmap_focal_loss(draw: Draw) -> Call:
    """8 images of 80 classes. The target is float32, as `splat_gaussians` makes it: nearly all 0, slopes, centres."""
    images, side = draw.batch(8), draw.side(128)
    logits = draw.normal(images, 80, side, side) - 2
    target = (draw.uniform(images, 80, side, side) * 20 - 19).clamp(min=0)
    target = torch.where(draw.uniform(images, 80, side, side) < 2e-4, 1.0, target)
    wide = logits.dtype == torch.float64
    return Call(mdnkernels.heatmap_focal_loss, [logits, target.double() if wide else target], leaves=1)


def heatmap_focal_loss_bytes(call: Call) -> Moved:
    """Reads logits and target, writes the gradient: e n + 4 n read and e n written for n elements."""
    read = call.input_bytes()
    return Moved(read, read + size_of(call.arguments[0]))


def splat_gaussians(draw: Draw) -> Call:
    """The heatmaps of 8 images of 80 classes, 32 objects each."""
    images, side = draw.batch(8), draw.side(128)
    shape = (images, 32)
    center = draw.whole(side, *shape, 2)
    return Call(mdnkernels.splat_gaussians, [center, draw.whole(16, *shape), draw.whole(80, *shape), 80, (side, side)])


def splat_gaussians_bytes(call: Call) -> Moved:
    """Reads four integers an object, writes the heatmaps: 32 B N read and 4 B Y H W written."""
    center, radius, label, labels, (height, width) = call.arguments
    moved = size_of(center, radius, label) + 4 * label.shape[0] * labels * height * width
    return Moved(moved, moved)


FLOAT32 = (torch.float32,)
# In the order of their importance: where time is short, the first rows are there.
CASES: Sequence[Case] = (
    Case("mixture_nll, pose", mixture_loss(34, 17), mixture_loss_bytes),
    Case("heatmap_focal_loss", heatmap_focal_loss, heatmap_focal_loss_bytes),
    Case("topk_peaks, k = 100", topk_peaks(1), topk_peaks_bytes, trains=False),
    Case("splat_gaussians", splat_gaussians, splat_gaussians_bytes, FLOAT32, trains=False),
    Case("mixture_mode, pose", mixture_mode, mixture_mode_bytes, trains=False),
    Case("gather_patches, channels_last", gather_patches(True), gather_patches_bytes),
    Case("mixture_nll, detection", mixture_loss(2, 1), mixture_loss_bytes),
    Case("mixture_nll, rows", mixture_rows, mixture_loss_bytes),
    Case("mixture_nll, pose, 32 objects by index", mixture_loss(34, 17, objects=32), indexed_loss_bytes),
    Case("mixture_nll, detection, batch 64", mixture_loss(2, 1, batch=64), mixture_loss_bytes, FLOAT32),
    Case("mixture_nll, pose, channels_last", mixture_loss(34, 17, channels_last=True), mixture_loss_bytes, FLOAT32),
    Case("gather_patches, planar", gather_patches(False), gather_patches_bytes, FLOAT32),
    Case("topk_peaks, k = 100, batch 8", topk_peaks(8), topk_peaks_bytes, FLOAT32, trains=False),
)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
