"""Checkpoints: one file with everything that resuming, evaluating and predicting need, written atomically."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mdnkernels.models.entries import describe_mismatch
from mdnkernels.models.files import write_atomically
from mdnkernels.models.identity import describe_other_network
from mdnkernels.models.network import Network
from mdnkernels.models.skeleton import Skeleton
from mdnkernels.train.config.commands import FitConfig
from mdnkernels.train.config.serialisation import from_plain, to_plain
from mdnkernels.train.data.coco import Category
from mdnkernels.train.data.sampler import ImageList
from mdnkernels.train.errors import CheckpointError, ConfigError
from mdnkernels.train.tasks import task_class

FORMAT = "mdnkernels training checkpoint"
VERSION = 2
# Version 1 counted an epoch's position in batches, and did not say which list of images it was one of.
READABLE = (1, VERSION)


@dataclass(frozen=True)
class Progress:
    """Where a run stands: the epochs before `epoch`, counted from 0, and the first `images` images of this one."""

    epoch: int = 0
    images: int = 0
    """Done in the epoch's order, over all processes together; what could not be read counts too."""
    step: int = 0
    """Optimizer steps done in all."""


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file."""

    path: Path
    config: FitConfig
    categories: tuple[Category, ...]
    progress: Progress
    training_list: ImageList | None
    """The images that `progress` counts; None where the file, of version 1, does not say."""
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any] | None
    """State of the loss scaler under fp16."""
    average: dict[str, Tensor] | None
    """The moving average of the weights, where the run keeps one."""
    skeleton: Skeleton | None
    """Of the poses that the model estimates."""
    ap: float | None
    """COCO's AP on the val set, of a best checkpoint."""


def save_checkpoint(
    path: Path,
    *,
    config: FitConfig,
    categories: tuple[Category, ...],
    progress: Progress,
    training_list: ImageList,
    model: Mapping[str, Tensor],
    optimizer: Mapping[str, Any],
    scaler: Mapping[str, Any] | None = None,
    average: Mapping[str, Tensor] | None = None,
    skeleton: Skeleton | None = None,
    ap: float | None = None,
) -> None:
    """Write a checkpoint to `path`; the one that stands there stays whole until the new one replaces it.

    Raises CheckpointError that names path and reason where it cannot be written: the disk is full, for one.
    """
    content = {
        "format": FORMAT,
        "version": VERSION,
        "config": to_plain(config),
        "categories": [{"id": category.id, "name": category.name} for category in categories],
        "progress": {"epoch": progress.epoch, "images": progress.images, "step": progress.step},
        "training_list": {"images": training_list.images, "fingerprint": training_list.fingerprint},
        "model": dict(model),
        "optimizer": dict(optimizer),
        "scaler": None if scaler is None else dict(scaler),
        "average": None if average is None else dict(average),
        "skeleton": None if skeleton is None else to_plain(skeleton),
        "ap": ap,
    }
    try:
        write_atomically(path, lambda file: torch.save(content, file))
    except (OSError, RuntimeError) as error:
        # torch.save closes its archive after a failed write, and says only that this failed too.
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError):
            raise
        raise CheckpointError(
            f"{path}: cannot be written: {reason.strerror}; the checkpoint before it is kept"
        ) from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint to the CPU; nothing in the file is executed (weights_only).

    Raises CheckpointError that names the file, and the field where it is one: no such file, not a checkpoint, cut off,
    of another kind, or a field missing or wrong.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load itself compares no checksums
        if damaged is not None:
            raise zipfile.BadZipFile(f"the checksum of {damaged} does not match")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such checkpoint") from None
    except Exception as error:  # a broken file makes torch.load raise almost anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path}: is not a readable checkpoint (cut off or damaged?): {reason}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f'{path}: format: this is another kind of file, not a "{FORMAT}"')
    version = content.get("version")
    if version not in READABLE:
        raise CheckpointError(f"{path}: version: is {version!r}, this code reads {' and '.join(map(str, READABLE))}")
    try:
        config = from_plain(FitConfig, _field(path, content, "config", dict), f"{path}: config")
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    return Checkpoint(
        path=path,
        config=config,
        categories=_categories(path, _field(path, content, "categories", list)),
        progress=_progress(path, _field(path, content, "progress", dict), None if version > 1 else config),
        training_list=_training_list(path, _field(path, content, "training_list", dict)) if version > 1 else None,
        model=_field(path, content, "model", dict),
        optimizer=_field(path, content, "optimizer", dict),
        scaler=content.get("scaler"),
        average=None if content.get("average") is None else _field(path, content, "average", dict),
        skeleton=_skeleton(path, content, task_class(config.model.task).skeleton),
        ap=None if content.get("ap") is None else _field(path, content, "ap", float),
    )


