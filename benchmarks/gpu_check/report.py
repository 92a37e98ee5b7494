"""report.md and timings.csv of what the stages have written so far, and the last lines on the terminal."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.records import ABSENT, CUT_OFF, FAILURES, PASSED, Results, read
from benchmarks.gpu_check.supervisor import Stage

WAYS = ("native", "triton", "eager", "compile", "max-autotune")
COLUMNS = (
    "case",
    "dtype",
    "passes",
    "way",
    "bytes",
    "ms",
    "called_ms",
    "gb_per_s",
    "share_of_copy",
    "peak_bytes",
    "rounds",
)
COMPLETE, BROKEN, INCOMPLETE = 0, 1, 3
SHOWN = 40  # failures


class Summary:
    """The results of all checks by title. Stages of one title are shares of one check, and are added up."""

    def __init__(self, stages: Iterable[Stage], folder: Path) -> None:
        self.results: dict[str, list[Results]] = {}
        for stage in stages:
            if not stage.background:
                self.results.setdefault(stage.title, []).append(read(stage.records(folder)))

    def of(self, title: str, *outcomes: str) -> list[dict[str, Any]]:
        return [record for results in self.results[title] for record in results.of(*outcomes)]

    def not_run(self, title: str) -> list[str]:
        return [name for results in self.results[title] for name in results.not_run]

    def not_started(self, title: str) -> bool:
        """Tell whether a process of the check has not said what it would do, or found nothing to do."""
        return any(not results.planned and not results.outcomes for results in self.results[title])

    def state(self, title: str) -> str:
        if self.of(title, *FAILURES):
            return "FAILED"
        if self.not_started(title) or self.not_run(title):
            return "not complete"
        return "passed" if self.of(title, PASSED) else "not there"

    @property
    def failed(self) -> list[str]:
        return [title for title in self.results if self.state(title) == "FAILED"]

    @property
    def incomplete(self) -> list[str]:
        return [title for title in self.results if self.not_started(title) or self.not_run(title)]

    @property
    def status(self) -> int:
        """The exit status: 0 where all ran and passed, 1 where something failed, 3 where something was not run."""
        return BROKEN if self.failed else INCOMPLETE if self.incomplete else COMPLETE

    def counts(self) -> str:
        passed = sum(len(self.of(title, PASSED)) for title in self.results)
        failed = sum(len(self.of(title, *FAILURES)) for title in self.results)
        absent = sum(len(self.of(title, ABSENT)) for title in self.results)
        skipped = sum(len(self.not_run(title)) for title in self.results)
        return f"{passed} checks passed, {failed} failed, {skipped} were not run, {absent} cannot run here"

    def verdict(self) -> str:
        lines = [self.counts()]
        if self.failed:
            lines.append(f"FAILED: {', '.join(self.failed)}")
        if self.incomplete:
            lines.append(f"not complete, for the time was up or it was interrupted: {', '.join(self.incomplete)}")
        if not self.failed and not self.incomplete:
            lines.append("everything that can run here ran and passed")
        return "\n".join(lines)

    def rows(self, *fields: str) -> list[dict[str, Any]]:
        """Return the records of all stages that have these fields."""
        records = (record for title in self.results for record in self.of(title, PASSED))
        return [record for record in records if all(name in record for name in fields)]


def write(stages: Sequence[Stage], folder: Path, dry: bool = False) -> Summary:
    """Write report.md and timings.csv anew. `dry` marks a run on the CPU, whose numbers say nothing."""
    summary = Summary(stages, folder)
    facts = folder / "machine.json"
    machine = json.loads(facts.read_text()) if facts.exists() else {}
    times = timings(summary.rows("way", "ms"))
    parts = [
        "# GPU check" + (", dry run on the CPU: no number here says anything of a GPU" if dry else ""),
        summary.verdict().replace("\n", "\n\n"),
        "\n".join(machine_table(machine)),
        "\n".join(stage_table(summary)),
        *failures(summary),
        "## Times of the ops",
        TIMES_NOTE,
        "\n".join(timing_table(times)),
        "## Networks",
        NETWORKS_NOTE,
        "\n".join(network_table(summary.rows("images_per_second"))),
        WAITS_NOTE,
        "\n".join(waits_table(summary.rows("copies_to_host"))),
    ]
    replace(folder / "report.md", "\n\n".join(part for part in parts if part) + "\n")
    with (folder / "timings.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(times)
    return summary


def replace(path: Path, text: str) -> None:
    """Write a file whole, or leave the one that was there."""
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)


def machine_table(machine: dict[str, Any]) -> Iterator[str]:
    yield from ("| machine | |", "| --- | --- |")
    for name, value in machine.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {entry}" for key, entry in value.items())
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        yield f"| {name.replace('_', ' ')} | {_cell('none' if value is None else value)} |"


def stage_table(summary: Summary) -> Iterator[str]:
    yield from ("| check | | passed | failed | not run | cannot run here |", "|" + " --- |" * 6)
    for title in summary.results:
        counts = [len(summary.of(title, *outcomes)) for outcomes in ((PASSED,), FAILURES)]
        absent = summary.of(title, ABSENT)
        skipped = summary.not_run(title)
        why = f" ({absent[0].get('detail', '')[:100]})" if absent else ""
        cut = " (one cut off)" if summary.of(title, CUT_OFF) else ""
        missing = "not begun" if summary.not_started(title) and not skipped else f"{len(skipped)}{cut}"
        cells = (summary.state(title), *counts, missing, _cell(f"{len(absent)}{why}"))
        yield f"| {title} | " + " | ".join(map(str, cells)) + " |"


def failures(summary: Summary) -> Iterator[str]:
    records = [(title, record) for title in summary.results for record in summary.of(title, *FAILURES)]
    if not records:
        return
    yield "## What failed"
    for title, record in records[:SHOWN]:
        yield f"{title}: {record['item']} {record['outcome']}\n\n```\n{record.get('detail', '')}\n```"
    if len(records) > SHOWN:
        yield f"and {len(records) - SHOWN} more, in the .jsonl files."


TIMES_NOTE = """Median microseconds of a call as the device takes them, from a cold second-level cache; in brackets the
share of the speed of a device copy of as many bytes, measured in the same run. Bytes are the least that the op must
move, counted from its shapes. "as called" adds what the host takes to launch it, where nothing else runs. Peak MB are
what a call holds at most beside its inputs. "-": not there, or not measured."""
NETWORKS_NOTE = """Random images of 512 x 512, 16 objects each, bfloat16 under autocast, channels_last; a training step
is targets, forward, loss, backward and Adam. Peak memory is of torch's allocator, weights and optimizer in it."""


