"""COCO-format annotation files, boxes of any categories or one with keypoints: read once and checked."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mdnkernels.models.skeleton import Skeleton
from mdnkernels.train.data.coco import Category, CocoAnnotations
from mdnkernels.train.data.skeletons import SkeletonInFile, read_skeleton
from mdnkernels.train.errors import DatasetError

# Beyond any picture's pixels, and within what float32 holds and JSON readers agree on.
LARGEST_COORDINATE = 2.0**31
# The largest whole number up to which a float has a neighbour of its own for each.
LARGEST_EXACT = 2.0**53


def read_annotations(
    path: Path, skeleton: Skeleton | SkeletonInFile | None = None, *, labelled: bool = True
) -> CocoAnnotations:
    """Read and check a COCO instances file; with a skeleton, a keypoints file of one category.

    skeleton: that the file must have, by its keypoints' names, or `SkeletonInFile` for whichever it has.
    labelled: off for a list of images alone, as of COCO's test sets; what it may have of annotations is not read.

    An annotation whose box has no positive finite width and height is left out and reported in `skipped`; with a
    skeleton, so is a category that no annotation is of, in `unused_categories`. Someone without keypoints, or with an
    empty list, counts as someone of whom no keypoint is labelled, and is reported in `without_keypoints`. Anything else
    that is wrong makes the list as a whole doubtful. Whole numbers may be written as floats (1.0).

    Raises:
        DatasetError: the file is missing, is not JSON, lacks a field, or contradicts itself (an id twice, a category
            or an image that is not listed); with a skeleton, also where annotations are of several categories or the
            one has other keypoints. The message names the file and the field.
        ConfigError: the sigmas of `SkeletonInFile` are not as many as the keypoints.
    """
    root = _read_json(path)
    categories = _read_categories(path, root)
    unused_categories: list[str] = []
    if skeleton is not None and labelled:
        position = _pose_category(path, root)
        if isinstance(skeleton, SkeletonInFile):
            skeleton = read_skeleton(path, root, position, skeleton.sigmas)
        else:
            _check_keypoint_names(path, root, position, skeleton)
        unused_categories = _unused_categories(path, root, position)
        categories = tuple(one for one in categories if one.id == root["categories"][position]["id"])
    assert not isinstance(skeleton, SkeletonInFile), "an image list has no skeleton"
    joints = 0 if skeleton is None else len(skeleton.names)
    images = _read_images(path, root)
    class_of = {category.id: index for index, category in enumerate(categories)}
    row_of = {image["id"]: index for index, image in enumerate(images)}

    kept: list[tuple[int, list[float], float, int, bool, list[float], int]] = []
    skipped: list[str] = []
    without_keypoints: list[str] = []
    seen: set[int] = set()
    for position, annotation in enumerate(_entries(path, root, "annotations") if labelled else ()):
        where = f"annotations[{position}]"
        if "id" in annotation:
            identity = _integer(path, where, annotation, "id")
            if identity in seen:
                raise DatasetError(f"{path}: {where}.id: {identity} stands twice; annotation ids must be unique")
            seen.add(identity)
        category_id = _integer(path, where, annotation, "category_id")
        if category_id not in class_of:
            raise DatasetError(
                f"{path}: {where}.category_id: {category_id} is not in the category list (ids {_some(class_of)})"
            )
        image_id = _integer(path, where, annotation, "image_id")
        if image_id not in row_of:
            raise DatasetError(f"{path}: {where}.image_id: {image_id} is not in the image list")
        box = _box(path, where, annotation)
        if not (all(math.isfinite(number) for number in box) and box[2] > 0 and box[3] > 0):
            skipped.append(f"{where}.bbox: {box} has no positive, finite width and height")
            continue
        if max(map(abs, box)) > LARGEST_COORDINATE:
            skipped.append(f"{where}.bbox: {box} is beyond the pixels of any image")
            continue
        area = annotation.get("area", box[2] * box[3])
        if not _is_number(area) or not 0 <= area < math.inf:
            raise DatasetError(f"{path}: {where}.area: {_shown(area)} is not a finite number of at least 0")
        crowd = annotation.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise DatasetError(f"{path}: {where}.iscrowd: {_shown(crowd)} is neither 0 nor 1")
        keypoints = [0.0] * (3 * joints)
        if joints and annotation.get("keypoints") not in (None, []):
            keypoints = _keypoints(path, where, annotation, joints)
        elif joints and not crowd:
            given = "is missing" if "keypoints" not in annotation else f"is {annotation['keypoints']}"
            without_keypoints.append(f"{where}.keypoints: {given}")
        kept.append((row_of[image_id], box, float(area), class_of[category_id], bool(crowd), keypoints, position))

    kept.sort(key=lambda entry: entry[0])  # stable: the boxes of an image stay in file order
    rows = np.array([entry[0] for entry in kept], dtype=np.int64)
    boxes = np.array([entry[1] for entry in kept], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return CocoAnnotations(
        path=path,
        categories=categories,
        image_ids=np.array([image["id"] for image in images], dtype=np.int64),
        file_names=np.array([image["file_name"].encode() for image in images], dtype=np.bytes_),
        sizes=np.array([(image["width"], image["height"]) for image in images], dtype=np.int64).reshape(-1, 2),
        starts=np.searchsorted(rows, np.arange(len(images) + 1)),
        boxes=boxes,
        areas=np.array([entry[2] for entry in kept], dtype=np.float64),
        labels=np.array([entry[3] for entry in kept], dtype=np.int64),
        crowd=np.array([entry[4] for entry in kept], dtype=np.bool_),
        keypoints=np.array([entry[5] for entry in kept], dtype=np.float64).reshape(len(kept), joints, 3),
        positions=np.array([entry[6] for entry in kept], dtype=np.int64),
        skipped=tuple(skipped),
        unused_categories=tuple(unused_categories),
        without_keypoints=tuple(without_keypoints),
        skeleton=skeleton,
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        root = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DatasetError(f"{path}: there is no such annotation file") from None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DatasetError(f"{path}: is not valid JSON: {error}") from error
    except RecursionError:
        raise DatasetError(f"{path}: is not a COCO file: its lists and objects are nested without end") from None
    if not isinstance(root, dict):
        raise DatasetError(
            f"{path}: holds a {type(root).__name__}; a COCO file is an object with images, annotations, categories"
        )
    return root


def _read_categories(path: Path, root: dict[str, Any]) -> tuple[Category, ...]:
    categories: dict[int, Category] = {}
    for position, entry in enumerate(_entries(path, root, "categories")):
        where = f"categories[{position}]"
        identity = _integer(path, where, entry, "id")
        if identity in categories:
            raise DatasetError(f"{path}: {where}.id: {identity} stands twice; category ids must be unique")
        categories[identity] = Category(identity, _text(path, where, entry, "name"))
    if not categories:
        raise DatasetError(f"{path}: categories: the list is empty; at least one category is needed")
    return tuple(categories[identity] for identity in sorted(categories))


def _read_images(path: Path, root: dict[str, Any]) -> list[dict[str, Any]]:
    images: list[dict[str, Any]] = []
    seen: set[int] = set()
    for position, entry in enumerate(_entries(path, root, "images")):
        where = f"images[{position}]"
        identity = _integer(path, where, entry, "id")
        if identity in seen:
            raise DatasetError(f"{path}: {where}.id: {identity} stands twice; image ids must be unique")
        seen.add(identity)
        image: dict[str, Any] = {
            "id": identity,
            "file_name": _text(path, where, entry, "file_name"),
            "width": 0,
            "height": 0,
        }
        for side in ("width", "height"):
            if side in entry:
                image[side] = _integer(path, where, entry, side)
                if image[side] <= 0:
                    raise DatasetError(f"{path}: {where}.{side}: {image[side]} is not positive")
        images.append(image)
    if not images:
        raise DatasetError(f"{path}: images: the list is empty; at least one image is needed")
    return images


def _entries(path: Path, root: dict[str, Any], field: str) -> list[dict[str, Any]]:
    if field not in root:
        raise DatasetError(f'{path}: "{field}" is missing; a COCO file has "images", "annotations" and "categories"')
    entries = root[field]
    if not isinstance(entries, list):
        raise DatasetError(f"{path}: {field}: is a {type(entries).__name__}, not a list")
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise DatasetError(f"{path}: {field}[{position}]: is a {type(entry).__name__}, not an object")
    return entries


def _integer(path: Path, where: str, entry: dict[str, Any], field: str) -> int:
    value = entry.get(field)
    if isinstance(value, float) and value.is_integer() and abs(value) <= LARGEST_EXACT:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        given = "is missing" if field not in entry else f"{_shown(value)} is not an integer"
        if isinstance(value, str):
            given += "; write the number without quotation marks"
        raise DatasetError(f"{path}: {where}.{field}: {given}")
    if not -(2**63) <= value < 2**63:
        raise DatasetError(f"{path}: {where}.{field}: {_shown(value)} does not fit 64 bits")
    return value


def _text(path: Path, where: str, entry: dict[str, Any], field: str) -> str:
    value = entry.get(field)
    if not isinstance(value, str) or not value:
        given = "is missing" if field not in entry else f"{_shown(value)} is not a text"
        raise DatasetError(f"{path}: {where}.{field}: {given}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DatasetError(f"{path}: {where}.{field}: {value!r} is not valid Unicode") from error
    return value


def _is_number(value: object) -> bool:
    """Tell whether a value is a number that a float holds; JSON's whole numbers have no end."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def _shown(value: object) -> str:
    """Return the value as it stands, shortened in the middle where nobody would read all of it."""
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 60
_SHORT.maxlist = _SHORT.maxdict = 8


