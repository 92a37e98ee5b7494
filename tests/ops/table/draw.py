"""Random tensors of one call: any shape, dtype, layout and device, the same numbers for the same seed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

LAYOUTS = ("contiguous", "channels_last", "sliced", "transposed", "expanded")


def laid_out(value: Tensor, layout: str) -> Tensor:
    """Return a map (B, K, H, W) in other memory: the same numbers, but for "expanded", whose rows are all the first.

    What is no map stays as it is.
    """
    if value.ndim != 4:
        return value
    if layout == "channels_last":
        return value.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":
        return functional.pad(value, (1, 2, 3, 0))[:, :, 3:, 1:-2]
    if layout == "transposed":
        return value.transpose(1, 3).contiguous().transpose(1, 3)
    if layout == "expanded":
        return value[:, :, :1].expand_as(value)
    return value


class Draw:
    """Draws the tensors of one call.

    Args:
        batch: B.
        positions: the sizes of P; two of them are a map's height and width.
        dtype: of the floating-point arguments.
        layout: one of LAYOUTS, or a function that gives a tensor other strides.
        points: how many points or objects an image has, for calls that have any; None leaves it to the variant.
        seed: of the numbers, which are the same for every dtype and layout.
        device: where the numbers are drawn.
    """

    def __init__(
        self,
        batch: int,
        positions: tuple[int, ...],
        dtype: torch.dtype = torch.float32,
        layout: str | Callable[[Tensor], Tensor] = "contiguous",
        points: int | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.batch, self.positions, self.dtype, self.layout, self.points = batch, positions, dtype, layout, points
        self.cells = torch.Size(positions).numel()
        self.generator = torch.Generator(device).manual_seed(seed)

    def uniform(self, channels: int, where: tuple[int, ...] | None = None) -> Tensor:
        """Return (B, K, *P) in [0, 1), float64; `where` stands in the place of P."""
        shape = (self.batch, channels, *(self.positions if where is None else where))
        return torch.rand(shape, generator=self.generator, dtype=torch.float64, device=self.generator.device)

    def normal(self, channels: int, where: tuple[int, ...] | None = None) -> Tensor:
        """Return (B, K, *P), float64; `where` stands in the place of P."""
        shape = (self.batch, channels, *(self.positions if where is None else where))
        return torch.randn(shape, generator=self.generator, dtype=torch.float64, device=self.generator.device)

    def integers(self, least: int, end: int, *shape: int) -> Tensor:
        return torch.randint(least, end, shape, generator=self.generator, device=self.generator.device)

    def happens(self, share: float, value: Tensor) -> Tensor:
        """Return where in `value` something happens that happens at so large a share of the places."""
        return torch.rand(value.shape, generator=self.generator, device=value.device) < share

    def placed(self, value: Tensor) -> Tensor:
        """Return `value` in the layout."""
        return laid_out(value, self.layout) if isinstance(self.layout, str) else self.layout(value)

    def floats(self, value: Tensor) -> Tensor:
        """Return `value` in the dtype and layout."""
        return self.placed(value.to(self.dtype))

    def count(self, points: int) -> int:
        """Return how many points or objects an image has, where the variant has so many."""
        return points if self.points is None else self.points

    def index(self, points: int) -> Tensor:
        """Return (B, N) flat positions, some padding, some repeated."""
        index = self.integers(-1, self.cells, self.batch, self.count(points))
        if index.shape[1] > 1:
            index[:, 1] = index[:, 0]
        return index

    def sprinkle(self, value: Tensor, special: tuple[float, ...]) -> Tensor:
        """Return `value` with each of `special` at a twentieth of its places."""
        for number in special:
            value = torch.where(self.happens(0.05, value), number, value)
        return value

    def stretch(self, value: Tensor, factor: float) -> Tensor:
        """Return `value` with a twentieth of its elements `factor` times as large."""
        return torch.where(self.happens(0.05, value), factor * value, value)
