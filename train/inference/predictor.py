"""A trained network as a function from images to what is found in them: `python -m train predict` is made of it."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, overload

import torch

from mdnkernels.models import Network, build_model, load_published
from mdnkernels.models.checkpoints import read_published
from mdnkernels.models.identity import options_of
from mdnkernels.train.config.options import Device, InferenceConfig, Orientation
from mdnkernels.train.config.serialisation import from_plain
from mdnkernels.train.data.coco import Category
from mdnkernels.train.data.coco_categories import COCO_CATEGORIES
from mdnkernels.train.data.transforms import Placement
from mdnkernels.train.inference.evaluation import predict_batch, views_of
from mdnkernels.train.inference.found import Prediction
from mdnkernels.train.inference.given_images import GivenImage, ImageLike, take_image
from mdnkernels.train.inference.preparation import autocast_context, prepare_for_inference
from mdnkernels.train.inference.weights_file import read_weights
from mdnkernels.train.loop.network import check_inference, find_checkpoint, pick_device, restore_network
from mdnkernels.train.run.checkpoint import load_checkpoint
from mdnkernels.train.tasks import TaskName, make_task
from mdnkernels.train.tasks.base import Task


class Predictor:
    """Finds objects or poses in images: `predictor("photo.jpg")`.

    Size, orientation, colours and normalisation of the images are its business, as `take_image` says. The options are
    those of `python -m train predict`, by the names of its options:

    - threshold: the least score that is kept, 0.3.
    - orientation: "exif" turns files and Pillow images upright as viewers do; "stored" takes their pixels as they lie.
    - device: "auto", "cpu", "cuda", "cuda:1".
    - batch: images that go through the network together, 8, where a list is given.
    - ellipse_score: poses that score as much are drawn with an ellipse of one sigma around each keypoint, 0.5.
    - and each field of `InferenceConfig`: flip, flip_stronger, resolution, scales, component, select, refine,
      detections (the most that are kept of an image), precision, compile.

    A wrong option raises ConfigError that names it.
    """

    def __init__(
        self,
        model: Network,
        task: Task,
        input_size: int,
        *,
        threshold: float = 0.3,
        orientation: Orientation = "exif",
        device: Device | torch.device = "auto",
        batch: int = 8,
        ellipse_score: float = 0.5,
        **inference: Any,
    ) -> None:
        """Take over a network, which is changed: moved to the device, its batch norms folded.

        task: that the network is of, with its categories (`mdnkernels.train.tasks.make_task`). input_size: side of the
        square that it was trained on. The rest is as the class says.
        """
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be between 0 and 1, not {threshold}")
        if batch < 1:
            raise ValueError(f"batch must be at least 1, not {batch}")
        if orientation not in ("exif", "stored"):
            raise ValueError(f"orientation must be 'exif' or 'stored', not {orientation!r}")
        self.config = from_plain(InferenceConfig, inference, "Predictor")
        check_inference(model, task, self.config)
        self.task = task
        self.threshold = threshold
        self.orientation: Orientation = orientation
        self.batch = batch
        self.ellipse_score = ellipse_score
        self.device = pick_device(str(device))
        self.components = model.components
        self.views = views_of(self.config, input_size, model.divisor)
        self.model = prepare_for_inference(model.eval(), self.config, self.device)

    @classmethod
    def from_run(
        cls, run: str | PathLike[str], *, checkpoint: str | PathLike[str] = "last", **options: Any
    ) -> Predictor:
        """Return the predictor of a run directory that `fit` made.

        checkpoint: "last", "best" of a run that keeps it, or a file. options: of the class. Raises ConfigError and
        CheckpointError that name what is missing.
        """
        return cls.from_checkpoint(find_checkpoint(Path(run), Path(checkpoint)), **options)

    @classmethod
    def from_checkpoint(cls, path: str | PathLike[str], **options: Any) -> Predictor:
        """Return the predictor of a checkpoint file that `fit` wrote: the average of its weights where it has one.

        options: of the class. Raises CheckpointError for another file.
        """
        checkpoint = load_checkpoint(Path(path))
        model, task = restore_network(checkpoint)
        return cls(model, task, checkpoint.config.data.input_size, **options)

    @classmethod
    def from_safetensors(cls, path: str | PathLike[str], **options: Any) -> Predictor:
        """Return the predictor of a file of `python -m train export RUN --to safetensors`.

        options: of the class. Raises CheckpointError for another file.
        """
        model, task, input_size = read_weights(Path(path))
        return cls(model, task, input_size, **options)

    @classmethod
    def from_published(
        cls,
        path: str | PathLike[str],
        *,
        arch: str,
        task: TaskName,
        names: Sequence[str] | None = None,
        class_specific: bool = False,
        min_scale: float | None = None,
        input_size: int = 512,
        **options: Any,
    ) -> Predictor:
        """Return the predictor of a published checkpoint, as `models.load_published` reads it.

        arch: of `models.ARCHITECTURES`. Classes and components are as many as the file has. names: of the classes, in
        order; without them COCO's, of 80 classes or of people. class_specific: detection with a size for each class.
        min_scale: one less than the network's mdn_min_sigma, which no file holds and sigmas depend on; without it 1, of
        poses 9. input_size: side of the square that images are fitted into. options: of the class.

        Raises ValueError for another file, naming what differs, and where the classes need names.
        """
        given = read_published(path)
        told = options_of(given, published=True, class_specific=class_specific)
        if not told:
            raise ValueError(f"{path}: has no heads of a published network, such as hm")
        if told["task"] != task:
            raise ValueError(f"task: {path} is of a network for task={told['task']!r}, not {task!r}")
        made = make_task(task, _categories(path, task, told.get("num_classes", 1), names))
        model = build_model(
            arch,
            task=task,
            num_classes=len(made.categories),
            components=told["components"],
            class_specific=class_specific,
            min_scale=made.min_scale if min_scale is None else min_scale,
        )
        load_published(model, path, colours="RGB")
        return cls(model, made, input_size, **options)

    @property
    def names(self) -> list[str]:
        """The names of the classes, by their indices."""
        return [category.name for category in self.task.categories]

    @overload
    def __call__(self, images: ImageLike) -> Prediction: ...

    @overload
    def __call__(self, images: list[Any] | tuple[Any, ...]) -> list[Prediction]: ...

    def __call__(self, images: ImageLike | list[Any] | tuple[Any, ...]) -> Prediction | list[Prediction]:
        """Return what is found in an image, or in each image of a list, whose sizes may differ.

        images: of the kinds that `take_image` takes: a path, a Pillow image, or (H, W, 3) uint8 in RGB. Raises
        UnreadableImageError for a file that cannot be read, and TypeError or ValueError for what is no image.
        """
        if not isinstance(images, list | tuple):
            return self._predict([images])[0]
        found: list[Prediction] = []
        for start in range(0, len(images), self.batch):
            found += self._predict(images[start : start + self.batch])
        return found

    def _predict(self, batch: Sequence[ImageLike]) -> list[Prediction]:
        """Return what is found in each image; those that the network sees at one size go through it together."""
        images = [take_image(image, self.orientation) for image in batch]
        together: dict[tuple[tuple[int, int], ...], list[int]] = {}
        places = [self.views.of(image.size) for image in images]
        for row, views in enumerate(places):
            together.setdefault(tuple(place.size for place in views), []).append(row)
        found: dict[int, Prediction] = {}
        for rows in together.values():
            scales = [
                _load([images[row] for row in rows], [places[row][scale] for row in rows])
                for scale in range(len(self.views.scales))
            ]
            with autocast_context(self.config, self.device):
                (several,) = predict_batch(self.model, scales, self.task, self.config, self.device)
            for number, row in enumerate(rows):
                found[row] = Prediction(
                    images[row],
                    several._make(values[number] for values in several),
                    self.task,
                    components=self.components,
                    threshold=self.threshold,
                    ellipse_score=self.ellipse_score,
                )
        return [found[row] for row in range(len(images))]


def _categories(path: object, task: TaskName, classes: int, names: Sequence[str] | None) -> tuple[Category, ...]:
    """Return the categories of a published network. Raises ValueError where they have no names, or too many."""
    if names is None:
        if task == "pose":
            return COCO_CATEGORIES[:1]
        if classes == len(COCO_CATEGORIES):
            return COCO_CATEGORIES
        raise ValueError(f"names: {path} has num_classes={classes}, which are not COCO's: give their names in order")
    if len(names) != classes:
        raise ValueError(f"names: {path} has num_classes={classes}, and {len(names)} names are given")
    return tuple(Category(number, name) for number, name in enumerate(names, start=1))


def _load(images: Sequence[GivenImage], places: Sequence[Placement]) -> dict[str, Any]:
    """Return images as `collate` does: "image" (B, 3, H, W) uint8 and "transform" (B, 2, 3), as they are placed."""
    pixels = [torch.tensor(image.warp(place)) for image, place in zip(images, places, strict=True)]
    return {
        "image": torch.stack(pixels).permute(0, 3, 1, 2),
        "transform": torch.stack([torch.from_numpy(place.matrix) for place in places]),
    }
