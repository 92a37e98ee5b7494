"""Command lines end without a traceback where the reader of their output has gone, as in `python -m models | head`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout

import pytest

import mdnkernels.__main__
import mdnkernels.models.__main__
import mdnkernels.train.__main__
from mdnkernels import command_line


@contextmanager
def nobody_reading() -> Iterator[None]:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", buffering=1) as stdout, redirect_stdout(stdout):
        yield


@pytest.mark.parametrize(
    "main",
    [
        lambda: command_line.exit_status(mdnkernels.__main__.main),
        lambda: command_line.exit_status(lambda: mdnkernels.models.__main__.main(["--help"])),
        lambda: mdnkernels.train.__main__.main(["--help"]),
        lambda: mdnkernels.train.__main__.main(["fit", "--help"]),
    ],
    ids=["mdnkernels", "models", "train", "train fit"],
)
def test_a_command_whose_output_nobody_reads_ends_as_sigpipe_would_end_it(main: Callable[[], int]):
    with nobody_reading():
        assert main() == 141


def test_what_was_buffered_is_dropped_and_not_a_traceback_at_the_end():
    def main() -> int:
        print("a" * 100, end="")
        return 0

    with nobody_reading():
        assert command_line.exit_status(main) == 141
        print("more", flush=True)


def test_a_broken_pipe_that_is_not_the_output_is_still_an_error():
    def main() -> int:
        raise BrokenPipeError("a worker's")

    with pytest.raises(BrokenPipeError, match="a worker's"):
        command_line.exit_status(main)


def test_ctrl_c_ends_a_command_without_a_traceback(capsys: pytest.CaptureFixture[str]):
    def main() -> int:
        raise KeyboardInterrupt  # while the packages of a command are imported, for one

    assert command_line.exit_status(main) == 130
    assert capsys.readouterr().err == "interrupted\n"
