"""The directory of one training run.

config.json        the exact configuration
status.json        {"state": "running" | "finished" | "interrupted" | "failed", "reason": ...}
log.jsonl          one record per logged step, epoch and evaluation
checkpoints/last.pt
checkpoints/best.pt   with `fit --keep best`, the one of the best evaluation
events.out.*       TensorBoard
evaluation/        detections.json and metrics.json of the last evaluation, and made.json, how it was made
evaluations/       those that analyses asked for, likewise
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from mdnkernels.models.files import PARTIAL, sync_folder
from mdnkernels.train.config.commands import FitConfig
from mdnkernels.train.config.serialisation import read_config, to_json
from mdnkernels.train.errors import ConfigError
from mdnkernels.train.run.files import remove_partial, write_json, write_text


class RunDirectory:
    """Paths and state of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.json"
        self.status = path / "status.json"
        self.log = path / "log.jsonl"
        self.last = path / "checkpoints" / "last.pt"
        self.best = path / "checkpoints" / "best.pt"
        self.evaluation = path / "evaluation"
        self.evaluations = path / "evaluations"

    @classmethod
    def create(cls, path: Path, config: FitConfig, save_first: Callable[[Path], None]) -> RunDirectory:
        """Make a new run, which appears under its name only with everything in it, whenever the process is killed.

        save_first: writes the initial checkpoint to the path that it is given.
        Raises ConfigError where something stands at `path` already (an empty folder is taken over).
        """
        cls.check_free(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Hidden, and unlike any other process's: two runs of one name race for the rename alone, and one of them loses.
        draft = cls(path.with_name(f".{path.name}{PARTIAL}{secrets.token_hex(4)}"))
        try:
            draft.last.parent.mkdir(parents=True)
            write_text(draft.config, to_json(config))
            draft.log.touch()
            draft.set_state("running")
            save_first(draft.last)
            sync_folder(draft.path)
            try:
                os.rename(draft.path, path)
            except OSError as error:
                raise _taken(path) from error
        except BaseException:
            shutil.rmtree(draft.path, ignore_errors=True)
            raise
        sync_folder(path.parent)
        return cls(path)

    @staticmethod
    def check_free(path: Path) -> None:
        """Raise ConfigError where a new run cannot be made at `path`: to be asked before a long preparation."""
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise _taken(path)

    @classmethod
    def open(cls, path: Path, *, clean: bool = True) -> RunDirectory:
        """Open a run to go on with it. Raises ConfigError where `path` is none.

        clean: remove what a killed process was writing; for one process alone.
        """
        run = cls(path)
        if not run.config.is_file():
            raise ConfigError(f"--resume: {path}: is not a run directory (it has no config.json)")
        if clean:
            remove_partial(run.last.parent)
            remove_partial(path)
        return run

    def read_config(self) -> FitConfig:
        """Read the run's configuration. Raises ConfigError that names file and field."""
        return read_config(FitConfig, self.config)

    def set_state(self, state: str, reason: str | None = None) -> None:
        """Write the state: running, finished, interrupted or failed. reason: why, in words."""
        write_json(self.status, {"state": state, "reason": reason})

    def fail(self, reason: str) -> None:
        """Write the state failed, but for a run that has failed: the first of several processes knows best why."""
        with contextlib.suppress(OSError, ValueError, RecursionError):
            # The disk may be full.
            if json.loads(self.status.read_text())["state"] != "failed":
                self.set_state("failed", reason)


def _taken(path: Path) -> ConfigError:
    go_on = f"go on with it by --resume {path}, or " if RunDirectory(path).config.is_file() else ""
    return ConfigError(f"--run: {path}: is there already; {go_on}take another name")
