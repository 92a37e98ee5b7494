"""Measure everything and write the page: `python -m benchmarks.report --output DIR`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import mdnkernels
from benchmarks.gpu_check import machine
from benchmarks.report import plots, results
from benchmarks.report.measure import QUICK, Effort, Measurer
from benchmarks.report.page import page
from benchmarks.report.results import Result
from benchmarks.report.rows import Row, base, rows
from mdnkernels import command_line


def arguments(line: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description="One page of all benchmarks.")
    parser.add_argument("--output", type=Path, default=Path("runs/bench-report"), help="folder of the page")
    parser.add_argument("--quick", action="store_true", help="small shapes, without torch.compile: seconds")
    parser.add_argument("--minutes", type=float, default=10.0, help="no row begins after so many")
    parser.add_argument("--threads", type=int, help="of the CPU; torch's default without it")
    parser.add_argument("--against", type=Path, help="an earlier report.csv; the last one of this machine without it")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="the GPU where there is one, without it")
    return parser.parse_args(line)


def main(line: Sequence[str] | None = None) -> int:
    options = arguments(line)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    facts = known_facts(device, options.quick)
    options.output.mkdir(parents=True, exist_ok=True)
    earlier = options.against or last_of(options.output, facts)
    before = results.read(earlier) if earlier is not None else []
    measurer = Measurer(device, QUICK if options.quick else Effort(quick=False))
    begin = time.monotonic()
    found: list[Result] = []
    for row in rows(options.quick):
        name = named(row)
        if time.monotonic() - begin > 60 * options.minutes:
            measurer.left_out.append(f"{name}: {options.minutes:g} minutes were over")
            continue
        print(f"{time.monotonic() - begin:5.0f} s  {name}", flush=True)
        found += measurer.measure(row)
    facts["minutes"] = round((time.monotonic() - begin) / 60, 1)
    kept = options.output / "earlier" / f"{facts['measured'].replace(' ', '-').replace(':', '')}.csv"
    kept.parent.mkdir(exist_ok=True)
    kept.with_suffix(".json").write_text(json.dumps(facts, indent=2))
    results.write(kept, found)
    results.write(options.output / "report.csv", found)
    compared = results.ratios(found, before)
    shown = plots.draw(found, options.output)
    named_earlier = str(earlier) if earlier else None
    text = page(found, facts, measurer.left_out, compared, named_earlier, shown, base(options.quick))
    (options.output / "report.md").write_text(text)
    print(f"{options.output / 'report.md'}: {len(found)} times")
    return 0


def named(row: Row) -> str:
    size = "" if row.size is None else f", {row.part} = {row.size}"
    return f"{row.name}, {str(row.dtype).removeprefix('torch.')}{size}"


def known_facts(device: str, quick: bool) -> dict[str, Any]:
    """Return what the times depend on, and when they were taken."""
    known = machine.describe()
    gpu = known["gpu"] if device == "cuda" else None
    return {
        "measured": time.strftime("%Y-%m-%d %H:%M:%S"),
        "device": gpu["name"] if gpu else known["processor"],
        "threads": torch.get_num_threads(),
        "instruction set": "" if mdnkernels.native.problem else mdnkernels.native.simd_level(),
        "torch": known["torch"],
        "commit": known["commit"] + (", with changes" if known["changed_files"] else ""),
        "shapes": "small: the times say nothing" if quick else "those of training and inference at 512 x 512",
    }


# Reports that agree in these are compared.
COMPARABLE = ("device", "threads", "shapes")


def last_of(folder: Path, facts: Mapping[str, Any]) -> Path | None:
    """Return the newest earlier report of the same machine and shapes, or None."""
    for path in sorted(folder.glob("earlier/*.json"), reverse=True):
        known = json.loads(path.read_text())
        if all(known.get(name) == facts[name] for name in COMPARABLE):
            return path.with_suffix(".csv")
    return None


if __name__ == "__main__":
    sys.exit(command_line.exit_status(main))
