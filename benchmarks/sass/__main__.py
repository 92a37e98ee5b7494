"""The command line: python -m benchmarks.sass."""

from __future__ import annotations

import argparse
import sys

from benchmarks.sass.expected import CASES, table
from tests import cuda_on_cpu
from tests.native import cuobjdump, ptxas

DESCRIPTION = """Print how long each op should take on an H100 and an A100, and what it waits for, as Markdown.

No GPU is needed: nvcc compiles the kernels for sm_80 and sm_90, tests/cuda_on_cpu makes their launches on a part of
each op's batch and counts the sectors of memory that they move, and a model of a multiprocessor carries the compiled
instructions of some blocks out, one by one, and counts them. A launch takes as long as the busiest of DRAM, the issue
of instructions, each unit, shared memory and the latency of its longest warp, by the GPUs' data sheets. docs/gpu.md
("How long each op should take") has the columns and what is assumed.

Computed is a time to come near to, and not a measurement: the latency of memory, caches, what does not overlap, and
launches that run side by side are left out. `make gpu-check` measures on a GPU."""


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line, and exit where it asks for what is not there."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sass",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", metavar="TEXT", default="", help="the ops whose row's name holds this (default: all, two minutes)"
    )
    parser.add_argument(
        "--registers",
        action="store_true",
        help="print the registers of a thread of every kernel instead, as ptxas -v reports them for sm_80 and sm_90",
    )
    chosen = parser.parse_args(arguments)
    if not any(chosen.only in case.name for case in CASES):
        names = "".join(f"\n  {case.name}" for case in CASES)
        parser.error(f"--only {chosen.only!r}: no row's name holds it; the rows are{names}")
    absent = missing(chosen.registers)
    if absent:
        parser.error(absent)
    return chosen


def missing(registers: bool) -> str | None:
    """Return what the machine lacks, or None."""
    if ptxas.nvcc() is None:
        return "needs nvcc, which was found neither on PATH nor in /usr/local/cuda/bin"
    if registers:
        return None
    if cuobjdump.tool("nvdisasm") is None:
        return "needs nvdisasm, which CUDA and triton bring, and found none"
    return cuda_on_cpu.NO_COMPILER if cuda_on_cpu.compiler() is None else None


def main(arguments: list[str] | None = None) -> int:
    """Print a table and return the exit status."""
    chosen = parse(arguments)
    print(ptxas.table() if chosen.registers else table([case for case in CASES if chosen.only in case.name]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
