"""What a task is: all in which detection and pose estimation differ, from annotations to COCO's score."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from PIL import Image
from torch import Tensor, nn

from mdnkernels import Family
from mdnkernels.mixture.families import FAMILIES, family_of, with_parameter
from mdnkernels.models import Network, Skeleton
from mdnkernels.models.regression import Flip
from mdnkernels.models.start import ObjectSample
from mdnkernels.train.data.coco import Category, CocoAnnotations
from mdnkernels.train.data.skeletons import SkeletonInFile
from mdnkernels.train.errors import ConfigError
from mdnkernels.train.tasks import TaskName
from mdnkernels.train.tasks.criterion import Criterion
from mdnkernels.train.tasks.score import Score
from mdnkernels.train.tasks.weights import LossWeights

if TYPE_CHECKING:  # what a network is trained with needs no library of the command line
    from mdnkernels.train.config.options import InferenceConfig, ModelConfig, OptimizerConfig
    from mdnkernels.train.tasks.start import SeenObjects


class Task(ABC):
    """A task on data of given categories: what training, inference and analyses ask of it."""

    name: ClassVar[TaskName]
    min_scale: ClassVar[float]
    """The least sigma of a component, in output cells, where --min-scale says no other."""
    coco_annotations: ClassVar[str]
    """The first word of the names of COCO's annotation files."""
    metrics: ClassVar[tuple[str, ...]]
    """The names of COCO's numbers, in the order in which its evaluation gives them."""
    one_category: ClassVar[bool] = False
    """Whether its data is of a single category."""
    skeleton: Skeleton | None = None
    """The keypoints of an object, where it has any; of the class: those of data that names none."""

    def __init__(self, categories: Sequence[Category], skeleton: Skeleton | None = None) -> None:
        """skeleton: that the data's keypoints were read with; None for the class's own.

        Raises ConfigError where the data is not for this task.
        """
        self.categories = tuple(categories)
        if self.one_category and len(self.categories) != 1:
            raise ConfigError(f"--task {self.name}: needs data of one category, these have {len(self.categories)}")
        if skeleton is not None:
            self.skeleton = skeleton

    @classmethod
    def skeleton_to_read(cls, sigmas: tuple[float, ...] | None) -> SkeletonInFile | None:
        """Return what annotations are to be read with so that they say their skeleton; None reads no keypoints.

        sigmas: --keypoint-sigmas. Raises ConfigError for sigmas of a task without keypoints.
        """
        if sigmas is not None:
            raise ConfigError(
                f"--keypoint-sigmas: --task {cls.name} has no keypoints; leave it out, or take --task pose"
            )
        return None

    def model_options(self, config: ModelConfig) -> dict[str, Any]:
        """Return the arguments of `models.build_model` that all tasks share."""
        return {
            "components": config.components,
            "class_specific": config.class_specific,
            "family": family_of_option(config.family),
            "min_scale": self.min_scale if config.min_scale is None else config.min_scale,
            "activation_checkpointing": config.activation_checkpointing,
        }

    @abstractmethod
    def build_model(self, config: ModelConfig) -> Network:
        """Return the configured network with fresh weights. Raises ValueError where there is none."""

    @abstractmethod
    def criterion(self, model: Network, weights: OptimizerConfig | LossWeights) -> Criterion[Any]:
        """Return the losses of a network that `build_model` made."""

    @abstractmethod
    def sample(self, objects: SeenObjects) -> ObjectSample:
        """Return what the regression should say about training objects, as a new network starts at."""

    @abstractmethod
    def targets(self, batch: dict[str, Tensor], size: tuple[int, int], stride: int) -> Any:
        """Return what the network should say about a batch of `collate`, on the batch's device.

        size: (h, w) of the output, whose cells are `stride` input pixels wide.
        """

    @abstractmethod
    def outputs(self, model: nn.Module, images: Tensor, targets: Any) -> list[dict[str, Tensor]]:
        """Return the network's outputs, with its regression heads evaluated at the targets' cells alone."""

    @abstractmethod
    def predict(self, model: Any, images: Tensor, config: InferenceConfig) -> Any:
        """Return the `Detections` or `Poses` of a batch of images, in the input's pixels."""

    @abstractmethod
    def predict_each(self, model: Any, images: Tensor, config: InferenceConfig) -> list[Any]:
        """Return what `predict` gives, and then the same with each component of a mixture alone.

        The configuration names no component.
        """

    @abstractmethod
    def rows(self, found: Any, image_size: tuple[int, int]) -> list[int]:
        """Return which rows `results` gives entries of, in its order: not padding, nor what lies outside the image.

        The arguments are those of `results`.
        """

    @abstractmethod
    def results(self, found: Any, image_size: tuple[int, int]) -> list[dict[str, Any]]:
        """Return COCO's entries, without image_id, of what was found in one image of (width, height).

        found: (k, ...) tensors on the CPU in the image's pixels. Padding is left out.
        """

    @abstractmethod
    def picture(
        self,
        image: Image.Image,
        entries: Sequence[dict[str, Any]],
        *,
        truth: bool = False,
        ellipse_score: float = 0.5,
        **options: Any,
    ) -> Image.Image:
        """Draw the task's results over an image, coloured by component; with `truth`, annotations in a neutral colour.

        entries: of `results`, or with `truth` COCO's annotations. ellipse_score: the least score of a result that gets
        its one-sigma ellipses, where the task draws any. options: of `draw_detections`.
        """

    @abstractmethod
    def score(self, annotations: CocoAnnotations, results: Sequence[dict[str, Any]]) -> Score:
        """Return COCO's numbers, by the names of `metrics`.

        results: entries of `results` with their image_id, of images in `annotations`; there may be none of either.
        """


def family_of_option(text: str) -> Family:
    """Return the family that --family names: NAME, or NAME:PARAMETER of one that has a parameter.

    Raises ValueError that says which names there are, or how the parameter is written.
    """
    name, colon, number = text.partition(":")
    takes_parameter = name in FAMILIES and bool(dataclasses.fields(FAMILIES[name]))
    if not colon and not takes_parameter:
        return family_of(name)
    try:
        parameter = float(number) if takes_parameter else None
    except ValueError:
        parameter = None
    if parameter is None:
        names = ", ".join(FAMILIES)
        raise ValueError(f"family {text!r}: write a name of {names}, and student_t:4 for 4 degrees of freedom")
    return with_parameter(name, parameter)


def predict_options(config: InferenceConfig) -> dict[str, Any]:
    """Return the arguments of a network's `predict` that all tasks share."""
    flip: Flip | None = "stronger" if config.flip_stronger else "average" if config.flip else None
    components = None if config.component is None else [config.component]
    return {"k": config.detections, "flip": flip, "select": config.select, "components": components}


def predict_each_options(config: InferenceConfig) -> dict[str, Any]:
    """Return the arguments of a network's `predict_each` that all tasks share."""
    options = predict_options(config)
    del options["components"]
    return options
