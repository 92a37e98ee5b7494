"""What a pose consists of: a task's keypoints and how they hang together."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Skeleton:
    """A set of keypoints.

    names: one for each keypoint. sigmas: each keypoint's constant of OKS, the spread of annotators relative to the
    square root of the object's area; the mixture's sigma of a keypoint is multiplied by it. flip_pairs: pairs of
    keypoints that change places in a mirrored image. links: pairs to draw as limbs.

    Raises ValueError for a repeated name, a sigma that is missing or not positive, and a pair or link outside the
    keypoints.
    """

    names: tuple[str, ...]
    sigmas: tuple[float, ...]
    flip_pairs: tuple[tuple[int, int], ...] = ()
    links: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if len(self.sigmas) != len(self.names) or not self.names:
            raise ValueError(f"{len(self.names)} keypoints need as many sigmas, not {len(self.sigmas)}")
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"names must differ, not {self.names}")
        if not all(0 < sigma < math.inf for sigma in self.sigmas):
            raise ValueError(f"sigmas must be positive, not {self.sigmas}")
        for kind in ("flip_pairs", "links"):
            for pair in getattr(self, kind):
                if not all(0 <= keypoint < len(self.names) for keypoint in pair):
                    raise ValueError(f"{kind}: {pair} is outside the {len(self.names)} keypoints")
        paired = [keypoint for pair in self.flip_pairs for keypoint in pair]
        if len(set(paired)) != len(paired):
            raise ValueError(f"flip_pairs: a keypoint is in two pairs: {self.flip_pairs}")

    @property
    def mirrored(self) -> tuple[int, ...]:
        """Return for each keypoint the one whose place it takes in a mirrored image."""
        order = list(range(len(self.names)))
        for a, b in self.flip_pairs:
            order[a], order[b] = b, a
        return tuple(order)

    @property
    def unpaired(self) -> tuple[str, ...]:
        """Return the names that say left or right and are in no flip pair: mirrored, they have no name.

        L and R say so where they do in a pair.
        """
        words = [name_words(name) for name in self.names]
        paired = {keypoint for pair in self.flip_pairs for keypoint in pair}
        letters = {"l", "r"} if any({"l", "r"} & set(words[keypoint]) for keypoint in paired) else set()
        return tuple(
            name
            for keypoint, name in enumerate(self.names)
            if keypoint not in paired and ({"left", "right"} | letters) & set(words[keypoint])
        )


def pair_sides(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Return the flip pairs that keypoints' names tell of: (left, right) positions, by ascending left ones.

    Two names are a pair where one is the other with left and right exchanged, wherever these stand: left_eye and
    right_eye, "Left Eye" and "Right Eye", front-left-paw and front-right-paw, leftEar and rightEar, earleft and
    earright. L and R count beside other words: L_Eye and R_Eye, earL and earR, L1 and R1. Case does not count. A name
    with several possible partners is in no pair.
    """
    words = [name_words(name) for name in names]
    places = defaultdict(list)
    for keypoint, own in enumerate(words):
        places[own].append(keypoint)
    pairs = []
    for keypoint, own in enumerate(words):
        partners = places.get(_exchanged(own), [])
        if len(partners) == len(places[own]) == 1 and partners[0] != keypoint and _first_side(own) == "left":
            pairs.append((keypoint, partners[0]))
    return tuple(pairs)


_OTHER = {"left": "right", "right": "left", "l": "r", "r": "l"}


def name_words(name: str) -> tuple[str, ...]:
    """Divide a keypoint's name at signs, at capitals and at digits into words in small letters."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W_a-zA-Z]+", name)
    return tuple(word.lower() for word in words)


def _exchanged(words: tuple[str, ...]) -> tuple[str, ...]:
    """Exchange left and right in the words."""
    if len(words) == 1 and words[0] in ("l", "r"):
        return words  # of keypoints named by letters
    return tuple(_OTHER.get(word) or re.sub("left|right", lambda side: _OTHER[side[0]], word) for word in words)


def _first_side(words: tuple[str, ...]) -> str | None:
    sides = (re.search("left|right", word) or re.fullmatch("[lr]", word) for word in words)
    return next(({"l": "left", "r": "right"}[side[0][0]] for side in sides if side), None)


# Lin et al. 2014 and the COCO keypoint evaluation.
COCO_PERSON = Skeleton(
    names=(
        "nose",
        "left_eye",
        "right_eye",
        "left_ear",
        "right_ear",
        "left_shoulder",
        "right_shoulder",
        "left_elbow",
        "right_elbow",
        "left_wrist",
        "right_wrist",
        "left_hip",
        "right_hip",
        "left_knee",
        "right_knee",
        "left_ankle",
        "right_ankle",
    ),
    sigmas=(
        *(0.026, 0.025, 0.025, 0.035, 0.035),
        *(0.079, 0.079, 0.072, 0.072, 0.062, 0.062),
        *(0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
    ),
    flip_pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
    links=(
        *((0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 6), (5, 7), (7, 9), (6, 8), (8, 10)),
        *((5, 11), (6, 12), (11, 12), (11, 13), (13, 15), (12, 14), (14, 16)),
    ),
)
