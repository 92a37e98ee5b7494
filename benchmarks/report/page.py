"""The page: Markdown around the plots."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.report.results import FLOOR, SAME, Ratio, Result
from benchmarks.report.rows import OPS_TABLE
from benchmarks.ways import COMPILED

AXES = {"B": "images, B", "M": "components, M", "C": "dimensions, C", "side": "cells along a side"}
WAYS = ("native", "triton", COMPILED, "eager")
TIME_NOTE = """\
Milliseconds of a call: a training step (forward, and the gradients of what a network gives) where the op has gradients
in training, else the forward pass. In brackets the share of the floor's speed. The floor only moves the bytes that the
op must move, counted from its shapes, into memory already touched; on a GPU it is a device copy of as many bytes. All
ways of a row take turns, and the median is shown; `report.csv` has the spread and the number of calls."""
MEMORY_NOTE = """\
MiB at the peak of a call, above what its inputs hold: on the CPU what became resident, on a GPU what torch's allocator
gave. A training step has to make its gradients, so these are the least there."""
GROWTH_NOTE = """\
`mixture_nll`, forward and backward, float32, all observed. One size grows, the others stay at B = {B}, M = {M},
C = {C}, {side} x {side} cells, with one scale a component."""

Rows = dict[tuple[str, str, str, str, str], dict[str, Result]]


def by_row(results: Iterable[Result]) -> Rows:
    """Return the results by row and way."""
    rows: Rows = {}
    for result in results:
        rows.setdefault(result.key[:-1], {})[result.way] = result
    return rows


def in_order(results: Iterable[Result]) -> list[Result]:
    """Return the workloads op by op, in float32 and then in the other dtypes."""
    return sorted(results, key=lambda result: (result.dtype != "float32", result.row.split(",")[0]))


def page(
    results: Sequence[Result],
    facts: Mapping[str, Any],
    left_out: Sequence[str],
    compared: Sequence[Ratio],
    against: str | None,
    plots: Mapping[str, str],
    sizes: Mapping[str, int],
) -> str:
    """Return the page.

    Args:
        facts: of the machine and the run, in the order in which they are shown.
        left_out: what was not measured, and why.
        compared: with the report that `against` names.
        plots: file names, by what they show: "floors", "growth", "memory".
        sizes: of the call of which one grows at a time.
    """
    tables = in_order(result for result in results if result.part == OPS_TABLE)
    growth = [result for result in results if result.part != OPS_TABLE]
    lines = ["# Benchmarks", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    lines += ["", "## Time", "", TIME_NOTE, "", *time_table(tables), "", _picture(plots, "floors"), ""]
    lines += ["## Memory", "", MEMORY_NOTE, "", *memory_table(tables), ""]
    lines += ["## As sizes grow", "", GROWTH_NOTE.format(**sizes), "", _picture(plots, "growth"), ""]
    lines += [_picture(plots, "memory"), "", *growth_table(growth), ""]
    lines += ["## Beside an earlier report", "", *comparison(compared, against), ""]
    if left_out:
        lines += ["## Not measured", "", *(f"- {reason}" for reason in left_out), ""]
    return "\n".join(lines)


def _picture(plots: Mapping[str, str], name: str) -> str:
    return f"![{name}]({plots[name]})" if name in plots else ""


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|" + " --- |" * len(header)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def time_table(results: Sequence[Result]) -> Iterator[str]:
    """Yield a line for each workload and dtype, with a column for each way that any of them has."""
    rows = by_row(results)
    shown = [way for way in WAYS if any(way in row for row in rows.values())]
    others = [way for row in rows.values() for way in row if way not in (*WAYS, FLOOR)]
    header = ("op", "dtype", "MB", "floor", *shown, *(["in its place today"] if others else []))
    yield from _table(header, (_times(row, shown, bool(others)) for row in rows.values()))


def _times(row: Mapping[str, Result], shown: Sequence[str], others: bool) -> list[str]:
    first, floor = next(iter(row.values())), row[FLOOR].milliseconds
    cells = [first.row, first.dtype, f"{first.moved_bytes / 1e6:.2f}", milliseconds(floor)]
    for way in shown:
        taken = row[way].milliseconds if way in row else None
        cells.append("" if taken is None else f"{milliseconds(taken)} ({floor / taken:.0%})")
    if others:
        named = [f"{milliseconds(row[way].milliseconds)} {way}" for way in row if way not in (*WAYS, FLOOR)]
        cells.append("; ".join(named))
    return cells


def milliseconds(value: float) -> str:
    """Return a time in three digits or whole milliseconds."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def memory_table(results: Sequence[Result]) -> Iterator[str]:
    rows = {key: row for key, row in by_row(results).items() if len(row) > 2}
    shown = [way for way in WAYS if any(way in row for row in rows.values())]
    lines = []
    for row in rows.values():
        first = next(iter(row.values()))
        cells = [first.row, first.dtype, mebibytes(first.gradient_bytes) if first.gradient_bytes else ""]
        cells += [mebibytes(row[way].peak_bytes) if way in row else "" for way in shown]
        lines.append(cells)
    yield from _table(("op", "dtype", "gradients", *shown), lines)


def mebibytes(value: int | None) -> str:
    if value is None:
        return "not told"
    return f"{value / 2**20:.1f}" if value < 10 * 2**20 else f"{value / 2**20:.0f}"


def growth_table(results: Sequence[Result]) -> Iterator[str]:
    """Yield a line for each size, with the milliseconds of each way."""
    rows = by_row(results)
    shown = list(dict.fromkeys(way for row in rows.values() for way in row))
    lines = []
    for row in rows.values():
        first = next(iter(row.values()))
        times = [milliseconds(row[way].milliseconds) if way in row else "" for way in shown]
        lines.append([AXES[first.part], str(first.size), *times])
    yield from _table(("what grows", "size", *shown), lines)


def comparison(compared: Sequence[Ratio], against: str | None) -> Iterator[str]:
    """Yield what changed: times over those of the earlier report, where the floor did not change as much."""
    if against is None:
        yield "There is no earlier report of this machine: the next one is compared with this."
        return
    changed = [ratio for ratio in compared if ratio.changed]
    yield (
        f"Compared with `{against}`: {len(compared)} times, of which {len(compared) - len(changed)} stayed within "
        f"{SAME[0]} and {SAME[1]} of the earlier ones, the floor's own change taken out."
    )
    if changed:
        yield ""
        header = ("what", "dtype", "size", "way", "ms", "over earlier", "floor over earlier")
        yield from _table(header, map(_changed, sorted(changed, key=lambda ratio: -ratio.time)))


def _changed(ratio: Ratio) -> list[str]:
    result = ratio.result
    size = "" if result.size is None else f"{result.part} = {result.size}"
    floor = "" if ratio.floor is None else f"{ratio.floor:.2f}"
    return [
        result.row,
        result.dtype,
        size,
        result.way,
        milliseconds(result.milliseconds),
        f"{ratio.time:.2f}",
        floor,
    ]
