"""Skeletons."""

import pytest

from mdnkernels.models import COCO_PERSON, Skeleton
from mdnkernels.models.skeleton import pair_sides


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


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (COCO_PERSON.names, COCO_PERSON.flip_pairs),
        (("right_eye", "nose", "left_eye"), ((2, 0),)),
        (("Left Eye", "right-eye"), ((0, 1),)),
        (("front-left-paw", "front-right-paw", "back-right-paw", "back-left-paw"), ((0, 1), (3, 2))),
        (("leftEar", "RightEar", "earLeft", "earRight"), ((0, 1), (2, 3))),
        (("leftear", "rightear", "earright", "earleft"), ((0, 1), (3, 2))),
        (("L_Eye", "R_Eye", "Nose", "L_F_Elbow", "R_F_Elbow", "L_B_Elbow", "R_B_Elbow"), ((0, 1), (3, 4), (5, 6))),
        (("earL", "earR", "l-eye", "r-eye"), ((0, 1), (2, 3))),
        (("L1", "R1", "L2", "R2"), ((0, 1), (2, 3))),
        (("left", "right"), ((0, 1),)),
        (("right_eye_left_corner", "left_eye_right_corner"), ((1, 0),)),
        # None of these says a side.
        (tuple("abcdefghijklmnopqrstuvwxyz"), ()),
        (("1", "2"), ()),
        (("bright_spot", "dark_spot", "rear", "ear"), ()),
        # Nobody knows which of the two it is.
        (("left_eye", "Left Eye", "right_eye"), ()),
        (("left_eye", "right_ear"), ()),
    ],
)
def test_names_of_sides_are_flip_pairs(names: tuple[str, ...], pairs: tuple[tuple[int, int], ...]) -> None:
    assert pair_sides(names) == pairs


def test_a_side_without_its_counterpart_is_found() -> None:
    names = ("left_eye", "right_eye", "left_ear", "rigth_ear", "Right Paw", "bright_spot", "L5", "tail")
    assert Skeleton(names, (1,) * len(names), pair_sides(names)).unpaired == ("left_ear", "Right Paw")
    assert COCO_PERSON.unpaired == ()
    names = ("L_Eye", "R_Eye", "L_Ear", "R_Eer", "Nose")
    assert Skeleton(names, (1,) * len(names), pair_sides(names)).unpaired == ("L_Ear", "R_Eer")
