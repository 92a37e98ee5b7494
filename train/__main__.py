"""The command line: python -m train fit | evaluate | predict | check-data | demo."""

from __future__ import annotations

import difflib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from train.config import CheckDataConfig, DemoConfig, EvaluateConfig, FitConfig, PredictConfig
from train.errors import ConfigError, UserError
from train.recipes import recipe, recipe_help, recipe_names
from train.run_directory import RunDirectory

Config = FitConfig | EvaluateConfig | PredictConfig | CheckDataConfig | DemoConfig

DESCRIPTION = (
    "Object detection and pose estimation with mixture density networks: train, evaluate, predict. "
    "Help: python -m train fit --help"
)


def parse(arguments: Sequence[str]) -> Config:
    """The configuration of the chosen command. Exits, with help or a message, as argparse does; raises ConfigError."""
    # Of a recipe, or of the run to resume: options replace parts of it.
    default = _fit_default(arguments[1:]) if arguments[:1] == ["fit"] else None
    about = f"{FitConfig.__doc__}\n\n{recipe_help()}"
    fit: Any = tyro.conf.subcommand("fit", description=about, **({} if default is None else {"default": default}))
    config = tyro.cli(
        Annotated[FitConfig, fit]
        | Annotated[EvaluateConfig, tyro.conf.subcommand("evaluate")]
        | Annotated[PredictConfig, tyro.conf.subcommand("predict")]
        | Annotated[CheckDataConfig, tyro.conf.subcommand("check-data")]
        | Annotated[DemoConfig, tyro.conf.subcommand("demo")],
        prog="python -m train",
        description=DESCRIPTION,
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.DisallowNone),
    )
    if isinstance(config, FitConfig) and config.recipe != (None if default is None else default.recipe):
        # Behind an option it would only be a name, and train something else.
        raise ConfigError(f"RECIPE: {config.recipe!r} must stand before the options: fit RECIPE --run ...")
    return config


def _fit_default(arguments: Sequence[str]) -> FitConfig | None:
    resume = _option(arguments, "--resume")
    name = arguments[0] if arguments and not arguments[0].startswith("-") else None
    if resume is not None:
        for given, other in ((_option(arguments, "--run"), "--run"), (name, "a recipe")):
            if given is not None:
                raise ConfigError(f"{other}, --resume: give one; --resume goes on with the run that it names")
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
    """Does what a configuration says; returns the exit status."""
    # Torch and all that stands on it are imported only here, so that --help answers at once.
    if isinstance(config, FitConfig):
        from train.engine import fit

        fit(config)
    elif isinstance(config, EvaluateConfig):
        from train.evaluation import evaluate

        evaluate(config)
    elif isinstance(config, PredictConfig):
        from train.prediction import predict

        result = predict(config)
        found = sum(len(entry["detections"]) for entry in result["images"])
        print(f"{config.output}: {len(result['images'])} images, {found} detections, {len(result['failed'])} failed")
        return 1 if result["failed"] else 0
    elif isinstance(config, CheckDataConfig):
        from train.check_data import check_data

        check_data(config)
    else:
        from train.demo import run_demo

        run_demo(config)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 done, 1 some images failed, 2 a mistake that the message on stderr names, 130 Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        try:
            return run(parse(sys.argv[1:] if arguments is None else arguments))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        from mdnkernels.command_line import without_reader  # which imports torch

        return without_reader()
    except (UserError, FileNotFoundError, PermissionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130  # as shells say it, so that `fit && evaluate` stops


if __name__ == "__main__":
    sys.exit(main())
