"""Skeletons that annotation files describe."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdnkernels.models import COCO_PERSON
from mdnkernels.train.config.options import AugmentConfig
from mdnkernels.train.data.coco_file import read_annotations
from mdnkernels.train.data.sets import Sample, TrainingSet
from mdnkernels.train.data.skeletons import USUAL_SIGMA, SkeletonInFile, read_skeleton
from mdnkernels.train.errors import ConfigError, DatasetError
from tests.train.animals import CATEGORY, COLOURS, LINKS, NAMES, draw_animals, read_animals
from tests.train.drawn_data import DataPaths, edit_json


def of_category(sigmas: tuple[float, ...] | None = None, annotations: Any = (), **change: Any) -> Any:
    root = {"categories": [CATEGORY | change], "annotations": list(annotations)}
    return read_skeleton(Path("file.json"), root, 0, sigmas)


def test_names_links_and_flip_pairs_are_the_files(animals: DataPaths) -> None:
    annotations = read_annotations(animals.annotations, SkeletonInFile())
    skeleton = annotations.skeleton
    assert skeleton is not None
    assert (skeleton.names, skeleton.links, skeleton.flip_pairs) == (NAMES, LINKS, ((1, 2),))
    assert annotations.keypoints.shape == (16, 5, 3)
    # What has been read is what the file says, and a skeleton that is known must be the file's.
    again = read_annotations(animals.annotations, skeleton)
    assert again.skeleton is skeleton
    assert (again.keypoints == annotations.keypoints).all()


def test_unknown_keypoints_have_the_median_of_cocos_constants_and_a_warning(warned: list[str]) -> None:
    assert of_category().sigmas == (0.072,) * 5 == (statistics.median(COCO_PERSON.sigmas),) * 5
    (message,) = warned
    assert all(part in message for part in ("file.json: categories[0]", "left_ear", "0.072", "--keypoint-sigmas"))


def test_constants_are_given_for_all_or_for_each(warned: list[str]) -> None:
    assert of_category(sigmas=(0.05,)).sigmas == (0.05,) * 5
    assert of_category(sigmas=(0.1, 0.2, 0.3, 0.4, 0.5)).sigmas == (0.1, 0.2, 0.3, 0.4, 0.5)
    assert not warned
    with pytest.raises(ConfigError, match=r"--keypoint-sigmas: 2 numbers are given, and there are 5 keypoints \(nose,"):
        of_category(sigmas=(0.1, 0.2))


def test_cocos_persons_keep_cocos_constants_and_links(warned: list[str]) -> None:
    assert of_category(keypoints=list(COCO_PERSON.names), skeleton=[]) == COCO_PERSON
    official = [[16, 14], [14, 12], [17, 15], [15, 13], [12, 13], [6, 12], [7, 13], [6, 7], [6, 8], [7, 9], [8, 10]]
    official += [[9, 11], [2, 3], [1, 2], [1, 3], [2, 4], [3, 5], [4, 6], [5, 7]]
    read = of_category(keypoints=list(COCO_PERSON.names), skeleton=official)
    assert (read.names, read.sigmas, read.flip_pairs) == (
        COCO_PERSON.names,
        COCO_PERSON.sigmas,
        COCO_PERSON.flip_pairs,
    )
    assert {frozenset(link) for link in COCO_PERSON.links} <= {frozenset(link) for link in read.links}
    assert of_category(sigmas=(0.05,), keypoints=list(COCO_PERSON.names)).sigmas == (0.05,) * 17
    assert not warned


def test_cocos_persons_in_another_order_keep_each_its_own(warned: list[str]) -> None:
    names = COCO_PERSON.names[::-1]
    read = of_category(keypoints=list(names), skeleton=None)
    assert read.sigmas == COCO_PERSON.sigmas[::-1]
    assert {frozenset(names[k] for k in link) for link in read.links} == {
        frozenset(COCO_PERSON.names[k] for k in link) for link in COCO_PERSON.links
    }
    assert not warned
    # One name more and it is something else.
    assert of_category(keypoints=[*COCO_PERSON.names, "neck"]).sigmas == (USUAL_SIGMA,) * 18


@pytest.mark.parametrize("links", [{"skeleton": None}, {"skeleton": []}])
def test_links_may_be_missing(links: dict[str, Any]) -> None:
    assert of_category(**links).links == ()


def test_one_keypoint_is_a_skeleton() -> None:
    read = of_category(keypoints=["tip"], skeleton=[])
    assert (read.names, read.flip_pairs, read.links, read.unpaired) == (("tip",), (), (), ())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keypoints": None}, r"categories\[0\]\.keypoints: is missing; poses need the names of the keypoints, in"),
        ({"keypoints": []}, r"categories\[0\]\.keypoints: is missing"),
        ({"keypoints": "nose"}, r"categories\[0\]\.keypoints: 'nose' is not a list of names"),
        ({"keypoints": ["nose", 7]}, r"categories\[0\]\.keypoints: .* is not a list of names"),
        ({"keypoints": ["nose", ""]}, r"categories\[0\]\.keypoints: .* is not a list of names"),
        ({"keypoints": ["nose", "\ud800"]}, r"categories\[0\]\.keypoints: .* is not valid Unicode"),
        ({"keypoints": ["nose", "tail", "nose"], "skeleton": []}, r"categories\[0\]\.keypoints: names must differ"),
        ({"skeleton": {"a": 1}}, r"categories\[0\]\.skeleton: .* is not a list of pairs"),
        (
            {"skeleton": [[1, 2], [0, 4]]},
            r"categories\[0\]\.skeleton\[1\]: \[0, 4\] is no pair of keypoints from 1 to 5",
        ),
        ({"skeleton": [[1, 6]]}, r"categories\[0\]\.skeleton\[0\]: \[1, 6\]"),
        ({"skeleton": [[1, 2, 3]]}, r"categories\[0\]\.skeleton\[0\]"),
        ({"skeleton": [[1, "nose"]]}, r"categories\[0\]\.skeleton\[0\]"),
        ({"skeleton": [[1, True]]}, r"categories\[0\]\.skeleton\[0\]"),
        ({"skeleton": [[1, 1.5]]}, r"categories\[0\]\.skeleton\[0\]"),
        ({"skeleton": [7]}, r"categories\[0\]\.skeleton\[0\]: 7"),
    ],
)
def test_a_category_that_describes_no_skeleton_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        of_category(**change)


def test_missing_names_are_asked_for_by_their_number(tmp_path: Path) -> None:
    data = draw_animals(tmp_path / "data", count=1)
    edit_json(data.annotations, lambda root: root["categories"][0].pop("keypoints"))
    with pytest.raises(DatasetError, match=r'names of the 5 keypoints that each annotation has.*"left_\.\.\." and'):
        read_annotations(data.annotations, SkeletonInFile())


def test_links_of_whole_floats_are_read() -> None:
    assert of_category(skeleton=json.loads("[[1.0, 2], [3, 5.0]]")).links == ((0, 1), (2, 4))


def test_left_and_right_change_places_in_mirrored_samples(animals: DataPaths) -> None:
    """The left ear is on the left of who looks from back to nose. A mirrored picture has the right ear's disc there."""
    annotations = read_animals(animals.annotations)
    seen = {"whole": 0, "mirrored": 0}
    for flip in (0.0, 1.0):
        augment = AugmentConfig(flip=flip, colour=0, lighting=0, crop_scales=(1.0,))
        data = TrainingSet(annotations, animals.images, 96, augment=augment, skeleton=annotations.skeleton)
        colours = np.array(COLOURS)[[0, 2, 1, 3, 4] if flip else [0, 1, 2, 3, 4]]
        for index in range(len(data)):
            sample = data[0, index]
            assert isinstance(sample, Sample)
            for points in sample.keypoints:
                for (x, y, v), colour in zip(points, colours, strict=True):
                    if v > 0 and 2 <= x < 94 and 2 <= y < 94:
                        assert np.abs(sample.image[int(y), int(x)].astype(int) - colour).max() < 90
                nose, left, right, back, _ = points
                for ear, side in ((left, 1), (right, -1)):
                    if nose[2] and back[2] and ear[2]:
                        forward, aside = nose - back, ear - back
                        # y goes down: what lies to the left of "forward" has a negative cross product.
                        assert side * (forward[0] * aside[1] - forward[1] * aside[0]) < 0
                        seen["mirrored" if flip else "whole"] += 1
    assert min(seen.values()) >= 4
