"""The paper's findings in synthetic worlds by one command: train what is not trained yet, measure, write."""

from __future__ import annotations

import datetime
import math
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mdnkernels.command_line import program
from mdnkernels.train.config.commands import ReproduceConfig
from mdnkernels.train.config.rules import check_config
from mdnkernels.train.contenders.measures import MEASURES
from mdnkernels.train.contenders.processes import measure_ceilings, train_all
from mdnkernels.train.reproduce.figures import contenders_figure, kinds_figure, knob_figure
from mdnkernels.train.reproduce.findings import Finding, Results, findings
from mdnkernels.train.reproduce.plan import plans
from mdnkernels.train.reproduce.report import introduction, summary, task_section
from mdnkernels.train.run.files import without_nan, write_json, write_text


def reproduce(config: ReproduceConfig) -> Path:
    """Train, measure and compare; return the report folder, with findings.md, findings/ and findings.json.

    Raises ConfigError where `config.output` holds runs that were made with other settings.
    """
    check_config(config)
    planned = [one for task in config.tasks for one in plans(config, task)]
    # Seed by seed, so that all worlds are there for as many seeds as there was time for.
    numbered = [(one.seeds.index(job.seed), job) for one in planned for job in one.jobs()]
    jobs = [job for _, job in sorted(numbered, key=lambda pair: pair[0])]
    print(f"{len(jobs)} networks in {config.output}", flush=True)
    trained = train_all(jobs, config.output, device=config.device, processes=config.processes)
    views = [job for one in planned for job in one.jobs() if one.task == "pose" and job.world == one.main]
    ceilings = measure_ceilings(views, config.output, device=config.device, processes=config.processes)
    report = config.output / "report"
    found: list[tuple[str, list[Finding]]] = []
    sections: list[str] = []
    numbers: dict[str, Any] = {}
    for one in planned:
        own = [network for network in trained if network.job.world.kind == one.kind]
        measures = {
            (network.job.world.name, network.job.components, network.job.seed): MEASURES[one.task](network)
            for network in own
        }
        for (world, _, seed), values in measures.items():
            if (world, seed) in ceilings:
                values["classifier"] = ceilings[world, seed].cramers_v
        results = Results(one, measures)
        some = findings(results)
        found.append((one.kind, some))
        figures = _save_figures(results, report / "findings")
        sections += task_section(results, some, own, figures)
        numbers[one.kind] = {
            "measures": [
                {"world": world, "components": components, "seed": seed, **values}
                for (world, components, seed), values in measures.items()
            ],
            "findings": [finding._asdict() for finding in some],
        }
    seconds = math.fsum(network.seconds for network in trained)
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
    text = [*introduction(_command(config), date, seconds), *summary(found), *sections]
    write_text(report / "findings.md", "\n".join(text).rstrip() + "\n")
    write_json(report / "findings.json", without_nan(numbers))
    print(f"{report / 'findings.md'}: the findings, after {seconds / 3600:.1f} hours of training", flush=True)
    return report


def _save_figures(results: Results, folder: Path) -> list[str]:
    """Draw the figures of a kind of world into a folder beside the report; return their Markdown."""
    plan = results.plan
    figures: dict[str, tuple[Figure, str]] = {
        f"{plan.kind}_contenders.png": (contenders_figure(results), "AP above the base: seeds, means and intervals")
    }
    if plan.task == "detection":
        figures[f"{plan.kind}_kinds.png"] = (kinds_figure(results), "AP and overlap by kind of size")
    if len(plan.knob) > 1:
        figures[f"{plan.kind}_knob.png"] = (knob_figure(results), "gain against the knob")
    folder.mkdir(parents=True, exist_ok=True)
    for name, (figure, _) in figures.items():
        figure.savefig(folder / name, dpi=100)
    return [f"![{about}]({folder.name}/{name})" for name, (_, about) in figures.items()]


def _command(config: ReproduceConfig) -> str:
    """Return the command line of a configuration: what differs from the defaults, but for where it writes."""
    parts = [f"{program()} reproduce"]
    default = ReproduceConfig()
    for name in ReproduceConfig.__dataclass_fields__:
        value = getattr(config, name)
        if name in ("output", "processes", "device") or value == getattr(default, name):
            continue
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            parts.append(option if value else f"--no-{option[2:]}")
        else:
            parts += [option, *map(str, value if isinstance(value, tuple) else (value,))]
    return " ".join(parts)
