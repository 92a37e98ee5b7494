"""Runs a stage in a process of its own, watches its items, and starts it again behind one that crashed or hung.

An illegal memory access of a kernel leaves its process without a GPU. A kernel that never ends leaves its process
waiting. Neither may cost the results of other items. So what an item writes is kept at once, and an item that takes too
long is killed with its process. The process that follows goes on with the items that have no outcome yet.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gpu_check.records import CRASHED, CUT_OFF, FAILED, HUNG, PASSED, WHOLE, append, read

# The exit status of a stage's process that can go no further, but whose items all have their outcomes.
START_AGAIN = 75
TAIL_LINES = 15


@dataclass(frozen=True)
class Stage:
    """One command. It appends to DIR/NAME.jsonl as `records` says, unless it is `plain`. Its output is in NAME.log."""

    name: str
    title: str
    command: tuple[str, ...]
    seconds: float
    """The stage's share of the time, beside those of the other stages."""
    item_seconds: float = 60.0
    """How many seconds an item may take before it counts as hung."""
    plain: bool = False
    """Whether the stage writes no items, so that its exit status is the one outcome."""
    background: bool = False
    """Whether the stage ends with the others of its group, and has no outcome."""
    environment: dict[str, str] = field(default_factory=dict)

    def records(self, folder: Path) -> Path:
        return folder / f"{self.name}.jsonl"

    def log(self, folder: Path) -> Path:
        return folder / f"{self.name}.log"


def supervise(stage: Stage, folder: Path, seconds: float, stop: threading.Event) -> None:
    """Run the stage for at most `seconds`, or until `stop` is set."""
    deadline = time.monotonic() + seconds
    path = stage.records(folder)
    while True:
        before = len(read(path).outcomes)
        begin = time.monotonic()
        status, hung = _run(stage, folder, deadline, stop)
        results = read(path)
        if stage.background:
            return
        if stage.plain:
            _record_plain(stage, folder, status, time.monotonic() - begin)
            return
        if hung:
            detail = f"no result after {stage.item_seconds:.0f} s: killed\n{tail(stage.log(folder))}"
            append(path, {"item": results.begun, "outcome": HUNG, "detail": detail})
        elif status is None:
            if results.begun is not None:
                append(path, {"item": results.begun, "outcome": CUT_OFF, "detail": "time was up while it ran"})
            return
        elif status == 0:
            return
        elif results.begun is not None:
            detail = f"{_ending_of(status)}\n{tail(stage.log(folder))}"
            append(path, {"item": results.begun, "outcome": CRASHED, "detail": detail})
        elif status != START_AGAIN or results.planned is None:
            detail = f"{_ending_of(status)}\n{tail(stage.log(folder))}"
            append(path, {"item": WHOLE, "outcome": FAILED, "detail": detail})
            return
        now = read(path)
        if not now.not_run or len(now.outcomes) == before:
            return


def _run(stage: Stage, folder: Path, deadline: float, stop: threading.Event) -> tuple[int | None, bool]:
    """Run the stage's command once.

    Returns:
        The exit status, or None where the process was ended here; and whether it was ended for an item that hung.
    """
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **stage.environment}
    with stage.log(folder).open("ab") as log:
        process = subprocess.Popen(
            stage.command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        size, since = -1, time.monotonic()
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(timeout=0.1), False
                now = time.monotonic()
                if stop.is_set() or now > deadline:
                    return None, False
                written = _size(stage.records(folder))
                if written != size:  # every line begins or ends an item
                    size, since = written, now
                watched = not stage.plain and not stage.background and now - since > stage.item_seconds
                if watched and read(stage.records(folder)).begun is not None:
                    return None, True
        finally:
            _kill(process)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it started, compilers' workers among them."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)  # one that hangs in the driver cannot be waited for


def _record_plain(stage: Stage, folder: Path, status: int | None, seconds: float) -> None:
    path = stage.records(folder)
    append(path, {"planned": [stage.title]})
    outcome = CUT_OFF if status is None else PASSED if status == 0 else FAILED
    detail = "time was up" if status is None else f"{_ending_of(status)}\n{tail(stage.log(folder))}" if status else ""
    append(path, {"item": stage.title, "outcome": outcome, "detail": detail, "seconds": seconds})


def _ending_of(status: int) -> str:
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"


def tail(log: Path) -> str:
    """Return the last lines of a log."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join(lines[-TAIL_LINES:])
