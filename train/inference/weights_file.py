"""A trained network as one safetensors file: its weights, and in the file's metadata all that makes it see images.

The metadata holds "format" ("pt", as other tools write it) and "mdnkernels", a JSON object: "version"; "model", as in a
run's config.json; "input_size"; "categories" by class index; "skeleton" of poses. Names and shapes of the weights are
those of `models.build_model`. Nothing of the training is in it: no paths, no optimizer's state.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch

from mdnkernels.models import Network, Skeleton
from mdnkernels.models.entries import describe_mismatch
from mdnkernels.models.files import write_atomically
from mdnkernels.models.identity import describe_other_network
from mdnkernels.train.config.options import ModelConfig
from mdnkernels.train.config.serialisation import from_plain, to_plain
from mdnkernels.train.data.coco import Category
from mdnkernels.train.errors import CheckpointError, ConfigError
from mdnkernels.train.tasks import make_task
from mdnkernels.train.tasks.base import Task

KEY = "mdnkernels"
VERSION = 1


def write_weights(path: Path, model: Network, task: Task, config: ModelConfig, input_size: int) -> None:
    """Write a network that `task.build_model(config)` made, by `write_atomically`.

    input_size: side of the square that it was trained on, in pixels.
    """
    description = {
        "version": VERSION,
        "model": to_plain(dataclasses.replace(config, imagenet=None)),  # a path of the machine that trained it
        "input_size": input_size,
        "categories": [{"id": category.id, "name": category.name} for category in task.categories],
        "skeleton": None if task.skeleton is None else to_plain(task.skeleton),
    }
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    content = safetensors.torch.save(weights, {"format": "pt", KEY: json.dumps(description)})
    write_atomically(path, lambda file: file.write(content))


def read_weights(path: Path) -> tuple[Any, Task, int]:
    """Return the network of `write_weights` on the CPU in eval mode, its task, and its input_size.

    Raises CheckpointError that names the file and what is wrong in it: not readable, of another tool, of another
    network.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file") from None
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: is not a readable safetensors file (cut off or damaged?): {error}") from error
    if KEY not in metadata:
        raise CheckpointError(
            f"{path}: its metadata does not say which network it holds; "
            "`python -m train export RUN --to safetensors` writes files that do"
        )
    try:
        plain = json.loads(metadata[KEY])
        if plain["version"] != VERSION:
            raise CheckpointError(f"{path}: version: is {plain['version']!r}, this code reads {VERSION}")
        categories = [Category(int(entry["id"]), str(entry["name"])) for entry in plain["categories"]]
        config = from_plain(ModelConfig, plain["model"], f"{path}: model")
        skeleton = plain["skeleton"] and from_plain(Skeleton, plain["skeleton"], f"{path}: skeleton")
        input_size = int(plain["input_size"])
        task = make_task(config.task, categories, skeleton)
        model = task.build_model(config)
    except (ConfigError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {KEY}: does not describe a network: {error!r}") from error
    wrong = describe_mismatch(model.state_dict(), weights)
    if wrong:
        other = describe_other_network(model, weights, published=False)
        raise CheckpointError(f"{path}: does not hold its network: {'' if other is None else f'{other}: '}{wrong}")
    model.load_state_dict(weights)
    return model.eval(), task, input_size
