"""The process of a stage: `python -m benchmarks.gpu_check.worker STAGE --records FILE ...` runs its items in turn."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from benchmarks.gpu_check.items import Options, run_items


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", help="a module of this folder that has items(options)")
    parser.add_argument("--records", type=Path, required=True, help="where the results go")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--backend", default="native")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--share", default="0/1", help="which part of the items of how many, from 0")
    arguments = parser.parse_args()
    stage = importlib.import_module(f"benchmarks.gpu_check.{arguments.stage}")
    options = Options(arguments.device, arguments.backend, arguments.small)
    part, parts = map(int, arguments.share.split("/"))
    items = list(stage.items(options).items())[part::parts]
    return run_items(dict(items), arguments.records)


if __name__ == "__main__":
    sys.exit(main())
