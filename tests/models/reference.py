"""Decoding with loops over people, keypoints and cells, written from CenterNet's rules alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mdnkernels.models import Detections, Poses, Skeleton

Maps = Mapping[str, Tensor]
STRIDE = 4


def decode_detection(
    images: Maps,
    mirrored: Maps | None = None,
    *,
    k: int,
    flip: str = "average",
    allowed: Sequence[int] | None = None,
    select: str = "weight",
    num_classes: int | None = None,
) -> Detections:
    """Decode dense maps of the images, and of their mirror images where `mirrored` is given.

    `num_classes` is the number of classes where each class has sizes of its own.
    """
    rows = []
    for b in range(len(images["heatmap"])):
        people = []
        for score, label, y, x in _peaks(_scores(images, mirrored, "heatmap", b), k):
            views = [_Cell(images, b, y, x)]
            if mirrored is not None:
                views.append(_Cell(mirrored, b, y, _width(images) - 1 - x))
            if num_classes is not None:
                for view in views:
                    view.keep_class(label, num_classes)
            choices = [view.choice("size", 2, allowed, select) for view in views]
            (width, height), sigma, component, weight = _merge(choices, flip)
            centre_x, centre_y = x + views[0]["offset"][0], y + views[0]["offset"][1]
            box = _box(centre_x, centre_y, width, height)
            people.append((_pixels(box), score, label, component, weight, _pixels(sigma)))
        empty = ([0.0] * 4, 0.0, -1, -1, 0.0, [0.0] * 2)
        rows.append(people + [empty] * (k - len(people)))
    return Detections(*(torch.tensor([[row[i] for row in image] for image in rows]) for i in range(6)))


def decode_pose(
    images: Maps,
    mirrored: Maps | None = None,
    *,
    skeleton: Skeleton,
    k: int,
    flip: str = "average",
    allowed: Sequence[int] | None = None,
    select: str = "weight",
    refine: bool = True,
) -> Poses:
    """Decode dense maps of the images, and of their mirror images, whose left is the image's right."""
    joints = len(skeleton.names)
    partner = list(range(joints))
    for a, b in skeleton.flip_pairs:
        partner[a], partner[b] = b, a
    rows = []
    for b in range(len(images["heatmap"])):
        candidates = [_candidates(images, mirrored, b, j, partner, k) for j in range(joints)] if refine else None
        people = []
        for score, label, y, x in _peaks(_scores(images, mirrored, "heatmap", b), k):
            views = [_Cell(images, b, y, x)]
            choices = [views[0].choice("keypoints", 2 * joints, allowed, select)]
            size = views[0]["size"]
            if mirrored is not None:
                views.append(_Cell(mirrored, b, y, _width(images) - 1 - x))
                loc, *rest = views[1].choice("keypoints", 2 * joints, allowed, select)
                # A point d cells right of its cell's left border is d cells left of the mirrored cell's right border.
                turned = [v for j in range(joints) for v in (1 - loc[2 * partner[j]], loc[2 * partner[j] + 1])]
                choices.append((turned, *rest))
                size = [(a + c) / 2 for a, c in zip(size, views[1]["size"], strict=True)]
            loc, sigma, component, weight = _merge(choices, flip)
            box = _box(x + views[0]["offset"][0], y + views[0]["offset"][1], *size)
            points = [(x + loc[2 * j], y + loc[2 * j + 1]) for j in range(joints)]
            scores = [0.0] * joints
            if candidates is not None:
                moved = [refined(point, box, places) for point, places in zip(points, candidates, strict=True)]
                points, scores = [m[0] for m in moved], [m[1] for m in moved]
            kappas = skeleton.sigmas
            spread = [[sigma[0] * kappa * STRIDE, sigma[1] * kappa * STRIDE] for kappa in kappas]
            people.append((_pixels(box), score, label, component, weight, [*map(_pixels, points)], spread, scores))
        nowhere = [[0.0, 0.0]] * joints
        empty = ([0.0] * 4, 0.0, -1, -1, 0.0, nowhere, nowhere, [0.0] * joints)
        rows.append(people + [empty] * (k - len(people)))
    return Poses(*(torch.tensor([[row[i] for row in image] for image in rows]) for i in range(8)))


def refined(
    point: tuple[float, float], box: Sequence[float], places: Sequence[tuple[float, float, float]]
) -> tuple[tuple[float, float], float]:
    """Return where CenterNet puts a keypoint, and the score of the peak that it was moved to, 0 where it stays.

    `places` holds score, x and y of the keypoint's peaks. Of those above 0.1 the nearest counts, if it is inside the
    box and within 0.3 of the box's larger side.
    """
    left, top, right, bottom = box
    nearest, best = None, math.inf
    for score, x, y in places:
        if score > 0.1 and math.hypot(x - point[0], y - point[1]) < best:
            nearest, best = (score, x, y), math.hypot(x - point[0], y - point[1])
    if nearest is None:
        return point, 0.0
    score, x, y = nearest
    if x < left or x > right or y < top or y > bottom:
        return point, 0.0
    if best > 0.3 * max(right - left, bottom - top):
        return point, 0.0
    return (x, y), score


