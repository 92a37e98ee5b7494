"""The command line."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.gpu_check import plan, report

RESERVE = 5.0  # seconds of the time that the last report may take
USAGE = 2
DESCRIPTION = """Check the ops and the networks on the GPU at hand, and time them.

Builds both native libraries in place for that GPU, then runs, most important first: every op on every backend against
eager in float64; the times of the ops; the op matrix; CUDA graphs, streams and threads; compute-sanitizer; training
steps and inference of the networks. Needs a checkout and a torch with CUDA, and no installation.

DIR holds report.md, timings.csv, and for each stage a .jsonl of its results and a .log of its output, all written as
they come. Exit status: 0 where everything ran and passed, 1 where something failed, 2 where there is nothing to check
on, 3 where the time did not suffice or the check was interrupted."""


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=15, help="when to end; stages share the time (default 15)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default runs/gpu-check/ and the time")
    parser.add_argument(
        "--dry-run", action="store_true", help="on the CPU: every stage that needs no GPU, on small shapes"
    )
    chosen = parser.parse_args(arguments)
    if not chosen.minutes > 0:
        parser.error(f"--minutes must be above 0, got {chosen.minutes:g}")
    if chosen.output is None:
        chosen.output = Path("runs/gpu-check") / time.strftime("%Y%m%d-%H%M%S")
    if list(chosen.output.glob("*.jsonl")):
        parser.error(f"{chosen.output} holds the results of another check: name another --output, or remove it")
    return chosen


def describe(folder: Path) -> dict[str, Any]:
    """Return the facts about the machine, which a process of its own writes to machine.json.

    The process of the check itself leaves the GPU alone.
    """
    path = folder / "machine.json"
    command = [sys.executable, "-m", "benchmarks.gpu_check.machine", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, cwd=plan.ROOT)
    except subprocess.TimeoutExpired:
        raise SystemExit("gpu-check: torch did not start within 90 seconds") from None
    if done.returncode != 0:
        raise SystemExit(f"gpu-check: torch does not run here\n{done.stderr}")
    return json.loads(path.read_text())


def interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
    begin = time.monotonic()
    chosen = parse(arguments)
    signal.signal(signal.SIGTERM, interrupt)
    folder = chosen.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    machine = describe(folder)
    gpu = machine["gpu"]
    if gpu is None and not chosen.dry_run:
        text = f"gpu-check needs a GPU that torch {machine['torch']} can use, and found none; --dry-run runs on the CPU"
        print(text, file=sys.stderr)
        return USAGE
    device = "cpu" if chosen.dry_run else "cuda"
    groups = plan.groups(folder, device, gpu and gpu["capability"], machine["cores"])
    stages = [stage for group in groups for stage in group]
    print(f"{'dry run on the CPU' if chosen.dry_run else gpu['name']}; results go to {folder}", flush=True)
    os.chdir(plan.ROOT)
    deadline = begin + 60 * chosen.minutes - RESERVE

    def write() -> report.Summary:
        summary = report.write(stages, folder, chosen.dry_run)
        print(f"after {time.monotonic() - begin:.0f} s: {summary.counts()}", flush=True)
        return summary

    try:
        plan.run(groups, folder, deadline, threading.Event(), write)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    summary = write()
    print(
        f"\n{(folder / 'report.md').read_text()}\n{summary.verdict()}\nafter {time.monotonic() - begin:.0f} s",
        flush=True,
    )
    return summary.status


if __name__ == "__main__":
    sys.exit(main())
