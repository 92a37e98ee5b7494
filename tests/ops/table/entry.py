"""What the table says of an op."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tests.ops.table.draw import LAYOUTS, Draw

Arguments = dict[str, Any]
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SECTOR = 32  # bytes, the least that device memory moves


class Moved(NamedTuple):
    """The least bytes that any implementation must move through memory.

    Every input element that the result depends on is read once, every output and gradient written once. An element on
    its own in memory costs its whole sector.
    """

    forward: int
    both: int
    """Of forward and backward together."""


def size_of(*tensors: Tensor) -> int:
    """Return the bytes of the tensors' elements."""
    return sum(value.numel() * value.element_size() for value in tensors)


@dataclass(frozen=True)
class Call:
    """A public function with its arguments by name, in the order of its signature."""

    entry: Entry
    arguments: Arguments

    @property
    def function(self) -> Callable[..., Any]:
        return self.entry.function

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.arguments.items() if isinstance(value, Tensor)}

    @property
    def differentiable(self) -> tuple[str, ...]:
        """The arguments given that take gradients."""
        return tuple(name for name in self.entry.differentiable if name in self.tensors)

    def changed(self, change: Callable[[Tensor], Tensor]) -> Call:
        """Return the call with `change` of each of its tensors."""
        return Call(self.entry, {**self.arguments, **{name: change(value) for name, value in self.tensors.items()}})


@dataclass(frozen=True)
class Workload:
    """A call as training or inference at 512 x 512 makes it: checked and timed by the benchmarks and the GPU check."""

    options: Mapping[str, Any] = field(default_factory=dict)
    batch: int = 8
    positions: tuple[int, ...] = (128, 128)
    layout: str = "contiguous"
    # In one dtype or several.
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class Entry:
    """An op, as every test, fuzz and benchmark calls it."""

    function: Callable[..., Any]
    # Draws the arguments; takes a Draw and options of its own, each with a default.
    arguments: Callable[..., Arguments]
    # Options of `arguments`, by the variant's name; the first one is ordinary.
    variants: Mapping[str, Mapping[str, Any]]
    # The variants on which everything slow is tried: compilation, export, transforms, threads.
    representatives: tuple[str, ...]
    # Draws options of `arguments` at random, for fuzzing.
    random_options: Callable[[random.Random], dict[str, Any]]
    # "" is the op's only or main one.
    workloads: Mapping[str, Workload]
    moved: Callable[[Arguments], Moved]
    differentiable: tuple[str, ...] = ()
    # Those that take a gradient in a training step.
    trained: tuple[str, ...] = ()
    dtypes: tuple[torch.dtype, ...] = FLOATS
    layouts: tuple[str, ...] = LAYOUTS
    maps_alone: bool = False
    """Whether it refuses points and rows."""
    fused_gradient: bool = False
    """Whether the forward pass of the fused backends computes the gradient, which must then be known to be wanted."""
    draws_in_float32: bool = False
    """Whether a part of it is computed in float32 beside float64 arguments too."""
    linear: bool = False
    """Whether it is linear in what is differentiable, so that every backend differentiates it twice."""

    @property
    def op(self) -> str:
        return self.function.__name__

    def draw(self, draw: Draw, **options: Any) -> Call:
        """Return a call of these options."""
        return Call(self, self.arguments(draw, **options))

    def result_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Return the dtype whose rounding the results have, where `dtype` was drawn."""
        if dtype not in self.dtypes:
            return self.dtypes[0]
        return torch.float32 if self.draws_in_float32 and dtype == torch.float64 else dtype


@dataclass(frozen=True)
class Variant:
    """An op with the options of one of its variants."""

    entry: Entry
    name: str

    def __str__(self) -> str:
        return f"{self.entry.op} {self.name}"

    @property
    def function(self) -> Callable[..., Any]:
        return self.entry.function

    @cached_property
    def differentiable(self) -> tuple[str, ...]:
        """The arguments that take gradients, of those that this variant has."""
        return self.draw(Draw(1, (2, 2))).differentiable

    @property
    def options(self) -> Mapping[str, Any]:
        return self.entry.variants[self.name]

    def draw(self, draw: Draw) -> Call:
        return self.entry.draw(draw, **self.options)

    def leaves(
        self, size: tuple[int, int] = (7, 9), batch: int = 2, dtype: torch.dtype = torch.float32, seed: int = 0
    ) -> Arguments:
        """Return arguments of maps of this size, with as many points as it has rows and columns.

        Those that have a gradient require it.
        """
        call = self.draw(Draw(batch, size, dtype, points=sum(size), seed=seed))
        for name in call.differentiable:
            call.arguments[name].requires_grad_()
        return call.arguments


@dataclass(frozen=True)
class Case:
    """An op at one of its workloads."""

    entry: Entry
    workload: str

    def __str__(self) -> str:
        return f"{self.entry.op}, {self.workload}" if self.workload else self.entry.op

    @property
    def of(self) -> Workload:
        return self.entry.workloads[self.workload]

    def call(
        self,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        small: bool = False,
        seed: int = 0,
        layout: str | None = None,
        batch: int | None = None,
        **changes: Any,
    ) -> Call:
        """Draw the call, on the device.

        Args:
            small: on two images at most, or 500 rows, of 24 x 24 at most, with a fifth of a mask not observed.
            layout, batch: in the place of the workload's.
            changes: options in the place of the workload's.
        """
        batch = batch or self.of.batch
        positions, options = self.of.positions, {**self.of.options, **changes}
        if small:
            batch = min(batch, 2 if positions else 500)
            positions = tuple(min(size, 24) for size in positions)
            options.update({name: 0.8 for name in ("observed",) if name in options})
        draw = Draw(batch, positions, dtype, layout or self.of.layout, seed=seed, device=device)
        return self.entry.draw(draw, **options)