class _Cell(dict):
    """All outputs at one cell, as lists."""

    def __init__(self, maps: Maps, b: int, y: int, x: int) -> None:
        super().__init__({name: values[b, :, y, x].tolist() for name, values in maps.items()})

    def keep_class(self, label: int, num_classes: int) -> None:
        for name in ("size", "logits", "loc", "scale"):
            if name in self:
                self[name] = [v for i, v in enumerate(self[name]) if i % num_classes == label]

    def choice(
        self, single: str, dims: int, allowed: Sequence[int] | None, select: str
    ) -> tuple[list[float], list[float], int, float]:
        """Return loc, sigma, component and weight of the best component that is allowed, or what the base says.

        The best is the heaviest, or for "density" that of the largest density at its own mean. For "mean" loc and sigma
        are means over all components, by their weights.
        """
        if single in self and "logits" not in self:
            return self[single], [0.0, 0.0], -1, 1.0
        total = sum(math.exp(v) for v in self["logits"])
        weights = [math.exp(v) / total for v in self["logits"]]
        locs = [self["loc"][dims * m : dims * (m + 1)] for m in range(len(weights))]
        sigmas = [
            [(v if v > 0 else math.expm1(v)) + 2 for v in self["scale"][2 * m : 2 * m + 2]] for m in range(len(weights))
        ]
        density = [weight / math.prod(sigma) ** (dims // 2) for weight, sigma in zip(weights, sigmas, strict=True)]
        best = density if select == "density" else weights
        m = max(allowed if allowed is not None else range(len(weights)), key=lambda i: best[i])
        if select != "mean":
            return locs[m], sigmas[m], m, weights[m]
        loc, sigma = (
            [
                sum(weight * value for weight, value in zip(weights, column, strict=True))
                for column in zip(*of, strict=True)
            ]
            for of in (locs, sigmas)
        )
        return loc, sigma, m, weights[m]


def _merge(choices: list[tuple[list[float], list[float], int, float]], flip: str) -> tuple:
    if len(choices) == 1:
        return choices[0]
    first, second = choices
    if flip == "stronger":
        return second if second[3] > first[3] else first
    loc = [(a + b) / 2 for a, b in zip(first[0], second[0], strict=True)]
    sigma = [(a + b) / 2 for a, b in zip(first[1], second[1], strict=True)]
    return loc, sigma, first[2], (first[3] + second[3]) / 2


def _scores(images: Maps, mirrored: Maps | None, name: str, b: int) -> Tensor:
    scores = images[name][b].sigmoid()
    return scores if mirrored is None else (scores + mirrored[name][b].flip(2).sigmoid()) / 2


def _candidates(
    images: Maps, mirrored: Maps | None, b: int, joint: int, partner: Sequence[int], k: int
) -> list[tuple[float, float, float]]:
    """Return score, x and y of a keypoint's k best peaks."""
    scores = images["keypoint_heatmap"][b, joint].sigmoid()
    if mirrored is not None:
        scores = (scores + mirrored["keypoint_heatmap"][b, partner[joint]].flip(1).sigmoid()) / 2
    offset = images["keypoint_offset"][b]
    found = _peaks(scores[None], k)
    return [(score, x + offset[0, y, x].item(), y + offset[1, y, x].item()) for score, _, y, x in found]


def _peaks(scores: Tensor, k: int) -> list[tuple[float, int, int, int]]:
    """Return score, label, y and x of the k best cells that nothing around them exceeds."""
    rows = scores.tolist()
    height, width = scores.shape[1:]
    found = []
    for label, plane in enumerate(rows):
        for y in range(height):
            for x in range(width):
                around = [row[max(x - 1, 0) : x + 2] for row in plane[max(y - 1, 0) : y + 2]]
                if plane[y][x] >= max(map(max, around)):
                    found.append((-plane[y][x], label, y, x))
    return [(-score, label, y, x) for score, label, y, x in sorted(found)[:k]]


def _box(x: float, y: float, width: float, height: float) -> list[float]:
    half_width, half_height = max(width, 0) / 2, max(height, 0) / 2
    return [x - half_width, y - half_height, x + half_width, y + half_height]


def _pixels(cells: Sequence[float]) -> list[float]:
    return [v * STRIDE for v in cells]


def _width(maps: Maps) -> int:
    return maps["heatmap"].shape[3]
