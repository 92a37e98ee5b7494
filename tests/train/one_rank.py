"""Runs `python -m train` in float64, for torchrun. In one of its processes a fault happens at a step.

In `python -m tests.train.one_rank FAULT STEP fit ...`, FAULT is "none", "kill" (SIGKILL, in the second process),
"terminate" (SIGTERM, to the second process and all that it has started, as torchrun sends it), "interrupt" (SIGINT, to
the second process alone), "ctrl-c" (SIGINT, to torchrun) or "nan" (in the second process's images). A process that has
been restarted has no fault.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import mdnkernels.train.loop.trainer
from mdnkernels.train.__main__ import main
from mdnkernels.train.loop.processes import restarts
from tests.train.float64 import use_float64


def main_with_fault(fault: str, step: int, arguments: list[str]) -> int:
    original = mdnkernels.train.loop.trainer.Trainer._train_step

    def faulty(self: Any, batch: Any, number: int, parts: int) -> Any:
        if number == step and os.environ["RANK"] == "1" and restarts() == 0:
            if fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif fault == "terminate":
                os.killpg(os.getpgid(0), signal.SIGTERM)
            elif fault == "interrupt":
                os.kill(os.getpid(), signal.SIGINT)
            elif fault == "ctrl-c":
                os.kill(os.getppid(), signal.SIGINT)
                time.sleep(3)  # until torchrun has passed it on
            elif fault == "nan":
                batch["colour"][:, 4:] = float("nan")  # added to every pixel
        return original(self, batch, number, parts)

    mdnkernels.train.loop.trainer.Trainer._train_step = faulty  # type: ignore[method-assign]
    use_float64()
    return main(arguments)


if __name__ == "__main__":
    sys.exit(main_with_fault(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