def _field(path: Path, content: dict[str, Any], name: str, kind: type) -> Any:
    if not isinstance(content.get(name), kind):
        given = "is missing" if name not in content else f"is a {type(content[name]).__name__}"
        raise CheckpointError(f"{path}: {name}: {given}; a {kind.__name__} is needed")
    return content[name]


def _categories(path: Path, entries: list[Any]) -> tuple[Category, ...]:
    try:
        return tuple(Category(int(entry["id"]), str(entry["name"])) for entry in entries)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{path}: categories: each needs an integer id and a name") from error


def _skeleton(path: Path, content: dict[str, Any], own: Skeleton | None) -> Skeleton | None:
    """Return the skeleton that a checkpoint names. own: the task's, for a checkpoint that names none."""
    if own is None or content.get("skeleton") is None:
        return own
    try:
        return from_plain(Skeleton, content["skeleton"], f"{path}: skeleton")
    except ConfigError as error:
        raise CheckpointError(str(error)) from error


def _progress(path: Path, entry: dict[str, Any], counted_in_batches: FitConfig | None) -> Progress:
    """Read how far the run is. counted_in_batches: its configuration, where the file counts batches and not images."""
    position = "images" if counted_in_batches is None else "batch"
    values: dict[str, Any] = {name: entry.get(name) for name in ("epoch", position, "step")}
    for name, value in values.items():
        if not isinstance(value, int) or value < 0:
            raise CheckpointError(f"{path}: progress.{name}: {value!r} is not a count")
    size = 1 if counted_in_batches is None else counted_in_batches.optimizer.batch
    return Progress(values["epoch"], values[position] * size, values["step"])


def _training_list(path: Path, entry: dict[str, Any]) -> ImageList:
    images, fingerprint = entry.get("images"), entry.get("fingerprint")
    if not isinstance(images, int) or images < 1:
        raise CheckpointError(f"{path}: training_list.images: {images!r} is not a count of at least 1")
    if not isinstance(fingerprint, str):
        raise CheckpointError(f"{path}: training_list.fingerprint: {fingerprint!r} is not a text")
    return ImageList(images, fingerprint)


def load_weights(model: nn.Module, checkpoint: Checkpoint, *, average: bool = False) -> None:
    """Fill the model with the weights, or with their moving average where it is asked for and there is one.

    Raises CheckpointError that names the arguments of `build_model` that the file's network was made with, where the
    model has others, and missing and superfluous tensors and other shapes.
    """
    source, given = "model", checkpoint.model
    if average and checkpoint.average is not None:
        source, given = "average", checkpoint.average
    wrong = describe_mismatch(model.state_dict(), given)
    if wrong:
        other = describe_other_network(model, given, published=False) if isinstance(model, Network) else None
        raise CheckpointError(
            f"{checkpoint.path}: {source}: does not hold this model: {'' if other is None else f'{other}: '}{wrong}"
        )
    model.load_state_dict(given)


def load_optimizer(optimizer: torch.optim.Optimizer, checkpoint: Checkpoint) -> None:
    """Fill the optimizer with its state. Raises CheckpointError where the state is of other parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    # torch takes moments of any shape, and the fused Adam then reads and writes beyond them.
    state = checkpoint.optimizer.get("state")
    for number, entry in state.items() if isinstance(state, dict) else ():
        for name in ("exp_avg", "exp_avg_sq"):
            given = entry.get(name) if isinstance(entry, dict) else None
            if not isinstance(number, int) or not 0 <= number < len(parameters):
                raise CheckpointError(f"{checkpoint.path}: optimizer.state.{number}: the model has no such parameter")
            needed = parameters[number]
            if not isinstance(given, Tensor) or given.shape != needed.shape or given.dtype != needed.dtype:
                kind = f"{given.dtype} {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
                raise CheckpointError(
                    f"{checkpoint.path}: optimizer.state.{number}.{name}: is {kind}, "
                    f"the model needs {needed.dtype} {tuple(needed.shape)}"
                )
    try:
        optimizer.load_state_dict(checkpoint.optimizer)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{checkpoint.path}: optimizer: does not belong to this model: {error}") from error
