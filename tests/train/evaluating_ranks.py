"""Runs `python -m train` several times in the same processes, for torchrun. In the last run a process may fail.

In `python -m tests.train.evaluating_ranks FAULT COMMANDS`, COMMANDS is JSON: a list of the arguments of each run. FAULT
is "none", "raise" (the second process runs out of memory) or "kill" (SIGKILL, to the second process).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import mdnkernels.train.inference.evaluation
from mdnkernels.train.__main__ import main


def fail(fault: str) -> None:
    """Make the second process fail with its next batch."""

    def predict_batch(*_: Any) -> Any:
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise MemoryError("no memory is left in process 1")

    if os.environ["RANK"] == "1" and fault != "none":
        mdnkernels.train.inference.evaluation.predict_batch = predict_batch


if __name__ == "__main__":
    *before, last = json.loads(sys.argv[2])
    for arguments in before:
        status = main(arguments)
        assert status == 0, arguments
    fail(sys.argv[1])
    sys.exit(main(last))
