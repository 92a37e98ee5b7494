"""What a task is: all in which detection and pose estimation differ, from annotations to COCO's score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from models import Skeleton
from models.decode import Flip
from train.data.coco import Category, CocoAnnotations
from train.inference.score import Score
from train.tasks.criterion import Criterion

if TYPE_CHECKING:  # what a network is trained with needs no library of the command line
    from train.config.options import InferenceConfig, ModelConfig, OptimizerConfig


class Task(ABC):
    """A task on data of given categories."""

    skeleton: Skeleton | None = None
    """What the annotations are to be read with."""

    def __init__(self, categories: Sequence[Category]) -> None:
        self.categories = tuple(categories)

    @abstractmethod
    def build_model(self, config: ModelConfig) -> Any:
        """The configured network with fresh weights. Raises ValueError where there is none."""

    @abstractmethod
    def criterion(self, model: ModelConfig, weights: OptimizerConfig) -> Criterion[Any]:
        """Its losses."""

    @abstractmethod
    def targets(self, batch: dict[str, Tensor], size: tuple[int, int], stride: int) -> Any:
        """What the network should say about a batch of `collate` on the device, in (h, w) cells of stride pixels."""

    @abstractmethod
    def outputs(self, model: torch.nn.Module, images: Tensor, targets: Any) -> list[dict[str, Tensor]]:
        """The network's outputs, its regression heads evaluated at the targets' cells alone."""

    @abstractmethod
    def predict(self, model: Any, images: Tensor, config: InferenceConfig) -> Any:
        """Detections or poses in the input's pixels."""

    @abstractmethod
    def results(self, found: Any, image_size: tuple[int, int]) -> list[dict[str, Any]]:
        """COCO's entries, without image_id, of one image of (width, height).

        found: (k, ...) tensors on the CPU in the image's pixels. Padding is left out.
        """

    @abstractmethod
    def picture(
        self, image: Image.Image, entries: Sequence[dict[str, Any]], *, truth: bool = False, **options: Any
    ) -> Image.Image:
        """The image with results drawn over it, coloured by component, or with annotations, all in a neutral colour.

        entries: the task's results, or with `truth` COCO's annotations. options: of `draw_detections`.
        """

    @abstractmethod
    def score(self, annotations: CocoAnnotations, results: Sequence[dict[str, Any]]) -> Score:
        """COCO's numbers for results with their image_id."""


def predict_options(config: InferenceConfig) -> dict[str, Any]:
    flip: Flip | None = "stronger" if config.flip_stronger else "average" if config.flip else None
    components = None if config.component is None else [config.component]
    return {"k": config.detections, "flip": flip, "components": components}
