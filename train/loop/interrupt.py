"""Ctrl-C and SIGTERM as a request: the step is finished and saved before the process ends."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
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
        """Return the number of the signal that arrived; 0 for none."""
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


def end_at_once_on_interrupt() -> contextlib.AbstractContextManager[None]:
    """Make a context in which Ctrl-C ends the process at once, with status 130 and no traceback.

    For imports: torch's own would abort where Ctrl-C raises in them, and nothing has been begun by then.
    """
    return _sigint_handled_by(lambda number, frame: os._exit(130))


def sigint_ignored() -> contextlib.AbstractContextManager[None]:
    """Make a context in which Ctrl-C does nothing; processes that are started meanwhile ignore it for good."""
    return _sigint_handled_by(signal.SIG_IGN)


@contextlib.contextmanager
def _sigint_handled_by(handler: Any) -> Iterator[None]:
    # Python lets no other thread set handlers, and where SIGINT is ignored, as for nohup, it stays so.
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Make a context in which SIGTERM raises KeyboardInterrupt, as Ctrl-C does, so that what was begun is ended too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def arrived(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = signal.signal(signal.SIGTERM, arrived)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def leave_signals_to_parent(worker: int) -> None:
    """Leave signals to a terminal's or torchrun's process group to the main process; called in each data worker."""
    os.setpgid(0, 0)
