"""The results of a stage as lines of JSON. Each line is written at once, so that no result is lost with its process.

A stage writes which items it has (`planned`), which one it begins (`begun`), and its outcome:

    {"planned": ["a", "b"]}
    {"begun": "a"}
    {"item": "a", "outcome": "passed", "seconds": 0.1, ...}
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# The outcomes of an item. ABSENT means that it cannot run on this machine, for the reason given.
PASSED, FAILED, CRASHED, HUNG, ABSENT, CUT_OFF = "passed", "failed", "crashed", "hung", "absent", "cut off"
FAILURES = (FAILED, CRASHED, HUNG)
# The item that stands for what befell a stage as a whole.
WHOLE = "the stage as a whole"


def append(path: Path, record: dict[str, Any]) -> None:
    """Add one line to a file in one write, so that several processes may add to it."""
    line = (json.dumps(record) + "\n").encode()
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line)
    finally:
        os.close(file)


@dataclass
class Results:
    """What one stage has written so far."""

    planned: list[str] | None = None  # None: it has not said yet
    begun: str | None = None  # the item that runs now
    outcomes: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def not_run(self) -> list[str]:
        """The planned items that have no outcome, or were cut off."""
        ended = {name for name, record in self.outcomes.items() if record["outcome"] != CUT_OFF}
        return [name for name in self.planned or [] if name not in ended]

    def of(self, *outcomes: str) -> list[dict[str, Any]]:
        return [record for record in self.outcomes.values() if record["outcome"] in outcomes]


def read(path: Path) -> Results:
    """Return what the file holds: nothing where there is no file, and without a last line that was cut short."""
    results = Results()
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return results
    for line in lines:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if "planned" in record:
            results.planned = list(dict.fromkeys([*(results.planned or []), *record["planned"]]))
        elif "begun" in record:
            results.begun = record["begun"]
        else:
            results.outcomes[record["item"]] = record
            if record["item"] == results.begun:
                results.begun = None
    return results
