"""The command line: python -m train fit | evaluate | predict | demo."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from train.config import DemoConfig, EvaluateConfig, FitConfig, PredictConfig
from train.errors import ConfigError, UserError
from train.run_directory import RunDirectory

DESCRIPTION = (
    "Object detection with mixture density networks: train, evaluate, predict. Help: python -m train fit --help"
)


def parse(arguments: Sequence[str]) -> FitConfig | EvaluateConfig | PredictConfig | DemoConfig:
    """The configuration of the chosen command. Exits, with help or a message, as argparse does; raises ConfigError."""
    fit: Any = Annotated[FitConfig, tyro.conf.subcommand("fit")]
    resume = _option(arguments, "--resume")
    if arguments[:1] == ["fit"] and resume is not None:
        if _option(arguments, "--run") is not None:
            raise ConfigError(
                "--run, --resume: give one; --run makes a new run, --resume goes on with the one it names"
            )
        # The stored configuration is the default here, so that options beside --resume replace parts of it.
        stored = RunDirectory(Path(resume)).read_config()
        fit = Annotated[FitConfig, tyro.conf.subcommand("fit", default=stored)]
    return tyro.cli(
        fit
        | Annotated[EvaluateConfig, tyro.conf.subcommand("evaluate")]
        | Annotated[PredictConfig, tyro.conf.subcommand("predict")]
        | Annotated[DemoConfig, tyro.conf.subcommand("demo")],
        prog="python -m train",
        description=DESCRIPTION,
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.DisallowNone),
    )


def _option(arguments: Sequence[str], name: str) -> str | None:
    for position, argument in enumerate(arguments):
        if argument == name and position + 1 < len(arguments):
            return arguments[position + 1]
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2]
    return None


def run(config: FitConfig | EvaluateConfig | PredictConfig | DemoConfig) -> int:
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
    else:
        from train.demo import run_demo

        run_demo(config)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 done, 1 some images failed, 2 a mistake that the message on stderr names."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        return run(parse(sys.argv[1:] if arguments is None else arguments))
    except (UserError, FileNotFoundError, PermissionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
