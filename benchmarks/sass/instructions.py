"""What each instruction does to a warp: SASS as functions of NumPy arrays, a number a lane.

NVIDIA documents the instructions by name alone. What is here was inferred from what the compiler uses them for, and is
held to it by tests/benchmarks/test_sass.py: kernels must give what their sources give.
"""

from __future__ import annotations

from benchmarks.sass.control import Control
from benchmarks.sass.floats import Floats
from benchmarks.sass.integers import Integers
from benchmarks.sass.listing import Instruction
from benchmarks.sass.machine import Machine, Step
from benchmarks.sass.moves import Moves


class Translation(Integers, Floats, Moves, Control):
    """Every instruction, do_NAME each."""


def translate(machine: Machine, instruction: Instruction) -> Step:
    """Return the instruction as a function of a warp and a group of its threads.

    Raises:
        UnknownInstructionError: it is not among those below.
    """
    return Translation(machine, instruction).step()