def _box(path: Path, where: str, annotation: dict[str, Any]) -> list[float]:
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(number) for number in box):
        given = "is missing"
        if "bbox" in annotation:
            given = f"{_shown(box)} is not a list of four numbers x, y, width, height"
        raise DatasetError(f"{path}: {where}.bbox: {given}")
    return [float(number) for number in box]


def _pose_category(path: Path, root: dict[str, Any]) -> int:
    """Return the position of the poses' category: the one that annotations are of, or else that has keypoints."""
    entries = root["categories"]
    annotations = enumerate(_entries(path, root, "annotations"))
    used = {_integer(path, f"annotations[{number}]", one, "category_id") for number, one in annotations}
    having = [position for position, entry in enumerate(entries) if entry.get("keypoints")]
    chosen = [position for position, entry in enumerate(entries) if _integer(path, "", entry, "id") in used]
    if len(chosen) > 1:
        names = ", ".join(repr(entries[position].get("name")) for position in chosen[:5])
        more = ", ..." if len(chosen) > 5 else ""
        raise DatasetError(
            f"{path}: categories: annotations are of {len(chosen)} ({names}{more}); poses are of one category: leave "
            "the other annotations out of the file, or take the keypoints file, COCO's person_keypoints_*.json"
        )
    return (chosen or having or [0])[0]


