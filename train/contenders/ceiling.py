"""What can be seen of the view at all: a classifier of front and back, on the backbone and pictures of the contenders.

It reads the same features as the heads of the poses do, at the figure's centre, and is trained by cross-entropy alone,
in the same steps. No choice of a component can follow the view better than by chance above it.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mdnkernels.models.heads import Head, HeadConfig
from mdnkernels.models.network import Backbone
from mdnkernels.train.analysis.association import cramers_v
from mdnkernels.train.config.commands import FitConfig
from mdnkernels.train.contenders.jobs import Job
from mdnkernels.train.data.colour import normalise
from mdnkernels.train.data.sampler import EpochBatchSampler
from mdnkernels.train.data.sets import batch_tensor, evaluation_loader, training_loader
from mdnkernels.train.errors import ConfigError
from mdnkernels.train.loop.engine import open_training_set, open_val_set
from mdnkernels.train.loop.network import build_network, pick_device
from mdnkernels.train.loop.trainer import learning_rate
from mdnkernels.train.run.files import write_json
from mdnkernels.train.tasks import make_task
from mdnkernels.train.tasks.base import Task

_HEAD_WIDTH = 64


class Ceiling(NamedTuple):
    """What the classifier says of val figures whose view can be told."""

    cramers_v: float
    """The association of what it says and the view."""
    accuracy: float
    figures: int
    cpu_seconds: float
    """Of its training and evaluation."""


class View(NamedTuple):
    """What is true of the one figure of a picture."""

    back: bool
    hidden: bool
    """Nothing in the picture tells the view."""


def ceiling_file(job: Job, folder: Path) -> Path:
    """Return the file that holds the ceiling of a job's world and seed, whatever the job's components."""
    return job.data(folder).with_name("view_ceiling.json")


def read_ceiling(job: Job, folder: Path) -> Ceiling:
    """Return the ceiling that `measure_ceiling` has written."""
    content = json.loads(ceiling_file(job, folder).read_text())
    return Ceiling(**{name: content[name] for name in Ceiling._fields})


def measure_ceiling(job: Job, folder: Path, device: str) -> None:
    """Train the classifier on a job's pictures, which are there, on one thread, and write what it reaches.

    Does nothing where that stands already. Raises ConfigError where it was made with other settings, and where a
    picture has more than one figure or none with a view.
    """
    torch.set_num_threads(1)
    file, config = ceiling_file(job, folder), job.config(folder, device)
    setting = json.loads(json.dumps(job.world.setting, default=vars))
    if file.is_file():
        if json.loads(file.read_text())["setting"] != setting:
            raise ConfigError(f"--output: {file}: was made with other settings; choose another name or remove it")
        return
    write_json(file, {**train_classifier(config)._asdict(), "setting": setting})


def train_classifier(config: FitConfig) -> Ceiling:
    """Train the classifier as `fit` would train a network of this configuration, and evaluate it on the val set."""
    began = time.process_time()
    where = pick_device(config.device)
    training = open_training_set(config)
    task = make_task(config.model.task, training.annotations.categories, training.annotations.skeleton)
    torch.manual_seed(config.seed)
    backbone: Backbone = build_network(config, task).backbone
    head = Head(HeadConfig("view", 2), backbone.feature_dim, _HEAD_WIDTH)
    classifier = nn.ModuleList((backbone, head)).to(where).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=config.optimizer.lr)
    sampler = EpochBatchSampler(len(training), config.optimizer.batch, config.seed)
    loader = training_loader(training, sampler, config.data.workers, pin=False)
    views = _views(training.annotations.path)
    for epoch in range(config.optimizer.epochs):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config.optimizer, epoch)
        sampler.set_position(epoch, 0)
        for batch in loader:
            scores, real = _scores(backbone, head, task, batch, where)
            back = torch.tensor([views[i].back for i in batch["image_id"].tolist()], device=where)
            if real.any():
                optimizer.zero_grad(set_to_none=True)
                F.cross_entropy(scores[real], back[real].long()).backward()
                optimizer.step()
    classifier.eval()
    said, told = _evaluate(config, backbone, head, task, where)
    return Ceiling(
        cramers_v=cramers_v(said, told),
        accuracy=float((said == told).mean()) if len(told) else float("nan"),
        figures=len(told),
        cpu_seconds=time.process_time() - began,
    )


@torch.no_grad()
def _evaluate(
    config: FitConfig, backbone: Backbone, head: Head, task: Task, device: torch.device
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return what is said and what is true (1 for back) of the val figures whose view can be told."""
    val = open_val_set(config, task, backbone.divisor)
    assert val is not None
    views = _views(val.annotations.path)
    rows = list(range(len(val)))
    batches = [rows[start : start + config.optimizer.batch] for start in range(0, len(rows), config.optimizer.batch)]
    said: list[int] = []
    told: list[int] = []
    for (batch,) in evaluation_loader(val, batches, config.data.workers, pin=False):
        scores, real = _scores(backbone, head, task, batch, device)
        for image, answer, there in zip(
            batch["image_id"].tolist(), scores.argmax(1).tolist(), real.tolist(), strict=True
        ):
            if there and not views[image].hidden:
                said.append(answer)
                told.append(int(views[image].back))
    return np.array(said, dtype=np.int64), np.array(told, dtype=np.int64)


def _scores(
    backbone: Backbone, head: Head, task: Task, batch: dict[str, Any], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return front's and back's logits (B, 2) at the figures' centres, and which pictures show theirs, (B,) bool."""
    names = ("colour", "boxes", "labels", "keypoints")
    truth = {name: batch_tensor(batch, name, device) for name in names}
    images = normalise(batch_tensor(batch, "image", device), truth["colour"])
    size = (images.shape[2] // backbone.stride, images.shape[3] // backbone.stride)
    index = task.targets(truth, size, backbone.stride).index[:, :1]
    feature = backbone(images.contiguous(memory_format=torch.channels_last))[-1]
    return head(feature, index)[:, :, 0], index[:, 0] >= 0


def _views(annotations: Path) -> dict[int, View]:
    """Return the view of each picture's one figure, by the picture's id. Raises ConfigError where it is not one."""
    views: dict[int, View] = {}
    for entry in json.loads(annotations.read_text())["annotations"]:
        if entry["image_id"] in views or "view" not in entry:
            raise ConfigError(f"{annotations}: a classifier of the view needs one figure a picture, and its view")
        views[entry["image_id"]] = View(entry["view"] == "back", entry["cue_hidden"])
    return views
