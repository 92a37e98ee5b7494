"""The detector of a configuration or of a checkpoint, and the device to run it on."""

from __future__ import annotations

from pathlib import Path

import torch

from models import Detector, build_model
from train.checkpoint import Checkpoint, load_weights
from train.config import Device, FitConfig
from train.errors import ConfigError


def build_detector(config: FitConfig, num_classes: int) -> Detector:
    """The configured model with fresh weights. Raises ConfigError where there is none or it cannot take the input."""
    try:
        model = build_model(
            config.model.arch,
            num_classes=num_classes,
            components=config.model.components,
            class_specific=config.model.class_specific,
        )
    except ValueError as error:
        raise ConfigError(f"--arch, --components: {error}") from error
    if config.data.input_size % model.divisor:
        raise ConfigError(
            f"--input-size: {config.data.input_size} is no multiple of {model.divisor}, which {config.model.arch} needs"
        )
    return model


def restore_detector(checkpoint: Checkpoint) -> Detector:
    """The trained model of a checkpoint, on the CPU, in eval mode."""
    model = build_detector(checkpoint.config, len(checkpoint.categories))
    load_weights(model, checkpoint)
    return model.eval()


def find_checkpoint(run: Path | None, checkpoint: Path | None) -> Path:
    """The checkpoint that --run and --checkpoint mean. Raises ConfigError where neither is given or there is no run."""
    if checkpoint is not None:
        return checkpoint
    if run is None:
        raise ConfigError("--run or --checkpoint: one of them is needed")
    if not run.is_dir():
        raise ConfigError(f"--run: {run}: there is no such run directory")
    return run / "checkpoints" / "last.pt"


def pick_device(device: Device) -> torch.device:
    """auto is the GPU (or other accelerator) where there is one, else the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True) if device == "auto" else None
    return accelerator or torch.device("cpu")


def check_component(model: Detector, component: int | None) -> None:
    """Raises ConfigError where the model has no such mixture component."""
    if component is not None and component >= model.components:
        raise ConfigError(f"--component: {component} is not there; the model has {model.components} mixture components")
