"""The parts of a stage: items by name. Each item runs and is written down before the next one begins."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu_check.records import ABSENT, FAILED, PASSED, append, read
from benchmarks.gpu_check.supervisor import START_AGAIN

if TYPE_CHECKING:
    import torch

Items = Mapping[str, Callable[[], "dict[str, Any] | None"]]


class Absent(Exception):  # noqa: N818  # no error, but an outcome
    """An item cannot run on this machine; the message says why."""


@dataclass(frozen=True)
class Options:
    """What a stage's items depend on."""

    device: str = "cuda"
    backend: str = "native"
    small: bool = False
    """Whether shapes are small enough for a CPU."""


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def run_items(items: Items, path: Path) -> int:
    """Run each item that has no outcome in the file yet, write its outcome, and return the exit status.

    An item returns what is to be written beside its outcome. It raises where it fails.
    """
    done = read(path).outcomes
    append(path, {"planned": list(items)})
    for name, run in items.items():
        if name in done:
            continue
        append(path, {"begun": name})
        print(f"-- {name}", flush=True)
        begin = time.perf_counter()
        try:
            record = {"outcome": PASSED, **(run() or {})}
        except Absent as reason:
            record = {"outcome": ABSENT, "detail": str(reason)}
        except Exception as error:
            traceback.print_exc()
            first = f"{type(error).__name__}: {error}".strip()
            record = {"outcome": FAILED, "detail": first[:2000]}
        append(path, {"item": name, **record, "seconds": round(time.perf_counter() - begin, 3)})
        if record["outcome"] == FAILED and not device_works():
            print("the device takes no more work from this process: another one goes on", flush=True)
            return START_AGAIN
    return 0


def device_works() -> bool:
    """Tell whether this process can still use its GPU; True where it has not used one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return True
    try:
        torch.cuda.synchronize()
        torch.ones(1, device="cuda").item()
    except RuntimeError:
        return False
    return True
