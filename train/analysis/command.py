"""`python -m train analyse`: the analyses of trained runs, side by side, as one report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import get_int_from_env

from mdnkernels.train.analysis.evaluations import Machine
from mdnkernels.train.analysis.registry import ANALYSES
from mdnkernels.train.analysis.subject import Subject
from mdnkernels.train.analysis.tables import markdown_table
from mdnkernels.train.config.commands import AnalyseConfig
from mdnkernels.train.config.rules import check_config
from mdnkernels.train.errors import ConfigError
from mdnkernels.train.loop.network import pick_device
from mdnkernels.train.loop.processes import WORLD_SIZES
from mdnkernels.train.run.files import without_nan, write_json, write_text
from mdnkernels.train.threads import use_free_cores


def analyse_runs(config: AnalyseConfig) -> Path:
    """Write report.md, analysis.json and figures, and return their folder.

    An analysis that was not asked for by name and that these runs cannot have is left out, and the report says why.
    Raises ConfigError for names that there are not, runs that cannot be compared, and an analysis that was asked for by
    name and cannot be; and what `evaluate` raises.
    """
    check_config(config)
    if get_int_from_env(WORLD_SIZES, 1) > 1:
        raise ConfigError("analyse runs in one process; evaluate, which torchrun may start, shares images out")
    names = wanted_analyses(config.only)
    # Now, for all evaluations that follow: their speed goes by the number of threads.
    use_free_cores(pick_device(config.device), None)
    subjects = open_subjects(config.runs, Machine(config.device, config.batch, config.workers))
    output = config.output or config.runs[0] / "analysis"
    output.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    numbers: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for name in names:
        print(f"analysing: {name}", file=sys.stderr, flush=True)
        try:
            check_task(name, subjects)
            section = ANALYSES[name].analyse(subjects)
        except ConfigError as error:
            if config.only:
                raise ConfigError(f"--only {name}: {error}") from error
            left_out[name] = str(error)
            continue
        section.save_figures(output)
        lines += section.lines
        numbers[name] = section.numbers
    if left_out:
        lines += ["### Left out", "", *(f"- {name}: {reason}" for name, reason in left_out.items()), ""]
    write_text(output / "report.md", "\n".join([*_heading(subjects), *lines]))
    runs = {subject.title: {"run": str(subject.run), "metrics": subject.metrics} for subject in subjects}
    write_json(output / "analysis.json", without_nan({"runs": runs, "analyses": numbers, "left_out": left_out}))
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}")
    print(f"{output / 'report.md'}: {', '.join(numbers) or 'nothing'}, of {', '.join(one.title for one in subjects)}")
    return output


def wanted_analyses(only: Sequence[str]) -> list[str]:
    """Return the names of the analyses to make, in the registry's order. Raises ConfigError for an unknown one."""
    for name in only:
        if name not in ANALYSES:
            raise ConfigError(f"--only: there is no analysis {name!r}; there are {', '.join(ANALYSES)}")
    return [name for name in ANALYSES if not only or name in only]


def open_subjects(runs: Sequence[Path], machine: Machine) -> list[Subject]:
    """Return the networks of runs, evaluated where they are not yet.

    Raises ConfigError for no run, for the same one twice, and for runs of different tasks or val sets.
    """
    if not runs:
        raise ConfigError("RUN: give at least one run directory")
    subjects = [Subject.of_run(run, title, machine) for run, title in zip(runs, titles_of(runs), strict=True)]
    first = subjects[0]
    for other in subjects[1:]:
        if other.task.name != first.task.name:
            raise ConfigError(
                f"{other.run}: is of {other.task.name}, {first.run} of {first.task.name}; give one task's"
            )
        if other.annotations.resolve() != first.annotations.resolve() or other.limit != first.limit:
            raise ConfigError(
                f"{other.run}: was evaluated on {_val_set(other)}, {first.run} on {_val_set(first)}; "
                "only runs of the same val set can be compared"
            )
    return subjects


def titles_of(runs: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths, from one part on, that tell the runs apart.

    Raises ConfigError for a run that is given twice.
    """
    parts = [run.resolve().parts for run in runs]
    for number, one in enumerate(parts):
        if one in parts[:number]:
            raise ConfigError(f"RUN: {runs[number]} is given twice")
    titles = []
    for one in parts:
        length = next(n for n in range(1, len(one) + 1) if sum(other[-n:] == one[-n:] for other in parts) == 1)
        titles.append("/".join(one[-length:]))
    return titles


def check_task(name: str, subjects: Sequence[Subject]) -> None:
    """Raise ConfigError where an analysis is not of the subjects' task."""
    tasks = ANALYSES[name].tasks
    if subjects[0].task.name not in tasks:
        raise ConfigError(f"is of {' and '.join(tasks)}, and these runs are of {subjects[0].task.name}")


def _val_set(subject: Subject) -> str:
    first = "" if subject.limit is None else f" (the first {subject.limit} images)"
    return f"{subject.annotations}{first}"


def _heading(subjects: Sequence[Subject]) -> list[str]:
    """Return the lines that say what was analysed."""
    one = subjects[0]
    rows = []
    for subject in subjects:
        model, optimizer = subject.config.model, subject.config.optimizer
        kind = f"mixture of {subject.components}" if subject.components else "single-mode base"
        rows.append([subject.title, model.arch, kind, str(optimizer.epochs), f"`{subject.run}`"])
    return [
        f"# {one.task.name.capitalize()}: {', '.join(subject.title for subject in subjects)}",
        "",
        f"{len(one.truth['images'])} images of `{one.annotations}`, {len(one.truth['annotations'])} annotations.",
        "",
        *markdown_table(["run", "network", "regression", "epochs", "folder"], rows, words=5),
    ]
