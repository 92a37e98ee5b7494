"""Public functions run on the compiled kernels: their launches, as tests/cuda_on_cpu makes them, go to the machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from benchmarks.sass.listing import Kernel, find
from benchmarks.sass.machine import Execution, Machine
from tests import cuda_on_cpu
from tests.native import ptxas


@dataclass(frozen=True)
class CompiledLaunch:
    """A launch, and what running some of its blocks took."""

    symbol: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    execution: Execution

    @property
    def scale(self) -> float:
        """All blocks over those that ran."""
        width, height, depth = self.grid
        return width * height * depth / self.execution.blocks


@cache
def compiled(architecture: str, symbol: str) -> Kernel:
    """Return a kernel of csrc/ops, compiled where its source changed."""
    ptxas.reports((architecture,))
    return find(ptxas.FOLDER, architecture, symbol)


@contextmanager
def watching(architecture: str, blocks: int | None = None) -> Iterator[list[CompiledLaunch]]:
    """Run launches of cuda_on_cpu within the block as `architecture`'s code does.

    Args:
        blocks: of each launch, spread over its grid; on copies, and all blocks run in cuda_on_cpu afterwards, so that
            what follows finds their results. None: all, in place of it.

    Yields:
        The launches, added as they are made.
    """
    launches: list[CompiledLaunch] = []

    def run(symbol, grid, block, shared_bytes, parameters, buffers) -> bool:
        machine = Machine(
            compiled(architecture, symbol), architecture, grid, block, parameters, buffers, copied=blocks is not None
        )
        count = grid[0] * grid[1] * grid[2]
        some = None if blocks is None else sorted({i * count // blocks for i in range(blocks)})
        launches.append(CompiledLaunch(symbol, grid, block, shared_bytes, machine.run(some)))
        return blocks is None

    module = cuda_on_cpu.kernels()
    module.watch(run)
    try:
        yield launches
    finally:
        module.watch(None)
