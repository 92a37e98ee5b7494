"""What each instruction does to a warp: SASS as functions of NumPy arrays, a number a lane.

NVIDIA documents the instructions by name alone. What is here was inferred from what the compiler uses them for, and is
held to it by tests/sass/test_sass.py: kernels must give what their sources give.
"""

from __future__ import annotations

from tests.sass.control import Control
from tests.sass.floats import Floats
from tests.sass.integers import Integers
from tests.sass.listing import Instruction
from tests.sass.machine import Machine, Step
from tests.sass.moves import Moves


class Translation(Integers, Floats, Moves, Control):
    """Every instruction, do_NAME each."""


def translate(machine: Machine, instruction: Instruction) -> Step:
    """The instruction as a function of a warp and a group of its threads.

    Raises:
        UnknownInstructionError: it is not among those below.
    """
    return Translation(machine, instruction).step()
