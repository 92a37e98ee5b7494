"""The network of a configuration or of a checkpoint, and the device to run it on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from mdnkernels.models import load_imagenet
from mdnkernels.models.network import Network
from mdnkernels.train.config.commands import FitConfig
from mdnkernels.train.config.options import Device, InferenceConfig, OptimizerConfig, Precision
from mdnkernels.train.data.skeletons import check_mirroring
from mdnkernels.train.errors import ConfigError
from mdnkernels.train.run.checkpoint import Checkpoint, load_weights
from mdnkernels.train.run.directory import RunDirectory
from mdnkernels.train.tasks import make_task
from mdnkernels.train.tasks.base import Task


def build_network(config: FitConfig, task: Task) -> Any:
    """Build the configured model with fresh weights. Raises ConfigError where there is none, or none for the input."""
    try:
        model = task.build_model(config.model)
    except ValueError as error:
        raise ConfigError(f"--arch, --components, --class-specific, --family: {error}") from error
    if config.data.input_size % model.divisor:
        raise ConfigError(
            f"--input-size: {config.data.input_size} is no multiple of {model.divisor}, which {config.model.arch} needs"
        )
    return model


def start_from_imagenet(model: Network, path: Path) -> None:
    """Fill the backbone with ImageNet weights. Raises ConfigError where it has none or the file is not theirs."""
    try:
        load_imagenet(model.backbone, path)
    except FileNotFoundError:
        raise ConfigError(f"--imagenet: {path}: there is no such file") from None
    except (ValueError, TypeError, OSError) as error:
        raise ConfigError(f"--imagenet: {error}") from error


def freeze_untrained_heads(model: Network, config: OptimizerConfig) -> None:
    """Leave the heads that no loss reads without gradients: DistributedDataParallel would wait for them."""
    if config.mixture_stacks == "last":
        for group in model.head_groups[:-1]:
            heads = dict(group.items())
            for name in model.regression.channels:
                heads[name].requires_grad_(False)


def restore_network(checkpoint: Checkpoint) -> tuple[Any, Task]:
    """Return a checkpoint's model on the CPU in eval mode, the average where there is one, and its task."""
    task = make_task(checkpoint.config.model.task, checkpoint.categories, checkpoint.skeleton)
    model = build_network(checkpoint.config, task)
    load_weights(model, checkpoint, average=True)
    return model.eval(), task


def find_checkpoint(run: Path | None, checkpoint: Path | None) -> Path:
    """Return the checkpoint that is meant: a run's last one, or the one that is named.

    checkpoint: a file, or beside a run one of the words "last" and "best" for the run's own. Raises ConfigError where
    neither is given, there is no such run, or the run has kept no such checkpoint.
    """
    if run is not None and not run.is_dir():
        raise ConfigError(f"{run}: there is no such run directory")
    if run is None:
        if checkpoint is None:
            raise ConfigError("a run directory or --checkpoint: one of them is needed")
        return checkpoint
    own = RunDirectory(run)
    if checkpoint is None or str(checkpoint) == "last":
        if not own.last.is_file():
            raise ConfigError(f"{run}: is not a run directory (it has no checkpoints/last.pt)")
        return own.last
    if str(checkpoint) != "best":
        return checkpoint
    if not own.best.is_file():
        raise ConfigError(f"--checkpoint best: {run} has none: `fit --keep best` keeps one; take --checkpoint last")
    return own.best


def pick_device(device: Device) -> torch.device:
    """Return the device of that name; "auto" is the GPU (or other accelerator) where there is one, else the CPU.

    device: "auto", "cpu", an accelerator's type ("cuda": its current device) or one of its devices ("cuda:1"), which
    becomes the current one. Raises ConfigError where it is not there, naming those that are, and where one device is
    named for several processes, each of which takes its own.
    """
    if device == "cpu":
        return torch.device("cpu")
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if device == "auto":
        return accelerator or torch.device("cpu")
    if accelerator is None:
        raise ConfigError(f"--device: {device} is not there; this machine has cpu and no GPU that this torch can use")
    if device == accelerator.type:
        return accelerator
    name, _, number = device.partition(":")
    there = [f"{accelerator.type}:{index}" for index in range(torch.accelerator.device_count())]
    if device not in there:
        raise ConfigError(f"--device: {device} is not there; this machine has {', '.join(['cpu', *there])}")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        raise ConfigError(
            f"--device: {device} is one device for {processes} processes; give {name}, and each process takes its own"
        )
    # For what is said to be on "cuda", and for kernels that run on the current device.
    torch.accelerator.set_device_index(int(number))
    return torch.device(name, int(number))


def pick_precision(precision: Precision, device: torch.device) -> Precision:
    """Return float32, bfloat16 or float16: what "auto" stands for on a device of `pick_device`, or what is named.

    Raises ConfigError for float16 on a CPU.
    """
    if precision == "auto":
        # On GPUs before Ampere torch has bfloat16 too, emulated and slow.
        has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16" if has_bfloat16 else "float32"
    if precision == "float16" and device.type == "cpu":
        raise ConfigError("--precision float16: needs a GPU; take bfloat16 on a CPU")
    return precision


def check_inference(model: Network, task: Task, config: InferenceConfig) -> None:
    """Raise ConfigError where the model cannot predict so."""
    component = config.component
    if component is not None and component >= model.components:
        raise ConfigError(f"--component: {component} is not there; the model has {model.components} mixture components")
    if config.select != "weight" and model.components == 0:
        raise ConfigError(f"--select {config.select}: chooses in a mixture, and this is the single-mode base")
    if config.flip_stronger and "stronger" not in model.regression.flips:
        raise ConfigError("--flip-stronger: compares mixing weights, and this is the single-mode base; take --flip")
    if task.skeleton is not None and (config.flip or config.flip_stronger):
        check_mirroring(task.skeleton, "--flip, --flip-stronger", "leave them out")
