"""Skeletons of annotation files: what a category says of its keypoints, and what is known beside it."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdnkernels.models.skeleton import COCO_PERSON, Skeleton, pair_sides
from mdnkernels.train.errors import ConfigError, DatasetError

logger = logging.getLogger("mdnkernels.train")

# OKS of other keypoints than COCO's is measured with this constant for each, where none are given.
USUAL_SIGMA = statistics.median(COCO_PERSON.sigmas)


@dataclass(frozen=True)
class SkeletonInFile:
    """Stands for the skeleton that an annotation file's category describes."""

    sigmas: tuple[float, ...] | None = None
    """--keypoint-sigmas: OKS constants, one for all or one for each keypoint; None for those that are known."""


def read_skeleton(path: Path, root: dict[str, Any], position: int, sigmas: tuple[float, ...] | None) -> Skeleton:
    """Return the skeleton of the category at `position` of the file's list.

    Names and links are the category's "keypoints" and "skeleton", whose numbers count from 1; flip pairs are those of
    `pair_sides`. The names of COCO's persons, in any order, stand for COCO's constants, and for its links where the
    file has none. Other names get USUAL_SIGMA, with a warning. sigmas: are taken instead where they are given.

    Raises DatasetError that names file and field, and ConfigError for another number of sigmas than 1 or J.
    """
    category = root["categories"][position]
    where = f"{path}: categories[{position}]"
    names = _names(where, root, category)
    coco = dict(zip(COCO_PERSON.names, COCO_PERSON.sigmas, strict=True))
    is_coco = coco.keys() == set(names)
    links = _links(where, category, len(names))
    if is_coco and not links:
        links = tuple(
            (names.index(COCO_PERSON.names[a]), names.index(COCO_PERSON.names[b])) for a, b in COCO_PERSON.links
        )
    if sigmas is not None:
        own = sigmas_of(names, sigmas)
    elif is_coco:
        own = tuple(coco[name] for name in names)
    else:
        own = (USUAL_SIGMA,) * len(names)
        logger.warning(
            "%s: no constants of OKS are known for its keypoints (%s): each gets %g, the median of COCO's persons; "
            "--keypoint-sigmas says others",
            where,
            ", ".join(names),
            USUAL_SIGMA,
        )
    try:
        return Skeleton(names, own, pair_sides(names), links)
    except ValueError as error:
        raise DatasetError(f"{where}.keypoints: {error}") from error


def sigmas_of(names: Sequence[str], given: tuple[float, ...]) -> tuple[float, ...]:
    """Return a sigma for each keypoint. Raises ConfigError where `given` has neither one nor one for each."""
    if len(given) not in (1, len(names)):
        raise ConfigError(
            f"--keypoint-sigmas: {len(given)} numbers are given, and there are {len(names)} keypoints "
            f"({', '.join(names)}): give one for all, or {len(names)} in this order"
        )
    return given * len(names) if len(given) == 1 else given


def check_sigmas(skeleton: Skeleton, given: tuple[float, ...] | None) -> None:
    """Raise ConfigError where --keypoint-sigmas differ from those that a network was trained with."""
    if given is not None and sigmas_of(skeleton.names, given) != skeleton.sigmas:
        raise ConfigError(
            f"--keypoint-sigmas: the run has {' '.join(f'{sigma:g}' for sigma in skeleton.sigmas)}, which its mixture "
            "and its scores go by; start a new run for others"
        )


def check_mirroring(skeleton: Skeleton, option: str, remedy: str) -> None:
    """Raise ConfigError where a mirrored image shows keypoints without a name; warn where no name says a side.

    option: what mirrors images. remedy: how to do without it.
    """
    if skeleton.unpaired:
        raise ConfigError(
            f"{option}: in a mirrored image left and right keypoints change places, and these have no counterpart "
            f"among the skeleton's names: {', '.join(skeleton.unpaired)}; {remedy}"
        )
    if not skeleton.flip_pairs and len(skeleton.names) > 1:
        logger.warning(
            "no keypoint's name says left or right (%s): in mirrored images each stays what it is; where they have "
            "sides, name them so (left_..., right_...)",
            ", ".join(skeleton.names),
        )


def _names(where: str, root: dict[str, Any], category: dict[str, Any]) -> tuple[str, ...]:
    names = category.get("keypoints")
    if names is None or names == []:
        raise DatasetError(
            f"{where}.keypoints: is missing; poses need the names of {_count(root)}, in their order. In mirrored "
            'images left and right ones change places: name these "left_..." and "right_..."'
        )
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise DatasetError(f"{where}.keypoints: {names!r} is not a list of names")
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise DatasetError(f"{where}.keypoints: {name!r} is not valid Unicode") from error
    return tuple(names)


def _count(root: dict[str, Any]) -> str:
    """Say how many keypoints the annotations have."""
    annotations = root.get("annotations")
    lists = [
        one["keypoints"]
        for one in (annotations if isinstance(annotations, list) else ())
        if isinstance(one, dict) and isinstance(one.get("keypoints"), list)
    ]
    counts = {len(values) // 3 for values in lists if values}
    return f"the {counts.pop()} keypoints that each annotation has" if len(counts) == 1 else "the keypoints"


def _links(where: str, category: dict[str, Any], joints: int) -> tuple[tuple[int, int], ...]:
    """Return the pairs of keypoints that are linked, as positions counted from 0."""
    links = category.get("skeleton")
    if links is None:
        return ()
    if not isinstance(links, list):
        raise DatasetError(f"{where}.skeleton: {links!r} is not a list of pairs of keypoints")
    pairs = []
    for number, link in enumerate(links):
        if (
            not isinstance(link, list)
            or len(link) != 2
            or any(isinstance(keypoint, bool) or keypoint not in range(1, joints + 1) for keypoint in link)
        ):
            raise DatasetError(
                f"{where}.skeleton[{number}]: {link!r} is no pair of keypoints from 1 to {joints} (they count from 1)"
            )
        pairs.append((int(link[0]) - 1, int(link[1]) - 1))
    return tuple(pairs)
