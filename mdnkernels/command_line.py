"""How a command line ends whose output nobody reads any more, as that of `python -m mdnkernels | head`."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable

# What a shell reports of a program that SIGPIPE ended.
NO_READER = 128 + 13


def exit_status(main: Callable[[], int]) -> int:
    """Run `main` and return its exit status, or NO_READER, without a traceback, where the reader of stdout has gone."""
    try:
        try:
            return main()
        finally:
            sys.stdout.flush()  # here and not at the interpreter's end, which prints what goes wrong
    except BrokenPipeError:
        return without_reader()


def without_reader() -> int:
    """Return NO_READER where stdout has no reader; raise the BrokenPipeError being handled where it is of another pipe.

    What is still to be written to stdout is dropped.
    """
    stdout = select.poll()
    stdout.register(sys.stdout, 0)  # of no events but errors, the state of a pipe without a reader
    if not stdout.poll(0):
        raise
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return NO_READER
