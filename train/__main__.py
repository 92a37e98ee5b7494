"""The command line: fit, evaluate, predict, analyse, export, check-data, demo and reproduce.

`mdnkernels COMMAND` where the package is installed, `python -m train COMMAND` in a checkout.
"""

from __future__ import annotations

import difflib
import functools
import logging
import operator
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from mdnkernels import command_line
from mdnkernels.train.config.commands import (
    AnalyseConfig,
    CheckDataConfig,
    DemoConfig,
    EvaluateConfig,
    ExportConfig,
    FitConfig,
    PredictConfig,
    ReproduceConfig,
)
from mdnkernels.train.config.field_help import join_lines
from mdnkernels.train.config.recipes import recipe, recipe_help, recipe_names
from mdnkernels.train.errors import ConfigError, UserError
from mdnkernels.train.loop.interrupt import end_at_once_on_interrupt

Config = (
    FitConfig
    | EvaluateConfig
    | PredictConfig
    | AnalyseConfig
    | ExportConfig
    | CheckDataConfig
    | DemoConfig
    | ReproduceConfig
)

COMMANDS: dict[str, type[Config]] = {
    "fit": FitConfig,
    "evaluate": EvaluateConfig,
    "predict": PredictConfig,
    "analyse": AnalyseConfig,
    "export": ExportConfig,
    "check-data": CheckDataConfig,
    "demo": DemoConfig,
    "reproduce": ReproduceConfig,
}

DESCRIPTION = (
    "Object detection and pose estimation with mixture density networks: train, evaluate, predict, analyse. "
    "Options and help of one: {program} fit --help. What is installed, and what runs each op: python -m mdnkernels"
)


def parse(arguments: Sequence[str]) -> Config:
    """Return the command's configuration. Exits, with help or a message, as argparse does; raises ConfigError."""
    # A command is parsed alone: beside others, an unknown option would be answered with theirs.
    command = arguments[0] if arguments and arguments[0] in COMMANDS else None
    if command is None:
        return _parse_command(functools.reduce(operator.or_, map(_subcommand, COMMANDS)), "", arguments, None)
    if command in ("evaluate", "export", "analyse") and (given := _option(arguments, "--run")) is not None:
        raise ConfigError(f"--run: {command} takes the run directory without it: {command} {given}")
    if command != "fit":
        return _parse_command(COMMANDS[command], command, arguments[1:], None)
    # Of a recipe, or of the run to resume: options replace parts of it.
    default = _fit_default(arguments[1:])
    config = _parse_command(FitConfig, command, arguments[1:], default)
    if config.recipe != (None if default is None else default.recipe):
        # Behind an option it would only be a name, and train something else.
        raise ConfigError(f"RECIPE: {config.recipe!r} must stand before the options: fit RECIPE --run ...")
    return config


def _parse_command(kind: Any, command: str, arguments: Sequence[str], default: Any) -> Any:
    if command and not {"-h", "--help"}.isdisjoint(arguments):
        join_lines(kind)
    return tyro.cli(
        kind,
        prog=f"{command_line.program()} {command}".rstrip(),
        description=_about(command),
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.DisallowNone),
        **({} if default is None else {"default": default}),
    )


def _subcommand(name: str) -> Any:
    return Annotated[COMMANDS[name], tyro.conf.subcommand(name, description=_about(name).partition("\n")[0])]


def _about(command: str) -> str:
    """Return what --help says of a command, or of them all."""
    if not command:
        return DESCRIPTION.format(program=command_line.program())
    text = COMMANDS[command].__doc__ or ""
    return f"{text}\n\n{recipe_help()}" if command == "fit" else text


def _fit_default(arguments: Sequence[str]) -> FitConfig | None:
    resume = _option(arguments, "--resume")
    name = arguments[0] if arguments and not arguments[0].startswith("-") else None
    if resume is not None:
        for given, other in ((_option(arguments, "--run"), "--run"), (name, "a recipe")):
            if given is not None:
                raise ConfigError(f"{other}, --resume: give one; --resume goes on with the run that it names")
        with end_at_once_on_interrupt():
            from mdnkernels.train.run.directory import RunDirectory  # which imports torch

        return RunDirectory(Path(resume)).read_config()
    if name is None:
        return None
    try:
        return recipe(name)
    except KeyError:
        near = difflib.get_close_matches(name, recipe_names(), n=3, cutoff=0)
        raise ConfigError(f"RECIPE: there is no {name!r}; near ones are {', '.join(near)}; see fit --help") from None


def _option(arguments: Sequence[str], name: str) -> str | None:
    for position, argument in enumerate(arguments):
        if argument == name and position + 1 < len(arguments):
            return arguments[position + 1]
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2]
    return None


def run(config: Config) -> int:
    """Run the command that a configuration is of; return the exit status."""
    with end_at_once_on_interrupt():
        function = _function_of(config)
    result = function(config)
    return 1 if isinstance(config, PredictConfig) and result["failed"] else 0


def _function_of(config: Config) -> Callable[[Any], Any]:
    # Torch and all that stands on it are imported only here, so that --help answers at once.
    if isinstance(config, FitConfig):
        from mdnkernels.train.loop.engine import fit

        return fit
    if isinstance(config, EvaluateConfig):
        from mdnkernels.train.inference.evaluation import evaluate

        return evaluate
    if isinstance(config, PredictConfig):
        from mdnkernels.train.inference.prediction import predict

        return predict
    if isinstance(config, AnalyseConfig):
        from mdnkernels.train.analysis.command import analyse_runs

        return analyse_runs
    if isinstance(config, ExportConfig):
        from mdnkernels.train.inference.export import export

        return export
    if isinstance(config, CheckDataConfig):
        from mdnkernels.train.data.check import check_data

        return check_data
    if isinstance(config, ReproduceConfig):
        from mdnkernels.train.reproduce.reproduce import reproduce

        return reproduce
    from mdnkernels.train.demo.comparison import run_demo

    return run_demo


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 0 done, 1 some images failed, 2 a mistake that stderr names, 130 Ctrl-C."""
    logging.basicConfig(format="%(levelname)s: %(message)s", stream=sys.stderr)
    logging.getLogger("mdnkernels.train").setLevel(logging.INFO)  # other packages' own news are not for the user
    given = sys.argv[1:] if arguments is None else arguments
    return command_line.exit_status(lambda: _run_or_name_the_mistake(given))


def _run_or_name_the_mistake(arguments: Sequence[str]) -> int:
    try:
        return run(parse(arguments))
    except (UserError, FileNotFoundError, PermissionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
