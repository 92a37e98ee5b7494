"""A result, its CSV, and the ratios to an earlier report."""

from __future__ import annotations

import csv
import dataclasses
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

FLOOR = "floor"
# A ratio of medians between these is within what the same code gives twice.
SAME = (0.9, 1.1)


@dataclass(frozen=True)
class Result:
    """One way on one row."""

    part: str
    row: str
    dtype: str
    passes: str
    size: int | None
    way: str
    milliseconds: float
    """The median."""
    spread: float
    """Of the times: half of the distance between their quartiles over the median."""
    rounds: int
    moved_bytes: int
    """The least that the op must move."""
    gradient_bytes: int
    peak_bytes: int | None
    """Above what the inputs hold."""

    @property
    def key(self) -> tuple[str, str, str, str, str, str]:
        """What names it in every report."""
        size = "" if self.size is None else str(self.size)
        return self.part, self.row, self.dtype, self.passes, size, self.way


def spread_of(times: Sequence[float]) -> float:
    """Return half of the distance between the quartiles over the median, 0 for fewer than four times."""
    if len(times) < 4:
        return 0.0
    first, median, third = statistics.quantiles(times, n=4)
    return (third - first) / 2 / median


def write(path: Path, results: Iterable[Result]) -> None:
    names = [field.name for field in dataclasses.fields(Result)]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows([getattr(result, name) for name in names] for result in results)


def read(path: Path) -> list[Result]:
    """Read a report's CSV; raise ValueError where it is none."""
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        names = [field.name for field in dataclasses.fields(Result)]
        if list(reader.fieldnames or ()) != names:
            raise ValueError(f"{path} is no report: its columns are {reader.fieldnames}, not {names}")
        return [_result(line) for line in reader]


def _result(line: dict[str, str]) -> Result:
    def whole(name: str) -> int | None:
        return int(line[name]) if line[name] else None

    return Result(
        line["part"],
        line["row"],
        line["dtype"],
        line["passes"],
        whole("size"),
        line["way"],
        float(line["milliseconds"]),
        float(line["spread"]),
        int(line["rounds"]),
        int(line["moved_bytes"]),
        int(line["gradient_bytes"]),
        whole("peak_bytes"),
    )


@dataclass(frozen=True)
class Ratio:
    """A result over that of an earlier report, and the same of the floors measured beside both."""

    result: Result
    time: float
    floor: float | None

    @property
    def changed(self) -> bool:
        """Whether the time changed by more than the machine did, as its floor shows it."""
        over_floor = self.time / self.floor if self.floor else self.time
        return not SAME[0] <= over_floor <= SAME[1]


def ratios(now: Sequence[Result], earlier: Sequence[Result]) -> list[Ratio]:
    """Return the ratio of each result but the floors that both reports have."""
    before = {result.key: result for result in earlier}
    floors = {result.key: result for result in now if result.way == FLOOR}
    found = []
    for result in now:
        if result.way != FLOOR and result.key in before:
            key = (*result.key[:-1], FLOOR)
            both = key in floors and key in before
            floor = floors[key].milliseconds / before[key].milliseconds if both else None
            found.append(Ratio(result, result.milliseconds / before[result.key].milliseconds, floor))
    return found
