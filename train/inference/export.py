"""A trained network as a file that runs without this code."""

from __future__ import annotations

from mdnkernels.models.export import write_graph
from mdnkernels.models.regression import Flip
from mdnkernels.train.config.commands import ExportConfig
from mdnkernels.train.config.rules import check_config
from mdnkernels.train.data.colour import MEAN, STD
from mdnkernels.train.errors import ConfigError
from mdnkernels.train.loop.network import find_checkpoint, restore_network
from mdnkernels.train.run.checkpoint import load_checkpoint


def export(config: ExportConfig) -> None:
    """Write the graph, and print what goes in and comes out. Raises ConfigError, CheckpointError."""
    check_config(config)
    checkpoint = load_checkpoint(find_checkpoint(config.run, config.checkpoint))
    model, task = restore_network(checkpoint)
    side = checkpoint.config.data.input_size
    flip: Flip | None = "average" if config.flip else None
    try:
        what = write_graph(model, config.output, config.size or (side, side), k=config.detections, flip=flip)
    except (ValueError, ImportError) as error:
        raise ConfigError(f"--output, --size, --flip, --detections: {error}") from error
    print(f"{config.output}: {what}")
    print(f"images are RGB, (x / 255 - mean) / std with mean {MEAN} and std {STD}")
    print(f"class indices stand for {', '.join(category.name for category in task.categories)}")