WAITS_NOTE = """Copies from the device to the host and waits for a stream in ten calls of each, counted by the profiler;
one is a failure. In training a record of the log, every --log-every steps, adds its own."""


def timings(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the measurements, each with its speed and the share of a copy's speed."""
    copies = {_row_key(record): record["ms"] for record in records if record["way"] == "copy"}
    times = []
    for record in records:
        copy = copies.get(_row_key(record))
        speed = record["bytes"] / record["ms"] / 1e6
        times.append({**record, "gb_per_s": speed, "share_of_copy": copy / record["ms"] if copy else None})
    return times


def _row_key(record: dict[str, Any]) -> tuple[str, str, str]:
    return record["case"], record["dtype"], record["passes"]


def timing_table(times: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a table with one row for each call, dtype and passes, and one column for each way."""
    rows: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for record in times:
        rows.setdefault(_row_key(record), {})[record["way"]] = record
    header = ("op", "dtype", "passes", "MB", "copy us (GB/s)", "native GB/s", "triton GB/s")
    names = (*header, *(f"{way} us" for way in WAYS), "native as called us", f"peak MB: {', '.join(WAYS)}")
    yield "| " + " | ".join(names) + " |"
    yield "|" + " --- |" * len(names)
    for row, ways in rows.items():
        moved = next(iter(ways.values()))["bytes"]
        copy, native = ways.get("copy"), ways.get("native")
        cells = [
            *row,
            f"{moved / 1e6:.2f}",
            f"{_us(copy['ms'])} ({copy['gb_per_s']:.0f})" if copy else "-",
            *(f"{ways[way]['gb_per_s']:.0f}" if way in ways else "-" for way in ("native", "triton")),
            *(_time(ways.get(way)) for way in WAYS),
            _us(native["called_ms"]) if native else "-",
            ", ".join(_megabytes(ways.get(way)) for way in WAYS),
        ]
        yield "| " + " | ".join(cells) + " |"


def _us(milliseconds: float) -> str:
    return f"{1e3 * milliseconds:.1f}"


def _time(record: dict[str, Any] | None) -> str:
    if record is None:
        return "-"
    share = record["share_of_copy"]
    return _us(record["ms"]) + (f" ({share:.0%})" if share is not None else "")


def _megabytes(record: dict[str, Any] | None) -> str:
    if record is None or record["peak_bytes"] is None:
        return "-"
    return f"{record['peak_bytes'] / 1e6:.1f}"


def network_table(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    names = ("network", "task", "work", "heads", "batch", "ms", "images a second", "times the base", "peak GB", "")
    yield "| " + " | ".join(names) + " |"
    yield "|" + " --- |" * len(names)
    speeds = {(r["arch"], r["task"], r["work"], r["variant"]): r["images_per_second"] for r in records}
    heads = {"sparse": "3 components, sparse", "dense": "3 components, dense", "base": "base, dense"}
    for record in records:
        base = speeds.get((record["arch"], record["task"], record["work"], "base"))
        peak = record["peak_bytes"]
        cells = (
            *(record[name] for name in ("arch", "task", "work")),
            heads[record["variant"]],
            record["batch"],
            f"{record['ms']:.1f}",
            f"{record['images_per_second']:.1f}",
            f"{record['images_per_second'] / base:.2f}" if base else "-",
            f"{peak / 1e9:.2f}" if peak is not None else "-",
            record["note"],
        )
        yield "| " + " | ".join(map(str, cells)) + " |"


def waits_table(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    names = ("arch", "task", "work", "copies_to_host", "stream_waits")
    yield "| network | task | work | copies to the host | waits |"
    yield "|" + " --- |" * len(names)
    for record in records:
        yield "| " + " | ".join(str(record[name]) for name in names) + " |"


def _cell(value: object) -> str:
    return str(value).replace("|", "/").replace("\n", "; ")
