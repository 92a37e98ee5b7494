"""What was found in one image: arrays in the image's pixels, a picture, and the forms that other tools take."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mdnkernels.models import Detections, Poses
from mdnkernels.train.data.transforms import clip_boxes
from mdnkernels.train.inference.given_images import GivenImage
from mdnkernels.train.tasks.base import Task

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


class Prediction:
    """What a network found in one image: N objects, the best first, as NumPy arrays in pixels of the image as shown.

    A box is cut off at the image's borders; keypoints may lie outside of it. Coordinates are continuous: the first
    pixel covers 0 to 1.
    """

    image: GivenImage
    """What the prediction is of: its `read` gives the pixels."""
    size: tuple[int, int]
    """Width and height of the image."""
    boxes: Floats
    """(N, 4): x1, y1, x2, y2."""
    scores: Floats
    """(N,): of the centre, in [0, 1], descending."""
    labels: Integers
    """(N,): class indices, which count from 0."""
    category_ids: Integers
    """(N,): the ids of these classes in the data set that the network was trained on."""
    names: list[str]
    """N names of classes."""
    components: Integers
    """(N,): the mixture component that gave the size or the pose; -1 for the single-mode base."""
    weights: Floats
    """(N,): the mixing weight of that component; 1 for the base."""
    sigmas: Floats | None
    """Standard deviations: of detection (N, 2), of width and height; of poses (N, J, 2), of each keypoint's x and y.
    None for the single-mode base, which has none."""
    keypoints: Floats | None
    """(N, J, 2): x and y of each of J keypoints; None for detection."""
    keypoint_scores: Floats | None
    """(N, J): of the peak that a keypoint was moved to, 0 where it is as regressed; None for detection."""
    keypoint_names: tuple[str, ...]
    """J names, none for detection."""
    covariances: Floats | None
    """(N, J, 2, 2): of each keypoint's x and y around where the mixture has it, whose components are diagonal:
    diag(sigma^2). None for detection and for the base."""

    def __init__(
        self,
        image: GivenImage,
        found: Detections | Poses,
        task: Task,
        *,
        components: int,
        threshold: float,
        ellipse_score: float = 0.5,
    ) -> None:
        """Take what a network of so many components found.

        found: (k, ...) tensors on the CPU in the image's pixels. threshold: the least score that is kept.
        ellipse_score: of `Task.picture`.
        """
        rows = [row for row in task.rows(found, image.size) if float(found.score[row]) >= threshold]
        index = torch.tensor(rows, dtype=torch.int64)
        kept = type(found)(*(values[index] for values in found))
        self.image = image
        self._task = task
        self._components = components
        self._ellipse_score = ellipse_score
        self._entries = task.results(kept, image.size)
        self.size = image.size
        self.boxes = clip_boxes(kept.box.float().numpy(), *image.size)
        self.scores = kept.score.float().numpy()
        self.labels = kept.label.numpy()
        self.category_ids = np.array([one["category_id"] for one in self._entries], dtype=np.int64)
        self.names = [task.categories[label].name for label in self.labels.tolist()]
        self.components = kept.component.numpy()
        self.weights = kept.weight.float().numpy()
        self.sigmas = kept.sigma.float().numpy() if components else None
        self.keypoints, self.keypoint_scores, self.covariances = None, None, None
        self.keypoint_names = () if task.skeleton is None else task.skeleton.names
        if isinstance(kept, Poses):
            self.keypoints = kept.keypoints.float().numpy()
            self.keypoint_scores = kept.keypoint_score.float().numpy()
            if self.sigmas is not None:
                self.covariances = self.sigmas[..., None] ** 2 * np.eye(2, dtype=np.float32)

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        best = [f"{name} {score:.2f}" for name, score in zip(self.names[:3], self.scores.tolist(), strict=False)]
        listed = f": {', '.join(best)}" if best else ""
        more = ", ..." if len(self) > 3 else ""
        return f"<Prediction of {len(self)} in {self.size[0]} x {self.size[1]} pixels{listed}{more}>"

    def draw(self) -> Image.Image:
        """Return the image with what was found in it, coloured by component. Raises UnreadableImageError
        where a file is there no longer."""
        return self._task.picture(
            self.image.read(),
            self._entries,
            min_score=0,
            num_components=self._components,
            ellipse_score=self._ellipse_score,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what `draw` gives as an image of the format that the file's name says; a file there is replaced.

        Raises ValueError for the file that the prediction is of, and for a name of no known format.
        """
        own = self.image.path
        if own is not None and Path(path).exists() and Path(path).samefile(own):
            raise ValueError(f"path: {path} is the image itself; give another name")
        self.draw().save(path)

    def to_coco(self, image_id: int | None = None) -> list[dict[str, Any]]:
        """Return COCO's results: a dict for each object, as predictions.json has them.

        "category_id", "bbox" (x, y, width, height) and "score"; of poses "keypoints" (x, y, 1 in turn); and beside what
        COCO reads "component", its "weight" and "sigma": of width and height, of poses of x and y before each
        keypoint's constant. image_id: of the image, for the "image_id" that COCO needs.
        """
        own = {} if image_id is None else {"image_id": image_id}
        return [{**own, **entry} for entry in self._entries]

    def to_supervision(self) -> Any:
        """Return supervision.Detections, or for poses supervision.KeyPoints, in the same order.

        Their data holds "class_name" and "component"; of detection "sigma" where there is one. Each keypoint has the
        confidence of its pose. Raises ImportError where the package supervision is missing.
        """
        try:
            import supervision
        except ImportError as error:
            raise ImportError("to_supervision needs the package supervision: pip install supervision") from error
        data: dict[str, Any] = {"class_name": np.array(self.names, dtype=str), "component": self.components}
        if self.keypoints is not None:
            confidence = np.repeat(self.scores[:, None], self.keypoints.shape[1], axis=1)
            # supervision 0.29 tells the scores of keypoints from those of objects.
            apart = "keypoint_confidence" in inspect.signature(supervision.KeyPoints).parameters
            scores = (
                {"keypoint_confidence": confidence, "detection_confidence": self.scores}
                if apart
                else {"confidence": confidence}
            )
            return supervision.KeyPoints(xy=self.keypoints, class_id=self.labels.astype(int), data=data, **scores)
        if self.sigmas is not None:
            data["sigma"] = self.sigmas
        return supervision.Detections(
            xyxy=self.boxes, confidence=self.scores, class_id=self.labels.astype(int), data=data
        )