def _unused_categories(path: Path, root: dict[str, Any], pose: int) -> list[str]:
    return [
        f"categories[{position}]: {_shown(entry['name'])} has no annotation"
        for position, entry in enumerate(root["categories"])
        if position != pose
    ]


def _check_keypoint_names(path: Path, root: dict[str, Any], position: int, skeleton: Skeleton) -> None:
    names = root["categories"][position].get("keypoints")
    if names != list(skeleton.names):
        raise DatasetError(
            f"{path}: categories[{position}].keypoints: {names!r} are not the skeleton's {list(skeleton.names)}"
        )


def _keypoints(path: Path, where: str, annotation: dict[str, Any], joints: int) -> list[float]:
    values = annotation.get("keypoints")
    if not isinstance(values, list) or len(values) != 3 * joints or not all(map(_is_number, values)):
        given = "is missing" if "keypoints" not in annotation else f"is not a list of {3 * joints} numbers x, y, v"
        raise DatasetError(f"{path}: {where}.keypoints: {given}")
    if not all(abs(value) <= LARGEST_COORDINATE for value in values) or not {0, 1, 2}.issuperset(values[2::3]):
        raise DatasetError(
            f"{path}: {where}.keypoints: each x and y must be finite and in some image, and each v 0, 1 or 2: {values}"
        )
    return [float(value) for value in values]


def _some(ids: Iterable[int]) -> str:
    listed = sorted(ids)
    return ", ".join(map(str, listed[:5])) + (", ..." if len(listed) > 5 else "")
