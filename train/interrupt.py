"""Ctrl-C and SIGTERM as a request: the step is finished and saved before the process ends."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupt:
    """While it is entered, the first SIGINT or SIGTERM only sets `requested`; a second one acts as usual."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested: str | None = None
        """Name of the signal that arrived."""
        self._before: dict[signal.Signals, Any] = {}

    @property
    def number(self) -> int:
        """Of the signal that arrived; 0 for none."""
        return 0 if self.requested is None else signal.Signals[self.requested].value

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread set handlers
            self._before = {number: signal.signal(number, self._arrived) for number in self.SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        self.requested = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def leave_to_parent(worker: int) -> None:
    """In a data worker: signals to a terminal's or torchrun's process group are for the main process to decide on."""
    os.setpgid(0, 0)
