"""The images, boxes and keypoints of a data set in memory, as flat arrays.

Flat arrays instead of dictionaries: a forked worker that only reads them never touches a Python reference count, so
the operating system goes on sharing the pages of the annotations between all workers.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mdnkernels.models.skeleton import Skeleton


class Category(NamedTuple):
    """One entry of a category list: its id in the annotation file and its name."""

    id: int
    name: str


class ImageEntry(NamedTuple):
    """One image of the list, with the boxes of its annotations."""

    id: int
    file_name: str
    width: int
    """Width in pixels that the list claims, 0 where it claims none."""
    height: int
    boxes: np.ndarray
    """(A, 4) float64: x1, y1, x2, y2 in pixels of the stored image, continuous (a pixel is a unit square)."""
    labels: np.ndarray
    """(A,) int64: class indices 0 .. Y-1."""
    crowd: np.ndarray
    """(A,) bool: the box covers a crowd; it is no target, and detections inside it are not counted wrong."""
    keypoints: np.ndarray
    """(A, J, 3) float64: x, y in pixels like the boxes, and 0 not labelled, 1 labelled but hidden, 2 visible."""


@dataclass(frozen=True)
class CocoAnnotations:
    """I images, A boxes and Y categories. The boxes of image i are the rows starts[i] .. starts[i + 1]."""

    path: Path
    categories: tuple[Category, ...]
    """Sorted by id; a class index is a position in this tuple."""
    image_ids: np.ndarray
    """(I,) int64."""
    file_names: np.ndarray
    """(I,) UTF-8 bytes."""
    sizes: np.ndarray
    """(I, 2) int64: width and height, 0 where the list gives none."""
    starts: np.ndarray
    """(I + 1,) int64."""
    boxes: np.ndarray
    """(A, 4) float64: x1, y1, x2, y2."""
    areas: np.ndarray
    """(A,) float64: the area in pixels^2 that COCO's small, medium and large go by."""
    labels: np.ndarray
    """(A,) int64."""
    crowd: np.ndarray
    """(A,) bool."""
    keypoints: np.ndarray
    """(A, J, 3) float64; J is 0 where no keypoints were asked for."""
    positions: np.ndarray
    """(A,) int64: where each stands in the file's list of annotations."""
    skipped: tuple[str, ...]
    """Annotations that were left out, one reason each."""
    unused_categories: tuple[str, ...] = ()
    """For poses, categories that were left out since no annotation is of them, one reason each."""
    without_keypoints: tuple[str, ...] = ()
    """People for whom the file gives no keypoints, one reason each; they count as people with none labelled."""
    skeleton: Skeleton | None = None
    """Of the J keypoints; None where none were asked for."""

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, i: int) -> ImageEntry:
        rows = slice(int(self.starts[i]), int(self.starts[i + 1]))
        return ImageEntry(
            id=int(self.image_ids[i]),
            file_name=bytes(self.file_names[i]).decode(),
            width=int(self.sizes[i, 0]),
            height=int(self.sizes[i, 1]),
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            crowd=self.crowd[rows],
            keypoints=self.keypoints[rows],
        )

    def first(self, count: int | None) -> CocoAnnotations:
        """Keep the first `count` images of the list; None keeps them all."""
        if count is None or count >= len(self):
            return self
        return self.chosen(np.arange(count))

    def occupied(self) -> CocoAnnotations:
        """Keep the images that have an annotation."""
        return self.chosen(np.flatnonzero(np.diff(self.starts)))

    def chosen(self, images: np.ndarray) -> CocoAnnotations:
        """Keep the images at these positions of the list, which must ascend."""
        counts = np.diff(self.starts)[images]
        rows = np.flatnonzero(np.isin(self.rows(), images))
        return dataclasses.replace(
            self,
            image_ids=self.image_ids[images],
            file_names=self.file_names[images],
            sizes=self.sizes[images],
            starts=np.concatenate(([0], np.cumsum(counts))),
            boxes=self.boxes[rows],
            areas=self.areas[rows],
            labels=self.labels[rows],
            crowd=self.crowd[rows],
            keypoints=self.keypoints[rows],
            positions=self.positions[rows],
        )

    def rows(self) -> np.ndarray:
        """Return for each box the position of its image in the list, (A,) int64."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def place(self, row: int) -> str:
        """Return words for where in the file box `row` stands and what it is."""
        x1, y1, x2, y2 = self.boxes[row].tolist()
        box = ", ".join(f"{number:.6g}" for number in (x1, y1, x2 - x1, y2 - y1))
        return f"annotations[{self.positions[row]}].bbox: [{box}]"

    def inside(self) -> CocoAnnotations:
        """Leave out, with a reason in `skipped`, each box of which nothing lies inside the size listed for its image.

        No network can find such an object: its loss would never see it, and its score count it as missed.
        """
        images = self.rows()
        sizes = self.sizes[images]
        seen = (self.boxes[:, 2:] > 0).all(1) & ((self.boxes[:, :2] < sizes) | (sizes == 0)).all(1)
        if seen.all():
            return self
        reasons = [
            f"{self.place(row)} lies wholly outside image {self.image_ids[images[row]]} of "
            f"{sizes[row, 0]} x {sizes[row, 1]} pixels"
            for row in np.flatnonzero(~seen).tolist()
        ]
        of_boxes = ("boxes", "areas", "labels", "crowd", "keypoints", "positions")
        return dataclasses.replace(
            self,
            **{name: getattr(self, name)[seen] for name in of_boxes},
            starts=np.searchsorted(images[seen], np.arange(len(self) + 1)),
            skipped=(*self.skipped, *reasons),
        )
