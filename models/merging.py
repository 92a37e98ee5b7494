"""Several looks at the same images as one result: predictions moved into common coordinates and joined by soft-NMS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from mdnkernels.models.decode import Detections
from mdnkernels.models.pose import Poses

Found = TypeVar("Found", Detections, Poses)

# Of the Gaussian that lowers the score of a box beside a better one, as CenterNet merges its scales.
SOFT_NMS_SIGMA = 0.5


def placed(found: Found, transform: Tensor) -> Found:
    """Move predictions into the coordinates that the transforms lead to, as from the network's input to the image.

    transform: (B, 2, 3), x' = A x + b for each image. A box becomes the axis-aligned one around what it turns into,
    keypoints move as points, and a standard deviation, which has no sign, by A's absolute values. Padding stays 0.
    """
    linear, shift = transform[:, None, :, :2].to(found.box), transform[:, None, :, 2].to(found.box)  # (B, 1, 2, .)
    spread = linear.abs()

    def moved(points: Tensor) -> Tensor:
        return (linear @ points[..., None]).squeeze(-1) + shift

    low, high = found.box[..., :2], found.box[..., 2:]
    centre, half = moved((low + high) / 2), (spread @ ((high - low) / 2)[..., None]).squeeze(-1)
    real = (found.label >= 0)[..., None]
    box = torch.where(real, torch.cat((centre - half, centre + half), -1), 0)
    if isinstance(found, Poses):
        keypoints = found.keypoints @ linear.mT + shift[:, :, None]
        sigma = found.sigma @ spread.mT
        return found._replace(box=box, keypoints=torch.where(real[..., None], keypoints, 0), sigma=sigma)
    return found._replace(box=box, sigma=(spread @ found.sigma[..., None]).squeeze(-1))


def merge_scales(found: Sequence[Found], k: int) -> Found:
    """Return the k best of what the same images showed at several scales, by soft-NMS over each class; one scale stays.

    found: predictions in common coordinates (`placed`), (B, k_i, ...) each. Where fewer are left, the rest is padding.
    Raises ValueError where there is none.
    """
    if not found:
        raise ValueError("there is nothing to merge: found is empty")
    if len(found) == 1:
        return found[0]
    together = type(found[0])(*(torch.cat(parts, 1) for parts in zip(*found, strict=True)))
    chosen, score = soft_nms(together.box, together.score, together.label, k)
    rows = torch.arange(len(chosen), device=chosen.device)[:, None]
    return type(together)(*(values[rows, chosen] for values in together))._replace(score=score)


def soft_nms(
    box: Tensor, score: Tensor, label: Tensor, k: int, *, sigma: float = SOFT_NMS_SIGMA
) -> tuple[Tensor, Tensor]:
    """Return which k boxes of each image come first, and their lowered scores, both (B, min(k, N)), in that order.

    box: (B, N, 4) x1 y1 x2 y2. score: (B, N), not negative. label: (B, N) int64, -1 for padding, which comes last. The
    best box is taken, and every other one of its class has its score multiplied by exp(-IoU^2 / sigma); so on with the
    best of the rest. Scores only fall, so that the first k steps give the k best of all.
    Source: Bodla et al., "Soft-NMS: Improving Object Detection With One Line of Code", ICCV 2017, its Gaussian form.
    """
    area = (box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1)
    left = torch.where(label >= 0, score, -1.0)  # padding comes after every score, and what was taken after padding
    order, scores = [], []
    for _ in range(min(k, box.shape[1])):
        value, best = left.max(1, keepdim=True)
        own = box.gather(1, best[..., None].expand(-1, -1, 4))
        overlap = (
            torch.minimum(own[..., 2:], box[..., 2:]) - torch.maximum(own[..., :2], box[..., :2])
        ).clamp(min=0).prod(-1)  # fmt: skip
        union = area + area.gather(1, best) - overlap
        iou = torch.where(union > 0, overlap / union, 0)
        beside = (label == label.gather(1, best)) & (left >= 0)
        left = torch.where(beside, left * (-iou * iou / sigma).exp(), left).scatter(1, best, -2.0)
        order.append(best)
        scores.append(value.clamp(min=0))
    return torch.cat(order, 1), torch.cat(scores, 1)
