"""Skeletons."""

import pytest

from models import COCO_PERSON, Skeleton


def test_cocos_left_becomes_right_in_a_mirror() -> None:
    for keypoint, partner in enumerate(COCO_PERSON.mirrored):
        name = COCO_PERSON.names[keypoint]
        swapped = {"left": "right", "right": "left"}.get(name.split("_")[0])
        expected = name if swapped is None else f"{swapped}_{name.split('_')[1]}"
        assert COCO_PERSON.names[partner] == expected


def test_a_mirror_image_of_a_mirror_image_is_the_image() -> None:
    mirrored = COCO_PERSON.mirrored
    assert [mirrored[keypoint] for keypoint in mirrored] == list(range(17))


def test_cocos_sigmas_are_those_of_its_evaluation() -> None:
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    assert COCO_PERSON.sigmas == pytest.approx(cocoeval.Params(iouType="keypoints").kpt_oks_sigmas.tolist())


def test_cocos_limbs_join_one_body() -> None:
    reached = {0}
    for _ in COCO_PERSON.links:
        reached |= {end for link in COCO_PERSON.links if reached & set(link) for end in link}
    assert reached == set(range(17))


def test_keypoints_without_a_pair_stay() -> None:
    assert Skeleton(("a", "b", "c"), (1, 1, 1), flip_pairs=((2, 0),)).mirrored == (2, 1, 0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sigmas": (0.1,)}, "2 keypoints need as many sigmas, not 1"),
        ({"names": (), "sigmas": ()}, "0 keypoints"),
        ({"sigmas": (0.1, 0.0)}, "sigmas must be positive"),
        ({"sigmas": (0.1, float("nan"))}, "sigmas must be positive"),
        ({"names": ("a", "a")}, "names must differ"),
        ({"flip_pairs": ((0, 2),)}, r"flip_pairs: \(0, 2\) is outside the 2 keypoints"),
        ({"flip_pairs": ((0, 1), (1, 0))}, "a keypoint is in two pairs"),
        ({"flip_pairs": ((1, 1),)}, "a keypoint is in two pairs"),
        ({"links": ((-1, 0),)}, r"links: \(-1, 0\) is outside"),
    ],
)
def test_a_skeleton_that_cannot_be_is_refused(change: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Skeleton(**{"names": ("a", "b"), "sigmas": (0.1, 0.2), **change})
