"""A trained network as a file that runs without this code, or that any tool reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

from mdnkernels.models.export import check_output, write_graph
from mdnkernels.models.regression import Flip
from mdnkernels.train.config.commands import ExportConfig, ExportFormat
from mdnkernels.train.config.serialisation import settled
from mdnkernels.train.data.colour import MEAN, STD
from mdnkernels.train.errors import ConfigError
from mdnkernels.train.inference.weights_file import write_weights
from mdnkernels.train.loop.network import find_checkpoint, restore_network
from mdnkernels.train.run.checkpoint import Checkpoint, load_checkpoint
from mdnkernels.train.tasks.base import Task


def export(config: ExportConfig) -> Path:
    """Write the file, print what is in it, and return its path. Raises ConfigError, CheckpointError.

    A graph holds how its images are to be normalised, and the names of its classes, as JSON: of ONNX as the metadata
    "mdnkernels", of .pt2 as the extra file "mdnkernels.json".
    """
    config = settled(config)
    kind, output = _format_and_file(config)
    checkpoint = load_checkpoint(find_checkpoint(config.run, config.checkpoint))
    model, task = restore_network(checkpoint)
    try:
        check_output(output)
        if kind == "safetensors":
            write_weights(output, model, task, checkpoint.config.model, checkpoint.config.data.input_size)
            what = "the weights and their configuration, for mdnkernels.train.Predictor.from_safetensors"
        else:
            what = _write_graph(config, output, checkpoint, model, task)
    except ImportError as error:
        raise ConfigError(str(error)) from error
    except ValueError as error:
        raise ConfigError(f"--output, --size, --flip, --detections, --maps: {error}") from error
    print(f"{output}: {what}")
    print(f"images are RGB, (x / 255 - mean) / std with mean {MEAN} and std {STD}")
    print(f"class indices stand for {', '.join(category.name for category in task.categories)}")
    return output


def _format_and_file(config: ExportConfig) -> tuple[ExportFormat, Path]:
    """Return what to write and where. Raises ConfigError where the options do not say it, or say two things."""
    formats: tuple[ExportFormat, ...] = get_args(ExportFormat)
    if config.output is None:
        if config.to is None:
            raise ConfigError(f"--to or --output: one of them is needed; --to takes {', '.join(formats)}")
        if config.run is None:
            raise ConfigError("--output: is needed where no run is given, whose folder would take the file")
        return config.to, config.run / f"network.{config.to}"
    suffix = config.output.suffix.removeprefix(".")
    if suffix not in formats:
        raise ConfigError(f"--output: {config.output} must end in .{', .'.join(formats)}")
    if config.to not in (None, suffix):
        raise ConfigError(f"--to {config.to}, --output {config.output}: the file's name must end in .{config.to}")
    return suffix, config.output


def _write_graph(config: ExportConfig, output: Path, checkpoint: Checkpoint, model: Any, task: Task) -> str:
    side = checkpoint.config.data.input_size
    flip: Flip | None = "average" if config.flip else None
    height, width = config.size or (side, side)
    description: dict[str, Any] = {
        "images": f"(B, 3, {height}, {width}) float32, RGB, (x / 255 - mean) / std",
        "mean": MEAN,
        "std": STD,
        "classes": [category.name for category in task.categories],
        "category_ids": [category.id for category in task.categories],
        "keypoints": None if task.skeleton is None else task.skeleton.names,
    }
    return write_graph(
        model,
        output,
        (height, width),
        k=config.detections,
        flip=flip,
        maps=config.maps,
        description=json.dumps(description),
    )
